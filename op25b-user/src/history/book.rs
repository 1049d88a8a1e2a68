//! The writing side of the database: rows that have changed, what is too old or too much, and what to do when it is
//! damaged. Knows nothing of the kernel.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, Transaction, params};

use super::{
    DAY, HOUR,
    failure::{Failure, Kind},
    reading::{Key, Reading, Row, Visit},
    schema::{self, signed, stored, stored_server},
};
use crate::policy;

/// Rows that are deleted at once: readers and the disk have their turn in between.
const CHUNK: i64 = 10_000;
/// Pages that go back to the file system at once.
const PAGES: i64 = 2_000;
/// Seconds before a reading whose visits are written with the next one once more: the kernel writes while it is read.
const OVERLAP: i64 = 5;

/// The database as its one writer sees it.
pub struct Book {
    config: policy::History,
    open: Option<Open>,
}

/// An open database, and what is known to be in it.
struct Open {
    connection: Connection,
    identity: Option<(u64, u64)>,
    customers: HashMap<Arc<str>, i64>,
    /// Frames of the rows that were written last, as long as their accounts are there.
    written: HashMap<Key, u64>,
    /// The counters as they were written last, with the hour.
    counted: HashMap<(i64, Counted), [u64; 3]>,
    /// From when on visits may not have been written yet.
    visits_since: Option<Timestamp>,
    /// The hour of the last reading.
    hour: Option<i64>,
    /// The hour in which old rows were deleted last.
    aged: Option<i64>,
}

/// What a number of the counters is of.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Counted {
    Total(Option<Arc<str>>, &'static str, &'static str, &'static str),
    Submission(Option<Arc<str>>, u16),
}

impl Book {
    /// A database that is opened when there is something to write.
    #[must_use]
    pub fn new(config: &policy::History) -> Self {
        Self { config: config.clone(), open: None }
    }

    /// Writes down what has changed since the last time, in one transaction, and deletes what is too old or too much.
    ///
    /// # Errors
    ///
    /// What the disk or the database refuses; nothing of it is written then. A damaged database has been set aside.
    pub fn record(&mut self, reading: &Reading, now: Timestamp) -> Result<(), Failure> {
        let result = self.try_to_record(reading, now);
        match result {
            Err(failure) if failure.kind == Kind::Damaged => {
                self.open = None;
                let path = &self.config.path;
                match schema::set_aside(path) {
                    Ok(aside) => log::error!(
                        "history: {failure}: kept as {}; what was in it is no longer shown",
                        aside.display()
                    ),
                    Err(error) => return Err(Failure::io(path, &error)),
                }
                self.try_to_record(reading, now)
            }
            Err(failure) => {
                // Opened again next time: the file may have been moved, its file system may be another.
                self.open = None;
                Err(failure)
            }
            Ok(()) => Ok(()),
        }
    }

    fn opened(&mut self) -> Result<&mut Open, Failure> {
        let path = &self.config.path;
        // One that was deleted or replaced under us takes what is written with it.
        if self.open.as_ref().is_some_and(|open| schema::identity(path) != open.identity) {
            self.open = None;
        }
        if self.open.is_none() {
            let connection = schema::open(path)?;
            let customers = read_customers(&connection).map_err(|error| Failure::of(path, &error))?;
            self.open = Some(Open {
                connection,
                identity: schema::identity(path),
                customers,
                written: HashMap::new(),
                counted: HashMap::new(),
                visits_since: None,
                hour: None,
                aged: None,
            });
        }
        self.open.as_mut().ok_or_else(|| Failure::new(Kind::Other, "the database is not open"))
    }

