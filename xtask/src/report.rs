//! The table of a demo: what was tried, what should happen, what was seen.

use std::io::{IsTerminal as _, stdout};

use anyhow::{Result, bail};

/// Lines in the order in which they were seen.
#[derive(Default)]
pub(crate) struct Report {
    lines: Vec<Line>,
}

struct Line {
    tried: String,
    expected: String,
    seen: String,
    right: bool,
}

impl Report {
    /// Adds a line, which is right when what was seen is what was expected.
    pub(crate) fn add<T: ToString + PartialEq>(&mut self, tried: String, expected: &T, seen: &T) {
        let right = expected == seen;
        self.lines.push(Line { tried, expected: expected.to_string(), seen: seen.to_string(), right });
    }

    /// Prints the table, and fails when a line is wrong.
    pub(crate) fn conclude(&self) -> Result<()> {
        self.print();
        let wrong = self.lines.iter().filter(|line| !line.right).count();
        if wrong > 0 {
            bail!("{wrong} of {} lines differ from what they should be", self.lines.len());
        }
        println!("all {} lines are as they should be", self.lines.len());
        Ok(())
    }

    fn print(&self) {
        let tried = width("tried", self.lines.iter().map(|line| &line.tried));
        let expected = width("expected", self.lines.iter().map(|line| &line.expected));
        let seen = width("seen", self.lines.iter().map(|line| &line.seen));
        println!("\n{:tried$}  {:expected$}  {:seen$}", "tried", "expected", "seen");
        for line in &self.lines {
            let verdict = verdict(line.right);
            println!("{:tried$}  {:expected$}  {:seen$}  {verdict}", line.tried, line.expected, line.seen);
        }
        println!();
    }
}

fn width<'a>(title: &str, column: impl Iterator<Item = &'a String>) -> usize {
    column.map(|cell| cell.chars().count()).fold(title.len(), usize::max)
}

fn verdict(right: bool) -> &'static str {
    match (right, stdout().is_terminal()) {
        (true, true) => "\x1b[32mok\x1b[0m",
        (true, false) => "ok",
        (false, true) => "\x1b[1;31mWRONG\x1b[0m",
        (false, false) => "WRONG",
    }
}
