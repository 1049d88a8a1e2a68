//! `cargo xtask bench policy`: how long a policy with very many prefixes takes from the file to the interface.

#[path = "../../tests/lab/mod.rs"]
#[allow(dead_code, reason = "tests use more of it")]
mod lab;
#[path = "../shared/mod.rs"]
mod shared;

use std::{
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    os::fd::{AsFd as _, AsRawFd as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::loaded_maps;
use clap::Parser as _;
use lab::{Filter, Namespace, eventually, finish};
use shared::{Arguments, Part, Report, Row, Spread, Target, grouped};

/// Seconds that each command took, for one size of policy.
struct Figures {
    check: f64,
    diff: f64,
    /// From the start of the process to the policy being in force.
    run: f64,
    reload: f64,
    /// Largest resident memory of the daemon, both generations included.
    daemon_mib: f64,
    /// Memory of the kernel's maps: accounts of sources, counters, one generation's tables.
    maps_mib: f64,
}

const POLICY: &str = "\
version: 1
interfaces: {customer: [eth1]}
relays: [{name: post, addresses: [192.0.2.25, \"2001:db8:25::25\"]}]
customers: [{name: residential, prefixes_file: PREFIXES, mode: enforce}]
unknown_sources: pass
";

/// What a run may take at most: a bench that hangs tells nothing.
const LIMIT: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut report = Report::new()?;
    let (sizes, rounds): (&[u32], usize) =
        if arguments.quick { (&[10_000], 1) } else { (&[10_000, 100_000, 1_000_000], 5) };
    let mut memory = Part::new("Memory, the daemon's at its largest", "MiB", "");
    for &prefixes in sizes {
        let figures = (0..rounds).map(|_| measure(prefixes)).collect::<Result<Vec<_>>>()?;
        let row = |name: &str, of: fn(&Figures) -> f64| Row {
            name: name.to_owned(),
            figure: Spread::of(figures.iter().map(of).collect()),
            over: None,
            note: None,
        };
        let mut part = Part::new(format!("A policy of {} prefixes", grouped(prefixes)), "s", "");
        part.rows = vec![
            row("check", |figures| figures.check),
            row("diff", |figures| figures.diff),
            row(FORCE, |figures| figures.run),
            row("reload", |figures| figures.reload),
        ];
        let due = [(1_000_000, 3.0), (100_000, 0.5)].into_iter().find(|(size, _)| *size == prefixes);
        if let (Some((_, due)), Some(row)) = (due, part.row(FORCE)) {
            let what = format!("{} prefixes {FORCE}", grouped(prefixes));
            report.target(Target::at_most(what, due, row.figure.median, "s"));
        }
        report.part(part);
        let size = grouped(prefixes);
        let daemon = row(&format!("{size} prefixes, daemon"), |figures| figures.daemon_mib);
        let maps = row(&format!("{size} prefixes, the kernel's maps"), |figures| figures.maps_mib);
        if prefixes == 1_000_000 {
            let all = daemon.figure.median + maps.figure.median;
            report.target(Target::at_most(
                "1,000,000 prefixes, memory of daemon and maps",
                477.0,
                all,
                "MiB",
            ));
        }
        memory.rows.extend([daemon, maps]);
    }
    report.part(memory);
    report.write(&arguments)
}

/// A row, named as its target is.
const FORCE: &str = "from start to in force";

fn measure(prefixes: u32) -> Result<Figures> {
    let (customer, edge) = (Namespace::new("customer")?, Namespace::new("edge")?);
    edge.veth("eth1", &customer, "cust1")?;
    let mut filter = Filter::new(&edge)?;
    let other = filter.path().with_file_name("other.yaml");
    for (name, path, count) in
        [("prefixes.txt", filter.path(), prefixes), ("fewer.txt", other.clone(), prefixes - prefixes / 10)]
    {
        fs::write(path.with_file_name(name), list(count))?;
        fs::write(path, POLICY.replace("PREFIXES", name))?;
    }
    let (policy, other) = (filter.path().display().to_string(), other.display().to_string());
    let timed = |arguments: &[&str]| -> Result<f64> {
        let start = Instant::now();
        let answer = finish(&mut filter.command(arguments)?, LIMIT)?;
        ensure!(answer.code == Some(0), "{arguments:?}: {answer:?}");
        Ok(start.elapsed().as_secs_f64())
    };
    let others = maps_mib()?;
    let check = timed(&["check", &policy])?;
    let diff = timed(&["diff", &policy, &other])?;

    let start = Instant::now();
    filter.spawn(&[], &[])?;
    ensure!(eventually(|| filter.said().contains("in force")), "{}", filter.said());
    let run = start.elapsed().as_secs_f64();
    ensure!(eventually(|| filter.state().join("socket").exists()), "no socket");
    let start = Instant::now();
    let answer = finish(&mut filter.command(&["reload"])?, LIMIT)?;
    ensure!(answer.code == Some(0), "{answer:?}");
    let reload = start.elapsed().as_secs_f64();
    let status = fs::read_to_string(format!("/proc/{}/status", filter.pid()?))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: u32 = peak.trim().trim_end_matches(" kB").parse().context("VmHWM")?;
    Ok(Figures {
        check,
        diff,
        run,
        reload,
        daemon_mib: f64::from(kib) / 1024.0,
        maps_mib: maps_mib()? - others,
    })
}

/// What all maps in the kernel take, by its own account.
fn maps_mib() -> Result<f64> {
    let mut bytes = 0;
    for map in loaded_maps() {
        // One may have gone meanwhile.
        let Ok(fd) = map.and_then(|map| map.fd()) else { continue };
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd()))?;
        let line = info.lines().find_map(|line| line.strip_prefix("memlock:")).context("no memlock")?;
        bytes += line.trim().parse::<u64>().context("memlock")?;
    }
    Ok(bytes as f64 / f64::from(1 << 20))
}

/// Half IPv4, from the shared address space (RFC 6598), in an order that is not theirs; half IPv6, every second
/// /64, since neighbours would be one range.
fn list(count: u32) -> String {
    let mut text = String::new();
    for number in 0..count / 2 {
        // Odd, so that every number comes once.
        let place = number.wrapping_mul(0x9e37_79b1) % (1 << 22);
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(100, 64, 0, 0)) + place);
        // Writing to a text does not fail.
        let _ = writeln!(text, "{address}\n2001:db8:{:x}:{:x}::/64", number >> 15, (2 * number) & 0xffff);
    }
    text
}
