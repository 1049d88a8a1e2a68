//! `cargo xtask test`: everything that must hold before a change goes in, cargo's own counts last.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::exec::exec;
use crate::{kernels, root, setup};

/// Runs every check; `arguments` go to `cargo test`.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    root::require("cargo xtask test")?;
    step("setup", setup::run)?;
    step("bpffs", root::mount_bpffs)?;
    step("format", || exec(cargo().args(["fmt", "--all", "--check"])))?;
    step("clippy for the host", || {
        exec(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    })?;
    step("clippy for BPF", || exec(&mut bpf_clippy()))?;
    step("documentation", || {
        exec(cargo().env("RUSTDOCFLAGS", "-D warnings").args(["doc", "--workspace", "--no-deps"]))
    })?;
    // This machine's own runs the tests below.
    step("kernels", || kernels::run(&kernels::EMULATED))?;
    // Without a line after them, so that the output ends with cargo's own counts.
    eprintln!("== tests");
    exec(cargo().args(["test", "--workspace"]).args(arguments))
}

/// The kernel half as the toolchain that builds it sees it.
fn bpf_clippy() -> Command {
    let mut command = Command::new("rustup");
    command
        // build-std is unstable, and the toolchain may be a release.
        .env("RUSTC_BOOTSTRAP", "1")
        .args(["run", "bpf", "cargo", "clippy", "--package", "op25b-ebpf", "--lib", "--bins"])
        .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core", "--", "-D", "warnings"]);
    command
}

fn step(name: &str, check: impl FnOnce() -> Result<()>) -> Result<()> {
    eprintln!("== {name}");
    let start = Instant::now();
    check().with_context(|| format!("{name} failed"))?;
    eprintln!("== {name}: ok, {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn cargo() -> Command {
    Command::new("cargo")
}
