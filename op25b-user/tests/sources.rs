//! The accounts of sources in the kernel, held against a plain model: frames, bytes, attempts and destinations of
//! each source, group and reason; submission; what room there is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod ways;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::programs::Program;
use etherparse::PacketBuilder;
use nix::time::{ClockId, clock_gettime};
use op25b::{
    clock,
    object::{self, Build, Constants, Maps, OBJECT, program},
};
use op25b_ebpf::{
    abi::{Link, Role},
    address::{Address, Family},
    reply::Reply,
    source::{KEPT, Key, Source, WAYS, WINDOW, destination_bit, place},
    verdict::{Reason, submission_cell},
};

use crate::ways::{ENTRIES, Kernel, Office, say};

const POLICY: &str = r#"
version: 1
interfaces: {customer: [eth1]}
relays: [{name: post, addresses: [192.0.2.25, "2001:db8:25::25"]}]
customers:
  - {name: residential, prefixes: [203.0.113.0/25, "2001:db8:1000::/36"], mode: enforce, ipv6_source_length: 56}
  - {name: business, prefixes: [203.0.113.128/25, "2001:db8:2000::/36"], mode: monitor}
exemptions: [{prefixes: [203.0.113.7], reason: static, ticket: NOC-1}]
unknown_sources: pass
"#;

const SYN: u8 = 2;
const ACK: u8 = 0x10;
const SEED: u64 = 0x2525;

/// One segment.
#[derive(Clone, Copy)]
struct Segment {
    source: IpAddr,
    destination: IpAddr,
    ports: (u16, u16),
    sequence: u32,
    flags: u8,
}

impl Segment {
    fn frame(&self, link: Link) -> Vec<u8> {
        let ip = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                PacketBuilder::ipv4(source.octets(), destination.octets(), 64)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                PacketBuilder::ipv6(source.octets(), destination.octets(), 64)
            }
            _ => panic!("both ends are of one family"),
        };
        let mut tcp = ip.tcp(self.ports.0, self.ports.1, self.sequence, 64_240);
        if self.flags & SYN != 0 {
            tcp = tcp.syn();
        }
        if self.flags & ACK != 0 {
            tcp = tcp.ack(1);
        }
        let mut packet = Vec::new();
        tcp.write(&mut packet, b"twenty bytes of mail").unwrap();
        match link {
            Link::Ip => packet,
            Link::Ethernet => {
                let kind: [u8; 2] = if self.source.is_ipv4() { [8, 0] } else { [0x86, 0xdd] };
                [[2u8; 12].as_slice(), &kind, &packet].concat()
            }
        }
    }
}

/// What the account of a source should hold.
#[derive(Default)]
struct Expected {
    packets: u64,
    bytes: u64,
    attempts: u64,
    destinations: HashSet<IpAddr>,
    last: Option<IpAddr>,
    syns: VecDeque<(IpAddr, (u16, u16), u32)>,
}

impl Expected {
    fn enter(&mut self, segment: &Segment, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
        self.destinations.insert(segment.destination);
        self.last = self.last.or(Some(segment.destination));
        let syn = (segment.destination, segment.ports, segment.sequence);
        if segment.flags & SYN != 0 && !self.syns.contains(&syn) {
            self.attempts += 1;
            self.last = Some(segment.destination);
            self.syns.push_back(syn);
            if self.syns.len() > 4 {
                self.syns.pop_front();
            }
        }
    }
}

fn address(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(address) => Address::ipv4(address.octets()),
        IpAddr::V6(address) => {
            let bits = u128::from(address);
            Address { family: Family::Ipv6, high: (bits >> 64) as u64, low: bits as u64 }
        }
    }
}

fn v4(text: &str) -> IpAddr {
    text.parse::<Ipv4Addr>().unwrap().into()
}

fn v6(text: &str) -> IpAddr {
    text.parse::<Ipv6Addr>().unwrap().into()
}

