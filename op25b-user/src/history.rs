//! Hourly accounts of sources in a database, so that "who, when" has an answer weeks later.

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
