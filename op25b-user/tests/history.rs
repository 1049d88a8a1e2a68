//! The history: what is written of the accounts, once and for all, whatever happens to the disk; and the commands that
//! read it.

#[allow(dead_code, reason = "shared by all tests; this one needs a part of it")]
mod lab;

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ipnetwork::IpNetwork;
use jiff::Timestamp;
use lab::{Filter, Namespace, syn};
use nix::sys::signal::Signal;
use op25b::{
    counters::{Stats, Submission, Total},
    history::{
        Book, Gap, Hourly, Key, Kind, Moment, Reader, Reading, Row, Span, Sum, Trend, Visit, rows, trend,
        zone,
    },
    manifest::Manifest,
    policy::{History, contains, short},
    sources::{Account, Destinations, Hour, is_outside, per_minute, tried},
};
use op25b_ebpf::verdict::Reason;
use tempfile::TempDir;

/// 2008-04-01T00:00:00Z, the hour in which most of this happens.
const HOUR: i64 = 1_207_008_000;
const DAY: Duration = Duration::from_secs(24 * 3600);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap_or_default()
}

/// A row of the `number`th source that has been seen ten seconds into an hour.
fn row(number: u32, hour: i64, packets: u64) -> Row {
    let source = IpNetwork::from(IpAddr::from((0x0a00_0000_u32 + number).to_be_bytes()));
    Row {
        key: Key {
            hour,
            source,
            customer: Some("residential".into()),
            reason: Reason::Blocked,
            opened: 1_000_000_000,
        },
        offset: 9 * 3600,
        packets,
        bytes: packets * 60,
        attempts: packets / 2,
        destinations: 2,
        first: at(hour + 10),
        last: at(hour + 10 + packets as i64),
    }
}

fn reading(rows: Vec<Row>) -> Reading {
    Reading {
        rows,
        visits: Vec::new(),
        stats: Stats {
            generation: 1,
            interfaces: Vec::new(),
            totals: Vec::new(),
            submission: Vec::new(),
            replies: Vec::new(),
            seen: Vec::new(),
        },
        seed: 7,
        timezone: "Asia/Tokyo".to_owned(),
    }
}

fn config(path: &Path) -> History {
    History { path: path.to_owned(), keep: 90 * DAY, max_bytes: 1 << 30, keep_destinations: None }
}

fn place() -> Result<(TempDir, PathBuf)> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("below").join("history.db");
    Ok((directory, path))
}

fn packets(path: &Path) -> Result<Vec<(String, u64, u64)>> {
    let rows = Reader::open(path)?.hours(&"0.0.0.0/0".parse()?, Span::ALL)?;
    Ok(rows.into_iter().map(|row| (short(&row.source), row.packets, row.attempts)).collect())
}

fn sum(trends: &[Trend]) -> (u64, u64, u64) {
    trends.iter().fold((0, 0, 0), |(packets, attempts, sources), trend| {
        (packets + trend.packets, attempts + trend.attempts, sources + trend.sources)
    })
}

#[test]
fn what_is_read_twice_is_written_once_by_whoever_reads_it() -> Result<()> {
    let (_directory, path) = place()?;
    let mut book = Book::new(&config(&path));
    book.record(&reading(vec![row(1, HOUR, 4), row(2, HOUR, 6)]), at(HOUR + 60))?;
    book.record(&reading(vec![row(1, HOUR, 10), row(2, HOUR, 6)]), at(HOUR + 90))?;
    drop(book);
    // Another daemon does not know what has been written.
    for _ in 0..2 {
        Book::new(&config(&path))
            .record(&reading(vec![row(1, HOUR, 10), row(2, HOUR, 6)]), at(HOUR + 120))?;
    }
    ensure!(packets(&path)? == [("10.0.0.1".to_owned(), 10, 5), ("10.0.0.2".to_owned(), 6, 3)]);
    let trends = trend(&path, at(HOUR + 3599))?;
    let expected = Trend {
        hour: at(HOUR),
        customer: Some("residential".to_owned()),
        reason: "blocked".to_owned(),
        packets: 16,
        attempts: 8,
        sources: 2,
    };
    ensure!(trends == [expected], "{trends:?}");
    ensure!(trend(&path, at(HOUR + 3600))?.is_empty(), "the hour after it");
    let mode = fs::metadata(&path)?.permissions().mode();
    ensure!(mode & 0o777 == 0o600, "{mode:o}");
    Ok(())
}

#[test]
fn the_turn_of_an_hour_begins_another_row() -> Result<()> {
    let (_directory, path) = place()?;
    let mut book = Book::new(&config(&path));
    book.record(&reading(vec![row(1, HOUR, 4)]), at(HOUR + 3590))?;
    book.record(&reading(vec![row(1, HOUR, 5), row(1, HOUR + 3600, 2)]), at(HOUR + 3601))?;
    book.record(&reading(vec![row(1, HOUR, 5), row(1, HOUR + 3600, 8)]), at(HOUR + 3630))?;
    let hours = Reader::open(&path)?.hours(&"10.0.0.1/32".parse()?, Span::ALL)?;
    let shown: Vec<_> = hours.iter().map(|row| (row.hour.to_string(), row.packets)).collect();
    ensure!(
        shown == [("2008-04-01T09:00:00+09:00".to_owned(), 5), ("2008-04-01T10:00:00+09:00".to_owned(), 8)],
        "{shown:?}"
    );
    ensure!(sum(&trend(&path, at(HOUR))?) == (13, 6, 2));
    Ok(())
}

#[test]
fn an_account_that_was_evicted_and_opened_again_adds_to_the_hour() -> Result<()> {
    let (_directory, path) = place()?;
    let mut book = Book::new(&config(&path));
    book.record(&reading(vec![row(1, HOUR, 4)]), at(HOUR + 60))?;
    let mut again = row(1, HOUR, 10);
    again.key.opened += 500;
    book.record(&reading(vec![]), at(HOUR + 90))?;
    book.record(&reading(vec![again.clone()]), at(HOUR + 120))?;
    again.packets = 12;
    book.record(&reading(vec![again]), at(HOUR + 150))?;
    ensure!(packets(&path)? == [("10.0.0.1".to_owned(), 16, 7)], "{:?}", packets(&path)?);
    ensure!(sum(&trend(&path, at(HOUR))?) == (16, 7, 1));
    Ok(())
}

/// The two clocks are read one behind the other, so what the wall clock says of a window's first frame differs a
/// little each time.
#[test]
fn a_window_is_the_same_though_the_clocks_differ_by_a_little() -> Result<()> {
    let manifest = Manifest {
        numbers: [("residential".to_owned(), 1)].into(),
        timezone: "Asia/Tokyo".to_owned(),
        ..Manifest::default()
    };
    let account = |epoch: i64| {
        let time = |nanoseconds: i64| Timestamp::from_nanosecond((nanoseconds + epoch).into());
        anyhow::Ok(Account {
            source: "203.0.113.7/32".parse()?,
            group: 1,
            reason: Reason::Blocked,
            packets: 3,
            bytes: 180,
            attempts: 1,
            first: time(5)?,
            last: time(9)?,
            last_destination: "192.0.2.200".parse()?,
            hours: vec![Hour {
                start: at(HOUR),
                packets: 3,
                bytes: 180,
                attempts: 1,
                first: time(5)?,
                last: time(9)?,
                destinations: Destinations::default(),
            }],
        })
    };
    let epochs = [HOUR * 1_000_000_000, HOUR * 1_000_000_000 - 40, HOUR * 1_000_000_000 + 700];
    let mut keys = Vec::new();
    for epoch in epochs {
        let rows = rows(&[account(epoch)?], &manifest, epoch as u64);
        ensure!(rows.len() == 1 && rows[0].offset == 9 * 3600, "{rows:?}");
        keys.push(rows[0].key.clone());
    }
    ensure!(keys[0].hour == HOUR && keys[0].opened == 5, "{keys:?}");
    ensure!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");

    // The clock was right only after the generation took force: its hours are of 1970.
    let mut early = account(HOUR * 1_000_000_000)?;
    early.hours[0].start = at(3600);
    let rows = rows(&[early], &manifest, HOUR as u64 * 1_000_000_000);
    ensure!(rows[0].key.hour == HOUR, "{rows:?}");
    Ok(())
}

