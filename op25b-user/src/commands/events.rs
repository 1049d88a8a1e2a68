//! `op25b events`: what happens, as it happens.

use anyhow::Result;

use crate::{cli, instance::Instance};

pub(super) async fn events(_instance: &Instance, _arguments: &cli::Events) -> Result<()> {
    anyhow::bail!("not built yet")
}
