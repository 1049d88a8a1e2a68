//! `op25b detach`: removes everything that `run` made, but the log of who has read what. Twice is fine.

use std::collections::HashSet;

use anyhow::Result;

use super::print;
use crate::{attach, document::Attach, durable, history, instance::Instance, manifest::Manifest, preflight};

pub(super) fn detach(instance: &Instance) -> Result<()> {
    if [instance.pins(), instance.state(), instance.persistent()].iter().any(|path| path.exists()) {
        preflight::check()?;
    }
    let lock = instance.take_over()?;
    let mut interfaces = Vec::new();
    // A damaged manifest must not keep anybody from taking the filter off.
    let manifests = [Manifest::read_to_replace(instance), Manifest::interrupted(instance)];
    let known: HashSet<(String, Attach)> = manifests
        .into_iter()
        .filter_map(|manifest| {
            manifest.unwrap_or_else(|error| {
                log::warn!("{error:#}");
                None
            })
        })
        .flat_map(|manifest| manifest.interfaces)
        .map(|interface| (interface.name, interface.mode))
        .collect();
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
