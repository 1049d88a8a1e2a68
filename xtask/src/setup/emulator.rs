//! An emulator of x86-64 machines: the installed one, or one that is unpacked in a folder of its own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::packages::Packages;
use crate::exec::{feed, on_path, read};

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";

/// What the unpacked emulator is made of: itself, its modules and its firmware.
const PARTS: &[&str] = &[PACKAGE, "qemu-system-common", "qemu-system-data", "seabios", "ipxe-qemu"];

/// Those of `PARTS` whose dependencies are shared libraries.
const LINKED: [&str; 2] = [PACKAGE, "qemu-system-common"];

/// Where the unpacked emulator is kept; git ignores it.
const KEPT: &str = ".cache/qemu";

/// An emulator that can be started.
pub(crate) enum Emulator {
    Installed,
    /// In this folder as it would be in `/`.
    Unpacked(PathBuf),
}

impl Emulator {
    /// The installed one; else the unpacked one, if it works.
    pub(crate) fn find() -> Option<Self> {
        if on_path(PROGRAM).is_some() {
            return Some(Self::Installed);
        }
        let kept = Self::Unpacked(KEPT.into());
        kept.try_out(Stdio::null()).is_ok().then_some(kept)
    }

    /// Adds the program, and what it needs to find its own files, to a command that starts it.
    pub(crate) fn add_to(&self, command: &mut Command) {
        match self {
            Self::Installed => {
                command.arg(PROGRAM);
            }
            Self::Unpacked(folder) => {
                command
                    .env("QEMU_MODULE_DIR", folder.join("usr/lib/x86_64-linux-gnu/qemu"))
                    .arg(folder.join("usr/bin").join(PROGRAM))
                    .arg("-L")
                    .arg(folder.join("usr/share/qemu"))
                    .arg("-L")
                    .arg(folder.join("usr/share/seabios"));
            }
        }
    }

    /// Starts a machine that stands still, and ends it: its libraries, modules and firmware are there.
    fn try_out(&self, complaints: Stdio) -> Result<()> {
        let mut command = Command::new("env");
        self.add_to(&mut command);
        command
            .args(["-accel", "tcg", "-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-S", "-monitor", "stdio"])
            .stdout(Stdio::null())
            .stderr(complaints);
        feed(&mut command, "quit\n")
    }
}

/// Makes sure that an emulator is there.
pub(crate) fn find_or_get(packages: &mut Packages) -> Result<()> {
    if Emulator::find().is_some() {
        return Ok(());
    }
    if !packages.can_install(PACKAGE) {
        return unpack(packages)
            .with_context(|| format!("cannot unpack {PACKAGE}, which apt does not install"));
    }
    packages.install("to emulate machines", &[PACKAGE])?;
    on_path(PROGRAM)
        .map(drop)
        .with_context(|| format!("{PACKAGE} is installed, but {PROGRAM} is not on PATH"))
}

/// An installed package, as a newer qemu-utils, can rule out the packages of the emulator, but not its files.
fn unpack(packages: &mut Packages) -> Result<()> {
    let depends = read(Command::new("apt-cache").env("LC_ALL", "C").arg("depends").args(LINKED))?;
    let libraries: Vec<&str> = libraries(&depends).into_iter().collect();
    packages.install("to emulate machines", &libraries)?;

    println!("setup: unpacking in {KEPT}, since apt does not install it beside what is there: {PACKAGE}");
    packages.keep_unpacked(PARTS, Path::new(KEPT), |unpacked| {
        Emulator::Unpacked(unpacked.to_owned()).try_out(Stdio::inherit())
    })
}

/// The packages that apt-cache lists in `depends`, without the emulator's own; of alternatives the first.
fn libraries(depends: &str) -> BTreeSet<&str> {
    let mut libraries = BTreeSet::new();
    let mut chosen = false;
    for line in depends.lines() {
        let line = line.trim_start();
        let (line, alternative_follows) = line.strip_prefix('|').map_or((line, false), |line| (line, true));
        let Some(package) = line.strip_prefix("Depends: ") else { continue };
        // In angle brackets is what other packages only provide.
        if !chosen && !package.starts_with('<') {
            libraries.insert(package);
            chosen = true;
        }
        chosen &= alternative_follows;
    }
    libraries.retain(|package| !package.starts_with("qemu-") && !PARTS.contains(package));
    libraries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_libraries_are_the_dependencies_that_are_not_the_emulators_own() {
        let depends = "\
qemu-system-x86
  Depends: libc6
 |Depends: liba1
  Depends: liba2
  Depends: <virtual>
    provider
  Depends: qemu-system-common
  Depends: seabios
  Depends: ipxe-qemu
  Breaks: <qemu-kvm>
  Recommends: ovmf
qemu-system-common
  Depends: libc6
 |Depends: <other>
  Depends: libb
  Breaks: qemu-utils
";
        assert_eq!(libraries(depends), BTreeSet::from(["liba1", "libb", "libc6"]));
    }
}
