//! Mounts that only one thread and what it starts can see; it must not know what lies in them.

use std::fs;

use anyhow::{Context as _, Result};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

const BPFFS: &str = "/sys/fs/bpf";

/// From here on this thread and what it starts have their own mounts, and a bpffs of their own.
pub(crate) fn own() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot have mounts of its own")?;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    // Not over the machine's: unmounting ours must not bring that to light.
    while is_mounted(BPFFS)? {
        unmount_bpffs()?;
    }
    mount_bpffs()
}

fn is_mounted(directory: &str) -> Result<bool> {
    let mounts = fs::read_to_string("/proc/thread-self/mounts")?;
    Ok(mounts.lines().any(|line| line.split(' ').nth(1) == Some(directory)))
}

pub(crate) fn mount_bpffs() -> Result<()> {
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .with_context(|| format!("cannot mount {BPFFS}"))
}

pub(crate) fn unmount_bpffs() -> Result<()> {
    umount2(BPFFS, MntFlags::MNT_DETACH).with_context(|| format!("cannot unmount {BPFFS}"))
}

/// A directory in memory, `size` as the option of tmpfs says it.
pub(crate) fn mount_tmpfs(directory: &str, size: &str) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {directory}"))?;
    mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), Some(size))
        .with_context(|| format!("cannot mount {directory}"))
}
