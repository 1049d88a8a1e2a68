//! The daemon is killed at moments that nobody chose: there is never a window without the filter, and what was half
//! done is done or undone when it runs again.

#[allow(dead_code, reason = "other tests use more of it")]
mod lab;
#[allow(dead_code, reason = "other tests use more of it")]
mod loaded;
#[allow(dead_code, reason = "other tests use more of it")]
mod site;

use std::{
    collections::BTreeMap,
    fs,
    process::{Child, Stdio},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lab::{Filter, KURUME, eventually, syn};
use loaded::Loaded;
use nix::sys::signal::{Signal, kill};
use site::{CUSTOMER, OUTSIDE, Site, tidy};

const MOMENTS: u64 = 50;
const BLOCKED: u16 = 1000;
const LINKS: [(&str, &str); 2] = [("eth1", "cust1"), ("eth2", "cust2")];

/// Knuth's generator: the moments are the same each time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// How many programs are loaded that count into this instance's counters.
fn programs(filter: &Filter<'_>) -> Result<usize> {
    Ok(Loaded::of(filter)?.programs.len())
}

fn both(text: &str) -> String {
    text.replacen("[eth1]", "[eth1, eth2]", 1)
}

/// Two policies that both block the residential group.
fn policies() -> [String; 2] {
    let stricter = KURUME
        .replace("unknown_sources: pass", "unknown_sources: block")
        .replace("mode: monitor", "mode: enforce");
    [both(KURUME), both(&stricter)]
}

/// Sends what both policies block into both links all the time while something is done, which is told a check that
/// nothing has come through and that it is counted; how many frames that were.
fn under_fire(
    site: &Site,
    filter: &mut Filter<'_>,
    act: impl FnOnce(&mut Filter<'_>, &mut dyn FnMut(&Filter<'_>) -> Result<()>) -> Result<()>,
) -> Result<usize> {
    let tallies = [site.edge.tally("eth1", BLOCKED)?, site.edge.tally("eth2", BLOCKED)?];
    let stop = AtomicBool::new(false);
    let sent = AtomicUsize::new(0);
    let flood = |peer: &str| -> Result<()> {
        let mouth = site.customer.mouth(peer)?;
        let frame = syn(CUSTOMER.parse()?, OUTSIDE.parse()?, BLOCKED, 25);
        while !stop.load(Ordering::Relaxed) {
            mouth.send(std::iter::repeat_n(frame.as_slice(), 16))?;
            sent.fetch_add(16, Ordering::Relaxed);
        }
        Ok(())
    };
    let mut counted = 0;
    let mut check = |filter: &Filter<'_>| -> Result<()> {
        let all = filter.counted()?;
        let blocked = all.iter().find(|(name, ..)| name == "residential ipv4 blocked drop");
        let blocked = blocked.map_or(0, |(_, packets, _)| *packets);
        ensure!(blocked > counted, "{counted} became {blocked}");
        counted = blocked;
        for (tally, (interface, _)) in tallies.iter().zip(LINKS) {
            let passed = tally.count()?;
            ensure!(passed == 0, "{passed} passed {interface}");
        }
        Ok(())
    };
    thread::scope(|scope| {
        let flood = &flood;
        let floods = LINKS.map(|(_, peer)| scope.spawn(move || flood(peer)));
        let done = act(filter, &mut check);
        stop.store(true, Ordering::Relaxed);
        for flood in floods {
            flood.join().map_err(|_| anyhow::anyhow!("a flood panicked"))??;
        }
        done
    })?;
    Ok(sent.into_inner())
}

/// After a daemon was killed: nothing is open; and when it runs again, all is of one piece. How long that takes.
fn mends(site: &Site, filter: &mut Filter<'_>, usual: usize) -> Result<Duration> {
    for (interface, _) in LINKS {
        ensure!(site.edge.xdp(interface)?.is_some(), "{interface} is open");
    }
    let start = Instant::now();
    filter.start_again(&[], &[])?;
    let took = start.elapsed();
    ensure!(took < Duration::from_secs(3), "in force only after {took:?}");
    let (_, status) = filter.status()?;
    let attached = |one: &serde_json::Value| one["attached"] == true;
    let whole = status["interfaces"].as_array().is_some_and(|all| all.len() == 2 && all.iter().all(attached));
    ensure!(whole, "{status}");
    ensure!(status["unconfirmed"].is_null() && status["policy"]["current"] == true, "{status}");
    tidy(filter)?;
    let same = eventually(|| programs(filter).is_ok_and(|now| now == usual));
    ensure!(same, "{usual} programs became {}", programs(filter)?);
    if !status["suspension"].is_null() {
        let answer = filter.op25b(&["resume"])?;
        ensure!(answer.code == Some(0), "{answer:?}");
    }
    Ok(took)
}

