//! `op25b exempt` and `op25b quarantine`: edit the policy file, and have the daemon put it in force.

use std::path::{Path, PathBuf};

use anyhow::Result;
use ipnetwork::IpNetwork;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{No, print, print_json};
use crate::{
    cli,
    control::{self, Order},
    document, durable,
    edit::{self, EditError, Entry},
    instance::Instance,
    manifest::Manifest,
    policy::{Exception, Override, Policy, short},
};

/// The list that is edited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    Exemptions,
    Quarantine,
}

impl List {
    const fn key(self) -> &'static str {
        match self {
            Self::Exemptions => "exemptions",
            Self::Quarantine => "quarantine",
        }
    }

    fn of(self, policy: &Policy) -> &[Exception] {
        match self {
            Self::Exemptions => &policy.exemptions,
            Self::Quarantine => &policy.quarantine,
        }
    }
}

pub(super) async fn exceptions(instance: &Instance, list: List, what: &cli::Exceptions) -> Result<()> {
    match &what.command {
        cli::ExceptionCommand::Add(add) => {
            let prefix = exact(add.prefix)?;
            let entry = Entry {
                prefix,
                reason: add.reason.clone(),
                ticket: add.ticket.clone(),
                expires: add.expires.clone(),
                relays: add.relays,
            };
            if add.relays && list == List::Exemptions {
                return Err(No::Input(
                    "--relays is for a quarantine; an exemption has them anyway".to_owned(),
                )
                .into());
            }
            let until = add.expires.as_ref().map_or("for good".to_owned(), |end| format!("until {end}"));
            let why = format!(
                "{} add {}: {}{}, {until}",
                list.key(),
                short(&prefix),
                add.reason,
                add.ticket.as_ref().map_or(String::new(), |ticket| format!(" ({ticket})")),
            );
            change(instance, what, why, |text, _| edit::add(text, list.key(), &entry)).await
        }
        cli::ExceptionCommand::Remove { prefix } => {
            let prefix = exact(*prefix)?;
            let why = format!("{} remove {}", list.key(), short(&prefix));
            change(instance, what, why, |text, policy| {
                edit::remove(text, list.key(), prefix).map_err(|error| match error {
                    EditError::Missing { key, prefix }
                        if list.of(policy).iter().any(|entry| entry.prefixes.contains(&prefix)) =>
                    {
                        EditError::ByHand { key, todo: format!("take the line of {prefix} out of its file") }
                    }
                    error => error,
                })
            })
            .await
        }
        cli::ExceptionCommand::List { output } => {
            let policy = Policy::read(&path(instance, what.policy.as_deref())?, &Override::default())
                .map_err(|invalid| No::Input(invalid.to_string()))?;
            show(&rows(list.of(&policy), Timestamp::now()), *output)
        }
    }
}

/// Edits the policy file, and takes that back where it is not put in force.
async fn change(
    instance: &Instance,
    what: &cli::Exceptions,
    why: String,
    edit: impl FnOnce(&str, &Policy) -> Result<String, EditError>,
) -> Result<()> {
    let path = path(instance, what.policy.as_deref())?;
    // Until it is in force or taken back: of two at once the second edits what the first has left.
    let _turn = durable::lock_directory_of(&path)?;
    let read = |text: &str, document| {
        Policy::from_document(document, &path.display().to_string(), text, &Override::default())
            .map_err(|invalid| No::Input(format!("{invalid}\nnothing was changed")))
    };
    let (document, text) = document::read(&path).map_err(|error| No::Input(error.to_string()))?;
    let before = read(&text, document)?;
    let manifest = Manifest::read(instance)?.filter(|manifest| manifest.policy == path);
    let reloads = manifest.is_some() && instance.is_running();
    let pending = manifest.is_some_and(|manifest| manifest.hash != before.hash);
    if reloads && pending && !what.with_pending_changes {
        return Err(No::Input(format!(
            "{path} or a file that it names is not as it is in force (edited and not reloaded, or on trial), and that \
             would take force too; `op25b diff {path}` shows what it changes, `op25b reload` puts it in force first, \
             --with-pending-changes does both at once; nothing was changed",
            path = path.display()
        ))
        .into());
    }
    let edited = edit(&text, &before).map_err(|error| No::Input(format!("{}: {error}", path.display())))?;
    let document = document::parse(&edited, &path.display().to_string())
        .map_err(|error| No::Input(error.to_string()))?;
    let known = before.warnings;
    for warning in read(&edited, document)?.warnings.iter().filter(|warning| !known.contains(warning)) {
        log::warn!("{warning}");
    }
    durable::replace(&path, &edited)?;
    if !reloads {
        return print(&format!("{}: {why}; not in force: no daemon runs with this policy", path.display()));
    }
    match control::ask(instance, Order::Reload { why: Some(why) }).await {
        Ok(done) => print(&done),
        Err(error) => {
            durable::replace(&path, &text)?;
            Err(error.context(format!("{} is as it was", path.display())))
        }
    }
}