    fn try_to_record(&mut self, reading: &Reading, now: Timestamp) -> Result<(), Failure> {
        let config = self.config.clone();
        let path: &PathBuf = &config.path;
        let open = self.opened()?;
        let hour = schema::hour_of(now.as_second());
        let mut changed: Vec<&Row> = reading
            .rows
            .iter()
            .filter(|row| open.written.get(&row.key) != Some(&row.packets))
            .filter(|row| row.key.hour >= oldest(now, config.keep))
            .collect();
        // As they lie on the disk.
        changed.sort_by_cached_key(|row| (stored(row.key.source.network()), row.key.hour));
        let kept = config
            .keep_destinations
            .map(|keep| Timestamp::from_second(oldest(now, keep)).unwrap_or_default());
        // What was there at the last reading has been written.
        let visits_since = open.visits_since.max(kept);
        let seed = i64::from_ne_bytes(reading.seed.to_ne_bytes());
        let before = match open.hour {
            // What is read first in an hour is how the hour before has ended.
            Some(last) => last == hour - HOUR,
            // From there the counters are followed.
            None => !knows_seed(&open.connection, seed).map_err(|error| Failure::of(path, &error))?,
        };
        let both = [hour - HOUR, hour];
        let hours = if before { &both[..] } else { &both[1..] };
        let counted = counted(reading);
        let stale: Vec<(i64, &Counted, [u64; 3])> = hours
            .iter()
            .flat_map(|hour| counted.iter().map(move |(what, count)| (*hour, what, *count)))
            .filter(|(hour, what, count)| open.counted.get(&(*hour, (*what).clone())) != Some(count))
            .collect();
        let visits: Vec<&Visit> =
            reading.visits.iter().filter(|visit| kept.is_some() && Some(visit.at) >= visits_since).collect();
        let turned = open.hour != Some(hour);
        write(open, path, |transaction, customers| {
            if turned {
                transaction.execute(
                    "INSERT OR REPLACE INTO about VALUES ('timezone', ?1)",
                    [reading.timezone.as_str()],
                )?;
                for hour in hours {
                    transaction.execute("INSERT OR IGNORE INTO readings VALUES (?1, ?2)", [*hour, seed])?;
                }
            }
            add_rows(transaction, customers, &changed)?;
            for (hour, what, count) in &stale {
                add_counted(transaction, customers, *hour, seed, what, *count)?;
            }
            add_visits(transaction, customers, &visits)
        })?;
        open.written = reading.rows.iter().map(|row| (row.key.clone(), row.packets)).collect();
        open.counted = counted.into_iter().map(|(what, count)| ((hour, what), count)).collect();
        open.hour = Some(hour);
        open.visits_since = now.checked_sub(SignedDuration::from_secs(OVERLAP)).ok();
        let aged = open.aged != Some(hour);
        retain(open, &config, aged.then_some(now)).map_err(|error| Failure::of(path, &error))?;
        open.aged = Some(hour);
        Ok(())
    }
}

/// The first second that is still kept.
fn oldest(now: Timestamp, keep: Duration) -> i64 {
    now.as_second().saturating_sub(signed(keep.as_secs()))
}

fn knows_seed(connection: &Connection, seed: i64) -> rusqlite::Result<bool> {
    connection.query_row("SELECT EXISTS (SELECT 1 FROM readings WHERE seed = ?1)", [seed], |row| row.get(0))
}

/// Does something in one transaction. Customers that it has added are known when it is done, and only then.
fn write(
    open: &mut Open,
    path: &Path,
    act: impl FnOnce(&Transaction<'_>, &mut HashMap<Arc<str>, i64>) -> rusqlite::Result<()>,
) -> Result<(), Failure> {
    let mut customers = open.customers.clone();
    let done = || -> rusqlite::Result<()> {
        let transaction =
            open.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        act(&transaction, &mut customers)?;
        transaction.commit()
    };
    done().map_err(|error| Failure::of(path, &error))?;
    open.customers = customers;
    Ok(())
}

fn read_customers(connection: &Connection) -> rusqlite::Result<HashMap<Arc<str>, i64>> {
    let mut statement = connection.prepare("SELECT name, id FROM customers")?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?.into(), row.get(1)?)))?;
    rows.collect()
}

