//! Whether the filter is in force, from the kernel's side: what `op25b status`, the page and the metrics say.

use std::collections::BTreeMap;

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    attach::{self, Hook},
    clock,
    counters::{self, Total},
    instance::Instance,
    interface,
    manifest::{self, Manifest},
    policy::{NO_ACCOUNTS, Override, Policy},
    relays::{self, Known},
    sample::Sample,
    situation::{Change, Suspended},
    state::{State, Suspension, Unconfirmed},
};

/// `op25b status --json`.
#[derive(Debug, Default, Serialize)]
pub struct Status {
    /// Attached everywhere, and the policy blocks something.
    pub enforcing: bool,
    /// `enforcing`, `suspended`, `monitoring`, `partial` or `detached`.
    pub state: &'static str,
    /// Which of several filters.
    pub instance: String,
    /// The running generation.
    pub generation: u64,
    /// Seconds that the generation has been in force.
    pub age: u64,
    /// Whether the daemon runs; the filter does not need it.
    pub daemon: bool,
    /// The policy in force.
    pub policy: PolicyStatus,
    /// Where it is attached.
    pub interfaces: Vec<InterfaceStatus>,
    /// The groups and their modes.
    pub groups: Vec<manifest::Group>,
    /// Relays that are named by their hostname.
    pub hostnames: BTreeMap<String, Known>,
    /// What blocks nothing for a while.
    pub suspension: Option<Suspension>,
    /// A policy on trial.
    pub unconfirmed: Option<Unconfirmed>,
    /// What happens by itself next, and what should have happened.
    pub next_change: Option<Change>,
    /// What should have happened.
    pub overdue: Vec<Change>,
    /// Frames judged so far, and dropped.
    pub judged_packets: u64,
    /// Frames dropped so far.
    pub dropped_packets: u64,
    /// How frames were seen, with `--sample`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<Sample>,
    /// What to look at.
    pub warnings: Vec<String>,
}

impl Status {
    /// What people are told first: a few words, and behind a colon what they mean.
    #[must_use]
    pub fn in_words(&self) -> &'static str {
        match self.state {
            // A group that is suspended is one that somebody must not forget.
            "enforcing" if !self.enforcing => {
                "SUSPENDED IN PART: attached, but some groups block nothing for now"
            }
            "enforcing" => "ENFORCING",
            "suspended" => "SUSPENDED: attached, but it blocks nothing for now",
            "monitoring" => "monitoring: attached, but the policy blocks nothing",
            "partial" => "NOT ENFORCING everywhere",
            _ => "NOT ENFORCING: attached nowhere",
        }
    }
}

/// The policy in force.
#[derive(Debug, Default, Serialize)]
pub struct PolicyStatus {
    /// The file.
    pub path: String,
    /// Of its text.
    pub hash: String,
    /// Whether the file says what is in force; none where it cannot be read.
    pub current: Option<bool>,
}

/// An interface, and whether the filter is in force there.
#[derive(Debug, Serialize)]
pub struct InterfaceStatus {
    /// As `ip link` shows it.
    pub name: String,
    /// `customer`, `upstream` or `both`.
    pub role: String,
    /// How it is attached.
    pub mode: &'static str,
    /// The kernel's mechanism: `xdp`, `tcx` or `clsact`.
    pub hook: Hook,
    /// Whether the kernel runs this generation's program there.
    pub attached: bool,
    /// The kernel's number of this generation's program.
    pub program: u32,
    /// Why it is not in force there.
    pub problem: Option<String>,
    /// Why blocked frames are not answered there, though a group says so.
    pub unanswered: Option<String>,
}

/// Whether the policy file says what is in force.
#[derive(Clone, Debug)]
pub struct Drift {
    /// None where the file cannot be read.
    pub current: Option<bool>,
    /// What to say of it.
    pub warning: Option<String>,
}

