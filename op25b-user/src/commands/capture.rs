//! `op25b capture`: the first bytes of what is dropped, as a file for Wireshark.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result};
use pcap_file::DataLink;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::sleep,
};

use super::events::about;
use crate::{
    capture::{Frame, Writer},
    cli,
    events::{Asked, Event, Line, connect},
    history::note_read,
    instance::Instance,
    manifest::Manifest,
};

/// Lines that wait to be written; more wait in the daemon, which counts what it loses.
const WAITING: usize = 64;

pub(super) async fn capture(instance: &Instance, arguments: &cli::Capture) -> Result<()> {
    let manifest = Manifest::require(instance)?;
    super::require_accounts(&manifest)?;
    let asked = Asked { capture_every: Some(arguments.every), snapshots: true };
    // However it is ended, it says what it has written.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let lines = connect(instance, asked)?;
    let path = &arguments.write;
    let mut writer = Writer::create(path)?;
    let what = if arguments.payload { "capture with payload" } else { "capture" };
    note_read(instance, what, &about(arguments.source.as_ref()));
    let (sender, mut receiver) = mpsc::channel(WAITING);
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    let over = sleep(arguments.length.into());
    tokio::pin!(over);
    eprintln!(
        "capturing one of {} dropped frames into {} for {}; Ctrl-C ends it sooner",
        arguments.every,
        path.display(),
        arguments.length
    );
    let (mut written, mut lost) = (0_u64, 0);
    while arguments.count.is_none_or(|count| written < count) {
        let line = tokio::select! {
            () = &mut over => break,
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            line = receiver.recv() => line,
        };
        // The daemon has ended: so has this.
        let Some(line) = line else { break };
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
