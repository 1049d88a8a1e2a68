//! `op25b diff`: what changes for whom between two policies, or from what is in force to another.

use std::path::Path;

use anyhow::Result;
use jiff::Timestamp;

use super::{No, print, print_json};
use crate::{
    archive, cli,
    daemon::Ruling,
    diff::{Differences, Fate, Side, addresses},
    document,
    instance::Instance,
    manifest::Manifest,
    policy::{Override, Policy},
    relays,
    state::State,
};

/// Prefixes that are shown to people.
const SHOWN: usize = 8;

pub(super) fn diff(instance: &Instance, arguments: &cli::Diff) -> Result<()> {
    let moment = arguments.at.unwrap_or_else(Timestamp::now);
    let read = |path: &Path| -> Result<Policy> {
        Ok(Policy::read(path, &Override::default()).map_err(|invalid| No::Input(invalid.to_string()))?)
    };
    let old = match &arguments.old {
        Some(path) => read(path)?,
        None => {
            let manifest = Manifest::require(instance)?;
            let policy = in_force(instance, &manifest)?;
            if policy.hash != manifest.hash {
                log::warn!(
                    "files that the policy in force names have changed since it took force: they are read as they are \
                     now, and what changes by them is not shown"
                );
            }
            policy
        }
    };
    let new = read(&arguments.new)?;
    let situations = [&old, &new].map(|policy| relays::situation(instance, policy, moment));
    let side = |policy, situation| Side::new(policy, situation).map_err(|error| No::Input(error.to_string()));
    let differences = Differences::between(&side(&old, &situations[0])?, &side(&new, &situations[1])?);
    if arguments.output.json { print_json(&differences) } else { tell(&differences) }
}

/// The policy in force, from the text that is kept of it.
pub(super) fn in_force(instance: &Instance, manifest: &Manifest) -> Result<Policy> {
    let Some(kept) = archive::find(instance, &manifest.hash) else {
        let old = State::read(instance)?.unconfirmed.map_or_else(
            || "its text is not kept; give OLD too, `op25b reload` keeps what it puts in force".to_owned(),
            |trial| {
                let path = document::printable(&trial.policy.display().to_string());
                format!("it is {path}, on trial: give that as OLD, before the other")
            },
        );
        return Err(No::Input(format!("the policy in force cannot be compared: {old}")).into());
    };
    // Its files lie beside the policy file, not beside what is kept.
    let ruling = Ruling::parse(kept.text()?, &manifest.policy, &Override::default()).map_err(|why| {
        No::Input(format!(
            "the policy in force, kept as {}, cannot be used any more: {why}",
            kept.path.display()
        ))
    })?;
    Ok(ruling.policy)
}

fn tell(differences: &Differences) -> Result<()> {
    if differences.customers.is_empty() && differences.relays.is_empty() {
        return print("nothing changes for anybody");
    }
    for difference in &differences.customers {
        let mut shown: Vec<String> =
            difference.prefixes.iter().take(SHOWN).map(ToString::to_string).collect();
        if difference.prefixes.len() > SHOWN {
            shown.push(format!("and {} more", difference.prefixes.len() - SHOWN));
        }
        print(&format!(
            "{:<8} {} -> {} ({}): {}",
            difference.effect.name(),
            words(&difference.from, &difference.to),
            words(&difference.to, &difference.from),
            addresses(&difference.prefixes),
            shown.join(", ")
        ))?;
    }
    for moved in &differences.relays {
        let removed = moved.removed.iter().map(|prefix| format!("-{prefix}"));
        let added = moved.added.iter().map(|prefix| format!("+{prefix}"));
        let all: Vec<String> = removed.chain(added).collect();
        print(&format!("relay {}: {}", moved.relay, all.join(" ")))?;
    }
    Ok(())
}

/// A fate, with what sets it apart from the other.
fn words(fate: &Fate, other: &Fate) -> String {
    let list =
        |words: Vec<String>, none: &str| if words.is_empty() { none.to_owned() } else { words.join(", ") };
    let mut words = match &fate.customer {
        Some(group) => format!("{group}: {}", fate.reason),
        None => fate.reason.to_owned(),
    };
    if fate.verdict != "pass" && fate.verdict != "drop" {
        words += &format!(" ({})", fate.verdict);
    }
    if fate.relays != other.relays {
        words += &format!(", relays {}", list(fate.relays.iter().cloned().collect(), "none"));
    }
    if fate.destinations != other.destinations {
        let places = fate.destinations.iter().map(ToString::to_string).collect();
        words += &format!(", destinations {}", list(places, "everywhere"));
    }
    if fate.return_path != other.return_path {
        words += &format!(", return path {}", fate.return_path);
    }
    words
}