/// Sources with the group, the reason towards the world and the prefix that names them.
fn sources() -> Vec<(IpAddr, &'static str, Reason, Address)> {
    let own = |text: &str| (v4(text), address(v4(text)));
    let (blocked, blocked_key) = own("203.0.113.9");
    let (other, other_key) = own("203.0.113.10");
    let (exempt, exempt_key) = own("203.0.113.7");
    let (watched, watched_key) = own("203.0.113.200");
    let (unknown, unknown_key) = own("198.18.0.1");
    // Two addresses of one customer, and a third of the next: /56 tells them apart.
    let home = Address { family: Family::Ipv6, high: 0x2001_0db8_1000_aa00, low: 0 };
    let next = Address { high: 0x2001_0db8_1000_ab00, ..home };
    let business = Address { high: 0x2001_0db8_2000_aa01, ..home };
    vec![
        (blocked, "residential", Reason::Blocked, blocked_key),
        (other, "residential", Reason::Blocked, other_key),
        (exempt, "residential", Reason::Exempt, exempt_key),
        (watched, "business", Reason::WouldBlock, watched_key),
        (unknown, "", Reason::UnknownSource, unknown_key),
        (v6("2001:db8:1000:aa01::1"), "residential", Reason::Blocked, home),
        (v6("2001:db8:1000:aaff::2"), "residential", Reason::Blocked, home),
        (v6("2001:db8:1000:ab01::1"), "residential", Reason::Blocked, next),
        (v6("2001:db8:2000:aa01::1"), "business", Reason::WouldBlock, business),
        (v6("2001:db8:2000:aa01::2"), "business", Reason::WouldBlock, business),
    ]
}

fn constants(link: Link, submission: bool) -> Constants {
    Constants { submission, seed: SEED, ..Constants::bare(Role::CUSTOMER, link) }
}

/// By how much a time that the kernel half tells may lie behind the clock.
const LATE: Duration = Duration::from_millis(250);

/// Frames of random segments among few sources, servers, ports and sequence numbers, so that many are alike.
#[test]
fn accounts_hold_what_was_sent() -> Result<()> {
    let office = Office::of(POLICY);
    let sources = sources();
    for entry in ENTRIES.iter().filter(|entry| entry.is_here()) {
        let kernel = Kernel::with(&office, constants(entry.link, false), &[entry.program, entry.explain])?;
        let mut random = fastrand::Rng::with_seed(25);
        let mut expected: HashMap<Key, Expected> = HashMap::new();
        let start = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
        for _ in 0..4_000 {
            let (source, group, reason, name) = random.choice(&sources).copied().context("no sources")?;
            let server = random.u8(1..40);
            let to_relay = random.u8(..8) == 0;
            let destination = match (source.is_ipv4(), to_relay) {
                (true, true) => v4("192.0.2.25"),
                (true, false) => Ipv4Addr::new(198, 51, 100, server).into(),
                (false, true) => v6("2001:db8:25::25"),
                (false, false) => v6(&format!("2001:db8:ffff::{server:x}")),
            };
            let flags = *random.choice(&[SYN, SYN, SYN | ACK, ACK, 0]).context("no flags")?;
            let segment = Segment {
                source,
                destination,
                ports: (40_000 + random.u16(..2), 25),
                sequence: random.u32(..2),
                flags,
            };
            let frame = segment.frame(entry.link);
            kernel.run(entry.program, &frame)?;
            kernel.run(entry.explain, &frame)?;
            let address = if name.family == Family::Ipv4 { name.low } else { name.high };
            let group = office.group(Some(group).filter(|group| !group.is_empty()));
            let reason = if to_relay { Reason::Relay } else { reason } as u8;
            let key = Key::new(address, group, reason, name.family as u8);
            expected.entry(key).or_default().enter(&segment, frame.len());
        }
        let end = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
        let (accounts, opened) = kernel.accounts()?;
        assert_eq!(opened, expected.len() as u64, "{}: accounts opened", entry.name);
        assert_eq!(accounts.len(), expected.len(), "{}: accounts", entry.name);
        for (key, account) in &accounts {
            let expected = expected.get(key).with_context(|| format!("{}: nobody is {key:?}", entry.name))?;
            compare(entry.name, key, account, expected);
            // Jiffies, of which a busy host may hold a few back: late, and never ahead.
            let opened = Duration::from_nanos(account.details.opened);
            let times = Duration::from(start).saturating_sub(LATE)..=Duration::from(end);
            assert!(
                times.contains(&opened),
                "{}: {key:?}: opened at {opened:?}, not in {times:?}",
                entry.name
            );
        }
        let attempts: u64 = expected.values().map(|expected| expected.attempts).sum();
        let mut counted = 0;
        for (number, ..) in kernel.all_cells()? {
            counted += kernel.cell(number)?.attempts;
        }
        assert_eq!(counted, attempts, "{}: attempts in the groups' counters", entry.name);
        say(&format!("sources: {}: {} accounts, {attempts} attempts", entry.name, accounts.len()));
    }
    Ok(())
}

