//! Interfaces that come, go and change their names while they are filtered (PPP, VLAN, a driver loaded anew).

use std::{fs, io, path::Path, time::Instant};

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::sync::mpsc;

use crate::{
    attach::{self, Hook},
    generation,
    instance::Instance,
    interface::{self, Interface},
    manifest::{self, Manifest},
};

/// Ends the name of a pin that is on its way to a new one.
pub const ASIDE: &str = ":renamed";

/// The kernel's word that something about an interface has changed, as often as it is given.
///
/// # Errors
///
/// When netlink cannot be listened to.
pub fn listen() -> Result<mpsc::Receiver<Instant>> {
    let (connection, _, mut messages) =
        new_multicast_connection(&[MulticastGroup::Link]).context("cannot listen to netlink")?;
    tokio::spawn(connection);
    // One that waits says as much as many.
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while messages.next().await.is_some() {
            if let Err(mpsc::error::TrySendError::Closed(_)) = sender.try_send(Instant::now()) {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Attaches the generation to interfaces that are there anew. Whether one of them is of another kind, for which the
/// generation has no program.
///
/// # Errors
///
/// When one of them cannot be attached.
pub async fn attach_new(instance: &Instance, manifest: &mut Manifest, noticed: Instant) -> Result<bool> {
    let generation = manifest.generation;
    let (mut other_kind, mut changed, mut done) = (false, false, Ok(()));
    for known in &mut manifest.interfaces {
        // One that goes while it is looked at must not keep the others from being looked at.
        match attach_one(instance, generation, known, noticed).await {
            Ok(Found::AsBefore) => {}
            Ok(Found::OtherKind) => other_kind = true,
            Ok(Found::Changed) => changed = true,
            Err(error) => done = done.and(Err(error)),
        }
    }
    if changed {
        manifest.write(instance)?;
    }
    done.map(|()| other_kind)
}

/// What became of an interface that was looked at.
enum Found {
    AsBefore,
    /// It needs a program that the generation does not have.
    OtherKind,
    /// It is gone, or is there anew and filtered.
    Changed,
}

async fn attach_one(
    instance: &Instance,
    generation: u64,
    known: &mut manifest::Interface,
    noticed: Instant,
) -> Result<Found> {
    let Some(interface) = interface::find(&known.name).await? else {
        if known.index == 0 {
            return Ok(Found::AsBefore);
        }
        log::warn!("{}: is gone; the filter is attached when it comes back", known.name);
        known.index = 0;
        return Ok(Found::Changed);
    };
    if interface.ethernet != known.ethernet {
        return Ok(Found::OtherKind);
    }
    // The driver may do something else with VLAN tags than when the program was made.
    let other_kind = (known.answers || known.unanswered.is_some())
        && generation::unanswered(known.mode, &interface).await != known.unanswered;
    let running = attach::programs(&interface, &known.name, known.mode).await?;
    // The number alone does not say that it is the same one.
    if interface.index == known.index && running.iter().any(|program| known.runs(*program)) {
        return Ok(if other_kind { Found::OtherKind } else { Found::AsBefore });
    }
    attach::attach(instance, generation, &interface, known.mode, &running)?;
    let took = noticed.elapsed().as_secs_f64() * 1e3;
    log::warn!("{}: is there anew; attached {took:.1} ms after it was noticed", known.name);
    known.index = interface.index;
    Ok(if other_kind { Found::OtherKind } else { Found::Changed })
}

/// An interface that was renamed takes its pins along, so that it is neither attached twice nor left behind.
///
/// # Errors
///
/// When netlink does not answer or a pin cannot be renamed.
pub async fn follow_renames(instance: &Instance, manifest: &mut Manifest) -> Result<()> {
    let interfaces = interface::all().await?;
    let mut renamed = Vec::new();
    for known in &manifest.interfaces {
        let Some(now) = holder(known, &interfaces).await?.filter(|now| *now != known.name) else { continue };
        log::warn!("{} is called {now} now", known.name);
        renamed.push((known.name.clone(), now, known.mode, known.hook));
    }
    // Two steps, since two interfaces can have changed names with each other.
    let beside = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.with_file_name(format!("{name}{ASIDE}"))
    };
    for step in 0..2 {
        for (before, now, mode, hook) in &renamed {
            let mut moves = vec![(instance.counters(before, *mode), instance.counters(now, *mode))];
            if *hook != Hook::Clsact {
                moves.push((instance.link(before, *mode), instance.link(now, *mode)));
            }
            for program in [hook.program(), hook.sampling_program(), hook.sibling()] {
                moves.push((
                    instance.program(manifest.generation, program, before, *mode),
                    instance.program(manifest.generation, program, now, *mode),
                ));
            }
            for (from, to) in moves {
                if step == 0 { take(&from, &beside(&from))? } else { put(&beside(&from), &to)? }
            }
        }
    }
    if renamed.is_empty() {
        return Ok(());
    }
    // Only now: as long as a pin has not been moved, this is to be done again.
    for known in &mut manifest.interfaces {
        let new = renamed.iter().find(|(before, _, mode, _)| *before == known.name && *mode == known.mode);
        if let Some((_, now, ..)) = new {
            known.name.clone_from(now);
        }
    }
    manifest.write(instance)
}

/// The name of the interface that runs one of a generation's programs, whatever it was called.
async fn holder(known: &manifest::Interface, interfaces: &[Interface]) -> Result<Option<String>> {
    if known.hook == Hook::Xdp {
        let holds = |one: &&Interface| one.xdp.is_some_and(|program| known.runs(program));
        return Ok(interfaces.iter().find(holds).map(|one| one.name.clone()));
    }
    let Some(one) = interfaces.iter().find(|one| one.index == known.index) else { return Ok(None) };
    let running = attach::programs(one, &one.name, known.mode).await?;
    Ok(running.iter().any(|program| known.runs(*program)).then(|| one.name.clone()))
}

/// Takes a pin aside; one that is not there was taken before, by a daemon that died at it.
fn take(from: &Path, aside: &Path) -> Result<()> {
    match fs::rename(from, aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot rename {} to {}", from.display(), aside.display()))
        }
        _ => Ok(()),
    }
}

/// Puts a pin where it belongs; one that is there already was put by a daemon that died at it.
fn put(aside: &Path, to: &Path) -> Result<()> {
    if !aside.exists() && to.exists() {
        return Ok(());
    }
    if to.is_dir() {
        // Counters of an interface that had the name once and is gone.
        fs::remove_dir_all(to).with_context(|| format!("cannot remove {}", to.display()))?;
    }
    fs::rename(aside, to).with_context(|| format!("cannot rename {} to {}", aside.display(), to.display()))
}
