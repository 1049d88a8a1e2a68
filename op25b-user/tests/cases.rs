//! Every named case on the host and through the loaded programs: verdict, reason, and exactly which counter moves.
#![allow(clippy::expect_used, clippy::panic, reason = "a case that does not hold fails the test")]

#[path = "cases/mod.rs"]
mod cases;
mod frames;
mod ways;

use std::collections::{BTreeMap, HashSet};

use op25b_ebpf::{abi::Link, found::Outcome, verdict::Decision};

use crate::{
    cases::Case,
    frames::hex,
    ways::{ENTRIES, Entry, Kernel, Office, Seen, Setting, Variant, may_be_refused, say, words},
};

/// How the cases went on one way.
#[derive(Default)]
struct Tally {
    right: usize,
    tried: usize,
    host_only: usize,
    wrong: Vec<String>,
}

impl Tally {
    fn note(&mut self, case: &Case, frame: &[u8], complaint: Option<String>) {
        self.tried += 1;
        match complaint {
            None => self.right += 1,
            Some(complaint) => self.wrong.push(format!(
                "{} ({}): {complaint}; frame {}",
                case.name,
                case.setting.name(),
                hex(&frame[..frame.len().min(200)])
            )),
        }
    }

    fn line(&self, way: &str) -> String {
        let host_only = if self.host_only == 0 {
            String::new()
        } else {
            format!(" ({} more on the host only)", self.host_only)
        };
        format!("{way} {}/{}{host_only}", self.right, self.tried)
    }
}

/// What the contract says, in the numbers of an office.
fn expected(case: &Case, office: &Office, outcome: Outcome) -> Seen {
    let expected = &case.expected;
    let relay = office.relay(expected.relay);
    let decision = Decision {
        reason: expected.reason,
        verdict: expected.verdict,
        group: office.group(expected.group),
        relays: if relay == 0 { 0 } else { 1 << (relay - 1) },
    };
    Seen { outcome: expected.outcome.unwrap_or(outcome), decision, family: expected.family }
}

/// The frame of a case as a way takes it.
fn frame_for(case: &Case, link: Link) -> Option<&[u8]> {
    match link {
        Link::Ethernet => Some(&case.frame),
        Link::Ip => case.bare(),
    }
}

/// By setting, so that each object is loaded once.
fn by_setting(cases: &[Case]) -> BTreeMap<(Variant, u8), Vec<&Case>> {
    let mut settings: BTreeMap<_, Vec<&Case>> = BTreeMap::new();
    for case in cases {
        settings.entry((case.setting.variant, case.setting.role.0)).or_default().push(case);
    }
    settings
}

#[test]
fn names_are_unique_and_there_are_enough_of_them() {
    let cases = cases::all();
    let mut names = HashSet::new();
    for case in &cases {
        assert!(names.insert(&case.name), "two cases are called {}", case.name);
    }
    assert!(cases.len() >= 150, "{} cases", cases.len());
}

