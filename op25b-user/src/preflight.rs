//! What the machine must offer, asked before anything is touched, so that the answer names what is missing.

use std::{fs, path::Path};

use anyhow::Result;
use aya::util::KernelVersion;
use caps::{CapSet, Capability};
use nix::mount::{MsFlags, mount};

use crate::{commands::No, instance::BPFFS};

/// The oldest kernel that the tests run on.
const OLDEST: KernelVersion = KernelVersion::new(5, 10, 0);

/// Checks capabilities and kernel, and mounts bpffs where nobody has.
///
/// # Errors
///
/// One line that names what is missing and what to do.
pub fn check() -> Result<()> {
    for (capability, what) in [
        (Capability::CAP_BPF, "create maps and load programs"),
        (Capability::CAP_NET_ADMIN, "attach to interfaces"),
        (Capability::CAP_PERFMON, "load programs that read packets"),
    ] {
        if !has(capability) && !has(Capability::CAP_SYS_ADMIN) {
            return Err(No::Input(format!(
                "missing capability {capability}: op25b needs it to {what}; run it as root, or give the unit \
                 CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
            ))
            .into());
        }
    }
    if KernelVersion::current().is_ok_and(|kernel| kernel < OLDEST) {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        return Err(No::Input(format!(
            "kernel {} is too old: XDP links that can be replaced in one step need Linux 5.10",
            release.trim(),
        ))
        .into());
    }
    mount_bpffs()
}

fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

/// Whether there is one where pins belong.
pub(crate) fn bpffs_is_mounted() -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| {
        let mut words = line.split(' ');
        words.nth(1) == Some(BPFFS) && words.next() == Some("bpf")
    })
}

fn mount_bpffs() -> Result<()> {
    if bpffs_is_mounted() {
        return Ok(());
    }
    if !Path::new(BPFFS).is_dir() {
        return Err(No::Input(format!(
            "{BPFFS} does not exist: this kernel has no BPF, or /sys is not mounted"
        ))
        .into());
    }
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), Some("mode=0700")).map_err(|error| {
        No::Input(format!(
            "the BPF file system is not mounted ({error}); `mount -t bpf bpf {BPFFS}` mounts it"
        ))
    })?;
    log::info!("mounted the BPF file system on {BPFFS}");
    Ok(())
}
