//! `op25b events`: what happens, as it happens.

use std::time::{Duration, Instant};

use anyhow::Result;
use ipnetwork::IpNetwork;
use op25b_ebpf::verdict::Reason;

use super::{No, name, print, top::reasons};
use crate::{
    cli,
    document::printable,
    events::{Asked, Event, Line, connect},
    history::{Moment, note_read, zone},
    instance::Instance,
    manifest::Manifest,
    policy::short,
    sources::is_outside,
};

/// How long is waited without `--follow`.
const MOMENT: Duration = Duration::from_secs(2);

pub(super) fn events(instance: &Instance, arguments: &cli::Events) -> Result<()> {
    let wanted = reasons(&arguments.reason)?
        .unwrap_or_else(|| Reason::ALL.into_iter().filter(|reason| is_outside(*reason)).collect());
    let manifest = Manifest::require(instance)?;
    super::require_accounts(&manifest)?;
    let zone = zone(&manifest.timezone);
    note_read(instance, "events", &about(arguments.source.as_ref()));
    let lines = connect(instance, Asked::default())?;
    let start = Instant::now();
    let mut shown = 0;
    for line in lines {
        // The daemon has ended: so has this.
        let Ok(line) = line else { break };
        match serde_json::from_str(&line)? {
            Line::Lost { lost } if lost != 0 => eprintln!("warning: {lost} events were lost"),
            Line::Lost { .. } => {}
            Line::Event(event) if is_wanted(&event, &wanted, arguments) => {
                if arguments.output.json {
                    print(&serde_json::to_string(&event)?)?;
                } else {
                    print(&words(&event, &zone))?;
                }
                shown += 1;
            }
            Line::Event(_) => {}
        }
        if arguments.count.is_some_and(|count| shown >= count)
            || !arguments.follow && start.elapsed() >= MOMENT
        {
            return Ok(());
        }
    }
    if arguments.follow {
        return Err(
            No::Input("the daemon has ended, and it is the daemon that hears of events".into()).into()
        );
    }
    Ok(())
}

/// Whom they are about, for the log of reads.
pub(super) fn about(source: Option<&IpNetwork>) -> String {
    source.map_or_else(|| "all sources".to_owned(), short)
}

fn is_wanted(event: &Event, reasons: &[Reason], arguments: &cli::Events) -> bool {
    reasons.iter().any(|reason| reason.name() == event.reason)
        && arguments.source.is_none_or(|prefix| prefix.contains(event.customer_address))
}

fn words(event: &Event, zone: &jiff::tz::TimeZone) -> String {
    let time = Moment::new(event.time, zone);
    let end = |address: std::net::IpAddr, port: Option<u16>| match port {
        Some(port) => std::net::SocketAddr::new(address, port).to_string(),
        None => address.to_string(),
    };
    let mut words = format!(
        "{time} {} {} {} > {} {} on {}",
        event.verdict,
        event.reason,
        end(event.source, event.source_port),
        end(event.destination, event.destination_port),
        name(event.customer.as_deref()),
        printable(&event.interface)
    );
    if let Some(mac) = &event.mac {
        words += &format!(" mac {mac}");
    }
    if !event.vlans.is_empty() {
        let vlans: Vec<String> = event.vlans.iter().map(ToString::to_string).collect();
        words += &format!(" vlan {}", vlans.join("."));
    }
    if let Some(session) = event.pppoe_session {
        words += &format!(" pppoe {session}");
    }
    words
}