#[test]
fn old_hours_go_and_do_not_come_back() -> Result<()> {
    let (_directory, path) = place()?;
    let config = History { keep: 2 * DAY, keep_destinations: Some(DAY), ..config(&path) };
    let mut book = Book::new(&config);
    let visit = |second| {
        anyhow::Ok(Visit {
            source: "10.0.0.1/32".parse()?,
            customer: Some("residential".into()),
            destination: "192.0.2.200".parse()?,
            at: at(second),
        })
    };
    let mut first = reading((0..24).map(|hour| row(1, HOUR + hour * 3600, 4)).collect());
    first.visits = vec![visit(HOUR + 86_000)?];
    book.record(&first, at(HOUR + 86_390))?;
    ensure!(packets(&path)?.len() == 24);
    ensure!(Reader::open(&path)?.visits(Span::ALL)?.len() == 1);

    // An idle account still has its hours.
    book.record(&first, at(HOUR + 86_400 * 2 + 1800))?;
    ensure!(packets(&path)?.len() == 23, "{:?}", packets(&path)?);
    ensure!(sum(&trend(&path, at(HOUR))?).2 == 23);
    ensure!(Reader::open(&path)?.visits(Span::ALL)?.is_empty(), "destinations go earlier");
    drop(book);
    Book::new(&config).record(&first, at(HOUR + 86_400 * 2 + 1900))?;
    ensure!(packets(&path)?.len() == 23);
    ensure!(Reader::open(&path)?.visits(Span::ALL)?.is_empty());
    Book::new(&config).record(&first, at(HOUR + 86_400 * 9))?;
    ensure!(packets(&path)?.is_empty() && trend(&path, at(0))?.is_empty());
    Ok(())
}

#[test]
fn destinations_are_kept_only_where_the_policy_says_so() -> Result<()> {
    let (_directory, path) = place()?;
    let mut once = reading(vec![row(1, HOUR, 4)]);
    once.visits = vec![Visit {
        source: "10.0.0.1/32".parse()?,
        customer: None,
        destination: "2001:db8:ffff::25".parse()?,
        at: at(HOUR + 50),
    }];
    let mut book = Book::new(&config(&path));
    book.record(&once, at(HOUR + 60))?;
    ensure!(Reader::open(&path)?.visits(Span::ALL)?.is_empty());
    let keeps = History { keep_destinations: Some(7 * DAY), ..config(&path) };
    Book::new(&keeps).record(&once, at(HOUR + 90))?;
    let visits = Reader::open(&path)?.visits(Span::ALL)?;
    ensure!(visits.len() == 1 && visits[0].destination == once.visits[0].destination, "{visits:?}");
    // Not wanted any more: gone.
    Book::new(&config(&path)).record(&once, at(HOUR + 120))?;
    ensure!(Reader::open(&path)?.visits(Span::ALL)?.is_empty());
    Ok(())
}

#[test]
fn a_file_that_is_too_large_loses_its_oldest_hours_and_shrinks() -> Result<()> {
    let (_directory, path) = place()?;
    let hours = |range: std::ops::Range<i64>| -> Vec<Row> {
        range.flat_map(|hour| (0..2000).map(move |number| row(number, HOUR + hour * 3600, 4))).collect()
    };
    let mut book = Book::new(&config(&path));
    book.record(&reading(hours(0..12)), at(HOUR + 12 * 3600))?;
    drop(book);
    let before = fs::metadata(&path)?.len();
    let limit = 1 << 20;
    ensure!(before > 2 * limit, "{before}");
    let mut book = Book::new(&History { max_bytes: limit, ..config(&path) });
    book.record(&reading(hours(12..13)), at(HOUR + 13 * 3600))?;
    let after = fs::metadata(&path)?.len();
    ensure!(after <= limit, "{after} bytes");
    let kept: Vec<_> = trend(&path, at(0))?.into_iter().map(|trend| trend.hour).collect();
    ensure!(kept.last() == Some(&at(HOUR + 12 * 3600)), "the latest stays: {kept:?}");
    ensure!(kept.windows(2).all(|pair| pair[1].as_second() - pair[0].as_second() == 3600), "{kept:?}");
    ensure!(packets(&path)?.len() == 2000 * kept.len(), "whole hours go");
    Ok(())
}

#[test]
fn a_damaged_database_is_set_aside_and_begun_anew() -> Result<()> {
    let (directory, path) = place()?;
    let aside = |suffix: &str| directory.path().join("below").join(format!("history.db.damaged{suffix}"));
    for (round, suffix) in ["", ".1"].into_iter().enumerate() {
        let mut book = Book::new(&config(&path));
        book.record(&reading((0..3000).map(|number| row(number, HOUR, 4)).collect()), at(HOUR + 60))?;
        if round == 0 {
            drop(book);
            fs::write(&path, "nothing that a database would be\n".repeat(500))?;
            book = Book::new(&config(&path));
        } else {
            // In the middle, where it is found only when it is used.
            drop(book);
            let file = fs::File::options().write(true).open(&path)?;
            for page in 2..file.metadata()?.len() / 4096 {
                file.write_all_at(&[0xa5; 4096], page * 4096)?;
            }
            book = Book::new(&config(&path));
        }
        book.record(&reading(vec![row(1, HOUR, 8)]), at(HOUR + 90))?;
        ensure!(packets(&path)? == [("10.0.0.1".to_owned(), 8, 4)]);
        ensure!(aside(suffix).exists(), "{}", aside(suffix).display());
    }
    Ok(())
}

#[test]
fn what_is_not_a_database_of_op25b_is_left_alone() -> Result<()> {
    let (directory, path) = place()?;
    let once = reading(vec![row(1, HOUR, 4)]);
    let kind =
        |path: &Path| Book::new(&config(path)).record(&once, at(HOUR)).err().map(|failure| failure.kind);
    let hosts = directory.path().join("hosts");
    fs::write(&hosts, "192.0.2.1 post\n")?;
    ensure!(kind(&hosts) == Some(Kind::Foreign));
    ensure!(fs::read_to_string(&hosts)? == "192.0.2.1 post\n");
    ensure!(kind(directory.path()) == Some(Kind::Path), "a directory");
    ensure!(kind(&hosts.join("history.db")) == Some(Kind::Path), "below a file");

    let other = directory.path().join("other.db");
    rusqlite::Connection::open(&other)?.execute_batch("CREATE TABLE mail (id)")?;
    ensure!(kind(&other) == Some(Kind::Foreign));

    Book::new(&config(&path)).record(&once, at(HOUR))?;
    rusqlite::Connection::open(&path)?.execute_batch("PRAGMA user_version = 99")?;
    ensure!(kind(&path) == Some(Kind::Newer));
    let refused = trend(&path, at(0)).err().context("a newer layout is read")?;
    ensure!(refused.to_string().contains("newer op25b"), "{refused:#}");
    ensure!(!directory.path().join("below").join("history.db.damaged").exists());
    ensure!(trend(&directory.path().join("none.db"), at(0)).is_err());
    Ok(())
}