/// The policy file that is meant.
fn path(instance: &Instance, given: Option<&Path>) -> Result<PathBuf> {
    match given {
        Some(path) => Ok(std::path::absolute(path)?),
        None => Ok(Manifest::require(instance)?.policy),
    }
}

/// One slip of the pen must not exempt 256 customers.
fn exact(prefix: IpNetwork) -> Result<IpNetwork> {
    if prefix.ip() == prefix.network() {
        return Ok(prefix);
    }
    Err(No::Input(format!(
        "{prefix} has bits beyond its length; {}/{} is the prefix it lies in, {} the one address",
        prefix.network(),
        prefix.prefix(),
        prefix.ip()
    ))
    .into())
}

/// One prefix of a list.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    prefix: String,
    reason: Option<String>,
    ticket: Option<String>,
    expires: Option<Timestamp>,
    /// `expired`, or how soon: `7d`, `30d`.
    soon: Option<&'static str>,
}

pub(super) fn rows(entries: &[Exception], now: Timestamp) -> Vec<Row> {
    let mut rows: Vec<Row> = entries
        .iter()
        .flat_map(|entry| {
            entry.prefixes.iter().map(move |prefix| Row {
                prefix: short(prefix),
                reason: entry.reason.clone(),
                ticket: entry.ticket.clone(),
                expires: entry.expires,
                soon: entry.expires.and_then(|end| soon(end, now)),
            })
        })
        .collect();
    rows.sort_by_key(|row| (row.expires.is_none(), row.expires));
    rows
}

fn soon(end: Timestamp, now: Timestamp) -> Option<&'static str> {
    let left = end.duration_since(now);
    match left {
        left if left <= SignedDuration::ZERO => Some("expired"),
        left if left <= SignedDuration::from_hours(7 * 24) => Some("7d"),
        left if left <= SignedDuration::from_hours(30 * 24) => Some("30d"),
        _ => None,
    }
}

/// `op25b report exemptions`: what has expired or will within 30 days.
pub(super) fn report(instance: &Instance, arguments: &cli::ReportExemptions) -> Result<()> {
    let policy = Policy::read(&path(instance, arguments.policy.as_deref())?, &Override::default())
        .map_err(|invalid| No::Input(invalid.to_string()))?;
    let mut rows = rows(&policy.exemptions, arguments.at.unwrap_or_else(Timestamp::now));
    rows.retain(|row| row.soon.is_some());
    show(&rows, arguments.output)
}

fn show(rows: &[Row], output: cli::Output) -> Result<()> {
    if output.json {
        return print_json(&rows);
    }
    if rows.is_empty() {
        return print("none");
    }
    let mut table = super::table(&["prefix", "reason", "ticket", "expires", ""]);
    for row in rows {
        let word =
            |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), document::printable);
        table.add_row([
            row.prefix.clone(),
            word(&row.reason),
            word(&row.ticket),
            row.expires.map_or_else(|| "-".to_owned(), |end| end.to_string()),
            match row.soon {
                Some("expired") => "expired".to_owned(),
                Some(soon) => format!("within {soon}"),
                None => String::new(),
            },
        ]);
    }
    print(&table.to_string())
}
