//! The sources of judged packets: their accounts, from the pins, and one line a source of them, with its triage.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, PerCpuArray};
use ipnetwork::IpNetwork;
use jiff::Timestamp;
use op25b_ebpf::{
    address::Family,
    source::{self, DESTINATION_BITS, EVICTED, WINDOW},
    verdict::Reason,
};
use serde::Serialize;

use crate::{
    bulk::Mapped,
    clock,
    instance::Instance,
    manifest::Manifest,
    object::{SOURCES, SOURCES_COUNTS, SOURCES_DETAILS},
    policy::{Triage, contains, short},
};

/// A bit for the hash of each destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destinations(pub [u64; DESTINATION_BITS / 64]);

impl Destinations {
    /// How many there are likely to be: linear counting (Whang, Vander-Zanden and Taylor, 1990).
    #[must_use]
    pub fn estimate(&self) -> u64 {
        let bits = DESTINATION_BITS as f64;
        let unset: u32 = self.0.iter().map(|word| word.count_zeros()).sum();
        // One that is full says "this many at least".
        let unset = f64::from(unset.max(1));
        (bits * (bits / unset).ln()).round() as u64
    }

    /// Those of both.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        for (word, other) in self.0.iter_mut().zip(other.0) {
            *word |= other;
        }
        self
    }
}

/// One hour of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hour {
    /// When it began.
    pub start: Timestamp,
    /// Frames.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// Attempts.
    pub attempts: u64,
    /// The first frame.
    pub first: Timestamp,
    /// The last frame.
    pub last: Timestamp,
    /// Where they went.
    pub destinations: Destinations,
}

/// What the kernel keeps of a source for one group and reason.
#[derive(Clone, Debug)]
pub struct Account {
    /// The customer's address, or its IPv6 prefix.
    pub source: IpNetwork,
    /// The group's number, zero for none.
    pub group: u32,
    /// Why.
    pub reason: Reason,
    /// Frames.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// Attempts.
    pub attempts: u64,
    /// The first frame since the account was opened.
    pub first: Timestamp,
    /// The last frame.
    pub last: Timestamp,
    /// The server of the last attempt.
    pub last_destination: IpAddr,
    /// The last two hours in which there was something, the earlier first.
    pub hours: Vec<Hour>,
}

/// All accounts of an instance.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    /// In no order.
    pub accounts: Vec<Account>,
    /// Accounts that there is room for.
    pub room: u64,
    /// Accounts that had to make room for others.
    pub evicted: u64,
}

/// Reads the accounts of an instance.
///
/// # Errors
///
/// When its pins are gone or have another layout.
pub fn read(instance: &Instance, manifest: &Manifest) -> Result<Accounts> {
    read_by(instance, manifest, clock::epoch()?)
}

/// The same with the time that [`clock::epoch`] has said: who knows it can tell a window again by when it began.
///
/// # Errors
///
/// As of [`read`].
pub fn read_by(instance: &Instance, manifest: &Manifest, epoch: u64) -> Result<Accounts> {
    if !manifest.outputs.account_sources {
        // What is left of an earlier policy's grows old and misleads.
        return Ok(Accounts::default());
    }
    let directory = instance.sources();
    let open = |name: &str| {
        let path = directory.join(name);
        MapData::from_pin(&path).with_context(|| format!("cannot open the accounts {}", path.display()))
    };
    let counts: PerCpuArray<MapData, u64> =
        PerCpuArray::try_from(Map::PerCpuArray(open(SOURCES_COUNTS)?)).context("not counts of accounts")?;
    let evicted = counts.get(&EVICTED, 0)?.iter().sum();
    let accounts = kept(&open(SOURCES)?, &open(SOURCES_DETAILS)?)?
        .filter_map(|(key, source)| account(&key, &source, manifest, epoch))
        .collect();
    Ok(Accounts { accounts, room: u64::from(source::KEPT), evicted })
}

/// How often an account is read that changes hands, or hours, while it is.
const READS: u32 = 3;

