//! What all benchmarks share: their arguments, medians and spreads, and the report that `cargo xtask bench` draws.
#![allow(dead_code, reason = "each benchmark uses its own part of it")]

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::Parser;
use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};
use serde::Serialize;

/// Of every benchmark.
#[derive(Parser)]
pub(crate) struct Arguments {
    /// Small sizes and few rounds only
    #[arg(long)]
    pub(crate) quick: bool,
    /// Write the figures here, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// Rounds of one figure: the middle one, the quarters below and above it, and the least.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    /// Of times: what it takes where the machine does nothing else meanwhile.
    pub(crate) least: f64,
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// Of these rounds; of none, zeros.
    pub(crate) fn of(mut rounds: Vec<f64>) -> Self {
        rounds.sort_by(f64::total_cmp);
        let at = |part: f64| {
            let place = (rounds.len().saturating_sub(1)) as f64 * part;
            rounds.get(place.round() as usize).copied().unwrap_or(0.0)
        };
        Self { least: at(0.0), median: at(0.5), low: at(0.25), high: at(0.75) }
    }

    /// Round by round what each is above the other, which ran right before or after it; the least is that of the least.
    pub(crate) fn over(rounds: &[f64], floor: &[f64]) -> Self {
        let least = Self::of(rounds.to_vec()).least - Self::of(floor.to_vec()).least;
        Self { least, ..Self::of(rounds.iter().zip(floor).map(|(round, floor)| round - floor).collect()) }
    }
}

/// Runs contenders in turns, so that all meet the machine in the same mood: a figure a round of each. The first round
/// warms up and is left out.
pub(crate) fn in_turns<C>(
    rounds: usize,
    contenders: &mut [C],
    mut run: impl FnMut(&mut C) -> Result<f64>,
) -> Result<Vec<Vec<f64>>> {
    let mut figures = vec![Vec::with_capacity(rounds); contenders.len()];
    for round in 0..=rounds {
        for (contender, figures) in contenders.iter_mut().zip(&mut figures) {
            let figure = run(contender)?;
            if round > 0 {
                figures.push(figure);
            }
        }
    }
    Ok(figures)
}

/// One bar of a chart, one line of a table.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// In the unit of its part.
    pub(crate) figure: Spread,
    /// Above the floor of the same round.
    pub(crate) over: Option<Spread>,
    /// What a reader must know of it.
    pub(crate) note: Option<String>,
}

impl Row {
    /// Rounds beside those of a floor, in turns.
    pub(crate) fn over(name: impl Into<String>, rounds: &[f64], floor: &[f64], note: Option<String>) -> Self {
        let (figure, over) = (Spread::of(rounds.to_vec()), Some(Spread::over(rounds, floor)));
        Self { name: name.into(), figure, over, note }
    }
}

/// Figures that stand beside each other.
#[derive(Serialize)]
pub(crate) struct Part {
    pub(crate) title: String,
    pub(crate) unit: &'static str,
    /// What [`Row::over`] is over; empty where nothing is.
    pub(crate) floor: String,
    pub(crate) rows: Vec<Row>,
}

impl Part {
    /// Without rows.
    pub(crate) fn new(title: impl Into<String>, unit: &'static str, floor: impl Into<String>) -> Self {
        Self { title: title.into(), unit, floor: floor.into(), rows: Vec::new() }
    }

    /// The row of this name.
    pub(crate) fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    fn print(&self) {
        let over = if self.floor.is_empty() { String::new() } else { format!("over {}", self.floor) };
        let titles = [self.title.as_str(), self.unit, "quarters", "least", &over, "least", "note"];
        let rows = self.rows.iter().map(|row| {
            [
                row.name.clone(),
                number(row.figure.median),
                format!("{} to {}", number(row.figure.low), number(row.figure.high)),
                number(row.figure.least),
                row.over.map_or_else(String::new, |over| number(over.median)),
                row.over.map_or_else(String::new, |over| number(over.least)),
                row.note.clone().unwrap_or_default(),
            ]
        });
        let mut table = Table::new();
        table.load_preset(UTF8_BORDERS_ONLY).set_header(titles).add_rows(rows);
        for column in table.column_iter_mut().skip(1).take(5) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        println!("{table}");
    }
}

/// A figure with as many places as it is worth.
fn number(figure: f64) -> String {
    if figure.abs() >= 100.0 { format!("{figure:.0}") } else { format!("{figure:.1}") }
}

/// What was to be reached, and what was.
#[derive(Serialize)]
pub(crate) struct Target {
    pub(crate) what: String,
    pub(crate) due: f64,
    pub(crate) measured: f64,
    /// In which unit both are.
    pub(crate) unit: &'static str,
    pub(crate) met: bool,
}

impl Target {
    /// Something that may be so much at most.
    pub(crate) fn at_most(what: impl Into<String>, due: f64, measured: f64, unit: &'static str) -> Self {
        Self { what: what.into(), due, measured, unit, met: measured <= due }
    }

    /// Something that must be so much at least.
    pub(crate) fn at_least(what: impl Into<String>, due: f64, measured: f64, unit: &'static str) -> Self {
        Self { what: what.into(), due, measured, unit, met: measured >= due }
    }
}

/// All that a benchmark has to say.
#[derive(Serialize)]
pub(crate) struct Report {
    machine: String,
    kernel: String,
    measured: String,
    parts: Vec<Part>,
    targets: Vec<Target>,
}

impl Report {
    /// Of this machine; nothing is in it yet.
    pub(crate) fn new() -> Result<Self> {
        let text = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
        let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split(':').nth(1));
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("which kernel is this?")?;
        let machine = format!("{}, {processors} processors", model.unwrap_or("an unknown processor").trim());
        println!("{machine}, Linux {}", kernel.trim());
        Ok(Self {
            machine,
            kernel: kernel.trim().to_owned(),
            measured: jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
            parts: Vec::new(),
            targets: Vec::new(),
        })
    }

    /// Prints and keeps a part.
    pub(crate) fn part(&mut self, part: Part) {
        part.print();
        self.parts.push(part);
    }

    /// Prints and keeps a target.
    pub(crate) fn target(&mut self, target: Target) {
        let Target { what, due, measured, unit, met } = &target;
        let said = if *met { "met" } else { "missed" };
        println!("{what}: {} {unit}, due {} {unit}: {said}", number(*measured), number(*due));
        self.targets.push(target);
    }

    /// Writes it where the arguments say.
    pub(crate) fn write(&self, arguments: &Arguments) -> Result<()> {
        let Some(path) = &arguments.output else { return Ok(()) };
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// With a comma between thousands.
pub(crate) fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
