//! Policy → tables: nested prefixes become disjoint sorted ranges with an index, as the kernel looks them up. Knows
//! nothing of maps.

use std::{collections::HashMap, net::IpAddr};

use ipnetwork::IpNetwork;
use op25b_ebpf::{
    abi::{self, Customer, Range4, Range6, Server},
    address::{Address, Family},
    policy::Policy as Lookup,
    ranges::{HALVINGS, Ranges, Shape, find},
    verdict::Verdict,
};

use crate::{
    document::{Action, Mode},
    policy::{Group, Policy},
    situation::Situation,
};

/// The tables of one generation, shared by its interfaces.
#[derive(Debug)]
pub struct Tables {
    /// What an IPv4 address is as a customer: [`Customer`].
    pub customers4: Table<Range4>,
    /// What an IPv6 address is as a customer.
    pub customers6: Table<Range6>,
    /// What an IPv4 address is as a server: a position in [`Tables::servers`].
    pub servers4: Table<Range4>,
    /// What an IPv6 address is as a server.
    pub servers6: Table<Range6>,
    /// The servers' properties; the first is "no server".
    pub servers: Vec<Server>,
    /// The groups by number; the first is "no group".
    pub groups: Vec<abi::Group>,
    /// `unknown_sources: block`.
    pub block_unknown: bool,
}

/// One compiled table.
#[derive(Debug, PartialEq, Eq)]
pub struct Table<R> {
    /// Disjoint, sorted; the first starts at zero.
    pub ranges: Vec<R>,
    /// One entry a bucket, and one more.
    pub index: Vec<u32>,
    /// What the kernel needs to know of it.
    pub shape: Shape,
}

/// A table that does not fit.
#[derive(Debug, thiserror::Error)]
#[error("{ranges} ranges in one table; at most {}", 1_u32 << HALVINGS)]
pub struct TooLarge {
    ranges: usize,
}

/// What a prefix says of a customer's address.
#[derive(Clone, Copy)]
enum Says {
    Group(u32),
    Exempt,
    Quarantined { relays: bool },
}

/// First address, last address, what holds between them.
type Span<V> = (u128, u128, V);

impl Tables {
    /// Compiles a policy as it is in a situation. `number` gives each group the number its counters have had so far.
    ///
    /// # Errors
    ///
    /// When a table has more ranges than the lookup can halve.
    pub fn compile(
        policy: &Policy,
        situation: &Situation,
        number: impl Fn(&str) -> u32,
    ) -> Result<Self, TooLarge> {
        let mut customers = [Vec::new(), Vec::new()];
        let mut servers = [Vec::new(), Vec::new()];
        let mut groups = vec![abi::Group::default()];
        let mut scopes = 0;

        for (bit, relay) in policy.relays.iter().enumerate() {
            add(&mut servers, &situation.addresses(relay), Server { relays: 1 << bit, scopes: 0 });
        }
        for group in &policy.groups {
            let number = number(&group.name);
            add(&mut customers, &group.prefixes, Says::Group(number));
            let scope = if group.destinations.is_empty() { 0 } else { 1 << scopes };
            if scope != 0 {
                scopes += 1;
                add(&mut servers, &group.destinations, Server { relays: 0, scopes: scope });
            }
            let position = number as usize;
            if groups.len() <= position {
                groups.resize(position + 1, abi::Group::default());
            }
            groups[position] = compiled(group, situation.mode(group), scope);
        }
        for entry in policy.exemptions.iter().filter(|entry| situation.holds(entry)) {
            add(&mut customers, &entry.prefixes, Says::Exempt);
        }
        let quarantine = policy.quarantine.iter().filter(|entry| situation.holds(entry));
        for entry in quarantine.filter(|_| situation.quarantines()) {
            add(&mut customers, &entry.prefixes, Says::Quarantined { relays: entry.relays });
        }

        let [customers4, customers6] =
            customers.map(|spans| flatten(spans, Customer::UNKNOWN, customer_within));
        let mut known = vec![Server::default()];
        let [servers4, servers6] = servers.map(|spans| {
            flatten(spans, Server::default(), |around, own| Server {
                relays: around.relays | own.relays,
                scopes: around.scopes | own.scopes,
            })
        });
        let mut numbers = HashMap::from([((0, 0), 0)]);
        let mut numbered = |ranges: Vec<(u128, Server)>| {
            ranges
                .into_iter()
                .map(|(start, server)| {
                    let number = *numbers.entry((server.relays, server.scopes)).or_insert_with(|| {
                        known.push(server);
                        known.len() as u32 - 1
                    });
                    (start, number)
                })
                .collect::<Vec<_>>()
        };
        let (servers4, servers6) = (numbered(servers4), numbered(servers6));
        let values = |ranges: Vec<(u128, Customer)>| {
            ranges.into_iter().map(|(start, customer)| (start, customer.0)).collect::<Vec<_>>()
        };

        Ok(Self {
            customers4: Table::compile(&values(customers4))?,
            customers6: Table::compile(&values(customers6))?,
            servers4: Table::compile(&servers4)?,
            servers6: Table::compile(&servers6)?,
            servers: known,
            groups,
            block_unknown: situation.blocks_unknown(policy),
        })
    }
}

