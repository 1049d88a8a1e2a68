//! `cargo xtask bench program`: what the program costs one frame, by BPF_PROG_TEST_RUN: every path, by prefixes and by
//! sources.

#[path = "../../tests/frames/mod.rs"]
mod frames;
mod loaded;
mod paths;
#[path = "../shared/policy.rs"]
mod policy;
#[path = "../shared/mod.rs"]
mod shared;

use anyhow::{Result, ensure};
use clap::Parser as _;
use loaded::{Loaded, Spreading};
use shared::{Arguments, Part, Report, Row, Spread, Target, grouped, in_turns};

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut report = Report::new()?;
    passing(&arguments, &mut report)?;
    judged(&arguments, &mut report)?;
    answered(&arguments, &mut report)?;
    sources(&arguments, &mut report)?;
    prefixes(&arguments, &mut report)?;
    groups(&arguments, &mut report)?;
    report.write(&arguments)
}

const NANOSECONDS: &str = "ns";

/// What leaves without being judged: 99.9 % of traffic.
fn passing(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let loaded = Loaded::new(&loaded::Policy::default())?;
    let mut part = Part::new("Frames that are not mail", NANOSECONDS, "an empty program");
    for path in paths::passing() {
        part.rows.push(loaded.row(arguments, &path)?);
    }
    for (name, due) in paths::DUE {
        if let Some(over) = part.row(name).and_then(|row| row.over) {
            report.target(Target::at_most(
                format!("{name}, over an empty program"),
                due,
                over.least,
                NANOSECONDS,
            ));
        }
    }
    report.part(part);
    let mut size = Part::new("The program, everything compiled in", "instructions", "");
    for (name, count) in
        ["in the kernel", "looked at by the verifier"].into_iter().zip(loaded.instructions()?)
    {
        let figure = Spread::of(vec![count.into()]);
        size.rows.push(Row { name: name.to_owned(), figure, over: None, note: None });
    }
    report.part(size);
    Ok(())
}

/// What is judged, ever the same frame of one source.
fn judged(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let mut part = Part::new("Frames to port 25, by what is decided", NANOSECONDS, "an empty program");
    for accounts in [true, false] {
        let loaded = Loaded::new(&loaded::Policy { accounts, ..loaded::Policy::default() })?;
        for path in paths::judged() {
            let mut row = loaded.row(arguments, &path)?;
            if !accounts {
                row.name += ", no accounts";
            }
            part.rows.push(row);
        }
    }
    report.part(part);
    Ok(())
}

/// An answered frame is another one afterwards: single runs, each with what the system call leaves of the caches.
fn answered(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let mut part = Part::new("Answers, single runs", NANOSECONDS, "an empty program");
    for (name, action, stage) in paths::ANSWERED {
        let loaded = Loaded::new(&loaded::Policy { action, ..loaded::Policy::default() })?;
        let frame = loaded.staged(stage)?;
        let rounds = if arguments.quick { 100 } else { 900 };
        let figures = in_turns(rounds, &mut [false, true], |ours| loaded.once(*ours, &frame))?;
        part.rows.push(Row::over(name, &figures[1], &figures[0], None));
    }
    report.part(part);
    Ok(())
}

/// Blocked frames of ten thousand neighbours under a thousand prefixes in two groups.
const USUAL: Spreading = Spreading {
    prefixes: 1_000,
    groups: policy::GROUPS,
    sources: 10_000,
    far_apart: false,
    accounts: true,
    attempts: true,
    servers: false,
};

/// Frames that are blocked, by how many sources send them.
fn sources(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let counts: &[u32] = if arguments.quick { &[1, 10_000] } else { &[1, 100, 1_000, 10_000, 100_000] };
    let mut part = Part::new("Blocked, 1,000 prefixes, by sources", NANOSECONDS, "an empty program");
    for &sources in counts {
        let of = Spreading { sources, ..USUAL };
        let mut cases = vec![
            ("no accounts", Spreading { accounts: false, ..of }),
            ("retransmissions", Spreading { attempts: false, ..of }),
            ("attempts", of),
            ("attempts, ever other servers", Spreading { servers: true, ..of }),
        ];
        if (2..=policy::covered(of.prefixes) / 2).contains(&sources) {
            cases.push(("attempts, far apart", Spreading { far_apart: true, ..of }));
        }
        for (what, spreading) in cases {
            part.rows.push(spread(arguments, format!("{} sources, {what}", grouped(sources)), &spreading)?);
        }
    }
    for (sources, what, due) in
        [(10_000, "attempts", 60.0), (100_000, "attempts", 100.0), (10_000, "no accounts", 20.0)]
    {
        let name = format!("{} sources, {what}", grouped(sources));
        if let Some(over) = part.row(&name).and_then(|row| row.over) {
            let what = format!("blocked, 1,000 prefixes, {name}, over an empty program");
            report.target(Target::at_most(what, due, over.least, NANOSECONDS));
        }
    }
    report.part(part);
    Ok(())
}

/// The same of customers as far apart as can be, by how many prefixes the policy has.
fn prefixes(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let counts: &[u32] =
        if arguments.quick { &[10, 1_000] } else { &[10, 1_000, 10_000, 100_000, 1_000_000] };
    let mut part = Part::new(
        "Blocked, 10,000 sources far apart, no accounts, by prefixes",
        NANOSECONDS,
        "an empty program",
    );
    for &prefixes in counts {
        let spreading = Spreading { prefixes, far_apart: true, accounts: false, attempts: false, ..USUAL };
        part.rows.push(spread(arguments, format!("{} prefixes", grouped(prefixes)), &spreading)?);
    }
    report.part(part);
    Ok(())
}

/// And by how many groups they are in.
fn groups(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let counts: &[usize] = if arguments.quick { &[2, 255] } else { &[1, 2, 16, 255] };
    let mut part =
        Part::new("Blocked, 1,000 prefixes, 10,000 sources, by groups", NANOSECONDS, "an empty program");
    for &groups in counts {
        let spreading = Spreading { groups, ..USUAL };
        part.rows.push(spread(arguments, format!("{groups} groups"), &spreading)?);
    }
    report.part(part);
    Ok(())
}

fn spread(arguments: &Arguments, name: String, spreading: &Spreading) -> Result<Row> {
    let running = spreading.load()?;
    let figures = in_turns(rounds(arguments), &mut [false, true], |ours| running.run(*ours))?;
    running.check(spreading)?;
    Ok(Row::over(name, &figures[1], &figures[0], None))
}

impl Loaded {
    /// A path beside an empty program.
    fn row(&self, arguments: &Arguments, path: &paths::Path) -> Result<Row> {
        let returns = self.returns(&path.frame)?;
        ensure!(returns == path.returns, "{}: the program returns {returns}", path.name);
        let figures =
            in_turns(rounds(arguments), &mut [false, true], |ours| self.repeated(*ours, &path.frame))?;
        Ok(Row::over(path.name, &figures[1], &figures[0], None))
    }
}

const fn rounds(arguments: &Arguments) -> usize {
    if arguments.quick { 3 } else { 21 }
}
