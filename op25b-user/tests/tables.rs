//! Compiled tables against a linear longest-prefix search, at, before and behind every boundary, host and kernel.
#![allow(clippy::expect_used, clippy::panic, reason = "an address that is found wrong fails the test")]

mod frames;
mod generate;
mod ways;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, Pod,
    maps::{Array, Map, MapData},
};
use aya_obj::generated::BPF_F_RDONLY_PROG;
use ipnetwork::IpNetwork;
use op25b::{
    object::{self, Constants, Maps, Wire},
    situation::Situation,
    tables::{Entry, Table, Tables},
};
use op25b_ebpf::{
    abi::{Customer, Link, Role},
    address::{Address, Family},
    policy::Policy as _,
    table::{AnyLine, Kind, LINES, Line4, Line6, Node, Root, find, glance},
    verdict::Verdict,
};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::{
    frames::{Ipv4, Ipv6, Tcp},
    generate::Chance,
    ways::{Kernel, Office, Setting, Variant, say},
};

/// A customer that no generated prefix equals.
const ANCHOR: &str = "2001:db8:ffff:ffff:ffff:ffff:ffff:fffe";

/// Prefixes of the lists of a policy.
#[derive(Clone, Debug, Default)]
struct Lists {
    groups: Vec<Vec<IpNetwork>>,
    destinations: Vec<Vec<IpNetwork>>,
    relays: Vec<Vec<IpNetwork>>,
    exemptions: Vec<IpNetwork>,
    /// With whether the relays are left.
    quarantine: Vec<(IpNetwork, bool)>,
}

impl Lists {
    /// Drops what a policy file may not say: a prefix in two groups, twice in a list, a list of none.
    fn tidied(mut self) -> Self {
        let mut owned = BTreeSet::new();
        for group in &mut self.groups {
            group.retain(|prefix| owned.insert(*prefix));
        }
        self.groups.retain(|group| !group.is_empty());
        for list in self.destinations.iter_mut().chain(&mut self.relays).chain([&mut self.exemptions]) {
            let mut seen = BTreeSet::new();
            list.retain(|prefix| seen.insert(*prefix));
        }
        self.relays.retain(|relay| !relay.is_empty());
        let mut seen = BTreeSet::new();
        self.quarantine.retain(|(prefix, _)| seen.insert(*prefix));
        self
    }

    /// As a policy file.
    fn policy(&self) -> String {
        let list = |prefixes: &[IpNetwork]| {
            let quoted = prefixes.iter().map(|prefix| format!("\"{prefix}\"")).collect::<Vec<_>>();
            format!("[{}]", quoted.join(", "))
        };
        let relays = self.relays.iter().enumerate();
        let relays =
            relays.map(|(number, prefixes)| format!("{{name: r{number}, addresses: {}}}", list(prefixes)));
        let groups = self.groups.iter().enumerate().map(|(number, prefixes)| {
            let destinations = self.destinations.get(number).map_or(&[][..], Vec::as_slice);
            format!(
                "{{name: g{number}, prefixes: {}, mode: enforce, allow_any: true, destinations: {}}}",
                list(prefixes),
                list(destinations)
            )
        });
        let exemptions = self.exemptions.iter().map(|prefix| format!("{{prefixes: [\"{prefix}\"]}}"));
        let quarantine = self
            .quarantine
            .iter()
            .map(|(prefix, relays)| format!("{{prefixes: [\"{prefix}\"], relays: {relays}}}"));
        let entries = |entries: Vec<String>| format!("[\n  {}\n]", entries.join(",\n  "));
        format!(
            "version: 1\nunknown_sources: pass\nrelays: {}\ncustomers: {}\nexemptions: {}\nquarantine: {}\n",
            entries(relays.collect()),
            // Some group must have an IPv6 prefix.
            entries(
                std::iter::once(format!("{{name: anchor, prefixes: [\"{ANCHOR}/128\"], mode: off}}"))
                    .chain(groups)
                    .collect()
            ),
            entries(exemptions.collect()),
            entries(quarantine.collect())
        )
    }

    fn prefixes(&self) -> impl Iterator<Item = IpNetwork> {
        let lists = self.groups.iter().chain(&self.destinations).chain(&self.relays).flatten();
        let exceptions = self.exemptions.iter().chain(self.quarantine.iter().map(|(prefix, _)| prefix));
        lists.chain(exceptions).copied()
    }

