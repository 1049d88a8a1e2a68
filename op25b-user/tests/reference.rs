//! A second opinion on every frame: a decision that shares no code with the core, on etherparse and linear search.
#![allow(clippy::expect_used, clippy::panic, reason = "a frame that tells the two apart fails the test")]

#[path = "cases/mod.rs"]
mod cases;
mod frames;
mod generate;
mod ways;

use std::{collections::BTreeMap, net::IpAddr};

use etherparse::{
    EtherType, Ethernet2HeaderSlice, IpAuthHeaderSlice, IpNumber, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice,
    Ipv6HeaderSlice, Ipv6RawExtHeaderSlice, SingleVlanHeaderSlice, err,
};
use ipnetwork::IpNetwork;
use op25b::{
    document::{IdentifyBy, Mode},
    policy::{Group, Policy},
};
use op25b_ebpf::abi::{Link, Role};

use crate::{
    frames::hex,
    generate::{Chance, Mix, setting},
    ways::{Office, Setting, Variant, say},
};

/// What the reference thinks of a frame, in the words of the contract.
#[derive(Debug, PartialEq, Eq)]
struct Opinion {
    verdict: &'static str,
    reason: &'static str,
    customer: Option<String>,
    relay: Option<String>,
}

impl Opinion {
    fn new(verdict: &'static str, reason: &'static str) -> Self {
        Self { verdict, reason, customer: None, relay: None }
    }
}

// What a frame is.

/// TCP, or what may be TCP.
#[derive(Clone, Copy, Debug)]
struct Segment {
    from: IpAddr,
    to: IpAddr,
    /// None: they cannot be read.
    ports: Option<(u16, u16)>,
    /// The two addresses of the outer header where this came through a softwire.
    outer: Option<(IpAddr, IpAddr)>,
}

/// The bytes of a packet that the frame has, and how many it says it has: the one is less where the frame is cut,
/// the other where it is padded.
#[derive(Clone, Copy, Debug)]
struct Rest<'a> {
    there: &'a [u8],
    declared: usize,
}

impl<'a> Rest<'a> {
    /// Behind a header of `length` bytes.
    fn behind(self, length: usize) -> Rest<'a> {
        Rest {
            there: self.there.get(length..).unwrap_or_default(),
            declared: self.declared.saturating_sub(length),
        }
    }

    /// No longer than `length`.
    fn within(self, length: usize) -> Rest<'a> {
        let declared = self.declared.min(length);
        Rest { there: &self.there[..self.there.len().min(declared)], declared }
    }

    /// The first `length` bytes, with zeros where the frame ends earlier: etherparse takes whole headers only.
    fn stretched(self, length: usize) -> Vec<u8> {
        let mut bytes = self.there[..self.there.len().min(length)].to_vec();
        bytes.resize(length, 0);
        bytes
    }
}

/// The EtherType 0x9100.
const OLD_QINQ: EtherType = EtherType::VLAN_DOUBLE_TAGGED_FRAME;
const PPPOE_SESSION: EtherType = EtherType(0x8864);
const MPLS: [EtherType; 2] = [EtherType(0x8847), EtherType(0x8848)];

/// Which IP starts where behind the link layer; none where it is not IP or not looked through.
fn network(frame: &[u8]) -> Option<(u8, &[u8])> {
    let ethernet = Ethernet2HeaderSlice::from_slice(frame).ok()?;
    let mut kind = ethernet.ether_type();
    let mut rest = &frame[14..];
    let mut tags = 0;
    while [EtherType::VLAN_TAGGED_FRAME, EtherType::PROVIDER_BRIDGING, OLD_QINQ].contains(&kind) {
        let tag = SingleVlanHeaderSlice::from_slice(rest).ok()?;
        // A priority tag is no VLAN.
        tags += usize::from(tag.vlan_identifier().value() != 0);
        if tags > 5 {
            return None;
        }
        kind = tag.ether_type();
        rest = &rest[4..];
    }
    if kind.0 <= 1500 {
        kind = EtherType(u16::from_be_bytes(*rest.strip_prefix(&[0xaa, 0xaa, 3, 0, 0, 0])?.first_chunk()?));
        rest = &rest[8..];
    }
    if kind == PPPOE_SESSION {
        rest = rest.get(6..)?;
        // Bytes of the protocol field are odd at the end, and nowhere else (RFC 1661 §2).
        kind = match rest {
            [0x21, ..] | [0, 0x21, ..] => EtherType::IPV4,
            [0x57, ..] | [0, 0x57, ..] => EtherType::IPV6,
            [2, 0x81, ..] => MPLS[0],
            _ => return None,
        };
        rest = &rest[if rest[0] & 1 == 1 { 1 } else { 2 }..];
    }
    if MPLS.contains(&kind) {
        let bottom = rest.chunks_exact(4).take(8).position(|label| label[2] & 1 == 1)?;
        rest = &rest[4 * (bottom + 1)..];
        kind = match rest.first()? >> 4 {
            4 => EtherType::IPV4,
            6 => EtherType::IPV6,
            _ => return None,
        };
    }
    match kind {
        EtherType::IPV4 => Some((4, rest)),
        EtherType::IPV6 => Some((6, rest)),
        _ => None,
    }
}