/// The number of a customer group in this database; zero for none.
fn customer(
    transaction: &Transaction<'_>,
    customers: &mut HashMap<Arc<str>, i64>,
    name: Option<&Arc<str>>,
) -> rusqlite::Result<i64> {
    let Some(name) = name else { return Ok(0) };
    if let Some(id) = customers.get(name) {
        return Ok(*id);
    }
    transaction.execute("INSERT OR IGNORE INTO customers (name) VALUES (?1)", [&**name])?;
    let id =
        transaction.query_row("SELECT id FROM customers WHERE name = ?1", [&**name], |row| row.get(0))?;
    customers.insert(name.clone(), id);
    Ok(id)
}

fn add_rows(
    transaction: &Transaction<'_>,
    customers: &mut HashMap<Arc<str>, i64>,
    rows: &[&Row],
) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare(
        "INSERT INTO hours VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
         ON CONFLICT DO UPDATE SET utc_offset = ?7, packets = ?8, bytes = ?9, attempts = ?10, destinations = ?11,
             first = ?12, last = ?13",
    )?;
    for row in rows {
        let customer = customer(transaction, customers, row.key.customer.as_ref())?;
        schema::put(&mut statement, row, customer)?;
    }
    Ok(())
}

fn add_visits(
    transaction: &Transaction<'_>,
    customers: &mut HashMap<Arc<str>, i64>,
    visits: &[&Visit],
) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare(
        "INSERT INTO visits VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT DO UPDATE SET last = excluded.last WHERE excluded.last > last",
    )?;
    for visit in visits {
        let at = visit.at.as_second();
        let customer = customer(transaction, customers, visit.customer.as_ref())?;
        statement.execute(params![
            stored(visit.source.network()),
            schema::hour_of(at),
            customer,
            visit.source.prefix(),
            stored_server(visit.destination),
            visit.at.as_millisecond(),
        ])?;
    }
    Ok(())
}

/// The counters of a reading, each with what it is of; families of submission are summed.
fn counted(reading: &Reading) -> HashMap<Counted, [u64; 3]> {
    let mut counted = HashMap::new();
    for total in &reading.stats.totals {
        let customer = total.customer.as_deref().map(Arc::from);
        let what = Counted::Total(customer, total.family, total.reason, total.verdict);
        counted.insert(what, [total.packets, total.bytes, total.attempts]);
    }
    for one in &reading.stats.submission {
        let what = Counted::Submission(one.customer.as_deref().map(Arc::from), one.port);
        counted.entry(what).or_insert([0; 3])[2] += one.attempts;
    }
    counted
}

fn add_counted(
    transaction: &Transaction<'_>,
    customers: &mut HashMap<Arc<str>, i64>,
    hour: i64,
    seed: i64,
    what: &Counted,
    [packets, bytes, attempts]: [u64; 3],
) -> rusqlite::Result<()> {
    match what {
        Counted::Total(name, family, reason, verdict) => {
            let customer = customer(transaction, customers, name.as_ref())?;
            transaction.execute(
                "INSERT OR REPLACE INTO totals VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                params![
                    hour,
                    seed,
                    customer,
                    family,
                    reason,
                    verdict,
                    signed(packets),
                    signed(bytes),
                    signed(attempts)
                ],
            )
        }
        Counted::Submission(name, port) => {
            let customer = customer(transaction, customers, name.as_ref())?;
            transaction.execute(
                "INSERT OR REPLACE INTO submissions VALUES (?1, ?2, ?3, ?4, ?5)",
                params![hour, seed, customer, port, signed(attempts)],
            )
        }
    }
    .map(drop)
}

/// Tables whose rows have an hour, those of single customers first.
const BY_HOUR: [(&str, &str); 5] = [
    ("hours", "source, hour, customer, reason, length, opened"),
    ("visits", "source, hour, customer, length, destination"),
    ("trends", "hour, customer, reason"),
    ("totals", "hour, seed, customer, family, reason, verdict"),
    ("submissions", "hour, seed, customer, port"),
];

