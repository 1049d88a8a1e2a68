//! `cargo xtask demo`: real mail from customers through an edge router with op25b, and what becomes of it.

mod capture;
mod counters;
mod filter;

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::exec::exec;
use crate::lab::{End, Lab};
use crate::mail::{Fate, MailServer, Submission, send};
use crate::report::Report;
use crate::{root, setup};
use capture::Captures;
use filter::Filter;

/// The addresses below are those of this policy.
const POLICY: &str = "policies/kurume.yaml";

/// The same, which tells customers why.
const NOTICE: &str = "policies/notice.yaml";

/// What it tells them, as its file says.
const SENTENCE: &str = "554 5.7.1 Internet Kurume: outbound port 25 is blocked (OP25B). Use port 587 or 465 with SMTP \
                        AUTH. https://www.example.jp/op25b";

/// What the provider's relay takes without a password.
const CUSTOMERS: [&str; 2] = ["203.0.113.0/24", "2001:db8:1000::/36"];

const RELAY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 25)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x25, 0, 0, 0, 0, 0x25)),
];
const OUTSIDE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 25)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 0x25)),
];

/// A neighbour of the edge router: its namespace, which also names the router's interface towards it.
struct Neighbour {
    name: &'static str,
    addresses: [&'static str; 2],
    routers: [&'static str; 2],
}

const NEIGHBOURS: [Neighbour; 4] = [
    Neighbour {
        name: CUSTOMER,
        addresses: ["203.0.113.10/25", "2001:db8:1000::10/64"],
        routers: ["203.0.113.1/25", "2001:db8:1000::1/64"],
    },
    Neighbour {
        name: STATIC_CUSTOMER,
        addresses: ["203.0.113.130/28", "2001:db8:1000:80::130/64"],
        routers: ["203.0.113.129/28", "2001:db8:1000:80::1/64"],
    },
    Neighbour {
        name: "relay",
        addresses: ["192.0.2.25/24", "2001:db8:25::25/64"],
        routers: ["192.0.2.1/24", "2001:db8:25::1/64"],
    },
    Neighbour {
        name: "outside",
        addresses: ["198.51.100.25/25", "2001:db8:ff::25/64"],
        routers: ["198.51.100.1/25", "2001:db8:ff::1/64"],
    },
];

const EDGE: &str = "edge";
const CUSTOMER: &str = "customer";
const STATIC_CUSTOMER: &str = "static";
const SERVER_NAMESPACES: [&str; 2] = ["relay", "outside"];

/// A message to try over both families.
struct Trial {
    from: &'static str,
    to: Server,
    submission: Submission,
    expected: Fate,
}

#[derive(Clone, Copy)]
enum Server {
    Relay,
    Outside,
}

impl Server {
    fn addresses(self) -> [IpAddr; 2] {
        match self {
            Self::Relay => RELAY,
            Self::Outside => OUTSIDE,
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Relay => "relay",
            Self::Outside => "outside",
        })
    }
}

const UNFILTERED: [Trial; 1] =
    [Trial { from: CUSTOMER, to: Server::Outside, submission: Submission::Plain, expected: Fate::Delivered }];

const FILTERED: [Trial; 6] = [
    Trial { from: CUSTOMER, to: Server::Outside, submission: Submission::Plain, expected: Fate::Blocked },
    Trial { from: CUSTOMER, to: Server::Relay, submission: Submission::StartTls, expected: Fate::Delivered },
    Trial {
        from: CUSTOMER,
        to: Server::Relay,
        submission: Submission::ImplicitTls,
        expected: Fate::Delivered,
    },
    Trial {
        from: CUSTOMER,
        to: Server::Relay,
        submission: Submission::WrongPassword,
        expected: Fate::LoginRefused,
    },
    Trial { from: CUSTOMER, to: Server::Relay, submission: Submission::Plain, expected: Fate::Delivered },
    Trial {
        from: STATIC_CUSTOMER,
        to: Server::Outside,
        submission: Submission::Plain,
        expected: Fate::Delivered,
    },
];

/// What changes when customers hear why.
fn told() -> [Trial; 2] {
    [
        Trial {
            from: CUSTOMER,
            to: Server::Outside,
            submission: Submission::Plain,
            expected: Fate::Told(SENTENCE.to_owned()),
        },
        Trial { from: CUSTOMER, to: Server::Relay, submission: Submission::Plain, expected: Fate::Delivered },
    ]
}

/// Runs the demo, and fails when anything is not as it should be.
pub(crate) fn run(keep: Option<&Path>) -> Result<()> {
    root::require("cargo xtask demo")?;
    setup::run()?;
    let op25b = build()?;
    root::mount_bpffs()?;

    progress("making network namespaces: customer, static, edge, relay, outside");
    let lab = make_lab()?;
    let folder = make_folder()?;
    progress("starting Postfix on the relay (25, 587, 465) and outside (25)");
    let [relay_namespace, outside_namespace] = SERVER_NAMESPACES;
    let relay = MailServer::start_relay(&lab, relay_namespace, folder.path(), CUSTOMERS, OUTSIDE)?;
    let outside = MailServer::start_outside(&lab, outside_namespace, folder.path())?;

    let mut report = Report::default();
    try_all(&lab, &UNFILTERED, "no filter", &outside, &mut report)?;

    progress("starting op25b on the edge router's customer interfaces");
    let log = folder.path().join("op25b.log");
    let filter = Filter::start(&lab, EDGE, &op25b, POLICY, &[CUSTOMER, STATIC_CUSTOMER], &log)?;
    counters::install(&lab, &[CUSTOMER, STATIC_CUSTOMER])?;
    let captures = Captures::start(&lab, &[CUSTOMER, STATIC_CUSTOMER], folder.path())?;
    try_all(&lab, &FILTERED, "op25b", &outside, &mut report)?;
    progress("comparing op25b's counters with those of nftables on the customers' side");
    counters::compare(&lab, &filter, &mut report)?;
    progress("replaying what was captured on the customers' side");
    captures.compare(&op25b, &filter.stats()?, keep, &mut report)?;
    progress("detaching op25b");
    filter.detach()?;

    progress("starting it again with a policy that tells customers why (action: notice)");
    let notice = make_notice(folder.path())?;
    for interface in [CUSTOMER, STATIC_CUSTOMER] {
        // Answers leave with the VLAN tags that a driver leaves on a frame.
        let mut ethtool = lab.command(EDGE, "ethtool");
        exec(ethtool.args(["-K", interface, "rxvlan", "off", "rx-vlan-stag-hw-parse", "off"]))?;
    }
    let second_log = folder.path().join("op25b-notice.log");
    let filter = Filter::start(&lab, EDGE, &op25b, &notice, &[CUSTOMER, STATIC_CUSTOMER], &second_log)?;
    try_all(&lab, &told(), "op25b that tells", &outside, &mut report)?;
    filter.detach()?;

    report.conclude().inspect_err(|_| {
        for log in [&log, &second_log] {
            eprintln!("{}", crate::lab::last_lines(log));
        }
        eprintln!("{}\n{}", relay.last_lines(), outside.last_lines());
    })
}

fn build() -> Result<PathBuf> {
    progress("building op25b");
    exec(Command::new("cargo").args(["build", "--release", "--package", "op25b-user"]))?;
    // Both programs are in the same target folder, whatever the caller set it to.
    let this = std::env::current_exe().context("cannot find this program's own path")?;
    let target = this.ancestors().nth(2).context("this program is not in a target folder")?;
    Ok(target.join("release/op25b"))
}

fn make_lab() -> Result<Lab> {
    let mut lab = Lab::new("demo")?;
    lab.add_namespace(EDGE)?;
    lab.make_router(EDGE)?;
    for neighbour in &NEIGHBOURS {
        lab.add_namespace(neighbour.name)?;
        lab.link(
            &End { namespace: EDGE, interface: neighbour.name, addresses: neighbour.routers },
            &End { namespace: neighbour.name, interface: "uplink", addresses: neighbour.addresses },
        )?;
        lab.route_through(neighbour.name, neighbour.routers.map(without_length))?;
    }
    Ok(lab)
}

/// The policy with a notice for the router's interfaces: generic, since a veth takes an answer of native XDP only where
/// its peer runs XDP too.
fn make_notice(folder: &Path) -> Result<String> {
    let text = fs::read_to_string(NOTICE).with_context(|| format!("cannot read {NOTICE}"))?;
    let interfaces = [CUSTOMER, STATIC_CUSTOMER].map(|name| format!("{{name: {name}, attach: generic}}"));
    let path = folder.join("notice.yaml");
    fs::write(&path, text.replace("customer: [eth1]", &format!("customer: [{}]", interfaces.join(", "))))?;
    Ok(path.display().to_string())
}

/// A folder that Postfix's own user can enter.
fn make_folder() -> Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("op25b-demo-").tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    Ok(folder)
}

fn try_all(
    lab: &Lab,
    trials: &[Trial],
    filter: &str,
    outside: &MailServer,
    report: &mut Report,
) -> Result<()> {
    for (number, trial) in trials.iter().enumerate() {
        for server in trial.to.addresses() {
            let tried = format!("{filter}: {trial}, {}", family(server));
            progress(&tried);
            let token = format!("{filter}-{number}-{}", family(server)).replace(' ', "-");
            let seen = send(lab, trial.from, server, trial.submission, outside, &token)?;
            report.add(tried, &trial.expected, &seen);
        }
    }
    Ok(())
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} → {}:{}", self.from, self.to, self.submission.port())?;
        f.write_str(match self.submission {
            Submission::Plain => "",
            Submission::StartTls => " STARTTLS and AUTH",
            Submission::ImplicitTls => " TLS and AUTH",
            Submission::WrongPassword => " wrong password",
        })
    }
}

/// The name that op25b gives to the family of `address`.
fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ipv4" } else { "ipv6" }
}

fn without_length(prefix: &str) -> &str {
    prefix.split_once('/').map_or(prefix, |(address, _)| address)
}

fn progress(step: &str) {
    eprintln!("demo: {step}");
}
