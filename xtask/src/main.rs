//! What a developer types, one task a file: `cargo xtask setup`, `test`, `demo`, `bench`, `chaos`, `fuzz`, `kernels`, `dist`.

mod bench;
mod chaos;
mod demo;
mod dist;
mod exec;
mod fuzz;
mod kernels;
mod lab;
mod mail;
mod report;
mod root;
mod setup;
mod test;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;

/// Developer tasks of op25b.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Find or install what building, testing and the demo need
    Setup,
    /// Check format, lints and documentation, then run every test (as root)
    Test {
        /// Passed on to `cargo test`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Send real mail through a filtered router, in network namespaces (as root)
    Demo {
        /// Keep the captures of what the customers sent in this folder
        #[arg(long, value_name = "FOLDER")]
        keep_captures: Option<PathBuf>,
    },
    /// Measure in the real kernel, and write the figures to docs/bench (as root)
    Bench {
        /// Only these [default: all]
        subjects: Vec<bench::Subject>,
        /// Small sizes only; writes nothing
        #[arg(long)]
        quick: bool,
    },
    /// Break what a filter depends on while traffic runs through it, and account for every frame (as root)
    Chaos(chaos::Options),
    /// Let libFuzzer look for frames that the core does not expect
    Fuzz {
        /// How long
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Run the kernel tests under Debian's kernels, 5.10 to 7.x, in virtual machines (as root)
    Kernels {
        /// Only under these [default: all]
        versions: Vec<kernels::Kernel>,
    },
    /// Make what an operator installs: a .deb, a tarball and their checksums, in target/packages
    Dist {
        /// Install, run, upgrade, remove and purge in clean roots of Debian, under systemd too; build again (as root)
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    match run(Task::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask is not in a workspace")?;
    std::env::set_current_dir(workspace).with_context(|| format!("cannot enter {}", workspace.display()))?;
    match task {
        Task::Setup => {
            setup::run()?;
            println!("setup: everything is there");
            Ok(())
        }
        Task::Test { arguments } => test::run(&arguments),
        Task::Demo { keep_captures } => demo::run(keep_captures.as_deref()),
        Task::Bench { subjects, quick } => bench::run(&subjects, quick),
        Task::Chaos(options) => chaos::run(&options),
        Task::Fuzz { seconds } => fuzz::run(seconds),
        Task::Kernels { versions } => kernels::run(&versions),
        Task::Dist { check } => dist::run(check),
    }
}
