//! Changes under load: no packet is decided by anything but one policy or the other, and none is lost or counted twice.

#[allow(dead_code, reason = "other tests use more of it")]
mod lab;
mod live;
#[allow(dead_code, reason = "other tests use more of it")]
mod site;

use std::{
    fs,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lab::{Filter, KURUME, eventually, syn};
use live::{Live, MAIL_FROM, Mix, WEB_FROM, Way};
use site::{CUSTOMER, OUTSIDE, RELAY, Site, UNKNOWN, link_id, tidy};

/// Source ports: blocked by both policies, passed by both (counted, and not), by one of them.
const BLOCKED: u16 = 1000;
const RELAYED: u16 = 2000;
const SUBMITTED: u16 = 3000;
const DISPUTED: u16 = 4000;

/// Most frames of a test, of which a minute sees fewer.
const MOST: u64 = 60_000_000;

/// Pours frames into `cust1` while something is done; how often each was sent, and for how long.
fn during<T>(
    site: &Site,
    frames: &[Vec<u8>],
    act: impl FnOnce(&AtomicU64) -> Result<T>,
) -> Result<(u64, Duration, T)> {
    let stop = AtomicBool::new(false);
    let rounds = AtomicU64::new(0);
    thread::scope(|scope| {
        let flood = scope.spawn(|| -> Result<Duration> {
            let mouth = site.customer.mouth("cust1")?;
            let start = Instant::now();
            while !stop.load(Ordering::Relaxed)
                && rounds.load(Ordering::Relaxed) * (frames.len() as u64) < MOST
            {
                mouth.pour(frames.iter().map(Vec::as_slice))?;
                rounds.fetch_add(1, Ordering::Relaxed);
            }
            Ok(start.elapsed())
        });
        let started = eventually(|| rounds.load(Ordering::Relaxed) > 100 || flood.is_finished());
        let done = if started { act(&rounds) } else { Err(anyhow::anyhow!("no flood")) };
        stop.store(true, Ordering::Relaxed);
        let took = flood.join().map_err(|_| anyhow::anyhow!("the flood panicked"))??;
        Ok((rounds.load(Ordering::Relaxed), took, done?))
    })
}

fn frame(from: &str, to: &str, source_port: u16, port: u16) -> Result<Vec<u8>> {
    Ok(syn(from.parse()?, to.parse()?, source_port, port))
}

fn packets(filter: &Filter<'_>, name: &str) -> Result<u64> {
    Ok(filter.counted()?.iter().filter(|(counted, ..)| counted == name).map(|(_, packets, _)| packets).sum())
}

/// One at a time: each takes what the machine has.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn a_hundred_reloads_lose_let_through_and_miscount_nothing() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    const RELOADS: usize = 100;
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    let before = (link_id(&filter, "eth1:native")?, site.flaps()?);
    let [blocked, relayed, submitted, disputed] =
        [BLOCKED, RELAYED, SUBMITTED, DISPUTED].map(|port| site.edge.tally("eth1", port));
    let (blocked, relayed, submitted, disputed) = (blocked?, relayed?, submitted?, disputed?);
    let frames = [
        frame(CUSTOMER, OUTSIDE, BLOCKED, 25)?,
        frame(CUSTOMER, RELAY, RELAYED, 25)?,
        frame(CUSTOMER, OUTSIDE, SUBMITTED, 587)?,
        frame(UNKNOWN, OUTSIDE, DISPUTED, 25)?,
    ];
    let policies = [KURUME.replace("unknown_sources: pass", "unknown_sources: block"), KURUME.to_owned()];
    let (rounds, took, ()) = during(&site, &frames, |_| {
        for text in policies.iter().cycle().take(RELOADS) {
            filter.policy(text)?;
            let answer = filter.op25b(&["reload"])?;
            ensure!(answer.code == Some(0), "{answer:?}");
        }
        Ok(())
    })?;
    let sent = rounds * frames.len() as u64;
    println!(
        "{sent} frames in {:.1} s, {:.0} a second, {RELOADS} reloads of {:.0} ms each",
        took.as_secs_f64(),
        sent as f64 / took.as_secs_f64(),
        took.as_secs_f64() * 1e3 / RELOADS as f64
    );
    // What was sent last may still be in the queue between the two ends.
    eventually(|| {
        packets(&filter, "- ipv4 unknown-source pass").is_ok_and(|last| last > 0)
            && relayed.count().is_ok_and(|count| count >= rounds)
    });
    thread::sleep(Duration::from_millis(300));
    assert_eq!(blocked.count()?, 0, "both policies block it");
    assert_eq!((relayed.count()?, submitted.count()?), (rounds, rounds), "both policies pass it");
    assert_eq!(packets(&filter, "residential ipv4 blocked drop")?, rounds);
    assert_eq!(packets(&filter, "residential ipv4 relay pass")?, rounds);
    let passed = packets(&filter, "- ipv4 unknown-source pass")?;
    let dropped = packets(&filter, "- ipv4 unknown-source drop")?;
    println!("of {rounds} that only one policy blocks, {passed} passed and {dropped} did not");
    assert_eq!(passed + dropped, rounds, "each by one policy or the other");
    assert_eq!(disputed.count()?, passed, "what is counted is what is done");
    assert!(passed > 0 && dropped > 0);
    assert_eq!(filter.counted()?.len(), 4, "nothing else: {:?}", filter.counted()?);
    assert_eq!(filter.generation(), 1 + RELOADS as u64);
    assert_eq!((link_id(&filter, "eth1:native")?, site.flaps()?), before, "swapped, never detached");
    tidy(&filter)
}

