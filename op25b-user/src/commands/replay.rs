//! `op25b replay`: every frame of a capture through the real kernel program.

use std::{
    collections::BTreeMap,
    io::{BufWriter, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::{Ebpf, programs::Xdp};
use op25b_ebpf::{
    abi::{Answer, Link, Role},
    verdict::Reason,
};
use serde::Serialize;

use super::{No, explain::role, print};
use crate::{
    capture::{self, Capture, Frame},
    cli,
    explain::{self, Explanation},
    object::{self, Constants, Maps, program},
    policy::{Override, Policy},
    preflight,
    situation::Situation,
    tables::Tables,
};

/// BPF_PROG_TEST_RUN takes 14 bytes at least; below that the same core decides on the host.
const SHORTEST: usize = 14;
/// And at most a page without its head and tail room. Every header that the walk reads lies before that: longer
/// chains end on the wire, too, where a driver's first buffer does.
const LONGEST: usize = 3_000;

/// One line of `op25b replay --json`.
#[derive(Serialize)]
struct Line<'a> {
    frame: u64,
    verdict: Option<&'a str>,
    reason: &'a str,
    customer: Option<&'a str>,
    relay: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

pub(super) fn replay(arguments: &cli::Replay) -> Result<()> {
    let policy = Policy::read(&arguments.policy, &Override::default())
        .map_err(|invalid| No::Input(invalid.to_string()))?;
    let wanted = arguments.reason.as_deref().map(known_reason).transpose()?;
    let capture = Capture::open(&arguments.capture).map_err(|error| No::Input(error.to_string()))?;
    preflight::check()?;
    let mut judge = Judge::new(&policy, role(arguments.role))?;
    let mut picked = match &arguments.write {
        Some(path) => Some(capture::Writer::create(path)?),
        None => None,
    };
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut table: BTreeMap<(Option<String>, String, String), u64> = BTreeMap::new();
    let mut progress = Progress::start();
    let mut damage = None;
    let mut frames = 0;

    for frame in capture {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                damage = Some(error);
                break;
            }
        };
        frames += 1;
        let explanation = judge.judge(&frame)?;
        let (verdict, reason) = match &explanation {
            Some(explanation) => (Some(explanation.verdict), explanation.reason),
            None => (None, "link-type"),
        };
        if let Some(picked) = &mut picked
            && Some(reason) == wanted
        {
            picked.add(&frame)?;
        }
        let (customer, relay) = explanation.as_ref().map_or((None, None), |explanation| {
            (explanation.customer.as_deref(), explanation.relay.as_deref())
        });
        if arguments.output.json {
            let truncated = frame.is_truncated();
            let line = Line { frame: frames, verdict, reason, customer, relay, truncated };
            serde_json::to_writer(&mut out, &line)?;
            if let Err(error) = out.write_all(b"\n") {
                // A reader that has gone away has seen enough.
                return if error.kind() == std::io::ErrorKind::BrokenPipe {
                    Ok(())
                } else {
                    Err(error.into())
                };
            }
        } else {
            let key = (customer.map(str::to_owned), reason.to_owned(), verdict.unwrap_or("-").to_owned());
            *table.entry(key).or_default() += 1;
        }
        progress.show(frames);
    }
    if let Err(error) = out.flush()
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        return Err(error.into());
    }
    drop(out);
    progress.end(frames);
    if let Some(picked) = picked {
        picked.finish()?;
    }
    if !arguments.output.json {
        let mut rows = super::table(&["customer", "reason", "verdict", "frames"]);
        for ((customer, reason, verdict), count) in table {
            rows.add_row([customer.unwrap_or_else(|| "-".to_owned()), reason, verdict, count.to_string()]);
        }
        print(&rows.to_string())?;
    }
    match damage {
        Some(error) => Err(No::Input(error.to_string()).into()),
        None => Ok(()),
    }
}

fn known_reason(word: &str) -> Result<&str> {
    let mut known = Reason::ALL.into_iter().map(Reason::name).chain(["link-type"]);
    if known.any(|reason| reason == word) {
        return Ok(word);
    }
    let names = Reason::ALL.into_iter().map(Reason::name).collect::<Vec<_>>().join(", ");
    Err(No::Input(format!("no reason is called {word:?}; known: {names}, link-type")).into())
}

/// The kernel program under one policy, for either kind of link.
struct Judge<'a> {
    policy: &'a Policy,
    tables: Tables,
    role: Role,
    loaded: [Option<Ebpf>; 2],
}

impl<'a> Judge<'a> {
    fn new(policy: &'a Policy, role: Role) -> Result<Self> {
        let tables = Tables::compile(policy, &Situation::now(), |name| policy.position(name))
            .map_err(|error| No::Input(error.to_string()))?;
        Ok(Self { policy, tables, role, loaded: [None, None] })
    }

    /// None: a link type that op25b does not know.
    fn judge(&mut self, frame: &Frame) -> Result<Option<Explanation>> {
        let Some(link) = frame.link else { return Ok(None) };
        let answer = if frame.bytes.len() < SHORTEST {
            // Too short for the kernel is too short for an address: nothing is judged in it.
            explain::on_the_host(&self.tables, Constants::new(self.policy, self.role, link), &frame.bytes)
        } else {
            let bytes = frame.bytes.get(..LONGEST).unwrap_or(&frame.bytes);
            Answer(object::run(self.program(link)?, bytes)?)
        };
        let entry = |number: u32| number.checked_sub(1).map(|position| position as usize);
        Ok(Some(Explanation::new(
            answer,
            |group| self.policy.groups.get(entry(group)?).map(|group| group.name.clone()),
            |relay| self.policy.relays.get(entry(relay)?).map(|relay| relay.name.clone()),
        )))
    }

    fn program(&mut self, link: Link) -> Result<&Xdp> {
        let constants = Constants::new(self.policy, self.role, link);
        let slot = &mut self.loaded[link as usize];
        if slot.is_none() {
            let mut object = object::create(&self.tables, constants, Maps::Own)?;
            object::load(&mut object, program::EXPLAIN)?;
            *slot = Some(object);
        }
        let program = slot.as_ref().and_then(|object| object.program(program::EXPLAIN));
        Ok(program.context("the object has no program to run")?.try_into()?)
    }
}

/// A line on a terminal that says how far it is.
struct Progress {
    shown: bool,
    start: Instant,
    last: Instant,
}

impl Progress {
    fn start() -> Self {
        let now = Instant::now();
        Self { shown: std::io::stderr().is_terminal(), start: now, last: now }
    }

    fn show(&mut self, frames: u64) {
        // The clock is asked once in a while only.
        if self.shown && frames.is_multiple_of(4096) && self.last.elapsed() > Duration::from_millis(200) {
            self.last = Instant::now();
            eprint!("\r{frames} frames");
        }
    }

    fn end(&self, frames: u64) {
        if self.shown {
            let rate = frames as f64 / self.start.elapsed().as_secs_f64().max(0.001);
            eprintln!("\r{frames} frames, {rate:.0} a second");
        }
    }
}