#[test]
fn every_case_holds_on_host_and_kernel() {
    let cases = cases::all();
    let mut tallies =
        vec![("host", on_host(&cases, Link::Ethernet)), ("host on raw IP", on_host(&cases, Link::Ip))];
    for entry in ENTRIES.iter().filter(|entry| entry.is_here()) {
        tallies.push((entry.name, on_kernel(&cases, entry)));
    }
    let lines = tallies.iter().map(|(way, tally)| tally.line(way)).collect::<Vec<_>>();
    say(&format!("cases: {}", lines.join(", ")));

    let mut wrong: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (way, tally) in &tallies {
        for complaint in &tally.wrong {
            wrong.entry(complaint).or_default().push(way);
        }
    }
    let complaints = wrong
        .iter()
        .map(|(complaint, ways)| format!("{complaint} [{}]", ways.join(", ")))
        .collect::<Vec<_>>();
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

fn on_host(cases: &[Case], link: Link) -> Tally {
    let mut tally = Tally::default();
    for ((variant, _), cases) in by_setting(cases) {
        let office = Office::open(variant);
        for case in cases {
            let Some(frame) = frame_for(case, link) else { continue };
            let seen = office.judge(case.setting, link, frame);
            let expected = expected(case, &office, seen.outcome);
            let complaint = if seen.answer() != expected.answer() {
                Some(format!("expected {}, seen {}", words(expected.answer()), words(seen.answer())))
            } else if seen.cell() != expected.cell() {
                Some(format!("expected cell {:?}, seen {:?}", expected.cell(), seen.cell()))
            } else {
                None
            };
            tally.note(case, frame, complaint);
        }
    }
    tally
}

fn on_kernel(cases: &[Case], entry: &Entry) -> Tally {
    let mut tally = Tally::default();
    for ((variant, role), cases) in by_setting(cases) {
        let office = Office::open(variant);
        let setting = Setting { variant, role: op25b_ebpf::abi::Role(role) };
        let programs = [entry.program, entry.explain];
        let kernel = match Kernel::load(&office, setting, entry.link, &programs) {
            Ok(kernel) => kernel,
            Err(error) => {
                tally.tried += cases.iter().filter(|case| frame_for(case, entry.link).is_some()).count();
                tally.wrong.push(format!("{}: {error:#}", setting.name()));
                continue;
            }
        };
        for case in cases {
            let Some(frame) = frame_for(case, entry.link) else { continue };
            if entry.never_meets(frame) {
                tally.host_only += 1;
                continue;
            }
            match through(&kernel, entry, &office, case, frame) {
                Ok(complaint) => tally.note(case, frame, complaint),
                Err(_) if may_be_refused(entry, frame) => tally.host_only += 1,
                Err(error) => tally.note(case, frame, Some(format!("{error:#}"))),
            }
        }
    }
    tally
}

/// One case through one way: what is wrong with it, if anything. An error: the kernel refused the frame.
fn through(
    kernel: &Kernel,
    entry: &Entry,
    office: &Office,
    case: &Case,
    frame: &[u8],
) -> anyhow::Result<Option<String>> {
    let groups = office.groups();
    // Where the contract leaves the outcome open, it is the host's.
    let expected = expected(case, office, office.judge(case.setting, entry.link, frame).outcome);
    let mut complaints = Vec::new();

    let before = kernel.cells(&groups)?;
    let answer = kernel.run(entry.explain, frame)?;
    if answer != expected.answer().0 {
        let seen = op25b_ebpf::abi::Answer(answer);
        complaints.push(format!("expected answer {}, seen {}", words(expected.answer()), words(seen)));
    }
    let between = kernel.cells(&groups)?;
    if between != before {
        complaints.push("the answer was counted".to_owned());
    }

    let action = kernel.run(entry.program, frame)?;
    if action != entry.action(expected.decision.verdict) {
        complaints.push(format!("expected {}, action {action}", expected.decision.verdict.name()));
    }
    let moved = moved(&between, &kernel.cells(&groups)?);
    let due = expected.cell().map(|cell| (cell, 1, frame.len() as u64));
    if moved != Vec::from_iter(due) {
        complaints.push(format!("expected (cell, packets, bytes) {due:?} to move, moved {moved:?}"));
    }
    Ok((!complaints.is_empty()).then(|| complaints.join("; ")))
}

/// By how much each cell moved.
fn moved(before: &[(u32, u64, u64)], after: &[(u32, u64, u64)]) -> Vec<(u32, u64, u64)> {
    let earlier = |cell| {
        let found = before.iter().find(|(number, ..)| *number == cell);
        found.map_or((0, 0), |(_, packets, bytes)| (*packets, *bytes))
    };
    after
        .iter()
        .map(|(cell, packets, bytes)| (*cell, packets - earlier(*cell).0, bytes - earlier(*cell).1))
        .filter(|(_, packets, bytes)| (*packets, *bytes) != (0, 0))
        .collect()
}
