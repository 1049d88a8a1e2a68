//! A clock that a test sets, for the programs that it starts (libfaketime, Debian package `faketime`); it must not know
//! what is due.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::lab::{Answer, Filter, finish};

/// A clock that runs as the machine's does, set apart by some seconds.
pub(crate) struct Clock {
    file: PathBuf,
    variables: Vec<(&'static str, OsString)>,
}

impl Clock {
    /// One that shows the machine's time.
    pub(crate) fn new(filter: &Filter<'_>) -> Result<Self> {
        let library = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib"]
            .map(|directory| PathBuf::from(directory).join("faketime/libfaketime.so.1"))
            .into_iter()
            .find(|path| path.exists())
            .context("libfaketime is missing: `cargo xtask setup` installs it")?;
        let file = filter.path().with_file_name("clock");
        let variables = vec![
            ("LD_PRELOAD", library.into_os_string()),
            ("FAKETIME_TIMESTAMP_FILE", file.clone().into_os_string()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("NO_FAKE_STAT", "1".into()),
        ];
        let clock = Self { file, variables };
        clock.set(0)?;
        Ok(clock)
    }

    /// Sets it apart, in one step, since it is read all the time.
    pub(crate) fn set(&self, apart: i64) -> Result<()> {
        let beside = self.file.with_extension("beside");
        fs::write(&beside, format!("{apart:+}\n"))?;
        Ok(fs::rename(beside, &self.file)?)
    }

    /// What makes a program read it.
    pub(crate) fn variables(&self) -> Vec<(&str, &OsStr)> {
        self.variables.iter().map(|(name, value)| (*name, value.as_os_str())).collect()
    }

    /// A command that has this clock too.
    pub(crate) fn op25b(&self, filter: &Filter<'_>, arguments: &[&str]) -> Result<Answer> {
        finish(filter.command(arguments)?.envs(self.variables()), Duration::from_secs(20))
    }
}
