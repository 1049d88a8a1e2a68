//! An hour of a provider, compressed: a thousand customers, twenty with old settings, three bots, a triangular one.
//! What the NOC is shown agrees with what was sent.

#[allow(dead_code, reason = "other tests use more of it")]
mod http;
#[allow(dead_code, reason = "other tests use more of it")]
mod lab;
#[allow(dead_code, reason = "other tests use more of it")]
mod site;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya_obj::programs::XdpAttachType;
use lab::{Filter, eventually, syn};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use op25b::{attach::Hook, figures::number};
use op25b_ebpf::source::KEPT;
use serde_json::Value;
use site::Site;

const POLICY: &str = r#"
version: 1
timezone: Asia/Tokyo
interfaces: {customer: [eth1], upstream: [eth2]}
relays: [{name: post, addresses: [192.0.2.25, "2001:db8:25::25"]}]
customers:
  - name: residential
    prefixes: [203.0.113.0/24, "2001:db8:1000::/36"]
    mode: enforce
    return_path: enforce
unknown_sources: pass
count_submission: true
"#;

/// IPv4 customers; the others have a /64 each.
const IPV4: u32 = 254;
const CUSTOMERS: u32 = 1_000;
const OLD_SETTINGS: u32 = 20;
const BOTS: u32 = 3;
const SERVERS: u32 = 500;
/// One blocked `connect()`: the SYN and what is sent again.
const SYNS: usize = 11;

/// The `number`th customer.
fn customer(number: u32) -> IpAddr {
    if number < IPV4 {
        Ipv4Addr::from(u32::from(Ipv4Addr::new(203, 0, 113, 1)) + number).into()
    } else {
        let subnet = 0x2001_0db8_1000_0000_0000_0000_0000_0000_u128 + (u128::from(number) << 64);
        Ipv6Addr::from(subnet + 0xbeef).into()
    }
}

/// The same as reports name it.
fn name(number: u32) -> String {
    account(customer(number))
}

/// What reports call who has an address.
fn account(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("{}/64", Ipv6Addr::from(u128::from(address) & !0xffff)),
    }
}

/// The `number`th server of the world, in the customer's family.
fn server(number: u32, family: IpAddr) -> IpAddr {
    if family.is_ipv6() {
        return Ipv6Addr::from(0x2001_0db8_ffff_0000_0000_0000_0000_0000_u128 + u128::from(number)).into();
    }
    let (block, rest) = if number < 250 {
        (Ipv4Addr::new(198, 51, 100, 1), number)
    } else {
        (Ipv4Addr::new(192, 0, 2, 1), number - 250)
    };
    // The relay is one of them; nobody sends there by accident.
    let rest = if block.octets()[0] == 192 && rest >= 24 { rest + 1 } else { rest };
    Ipv4Addr::from(u32::from(block) + rest).into()
}

fn relay(family: IpAddr) -> Result<IpAddr> {
    Ok(if family.is_ipv6() { "2001:db8:25::25" } else { "192.0.2.25" }.parse()?)
}

/// What was sent.
#[derive(Default)]
struct Sent {
    /// By who and why: frames and attempts.
    by: BTreeMap<(String, &'static str), (u64, u64)>,
    settings: BTreeSet<String>,
    bots: BTreeSet<String>,
}

impl Sent {
    fn note(&mut self, number: u32, reason: &'static str, packets: usize) {
        let counts = self.by.entry((name(number), reason)).or_default();
        counts.0 += packets as u64;
        counts.1 += 1;
    }

