//! `op25b status`: proves that the filter is in force, and exits 1 when it is not.

use anyhow::Result;
use jiff::Timestamp;

use super::{No, print, print_json};
use crate::{
    cli,
    document::printable,
    instance::Instance,
    manifest::Manifest,
    preflight, sample,
    status::{Status, look},
};

/// How many changes are followed while they are looked at.
const CHANGES: usize = 5;

pub(super) async fn status(instance: &Instance, arguments: &cli::Status) -> Result<()> {
    let output = arguments.output;
    let Some(mut manifest) = Manifest::read(instance)? else {
        if output.json {
            print_json(&serde_json::json!({
                "enforcing": false,
                "state": "detached",
                "instance": instance.name(),
            }))?;
        } else {
            print(&format!(
                "instance {}: not attached; `op25b run --policy FILE` attaches it",
                instance.name()
            ))?;
        }
        return Err(No::Answer.into());
    };
    preflight::check()?;
    // Before anything else is looked at, which is to be as it is when it is told.
    let samples = match arguments.sample {
        Some(duration) => sample::take(instance, &manifest, duration.into()).await?,
        None => Vec::new(),
    };
    let mut status = look(instance, &manifest).await?;
    // What took force meanwhile would look as if something else were attached.
    for _ in 0..CHANGES {
        match Manifest::read(instance)? {
            Some(now) if now.generation != manifest.generation => manifest = now,
            _ => break,
        }
        status = look(instance, &manifest).await?;
    }
    for sample in samples {
        match sample {
            Ok(sample) => {
                status.warnings.extend(sample.warnings());
                status.samples.push(sample);
            }
            Err(why) => status.warnings.push(why),
        }
    }
    if output.json {
        print_json(&status)?
    } else {
        tell(&status)?
    }
    if status.enforcing { Ok(()) } else { Err(No::Answer.into()) }
}

fn tell(status: &Status) -> Result<()> {
    print(&format!(
        "instance {}: {}; generation {}, {} s old, policy {} ({})",
        status.instance,
        status.in_words(),
        status.generation,
        status.age,
        status.policy.path,
        status.policy.hash
    ))?;
    for interface in &status.interfaces {
        let state = interface.problem.as_deref().unwrap_or("attached");
        print(&format!("  {}: role {}, {}: {state}", interface.name, interface.role, interface.mode))?;
    }
    for group in &status.groups {
        let mark = if group.enforces() { "enforce" } else { &group.mode };
        print(&format!("  group {}: {mark}", group.name))?;
    }
    for (hostname, known) in &status.hostnames {
        let addresses = known.addresses.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let age = known.answered.map_or("never".to_owned(), |answered| {
            format!("{} s ago", Timestamp::now().duration_since(answered).as_secs())
        });
        let alias = known.alias.as_ref().map_or(String::new(), |alias| format!(" (alias of {alias})"));
        print(&format!("  hostname {hostname}{alias}: {addresses}; the DNS answered {age}"))?;
    }
    if let Some(suspension) = &status.suspension {
        let by = printable(&suspension.by);
        print(&format!("  suspended: {} until {:.0}, by {by}", suspension.what, suspension.until))?;
    }
    if let Some(trial) = &status.unconfirmed {
        print(&format!(
            "  on trial: {} until {:.0}; `op25b confirm` keeps it",
            printable(&trial.policy.display().to_string()),
            trial.until
        ))?;
    }
    if let Some(change) = &status.next_change {
        print(&format!("  next: {} ({})", change.what, change.at))?;
    }
    print(&format!("  {} frames judged, {} dropped", status.judged_packets, status.dropped_packets))?;
    for sample in &status.samples {
        print(&format!(
            "  {}: {} frames seen in {:.1} s, {} received by the interface",
            sample.interface, sample.frames, sample.seconds, sample.received
        ))?;
        for seen in &sample.seen {
            let through = if seen.through.is_empty() {
                String::new()
            } else {
                format!(" through {}", seen.through.join(", "))
            };
            print(&format!("    {:>12}  {}{through}", seen.packets, seen.outcome))?;
        }
    }
    for warning in &status.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(())
}
