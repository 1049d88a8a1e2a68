//! Table and trie of the same prefixes in the kernel, and the programs that look addresses up in them.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, LpmTrie, Map, lpm_trie::Key},
    programs::{Program, TestRun as _, TestRunOptions, Xdp},
};
use ipnetwork::IpNetwork;
use nix::time::{ClockId, clock_gettime};
use op25b::{bulk, object::Wire, tables::Tables};
use op25b_ebpf::address::Family;

use crate::scene;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/op25b-bench"));

pub(crate) struct Kernel {
    object: Ebpf,
    names: [&'static str; 4],
}

/// What is run.
#[derive(Clone, Copy)]
pub(crate) enum What {
    /// Only picks an address.
    Floor,
    /// Looks it up in the table.
    Table,
    /// Looks it up in the trie.
    Trie,
    /// Looks it up in both.
    Check,
}

impl Kernel {
    pub(crate) fn new(family: Family, tables: &Tables, prefixes: &[IpNetwork], keys: usize) -> Result<Self> {
        let (roots, last) = ([Wire(tables.customers4.root), Wire(tables.customers6.root)], keys as u32 - 1);
        let mut object = EbpfLoader::new()
            .btf(None)
            .override_global("ROOT4", &roots[0], true)
            .override_global("ROOT6", &roots[1], true)
            .override_global("LAST_KEY", &last, true)
            .map_max_entries("KEYS", keys as u32)
            .map_max_entries("LINES4", tables.customers4.lines.len() as u32)
            .map_max_entries("LINES6", tables.customers6.lines.len() as u32)
            .map_max_entries("TRIE4", prefixes.len() as u32)
            .map_max_entries("TRIE6", prefixes.len() as u32)
            .load(OBJECT)?;
        fill(&object, "LINES4", &tables.customers4.lines)?;
        fill(&object, "LINES6", &tables.customers6.lines)?;
        grow(&mut object, prefixes)?;
        let names = match family {
            Family::Ipv4 => ["bench_floor", "bench_table4", "bench_trie4", "bench_check4"],
            Family::Ipv6 => ["bench_floor", "bench_table6", "bench_trie6", "bench_check6"],
        };
        for name in names {
            let program: &mut Xdp = object.program_mut(name).context("no such program")?.try_into()?;
            program.load().with_context(|| format!("cannot load {name}"))?;
        }
        Ok(Self { object, names })
    }

    pub(crate) fn look_for(&self, keys: &[[u64; 2]]) -> Result<()> {
        fill(&self.object, "KEYS", keys)
    }

    /// Nanoseconds of a run: the processor's time, since others want it too, and finer than what the kernel reports.
    pub(crate) fn run(&self, what: What, times: usize) -> Result<f64> {
        let Some(Program::Xdp(program)) = self.object.program(self.names[what as usize]) else {
            bail!("no such program")
        };
        let options = TestRunOptions { data_in: Some(&[0; 64]), repeat: times as u32, ..Default::default() };
        let start = spent()?;
        program.test_run(options)?;
        Ok((spent()? - start).as_nanos() as f64 / times as f64)
    }

    /// How many of the keys are found, and on how many table and trie differ.
    pub(crate) fn check(&mut self, keys: usize) -> Result<(u64, u64)> {
        let mut tally: Array<_, [u64; 4]> = self.object.map_mut("TALLY").context("no tally")?.try_into()?;
        tally.set(0, [0; 4], 0)?;
        self.run(What::Check, keys)?;
        let tally: Array<_, [u64; 4]> = self.object.map("TALLY").context("no tally")?.try_into()?;
        let [_, _, found, different] = tally.get(&0, 0)?;
        Ok((found, different))
    }
}

/// Processor time of this thread.
fn spent() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

fn fill<T: Copy>(object: &Ebpf, name: &str, values: &[T]) -> Result<()>
where
    Wire<T>: Pod,
{
    let Some(Map::Array(map)) = object.map(name) else { bail!("no array {name}") };
    bulk::write(map, values).with_context(|| format!("cannot fill {name}"))
}

fn grow(object: &mut Ebpf, prefixes: &[IpNetwork]) -> Result<()> {
    for (place, prefix) in prefixes.iter().enumerate() {
        let (length, value) = (u32::from(prefix.prefix()), scene::group(place));
        match prefix.network() {
            IpAddr::V4(address) => {
                let mut trie: LpmTrie<_, u32, u32> =
                    object.map_mut("TRIE4").context("no trie")?.try_into()?;
                trie.insert(&Key::new(length, u32::from(address).to_be()), value, 0)?;
            }
            IpAddr::V6(address) => {
                let mut trie: LpmTrie<_, u128, u32> =
                    object.map_mut("TRIE6").context("no trie")?.try_into()?;
                trie.insert(&Key::new(length, u128::from(address).to_be()), value, 0)?;
            }
        }
    }
    Ok(())
}
