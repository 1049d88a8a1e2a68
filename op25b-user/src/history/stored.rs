//! Rows as the database has them, and what the accounts say in place of some.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ipnetwork::IpNetwork;
use rusqlite::Connection;

use super::{
    moment::Span,
    reading::Row,
    schema::{self, day_of, stored, unsigned},
};

/// The columns that [`Stored::read`] reads.
pub(super) const COLUMNS: &str = "source, hour, customer, reason, length, opened, utc_offset, packets, bytes, attempts, \
     destinations, first, last";

/// A row of `hours`. Numbers only: there are a million.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    /// The address, IPv4 mapped into IPv6.
    pub(super) source: u128,
    pub(super) length: u8,
    /// Seconds.
    pub(super) hour: i64,
    /// The group's number in the database, zero for none.
    pub(super) customer: i64,
    pub(super) reason: u8,
    pub(super) opened: i64,
    pub(super) offset: i32,
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) attempts: u64,
    pub(super) destinations: u64,
    /// Milliseconds.
    pub(super) first: i64,
    /// Milliseconds.
    pub(super) last: i64,
}

impl Stored {
    /// Reads [`COLUMNS`].
    pub(super) fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            source: u128::from_be_bytes(row.get(0)?),
            hour: row.get(1)?,
            customer: row.get(2)?,
            reason: row.get(3)?,
            length: row.get(4)?,
            opened: row.get(5)?,
            offset: row.get(6)?,
            packets: unsigned(row.get(7)?),
            bytes: unsigned(row.get(8)?),
            attempts: unsigned(row.get(9)?),
            destinations: unsigned(row.get(10)?),
            first: row.get(11)?,
            last: row.get(12)?,
        })
    }

    fn of(row: &Row, customer: i64) -> Self {
        Self {
            source: u128::from_be_bytes(stored(row.key.source.network())),
            length: row.key.source.prefix(),
            hour: row.key.hour,
            customer,
            reason: row.key.reason as u8,
            opened: row.key.opened,
            offset: row.offset,
            packets: row.packets,
            bytes: row.bytes,
            attempts: row.attempts,
            destinations: row.destinations,
            first: row.first.as_millisecond(),
            last: row.last.as_millisecond(),
        }
    }

    /// The source as a prefix; none where the database has what no source can be.
    pub(super) fn prefix(&self) -> Option<IpNetwork> {
        schema::source(self.source.to_be_bytes(), self.length)
    }

    fn place(&self) -> Place {
        (self.source, self.hour, self.reason, self.opened)
    }

    /// What another account of the same hour says; both may have seen the same servers.
    pub(super) fn add(&mut self, other: &Self) {
        // A damaged database may say anything.
        self.packets = self.packets.saturating_add(other.packets);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.attempts = self.attempts.saturating_add(other.attempts);
        self.destinations = self.destinations.max(other.destinations);
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }

    /// Whether a span has a part of it; the same is said in SQL where rows are read.
    pub(super) fn touches(&self, span: Span) -> bool {
        self.last >= span.from.as_millisecond()
            && self.first < span.to.as_millisecond()
            && self.hour >= earliest(span)
            && self.hour < span.to.as_second()
    }
}

/// The hour to begin with: a window may have begun before what the clock calls its hour.
pub(super) fn earliest(span: Span) -> i64 {
    schema::hour_of(span.from.as_second()).saturating_sub(super::HOUR)
}

/// What tells a row from all others: source, hour, reason, and when the account was opened.
type Place = (u128, i64, u8, i64);

/// Rows that the accounts say: each is shown in place of what has been written of it.
#[derive(Default)]
pub(super) struct Overlay {
    rows: BTreeMap<Place, Stored>,
    /// The groups' numbers in these rows, from 1 on.
    customers: HashMap<Arc<str>, i64>,
}

impl Overlay {
    /// Lays rows over all else.
    pub(super) fn lay(&mut self, rows: &[Row]) {
        for row in rows {
            let customer = row.key.customer.as_ref().map_or(0, |name| {
                let next = self.customers.len() as i64 + 1;
                *self.customers.entry(name.clone()).or_insert(next)
            });
            let row = Stored::of(row, customer);
            self.rows.insert(row.place(), row);
        }
    }

    /// Whether a row that has been written is not to be shown.
    pub(super) fn hides(&self, row: &Stored) -> bool {
        !self.rows.is_empty() && self.rows.contains_key(&row.place())
    }

    /// The rows of sources from one address to another.
    pub(super) fn between<'a>(
        &'a self,
        first: u128,
        last: u128,
        names: &'a Names,
    ) -> impl Iterator<Item = Stored> + 'a {
        let range = (first, i64::MIN, 0, i64::MIN)..=(last, i64::MAX, u8::MAX, i64::MAX);
        self.rows.range(range).map(|(_, row)| Stored { customer: names.of_overlay(row.customer), ..*row })
    }

    /// Sources and days of which something is laid over, in order.
    pub(super) fn days(&self) -> Vec<(u128, i64)> {
        let mut days: Vec<_> = self.rows.values().map(|row| (row.source, day_of(row.hour))).collect();
        days.dedup();
        days
    }
}

/// The groups' names by the numbers that rows have.
pub(super) struct Names {
    /// By number; there are few.
    names: Vec<(i64, Arc<str>)>,
    /// What each number of an overlay is here; the first is of no group.
    overlay: Vec<i64>,
}

impl Names {
    /// Those of the database and of what is laid over it: a new group may not have been written yet.
    pub(super) fn read(connection: &Connection, overlay: &Overlay) -> rusqlite::Result<Self> {
        let mut statement = connection.prepare("SELECT id, name FROM customers")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?.into())))?;
        let mut names: Vec<(i64, Arc<str>)> = rows.collect::<rusqlite::Result<_>>()?;
        let known: HashMap<Arc<str>, i64> = names.iter().map(|(id, name)| (name.clone(), *id)).collect();
        let mut numbers = vec![0; overlay.customers.len() + 1];
        for (name, number) in &overlay.customers {
            let here = known.get(name).copied().unwrap_or_else(|| {
                names.push((-number, name.clone()));
                -number
            });
            if let Some(slot) = usize::try_from(*number).ok().and_then(|number| numbers.get_mut(number)) {
                *slot = here;
            }
        }
        names.sort();
        Ok(Self { names, overlay: numbers })
    }

    /// A group's name; none for none.
    pub(super) fn of(&self, customer: i64) -> Option<&str> {
        let place = self.names.binary_search_by_key(&customer, |(number, _)| *number).ok()?;
        self.names.get(place).map(|(_, name)| &**name)
    }

    fn of_overlay(&self, customer: i64) -> i64 {
        usize::try_from(customer).ok().and_then(|number| self.overlay.get(number)).copied().unwrap_or(0)
    }
}
