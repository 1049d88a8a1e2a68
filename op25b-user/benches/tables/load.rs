//! What it takes to get a policy into the kernel.

use std::time::Instant;

use anyhow::Result;
use op25b::object::{self, Constants, Maps, program};
use op25b_ebpf::{
    abi::{Link, Role},
    address::Family,
};

use crate::{
    scene::{self, Layout, Scene},
    shared::{Part, Row, Spread, grouped},
};

/// By size of a policy, half of it IPv6.
pub(crate) fn measure(most: usize) -> Result<Part> {
    let mut part = Part::new("Tables into the kernel", "ms", "");
    for count in [10_000, 100_000, 1_000_000].into_iter().filter(|count| *count <= most) {
        let (steps, mib) = one(count)?;
        for (step, milliseconds) in
            ["compiled", "maps made and filled", "programs verified"].iter().zip(steps)
        {
            part.rows.push(Row {
                name: format!("{} prefixes, {step}", grouped(count as u32)),
                figure: Spread::of(vec![milliseconds]),
                over: None,
                note: (*step == "compiled").then(|| format!("{mib:.1} MiB of tables")),
            });
        }
    }
    Ok(part)
}

/// Milliseconds of the three steps, and what the tables take.
fn one(count: usize) -> Result<([f64; 3], f64)> {
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

    let bytes =
        size_of_val(tables.customers4.lines.as_slice()) + size_of_val(tables.customers6.lines.as_slice());
    let steps = [compiled, created, verified].map(|took| took.as_secs_f64() * 1e3);
    Ok((steps, bytes as f64 / f64::from(1 << 20)))
}
