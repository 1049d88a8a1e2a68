//! `op25b detach`: removes everything that `run` made, but the log of who has read what. Twice is fine.

use std::{collections::HashSet, time::Duration};

use anyhow::Result;
use tokio::time::{Instant, sleep};

use super::print;
use crate::{
    attach,
    attach::Hook,
    document::Attach,
    durable, history,
    instance::Instance,
    interface,
    manifest::{self, Manifest},
    preflight,
};

/// How long a link is waited for that nothing holds any more.
const LINGERS: Duration = Duration::from_secs(5);

pub(super) async fn detach(instance: &Instance) -> Result<()> {
    if [instance.pins(), instance.state(), instance.persistent()].iter().any(|path| path.exists()) {
        preflight::check()?;
    }
    let lock = instance.take_over()?;
    let mut interfaces = Vec::new();
    // A damaged manifest must not keep anybody from taking the filter off.
    let manifests = [Manifest::read_to_replace(instance), Manifest::interrupted(instance)];
    let filtered: Vec<manifest::Interface> = manifests
        .into_iter()
        .filter_map(|manifest| {
            manifest.unwrap_or_else(|error| {
                log::warn!("{error:#}");
                None
            })
        })
        .flat_map(|manifest| manifest.interfaces)
        .collect();
    let known: HashSet<(String, Attach)> =
        filtered.iter().map(|interface| (interface.name.clone(), interface.mode)).collect();
    let mut failed = Ok(());
    for (name, mode) in known {
        match attach::detach(instance, &name, mode) {
            Ok(true) => interfaces.push(name),
            Ok(false) => {}
            // The others come off all the same, and what is known of this one stays.
            Err(error) => failed = Err(error.context(name)),
        }
    }
    failed?;
    interfaces.sort();
    // Links that no manifest names come off with their pins.
    durable::remove_all(&instance.pins().join("links"))?;
    until_off(&filtered).await;
    let mut was_there = false;
    for directory in [instance.pins(), instance.state()] {
        was_there |= durable::remove_all(&directory)?;
    }
    was_there |= durable::remove_all_but(&instance.persistent(), history::outlives)?;
    drop(lock);
    match (was_there, interfaces.is_empty()) {
        (false, _) => print(&format!("instance {} was not attached", instance.name())),
        (true, true) => print(&format!("instance {}: removed what was left of it", instance.name())),
        (true, false) => print(&format!(
            "instance {}: detached from {}; TCP port 25 is open there",
            instance.name(),
            interfaces.join(", ")
        )),
    }
}

/// The kernel takes a link's program off a moment after the last pin and descriptor: who starts again at once must not
/// meet it.
async fn until_off(filtered: &[manifest::Interface]) {
    let deadline = Instant::now() + LINGERS;
    for known in filtered.iter().filter(|known| known.hook != Hook::Clsact) {
        while is_on(known).await {
            if Instant::now() > deadline {
                log::warn!(
                    "{}: the kernel still runs the program; another process holds its link",
                    known.name
                );
                break;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn is_on(known: &manifest::Interface) -> bool {
    let Ok(Some(interface)) = interface::find(&known.name).await else { return false };
    let running = attach::programs(&interface, &known.name, known.mode).await;
    running.is_ok_and(|programs| programs.iter().any(|id| known.runs(*id)))
}