/// The same with as many frames as the kernel can make: both policies block most, and pass one in a hundred.
#[test]
fn a_hundred_reloads_under_live_frames_lose_let_through_and_miscount_nothing() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    const RELOADS: usize = 100;
    const AT_ONCE: u32 = 200_000;
    let site = Site::new(1)?;
    for namespace in [&site.customer, &site.edge] {
        // Nobody says anything else.
        namespace.within(|| fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"))??;
    }
    let mut filter = Filter::new(&site.edge)?;
    let policy = KURUME.replace("203.0.113.0/24", "203.0.113.0/24, 10.0.0.0/8");
    ensure!(policy != KURUME, "the customers who send are in the policy");
    filter.start(&policy, &[])?;
    let before = (link_id(&filter, "eth1:native")?, site.flaps()?);
    let (mail, web) = (site.edge.tally("eth1", MAIL_FROM)?, site.edge.tally("eth1", WEB_FROM)?);
    let port = live::link(&site.edge, "eth1")?;
    let mix = Mix { sources: 10_000, mail: 99 };
    let sender = Live::new((&site.customer, "cust1"), (&port.address, OUTSIDE), Way::Wire, &mix)?;
    let policies = [policy.replace("unknown_sources: pass", "unknown_sources: block"), policy];
    let stop = AtomicBool::new(false);
    let sent = AtomicU64::new(0);
    let took = thread::scope(|scope| -> Result<Duration> {
        let flood = scope.spawn(|| -> Result<Duration> {
            let mut took = Duration::ZERO;
            while !stop.load(Ordering::Relaxed) && sent.load(Ordering::Relaxed) < 20 * MOST {
                took += sender.send(AT_ONCE, 0)?;
                sent.fetch_add(AT_ONCE.into(), Ordering::Relaxed);
            }
            Ok(took)
        });
        let reload = || -> Result<()> {
            for text in policies.iter().cycle().take(RELOADS) {
                filter.policy(text)?;
                let answer = filter.op25b(&["reload"])?;
                ensure!(answer.code == Some(0), "{answer:?}");
            }
            Ok(())
        };
        let reloaded = reload();
        stop.store(true, Ordering::Relaxed);
        let took = flood.join().map_err(|_| anyhow::anyhow!("the flood panicked"))??;
        reloaded.map(|()| took)
    })?;
    // What was sent last may still be in the queue between the two ends.
    thread::sleep(Duration::from_millis(300));
    let came_in = live::link(&site.edge, "eth1")?.received - port.received;
    let sent = sent.load(Ordering::Relaxed);
    println!(
        "{sent} live frames at {:.2} million a second, {came_in} came in; {RELOADS} reloads",
        sent as f64 / took.as_secs_f64() / 1e6
    );
    let blocked = packets(&filter, "residential ipv4 blocked drop")?;
    assert_eq!(mail.count()?, 0, "both policies block it");
    assert!(blocked > 0);
    assert_eq!(web.count()? + blocked, came_in, "each frame that came in was blocked and counted, or passed");
    assert_eq!(filter.generation(), 1 + RELOADS as u64);
    assert_eq!((link_id(&filter, "eth1:native")?, site.flaps()?), before, "swapped, never detached");
    tidy(&filter)
}

#[test]
fn a_suspension_under_load_lets_all_through_within_a_second() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let site = Site::new(1)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(KURUME, &[])?;
    let before = (link_id(&filter, "eth1:native")?, site.flaps()?);
    let arrived = site.edge.tally("eth1", BLOCKED)?;
    let frames = [frame(CUSTOMER, OUTSIDE, BLOCKED, 25)?];
    let (sent, took, (begun, ended)) = during(&site, &frames, |sent| {
        ensure!(arrived.count()? == 0, "before");
        let start = Instant::now();
        let answer = filter.op25b(&["suspend", "--for", "1h"])?;
        ensure!(answer.code == Some(0), "{answer:?}");
        ensure!(eventually(|| arrived.count().is_ok_and(|count| count > 0)), "nothing passes");
        let begun = start.elapsed();
        // Nothing is dropped meanwhile.
        thread::sleep(Duration::from_millis(100));
        let dropped = packets(&filter, "residential ipv4 blocked drop")?;
        let from = sent.load(Ordering::Relaxed);
        ensure!(eventually(|| sent.load(Ordering::Relaxed) > from + 100_000), "the flood has ended");
        ensure!(packets(&filter, "residential ipv4 blocked drop")? == dropped, "some were dropped");
        let start = Instant::now();
        let answer = filter.op25b(&["resume"])?;
        ensure!(answer.code == Some(0), "{answer:?}");
        thread::sleep(Duration::from_millis(100));
        let passed = arrived.count()?;
        let ended = start.elapsed();
        let from = sent.load(Ordering::Relaxed);
        ensure!(eventually(|| sent.load(Ordering::Relaxed) > from + 100_000), "the flood has ended");
        ensure!(arrived.count()? == passed, "some still pass");
        Ok((begun, ended))
    })?;
    println!(
        "{sent} frames, {:.0} a second: passed {begun:?} after `suspend`, blocked at most {ended:?} after `resume`",
        sent as f64 / took.as_secs_f64()
    );
    assert!(begun < Duration::from_secs(1), "{begun:?}");
    thread::sleep(Duration::from_millis(300));
    let passed = packets(&filter, "residential ipv4 would-block pass")?;
    assert_eq!(packets(&filter, "residential ipv4 blocked drop")? + passed, sent);
    assert_eq!(arrived.count()?, passed, "what is counted is what is done");
    assert_eq!((link_id(&filter, "eth1:native")?, site.flaps()?), before, "swapped, never detached");
    Ok(())
}
