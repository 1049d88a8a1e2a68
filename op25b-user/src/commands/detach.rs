//! `op25b detach`: removes everything that `run` made. Twice is fine.

use std::{fs, io, path::Path};

use anyhow::{Context as _, Result};

use super::print;
use crate::{attach, instance::Instance, manifest::Manifest, preflight};

pub(super) fn detach(instance: &Instance) -> Result<()> {
    if [instance.pins(), instance.state(), instance.persistent()].iter().any(|path| path.exists()) {
        preflight::check()?;
    }
    let lock = instance.take_over()?;
    let mut interfaces = Vec::new();
    // A damaged manifest must not keep anybody from taking the filter off.
    let manifest = Manifest::read(instance).unwrap_or_else(|error| {
        log::warn!("{error:#}");
        None
    });
    for interface in manifest.iter().flat_map(|manifest| &manifest.interfaces) {
        if attach::detach(instance, &interface.name, interface.mode)? {
            interfaces.push(interface.name.clone());
        }
    }
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
