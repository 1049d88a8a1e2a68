//! What is asked of all sources at once: of whole days where the database has added them up, and of hours where the
//! span, what the accounts say now, or the question needs them.

use std::ops::Range;

use anyhow::Result;
use op25b_ebpf::verdict::Reason;
use rusqlite::{Connection, Rows, params};

use super::{
    DAY, HOUR,
    moment::Span,
    read::{Reader, Sum, unreadable},
    schema::{self, day_of, moment, unsigned},
    stored::{COLUMNS, Names, Stored, earliest},
};
use crate::sources::{is_outside, is_return_path, per_minute};

/// Seconds of hours that are found by their index. For more the table is read from its beginning to its end, which
/// SQLite does where it is told that the index is of no use.
const BY_INDEX: i64 = 7 * DAY;
/// Seconds of whole days below which their hours are fewer than all sources' days.
const BY_DAY: i64 = 2 * DAY;

/// A row of `days`.
struct Day {
    source: u128,
    /// Seconds.
    day: i64,
    customer: i64,
    reason: u8,
    length: u8,
    packets: u64,
    attempts: u64,
    /// Most different servers in an hour.
    destinations: u64,
    /// No hour of it has more attempts.
    busiest: u64,
    first: i64,
    last: i64,
}

impl Day {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            source: u128::from_be_bytes(row.get(0)?),
            day: row.get(1)?,
            customer: row.get(2)?,
            reason: row.get(3)?,
            length: row.get(4)?,
            packets: unsigned(row.get(5)?),
            attempts: unsigned(row.get(6)?),
            destinations: unsigned(row.get(7)?),
            busiest: unsigned(row.get(8)?),
            first: row.get(9)?,
            last: row.get(10)?,
        })
    }
}