/// A file system of a few pages, gone when dropped.
struct Small(TempDir);

impl Small {
    fn new(kib: u32) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "none"])
            .arg(directory.path())
            .status()?;
        ensure!(mounted.success(), "mount: {mounted}");
        Ok(Self(directory))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_said_and_written_to_again_when_there_is_room() -> Result<()> {
    let small = Small::new(512)?;
    let path = small.0.path().join("history.db");
    let mut book = Book::new(&config(&path));
    book.record(&reading(vec![row(1, HOUR, 4)]), at(HOUR + 60))?;
    let many = reading((0..20_000).map(|number| row(number, HOUR, 6)).collect());
    for _ in 0..3 {
        let failure = book.record(&many, at(HOUR + 90)).err().context("it fits")?;
        ensure!(failure.kind == Kind::Full, "{failure}");
    }
    ensure!(packets(&path)? == [("10.0.0.1".to_owned(), 4, 2)], "what was there still is");
    let room = Command::new("mount").args(["-o", "remount,size=64m"]).arg(small.0.path()).status()?;
    ensure!(room.success());
    book.record(&many, at(HOUR + 120))?;
    ensure!(packets(&path)?.len() == 20_000);
    drop(book);
    let mounted = Command::new("mount").args(["-o", "remount,ro"]).arg(small.0.path()).status()?;
    ensure!(mounted.success());
    let failure = Book::new(&config(&path)).record(&many, at(HOUR + 150)).err().context("read-only")?;
    ensure!(failure.kind == Kind::Refused, "{failure}");
    Ok(())
}

