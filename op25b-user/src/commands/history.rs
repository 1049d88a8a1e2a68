//! `op25b history`: what a source did, hour by hour.

use anyhow::Result;

use crate::{cli, instance::Instance};

pub(super) async fn history(_instance: &Instance, _arguments: &cli::History) -> Result<()> {
    anyhow::bail!("not built yet")
}
