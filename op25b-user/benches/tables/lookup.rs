//! What a lookup costs.

use anyhow::{Result, ensure};
use op25b_ebpf::{
    address::{Address, Family},
    policy::Policy as _,
};
use serde::Serialize;

use crate::{
    kernel::{Kernel, What},
    scene::{self, Layout, Scene},
};

const SIZES: [usize; 5] = [10, 1_000, 10_000, 100_000, 1_000_000];
/// Addresses that are looked up in turn; more than fit a processor's own caches.
const KEYS: usize = 1 << 17;
const ROUNDS: usize = 9;

/// One way to look up, in a table of one size.
#[derive(Serialize)]
pub(crate) struct Lookup {
    prefixes: usize,
    family: &'static str,
    layout: Layout,
    keys: &'static str,
    ranges: usize,
    table_ns: Spread,
    trie_ns: Spread,
    times_faster: f64,
}

/// Over the rounds.
#[derive(Serialize)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(mut figures: Vec<f64>) -> Self {
        figures.sort_by(f64::total_cmp);
        Self { median: figures[figures.len() / 2], least: figures[0], most: figures[figures.len() - 1] }
    }

    fn cell(&self) -> String {
        format!("{:.1} ({:.1} to {:.1})", self.median, self.least, self.most)
    }
}

impl Lookup {
    pub(crate) fn cells(&self) -> Vec<String> {
        let layout = match self.layout {
            Layout::Random => "random",
            Layout::Clustered => "clustered",
        };
        vec![
            self.prefixes.to_string(),
            self.family.to_owned(),
            layout.to_owned(),
            self.keys.to_owned(),
            self.ranges.to_string(),
            self.table_ns.cell(),
            self.trie_ns.cell(),
            format!("{:.1}", self.times_faster),
        ]
    }
}

pub(crate) fn measure(most: usize) -> Result<Vec<Lookup>> {
    let mut lookups = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        for layout in [Layout::Random, Layout::Clustered] {
            for count in SIZES.into_iter().filter(|count| *count <= most) {
                lookups.extend(one(family, layout, count)?);
            }
        }
    }
    Ok(lookups)
}

fn one(family: Family, layout: Layout, count: usize) -> Result<Vec<Lookup>> {
    let scene = Scene::new(family, layout, count)?;
    let tables = scene::tables(&scene::policy(scene.prefixes.iter())?)?;
    let holds = |address: u128| {
        let address = Address { family, high: (address >> 64) as u64, low: address as u64 };
        tables.customer(address).group() != 0
    };
    let (name, ranges) = match family {
        Family::Ipv4 => ("IPv4", tables.customers4.ranges.len()),
        Family::Ipv6 => ("IPv6", tables.customers6.ranges.len()),
    };
    let mut kernel = Kernel::new(family, &tables, &scene.prefixes, KEYS)?;
    [(true, "hit"), (false, "miss")]
        .into_iter()
        .map(|(hit, keys)| {
            kernel.look_for(&scene.keys(KEYS, hit, holds))?;
            let (found, different) = kernel.check(KEYS)?;
            ensure!(
                different == 0,
                "{name}, {count} prefixes: table and trie differ on {different} addresses"
            );
            let due = if hit { KEYS as u64 } else { 0 };
            ensure!(found == due, "{name}, {count} prefixes: {found} addresses found of {due}");
            let (table, trie) = compare(&kernel)?;
            Ok(Lookup {
                prefixes: count,
                family: name,
                layout,
                keys,
                ranges,
                times_faster: trie.median / table.median,
                table_ns: table,
                trie_ns: trie,
            })
        })
        .collect()
}

/// What table and trie cost over picking the address, in turns, so that all meet the machine in the same mood.
fn compare(kernel: &Kernel) -> Result<(Spread, Spread)> {
    let (mut table, mut trie) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let floor = kernel.run(What::Floor, 4 * KEYS)?;
        table.push(kernel.run(What::Table, 4 * KEYS)? - floor);
        trie.push(kernel.run(What::Trie, KEYS)? - floor);
    }
    Ok((Spread::of(table), Spread::of(trie)))
}

/// What was to be reached, and what was.
pub(crate) fn verdicts(lookups: &[Lookup]) -> Vec<String> {
    let mut verdicts = Vec::new();
    for (family, due) in [("IPv4", 5.0), ("IPv6", 3.0)] {
        let slowest = lookups
            .iter()
            .filter(|lookup| lookup.family == family && lookup.prefixes >= 1000)
            .min_by(|one, other| one.times_faster.total_cmp(&other.times_faster));
        if let Some(slowest) = slowest {
            verdicts.push(format!(
                "{family}, 1,000 prefixes and more: at least {:.1} times faster than the trie; due: {due}",
                slowest.times_faster
            ));
        }
    }
    let of = |prefixes| lookups.iter().filter(move |lookup| lookup.prefixes == prefixes);
    let growth = of(SIZES[SIZES.len() - 1]).filter_map(|most| {
        let same = |least: &&Lookup| {
            (least.family, least.layout, least.keys) == (most.family, most.layout, most.keys)
        };
        Some(most.table_ns.median / of(SIZES[0]).find(same)?.table_ns.median)
    });
    if let Some(growth) = growth.max_by(f64::total_cmp) {
        verdicts.push(format!("1,000,000 prefixes: at most {growth:.1} times the cost of 10; due: 20"));
    }
    verdicts
}
