//! `cargo xtask bench tables`: what a lookup costs in a compiled table and in the kernel's LPM trie, from the same
//! prefixes, in the same run, and what it takes to get a policy into the kernel.

mod kernel;
mod load;
mod lookup;
mod scene;

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::Parser;
use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};
use serde::Serialize;

use self::{load::Load, lookup::Lookup};

#[derive(Parser)]
struct Arguments {
    /// Up to 10,000 prefixes only
    #[arg(long)]
    quick: bool,
    /// Write the figures here, as JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Serialize)]
struct Report {
    machine: String,
    kernel: String,
    load: Vec<Load>,
    lookup: Vec<Lookup>,
    verdicts: Vec<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let most = if arguments.quick { 10_000 } else { 1_000_000 };
    let (machine, kernel) = (machine()?, first_line("/proc/sys/kernel/osrelease")?);
    println!("{machine}, Linux {kernel}");

    let load = load::measure(most)?;
    print(&["prefixes", "compile ms", "create ms", "verify ms", "RSS MiB", "kernel MiB"], &load, Load::cells);

    let lookup = lookup::measure(most)?;
    let titles = ["prefixes", "family", "where", "keys", "ranges", "table ns", "trie ns", "times faster"];
    print(&titles, &lookup, Lookup::cells);
    let verdicts = lookup::verdicts(&lookup);
    for verdict in &verdicts {
        println!("{verdict}");
    }

    if let Some(path) = arguments.output {
        let report = Report { machine, kernel, load, lookup, verdicts };
        let text = serde_json::to_string_pretty(&report)? + "\n";
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("written to {}", path.display());
    }
    Ok(())
}

fn print<R>(titles: &[&str], rows: &[R], cells: impl Fn(&R) -> Vec<String>) {
    let mut table = Table::new();
    table.load_preset(UTF8_BORDERS_ONLY).set_header(titles).add_rows(rows.iter().map(cells));
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
}

fn machine() -> Result<String> {
    let text = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split(':').nth(1));
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(format!("{}, {processors} processors", model.unwrap_or("an unknown processor").trim()))
}

fn first_line(path: &str) -> Result<String> {
    Ok(fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?.trim().to_owned())
}
