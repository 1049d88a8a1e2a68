//! The rustup toolchain `bpf`: a compiler with its library's source, since core is built for BPF from it.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow, bail};

use super::linker;
use super::packages::Packages;
use crate::exec::{exec, read};

/// The name that op25b-user/build.rs gives to aya-build.
const NAME: &str = "bpf";

/// Debian's pair of compiler and library source, kept up to date for its browsers, and its linter.
const DEBIAN: &[&str] = &["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy"];
const DEBIAN_SYSROOT: &str = "/usr";

const BY_HAND: &str = "hint: or rustup toolchain install nightly --component rust-src";

/// Makes sure that the toolchain is there, and returns the major version of its LLVM.
pub(crate) fn find_or_link(packages: &mut Packages) -> Result<u32> {
    read(Command::new("rustup").arg("--version").stderr(Stdio::null()))
        .map_err(|error| anyhow!("{error:#}\nhint: install rustup, which runs the BPF toolchain"))?;
    match sysroot_with_source(NAME) {
        Some(sysroot) if sysroot == DEBIAN_SYSROOT => packages.install("to build for BPF", DEBIAN)?,
        Some(_) => {}
        None => link(packages)?,
    }
    llvm_major(NAME)
}

fn link(packages: &mut Packages) -> Result<()> {
    if let Some(sysroot) = nightly_with_source(packages)? {
        return link_sysroot(&sysroot);
    }
    packages.install("to build for BPF", DEBIAN).map_err(|error| {
        anyhow!("no nightly toolchain here has rust-src, and Debian's is not there: {error:#}\n{BY_HAND}")
    })?;
    if !has_source(DEBIAN_SYSROOT) {
        bail!("{DEBIAN_SYSROOT} has no library source though rust-web-src is installed\n{BY_HAND}");
    }
    link_sysroot(DEBIAN_SYSROOT)
}

fn link_sysroot(sysroot: &str) -> Result<()> {
    println!("setup: linking the rustup toolchain `{NAME}` to {sysroot}");
    exec(Command::new("rustup").args(["toolchain", "link", NAME, sysroot]))
}

/// The sysroot of an installed nightly that has the library's source and an LLVM that bpf-linker can use.
fn nightly_with_source(packages: &mut Packages) -> Result<Option<String>> {
    let toolchains = read(Command::new("rustup").args(["toolchain", "list"]))?;
    let nightlies = toolchains
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| name.starts_with("nightly"));
    for name in nightlies {
        let Some(sysroot) = sysroot_with_source(name) else { continue };
        if packages.offer(&linker::llvm_package(llvm_major(name)?)) {
            return Ok(Some(sysroot));
        }
    }
    Ok(None)
}

fn sysroot_with_source(toolchain: &str) -> Option<String> {
    let mut rustc = Command::new("rustup");
    rustc.args(["run", toolchain, "rustc", "--print", "sysroot"]).stderr(Stdio::null());
    let sysroot = read(&mut rustc).ok()?.trim().to_owned();
    has_source(&sysroot).then_some(sysroot)
}

fn has_source(sysroot: &str) -> bool {
    Path::new(sysroot).join("lib/rustlib/src/rust/library/core/Cargo.toml").exists()
}

fn llvm_major(toolchain: &str) -> Result<u32> {
    let version = read(Command::new("rustup").args(["run", toolchain, "rustc", "-vV"]))?;
    version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: ")?.split('.').next()?.parse().ok())
        .with_context(|| format!("the rustc of toolchain `{toolchain}` does not name its LLVM:\n{version}"))
}