/// What the maps of accounts and of their details hold.
///
/// # Errors
///
/// When they have another layout.
pub fn kept(
    accounts: &MapData,
    details: &MapData,
) -> Result<impl Iterator<Item = (source::Key, source::Source)>> {
    let accounts = Mapped::<source::Account>::new(accounts)?;
    let details = Mapped::<source::Details>::new(details)?;
    Ok((0..accounts.len()).filter_map(move |number| {
        let mut account = accounts.get(number)?;
        for _ in 0..READS {
            let key = account.key()?;
            let source = source::Source { account, details: details.get(number)? };
            // Whose, and of which hour, it still is, and nothing less in it: both are of one moment then, but for the last
            // frames, and a turn of the hour that had come as far as the sums.
            account = accounts.get(number)?;
            let source::Account { number, repeats, bytes, attempts, .. } = source.account;
            let goes_on =
                account.repeats >= repeats && account.bytes >= bytes && account.attempts >= attempts;
            if account.key() == Some(key) && account.number == number && goes_on {
                return Some((key, source));
            }
        }
        // One that is fought for is read the next time.
        None
    }))
}

/// `None`: opened, and nothing entered yet.
fn account(key: &source::Key, source: &source::Source, manifest: &Manifest, epoch: u64) -> Option<Account> {
    let details = &source.details;
    let reason = Reason::from_number(key.reason())?;
    let group = key.group();
    let time = |monotonic: u64| {
        Timestamp::from_nanosecond(i128::from(monotonic) + i128::from(epoch)).unwrap_or(Timestamp::MAX)
    };
    let mut hours: Vec<Hour> = source
        .hours()
        .map(|window| Hour {
            start: Timestamp::from_nanosecond(i128::from(window.number) * i128::from(WINDOW))
                .unwrap_or(Timestamp::MAX),
            packets: window.packets,
            bytes: window.bytes,
            attempts: window.attempts,
            first: time(window.first),
            last: time(window.last),
            destinations: Destinations(window.destinations),
        })
        .collect();
    hours.sort_by_key(|hour| hour.start);
    let last = hours.iter().map(|hour| hour.last).max()?;
    let sum = |before: u64, of: fn(&Hour) -> u64| before + hours.iter().map(of).sum::<u64>();
    let length = manifest.settings(group).map_or(64, |group| group.ipv6_source_length);
    Some(Account {
        source: prefix(key, length)?,
        group,
        reason,
        packets: sum(details.packets_before, |hour| hour.packets),
        bytes: sum(details.bytes_before, |hour| hour.bytes),
        attempts: sum(details.attempts_before, |hour| hour.attempts),
        first: time(details.opened),
        last,
        last_destination: address(details.destination, details.destination_family == Family::Ipv6 as u64),
        hours,
    })
}

fn prefix(key: &source::Key, length: u8) -> Option<IpNetwork> {
    let ipv6 = key.family() == Family::Ipv6;
    let words = if ipv6 { [key.address, 0] } else { [0, key.address] };
    IpNetwork::new(address(words, ipv6), if ipv6 { length } else { 32 }).ok()
}

/// The address in a map's two words.
#[must_use]
pub fn address([high, low]: [u64; 2], ipv6: bool) -> IpAddr {
    if ipv6 {
        Ipv6Addr::from(u128::from(high) << 64 | u128::from(low)).into()
    } else {
        Ipv4Addr::from(low as u32).into()
    }
}

/// What a source is likely to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Label {
    /// Few destinations, slowly: a mail program that nobody has told of port 587.
    #[serde(rename = "settings?")]
    Settings,
    /// Many destinations, or fast.
    #[serde(rename = "bot?")]
    Bot,
    /// Nothing for a while.
    #[serde(rename = "quiet")]
    Quiet,
}

impl Label {
    /// The word that people see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Settings => "settings?",
            Self::Bot => "bot?",
            Self::Quiet => "quiet",
        }
    }
}

/// One source: what `op25b top`, the page and the API say of it.
#[derive(Clone, Debug, Serialize)]
pub struct Source {
    /// The customer's address, or its IPv6 prefix.
    pub source: String,
    /// The group; none for a source in no group.
    pub customer: Option<String>,
    /// Frames.
    pub packets: u64,
    /// Bytes, link header included.
    pub bytes: u64,
    /// Connection attempts.
    pub attempts: u64,
    /// Different servers within the last two hours in which there was something: an estimate.
    pub destinations: u64,
    /// The first frame.
    pub first_seen: Timestamp,
    /// The last frame.
    pub last_seen: Timestamp,
    /// The last server.
    pub last_destination: IpAddr,
    /// Attempts a minute in the last hour in which there was something.
    pub attempts_per_minute: f64,
    /// What it is likely to be; none in a `shared` group, where nobody is told apart, and without attempts.
    pub triage: Option<Label>,
    /// Attempts for each reason.
    pub reasons: Vec<ByReason>,
    /// The same address as a prefix, to be compared.
    #[serde(skip)]
    pub prefix: IpNetwork,
}

