//! `cargo xtask chaos`: what a filter depends on is broken, one thing after the other, while traffic runs through it.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::exec::exec;
use crate::{root, setup};

const DOCUMENT: &str = "docs/chaos.md";

/// How much is broken.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Each fault once or a few times, in a minute; writes nothing
    #[arg(long)]
    quick: bool,
    /// Only faults whose name has this in it; writes nothing
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// How many reloads there are [default: 10000, with --quick 100]
    #[arg(long, value_name = "NUMBER")]
    reloads: Option<u32>,
    /// Another seed breaks at other moments
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
}

/// Breaks everything, or a part of it.
pub(crate) fn run(options: &Options) -> Result<()> {
    root::require("cargo xtask chaos")?;
    setup::run()?;
    let mut command = Command::new("cargo");
    // As tests are built, since nothing is measured to the nanosecond.
    command.args(["bench", "--profile", "dev", "--package", "op25b-user", "--bench", "chaos", "--"]);
    if options.quick {
        command.arg("--quick");
    }
    if let Some(only) = &options.only {
        command.args(["--only", only]);
    }
    for (name, number) in [("--reloads", options.reloads.map(u64::from)), ("--seed", options.seed)] {
        if let Some(number) = number {
            command.args([name, &number.to_string()]);
        }
    }
    if !options.quick && options.only.is_none() {
        // Cargo runs a benchmark in its package's folder.
        let workspace = std::env::current_dir().context("where is the workspace?")?;
        command.arg("--output").arg(workspace.join(DOCUMENT));
    }
    exec(&mut command)
}
