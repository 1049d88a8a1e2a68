//! What real mail programs show their users when port 25 is blocked, how long that takes, and what becomes of it on a
//! line that loses frames: swaks, curl, Python's smtplib, msmtp, Postfix and Exim.
//!
//! `OP25B_CONNECTIONS=200` makes the whole table of `docs/actions.md`; without it each program tries less often.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod lab;
mod wire;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf,
    programs::{Program, XdpMode},
};
use nix::sys::signal::Signal;
use op25b::{
    document,
    object::{self, Constants, Maps, program},
    policy::{Override, Policy},
    situation::Situation,
    tables::Tables,
};
use op25b_ebpf::abi::{Link, Role};

use crate::{
    lab::{Filter, Namespace, eventually, finish},
    wire::{Access, Wire},
};

const NOTICE: &str = "outbound port 25 is blocked (OP25B). Use port 587 or 465 with SMTP AUTH.";

/// One at a time: they share the processors, and the times are theirs.
static ALONE: Mutex<()> = Mutex::new(());

fn policy(action: &str, reply: u16) -> String {
    format!(
        r#"
version: 1
operator: Internet Kurume
interfaces: {{customer: [eth1]}}
relays: [{{name: post, addresses: [192.0.2.25, "2001:db8:25::25"]}}]
customers:
  - {{name: residential, prefixes: [203.0.113.0/24, "2001:db8:1000::/36"], mode: enforce, action: {action}}}
unknown_sources: pass
notice: {{reply: {reply}, text: "{NOTICE}", url: "https://www.example.jp/op25b"}}
"#
    )
}

/// How many connections a program makes: all of the table's, or few.
fn connections(few: usize) -> usize {
    std::env::var("OP25B_CONNECTIONS").ok().map_or(few, |text| text.parse().expect("a number"))
}

/// A customer, its line, the edge router, and a mail server in the world.
struct Line {
    customer: Namespace,
    edge: Namespace,
    world: Namespace,
    _wire: Wire,
    _pass: Ebpf,
    folder: tempfile::TempDir,
}

