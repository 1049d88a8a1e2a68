//! What a lookup costs.

use anyhow::{Result, bail, ensure};
use op25b_ebpf::{
    address::{Address, Family},
    policy::Policy as _,
};

use crate::{
    kernel::{Kernel, What},
    scene::{self, Layout, Scene},
    shared::{Part, Row, Spread, Target, grouped, in_turns},
};

const SIZES: [usize; 5] = [10, 1_000, 10_000, 100_000, 1_000_000];
/// Addresses that are looked up in turn; more than fit a processor's own caches.
const KEYS: usize = 1 << 17;
const ROUNDS: usize = 21;
const NANOSECONDS: &str = "ns";

/// One way to look up, in a table of one size.
struct Lookup {
    prefixes: usize,
    ranges: usize,
    table: Spread,
    trie: Spread,
}

impl Lookup {
    /// By the middle of all rounds: of a few nanoseconds the least is what two floors happen to differ by.
    fn times_faster(&self) -> f64 {
        self.trie.median / self.table.median
    }

    fn rows(&self) -> [Row; 2] {
        let row = |what, figure, note| Row {
            name: format!("{} prefixes, {what}", grouped(self.prefixes as u32)),
            figure,
            over: None,
            note,
        };
        let note = format!("{} ranges; {:.1} times faster", grouped(self.ranges as u32), self.times_faster());
        [row("table", self.table, Some(note)), row("kernel's trie", self.trie, None)]
    }
}

/// Family by layout by whether what is looked up is there; and what was to be reached.
pub(crate) fn measure(most: usize) -> Result<(Vec<Part>, Vec<Target>)> {
    let (mut parts, mut targets) = (Vec::new(), Vec::new());
    for (family, name, due) in [(Family::Ipv4, "IPv4", 5.0), (Family::Ipv6, "IPv6", 3.0)] {
        for (layout, lie) in [(Layout::Random, "random"), (Layout::Clustered, "in 16 places")] {
            let mut hits_and_misses: [Vec<Lookup>; 2] = [Vec::new(), Vec::new()];
            for count in SIZES.into_iter().filter(|count| *count <= most) {
                let both = one(family, layout, count)?;
                hits_and_misses.iter_mut().zip(both).for_each(|(lookups, lookup)| lookups.push(lookup));
            }
            for (lookups, keys) in hits_and_misses.iter().zip(["found", "not found"]) {
                let what = format!("{name}, prefixes {lie}, addresses {keys}");
                targets.extend(reached(&what, due, lookups));
                let mut part = Part::new(format!("Lookup: {what}"), NANOSECONDS, "");
                part.rows.extend(lookups.iter().flat_map(Lookup::rows));
                parts.push(part);
            }
        }
    }
    Ok((parts, targets))
}

fn reached(what: &str, due: f64, lookups: &[Lookup]) -> Vec<Target> {
    let slowest = lookups
        .iter()
        .filter(|lookup| lookup.prefixes >= 1000)
        .min_by(|one, other| one.times_faster().total_cmp(&other.times_faster()));
    let faster = slowest.map(|slowest| {
        Target::at_least(
            format!("{what}: trie against table, 1,000 prefixes and more"),
            due,
            slowest.times_faster(),
            "times",
        )
    });
    let growth = match lookups {
        [least, .., most] if most.prefixes == SIZES[SIZES.len() - 1] => Some(Target::at_most(
            format!("{what}: 1,000,000 prefixes against 10"),
            20.0,
            most.table.median / least.table.median,
            "times",
        )),
        _ => None,
    };
    faster.into_iter().chain(growth).collect()
}

/// Addresses that are there, and others.
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
    [true, false]
        .into_iter()
        .map(|hit| {
            kernel.look_for(&scene.keys(KEYS, hit, holds))?;
            let (found, different) = kernel.check(KEYS)?;
            ensure!(
                different == 0,
                "{name}, {count} prefixes: table and trie differ on {different} addresses"
            );
            let due = if hit { KEYS as u64 } else { 0 };
            ensure!(found == due, "{name}, {count} prefixes: {found} addresses found of {due}");
            let (table, trie) = compare(&kernel)?;
            Ok(Lookup { prefixes: count, ranges, table, trie })
        })
        .collect()
}

/// What table and trie cost over picking the address, in turns, so that all meet the machine in the same mood.
fn compare(kernel: &Kernel) -> Result<(Spread, Spread)> {
    let mut contenders = [(What::Floor, 4 * KEYS), (What::Table, 4 * KEYS), (What::Trie, KEYS)];
    let rounds = in_turns(ROUNDS, &mut contenders, |(what, times)| kernel.run(*what, *times))?;
    let [floor, table, trie] = &rounds[..] else { bail!("one of the three did not run") };
    Ok((Spread::over(table, floor), Spread::over(trie, floor)))
}
