//! `op25b detach`: removes everything that `run` made. Twice is fine.

use std::{fs, io, path::Path};

use anyhow::{Context as _, Result};

use super::print;
use crate::instance::Instance;

pub(super) fn detach(instance: &Instance) -> Result<()> {
    let lock = instance.take_over()?;
    let links = instance.pins().join("links");
    let mut interfaces = Vec::new();
    if let Ok(entries) = fs::read_dir(&links) {
        for entry in entries {
            interfaces.push(entry?.file_name().to_string_lossy().replace(':', "."));
        }
    }
    // The links first: what they hold is of no use to anybody afterwards.
    remove(&links)?;
    let was_there = remove(&instance.pins())? | remove(&instance.state())?;
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