/// What a source did for one reason.
#[derive(Clone, Debug, Serialize)]
pub struct ByReason {
    /// Why.
    pub reason: &'static str,
    /// Frames.
    pub packets: u64,
    /// Attempts.
    pub attempts: u64,
}

impl fmt::Display for ByReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {} attempts in {} frames", self.reason, self.attempts, self.packets)
    }
}

/// Which sources are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only this group.
    pub group: Option<String>,
    /// Only what lies in this prefix.
    pub prefix: Option<IpNetwork>,
}

impl Filter {
    /// Whether it is one of them.
    #[must_use]
    pub fn keeps(&self, source: &Source) -> bool {
        self.group.as_ref().is_none_or(|group| source.customer.as_ref() == Some(group))
            && self.prefix.as_ref().is_none_or(|prefix| contains(prefix, &source.prefix))
    }
}

/// Whether a reason is about mail that goes past the provider's relays, and not from somebody who may: what people
/// look for unless they say otherwise.
#[must_use]
pub const fn is_outside(reason: Reason) -> bool {
    !matches!(reason, Reason::Other | Reason::Relay | Reason::Exempt)
}

/// The same for a reason by its name.
#[must_use]
pub fn is_outside_name(name: &str) -> bool {
    Reason::from_name(name).is_some_and(is_outside)
}

/// Whether a reason is about what mail servers answer. Where mail passes, an answered connection is counted as itself
/// and as its answer: its attempt is one.
#[must_use]
pub const fn is_return_path(reason: Reason) -> bool {
    matches!(reason, Reason::ReturnPath | Reason::WouldReturnPath)
}

/// What a source tried: its own attempts. Answers count only where it sent nothing here, since they are all that is
/// seen of it then.
pub fn tried<'a>(by_reason: impl IntoIterator<Item = (&'a str, u64)>) -> u64 {
    let (mut own, mut answers) = (0, 0);
    for (reason, attempts) in by_reason {
        *if Reason::from_name(reason).is_some_and(is_return_path) { &mut answers } else { &mut own } +=
            attempts;
    }
    if own == 0 { answers } else { own }
}

/// One line a source and group, of the accounts whose reason `wanted` says, most attempts first.
#[must_use]
pub fn summarise(
    accounts: &[Account],
    manifest: &Manifest,
    now: Timestamp,
    wanted: impl Fn(Reason) -> bool,
) -> Vec<Source> {
    let mut by_source: HashMap<(IpNetwork, u32), Vec<&Account>> = HashMap::new();
    for account in accounts.iter().filter(|account| wanted(account.reason)) {
        by_source.entry((account.source, account.group)).or_default().push(account);
    }
    let mut sources: Vec<Source> = by_source
        .into_iter()
        .filter_map(|((source, group), accounts)| summary(source, group, &accounts, manifest, now))
        .collect();
    sources.sort_by(|one, other| {
        (other.attempts, other.packets, &one.prefix).cmp(&(one.attempts, one.packets, &other.prefix))
    });
    sources
}

fn summary(
    source: IpNetwork,
    group: u32,
    accounts: &[&Account],
    manifest: &Manifest,
    now: Timestamp,
) -> Option<Source> {
    let last = accounts.iter().max_by_key(|account| account.last)?;
    let first_seen = accounts.iter().map(|account| account.first).min()?;
    let hours = || accounts.iter().flat_map(|account| &account.hours);
    // The hours of one reason may be older than those of another.
    let latest = hours().map(|hour| hour.start).max()?;
    let recent = hours().filter(|hour| latest.duration_since(hour.start).as_secs() <= 3600);
    let destinations = recent.fold(Destinations::default(), |all, hour| all.and(&hour.destinations));
    let destinations = destinations.estimate();
    let sum = |of: fn(&Account) -> u64| accounts.iter().map(|account| of(account)).sum();
    let attempts = tried(accounts.iter().map(|account| (account.reason.name(), account.attempts)));
    // As of `tried`.
    let is_own = |account: &&&Account| !is_return_path(account.reason);
    let only_answers = accounts.iter().filter(is_own).all(|account| account.attempts == 0);
    let trying = accounts.iter().filter(|account| only_answers || is_own(account));
    let tries = trying.flat_map(|account| &account.hours);
    let latest_try = tries.clone().map(|hour| hour.start).max();
    let attempts_per_minute = rate(tries.filter(|hour| Some(hour.start) == latest_try));
    let shared = manifest.settings(group).is_some_and(|group| group.shared);
    let silent = Duration::try_from(now.duration_since(last.last)).unwrap_or_default();
    let triage = (!shared && attempts != 0)
        .then(|| label(&manifest.outputs.triage, destinations, attempts_per_minute, silent));
    let mut reasons: Vec<ByReason> = accounts
        .iter()
        .map(|account| ByReason {
            reason: account.reason.name(),
            packets: account.packets,
            attempts: account.attempts,
        })
        .collect();
    reasons.sort_by_key(|by| (std::cmp::Reverse(by.packets), by.reason));
    Some(Source {
        source: short(&source),
        customer: manifest.group(group).map(str::to_owned),
        packets: sum(|account| account.packets),
        bytes: sum(|account| account.bytes),
        attempts,
        destinations,
        first_seen,
        last_seen: last.last,
        last_destination: last.last_destination,
        attempts_per_minute,
        triage,
        reasons,
        prefix: source,
    })
}

