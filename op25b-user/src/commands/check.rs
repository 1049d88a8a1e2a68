//! `op25b check`: valid or not, what to look at, how large.

use anyhow::Result;
use serde::Serialize;

use super::{No, print, print_json};
use crate::{
    cli,
    policy::{Override, Policy},
    situation::Situation,
    tables::{Entry, Table, Tables},
};

/// `op25b check --json`.
#[derive(Debug, Default, Serialize)]
struct Report {
    valid: bool,
    errors: Vec<String>,
    warnings: Vec<String>,
    /// What customers in groups with `action: notice` are told.
    #[serde(skip_serializing_if = "Option::is_none")]
    notice: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tables: Option<Sizes>,
}

/// Sizes of the compiled tables.
#[derive(Debug, Serialize)]
struct Sizes {
    groups: usize,
    relays: usize,
    customers_ipv4: Size,
    customers_ipv6: Size,
    servers_ipv4: Size,
    servers_ipv6: Size,
}

/// Size of one table.
#[derive(Debug, Serialize)]
struct Size {
    ranges: usize,
    lines: usize,
    bytes: usize,
    lookup_steps: u8,
}

impl Size {
    fn of<L: Entry>(table: &Table<L>) -> Self {
        Self {
            ranges: table.ranges.len(),
            lines: table.lines.len(),
            bytes: size_of_val(table.lines.as_slice()),
            lookup_steps: table.steps,
        }
    }
}

pub(super) fn check(arguments: &cli::Check) -> Result<()> {
    let report = match Policy::read(&arguments.policy, &Override::default()) {
        Err(invalid) => Report { errors: invalid.errors, ..Report::default() },
        Ok(policy) => match Tables::compile(&policy, &Situation::now(), |name| policy.position(name)) {
            Err(error) => Report { errors: vec![error.to_string()], ..Report::default() },
            Ok(tables) => Report {
                valid: true,
                errors: Vec::new(),
                warnings: policy.warnings.clone(),
                notice: policy.notice.as_ref().map(|notice| notice.line.clone()),
                tables: Some(Sizes {
                    groups: policy.groups.len(),
                    relays: policy.relays.len(),
                    customers_ipv4: Size::of(&tables.customers4),
                    customers_ipv6: Size::of(&tables.customers6),
                    servers_ipv4: Size::of(&tables.servers4),
                    servers_ipv6: Size::of(&tables.servers6),
                }),
            },
        },
    };
    if arguments.output.json {
        print_json(&report)?;
    } else {
        tell(arguments, &report)?;
    }
    if report.valid { Ok(()) } else { Err(No::Answer.into()) }
}

fn tell(arguments: &cli::Check, report: &Report) -> Result<()> {
    for warning in &report.warnings {
        eprintln!("warning: {warning}");
    }
    for error in &report.errors {
        eprintln!("error: {error}");
    }
    let path = arguments.policy.display();
    let Some(sizes) = &report.tables else { return Ok(()) };
    print(&format!("{path}: valid; {} groups, {} relays", sizes.groups, sizes.relays))?;
    if let Some(notice) = &report.notice {
        print(&format!("blocked customers are told: {notice}"))?;
    }
    let mut table = super::table(&["table", "ranges", "lines", "KiB", "lookup steps"]);
    for (name, size) in [
        ("customers IPv4", &sizes.customers_ipv4),
        ("customers IPv6", &sizes.customers_ipv6),
        ("servers IPv4", &sizes.servers_ipv4),
        ("servers IPv6", &sizes.servers_ipv6),
    ] {
        table.add_row([
            name.to_owned(),
            size.ranges.to_string(),
            size.lines.to_string(),
            size.bytes.div_ceil(1024).to_string(),
            size.lookup_steps.to_string(),
        ]);
    }
    print(&table.to_string())
}
