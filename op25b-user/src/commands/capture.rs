//! `op25b capture`: the first bytes of what is dropped, as a file for Wireshark.

use anyhow::Result;

use crate::{cli, instance::Instance};

pub(super) async fn capture(_instance: &Instance, _arguments: &cli::Capture) -> Result<()> {
    anyhow::bail!("not built yet")
}
