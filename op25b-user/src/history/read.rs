//! The reading side: beside the daemon that writes, and when there is none.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use anyhow::{Context as _, Result};
use ipnetwork::{IpNetwork, Ipv6Network};
use jiff::{Timestamp, tz::TimeZone};
use op25b_ebpf::verdict::Reason;
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;

use super::{
    HOUR,
    failure::{Failure, Kind},
    moment::{Moment, Span},
    reading::Row,
    schema::{self, bounds, moment, signed, stored, unsigned},
};
use crate::{
    commands::No,
    policy::short,
    sources::{is_outside, is_return_path},
};

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
    pub source: String,
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
    /// The same source as a prefix.
    #[serde(skip)]
    pub prefix: IpNetwork,
}

impl Hourly {
    fn place(&self) -> (Timestamp, &IpNetwork, Option<&str>, &'static str) {
        (self.hour.at, &self.prefix, self.customer.as_deref(), self.reason)
    }

    /// What another account of the same hour says; both may have seen the same servers.
    fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.attempts += other.attempts;
        self.destinations = self.destinations.max(other.destinations);
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }

    /// Shortens the address.
    pub fn anonymize(&mut self) {
        self.prefix = anonymous(&self.prefix);
        self.source = short(&self.prefix);
    }
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
    connection: Connection,
}

/// A row that the accounts say is shown in place of what has been written of it.
const OVERLAY: &str = "
CREATE TEMP TABLE live (
    source BLOB, hour INTEGER, customer TEXT, reason INTEGER, length INTEGER, opened INTEGER, utc_offset INTEGER,
    packets INTEGER, bytes INTEGER, attempts INTEGER, destinations INTEGER, first INTEGER, last INTEGER,
    PRIMARY KEY (source, hour, reason, opened)
) WITHOUT ROWID;
CREATE TEMP VIEW rows AS
SELECT source, hour, (SELECT name FROM customers WHERE id = main.hours.customer) AS customer, reason, length,
    utc_offset, packets, bytes, attempts, destinations, first, last
FROM main.hours WHERE NOT EXISTS (
    SELECT 1 FROM temp.live AS live WHERE live.source = main.hours.source AND live.hour = main.hours.hour
        AND live.reason = main.hours.reason AND live.opened = main.hours.opened)
UNION ALL
SELECT source, hour, customer, reason, length, utc_offset, packets, bytes, attempts, destinations, first, last
FROM temp.live;
";