/// Compares the policy file with what is in force. Reads the whole file, and those that it names: a million prefixes
/// take a moment.
#[must_use]
pub fn drift(manifest: &Manifest) -> Drift {
    let (current, warning) = match Policy::read(&manifest.policy, &Override::default()) {
        Ok(policy) if policy.hash == manifest.hash => (Some(true), None),
        Ok(_) => {
            let changed = format!("{} has changed since it took force", manifest.policy.display());
            (Some(false), Some(changed))
        }
        Err(invalid) => {
            (None, Some(format!("the policy file cannot be used any more: {}", invalid.errors.join("; "))))
        }
    };
    Drift { current, warning }
}

/// Looks at what is in force, from the kernel's side.
///
/// # Errors
///
/// When interfaces cannot be looked at.
pub async fn look(instance: &Instance, manifest: &Manifest) -> Result<Status> {
    let totals = counters::read(instance, manifest).map(|stats| stats.totals).unwrap_or_default();
    look_with(instance, manifest, drift(manifest), &totals).await
}

/// The same, for who knows already what has been counted and whether the policy file is in force.
///
/// # Errors
///
/// As of [`look`].
pub async fn look_with(
    instance: &Instance,
    manifest: &Manifest,
    drift: Drift,
    totals: &[Total],
) -> Result<Status> {
    let mut interfaces = Vec::new();
    // Half a change is not shown, unless nobody completes it.
    let swapping = instance.swapping();
    for known in &manifest.interfaces {
        interfaces.push(look_at(instance, known).await?);
    }
    drop(swapping);
    let Drift { current, warning } = drift;
    let mut warnings: Vec<String> = warning.into_iter().collect();
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
    for known in &manifest.interfaces {
        if let Some(why) = &known.unanswered {
            warnings.push(format!("{}: {why}", known.name));
        }
    }
    if !manifest.outputs.account_sources {
        warnings.push(NO_ACCOUNTS.to_owned());
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

/// Compares the interface, the pinned link and the generation: all three must name one program. The kernel's number of
/// it, or in words what is there instead.
///
/// # Errors
///
/// When the kernel does not answer.
pub async fn running(instance: &Instance, known: &manifest::Interface) -> Result<Result<u32, String>> {
    let Some(interface) = interface::find(&known.name).await? else {
        return Ok(Err("the interface does not exist (in this network namespace)".to_owned()));
    };
    let running = attach::programs(&interface, &known.name, known.mode).await?;
    Ok(compare(instance, known, &running))
}

async fn look_at(instance: &Instance, known: &manifest::Interface) -> Result<InterfaceStatus> {
    let problem = running(instance, known).await?.err();
    Ok(InterfaceStatus {
        name: known.name.clone(),
        role: known.role.clone(),
        mode: known.mode.name(),
        hook: known.hook,
        attached: problem.is_none(),
        program: known.program,
        problem,
        unanswered: known.unanswered.clone(),
    })
}

fn compare(instance: &Instance, known: &manifest::Interface, running: &[u32]) -> Result<u32, String> {
    if known.hook != Hook::Clsact {
        let pin = instance.link(&known.name, known.mode);
        if !pin.exists() {
            let held = running.iter().any(|id| known.runs(*id));
            let so = if held { "; the program is attached as long as the daemon runs" } else { "" };
            return Err(format!("the link {} is gone{so}", pin.display()));
        }
        match attach::open(&pin).and_then(|link| Ok(link.info()?.program_id())) {
            Err(error) => return Err(format!("{error:#}")),
            Ok(linked) if !known.runs(linked) => {
                return Err(format!("program {linked} is attached, the generation's is {}", known.program));
            }
            Ok(_) => {}
        }
    }
    if let Some(program) = running.iter().find(|id| known.runs(**id)) {
        return Ok(*program);
    }
    let there = running.iter().map(|id| {
        let name = attach::program_name(*id).unwrap_or_else(|| "unnamed".to_owned());
        format!("{name} (id {id})")
    });
    let there = there.collect::<Vec<_>>().join(", ");
    Err(if there.is_empty() {
        "no program is attached".to_owned()
    } else {
        format!("another program is attached: {there}")
    })
}