#[test]
fn a_database_that_is_taken_away_is_made_again() -> Result<()> {
    let (_directory, path) = place()?;
    let mut book = Book::new(&config(&path));
    let once = reading(vec![row(1, HOUR, 4)]);
    book.record(&once, at(HOUR + 60))?;
    for suffix in ["", "-wal", "-shm"] {
        match fs::remove_file(path.with_file_name(format!("history.db{suffix}"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    book.record(&once, at(HOUR + 90))?;
    ensure!(packets(&path)? == [("10.0.0.1".to_owned(), 4, 2)]);
    Ok(())
}

#[test]
fn readers_see_whole_transactions_while_it_is_written() -> Result<()> {
    let (_directory, path) = place()?;
    let mut book = Book::new(&config(&path));
    let write = |packets: u64| reading((0..200).map(|number| row(number, HOUR, packets)).collect());
    book.record(&write(1), at(HOUR + 60))?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let reader = scope.spawn(|| -> Result<u32> {
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) {
                let (packets, _, sources) = sum(&trend(&path, at(HOUR))?);
                ensure!(sources == 200 && packets % 200 == 0, "{packets} packets of {sources} sources");
                reads += 1;
            }
            Ok(reads)
        });
        for packets in 2..100 {
            book.record(&write(packets), at(HOUR + 60 + packets as i64))?;
        }
        done.store(true, Ordering::Relaxed);
        let reads = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
        ensure!(reads > 5, "{reads} reads");
        Ok(())
    })
}

#[test]
fn submission_is_counted_from_where_the_counters_were_first_read() -> Result<()> {
    let (_directory, path) = place()?;
    let mut book = Book::new(&config(&path));
    let counted = |seed: u64, attempts: [u64; 2]| {
        let mut reading = reading(Vec::new());
        reading.seed = seed;
        let ports =
            [(587, attempts[0]), (465, attempts[1])].into_iter().filter(|(_, attempts)| *attempts != 0);
        reading.stats.submission = ports
            .map(|(port, attempts)| Submission {
                customer: Some("residential".to_owned()),
                family: "ipv4",
                port,
                attempts,
            })
            .collect();
        reading.stats.totals = vec![Total {
            customer: None,
            family: "ipv4",
            reason: "unknown-source",
            verdict: "pass",
            packets: attempts[0],
            bytes: 0,
            attempts: 0,
        }];
        reading
    };
    // 100 were there before anybody looked; 465 came later, from zero.
    for (second, attempts) in [(60, [100, 0]), (90, [103, 0]), (3601, [104, 2]), (3700, [110, 5])] {
        book.record(&counted(7, attempts), at(HOUR + second))?;
    }
    drop(book);
    // Another daemon, the same counters; then they begin anew.
    Book::new(&config(&path)).record(&counted(7, [111, 5]), at(HOUR + 9000))?;
    let mut book = Book::new(&config(&path));
    book.record(&counted(8, [0, 0]), at(HOUR + 9500))?;
    book.record(&counted(8, [20, 0]), at(HOUR + 9600))?;
    let reader = Reader::open(&path)?;
    let tokyo = zone("Asia/Tokyo");
    let days = reader.submissions(Span::ALL, &tokyo)?;
    let shown: Vec<_> = days.iter().map(|day| (day.day.as_str(), day.port, day.attempts)).collect();
    ensure!(shown == [("2008-04-01", 465, 5), ("2008-04-01", 587, 31)], "{shown:?}");
    let since = Span { from: at(HOUR + 3600), to: at(HOUR + 7200) };
    let days = reader.submissions(since, &tokyo)?;
    // What was read a second behind the hour is how that hour ended.
    let shown: Vec<_> = days.iter().map(|day| (day.port, day.attempts)).collect();
    ensure!(shown == [(465, 3), (587, 6)], "{shown:?}");
    Ok(())
}

#[test]
fn hours_in_which_nobody_read_the_accounts_are_said_with_what_is_missing() -> Result<()> {
    let (_directory, path) = place()?;
    // A source that sends ten frames an hour, as its account has them in the `number`th hour: that and the one before.
    let busy = |number: i64| {
        let mut reading = reading((number - 1..=number).map(|hour| row(1, HOUR + hour * 3600, 10)).collect());
        reading.stats.totals = vec![Total {
            customer: Some("residential".to_owned()),
            family: "ipv4",
            reason: "blocked",
            verdict: "drop",
            packets: (number + 2) as u64 * 10,
            bytes: 0,
            attempts: 0,
        }];
        reading
    };
    let gaps = |span| -> Result<Vec<Gap>> { Reader::open(&path)?.gaps(span) };
    let end = |number: i64| at(HOUR + number * 3600 + 3590);
    for number in [0, 1, 2] {
        // As after an hour without a daemon, too: accounts have the one before.
        Book::new(&config(&path)).record(&busy(number), end(number))?;
    }
    Book::new(&config(&path)).record(&busy(4), end(4))?;
    ensure!(gaps(Span::ALL)?.is_empty(), "{:?}", gaps(Span::ALL)?);
    // Of 5 to 9 the account has the last two.
    Book::new(&config(&path)).record(&busy(9), end(9))?;
    let gap = Gap { from: at(HOUR + 4 * 3600), to: at(HOUR + 8 * 3600), packets: Some(30) };
    ensure!(gaps(Span::ALL)? == [gap], "{:?}", gaps(Span::ALL)?);
    Book::new(&config(&path)).record(&busy(10), end(10))?;
    ensure!(gaps(Span { from: at(HOUR), to: gap.from })?.is_empty());
    ensure!(gaps(Span { from: at(HOUR + 8 * 3600 - 1), to: at(HOUR + 9 * 3600) })? == [gap]);
    ensure!(gaps(Span { from: gap.to, to: Span::ALL.to })?.is_empty());
    let tokyo = zone("Asia/Tokyo");
    let (sentence, words) =
        (gap.sentence(&tokyo), "2008-04-01T13:00:00+09:00 until 2008-04-01T17:00:00+09:00");
    ensure!(sentence.contains(words) && sentence.contains("30 frames"), "{sentence}");

    // Detached, and attached again: nobody knows what was counted before that.
    let mut anew = busy(20);
    anew.seed = 8;
    Book::new(&config(&path)).record(&anew, end(20))?;
    let unknown = Gap { from: at(HOUR + 10 * 3600), to: at(HOUR + 19 * 3600), packets: None };
    ensure!(gaps(Span::ALL)? == [gap, unknown], "{:?}", gaps(Span::ALL)?);
    ensure!(unknown.sentence(&tokyo).contains("not known"));
    Ok(())
}

#[test]
fn a_prefix_finds_what_lies_in_it_and_what_it_lies_in() -> Result<()> {
    let (_directory, path) = place()?;
    let sources = ["203.0.113.7/32", "203.0.114.7/32", "2001:db8:1000:500::/56", "2001:db8:1000:600::/64"];
    let mut all = Vec::new();
    for source in sources {
        let mut row = row(0, HOUR, 4);
        row.key.source = source.parse()?;
        all.push(row);
    }
    Book::new(&config(&path)).record(&reading(all), at(HOUR + 60))?;
    let reader = Reader::open(&path)?;
    let found = |prefix: &str| -> Result<Vec<String>> {
        Ok(reader.hours(&prefix.parse()?, Span::ALL)?.into_iter().map(|row| short(&row.source)).collect())
    };
    ensure!(found("203.0.113.0/24")? == ["203.0.113.7"]);
    ensure!(found("203.0.112.0/21")?.len() == 2);
    ensure!(found("2001:db8:1000:5ab::25")? == ["2001:db8:1000:500::/56"]);
    ensure!(found("2001:db8:1000:500::/64")? == ["2001:db8:1000:500::/56"]);
    ensure!(found("2001:db8:1000:600::1")? == ["2001:db8:1000:600::/64"]);
    ensure!(found("2001:db8::/32")?.len() == 2);
    ensure!(found("::/0")?.len() == 2, "no IPv4 among IPv6");
    ensure!(found("0.0.0.0/0")?.len() == 2);
    ensure!(found("192.0.2.0/24")?.is_empty());
    Ok(())
}

#[test]
fn days_are_those_of_the_policy_and_the_last_is_included() -> Result<()> {
    let tokyo = zone("Asia/Tokyo");
    let span = Span::parse(Some("2008-04-01"), Some("2008-04-01"), &tokyo)?;
    ensure!(span == Span { from: "2008-03-31T15:00:00Z".parse()?, to: "2008-04-01T15:00:00Z".parse()? });
    let span = Span::parse(Some("2008-04-01T00:00:00Z"), None, &tokyo)?;
    ensure!(span.from == at(HOUR));
    let span = Span::around("2008-04-01T00:30:00Z", &tokyo)?;
    ensure!(span == Span { from: at(HOUR - 3600), to: at(HOUR + 7200) }, "{span:?}");
    for wrong in ["yesterday", "2008-04-01T00:00:00", "2008-13-01", ""] {
        ensure!(Span::parse(Some(wrong), None, &tokyo).is_err(), "{wrong:?}");
    }
    ensure!(Span::parse(Some("2008-04-02"), Some("2008-04-01"), &tokyo).is_err());
    Ok(())
}

/// Makes a database one of the layout before: without days.
fn without_days(path: &Path) -> Result<()> {
    let triggers = ["day_added", "day_changed", "day_lessened"].map(|name| format!("DROP TRIGGER {name};"));
    let sql = format!(
        "{} DROP TABLE days; DELETE FROM about WHERE name = 'days_from'; PRAGMA user_version = 1",
        triggers.concat()
    );
    Ok(rusqlite::Connection::open(path)?.execute_batch(&sql)?)
}

#[test]
fn a_database_of_the_layout_before_is_carried_over() -> Result<()> {
    let (directory, path) = place()?;
    let rows = |hours: i64| {
        let rows = (0..hours).flat_map(|hour| (0..5).map(move |number| row(number, HOUR + hour * 3600, 4)));
        reading(rows.collect())
    };
    Book::new(&config(&path)).record(&rows(100), at(HOUR + 100 * 3600))?;
    without_days(&path)?;
    let all = || -> Result<_> {
        let reader = Reader::open(&path)?;
        Ok((
            packets(&path)?,
            reader.sums(Span::ALL)?,
            reader.busy_hours(Span::ALL, 1, 30)?,
            trend(&path, at(0))?,
        ))
    };
    // A daemon that has not been started anew writes it meanwhile.
    let before = all()?;
    ensure!(before.0.len() == 500 && before.1.len() == 5 && before.2.len() == 500, "{before:?}");
    let mut book = Book::new(&config(&path));
    book.record(&rows(100), at(HOUR + 100 * 3600 + 60))?;
    ensure!(all()? == before);
    let days: i64 = rusqlite::Connection::open(&path)?.query_row(
        "SELECT count(*) FROM days WHERE busiest = 2",
        [],
        |row| row.get(0),
    )?;
    ensure!(days == 25, "{days} days of sources");
    book.record(&rows(101), at(HOUR + 100 * 3600 + 90))?;
    ensure!(packets(&path)?.len() == 505);
    ensure!(fs::read_dir(directory.path().join("below"))?.count() == 3, "the file, its log, and its index");
    Ok(())
}

/// Rows by chance, as they grow, are evicted and opened again, and as two clocks differ.
struct Chance(fastrand::Rng);

impl Chance {
    fn source(&mut self) -> Result<IpNetwork> {
        let sources = [
            "10.0.0.1/32",
            "10.0.0.2/32",
            "10.0.1.1/32",
            "2001:db8:1000:500::/56",
            "2001:db8:1000:500::/64",
            "2001:db8:1000:501::/64",
        ];
        Ok(sources[self.0.usize(..sources.len())].parse()?)
    }

    fn row(&mut self, hour: i64, opened: i64) -> Result<Row> {
        let reasons =
            [Reason::Blocked, Reason::WouldBlock, Reason::WouldReturnPath, Reason::Relay, Reason::Exempt];
        let customer = [None, Some("residential".into()), Some("business".into())];
        let first = hour * 1000 + self.0.i64(0..3_600_000);
        let mut row = Row {
            key: Key {
                hour,
                source: self.source()?,
                customer: customer[self.0.usize(..3)].clone(),
                reason: reasons[self.0.usize(..reasons.len())],
                opened,
            },
            offset: 9 * 3600,
            packets: 1,
            bytes: 60,
            attempts: self.0.u64(0..3),
            destinations: self.0.u64(0..3),
            first: Timestamp::from_millisecond(first)?,
            last: Timestamp::from_millisecond(first)?,
        };
        self.grow(&mut row)?;
        Ok(row)
    }

    fn grow(&mut self, row: &mut Row) -> Result<()> {
        let hour = row.key.hour * 1000;
        let packets = self.0.u64(1..40);
        row.packets += packets;
        row.bytes += packets * self.0.u64(60..1500);
        row.attempts += self.0.u64(0..=packets);
        row.destinations = (row.destinations + self.0.u64(0..6)).saturating_sub(1);
        let first = (row.first.as_millisecond() + self.0.i64(-1..=1)).clamp(hour, hour + 3_599_999);
        let last = (row.last.as_millisecond() + self.0.i64(-1..100_000)).clamp(first, hour + 7_199_999);
        (row.first, row.last) = (Timestamp::from_millisecond(first)?, Timestamp::from_millisecond(last)?);
        Ok(())
    }

    fn span(&mut self, days: i64) -> Result<Span> {
        let mut end = |all| -> Result<Timestamp> {
            let millisecond = HOUR * 1000 + self.0.i64(-90_000_000..(days + 1) * 86_400_000);
            Ok(match self.0.u8(..4) {
                0 => all,
                // Full days, and full hours.
                1 => at(millisecond.div_euclid(86_400_000) * 86_400),
                2 => at(millisecond.div_euclid(3_600_000) * 3600),
                _ => Timestamp::from_millisecond(millisecond)?,
            })
        };
        let (from, to) = (end(Span::ALL.from)?, end(Span::ALL.to)?);
        Ok(Span { from: from.min(to), to: to.max(from) })
    }
}

/// What is asked of rows, in a few lines each.
struct Naive(Vec<Row>);

impl Naive {
    fn within(&self, span: Span) -> Vec<&Row> {
        let from = span.from.as_second().div_euclid(3600) * 3600 - 3600;
        let touches = |row: &&Row| {
            let hours = from..span.to.as_second();
            row.last >= span.from && row.first < span.to && hours.contains(&row.key.hour)
        };
        self.0.iter().filter(touches).collect()
    }

    fn sum(rows: &[&Row], attempts: u64) -> Result<Sum> {
        let first = rows.first().context("nothing to add up")?;
        let over = |of: fn(&Row) -> u64| rows.iter().map(move |row| of(row));
        Ok(Sum {
            source: first.key.source,
            customer: first.key.customer.as_deref().map(str::to_owned),
            reason: rows.iter().map(|row| row.key.reason).min().unwrap_or(first.key.reason).name(),
            packets: over(|row| row.packets).sum(),
            attempts,
            destinations: over(|row| row.destinations).max().unwrap_or(0),
            first: rows.iter().map(|row| row.first).min().unwrap_or_default(),
            last: rows.iter().map(|row| row.last).max().unwrap_or_default(),
        })
    }

    fn sums(&self, span: Span) -> Result<Vec<Sum>> {
        let mut groups: BTreeMap<_, Vec<&Row>> = BTreeMap::new();
        for row in self.within(span) {
            groups.entry((row.key.source, row.key.customer.clone(), row.key.reason)).or_default().push(row);
        }
        groups.values().map(|rows| Self::sum(rows, rows.iter().map(|row| row.attempts).sum())).collect()
    }

    fn busy(&self, span: Span, destinations: u64, rate: u64) -> Result<Vec<Sum>> {
        let mut groups: BTreeMap<_, Vec<&Row>> = BTreeMap::new();
        for row in self.within(span).into_iter().filter(|row| is_outside(row.key.reason)) {
            groups.entry((row.key.hour, row.key.source, row.key.customer.clone())).or_default().push(row);
        }
        let mut busy = Vec::new();
        for rows in groups.values() {
            let tried = tried(rows.iter().map(|row| (row.key.reason.name(), row.attempts)));
            let sum = Self::sum(rows, tried)?;
            let fast = per_minute(tried, sum.first, sum.last) >= rate as f64;
            if tried != 0 && (sum.destinations >= destinations || fast) {
                busy.push(sum);
            }
        }
        Ok(busy)
    }

    fn hours(&self, prefix: &IpNetwork, span: Span) -> Result<Vec<Hourly>> {
        let mut groups: BTreeMap<_, Vec<&Row>> = BTreeMap::new();
        for row in self.within(span) {
            let key = &row.key;
            if contains(prefix, &key.source) || contains(&key.source, prefix) {
                let place = (key.hour, key.source, key.customer.clone(), key.reason.name());
                groups.entry(place).or_default().push(row);
            }
        }
        let hourly = |((hour, source, customer, reason), rows): (_, Vec<&Row>)| {
            let sum = Self::sum(&rows, rows.iter().map(|row| row.attempts).sum())?;
            let moment = |at| Moment { at, offset: 9 * 3600 };
            let customer: Option<Arc<str>> = customer;
            Ok(Hourly {
                hour: moment(at(hour)),
                source,
                customer: customer.as_deref().map(str::to_owned),
                reason,
                packets: sum.packets,
                bytes: rows.iter().map(|row| row.bytes).sum(),
                attempts: sum.attempts,
                destinations: sum.destinations,
                first: moment(sum.first),
                last: moment(sum.last),
            })
        };
        groups.into_iter().map(hourly).collect()
    }
}

fn in_order(mut sums: Vec<Sum>) -> Vec<Sum> {
    let key = |sum: &Sum| (sum.source, sum.customer.clone(), sum.reason, sum.first, sum.packets);
    sums.sort_by_key(key);
    sums
}

/// Days that are added up, hours that are read, what is laid over and what has been deleted: nobody can tell.
#[test]
fn what_is_asked_is_what_a_few_lines_make_of_the_rows() -> Result<()> {
    const DAYS: i64 = 9;
    let mut answers = [0; 3];
    for seed in 0..40 {
        let (_directory, path) = place()?;
        let mut chance = Chance(fastrand::Rng::with_seed(seed));
        let config = History { keep: 5 * DAY, ..config(&path) };
        let mut book = Book::new(&config);
        let mut rows: Vec<Row> = Vec::new();
        let mut now = HOUR;
        while now < HOUR + DAYS * 86_400 {
            now += chance.0.i64(3600..40 * 3600);
            rows.retain(|row| row.key.hour >= now - 5 * 86_400);
            for row in &mut rows {
                if chance.0.u8(..5) == 0 {
                    chance.grow(row)?;
                }
            }
            for _ in 0..chance.0.u8(..30) {
                let hour = (now - chance.0.i64(0..3 * 86_400)).div_euclid(3600) * 3600;
                let opened = rows.len() as i64 + now;
                let mut new = chance.row(hour, opened)?;
                // Evicted and opened again, often in a minute.
                if let Some(row) = rows.last().filter(|_| chance.0.bool()) {
                    new = Row { key: Key { opened, ..row.key.clone() }, ..row.clone() };
                    chance.grow(&mut new)?;
                }
                rows.push(new);
            }
            match chance.0.u8(..6) {
                0 => {
                    book = Book::new(&config);
                    without_days(&path).or_else(|error| if path.exists() { Err(error) } else { Ok(()) })?;
                }
                1 => book = Book::new(&config),
                _ => {}
            }
            book.record(&reading(rows.clone()), at(now))?;

            // What has been counted since.
            let mut shown = rows.clone();
            let mut laid = Vec::new();
            if chance.0.bool() {
                for row in &mut shown {
                    if chance.0.u8(..8) == 0 {
                        if chance.0.bool() {
                            chance.grow(row)?;
                        }
                        laid.push(row.clone());
                    }
                }
                let mut new = chance.row(now.div_euclid(3600) * 3600, now)?;
                new.key.customer = Some("new".into());
                laid.push(new.clone());
                shown.push(new);
            }
            let naive = Naive(shown);
            let mut reader = Reader::open(&path)?;
            reader.lay_over(&laid);
            for _ in 0..6 {
                let span = chance.span(DAYS)?;
                let (found, expected) = (in_order(reader.sums(span)?), in_order(naive.sums(span)?));
                ensure!(found == expected, "seed {seed}, {span:?}: {found:#?}\n{expected:#?}");
                answers[0] += found.len();
                let (servers, rate) = (chance.0.u64(0..15), chance.0.u64(0..60));
                let found = in_order(reader.busy_hours(span, servers, rate)?);
                let expected = in_order(naive.busy(span, servers, rate)?);
                ensure!(
                    found == expected,
                    "seed {seed}, {span:?}, {servers} servers, {rate}: {found:#?}\n{expected:#?}"
                );
                answers[1] += found.len();
                let prefixes = ["0.0.0.0/0", "::/0", "10.0.0.0/24", "10.0.0.1/32", "2001:db8:1000:501::/64"];
                let prefix = prefixes[chance.0.usize(..prefixes.len())].parse()?;
                let (found, expected) = (reader.hours(&prefix, span)?, naive.hours(&prefix, span)?);
                ensure!(found == expected, "seed {seed}, {prefix}, {span:?}: {found:#?}\n{expected:#?}");
                answers[2] += found.len();
            }
        }
    }
    println!("{answers:?} sums, busy hours, hours");
    ensure!(answers.iter().all(|answers| *answers > 10_000), "{answers:?}");
    Ok(())
}

/// How long each of two takes at least, in a few rounds of one behind the other: the machine does other things as well.
fn least(acts: [&dyn Fn() -> Result<usize>; 2]) -> Result<([Duration; 2], usize)> {
    let mut least = [Duration::MAX; 2];
    let mut rows = 0;
    for _ in 0..5 {
        for (act, least) in acts.iter().zip(&mut least) {
            let start = Instant::now();
            rows = act()?;
            *least = start.elapsed().min(*least);
        }
    }
    Ok((least, rows))
}

/// A million source-hours: 500 sources in each of 2,000 hours, and all of a last hour.
#[test]
fn a_million_hours_stay_fast() -> Result<()> {
    let (_directory, path) = place()?;
    let mut book = Book::new(&config(&path));
    let start = Instant::now();
    for block in 0..20_i64 {
        let rows = (0..100).flat_map(|hour| {
            (0..500).map(move |number| row(number * 7, HOUR + (block * 100 + hour) * 3600, 4))
        });
        book.record(&reading(rows.collect()), at(HOUR + (block + 1) * 360_000))?;
    }
    println!("written: {:?}, {} MB", start.elapsed(), fs::metadata(&path)?.len() >> 20);
    let now = HOUR + 2000 * 3600;
    // As many sources as the kernel has accounts for, one reading after another.
    for packets in [1, 2] {
        let rows = (0..100_000).map(|number| row(number, now, packets)).collect();
        let start = Instant::now();
        book.record(&reading(rows), at(now + packets as i64))?;
        println!("100,000 rows of which all have changed: {:?}", start.elapsed());
    }
    // What a machine needs that is slower, or has much else to do: the columns of a /24's rows, and nothing else.
    let database = rusqlite::Connection::open(&path)?;
    let fetch = || -> Result<usize> {
        let mut statement = database.prepare("SELECT * FROM hours WHERE source BETWEEN ?1 AND ?2")?;
        let bounds = [0_u8, 255].map(|last| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 1, last]);
        let rows = statement.query_map(bounds, |row| {
            let mut sum = row.get::<_, [u8; 16]>(0)?.map(i64::from).iter().sum::<i64>();
            for column in 1..13 {
                sum = sum.wrapping_add(row.get(column)?);
            }
            Ok(sum)
        })?;
        Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?.len())
    };
    let within = |times: u32, what: &str, act: &dyn Fn() -> Result<usize>| -> Result<()> {
        let ([fetched, took], rows) = least([&fetch, act])?;
        let limit = times * Duration::from_millis(100).max(fetched * 5 / 2);
        println!("{what}: {took:?} for {rows} rows; a /24's rows alone: {fetched:?}");
        ensure!(took < limit, "{what} took {took:?}, more than {limit:?}");
        Ok(())
    };
    let quick = |what: &str, act: &dyn Fn() -> Result<usize>| within(1, what, act);
    let slow = |what: &str, act: &dyn Fn() -> Result<usize>| within(5, what, act);
    let day = Span { from: at(now - 86_400), to: at(now) };
    let month = Span { from: at(now - 30 * 86_400), to: Span::ALL.to };
    let hours = |prefix: &str, span| -> Result<usize> {
        Ok(Reader::open(&path)?.hours(&prefix.parse()?, span)?.len())
    };
    let sums = |span| -> Result<usize> { Ok(Reader::open(&path)?.sums(span)?.len()) };
    let busy = |span| -> Result<usize> { Ok(Reader::open(&path)?.busy_hours(span, 10, 30)?.len()) };
    quick("trend of 24 h", &|| Ok(trend(&path, at(now - 86_400))?.len()))?;
    quick("trend of all", &|| Ok(trend(&path, at(0))?.len()))?;
    quick("one source, all of it", &|| hours("10.0.0.7", Span::ALL))?;
    quick("a /24, 24 h", &|| hours("10.0.1.0/24", day))?;
    quick("a /24, all of it", &|| hours("10.0.1.0/24", Span::ALL))?;
    quick("sums of 24 h", &|| sums(day))?;
    quick("busy hours of 24 h", &|| busy(day))?;
    slow("sums of 30 days", &|| sums(month))?;
    slow("sums of all", &|| sums(Span::ALL))?;
    slow("busy hours of 30 days", &|| busy(month))?;
    slow("busy hours of all", &|| busy(Span::ALL))?;
    slow("hours of all sources, 24 h", &|| hours("0.0.0.0/0", day))?;
    Ok(())
}

