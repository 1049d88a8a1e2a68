//! Who filters: op25b in its modes, what a user would pick instead, and nothing.

use std::{fmt::Write as _, io::Write as _, process::Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    programs::{LinkOrder, Program, TcAttachType, XdpMode, tc::TcAttachOptions},
};

use crate::{
    PREFIXES,
    lab::{Filter, Namespace},
    live::BENCH,
    policy::{self, RELAY},
    site::Site,
};

/// One of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    Nothing,
    /// A native program that drops everything: the floor of what is blocked.
    Drop,
    /// A native program that passes everything: the floor of what is forwarded, and what lets frames in to the others.
    Pass,
    /// The same as generic XDP.
    PassGeneric,
    /// The same at the TC hook.
    PassTc,
    Native,
    NativeWithoutAccounts,
    Generic,
    /// Behind a native program that lets frames in.
    Tcx,
    TcxOnly,
    /// Behind a native program that lets frames in, as the next two.
    NftIngress,
    NftOnly,
    NftForward,
    Iptables,
    XdpFilter,
}

/// What keeps a contender at work; what is not in it goes with the namespace.
#[expect(dead_code, reason = "it is only kept")]
pub(crate) enum Guard<'a> {
    Nothing,
    Filter(Box<Filter<'a>>),
    Program(Box<Ebpf>),
    Both(Box<Self>, Box<Self>),
    XdpFilter(&'a Site),
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Guard::XdpFilter(site) = self {
            // Its pins in bpffs outlive the namespace.
            let _ = run(&site.router, "xdp-filter", &["unload", "--all"], "");
        }
    }
}

impl Contender {
    /// Those that see frames as they come from the wire.
    pub(crate) const ON_THE_WIRE: &'static [Self] = &[
        Self::Drop,
        Self::Pass,
        Self::Native,
        Self::NativeWithoutAccounts,
        Self::XdpFilter,
        Self::Tcx,
        Self::NftIngress,
        Self::NftForward,
        Self::Iptables,
    ];
    /// Those that forward, each beside an empty program.
    pub(crate) const FORWARDING: &'static [Self] = &[
        Self::Nothing,
        Self::Pass,
        Self::Native,
        Self::PassGeneric,
        Self::Generic,
        Self::PassTc,
        Self::TcxOnly,
        Self::NftOnly,
    ];
    /// Which of them are attached in the same way.
    pub(crate) const ALIKE: [(Self, Self); 3] =
        [(Self::Native, Self::Pass), (Self::Generic, Self::PassGeneric), (Self::TcxOnly, Self::PassTc)];
    /// Those that see skbs.
    pub(crate) const IN_THE_STACK: &'static [Self] =
        &[Self::Generic, Self::Tcx, Self::NftIngress, Self::NftForward, Self::Iptables];

    /// What readers call it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "no filter",
            Self::Drop => "empty XDP_DROP",
            Self::Pass => "empty XDP_PASS",
            Self::PassGeneric => "empty generic XDP_PASS",
            Self::PassTc => "empty program at tcx",
            Self::Native => "op25b native",
            Self::NativeWithoutAccounts => "op25b native, no accounts",
            Self::Generic => "op25b generic",
            Self::Tcx | Self::TcxOnly => "op25b tc-ingress",
            Self::NftIngress | Self::NftOnly => "nftables ingress",
            Self::NftForward => "nftables forward",
            Self::Iptables => "iptables raw and ipset",
            Self::XdpFilter => "xdp-filter",
        }
    }

    /// Where it does not do the same.
    pub(crate) const fn note(self) -> Option<&'static str> {
        match self {
            Self::XdpFilter => Some("port 25 of everybody, relays too; counts no sources"),
            Self::NativeWithoutAccounts
            | Self::NftIngress
            | Self::NftOnly
            | Self::NftForward
            | Self::Iptables => Some("counts no sources"),
            _ => None,
        }
    }

    /// Whether it blocks what is to be blocked, and that alone.
    pub(crate) const fn blocks(self) -> bool {
        !matches!(self, Self::Nothing | Self::Drop | Self::Pass | Self::PassGeneric | Self::PassTc)
    }

    /// Sets it up on a router's customer ports.
    pub(crate) fn put(self, site: &Site) -> Result<Guard<'_>> {
        match self {
            Self::Nothing => Ok(Guard::Nothing),
            Self::Drop => program(site, "bench_drop", XdpMode::Driver),
            Self::Pass => program(site, PASS, XdpMode::Driver),
            Self::PassGeneric => program(site, PASS, XdpMode::Skb),
            Self::PassTc => tc_program(site),
            Self::Native => filter(site, "native", true),
            Self::NativeWithoutAccounts => filter(site, "native", false),
            Self::Generic => filter(site, "generic", true),
            Self::Tcx => {
                let door = door(site)?;
                Ok(Guard::Both(Box::new(filter(site, "tc-ingress", true)?), Box::new(door)))
            }
            Self::TcxOnly => filter(site, "tc-ingress", true),
            Self::NftIngress => {
                nft(site, INGRESS, "netdev")?;
                door(site)
            }
            Self::NftOnly => {
                nft(site, INGRESS, "netdev")?;
                Ok(Guard::Nothing)
            }
            Self::NftForward => {
                nft(site, "type filter hook forward priority 0;", "inet")?;
                door(site)
            }
            Self::Iptables => {
                iptables(site)?;
                door(site)
            }
            Self::XdpFilter => {
                let load = ["load", "eth1", "--policy", "allow", "--features", "tcp", "--mode", "native"];
                run(&site.router, "xdp-filter", &load, "")?;
                let guard = Guard::XdpFilter(site);
                run(&site.router, "xdp-filter", &["port", "25", "--proto", "tcp", "--mode", "dst"], "")?;
                Ok(guard)
            }
        }
    }
}