fn compare(way: &str, key: &Key, account: &Source, expected: &Expected) {
    let sum =
        |of: fn(&op25b_ebpf::source::Window) -> u64| account.hours().map(|window| of(&window)).sum::<u64>();
    let found = (
        account.details.packets_before + sum(|window| window.packets),
        account.details.bytes_before + sum(|window| window.bytes),
        account.details.attempts_before + sum(|window| window.attempts),
    );
    assert_eq!(found, (expected.packets, expected.bytes, expected.attempts), "{way}: {key:?}");
    let bits = expected.destinations.iter().map(|server| destination_bit(address(*server), SEED));
    let bits: HashSet<u32> = bits.collect();
    let map = account.hours().fold([0; 8], |mut all: [u64; 8], window| {
        all.iter_mut().zip(window.destinations).for_each(|(word, more)| *word |= more);
        all
    });
    let set: HashSet<u32> = (0..512).filter(|bit| map[*bit as usize / 64] & 1 << (bit % 64) != 0).collect();
    assert_eq!(set, bits, "{way}: {key:?}: bits of destinations");
    let last = address(expected.last.unwrap());
    assert_eq!(account.details.destination, [last.high, last.low], "{way}: {key:?}: last destination");
    let hour = jiff::Timestamp::now().as_nanosecond() as u64 / WINDOW;
    for window in account.hours() {
        assert!(window.number == hour || window.number + 1 == hour, "{way}: hour {}", window.number);
        assert!(
            account.details.opened <= window.first && window.first <= window.last,
            "{way}: {key:?}: times"
        );
    }
}

#[test]
fn triangular_answers_are_the_customers_attempts() -> Result<()> {
    let office = Office::of(&POLICY.replace("mode: enforce,", "mode: enforce, return_path: enforce,"));
    let constants = Constants { role: Role::UPSTREAM, ..constants(Link::Ethernet, false) };
    let kernel = Kernel::with(&office, constants, &[program::XDP])?;
    for server in 1..=3 {
        let segment = Segment {
            source: Ipv4Addr::new(198, 51, 100, server).into(),
            destination: v4("203.0.113.9"),
            ports: (25, 40_000),
            sequence: 7,
            flags: SYN | ACK,
        };
        // Sent again, since nobody answers.
        for _ in 0..3 {
            kernel.run(program::XDP, &segment.frame(Link::Ethernet))?;
        }
    }
    let (accounts, _) = kernel.accounts()?;
    let [(key, account)] = accounts.as_slice() else { panic!("one account, not {}", accounts.len()) };
    assert_eq!(key.address, u64::from(u32::from(Ipv4Addr::new(203, 0, 113, 9))), "the customer's");
    assert_eq!(key.reason(), Reason::ReturnPath as u8);
    let attempts: u64 = account.hours().map(|window| window.attempts).sum();
    assert_eq!(attempts, 3, "one for each server");
    assert_eq!(
        account.details.destination[1],
        u64::from(u32::from(Ipv4Addr::new(198, 51, 100, 3))),
        "the server"
    );
    Ok(())
}