/// Attempts a minute in some hours.
fn rate<'h>(hours: impl Iterator<Item = &'h Hour> + Clone) -> f64 {
    let attempts: u64 = hours.clone().map(|hour| hour.attempts).sum();
    let first = hours.clone().map(|hour| hour.first).min();
    let last = hours.map(|hour| hour.last).max();
    first.zip(last).map_or(0.0, |(first, last)| per_minute(attempts, first, last))
}

/// Attempts a minute, between the first frame and the last.
#[must_use]
pub fn per_minute(attempts: u64, first: Timestamp, last: Timestamp) -> f64 {
    // What took less than a minute says nothing of the next.
    attempts as f64 * 60.0 / last.duration_since(first).as_secs_f64().max(60.0)
}

/// What a source is likely to be. Also for what the history knows of it.
#[must_use]
pub fn label(triage: &Triage, destinations: u64, attempts_per_minute: f64, silent: Duration) -> Label {
    if silent >= triage.quiet_after {
        Label::Quiet
    } else if destinations >= triage.bot_destinations
        || attempts_per_minute >= triage.bot_attempts_per_minute as f64
    {
        Label::Bot
    } else {
        Label::Settings
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// Attempts to one server within a minute of the first hour there was.
    fn account(reason: Reason, attempts: u64) -> Account {
        let (first, last) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
        let mut destinations = Destinations::default();
        destinations.0[0] = 1;
        let hour = Hour { start: first, packets: attempts, bytes: 0, attempts, first, last, destinations };
        Account {
            source: IpNetwork::from(IpAddr::from(Ipv4Addr::new(203, 0, 113, 10))),
            group: 1,
            reason,
            packets: attempts,
            bytes: 0,
            attempts,
            first,
            last,
            last_destination: Ipv4Addr::new(192, 0, 2, 200).into(),
            hours: vec![hour],
        }
    }

    #[test]
    fn an_answered_connection_is_one_attempt() {
        let manifest = Manifest::default();
        let figures = |accounts: &[Account]| {
            let found = summarise(accounts, &manifest, Timestamp::UNIX_EPOCH, is_outside);
            found.first().map(|one| (one.attempts, one.attempts_per_minute, one.triage))
        };
        let (own, answers) = (account(Reason::WouldBlock, 20), account(Reason::WouldReturnPath, 20));
        let settings = Some((20, 20.0, Some(Label::Settings)));
        assert_eq!(figures(std::slice::from_ref(&own)), settings);
        assert_eq!(figures(&[answers.clone(), own]), settings, "not twice as fast, which is a bot");
        // Sent elsewhere with this address: answers are all that there is.
        assert_eq!(figures(&[answers]), settings);
    }

    #[test]
    fn who_is_silent_is_quiet_whatever_it_did() {
        let triage = Triage::default();
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(label(&triage, 500, 1_000.0, triage.quiet_after), Label::Quiet);
        assert_eq!(label(&triage, 1, 0.1, day), Label::Quiet);
        assert_eq!(label(&triage, 1, 0.1, Duration::ZERO), Label::Settings);
        assert_eq!(label(&triage, triage.bot_destinations, 0.1, Duration::ZERO), Label::Bot);
    }

    #[test]
    fn answers_count_where_nothing_else_does() {
        assert_eq!(tried([("would-block", 3), ("would-return-path", 3), ("malformed", 1)]), 4);
        assert_eq!(tried([("blocked", 0), ("return-path", 5)]), 5);
        assert_eq!(tried([]), 0);
    }
}