    fn sums(&self, reason: &str) -> (u64, u64) {
        let of = self.by.iter().filter(|((_, why), _)| *why == reason);
        of.fold((0, 0), |sum, (_, counts)| (sum.0 + counts.0, sum.1 + counts.1))
    }
}

type Frames = Vec<Vec<u8>>;

/// The hour: from customers, and from the Internet.
fn hour() -> Result<(Frames, Frames, Sent)> {
    let (mut out, mut back, mut sent) = (Vec::new(), Vec::new(), Sent::default());
    // Spread over both families: 0, 49, 98, …; bots behind them; the triangular one last.
    let step = CUSTOMERS / (OLD_SETTINGS + BOTS + 1);
    for place in 0..OLD_SETTINGS {
        let number = place * step;
        sent.settings.insert(name(number));
        for attempt in 0..3 + place % 7 {
            let to = server(place % 2 * attempt % 2, customer(number));
            let frame = syn(customer(number), to, 41_000 + attempt as u16, 25);
            out.extend(std::iter::repeat_n(frame, SYNS));
            sent.note(number, "blocked", SYNS);
        }
    }
    for place in OLD_SETTINGS..OLD_SETTINGS + BOTS {
        let number = place * step;
        sent.bots.insert(name(number));
        for to in 0..SERVERS {
            let frame = syn(customer(number), server(to, customer(number)), 42_000, 25);
            out.extend(std::iter::repeat_n(frame, 2));
            sent.note(number, "blocked", 2);
        }
    }
    // Its SYNs leave over another provider with this address as their source; the answers come here.
    let number = (OLD_SETTINGS + BOTS) * step;
    sent.bots.insert(name(number));
    for from in 0..SERVERS {
        back.push(syn(server(from, customer(number)), customer(number), 25, 43_000));
        sent.note(number, "return-path", 1);
    }
    // Everybody else does as announced, or uses the relay as ever.
    for number in (0..CUSTOMERS).filter(|number| number % step != 0) {
        let port = if number % 4 == 0 { 25 } else { 587 };
        out.push(syn(customer(number), relay(customer(number))?, 44_000, port));
        if port == 25 {
            sent.note(number, "relay", 1);
        }
    }
    Ok((out, back, sent))
}

fn json(filter: &Filter<'_>, arguments: &[&str]) -> Result<Value> {
    let answer = filter.op25b(&[arguments, &["--json"]].concat())?;
    ensure!(answer.code == Some(0), "{arguments:?}: {}", answer.stderr);
    answer.json()
}

fn total(totals: &Value, reason: &str) -> (u64, u64) {
    let rows = totals["totals"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of = rows.iter().filter(|row| row["reason"] == reason);
    of.fold((0, 0), |sum, row| {
        (sum.0 + row["packets"].as_u64().unwrap_or(0), sum.1 + row["attempts"].as_u64().unwrap_or(0))
    })
}

fn list<'v>(value: &'v Value, key: &str) -> Result<&'v Vec<Value>> {
    value[key].as_array().with_context(|| format!("no {key} in {value:#}"))
}

/// The body of what the edge's own HTTP answers.
fn get(site: &Site, path: &str) -> Result<String> {
    Ok(http::get(&site.edge, path)?.body)
}

