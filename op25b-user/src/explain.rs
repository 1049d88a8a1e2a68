//! One frame through the real kernel program: what happens to it, and why.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use etherparse::PacketBuilder;
use op25b_ebpf::{
    abi::Answer,
    frame::parse,
    verdict::{Decision, Flow, Reason, Verdict, decide},
};
use serde::Serialize;

use crate::{
    commands::No,
    instance::Instance,
    manifest::Manifest,
    object::{self, Constants},
    tables::Tables,
};

/// `op25b explain --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// What happens.
    pub verdict: &'static str,
    /// Why.
    pub reason: &'static str,
    /// The customer's group.
    pub customer: Option<String>,
    /// The relay that lets it pass.
    pub relay: Option<String>,
}

impl Explanation {
    /// Puts names to a sibling program's answer.
    #[must_use]
    pub fn new(
        answer: Answer,
        group: impl FnOnce(u32) -> Option<String>,
        relay: impl FnOnce(u32) -> Option<String>,
    ) -> Self {
        Self {
            verdict: Verdict::from_number(answer.verdict()).name(),
            reason: answer.reason().map_or("unknown", Reason::name),
            customer: group(answer.group()),
            relay: relay(answer.relay()),
        }
    }

    /// The same by the names of the running generation.
    #[must_use]
    pub fn of(manifest: &Manifest, answer: Answer) -> Self {
        Self::new(
            answer,
            |group| manifest.group(group).map(str::to_owned),
            |relay| manifest.relay(relay).map(str::to_owned),
        )
    }
}

/// The reason in a sentence, for people.
#[must_use]
pub fn sentence(reason: &str) -> &'static str {
    match reason {
        "other" => "not TCP to port 25: op25b has no say",
        "quarantined" => "the customer is quarantined",
        "relay" => "the other end is a relay that the customer may use",
        "exempt" => "the customer is exempt, or its group is off",
        "unknown-source" => "the source is in no customer group: `unknown_sources` decides",
        "out-of-scope" => "the destination is outside the group's `destinations`",
        "would-block" => "it would be blocked if the group were enforcing",
        "blocked" => "TCP to port 25 from an enforcing group, and the destination is no relay of it",
        "would-malformed" => "TCP without readable ports; it would be dropped if the group were enforcing",
        "malformed" => "TCP without readable ports from an enforcing group",
        "would-return-path" => "TCP from port 25 to a customer; only watched",
        "return-path" => "TCP from port 25 to a customer, not from a relay",
        _ => "",
    }
}

/// A TCP SYN between two addresses.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Syn {
    /// Who sends it.
    pub source: IpAddr,
    /// Who is to get it.
    pub destination: IpAddr,
    /// From which port.
    pub source_port: u16,
    /// To which port.
    pub destination_port: u16,
}

/// What a frame has before its IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// Nothing: an interface without Ethernet header.
    Ip,
    /// An Ethernet header.
    Ethernet,
    /// One VLAN tag.
    Vlan,
    /// A PPPoE session in two VLAN tags.
    PppoeInVlans,
}

impl Through {
    /// The word that people see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Ethernet => "ethernet",
            Self::Vlan => "vlan",
            Self::PppoeInVlans => "pppoe-in-vlans",
        }
    }

    /// The plain frame of an interface.
    const fn plain(ethernet: bool) -> Self {
        if ethernet { Self::Ethernet } else { Self::Ip }
    }

    /// The header before a packet.
    fn header(self, packet: &[u8], ipv6: bool) -> Vec<u8> {
        let kind = if ipv6 { 0x86dd } else { 0x0800 };
        let behind_addresses = match self {
            Self::Ip => return Vec::new(),
            Self::Ethernet => vec![kind],
            Self::Vlan => vec![0x8100, 100, kind],
            Self::PppoeInVlans => {
                // RFC 2516: version and type 1, a session, how much follows; then PPP's number of the protocol.
                let (length, protocol) = (packet.len() as u16 + 2, if ipv6 { 0x0057 } else { 0x0021 });
                vec![0x88a8, 100, 0x8100, 200, 0x8864, 0x1100, 1, length, protocol]
            }
        };
        // Locally administered addresses (IEEE 802): the MAC decides nothing.
        let addresses = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        addresses.into_iter().chain(behind_addresses.into_iter().flat_map(u16::to_be_bytes)).collect()
    }
}

/// The shortest frame on a wire, without its checksum (IEEE 802.3). The kernel refuses shorter ones at the TC hook.
const SHORTEST: usize = 60;

/// A frame with a SYN in it.
///
/// # Errors
///
/// When the addresses are of two families.
pub fn frame(syn: Syn, through: Through) -> Result<Vec<u8>> {
    let ip = match (syn.source, syn.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            PacketBuilder::ipv4(source.octets(), destination.octets(), 64)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            PacketBuilder::ipv6(source.octets(), destination.octets(), 64)
        }
        (source, destination) => {
            return Err(No::Input(format!(
                "{source} and {destination} are of two address families; give two of one"
            ))
            .into());
        }
    };
    let tcp = ip.tcp(syn.source_port, syn.destination_port, 1, 64_240).syn();
    let mut packet = Vec::with_capacity(tcp.size(0));
    tcp.write(&mut packet, &[]).context("cannot build the frame")?;
    let mut bytes = through.header(&packet, syn.source.is_ipv6());
    bytes.append(&mut packet);
    bytes.resize(bytes.len().max(SHORTEST), 0);
    Ok(bytes)
}

/// What the running generation does with a SYN on an interface of this role.
///
/// # Errors
///
/// When there is no such interface, or its program cannot be run.
pub fn by_generation(manifest: &Manifest, instance: &Instance, role: &str, syn: Syn) -> Result<Explanation> {
    let interface = manifest
        .interfaces
        .iter()
        .find(|interface| interface.role == role || interface.role == "both")
        .ok_or_else(|| No::Input(format!("no interface of instance {} has role {role}", instance.name())))?;
    let sibling = interface.hook.sibling();
    let pin = instance.program(manifest.generation, sibling, &interface.name, interface.mode);
    let frame = frame(syn, Through::plain(interface.ethernet))?;
    let answer = object::run_either(&interface.hook.open(&pin)?, &frame)
        .with_context(|| format!("cannot run the program {}", pin.display()))?;
    Ok(Explanation::of(manifest, Answer(answer)))
}

/// What the core decides on the host, as a sibling program says it.
#[must_use]
pub fn on_the_host(tables: &Tables, constants: Constants, frame: &[u8]) -> Answer {
    let found = parse(&frame, constants.sight());
    let flow = if found.is_judged() { Flow::read(&frame, found) } else { None };
    let decision = flow.map_or(Decision::OTHER, |flow| decide(&flow, constants.role, tables));
    let Decision { reason, verdict, group, .. } = decision;
    Answer::new(verdict as u8, reason as u8, found.outcome_number(), group, decision.relay())
}
