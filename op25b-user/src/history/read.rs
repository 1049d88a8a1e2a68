//! The reading side: beside the daemon that writes, and when there is none.

use std::{cmp::Ordering, collections::BTreeMap, net::IpAddr, path::Path};

use anyhow::Result;
use ipnetwork::{IpNetwork, Ipv6Network};
use jiff::{Timestamp, tz::TimeZone};
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::{Serialize, Serializer};

use super::{
    HOUR,
    failure::{Failure, Kind},
    moment::{Moment, Span},
    reading::Row,
    schema::{self, Bounds, bounds, hour_of, moment, unsigned},
    stored::{COLUMNS, Names, Overlay, Stored, earliest},
};
use crate::{commands::No, policy::short};

/// What a group did in an hour for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trend {
    /// When the hour began.
    pub hour: Timestamp,
    /// The group; none for sources in no group.
    pub customer: Option<String>,
    /// Why.
    pub reason: String,
    /// Frames.
    pub packets: u64,
    /// Connection attempts.
    pub attempts: u64,
    /// Different sources.
    pub sources: u64,
}

/// One hour of a source for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hourly {
    /// When the hour began.
    pub hour: Moment,
    /// The customer's address, or its IPv6 prefix.
    #[serde(serialize_with = "as_short")]
    pub source: IpNetwork,
    /// The group; none for a source in no group.
    pub customer: Option<String>,
    /// Why.
    pub reason: &'static str,
    /// Frames.
    pub packets: u64,
    /// Bytes, link header included.
    pub bytes: u64,
    /// Connection attempts.
    pub attempts: u64,
    /// Different servers, an estimate.
    pub destinations: u64,
    /// The first frame.
    pub first: Moment,
    /// The last frame.
    pub last: Moment,
}

impl Hourly {
    /// Shortens the address.
    pub fn anonymize(&mut self) {
        self.source = anonymous(&self.source);
    }
}

fn as_short<S: Serializer>(source: &IpNetwork, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&short(source))
}

/// The /24 or /48 that a source lies in.
#[must_use]
pub fn anonymous(source: &IpNetwork) -> IpNetwork {
    let length = source.prefix().min(if source.is_ipv6() { 48 } else { 24 });
    let shortened = IpNetwork::new(source.ip(), length).map(|wide| (wide.network(), length));
    shortened.and_then(|(network, length)| IpNetwork::new(network, length)).unwrap_or(*source)
}

/// What a source did for one reason in a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sum {
    /// The customer's address, or its IPv6 prefix.
    pub source: IpNetwork,
    /// The group.
    pub customer: Option<String>,
    /// Why.
    pub reason: &'static str,
    /// Frames.
    pub packets: u64,
    /// Connection attempts.
    pub attempts: u64,
    /// Most different servers in one hour.
    pub destinations: u64,
    /// The first frame.
    pub first: Timestamp,
    /// The last frame.
    pub last: Timestamp,
}

/// A source and a server outside.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pair {
    /// The server.
    pub destination: IpAddr,
    /// The customer's address, or its IPv6 prefix.
    pub source: IpNetwork,
    /// The group.
    pub customer: Option<String>,
    /// When it was there last.
    pub last: Timestamp,
}

/// Connections from a group to its relays' submission port in a day.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Submissions {
    /// The day in the policy's time zone.
    pub day: String,
    /// The group.
    pub customer: Option<String>,
    /// 587 or 465.
    pub port: u16,
    /// SYNs, retransmissions included.
    pub attempts: u64,
}

/// What groups did, hour by hour, in the hour of `since` and after it.
///
/// # Errors
///
/// When there is no database, or it cannot be read.
pub fn trend(path: &Path, since: Timestamp) -> Result<Vec<Trend>> {
    Reader::open(path)?.trend(since)
}

/// What a counter of submission said in an hour: group, port and seed tell it from others.
struct Counted {
    counter: (Option<String>, u16, i64),
    hour: i64,
    attempts: i64,
}

/// A database, and over it what the accounts say now.
pub struct Reader {
    pub(super) connection: Connection,
    /// Whether days are added up in it.
    pub(super) has_days: bool,
    pub(super) overlay: Overlay,
}

