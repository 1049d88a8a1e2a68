//! Interfaces that come, go and change their names while they are filtered (PPP, VLAN, a driver loaded anew).

use std::{fs, path::Path, time::Instant};

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::sync::mpsc;

use crate::{
    attach::{self, Hook},
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

/// Attaches the generation to interfaces that are there anew. Whether there were any.
///
/// # Errors
///
/// When one of them cannot be attached.
pub async fn attach_new(instance: &Instance, manifest: &mut Manifest, noticed: Instant) -> Result<bool> {
    let mut changed = false;
    let mut refused = Ok(());
    let generation = manifest.generation;
    for known in &mut manifest.interfaces {
        let Some(interface) = interface::find(&known.name).await? else {
            if known.index != 0 {
                log::warn!("{}: is gone; the filter is attached when it comes back", known.name);
                known.index = 0;
                changed = true;
            }
            continue;
        };
        if interface.index == known.index {
            continue;
        }
        let running = attach::programs(&interface, &known.name, known.mode).await?;
        match attach::attach(instance, generation, &interface, known.mode, &running) {
            Ok(_) => {
                log::warn!(
                    "{}: is there anew; attached {:.1} ms after the kernel said so",
                    known.name,
                    noticed.elapsed().as_secs_f64() * 1e3
                );
                known.index = interface.index;
                changed = true;
            }
            Err(error) => refused = Err(error),
        }
    }
    if changed {
        manifest.write(instance)?;
    }
    refused.map(|()| changed)
}

/// An interface that was renamed takes its pins along, so that it is neither attached twice nor left behind.
///
/// # Errors
///
/// When netlink does not answer or a pin cannot be renamed.
pub async fn follow_renames(instance: &Instance, manifest: &mut Manifest) -> Result<()> {
    let holders = interface::holders().await?;
    let mut renamed = Vec::new();
    for known in &mut manifest.interfaces {
        let holder = [known.program, known.sampling_program].iter().find_map(|program| holders.get(program));
        let Some(now) = holder.filter(|now| **now != known.name) else { continue };
        log::warn!("{} is called {now} now", known.name);
        renamed.push((std::mem::replace(&mut known.name, now.clone()), now.clone(), known.mode, known.hook));
    }
    // Two steps, since two interfaces can have changed names with each other.
    let beside = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.with_file_name(format!("{name}{ASIDE}"))
    };
    for step in 0..2 {
        for (before, now, mode, hook) in &renamed {
            let mut moves = vec![
                (instance.link(before, *mode), instance.link(now, *mode)),
                (instance.counters(before, *mode), instance.counters(now, *mode)),
            ];
            for program in [hook.program(), hook.sampling_program(), hook.sibling()] {
                moves.push((
                    instance.program(manifest.generation, program, before, *mode),
                    instance.program(manifest.generation, program, now, *mode),
                ));
            }
            for (from, to) in moves {
                let (from, to) = if step == 0 { (from.clone(), beside(&from)) } else { (beside(&from), to) };
                if to.is_dir() {
                    // Counters of an interface that had the name once and is gone.
                    fs::remove_dir_all(&to).with_context(|| format!("cannot remove {}", to.display()))?;
                }
                fs::rename(&from, &to)
                    .with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))?;
            }
        }
    }
    if !renamed.is_empty() {
        manifest.write(instance)?;
    }
    Ok(())
}
