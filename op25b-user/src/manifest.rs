//! What the running generation is: written beside the pins, read by every command.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use op25b_ebpf::{
    abi::{self, GROUPS, Role},
    cookie::{Key, Keys},
};
use serde::{Deserialize, Serialize};

use crate::{
    attach::Hook,
    clock,
    commands::No,
    document::{Attach, Mode},
    durable,
    instance::Instance,
    interface,
    policy::{Outputs, Override, Policy, Port},
    situation::{Change, Situation, Suspended},
};

/// The running generation.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// Layouts and numbers of the kernel half.
    pub abi: u32,
    /// Counts up with each change.
    pub generation: u64,
    /// When it took force.
    pub since: Timestamp,
    /// The policy file, absolute.
    pub policy: PathBuf,
    /// Of the policy's text.
    pub hash: String,
    /// Interfaces given on the command line.
    pub overridden: Override,
    /// The dates that had come when it was made.
    pub moment: Timestamp,
    /// What is suspended.
    pub suspended: Suspended,
    /// What will happen by itself, the earliest first; at most [`UPCOMING`] changes.
    pub upcoming: Vec<Change>,
    /// Where it is attached.
    pub interfaces: Vec<Interface>,
    /// Every group there ever was, with the number that its counters have.
    pub numbers: BTreeMap<String, u32>,
    /// The policy's groups and modes.
    pub groups: Vec<Group>,
    /// The relays' names, by their bit.
    pub relays: Vec<String>,
    /// The hostnames by which the policy names relays.
    pub hostnames: BTreeSet<String>,
    /// Whether anything is dropped under the policy.
    pub blocks: bool,
    /// Of the places of accounts and the hashes of destinations, as long as counters are kept.
    pub seed: u64,
    /// The secrets of the sequence numbers in answers, from the operating system.
    #[serde(with = "KeysAsWritten")]
    pub cookie_keys: Keys,
    /// The policy's time zone, by its name.
    pub timezone: String,
    /// What people and programs are told, and where.
    pub outputs: Outputs,
}

/// [`Keys`] in the file.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Keys")]
struct KeysAsWritten {
    old: Key,
    new: Key,
    since: u64,
}

/// An interface of the generation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Interface {
    /// As `ip link` shows it.
    pub name: String,
    /// As the policy names it: another name when it was renamed since.
    pub port: String,
    /// `customer`, `upstream` or `both`.
    pub role: String,
    /// Its number when it was attached.
    pub index: u32,
    /// Whether its frames start with an Ethernet header.
    pub ethernet: bool,
    /// How it is attached.
    pub mode: Attach,
    /// The kernel's mechanism behind that.
    pub hook: Hook,
    /// The kernel's number of the program.
    pub program: u32,
    /// The kernel's number of its sampling twin.
    pub sampling_program: u32,
    /// Whether blocked frames are answered there.
    #[serde(default)]
    pub answers: bool,
    /// Why not, though a group says so.
    #[serde(default)]
    pub unanswered: Option<String>,
}

/// Upcoming changes that a manifest names.
pub const UPCOMING: usize = 16;

/// A group of the policy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// `off`, `monitor` or `enforce`, as it is now.
    pub mode: String,
    /// Many customers behind one address: nobody is told apart.
    pub shared: bool,
    /// Length of the prefix that is one IPv6 customer.
    pub ipv6_source_length: u8,
}

impl Manifest {
    /// The one that follows `previous`, without interfaces yet.
    ///
    /// # Errors
    ///
    /// When there have been more groups than the counters have cells for.
    pub fn following(
        previous: Option<&Self>,
        policy: &Policy,
        situation: &Situation,
        path: &Path,
        overridden: &Override,
    ) -> Result<Self> {
        let numbers = number(previous.map(|previous| &previous.numbers), policy)?;
        Ok(Self {
            abi: abi::VERSION,
            generation: previous.map_or(0, |manifest| manifest.generation) + 1,
            since: Timestamp::now(),
            policy: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            hash: policy.hash.clone(),
            overridden: overridden.clone(),
            moment: situation.moment,
            suspended: situation.suspended.clone(),
            upcoming: policy
                .changes()
                .into_iter()
                .filter(|change| change.at > situation.moment)
                .take(UPCOMING)
                .collect(),
            interfaces: Vec::new(),
            numbers,
            groups: policy
                .groups
                .iter()
                .map(|group| Group {
                    name: group.name.clone(),
                    mode: situation.mode(group).name().to_owned(),
                    shared: group.shared,
                    ipv6_source_length: group.ipv6_source_length,
                })
                .collect(),
            relays: policy.relays.iter().map(|relay| relay.name.clone()).collect(),
            hostnames: policy.relays.iter().filter_map(|relay| relay.hostname.clone()).collect(),
            blocks: situation.blocks_something(policy),
            seed: match previous {
                Some(previous) if previous.is_of_this_version() => previous.seed,
                // Keys of the standard library's hash tables are random.
                _ => RandomState::new().build_hasher().finish(),
            },
            cookie_keys: {
                let fresh = [getrandom::u64()?, getrandom::u64()?];
                match previous {
                    Some(previous) if previous.is_of_this_version() => {
                        previous.cookie_keys.renewed(clock::cookie_period()?, fresh)
                    }
                    _ => Keys::unchanged(fresh),
                }
            },
            timezone: policy.timezone.iana_name().unwrap_or("UTC").to_owned(),
            outputs: policy.outputs.clone(),
        })
    }