#[test]
fn submission_is_counted_where_the_policy_says_so_and_per_group_only() -> Result<()> {
    let office = Office::of(POLICY);
    let home = v4("203.0.113.9");
    let relay = v4("192.0.2.25");
    let other = v4("198.51.100.25");
    for entry in ENTRIES.iter().filter(|entry| entry.is_here()) {
        for counts in [true, false] {
            let kernel = Kernel::with(&office, constants(entry.link, counts), &[entry.program])?;
            let segments = [
                (home, relay, 587, SYN),
                (home, relay, 587, SYN),
                (home, relay, 465, SYN),
                // Not to a relay, not a connection, not from a group, not submission.
                (home, other, 587, SYN),
                (home, relay, 587, SYN | ACK),
                (home, relay, 587, ACK),
                (v4("198.18.0.1"), relay, 587, SYN),
                (home, relay, 443, SYN),
                (v6("2001:db8:2000::1"), v6("2001:db8:25::25"), 465, SYN),
            ];
            for (source, destination, port, flags) in segments {
                let segment = Segment { source, destination, ports: (40_000, port), sequence: 1, flags };
                let returned = kernel.run(entry.program, &segment.frame(entry.link))?;
                assert_eq!(returned, entry.pass, "{}: it passes", entry.name);
            }
            let mut counted: Vec<(u32, u64)> =
                kernel.all_cells()?.iter().map(|(cell, packets, _)| (*cell, *packets)).collect();
            counted.sort_unstable();
            let cell = |group, family, tls| submission_cell(office.group(Some(group)), family, tls);
            let mut expected = vec![
                (cell("residential", Family::Ipv4, false), 2),
                (cell("residential", Family::Ipv4, true), 1),
                (cell("business", Family::Ipv6, true), 1),
            ];
            expected.retain(|_| counts);
            expected.sort_unstable();
            assert_eq!(counted, expected, "{}: cells, counting: {counts}", entry.name);
            assert!(
                kernel.accounts()?.0.is_empty(),
                "{}: nobody is profiled for what is permitted",
                entry.name
            );
        }
    }
    Ok(())
}

/// The policy for a crowd: all of 10.0.0.0/8 is residential.
fn crowded() -> String {
    POLICY.replace("203.0.113.0/25", "10.0.0.0/8").replace("203.0.113.7", "10.255.255.7")
}

/// The first address of the crowd.
const FIRST: u32 = 0x0a00_0000;
/// Number of the last set of accounts of an object alone: it has room for 1,024.
const LAST_SET_ALONE: u32 = 1_024 / WAYS - 1;

/// A SYN of an address to port 25, and what becomes of it.
fn attempt(kernel: &Kernel, address: u32, sequence: u32) -> Result<u32> {
    let (source, destination) = (Ipv4Addr::from(address).into(), v4("198.51.100.25"));
    let segment = Segment { source, destination, ports: (40_000, 25), sequence, flags: SYN };
    kernel.run(program::XDP, &segment.frame(Link::Ethernet))
}

/// Addresses of the crowd with accounts in one set of an object alone: one more than it has places.
fn of_one_set() -> Vec<u32> {
    let set = |address: u32| place(u64::from(address), SEED, LAST_SET_ALONE).0;
    (FIRST..).filter(|address| set(*address) == set(FIRST)).take(WAYS as usize + 1).collect()
}

/// The groups' counters do not depend on the room for sources.
#[test]
fn sources_without_room_are_evicted_and_counted() -> Result<()> {
    let office = Office::of(&crowded());
    let kernel = Kernel::with(&office, constants(Link::Ethernet, false), &[program::XDP])?;
    const SENT: u32 = 5_000;
    for number in 0..SENT {
        attempt(&kernel, FIRST + number, number)?;
    }
    let (accounts, opened) = kernel.accounts()?;
    assert_eq!(opened, u64::from(SENT), "each opened one");
    assert!(accounts.len() <= 1024, "{} accounts, there is room for 1,024", accounts.len());
    assert!(accounts.len() >= 512, "{} accounts only", accounts.len());
    let cells = kernel.all_cells()?;
    let packets: u64 = cells.iter().map(|(_, packets, _)| packets).sum();
    assert_eq!(packets, u64::from(SENT), "counted all the same");
    say(&format!("sources: {} of {SENT} evicted, {SENT} counted", opened - accounts.len() as u64));
    Ok(())
}

