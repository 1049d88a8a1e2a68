//! What it takes to get a policy into the kernel.

use std::time::Instant;

use anyhow::{Context as _, Result};
use op25b::object::{self, Constants, Maps, program};
use op25b_ebpf::{
    abi::{Link, Role},
    address::Family,
};
use serde::Serialize;

use crate::scene::{self, Layout, Scene};

/// One size of a policy, half of it IPv6.
#[derive(Serialize)]
pub(crate) struct Load {
    prefixes: usize,
    compile_ms: f64,
    /// The maps made and filled.
    create_ms: f64,
    /// The programs of one interface verified.
    verify_ms: f64,
    /// Of the process at its largest so far, the prefixes included.
    rss_mib: f64,
    /// Of the tables.
    kernel_mib: f64,
}

impl Load {
    pub(crate) fn cells(&self) -> Vec<String> {
        let figures = [self.compile_ms, self.create_ms, self.verify_ms, self.rss_mib, self.kernel_mib];
        std::iter::once(self.prefixes.to_string())
            .chain(figures.into_iter().map(|figure| format!("{figure:.1}")))
            .collect()
    }
}

pub(crate) fn measure(most: usize) -> Result<Vec<Load>> {
    let sizes = [10_000, 100_000, 1_000_000];
    sizes.into_iter().filter(|count| *count <= most).map(one).collect()
}

fn one(count: usize) -> Result<Load> {
    let policy = {
        let ipv4 = Scene::new(Family::Ipv4, Layout::Random, count / 2)?;
        let ipv6 = Scene::new(Family::Ipv6, Layout::Clustered, count / 2)?;
        scene::policy(ipv4.prefixes.iter().chain(&ipv6.prefixes))?
    };
    let start = Instant::now();
    let tables = scene::tables(&policy)?;
    let compiled = start.elapsed();

    let start = Instant::now();
    let constants = Constants::bare(Role::CUSTOMER, Link::Ethernet);
    let mut object = object::create(&tables, constants, Maps::Own)?;
    let created = start.elapsed();

    let start = Instant::now();
    for name in [program::XDP, program::SAMPLE_XDP, program::EXPLAIN] {
        object::load(&mut object, name)?;
    }
    let verified = start.elapsed();

    let bytes = [
        size_of_val(tables.customers4.ranges.as_slice()),
        size_of_val(tables.customers4.index.as_slice()),
        size_of_val(tables.customers6.ranges.as_slice()),
        size_of_val(tables.customers6.index.as_slice()),
    ];
    Ok(Load {
        prefixes: count,
        compile_ms: compiled.as_secs_f64() * 1e3,
        create_ms: created.as_secs_f64() * 1e3,
        verify_ms: verified.as_secs_f64() * 1e3,
        rss_mib: peak()?,
        kernel_mib: bytes.iter().sum::<usize>() as f64 / f64::from(1 << 20),
    })
}

fn peak() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}
