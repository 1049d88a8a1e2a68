//! `op25b capture`: the first bytes of what is dropped, as a file for Wireshark.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use pcap_file::DataLink;

use crate::{
    capture::{Frame, Writer},
    cli,
    events::{Asked, Event, Line, connect},
    instance::Instance,
    manifest::Manifest,
};

pub(super) fn capture(instance: &Instance, arguments: &cli::Capture) -> Result<()> {
    let manifest = Manifest::require(instance)?;
    let asked = Asked { capture_every: Some(arguments.every), snapshots: true };
    let lines = connect(instance, asked)?;
    let path = &arguments.write;
    let mut writer = Writer::create(path)?;
    let (start, limit) = (Instant::now(), Duration::from(arguments.length));
    eprintln!(
        "capturing one of {} dropped frames into {} for {}; Ctrl-C ends it sooner",
        arguments.every,
        path.display(),
        arguments.length
    );
    let (mut written, mut lost) = (0_u64, 0);
    for line in lines {
        let Ok(line) = line else { break };
        match serde_json::from_str(&line)? {
            Line::Lost { lost: more } => lost += more,
            Line::Event(event) => {
                let chosen = event.verdict != "pass"
                    && arguments.source.is_none_or(|prefix| prefix.contains(event.customer_address));
                if chosen {
                    let ethernet = manifest
                        .interfaces
                        .iter()
                        .find(|known| known.name == event.interface)
                        .is_none_or(|known| known.ethernet);
                    writer.add(&frame(&event, ethernet, arguments.payload)?)?;
                    // Whenever this is ended, what is written is whole.
                    writer.flush()?;
                    written += 1;
                }
            }
        }
        if start.elapsed() >= limit || arguments.count.is_some_and(|count| written >= count) {
            break;
        }
    }
    writer.finish()?;
    eprintln!("{written} frames written, {lost} lost");
    Ok(())
}

fn frame(event: &Event, ethernet: bool, payload: bool) -> Result<Frame> {
    let digits = event.frame.as_deref().unwrap_or_default();
    let mut bytes = Vec::with_capacity(digits.len() / 2);
    for at in (0..digits.len()).step_by(2) {
        let pair = digits.get(at..at + 2).context("half a byte")?;
        bytes.push(u8::from_str_radix(pair, 16)?);
    }
    if !payload {
        bytes.truncate(event.headers);
    }
    Ok(Frame {
        link: None,
        link_type: if ethernet { DataLink::ETHERNET } else { DataLink::RAW },
        time: Duration::from_nanos(u64::try_from(event.time.as_nanosecond()).unwrap_or(0)),
        bytes,
        length: event.length,
    })
}