#[test]
fn answers_to_attempts_make_no_hour_busier() -> Result<()> {
    let (_directory, path) = place()?;
    let because = |reason, row: Row| Row { key: Key { reason, ..row.key }, ..row };
    // Twenty a minute, each answered; and more than thirty of which the answers alone come here.
    let rows = vec![
        because(Reason::WouldBlock, row(1, HOUR, 40)),
        because(Reason::WouldReturnPath, row(1, HOUR, 40)),
        because(Reason::WouldReturnPath, row(2, HOUR, 100)),
    ];
    Book::new(&config(&path)).record(&reading(rows), at(HOUR + 200))?;
    let busy = Reader::open(&path)?.busy_hours(Span::ALL, 10, 30)?;
    let found: Vec<(String, u64)> =
        busy.iter().map(|hour| (hour.source.to_string(), hour.attempts)).collect();
    ensure!(found == [("10.0.0.2/32".to_owned(), 50)], "{found:?}");
    Ok(())
}

#[test]
fn what_the_disk_refuses_is_said_once_and_filtering_goes_on() -> Result<()> {
    let (customer, edge) = (Namespace::new("customer")?, Namespace::new("edge")?);
    edge.veth("eth1", &customer, "cust1")?;
    let directory = tempfile::tempdir()?;
    let mut filter = Filter::new(&edge)?;
    let policy = |path: &Path| format!("{SITE}history: {{ path: {} }}\n", path.display());
    filter.start(&policy(directory.path()), &[])?;
    ensure!(
        lab::eventually(|| filter.said().contains("is no file; write another path")),
        "{}",
        filter.said()
    );
    let (code, status) = filter.status()?;
    ensure!(code == Some(0) && status["enforcing"] == true, "{status:#}");
    let frames = tries("203.0.113.10", "192.0.2.200", 5, 25)?;
    customer.mouth("cust1")?.send(frames.iter().map(Vec::as_slice))?;
    // The accounts are there without a database.
    let desk = json(&filter, &["source", "203.0.113.10"])?;
    ensure!(desk["history"][0]["packets"] == 10, "{desk:#}");

    // Another path is taken at once; a damaged file there is set aside.
    let path = directory.path().join("history.db");
    fs::write(&path, "no database\n".repeat(1000))?;
    filter.policy(&policy(&path))?;
    let answer = filter.op25b(&["reload"])?;
    ensure!(answer.code == Some(0), "{answer:?}");
    ensure!(lab::eventually(|| filter.said().contains("kept as ")), "{}", filter.said());
    ensure!(lab::eventually(|| packets(&path).is_ok_and(|rows| rows.len() == 1)), "{}", filter.said());
    ensure!(packets(&path)? == [("203.0.113.10".to_owned(), 10, 5)]);
    ensure!(filter.said().matches("history: ").count() == 2, "{}", filter.said());
    filter.stop(Signal::SIGTERM)?;
    Ok(())
}

