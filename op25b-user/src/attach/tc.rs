//! The TC hook: tcx links where the kernel has them, a classifier of the clsact qdisc before.

use std::{fs, io, path::Path};

use anyhow::{Context as _, Result};
use aya::programs::{
    LinkOrder, SchedClassifier, TcAttachType,
    links::FdLink,
    tc::{
        NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcError, TcHandle,
        qdisc_add_clsact, qdisc_detach_program,
    },
};
use nix::errno::Errno;

use super::{Attached, Hook, open_ours, pin, program_name};
use crate::{commands::No, document::Attach, instance::Instance, object::program};

/// Where our classifier sits in the clsact qdisc: before all others, always the same, so that it can be replaced.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 0x25);

/// Names by which a classifier of an earlier run is known; the kernel keeps 15 bytes of a name.
const OURS: [&str; 2] = ["op25b_tc", "op25b_sample_tc"];

const fn direction(attach: Attach) -> TcAttachType {
    match attach {
        Attach::TcEgress => TcAttachType::Egress,
        _ => TcAttachType::Ingress,
    }
}

pub(super) fn attach(
    instance: &Instance,
    interface: &str,
    attach: Attach,
    running: &[u32],
    program: &Path,
) -> Result<Attached> {
    let mut program = from_pin(program)?;
    let ours =
        || running.iter().any(|id| program_name(*id).is_some_and(|name| OURS.contains(&name.as_str())));
    if Hook::of(attach) == Hook::Clsact {
        attach_clsact(interface, attach, ours(), &mut program)
    } else {
        attach_tcx(instance, interface, attach, &mut program)
    }
}

pub(super) fn from_pin(program: &Path) -> Result<SchedClassifier> {
    SchedClassifier::from_pin(program)
        .with_context(|| format!("cannot open the program {}", program.display()))
}

fn attach_tcx(
    instance: &Instance,
    interface: &str,
    attach: Attach,
    program: &mut SchedClassifier,
) -> Result<Attached> {
    let path = instance.link(interface, attach);
    if path.exists() {
        let (link, linked) = open_ours(&path)?;
        if programs(interface, attach)?.contains(&linked) {
            replace(link, &path, program)?;
            return Ok(Attached::Swapped);
        }
        // The interface that the link was for is gone; one of the same name is here.
        fs::remove_file(&path).with_context(|| format!("cannot remove the stale pin {}", path.display()))?;
    }
    // First: a program before ours could end the chain and let packets by.
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program
        .attach_with_options(interface, direction(attach), options)
        .with_context(|| format!("{interface}: cannot attach to the TC hook"))?;
    pin(take(program, id)?, &path)?;
    Ok(Attached::Anew)
}

fn replace(link: SchedClassifierLink, path: &Path, program: &mut SchedClassifier) -> Result<()> {
    let id = program
        .attach_to_link(link)
        .with_context(|| format!("cannot swap the program of {}", path.display()))?;
    drop(take(program, id)?);
    Ok(())
}

fn take(program: &mut SchedClassifier, id: SchedClassifierLinkId) -> Result<FdLink> {
    Ok(FdLink::try_from(program.take_link(id)?)?)
}

fn attach_clsact(
    interface: &str,
    attach: Attach,
    ours: bool,
    program: &mut SchedClassifier,
) -> Result<Attached> {
    match qdisc_add_clsact(interface) {
        Ok(()) | Err(TcError::AlreadyAttached) => {}
        // An existing clsact qdisc is what is wanted; any other reason comes up again below.
        Err(error) => log::debug!("{interface}: clsact: {error}"),
    }
    if ours {
        replace_clsact(interface, attach, program)?;
        return Ok(Attached::Swapped);
    }
    let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
    let options = TcAttachOptions::Netlink(options);
    let id = program.attach_with_options(interface, direction(attach), options).map_err(|error| {
        No::Input(format!(
            "{interface}: cannot attach to the clsact qdisc: {error}; `tc filter show dev {interface} {}` shows \
             whether something else sits at preference {PRIORITY}, handle 0x25",
            if attach == Attach::TcEgress { "egress" } else { "ingress" }
        ))
    })?;
    leave(program, id)?;
    Ok(Attached::Anew)
}

fn replace_clsact(interface: &str, attach: Attach, program: &mut SchedClassifier) -> Result<()> {
    let link = SchedClassifierLink::attached(interface, direction(attach), PRIORITY, HANDLE, None)?;
    let id = program
        .attach_to_link(link)
        .with_context(|| format!("{interface}: cannot attach to the clsact qdisc"))?;
    leave(program, id)
}

/// Lets go of a classifier without taking it off: aya does that when a link is dropped.
fn leave(program: &mut SchedClassifier, id: SchedClassifierLinkId) -> Result<()> {
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

pub(super) fn swap_to(
    link: &Path,
    interface: &str,
    attach: Attach,
    hook: Hook,
    program: &Path,
) -> Result<()> {
    let mut program = from_pin(program)?;
    if hook == Hook::Clsact {
        replace_clsact(interface, attach, &mut program)
    } else {
        replace(open_ours(link)?.0, link, &mut program)
    }
}

pub(super) fn detach_clsact(interface: &str, attach: Attach) -> Result<bool> {
    match qdisc_detach_program(interface, direction(attach), program::TC) {
        Ok(()) => Ok(true),
        // No such filter, or no such interface any more.
        Err(TcError::IoError(error))
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(Errno::ENODEV as i32) =>
        {
            Ok(false)
        }
        Err(error) => Err(error).with_context(|| format!("{interface}: cannot take the classifier off")),
    }
}

pub(super) fn programs(interface: &str, attach: Attach) -> Result<Vec<u32>> {
    let (_, programs) = SchedClassifier::query_tcx(interface, direction(attach))
        .with_context(|| format!("{interface}: cannot ask for its TC programs"))?;
    Ok(programs.iter().map(aya::programs::ProgramInfo::id).collect())
}
