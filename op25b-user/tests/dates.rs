//! What happens by itself at its moment, on a clock that the test sets.

mod clock;
#[allow(dead_code, reason = "other tests use more of it")]
mod lab;
#[allow(dead_code, reason = "other tests use more of it")]
mod site;

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clock::Clock;
use jiff::Timestamp;
use lab::{Filter, KURUME, eventually};
use nix::sys::signal::Signal;
use site::{CUSTOMER, FILTERED, LENGTH, OPEN, QUARANTINED, Site};

const HOUR: i64 = 3600;
const SECOND: Duration = Duration::from_secs(1);
const EXEMPT: &str = "203.0.113.130";

/// Whole seconds from now.
fn ahead(seconds: i64) -> Result<Timestamp> {
    Ok(Timestamp::from_second(Timestamp::now().as_second() + seconds)?)
}

fn enforced_from(from: Timestamp) -> String {
    KURUME.replacen("mode: enforce", &format!("mode: enforce\n    enforce_from: {from}"), 1)
}

const BLOCKED: &str = "residential ipv4 blocked drop";
const WOULD_BLOCK: &str = "residential ipv4 would-block pass";
const TRUST: &[&str] = &["--trust-clock"];

#[test]
fn a_date_comes_to_the_second_and_never_goes_again() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    let clock = Clock::new(&filter)?;
    let from = ahead(HOUR)?;
    filter.policy(&enforced_from(from))?;
    filter.start_again(TRUST, &clock.variables())?;
    assert_eq!(site.through()?, OPEN);
    let told = clock.op25b(&filter, &["status"])?;
    assert!(told.stdout.contains("next: group residential begins to enforce"), "{told:?}");
    let status = clock.op25b(&filter, &["status", "--json"])?.json()?;
    assert_eq!(status["next_change"]["at"], from.to_string(), "{status}");
    assert_eq!(status["overdue"], serde_json::json!([]), "{status}");
    // Three seconds before.
    let apart = from.as_second() - 3 - Timestamp::now().as_second();
    clock.set(apart)?;
    let moment = || Timestamp::now().as_millisecond() + apart * 1000 - from.as_millisecond();
    assert_eq!((site.through()?, filter.generation()), (OPEN, 1), "not yet");
    ensure!(moment() < -500, "too slow to tell");
    let path = filter.state().join("generation.json");
    let before = fs::read_to_string(&path)?;
    let start = Instant::now();
    while fs::read_to_string(&path)? == before {
        ensure!(start.elapsed() < 10 * SECOND, "it does not come: {}", filter.said());
        thread::sleep(Duration::from_millis(5));
    }
    let late = moment();
    println!("{late} ms after its moment");
    assert!((0..1000).contains(&late), "{late} ms");
    assert_eq!(site.through()?, FILTERED);
    assert!(filter.said().contains("begins to enforce"), "{}", filter.said());
    for apart in [0, -24 * HOUR, -20 * 365 * 24 * HOUR] {
        clock.set(apart)?;
        thread::sleep(SECOND / 2);
        assert_eq!((site.through()?, filter.generation() % 2), (FILTERED, 0), "set to {apart}");
        let answer = clock.op25b(&filter, &["reload"])?;
        assert_eq!(answer.code, Some(0), "{answer:?}");
        assert_eq!(site.through()?, FILTERED, "reloaded at {apart}");
        filter.stop(Signal::SIGKILL)?;
        filter.start_again(TRUST, &clock.variables())?;
        assert_eq!(site.through()?, FILTERED, "started at {apart}");
    }
    filter.counts(&[(BLOCKED, 100, 100 * LENGTH), (WOULD_BLOCK, 20, 20 * LENGTH)])
}

#[test]
fn a_date_that_came_without_a_daemon_is_taken_at_the_start() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    let clock = Clock::new(&filter)?;
    filter.policy(&enforced_from(ahead(HOUR)?))?;
    filter.start_again(TRUST, &clock.variables())?;
    filter.stop(Signal::SIGKILL)?;
    clock.set(2 * HOUR)?;
    assert_eq!(site.through()?, OPEN, "nobody is there to take it");
    let told = clock.op25b(&filter, &["status"])?;
    assert!(told.stderr.contains("change overdue") && told.stderr.contains("no daemon runs"), "{told:?}");
    filter.start_again(TRUST, &clock.variables())?;
    assert!(filter.said().contains("came while no daemon ran"), "{}", filter.said());
    assert_eq!(site.through()?, FILTERED);
    let status = clock.op25b(&filter, &["status", "--json"])?.json()?;
    assert_eq!(
        (&status["overdue"], &status["next_change"]),
        (&serde_json::json!([]), &serde_json::Value::Null)
    );
    filter.stop(Signal::SIGKILL)?;
    filter.start_again(TRUST, &clock.variables())?;
    assert!(!filter.said().contains("came while no daemon ran"), "said once: {}", filter.said());
    filter.counts(&[(BLOCKED, 10, 10 * LENGTH), (WOULD_BLOCK, 10, 10 * LENGTH)])
}