/// What a deeper prefix makes of what holds around it: the longest prefix decides among groups and among
/// quarantines; exemption and quarantine hold wherever one of theirs is around.
fn customer_within(around: Customer, own: Says) -> Customer {
    Customer(match own {
        Says::Group(number) => around.0 & !0xff | number,
        Says::Exempt => around.0 | Customer::EXEMPT,
        Says::Quarantined { relays } => {
            let left = if relays { Customer::RELAYS_LEFT } else { 0 };
            around.0 & !Customer::RELAYS_LEFT | Customer::QUARANTINED | left
        }
    })
}

fn compiled(group: &Group, mode: Mode, scope: u64) -> abi::Group {
    abi::Group {
        relays: group.relays.iter().fold(0, |mask, bit| mask | 1 << bit),
        scope,
        mode: number(mode) as u8,
        action: match group.action {
            Action::Drop => Verdict::Drop,
            Action::Reset => Verdict::Reset,
            Action::Notice => Verdict::Notice,
        } as u8,
        return_path: number(group.return_path) as u8,
        reserved: [0; 5],
    }
}

const fn number(mode: Mode) -> abi::Mode {
    match mode {
        Mode::Off => abi::Mode::Off,
        Mode::Monitor => abi::Mode::Monitor,
        Mode::Enforce => abi::Mode::Enforce,
    }
}

/// Adds prefixes to the spans of their family.
fn add<V: Copy>(spans: &mut [Vec<Span<V>>; 2], prefixes: &[IpNetwork], value: V) {
    for prefix in prefixes {
        let number = |address| match address {
            IpAddr::V4(address) => u128::from(u32::from(address)),
            IpAddr::V6(address) => u128::from(address),
        };
        spans[usize::from(prefix.is_ipv6())].push((
            number(prefix.network()),
            number(prefix.broadcast()),
            value,
        ));
    }
}

/// Nested spans → disjoint ranges, each good until the next one starts. `within` makes a span's value from what
/// holds around it.
fn flatten<V: Copy, W: Copy + PartialEq>(
    mut spans: Vec<Span<V>>,
    outside: W,
    within: impl Fn(W, V) -> W,
) -> Vec<(u128, W)> {
    // Prefixes nest or are disjoint: sorted so, a span stands behind all that contain it.
    spans.sort_by(|(first, last, _), (other, other_last, _)| first.cmp(other).then(other_last.cmp(last)));
    let mut ranges = vec![(0, outside)];
    let mut open: Vec<(u128, W)> = Vec::new();
    for (first, last, own) in spans {
        close(&mut open, &mut ranges, outside, Some(first));
        let around = open.last().map_or(outside, |(_, value)| *value);
        let value = within(around, own);
        push(&mut ranges, first, value);
        open.push((last, value));
    }
    close(&mut open, &mut ranges, outside, None);
    ranges
}

/// Ends the open spans that end before `next`.
fn close<W: Copy + PartialEq>(
    open: &mut Vec<(u128, W)>,
    ranges: &mut Vec<(u128, W)>,
    outside: W,
    next: Option<u128>,
) {
    while let Some((last, _)) = open.last().copied() {
        if next.is_some_and(|next| next <= last) {
            return;
        }
        open.pop();
        let value = open.last().map_or(outside, |(_, value)| *value);
        if let Some(start) = last.checked_add(1) {
            push(ranges, start, value);
        }
    }
}

/// Adds a range; one that starts where the last one does replaces it, one that says the same is part of it.
fn push<W: Copy + PartialEq>(ranges: &mut Vec<(u128, W)>, start: u128, value: W) {
    if ranges.last().is_some_and(|(at, _)| *at == start) {
        ranges.pop();
    }
    if ranges.last().is_none_or(|(_, before)| *before != value) {
        ranges.push((start, value));
    }
}

/// A range as one family's map holds it.
pub trait Entry: Copy {
    /// Bits of an address below what the index is made for.
    const BELOW: u32;
    /// Addresses end here.
    const LAST: u128;
    /// From start and value.
    fn new(start: u128, value: u32) -> Self;
    /// Where it starts.
    fn begin(&self) -> u128;
    /// What holds in it.
    fn holds(&self) -> u32;
}

