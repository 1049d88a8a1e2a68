//! `cargo xtask bench tables`: what a lookup costs in a compiled table and in the kernel's LPM trie, from the same
//! prefixes, in the same run, and what it takes to get a policy into the kernel.

mod kernel;
mod load;
mod lookup;
mod scene;
#[path = "../shared/mod.rs"]
mod shared;

use anyhow::Result;
use clap::Parser as _;
use shared::{Arguments, Report};

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let most = if arguments.quick { 10_000 } else { 1_000_000 };
    let mut report = Report::new()?;
    report.part(load::measure(most)?);
    let (parts, targets) = lookup::measure(most)?;
    parts.into_iter().for_each(|part| report.part(part));
    targets.into_iter().for_each(|target| report.target(target));
    report.write(&arguments)
}
