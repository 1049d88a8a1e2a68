//! One frame through the real kernel program: what happens to it, and why.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use aya::programs::{SchedClassifier, Xdp};
use aya_obj::programs::XdpAttachType;
use etherparse::PacketBuilder;
use op25b_ebpf::{
    abi::Answer,
    verdict::{Reason, Verdict},
};
use serde::Serialize;

use crate::{attach::Hook, commands::No, instance::Instance, manifest::Manifest, object};

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
#[derive(Clone, Copy, Debug)]
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

/// An Ethernet frame with a SYN in it.
///
/// # Errors
///
/// When the addresses are of two families.
pub fn frame(syn: Syn) -> Result<Vec<u8>> {
    // Locally administered addresses (IEEE 802): the MAC decides nothing.
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let ip = match (syn.source, syn.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ethernet.ipv4(source.octets(), destination.octets(), 64)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            ethernet.ipv6(source.octets(), destination.octets(), 64)
        }
        (source, destination) => {
            return Err(No::Input(format!(
                "{source} and {destination} are of two address families; give two of one"
            ))
            .into());
        }
    };
    let tcp = ip.tcp(syn.source_port, syn.destination_port, 1, 64_240).syn();
    let mut bytes = Vec::with_capacity(tcp.size(0));
    tcp.write(&mut bytes, &[]).context("cannot build the frame")?;
    Ok(bytes)
}

/// What the running generation does with a frame on an interface of this role.
///
/// # Errors
///
/// When there is no such interface, or its program cannot be run.
pub fn by_generation(
    manifest: &Manifest,
    instance: &Instance,
    role: &str,
    frame: &[u8],
) -> Result<Explanation> {
    let interface = manifest
        .interfaces
        .iter()
        .find(|interface| interface.role == role || interface.role == "both")
        .ok_or_else(|| No::Input(format!("no interface of instance {} has role {role}", instance.name())))?;
    let sibling = interface.hook.sibling();
    let pin = instance.program(manifest.generation, sibling, &interface.name, interface.mode);
    let answer = match interface.hook {
        Hook::Xdp => object::run(&Xdp::from_pin(&pin, XdpAttachType::Interface)?, frame),
        Hook::Tcx | Hook::Clsact => object::run(&SchedClassifier::from_pin(&pin)?, frame),
    }
    .with_context(|| format!("cannot run the program {}", pin.display()))?;
    let answer = Answer(answer);
    Ok(Explanation::new(
        answer,
        |group| manifest.group(group).map(str::to_owned),
        |relay| manifest.relay(relay).map(str::to_owned),
    ))
}