    /// Reads the one in force; `None` where the instance is not attached.
    ///
    /// # Errors
    ///
    /// When it is there and cannot be read.
    pub fn read(instance: &Instance) -> Result<Option<Self>> {
        Self::read_file(instance, &path(instance))
    }

    /// Reads the one in force to put another in its place. Of another version's it is what the swap takes: where it is
    /// attached; its counters cannot be read.
    ///
    /// # Errors
    ///
    /// When it is there and says not even that.
    pub fn read_to_replace(instance: &Instance) -> Result<Option<Self>> {
        let Ok(text) = fs::read_to_string(path(instance)) else { return Self::read(instance) };
        match serde_json::from_str(&text) {
            Ok(Version { abi, generation: Some(generation), interfaces: Some(interfaces) })
                if abi != abi::VERSION =>
            {
                Ok(Some(Self { abi, generation, interfaces, ..Self::default() }))
            }
            _ => Self::read(instance),
        }
    }

    /// Whether counters of this version are beside it.
    #[must_use]
    pub const fn is_of_this_version(&self) -> bool {
        self.abi == abi::VERSION
    }

    /// Reads the one that was being put in force when the daemon died; `None` where it did not.
    ///
    /// # Errors
    ///
    /// When it is there and cannot be read.
    pub fn interrupted(instance: &Instance) -> Result<Option<Self>> {
        Self::read_file(instance, &journal(instance))
    }

    /// Whether a change was being made when the daemon died.
    #[must_use]
    pub fn is_interrupted(instance: &Instance) -> bool {
        journal(instance).exists()
    }

    fn read_file(instance: &Instance, path: &Path) -> Result<Option<Self>> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(No::Input(format!("{}: not permitted; run it as root", path.display())).into());
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let damaged = || format!("{} is damaged; `op25b detach` removes the filter", path.display());
        let Version { abi: version, .. } = serde_json::from_str(&text).with_context(damaged)?;
        if version != abi::VERSION {
            return Err(No::Input(format!(
                "instance {} was attached by another version of op25b (layout {}, this one has {}); \
                 `op25b run` replaces it without a gap, its counters start anew",
                instance.name(),
                version,
                abi::VERSION
            ))
            .into());
        }
        Ok(Some(serde_json::from_str(&text).with_context(damaged)?))
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
        durable::replace(&path(instance), &serde_json::to_string_pretty(self)?)
    }

    /// Notes that it is being put in force: whoever comes next completes or reverts that.
    ///
    /// # Errors
    ///
    /// When the disk does not take it.
    pub fn begin(&self, instance: &Instance) -> Result<()> {
        durable::replace(&journal(instance), &serde_json::to_string_pretty(self)?)
    }

    /// Makes it the one in force, in one step.
    ///
    /// # Errors
    ///
    /// When the disk does not take it.
    pub fn commit(&self, instance: &Instance) -> Result<()> {
        let (from, to) = (journal(instance), path(instance));
        fs::rename(&from, &to)
            .with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))
    }

    /// Notes that nothing is being put in force any more.
    ///
    /// # Errors
    ///
    /// When the note stays.
    pub fn give_up(instance: &Instance) -> Result<()> {
        durable::remove(&journal(instance))
    }

    /// The entry of an interface at a hook.
    #[must_use]
    pub fn interface(&self, name: &str, mode: Attach) -> Option<&Interface> {
        self.interfaces.iter().find(|known| known.name == name && known.mode == mode)
    }

    /// The entry of an interface that the policy names so, whatever it is called.
    #[must_use]
    pub fn port(&self, port: &str, mode: Attach) -> Option<&Interface> {
        self.interfaces.iter().find(|known| known.port == port && known.mode == mode)
    }

    /// The name of a group by its number.
    #[must_use]
    pub fn group(&self, number: u32) -> Option<&str> {
        self.numbers.iter().find(|(_, known)| **known == number).map(|(name, _)| name.as_str())
    }

    /// The policy's entry of a group by its number; none where the policy no longer has it.
    #[must_use]
    pub fn settings(&self, number: u32) -> Option<&Group> {
        let name = self.group(number)?;
        self.groups.iter().find(|group| group.name == name)
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
    pub fn new(port: &Port, interface: &interface::Interface, program: u32, sampling_program: u32) -> Self {
        Self {
            name: interface.name.clone(),
            port: port.name.clone(),
            role: role_name(port.role).to_owned(),
            index: interface.index,
            ethernet: interface.ethernet,
            mode: port.attach,
            hook: Hook::of(port.attach),
            program,
            sampling_program,
            answers: false,
            unanswered: None,
        }
    }

    /// Whose packets are judged there.
    #[must_use]
    pub fn judges(&self) -> Role {
        [Role::UPSTREAM, Role::BOTH]
            .into_iter()
            .find(|role| role_name(*role) == self.role)
            .unwrap_or(Role::CUSTOMER)
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

/// What every version of the file has, and what a version whose links can be taken over has.
#[derive(Deserialize)]
struct Version {
    abi: u32,
    generation: Option<u64>,
    interfaces: Option<Vec<Interface>>,
}

fn path(instance: &Instance) -> PathBuf {
    instance.state().join("generation.json")
}

fn journal(instance: &Instance) -> PathBuf {
    instance.state().join("journal.json")
}
