//! What a daemon and the kernel hold for one filter; it must not know what was broken.

use std::{fs, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use crate::{
    lab::{Filter, eventually},
    loaded::Loaded,
};

/// How much of everything there is.
pub(crate) struct Resources {
    pub(crate) loaded: Loaded,
    pub(crate) pins: usize,
    pub(crate) links: usize,
    pub(crate) descriptors: usize,
    pub(crate) resident_kib: u64,
}

impl Resources {
    /// Of a filter whose daemon runs.
    pub(crate) fn of(filter: &Filter<'_>) -> Result<Self> {
        // What a change leaves goes a moment later.
        thread::sleep(Duration::from_secs(1));
        let process = format!("/proc/{}", filter.pid()?);
        let status = fs::read_to_string(format!("{process}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        Ok(Self {
            loaded: Loaded::of(filter)?,
            pins: count(&filter.pins())?,
            links: count(&filter.pins().join("links"))?,
            descriptors: fs::read_dir(format!("{process}/fd"))?.count(),
            resident_kib: resident.trim().trim_end_matches(" kB").parse()?,
        })
    }

    /// What is counted, by name.
    pub(crate) fn counts(&self) -> [(&'static str, usize); 5] {
        [
            ("programs", self.loaded.programs.len()),
            ("maps", self.loaded.maps.len()),
            ("links", self.links),
            ("pins", self.pins),
            ("descriptors of the daemon", self.descriptors),
        ]
    }
}

fn count(directory: &std::path::Path) -> Result<usize> {
    let mut found = 0;
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        found += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Ok(found)
}

/// Ends and detaches a filter: none of its programs and maps may stay in the kernel.
pub(crate) fn nothing_is_left_of(filter: &mut Filter<'_>, resources: &Resources) -> Result<()> {
    filter.stop(Signal::SIGTERM)?;
    let answer = filter.op25b(&["detach"])?;
    ensure!(answer.code == Some(0), "{answer:?}");
    let none = |left: &Loaded| left.programs.is_empty() && left.maps.is_empty();
    ensure!(
        eventually(|| none(&resources.loaded.left())),
        "left in the kernel: {:?}",
        resources.loaded.left()
    );
    ensure!(!filter.pins().exists(), "{} is left", filter.pins().display());
    Ok(())
}