impl Entry for Range4 {
    const BELOW: u32 = 0;
    const LAST: u128 = u32::MAX as u128;

    fn new(start: u128, value: u32) -> Self {
        Self { start: start as u32, value }
    }

    fn begin(&self) -> u128 {
        u128::from(self.start)
    }

    fn holds(&self) -> u32 {
        self.value
    }
}

impl Entry for Range6 {
    const BELOW: u32 = 64;
    const LAST: u128 = u128::MAX;

    fn new(start: u128, value: u32) -> Self {
        Self { high: (start >> 64) as u64, low: start as u64, value, reserved: 0 }
    }

    fn begin(&self) -> u128 {
        u128::from(self.high) << 64 | u128::from(self.low)
    }

    fn holds(&self) -> u32 {
        self.value
    }
}

/// Tables up to this many ranges have one bucket: halving is as fast there.
const SMALL: usize = 16;
/// Buckets of an index at most.
const BUCKETS: u64 = 1 << 16;

impl<R: Entry> Table<R> {
    fn compile(ranges: &[(u128, u32)]) -> Result<Self, TooLarge> {
        if ranges.len() > 1 << HALVINGS {
            return Err(TooLarge { ranges: ranges.len() });
        }
        // IPv4's last range ends where the family does.
        let ranges: Vec<R> = ranges
            .iter()
            .filter(|(start, _)| *start <= R::LAST)
            .map(|(start, value)| R::new(*start, *value))
            .collect();
        let top = |position: usize| (ranges[position].begin() >> R::BELOW) as u64;
        // The index spans what the policy speaks of: a provider's IPv6 prefixes all start alike.
        let (base, shift, buckets) = if ranges.len() <= SMALL {
            (0, 63, 1)
        } else {
            let (base, last) = (top(1), top(ranges.len() - 1));
            let shift = (0..63).find(|shift| (last - base) >> shift < BUCKETS).unwrap_or(63);
            (base, shift, ((last - base) >> shift) + 1)
        };
        let mut index = Vec::with_capacity(buckets as usize + 1);
        let mut holding = 0;
        for bucket in 0..buckets {
            // Keys below the base are in the first bucket too.
            let start = if bucket == 0 { 0 } else { u128::from(base + (bucket << shift)) << R::BELOW };
            while holding + 1 < ranges.len() && ranges[holding + 1].begin() <= start {
                holding += 1;
            }
            index.push(holding as u32);
        }
        index.push(ranges.len() as u32 - 1);
        let fullest = index.windows(2).map(|pair| pair[1] + 1 - pair[0]).max().unwrap_or(1);
        let shape = Shape {
            base,
            last_bucket: (buckets - 1) as u32,
            shift: shift as u8,
            halvings: halvings(fullest),
            reserved: [0; 2],
        };
        Ok(Self { ranges, index, shape })
    }
}

/// Halvings that leave one of `ranges`.
const fn halvings(ranges: u32) -> u8 {
    (u32::BITS - ranges.saturating_sub(1).leading_zeros()) as u8
}

impl<R: Entry> Ranges for Table<R> {
    type Key = u128;

    fn top(key: u128) -> u64 {
        (key >> R::BELOW) as u64
    }

    fn shape(&self) -> Shape {
        self.shape
    }

    fn index(&self, bucket: u32) -> Option<u32> {
        self.index.get(bucket as usize).copied()
    }

    fn start(&self, range: u32) -> Option<u128> {
        self.ranges.get(range as usize).map(R::begin)
    }

    fn value(&self, range: u32) -> Option<u32> {
        self.ranges.get(range as usize).map(R::holds)
    }
}

/// The host's answer to what the kernel asks its maps.
impl Lookup for Tables {
    fn customer(&self, address: Address) -> Customer {
        Customer(look_up(&self.customers4, &self.customers6, address))
    }

    fn server(&self, address: Address) -> Server {
        let number = look_up(&self.servers4, &self.servers6, address);
        self.servers.get(number as usize).copied().unwrap_or_default()
    }

    fn group(&self, number: u32) -> Option<&abi::Group> {
        if number == 0 { None } else { self.groups.get(number as usize) }
    }

    fn blocks_unknown_sources(&self) -> bool {
        self.block_unknown
    }
}

fn look_up(ipv4: &Table<Range4>, ipv6: &Table<Range6>, address: Address) -> u32 {
    let key = u128::from(address.high) << 64 | u128::from(address.low);
    match address.family {
        Family::Ipv4 => find(ipv4, key),
        Family::Ipv6 => find(ipv6, key),
    }
}
