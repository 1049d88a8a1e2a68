//! `op25b top`: the sources that try most.

use std::{
    io::{self, IsTerminal as _},
    ops::RangeInclusive,
    time::Duration,
};

use anyhow::Result;
use humantime::format_duration;
use jiff::Timestamp;
use op25b_ebpf::verdict::Reason;
use serde::Serialize;

use super::{No, name, print, print_json, require_group};
use crate::{
    cli,
    history::note_read,
    instance::Instance,
    manifest::Manifest,
    policy::short,
    preflight,
    reports::Thresholds,
    sources::{self, Filter, Source, is_outside},
    top::{Options, live, order},
};

/// `op25b top --once --json`.
#[derive(Debug, Serialize)]
struct Top {
    /// Most attempts first, unless another order is asked for.
    sources: Vec<Source>,
    /// Accounts that had to make room for others, of this and earlier sources.
    evicted: u64,
}

/// How often the live screen may be read.
const EVERY: RangeInclusive<Duration> = Duration::from_millis(500)..=Duration::from_secs(3600);

pub(super) async fn top(instance: &Instance, arguments: &cli::Top) -> Result<()> {
    let every = Duration::from(arguments.every);
    if !EVERY.contains(&every) {
        let (least, most) = (format_duration(*EVERY.start()), format_duration(*EVERY.end()));
        return Err(No::Input(format!("--every {}: {least} to {most}", arguments.every)).into());
    }
    let manifest = Manifest::require(instance)?;
    preflight::check()?;
    let reasons = reasons(&arguments.reason)?;
    require_group(&manifest, arguments.group.as_deref())?;
    super::require_accounts(&manifest)?;
    let group = arguments.group.iter().map(|group| format!("group {group:?}"));
    let about = group.chain(arguments.prefix.iter().map(short)).collect::<Vec<_>>().join(" ");
    note_read(instance, "top", if about.is_empty() { "all sources" } else { &about });
    let filter = Filter { group: arguments.group.clone(), prefix: arguments.prefix };
    if !arguments.once && !arguments.output.json && io::stdout().is_terminal() {
        return live(instance, Options { reasons, filter, sort: arguments.sort, every }).await;
    }
    once(instance, &manifest, arguments, reasons.as_deref(), &filter)
}

/// One screen as text.
fn once(
    instance: &Instance,
    manifest: &Manifest,
    arguments: &cli::Top,
    reasons: Option<&[Reason]>,
    filter: &Filter,
) -> Result<()> {
    let accounts = sources::read(instance, manifest)?;
    let wanted =
        |reason: Reason| reasons.map_or_else(|| is_outside(reason), |reasons| reasons.contains(&reason));
    let mut found = sources::summarise(&accounts.accounts, manifest, Timestamp::now(), wanted);
    found.retain(|source| filter.keeps(source));
    found.sort_by(|one, other| order(arguments.sort, one, other));
    let all = found.len();
    // Programs get all of them unless they ask for fewer.
    let limit = arguments.limit.unwrap_or(if arguments.output.json { 0 } else { 20 });
    if limit != 0 {
        found.truncate(limit);
    }
    if arguments.output.json {
        return print_json(&Top { sources: found, evicted: accounts.evicted });
    }
    if found.is_empty() {
        return print("nobody has used port 25 yet, as far as this looks");
    }
    let mut table = super::table(&[
        "source",
        "customer",
        "attempts",
        "a minute",
        "servers",
        "packets",
        "last server",
        "last seen",
        "triage",
    ]);
    for source in &found {
        table.add_row([
            source.source.clone(),
            name(source.customer.as_deref()),
            source.attempts.to_string(),
            format!("{:.1}", source.attempts_per_minute),
            source.destinations.to_string(),
            source.packets.to_string(),
            source.last_destination.to_string(),
            format!("{:.0}", source.last_seen),
            source.triage.map_or("-", sources::Label::name).to_owned(),
        ]);
    }
    print(&table.to_string())?;
    let thresholds = Thresholds::of(&manifest.outputs.triage);
    print(&format!("{} of {all} sources; {thresholds}", found.len()))?;
    if accounts.evicted != 0 {
        print(&format!("{} accounts had to make room for others", accounts.evicted))?;
    }
    Ok(())
}

/// The reasons by their names; none where none are given.
pub(super) fn reasons(names: &[String]) -> Result<Option<Vec<Reason>>> {
    let mut reasons = Vec::new();
    for name in names {
        let Some(reason) = Reason::from_name(name).filter(|reason| *reason != Reason::Other) else {
            let known = Reason::ALL.into_iter().filter(|reason| *reason != Reason::Other);
            let known = known.map(Reason::name).collect::<Vec<_>>().join(", ");
            return Err(No::Input(format!("no reason is called {name:?}; known: {known}")).into());
        };
        reasons.push(reason);
    }
    Ok((!reasons.is_empty()).then_some(reasons))
}