/// Deletes what is too old, when there is a moment to count from, and what is too much.
fn retain(open: &mut Open, config: &policy::History, now: Option<Timestamp>) -> rusqlite::Result<()> {
    let connection = &open.connection;
    if let Some(now) = now {
        let first_kept = oldest(now, config.keep);
        forget(connection, first_kept)?;
        // A clock that was ahead has left nothing from before: days are whole from tomorrow on.
        let tomorrow = schema::day_of(now.as_second()) + DAY;
        if schema::days_from(connection)? > tomorrow {
            schema::set_days_from(connection, tomorrow)?;
        }
        connection.execute("DELETE FROM readings WHERE hour < ?1", [first_kept])?;
        // Where the policy no longer wants them kept, none are.
        let kept = config.keep_destinations.map_or(i64::MAX, |keep| oldest(now, keep));
        let (table, key) = BY_HOUR[1];
        delete_before(connection, kept, table, "hour", key)?;
    }
    let limit = signed(config.max_bytes);
    if used(connection)? > limit {
        // Somewhat more than needed: else it would be for each new row.
        let target = limit / 20 * 19;
        let mut told = false;
        while used(connection)? > target {
            let mut oldest: Option<i64> = None;
            for (table, _) in BY_HOUR {
                let first: Option<i64> =
                    connection.query_row(&format!("SELECT min(hour) FROM {table}"), [], |row| row.get(0))?;
                oldest = match (oldest, first) {
                    (Some(one), Some(other)) => Some(one.min(other)),
                    (one, other) => one.or(other),
                };
            }
            let Some(oldest) = oldest else { break };
            if !told {
                log::info!("history: {} bytes are full, the oldest hours go", config.max_bytes);
                told = true;
            }
            forget(connection, oldest + 1)?;
        }
    }
    shrink(connection, limit)
}

/// Deletes what was before a second. The day that it is in has lost hours then: days are whole from the next one on.
fn forget(connection: &Connection, second: i64) -> rusqlite::Result<()> {
    let whole = schema::day_of(second + DAY - 1);
    if whole > schema::days_from(connection)? {
        schema::set_days_from(connection, whole)?;
    }
    delete_before(connection, whole, "days", "day", "source, day, customer, reason, length")?;
    for (table, key) in BY_HOUR {
        delete_before(connection, second, table, "hour", key)?;
    }
    Ok(())
}

/// Bytes of the pages that hold something.
fn used(connection: &Connection) -> rusqlite::Result<i64> {
    let [pages, free, size] = pages(connection)?;
    Ok((pages - free) * size)
}

fn pages(connection: &Connection) -> rusqlite::Result<[i64; 3]> {
    let number = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0));
    Ok([number("page_count")?, number("freelist_count")?, number("page_size")?])
}

/// Deletes the rows of a table whose time, a column, is before a second.
fn delete_before(
    connection: &Connection,
    second: i64,
    table: &str,
    time: &str,
    key: &str,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(&format!(
        "DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} WHERE {time} < ?1 LIMIT {CHUNK})"
    ))?;
    while statement.execute([second])? > 0 {}
    Ok(())
}

/// Gives free pages back where there are many, or the file is larger than it may be.
fn shrink(connection: &Connection, limit: i64) -> rusqlite::Result<()> {
    loop {
        let [pages, free, size] = pages(connection)?;
        if free == 0 || pages * size <= limit && free < pages / 4 {
            return Ok(());
        }
        let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
        let mut rows = statement.query([])?;
        // Each step gives one page back.
        while rows.next()?.is_some() {}
        drop(rows);
        drop(statement);
        // Only then is the file itself shorter.
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        if self::pages(connection)?[1] >= free {
            return Ok(());
        }
    }
}
