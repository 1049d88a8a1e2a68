//! XDP links.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use aya::programs::{
    ProgramError, Xdp, XdpMode,
    links::FdLink,
    xdp::{XdpLink, XdpLinkId},
};
use aya_obj::programs::XdpAttachType;
use nix::libc;

use super::{Attached, open_ours, pin, program_name};
use crate::{commands::No, document::Attach, instance::Instance, interface::Interface};

/// The program by which libxdp runs several on one interface.
const DISPATCHER: &str = "xdp_dispatcher";

pub(super) fn attach(
    instance: &Instance,
    interface: &Interface,
    attach: Attach,
    program: &Path,
) -> Result<Attached> {
    let mut program = from_pin(program)?;
    let path = instance.link(&interface.name, attach);
    if path.exists() {
        if swap(&path, interface, &mut program)? {
            return Ok(Attached::Swapped);
        }
        // The interface that the link was for is gone; one of the same name is here.
        fs::remove_file(&path).with_context(|| format!("cannot remove the stale pin {}", path.display()))?;
    }
    if let Some(id) = interface.xdp {
        return Err(taken(instance, interface, attach, id));
    }
    let mode = if attach == Attach::Generic { XdpMode::Skb } else { XdpMode::Driver };
    let link =
        program.attach_to_if_index(interface.index, mode).map_err(|error| refused(interface, error))?;
    pin(take(&mut program, link)?, &path)?;
    Ok(Attached::Anew)
}

/// Replaces the program of a pinned link. False: the link's interface is gone, or it is another one now.
fn swap(path: &Path, interface: &Interface, program: &mut Xdp) -> Result<bool> {
    let (link, linked) = open_ours(path)?;
    if interface.xdp != Some(linked) {
        return Ok(false);
    }
    replace(link, path, program)?;
    Ok(true)
}

pub(super) fn swap_to(link: &Path, program: &Path) -> Result<()> {
    replace(open_ours(link)?.0, link, &mut from_pin(program)?)
}

pub(super) fn from_pin(program: &Path) -> Result<Xdp> {
    Xdp::from_pin(program, XdpAttachType::Interface)
        .with_context(|| format!("cannot open the program {}", program.display()))
}

fn replace(link: XdpLink, path: &Path, program: &mut Xdp) -> Result<()> {
    let id = program
        .attach_to_link(link)
        .with_context(|| format!("cannot swap the program of {}", path.display()))?;
    drop(take(program, id)?);
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

fn taken(instance: &Instance, interface: &Interface, attach: Attach, id: u32) -> anyhow::Error {
    let program = program_name(id).unwrap_or_else(|| "unnamed".to_owned());
    let name = &interface.name;
    let other = if attach == Attach::Generic { Attach::Native } else { Attach::Generic };
    if instance.link(name, other).exists() {
        return No::Input(format!(
            "{name} is attached {} by this instance; it cannot become {} without an open moment: `op25b detach`, \
             then run again",
            other.name(),
            attach.name()
        ))
        .into();
    }
    No::Input(choices(name, &program, id)).into()
}

fn choices(name: &str, program: &str, id: u32) -> String {
    let detach = if program == DISPATCHER {
        format!(
            "It is libxdp's dispatcher, which op25b does not join: it would swap and end with the others. \
             `xdp-loader status {name}` lists what runs behind it, `xdp-loader unload {name} --all` takes it off"
        )
    } else {
        "Detach it with the tool that attached it".to_owned()
    };
    format!(
        "{name}: another XDP program is attached: {program} (id {id}); an interface takes one. {detach}; or write \
         `{{name: {name}, attach: tc-ingress}}` in the policy, which runs beside it"
    )
}

/// Why an interface does not take the program, and what helps.
fn refused(interface: &Interface, error: ProgramError) -> anyhow::Error {
    let code = match &error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    };
    let name = &interface.name;
    let why = match code {
        Some(libc::EOPNOTSUPP) => format!(
            "{name}: the driver has no native XDP; write `{{name: {name}, attach: generic}}` in the policy, which \
             is slower and works everywhere"
        ),
        Some(libc::ERANGE | libc::EINVAL) => format!(
            "{name}: the driver refuses native XDP at MTU {}; lower it (`ip link set dev {name} mtu 1500`) or \
             write `{{name: {name}, attach: generic}}`",
            interface.mtu
        ),
        Some(libc::EBUSY | libc::EEXIST) => {
            format!("{name}: another XDP program was attached meanwhile; `ip link show dev {name}` names it")
        }
        Some(libc::EPERM) => format!("{name}: not permitted: attaching needs CAP_NET_ADMIN"),
        _ => return anyhow::Error::new(error).context(format!("{name}: cannot attach")),
    };
    No::Input(why).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_the_interface_is_named_and_how_it_is_given_up() {
        let said = choices("eth1", "xdp_dispatcher", 25);
        for word in ["xdp_dispatcher (id 25)", "xdp-loader unload eth1 --all", "attach: tc-ingress"] {
            assert!(said.contains(word), "{said}");
        }
        let said = choices("eth1", "xdp_other", 25);
        assert!(said.contains("the tool that attached it") && !said.contains("xdp-loader"), "{said}");
    }
}
