//! `cargo xtask bench policy`: how long a policy with very many prefixes takes from the file to the interface.

#[path = "../tests/lab/mod.rs"]
#[allow(dead_code, reason = "tests use more of it")]
mod lab;

use std::{
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use comfy_table::{Table, presets::UTF8_BORDERS_ONLY};
use lab::{Filter, Namespace, eventually, finish};
use serde::Serialize;

#[derive(Parser)]
struct Arguments {
    /// Up to 10,000 prefixes only
    #[arg(long)]
    quick: bool,
    /// Write the figures here, as JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// Seconds that each command took, for one size of policy.
#[derive(Serialize)]
struct Figures {
    prefixes: u32,
    check: f64,
    diff: f64,
    /// From the start of the process to the policy being in force.
    run: f64,
    reload: f64,
    /// Largest resident memory of the daemon, both generations included.
    daemon_mib: u64,
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
    let sizes: &[u32] = if arguments.quick { &[10_000] } else { &[10_000, 100_000, 1_000_000] };
    let mut table = Table::new();
    table.load_preset(UTF8_BORDERS_ONLY);
    table.set_header(["prefixes", "check s", "diff s", "run s", "reload s", "daemon MiB"]);
    let mut all = Vec::new();
    for prefixes in sizes {
        let figures = measure(*prefixes)?;
        table.add_row([
            figures.prefixes.to_string(),
            format!("{:.2}", figures.check),
            format!("{:.2}", figures.diff),
            format!("{:.2}", figures.run),
            format!("{:.2}", figures.reload),
            figures.daemon_mib.to_string(),
        ]);
        all.push(figures);
    }
    println!("{table}");
    if let Some(path) = arguments.output {
        let text = serde_json::to_string_pretty(&all)? + "\n";
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

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
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().context("VmHWM")?;
    Ok(Figures { prefixes, check, diff, run, reload, daemon_mib: kib / 1024 })
}

/// Half IPv4, from the shared address space (RFC 6598), in an order that is not theirs; half IPv6.
fn list(count: u32) -> String {
    let mut text = String::new();
    for number in 0..count / 2 {
        // Odd, so that every number comes once.
        let place = number.wrapping_mul(0x9e37_79b1) % (1 << 22);
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(100, 64, 0, 0)) + place);
        // Writing to a text does not fail.
        let _ = writeln!(text, "{address}\n2001:db8:{:x}:{:x}::/64", number >> 16, number & 0xffff);
    }
    text
}