impl Reader {
    /// Opens a database.
    ///
    /// # Errors
    ///
    /// When there is none, or it cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let (connection, has_days) = schema::open_to_read(path).map_err(|failure| told(&failure))?;
        Ok(Self { connection, has_days, overlay: Overlay::default() })
    }

    /// What has no database: only what is laid over it.
    ///
    /// # Errors
    ///
    /// When there is no memory for it.
    pub fn nowhere() -> Result<Self> {
        Ok(Self { connection: schema::nowhere()?, has_days: true, overlay: Overlay::default() })
    }

    /// Lays what the accounts say now over what has been written: the daemon writes every 30 seconds.
    pub fn lay_over(&mut self, rows: &[Row]) {
        self.overlay.lay(rows);
    }

    /// What groups did, hour by hour, as it has been written.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn trend(&self, since: Timestamp) -> Result<Vec<Trend>> {
        let mut statement = self.connection.prepare(
            "SELECT hour, name, reason, packets, attempts, sources FROM trends
             LEFT JOIN customers ON id = customer WHERE hour >= ?1 ORDER BY hour, name, reason",
        )?;
        let rows = statement.query_map([hour_of(since.as_second())], |row| {
            Ok(Trend {
                hour: Timestamp::from_second(row.get(0)?).unwrap_or_default(),
                customer: row.get(1)?,
                reason: schema::reason(row.get(2)?).to_owned(),
                packets: unsigned(row.get(3)?),
                attempts: unsigned(row.get(4)?),
                sources: unsigned(row.get(5)?),
            })
        })?;
        collect(rows)
    }

    /// What sources in a prefix did, and the source that it lies in, hour by hour.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn hours(&self, prefix: &IpNetwork, span: Span) -> Result<Vec<Hourly>> {
        let mut ranges = vec![(bounds(prefix), None)];
        if let IpNetwork::V6(inner) = prefix {
            // Sources are prefixes of 48 bits and more: it may lie in one.
            for length in 48..inner.prefix() {
                let outer = Ipv6Network::new(inner.network(), length)?;
                let (first, _) = bounds(&outer.into());
                // From the same address on it is in the range already.
                if first != ranges[0].0.0 {
                    ranges.push(((first, first), Some(length)));
                }
            }
        }
        let (found, names) = self.rows(&ranges, span).map_err(|error| unreadable(&error))?;
        Ok(hourly(found, prefix.is_ipv6(), &names))
    }

    /// The rows of sources from one address to another, of any length or of one.
    fn rows(&self, ranges: &[(Bounds, Option<u8>)], span: Span) -> rusqlite::Result<(Vec<Stored>, Names)> {
        let mut found = Vec::new();
        // All of it is of one moment.
        let transaction = self.connection.unchecked_transaction()?;
        let names = Names::read(&transaction, &self.overlay)?;
        let mut statement = transaction.prepare(&format!(
            "SELECT {COLUMNS} FROM hours
             WHERE source BETWEEN ?1 AND ?2 AND hour >= ?3 AND hour < ?4 AND last >= ?5 AND first < ?6"
        ))?;
        for ((first, last), length) in ranges {
            let is_wanted = |row: &Stored| length.is_none_or(|length| row.length == length);
            let mut rows = statement.query(params![
                first,
                last,
                earliest(span),
                span.to.as_second(),
                span.from.as_millisecond(),
                span.to.as_millisecond()
            ])?;
            while let Some(row) = rows.next()? {
                let row = Stored::read(row)?;
                if is_wanted(&row) && !self.overlay.hides(&row) {
                    found.push(row);
                }
            }
            let (first, last) = (u128::from_be_bytes(*first), u128::from_be_bytes(*last));
            let laid = self.overlay.between(first, last, &names);
            found.extend(laid.filter(|row| is_wanted(row) && row.touches(span)));
        }
        Ok((found, names))
    }

    /// Which source was at which server outside, as far as that is kept.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn visits(&self, span: Span) -> Result<Vec<Pair>> {
        let mut statement = self.connection.prepare(
            "SELECT destination, source, length, name, max(last) FROM visits
             LEFT JOIN customers ON id = customer WHERE last >= ?1 AND last < ?2 AND hour >= ?3
             GROUP BY destination, source, length, name",
        )?;
        let between = params![span.from.as_millisecond(), span.to.as_millisecond(), earliest(span)];
        let rows = statement.query_map(between, |row| {
            let destination = schema::server(&row.get::<_, Vec<u8>>(0)?);
            let source = schema::source(row.get(1)?, row.get(2)?);
            Ok(match (destination, source) {
                (Some(destination), Some(source)) => {
                    Some(Pair { destination, source, customer: row.get(3)?, last: moment(row.get(4)?) })
                }
                _ => None,
            })
        })?;
        Ok(collect(rows)?.into_iter().flatten().collect())
    }

    /// Connections to the relays' submission ports, day by day.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn submissions(&self, span: Span, zone: &TimeZone) -> Result<Vec<Submissions>> {
        let mut statement = self.connection.prepare("SELECT seed, min(hour) FROM readings GROUP BY seed")?;
        let begun: BTreeMap<i64, i64> =
            collect(statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?)?.into_iter().collect();
        let mut statement = self.connection.prepare(
            "SELECT name, port, seed, hour, attempts FROM submissions LEFT JOIN customers ON id = customer
             ORDER BY name, port, seed, hour",
        )?;
        let rows = statement.query_map([], |row| {
            let counter = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok(Counted { counter, hour: row.get(3)?, attempts: row.get(4)? })
        })?;
        let mut days: BTreeMap<(String, Option<String>, u16), u64> = BTreeMap::new();
        let mut before: Option<Counted> = None;
        for row in collect(rows)? {
            let (name, port, seed) = &row.counter;
            let known = match &before {
                Some(before) if before.counter == row.counter => before.attempts,
                // Counters that were read before and did not have it: it was zero.
                _ if begun.get(seed).is_some_and(|begun| *begun < row.hour) => 0,
                _ => row.attempts,
            };
            let at = Timestamp::from_second(row.hour).unwrap_or_default();
            let end = Timestamp::from_second(row.hour + HOUR - 1).unwrap_or_default();
            let grown = unsigned(row.attempts - known);
            if grown != 0 && span.touches(at, end) {
                let day = at.to_zoned_datetime(zone.clone()).date().to_string();
                *days.entry((day, name.clone(), *port)).or_default() += grown;
            }
            before = Some(row);
        }
        Ok(days
            .into_iter()
            .map(|((day, customer, port), attempts)| Submissions { day, customer, port, attempts })
            .collect())
    }

    /// The name of the policy's time zone when it was written last.
    #[must_use]
    pub fn timezone(&self) -> Option<String> {
        let sql = "SELECT value FROM about WHERE name = 'timezone'";
        self.connection.query_row(sql, [], |row| row.get(0)).optional().ok().flatten()
    }
}

