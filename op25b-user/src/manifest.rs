//! What the running generation is: written beside the pins, read by every command.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use op25b_ebpf::abi::{self, GROUPS, Role};
use serde::{Deserialize, Serialize};

use crate::{
    attach::Hook,
    commands::No,
    document::{Attach, Mode},
    instance::Instance,
    policy::{Policy, Port},
    situation::Situation,
};

/// The running generation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Layouts and numbers of the kernel half.
    pub abi: u32,
    /// Counts up with each change.
    pub generation: u64,
    /// Seconds since 1970 when it took force.
    pub since: u64,
    /// The policy file, absolute.
    pub policy: PathBuf,
    /// Of the policy's text.
    pub hash: String,
    /// Where it is attached.
    pub interfaces: Vec<Interface>,
    /// Every group there ever was, with the number that its counters have.
    pub numbers: BTreeMap<String, u32>,
    /// The policy's groups and modes.
    pub groups: Vec<Group>,
    /// The relays' names, by their bit.
    pub relays: Vec<String>,
    /// Whether anything is dropped under the policy.
    pub blocks: bool,
}

/// An interface of the generation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Interface {
    /// As `ip link` shows it.
    pub name: String,
    /// `customer`, `upstream` or `both`.
    pub role: String,
    /// How it is attached.
    pub mode: Attach,
    /// The kernel's mechanism behind that.
    pub hook: Hook,
    /// The kernel's number of the program.
    pub program: u32,
    /// The kernel's number of its sampling twin.
    pub sampling_program: u32,
}

/// A group of the policy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// `off`, `monitor` or `enforce`.
    pub mode: String,
}

impl Manifest {
    /// The one that follows `previous`, without interfaces yet.
    ///
    /// # Errors
    ///
    /// When there have been more groups than the counters have cells for.
    pub fn following(previous: Option<&Self>, policy: &Policy, path: &Path) -> Result<Self> {
        let numbers = number(previous.map(|manifest| &manifest.numbers), policy)?;
        Ok(Self {
            abi: abi::VERSION,
            generation: previous.map_or(0, |manifest| manifest.generation) + 1,
            since: now(),
            policy: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            hash: policy.hash.clone(),
            interfaces: Vec::new(),
            numbers,
            groups: policy
                .groups
                .iter()
                .map(|group| Group { name: group.name.clone(), mode: group.mode.name().to_owned() })
                .collect(),
            relays: policy.relays.iter().map(|relay| relay.name.clone()).collect(),
            blocks: Situation::now().blocks_something(policy),
        })
    }

    /// Reads the one in force; `None` where the instance is not attached.
    ///
    /// # Errors
    ///
    /// When it is there and cannot be read.
    pub fn read(instance: &Instance) -> Result<Option<Self>> {
        let path = path(instance);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let manifest: Self =
            serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
        if manifest.abi != abi::VERSION {
            return Err(No::Input(format!(
                "instance {} was attached by another version of op25b (layout {}, this one has {}); \
                 `op25b detach` with that version, or with this one, removes it",
                instance.name(),
                manifest.abi,
                abi::VERSION
            ))
            .into());
        }
        Ok(Some(manifest))
    }

    /// Reads the one in force.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn require(instance: &Instance) -> Result<Self> {
        Self::read(instance)?.ok_or_else(|| {
            No::Input(format!(
                "instance {} is not attached; `op25b run --policy FILE` attaches it",
                instance.name()
            ))
            .into()
        })
    }

    /// Writes it, in one step.
    ///
    /// # Errors
    ///
    /// When the disk does not take it.
    pub fn write(&self, instance: &Instance) -> Result<()> {
        let path = path(instance);
        let beside = path.with_extension("new");
        let text = serde_json::to_string_pretty(self)?;
        fs::write(&beside, text)
            .and_then(|()| fs::rename(&beside, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// The name of a group by its number.
    #[must_use]
    pub fn group(&self, number: u32) -> Option<&str> {
        self.numbers.iter().find(|(_, known)| **known == number).map(|(name, _)| name.as_str())
    }

    /// The name of a relay by its number, from 1.
    #[must_use]
    pub fn relay(&self, number: u32) -> Option<&str> {
        let bit = number.checked_sub(1)?;
        self.relays.get(bit as usize).map(String::as_str)
    }
}

impl Interface {
    /// The entry of a port.
    #[must_use]
    pub fn new(port: &Port, program: u32, sampling_program: u32) -> Self {
        Self {
            name: port.name.clone(),
            role: role_name(port.role).to_owned(),
            mode: port.attach,
            hook: Hook::of(port.attach),
            program,
            sampling_program,
        }
    }

    /// Whether a program is this generation's.
    #[must_use]
    pub const fn runs(&self, program: u32) -> bool {
        program == self.program || program == self.sampling_program
    }
}

impl Group {
    /// Whether it blocks.
    #[must_use]
    pub fn enforces(&self) -> bool {
        self.mode == Mode::Enforce.name()
    }
}

/// The word for a role.
#[must_use]
pub const fn role_name(role: Role) -> &'static str {
    match (role.judges_customers(), role.judges_upstream()) {
        (true, true) => "both",
        (false, true) => "upstream",
        _ => "customer",
    }
}

/// Gives each group the number that its counters have: what a name had once it keeps.
fn number(previous: Option<&BTreeMap<String, u32>>, policy: &Policy) -> Result<BTreeMap<String, u32>> {
    let mut numbers = previous.cloned().unwrap_or_default();
    for group in &policy.groups {
        if numbers.contains_key(&group.name) {
            continue;
        }
        let free = (1..=GROUPS as u32).find(|number| !numbers.values().any(|taken| taken == number));
        let Some(free) = free else {
            return Err(No::Input(format!(
                "group {}: counters are kept for {GROUPS} names, renamed and removed groups included; \
                 `op25b detach` forgets them",
                group.name
            ))
            .into());
        };
        numbers.insert(group.name.clone(), free);
    }
    Ok(numbers)
}

fn path(instance: &Instance) -> PathBuf {
    instance.state().join("generation.json")
}

/// Seconds since 1970.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