/// Starts a command and does not wait for it.
fn begin(filter: &Filter<'_>, order: &[&str]) -> Result<Child> {
    let mut command = filter.command(order)?;
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

#[test]
fn killed_at_any_moment_the_filter_stays_and_the_change_is_done_or_undone() -> Result<()> {
    let site = Site::new(2)?;
    let mut filter = Filter::new(&site.edge)?;
    let policies = policies();
    filter.start(&policies[0], &[])?;
    let usual = programs(&filter)?;
    // Times killed, and the longest until it was in force again.
    let mut done: BTreeMap<String, (u32, Duration)> = BTreeMap::new();
    let sent = under_fire(&site, &mut filter, |filter, check| {
        let start = Instant::now();
        ensure!(filter.op25b(&["reload"])?.code == Some(0), "{}", filter.said());
        // From before a command is heard until after it is done.
        let longest = start.elapsed().as_micros() as u64 * 5 / 4;
        println!("a reload takes {:?}", start.elapsed());
        let mut chance = Chance(0x25);
        for moment in 0..MOMENTS {
            let text = &policies[chance.below(2) as usize];
            let delay = Duration::from_micros(chance.below(longest));
            let other = filter.path().with_file_name("other.yaml");
            fs::write(&other, text)?;
            let other = other.display().to_string();
            let orders: [&[&str]; 6] = [
                &["run"],
                &["reload"],
                &["apply", &other],
                &["apply", "--confirm", "1h", &other],
                &["suspend", "--group", "business", "--for", "1h"],
                &["apply", "--rollback"],
            ];
            let order = orders[chance.below(6) as usize];
            let what = format!("moment {moment}: {order:?} after {delay:?}");
            if ["run", "reload"].contains(&order[0]) {
                filter.policy(text)?;
            }
            if order == ["run"] {
                filter.stop(Signal::SIGKILL)?;
                filter.spawn(&[], &[])?;
                thread::sleep(delay);
                filter.stop(Signal::SIGKILL)?;
            } else {
                let mut command = begin(filter, order)?;
                thread::sleep(delay);
                filter.stop(Signal::SIGKILL)?;
                command.wait()?;
            }
            let took = mends(&site, filter, usual).context(what.clone())?;
            check(filter).context(what)?;
            let entry =
                done.entry(order[..order.len().min(2)].join(" ").replace(&other, "FILE")).or_default();
            *entry = (entry.0 + 1, entry.1.max(took));
        }
        Ok(())
    })?;
    for (order, (times, longest)) in &done {
        println!("{order}: killed {times} times, in force again after {longest:?} at most");
    }
    println!("{sent} frames, none passed");
    filter.counts(&[("residential ipv4 blocked drop", sent, sent * site::LENGTH)])
}

#[test]
fn killed_between_two_interfaces_it_completes_the_change_within_a_second() -> Result<()> {
    let site = Site::new(2)?;
    let mut filter = Filter::new(&site.edge)?;
    let policies = policies();
    filter.start(&policies[0], &[])?;
    let usual = programs(&filter)?;
    let journal = filter.state().join("journal.json");
    // How many interfaces had been swapped when it died, and how often that was so.
    let mut swapped = [0; 3];
    // Changes of which the rest could not be done.
    let mut reverted = 0;
    let mut longest = Duration::ZERO;
    let sent = under_fire(&site, &mut filter, |filter, check| {
        let mut chance = Chance(0x25);
        for (round, text) in policies.iter().rev().cycle().take(40).enumerate() {
            if round >= 10 && swapped[1] > 0 && reverted > 0 {
                break;
            }
            filter.policy(text)?;
            let pid = filter.pid()?;
            let delay = Duration::from_micros(chance.below(8_000));
            let mut command = begin(filter, &["reload"])?;
            let start = Instant::now();
            while !journal.exists() && start.elapsed() < Duration::from_secs(5) {
                std::hint::spin_loop();
            }
            let begun = Instant::now();
            while begun.elapsed() < delay {
                std::hint::spin_loop();
            }
            kill(pid, Signal::SIGKILL)?;
            filter.ended()?;
            command.wait()?;
            let interrupted = fs::read_to_string(&journal);
            if let Ok(text) = &interrupted {
                let next: serde_json::Value = serde_json::from_str(text)?;
                let runs = |interface: &serde_json::Value| -> Result<bool> {
                    let name = interface["name"].as_str().context("a name")?;
                    Ok(site.edge.xdp(name)?.map(|(_, id)| u64::from(id)) == interface["program"].as_u64())
                };
                let interfaces = next["interfaces"].as_array().context("interfaces")?;
                let running = interfaces.iter().map(runs).collect::<Result<Vec<_>>>()?;
                let done = running.into_iter().filter(|runs| *runs).count();
                swapped[done] += 1;
                let hopeless = done == 1 && swapped[1] > 2 * reverted + 1;
                if hopeless {
                    let generation = next["generation"].as_u64().context("a generation")?;
                    fs::remove_dir_all(filter.pins().join(format!("generations/{generation}")))?;
                }
                let told = filter.op25b(&["status"])?;
                ensure!(told.stderr.contains("interrupted"), "{told:?}");
                let start = Instant::now();
                filter.spawn(&[], &[])?;
                ensure!(eventually(|| !journal.exists()), "{}", filter.said());
                longest = longest.max(start.elapsed());
                ensure!(eventually(|| filter.said().contains("in force")), "{}", filter.said());
                let outcome =
                    if hopeless { "cannot be completed" } else { "interrupted; it is completed now" };
                let said = filter.said();
                ensure!(said.contains(outcome) && !said.contains("cannot go back"), "{said}");
                reverted += u32::from(hopeless);
                filter.stop(Signal::SIGKILL)?;
            }
            mends(&site, filter, usual)?;
            check(filter)?;
        }
        Ok(())
    })?;
    println!(
        "of {:?} interrupted changes, 0, 1 and 2 interfaces were swapped in {swapped:?}; {reverted} were reverted; done \
         {longest:?} after the start at most; {sent} frames, none passed",
        swapped.iter().sum::<u32>()
    );
    ensure!(swapped[1] > 0 && reverted > 0, "no moment was the right one");
    ensure!(longest < Duration::from_secs(1), "completed only after {longest:?}");
    filter.counts(&[("residential ipv4 blocked drop", sent, sent * site::LENGTH)])
}
