//! `op25b report`: who has to move, whom to warn, who is infected.

use anyhow::Result;
use jiff::Timestamp;

use super::{csv, name, print, print_json, require_group};
use crate::{
    cli,
    document::printable,
    history::{Span, note_read, zone},
    instance::Instance,
    manifest::Manifest,
    preflight,
    reports::{self, Scope, Suspect},
};

/// What all of them begin with.
fn begin(instance: &Instance, which: &str, arguments: &cli::ReportSince) -> Result<(Manifest, Scope)> {
    let manifest = Manifest::require(instance)?;
    let span = Span::parse(arguments.since.as_deref(), None, &zone(&manifest.timezone))?;
    require_group(&manifest, arguments.group.as_deref())?;
    preflight::check()?;
    let about =
        arguments.group.as_ref().map_or_else(|| "all groups".to_owned(), |group| format!("group {group:?}"));
    note_read(instance, &format!("report {which}"), &about);
    let scope = Scope { span, group: arguments.group.clone(), anonymize: arguments.anonymize };
    Ok((manifest, scope))
}

pub(super) fn migration(instance: &Instance, arguments: &cli::ReportMigration) -> Result<()> {
    let only_trend = arguments.trend;
    let arguments = &arguments.since;
    let (manifest, scope) = begin(instance, "migration", arguments)?;
    let report = reports::migration(instance, &manifest, &scope)?;
    if arguments.output.json {
        return print_json(&report);
    }
    let trend_columns = ["day", "customer", "submission port", "connections"];
    let trend = report.submission.iter().map(|day| {
        [day.day.clone(), name(day.customer.as_deref()), day.port.to_string(), day.attempts.to_string()]
    });
    let columns = [
        "source",
        "customer",
        "shared",
        "outside attempts",
        "outside packets",
        "relay attempts",
        "relay packets",
        "reasons",
        "first seen",
        "last seen",
    ];
    let lines = report.sources.iter().map(|mover| {
        [
            mover.source.clone(),
            name(mover.customer.as_deref()),
            yes(mover.shared),
            mover.outside_attempts.to_string(),
            mover.outside_packets.to_string(),
            mover.relay_attempts.to_string(),
            mover.relay_packets.to_string(),
            mover.reasons.join(" "),
            mover.first_seen.to_string(),
            mover.last_seen.to_string(),
        ]
    });
    if arguments.csv {
        warn(&report.notes);
        // One table a file: who is written to is in the one, how far the groups are in the other.
        return if only_trend { csv(&trend_columns, trend) } else { csv(&columns, lines) };
    }
    let mut days = super::table(&trend_columns);
    days.add_rows(trend);
    if only_trend {
        show(days)?;
        return notes(&report.notes);
    }
    let mut groups = super::table(&[
        "customer",
        "sources outside",
        "their attempts",
        "sources to the relays",
        "their attempts",
    ]);
    for group in &report.groups {
        groups.add_row([
            name(group.customer.as_deref()),
            group.outside.to_string(),
            group.outside_attempts.to_string(),
            group.relay.to_string(),
            group.relay_attempts.to_string(),
        ]);
    }
    show(groups)?;
    let mut table = super::table(&columns);
    table.add_rows(lines);
    show(table)?;
    if !days.is_empty() {
        show(days)?;
    }
    notes(&report.notes)
}

pub(super) fn destinations(instance: &Instance, arguments: &cli::ReportSince) -> Result<()> {
    let (manifest, scope) = begin(instance, "destinations", arguments)?;
    let report = reports::destinations(instance, &manifest, &scope)?;
    if arguments.output.json {
        return print_json(&report);
    }
    let columns = ["destination", "customers", "groups", "last seen"];
    let lines = report.servers.iter().map(|server| {
        let groups: Vec<String> = server
            .groups
            .iter()
            .map(|group| format!("{} {}", name(group.customer.as_deref()), group.customers))
            .collect();
        [
            server.destination.clone(),
            server.customers.to_string(),
            groups.join(", "),
            server.last_seen.to_string(),
        ]
    });
    if arguments.csv {
        warn(&report.notes);
        return csv(&columns, lines);
    }
    let mut table = super::table(&columns);
    table.add_rows(lines);
    show(table)?;
    notes(&report.notes)
}

pub(super) fn abuse(instance: &Instance, arguments: &cli::ReportSince) -> Result<()> {
    let (manifest, scope) = begin(instance, "abuse", arguments)?;
    let report = reports::abuse(instance, &manifest, &scope, Timestamp::now())?;
    if arguments.output.json {
        return print_json(&report);
    }
    let columns = [
        "source",
        "customer",
        "triage",
        "destinations",
        "attempts a minute",
        "attempts",
        "packets",
        "first seen",
        "last seen",
        "quiet",
    ];
    let line = |suspect: &Suspect| {
        [
            suspect.source.clone(),
            name(suspect.customer.as_deref()),
            suspect.triage.map_or("not told apart", |label| label.name()).to_owned(),
            suspect.destinations.to_string(),
            format!("{:.1}", suspect.attempts_per_minute),
            suspect.attempts.to_string(),
            suspect.packets.to_string(),
            suspect.first_seen.to_string(),
            suspect.last_seen.to_string(),
            yes(suspect.quiet),
        ]
    };
    let limits = format!(
        "bot?: {} servers within an hour or two, or {} attempts a minute (`triage:` in the policy)",
        report.thresholds.bot_destinations, report.thresholds.bot_attempts_per_minute
    );
    if arguments.csv {
        warn(&report.notes);
        return csv(&columns, report.sources.iter().chain(&report.shared).map(line));
    }
    let mut table = super::table(&columns);
    table.add_rows(report.sources.iter().map(line));
    show(table)?;
    if !report.shared.is_empty() {
        print("shared addresses that do as much; nobody is told apart behind them:")?;
        let mut table = super::table(&columns);
        table.add_rows(report.shared.iter().map(line));
        show(table)?;
    }
    print(&limits)?;
    notes(&report.notes)
}

fn show(table: comfy_table::Table) -> Result<()> {
    if table.is_empty() { print("none") } else { print(&table.to_string()) }
}

fn notes(notes: &[String]) -> Result<()> {
    for note in notes {
        print(&format!("note: {}", printable(note)))?;
    }
    Ok(())
}

/// Where stdout is for programs.
fn warn(notes: &[String]) {
    for note in notes {
        log::info!("{}", printable(note));
    }
}

fn yes(is: bool) -> String {
    if is { "yes".to_owned() } else { String::new() }
}