/// A protocol and what it is in.
struct Carried<'a> {
    from: IpAddr,
    to: IpAddr,
    what: What<'a>,
}

enum What<'a> {
    /// Looked through up to here.
    Protocol(IpNumber, Rest<'a>),
    /// What may be TCP without ports that can be read.
    Unreadable,
    /// Not for anyone to judge.
    Nothing,
}

fn ipv4(packet: Rest<'_>) -> Option<Carried<'_>> {
    let whole;
    let (header, length) = match Ipv4HeaderSlice::from_slice(packet.there) {
        Ok(header) => {
            let length = header.slice().len();
            (header, length)
        }
        // etherparse wants all options in the slice; here the fixed header is enough to know whose packet it is.
        Err(err::ipv4::HeaderSliceError::Len(_)) if packet.there.len() >= 20 => {
            let length = usize::from(packet.there[0] & 15) * 4;
            whole = packet.stretched(length);
            (Ipv4HeaderSlice::from_slice(&whole).ok()?, length)
        }
        Err(_) => return None,
    };
    let (from, to) = (header.source_addr().into(), header.destination_addr().into());
    let offset = header.fragments_offset().value();
    if offset != 0 {
        let tcp_header_split = offset == 1 && header.protocol() == IpNumber::TCP;
        let what = if tcp_header_split { What::Unreadable } else { What::Nothing };
        return Some(Carried { from, to, what });
    }
    let packet = match header.total_len() {
        0 => packet,
        total => packet.within(usize::from(total)),
    };
    let what = walk(4, header.protocol(), packet.behind(length));
    Some(Carried { from, to, what })
}

fn ipv6(packet: Rest<'_>) -> Option<Carried<'_>> {
    let header = Ipv6HeaderSlice::from_slice(packet.there).ok()?;
    let rest = packet.behind(40);
    let rest = match header.payload_length() {
        0 => rest,
        length => rest.within(usize::from(length)),
    };
    let what = walk(6, header.next_header(), rest);
    Some(Carried { from: header.source_addr().into(), to: header.destination_addr().into(), what })
}

/// Twelve extension headers are looked through; the contract asks for ten.
const HEADERS: usize = 12;

fn walk(version: u8, protocol: IpNumber, rest: Rest<'_>) -> What<'_> {
    let (mut protocol, mut rest) = (protocol, rest);
    for _ in 0..HEADERS {
        let follows = protocol == IpNumber::AUTHENTICATION_HEADER
            || version == 6
                && [
                    IpNumber::IPV6_HEADER_HOP_BY_HOP,
                    IpNumber::IPV6_ROUTE_HEADER,
                    IpNumber::IPV6_FRAGMENTATION_HEADER,
                    IpNumber::IPV6_DESTINATION_OPTIONS,
                    IpNumber::MOBILITY_HEADER,
                ]
                .contains(&protocol);
        if !follows {
            return What::Protocol(protocol, rest);
        }
        // A header of which so little is there leaves open what follows it. What is there of a longer one says
        // what follows: no TCP is hidden behind a cut header that names UDP.
        if rest.declared < 8 || rest.there.len() < 4 {
            return What::Unreadable;
        }
        let length;
        (protocol, length) = match protocol {
            IpNumber::IPV6_FRAGMENTATION_HEADER => {
                let bytes = rest.stretched(8);
                let header =
                    Ipv6FragmentHeaderSlice::from_slice(&bytes).expect("eight bytes are a fragment header");
                if header.fragment_offset().value() != 0 {
                    return What::Nothing;
                }
                (header.next_header(), 8)
            }
            // etherparse refuses AH of length 0, eight bytes, which lacks the sequence number. Passing over it
            // hides nothing, and a decision on what follows is the stricter one: the case
            // `authentication_header_of_eight_bytes_hides_nothing` pins it.
            IpNumber::AUTHENTICATION_HEADER if rest.there[1] == 0 => (IpNumber(rest.there[0]), 8),
            IpNumber::AUTHENTICATION_HEADER => {
                let bytes = rest.stretched((usize::from(rest.there[1]) + 2) * 4);
                let header = IpAuthHeaderSlice::from_slice(&bytes).expect("a whole AH, of length 1 or more");
                (header.next_header(), header.slice().len())
            }
            _ => {
                let bytes = rest.stretched((usize::from(rest.there[1]) + 1) * 8);
                let header = Ipv6RawExtHeaderSlice::from_slice(&bytes).expect("a whole extension header");
                (header.next_header(), header.slice().len())
            }
        };
        rest = rest.behind(length);
    }
    match protocol {
        IpNumber::AUTHENTICATION_HEADER => What::Unreadable,
        IpNumber::IPV6_HEADER_HOP_BY_HOP
        | IpNumber::IPV6_ROUTE_HEADER
        | IpNumber::IPV6_FRAGMENTATION_HEADER
        | IpNumber::IPV6_DESTINATION_OPTIONS
        | IpNumber::MOBILITY_HEADER
            if version == 6 =>
        {
            What::Unreadable
        }
        _ => What::Protocol(protocol, rest),
    }
}

/// What there is to judge in a frame.
enum Sight {
    Segment(Segment),
    Nothing,
    /// The contract does not say who the customer is.
    Open,
}

fn look(frame: &[u8], softwire: Option<IdentifyBy>) -> Sight {
    let Some((version, bytes)) = network(frame) else { return Sight::Nothing };
    let packet = Rest { there: bytes, declared: usize::MAX };
    let Some(mut carried) = (if version == 4 { ipv4(packet) } else { ipv6(packet) }) else {
        return Sight::Nothing;
    };
    let mut outer = None;
    if let What::Protocol(IpNumber::IPV4, inner) = carried.what
        && version == 6
        && softwire.is_some()
    {
        let addresses = (carried.from, carried.to);
        // RFC 7112: the whole chain belongs into the first fragment, and the inner header is part of it.
        if inner.declared < 20 {
            if softwire == Some(IdentifyBy::Inner) {
                return Sight::Open;
            }
            carried.what = What::Unreadable;
        } else {
            let Some(inner) = ipv4(inner) else { return Sight::Nothing };
            carried = inner;
        }
        outer = Some(addresses);
    }
    let ports = match carried.what {
        What::Nothing => return Sight::Nothing,
        What::Unreadable => None,
        What::Protocol(IpNumber::TCP, segment) => match segment.there {
            [a, b, c, d, ..] => Some((u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]))),
            _ => None,
        },
        What::Protocol(..) => return Sight::Nothing,
    };
    Sight::Segment(Segment { from: carried.from, to: carried.to, ports, outer })
}

// Whose it is, and what is done with it.

fn longest<'p>(prefixes: impl IntoIterator<Item = &'p IpNetwork>, address: IpAddr) -> Option<u8> {
    prefixes.into_iter().filter(|prefix| prefix.contains(address)).map(IpNetwork::prefix).max()
}

