//! What the pins say at one moment, as rows of the database; knows nothing of databases.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use anyhow::Result;
use ipnetwork::IpNetwork;
use jiff::{Timestamp, tz::TimeZone};
use op25b_ebpf::verdict::Reason;

use super::{HOUR, moment::zone, read::Trend};
use crate::{
    clock,
    counters::{self, Stats},
    instance::Instance,
    manifest::Manifest,
    sources::{self, Account, is_outside},
};

/// What tells a row from all others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// When the hour began: seconds since the Unix epoch.
    pub hour: i64,
    /// The customer's address, or its IPv6 prefix.
    pub source: IpNetwork,
    /// The group; none for a source in no group.
    pub customer: Option<Arc<str>>,
    /// Why.
    pub reason: Reason,
    /// When the account began this hour, in nanoseconds of the kernel's clock, which nobody sets: one that was
    /// evicted and opened again begins another row.
    pub opened: i64,
}

/// One hour of a source for a group and a reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Which.
    pub key: Key,
    /// Seconds that the policy's time zone was east of UTC then.
    pub offset: i32,
    /// Frames.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// Attempts.
    pub attempts: u64,
    /// Different servers, an estimate.
    pub destinations: u64,
    /// The first frame.
    pub first: Timestamp,
    /// The last frame.
    pub last: Timestamp,
}

/// A source at a server outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visit {
    /// The customer's address, or its IPv6 prefix.
    pub source: IpNetwork,
    /// The group.
    pub customer: Option<Arc<str>>,
    /// The server.
    pub destination: IpAddr,
    /// When.
    pub at: Timestamp,
}

/// All that the pins say at one moment.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The hours of the accounts.
    pub rows: Vec<Row>,
    /// Where each source was last, outside.
    pub visits: Vec<Visit>,
    /// The counters.
    pub stats: Stats,
    /// Changes when the counters begin anew.
    pub seed: u64,
    /// The name of the policy's time zone.
    pub timezone: String,
}

impl Reading {
    /// Reads the pins of an instance.
    ///
    /// # Errors
    ///
    /// When they are gone or of another version.
    pub fn take(instance: &Instance) -> Result<Self> {
        let manifest = Manifest::require(instance)?;
        let epoch = clock::epoch()?;
        let accounts = sources::read_by(instance, &manifest, epoch)?.accounts;
        let names = Names::new(&manifest);
        Ok(Self {
            rows: rows(&accounts, &manifest, epoch),
            visits: accounts
                .iter()
                .filter(|account| is_outside(account.reason))
                .map(|account| Visit {
                    source: account.source,
                    customer: names.of(account.group),
                    destination: account.last_destination,
                    at: account.last,
                })
                .collect(),
            stats: counters::read(instance, &manifest)?,
            seed: manifest.seed,
            timezone: manifest.timezone,
        })
    }
}

/// The hours of accounts that were read by `epoch`.
#[must_use]
pub fn rows(accounts: &[Account], manifest: &Manifest, epoch: u64) -> Vec<Row> {
    let names = Names::new(manifest);
    let zone = zone(&manifest.timezone);
    let mut offsets = HashMap::new();
    let mut rows = Vec::with_capacity(2 * accounts.len());
    for account in accounts {
        for hour in &account.hours {
            let start = hour_of(hour.start, hour.first);
            let offset = *offsets.entry(start).or_insert_with(|| offset(&zone, start));
            let opened = hour.first.as_nanosecond() - i128::from(epoch);
            rows.push(Row {
                key: Key {
                    hour: start,
                    source: account.source,
                    customer: names.of(account.group),
                    reason: account.reason,
                    opened: i64::try_from(opened).unwrap_or(0),
                },
                offset,
                packets: hour.packets,
                bytes: hour.bytes,
                attempts: hour.attempts,
                destinations: hour.destinations.estimate(),
                first: hour.first,
                last: hour.last,
            });
        }
    }
    rows
}

/// Lays what the accounts say now over a trend as it has been written, where that is more: what is not written yet shows,
/// and what had to make room for others stays. Where some had to since the last time, others' growth shows with the next.
pub fn lay_over(trend: &mut Vec<Trend>, rows: &[Row], since: Timestamp) {
    let mut live: HashMap<_, Trend> = HashMap::new();
    for row in rows.iter().filter(|row| row.key.hour + HOUR > since.as_second()) {
        let key = (row.key.hour, row.key.customer.as_deref(), row.key.reason);
        let hour = live.entry(key).or_insert_with(|| Trend {
            hour: Timestamp::from_second(row.key.hour).unwrap_or_default(),
            customer: row.key.customer.as_deref().map(str::to_owned),
            reason: row.key.reason.name().to_owned(),
            packets: 0,
            attempts: 0,
            sources: 0,
        });
        hour.packets += row.packets;
        hour.attempts += row.attempts;
        hour.sources += 1;
    }
    let key = |hour: &Trend| (hour.hour, hour.customer.clone(), hour.reason.clone());
    let mut all: BTreeMap<_, Trend> = trend.drain(..).map(|hour| (key(&hour), hour)).collect();
    for hour in live.into_values() {
        let written = all.entry(key(&hour)).or_insert_with(|| hour.clone());
        written.packets = written.packets.max(hour.packets);
        written.attempts = written.attempts.max(hour.attempts);
        written.sources = written.sources.max(hour.sources);
    }
    trend.extend(all.into_values());
}

/// The kernel's hours are those of the clock when the generation took force, which may have said 1970.
fn hour_of(start: Timestamp, first: Timestamp) -> i64 {
    let (start, first) = (start.as_second(), first.as_second());
    // What is read of two clocks differs a little each time.
    if (-1..=HOUR).contains(&(first - start)) { start } else { first - first.rem_euclid(HOUR) }
}

fn offset(zone: &TimeZone, hour: i64) -> i32 {
    Timestamp::from_second(hour).map_or(0, |hour| zone.to_offset(hour).seconds())
}

/// The groups' names by number.
struct Names(HashMap<u32, Arc<str>>);

impl Names {
    fn new(manifest: &Manifest) -> Self {
        Self(manifest.numbers.iter().map(|(name, number)| (*number, name.as_str().into())).collect())
    }

    fn of(&self, group: u32) -> Option<Arc<str>> {
        self.0.get(&group).cloned()
    }
}
