//! `op25b report`: who has to move, whom to warn, who is infected.

use anyhow::Result;

use crate::{cli, instance::Instance};

pub(super) fn migration(_instance: &Instance, _arguments: &cli::ReportSince) -> Result<()> {
    anyhow::bail!("not built yet")
}

pub(super) fn destinations(_instance: &Instance, _arguments: &cli::ReportSince) -> Result<()> {
    anyhow::bail!("not built yet")
}

pub(super) fn abuse(_instance: &Instance, _arguments: &cli::ReportSince) -> Result<()> {
    anyhow::bail!("not built yet")
}