/// Rows in the order in which people read them, one for each source, group and reason of an hour.
fn hourly(mut found: Vec<Stored>, is_ipv6: bool, names: &Names) -> Vec<Hourly> {
    let name = |row: &Stored| names.of(row.customer);
    found.sort_by(|one, other| {
        let place = |row: &Stored| (row.hour, row.source, row.length);
        // What is the same in nearly all of them is not looked up.
        place(one).cmp(&place(other)).then_with(|| {
            let customer =
                if one.customer == other.customer { Ordering::Equal } else { name(one).cmp(&name(other)) };
            customer.then_with(|| schema::reason(one.reason).cmp(schema::reason(other.reason)))
        })
    });
    // An account that was evicted and opened again has several rows of an hour.
    found.dedup_by(|again, row| {
        let place = |row: &Stored| (row.hour, row.source, row.length, row.customer, row.reason);
        let same = place(again) == place(row);
        if same {
            row.add(again);
        }
        same
    });
    let rows = found.into_iter().filter_map(|row| {
        let source = row.prefix().filter(|source| source.is_ipv6() == is_ipv6)?;
        let at = |at| Moment { at, offset: row.offset };
        Some(Hourly {
            hour: at(Timestamp::from_second(row.hour).unwrap_or_default()),
            source,
            customer: name(&row).map(str::to_owned),
            reason: schema::reason(row.reason),
            packets: row.packets,
            bytes: row.bytes,
            attempts: row.attempts,
            destinations: row.destinations,
            first: at(moment(row.first)),
            last: at(moment(row.last)),
        })
    });
    rows.collect()
}

fn collect<T>(rows: impl Iterator<Item = rusqlite::Result<T>>) -> Result<Vec<T>> {
    rows.collect::<rusqlite::Result<_>>().map_err(|error| unreadable(&error))
}

pub(super) fn unreadable(error: &rusqlite::Error) -> anyhow::Error {
    anyhow::anyhow!(
        "cannot read the history: {error}; a damaged one is set aside by the daemon when it writes to it"
    )
}

/// What the user can do something about is the user's input.
fn told(failure: &Failure) -> anyhow::Error {
    match failure.kind {
        Kind::Other | Kind::Busy => anyhow::anyhow!("history: {failure}"),
        _ => No::Input(format!("history: {failure}")).into(),
    }
}