const LAST_SET: u32 = KEPT / WAYS - 1;

/// Neighbours share a page, and nobody can tell who else is in their sets.
#[test]
fn neighbours_share_a_page_and_sets_are_secret() {
    let place = |address, seed| place(address, seed, LAST_SET);
    for first in (0x0a00_0000_u64..).step_by(64).take(1_000) {
        let places: HashSet<(u32, u32)> = (first..first + 64).map(|address| place(address, 25)).collect();
        let pages: HashSet<(u32, u32)> = places.iter().map(|(set, way)| (set / 64, *way)).collect();
        assert_eq!((places.len(), pages.len()), (64, 1), "{first:x}");
        assert!(places.iter().all(|(set, way)| *set <= LAST_SET && *way < WAYS));
    }
    // Of pages that lie upon each other by one seed, one in 256 does by another: as many as there are beside each other.
    let beside = |address: u64, seed| place(address, seed).0 / 64 == place(0x0a00_0000, seed).0 / 64;
    let pages = (0x0a00_0000_u64..).step_by(64).take(50_000);
    let together: Vec<u64> = pages.filter(|address| beside(*address, 25)).collect();
    let still = together.iter().filter(|address| beside(**address, 26)).count();
    assert!(together.len() > 100 && still < 10, "{still} of {}", together.len());
}

/// The part of so many sources that finds no room, where each set keeps as many as it can.
fn without_room(sources: impl Iterator<Item = Key>, seed: u64) -> f64 {
    let (mut sets, mut all, mut without) = (vec![0; LAST_SET as usize + 1], 0.0, 0.0);
    for key in sources {
        let (set, _) = place(key.address, seed, LAST_SET);
        sets[set as usize] += 1;
        all += 1.0;
        if sets[set as usize] > WAYS {
            without += 1.0;
        }
    }
    without / all
}

/// Whoever sends, nearly all find room while half of it is left.
#[test]
fn half_of_the_room_is_enough() {
    let half = u64::from(KEPT / 2);
    let mut random = fastrand::Rng::with_seed(25);
    for seed in 0..8 {
        // Of a /10 some at random; all of eight /18, each in a /12 of its own; the first /56 of sixty-four /36.
        let scattered: Vec<u64> = (0..half).map(|_| random.u64(..1 << 22)).collect();
        let scattered = scattered.into_iter().map(|low| Key::new(0x0a00_0000 | low, 1, 7, 0));
        let dense = (0..half).map(|number| Key::new(number >> 14 << 20 | number & 0x3fff, 1, 2, 0));
        let delegated = (0..half).map(|number| (number >> 11 << 28) + ((number & 0x7ff) << 8));
        let delegated = delegated.map(|low| Key::new(0x2001_0db8 << 32 | low, 2, 6, 1));
        let parts = [without_room(scattered, seed), without_room(dense, seed), without_room(delegated, seed)];
        say(&format!("sources: of half as many as there is room for find none: {parts:?}"));
        assert!(parts[0] < 0.002 && parts[1] < 0.005 && parts[2] < 0.005, "{parts:?}");
    }
}