/// The operator of the other tests, with a history that keeps destinations.
const SITE: &str = r#"
version: 1
timezone: Asia/Tokyo
interfaces: { customer: [eth1] }
relays:
  - name: post
    addresses: [192.0.2.25, "2001:db8:25::25"]
customers:
  - name: residential
    prefixes: [203.0.113.0/24, "2001:db8:1000::/36"]
    mode: enforce
  - name: "=business"
    prefixes: [198.51.100.128/25]
    mode: monitor
  - name: cgn
    prefixes: [198.51.100.0/28]
    mode: enforce
    shared: true
exemptions:
  - prefixes: [203.0.113.128/28]
    reason: static address plan
    ticket: NOC-1234
    expires: 2099-03-31
quarantine:
  - prefixes: [203.0.113.66/32]
    reason: hacked mail server
    ticket: ABUSE-77
unknown_sources: pass
count_submission: true
"#;

/// A site whose filter keeps a history, with a few minutes' frames sent.
struct Site<'n> {
    filter: Filter<'n>,
    history: PathBuf,
}

/// `attempts` SYNs from a source to one server, each twice.
fn tries(source: &str, destination: &str, attempts: u16, port: u16) -> Result<Vec<Vec<u8>>> {
    let (source, destination) = (source.parse()?, destination.parse()?);
    let frames = (0..attempts).map(|number| syn(source, destination, 40_000 + number, port));
    Ok(frames.flat_map(|frame| [frame.clone(), frame]).collect())
}