struct Standing<'p> {
    group: Option<&'p Group>,
    exempt: bool,
    /// Whether the quarantine leaves the relays.
    quarantine: Option<bool>,
}

fn standing(policy: &Policy, address: IpAddr) -> Standing<'_> {
    let group = policy
        .groups
        .iter()
        .filter_map(|group| Some((longest(&group.prefixes, address)?, group)))
        .max_by_key(|(length, _)| *length)
        .map(|(_, group)| group);
    let exempt = policy.exemptions.iter().any(|entry| longest(&entry.prefixes, address).is_some());
    let quarantine = policy
        .quarantine
        .iter()
        .filter_map(|entry| Some((longest(&entry.prefixes, address)?, entry.relays)))
        .max_by_key(|(length, _)| *length)
        .map(|(_, relays)| relays);
    Standing { group, exempt, quarantine }
}

/// The first relay with this address that a group may use; any relay for who is in no group.
fn relay(policy: &Policy, group: Option<&Group>, address: IpAddr) -> Option<String> {
    let mut relays = policy.relays.iter().enumerate();
    let found = relays.find(|(position, relay)| {
        group.is_none_or(|group| group.relays.contains(position))
            && longest(&relay.prefixes, address).is_some()
    });
    found.map(|(_, relay)| relay.name.clone())
}

