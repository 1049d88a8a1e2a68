//! `cargo xtask chaos`: faults while traffic runs through a filtered router, every frame of which is accounted for.

#[path = "../../tests/clock/mod.rs"]
#[allow(dead_code, reason = "tests use more of it")]
mod clock;
mod faults;
#[path = "../../tests/lab/mod.rs"]
#[allow(dead_code, reason = "tests use more of it")]
mod lab;
#[path = "../../tests/loaded/mod.rs"]
mod loaded;
#[path = "../../tests/mounts/mod.rs"]
mod mounts;
#[path = "../../tests/names/mod.rs"]
mod names;
mod network;
mod report;
mod resources;
mod traffic;

use std::{
    ops::Range,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use clock::Clock;
use fastrand::Rng;
use faults::{Fault, Scene};
use lab::Filter;
use names::{Zone, name_server};
use network::Network;
use report::{Row, Run};
use resources::Resources;
use traffic::{Ledger, Traffic};

#[derive(Parser)]
struct Arguments {
    /// Each fault once or a few times; writes nothing
    #[arg(long)]
    quick: bool,
    /// Only faults whose name has this in it
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// How many reloads there are
    #[arg(long, value_name = "NUMBER")]
    reloads: Option<u32>,
    /// The moments that faults choose
    #[arg(long, default_value_t = 0x25)]
    seed: u64,
    /// Write the table here, in Markdown
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// A fault, in words, and how often it comes in a quick run and in a whole one.
struct Break {
    name: &'static str,
    times: (u32, u32),
    fault: Fault,
}

const fn fault(name: &'static str, times: (u32, u32), fault: Fault) -> Break {
    Break { name, times, fault }
}

/// What the filter withstands.
const FAULTS: [Break; 15] = [
    fault("daemon killed at a random moment of a change, and started again", (5, 50), faults::killed),
    fault("disks full: state, history, generations", (1, 3), faults::disk_full),
    fault("history overwritten with noise", (1, 3), faults::history_corrupted),
    fault("clock jumps: days and years, forth and back", (1, 5), faults::clock_jumps),
    fault(
        "name server lies: others' addresses, too many, new ones each second, none",
        (1, 3),
        faults::dns_lies,
    ),
    fault("64,000 answers that nobody asked for", (1, 3), faults::dns_floods),
    fault("interface down and up", (2, 10), faults::line_down),
    fault("interface removed, made anew, brought up when it is filtered", (2, 10), faults::line_removed),
    fault("interface renamed and back", (1, 5), faults::line_renamed),
    fault("MTU 9000, 1400, 1500", (1, 10), faults::mtu_changes),
    fault("two channels, one channel", (1, 10), faults::channels_change),
    fault("bpffs unmounted under the daemon, mounted again", (1, 10), faults::bpffs_unmounted),
    fault("too little memory for a larger policy", (2, 10), faults::memory_exhausted),
    fault("policy file half written", (5, 100), faults::half_written),
    fault("an hour of a compressed day", (3, 24), faults::an_hour_passes),
];

/// The same, behind the reloads: to know so many takes the daemon memory.
const LAST: [Break; 1] =
    [fault("400,000 sources at once, where accounts of 262,144 fit", (1, 3), faults::accounts_exhausted)];

/// What opens port 25 whatever a filter does, and for how long.
const OPENINGS: [Break; 2] = [
    fault("interface removed, made anew, brought up at once", (2, 10), faults::line_removed_and_up_at_once),
    fault(
        "bpffs unmounted with the daemon down; started again",
        (1, 3),
        faults::bpffs_unmounted_without_daemon,
    ),
];

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    network::leave_the_machine_alone()?;
    let start = Instant::now();
    let network = Network::new()?;
    let zone = Zone::default();
    name_server(&network.edge, zone.clone())?;
    let (faults, before, after, left) = withstand(&arguments, &network, &zone)?;
    let openings = open(&arguments, &network, &zone)?;
    let run = Run { faults, openings, before, after, took: start.elapsed() };
    println!("{run}");
    run.verdict()?;
    left?;
    if let Some(path) = &arguments.output {
        std::fs::write(path, run.document()?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn scene<'n>(
    arguments: &Arguments,
    network: &'n Network,
    traffic: &'n Traffic,
    zone: &Zone,
) -> Result<Scene<'n>> {
    let filter = Filter::new(&network.edge)?;
    let clock = Clock::new(&filter)?;
    let chance = Rng::with_seed(arguments.seed);
    let mut scene = Scene { network, traffic, filter, clock, zone: zone.clone(), chance, hours: 0 };
    scene.names_are_right();
    scene.filter.policy(&faults::policy(false, faults::KEEP))?;
    scene.start()?;
    Ok(scene)
}

/// Numbers of frames during one kind of fault, and how long the longest took.
struct Spell {
    name: String,
    times: u32,
    numbers: Range<u64>,
    longest: Duration,
}

impl Spell {
    fn row(self, ledger: &Ledger) -> Row {
        Row {
            fault: self.name,
            times: self.times,
            frames: ledger.account(self.numbers),
            recovered: self.longest,
        }
    }
}

/// How long frames go on behind a fault.
const AFTERWARDS: Duration = Duration::from_millis(100);

/// Breaks one thing as often as it is to be broken.
fn spell(
    scene: &mut Scene<'_>,
    name: &str,
    times: u32,
    mut act: impl FnMut(&mut Scene<'_>) -> Result<Duration>,
) -> Result<Spell> {
    let from = scene.traffic.sent();
    let mut longest = Duration::ZERO;
    for number in 1..=times {
        eprint!("\r\x1b[K{name}: {number} of {times}");
        longest = longest.max(act(scene).with_context(|| format!("{name}, {number} of {times}"))?);
        thread::sleep(AFTERWARDS);
    }
    eprintln!();
    Ok(Spell { name: name.to_owned(), times, numbers: from..scene.traffic.sent(), longest })
}

fn all(scene: &mut Scene<'_>, arguments: &Arguments, faults: &[Break]) -> Result<Vec<Spell>> {
    let times = |(quick, whole): (u32, u32)| if arguments.quick { quick } else { whole };
    let chosen = faults.iter().filter(|broken| broken.name.contains(&arguments.only));
    chosen.map(|broken| spell(scene, broken.name, times(broken.times), broken.fault)).collect()
}

/// All that must not matter: the rows, what the daemon had before and after, and whether anything is left of it.
#[allow(clippy::type_complexity, reason = "four things that one session yields")]
fn withstand(
    arguments: &Arguments,
    network: &Network,
    zone: &Zone,
) -> Result<(Vec<Row>, Resources, Resources, Result<()>)> {
    let traffic = Traffic::default();
    let mut scene = scene(arguments, network, &traffic, zone)?;
    let (mut spells, mut resources) = (Vec::new(), None);
    let ledger = traffic.during(network, || {
        spells = all(&mut scene, arguments, &FAULTS)?;
        if scene.hours > 0 {
            let (hours, passed) = (faults::hours_of_history(&scene)?, scene.hours as usize);
            ensure!(hours >= passed, "{passed} hours have passed, the history knows {hours}");
        }
        // Those before have had caches filled and the allocator warmed up.
        faults::reloads(&mut scene, 20)?;
        let before = Resources::of(&scene.filter)?;
        let count = arguments.reloads.unwrap_or(if arguments.quick { 100 } else { 10_000 });
        let mut reloads =
            spell(&mut scene, "reloads, one after the other", 1, |scene| faults::reloads(scene, count))?;
        reloads.times = count;
        spells.push(reloads);
        resources = Some((before, Resources::of(&scene.filter)?));
        spells.extend(all(&mut scene, arguments, &LAST)?);
        Ok(())
    })?;
    let (before, after) = resources.context("no resources")?;
    report::counters_add_up(&scene.filter, &ledger)?;
    let rows = spells.into_iter().map(|spell| spell.row(&ledger)).collect();
    let left = resources::nothing_is_left_of(&mut scene.filter, &after);
    Ok((rows, before, after, left))
}

/// What nobody can help, measured.
fn open(arguments: &Arguments, network: &Network, zone: &Zone) -> Result<Vec<Row>> {
    let traffic = Traffic::default();
    let mut scene = scene(arguments, network, &traffic, zone)?;
    let mut spells = Vec::new();
    let ledger = traffic.during(network, || {
        spells = all(&mut scene, arguments, &OPENINGS)?;
        Ok(())
    })?;
    Ok(spells.into_iter().map(|spell| spell.row(&ledger)).collect())
}
