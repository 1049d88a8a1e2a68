//! What loading a real program needs from the machine: root, and a mounted bpffs.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::exec::exec;

const BPFFS: &str = "/sys/fs/bpf";

/// Whether this process may do everything.
pub(crate) fn is_root() -> Result<bool> {
    let process = fs::metadata("/proc/self").context("cannot read /proc/self")?;
    Ok(process.uid() == 0)
}

/// Refuses to go on without root, since `task` loads real eBPF.
pub(crate) fn require(task: &str) -> Result<()> {
    if !is_root()? {
        bail!("{task} loads eBPF programs and makes network namespaces, so it must run as root");
    }
    Ok(())
}

/// Mounts bpffs where it is not: a new machine has none, and pins need one.
pub(crate) fn mount_bpffs() -> Result<()> {
    let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    let mounted = mounts.lines().any(|mount| {
        let mut fields = mount.split(' ').skip(1);
        fields.next() == Some(BPFFS) && fields.next() == Some("bpf")
    });
    if mounted {
        return Ok(());
    }
    exec(Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]))
}
