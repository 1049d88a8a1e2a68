//! What `cargo xtask dist` needs beside the toolchain; no other task does.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::packages::Packages;
use crate::exec::{exec, read};

const VERSION: &str = "0.5.9";

/// Where it is kept: it is no tool of the developer's own.
const TOOLS: &str = ".cache/dist/tools";

/// dpkg-shlibdeps, and what packs.
const PACK: &[&str] = &["dpkg-dev", "gzip", "xz-utils"];
/// For clean roots, and for the unit's score.
const CHECK: &[&str] = &["debootstrap", "systemd"];

/// Makes sure that packages can be made and, with `check`, tried.
pub(super) fn find_or_get(check: bool, packages: &mut Packages) -> Result<()> {
    packages.install("to make packages", PACK)?;
    if check {
        packages.install("to try packages", CHECK)?;
    }
    let tool = cyclonedx()?;
    let there = read(Command::new(&tool).args(["cyclonedx", "--version"]).stderr(Stdio::null()));
    if there.is_ok_and(|version| version.contains(VERSION)) {
        return Ok(());
    }
    println!("setup: building cargo-cyclonedx {VERSION} into {TOOLS}, two minutes");
    exec(
        Command::new("cargo")
            // It runs for a second: optimising it takes longer than it ever will.
            .args([
                "install",
                "--debug",
                "--quiet",
                "--locked",
                "--force",
                "cargo-cyclonedx",
                "--version",
                VERSION,
            ])
            .args(["--root", TOOLS]),
    )
}

/// Where cargo-cyclonedx is.
pub(super) fn cyclonedx() -> Result<PathBuf> {
    std::path::absolute(Path::new(TOOLS).join("bin/cargo-cyclonedx")).context("where is the workspace?")
}
