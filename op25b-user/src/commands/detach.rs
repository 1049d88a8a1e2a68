//! `op25b detach`: removes everything that `run` made. Twice is fine.

use std::{collections::HashSet, fs, io, path::Path};

use anyhow::{Context as _, Result};

use super::print;
use crate::{attach, document::Attach, instance::Instance, manifest::Manifest, preflight};

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
    remove(&instance.pins().join("links"))?;
    let was_there = remove(&instance.pins())? | remove(&instance.state())? | remove(&instance.persistent())?;
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

/// Removes a directory; whether it was there.
fn remove(path: &Path) -> Result<bool> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", path.display())),
    }
}
