//! What changes for whom between two policies: customer addresses that fare otherwise, as prefixes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{Ipv4Addr, Ipv6Addr},
};

use ipnetwork::IpNetwork;
use op25b_ebpf::{
    abi::{self, Customer, Role, Server},
    address::Address,
    policy::Policy as Lookup,
    verdict::{Decision, Flow, decide},
};
use serde::Serialize;

use crate::{
    policy::Policy,
    situation::Situation,
    tables::{Entry, Table, Tables, TooLarge},
};

/// A policy in a situation, compiled.
pub struct Side<'a> {
    policy: &'a Policy,
    situation: &'a Situation,
    tables: Tables,
}

impl<'a> Side<'a> {
    /// Compiles it.
    ///
    /// # Errors
    ///
    /// When it does not fit the tables.
    pub fn new(policy: &'a Policy, situation: &'a Situation) -> Result<Self, TooLarge> {
        let tables = Tables::compile(policy, situation, |name| policy.position(name))?;
        Ok(Self { policy, situation, tables })
    }
}

/// How a customer fares with a mail server that is no relay.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Fate {
    /// The group; none for an address in no group.
    pub customer: Option<String>,
    /// Why, for TCP to port 25.
    pub reason: &'static str,
    /// What happens to it.
    pub verdict: &'static str,
    /// The same for TCP from port 25, on an `upstream` interface.
    pub return_path: &'static str,
    /// Relays that it may reach.
    pub relays: BTreeSet<String>,
    /// Where the group's blocking ends; empty: nowhere.
    pub destinations: Vec<IpNetwork>,
}

impl Fate {
    fn new(side: &Side<'_>, customer: Customer) -> Self {
        let asked = Asked { tables: &side.tables, customer };
        let toward = asked.decide(false);
        let back = asked.decide(true);
        let group = (customer.group() as usize).checked_sub(1).and_then(|at| side.policy.groups.get(at));
        let mut relays: BTreeSet<String> = side
            .policy
            .relays
            .iter()
            .enumerate()
            .filter(|(bit, _)| group.is_none_or(|group| group.relays.contains(bit)))
            .map(|(_, relay)| relay.name.clone())
            .collect();
        if customer.has(Customer::QUARANTINED) && !customer.has(Customer::RELAYS_LEFT) {
            relays.clear();
        }
        let mut destinations = group.map_or_else(Vec::new, |group| group.destinations.clone());
        destinations.sort();
        Self {
            customer: group.map(|group| group.name.clone()),
            reason: toward.reason.name(),
            verdict: toward.verdict.name(),
            return_path: back.reason.name(),
            relays,
            destinations,
        }
    }

    fn passes(&self) -> bool {
        self.verdict == "pass"
    }
}

/// Who wins by a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// These customers can do less.
    Loses,
    /// These customers can do more.
    Gains,
    /// Something else is another.
    Changes,
}

impl Effect {
    /// The word in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loses => "loses",
            Self::Gains => "gains",
            Self::Changes => "changes",
        }
    }

    fn of(from: &Fate, to: &Fate) -> Self {
        match (from.passes(), to.passes()) {
            (true, false) => Self::Loses,
            (false, true) => Self::Gains,
            _ if from.relays != to.relays && from.relays.is_superset(&to.relays) => Self::Loses,
            _ if from.relays != to.relays && from.relays.is_subset(&to.relays) => Self::Gains,
            _ => Self::Changes,
        }
    }
}

/// Customers that fare otherwise, all in one way.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// Who wins.
    pub effect: Effect,
    /// Under the old policy.
    pub from: Fate,
    /// Under the new one.
    pub to: Fate,
    /// Who.
    pub prefixes: Vec<IpNetwork>,
}

/// A relay that has other addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// Its name.
    pub relay: String,
    /// Addresses that the new policy has.
    pub added: Vec<IpNetwork>,
    /// Addresses that it no longer has.
    pub removed: Vec<IpNetwork>,
}

/// All that is different.
#[derive(Clone, Debug, Serialize)]
pub struct Differences {
    /// For customers, losers first.
    pub customers: Vec<Difference>,
    /// For relays.
    pub relays: Vec<Moved>,
}

impl Differences {
    /// Compares two policies.
    #[must_use]
    pub fn between(old: &Side<'_>, new: &Side<'_>) -> Self {
        let mut fates = Fates { old, new, known: HashMap::new(), prefixes: BTreeMap::new() };
        walk(&old.tables.customers4, &new.tables.customers4, |span, pair| fates.add(span, pair, 32));
        walk(&old.tables.customers6, &new.tables.customers6, |span, pair| fates.add(span, pair, 128));
        let mut customers: Vec<Difference> = fates
            .prefixes
            .into_iter()
            .map(|((from, to), prefixes)| Difference { effect: Effect::of(&from, &to), from, to, prefixes })
            .collect();
        customers.sort_by_key(|difference| difference.effect);
        Self { customers, relays: moved(old, new) }
    }
}

/// Fates by what the tables say, and who changes from which to which.
struct Fates<'a> {
    old: &'a Side<'a>,
    new: &'a Side<'a>,
    known: HashMap<(u32, u32), Option<(Fate, Fate)>>,
    prefixes: BTreeMap<(Fate, Fate), Vec<IpNetwork>>,
}

