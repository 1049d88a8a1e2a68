//! `op25b top`: the sources that send most, live.

use anyhow::Result;

use crate::{cli, instance::Instance};

pub(super) async fn top(_instance: &Instance, _arguments: &cli::Top) -> Result<()> {
    anyhow::bail!("not built yet")
}
