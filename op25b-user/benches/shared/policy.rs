//! One policy for all contenders: customers from 10.0.0.0 on, and one relay.
#![allow(dead_code, reason = "each benchmark uses its own part of it")]

use std::net::Ipv4Addr;

use anyhow::Result;
use ipnetwork::Ipv4Network;
use op25b::{
    document,
    policy::{self, Override},
    situation::Situation,
    tables::Tables,
};

/// Addresses from 10.0.0.0 on that are always customers'.
pub(crate) const CUSTOMERS: u32 = 1 << 17;
/// The only relay.
pub(crate) const RELAY: &str = "192.0.2.25";
/// Groups, if nothing else is said: neighbouring prefixes are of different ones, else they would be one range.
pub(crate) const GROUPS: usize = 2;

/// So many prefixes, without gaps where customers send from; beyond as many as there is room for there, single
/// addresses elsewhere.
pub(crate) fn prefixes(count: u32) -> Result<Vec<Ipv4Network>> {
    let inside = count.min(CUSTOMERS);
    let bits = (CUSTOMERS / inside).ilog2();
    let network = |address: u32, bits: u32| Ipv4Network::new(address.into(), (32 - bits) as u8);
    let first = u32::from(Ipv4Addr::new(10, 0, 0, 0));
    let elsewhere = u32::from(Ipv4Addr::new(20, 0, 0, 0));
    let mut prefixes = Vec::with_capacity(count as usize);
    for number in 0..count {
        prefixes.push(if number < inside {
            network(first + (number << bits), bits)?
        } else {
            network(elsewhere + 2 * number, 0)?
        });
    }
    Ok(prefixes)
}

/// Addresses that [`prefixes`] covers from the first on.
pub(crate) const fn covered(count: u32) -> u32 {
    let inside = if count < CUSTOMERS { count } else { CUSTOMERS };
    inside << (CUSTOMERS / inside).ilog2()
}

/// The policy, for an interface written like this.
pub(crate) fn text(prefixes: &[Ipv4Network], groups: usize, interfaces: &str, accounts: bool) -> String {
    let mut text = format!(
        "version: 1
interfaces: {{customer: [{interfaces}]}}
relays: [{{name: post, addresses: [{RELAY}]}}]
unknown_sources: pass
ipv6: unfiltered
account_sources: {accounts}
customers:
"
    );
    for number in 0..groups {
        let of_group = prefixes.iter().skip(number).step_by(groups);
        let list: Vec<String> = of_group.map(ToString::to_string).collect();
        // A policy of few prefixes has fewer.
        if !list.is_empty() {
            text += &format!("  - {{name: group{number}, mode: enforce, prefixes: [{}]}}\n", list.join(", "));
        }
    }
    text
}

/// A policy's tables.
pub(crate) fn tables(text: &str) -> Result<Tables> {
    let document = document::parse(text, "policy")?;
    let policy = policy::Policy::from_document(document, "policy", text, &Override::default())?;
    let number = |name: &str| {
        policy.groups.iter().position(|group| group.name == name).map_or(0, |place| place as u32 + 1)
    };
    Ok(Tables::compile(&policy, &Situation::default(), number)?)
}
