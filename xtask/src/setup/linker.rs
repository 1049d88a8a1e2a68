//! bpf-linker, built against the LLVM major of the BPF toolchain: it reads that compiler's bitcode.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::packages::Packages;
use crate::exec::{exec, on_path, read};

const VERSION: &str = "0.13.0";

/// The LLVM majors that this version of bpf-linker has a feature for.
const LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// Makes sure that a bpf-linker for LLVM `llvm` is there.
pub(crate) fn find_or_build(llvm: u32, packages: &mut Packages) -> Result<()> {
    if let Some(path) = on_path("bpf-linker")
        && is_wanted_version(&path)
        && linked_llvm(&path) == Some(llvm)
    {
        return Ok(());
    }
    if !LLVM.contains(&llvm) {
        bail!(
            "the toolchain `bpf` has LLVM {llvm}, and bpf-linker {VERSION} knows {} to {}\n\
             hint: rustup toolchain link bpf SYSROOT, with a compiler that has one of those",
            LLVM.start(),
            LLVM.end()
        );
    }
    packages.install("to build bpf-linker", &[llvm_package(llvm), format!("libpolly-{llvm}-dev")])?;
    println!("setup: building bpf-linker {VERSION} for LLVM {llvm}, about a minute");
    let prefix = format!("/usr/lib/llvm-{llvm}");
    let mut path = OsString::from(format!("{prefix}/bin:"));
    path.push(env::var_os("PATH").unwrap_or_default());
    exec(
        Command::new("cargo")
            .env("LLVM_PREFIX", prefix)
            .env("PATH", path)
            .args(["install", "--quiet", "--force", "bpf-linker", "--version", VERSION])
            .args(["--no-default-features", "--features", &format!("llvm-{llvm}")]),
    )?;
    on_path("bpf-linker").map(drop).context(
        "bpf-linker was built, but it is not on PATH\nhint: add the `bin` folder of cargo's home to PATH",
    )
}

/// The Debian package with the libraries of LLVM `major`.
pub(crate) fn llvm_package(major: u32) -> String {
    format!("llvm-{major}-dev")
}

fn is_wanted_version(linker: &PathBuf) -> bool {
    read(Command::new(linker).arg("--version").stderr(Stdio::null()))
        .is_ok_and(|version| version.split_whitespace().nth(1) == Some(VERSION))
}

/// The major of the libLLVM that `linker` loads; none when it brings its own, whose version nothing tells.
fn linked_llvm(linker: &PathBuf) -> Option<u32> {
    llvm_of(&read(Command::new("ldd").arg(linker).stderr(Stdio::null())).ok()?)
}

fn llvm_of(libraries: &str) -> Option<u32> {
    let name = libraries.split_whitespace().find(|word| word.starts_with("libLLVM"))?;
    let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_major_is_read_from_both_spellings_of_the_library() {
        assert_eq!(llvm_of("\tlibLLVM.so.22.1 => /lib/libLLVM.so.22.1 (0x00007f)\n"), Some(22));
        assert_eq!(llvm_of("\tlibc.so.6 => x\n\tlibLLVM-21.so.1 => y\n"), Some(21));
        assert_eq!(llvm_of("\tlibc.so.6 => /lib/libc.so.6\n"), None);
    }
}