fn in_scope(group: &Group, address: IpAddr) -> bool {
    group.destinations.is_empty() || longest(&group.destinations, address).is_some()
}

/// The contract's tables.
fn decide(policy: &Policy, role: Role, segment: Segment) -> Opinion {
    let customers_first = role.0 & 1 != 0;
    let upstream_too = role.0 & 2 != 0;
    let by_outer = policy.softwire != Some(IdentifyBy::Inner);
    let outer = segment.outer.filter(|_| by_outer);
    match segment.ports {
        None if customers_first => {}
        Some((_, 25)) if customers_first => {}
        Some((25, _)) if upstream_too => {
            let customer = outer.map_or(segment.to, |(_, to)| to);
            return return_path(policy, segment.from, customer);
        }
        _ => return Opinion::new("pass", "other"),
    }

    let readable = segment.ports.is_some();
    let customer = outer.map_or(segment.from, |(from, _)| from);
    let server = segment.to;
    let standing = standing(policy, customer);
    let named = |verdict, reason, relay: Option<String>| Opinion {
        verdict,
        reason,
        customer: standing.group.map(|group| group.name.clone()),
        relay,
    };
    // Row 2 asks for the destination alone: it holds with ports and without.
    let some_relay = relay(policy, None, server).is_some();
    if let Some(relays_left) = standing.quarantine
        && !(relays_left && some_relay)
    {
        return named("drop", "quarantined", None);
    }
    if readable {
        let passing = relay(policy, standing.group, server);
        let passing = passing.or_else(|| if upstream_too { relay(policy, None, customer) } else { None });
        if passing.is_some() {
            return named("pass", "relay", passing);
        }
    }
    if standing.exempt {
        return named("pass", "exempt", None);
    }
    let Some(group) = standing.group else {
        return named(if policy.block_unknown { "drop" } else { "pass" }, "unknown-source", None);
    };
    match (group.mode, readable) {
        (Mode::Off, _) => named("pass", "exempt", None),
        (_, true) if !in_scope(group, server) => named("pass", "out-of-scope", None),
        (Mode::Enforce, true) => named("drop", "blocked", None),
        (Mode::Enforce, false) => named("drop", "malformed", None),
        (Mode::Monitor, true) => named("pass", "would-block", None),
        (Mode::Monitor, false) => named("pass", "would-malformed", None),
    }
}

fn return_path(policy: &Policy, sender: IpAddr, customer: IpAddr) -> Opinion {
    let standing = standing(policy, customer);
    let named = |verdict, reason, relay: Option<String>| Opinion {
        verdict,
        reason,
        customer: standing.group.map(|group| group.name.clone()),
        relay,
    };
    let free = standing.quarantine.is_none();
    if free && standing.group.is_none() {
        return Opinion::new("pass", "other");
    }
    if free && (standing.exempt || standing.group.is_some_and(|group| group.mode == Mode::Off)) {
        return named("pass", "exempt", None);
    }
    let passing = relay(policy, standing.group, sender);
    if passing.is_some() {
        return named("pass", "relay", passing);
    }
    let Some(group) = standing.group else { return named("drop", "return-path", None) };
    if !in_scope(group, sender) {
        return named("pass", "out-of-scope", None);
    }
    match (group.return_path, group.mode) {
        (Mode::Off, _) => Opinion::new("pass", "other"),
        (Mode::Enforce, Mode::Enforce) => named("drop", "return-path", None),
        _ => named("pass", "would-return-path", None),
    }
}