    /// What an address is as a customer, by linear search.
    fn customer(&self, office: &Office, address: IpAddr) -> Customer {
        let mut best = if address.to_string() == ANCHOR { Some((128, "anchor".to_owned())) } else { None };
        for (number, group) in self.groups.iter().enumerate() {
            if let Some(length) = longest(group.iter(), address)
                && best.as_ref().is_none_or(|(best, _)| *best < length)
            {
                best = Some((length, format!("g{number}")));
            }
        }
        let mut value = best.map_or(0, |(_, name)| office.group(Some(&name)));
        if longest(self.exemptions.iter(), address).is_some() {
            value |= Customer::EXEMPT;
        }
        let around = self.quarantine.iter().filter(|(prefix, _)| prefix.contains(address));
        if let Some((_, relays)) = around.max_by_key(|(prefix, _)| prefix.prefix()) {
            value |= Customer::QUARANTINED | if *relays { Customer::RELAYS_LEFT } else { 0 };
        }
        Customer(value)
    }

    /// Relays that have an address, a bit each.
    fn relays(&self, address: IpAddr) -> u64 {
        let relays = self.relays.iter().enumerate();
        relays.fold(0, |mask, (bit, relay)| mask | u64::from(longest(relay.iter(), address).is_some()) << bit)
    }
}

fn longest<'p>(prefixes: impl Iterator<Item = &'p IpNetwork>, address: IpAddr) -> Option<u8> {
    prefixes.filter(|prefix| prefix.contains(address)).map(IpNetwork::prefix).max()
}

/// The ends of each family, and each prefix's ends with their neighbours.
fn boundaries(prefixes: impl Iterator<Item = IpNetwork>) -> BTreeSet<IpAddr> {
    let mut addresses = BTreeSet::from([
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V4(Ipv4Addr::BROADCAST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::from(u128::MAX)),
    ]);
    for prefix in prefixes {
        for end in [prefix.network(), prefix.broadcast()] {
            addresses.insert(end);
            for step in [-1_i8, 1] {
                addresses.extend(beside(end, step));
            }
        }
    }
    addresses
}

fn beside(address: IpAddr, step: i8) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(address) => {
            IpAddr::V4(Ipv4Addr::from(u32::from(address).checked_add_signed(i32::from(step))?))
        }
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from(u128::from(address).checked_add_signed(i128::from(step))?))
        }
    })
}

fn address(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(address) => Address::ipv4(address.octets()),
        IpAddr::V6(address) => {
            let bytes = u128::from(address);
            Address::ipv6(((bytes >> 64) as u64).to_be_bytes(), (bytes as u64).to_be_bytes())
        }
    }
}

/// What is wrong with the lines of a table: more than a lookup reads, or than its ranges are worth.
fn excess<L: Entry>(table: &Table<L>) -> Option<String> {
    let (lines, ranges, steps) = (table.lines.len(), table.ranges.len(), table.steps);
    (u32::from(steps) > LINES || lines > 5 * ranges + 2)
        .then(|| format!("{lines} lines for {ranges} ranges, {steps} of them in a lookup"))
}

/// What tables and linear search disagree on.
fn disagreements(lists: &Lists) -> Vec<String> {
    let office = Office::of(&lists.policy());
    let Tables { customers4, customers6, servers4, servers6, .. } = &office.tables;
    let excesses = [excess(customers4), excess(customers6), excess(servers4), excess(servers6)];
    let mut wrong: Vec<String> = excesses.into_iter().flatten().collect();
    for ip in boundaries(lists.prefixes()) {
        for (ipv4, ipv6) in [(customers4, customers6), (servers4, servers6)] {
            let Address { family, high, low } = address(ip);
            let (glanced, found) = match family {
                Family::Ipv4 => (glance(ipv4, low), find(ipv4, low)),
                Family::Ipv6 => (glance(ipv6, [high, low]), find(ipv6, [high, low])),
            };
            if glanced.is_some_and(|glanced| glanced != found) {
                wrong.push(format!("{ip}: {glanced:?} at a glance, {found} found"));
            }
        }
        let (customer, server) = (office.tables.customer(address(ip)), office.tables.server(address(ip)));
        let expected = lists.customer(&office, ip);
        if customer != expected {
            wrong.push(format!("{ip}: customer {customer:?}, expected {expected:?}"));
        }
        if server.relays != lists.relays(ip) {
            wrong.push(format!("{ip}: relays {:b}, expected {:b}", server.relays, lists.relays(ip)));
        }
        for (number, destinations) in lists.destinations.iter().enumerate().take(lists.groups.len()) {
            let group = office.tables.group(office.group(Some(&format!("g{number}")))).expect("a group");
            let inside = longest(destinations.iter(), ip).is_some();
            if destinations.is_empty() != (group.scope == 0) || inside != (server.scopes & group.scope != 0) {
                wrong.push(format!("{ip}: destinations of g{number}, expected {inside}"));
            }
        }
    }
    wrong
}

