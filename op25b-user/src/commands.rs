//! The commands, one module each.

mod capture;
mod change;
mod check;
mod detach;
mod diff;
mod events;
mod exceptions;
mod explain;
mod history;
mod replay;
mod report;
mod run;
mod selftest;
mod source;
mod stats;
mod status;
mod top;

use std::fmt;

use anyhow::Result;
use serde::Serialize;

use self::exceptions::{List, exceptions};
use crate::{
    cli::{Cli, Command, Report},
    control::Order,
    document::printable,
    instance::Instance,
    manifest::Manifest,
    policy::NO_ACCOUNTS,
};

/// Why a command ends with 1: not a failure of op25b.
#[derive(Debug)]
pub enum No {
    /// The answer is no, and has been printed.
    Answer,
    /// The user's input cannot be used; what to do about it.
    Input(String),
}

impl fmt::Display for No {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer => formatter.write_str("no"),
            Self::Input(message) => formatter.write_str(message),
        }
    }
}

impl std::error::Error for No {}

/// What a command needs that shows sources.
fn require_accounts(manifest: &Manifest) -> Result<(), No> {
    if manifest.outputs.account_sources { Ok(()) } else { Err(No::Input(NO_ACCOUNTS.to_owned())) }
}

/// Runs what the user typed.
///
/// # Errors
///
/// [`No`] for exit 1, anything else for exit 2.
pub fn run(cli: Cli) -> Result<()> {
    let instance = Instance::new(&cli.instance)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Run(arguments) => run::run(&instance, &arguments).await,
            Command::Reload => change::order(&instance, Order::Reload { why: None }).await,
            Command::Exempt(what) => exceptions(&instance, List::Exemptions, &what).await,
            Command::Quarantine(what) => exceptions(&instance, List::Quarantine, &what).await,
            Command::Report(Report::Exemptions(arguments)) => exceptions::report(&instance, &arguments),
            Command::Report(Report::Migration(arguments)) => report::migration(&instance, &arguments),
            Command::Report(Report::Destinations(arguments)) => report::destinations(&instance, &arguments),
            Command::Report(Report::Abuse(arguments)) => report::abuse(&instance, &arguments),
            Command::Top(arguments) => top::top(&instance, &arguments).await,
            Command::Events(arguments) => events::events(&instance, &arguments),
            Command::Capture(arguments) => capture::capture(&instance, &arguments).await,
            Command::History(arguments) => history::history(&instance, &arguments),
            Command::Source(arguments) => source::source(&instance, &arguments),
            Command::Apply(arguments) => change::apply(&instance, &arguments).await,
            Command::Confirm => change::order(&instance, Order::Confirm).await,
            Command::Suspend(arguments) => change::suspend(&instance, &arguments).await,
            Command::Resume => change::order(&instance, Order::Resume).await,
            Command::Check(arguments) => check::check(&arguments),
            Command::Diff(arguments) => diff::diff(&instance, &arguments),
            Command::Explain(arguments) => explain::explain(&instance, &arguments),
            Command::Replay(arguments) => replay::replay(&arguments),
            Command::Selftest(output) => selftest::selftest(&instance, output).await,
            Command::Stats(output) => stats::stats(&instance, output),
            Command::Status(arguments) => status::status(&instance, &arguments).await,
            Command::Detach => detach::detach(&instance).await,
        }
    })
}

/// Prints a value for programs.
fn print_json(value: &impl Serialize) -> Result<()> {
    print(&serde_json::to_string_pretty(value)?)
}

/// Prints on stdout. A reader that has gone away is no error: `op25b stats | head -1`.
fn print(text: &str) -> Result<()> {
    use std::io::Write as _;
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// An empty table in the style of all of them.
fn table(header: &[&str]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING).set_header(header);
    table
}

/// That there is, or was, a group of this name, where one is given.
fn require_group(manifest: &Manifest, group: Option<&str>) -> Result<()> {
    let Some(group) = group.filter(|group| !manifest.numbers.contains_key(*group)) else { return Ok(()) };
    let known: Vec<String> = manifest.numbers.keys().map(|name| printable(name)).collect();
    Err(No::Input(format!("no customer group is called {group:?}; known: {}", known.join(", "))).into())
}

/// A group's name for a terminal; `-` for none.
fn name(customer: Option<&str>) -> String {
    customer.map_or_else(|| "-".to_owned(), printable)
}

/// Prints for spreadsheets.
fn csv<const N: usize>(header: &[&str; N], lines: impl Iterator<Item = [String; N]>) -> Result<()> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(header)?;
    for line in lines {
        writer.write_record(line.map(plain))?;
    }
    let text = String::from_utf8(writer.into_inner()?)?;
    print(text.trim_end())
}

/// A cell that no spreadsheet takes for a formula.
fn plain(cell: String) -> String {
    let risky = cell.len() > 1 && cell.starts_with(['=', '+', '-', '@']);
    if risky { format!("'{cell}") } else { cell }
}
