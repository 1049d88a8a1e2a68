//! `cargo xtask bench`: figures, measured in the real kernel, and written to `docs/bench` as JSON, tables and charts.

mod chart;
mod report;

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::exec::exec;
use crate::{root, setup};
use report::{Report, Results};

const FIGURES: &str = "docs/bench";

/// What can be measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Subject {
    /// What the program costs a frame, on every path, by prefixes and by sources
    Program,
    /// Frames and connections through a router, with op25b and with what one would pick instead
    Throughput,
    /// Lookups in compiled tables beside the kernel's LPM trie
    Tables,
    /// How long a policy takes from its files to the interfaces, and what memory
    Policy,
}

impl Subject {
    const fn name(self) -> &'static str {
        match self {
            Self::Program => "program",
            Self::Throughput => "throughput",
            Self::Tables => "tables",
            Self::Policy => "policy",
        }
    }

    /// What readers call it.
    const fn title(self) -> &'static str {
        match self {
            Self::Program => "What a frame pays",
            Self::Throughput => "Beside what one would pick instead",
            Self::Tables => "Lookups",
            Self::Policy => "Policies",
        }
    }
}

/// Measures these, or all.
pub(crate) fn run(subjects: &[Subject], quick: bool) -> Result<()> {
    root::require("cargo xtask bench")?;
    setup::run_for_bench()?;
    root::mount_bpffs()?;
    let subjects = if subjects.is_empty() { Subject::value_variants() } else { subjects };
    let figures = Path::new(FIGURES);
    let mut results = Results::read(figures)?;
    let workspace = std::env::current_dir().context("where is the workspace?")?;
    for subject in subjects {
        let mut command = Command::new("cargo");
        command.args(["bench", "--package", "op25b-user", "--bench", subject.name(), "--"]);
        if quick {
            // Not the figures that are committed.
            exec(command.arg("--quick"))?;
            continue;
        }
        let written = workspace.join("target").join(format!("bench-{}.json", subject.name()));
        // Cargo runs a benchmark in its package's folder.
        exec(command.arg("--output").arg(&written))?;
        let text =
            fs::read_to_string(&written).with_context(|| format!("cannot read {}", written.display()))?;
        let report: Report = serde_json::from_str(&text).with_context(|| format!("{}", written.display()))?;
        results.subjects.insert(subject.name().to_owned(), report);
        // One at a time: what was measured is kept, whatever comes.
        results.write(figures)?;
    }
    Ok(())
}