/// Prefixes that nest, touch and crowd: few starting points, many lengths.
fn prefix() -> impl Strategy<Value = IpNetwork> {
    let v4 = (
        select(vec![0_u32, 0xc000_0200, 0xc633_6400, 0xcb00_7100, 0xcb00_71ff, u32::MAX]),
        prop_oneof![Just(0_u32), 0..16_u32, any::<u32>()],
        prop_oneof![Just(0_u8), Just(32), 0..=32_u8, 20..=32_u8],
    )
        .prop_map(|(base, offset, length)| {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            let address = Ipv4Addr::from(base.wrapping_add(offset) & mask);
            IpNetwork::new(address.into(), length).expect("at most 32")
        });
    let v6 = (
        select(vec![0_u128, 0x2001_0db8 << 96, 0x2001_0db8_1000_0000 << 64, u128::MAX]),
        prop_oneof![
            Just(0_u128),
            0..16_u128,
            (0..64_u128).prop_map(|step| step << 64),
            (0..64_u128).prop_map(|step| step << 80),
            any::<u128>()
        ],
        prop_oneof![Just(0_u8), Just(128), 0..=128_u8, 60..=68_u8, 32..=64_u8],
    )
        .prop_map(|(base, offset, length)| {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            let address = Ipv6Addr::from(base.wrapping_add(offset) & mask);
            IpNetwork::new(address.into(), length).expect("at most 128")
        });
    prop_oneof![v4, v6]
}

fn lists() -> impl Strategy<Value = Lists> {
    (
        vec(vec(prefix(), 0..30), 1..4),
        vec(vec(prefix(), 0..8), 0..4),
        vec(vec(prefix(), 0..8), 0..4),
        vec(prefix(), 0..20),
        vec((prefix(), any::<bool>()), 0..20),
    )
        .prop_map(|(groups, destinations, relays, exemptions, quarantine)| {
            Lists { groups, destinations, relays, exemptions, quarantine }.tidied()
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn tables_equal_a_linear_search(lists in lists()) {
        let wrong = disagreements(&lists);
        prop_assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), lists.policy());
    }
}

fn prefixes(list: &[&str]) -> Vec<IpNetwork> {
    list.iter().map(|text| text.parse().expect("a prefix")).collect()
}

fn agree(lists: Lists) {
    let lists = lists.tidied();
    let wrong = disagreements(&lists);
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), lists.policy());
}

#[test]
fn prefix_of_everyone_is_a_group() {
    agree(Lists { groups: vec![prefixes(&["0.0.0.0/0", "::/0"])], ..Lists::default() });
}