impl Reader {
    /// Opens a database.
    ///
    /// # Errors
    ///
    /// When there is none, or it cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let connection = schema::open_to_read(path).map_err(|failure| told(&failure))?;
        Self::over(connection)
    }

    /// What has no database: only what is laid over it.
    ///
    /// # Errors
    ///
    /// When there is no memory for it.
    pub fn nowhere() -> Result<Self> {
        Self::over(schema::nowhere()?)
    }

    fn over(connection: Connection) -> Result<Self> {
        connection.execute_batch(OVERLAY).context("cannot prepare to read the history")?;
        Ok(Self { connection })
    }

    /// Lays what the accounts say now over what has been written: the daemon writes every 30 seconds.
    ///
    /// # Errors
    ///
    /// When there is no memory for it.
    pub fn lay_over(&mut self, rows: &[Row]) -> Result<()> {
        let transaction = self.connection.transaction()?;
        {
            let mut statement = transaction.prepare(
                "INSERT OR REPLACE INTO temp.live VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
            )?;
            for row in rows {
                schema::put(&mut statement, row, &row.key.customer.as_deref())?;
            }
        }
        Ok(transaction.commit()?)
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
        let rows = statement.query_map([floor(since)], |row| {
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
        let mut statement = self.connection.prepare(
            "SELECT hour, utc_offset, source, length, customer, reason, packets, bytes, attempts, destinations,
                 first, last
             FROM rows WHERE source BETWEEN ?1 AND ?2 AND hour >= ?3 AND hour < ?4
                 AND (?5 IS NULL OR length = ?5) AND last >= ?6 AND first < ?7",
        )?;
        let mut ranges = vec![(bounds(prefix), None)];
        if let IpNetwork::V6(inner) = prefix {
            // Sources are prefixes of 48 bits and more: it may lie in one.
            for length in 48..inner.prefix() {
                let outer = Ipv6Network::new(inner.network(), length)?;
                let first = stored(outer.network().into());
                // From the same address on it is in the range already.
                if first != stored(inner.network().into()) {
                    ranges.push(((first, first), Some(length)));
                }
            }
        }
        let mut found: Vec<Hourly> = Vec::new();
        for ((first, last), length) in ranges {
            let rows = statement.query_map(
                params![
                    first,
                    last,
                    earliest(span),
                    span.to.as_second(),
                    length,
                    span.from.as_millisecond(),
                    span.to.as_millisecond()
                ],
                |row| {
                    let offset = row.get(1)?;
                    let at = |at| Moment { at, offset };
                    let Some(source) = schema::source(row.get(2)?, row.get(3)?) else { return Ok(None) };
                    if source.is_ipv6() != prefix.is_ipv6() {
                        return Ok(None);
                    }
                    Ok(Some(Hourly {
                        hour: at(Timestamp::from_second(row.get(0)?).unwrap_or_default()),
                        source: String::new(),
                        prefix: source,
                        customer: row.get(4)?,
                        reason: schema::reason(row.get(5)?),
                        packets: unsigned(row.get(6)?),
                        bytes: unsigned(row.get(7)?),
                        attempts: unsigned(row.get(8)?),
                        destinations: unsigned(row.get(9)?),
                        first: at(moment(row.get(10)?)),
                        last: at(moment(row.get(11)?)),
                    }))
                },
            )?;
            for row in rows {
                found.extend(row.map_err(|error| unreadable(&error))?);
            }
        }
        found.sort_by(|one, other| one.place().cmp(&other.place()));
        // An account that was evicted and opened again has several rows of an hour.
        found.dedup_by(|again, row| {
            let same = again.place() == row.place();
            if same {
                row.add(again);
            }
            same
        });
        for row in &mut found {
            row.source = short(&row.prefix);
        }
        Ok(found)
    }

    /// What each source did in a span, by reason.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn sums(&self, span: Span) -> Result<Vec<Sum>> {
        let sql = format!(
            "SELECT source, length, customer, reason, sum(packets), sum(attempts), max(destinations), min(first),
                 max(last)
             FROM rows WHERE last >= ?1 AND first < ?2 AND {hour} >= ?3 AND {hour} < ?4
             GROUP BY source, length, customer, reason",
            hour = hour_column(span)
        );
        self.sum(
            &sql,
            params![
                span.from.as_millisecond(),
                span.to.as_millisecond(),
                earliest(span),
                span.to.as_second()
            ],
        )
    }

    /// Hours of sources that tried to reach at least so many servers outside, or so often in a minute.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn busy_hours(&self, span: Span, destinations: u64, attempts_per_minute: u64) -> Result<Vec<Sum>> {
        let numbers = |these: fn(Reason) -> bool| {
            let reasons = Reason::ALL.into_iter().filter(|reason| these(*reason));
            reasons.map(|reason| (reason as u8).to_string()).collect::<Vec<_>>().join(", ")
        };
        // As of `sources::tried`, and of `sources::label`: what took less than a minute says nothing of the next.
        let sql = format!(
            "SELECT source, length, customer, min(reason), sum(packets),
                 coalesce(nullif(sum(attempts) FILTER (WHERE reason NOT IN ({answers})), 0), sum(attempts)) AS tried,
                 max(destinations) AS servers, min(first) AS began, max(last) AS ended
             FROM rows WHERE last >= ?1 AND first < ?2 AND {hour} >= ?5 AND {hour} < ?6 AND reason IN ({outside})
             GROUP BY hour, source, length, customer
             HAVING tried > 0 AND (servers >= ?3 OR tried * 60000.0 / max(60000, ended - began) >= ?4)",
            hour = hour_column(span),
            outside = numbers(is_outside),
            answers = numbers(is_return_path)
        );
        self.sum(
            &sql,
            params![
                span.from.as_millisecond(),
                span.to.as_millisecond(),
                signed(destinations),
                signed(attempts_per_minute),
                earliest(span),
                span.to.as_second()
            ],
        )
    }

    fn sum(&self, sql: &str, params: &[&dyn rusqlite::ToSql]) -> Result<Vec<Sum>> {
        let mut statement = self.connection.prepare(sql)?;
        let rows = statement.query_map(params, |row| {
            let Some(source) = schema::source(row.get(0)?, row.get(1)?) else { return Ok(None) };
            Ok(Some(Sum {
                source,
                customer: row.get(2)?,
                reason: schema::reason(row.get(3)?),
                packets: unsigned(row.get(4)?),
                attempts: unsigned(row.get(5)?),
                destinations: unsigned(row.get(6)?),
                first: moment(row.get(7)?),
                last: moment(row.get(8)?),
            }))
        })?;
        Ok(collect(rows)?.into_iter().flatten().collect())
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

/// The hour to begin with: a window may have begun before what the clock calls its hour.
fn earliest(span: Span) -> i64 {
    floor(span.from).saturating_sub(HOUR)
}

/// How a query over all sources names the hour: by the index for a few days; for more of them the table is read from
/// its beginning to its end, which SQLite does where it is told that the index is of no use.
fn hour_column(span: Span) -> &'static str {
    let seconds = span.to.min(Timestamp::now()).duration_since(span.from).as_secs();
    if seconds <= 7 * 24 * HOUR { "hour" } else { "+hour" }
}

fn floor(at: Timestamp) -> i64 {
    at.as_second() - at.as_second().rem_euclid(HOUR)
}

fn collect<T>(rows: impl Iterator<Item = rusqlite::Result<T>>) -> Result<Vec<T>> {
    rows.collect::<rusqlite::Result<_>>().map_err(|error| unreadable(&error))
}

fn unreadable(error: &rusqlite::Error) -> anyhow::Error {
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
