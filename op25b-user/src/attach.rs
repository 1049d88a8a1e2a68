//! Putting a generation in force on the interfaces, and taking it away: programs are swapped, no interface is left
//! open in between.

mod tc;
mod xdp;

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use aya::{
    programs::{
        Program, ProgramInfo,
        links::{FdLink, PinnedLink},
        loaded_programs,
    },
    util::KernelVersion,
};
use serde::{Deserialize, Serialize};

use crate::{
    commands::No,
    document::Attach,
    instance::Instance,
    interface::{self, Interface},
    object::program,
};

/// The kernel's mechanism behind an `attach` word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// An XDP link: replaced in one step.
    Xdp,
    /// A tcx link (Linux 6.6): replaced in one step.
    Tcx,
    /// A classifier of the clsact qdisc: its program is replaced in one step, but it is not a link: it lives with the
    /// interface, and nothing pins it.
    Clsact,
}

impl Hook {
    /// The one that this kernel has for an `attach` word.
    #[must_use]
    pub fn of(attach: Attach) -> Self {
        let tcx = KernelVersion::new(6, 6, 0);
        match attach {
            Attach::Native | Attach::Generic => Self::Xdp,
            Attach::TcIngress | Attach::TcEgress
                if KernelVersion::current().is_ok_and(|kernel| kernel >= tcx) =>
            {
                Self::Tcx
            }
            Attach::TcIngress | Attach::TcEgress => Self::Clsact,
        }
    }

    /// The object's program for it.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::Xdp if program::multi_buffer() => program::XDP_FRAGS,
            Self::Xdp => program::XDP,
            Self::Tcx | Self::Clsact => program::TC,
        }
    }

    /// The one that also counts how every frame was seen.
    #[must_use]
    pub fn sampling_program(self) -> &'static str {
        match self {
            Self::Xdp if program::multi_buffer() => program::SAMPLE_FRAGS,
            Self::Xdp => program::SAMPLE_XDP,
            Self::Tcx | Self::Clsact => program::SAMPLE_TC,
        }
    }

    /// The sibling that answers what the program would do.
    #[must_use]
    pub const fn sibling(self) -> &'static str {
        match self {
            Self::Xdp => program::EXPLAIN,
            Self::Tcx | Self::Clsact => program::EXPLAIN_TC,
        }
    }

    /// Opens a pinned program for it.
    ///
    /// # Errors
    ///
    /// When the pin is none.
    pub fn open(self, pin: &Path) -> Result<Program> {
        Ok(match self {
            Self::Xdp => Program::Xdp(xdp::from_pin(pin)?),
            Self::Tcx | Self::Clsact => Program::SchedClassifier(tc::from_pin(pin)?),
        })
    }
}

/// How a port got its program, for who has to undo it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// There was nothing of ours.
    Anew,
    /// Our program was there and is replaced; no packet went unfiltered.
    Swapped,
}

/// Puts a generation's pinned program in force on an interface, where `running` is at the hook. It outlives this
/// process.
///
/// # Errors
///
/// When the interface cannot take it: in words, with the cure.
pub fn attach(
    instance: &Instance,
    generation: u64,
    interface: &Interface,
    attach: Attach,
    running: &[u32],
) -> Result<Attached> {
    let hook = Hook::of(attach);
    let program = instance.program(generation, hook.program(), &interface.name, attach);
    match hook {
        Hook::Xdp => xdp::attach(instance, interface, attach, &program),
        Hook::Tcx | Hook::Clsact => tc::attach(instance, &interface.name, attach, running, &program),
    }
}

/// Puts a pinned program of a generation in force on an interface that has one of ours.
///
/// # Errors
///
/// When the program or the link is gone, or the kernel refuses.
pub fn swap(instance: &Instance, generation: u64, name: &str, interface: &str, attach: Attach) -> Result<()> {
    let program = instance.program(generation, name, interface, attach);
    let link = instance.link(interface, attach);
    match Hook::of(attach) {
        Hook::Xdp => xdp::swap_to(&link, &program),
        hook @ (Hook::Tcx | Hook::Clsact) => tc::swap_to(&link, interface, attach, hook, &program),
    }
}

/// Takes the program off an interface, which is unfiltered from here on. Whether there was one.
///
/// # Errors
///
/// When it is there and cannot be taken off.
pub fn detach(instance: &Instance, interface: &str, attach: Attach) -> Result<bool> {
    if Hook::of(attach) == Hook::Clsact {
        return tc::detach_clsact(interface, attach);
    }
    let pin = instance.link(interface, attach);
    match fs::remove_file(&pin) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", pin.display())),
    }
}

/// The kernel's numbers of the programs at an interface's hook, in the order in which they run.
///
/// # Errors
///
/// When the kernel does not answer.
pub async fn programs(interface: &Interface, name: &str, attach: Attach) -> Result<Vec<u32>> {
    match Hook::of(attach) {
        Hook::Xdp => Ok(interface.xdp.into_iter().collect()),
        Hook::Tcx => tc::programs(name, attach),
        Hook::Clsact => interface::classifiers(interface.index, attach == Attach::TcIngress).await,
    }
}

/// Opens a pinned link of one of our hooks, and says which program it holds.
///
/// # Errors
///
/// When the pin is no such link, by its type: it is somebody else's, and stays.
fn open_ours<L: TryFrom<FdLink>>(pin: &Path) -> Result<(L, u32)> {
    let link = open(pin)?;
    let info = link.info().with_context(|| format!("the kernel does not say what {} is", pin.display()))?;
    let link = L::try_from(link)
        .map_err(|_| No::Input(format!("{} is not a link of op25b; remove it", pin.display())))?;
    Ok((link, info.program_id()))
}

/// Opens a pinned link.
///
/// # Errors
///
/// When the pin is none.
pub fn open(pin: &Path) -> Result<FdLink> {
    let link =
        PinnedLink::from_pin(pin).with_context(|| format!("cannot open the link {}", pin.display()))?;
    Ok(FdLink::from(link))
}

/// Makes the directory that a pin is to lie in.
fn make_parent(pin: &Path) -> Result<()> {
    let parent = pin.parent().context("a pin lies in a directory")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))
}

/// Pins a link. Dropping it afterwards closes a descriptor, nothing more.
fn pin(link: FdLink, path: &Path) -> Result<()> {
    make_parent(path)?;
    drop(link.pin(path).with_context(|| format!("cannot pin the link {}", path.display()))?);
    Ok(())
}

/// The name of a loaded program.
#[must_use]
pub fn program_name(id: u32) -> Option<String> {
    let program: ProgramInfo = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id)?;
    program.name_as_str().map(str::to_owned)
}