#[test]
fn first_and_last_address_are_found() {
    agree(Lists {
        groups: vec![
            prefixes(&["0.0.0.0/32", "::/128"]),
            prefixes(&["255.255.255.255/32", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"]),
        ],
        ..Lists::default()
    });
}

#[test]
fn prefixes_that_start_or_end_together_nest() {
    agree(Lists {
        groups: vec![
            prefixes(&[
                "203.0.113.0/24",
                "203.0.113.0/26",
                "203.0.113.255/32",
                "2001:db8::/32",
                "2001:db8::/128",
            ]),
            prefixes(&["203.0.113.0/25", "203.0.113.192/26", "203.0.113.0/32", "2001:db8::/64"]),
        ],
        exemptions: prefixes(&["203.0.113.0/24", "203.0.113.0/32", "2001:db8::/64"]),
        quarantine: vec![
            ("203.0.113.0/24".parse().expect("a prefix"), true),
            ("203.0.113.0/25".parse().expect("a prefix"), false),
            ("203.0.113.0/32".parse().expect("a prefix"), true),
        ],
        ..Lists::default()
    });
}

#[test]
fn adjacent_prefixes_of_one_group_leave_no_gap() {
    agree(Lists {
        groups: vec![prefixes(&["203.0.113.0/25", "203.0.113.128/25", "203.0.112.0/24"])],
        ..Lists::default()
    });
}

#[test]
fn keys_below_and_above_all_prefixes_are_in_none() {
    agree(Lists {
        groups: vec![prefixes(&[
            "10.0.0.0/8",
            "10.0.0.0/32",
            "203.0.113.7/32",
            "2001:db8::/48",
            "2001:db8:9::/64",
        ])],
        ..Lists::default()
    });
}

#[test]
fn first_and_last_line_of_a_node_are_found() {
    // So many that a table has more than a line, from the first address to the last.
    let every = |step: u128| (0..256_u128).map(move |number| number * step);
    let mut ipv4: Vec<_> = every(1 << 24).map(|start| v4(start as u32, 32)).collect();
    let mut ipv6: Vec<_> = every(1 << 120).map(|start| v6(start, 128)).collect();
    ipv4.extend(prefixes(&["255.255.255.254/31", "255.255.255.255/32"]));
    ipv6.extend([v6(u128::MAX - 1, 127), v6(u128::MAX, 128)]);
    let everyone = prefixes(&["0.0.0.0/0", "::/0"]);
    let lists = Lists { groups: vec![ipv4, ipv6, everyone], ..Lists::default() };
    let tables = Office::of(&lists.policy()).tables;
    assert!(tables.customers4.ranges.len() > 512 && tables.customers6.ranges.len() > 512);
    agree(lists);
}

#[test]
fn ipv6_prefixes_whose_upper_halves_are_equal_are_told_apart() {
    let base = 0x2001_0db8 << 96;
    let within: Vec<_> = (0..64).map(|number| v6(base | number << 32, 128 - (number % 33) as u8)).collect();
    // Across the boundary: the /64 itself, one that ends with it, one that begins behind it.
    let around =
        vec![v6(base, 64), v6(base | u128::from(u64::MAX), 128), v6(base + (1 << 64), 65), v6(base, 63)];
    agree(Lists { groups: vec![within, around], ..Lists::default() });
}

/// How many lines of a table are leaves with whole starts, with upper bits, branches and nodes.
fn kinds<L: Entry>(table: &Table<L>) -> [usize; 4] {
    let mut kinds = [0; 4];
    for line in &table.lines {
        let kind = match line.kind() {
            Kind::Leaf => 0,
            Kind::Near => 1,
            Kind::Branch { .. } => 2,
            Kind::Node { .. } => 3,
        };
        kinds[kind] += 1;
    }
    kinds
}

#[test]
fn crowded_lines_become_nodes() {
    // Two crowds far apart, and in each a crowd in a corner: nodes in nodes.
    let corner = |start: u32| (0..700_u32).map(move |number| v4(start + number * 2, 32));
    let wide = |start: u32| (0..200_u32).map(move |number| v4(start + (number << 16), 24));
    let ipv4 = corner(0x0a00_0000).chain(wide(0x0b00_0000)).chain(corner(0xdfff_0000)).collect();
    let corner = |start: u128| (0..700_u128).map(move |number| v6(start + (number << 65), 64));
    let wide = |start: u128| (0..200_u128).map(move |number| v6(start + (number << 100), 48));
    let ipv6 = corner(0x2001_0db8 << 96).chain(wide(0x2400 << 112)).chain(corner(0x3fff << 112)).collect();
    let lists = Lists { groups: vec![ipv4, ipv6], ..Lists::default() };
    let office = Office::of(&lists.policy());
    let nodes = kinds(&office.tables.customers4)[3] + kinds(&office.tables.customers6)[3];
    assert!(nodes >= 4, "{nodes}");
    agree(lists);
}

/// Prefixes each half as far from the first as the one before: whatever the width of a span, the first one has the rest.
/// And prefixes in one /64, of which upper bits tell nothing.
fn undivided() -> Vec<Vec<IpNetwork>> {
    let ipv4 = (0..32).map(|bit| v4(1 << bit, 32)).collect();
    let ipv6 = (0..128).map(|bit| v6(1 << bit, 128)).collect();
    let within = (0..3000_u128).map(|number| v6(0x2001_0db8 << 96 | number << 20, 128 - (number % 16) as u8));
    vec![ipv4, ipv6, within.collect()]
}

#[test]
fn ranges_that_no_node_divides_become_branches() {
    let lists = Lists { groups: undivided(), ..Lists::default() };
    let office = Office::of(&lists.policy());
    for (kinds, steps) in [
        (kinds(&office.tables.customers4), office.tables.customers4.steps),
        (kinds(&office.tables.customers6), office.tables.customers6.steps),
    ] {
        assert!(kinds[0] > 0 && kinds[2] > 0 && kinds[3] > 0, "{kinds:?}");
        assert!(u32::from(steps) <= LINES && steps > 2, "{steps}");
    }
    agree(lists);
}

#[test]
fn upper_half_of_the_ipv6_addresses_is_told_apart() {
    // Keys and starts that differ by 2^63 and more in their upper halves.
    let starts = [0_u128, 0x2001_0db8 << 96, 0x7fff << 112, 0x8000 << 112, 0xfe80 << 112, u128::MAX << 64];
    let few = starts.map(|start| v6(start, 64)).to_vec();
    let many = (0..64).map(|number| v6(number << 121, 56)).collect();
    agree(Lists { groups: vec![few.clone()], ..Lists::default() });
    agree(Lists { groups: vec![few, many], ..Lists::default() });
    // The same outside of the node.
    let within = (0..32).map(|number| v6(0x2001_0db8 << 96 | number << 65, 64)).collect();
    agree(Lists { groups: vec![vec![v6(0, 2)], within], ..Lists::default() });
}

#[test]
fn every_table_of_a_few_ranges_is_right() {
    // Around the capacities of a line: a leaf, a leaf and one range more, a branch. Side by side, in turns of two groups.
    for count in 0..60_u32 {
        let ipv4 = |number: u32| v4(0xc633_6400 + number, 32);
        let near = |number: u32| v6(0x2001_0db8 << 96 | u128::from(number) << 64, 64);
        let whole = |number: u32| v6(0x2001_0db9 << 96 | u128::from(number), 128);
        let one = |first| (first..count).step_by(2).flat_map(|number| [ipv4(number), near(number)]).collect();
        let other =
            |first| (first..count).step_by(2).flat_map(|number| [ipv4(number), whole(number)]).collect();
        agree(Lists { groups: vec![one(0), one(1)], ..Lists::default() });
        agree(Lists { groups: vec![other(0), other(1)], ..Lists::default() });
    }
}

fn v4(start: u32, length: u8) -> IpNetwork {
    IpNetwork::new(Ipv4Addr::from(start).into(), length).expect("at most 32")
}

fn v6(start: u128, length: u8) -> IpNetwork {
    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    IpNetwork::new(Ipv6Addr::from(start & mask).into(), length).expect("at most 128")
}

#[test]
fn a_line_survives_its_packing() {
    fn survives<L: AnyLine>(base: u64) {
        let node = Node { base, outside: u32::MAX, shift: 63 };
        for kind in [
            Kind::Leaf,
            Kind::Near,
            Kind::Branch { at: u32::MAX - 1 },
            Kind::Node { at: u32::MAX - 1, node },
            Kind::Node { at: 1, node: Node { base: 2, outside: 3, shift: 0 } },
        ] {
            assert_eq!(L::new(kind, &[], &[]).kind(), kind);
        }
    }
    survives::<Line4>(u32::MAX.into());
    survives::<Line6>(u64::MAX);
}

#[test]
fn what_is_outside_of_all_prefixes_needs_no_line() {
    let glances = |text: &str| {
        let tables = Office::of(text).tables;
        // A server that no policy names, and a customer of another provider.
        (glance(&tables.servers4, 0x0808_0808), glance(&tables.customers4, 0x0808_0808), tables)
    };
    let policy = |prefix: &str| {
        format!(
            "version: 1\nipv6: unfiltered\nunknown_sources: pass\nrelays: [{{name: r, addresses: [192.0.2.25]}}]\n\
             customers: [{{name: g, prefixes: [{prefix}], mode: enforce, allow_any: true}}]\n"
        )
    };
    let (server, customer, mut tables) = glances(&policy("203.0.113.0/24"));
    assert_eq!((server, customer), (Some(0), Some(0)));
    tables.servers4.lines.clear();
    assert_eq!(glance(&tables.servers4, 0x0808_0808), Some(0), "it reads no line");
    // What holds below the prefixes is not what holds above: a line says which.
    let (_, customer, tables) = glances(&policy("0.0.0.0/1"));
    assert_eq!(tables.customers4.root.outside, Root::DIFFERS);
    assert_ne!(customer.unwrap_or_else(|| find(&tables.customers4, 0x0808_0808)), 0);
    assert_eq!(find(&tables.customers4, 0x8808_0808), 0);
}

#[test]
fn the_kernel_holds_the_tables_as_they_were_compiled() {
    let mut policy = Office::of(&crowd(554, 1000).policy()).policy;
    // More than one batch.
    policy.groups[0].prefixes.extend((0..40_000).map(|number| v4(0x0a00_0000 + 2 * number, 32)));
    policy.groups[1].prefixes.extend((0..40_000).map(|number| v6(0x2400 << 112 | number << 65, 64)));
    let tables = &Tables::compile(&policy, &Situation::default(), |_| 1).expect("they are not too large");
    assert!(tables.customers4.lines.len() > 1 << 12 && tables.customers6.lines.len() > 1 << 12);
    let pins = Pins::new("tables-read-back");
    let create = || {
        let constants = Constants::bare(Role::BOTH, Link::Ethernet);
        let maps = Maps::Pinned { tables: &pins.0, counters: &pins.0, sources: &pins.0 };
        object::create(tables, constants, maps).unwrap_or_else(|error| panic!("{error:#}"))
    };
    let holds = |object: &Ebpf| {
        equals(object, "CUSTOMERS4", &tables.customers4.lines);
        equals(object, "CUSTOMERS6", &tables.customers6.lines);
        equals(object, "SERVERS4", &tables.servers4.lines);
        equals(object, "SERVERS6", &tables.servers6.lines);
        equals(object, "SERVERS", &tables.servers);
    };
    holds(&create());
    // The next interface takes them as they are.
    let again = create();
    holds(&again);
    // A crash before the last pin: nothing is taken for good.
    std::fs::remove_file(pins.0.join("CUSTOMERS4")).expect("it is pinned");
    let anew = create();
    holds(&anew);
    let number = |object: &Ebpf| data(object, "SERVERS").info().expect("it is a map").id();
    assert_ne!(number(&again), number(&anew));
}

/// A folder of pins that goes with the test.
struct Pins(PathBuf);

impl Pins {
    fn new(name: &str) -> Self {
        let path = Path::new("/sys/fs/bpf").join(format!("op25b-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).expect("bpffs is mounted");
        Self(path)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn data<'o>(object: &'o Ebpf, name: &str) -> &'o MapData {
    match object.map(name) {
        Some(Map::Array(data)) => data,
        _ => panic!("no array {name}"),
    }
}

fn equals<T: Copy + PartialEq + std::fmt::Debug>(object: &Ebpf, name: &str, values: &[T])
where
    Wire<T>: Pod,
{
    let map = object.map(name).expect("a map");
    let array: Array<_, Wire<T>> = map.try_into().expect("an array of them");
    assert_eq!(array.len() as usize, values.len(), "{name}");
    for (position, (entry, value)) in array.iter().zip(values).enumerate() {
        assert_eq!(entry.expect("it can be read").0, *value, "{name}, entry {position}");
    }
}

#[test]
fn no_program_can_write_to_the_tables() {
    let office = Office::of(&crowd(25, 10).policy());
    let constants = Constants::bare(Role::BOTH, Link::Ethernet);
    let object =
        object::create(&office.tables, constants, Maps::Own).unwrap_or_else(|error| panic!("{error:#}"));
    for name in ["CUSTOMERS4", "CUSTOMERS6", "SERVERS4", "SERVERS6", "SERVERS", "CUSTOMER_GROUPS"] {
        let flags = data(&object, name).info().expect("it is a map").map_flags();
        assert_eq!(flags & BPF_F_RDONLY_PROG, BPF_F_RDONLY_PROG, "{name}");
    }
}

/// Many prefixes in few /16s, as customers are.
fn crowd(seed: u64, count: usize) -> Lists {
    let mut chance = Chance::new(seed);
    let mut lists = Lists { groups: vec![Vec::new(); 4], ..Lists::default() };
    for _ in 0..count {
        let group = chance.below(4);
        let within = chance.pick(&[0xc633_0000_u32, 0xcb00_0000, 0xcb01_0000]);
        let length = chance.pick(&[24_u8, 28, 29, 30, 32, 32, 32]);
        let bits = chance.bits() as u32 & 0xffff;
        let start = (within | bits) & (u32::MAX << (32 - u32::from(length)));
        lists.groups[group].push(IpNetwork::new(Ipv4Addr::from(start).into(), length).expect("at most 32"));
        // A provider's IPv6 prefixes all start alike.
        let length = chance.pick(&[48_u8, 56, 60, 64, 64, 72, 128]);
        let bits = u128::from(chance.bits() & 0xff_ffff) << 64 | u128::from(chance.bits());
        let start = (0x2001_0db8 << 96 | bits) & (u128::MAX << (128 - u32::from(length)));
        lists.groups[group].push(IpNetwork::new(Ipv6Addr::from(start).into(), length).expect("at most 128"));
    }
    lists.exemptions = lists.groups.iter().flatten().step_by(37).copied().collect();
    lists.quarantine =
        lists.groups.iter().flatten().skip(5).step_by(53).map(|prefix| (*prefix, false)).collect();
    lists.relays = vec![prefixes(&["192.0.2.25/32", "2001:db8:ffff:25::/64"])];
    lists.tidied()
}

#[test]
fn crowded_tables_equal_a_linear_search() {
    let lists = crowd(25, 1500);
    let wrong = disagreements(&lists);
    assert!(wrong.is_empty(), "{} of {}: {}", wrong.len(), lists.prefixes().count(), wrong[..5].join("\n"));
}

#[test]
fn kernel_finds_what_a_linear_search_finds() {
    let mut lists = crowd(2008, 1500);
    lists.groups.extend(undivided());
    let lists = lists.tidied();
    let office = Office::of(&lists.policy());
    let setting = Setting { variant: Variant::Pass, role: Role::CUSTOMER };
    let explain = object::program::EXPLAIN;
    let kernel = Kernel::load(&office, setting, Link::Ethernet, &[explain])
        .unwrap_or_else(|error| panic!("{error:#}"));
    let mut wrong = Vec::new();
    let mut tally: BTreeMap<&str, u64> = BTreeMap::new();
    let addresses = boundaries(lists.prefixes());
    for ip in &addresses {
        let frame = match *ip {
            IpAddr::V4(source) => Tcp::mail().within(Ipv4::between(source, Ipv4Addr::new(192, 0, 2, 10))),
            IpAddr::V6(source) => Tcp::mail().within(Ipv6::between(source, Ipv6Addr::LOCALHOST)),
        }
        .frame();
        let customer = lists.customer(&office, *ip);
        let (reason, verdict) = if customer.has(Customer::QUARANTINED) {
            ("quarantined", Verdict::Drop)
        } else if customer.has(Customer::EXEMPT) {
            ("exempt", Verdict::Pass)
        } else if customer.group() == 0 {
            ("unknown-source", Verdict::Pass)
        } else if customer.group() == office.group(Some("anchor")) {
            ("exempt", Verdict::Pass)
        } else {
            ("blocked", Verdict::Drop)
        };
        *tally.entry(reason).or_default() += 1;
        let answer =
            op25b_ebpf::abi::Answer(kernel.run(explain, &frame).unwrap_or_else(|error| panic!("{error:#}")));
        let seen = answer.reason().map_or("none", op25b_ebpf::verdict::Reason::name);
        if (seen, answer.verdict(), answer.group()) != (reason, verdict as u8, customer.group()) {
            wrong.push(format!(
                "{ip}: {}, expected {reason} of group {}",
                ways::words(answer),
                customer.group()
            ));
        }
    }
    say(&format!(
        "tables: {} addresses through the kernel, {} wrong, {tally:?}",
        addresses.len(),
        wrong.len()
    ));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
