//! What outlives a reboot: which dates have come, what is suspended, what waits to be confirmed.

use std::{fs, io, path::PathBuf};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{durable, instance::Instance, situation::Suspended};

/// The state of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The latest moment at which a date has come: a clock that is set back takes nothing back.
    pub reached: Timestamp,
    /// What blocks nothing for a while.
    pub suspension: Option<Suspension>,
    /// A policy in force for a trial.
    pub unconfirmed: Option<Unconfirmed>,
}

/// `op25b suspend`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    /// What.
    pub what: Suspended,
    /// When it ends by itself.
    pub until: Timestamp,
    /// Who did it.
    pub by: String,
}

/// `op25b apply --confirm`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unconfirmed {
    /// The file that was applied.
    pub policy: PathBuf,
    /// Of its text.
    pub hash: String,
    /// When it is rolled back by itself.
    pub until: Timestamp,
}

impl State {
    /// Reads it; that of an instance that has none is empty.
    ///
    /// # Errors
    ///
    /// When it is there and cannot be read.
    pub fn read(instance: &Instance) -> Result<Self> {
        let path = path(instance);
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes it, in one step.
    ///
    /// # Errors
    ///
    /// When the disk does not take it.
    pub fn write(&self, instance: &Instance) -> Result<()> {
        durable::replace(&path(instance), &serde_json::to_string_pretty(self)?)
    }
}

fn path(instance: &Instance) -> PathBuf {
    instance.persistent().join("state.json")
}