/// The reference's opinion on a frame; none where the contract leaves it open.
fn opinion(policy: &Policy, setting: Setting, frame: &[u8]) -> Option<Opinion> {
    match look(frame, policy.softwire) {
        Sight::Segment(segment) => Some(decide(policy, setting.role, segment)),
        Sight::Nothing => Some(Opinion::new("pass", "other")),
        Sight::Open => None,
    }
}

/// The core's, in the same words.
fn core_opinion(office: &Office, setting: Setting, frame: &[u8]) -> Opinion {
    let seen = office.judge(setting, Link::Ethernet, frame);
    let group =
        office.policy.groups.iter().find(|group| office.group(Some(&group.name)) == seen.decision.group);
    let relay = (seen.decision.relay() as usize).checked_sub(1);
    Opinion {
        verdict: seen.decision.verdict.name(),
        reason: seen.decision.reason.name(),
        customer: group.map(|group| group.name.clone()),
        relay: relay.map(|position| office.policy.relays[position].name.clone()),
    }
}

#[test]
fn reference_agrees_with_the_core_on_generated_frames() {
    let frames = setting("OP25B_FRAMES", 100_000);
    let seed = setting("OP25B_SEED", 0x0925_2008);
    say(&format!("reference: OP25B_FRAMES={frames} OP25B_SEED={seed}"));
    let mut chance = Chance::new(seed ^ 0x5eed);
    let offices = Variant::ALL.map(|variant| (variant, Office::open(variant)));
    let settings = Setting::all();
    let (mut judged, mut open) = (0_u64, 0_u64);
    let mut differences: BTreeMap<String, (u64, String)> = BTreeMap::new();
    for number in 0..frames {
        let setting = chance.pick(&settings);
        let office = office(&offices, setting.variant);
        let frame = generate::frame(&mut chance, setting.role, Mix { mail: 85, mutated: 50 });
        let Some(opinion) = opinion(&office.policy, setting, &frame) else {
            open += 1;
            continue;
        };
        let core = core_opinion(office, setting, &frame);
        judged += u64::from(opinion.reason != "other");
        if opinion != core {
            let outcome = office.judge(setting, Link::Ethernet, &frame).outcome;
            let kind = format!(
                "{}: reference {}, core {} after {}",
                setting.name(),
                opinion.reason,
                core.reason,
                outcome.name()
            );
            let example = || format!("frame {number}: reference {opinion:?}, core {core:?}; {}", hex(&frame));
            differences.entry(kind).or_insert_with(|| (0, example())).0 += 1;
        }
    }
    let number = differences.values().map(|(number, _)| number).sum::<u64>();
    say(&format!("reference: {frames} frames, {judged} judged, {open} left open, {number} differences"));
    assert!(judged * 3 >= frames, "only {judged} of {frames} frames are judged");
    let lines = differences.iter().map(|(kind, (number, example))| format!("{number} × {kind}; {example}"));
    let lines = lines.collect::<Vec<_>>();
    assert!(lines.is_empty(), "{number} differences of these kinds:\n{}", lines.join("\n"));
}

fn office(offices: &[(Variant, Office)], variant: Variant) -> &Office {
    let found = offices.iter().find(|(other, _)| *other == variant);
    &found.expect("every variant is open").1
}

#[test]
fn reference_agrees_with_the_table_of_cases() {
    let offices = Variant::ALL.map(|variant| (variant, Office::open(variant)));
    let mut wrong = Vec::new();
    let cases = cases::all();
    for case in &cases {
        let office = office(&offices, case.setting.variant);
        let expected = Opinion {
            verdict: case.expected.verdict.name(),
            reason: case.expected.reason.name(),
            customer: case.expected.group.map(str::to_owned),
            relay: case.expected.relay.map(str::to_owned),
        };
        if let Some(opinion) = opinion(&office.policy, case.setting, &case.frame)
            && opinion != expected
        {
            wrong.push(format!(
                "{} ({}): table {expected:?}, reference {opinion:?}",
                case.name,
                case.setting.name()
            ));
        }
    }
    say(&format!("reference: {}/{} cases of the table", cases.len() - wrong.len(), cases.len()));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
