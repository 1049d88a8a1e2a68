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
    /// A sample of what is dropped, for a capture; else something new of a source.
    pub sample: bool,
    /// The frame's first bytes, in hexadecimal digits, where they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame: Option<String>,
    /// Of those, the headers up to and with TCP's.
    #[serde(default)]
    pub headers: usize,
}

/// Puts names to the kernel's numbers.
pub struct Decoder<'m> {
    /// The generation's names.
    pub manifest: &'m Manifest,
    /// Nanoseconds from the kernel's clock to 1970.
    pub epoch: u64,
}

impl Decoder<'_> {
    /// Reads a record; `None` where it is none, or where the addresses lie behind its bytes.
    #[must_use]
    pub fn decode(&self, record: &[u8]) -> Option<Event> {
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
        let words = header.map_or(5, |header| usize::from(header[12] >> 4));
        Some(Event {
            time: Timestamp::from_nanosecond(i128::from(record.time) + i128::from(self.epoch)).ok()?,
            source: ip(flow.source),
            source_port: ports.map(|ports| ports.0),
            destination: ip(flow.destination),
            destination_port: ports.map(|ports| ports.1),
            customer_address: ip(flow.customer()),
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
            sample: record.kind & source::Event::ATTEMPT == 0,
            frame: Some(frame.iter().map(|byte| format!("{byte:02x}")).collect()),
            headers: (tcp + words * 4).min(frame.len()),
        })
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that fails says so")]
mod tests {
    use op25b_ebpf::{
        abi::{Role, Softwire},
        frame::{Sight, parse},
    };

    use super::*;
    use crate::{attach::Hook, document::Attach, manifest::Interface};

    const FOUND: Sight =
        Sight { link: Link::Ethernet, role: Role::BOTH, softwire: Softwire::Closed, submission: false };

    fn manifest() -> Manifest {
        Manifest {
            numbers: [("residential".to_owned(), 3)].into(),
            relays: vec!["post".to_owned()],
            interfaces: vec![Interface {
                name: "eth1".to_owned(),
                port: "eth1".to_owned(),
                role: "both".to_owned(),
                index: 5,
                ethernet: true,
                mode: Attach::Native,
                hook: Hook::of(Attach::Native),
                program: 1,
                sampling_program: 2,
            }],
            ..Manifest::default()
        }
    }

    /// A record as the kernel writes it, with padding.
    fn record(frame: &[u8], answer: Answer, interface: u32, tag: u32) -> Vec<u8> {
        let found = parse(&frame, FOUND);
        let captured = &frame[..frame.len().min(SNAPSHOT)];
        let mut record = Vec::new();
        record.extend(1_500_000_000_u64.to_ne_bytes());
        record.extend(found.0.to_ne_bytes());
        for word in [answer.0, interface, frame.len() as u32, captured.len() as u32, 3, tag] {
            record.extend(word.to_ne_bytes());
        }
        record.extend(captured);
        record.extend([0xee; 4]);
        record
    }

    fn frame(source_port: u16, destination_port: u16, payload: &[u8]) -> Vec<u8> {
        let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 0x25], [2, 0, 0, 0, 0, 0x26])
            .ipv4([203, 0, 113, 10], [192, 0, 2, 200], 64)
            .tcp(source_port, destination_port, 1, 1024)
            .syn();
        let mut bytes = Vec::new();
        builder.write(&mut bytes, payload).unwrap();
        bytes
    }

    fn answer(reason: Reason) -> Answer {
        Answer::new(Verdict::Drop as u8, reason as u8, Outcome::ToPort25 as u8, 3, 1)
    }

    #[test]
    fn a_record_becomes_an_event_with_names() {
        let mut bytes = frame(40_000, 25, &[0x55; 200]);
        bytes.splice(12..12, [0x81, 0, 0, 9, 0x88, 0x64, 0x11, 0, 0x12, 0x34, 0, 242, 0, 0x21]);
        bytes.drain(26..28);
        let epoch = 1_700_000_000_000_000_000;
        let told = decode(&record(&bytes, answer(Reason::Blocked), 5, 0), &manifest(), epoch).unwrap();
        assert_eq!(
            told.event,
            Event {
                time: "2023-11-14T22:13:21.5Z".parse().unwrap(),
                source: "203.0.113.10".parse().unwrap(),
                source_port: Some(40_000),
                destination: "192.0.2.200".parse().unwrap(),
                destination_port: Some(25),
                to_customer: false,
                customer: Some("residential".to_owned()),
                reason: "blocked".into(),
                verdict: "drop".into(),
                outcome: "to-port-25".into(),
                relay: Some("post".to_owned()),
                interface: "eth1".to_owned(),
                mac: Some("02:00:00:00:00:25".to_owned()),
                vlans: vec![9],
                pppoe_session: Some(0x1234),
                length: bytes.len() as u32,
                flags: vec!["SYN".into()],
            }
        );
        assert!(told.is_attempt() && told.is_sample() && told.ethernet);
        assert_eq!(told.snapshot, &bytes[..SNAPSHOT]);
        // Ethernet, tag, PPPoE, IPv4, TCP.
        assert_eq!(told.headers_end, 14 + 4 + 8 + 20 + 20);
    }

    #[test]
    fn what_a_mail_server_sends_is_told_from_the_customers_side() {
        let mut bytes = frame(25, 40_000, &[]);
        // From the server to the customer.
        bytes[26..34].copy_from_slice(&[192, 0, 2, 200, 203, 0, 113, 10]);
        let told = decode(&record(&bytes, answer(Reason::ReturnPath), 9, 0x1_0007), &manifest(), 0).unwrap();
        assert!(told.event.to_customer);
        assert_eq!(
            (told.event.source.to_string(), told.event.source_port),
            ("203.0.113.10".into(), Some(40_000))
        );
        assert_eq!(told.event.destination_port, Some(25));
        assert_eq!((told.event.interface.as_str(), told.event.vlans.as_slice()), ("#9", [7].as_slice()));
    }

    #[test]
    fn a_cut_or_unjudged_record_is_none() {
        let whole = record(&frame(40_000, 25, &[]), answer(Reason::Blocked), 5, 0);
        for length in 0..whole.len() - 4 {
            assert_eq!(decode(&whole[..length], &manifest(), 0), None, "{length}");
        }
        let mut long = whole.clone();
        long[28..32].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(decode(&long, &manifest(), 0), None);
    }

    #[test]
    fn any_bytes_decode_or_not_without_harm() {
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..fastrand::usize(..200)).map(|_| fastrand::u8(..)).collect();
            let _ = decode(&bytes, &manifest(), 0);
        }
    }
}
