//! Real connections through the router, by iperf3: none of it is for port 25.

use std::{
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    contender::{Contender, Guard},
    lab::{eventually, finish},
    shared::{Arguments, Part, Row, Spread, Target, in_turns},
    site::{OUTSIDE, Site},
};

const RATE: &str = "Mbit/s";
const CUSTOMER: &str = "10.0.0.9";

/// What iperf3 sends.
#[derive(Clone, Copy)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    const fn title(self) -> &'static str {
        match self {
            Self::Tcp => "Forwarded, one TCP connection (iperf3)",
            Self::Udp => "Forwarded, UDP of 1,400 bytes as fast as it goes (iperf3)",
        }
    }
}

/// A server behind the router, which ends with this.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Path<'a> {
    contender: Contender,
    site: &'a Site,
    _server: Server,
    _guard: Guard<'a>,
}

impl<'a> Path<'a> {
    fn new(contender: Contender, site: &'a Site) -> Result<Self> {
        site.customer.address("tx0", &[&format!("{CUSTOMER}/8")])?;
        site.customer.ip(&["route", "add", "default", "via", "10.255.0.1"])?;
        site.router.address("eth1", &["10.255.0.1/8"])?;
        site.world.address("wan0", &[&format!("{OUTSIDE}/24")])?;
        site.world.ip(&["route", "add", "default", "via", "198.51.100.1"])?;
        let server = site
            .world
            .command("iperf3")?
            .args(["--server", "--bind", OUTSIDE])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run iperf3")?;
        let guard = contender.put(site).with_context(|| format!("cannot set up {}", contender.name()))?;
        let path = Self { contender, site, _server: Server(server), _guard: guard };
        // The server takes its time to listen.
        ensure!(eventually(|| path.run(Protocol::Tcp, 0.1).is_ok()), "iperf3 does not reach its server");
        Ok(path)
    }

    /// What arrives, in Mbit/s.
    fn run(&self, protocol: Protocol, seconds: f64) -> Result<f64> {
        let mut command = self.site.customer.command("iperf3")?;
        command.args(["--json", "--client", OUTSIDE, "--bytes"]);
        // So much that it takes about that long: iperf3 counts whole seconds only.
        command.arg(((seconds * 4e9 / 8.0) as u64).to_string());
        if let Protocol::Udp = protocol {
            command.args(["--udp", "--bitrate", "0", "--length", "1400"]);
        }
        let answer = finish(&mut command, Duration::from_secs(60))?;
        ensure!(answer.code == Some(0), "iperf3 through {}: {answer:?}", self.contender.name());
        let end = &answer.json()?["end"];
        let number = |value: &serde_json::Value| value.as_f64().context("iperf3 does not say");
        let bits = match protocol {
            Protocol::Tcp => number(&end["sum_received"]["bits_per_second"])?,
            Protocol::Udp => {
                let lost = number(&end["sum"]["lost_percent"])?;
                number(&end["sum"]["bits_per_second"])? * (1.0 - lost / 100.0)
            }
        };
        Ok(bits / 1e6)
    }
}

/// Each beside an empty program that is attached in the same way, none, and nftables. What each way adds, as targets.
pub(crate) fn measure(arguments: &Arguments, protocol: Protocol) -> Result<(Part, Vec<Target>)> {
    let sites = Contender::FORWARDING.iter().map(|_| Site::new(1)).collect::<Result<Vec<_>>>()?;
    let mut paths = Vec::new();
    for (contender, site) in Contender::FORWARDING.iter().zip(&sites) {
        paths.push(Path::new(*contender, site)?);
    }
    let (rounds, seconds) = if arguments.quick { (2, 0.2) } else { (9, 1.0) };
    let figures = in_turns(rounds, &mut paths, |path| path.run(protocol, seconds))?;
    let mut part = Part::new(protocol.title(), RATE, "");
    for (contender, rounds) in Contender::FORWARDING.iter().zip(figures) {
        let (name, note) = (contender.name().to_owned(), contender.note().map(str::to_owned));
        part.rows.push(Row { name, figure: Spread::of(rounds), over: None, note });
    }
    let mut targets = Vec::new();
    for (ours, empty) in Contender::ALIKE {
        if let (Some(ours), Some(empty)) = (part.row(ours.name()), part.row(empty.name())) {
            // The spread of an empty program's rounds is what the machine does by itself.
            let spread = (empty.figure.high - empty.figure.low) / empty.figure.median * 100.0;
            let lost = (1.0 - ours.figure.median / empty.figure.median) * 100.0;
            let what = format!("{}: {} against {}, lost", protocol.title(), ours.name, empty.name);
            targets.push(Target::at_most(what, spread, lost, "%"));
        }
    }
    Ok((part, targets))
}