fn json(filter: &Filter<'_>, arguments: &[&str]) -> Result<serde_json::Value> {
    let answer = filter.op25b(&[arguments, &["--json"]].concat())?;
    ensure!(answer.code == Some(0), "{arguments:?}: {answer:?}");
    answer.json()
}

#[test]
fn the_commands_agree_with_what_was_sent() -> Result<()> {
    let (customer, edge) = (Namespace::new("customer")?, Namespace::new("edge")?);
    edge.veth("eth1", &customer, "cust1")?;
    let directory = tempfile::tempdir()?;
    let filter = Filter::new(&edge)?;
    let mut site = Site { filter, history: directory.path().join("history.db") };
    let policy = format!("{SITE}history: {{ path: {}, keep_destinations: true }}\n", site.history.display());
    site.filter.start(&policy, &[])?;
    // What the first reading finds of submission is of nobody knows when.
    let readings = || -> rusqlite::Result<u32> {
        let database =
            rusqlite::Connection::open_with_flags(&site.history, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        database.query_row("SELECT count(*) FROM readings", [], |row| row.get(0))
    };
    ensure!(lab::eventually(|| readings().is_ok_and(|readings| readings > 0)), "no reading");
    let mut frames = tries("203.0.113.10", "192.0.2.200", 5, 25)?;
    frames.extend(tries("203.0.113.10", "192.0.2.25", 2, 25)?);
    frames.extend(tries("203.0.113.10", "192.0.2.25", 3, 587)?);
    frames.extend(tries("198.51.100.130", "192.0.2.200", 3, 25)?);
    frames.extend(tries("203.0.113.130", "192.0.2.201", 4, 25)?);
    frames.extend(tries("203.0.113.66", "192.0.2.201", 1, 25)?);
    frames.extend(tries("2001:db8:1000:7::9", "2001:db8:ffff::25", 2, 25)?);
    for number in 0..40 {
        frames.extend(tries("203.0.113.11", &format!("192.0.2.{}", 100 + number), 1, 25)?);
        frames.extend(tries("198.51.100.3", &format!("192.0.2.{}", 100 + number), 1, 25)?);
    }
    customer.mouth("cust1")?.send(frames.iter().map(Vec::as_slice))?;
    let seen = lab::eventually(|| {
        let rows = json(&site.filter, &["history", "198.51.100.3"]);
        rows.is_ok_and(|rows| rows[0]["packets"] == 80)
    });
    ensure!(seen, "{:?}", site.filter.op25b(&["history", "198.51.100.3"]));
    agree(&site, "while the daemon runs")?;
    site.filter.stop(Signal::SIGTERM)?;
    // Written when it ended: the accounts are not needed for it.
    let sums = Reader::open(&site.history)?.sums(Span::ALL)?;
    let sent: u64 = sums.iter().map(|sum| sum.packets).sum();
    // Without the six to port 587, which no source has an account for.
    ensure!(sent == frames.len() as u64 - 6, "{sent} of {}: {sums:#?}", frames.len());
    agree(&site, "when the daemon has ended")?;
    site.filter.start_again(&[], &[])?;
    agree(&site, "when it is there again")?;
    site.filter.stop(Signal::SIGKILL)?;
    agree(&site, "when it was killed")?;

    // As if the daemon had been away for long, and counters had begun anew.
    let database = rusqlite::Connection::open(&site.history)?;
    for hours in [20, 10] {
        let sql = "INSERT INTO readings SELECT max(hour) - 3600 * ?1, 1 FROM readings WHERE seed <> 1";
        database.execute(sql, [hours])?;
    }
    drop(database);
    let text = site.filter.op25b(&["history", "203.0.113.10"])?;
    ensure!(text.stdout.contains("note: the accounts were not read"), "{text:?}");
    for command in [&["source", "203.0.113.10"][..], &["report", "migration"]] {
        ensure!(json(&site.filter, command)?["notes"].to_string().contains("were not read"), "{command:?}");
    }

    let log = site.filter.persistent().join("reads.log");
    let reads = fs::read_to_string(&log)?;
    ensure!(reads.lines().any(|line| line.ends_with("read history 203.0.113.0/24")), "{reads}");
    ensure!(fs::metadata(&log)?.permissions().mode() & 0o777 == 0o600);

    // What the help desk does without.
    fs::write(site.filter.path(), "version: 1\n")?;
    fs::write(&site.history, "no database\n".repeat(1000))?;
    // The log of what was written last is enough to read it all.
    fs::remove_file(site.history.with_extension("db-wal"))?;
    let desk = json(&site.filter, &["source", "203.0.113.10"])?;
    ensure!(desk["customer"] == "residential" && desk["live"][0]["attempts"] == 7, "{desk:#}");
    let notes = desk["notes"].to_string();
    ensure!(notes.contains("policy file cannot be used") && notes.contains("history"), "{notes}");
    Ok(())
}

/// All commands say what was sent.
fn agree(site: &Site<'_>, when: &str) -> Result<()> {
    let filter = &site.filter;
    let rows = json(filter, &["history", "203.0.113.0/24"])?;
    let mut shown = Vec::new();
    for row in rows.as_array().context("rows")? {
        let hour = row["hour"].as_str().unwrap_or_default();
        ensure!(hour.ends_with(":00:00+09:00"), "{row}");
        let word = |key: &str| row[key].to_string().trim_matches('"').to_owned();
        shown.push(
            ["source", "customer", "reason", "packets", "attempts", "destinations"].map(word).join(" "),
        );
    }
    shown.sort();
    // The estimate of 40 destinations may be a few off.
    let bot = shown.iter().position(|row| row.starts_with("203.0.113.11 ")).context("the bot")?;
    let bot = shown.remove(bot);
    ensure!(bot.starts_with("203.0.113.11 residential blocked 80 40 "), "{when}: {bot}");
    ensure!(
        shown
            == [
                "203.0.113.10 residential blocked 10 5 1",
                "203.0.113.10 residential relay 4 2 1",
                "203.0.113.130 residential exempt 8 4 1",
                "203.0.113.66 residential quarantined 2 1 1",
            ],
        "{when}: {shown:#?}"
    );
    let rows = json(filter, &["history", "2001:db8:1000:7::9", "--anonymize"])?;
    ensure!(rows[0]["source"] == "2001:db8:1000::/48" && rows[0]["packets"] == 4, "{when}: {rows}");
    let rows = json(filter, &["history", "203.0.113.10", "--to", "2008-04-01"])?;
    ensure!(rows.as_array().is_some_and(Vec::is_empty), "{rows}");
    let refused = filter.op25b(&["history", "203.0.113.10", "--from", "soon"])?;
    ensure!(refused.error()?.contains("soon"), "{refused:?}");

    let desk = json(filter, &["source", "203.0.113.10"])?;
    ensure!(desk["mode"] == "enforce" && desk["exemption"].is_null(), "{when}: {desk:#}");
    ensure!(desk["decisions"][0]["verdict"] == "drop", "{when}: {desk:#}");
    ensure!(desk["decisions"][1]["relay"] == "post" && desk["decisions"][1]["verdict"] == "pass");
    ensure!(desk["live"][0]["triage"] == "settings?" && desk["live"][0]["attempts"] == 7);
    let advice = desk["advice"].to_string();
    ensure!(advice.contains("587") && advice.contains("our own mail server"), "{when}: {advice}");
    let desk = json(filter, &["source", "203.0.113.11"])?;
    ensure!(desk["advice"].to_string().contains("probably infected"), "{when}: {desk:#}");
    let desk = json(filter, &["source", "203.0.113.130"])?;
    ensure!(desk["exemption"]["ticket"] == "NOC-1234", "{when}: {desk:#}");
    ensure!(desk["live"][0]["attempts"] == 4 && desk["live"][0]["triage"].is_null(), "{when}: {desk:#}");
    ensure!(desk["advice"].to_string().contains("exempt until 2099-04-01T00:00:00+09:00"), "{desk:#}");
    let desk = json(filter, &["source", "203.0.113.66"])?;
    ensure!(desk["quarantine"]["ticket"] == "ABUSE-77", "{when}: {desk:#}");
    let desk = json(filter, &["source", "198.51.100.3"])?;
    ensure!(desk["shared"] == true && desk["live"][0]["triage"].is_null(), "{when}: {desk:#}");
    let desk = json(filter, &["source", "203.0.113.200"])?;
    ensure!(desk["advice"].to_string().contains("nothing on port 25"), "{when}: {desk:#}");
    let desk = json(filter, &["source", "203.0.113.10", "--at", "2008-04-01T09:30:00+09:00"])?;
    ensure!(desk["history"] == serde_json::json!([]) && desk["live"] == serde_json::json!([]));
    ensure!(desk["from"] == "2008-04-01T08:00:00+09:00" && desk["to"] == "2008-04-01T11:00:00+09:00");
    let text = filter.op25b(&["history", "203.0.113.0/24"])?;
    ensure!(text.code == Some(0) && text.stdout.lines().count() == 6, "{text:?}");
    let text = filter.op25b(&["source", "203.0.113.11"])?;
    ensure!(text.code == Some(0) && text.stdout.contains("triage: bot?"), "{text:?}");

    let report = json(filter, &["report", "migration"])?;
    let counts = |name: &str| {
        let groups = report["groups"].as_array().map(Vec::as_slice).unwrap_or_default();
        let group = groups.iter().find(|group| group["customer"] == name).cloned().unwrap_or_default();
        ["outside", "outside_attempts", "relay", "relay_attempts"].map(|key| group[key].as_u64().unwrap_or(0))
    };
    ensure!(counts("residential") == [4, 48, 1, 2], "{when}: {report:#}");
    ensure!(counts("=business") == [1, 3, 0, 0] && counts("cgn") == [1, 40, 0, 0], "{when}: {report:#}");
    ensure!(report["sources"].as_array().map(Vec::len) == Some(6), "no exempt ones: {report:#}");
    if when != "while the daemon runs" {
        ensure!(report["submission"][0]["attempts"] == 6, "{when}: {}", report["submission"]);
    }
    let csv = filter.op25b(&["report", "migration", "--csv", "--group", "=business"])?;
    let lines: Vec<_> = csv.stdout.lines().collect();
    ensure!(
        lines.len() == 2 && lines[1].starts_with("198.51.100.130,'=business,,3,6,0,0,would-block,"),
        "{csv:?}"
    );
    let trend = filter.op25b(&["report", "migration", "--csv", "--trend"])?;
    let lines: Vec<_> = trend.stdout.lines().map(|line| line.split_once(',').unwrap_or_default()).collect();
    ensure!(lines.first() == Some(&("day", "customer,submission port,connections")), "{trend:?}");
    if when != "while the daemon runs" {
        let day = report["submission"][0]["day"].as_str().unwrap_or_default();
        ensure!(lines[1..] == [(day, "residential,587,6")], "{when}: {trend:?}");
        let text = filter.op25b(&["report", "migration", "--trend"])?;
        ensure!(text.stdout.contains(day) && !text.stdout.contains("203.0.113.10"), "{text:?}");
    }
    let trend = filter.op25b(&["report", "migration", "--csv", "--trend", "--group", "cgn"])?;
    ensure!(trend.stdout.lines().count() == 1, "{trend:?}");
    let refused = filter.op25b(&["report", "abuse", "--group", "nobody"])?;
    ensure!(refused.error()?.contains("nobody"), "{refused:?}");

    let report = json(filter, &["report", "abuse"])?;
    ensure!(report["sources"].as_array().map(Vec::len) == Some(1), "{when}: {report:#}");
    ensure!(report["sources"][0]["source"] == "203.0.113.11" && report["sources"][0]["attempts"] == 40);
    ensure!(report["shared"][0]["source"] == "198.51.100.3" && report["shared"][0]["triage"].is_null());
    let report = json(filter, &["report", "destinations"])?;
    let servers = report["servers"].as_array().context("servers")?;
    let server = servers.iter().find(|server| server["destination"] == "192.0.2.200").context("a server")?;
    ensure!(server["customers"] == 2 && servers.iter().all(|server| server["destination"] != "192.0.2.25"));
    for which in ["migration", "abuse", "destinations"] {
        let text = filter.op25b(&["report", which, "--anonymize"])?;
        ensure!(text.code == Some(0) && !text.stdout.contains("203.0.113.11"), "{text:?}");
    }
    Ok(())
}
