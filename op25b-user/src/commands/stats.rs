//! `op25b stats`: the counters.

use anyhow::Result;

use super::{name, print, print_json};
use crate::{cli::Output, counters, instance::Instance, manifest::Manifest, preflight};

pub(super) fn stats(instance: &Instance, output: Output) -> Result<()> {
    let manifest = Manifest::require(instance)?;
    preflight::check()?;
    let stats = counters::read(instance, &manifest)?;
    if output.json {
        return print_json(&stats);
    }
    for interface in &stats.interfaces {
        print(&format!("{}: role {}, attached {}", interface.name, interface.role, interface.mode))?;
    }
    if stats.totals.is_empty() {
        return print("no TCP to port 25 has been seen yet");
    }
    let mut table =
        super::table(&["customer", "family", "reason", "verdict", "packets", "bytes", "attempts"]);
    for total in &stats.totals {
        table.add_row([
            name(total.customer.as_deref()),
            total.family.to_owned(),
            total.reason.to_owned(),
            total.verdict.to_owned(),
            total.packets.to_string(),
            total.bytes.to_string(),
            total.attempts.to_string(),
        ]);
    }
    print(&table.to_string())?;
    if !stats.submission.is_empty() {
        let mut table = super::table(&["customer", "family", "submission port", "connections"]);
        for one in &stats.submission {
            table.add_row([
                name(one.customer.as_deref()),
                one.family.to_owned(),
                one.port.to_string(),
                one.attempts.to_string(),
            ]);
        }
        print(&table.to_string())?;
    }
    if !stats.replies.is_empty() {
        let mut table = super::table(&["reply", "packets"]);
        for one in &stats.replies {
            table.add_row([one.reply.to_owned(), one.packets.to_string()]);
        }
        print(&table.to_string())?;
    }
    let mut table = super::table(&["seen as", "through", "packets"]);
    for seen in &stats.seen {
        table.add_row([seen.outcome.to_owned(), seen.through.join(", "), seen.packets.to_string()]);
    }
    print(&table.to_string())
}
