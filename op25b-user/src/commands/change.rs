//! The commands that change what is in force, done by the daemon: `reload`, `apply`, `confirm`, `suspend`, `resume`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;

use super::{No, print};
use crate::{
    cli,
    control::{self, Order},
    instance::Instance,
    situation::Suspended,
};

/// Shortest trial: long enough to type `confirm`.
const SHORTEST: Duration = Duration::from_secs(1);

pub(super) async fn order(instance: &Instance, order: Order) -> Result<()> {
    print(&control::ask(instance, order).await?)
}

pub(super) async fn apply(instance: &Instance, arguments: &cli::Apply) -> Result<()> {
    let Some(policy) = &arguments.policy else {
        // Clap has seen to it that one of the two is there.
        return order(instance, Order::Rollback).await;
    };
    let confirm = match arguments.confirm.map(Duration::from) {
        Some(length) if length < SHORTEST => {
            return Err(No::Input("--confirm: a trial lasts a second or longer".to_owned()).into());
        }
        length => length.map(|length| length.as_secs()),
    };
    let policy = std::path::absolute(policy).context("where is this directory?")?;
    order(instance, Order::Apply { policy, confirm }).await
}

pub(super) async fn suspend(instance: &Instance, arguments: &cli::Suspend) -> Result<()> {
    let what = if arguments.group.is_empty() {
        Suspended::Everything
    } else {
        Suspended::Groups(arguments.group.iter().cloned().collect())
    };
    let until = match (arguments.length, arguments.until) {
        (Some(length), _) => Timestamp::now().checked_add(Duration::from(length)).unwrap_or(Timestamp::MAX),
        (None, Some(until)) => until,
        (None, None) => return Err(No::Input("give --for 2h or --until TIME".to_owned()).into()),
    };
    order(instance, Order::Suspend { what, until }).await
}
