//! What decides beside the policy's text: the moment, what is suspended, and what the DNS says of the relays.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use ipnetwork::IpNetwork;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    document::{Mode, printable},
    policy::{Exception, Group, Policy, Relay},
};

/// A policy means the same in the same situation, on every router.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Situation {
    /// Which dates have come.
    pub moment: Timestamp,
    /// What is suspended.
    pub suspended: Suspended,
    /// Addresses of the relays that the policy names by their hostname, by the relay's name.
    pub resolved: BTreeMap<String, BTreeSet<IpAddr>>,
}

/// What blocks nothing for a while.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Suspended {
    /// Nothing.
    #[default]
    Nothing,
    /// These groups: as if in `monitor`.
    Groups(BTreeSet<String>),
    /// Everything: quarantines and unknown sources too; no packet is dropped.
    Everything,
}

impl Suspended {
    /// Whether a group is.
    #[must_use]
    pub fn includes(&self, group: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Groups(groups) => groups.contains(group),
            Self::Everything => true,
        }
    }
}

impl fmt::Display for Suspended {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => formatter.write_str("nothing"),
            Self::Groups(groups) => {
                let names: Vec<String> = groups.iter().map(|name| printable(name)).collect();
                formatter.write_str(&names.join(", "))
            }
            Self::Everything => formatter.write_str("everything"),
        }
    }
}

/// Something that happens by itself at its moment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Change {
    /// When.
    pub at: Timestamp,
    /// What, in words.
    pub what: String,
}

impl Situation {
    /// This moment, with nothing suspended and nothing resolved.
    #[must_use]
    pub fn now() -> Self {
        Self::at(Timestamp::now())
    }

    /// Another moment.
    #[must_use]
    pub fn at(moment: Timestamp) -> Self {
        Self { moment, ..Self::default() }
    }

    /// What a group does.
    #[must_use]
    pub fn mode(&self, group: &Group) -> Mode {
        let waits = group.enforce_from.is_some_and(|from| self.moment < from);
        match group.mode {
            Mode::Enforce if waits || self.suspended.includes(&group.name) => Mode::Monitor,
            mode => mode,
        }
    }

    /// Whether an exemption or a quarantine has not expired.
    #[must_use]
    pub fn holds(&self, exception: &Exception) -> bool {
        exception.expires.is_none_or(|end| self.moment < end)
    }

    /// Whether quarantines hold at all.
    #[must_use]
    pub fn quarantines(&self) -> bool {
        self.suspended != Suspended::Everything
    }

    /// Whether a source in no group is blocked.
    #[must_use]
    pub fn blocks_unknown(&self, policy: &Policy) -> bool {
        policy.block_unknown && self.suspended != Suspended::Everything
    }

    /// Whether anything at all can be dropped.
    #[must_use]
    pub fn blocks_something(&self, policy: &Policy) -> bool {
        self.blocks_unknown(policy)
            || self.quarantines() && policy.quarantine.iter().any(|entry| self.holds(entry))
            || policy.groups.iter().any(|group| self.mode(group) == Mode::Enforce)
    }

    /// Where a relay is: what is written, else what the DNS says.
    #[must_use]
    pub fn addresses(&self, relay: &Relay) -> Vec<IpNetwork> {
        if !relay.prefixes.is_empty() || relay.hostname.is_none() {
            return relay.prefixes.clone();
        }
        self.resolved
            .get(&relay.name)
            .into_iter()
            .flatten()
            .map(|address| IpNetwork::from(*address))
            .collect()
    }
}

/// Prefixes that a change names.
const NAMED: usize = 4;

impl Policy {
    /// The number that a group has where no counters have given it one; zero where there is none.
    #[must_use]
    pub fn position(&self, name: &str) -> u32 {
        self.groups.iter().position(|group| group.name == name).map_or(0, |position| position as u32 + 1)
    }

    /// All that happens by itself, the earliest first.
    #[must_use]
    pub fn changes(&self) -> Vec<Change> {
        let enforced = self.groups.iter().filter(|group| group.mode == Mode::Enforce).filter_map(|group| {
            Some(Change { at: group.enforce_from?, what: format!("group {} begins to enforce", group.name) })
        });
        // A hundred thousand can end on one day: that is one change.
        let mut ends: BTreeMap<(Timestamp, &str), Vec<&IpNetwork>> = BTreeMap::new();
        for (kind, entries) in [("exemption", &self.exemptions), ("quarantine", &self.quarantine)] {
            for entry in entries {
                if let Some(end) = entry.expires {
                    ends.entry((end, kind)).or_default().extend(&entry.prefixes);
                }
            }
        }
        let expired = ends.into_iter().map(|((at, kind), prefixes)| {
            let mut words: Vec<String> = prefixes.iter().take(NAMED).map(ToString::to_string).collect();
            if prefixes.len() > NAMED {
                words.push(format!("{} more", prefixes.len() - NAMED));
            }
            Change { at, what: format!("{kind} of {} expires", words.join(", ")) }
        });
        let mut changes: Vec<Change> = enforced.chain(expired).collect();
        changes.sort();
        changes
    }
}
