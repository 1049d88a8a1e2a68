//! `op25b source`: all that is known of one customer, for the help desk.

use anyhow::Result;

use crate::{cli, instance::Instance};

pub(super) async fn source(_instance: &Instance, _arguments: &cli::Source) -> Result<()> {
    anyhow::bail!("not built yet")
}
