//! What a run of the checks wrote, and what it means.

use super::checks::{Check, Checks, MARK};

/// Starts of the lines that a test writes for the report.
const FIGURES: [&str; 2] = ["cases:", "verifier:"];

/// Lines of a transcript that are shown when it ends before the checks do.
const SHOWN: usize = 100;

/// What came of the checks under one kernel.
pub(super) struct Outcome {
    kernel: String,
    results: Vec<Seen>,
    /// All of it, with what the kernel wrote in between.
    transcript: String,
    notes: Vec<String>,
}

struct Seen {
    name: &'static str,
    output: String,
    end: End,
}

#[derive(PartialEq, Eq)]
enum End {
    Right,
    Wrong(String),
    /// The transcript ends first.
    Never,
}

impl Outcome {
    /// Reads what the script of `checks` wrote.
    pub(super) fn read(transcript: &str, checks: &Checks) -> Self {
        Self::parse(transcript, checks.iter())
    }

    fn parse<'a>(transcript: &str, checks: impl Iterator<Item = &'a Check>) -> Self {
        let kernel = marks(transcript, "kernel ").next().map_or_else(|| "no kernel".to_owned(), release);
        let results = checks
            .map(|check| {
                let output = section(transcript, check.name);
                let end = output.as_deref().map_or(End::Never, |output| end(output, check.expected));
                Seen { name: check.name, output: output.unwrap_or_default(), end }
            })
            .collect();
        Self { kernel, results, transcript: transcript.to_owned(), notes: Vec::new() }
    }

    /// Adds a line that is printed with the figures.
    pub(super) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// Whether every check is right.
    pub(super) fn is_ok(&self) -> bool {
        self.results.iter().all(|seen| seen.end == End::Right)
    }

    /// The kernel's version, and each check in a word or two.
    pub(super) fn line(&self) -> String {
        let words: Vec<String> = self.results.iter().map(Seen::words).collect();
        format!("{}  {}", self.kernel, words.join(", "))
    }

    /// What the tests measured, and what was noted.
    pub(super) fn figures(&self) -> impl Iterator<Item = &str> {
        self.results
            .iter()
            .flat_map(|seen| seen.output.lines())
            .map(|line| said(line.trim()))
            .filter(|line| FIGURES.iter().any(|figure| line.starts_with(figure)))
            .chain(self.notes.iter().map(String::as_str))
    }

    /// What the checks wrote that are not right.
    pub(super) fn complaint(&self) -> String {
        let mut complaint = String::new();
        for seen in &self.results {
            match &seen.end {
                End::Right => {}
                End::Wrong(_) => {
                    complaint.push_str(&format!("---- {} of {} ----\n", seen.name, self.kernel));
                    complaint.push_str(&seen.output);
                }
                End::Never => {
                    complaint.push_str(&format!("---- the end of what {} wrote ----\n", self.kernel));
                    let lines: Vec<&str> = self.transcript.lines().collect();
                    complaint.push_str(&lines[lines.len().saturating_sub(SHOWN)..].join("\n"));
                    break;
                }
            }
        }
        complaint
    }
}

impl Seen {
    fn words(&self) -> String {
        match &self.end {
            End::Right => format!("{} ok{}", self.name, self.counts()),
            End::Wrong(why) => format!("{} FAILED ({why}{})", self.name, self.counts()),
            End::Never => format!("{} FAILED (no end)", self.name),
        }
    }

    /// How many tests passed, failed or were left out, where a test harness says so.
    fn counts(&self) -> String {
        let Some((_, result)) = self.output.lines().find_map(|line| line.split_once("test result: ")) else {
            return String::new();
        };
        let counts: Vec<&str> = result
            .split([';', '.'])
            .map(str::trim)
            .filter(|count| ["passed", "failed", "ignored"].iter().any(|word| count.ends_with(word)))
            .filter(|count| !count.starts_with("0 "))
            .collect();
        format!(" ({})", counts.join(", "))
    }
}

/// What a test itself wrote, without the harness's words before it in the same line.
fn said(line: &str) -> &str {
    line.strip_prefix("test ").and_then(|line| line.split_once(" ... ")).map_or(line, |(_, said)| said)
}