impl Line {
    fn new(access: Access, lost_of_thousand: u64) -> Result<Self> {
        let customer = Namespace::new("customer")?;
        let edge = Namespace::new("edge")?;
        let world = Namespace::new("world")?;
        edge.veth("eth1", &customer, "line")?;
        edge.veth("eth0", &world, "uplink")?;
        // Answers come back to a veth only where its peer runs XDP too, and with their tags only where they are kept.
        let pass = customer.within(|| pass("line"))??;
        run(edge.command("ethtool")?.args(["-K", "eth1", "rxvlan", "off", "txvlan", "off"]))?;
        let wire = Wire::new(&customer, "tap0", "line", access, lost_of_thousand)?;
        customer.address("tap0", &["203.0.113.10/24", "2001:db8:1000::10/64"])?;
        edge.address("eth1", &["203.0.113.1/24", "2001:db8:1000::1/64"])?;
        edge.address("eth0", &["198.51.100.1/24", "2001:db8:ff::1/64"])?;
        world.address("uplink", &["198.51.100.25/24", "2001:db8:ff::25/64"])?;
        neighbours(&customer, "tap0", &edge, "eth1", ["203.0.113.1", "2001:db8:1000::1"])?;
        neighbours(&edge, "eth1", &customer, "tap0", ["203.0.113.10", "2001:db8:1000::10"])?;
        for (namespace, gateways) in
            [(&customer, ["203.0.113.1", "2001:db8:1000::1"]), (&world, ["198.51.100.1", "2001:db8:ff::1"])]
        {
            for gateway in gateways {
                namespace.ip(&["route", "add", "default", "via", gateway])?;
            }
        }
        edge.within(|| {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1")
                .and_then(|()| fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1"))
        })??;
        let folder = tempfile::Builder::new().prefix("op25b-clients-").tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        fs::write(folder.path().join("mail"), "Subject: test\n\nsent by the op25b tests\n")?;
        Ok(Self { customer, edge, world, _wire: wire, _pass: pass, folder })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A program that passes everything, on an interface of this thread's namespace.
fn pass(interface: &str) -> Result<Ebpf> {
    let policy = Policy::from_document(document::parse(EMPTY, "")?, "", EMPTY, &Override::default())?;
    let tables = Tables::compile(&policy, &Situation::default(), |_| 1)?;
    let constants = Constants::bare(Role::CUSTOMER, Link::Ethernet);
    let mut object = object::create(&tables, constants, Maps::Own)?;
    let Program::Xdp(program) = object::load(&mut object, program::PASS)? else { bail!("no XDP program") };
    program.attach(interface, XdpMode::Driver)?;
    Ok(object)
}

const EMPTY: &str = "{version: 1, customers: [{name: a, prefixes: [192.0.2.0/24], mode: \"off\"}], \
                     unknown_sources: pass, ipv6: unfiltered}";

/// Tells a namespace who has its gateway's addresses: nobody asks for neighbours inside PPPoE.
fn neighbours(
    from: &Namespace,
    device: &str,
    to: &Namespace,
    other: &str,
    addresses: [&str; 2],
) -> Result<()> {
    let text = to.ip(&["-j", "link", "show", "dev", other])?;
    let links: serde_json::Value = serde_json::from_str(&text)?;
    let mac = links[0]["address"].as_str().context("an interface without an address")?;
    for address in addresses {
        from.ip(&["neighbour", "replace", address, "lladdr", mac, "dev", device, "nud", "permanent"])?;
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let done = finish(command, Duration::from_secs(60))?;
    ensure!(done.code == Some(0), "{command:?}: {}{}", done.stdout, done.stderr);
    Ok(())
}

/// A server of the world, by the family of the connection.
const SERVERS: [&str; 2] = ["198.51.100.25", "2001:db8:ff::25"];

/// What a program said of one connection, and how long it took.
struct Said {
    text: String,
    took: Duration,
}

/// A mail program that makes one connection at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    Swaks,
    Curl,
    Smtplib,
    Msmtp,
}

impl Client {
    const ALL: [Self; 4] = [Self::Swaks, Self::Curl, Self::Smtplib, Self::Msmtp];

    const fn name(self) -> &'static str {
        match self {
            Self::Swaks => "swaks",
            Self::Curl => "curl",
            Self::Smtplib => "smtplib",
            Self::Msmtp => "msmtp",
        }
    }

    fn command(self, line: &Line, server: &str, limit: Duration) -> Result<Command> {
        let seconds = limit.as_secs().to_string();
        let mail = line.file("mail");
        let mut command;
        match self {
            Self::Swaks => {
                command = line.customer.command("swaks")?;
                command
                    .args([
                        if server.contains(':') { "-6" } else { "-4" },
                        "--server",
                        server,
                        "--port",
                        "25",
                    ])
                    .args(["--timeout", &seconds, "--helo", "customer.example"])
                    .args(["--from", "a@example.com", "--to", "b@example.net"]);
            }
            Self::Curl => {
                let host = if server.contains(':') { format!("[{server}]") } else { server.to_owned() };
                command = line.customer.command("curl")?;
                command
                    .args(["-v", "--max-time", &seconds, &format!("smtp://{host}:25")])
                    .args(["--mail-from", "a@example.com", "--mail-rcpt", "b@example.net", "-T"])
                    .arg(mail);
            }
            Self::Smtplib => {
                command = line.customer.command("python3")?;
                command.args(["-c", SMTPLIB, server, &seconds]);
            }
            Self::Msmtp => {
                command = line.customer.command("msmtp")?;
                command
                    .args([
                        "--file=/dev/null",
                        &format!("--host={server}"),
                        "--port=25",
                        "--from=a@example.com",
                    ])
                    .args([&format!("--timeout={seconds}"), "--", "b@example.net"]);
            }
        }
        Ok(command)
    }

    fn connect(self, line: &Line, server: &str, limit: Duration) -> Result<Said> {
        let mut command = self.command(line, server, limit)?;
        let start = Instant::now();
        let done = finish(&mut command, limit + Duration::from_secs(5))?;
        Ok(Said { text: format!("{}{}", done.stdout, done.stderr), took: start.elapsed() })
    }
}

const SMTPLIB: &str = r#"
import smtplib, sys
try:
    with smtplib.SMTP(sys.argv[1], 25, "customer.example", timeout=float(sys.argv[2])) as server:
        server.sendmail("a@example.com", ["b@example.net"], "Subject: test\n\ntest\n")
    print("sent")
except Exception as error:
    print(type(error).__name__, error)
"#;

/// The middle one.
fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

/// Whether a program said so, in its own words, that nobody listens.
fn is_refused(text: &str) -> bool {
    let text = text.to_lowercase();
    text.contains("connection refused")
        || text.contains("could not connect")
        || text.contains("couldn't connect")
}

/// The line of what a program said that a user would look at.
fn gist(text: &str) -> &str {
    let words = ["55", "42", "refused", "imed out", "imeout"];
    let lines = text.lines().filter(|line| words.iter().any(|word| line.contains(word)));
    lines.last().or(text.lines().last()).unwrap_or("").trim()
}

/// Every program, over both families: all its connections end as they should.
fn every_client(access: Access, action: &str, reply: u16, expected: impl Fn(&str) -> bool) -> Result<()> {
    let _alone = ALONE.lock();
    let line = Line::new(access, 0)?;
    let mut filter = Filter::new(&line.edge)?;
    filter.start(&policy(action, reply), &[])?;
    for client in Client::ALL {
        for server in SERVERS {
            let count = connections(8);
            let mut times = Vec::new();
            let (mut right, mut shown) = (0, String::new());
            for _ in 0..count {
                let said = client.connect(&line, server, Duration::from_secs(20))?;
                if expected(&said.text) {
                    right += 1;
                    times.push(said.took);
                }
                shown = said.text;
                // Below what one customer is answered.
                std::thread::sleep(Duration::from_millis(25).saturating_sub(said.took));
            }
            println!(
                "clients: {access:?}, {action} {reply}: {} to {server}: {right} of {count} as expected, {:.0} ms; {}",
                client.name(),
                median(&mut times),
                gist(&shown)
            );
            ensure!(right == count, "{} to {server}: {right} of {count}; {shown}", client.name());
        }
    }
    filter.stop(Signal::SIGTERM)?;
    Ok(())
}

#[test]
fn every_client_shows_the_notice() {
    every_client(Access::Plain, "notice", 554, |text| text.contains(NOTICE) && text.contains("5.7.1"))
        .unwrap();
}

#[test]
fn every_client_shows_the_notice_through_pppoe_in_two_tags() {
    every_client(Access::QinqPppoe, "notice", 554, |text| text.contains(NOTICE)).unwrap();
}

#[test]
fn every_client_shows_the_notice_that_hangs_up() {
    every_client(Access::Plain, "notice", 421, |text| text.contains(NOTICE) && text.contains("421")).unwrap();
}

#[test]
fn every_client_is_refused_by_a_reset() {
    every_client(Access::Plain, "reset", 554, is_refused).unwrap();
}

#[test]
fn every_client_is_refused_by_a_reset_through_pppoe_in_two_tags() {
    every_client(Access::QinqPppoe, "reset", 554, is_refused).unwrap();
}
