//! What is in the program, for machines: CycloneDX, by cargo-cyclonedx.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::exec::exec;
use crate::setup;

/// What it writes beside each manifest, since it knows no other place.
const NAME: &str = "op25b-sbom-of-dist";

/// Writes the list of what is linked into op25b.
pub(super) fn write(workspace: &Path, path: &Path, epoch: u64) -> Result<()> {
    let written = ["op25b-ebpf", "op25b-ebpf/fuzz", "op25b-user", "xtask"]
        .map(|folder| workspace.join(folder).join(format!("{NAME}.json")));
    let made = exec(
        Command::new(setup::cyclonedx()?)
            .arg("cyclonedx")
            // Neither a random number nor the time of day.
            .env("SOURCE_DATE_EPOCH", epoch.to_string())
            .args(["--manifest-path", "op25b-user/Cargo.toml", "--format", "json", "--spec-version", "1.5"])
            .args(["--no-build-deps", "--target", "x86_64-unknown-linux-gnu", "--quiet"])
            .args(["--override-filename", NAME])
            .current_dir(workspace),
    );
    let text = fs::read_to_string(workspace.join("op25b-user").join(format!("{NAME}.json")));
    for file in written.iter().filter(|file| file.exists()) {
        fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))?;
    }
    made?;
    // Own packages are named by their folder, which is nobody's business and differs from machine to machine.
    let text = text.context("cargo-cyclonedx has written nothing")?;
    let text = text.replace(&workspace.display().to_string(), "/op25b");
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