impl Fates<'_> {
    fn add(&mut self, (first, last): (u128, u128), (from, to): (u32, u32), bits: u8) {
        let pair = self.known.entry((from, to)).or_insert_with(|| {
            let pair = (Fate::new(self.old, Customer(from)), Fate::new(self.new, Customer(to)));
            (pair.0 != pair.1).then_some(pair)
        });
        if let Some(pair) = pair {
            let prefixes = match self.prefixes.get_mut(pair) {
                Some(prefixes) => prefixes,
                None => self.prefixes.entry(pair.clone()).or_default(),
            };
            prefixes.extend(cover(first, last, bits));
        }
    }
}

/// One customer against a server outside, in everybody's `destinations`.
struct Asked<'a> {
    tables: &'a Tables,
    customer: Customer,
}

impl Asked<'_> {
    fn decide(&self, from_port_25: bool) -> Decision {
        let anybody = Address::ipv4([0; 4]);
        let flow = Flow { customer: anybody, peer: anybody, readable: true, from_port_25 };
        decide(&flow, if from_port_25 { Role::UPSTREAM } else { Role::CUSTOMER }, self)
    }
}

impl Lookup for Asked<'_> {
    fn customer(&self, _: Address) -> Customer {
        self.customer
    }

    fn server(&self, _: Address) -> Server {
        Server { relays: 0, scopes: u64::MAX }
    }

    fn group(&self, number: u32) -> Option<&abi::Group> {
        self.tables.group(number)
    }

    fn blocks_unknown_sources(&self) -> bool {
        self.tables.block_unknown
    }
}

/// Both tables' values, and the span of addresses for which they hold; spans with the same values are one.
fn walk<L: Entry>(old: &Table<L>, new: &Table<L>, mut each: impl FnMut((u128, u128), (u32, u32))) {
    let (mut in_old, mut in_new) = (0, 0);
    let mut span: Option<(u128, (u32, u32))> = None;
    let mut start = 0;
    loop {
        let pair = (old.ranges[in_old].value, new.ranges[in_new].value);
        match span {
            Some((first, before)) if before != pair => {
                each((first, start - 1), before);
                span = Some((start, pair));
            }
            Some(_) => {}
            None => span = Some((start, pair)),
        }
        let next =
            |table: &Table<L>, at: usize| table.ranges.get(at + 1).map(|range| L::address(range.start));
        let (next_old, next_new) = (next(old, in_old), next(new, in_new));
        let Some(nearest) = next_old.into_iter().chain(next_new).min() else { break };
        in_old += usize::from(next_old == Some(nearest));
        in_new += usize::from(next_new == Some(nearest));
        start = nearest;
    }
    if let Some((first, pair)) = span {
        each((first, L::LAST), pair);
    }
}

/// The fewest prefixes that make up a span of addresses.
fn cover(mut first: u128, last: u128, bits: u8) -> Vec<IpNetwork> {
    let mut prefixes = Vec::new();
    loop {
        // The largest block that starts here and does not reach beyond the end.
        let aligned = if first == 0 { u32::from(bits) } else { first.trailing_zeros().min(u32::from(bits)) };
        let mask = |size: u32| 1_u128.checked_shl(size).map_or(u128::MAX, |block| block - 1);
        let size = (0..=aligned).rev().find(|size| first | mask(*size) <= last).unwrap_or(0);
        let length = bits - size as u8;
        let address = match bits {
            32 => Ipv4Addr::from(first as u32).into(),
            _ => Ipv6Addr::from(first).into(),
        };
        // The length is within the family's.
        prefixes.extend(IpNetwork::new(address, length));
        let end = first | mask(size);
        if end >= last {
            return prefixes;
        }
        first = end + 1;
    }
}

fn moved(old: &Side<'_>, new: &Side<'_>) -> Vec<Moved> {
    let addresses = |side: &Side<'_>| -> BTreeMap<String, BTreeSet<IpNetwork>> {
        let relays = side.policy.relays.iter();
        relays
            .map(|relay| (relay.name.clone(), side.situation.addresses(relay).into_iter().collect()))
            .collect()
    };
    let (before, after) = (addresses(old), addresses(new));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let none = BTreeSet::new();
    names
        .into_iter()
        .map(|name| {
            let (before, after) = (before.get(name).unwrap_or(&none), after.get(name).unwrap_or(&none));
            Moved {
                relay: name.clone(),
                added: after.difference(before).copied().collect(),
                removed: before.difference(after).copied().collect(),
            }
        })
        .filter(|moved| !moved.added.is_empty() || !moved.removed.is_empty())
        .collect()
}

/// How many addresses prefixes have, for people.
#[must_use]
pub fn addresses(prefixes: &[IpNetwork]) -> String {
    let bits = |prefix: &IpNetwork| if prefix.is_ipv6() { 128 } else { 32 } - u32::from(prefix.prefix());
    if prefixes.iter().any(|prefix| bits(prefix) > 32) {
        return format!("{} prefixes", prefixes.len());
    }
    match prefixes.iter().map(|prefix| 1_u64 << bits(prefix)).sum() {
        1_u64 => "1 address".to_owned(),
        many => format!("{many} addresses"),
    }
}

#[cfg(test)]
mod tests {
    use super::cover;

    #[test]
    fn a_span_is_covered_by_the_fewest_prefixes() {
        let words =
            |first, last, bits| cover(first, last, bits).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(words(0, u128::from(u32::MAX), 32), ["0.0.0.0/0"]);
        assert_eq!(words(0, u128::MAX, 128), ["::/0"]);
        assert_eq!(words(1, 4, 32), ["0.0.0.1/32", "0.0.0.2/31", "0.0.0.4/32"]);
        assert_eq!(words(u128::MAX, u128::MAX, 128), ["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"]);
        assert_eq!(words(0xc000_0200, 0xc000_02ff, 32), ["192.0.2.0/24"]);
    }
}
