//! Prefixes and the addresses to look up among them.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::Result;
use fastrand::Rng;
use ipnetwork::IpNetwork;
use op25b::{
    document,
    policy::{Override, Policy},
    situation::Situation,
    tables::Tables,
};
use op25b_ebpf::{abi::GROUPS, address::Family};

/// Where prefixes lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Anywhere.
    Random,
    /// In 16 /16s (IPv4) or 16 /32s (IPv6).
    Clustered,
}

/// Prefixes, each of a group.
pub(crate) struct Scene {
    pub(crate) prefixes: Vec<IpNetwork>,
    space: Space,
}

/// What prefixes and addresses are drawn from.
struct Space {
    family: Family,
    /// Starts of the clusters; empty: anywhere.
    clusters: Vec<u128>,
    lengths: &'static [u8],
}

impl Space {
    fn new(family: Family, layout: Layout, count: usize, random: &mut Rng) -> Self {
        let lengths: &[u8] = match (family, layout) {
            (Family::Ipv4, Layout::Random) => &[22, 24, 24, 26, 28, 29, 30, 32, 32, 32],
            // 16 /16s have a million addresses: almost each needs a prefix of its own.
            (Family::Ipv4, Layout::Clustered) if count > 100_000 => &[31, 32, 32],
            (Family::Ipv4, Layout::Clustered) => &[28, 29, 30, 32, 32, 32],
            (Family::Ipv6, _) => &[48, 56, 56, 56, 60, 64],
        };
        let mut space = Self { family, clusters: Vec::new(), lengths };
        if layout == Layout::Clustered {
            let length = if family == Family::Ipv4 { 16 } else { 32 };
            space.clusters = (0..16).map(|_| space.address(random) & !space.host(length)).collect();
        }
        space
    }

    const fn bits(&self) -> u32 {
        match self.family {
            Family::Ipv4 => 32,
            Family::Ipv6 => 128,
        }
    }

    /// The bits behind a prefix.
    fn host(&self, length: u8) -> u128 {
        (1_u128 << (self.bits() - u32::from(length))).wrapping_sub(1)
    }

    fn address(&self, random: &mut Rng) -> u128 {
        let anywhere = random.u128(..);
        match (self.family, self.clusters.as_slice()) {
            (Family::Ipv4, []) => u128::from(random.u32(0x0100_0000..0xe000_0000)),
            (Family::Ipv6, []) => anywhere & !(7 << 125) | 1 << 125,
            (Family::Ipv4, clusters) => clusters[random.usize(..16)] | anywhere & 0xffff,
            (Family::Ipv6, clusters) => clusters[random.usize(..16)] | anywhere & self.host(32),
        }
    }

    fn ip(&self, address: u128) -> IpAddr {
        match self.family {
            Family::Ipv4 => Ipv4Addr::from(address as u32).into(),
            Family::Ipv6 => Ipv6Addr::from(address).into(),
        }
    }

    fn prefix(&self, random: &mut Rng) -> Result<IpNetwork> {
        let length = self.lengths[random.usize(..self.lengths.len())];
        Ok(IpNetwork::new(self.ip(self.address(random) & !self.host(length)), length)?)
    }
}

impl Scene {
    pub(crate) fn new(family: Family, layout: Layout, count: usize) -> Result<Self> {
        let mut random = Rng::with_seed(25);
        let space = Space::new(family, layout, count, &mut random);
        let mut seen = HashSet::with_capacity(count);
        let mut prefixes = Vec::with_capacity(count);
        while prefixes.len() < count {
            let prefix = space.prefix(&mut random)?;
            if seen.insert(prefix) {
                prefixes.push(prefix);
            }
        }
        Ok(Self { prefixes, space })
    }

    /// Addresses in a prefix, or in none, as on the wire.
    pub(crate) fn keys(&self, count: usize, hit: bool, holds: impl Fn(u128) -> bool) -> Vec<[u64; 2]> {
        let mut random = Rng::with_seed(587);
        let address = || loop {
            let anywhere = self.space.address(&mut random);
            if !hit && holds(anywhere) {
                continue;
            }
            let prefix = &self.prefixes[random.usize(..self.prefixes.len())];
            let first = match prefix.network() {
                IpAddr::V4(address) => u128::from(u32::from(address)),
                IpAddr::V6(address) => u128::from(address),
            };
            break if hit { first | anywhere & self.space.host(prefix.prefix()) } else { anywhere };
        };
        std::iter::repeat_with(address).take(count).map(|address| self.wire(address)).collect()
    }

    fn wire(&self, address: u128) -> [u64; 2] {
        match self.space.family {
            Family::Ipv4 => [u64::from((address as u32).to_be()), 0],
            Family::Ipv6 => [((address >> 64) as u64).to_be(), (address as u64).to_be()],
        }
    }
}

/// The group of the prefix at a place in its list.
pub(crate) const fn group(place: usize) -> u32 {
    (place % GROUPS) as u32 + 1
}

/// The policy whose groups have these prefixes.
pub(crate) fn policy<'p>(prefixes: impl Iterator<Item = &'p IpNetwork>) -> Result<Policy> {
    let groups = (1..=GROUPS).map(|number| {
        format!("\n- {{name: g{number}, prefixes: [198.18.{}.0/24], mode: enforce}}", number - 1)
    });
    let text = format!(
        "version: 1\nunknown_sources: pass\nipv6: unfiltered\ncustomers:{}\n",
        groups.collect::<String>()
    );
    let document = document::parse(&text, "policy")?;
    let mut policy = Policy::from_document(document, "policy", &text, &Override::default())?;
    for group in &mut policy.groups {
        group.prefixes.clear();
    }
    for (place, prefix) in prefixes.enumerate() {
        policy.groups[place % GROUPS].prefixes.push(*prefix);
    }
    Ok(policy)
}

/// Its tables.
pub(crate) fn tables(policy: &Policy) -> Result<Tables> {
    let number = |name: &str| name.trim_start_matches('g').parse().unwrap_or(0);
    Ok(Tables::compile(policy, &Situation::default(), number)?)
}
