//! The database: its tables, and how values are stored in them.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    net::{IpAddr, Ipv6Addr},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use ipnetwork::IpNetwork;
use jiff::Timestamp;
use op25b_ebpf::verdict::Reason;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Statement, params};

use super::{
    DAY, HOUR,
    failure::{Failure, Kind},
    reading::Row,
};

/// Of the tables below.
pub(super) const VERSION: i64 = 2;
/// The one without `days`.
const WITHOUT_DAYS: i64 = 1;
/// "OP25" as a number: which program's database it is.
const APPLICATION: i64 = 0x4f50_3235;
/// How long another process is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Addresses are 16 bytes, IPv4 mapped into IPv6, so that a prefix is a range. Hours are seconds, other times
/// milliseconds. `trends` is kept by triggers: it is exact whatever is written twice.
const TABLES: &str = "
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE hours (
    source BLOB NOT NULL, hour INTEGER NOT NULL, customer INTEGER NOT NULL, reason INTEGER NOT NULL,
    length INTEGER NOT NULL, opened INTEGER NOT NULL, utc_offset INTEGER NOT NULL, packets INTEGER NOT NULL,
    bytes INTEGER NOT NULL, attempts INTEGER NOT NULL, destinations INTEGER NOT NULL, first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    PRIMARY KEY (source, hour, customer, reason, length, opened)
) STRICT, WITHOUT ROWID;
CREATE INDEX hours_by_hour ON hours (hour);
CREATE TABLE trends (
    hour INTEGER NOT NULL, customer INTEGER NOT NULL, reason INTEGER NOT NULL, packets INTEGER NOT NULL,
    attempts INTEGER NOT NULL, sources INTEGER NOT NULL,
    PRIMARY KEY (hour, customer, reason)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER hours_added AFTER INSERT ON hours BEGIN
    INSERT INTO trends VALUES (NEW.hour, NEW.customer, NEW.reason, NEW.packets, NEW.attempts, 1)
    ON CONFLICT DO UPDATE SET packets = packets + NEW.packets, attempts = attempts + NEW.attempts,
        sources = sources + NOT EXISTS (
            SELECT 1 FROM hours WHERE source = NEW.source AND hour = NEW.hour AND customer = NEW.customer
                AND reason = NEW.reason AND length = NEW.length AND opened <> NEW.opened);
END;
CREATE TRIGGER hours_changed AFTER UPDATE ON hours BEGIN
    UPDATE trends SET packets = packets + NEW.packets - OLD.packets,
        attempts = attempts + NEW.attempts - OLD.attempts
    WHERE hour = NEW.hour AND customer = NEW.customer AND reason = NEW.reason;
END;
CREATE TABLE visits (
    source BLOB NOT NULL, hour INTEGER NOT NULL, customer INTEGER NOT NULL, length INTEGER NOT NULL,
    destination BLOB NOT NULL, last INTEGER NOT NULL,
    PRIMARY KEY (source, hour, customer, length, destination)
) STRICT, WITHOUT ROWID;
CREATE INDEX visits_by_hour ON visits (hour);
CREATE TABLE readings (hour INTEGER NOT NULL, seed INTEGER NOT NULL, PRIMARY KEY (hour, seed)) STRICT, WITHOUT ROWID;
CREATE TABLE totals (
    hour INTEGER NOT NULL, seed INTEGER NOT NULL, customer INTEGER NOT NULL, family TEXT NOT NULL,
    reason TEXT NOT NULL, verdict TEXT NOT NULL, packets INTEGER NOT NULL, bytes INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    PRIMARY KEY (hour, seed, customer, family, reason, verdict)
) STRICT, WITHOUT ROWID;
CREATE TABLE submissions (
    hour INTEGER NOT NULL, seed INTEGER NOT NULL, customer INTEGER NOT NULL, port INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    PRIMARY KEY (hour, seed, customer, port)
) STRICT, WITHOUT ROWID;
";

/// Hours added up by days of UTC, for what is asked of all sources; triggers keep them too. No hour of a row has more
/// attempts than `busiest`: a number that nothing exceeds where an hour has several rows, which would each have to be
/// looked up. Days before `days_from` (in `about`) have lost hours: they are read by the hour.
const DAYS: &str = "
CREATE TABLE days (
    source BLOB NOT NULL, day INTEGER NOT NULL, customer INTEGER NOT NULL, reason INTEGER NOT NULL,
    length INTEGER NOT NULL, packets INTEGER NOT NULL, attempts INTEGER NOT NULL, destinations INTEGER NOT NULL,
    busiest INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    PRIMARY KEY (source, day, customer, reason, length)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER day_added AFTER INSERT ON hours BEGIN
    INSERT INTO days VALUES (NEW.source, NEW.hour - NEW.hour % 86400, NEW.customer, NEW.reason, NEW.length,
        NEW.packets, NEW.attempts, NEW.destinations, NEW.attempts, NEW.first, NEW.last)
    ON CONFLICT DO UPDATE SET packets = packets + NEW.packets, attempts = attempts + NEW.attempts,
        destinations = max(destinations, NEW.destinations), first = min(first, NEW.first),
        last = max(last, NEW.last), busiest = CASE WHEN EXISTS (
            SELECT 1 FROM hours WHERE source = NEW.source AND hour = NEW.hour AND customer = NEW.customer
                AND reason = NEW.reason AND length = NEW.length AND opened <> NEW.opened)
            THEN 9223372036854775807 ELSE max(busiest, NEW.attempts) END;
END;
CREATE TRIGGER day_changed AFTER UPDATE ON hours BEGIN
    UPDATE days SET packets = packets + NEW.packets - OLD.packets,
        attempts = attempts + NEW.attempts - OLD.attempts, destinations = max(destinations, NEW.destinations),
        busiest = max(busiest, NEW.attempts), first = min(first, NEW.first), last = max(last, NEW.last)
    WHERE source = NEW.source AND day = NEW.hour - NEW.hour % 86400 AND customer = NEW.customer
        AND reason = NEW.reason AND length = NEW.length;
END;
CREATE TRIGGER day_lessened AFTER UPDATE ON hours
WHEN NEW.destinations < OLD.destinations OR NEW.first > OLD.first OR NEW.last < OLD.last BEGIN
    UPDATE days SET (destinations, first, last) = (
        SELECT max(destinations), min(first), max(last) FROM hours
        WHERE source = NEW.source AND hour >= day AND hour < day + 86400 AND customer = NEW.customer
            AND reason = NEW.reason AND length = NEW.length)
    WHERE source = NEW.source AND day = NEW.hour - NEW.hour % 86400 AND customer = NEW.customer
        AND reason = NEW.reason AND length = NEW.length;
END;
";

/// Adds up the days of a database that has had none.
const ADD_UP: &str = "
INSERT INTO days SELECT source, hour - hour % 86400, customer, reason, length, sum(packets), sum(attempts),
    max(destinations), max(busiest), min(first), max(last)
FROM (
    SELECT source, hour, customer, reason, length, sum(packets) AS packets, sum(attempts) AS attempts,
        max(destinations) AS destinations, min(first) AS first, max(last) AS last,
        CASE count(*) WHEN 1 THEN sum(attempts) ELSE 9223372036854775807 END AS busiest
    FROM hours GROUP BY source, hour, customer, reason, length)
GROUP BY 1, 2, 3, 4, 5;
";

/// Executes a statement whose thirteen parameters are the columns of `hours`, in their order.
pub(super) fn put(statement: &mut Statement<'_>, row: &Row, customer: i64) -> rusqlite::Result<()> {
    let key = &row.key;
    statement
        .execute(params![
            stored(key.source.network()),
            key.hour,
            customer,
            key.reason as u8,
            key.source.prefix(),
            key.opened,
            row.offset,
            signed(row.packets),
            signed(row.bytes),
            signed(row.attempts),
            signed(row.destinations),
            row.first.as_millisecond(),
            row.last.as_millisecond(),
        ])
        .map(drop)
}

/// Opens the database to write to it, and makes it where there is none.
pub(super) fn open(path: &Path) -> Result<Connection, Failure> {
    prepare_file(path)?;
    let failed = |error: rusqlite::Error| Failure::of(path, &error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(PATIENCE).map_err(failed)?;
    let layout = look(&connection, path)?;
    if layout.is_none() {
        // Before there is a page: it cannot be had later.
        connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL").map_err(failed)?;
    }
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA journal_size_limit = 4194304; \
             PRAGMA temp_store = MEMORY",
        )
        .map_err(failed)?;
    let change = match layout {
        Some(VERSION) => return Ok(connection),
        Some(_) => {
            log::info!("history: the days of {} are added up, once", path.display());
            format!("{DAYS} {ADD_UP}")
        }
        None => format!("{TABLES} {DAYS} PRAGMA application_id = {APPLICATION};"),
    };
    let change = format!("BEGIN IMMEDIATE; {change} PRAGMA user_version = {VERSION}; COMMIT");
    if let Err(error) = connection.execute_batch(&change) {
        // Where another process has done it meanwhile, all is well.
        let _ = connection.execute_batch("ROLLBACK");
        if look(&connection, path)? != Some(VERSION) {
            return Err(failed(error));
        }
    }
    Ok(connection)
}

/// Opens the database to read it, and says whether it has days: the daemon may be an older one.
pub(super) fn open_to_read(path: &Path) -> Result<(Connection, bool), Failure> {
    let failed = |error: rusqlite::Error| Failure::of(path, &error);
    // SQLite's own words for this are "unable to open database file". Not opened: closing it would drop the locks
    // that the writer, a thread of this process, holds (POSIX).
    fs::metadata(path).map_err(|error| Failure::io(path, &error))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(PATIENCE).map_err(failed)?;
    connection.execute_batch("PRAGMA temp_store = MEMORY").map_err(failed)?;
    match look(&connection, path)? {
        Some(layout) => Ok((connection, layout != WITHOUT_DAYS)),
        None => Err(Failure::new(Kind::Missing, format!("{}: nothing has been written yet", path.display()))),
    }
}

/// An empty one that nobody else sees.
pub(super) fn nowhere() -> rusqlite::Result<Connection> {
    let connection = Connection::open_in_memory()?;
    connection.execute_batch(TABLES)?;
    connection.execute_batch(DAYS)?;
    Ok(connection)
}

/// The layout of the tables; none where there are no tables. Fails where they are not ours.
fn look(connection: &Connection, path: &Path) -> Result<Option<i64>, Failure> {
    let number = |sql: &str| {
        connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(|error| Failure::of(path, &error))
    };
    let (application, version) = (number("PRAGMA application_id")?, number("PRAGMA user_version")?);
    if application == APPLICATION {
        return match version {
            WITHOUT_DAYS | VERSION => Ok(Some(version)),
            version if version > VERSION => Err(Failure::new(
                Kind::Newer,
                format!(
                    "{} was written by a newer op25b (layout {version}, this one has {VERSION})",
                    path.display()
                ),
            )),
            _ => Err(Failure::new(Kind::Damaged, format!("{} has layout {version}", path.display()))),
        };
    }
    if application != 0 || version != 0 || number("SELECT count(*) FROM sqlite_schema")? != 0 {
        return Err(Failure::new(
            Kind::Foreign,
            format!("{} is the database of another program", path.display()),
        ));
    }
    Ok(None)
}

/// The file exists afterwards, readable for its owner only, and is none that must not be set aside.
fn prepare_file(path: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::io(path, &error);
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(|error| Failure::io(directory, &error))?;
    }
    match fs::metadata(path) {
        Ok(there) if !there.is_file() => {
            Err(Failure::new(Kind::Path, format!("{} is no file", path.display())))
        }
        Ok(there) if there.len() == 0 || is_database(path).map_err(failed)? || is_called_database(path) => {
            Ok(())
        }
        // A slip in the policy must not take the file of somebody else away.
        Ok(_) => Err(Failure::new(Kind::Foreign, format!("{} is no database", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map(drop)
            .map_err(failed),
        Err(error) => Err(failed(error)),
    }
}

fn is_database(path: &Path) -> io::Result<bool> {
    let mut start = Vec::new();
    File::open(path)?.take(16).read_to_end(&mut start)?;
    Ok(start == b"SQLite format 3\0")
}

fn is_called_database(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| ["db", "sqlite", "sqlite3"].iter().any(|known| extension == *known))
}

/// Gives a damaged database another name, what belongs to it too, and says which.
pub(super) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let named = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let mut aside = named(".damaged");
    let mut number = 1;
    while aside.exists() {
        aside = named(&format!(".damaged.{number}"));
        number += 1;
    }
    fs::rename(path, &aside)?;
    let mut log = aside.clone().into_os_string();
    log.push("-wal");
    for (from, to) in [("-wal", Some(PathBuf::from(log))), ("-shm", None)] {
        let moved = match to {
            Some(to) => fs::rename(named(from), to),
            None => fs::remove_file(named(from)),
        };
        // A log of another database must not be taken for one of the new.
        if let Err(error) = moved
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
    }
    Ok(aside)
}

/// What tells the file at a path from one that takes its place.
pub(super) fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// From which day on `days` has all of them.
pub(super) fn days_from(connection: &Connection) -> rusqlite::Result<i64> {
    let sql = "SELECT CAST(value AS INTEGER) FROM about WHERE name = 'days_from'";
    Ok(connection.query_row(sql, [], |row| row.get(0)).optional()?.unwrap_or(i64::MIN))
}

/// Says from which day on days are whole.
pub(super) fn set_days_from(connection: &Connection, day: i64) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO about VALUES ('days_from', ?1)";
    connection.execute(sql, [day.to_string()]).map(drop)
}

/// When the hour of a second began.
pub(super) fn hour_of(second: i64) -> i64 {
    second - second.rem_euclid(HOUR)
}

/// When the day of a second began.
pub(super) fn day_of(second: i64) -> i64 {
    second - second.rem_euclid(DAY)
}

/// An address as it is stored.
pub(super) fn stored(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// A first and a last stored address.
pub(super) type Bounds = ([u8; 16], [u8; 16]);

/// The first and the last stored address of a prefix.
pub(super) fn bounds(prefix: &IpNetwork) -> Bounds {
    let last = match prefix {
        IpNetwork::V4(prefix) => prefix.broadcast().into(),
        IpNetwork::V6(prefix) => prefix.broadcast().into(),
    };
    (stored(prefix.network()), stored(last))
}

/// A source from how it is stored; IPv4 lengths are up to 32, and no IPv6 source has one below 48.
pub(super) fn source(bytes: [u8; 16], length: u8) -> Option<IpNetwork> {
    let address = Ipv6Addr::from(bytes);
    match address.to_ipv4_mapped().filter(|_| length <= 32) {
        Some(address) => IpNetwork::new(address.into(), length).ok(),
        None => IpNetwork::new(address.into(), length).ok(),
    }
}

/// A server's address as it is stored: 4 bytes or 16, since somebody may send to a mapped one.
pub(super) fn stored_server(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The same back.
pub(super) fn server(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(bytes.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// A number as SQLite has them.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The same back.
pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Milliseconds back to a moment.
pub(super) fn moment(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(milliseconds).unwrap_or_default()
}

/// The name of a reason by its number.
pub(super) fn reason(number: u8) -> &'static str {
    Reason::from_number(number).map_or("unknown", Reason::name)
}
