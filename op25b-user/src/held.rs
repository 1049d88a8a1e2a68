//! What is pinned, held open too: the filter stays in force when somebody unmounts bpffs under the daemon, and is pinned
//! again where a bpffs is again.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow};
use aya_obj::generated::bpf_cmd;
use nix::libc;

use crate::{
    instance::{BPFFS, Instance},
    preflight,
};

/// Everything that an instance has pinned: links, programs, maps.
#[derive(Default)]
pub struct Held {
    pins: Vec<(PathBuf, OwnedFd)>,
    /// The pins are gone, and that has been said.
    lost: bool,
    /// They could not be held, and that has been said.
    refused: bool,
}

impl Held {
    /// Holds what is pinned now and lets go of what was held before; where the pins are gone, what is held is all there
    /// is.
    pub fn hold(&mut self, instance: &Instance) {
        if self.lost || !instance.pins().exists() {
            return;
        }
        let mut pins = Vec::new();
        match open_all(&instance.pins(), &mut pins) {
            // Unmounted while they were opened.
            _ if !instance.pins().exists() => {}
            Ok(()) => {
                self.pins = pins;
                self.refused = false;
            }
            Err(error) => {
                // With many interfaces there are many, and each needs a descriptor. What is held of another
                // generation must go all the same: it would keep that one loaded.
                self.pins.clear();
                if !self.refused {
                    log::warn!("{error:#}; the filter would end if {BPFFS} were unmounted");
                }
                self.refused = true;
            }
        }
    }

    /// Pins again what has lost its pins.
    pub fn look(&mut self, instance: &Instance) {
        if self.pins.is_empty() || (!self.lost && instance.pins().exists()) {
            return;
        }
        let pinned = if preflight::bpffs_is_mounted() {
            self.pin_missing()
        } else {
            Err(anyhow!("{BPFFS} was unmounted; `mount -t bpf bpf {BPFFS}` mounts it"))
        };
        match pinned {
            Ok(()) => {
                log::warn!("{BPFFS} is another than before: what is in force is pinned there, without a gap");
                self.lost = false;
            }
            Err(error) if !self.lost => {
                log::error!(
                    "{error:#}; until what is in force is pinned again, it stays so only as long as this daemon runs, \
                     and nothing can be changed"
                );
                self.lost = true;
            }
            Err(_) => {}
        }
    }

    /// Whether the filter outlives the daemon.
    #[must_use]
    pub fn outlives_the_daemon(&self) -> bool {
        !self.lost
    }

    fn pin_missing(&self) -> Result<()> {
        for (path, held) in self.pins.iter().filter(|(path, _)| !path.exists()) {
            let parent = path.parent().context("a pin lies in a directory")?;
            fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
            pin(held, path).with_context(|| format!("cannot pin {} again", path.display()))?;
        }
        Ok(())
    }
}

fn open_all(directory: &Path, pins: &mut Vec<(PathBuf, OwnedFd)>) -> Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("cannot read {}", directory.display()))?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_all(&entry.path(), pins)?;
        } else {
            let held =
                open(&entry.path()).with_context(|| format!("cannot open {}", entry.path().display()))?;
            pins.push((entry.path(), held));
        }
    }
    Ok(())
}

/// Opens whatever is pinned there. aya opens each kind by a type of its own, and pins a link only by giving it away,
/// which would end the filter where that fails.
fn open(path: &Path) -> io::Result<OwnedFd> {
    let descriptor = object(bpf_cmd::BPF_OBJ_GET, path, 0)?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn pin(held: &OwnedFd, path: &Path) -> io::Result<()> {
    object(bpf_cmd::BPF_OBJ_PIN, path, held.as_raw_fd()).map(drop)
}

/// What the commands for pins take, of `union bpf_attr`.
#[repr(C)]
struct Pin {
    path: u64,
    descriptor: u32,
    flags: u32,
}

fn object(command: bpf_cmd, path: &Path, descriptor: RawFd) -> io::Result<RawFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let descriptor = u32::try_from(descriptor).map_err(io::Error::other)?;
    let pin = Pin { path: path.as_ptr() as u64, descriptor, flags: 0 };
    // SAFETY: the structure is as long as said, and the path that it points to ends with a zero and outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_uint, &raw const pin, size_of::<Pin>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        RawFd::try_from(result).map_err(io::Error::other)
    }
}