/// Seconds that a process has had a processor.
fn processor_time(pid: Pid) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Behind the name, which ends with the last parenthesis: 12th and 13th, in hundredths of a second.
    let fields: Vec<&str> = text.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
    let ticks = |at: usize| -> Result<f64> { Ok(fields.get(at).context("stat")?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

#[test]
fn a_flood_slows_neither_the_page_nor_takes_the_processor() -> Result<()> {
    let site = Site::new(2)?;
    let mut filter = Filter::new(&site.edge)?;
    filter.start(&format!("{POLICY}metrics: {{listen: \"127.0.0.1:9025\"}}\n"), &[])?;
    ensure!(eventually(|| get(&site, "/").is_ok()), "{}", filter.said());
    // The attached program itself, with its own maps, as often as the kernel can run it.
    let generation = filter.pins().join("generations").join(filter.generation().to_string());
    let name = Hook::Xdp.program();
    let program = Xdp::from_pin(generation.join(format!("{name}:eth1:native")), XdpAttachType::Interface)?;
    // As many sources as there is room for accounts, so that every reading is the longest.
    for number in 0..KEPT {
        let subnet = 0x2001_0db8_1000_0000_0000_0000_0000_0000_u128 + (u128::from(number) << 64);
        let frame = syn(Ipv6Addr::from(subnet + 1).into(), "2001:db8:ffff::25".parse()?, 40_000, 25);
        program.test_run(TestRunOptions { data_in: Some(&frame), ..Default::default() })?;
    }
    let frame = syn(customer(7), server(7, customer(7)), 40_000, 25);
    let stop = AtomicBool::new(false);
    let (rate, busy, waits) = thread::scope(|scope| -> Result<(f64, f64, Vec<Duration>)> {
        let flood = scope.spawn(|| -> Result<f64> {
            let (start, mut sent) = (Instant::now(), 0_u32);
            while !stop.load(Ordering::Relaxed) {
                let options = TestRunOptions { data_in: Some(&frame), repeat: 200_000, ..Default::default() };
                program.test_run(options)?;
                sent += 200_000;
            }
            Ok(f64::from(sent) / start.elapsed().as_secs_f64())
        });
        let looked = (|| -> Result<(f64, Vec<Duration>)> {
            let (start, before) = (Instant::now(), processor_time(filter.pid()?)?);
            // The daemon with nobody looking.
            thread::sleep(Duration::from_secs(4));
            let busy = (processor_time(filter.pid()?)? - before) / start.elapsed().as_secs_f64();
            let mut waits = Vec::new();
            for _ in 0..11 {
                let start = Instant::now();
                get(&site, "/")?;
                waits.push(start.elapsed());
                thread::sleep(Duration::from_millis(300));
            }
            waits.sort();
            Ok((busy, waits))
        })();
        stop.store(true, Ordering::Relaxed);
        let rate = flood.join().map_err(|_| anyhow::anyhow!("the flood panicked"))??;
        let (busy, waits) = looked?;
        Ok((rate, busy, waits))
    })?;
    let (middle, slowest) = (waits[waits.len() / 2], waits[waits.len() - 1]);
    println!(
        "noc: {rate:.0} frames a second blocked, {KEPT} accounts: the daemon takes {:.1} % of a processor, the page \
         {middle:?}, {slowest:?} at most",
        busy * 100.0
    );
    assert!(busy < 0.10, "{busy}");
    // One may come while a development build makes the view anew and the machine has other work.
    assert!(middle < Duration::from_millis(100), "{waits:?}");
    assert!(slowest < Duration::from_millis(500), "{waits:?}");
    Ok(())
}

#[test]
fn an_hour_of_a_provider_is_shown_as_it_was() -> Result<()> {
    let site = Site::new(2)?;
    let mut filter = Filter::new(&site.edge)?;
    let history = filter.path().with_file_name("history.db");
    let outputs =
        format!("metrics: {{listen: \"127.0.0.1:9025\"}}\nhistory: {{path: {}}}\n", history.display());
    filter.start(&format!("{POLICY}{outputs}"), &[])?;
    let (out, back, sent) = hour()?;
    let mut listener = filter.command(&["events", "--follow", "--json"])?.stdout(Stdio::piped()).spawn()?;
    ensure!(eventually(|| filter.state().join("events").exists()), "{}", filter.said());
    // The daemon takes listeners in ten times a second, and looks at what they want once a second.
    thread::sleep(Duration::from_millis(1600));
    for (peer, frames) in [("cust1", &out), ("cust2", &back)] {
        let mouth = site.customer.mouth(peer)?;
        for frames in frames.chunks(200) {
            mouth.send(frames.iter().map(Vec::as_slice))?;
        }
    }
    let (packets, attempts) = sent.sums("blocked");
    ensure!(
        eventually(|| json(&filter, &["stats"]).is_ok_and(|stats| total(&stats, "blocked").0 >= packets
            && total(&stats, "return-path").0 >= sent.sums("return-path").0
            && total(&stats, "relay").0 >= sent.sums("relay").0)),
        "not all has arrived"
    );

    // Events: everybody outside is told at once, and nobody else.
    thread::sleep(Duration::from_millis(500));
    kill(Pid::from_raw(i32::try_from(listener.id())?), Signal::SIGTERM)?;
    let mut heard = BTreeSet::new();
    for line in BufReader::new(listener.stdout.take().context("no stdout")?).lines() {
        let event: Value = serde_json::from_str(&line?)?;
        let word = |key: &str| event[key].as_str().with_context(|| format!("no {key}: {event}"));
        heard.insert((account(word("customer_address")?.parse()?), word("reason")?.to_owned()));
    }
    listener.wait()?;
    let outside = sent.by.keys().filter(|(_, reason)| *reason != "relay");
    let expected: BTreeSet<_> = outside.map(|(name, reason)| (name.clone(), (*reason).to_owned())).collect();
    assert_eq!(heard, expected, "events");

    // Groups.
    let stats = json(&filter, &["stats"])?;
    for reason in ["blocked", "return-path", "relay"] {
        assert_eq!(total(&stats, reason), sent.sums(reason), "{reason}: packets and attempts");
    }
    let submitted: u64 = list(&stats, "submission")?.iter().filter_map(|row| row["attempts"].as_u64()).sum();
    let relayed = sent.sums("relay").1;
    let others = u64::from(CUSTOMERS) - (0..CUSTOMERS).filter(|number| number % 41 == 0).count() as u64;
    assert_eq!(submitted, others - relayed, "connections to the submission port");

    // Sources.
    let top = json(&filter, &["top", "--once"])?;
    let sources = list(&top, "sources")?;
    let outside: BTreeMap<&str, (u64, u64)> = sent
        .by
        .iter()
        .filter(|((_, reason), _)| *reason != "relay")
        .map(|((name, _), counts)| (name.as_str(), *counts))
        .collect();
    assert_eq!(sources.len(), outside.len(), "sources outside");
    let mut worst = 0.0_f64;
    for source in sources {
        let name = source["source"].as_str().context("a source")?;
        let counts = (source["packets"].as_u64(), source["attempts"].as_u64());
        let sent_there = outside.get(name).with_context(|| format!("{name} sent nothing"))?;
        assert_eq!(counts, (Some(sent_there.0), Some(sent_there.1)), "{name}");
        let label = if sent.bots.contains(name) { "bot?" } else { "settings?" };
        assert_eq!(source["triage"], label, "{name}: {source:#}");
        if sent.bots.contains(name) {
            let found = source["destinations"].as_u64().context("destinations")? as f64;
            let wrong = (found / f64::from(SERVERS) - 1.0).abs();
            worst = worst.max(wrong);
            assert!(wrong <= 0.15, "{name}: {found} destinations of {SERVERS}");
        }
    }
    println!(
        "noc: {} frames, {attempts} attempts blocked; 24 of 24 labels; destinations {:.1} % off at most",
        out.len() + back.len(),
        worst * 100.0
    );

    // Page, API and metrics.
    let api: Value = serde_json::from_str(&get(&site, "/api/v1/sources?limit=1000")?)?;
    let by_name = |value: &Value| -> Result<BTreeMap<String, (Value, Value, Value)>> {
        let row = |source: &Value| {
            let key = source["source"].as_str().unwrap_or_default().to_owned();
            (key, (source["packets"].clone(), source["attempts"].clone(), source["triage"].clone()))
        };
        Ok(list(value, "sources")?.iter().map(row).collect())
    };
    assert_eq!(by_name(&api)?, by_name(&top)?, "API and top");
    let metrics = get(&site, "/metrics")?;
    for (metric, reason, expected) in [
        ("op25b_packets_total", "blocked", packets),
        ("op25b_attempts_total", "blocked", attempts),
        ("op25b_attempts_total", "return-path", sent.sums("return-path").1),
        ("op25b_attempts_total", "relay", relayed),
    ] {
        let wanted = |line: &&str| line.starts_with(metric) && line.contains(&format!("reason=\"{reason}\""));
        let values =
            metrics.lines().filter(wanted).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        assert_eq!(values.sum::<u64>(), expected, "{metric} {reason}");
    }
    let bots =
        metrics.lines().find(|line| line.starts_with("op25b_sources_by_triage") && line.contains("bot?"));
    assert!(bots.is_some_and(|line| line.ends_with(" 4.0") || line.ends_with(" 4")), "{bots:?}");
    let page = get(&site, "/?lang=en")?;
    for bot in &sent.bots {
        assert!(page.contains(bot.as_str()), "{bot} is not on the page");
    }
    let row = page.split("<tr class=\"sum\">").nth(1).and_then(|rest| rest.split("</tr>").next());
    let cells = row.context("a row of totals")?.split("<td class=\"number\">").skip(1);
    let cells: Vec<&str> = cells.filter_map(|cell| cell.split('<').next()).collect();
    let returned = sent.sums("return-path");
    // Whose attempts an answer belongs to is seen elsewhere, if at all.
    let totals = [packets + returned.0, 0, attempts, sent.sums("relay").0];
    assert_eq!(cells.get(..4), Some(&totals.map(number).each_ref().map(String::as_str)[..]), "{row:?}");

    // Reports and the history.
    let abuse = json(&filter, &["report", "abuse"])?;
    let bots: BTreeSet<String> = list(&abuse, "sources")?
        .iter()
        .filter_map(|source| source["source"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(bots, sent.bots, "{abuse:#}");
    let migration = json(&filter, &["report", "migration"])?;
    let sum = |key: &str| -> Result<u64> {
        Ok(list(&migration, "sources")?.iter().filter_map(|source| source[key].as_u64()).sum())
    };
    assert_eq!(sum("outside_attempts")?, attempts + sent.sums("return-path").1);
    assert_eq!((sum("relay_packets")?, sum("relay_attempts")?), sent.sums("relay"));
    filter.stop(Signal::SIGTERM)?;
    for who in sent.settings.union(&sent.bots) {
        let past = json(&filter, &["history", who])?;
        let rows = past.get("rows").or_else(|| past.get("hours")).unwrap_or(&past);
        let rows = rows.as_array().with_context(|| format!("{past:#}"))?;
        let counted = |key: &str| rows.iter().filter_map(|row| row[key].as_u64()).sum::<u64>();
        assert_eq!((counted("packets"), counted("attempts")), outside[who.as_str()], "{who} in the history");
        if sent.bots.contains(who) {
            let found = rows.iter().filter_map(|row| row["destinations"].as_u64()).max();
            let wrong = (found.context("destinations")? as f64 / f64::from(SERVERS) - 1.0).abs();
            assert!(wrong <= 0.15, "{who}: {found:?} destinations of {SERVERS} in the history");
        }
    }

    // Readers need no daemon, however it ended.
    filter.start_again(&[], &[])?;
    filter.stop(Signal::SIGKILL)?;
    let (code, status) = filter.status()?;
    ensure!(code == Some(0), "{status:#}");
    assert_eq!(list(&json(&filter, &["top", "--once"])?, "sources")?.len(), outside.len());
    assert_eq!(total(&json(&filter, &["stats"])?, "blocked"), (packets, attempts));
    Ok(())
}
