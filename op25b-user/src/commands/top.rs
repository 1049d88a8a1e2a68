//! `op25b top`: the sources that try most.

use std::cmp::Reverse;

use anyhow::Result;
use jiff::Timestamp;
use op25b_ebpf::verdict::Reason;
use serde::Serialize;

use super::{No, name, print, print_json, require_group};
use crate::{
    cli::{self, SortBy},
    instance::Instance,
    manifest::Manifest,
    policy::contains,
    preflight,
    sources::{self, Source, is_outside},
};

/// `op25b top --once --json`.
#[derive(Debug, Serialize)]
struct Top {
    /// Most attempts first, unless another order is asked for.
    sources: Vec<Source>,
    /// Accounts that had to make room for others, of this and earlier sources.
    evicted: u64,
}

pub(super) fn top(instance: &Instance, arguments: &cli::Top) -> Result<()> {
    let manifest = Manifest::require(instance)?;
    preflight::check()?;
    let reasons = reasons(&arguments.reason)?;
    require_group(&manifest, arguments.group.as_deref())?;
    let accounts = sources::read(instance, &manifest)?;
    let wanted = |reason: Reason| match &reasons {
        Some(reasons) => reasons.contains(&reason),
        None => is_outside(reason),
    };
    let mut found = sources::summarise(&accounts.accounts, &manifest, Timestamp::now(), wanted);
    found.retain(|source| {
        arguments.group.as_ref().is_none_or(|group| source.customer.as_ref() == Some(group))
            && arguments.prefix.as_ref().is_none_or(|prefix| contains(prefix, &source.prefix))
    });
    sort(&mut found, arguments.sort);
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
    let triage = &manifest.outputs.triage;
    print(&format!(
        "{} of {all} sources; bot?: {} servers within two hours or {} attempts a minute; quiet: silent for {}",
        found.len(),
        triage.bot_destinations,
        triage.bot_attempts_per_minute,
        humantime::format_duration(triage.quiet_after)
    ))?;
    if accounts.evicted != 0 {
        print(&format!("{} accounts had to make room for others", accounts.evicted))?;
    }
    Ok(())
}

fn sort(sources: &mut [Source], by: SortBy) {
    match by {
        // As they come.
        SortBy::Attempts => {}
        SortBy::Destinations => sources.sort_by_key(|source| Reverse(source.destinations)),
        SortBy::Rate => {
            sources.sort_by(|one, other| other.attempts_per_minute.total_cmp(&one.attempts_per_minute));
        }
        SortBy::Packets => sources.sort_by_key(|source| Reverse(source.packets)),
    }
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
