//! `cargo xtask bench throughput`: live frames from a customer's port into a router, by who filters there.

mod contender;
mod forwarding;
#[path = "../../tests/lab/mod.rs"]
#[allow(dead_code, reason = "tests use more of it")]
mod lab;
#[path = "../../tests/live/mod.rs"]
mod live;
#[path = "../shared/policy.rs"]
mod policy;
mod sender;
#[path = "../shared/mod.rs"]
mod shared;
mod site;

use std::{thread, time::Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use contender::Contender;
use forwarding::Protocol;
use live::Way;
use sender::{Load, Sender};
use shared::{Arguments, Part, Report, Row, Spread, Target, in_turns};
use site::Site;

/// Prefixes of the policy that all contenders have.
const PREFIXES: u32 = 1_000;
/// Customers that send.
const SOURCES: u32 = 10_000;
const NANOSECONDS: &str = "ns a frame";

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut report = Report::new()?;
    for load in [Load::Blocked, Load::Hundredth, Load::None] {
        // What drops everything is no floor of what is forwarded.
        let first = usize::from(!matches!(load, Load::Blocked));
        let part = measure(&arguments, load, Way::Wire, &Contender::ON_THE_WIRE[first..])?;
        if matches!(load, Load::Blocked) {
            targets(&mut report, &part);
        }
        report.part(part);
    }
    report.part(measure(&arguments, Load::Blocked, Way::Stack, Contender::IN_THE_STACK)?);
    report.part(scaling(&arguments)?);
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let (part, targets) = forwarding::measure(&arguments, protocol)?;
        targets.into_iter().for_each(|target| report.target(target));
        report.part(part);
    }
    report.write(&arguments)
}

/// One load against each contender, in turns.
fn measure(arguments: &Arguments, load: Load, way: Way, contenders: &[Contender]) -> Result<Part> {
    let sites = contenders.iter().map(|_| Site::new(1)).collect::<Result<Vec<_>>>()?;
    let mut running = Vec::new();
    for (contender, site) in contenders.iter().zip(&sites) {
        let guard = contender.put(site).with_context(|| format!("cannot set up {}", contender.name()))?;
        running.push((contender, Sender::new(site, 0, load, way)?, guard));
    }
    let (rounds, frames) = if arguments.quick { (2, 100_000) } else { (9, 1_000_000) };
    let figures = in_turns(rounds, &mut running, |(contender, sender, _)| {
        let sent = sender.send(frames)?;
        // What comes in is what counts: a slow one loses some before it.
        ensure!(
            sent.processed > u64::from(frames) / 20,
            "{}: {} of {frames} frames came in",
            contender.name(),
            sent.processed
        );
        let passed = sent.passed as f64 / sent.processed as f64;
        let due = 1.0 - f64::from(load.mail()) / 100.0;
        let right = if contender.blocks() { (passed - due).abs() < 0.002 } else { true };
        ensure!(right, "{}: {passed:.4} of the frames passed, {due} are due", contender.name());
        Ok(sent.took.as_nanos() as f64 / sent.processed as f64)
    })?;
    let floor = &figures[0];
    let mut part = Part::new(format!("{}, {}", load.title(), way.title()), NANOSECONDS, contenders[0].name());
    for (contender, rounds) in contenders.iter().zip(&figures) {
        part.rows.push(Row::over(contender.name(), rounds, floor, contender.note().map(str::to_owned)));
    }
    Ok(part)
}

fn targets(report: &mut Report, part: &Part) {
    let of = |contender: Contender| part.row(contender.name());
    let Some(ours) = of(Contender::Native) else { return };
    if let Some(over) = ours.over {
        let what = "blocked over veth, above a program that drops";
        report.target(Target::at_most(what, 65.0, over.least, NANOSECONDS));
    }
    for (peer, due) in [(Contender::NftIngress, 3.0), (Contender::Iptables, 3.5)] {
        if let Some(peer) = of(peer) {
            let what = format!("blocked over veth, {} against op25b", peer.name);
            report.target(Target::at_least(what, due, peer.figure.least / ours.figure.least, "times"));
        }
    }
}

/// One customer port on one CPU, and two on two.
fn scaling(arguments: &Arguments) -> Result<Part> {
    let frames = if arguments.quick { 100_000 } else { 2_000_000 };
    let mut part = Part::new("Blocked, over veth, by CPUs", "million frames a second", "");
    for contender in [Contender::Drop, Contender::Native] {
        for ports in [1, 2] {
            let site = Site::new(ports)?;
            let guard = contender.put(&site)?;
            let senders = (0..ports)
                .map(|port| Sender::new(&site, port, Load::Blocked, Way::Wire))
                .collect::<Result<Vec<_>>>()?;
            let figures = in_turns(if arguments.quick { 2 } else { 9 }, &mut [()], |()| {
                let start = Instant::now();
                let processed = thread::scope(|scope| -> Result<u64> {
                    let threads: Vec<_> =
                        senders.iter().map(|sender| scope.spawn(|| sender.send(frames))).collect();
                    let mut processed = 0;
                    for thread in threads {
                        processed +=
                            thread.join().map_err(|_| anyhow::anyhow!("a sender panicked"))??.processed;
                    }
                    Ok(processed)
                })?;
                Ok(processed as f64 / start.elapsed().as_secs_f64() / 1e6)
            })?;
            let name = match ports {
                1 => format!("{}, one port, one CPU", contender.name()),
                _ => format!("{}, two ports, two CPUs", contender.name()),
            };
            part.rows.push(Row { name, figure: Spread::of(figures[0].clone()), over: None, note: None });
            drop(guard);
        }
    }
    Ok(part)
}
