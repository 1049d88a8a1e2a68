//! `op25b history`: what a source did, hour by hour.

use anyhow::Result;

use super::{No, csv, name, print, print_json};
use crate::{
    cli,
    document::printable,
    history::{Hourly, Known, Span, note_read, zone},
    instance::Instance,
    manifest::Manifest,
    policy::short,
    preflight,
};

const COLUMNS: [&str; 10] =
    ["hour", "source", "customer", "reason", "packets", "bytes", "attempts", "destinations", "first", "last"];

pub(super) fn history(instance: &Instance, arguments: &cli::History) -> Result<()> {
    let manifest = Manifest::require(instance)?;
    let zone = zone(&manifest.timezone);
    let span = Span::parse(arguments.from.as_deref(), arguments.to.as_deref(), &zone)?;
    if manifest.outputs.history.is_none() {
        return Err(No::Input(format!(
            "no history is kept; write `history: {{path: /var/lib/op25b/history.db}}` into {}",
            manifest.policy.display()
        ))
        .into());
    }
    preflight::check()?;
    note_read(instance, "history", &short(&arguments.source));
    let known = Known::gather(instance, &manifest, Some(&arguments.source))?;
    for note in &known.notes {
        log::warn!("{}", printable(note));
    }
    let mut rows = known.reader.hours(&arguments.source, span)?;
    let gaps: Vec<String> = known.reader.gaps(span)?.iter().map(|gap| gap.sentence(&zone)).collect();
    if arguments.output.json || arguments.csv {
        gaps.iter().for_each(|gap| log::warn!("{gap}"));
    }
    if arguments.anonymize {
        rows.iter_mut().for_each(Hourly::anonymize);
    }
    if arguments.output.json {
        return print_json(&rows);
    }
    let lines = rows.iter().map(|row| {
        [
            row.hour.to_string(),
            short(&row.source),
            name(row.customer.as_deref()),
            row.reason.to_owned(),
            row.packets.to_string(),
            row.bytes.to_string(),
            row.attempts.to_string(),
            row.destinations.to_string(),
            row.first.to_string(),
            row.last.to_string(),
        ]
    });
    if arguments.csv {
        return csv(&COLUMNS, lines);
    }
    if rows.is_empty() {
        print("nothing")?;
    } else {
        let mut table = super::table(&COLUMNS);
        table.add_rows(lines);
        print(&table.to_string())?;
    }
    gaps.iter().try_for_each(|gap| print(&format!("note: {gap}")))
}
