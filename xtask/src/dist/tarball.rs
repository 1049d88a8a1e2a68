//! The tarball, for routers without dpkg: the same files as in the .deb.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::tree::Tree;
use crate::exec::{exec, read};

/// Packs `tree` into `out`.
pub(super) fn build(tree: &Tree, version: &str, out: &Path, epoch: u64) -> Result<PathBuf> {
    let machine = read(Command::new("uname").arg("-m"))?;
    let name = format!("op25b-{version}-{}-linux", machine.trim());
    let tarball = out.join(format!("{name}.tar.xz"));
    // Order, owner and times are those of no machine.
    exec(
        Command::new("tar")
            .args(["--create", "--sort=name", "--format=gnu", "--owner=0", "--group=0", "--numeric-owner"])
            .arg(format!("--mtime=@{epoch}"))
            .arg(format!("--transform=s,^\\.,{name},"))
            // With one thread, since the number of them would be seen in the bytes.
            .args(["--use-compress-program", "xz -T1 -6", "--file"])
            .arg(&tarball)
            .arg("--directory")
            .arg(tree.root())
            .arg("."),
    )?;
    Ok(tarball)
}
