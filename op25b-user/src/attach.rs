//! Putting a generation in force on the interfaces, and taking it away: links are swapped, never left open.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use aya::programs::{
    ProgramError, ProgramInfo, Xdp, XdpMode,
    links::{FdLink, PinnedLink},
    loaded_programs,
    xdp::{XdpLink, XdpLinkId},
};

use aya_obj::programs::XdpAttachType;

use crate::{commands::No, document::Attach, instance::Instance, interface::Interface, policy::Port};

/// How a port got its program, for who has to undo it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// There was no link of ours.
    Anew,
    /// The link was there and has the new program now; no packet went unfiltered.
    Swapped,
}

/// Puts a loaded program in force on a port. The link is pinned: it outlives this process.
///
/// # Errors
///
/// When the interface cannot take it: in words, with the cure.
pub fn attach(
    instance: &Instance,
    port: &Port,
    interface: &Interface,
    program: &mut Xdp,
) -> Result<Attached> {
    let pin = instance.link(&port.name);
    if pin.exists() {
        if swap(&pin, interface, program)? {
            return Ok(Attached::Swapped);
        }
        // The interface that the link was for is gone; one of the same name is here.
        fs::remove_file(&pin).with_context(|| format!("cannot remove the stale pin {}", pin.display()))?;
    }
    if let Some(id) = interface.xdp {
        return Err(taken(port, id));
    }
    let mode = match port.attach {
        Attach::Native => XdpMode::Driver,
        Attach::Generic => XdpMode::Skb,
        Attach::TcIngress | Attach::TcEgress => return Err(No::Input(not_yet(port)).into()),
    };
    let link =
        program.attach_to_if_index(interface.index, mode).map_err(|error| refused(port, interface, error))?;
    let link = take(program, link)?;
    make_parent(&pin)?;
    // Dropping the link after it is pinned closes a descriptor, nothing more.
    drop(link.pin(&pin).with_context(|| format!("cannot pin the link {}", pin.display()))?);
    Ok(Attached::Anew)
}

/// Replaces the program of a pinned link. False: the link's interface is gone, or it is another one now.
fn swap(pin: &Path, interface: &Interface, program: &mut Xdp) -> Result<bool> {
    let link = open(pin)?;
    let Some(on_interface) = interface.xdp else { return Ok(false) };
    if link.info()?.program_id() != on_interface {
        return Ok(false);
    }
    let link = XdpLink::try_from(link)
        .map_err(|_| No::Input(format!("{} is not a link of op25b; remove it", pin.display())))?;
    let id = program
        .attach_to_link(link)
        .with_context(|| format!("cannot swap the program of {}", pin.display()))?;
    drop(take(program, id)?);
    Ok(true)
}

/// Gives a pinned link a pinned program.
///
/// # Errors
///
/// When either pin is gone or the kernel refuses.
pub fn replace(link: &Path, program: &Path) -> Result<()> {
    let mut program = Xdp::from_pin(program, XdpAttachType::Interface)
        .with_context(|| format!("cannot open the program {}", program.display()))?;
    let link = XdpLink::try_from(open(link)?)?;
    let id = program.attach_to_link(link)?;
    drop(take(&mut program, id)?);
    Ok(())
}

/// The link as a descriptor of its own, so that the program can be dropped without it.
fn take(program: &mut Xdp, id: XdpLinkId) -> Result<FdLink> {
    FdLink::try_from(program.take_link(id)?).map_err(|_| {
        No::Input(
            "the kernel attached the program without a link, so that it could not be swapped in one step; \
             it was taken off again"
                .to_owned(),
        )
        .into()
    })
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
///
/// # Errors
///
/// When bpffs refuses.
pub fn make_parent(pin: &Path) -> Result<()> {
    let parent = pin.parent().context("a pin lies in a directory")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))
}

/// Removes a port's link: the interface is unfiltered from here on.
///
/// # Errors
///
/// When the pin is there and cannot be removed.
pub fn detach(instance: &Instance, interface: &str) -> Result<bool> {
    let pin = instance.link(interface);
    match fs::remove_file(&pin) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", pin.display())),
    }
}

fn not_yet(port: &Port) -> String {
    format!("{}: `attach: {}` is not yet supported; write native or generic", port.name, port.attach.name())
}

fn taken(port: &Port, id: u32) -> anyhow::Error {
    let name = program_name(id).unwrap_or_else(|| "unnamed".to_owned());
    No::Input(format!(
        "{}: another XDP program is attached: {name} (id {id}); an interface takes one. Detach it \
         (`ip link set dev {} xdp off`, or with the tool that attached it), or filter on another interface",
        port.name, port.name
    ))
    .into()
}

/// The name of a loaded program.
#[must_use]
pub fn program_name(id: u32) -> Option<String> {
    let program: ProgramInfo = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id)?;
    program.name_as_str().map(str::to_owned)
}

/// Why an interface does not take the program, and what helps.
fn refused(port: &Port, interface: &Interface, error: ProgramError) -> anyhow::Error {
    let code = match &error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    };
    let name = &port.name;
    let why = match code {
        Some(nix::libc::EOPNOTSUPP) => format!(
            "{name}: the driver has no native XDP; write `{{name: {name}, attach: generic}}` in the policy, which \
             is slower and works everywhere"
        ),
        Some(nix::libc::ERANGE | nix::libc::EINVAL) => format!(
            "{name}: the driver refuses native XDP at MTU {}; lower it (`ip link set dev {name} mtu 1500`) or \
             write `{{name: {name}, attach: generic}}`",
            interface.mtu
        ),
        Some(nix::libc::EBUSY | nix::libc::EEXIST) => {
            format!("{name}: another XDP program was attached meanwhile; `ip link show dev {name}` names it")
        }
        Some(nix::libc::EPERM) => format!("{name}: not permitted: attaching needs CAP_NET_ADMIN"),
        _ => return anyhow::Error::new(error).context(format!("{name}: cannot attach")),
    };
    No::Input(why).into()
}