/// What is handed out of a span.
enum Part<'a> {
    /// All that a source did in a day that lies in it.
    Day(&'a [Day]),
    /// A source's hour for one reason.
    Hour(&'a Stored),
}

/// Rows added up.
#[derive(Clone, Copy)]
struct Figures {
    /// The lowest number of a reason.
    reason: u8,
    packets: u64,
    attempts: u64,
    /// Attempts that are no answers.
    own: u64,
    destinations: u64,
    first: i64,
    last: i64,
}

impl Figures {
    const fn of_day(day: &Day) -> Self {
        Self {
            reason: day.reason,
            packets: day.packets,
            attempts: day.attempts,
            own: day.attempts,
            destinations: day.destinations,
            first: day.first,
            last: day.last,
        }
    }

    const fn of_hour(hour: &Stored) -> Self {
        Self {
            reason: hour.reason,
            packets: hour.packets,
            attempts: hour.attempts,
            own: hour.attempts,
            destinations: hour.destinations,
            first: hour.first,
            last: hour.last,
        }
    }

    fn add(&mut self, other: &Self) {
        self.reason = self.reason.min(other.reason);
        // A damaged database may say anything.
        self.packets = self.packets.saturating_add(other.packets);
        self.attempts = self.attempts.saturating_add(other.attempts);
        self.own = self.own.saturating_add(other.own);
        self.destinations = self.destinations.max(other.destinations);
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }

    fn named(&self, source: u128, length: u8, customer: i64, names: &Names) -> Option<Sum> {
        Some(Sum {
            source: schema::source(source.to_be_bytes(), length)?,
            customer: names.of(customer).map(str::to_owned),
            reason: schema::reason(self.reason),
            packets: self.packets,
            attempts: self.attempts,
            destinations: self.destinations,
            first: moment(self.first),
            last: moment(self.last),
        })
    }
}

/// Adds up what has the same key. Sorted and not hashed: it comes in runs that are in order.
fn added<K: Ord>(mut parts: Vec<(K, Figures)>) -> Vec<(K, Figures)> {
    parts.sort_by(|(one, _), (other, _)| one.cmp(other));
    parts.dedup_by(|(key, figures), (kept, sum)| {
        let same = key == kept;
        if same {
            sum.add(figures);
        }
        same
    });
    parts
}

/// Reasons by their numbers.
fn numbers(these: fn(Reason) -> bool) -> [bool; 256] {
    let mut numbers = [false; 256];
    for reason in Reason::ALL.into_iter().filter(|reason| these(*reason)) {
        numbers[reason as usize] = true;
    }
    numbers
}

impl Reader {
    /// What each source did in a span, by reason.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn sums(&self, span: Span) -> Result<Vec<Sum>> {
        let mut parts = Vec::new();
        let names = self.scan(span, |part| {
            match part {
                Part::Day(rows) => {
                    parts.extend(rows.iter().map(|day| {
                        ((day.source, day.length, day.customer, day.reason), Figures::of_day(day))
                    }))
                }
                Part::Hour(row) => {
                    parts.push(((row.source, row.length, row.customer, row.reason), Figures::of_hour(row)));
                }
            }
            true
        })?;
        let sums = added(parts)
            .into_iter()
            .map(|((source, length, customer, _), figures)| figures.named(source, length, customer, &names));
        Ok(sums.flatten().collect())
    }

    /// Hours of sources that tried to reach at least so many servers outside, or so often in a minute.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn busy_hours(&self, span: Span, destinations: u64, attempts_per_minute: u64) -> Result<Vec<Sum>> {
        let (outside, answers) = (numbers(is_outside), numbers(is_return_path));
        let mut parts = Vec::new();
        let names = self.scan(span, |part| match part {
            Part::Day(rows) => {
                let (mut busiest, mut servers) = (0_u64, 0);
                for day in rows.iter().filter(|day| outside[usize::from(day.reason)]) {
                    busiest = busiest.saturating_add(day.busiest);
                    servers = servers.max(day.destinations);
                }
                // Who tries too seldom in an hour does so in each of its minutes.
                busiest == 0 || busiest < attempts_per_minute && servers < destinations
            }
            Part::Hour(row) => {
                if outside[usize::from(row.reason)] {
                    let mut figures = Figures::of_hour(row);
                    if answers[usize::from(row.reason)] {
                        figures.own = 0;
                    }
                    parts.push(((row.hour, row.source, row.length, row.customer), figures));
                }
                true
            }
        })?;
        let hours = added(parts).into_iter().filter_map(|((_, source, length, customer), mut figures)| {
            // As of `sources::tried`, which goes by names.
            if figures.own != 0 {
                figures.attempts = figures.own;
            }
            let pace = per_minute(figures.attempts, moment(figures.first), moment(figures.last));
            let busy = figures.destinations >= destinations || pace >= attempts_per_minute as f64;
            if figures.attempts != 0 && busy { figures.named(source, length, customer, &names) } else { None }
        });
        Ok(hours.collect())
    }

    /// Hands out what a span touches, in no order, and says what the groups are called. Where a day is not taken, which
    /// is what the answer says, its hours follow.
    fn scan(&self, span: Span, mut take: impl FnMut(Part<'_>) -> bool) -> Result<Names> {
        // All of it is of one moment.
        let transaction = self.connection.unchecked_transaction()?;
        let names = Names::read(&transaction, &self.overlay).map_err(|error| unreadable(&error))?;
        self.scan_written(&transaction, span, &mut take).map_err(|error| unreadable(&error))?;
        for row in self.overlay.between(0, u128::MAX, &names).filter(|row| row.touches(span)) {
            take(Part::Hour(&row));
        }
        Ok(names)
    }

    fn scan_written(
        &self,
        connection: &Connection,
        span: Span,
        take: &mut impl FnMut(Part<'_>) -> bool,
    ) -> rusqlite::Result<()> {
        let whole = self.whole_days(connection, span)?;
        let apart = self.scan_days(connection, &whole, take)?;
        let mut statement = connection.prepare(&format!(
            "SELECT {COLUMNS} FROM hours WHERE source = ?1 AND hour >= ?2 AND hour < ?3"
        ))?;
        for (source, days) in apart {
            self.scan_hours(statement.query(params![source.to_be_bytes(), days.start, days.end])?, take)?;
        }
        let range = "SELECT (SELECT min(hour) FROM hours), (SELECT max(hour) FROM hours)";
        let (Some(oldest), Some(latest)): (Option<i64>, Option<i64>) =
            connection.query_row(range, [], |row| Ok((row.get(0)?, row.get(1)?)))?
        else {
            return Ok(());
        };
        let (from, to) = (earliest(span).max(oldest), span.to.as_second().min(latest + 1));
        for hours in [from..whole.start.min(to), whole.end.max(from)..to] {
            if hours.is_empty() {
                continue;
            }
            let hour = if hours.end - hours.start <= BY_INDEX { "hour" } else { "+hour" };
            let mut statement = connection.prepare(&format!(
                "SELECT {COLUMNS} FROM hours WHERE last >= ?1 AND first < ?2 AND {hour} >= ?3 AND {hour} < ?4"
            ))?;
            let (first, last) = (span.from.as_millisecond(), span.to.as_millisecond());
            self.scan_hours(statement.query(params![first, last, hours.start, hours.end])?, take)?;
        }
        Ok(())
    }

    fn scan_hours(
        &self,
        mut rows: Rows<'_>,
        take: &mut impl FnMut(Part<'_>) -> bool,
    ) -> rusqlite::Result<()> {
        while let Some(row) = rows.next()? {
            let row = Stored::read(row)?;
            if !self.overlay.hides(&row) {
                take(Part::Hour(&row));
            }
        }
        Ok(())
    }

    /// Days whose rows are all in a span, and that the database has added up; empty where hours are as quick.
    fn whole_days(&self, connection: &Connection, span: Span) -> rusqlite::Result<Range<i64>> {
        let counted = if self.has_days { schema::days_from(connection)? } else { i64::MAX };
        // A row of an hour begins and ends within the hours beside it.
        let from = counted.max(day_of(span.from.as_second() + HOUR + DAY - 1));
        let to = day_of(span.to.as_second() - 2 * HOUR);
        Ok(if to.saturating_sub(from) < BY_DAY { i64::MIN..i64::MIN } else { from..to })
    }

    /// Hands out whole days, and says whose hours have to be read instead.
    fn scan_days(
        &self,
        connection: &Connection,
        whole: &Range<i64>,
        take: &mut impl FnMut(Part<'_>) -> bool,
    ) -> rusqlite::Result<Vec<(u128, Range<i64>)>> {
        let mut apart: Vec<(u128, Range<i64>)> = Vec::new();
        if whole.is_empty() {
            return Ok(apart);
        }
        let laid = self.overlay.days();
        let mut end_day = |rows: &[Day]| {
            let Some(Day { source, day, .. }) = rows.first() else { return };
            if laid.binary_search(&(*source, *day)).is_err() && take(Part::Day(rows)) {
                return;
            }
            match apart.last_mut() {
                Some((last, days)) if last == source && days.end == *day => days.end += DAY,
                _ => apart.push((*source, *day..day + DAY)),
            }
        };
        let mut statement = connection.prepare(
            "SELECT source, day, customer, reason, length, packets, attempts, destinations, busiest, first, last
             FROM days WHERE day >= ?1 AND day < ?2 ORDER BY source, day",
        )?;
        let mut rows = statement.query([whole.start, whole.end])?;
        let mut together: Vec<Day> = Vec::new();
        while let Some(row) = rows.next()? {
            let row = Day::read(row)?;
            if together.first().is_some_and(|first| (first.source, first.day) != (row.source, row.day)) {
                end_day(&together);
                together.clear();
            }
            together.push(row);
        }
        end_day(&together);
        Ok(apart)
    }
}
