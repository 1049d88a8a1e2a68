//! What benchmarks report, kept as one file and written out for readers.

use std::{collections::BTreeMap, fmt::Write as _, fs, io::ErrorKind, path::Path};

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;
use serde::{Deserialize, Serialize};

use super::{Subject, chart};

/// Rounds of one figure: the middle one, the quarters below and above it, and the least.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct Spread {
    least: f64,
    pub(super) median: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

/// One bar of a chart, one line of a table.
#[derive(Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) figure: Spread,
    over: Option<Spread>,
    note: Option<String>,
}

/// Figures that stand beside each other.
#[derive(Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) title: String,
    pub(super) unit: String,
    floor: String,
    pub(super) rows: Vec<Row>,
}

/// What was to be reached, and what was.
#[derive(Serialize, Deserialize)]
struct Target {
    what: String,
    due: f64,
    measured: f64,
    unit: String,
    met: bool,
}

/// All that one benchmark has to say.
#[derive(Serialize, Deserialize)]
pub(super) struct Report {
    machine: String,
    kernel: String,
    measured: String,
    parts: Vec<Part>,
    targets: Vec<Target>,
}

/// All benchmarks', by their names.
#[derive(Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Results {
    pub(super) subjects: BTreeMap<String, Report>,
}

const RESULTS: &str = "results.json";
const TABLES: &str = "results.md";

impl Results {
    /// What was measured before; nothing where nothing was.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(RESULTS);
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).with_context(|| {
                format!("{} is of another version; remove it, and measure all anew", path.display())
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes figures, tables and charts.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        let subjects = || {
            Subject::value_variants()
                .iter()
                .filter_map(|subject| Some((*subject, self.subjects.get(subject.name())?)))
        };
        for (subject, report) in subjects() {
            for (number, part) in report.parts.iter().enumerate() {
                write(&chart_name(subject, number), &chart::draw(part)?)?;
            }
        }
        write(RESULTS, &(serde_json::to_string_pretty(self)? + "\n"))?;
        let mut text = "# What was measured\n\nWritten by `cargo xtask bench`; what the figures mean is in [`README.md`](README.md). Of each figure the \
                        middle of all rounds, the quarters below and above it, and the least. What is over a floor was subtracted round by round; \
                        its least is the difference of both leasts. Nanoseconds that are due are held against the least: what is \
                        above it is the machine's other work. Ratios of lookups are those of the middle: a small lookup is no more than what two \
                        leasts may differ by.\n"
            .to_owned();
        for (subject, report) in subjects() {
            markdown(&mut text, subject, report)?;
        }
        write(TABLES, &text)
    }
}

fn chart_name(subject: Subject, number: usize) -> String {
    format!("{}-{}.svg", subject.name(), number + 1)
}

fn markdown(text: &mut String, subject: Subject, report: &Report) -> Result<()> {
    let Report { machine, kernel, measured, parts, targets } = report;
    write!(text, "\n## {}\n\n{machine}, Linux {kernel}, {measured}.\n", subject.title())?;
    if !targets.is_empty() {
        text.push_str("\n| due | | measured | |\n|---|---:|---:|---|\n");
    }
    for Target { what, due, measured, unit, met } in targets {
        let said = if *met { "met" } else { "**missed**" };
        writeln!(text, "| {what} | {} {unit} | {} {unit} | {said} |", number(*due), number(*measured))?;
    }
    for (place, Part { title, unit, floor, rows }) in parts.iter().enumerate() {
        let chart = chart_name(subject, place);
        let over = if floor.is_empty() { String::new() } else { format!("over {floor}") };
        write!(text, "\n### {title}\n\n![{title}, in {unit}]({chart})\n\n")?;
        write!(
            text,
            "| | {unit} | quarters | least | {over} | least | |\n|---|---:|---:|---:|---:|---:|---|\n"
        )?;
        for Row { name, figure: Spread { least, median, low, high }, over, note } in rows {
            let of_over =
                |of: fn(&Spread) -> f64| over.as_ref().map_or_else(String::new, |over| number(of(over)));
            let (over, least_over) = (of_over(|over| over.median), of_over(|over| over.least));
            let note = note.as_deref().unwrap_or_default();
            let [least, median, low, high] = [least, median, low, high].map(|figure| number(*figure));
            writeln!(
                text,
                "| {name} | {median} | {low} to {high} | {least} | {over} | {least_over} | {note} |"
            )?;
        }
    }
    Ok(())
}

/// A figure with as many places as it is worth.
pub(super) fn number(figure: f64) -> String {
    match figure.abs() {
        100.0.. => format!("{figure:.0}"),
        1.0.. => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}
