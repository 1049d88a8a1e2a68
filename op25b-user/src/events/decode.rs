//! A record of the kernel, as people and programs read it.

use std::net::IpAddr;

use jiff::Timestamp;
use nix::net::if_::if_indextoname;
use op25b_ebpf::{
    abi::{Answer, Link},
    address::{Address, Family},
    found::Found,
    layers::layers,
    packet::Packet as _,
    source::{self, Tcp, is_syn},
    verdict::{Flow, Reason, Verdict},
};
use serde::{Deserialize, Serialize};

use crate::{manifest::Manifest, sources};

/// What happened to one frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub time: Timestamp,
    /// Who sent it.
    pub source: IpAddr,
    /// None where the ports cannot be read.
    pub source_port: Option<u16>,
    /// Who was to get it.
    pub destination: IpAddr,
    /// None where the ports cannot be read.
    pub destination_port: Option<u16>,
    /// The customer's end: the source, but of answers from port 25.
    pub customer_address: IpAddr,
    /// The customer's group.
    pub customer: Option<String>,
    /// Why.
    pub reason: String,
    /// What happened.
    pub verdict: String,
    /// The relay that let it pass.
    pub relay: Option<String>,
    /// As `ip link` shows it.
    pub interface: String,
    /// The sender's hardware address.
    pub mac: Option<String>,
    /// VLAN numbers, the outermost first.
    pub vlans: Vec<u16>,
    /// PPPoE session.
    pub pppoe_session: Option<u16>,
    /// Bytes of the frame.
    pub length: u32,
    /// Whether it opens a connection.
    pub syn: bool,
    /// The frame's first bytes, in hexadecimal digits, where they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame: Option<String>,
    /// Of those, the headers up to and with TCP's.
    #[serde(default)]
    pub headers: usize,
}

/// An event, why it is told, and the frame's first bytes.
pub(super) struct Told {
    pub(super) event: Event,
    /// Something that the source had not done within the last second.
    pub(super) attempt: bool,
    /// A sample of what is dropped, for a capture.
    pub(super) sample: bool,
    /// About mail that goes past the relays.
    pub(super) outside: bool,
    pub(super) frame: Vec<u8>,
}

/// Puts names to the kernel's numbers.
pub(super) struct Decoder<'m> {
    /// The generation's names.
    pub(super) manifest: &'m Manifest,
    /// Nanoseconds from the kernel's clock to 1970.
    pub(super) epoch: u64,
}

impl Decoder<'_> {
    /// Reads a record; `None` where it is none, or where the addresses lie behind its bytes.
    pub(super) fn decode(&self, record: &[u8]) -> Option<Told> {
        let (record, rest) = split(record)?;
        let frame = rest.get(..record.captured as usize)?;
        let (found, answer) = (Found(record.found), Answer(record.answer));
        let flow = Flow::read(&frame, found)?;
        let tcp = found.transport_at();
        let header: Option<Tcp> = if flow.readable { frame.read(tcp) } else { None };
        let ports = header.map(|header| {
            (u16::from_be_bytes([header[0], header[1]]), u16::from_be_bytes([header[2], header[3]]))
        });
        let interface = self.manifest.interfaces.iter().find(|known| known.index == record.interface);
        let link =
            if interface.is_none_or(|interface| interface.ethernet) { Link::Ethernet } else { Link::Ip };
        let layers = layers(&frame, link);
        let mut vlans = layers.vlans().to_vec();
        if record.tag & source::Event::TAGGED != 0 {
            vlans.insert(0, record.tag as u16 & 0xfff);
        }
        // RFC 9293 §3.1: in words of four bytes.
        let words = header.map_or(5, |header| usize::from(header[12] >> 4).max(5));
        // Where the ports cannot be read there may be no TCP header; the addresses are there.
        let headers = if header.is_some() { tcp + words * 4 } else { found.destination_at() + 16 };
        let event = Event {
            time: Timestamp::from_nanosecond(i128::from(record.time) + i128::from(self.epoch)).ok()?,
            source: ip(flow.source()),
            source_port: ports.map(|ports| ports.0),
            destination: ip(flow.destination()),
            destination_port: ports.map(|ports| ports.1),
            customer_address: ip(flow.customer),
            customer: self.manifest.group(answer.group()).map(str::to_owned),
            reason: answer.reason().map_or("unknown", Reason::name).to_owned(),
            verdict: Verdict::from_number(answer.verdict()).name().to_owned(),
            relay: self.manifest.relay(answer.relay()).map(str::to_owned),
            interface: interface.map_or_else(|| interface_name(record.interface), |known| known.name.clone()),
            mac: layers.mac.map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":")),
            vlans,
            pppoe_session: layers.session,
            length: record.length,
            syn: header.is_some_and(is_syn),
            frame: None,
            headers: headers.min(frame.len()),
        };
        let is = |kind| record.kind & kind != 0;
        let (attempt, sample) = (is(source::Event::ATTEMPT), is(source::Event::SAMPLE));
        let outside = answer.reason().is_some_and(sources::is_outside);
        Some(Told { event, attempt, sample, outside, frame: frame.to_vec() })
    }
}

/// Interfaces of other namespaces, and those that have gone, have a number only.
fn interface_name(index: u32) -> String {
    match if_indextoname(index) {
        Ok(name) => name.to_string_lossy().into_owned(),
        Err(_) => format!("number {index}"),
    }
}

fn ip(address: Address) -> IpAddr {
    sources::address([address.high, address.low], address.family == Family::Ipv6)
}

/// The record's fields, in this machine's byte order, and what follows them.
fn split(bytes: &[u8]) -> Option<(source::Event, &[u8])> {
    let (head, rest) = bytes.split_at_checked(size_of::<source::Event>())?;
    let long = |at: usize| Some(u64::from_ne_bytes(*head.get(at..)?.first_chunk()?));
    let short = |at: usize| Some(u32::from_ne_bytes(*head.get(at..)?.first_chunk()?));
    let event = source::Event {
        time: long(0)?,
        found: long(8)?,
        answer: short(16)?,
        interface: short(20)?,
        length: short(24)?,
        captured: short(28)?,
        kind: short(32)?,
        tag: short(36)?,
    };
    Some((event, rest))
}
