//! `op25b source`: all that is known of one customer, for the help desk.

use anyhow::Result;
use jiff::Timestamp;

use super::{name, print, print_json};
use crate::{
    cli,
    document::printable,
    explain::sentence,
    helpdesk::{self, Desk, Exceptional},
    history::{Moment, Span, note_read, zone},
    instance::Instance,
    manifest::Manifest,
    policy::short,
    preflight,
};

pub(super) fn source(instance: &Instance, arguments: &cli::Source) -> Result<()> {
    let manifest = Manifest::require(instance)?;
    let zone = zone(&manifest.timezone);
    let around = arguments.at.as_deref().map(|at| Span::around(at, &zone)).transpose()?;
    preflight::check()?;
    note_read(instance, "source", &arguments.address.to_string());
    let desk = helpdesk::look(instance, &manifest, arguments.address, around, Timestamp::now())?;
    if arguments.output.json {
        return print_json(&desk);
    }
    print(&tell(&desk, |at| Moment::new(at, &zone)))
}

fn tell(desk: &Desk, moment: impl Fn(Timestamp) -> Moment) -> String {
    let mut lines = Vec::new();
    let shared = if desk.shared { ", shared by many customers" } else { "" };
    lines.push(match (&desk.customer, &desk.mode) {
        (Some(group), Some(mode)) => {
            format!("{}: customer group {}, mode {mode}{shared}", desk.address, printable(group))
        }
        (Some(group), None) => format!("{}: customer group {}{shared}", desk.address, printable(group)),
        (None, _) => format!("{}: in no customer group", desk.address),
    });
    for (what, entry) in [("exempt", &desk.exemption), ("quarantined", &desk.quarantine)] {
        if let Some(entry) = entry {
            lines.push(exceptional(what, entry));
        }
    }
    for decision in &desk.decisions {
        let to = match &decision.relay {
            Some(relay) => format!("relay {}", printable(relay)),
            None if decision.to == "destinations" => "the group's destinations".to_owned(),
            None => "servers outside".to_owned(),
        };
        lines.push(format!(
            "now to {to} ({}): {}, {}",
            decision.destination,
            decision.verdict,
            sentence(decision.reason)
        ));
    }
    for source in &desk.live {
        let reasons: Vec<String> = source.reasons.iter().map(ToString::to_string).collect();
        let nothing = if desk.shared { "none, since nobody is told apart" } else { "none, nothing outside" };
        let label = source.triage.map_or(nothing, |label| label.name());
        lines.push(format!(
            "seen as {} in group {}: {}; about {} servers, the last {}; from {} to {}",
            source.source,
            name(source.customer.as_deref()),
            reasons.join(", "),
            source.destinations,
            source.last_destination,
            moment(source.first_seen),
            moment(source.last_seen)
        ));
        lines.push(format!(
            "triage: {label}, with {:.1} attempts a minute; {}",
            source.attempts_per_minute, desk.thresholds
        ));
    }
    if !desk.history.is_empty() {
        let mut table =
            super::table(&["hour", "source", "customer", "reason", "packets", "attempts", "servers"]);
        for row in &desk.history {
            table.add_row([
                row.hour.to_string(),
                short(&row.source),
                name(row.customer.as_deref()),
                row.reason.to_owned(),
                row.packets.to_string(),
                row.attempts.to_string(),
                row.destinations.to_string(),
            ]);
        }
        lines.push(table.to_string());
    }
    lines.extend(desk.advice.iter().map(|advice| format!("tell: {}", printable(advice))));
    lines.extend(desk.notes.iter().map(|note| format!("note: {}", printable(note))));
    lines.join("\n")
}

fn exceptional(what: &str, entry: &Exceptional) -> String {
    let word = |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), printable);
    let until = entry.expires.map_or_else(|| "for good".to_owned(), |end| format!("until {end}"));
    format!(
        "{what} {until}: {}, reason {}, ticket {}",
        entry.prefix,
        word(&entry.reason),
        word(&entry.ticket)
    )
}