/// In a set that is full the one that was silent for longest makes room.
#[test]
fn the_least_recently_seen_makes_room() -> Result<()> {
    let office = Office::of(&crowded());
    let kernel = Kernel::with(&office, constants(Link::Ethernet, false), &[program::XDP])?;
    let group = office.group(Some("residential"));
    let key = |address: u32| Key::new(u64::from(address), group, Reason::Blocked as u8, 0);
    let alike = of_one_set();
    let [rest @ .., last] = alike.as_slice() else { panic!("none") };
    assert_eq!(rest.len(), WAYS as usize);
    let send = |address: u32| attempt(&kernel, address, 1);
    for silent in [3, 11] {
        for address in rest {
            send(*address)?;
        }
        // Longer than a tick.
        thread::sleep(Duration::from_millis(200));
        for (_, address) in rest.iter().enumerate().filter(|(place, _)| *place != silent) {
            send(*address)?;
        }
        send(*last)?;
        let kept: HashSet<Key> = kernel.accounts()?.0.into_iter().map(|(key, _)| key).collect();
        let mut expected: HashSet<Key> = alike.iter().map(|address| key(*address)).collect();
        expected.remove(&key(rest[silent]));
        assert_eq!(kept, expected, "number {silent} was silent");
        // For the second time round: the new one is the oldest.
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Who makes others' accounts make room does not get a share of answers anew by it: there is one for each place.
#[test]
fn making_room_brings_no_answers() -> Result<()> {
    const SENT: u32 = 40_000;
    let office = Office::of(&crowded().replace("mode: enforce", "mode: enforce, action: reset"));
    let answering = Constants { answers: true, ..constants(Link::Ethernet, false) };
    let kernel = Kernel::with(&office, answering, &[program::XDP])?;
    let start = Instant::now();
    for (sequence, address) in (0..SENT).zip(of_one_set().into_iter().cycle()) {
        attempt(&kernel, address, sequence)?;
    }
    let share = 1_005 + start.elapsed().as_millis() as u64 / 5;
    let limited = kernel.replies()?[Reply::SourceLimit as usize];
    let (_, opened) = kernel.accounts()?;
    say(&format!(
        "sources: {opened} accounts opened in one set, {limited} of {SENT} frames over a source's share"
    ));
    assert!(opened > 1_000, "{opened}: they made room for each other");
    assert!(u64::from(SENT) - limited <= u64::from(WAYS) * share, "{limited} over a share of {share}");
    Ok(())
}

/// Two CPUs that open the same accounts at the same time open each once, and no frame is missing in it.
#[test]
fn cpus_open_an_account_once() -> Result<()> {
    const SOURCES: u32 = 500;
    let office = Office::of(&crowded());
    let mut missing = 0;
    for round in 0..20 {
        let kernel = Kernel::with(&office, constants(Link::Ethernet, false), &[program::XDP])?;
        let send = || -> Result<()> {
            for number in 0..SOURCES {
                attempt(&kernel, FIRST + number, 1)?;
            }
            Ok(())
        };
        thread::scope(|scope| -> Result<()> {
            let others: Vec<_> = (0..3).map(|_| scope.spawn(send)).collect();
            send()?;
            others.into_iter().try_for_each(|other| other.join().expect("it does not panic"))
        })?;
        let (accounts, opened) = kernel.accounts()?;
        assert_eq!((accounts.len() as u32, opened), (SOURCES, u64::from(SOURCES)), "round {round}: opened");
        for (key, source) in accounts {
            assert!(source.account.packets() <= 4, "round {round}: {key:?}: more than were sent");
            missing += 4 - source.account.packets();
        }
    }
    // Who is interrupted while it opens an account keeps others out, who do not wait.
    say(&format!(
        "sources: of 40000 frames of accounts that were opened by several at once, {missing} are missing"
    ));
    assert!(missing <= 40, "{missing}");
    Ok(())
}

/// Without accounts the decision and the groups' packets and bytes are the same.
#[test]
fn a_policy_can_do_without_accounts() -> Result<()> {
    let office = Office::of(POLICY);
    for entry in ENTRIES.iter().filter(|entry| entry.is_here()) {
        let with = Kernel::with(&office, constants(entry.link, false), &[entry.program])?;
        let bare = Constants { accounts: false, ..constants(entry.link, false) };
        let without = Kernel::with(&office, bare, &[entry.program])?;
        for (source, ..) in sources() {
            for sequence in [1, 1, 2] {
                let destination =
                    if source.is_ipv4() { v4("198.51.100.25") } else { v6("2001:db8:ffff::25") };
                let segment = Segment { source, destination, ports: (40_000, 25), sequence, flags: SYN };
                let frame = segment.frame(entry.link);
                let (one, other) = (with.run(entry.program, &frame)?, without.run(entry.program, &frame)?);
                assert_eq!(one, other, "{}: what happens to the frame", entry.name);
            }
        }
        let (mut one, mut other) = (with.all_cells()?, without.all_cells()?);
        one.sort_unstable();
        other.sort_unstable();
        assert_eq!(one, other, "{}: packets and bytes of the groups", entry.name);
        assert!(!one.is_empty() && !with.accounts()?.0.is_empty(), "{}: something was counted", entry.name);
        assert!(without.accounts()?.0.is_empty(), "{}: nobody has an account", entry.name);
        for (cell, ..) in one {
            assert_eq!(without.cell(cell)?.attempts, 0, "{}: attempts need accounts", entry.name);
        }
    }
    Ok(())
}

/// An hour ends for all at once; the one before is kept beside it, older ones are summed, and nothing is lost where a
/// CPU or an interface is a little behind, or the clock is set back.
#[test]
fn an_hour_turns_once() -> Result<()> {
    let office = Office::of(POLICY);
    let pins = tempfile::Builder::new().prefix("op25b-sources-").tempdir_in("/sys/fs/bpf")?;
    for folder in ["tables", "counters", "sources"] {
        std::fs::create_dir(pins.path().join(folder))?;
    }
    let path = |folder: &str| pins.path().join(folder);
    let (tables, counters, sources) = (path("tables"), path("counters"), path("sources"));
    // The middle of an hour long gone, by the time since the machine's start.
    let monotonic = jiff::Timestamp::now().as_nanosecond() as u64 - clock::epoch()?;
    let epoch = 1_000 * WINDOW + WINDOW / 2 - monotonic % WINDOW;
    let first = (epoch + monotonic) / WINDOW;
    let hour = WINDOW.cast_signed();
    let until_next = hour - ((epoch + monotonic) % WINDOW).cast_signed();
    // When, against the first; SYNs; then the number of the hour, packets of it, of the one before and of older ones, and
    // all attempts.
    let steps: [(i64, &[u32], _); 5] = [
        (0, &[0, 1, 2, 3, 4, 5], (first, 6, 0, 0, 6)),
        // Remembered are 2 to 5, of which these two take the oldest ones' places.
        (hour, &[0, 1], (first + 1, 2, 6, 0, 8)),
        // Half a second before that hour began.
        (until_next - 500_000_000, &[4], (first + 1, 3, 6, 0, 8)),
        (2 * hour, &[0], (first + 2, 1, 3, 6, 8)),
        // The clock was set back.
        (0, &[9], (first, 1, 1, 9, 9)),
    ];
    for (ahead, sequences, expected) in steps {
        let epoch = epoch.wrapping_add_signed(ahead);
        let build = Build { bytes: OBJECT, globals: &[("EPOCH", &epoch.to_ne_bytes())], sources: 16 };
        let maps = Maps::Pinned { tables: &tables, counters: &counters, sources: &sources };
        let mut object = object::create_from(&build, &office.tables, constants(Link::Ethernet, false), maps)?;
        let Program::Xdp(program) = object::load(&mut object, program::XDP)? else {
            panic!("no XDP program")
        };
        for &sequence in sequences {
            let segment = Segment {
                source: v4("203.0.113.9"),
                destination: v4("198.51.100.25"),
                ports: (40_000, 25),
                sequence,
                flags: SYN,
            };
            object::run(program, &segment.frame(Link::Ethernet))?;
        }
        let accounts = ways::accounts(&object)?;
        let [(_, Source { account, details })] = accounts.as_slice() else {
            panic!("{} accounts, not one", accounts.len())
        };
        let attempts = account.attempts + details.before.attempts + details.attempts_before;
        let number = u64::from(account.number);
        let found = (number, account.packets(), details.before.packets, details.packets_before, attempts);
        assert_eq!(found, expected, "{ahead} ns ahead");
    }
    Ok(())
}
