//! What is in the program, for machines: CycloneDX, by cargo-cyclonedx.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::exec::exec;
use crate::setup;

/// What it needs of the sources.
const SOURCES: [&str; 5] = ["Cargo.lock", "Cargo.toml", "op25b-ebpf", "op25b-user", "xtask"];
const NAME: &str = "sbom";

/// Writes the list of what is linked into op25b.
pub(super) fn write(workspace: &Path, path: &Path, epoch: u64) -> Result<()> {
    // It writes beside each manifest and knows no other place; there, cargo would take it for a change.
    let folder = tempfile::tempdir()?;
    let copy = fs::canonicalize(folder.path())?;
    exec(Command::new("cp").arg("--archive").args(SOURCES).arg(&copy).current_dir(workspace))?;
    exec(
        Command::new(setup::CYCLONEDX.path()?)
            .arg("cyclonedx")
            // Neither a random number nor the time of day.
            .env("SOURCE_DATE_EPOCH", epoch.to_string())
            .args(["--manifest-path", "op25b-user/Cargo.toml", "--format", "json", "--spec-version", "1.5"])
            .args(["--no-build-deps", "--target", "x86_64-unknown-linux-gnu", "--quiet"])
            .args(["--override-filename", NAME])
            .current_dir(&copy),
    )?;
    let text = fs::read_to_string(copy.join("op25b-user").join(format!("{NAME}.json")))
        .context("cargo-cyclonedx has written nothing")?;
    // Own packages are named by their folder, which differs from build to build.
    let text = text.replace(&copy.display().to_string(), "/op25b");
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
