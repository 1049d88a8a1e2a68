//! `cargo xtask bench`: figures, measured in the real kernel and written to `docs/bench`.

use std::process::Command;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::exec::exec;
use crate::{root, setup};

const FIGURES: &str = "docs/bench";

/// What can be measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Subject {
    /// Lookups in compiled tables beside the kernel's LPM trie, and how long a policy takes into the kernel
    Tables,
    /// How long a policy takes from its files to the interfaces
    Policy,
}

impl Subject {
    const fn name(self) -> &'static str {
        match self {
            Self::Tables => "tables",
            Self::Policy => "policy",
        }
    }
}

/// Measures these, or all.
pub(crate) fn run(subjects: &[Subject], quick: bool) -> Result<()> {
    root::require("cargo xtask bench")?;
    setup::run()?;
    std::fs::create_dir_all(FIGURES).with_context(|| format!("cannot make {FIGURES}"))?;
    let workspace = std::env::current_dir().context("where is the workspace?")?;
    let subjects = if subjects.is_empty() { Subject::value_variants() } else { subjects };
    for subject in subjects {
        let mut command = Command::new("cargo");
        command.args(["bench", "--package", "op25b-user", "--bench", subject.name(), "--"]);
        if quick {
            // Not the figures that are committed.
            command.arg("--quick");
        } else {
            // Cargo runs a benchmark in its package's folder.
            command.arg("--output").arg(workspace.join(FIGURES).join(format!("{}.json", subject.name())));
        }
        exec(&mut command)?;
    }
    Ok(())
}