#[test]
fn exemptions_and_quarantines_expire() -> Result<()> {
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    let clock = Clock::new(&filter)?;
    let (first, second) = (ahead(HOUR)?, ahead(2 * HOUR)?);
    let text = KURUME
        .replace("    ticket: NOC-1234", &format!("    ticket: NOC-1234\n    expires: {first}"))
        .replace("    ticket: ABUSE-77", &format!("    ticket: ABUSE-77\n    expires: {second}"));
    filter.policy(&text)?;
    filter.start_again(TRUST, &clock.variables())?;
    assert_eq!((site.arriving_from(EXEMPT)?, site.arriving_from(QUARANTINED)?), (10, 0));
    let next = || -> Result<String> {
        let status = clock.op25b(&filter, &["status", "--json"])?.json()?;
        Ok(status["next_change"]["what"].as_str().unwrap_or("nothing").to_owned())
    };
    assert!(next()?.contains("exemption"));
    clock.set(HOUR + 60)?;
    assert!(eventually(|| filter.generation() == 2), "{}", filter.said());
    assert_eq!((site.arriving_from(EXEMPT)?, site.arriving_from(QUARANTINED)?), (0, 0));
    assert!(next()?.contains("quarantine"));
    // One exemption is still in force where the clock is set back: it has expired.
    clock.set(0)?;
    thread::sleep(SECOND / 2);
    assert_eq!(site.arriving_from(EXEMPT)?, 0);
    clock.set(2 * HOUR + 60)?;
    assert!(eventually(|| filter.generation() == 3), "{}", filter.said());
    assert_eq!(next()?, "nothing");
    assert_eq!(site.arriving_from(QUARANTINED)?, 0, "blocked with its group");
    filter.counts(&[
        ("residential ipv4 exempt pass", 10, 10 * LENGTH),
        (BLOCKED, 30, 30 * LENGTH),
        ("residential ipv4 quarantined drop", 20, 20 * LENGTH),
    ])
}

/// Whether the kernel thinks that its clock is right.
fn synchronised() -> bool {
    // SAFETY: all zeroes is a `timex` that asks and sets nothing.
    let (state, clock) = unsafe {
        let mut clock: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut clock), clock)
    };
    state != -1 && clock.status & libc::STA_UNSYNC == 0
}

#[test]
fn a_date_waits_for_a_clock_that_is_right() -> Result<()> {
    if synchronised() {
        println!("this machine's clock is synchronised: nothing to see");
        return Ok(());
    }
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    let clock = Clock::new(&filter)?;
    filter.policy(&enforced_from(ahead(HOUR)?))?;
    filter.start_again(&[], &clock.variables())?;
    assert!(filter.said().contains("not synchronised"), "{}", filter.said());
    clock.set(2 * HOUR)?;
    assert!(eventually(|| filter.said().contains("waits")), "{}", filter.said());
    thread::sleep(SECOND);
    assert_eq!(filter.said().matches("waits, since").count(), 1, "said once: {}", filter.said());
    let told = clock.op25b(&filter, &["status"])?;
    assert!(told.stderr.contains("overdue") && told.stderr.contains("not synchronised"), "{told:?}");
    assert_eq!((site.through()?, filter.generation()), (OPEN, 1));
    // Where it is set back, nothing has come.
    clock.set(0)?;
    assert_eq!(clock.op25b(&filter, &["status", "--json"])?.json()?["overdue"], serde_json::json!([]));
    filter.stop(Signal::SIGKILL)?;
    filter.start_again(&[], &clock.variables())?;
    assert_eq!(site.through()?, OPEN);
    filter.counts(&[(WOULD_BLOCK, 20, 20 * LENGTH)])
}

#[test]
fn a_clock_that_jumps_ends_a_suspension_and_a_trial_no_later_than_said() -> Result<()> {
    for apart in [24 * HOUR, -24 * HOUR] {
        let site = Site::new(1)?;
        let mut filter = Filter::new(&site.edge)?;
        let clock = Clock::new(&filter)?;
        filter.policy(KURUME)?;
        filter.start_again(TRUST, &clock.variables())?;
        assert_eq!(site.arriving_from(CUSTOMER)?, 0);
        assert_eq!(clock.op25b(&filter, &["suspend", "--for", "4s"])?.code, Some(0));
        assert_eq!(site.arriving_from(CUSTOMER)?, 10);
        let start = Instant::now();
        clock.set(apart)?;
        assert!(eventually(|| filter.said().contains("suspension is over")), "{}", filter.said());
        assert!(start.elapsed() < 6 * SECOND, "set to {apart}: {:?}", start.elapsed());
        assert_eq!(site.arriving_from(CUSTOMER)?, 0);
        let new = filter.path().with_file_name("new.yaml");
        fs::write(&new, KURUME.replacen("mode: enforce", "mode: monitor", 1))?;
        let new = new.display().to_string();
        assert_eq!(clock.op25b(&filter, &["apply", &new, "--confirm", "4s"])?.code, Some(0));
        let start = Instant::now();
        clock.set(0)?;
        assert!(eventually(|| filter.said().contains("not confirmed in time")), "{}", filter.said());
        assert!(start.elapsed() < 6 * SECOND, "set back from {apart}: {:?}", start.elapsed());
        assert_eq!(site.arriving_from(CUSTOMER)?, 0);
        filter.counts(&[(BLOCKED, 30, 30 * LENGTH), (WOULD_BLOCK, 10, 10 * LENGTH)])?;
    }
    Ok(())
}
