//! What `cargo xtask dist` needs beside the toolchain; no other task does.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::packages::Packages;
use crate::exec::{exec, read};

/// A subcommand of cargo.
pub(crate) struct Tool {
    name: &'static str,
    version: &'static str,
    minutes: &'static str,
}

/// Lists what is in the program.
pub(crate) const CYCLONEDX: Tool = Tool { name: "cyclonedx", version: "0.5.9", minutes: "two minutes" };
/// Looks after what goes into it.
pub(crate) const DENY: Tool = Tool { name: "deny", version: "0.20.2", minutes: "six minutes" };

/// Where they are kept: they are no tools of the developer's own.
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
    CYCLONEDX.build()?;
    if check {
        DENY.build()?;
    }
    Ok(())
}

impl Tool {
    /// Where it is, once `setup` has built it.
    pub(crate) fn path(&self) -> Result<PathBuf> {
        let path = Path::new(TOOLS).join("bin").join(format!("cargo-{}", self.name));
        std::path::absolute(path).context("where is the workspace?")
    }

    fn build(&self) -> Result<()> {
        let Self { name, version, minutes } = self;
        let there = read(Command::new(self.path()?).args([name, "--version"]).stderr(Stdio::null()));
        if there.is_ok_and(|said| said.contains(version)) {
            return Ok(());
        }
        println!("setup: building cargo-{name} {version} into {TOOLS}, {minutes}");
        exec(
            Command::new("cargo")
                // It runs for a second: optimising it takes longer than it ever will.
                .args(["install", "--debug", "--quiet", "--locked", "--force", "--root", TOOLS])
                .args([&format!("cargo-{name}"), "--version", version]),
        )
    }
}