const PASS: &str = "bench_pass";

/// A veth takes frames of the other end's programs only where an XDP program is.
fn door(site: &Site) -> Result<Guard<'_>> {
    program(site, PASS, XdpMode::Driver)
}

fn load(name: &str) -> Result<Ebpf> {
    let mut object =
        EbpfLoader::new().load(BENCH).context("the kernel does not take the benchmark's maps")?;
    op25b::object::load(&mut object, name)?;
    Ok(object)
}

/// A program of the benchmark on every customer port.
fn program<'a>(site: &'a Site, name: &str, mode: XdpMode) -> Result<Guard<'a>> {
    let mut object = load(name)?;
    let Some(Program::Xdp(program)) = object.program_mut(name) else { bail!("no program {name}") };
    for port in 0..site.ports {
        site.router.within(|| program.attach(&Site::port(port), mode))??;
    }
    Ok(Guard::Program(Box::new(object)))
}

fn tc_program(site: &Site) -> Result<Guard<'_>> {
    const NAME: &str = "bench_pass_tc";
    let mut object = load(NAME)?;
    let Some(Program::SchedClassifier(program)) = object.program_mut(NAME) else {
        bail!("no program {NAME}")
    };
    site.router.within(|| {
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        program.attach_with_options("eth1", TcAttachType::Ingress, options)
    })??;
    Ok(Guard::Program(Box::new(object)))
}

fn filter<'a>(site: &'a Site, attach: &str, accounts: bool) -> Result<Guard<'a>> {
    let mut filter = Filter::new(&site.router)?;
    let text = policy::text(&policy::prefixes(PREFIXES)?, policy::GROUPS, &site.interfaces(attach), accounts);
    filter.start(&text, &[])?;
    Ok(Guard::Filter(Box::new(filter)))
}

const INGRESS: &str = "type filter hook ingress device \"eth1\" priority 0;";

fn nft(site: &Site, hook: &str, family: &str) -> Result<()> {
    let customers: Vec<String> = policy::prefixes(PREFIXES)?.iter().map(ToString::to_string).collect();
    let rules = format!(
        "table {family} op25b {{
  set customers {{ type ipv4_addr; flags interval; elements = {{ {} }}; }}
  set relays {{ type ipv4_addr; elements = {{ {RELAY} }}; }}
  chain customers-out {{
    {hook}
    tcp dport 25 ip saddr @customers ip daddr != @relays counter drop
  }}
}}
",
        customers.join(", ")
    );
    run(&site.router, "nft", &["-f", "-"], &rules)
}

fn iptables(site: &Site) -> Result<()> {
    let mut sets = "create customers hash:net\ncreate relays hash:ip\n".to_owned();
    for prefix in policy::prefixes(PREFIXES)? {
        // Writing to a text does not fail.
        let _ = writeln!(sets, "add customers {prefix}");
    }
    sets += &format!("add relays {RELAY}\n");
    run(&site.router, "ipset", &["restore"], &sets)?;
    let rule = "-t raw -A PREROUTING -i eth1 -p tcp --dport 25 -m set --match-set customers src -m set ! --match-set \
                relays dst -j DROP";
    run(&site.router, "iptables", &rule.split(' ').collect::<Vec<_>>(), "")
}

/// A command in a namespace, with something to read.
fn run(namespace: &Namespace, program: &str, arguments: &[&str], input: &str) -> Result<()> {
    let mut child = namespace
        .command(program)?
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    child.stdin.take().context("no stdin")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
