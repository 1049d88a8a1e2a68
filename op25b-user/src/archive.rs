//! The last policies that were put in force, so that there is a way back.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

use crate::{durable, instance::Instance};

/// Policies kept.
const KEPT: usize = 10;

/// Keeps a policy's text, unless it is the one kept last.
///
/// # Errors
///
/// When the disk does not take it.
pub fn keep(instance: &Instance, text: &str) -> Result<()> {
    let kept = all(instance);
    if let Some((_, last)) = kept.last()
        && fs::read_to_string(last).is_ok_and(|last| last == text)
    {
        return Ok(());
    }
    let number = kept.last().map_or(1, |(number, _)| number + 1);
    durable::replace(&directory(instance).join(format!("{number:06}.yaml")), text)?;
    for (_, old) in kept.iter().rev().skip(KEPT - 1) {
        durable::remove(old)?;
    }
    Ok(())
}

/// The text kept last that is another one than `text`.
///
/// # Errors
///
/// When it cannot be read.
pub fn before(instance: &Instance, text: &str) -> Result<Option<(PathBuf, String)>> {
    for (_, path) in all(instance).into_iter().rev() {
        let kept = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if kept != text {
            return Ok(Some((path, kept)));
        }
    }
    Ok(None)
}

/// All that are kept, the latest last.
fn all(instance: &Instance) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(directory(instance)).into_iter().flatten().filter_map(Result::ok);
    let mut kept: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let path = entry.path();
            let number = path.file_stem()?.to_str()?.parse().ok()?;
            (path.extension()? == "yaml").then_some((number, path))
        })
        .collect();
    kept.sort();
    kept
}

fn directory(instance: &Instance) -> PathBuf {
    instance.persistent().join("policies")
}