/// What follows the mark and `word` in each line that has both. A kernel may write into the line before them.
fn marks<'a>(transcript: &'a str, word: &'a str) -> impl Iterator<Item = &'a str> {
    transcript.lines().filter_map(move |line| line.split_once(MARK)?.1.strip_prefix(word)).map(str::trim_end)
}

/// What a check wrote, up to and with the line that says how it ended.
fn section(transcript: &str, name: &str) -> Option<String> {
    let begin = format!("{MARK}begin {name}");
    let mut lines = transcript.lines().skip_while(|line| !line.trim_end().ends_with(&begin)).skip(1);
    let mut section = String::new();
    for line in &mut lines {
        section.push_str(line.trim_end());
        section.push('\n');
        if line.contains(MARK) {
            return Some(section);
        }
    }
    None
}

fn end(output: &str, expected: &str) -> End {
    match marks(output, "end ").next() {
        Some("0") if output.contains(expected) => End::Right,
        Some("0") => End::Wrong(format!("it does not say `{expected}`")),
        // timeout(1) and the busybox one.
        Some("124" | "137" | "143") => End::Wrong("too slow".to_owned()),
        Some(code) => End::Wrong(format!("exit code {code}")),
        None => End::Never,
    }
}

/// Debian's version of a kernel, or the kernel's own.
fn release(kernel: &str) -> String {
    let own = kernel.split(' ').next().unwrap_or(kernel);
    let debian = kernel.split(" Debian ").nth(1).and_then(|version| version.split(['-', ' ']).next());
    debian.unwrap_or(own).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "@op25b kernel 6.1.0-56-cloud-amd64 #1 SMP Debian 6.1.192-2 (2026-11-01)\r\n";

    fn parse(transcript: &str) -> Outcome {
        let check = |name, expected| Check { name, expected, command: String::new() };
        Outcome::parse(transcript, [check("explain", "drop: blocked"), check("cases", "")].iter())
    }

    #[test]
    fn a_kernel_is_called_what_debian_calls_it() {
        assert_eq!(release("6.1.0-56-cloud-amd64 #1 SMP Debian 6.1.192-2 (2026-11-01)"), "6.1.192");
        assert_eq!(release("6.18.2 #1 SMP"), "6.18.2");
    }

    #[test]
    fn checks_that_ended_well_are_counted_and_their_figures_kept() {
        let outcome = parse(&format!(
            "{DEBIAN}@op25b begin explain\r\ndrop: blocked, customer group residential\r\n@op25b end 0\r\n\
             @op25b begin cases\r\ntest every_case_holds ... cases: host 150/150\r\nok\r\n\
             test result: ok. 4 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\r\n\
             [    3.1] a kernel's word@op25b end 0\r\n"
        ));
        assert_eq!(outcome.line(), "6.1.192  explain ok, cases ok (4 passed, 1 ignored)");
        assert_eq!(outcome.figures().collect::<Vec<_>>(), ["cases: host 150/150"]);
        assert!(outcome.is_ok());
        assert_eq!(outcome.complaint(), "");
    }

    #[test]
    fn a_check_that_says_something_else_or_fails_is_wrong() {
        let outcome = parse(&format!(
            "{DEBIAN}@op25b begin explain\npass: relay\n@op25b end 0\n@op25b begin cases\nbad\n@op25b end 101\n"
        ));
        let line = "6.1.192  explain FAILED (it does not say `drop: blocked`), cases FAILED (exit code 101)";
        assert_eq!(outcome.line(), line);
        assert!(!outcome.is_ok());
        assert!(outcome.complaint().contains("bad\n"));
    }

    #[test]
    fn a_machine_that_dies_is_wrong_and_its_last_lines_are_shown() {
        let outcome = parse("@op25b begin explain\nKernel panic\n");
        assert_eq!(outcome.line(), "no kernel  explain FAILED (no end), cases FAILED (no end)");
        assert!(outcome.complaint().ends_with("Kernel panic"));
    }
}
