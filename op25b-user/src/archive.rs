//! The last policies that were put in force, so that there is a way back. Their texts: of the files that they name the
//! hash alone is kept, so that it is known when those are others.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

use crate::{durable, instance::Instance};

/// Policies kept.
const KEPT: usize = 10;

/// A policy that was in force.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kept {
    number: u64,
    /// Where its text is.
    pub path: PathBuf,
    /// Of its text and the files that it named; none where an older version kept it.
    pub hash: Option<String>,
}

impl Kept {
    fn of(path: PathBuf) -> Option<Self> {
        let stem =
            path.file_stem().filter(|_| path.extension().is_some_and(|end| end == "yaml"))?.to_str()?;
        let (number, hash) = stem.split_once('-').map_or((stem, None), |(number, hash)| (number, Some(hash)));
        Some(Self { number: number.parse().ok()?, hash: hash.map(str::to_owned), path })
    }

    /// Its text.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn text(&self) -> Result<String> {
        fs::read_to_string(&self.path).with_context(|| format!("cannot read {}", self.path.display()))
    }
}

/// Keeps a policy's text; in place of the one kept last where only its files have become others.
///
/// # Errors
///
/// When the disk does not take it.
pub fn keep(instance: &Instance, text: &str, hash: &str) -> Result<()> {
    let mut kept = all(instance);
    let same = kept.pop_if(|last| last.text().is_ok_and(|last| last == text));
    let number = match (&same, kept.last()) {
        (Some(same), _) => same.number,
        (None, last) => last.map_or(1, |last| last.number + 1),
    };
    let path = directory(instance).join(format!("{number:06}-{hash}.yaml"));
    if same.as_ref().is_some_and(|same| same.path == path) {
        return Ok(());
    }
    durable::replace(&path, text)?;
    for old in kept.iter().rev().skip(KEPT - 1).chain(&same) {
        durable::remove(&old.path)?;
    }
    Ok(())
}

/// The one kept last that has another text.
///
/// # Errors
///
/// When one cannot be read.
pub fn before(instance: &Instance, text: &str) -> Result<Option<(Kept, String)>> {
    for kept in all(instance).into_iter().rev() {
        let other = kept.text()?;
        if other != text {
            return Ok(Some((kept, other)));
        }
    }
    Ok(None)
}

/// The one with this hash, the latest.
#[must_use]
pub fn find(instance: &Instance, hash: &str) -> Option<Kept> {
    all(instance).into_iter().rev().find(|kept| kept.hash.as_deref() == Some(hash))
}

/// All that are kept, the latest last.
fn all(instance: &Instance) -> Vec<Kept> {
    let entries = fs::read_dir(directory(instance)).into_iter().flatten().filter_map(Result::ok);
    let mut kept: Vec<Kept> = entries.filter_map(|entry| Kept::of(entry.path())).collect();
    kept.sort();
    kept
}

fn directory(instance: &Instance) -> PathBuf {
    instance.persistent().join("policies")
}
