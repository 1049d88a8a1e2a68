//! `op25b status`: proves that the filter is in force, from the kernel's side, and exits 1 when it is not.

use std::collections::BTreeMap;

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;

use super::{No, print, print_json};
use crate::{
    attach::{self, Hook},
    cli, clock, counters,
    document::printable,
    instance::Instance,
    interface,
    manifest::{self, Manifest},
    policy::{Override, Policy},
    preflight,
    relays::{self, Known},
    sample::{self, Sample},
    situation::{Change, Suspended},
    state::{State, Suspension, Unconfirmed},
};

/// `op25b status --json`.
#[derive(Debug, Serialize)]
struct Status {
    /// Attached everywhere, and the policy blocks something.
    enforcing: bool,
    /// `enforcing`, `suspended`, `monitoring`, `partial` or `detached`.
    state: &'static str,
    instance: String,
    generation: u64,
    /// Seconds that the generation has been in force.
    age: u64,
    /// Whether the daemon runs; the filter does not need it.
    daemon: bool,
    policy: PolicyStatus,
    interfaces: Vec<InterfaceStatus>,
    groups: Vec<manifest::Group>,
    /// Relays that are named by their hostname.
    hostnames: BTreeMap<String, Known>,
    suspension: Option<Suspension>,
    /// A policy on trial.
    unconfirmed: Option<Unconfirmed>,
    /// What happens by itself next, and what should have happened.
    next_change: Option<Change>,
    overdue: Vec<Change>,
    /// Frames judged so far, and dropped.
    judged_packets: u64,
    dropped_packets: u64,
    /// How frames were seen, with `--sample`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    samples: Vec<Sample>,
    /// What to look at.
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct PolicyStatus {
    path: String,
    hash: String,
    /// Whether the file says what is in force; none where it cannot be read.
    current: Option<bool>,
}

#[derive(Debug, Serialize)]
struct InterfaceStatus {
    name: String,
    role: String,
    mode: &'static str,
    /// The kernel's mechanism: `xdp`, `tcx` or `clsact`.
    hook: Hook,
    /// Whether the kernel runs this generation's program there.
    attached: bool,
    /// The kernel's number of this generation's program.
    program: u32,
    problem: Option<String>,
}

pub(super) async fn status(instance: &Instance, arguments: &cli::Status) -> Result<()> {
    let output = arguments.output;
    let Some(manifest) = Manifest::read(instance)? else {
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
    let mut status = look(instance, &manifest).await?;
    if let Some(duration) = arguments.sample {
        status.samples = sample::take(instance, &manifest, duration.into()).await?;
        for sample in &status.samples {
            status.warnings.extend(sample.warnings());
        }
    }
    if output.json {
        print_json(&status)?
    } else {
        tell(&status)?
    }
    if status.enforcing { Ok(()) } else { Err(No::Answer.into()) }
}

async fn look(instance: &Instance, manifest: &Manifest) -> Result<Status> {
    let mut interfaces = Vec::new();
    for known in &manifest.interfaces {
        interfaces.push(look_at(instance, known).await?);
    }
    let mut warnings = Vec::new();
    let current = match Policy::read(&manifest.policy, &Override::default()) {
        Ok(policy) if policy.hash == manifest.hash => Some(true),
        Ok(_) => {
            warnings.push(format!("{} has changed since it took force", manifest.policy.display()));
            Some(false)
        }
        Err(invalid) => {
            warnings.push(format!("the policy file cannot be used any more: {}", invalid.errors.join("; ")));
            None
        }
    };
    for known in manifest.interfaces.iter().filter(|known| known.name != known.port) {
        let other = interface::find(&known.port).await?.is_some();
        warnings.push(if other {
            format!(
                "{} is called {} now, and another interface is called {}: not filtered until `op25b reload`, which \
                 leaves {}",
                known.port, known.name, known.port, known.name
            )
        } else {
            format!("{} is called {} now; the policy does not know that", known.port, known.name)
        });
    }
    let daemon = instance.is_running();
    if !daemon {
        warnings.push("no daemon runs; the filter goes on without it".to_owned());
    }
    if Manifest::is_interrupted(instance) && !daemon {
        warnings.push("a change was interrupted; `op25b run` completes or reverts it".to_owned());
    }
    let persistent = State::read(instance).unwrap_or_else(|error| {
        warnings.push(format!("{error:#}"));
        State::default()
    });
    let now = Timestamp::now();
    let mut hostnames = relays::remembered(instance).unwrap_or_else(|error| {
        warnings.push(format!("{error:#}"));
        BTreeMap::new()
    });
    hostnames.retain(|hostname, _| manifest.hostnames.contains(hostname));
    for hostname in &manifest.hostnames {
        let known = hostnames.get(hostname);
        let failure = known.and_then(|known| known.failure.as_deref());
        if known.is_none_or(|known| known.addresses.is_empty()) {
            let why = failure.unwrap_or("the DNS has not answered yet");
            warnings.push(format!("{hostname}: no address of it is known: {why}"));
        } else if let Some(failure) = failure {
            warnings.push(format!("{hostname}: {failure}"));
        }
    }
    let (overdue, coming): (Vec<Change>, Vec<Change>) =
        manifest.upcoming.iter().cloned().partition(|change| change.at < now);
    for change in &overdue {
        let why = match (daemon, clock::is_synchronised()) {
            (false, _) => "no daemon runs",
            (true, false) => "the clock is not synchronised",
            (true, true) => "it is being made",
        };
        warnings.push(format!("change overdue: {} ({}); {why}", change.what, change.at));
    }
    let suspension = persistent.suspension.filter(|_| manifest.suspended != Suspended::Nothing);
    if let Some(over) = suspension.as_ref().filter(|suspension| suspension.until < now && !daemon) {
        warnings.push(format!("change overdue: the suspension ends ({}); no daemon runs", over.until));
    }
    let totals = counters::read(instance, manifest).map(|stats| stats.totals).unwrap_or_default();
    let attached = interfaces.iter().filter(|interface| interface.attached).count();
    let state = match attached {
        0 => "detached",
        some if some < interfaces.len() => "partial",
        _ if manifest.suspended == Suspended::Everything => "suspended",
        _ if manifest.blocks => "enforcing",
        _ if manifest.suspended != Suspended::Nothing => "suspended",
        _ => "monitoring",
    };
    Ok(Status {
        // A group that is suspended is one that somebody must not forget.
        enforcing: state == "enforcing" && manifest.suspended == Suspended::Nothing,
        state,
        instance: instance.name().to_owned(),
        generation: manifest.generation,
        age: u64::try_from(now.duration_since(manifest.since).as_secs()).unwrap_or(0),
        daemon,
        policy: PolicyStatus {
            path: manifest.policy.display().to_string(),
            hash: manifest.hash.clone(),
            current,
        },
        interfaces,
        groups: manifest.groups.clone(),
        hostnames,
        suspension,
        unconfirmed: persistent.unconfirmed,
        next_change: coming.into_iter().next(),
        overdue,
        judged_packets: totals.iter().map(|total| total.packets).sum(),
        dropped_packets: totals
            .iter()
            .filter(|total| total.verdict != "pass")
            .map(|total| total.packets)
            .sum(),
        samples: Vec::new(),
        warnings,
    })
}

/// Compares the interface, the pinned link and the generation: all three must name one program.
async fn look_at(instance: &Instance, known: &manifest::Interface) -> Result<InterfaceStatus> {
    let problem = match interface::find(&known.name).await? {
        None => Some("the interface does not exist (in this network namespace)".to_owned()),
        Some(interface) => {
            let running = attach::programs(&interface, &known.name, known.mode).await?;
            compare(instance, known, &running)
        }
    };
    Ok(InterfaceStatus {
        name: known.name.clone(),
        role: known.role.clone(),
        mode: known.mode.name(),
        hook: known.hook,
        attached: problem.is_none(),
        program: known.program,
        problem,
    })
}

fn compare(instance: &Instance, known: &manifest::Interface, running: &[u32]) -> Option<String> {
    if known.hook != Hook::Clsact {
        let pin = instance.link(&known.name, known.mode);
        if !pin.exists() {
            return Some(format!("the link {} is gone", pin.display()));
        }
        match attach::open(&pin).and_then(|link| Ok(link.info()?.program_id())) {
            Err(error) => return Some(format!("{error:#}")),
            Ok(linked) if !known.runs(linked) => {
                return Some(format!("program {linked} is attached, the generation's is {}", known.program));
            }
            Ok(_) => {}
        }
    }
    if running.iter().any(|id| known.runs(*id)) {
        return None;
    }
    let there = running.iter().map(|id| {
        let name = attach::program_name(*id).unwrap_or_else(|| "unnamed".to_owned());
        format!("{name} (id {id})")
    });
    let there = there.collect::<Vec<_>>().join(", ");
    Some(if there.is_empty() {
        "no program is attached".to_owned()
    } else {
        format!("another program is attached: {there}")
    })
}

fn tell(status: &Status) -> Result<()> {
    let what = match status.state {
        "enforcing" => "ENFORCING",
        "suspended" => "SUSPENDED: attached, but it blocks nothing for now",
        "monitoring" => "monitoring: attached, but the policy blocks nothing",
        "partial" => "NOT ENFORCING everywhere",
        _ => "NOT ENFORCING: attached nowhere",
    };
    print(&format!(
        "instance {}: {what}; generation {}, {} s old, policy {} ({})",
        status.instance, status.generation, status.age, status.policy.path, status.policy.hash
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
        let what = match &suspension.what {
            Suspended::Groups(groups) => groups.iter().cloned().collect::<Vec<_>>().join(", "),
            _ => "everything".to_owned(),
        };
        let by = printable(&suspension.by);
        print(&format!("  suspended: {what} until {:.0}, by {by}", suspension.until))?;
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
