//! The table of named frames: each case is a sentence, a frame, a setting, and what the contract says of it.
#![allow(dead_code, reason = "each test binary reads its part of the table")]

use op25b_ebpf::{
    abi::Role,
    address::Family,
    found::Outcome,
    verdict::{Reason, Verdict},
};

use crate::{
    frames::{
        DONT_FRAGMENT, Ethernet, Extension, Ipv4, Ipv6, Layer, MORE_FRAGMENTS, Mpls, Opaque, Piece, Pppoe,
        Snap, Tcp, Vlan, extension, flag, icmp_quoting, icmpv6_quoting, udp,
    },
    ways::{Setting, Variant},
};

/// One row of the table.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// A sentence.
    pub(crate) name: String,
    pub(crate) setting: Setting,
    pub(crate) frame: Vec<u8>,
    pub(crate) expected: Expected,
}

impl Case {
    /// The frame as an interface without link header has it; none where something lies between Ethernet and IP, or
    /// where the type contradicts the version, which then decides alone.
    pub(crate) fn bare(&self) -> Option<&[u8]> {
        let ip = self.frame.get(14..)?;
        let version = ip.first()? >> 4;
        match (self.frame[12], self.frame[13], version) {
            (0x08, 0x00, 4) | (0x86, 0xdd, 6) => Some(ip),
            _ => None,
        }
    }
}

/// What the contract says of a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    pub(crate) verdict: Verdict,
    pub(crate) reason: Reason,
    pub(crate) group: Option<&'static str>,
    pub(crate) relay: Option<&'static str>,
    /// How the walk ends; none where the contract leaves that open.
    pub(crate) outcome: Option<Outcome>,
    /// Of the customer's address, where the frame is counted.
    pub(crate) family: Family,
}

impl Expected {
    const fn new(verdict: Verdict, reason: Reason, group: Option<&'static str>, outcome: Outcome) -> Self {
        Self { verdict, reason, group, relay: None, outcome: Some(outcome), family: Family::Ipv4 }
    }

    /// Counted as IPv6.
    const fn v6(mut self) -> Self {
        self.family = Family::Ipv6;
        self
    }

    /// The walk ends otherwise than usual for the reason.
    const fn after(mut self, outcome: Outcome) -> Self {
        self.outcome = Some(outcome);
        self
    }

    /// However the walk ends.
    const fn any_outcome(mut self) -> Self {
        self.outcome = None;
        self
    }
}

const fn other(outcome: Outcome) -> Expected {
    Expected::new(Verdict::Pass, Reason::Other, None, outcome)
}

const fn blocked(group: &'static str) -> Expected {
    Expected::new(Verdict::Drop, Reason::Blocked, Some(group), Outcome::ToPort25)
}

const fn would_block(group: &'static str) -> Expected {
    Expected::new(Verdict::Pass, Reason::WouldBlock, Some(group), Outcome::ToPort25)
}

const fn malformed(group: &'static str, outcome: Outcome) -> Expected {
    Expected::new(Verdict::Drop, Reason::Malformed, Some(group), outcome)
}

const fn would_malformed(group: &'static str, outcome: Outcome) -> Expected {
    Expected::new(Verdict::Pass, Reason::WouldMalformed, Some(group), outcome)
}

const fn relayed(group: Option<&'static str>, relay: &'static str) -> Expected {
    let expected = Expected::new(Verdict::Pass, Reason::Relay, group, Outcome::ToPort25);
    Expected { relay: Some(relay), ..expected }
}

const fn exempt(group: Option<&'static str>) -> Expected {
    Expected::new(Verdict::Pass, Reason::Exempt, group, Outcome::ToPort25)
}

const fn quarantined(group: Option<&'static str>) -> Expected {
    Expected::new(Verdict::Drop, Reason::Quarantined, group, Outcome::ToPort25)
}

const fn unknown(verdict: Verdict) -> Expected {
    Expected::new(verdict, Reason::UnknownSource, None, Outcome::ToPort25)
}

const fn out_of_scope(group: &'static str) -> Expected {
    Expected::new(Verdict::Pass, Reason::OutOfScope, Some(group), Outcome::ToPort25)
}

const fn return_path(group: Option<&'static str>) -> Expected {
    Expected::new(Verdict::Drop, Reason::ReturnPath, group, Outcome::FromPort25)
}

const fn would_return_path(group: &'static str) -> Expected {
    Expected::new(Verdict::Pass, Reason::WouldReturnPath, Some(group), Outcome::FromPort25)
}

const CUSTOMER: Setting = Setting { variant: Variant::Pass, role: Role::CUSTOMER };
const UPSTREAM: Setting = Setting { variant: Variant::Pass, role: Role::UPSTREAM };
const BOTH: Setting = Setting { variant: Variant::Pass, role: Role::BOTH };
const CUSTOMER_BLOCK: Setting = Setting { variant: Variant::Block, role: Role::CUSTOMER };
const UPSTREAM_BLOCK: Setting = Setting { variant: Variant::Block, role: Role::UPSTREAM };
const CUSTOMER_OUTER: Setting = Setting { variant: Variant::Outer, role: Role::CUSTOMER };
const CUSTOMER_INNER: Setting = Setting { variant: Variant::Inner, role: Role::CUSTOMER };
const UPSTREAM_OUTER: Setting = Setting { variant: Variant::Outer, role: Role::UPSTREAM };
const UPSTREAM_INNER: Setting = Setting { variant: Variant::Inner, role: Role::UPSTREAM };
const BOTH_OUTER: Setting = Setting { variant: Variant::Outer, role: Role::BOTH };

/// A customer of group `residential`, which enforces.
const RESIDENTIAL: &str = "203.0.113.5";
const RESIDENTIAL6: &str = "2001:db8:1000:5::5";
/// A customer of group `watched`, which monitors.
const WATCHED: &str = "198.51.100.5";
const WATCHED6: &str = "2001:db8:3000:5::5";
/// Of `strict`, which may reach one relay only.
const STRICT: &str = "203.0.113.129";
const STRICT6: &str = "2001:db8:2000:5::5";
/// Of `sealed`, which may reach none.
const SEALED: &str = "203.0.113.193";
/// Of `open`, which is off.
const OPEN: &str = "198.51.100.65";
/// Of `phased`, which is blocked towards some destinations only.
const PHASED: &str = "198.51.100.129";
const PHASED6: &str = "2001:db8:4000:5::5";
/// In no group.
const NOBODY: &str = "192.0.2.99";
const NOBODY6: &str = "2001:db8:f000::99";
/// A mail server somewhere.
const OUTSIDE: &str = "192.0.2.10";
const OUTSIDE6: &str = "2001:db8:e000::10";
/// One inside the destinations of `phased`.
const MOBILE: &str = "192.0.2.129";
const MOBILE6: &str = "2001:db8:d000::129";
const POST: &str = "192.0.2.25";
const POST6: &str = "2001:db8:25::25";
const VPOST: &str = "192.0.2.26";
const POOL: &str = "192.0.2.79";

/// From a `residential` customer to the outside.
fn v4() -> Ipv4 {
    Ipv4::new(RESIDENTIAL, OUTSIDE)
}

fn v6() -> Ipv6 {
    Ipv6::new(RESIDENTIAL6, OUTSIDE6)
}

/// A SYN to port 25 between two addresses of either family.
fn mail(source: &str, destination: &str) -> Vec<u8> {
    between(Tcp::mail(), source, destination)
}

/// A SYN-ACK from port 25.
fn answer(source: &str, destination: &str) -> Vec<u8> {
    between(Tcp::answer(), source, destination)
}

fn between(tcp: Tcp, source: &str, destination: &str) -> Vec<u8> {
    if source.contains(':') {
        tcp.within(Ipv6::new(source, destination)).frame()
    } else {
        tcp.within(Ipv4::new(source, destination)).frame()
    }
}

/// `count` extension headers of one kind in front of a piece.
fn chain(piece: impl Into<Piece>, kind: u8, count: usize) -> Piece {
    (0..count).fold(piece.into(), |piece, _| piece.within(Extension::new(kind)))
}

/// `count` tags.
fn tags(piece: Piece, kind: u16, count: usize) -> Piece {
    (0..count).fold(piece, |piece, _| piece.within(Vlan(kind)))
}

/// The table.
pub(crate) fn all() -> Vec<Case> {
    let mut table = Table(Vec::new());
    segments(&mut table);
    customers(&mut table);
    ipv4(&mut table);
    ipv4_fragments(&mut table);
    ipv6(&mut table);
    extensions(&mut table);
    ipv6_fragments(&mut table);
    links(&mut table);
    tunnels(&mut table);
    softwires(&mut table);
    upstream(&mut table);
    both(&mut table);
    sizes(&mut table);
    table.0
}

struct Table(Vec<Case>);

impl Table {
    fn add(&mut self, name: &str, setting: Setting, frame: Vec<u8>, expected: Expected) {
        self.0.push(Case { name: name.to_owned(), setting, frame, expected });
    }

    /// On a customer's interface.
    fn customer(&mut self, name: &str, frame: Vec<u8>, expected: Expected) {
        self.add(name, CUSTOMER, frame, expected);
    }

    /// On an upstream interface.
    fn upstream(&mut self, name: &str, frame: Vec<u8>, expected: Expected) {
        self.add(name, UPSTREAM, frame, expected);
    }

    /// On an interface with both roles.
    fn both(&mut self, name: &str, frame: Vec<u8>, expected: Expected) {
        self.add(name, BOTH, frame, expected);
    }
}

fn segments(table: &mut Table) {
    for (name, flags) in [
        ("syn_to_port_25_is_blocked", flag::SYN),
        ("ack_to_port_25_is_blocked", flag::ACK),
        ("fin_to_port_25_is_blocked", flag::FIN | flag::ACK),
        ("rst_to_port_25_is_blocked", flag::RST),
        ("syn_ack_to_port_25_is_blocked", flag::SYN | flag::ACK),
        ("ecn_syn_to_port_25_is_blocked", flag::SYN | flag::ECE | flag::CWR),
        ("segment_without_flags_to_port_25_is_blocked", 0),
        ("segment_with_all_flags_to_port_25_is_blocked", 255),
    ] {
        let tcp = Tcp::mail().flags(flags);
        table.customer(name, tcp.clone().within(v4()).frame(), blocked("residential"));
        table.customer(&format!("ipv6_{name}"), tcp.within(v6()).frame(), blocked("residential").v6());
    }
    let data = Tcp::mail().flags(flag::PSH | flag::ACK).payload(b"MAIL FROM:<a@example.jp>\r\n");
    table.customer("data_to_port_25_is_blocked", data.clone().within(v4()).frame(), blocked("residential"));
    table.customer("ipv6_data_to_port_25_is_blocked", data.within(v6()).frame(), blocked("residential").v6());
    let with_options = Tcp::mail().options(&[2, 4, 5, 0xb4, 4, 2]);
    table.customer("tcp_options_change_nothing", with_options.within(v4()).frame(), blocked("residential"));
    table.customer(
        "wrong_tcp_checksum_changes_nothing",
        Tcp::mail().checksum(0xbad0).within(v4()).frame(),
        blocked("residential"),
    );
    table.customer(
        "wrong_ip_checksum_changes_nothing",
        Tcp::mail().within(v4().checksum(0xbad0)).frame(),
        blocked("residential"),
    );
    for port in [0, 24, 26, 80, 465, 587, 2525, 0x1900, 25 + 256, 65_535] {
        table.customer(
            &format!("tcp_to_port_{port}_is_not_judged"),
            Tcp::new(40_000, port).within(v4()).frame(),
            other(Outcome::OtherPort),
        );
    }
    for port in [465, 587, 2525] {
        table.customer(
            &format!("ipv6_tcp_to_port_{port}_is_not_judged"),
            Tcp::new(40_000, port).within(v6()).frame(),
            other(Outcome::OtherPort),
        );
    }
    table.customer(
        "submission_of_a_quarantined_customer_is_not_judged",
        between(Tcp::new(40_000, 587), "203.0.113.20", OUTSIDE),
        other(Outcome::OtherPort),
    );
    table.customer(
        "tcp_from_port_25_is_not_judged_on_a_customer_interface",
        Tcp::answer().within(v4()).frame(),
        other(Outcome::OtherPort),
    );
    table.customer(
        "tcp_from_port_25_to_port_25_is_blocked",
        Tcp::new(25, 25).within(v4()).frame(),
        blocked("residential"),
    );
    table.customer("udp_to_port_25_is_not_judged", udp(40_000, 25, b"x").within(v4()).frame(), {
        other(Outcome::OtherProtocol)
    });
    table.customer("ipv6_udp_to_port_25_is_not_judged", udp(40_000, 25, b"x").within(v6()).frame(), {
        other(Outcome::OtherProtocol)
    });
    table.customer(
        "icmp_that_quotes_port_25_is_not_judged",
        icmp_quoting(Tcp::answer().within(Ipv4::new(OUTSIDE, RESIDENTIAL))).within(v4()).frame(),
        other(Outcome::OtherProtocol),
    );
    table.customer(
        "icmpv6_that_quotes_port_25_is_not_judged",
        icmpv6_quoting(Tcp::mail().within(v6())).within(v6()).frame(),
        other(Outcome::OtherProtocol),
    );
    let ports = Piece::from(Tcp::mail()).bytes();
    for (name, protocol) in [("dccp", 33), ("sctp", 132), ("udp_lite", 136), ("reserved", 255), ("igmp", 2)] {
        table.customer(
            &format!("{name}_to_port_25_is_not_judged"),
            Piece::raw(protocol, &ports).within(v4()).frame(),
            other(Outcome::OtherProtocol),
        );
        table.customer(
            &format!("ipv6_{name}_to_port_25_is_not_judged"),
            Piece::raw(protocol, &ports).within(v6()).frame(),
            other(Outcome::OtherProtocol),
        );
    }
    table.customer(
        "arp_is_not_judged",
        Piece::raw(0, &[0; 46]).within(Ethernet::of(0x0806)).bytes(),
        other(Outcome::NotIp),
    );
}

fn customers(table: &mut Table) {
    table.customer("monitored_customer_would_be_blocked", mail(WATCHED, OUTSIDE), would_block("watched"));
    table.customer(
        "ipv6_monitored_customer_would_be_blocked",
        mail(WATCHED6, OUTSIDE6),
        would_block("watched").v6(),
    );
    table.customer("customer_of_a_group_that_is_off_is_exempt", mail(OPEN, OUTSIDE), exempt(Some("open")));
    table.customer(
        "ipv6_customer_of_a_group_that_is_off_is_exempt",
        mail("2001:db8:5000::1", OUTSIDE6),
        exempt(Some("open")).v6(),
    );

    // Row 3.
    table.customer("any_relay_passes_by_default", mail(RESIDENTIAL, POST), {
        relayed(Some("residential"), "post")
    });
    table.customer("second_relay_passes_by_default", mail(RESIDENTIAL, VPOST), {
        relayed(Some("residential"), "vpost")
    });
    table.customer("ipv6_relay_passes", mail(RESIDENTIAL6, POST6), {
        relayed(Some("residential"), "post").v6()
    });
    table.customer("last_address_of_a_relay_prefix_passes", mail(RESIDENTIAL, POOL), {
        relayed(Some("residential"), "pool")
    });
    table.customer("address_behind_a_relay_prefix_is_blocked", mail(RESIDENTIAL, "192.0.2.80"), {
        blocked("residential")
    });
    table.customer("address_before_a_relay_prefix_is_blocked", mail(RESIDENTIAL, "192.0.2.63"), {
        blocked("residential")
    });
    table.customer(
        "data_to_a_relay_passes",
        between(Tcp::mail().flags(flag::ACK | flag::PSH).payload(b"DATA\r\n"), RESIDENTIAL, POST),
        relayed(Some("residential"), "post"),
    );
    table.customer("relay_of_the_group_passes", mail(STRICT, POST), relayed(Some("strict"), "post"));
    table.customer("relay_of_other_groups_is_blocked", mail(STRICT, VPOST), blocked("strict"));
    table.customer("ipv6_relay_of_other_groups_is_blocked", mail(STRICT6, "2001:db8:25::26"), {
        blocked("strict").v6()
    });
    table.customer("group_without_relays_reaches_none", mail(SEALED, POST), blocked("sealed"));
    table.customer("monitored_customer_reaches_a_relay", mail(WATCHED, POST), {
        relayed(Some("watched"), "post")
    });
    table.customer("relay_is_named_even_where_the_group_is_off", mail(OPEN, POST), {
        relayed(Some("open"), "post")
    });
    table.customer("relay_is_named_even_for_an_exempt_source", mail("203.0.113.17", POST), {
        relayed(Some("residential"), "post")
    });
    table.customer("relay_passes_outside_the_destinations", mail(PHASED, POST), {
        relayed(Some("phased"), "post")
    });
    table.customer("relay_passes_from_a_source_in_no_group", mail(NOBODY, VPOST), relayed(None, "vpost"));
    table.add("relay_passes_from_an_unknown_source_that_is_blocked", CUSTOMER_BLOCK, mail(NOBODY, POST), {
        relayed(None, "post")
    });
    table.customer("relay_in_a_customer_prefix_is_a_relay", mail(RESIDENTIAL, "203.0.113.100"), {
        relayed(Some("residential"), "inhouse")
    });
    table.customer(
        "relay_in_a_customer_prefix_is_a_customer_where_it_sends",
        mail("203.0.113.100", OUTSIDE),
        blocked("residential"),
    );

    // Row 4.
    table.customer("exempt_source_passes", mail("203.0.113.17", OUTSIDE), exempt(Some("residential")));
    table.customer("first_exempt_address_passes", mail("203.0.113.16", OUTSIDE), exempt(Some("residential")));
    table.customer("last_exempt_address_passes", mail("203.0.113.31", OUTSIDE), exempt(Some("residential")));
    table.customer("address_before_an_exemption_is_blocked", mail("203.0.113.15", OUTSIDE), {
        blocked("residential")
    });
    table.customer("address_behind_an_exemption_is_blocked", mail("203.0.113.32", OUTSIDE), {
        blocked("residential")
    });
    table.customer("ipv6_exempt_source_passes", mail("2001:db8:1000:8f::1", OUTSIDE6), {
        exempt(Some("residential")).v6()
    });
    table.customer("ipv6_address_behind_an_exemption_is_blocked", mail("2001:db8:1000:90::1", OUTSIDE6), {
        blocked("residential").v6()
    });
    table.customer("exempt_source_in_no_group_is_exempt", mail("192.0.2.200", OUTSIDE), exempt(None));
    table.add(
        "exempt_source_in_no_group_is_exempt_where_unknown_is_blocked",
        CUSTOMER_BLOCK,
        mail("192.0.2.200", OUTSIDE),
        exempt(None),
    );
    table.customer("exemption_comes_before_destinations", mail("198.51.100.140", OUTSIDE), {
        exempt(Some("phased"))
    });

    // Row 5.
    table.customer("unknown_source_passes_as_written", mail(NOBODY, OUTSIDE), unknown(Verdict::Pass));
    table.customer("ipv6_unknown_source_passes_as_written", mail(NOBODY6, OUTSIDE6), {
        unknown(Verdict::Pass).v6()
    });
    table.add("unknown_source_is_blocked_as_written", CUSTOMER_BLOCK, mail(NOBODY, OUTSIDE), {
        unknown(Verdict::Drop)
    });
    table.add("ipv6_unknown_source_is_blocked_as_written", CUSTOMER_BLOCK, mail(NOBODY6, OUTSIDE6), {
        unknown(Verdict::Drop).v6()
    });
    for (name, source) in [("zero", "0.0.0.0"), ("last", "255.255.255.255"), ("private", "192.0.0.2")] {
        table.customer(&format!("{name}_address_is_an_unknown_source"), mail(source, OUTSIDE), {
            unknown(Verdict::Pass)
        });
    }
    for (name, source) in [("zero", "::"), ("last", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")] {
        table.customer(&format!("ipv6_{name}_address_is_an_unknown_source"), mail(source, OUTSIDE6), {
            unknown(Verdict::Pass).v6()
        });
    }
    table.customer(
        "ipv4_mapped_ipv6_source_is_not_the_ipv4_customer",
        mail("::ffff:203.0.113.5", OUTSIDE6),
        unknown(Verdict::Pass).v6(),
    );
    table.customer(
        "ipv6_low_bits_of_an_ipv4_customer_are_not_that_customer",
        mail("::203.0.113.5", OUTSIDE6),
        unknown(Verdict::Pass).v6(),
    );

    // Row 6.
    table.customer("destination_in_the_phase_is_blocked", mail(PHASED, MOBILE), blocked("phased"));
    table.customer("destination_outside_the_phase_passes", mail(PHASED, OUTSIDE), out_of_scope("phased"));
    table.customer("ipv6_destination_in_the_phase_is_blocked", mail(PHASED6, MOBILE6), {
        blocked("phased").v6()
    });
    table.customer("ipv6_destination_outside_the_phase_passes", mail(PHASED6, OUTSIDE6), {
        out_of_scope("phased").v6()
    });
    table.customer("first_destination_of_the_phase_is_blocked", mail(PHASED, "192.0.2.128"), {
        blocked("phased")
    });
    table.customer("destination_before_the_phase_passes", mail(PHASED, "192.0.2.127"), {
        out_of_scope("phased")
    });
    table.customer("destinations_of_one_group_say_nothing_of_another", mail(RESIDENTIAL, OUTSIDE), {
        blocked("residential")
    });

    // Longest prefix among groups.
    table.customer("longer_group_prefix_decides", mail("203.0.113.65", OUTSIDE), would_block("nested"));
    table.customer("longest_group_prefix_decides", mail("203.0.113.73", OUTSIDE), blocked("strict"));
    table.customer("longer_group_prefix_decides_behind_the_longest", mail("203.0.113.76", OUTSIDE), {
        would_block("nested")
    });
    table.customer("shorter_group_prefix_decides_behind_the_longer", mail("203.0.113.80", OUTSIDE), {
        blocked("residential")
    });
    table.customer("ipv6_longer_group_prefix_decides", mail("2001:db8:1807:ffff::1", OUTSIDE6), {
        would_block("nested").v6()
    });
    table.customer("ipv6_longest_group_prefix_decides", mail("2001:db8:1808:ffff::1", OUTSIDE6), {
        blocked("strict").v6()
    });
    table.customer(
        "ipv6_shorter_group_prefix_decides_behind_the_longer",
        mail("2001:db8:1900::1", OUTSIDE6),
        blocked("residential").v6(),
    );

    // Row 2.
    table.customer("quarantine_beats_the_exemption_around_it", mail("203.0.113.20", OUTSIDE), {
        quarantined(Some("residential"))
    });
    table.customer("quarantine_beats_the_exemption_inside_it", mail("203.0.113.50", OUTSIDE), {
        quarantined(Some("residential"))
    });
    table.customer("quarantine_takes_the_relays_too", mail("203.0.113.20", POST), {
        quarantined(Some("residential"))
    });
    table.customer("quarantine_with_relays_leaves_the_relay", mail("203.0.113.40", POST), {
        relayed(Some("residential"), "post")
    });
    table.customer("quarantine_with_relays_leaves_nothing_else", mail("203.0.113.40", OUTSIDE), {
        quarantined(Some("residential"))
    });
    table.customer("quarantine_with_relays_beats_an_exemption", mail("203.0.113.24", OUTSIDE), {
        quarantined(Some("residential"))
    });
    table.customer("longer_quarantine_says_whether_relays_are_left", mail("203.0.113.52", POST), {
        relayed(Some("residential"), "post")
    });
    table.customer("shorter_quarantine_takes_the_relays_beside_it", mail("203.0.113.53", POST), {
        quarantined(Some("residential"))
    });
    table.customer("quarantine_with_relays_leaves_the_relay_of_the_group", mail("203.0.113.130", POST), {
        relayed(Some("strict"), "post")
    });
    table.customer(
        "quarantine_with_relays_and_a_relay_of_other_groups_is_blocked",
        mail("203.0.113.130", VPOST),
        blocked("strict"),
    );
    table.customer("quarantine_of_a_monitored_customer_drops", mail("198.51.100.3", OUTSIDE), {
        quarantined(Some("watched"))
    });
    table.customer("quarantine_in_a_group_that_is_off_drops", mail("198.51.100.70", OUTSIDE), {
        quarantined(Some("open"))
    });
    table.customer("quarantine_in_no_group_drops", mail("192.0.2.201", OUTSIDE), quarantined(None));
    table.customer("quarantine_with_relays_in_no_group_leaves_any_relay", mail("192.0.2.202", VPOST), {
        relayed(None, "vpost")
    });
    table.customer("ipv6_quarantine_drops", mail("2001:db8:1000:66::1", OUTSIDE6), {
        quarantined(Some("residential")).v6()
    });
    table.customer("ipv6_quarantine_with_relays_leaves_the_relay", mail("2001:db8:1000:67::1", POST6), {
        relayed(Some("residential"), "post").v6()
    });
}

/// A SYN to port 25 whose IPv4 packet ends before the ports.
fn unreadable(source: &str, destination: &str) -> Vec<u8> {
    Tcp::mail().within(Ipv4::new(source, destination)).cut_in_transport(2).frame()
}

fn ipv4(table: &mut Table) {
    for bytes in [4, 8, 20, 40] {
        table.customer(
            &format!("{bytes}_bytes_of_options_move_the_port"),
            Tcp::mail().within(v4().options(bytes)).frame(),
            blocked("residential"),
        );
    }
    // Options that read as ports at the fixed offset.
    table.customer(
        "options_that_read_as_port_25_are_not_ports",
        Tcp::new(40_000, 587).within(v4().option_bytes(&[0x9c, 0x40, 0, 25])).frame(),
        other(Outcome::OtherPort),
    );
    table.customer(
        "options_that_read_as_port_587_hide_nothing",
        Tcp::mail().within(v4().option_bytes(&[0x9c, 0x40, 2, 0x4b])).frame(),
        blocked("residential"),
    );
    table.customer(
        "udp_behind_options_is_not_judged",
        udp(40_000, 25, b"x").within(v4().options(8)).frame(),
        other(Outcome::OtherProtocol),
    );
    for words in 0..5 {
        table.customer(
            &format!("header_length_of_{words}_words_is_no_packet"),
            Tcp::mail().within(v4().words(words)).frame(),
            other(Outcome::BadHeader),
        );
    }
    for version in [0, 5, 6, 15] {
        table.customer(
            &format!("version_{version}_under_the_type_of_ipv4_is_no_packet"),
            Tcp::mail().within(v4().version(version)).frame(),
            other(Outcome::BadHeader),
        );
    }
    table.customer("total_length_zero_is_judged", Tcp::mail().within(v4().total_length(0)).frame(), {
        blocked("residential")
    });
    table.customer(
        "total_length_zero_with_options_is_judged",
        Tcp::mail().within(v4().total_length(0).options(12)).frame(),
        blocked("residential"),
    );
    table.customer(
        "total_length_zero_to_submission_is_not_judged",
        Tcp::new(40_000, 587).within(v4().total_length(0)).frame(),
        other(Outcome::OtherPort),
    );
    table.customer(
        "total_length_beyond_the_frame_is_judged",
        Tcp::mail().within(v4().total_length(1500)).frame(),
        blocked("residential"),
    );
    table.customer(
        "largest_total_length_is_judged",
        Tcp::mail().within(v4().total_length(65_535)).frame(),
        blocked("residential"),
    );
    // Bytes past the IP length are not TCP, whatever they read as.
    for length in [1, 10, 19, 20, 21, 22, 23] {
        table.customer(
            &format!("ports_beyond_a_total_length_of_{length}_are_padding"),
            Tcp::mail().within(v4().total_length(length)).frame(),
            malformed("residential", Outcome::CutTcp),
        );
    }
    table.customer(
        "submission_port_beyond_the_total_length_is_padding",
        Tcp::new(40_000, 587).within(v4().total_length(20)).frame(),
        malformed("residential", Outcome::CutTcp),
    );
    table.customer(
        "relay_does_not_count_where_the_ports_are_padding",
        Tcp::mail().within(Ipv4::new(RESIDENTIAL, POST).total_length(10)).frame(),
        malformed("residential", Outcome::CutTcp),
    );
    table.customer(
        "ports_that_end_with_the_packet_are_read",
        Tcp::mail().within(v4().total_length(24)).frame(),
        blocked("residential"),
    );
    table.customer(
        "submission_port_that_ends_with_the_packet_is_read",
        Tcp::new(40_000, 587).within(v4().total_length(24)).frame(),
        other(Outcome::OtherPort),
    );
    table.customer(
        "options_beyond_the_total_length_leave_no_ports",
        Tcp::mail().within(v4().options(40).total_length(40)).frame(),
        malformed("residential", Outcome::CutTcp),
    );
    table.customer(
        "ports_beyond_options_and_total_length_are_padding",
        Tcp::mail().within(v4().options(40).total_length(63)).frame(),
        malformed("residential", Outcome::CutTcp),
    );
    table.customer(
        "udp_shorter_than_its_header_is_not_judged",
        udp(40_000, 25, b"").within(v4().total_length(20)).frame(),
        other(Outcome::OtherProtocol),
    );
    table.customer("ethernet_padding_changes_nothing", Tcp::mail().within(v4()).padded_to(46).frame(), {
        blocked("residential")
    });

    for kept in 0..4 {
        table.customer(
            &format!("tcp_cut_after_{kept}_bytes_is_malformed"),
            Tcp::mail().within(v4()).cut_in_transport(kept).frame(),
            malformed("residential", Outcome::CutTcp),
        );
    }
    for kept in [4, 5, 8, 12, 13, 19] {
        table.customer(
            &format!("tcp_cut_after_{kept}_bytes_is_judged_by_its_ports"),
            Tcp::mail().within(v4()).cut_in_transport(kept).frame(),
            blocked("residential"),
        );
    }
    table.customer(
        "cut_options_leave_no_ports",
        Tcp::mail().within(v4().options(40)).cut_to(41).frame(),
        malformed("residential", Outcome::CutTcp),
    );
    table.customer(
        "options_that_the_frame_does_not_have_leave_no_ports",
        Tcp::mail().within(v4().words(15)).cut_to(40).frame(),
        malformed("residential", Outcome::CutTcp),
    );
    table.customer("cut_udp_is_not_judged", udp(40_000, 25, b"").within(v4()).cut_in_transport(1).frame(), {
        other(Outcome::OtherProtocol)
    });

    // Unreadable TCP skips rows 1, 3 and 6.
    let cut = Outcome::CutTcp;
    table.customer(
        "unreadable_tcp_of_a_monitored_customer_would_be_malformed",
        unreadable(WATCHED, OUTSIDE),
        would_malformed("watched", cut),
    );
    table.customer("unreadable_tcp_to_a_relay_is_malformed", unreadable(RESIDENTIAL, POST), {
        malformed("residential", cut)
    });
    table.customer("unreadable_tcp_outside_the_destinations_is_malformed", unreadable(PHASED, OUTSIDE), {
        malformed("phased", cut)
    });
    table.customer("unreadable_tcp_of_an_exempt_source_passes", unreadable("203.0.113.17", OUTSIDE), {
        exempt(Some("residential")).after(cut)
    });
    table.customer("unreadable_tcp_of_a_group_that_is_off_passes", unreadable(OPEN, OUTSIDE), {
        exempt(Some("open")).after(cut)
    });
    table.customer(
        "unreadable_tcp_of_a_quarantined_source_is_dropped",
        unreadable("203.0.113.20", OUTSIDE),
        quarantined(Some("residential")).after(cut),
    );
    table.customer(
        "unreadable_tcp_of_a_quarantined_source_in_no_group_is_dropped",
        unreadable("192.0.2.201", OUTSIDE),
        quarantined(None).after(cut),
    );
    table.customer("unreadable_tcp_of_an_unknown_source_passes_as_written", unreadable(NOBODY, OUTSIDE), {
        unknown(Verdict::Pass).after(cut)
    });
    table.add(
        "unreadable_tcp_of_an_unknown_source_is_blocked_as_written",
        CUSTOMER_BLOCK,
        unreadable(NOBODY, OUTSIDE),
        unknown(Verdict::Drop).after(cut),
    );
    table.add(
        "unreadable_tcp_of_an_unknown_source_to_a_relay_is_blocked_as_written",
        CUSTOMER_BLOCK,
        unreadable(NOBODY, POST),
        unknown(Verdict::Drop).after(cut),
    );
}

fn ipv4_fragments(table: &mut Table) {
    let segment = Piece::from(Tcp::mail().payload(&[0; 24])).bytes();
    let fragment =
        |field: u16, protocol: u8| Piece::raw(protocol, &segment).within(v4().fragment(field)).frame();
    table.customer("first_fragment_is_judged_by_its_ports", fragment(MORE_FRAGMENTS, 6), {
        blocked("residential")
    });
    table.customer("dont_fragment_changes_nothing", fragment(DONT_FRAGMENT, 6), blocked("residential"));
    table.customer("reserved_flag_changes_nothing", fragment(0x8000, 6), blocked("residential"));
    table.customer("all_flags_change_nothing", fragment(0xe000, 6), blocked("residential"));
    let tiny = |bytes: usize| {
        Piece::raw(6, &segment[..bytes]).within(v4().fragment(MORE_FRAGMENTS)).padded_to(46).frame()
    };
    table.customer("first_fragment_of_eight_bytes_is_judged_by_its_ports", tiny(8), blocked("residential"));
    table.customer("first_fragment_without_ports_is_malformed", tiny(0), {
        malformed("residential", Outcome::CutTcp)
    });
    table.customer("first_fragment_with_half_the_ports_is_malformed", tiny(3), {
        malformed("residential", Outcome::CutTcp)
    });
    table.customer(
        "first_fragment_to_submission_is_not_judged",
        Tcp::new(40_000, 587).within(v4().fragment(MORE_FRAGMENTS)).frame(),
        other(Outcome::OtherPort),
    );
    table.customer(
        "first_fragment_with_options_is_judged_by_its_ports",
        Tcp::mail().within(v4().options(24).fragment(MORE_FRAGMENTS)).frame(),
        blocked("residential"),
    );
    table.customer(
        "first_fragment_to_a_relay_passes",
        Tcp::mail().within(Ipv4::new(RESIDENTIAL, POST).fragment(MORE_FRAGMENTS)).frame(),
        relayed(Some("residential"), "post"),
    );
    for offset in [2_u16, 3, 5, 185, 256, 4096, 8191] {
        table.customer(
            &format!("later_fragment_at_{offset}_that_reads_as_port_25_passes"),
            fragment(offset | MORE_FRAGMENTS, 6),
            other(Outcome::LaterFragment),
        );
    }
    table.customer("last_fragment_that_reads_as_port_25_passes", fragment(7, 6), {
        other(Outcome::LaterFragment)
    });
    table.customer("tcp_fragment_at_offset_one_is_malformed", fragment(1, 6), {
        malformed("residential", Outcome::FragmentInTcpHeader)
    });
    table.customer("tcp_fragment_at_offset_one_with_all_flags_is_malformed", fragment(0xe001, 6), {
        malformed("residential", Outcome::FragmentInTcpHeader)
    });
    table.customer("udp_fragment_at_offset_one_passes", fragment(1, 17), other(Outcome::LaterFragment));
    table.customer(
        "tcp_fragment_at_offset_one_without_bytes_is_malformed",
        Piece::raw(6, &[]).within(v4().fragment(1)).frame(),
        malformed("residential", Outcome::FragmentInTcpHeader),
    );
    table.customer(
        "tcp_fragment_at_offset_one_behind_options_is_malformed",
        Piece::raw(6, &segment).within(v4().fragment(1).options(8)).frame(),
        malformed("residential", Outcome::FragmentInTcpHeader),
    );
    table.customer(
        "later_fragment_of_a_quarantined_source_passes",
        Piece::raw(6, &segment).within(Ipv4::new("203.0.113.20", OUTSIDE).fragment(9)).frame(),
        other(Outcome::LaterFragment),
    );
    let at_one = |source, destination| {
        Piece::raw(6, &segment).within(Ipv4::new(source, destination).fragment(1)).frame()
    };
    let inside = Outcome::FragmentInTcpHeader;
    table.customer("fragment_at_offset_one_to_a_relay_is_malformed", at_one(RESIDENTIAL, POST), {
        malformed("residential", inside)
    });
    table.customer(
        "fragment_at_offset_one_of_a_monitored_customer_would_be_malformed",
        at_one(WATCHED, OUTSIDE),
        would_malformed("watched", inside),
    );
    table.customer("fragment_at_offset_one_of_an_exempt_source_passes", at_one("203.0.113.17", OUTSIDE), {
        exempt(Some("residential")).after(inside)
    });
}

fn ipv6(table: &mut Table) {
    for version in [0, 4, 5, 15] {
        table.customer(
            &format!("version_{version}_under_the_type_of_ipv6_is_no_packet"),
            Tcp::mail().within(v6().version(version)).frame(),
            other(Outcome::BadHeader),
        );
    }
    table.customer("payload_length_zero_is_judged", Tcp::mail().within(v6().payload_length(0)).frame(), {
        blocked("residential").v6()
    });
    table.customer(
        "payload_length_zero_to_submission_is_not_judged",
        Tcp::new(40_000, 587).within(v6().payload_length(0)).frame(),
        other(Outcome::OtherPort),
    );
    // RFC 2675: the length is in a hop-by-hop option.
    let jumbo = {
        let mut header = Extension::new(extension::HOP_BY_HOP).wrap(Tcp::mail().into()).bytes();
        header[2..8].copy_from_slice(&[0xc2, 4, 0, 1, 0x11, 0x70]);
        Piece::raw(extension::HOP_BY_HOP, &header).within(v6().payload_length(0)).frame()
    };
    table.customer("jumbogram_is_judged", jumbo, blocked("residential").v6());
    table.customer(
        "payload_length_beyond_the_frame_is_judged",
        Tcp::mail().within(v6().payload_length(1400)).frame(),
        blocked("residential").v6(),
    );
    for length in 1..4 {
        table.customer(
            &format!("ports_beyond_a_payload_length_of_{length}_are_padding"),
            Tcp::mail().within(v6().payload_length(length)).frame(),
            malformed("residential", Outcome::CutTcp).v6(),
        );
    }
    table.customer(
        "ipv6_ports_that_end_with_the_packet_are_read",
        Tcp::mail().within(v6().payload_length(4)).frame(),
        blocked("residential").v6(),
    );
    for kept in 0..4 {
        table.customer(
            &format!("ipv6_tcp_cut_after_{kept}_bytes_is_malformed"),
            Tcp::mail().within(v6()).cut_in_transport(kept).frame(),
            malformed("residential", Outcome::CutTcp).v6(),
        );
    }
    table.customer(
        "ipv6_tcp_cut_after_its_ports_is_judged_by_them",
        Tcp::mail().within(v6()).cut_in_transport(4).frame(),
        blocked("residential").v6(),
    );
    table.customer(
        "ipv6_unreadable_tcp_to_a_relay_is_malformed",
        Tcp::mail().within(Ipv6::new(RESIDENTIAL6, POST6)).cut_in_transport(0).frame(),
        malformed("residential", Outcome::CutTcp).v6(),
    );
    table.customer(
        "ipv6_unreadable_tcp_of_a_monitored_customer_would_be_malformed",
        Tcp::mail().within(Ipv6::new(WATCHED6, OUTSIDE6)).cut_in_transport(0).frame(),
        would_malformed("watched", Outcome::CutTcp).v6(),
    );
}

fn extensions(table: &mut Table) {
    let names = [
        ("hop_by_hop", extension::HOP_BY_HOP),
        ("routing", extension::ROUTING),
        ("atomic_fragment", extension::FRAGMENT),
        ("authentication", extension::AUTHENTICATION),
        ("destination_options", extension::DESTINATION_OPTIONS),
        ("mobility", extension::MOBILITY),
    ];
    for (name, kind) in names {
        table.customer(
            &format!("{name}_header_hides_nothing"),
            chain(Tcp::mail(), kind, 1).within(v6()).frame(),
            blocked("residential").v6(),
        );
        table.customer(
            &format!("submission_behind_a_{name}_header_is_not_judged"),
            chain(Tcp::new(40_000, 587), kind, 1).within(v6()).frame(),
            other(Outcome::OtherPort),
        );
        table.customer(
            &format!("twelve_{name}_headers_hide_nothing"),
            chain(Tcp::mail(), kind, 12).within(v6()).frame(),
            blocked("residential").v6(),
        );
        table.customer(
            &format!("thirteen_{name}_headers_are_malformed"),
            chain(Tcp::mail(), kind, 13).within(v6()).frame(),
            malformed("residential", Outcome::LongChain).v6(),
        );
    }
    for count in [8, 9, 10, 11] {
        table.customer(
            &format!("{count}_destination_options_headers_hide_nothing"),
            chain(Tcp::mail(), extension::DESTINATION_OPTIONS, count).within(v6()).frame(),
            blocked("residential").v6(),
        );
    }
    let all = |piece: Piece| extension::ALL.into_iter().fold(piece, |piece, kind| chain(piece, kind, 1));
    table.customer(
        "every_extension_header_at_once_hides_nothing",
        all(Tcp::mail().into()).within(v6()).frame(),
        blocked("residential").v6(),
    );
    table.customer(
        "every_extension_header_twice_hides_nothing",
        all(all(Tcp::mail().into())).within(v6()).frame(),
        blocked("residential").v6(),
    );
    table.customer(
        "extension_headers_to_a_relay_change_nothing",
        all(Tcp::mail().into()).within(Ipv6::new(RESIDENTIAL6, POST6)).frame(),
        relayed(Some("residential"), "post").v6(),
    );
    table.customer(
        "chain_too_long_to_a_relay_is_malformed",
        chain(Tcp::mail(), extension::ROUTING, 13).within(Ipv6::new(RESIDENTIAL6, POST6)).frame(),
        malformed("residential", Outcome::LongChain).v6(),
    );
    table.customer(
        "chain_too_long_of_a_monitored_customer_would_be_malformed",
        chain(Tcp::mail(), extension::ROUTING, 13).within(Ipv6::new(WATCHED6, OUTSIDE6)).frame(),
        would_malformed("watched", Outcome::LongChain).v6(),
    );
    table.customer(
        "udp_behind_twelve_headers_is_not_judged",
        chain(udp(40_000, 25, b"x"), extension::DESTINATION_OPTIONS, 12).within(v6()).frame(),
        other(Outcome::OtherProtocol),
    );
    for (name, kind, bytes) in [
        ("destination_options_header_of_16_bytes", extension::DESTINATION_OPTIONS, 16),
        ("destination_options_header_of_264_bytes", extension::DESTINATION_OPTIONS, 264),
        ("destination_options_header_of_2048_bytes", extension::DESTINATION_OPTIONS, 2048),
        ("hop_by_hop_header_of_1024_bytes", extension::HOP_BY_HOP, 1024),
        ("routing_header_of_40_bytes", extension::ROUTING, 40),
        ("authentication_header_of_12_bytes", extension::AUTHENTICATION, 12),
        ("authentication_header_of_44_bytes", extension::AUTHENTICATION, 44),
        ("authentication_header_of_1028_bytes", extension::AUTHENTICATION, 1028),
    ] {
        table.customer(
            &format!("{name}_hides_nothing"),
            Piece::from(Tcp::mail()).within(Extension::new(kind).bytes(bytes)).within(v6()).frame(),
            blocked("residential").v6(),
        );
    }
    // RFC 4302 asks for twelve bytes at least; whoever takes less than that takes what follows.
    table.customer(
        "authentication_header_of_eight_bytes_hides_nothing",
        Piece::from(Tcp::mail())
            .within(Extension::new(extension::AUTHENTICATION).bytes(8))
            .within(v6())
            .frame(),
        blocked("residential").v6(),
    );
    // A fragment header's second byte is reserved, not a length.
    table.customer(
        "length_in_a_fragment_header_is_ignored",
        Piece::from(Tcp::mail()).within(Extension::fragment(0, false).length(255)).within(v6()).frame(),
        blocked("residential").v6(),
    );
    table.customer(
        "reserved_bits_of_a_fragment_header_are_ignored",
        {
            let header = Extension { fragment: 0b110, ..Extension::new(extension::FRAGMENT) };
            Piece::from(Tcp::mail()).within(header).within(v6()).frame()
        },
        blocked("residential").v6(),
    );
    table.customer(
        "header_that_claims_more_than_the_frame_is_malformed",
        {
            let header = Extension::new(extension::DESTINATION_OPTIONS).length(200);
            Piece::from(Tcp::mail()).within(header).within(v6()).frame()
        },
        malformed("residential", Outcome::CutChain).v6().any_outcome(),
    );
    table.customer(
        "chain_that_claims_more_than_the_frame_is_malformed",
        {
            let second = chain(Tcp::mail(), extension::ROUTING, 1);
            let header = Extension::new(extension::DESTINATION_OPTIONS).length(200);
            second.within(header).within(v6()).frame()
        },
        malformed("residential", Outcome::CutChain).v6(),
    );
    for kept in [0, 1, 3, 4, 7] {
        table.customer(
            &format!("extension_header_cut_after_{kept}_bytes_is_malformed"),
            chain(Tcp::mail(), extension::DESTINATION_OPTIONS, 1).within(v6()).cut_to(40 + kept).frame(),
            malformed("residential", Outcome::CutChain).v6().any_outcome(),
        );
    }
    table.customer(
        "second_extension_header_cut_is_malformed",
        chain(Tcp::mail(), extension::DESTINATION_OPTIONS, 2).within(v6()).cut_to(51).frame(),
        malformed("residential", Outcome::CutChain).v6(),
    );
    table.customer(
        "extension_header_beyond_the_payload_length_is_malformed",
        chain(Tcp::mail(), extension::DESTINATION_OPTIONS, 1).within(v6().payload_length(4)).frame(),
        malformed("residential", Outcome::CutChain).v6(),
    );
    table.customer(
        "ports_behind_an_extension_header_and_the_payload_length_are_padding",
        chain(Tcp::mail(), extension::DESTINATION_OPTIONS, 1).within(v6().payload_length(11)).frame(),
        malformed("residential", Outcome::CutTcp).v6(),
    );
    table.customer(
        "ports_behind_an_extension_header_that_end_with_the_packet_are_read",
        chain(Tcp::mail(), extension::DESTINATION_OPTIONS, 1).within(v6().payload_length(12)).frame(),
        blocked("residential").v6(),
    );
    for (name, protocol) in [("no_next_header", 59), ("hip", 139), ("shim6", 140), ("esp", 50)] {
        table.customer(
            &format!("{name}_is_not_looked_through"),
            Piece::from(Tcp::mail())
                .within(Opaque(protocol, vec![6, 0, 0, 0, 0, 0, 0, 0]))
                .within(v6())
                .frame(),
            other(Outcome::OtherProtocol),
        );
    }

    // AH is the one that IPv4 has.
    for count in [1, 2, 12] {
        table.customer(
            &format!("{count}_authentication_headers_in_ipv4_hide_nothing"),
            chain(Tcp::mail(), extension::AUTHENTICATION, count).within(v4()).frame(),
            blocked("residential"),
        );
    }
    table.customer(
        "thirteen_authentication_headers_in_ipv4_are_malformed",
        chain(Tcp::mail(), extension::AUTHENTICATION, 13).within(v4()).frame(),
        malformed("residential", Outcome::LongChain),
    );
    table.customer(
        "authentication_header_behind_options_hides_nothing",
        chain(Tcp::mail(), extension::AUTHENTICATION, 1).within(v4().options(12)).frame(),
        blocked("residential"),
    );
    table.customer(
        "submission_behind_an_authentication_header_in_ipv4_is_not_judged",
        chain(Tcp::new(40_000, 587), extension::AUTHENTICATION, 1).within(v4()).frame(),
        other(Outcome::OtherPort),
    );
    table.customer(
        "udp_behind_an_authentication_header_in_ipv4_is_not_judged",
        chain(udp(40_000, 25, b"x"), extension::AUTHENTICATION, 1).within(v4()).frame(),
        other(Outcome::OtherProtocol),
    );
    table.customer(
        "cut_authentication_header_in_ipv4_is_malformed",
        chain(Tcp::mail(), extension::AUTHENTICATION, 1).within(v4()).cut_to(23).frame(),
        malformed("residential", Outcome::CutChain),
    );
    table.customer(
        "authentication_header_beyond_the_total_length_is_malformed",
        chain(Tcp::mail(), extension::AUTHENTICATION, 1).within(v4().total_length(24)).frame(),
        malformed("residential", Outcome::CutChain),
    );
    table.customer(
        "first_fragment_with_an_authentication_header_alone_is_malformed",
        {
            chain(Tcp::mail(), extension::AUTHENTICATION, 1)
                .cut_to(24)
                .within(v4().fragment(MORE_FRAGMENTS))
                .padded_to(46)
                .frame()
        },
        malformed("residential", Outcome::CutTcp),
    );
    for (name, kind) in [
        ("hop_by_hop", extension::HOP_BY_HOP),
        ("destination_options", extension::DESTINATION_OPTIONS),
        ("fragment", extension::FRAGMENT),
        ("routing", extension::ROUTING),
    ] {
        table.customer(
            &format!("{name}_number_in_ipv4_is_another_protocol"),
            chain(Tcp::mail(), kind, 1).within(v4()).frame(),
            other(Outcome::OtherProtocol),
        );
    }
}

fn ipv6_fragments(table: &mut Table) {
    let segment = Piece::from(Tcp::mail().payload(&[0; 24])).bytes();
    let tcp = || Piece::raw(6, &segment);
    table.customer(
        "ipv6_first_fragment_is_judged_by_its_ports",
        tcp().within(Extension::fragment(0, true)).within(v6()).frame(),
        blocked("residential").v6(),
    );
    table.customer(
        "ipv6_first_fragment_of_eight_bytes_is_judged_by_its_ports",
        tcp().cut_to(8).within(Extension::fragment(0, true)).within(v6()).frame(),
        blocked("residential").v6(),
    );
    table.customer(
        "ipv6_first_fragment_to_submission_is_not_judged",
        Piece::from(Tcp::new(40_000, 587)).within(Extension::fragment(0, true)).within(v6()).frame(),
        other(Outcome::OtherPort),
    );
    table.customer(
        "ipv6_first_fragment_without_ports_is_malformed",
        tcp().cut_to(0).within(Extension::fragment(0, true)).within(v6()).padded_to(60).frame(),
        malformed("residential", Outcome::CutTcp).v6(),
    );
    table.customer(
        "ipv6_first_fragment_without_its_chain_is_malformed",
        {
            chain(tcp(), extension::DESTINATION_OPTIONS, 1)
                .cut_to(0)
                .within(Extension::fragment(0, true))
                .within(v6())
                .frame()
        },
        malformed("residential", Outcome::CutChain).v6(),
    );
    table.customer(
        "ipv6_first_fragment_with_half_its_chain_is_malformed",
        {
            tcp()
                .within(Extension::new(extension::DESTINATION_OPTIONS).bytes(24))
                .cut_to(8)
                .within(Extension::fragment(0, true))
                .within(v6())
                .frame()
        },
        malformed("residential", Outcome::CutChain).v6().any_outcome(),
    );
    table.customer(
        "ipv6_first_fragment_with_a_chain_without_tcp_is_malformed",
        {
            chain(tcp(), extension::DESTINATION_OPTIONS, 1)
                .cut_to(8)
                .within(Extension::fragment(0, true))
                .within(v6())
                .frame()
        },
        malformed("residential", Outcome::CutTcp).v6(),
    );
    table.customer(
        "ipv6_chain_that_continues_in_the_padding_is_malformed",
        {
            chain(tcp(), extension::DESTINATION_OPTIONS, 1)
                .within(Extension::fragment(0, true))
                .within(v6().payload_length(8))
                .frame()
        },
        malformed("residential", Outcome::CutChain).v6(),
    );
    for offset in [1, 2, 185, 8191] {
        table.customer(
            &format!("ipv6_later_fragment_at_{offset}_that_reads_as_port_25_passes"),
            tcp().within(Extension::fragment(offset, true)).within(v6()).frame(),
            other(Outcome::LaterFragment),
        );
    }
    table.customer(
        "ipv6_last_fragment_that_reads_as_port_25_passes",
        tcp().within(Extension::fragment(7, false)).within(v6()).frame(),
        other(Outcome::LaterFragment),
    );
    table.customer(
        "ipv6_later_fragment_behind_other_headers_passes",
        {
            chain(tcp().within(Extension::fragment(7, false)), extension::DESTINATION_OPTIONS, 3)
                .within(v6())
                .frame()
        },
        other(Outcome::LaterFragment),
    );
    table.customer(
        "ipv6_later_fragment_behind_an_atomic_one_passes",
        {
            tcp()
                .within(Extension::fragment(7, false))
                .within(Extension::fragment(0, false))
                .within(v6())
                .frame()
        },
        other(Outcome::LaterFragment),
    );
    table.customer(
        "ipv6_headers_behind_an_atomic_fragment_hide_nothing",
        {
            chain(tcp(), extension::DESTINATION_OPTIONS, 2)
                .within(Extension::fragment(0, false))
                .within(v6())
                .frame()
        },
        blocked("residential").v6(),
    );
    table.customer(
        "ipv6_cut_fragment_header_is_malformed",
        tcp().within(Extension::fragment(0, true)).within(v6()).cut_to(43).frame(),
        malformed("residential", Outcome::CutChain).v6(),
    );
}

fn links(table: &mut Table) {
    let kinds = [0x8100, 0x88a8, 0x9100];
    for kind in kinds {
        for count in 1..=5 {
            table.customer(
                &format!("{count}_tags_of_{kind:04x}_hide_nothing"),
                tags(Tcp::mail().within(v4()), kind, count).frame(),
                blocked("residential"),
            );
        }
        table.customer(
            &format!("six_tags_of_{kind:04x}_are_not_looked_through"),
            tags(Tcp::mail().within(v4()), kind, 6).frame(),
            other(Outcome::ManyTags),
        );
        table.customer(
            &format!("ipv6_behind_two_tags_of_{kind:04x}_hides_nothing"),
            tags(Tcp::mail().within(v6()), kind, 2).frame(),
            blocked("residential").v6(),
        );
    }
    // Linux takes any number of tags of VLAN 0 off, with VLANs configured or without.
    for (count, name) in
        [(6, "six"), (33, "thirty_three"), (129, "a_hundred_and_twenty_nine"), (365, "a_frame_full_of")]
    {
        let mut frame = Tcp::mail().within(v4()).frame();
        frame.splice(12..12, [0x81, 0, 0xe0, 0].repeat(count));
        table.customer(&format!("{name}_priority_tags_hide_nothing"), frame, blocked("residential"));
    }
    let mut frame = tags(Tcp::mail().within(v4()), 0x8100, 5).frame();
    frame.splice(12..12, [0x88, 0xa8, 0, 0].repeat(4));
    table.customer("five_vlans_below_four_priority_tags_hide_nothing", frame, blocked("residential"));
    let mut frame = tags(Tcp::mail().within(v4()), 0x8100, 6).frame();
    frame.splice(12..12, [0x88, 0xa8, 0, 0].repeat(4));
    table.customer(
        "six_vlans_below_four_priority_tags_are_not_looked_through",
        frame,
        other(Outcome::ManyTags),
    );
    table.customer(
        "qinq_of_three_kinds_hides_nothing",
        Tcp::mail().within(v4()).within(Vlan(0x8100)).within(Vlan(0x88a8)).within(Vlan(0x9100)).frame(),
        blocked("residential"),
    );
    table.customer(
        "submission_behind_qinq_is_not_judged",
        Tcp::new(40_000, 587).within(v4()).within(Vlan(0x8100)).within(Vlan(0x88a8)).frame(),
        other(Outcome::OtherPort),
    );
    table.customer(
        "relay_behind_qinq_passes",
        {
            Tcp::mail().within(Ipv4::new(RESIDENTIAL, POST)).within(Vlan(0x8100)).within(Vlan(0x88a8)).frame()
        },
        relayed(Some("residential"), "post"),
    );
    table.customer(
        "tag_with_nothing_behind_is_cut",
        Tcp::mail().within(v4()).within(Vlan(0x8100)).cut_to(3).within(Ethernet::of(0x8100)).bytes(),
        other(Outcome::CutHeader),
    );
    table.customer(
        "arp_behind_a_tag_is_not_judged",
        Piece::raw(0, &[0, 7, 8, 6, 0, 0, 0, 0]).within(Ethernet::of(0x8100)).bytes(),
        other(Outcome::NotIp),
    );
    table.customer(
        "unreadable_tcp_behind_a_tag_is_malformed",
        Tcp::mail().within(v4()).cut_in_transport(3).within(Vlan(0x8100)).frame(),
        malformed("residential", Outcome::CutTcp),
    );
    table.customer(
        "later_fragment_behind_a_tag_passes",
        Tcp::mail().within(v4().fragment(9)).within(Vlan(0x8100)).frame(),
        other(Outcome::LaterFragment),
    );

    for (name, pppoe) in [("pppoe", Pppoe::Plain), ("pppoe_with_a_one_byte_protocol", Pppoe::Compressed)] {
        table.customer(&format!("{name}_hides_nothing"), Tcp::mail().within(v4()).within(pppoe).frame(), {
            blocked("residential")
        });
        table.customer(
            &format!("{name}_around_ipv6_hides_nothing"),
            Tcp::mail().within(v6()).within(pppoe).frame(),
            blocked("residential").v6(),
        );
        table.customer(
            &format!("submission_in_{name}_is_not_judged"),
            Tcp::new(40_000, 587).within(v4()).within(pppoe).frame(),
            other(Outcome::OtherPort),
        );
        table.customer(
            &format!("{name}_behind_two_tags_hides_nothing"),
            Tcp::mail().within(v6()).within(pppoe).within(Vlan(0x8100)).within(Vlan(0x88a8)).frame(),
            blocked("residential").v6(),
        );
        table.customer(
            &format!("{name}_around_mtu_sized_data_hides_nothing"),
            Tcp::mail().payload(&[0; 1452]).within(v4()).within(pppoe).frame(),
            blocked("residential"),
        );
    }
    table.customer(
        "pppoe_around_options_and_a_first_fragment_hides_nothing",
        Tcp::mail().within(v4().options(8).fragment(MORE_FRAGMENTS)).within(Pppoe::Plain).frame(),
        blocked("residential"),
    );
    table.customer(
        "lcp_in_pppoe_is_not_judged",
        Tcp::mail().within(v4()).within(Pppoe::Of(0xc021)).frame(),
        other(Outcome::NotIp),
    );
    table.customer(
        "pppoe_discovery_is_not_judged",
        Tcp::mail().within(v4()).within(Pppoe::Plain).within(Ethernet::of(0x8863)).bytes(),
        other(Outcome::NotIp),
    );
    table.customer(
        "cut_pppoe_header_is_not_judged",
        Tcp::mail().within(v4()).within(Pppoe::Plain).cut_to(7).within(Ethernet::of(0x8864)).bytes(),
        other(Outcome::CutHeader),
    );
    table.customer(
        "pppoe_that_ends_with_its_protocol_is_not_judged",
        Tcp::mail().within(v4()).within(Pppoe::Plain).cut_to(8).within(Ethernet::of(0x8864)).bytes(),
        other(Outcome::CutHeader),
    );
    table.customer(
        "mpls_in_pppoe_hides_nothing",
        Tcp::mail().within(v4()).within(Mpls(2)).within(Pppoe::Plain).frame(),
        blocked("residential"),
    );

    for labels in [1, 2, 3, 8] {
        table.customer(
            &format!("{labels}_mpls_labels_hide_nothing"),
            Tcp::mail().within(v4()).within(Mpls(labels)).frame(),
            blocked("residential"),
        );
        table.customer(
            &format!("{labels}_mpls_labels_around_ipv6_hide_nothing"),
            Tcp::mail().within(v6()).within(Mpls(labels)).frame(),
            blocked("residential").v6(),
        );
    }
    table.customer(
        "nine_mpls_labels_are_not_looked_through",
        Tcp::mail().within(v4()).within(Mpls(9)).frame(),
        other(Outcome::ManyLabels),
    );
    table.customer(
        "multicast_mpls_hides_nothing",
        Tcp::mail().within(v4()).within(Mpls(1)).within(Ethernet::of(0x8848)).bytes(),
        blocked("residential"),
    );
    table.customer(
        "mpls_behind_five_tags_hides_nothing",
        tags(Tcp::mail().within(v4()).within(Mpls(3)), 0x8100, 5).frame(),
        blocked("residential"),
    );
    table.customer(
        "pseudowire_in_mpls_is_not_judged",
        {
            Piece::raw(0, &[0, 0, 0, 1, 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45])
                .within(Mpls(1))
                .frame()
        },
        other(Outcome::NotIp),
    );
    table.customer(
        "cut_mpls_label_is_not_judged",
        Tcp::mail().within(v4()).within(Mpls(3)).cut_to(10).within(Ethernet::of(0x8847)).bytes(),
        other(Outcome::CutHeader),
    );
    table.customer(
        "mpls_with_nothing_behind_is_not_judged",
        Piece::raw(0, &[0, 1, 0x41, 64]).within(Ethernet::of(0x8847)).bytes(),
        other(Outcome::CutHeader),
    );
    table.customer(
        "submission_in_mpls_is_not_judged",
        Tcp::new(40_000, 587).within(v4()).within(Mpls(2)).frame(),
        other(Outcome::OtherPort),
    );

    table.customer("snap_hides_nothing", Tcp::mail().within(v4()).within(Snap).frame(), {
        blocked("residential")
    });
    table.customer("snap_around_ipv6_hides_nothing", Tcp::mail().within(v6()).within(Snap).frame(), {
        blocked("residential").v6()
    });
    table.customer(
        "snap_behind_a_tag_hides_nothing",
        Tcp::mail().within(v4()).within(Snap).within(Vlan(0x8100)).frame(),
        blocked("residential"),
    );
    table.customer(
        "snap_of_the_largest_length_hides_nothing",
        Tcp::mail().payload(&[0; 1452]).within(v4()).within(Snap).frame(),
        blocked("residential"),
    );
    table.customer(
        "snap_with_length_zero_hides_nothing",
        Tcp::mail().within(v4()).within(Snap).within(Ethernet::of(0)).bytes(),
        blocked("residential"),
    );
    table.customer(
        "submission_in_snap_is_not_judged",
        Tcp::new(40_000, 587).within(v4()).within(Snap).frame(),
        other(Outcome::OtherPort),
    );
    table.customer(
        "spanning_tree_is_not_judged",
        Piece::raw(0, &[0x42, 0x42, 3, 0, 0, 0, 0, 0, 8, 0, 0x45]).within(Ethernet::of(38)).bytes(),
        other(Outcome::NotIp),
    );
    table.customer(
        "cut_snap_is_not_judged",
        Tcp::mail().within(v4()).within(Snap).cut_to(7).within(Ethernet::of(60)).bytes(),
        other(Outcome::CutHeader),
    );
    table.customer(
        "pppoe_in_snap_behind_qinq_hides_nothing",
        {
            Tcp::mail()
                .within(v4())
                .within(Pppoe::Plain)
                .within(Snap)
                .within(Vlan(0x8100))
                .within(Vlan(0x88a8))
                .frame()
        },
        blocked("residential"),
    );
    table.customer(
        "everything_at_once_hides_nothing",
        {
            let piece = chain(Tcp::mail(), extension::DESTINATION_OPTIONS, 12).within(v6());
            tags(piece.within(Mpls(8)).within(Pppoe::Plain).within(Snap), 0x9100, 5).frame()
        },
        blocked("residential").v6(),
    );
    table.customer(
        "everything_at_once_to_submission_is_not_judged",
        {
            let piece = chain(Tcp::new(40_000, 587), extension::DESTINATION_OPTIONS, 12).within(v6());
            tags(piece.within(Mpls(8)).within(Pppoe::Plain).within(Snap), 0x9100, 5).frame()
        },
        other(Outcome::OtherPort),
    );
    table.customer(
        "wrong_version_in_pppoe_is_no_packet",
        Tcp::mail().within(v4().version(6)).within(Pppoe::Plain).frame(),
        other(Outcome::BadHeader),
    );
}

fn tunnels(table: &mut Table) {
    let inner = || Tcp::mail().within(v4());
    table.customer(
        "gre_is_not_looked_through",
        inner().within(Opaque(47, vec![0, 0, 8, 0])).within(v4()).frame(),
        other(Outcome::OtherProtocol),
    );
    table.customer(
        "esp_in_ipv4_is_not_looked_through",
        inner().within(Opaque(50, vec![0; 8])).within(v4()).frame(),
        other(Outcome::OtherProtocol),
    );
    table.customer("ipv4_in_ipv4_is_not_looked_through", inner().within(v4()).frame(), {
        other(Outcome::OtherProtocol)
    });
    table.customer("ipv6_in_ipv4_is_not_looked_through", Tcp::mail().within(v6()).within(v4()).frame(), {
        other(Outcome::OtherProtocol)
    });
    table.customer("ipv6_in_ipv6_is_not_looked_through", Tcp::mail().within(v6()).within(v6()).frame(), {
        other(Outcome::OtherProtocol)
    });
    table.customer("mpls_in_ip_is_not_looked_through", inner().within(Mpls(1)).within(v4()).frame(), {
        other(Outcome::OtherProtocol)
    });
    table.customer(
        "vxlan_is_not_looked_through",
        {
            let frame = inner().within(Ethernet::default()).bytes();
            let payload = [vec![8, 0, 0, 0, 0, 0, 1, 0], frame].concat();
            udp(40_000, 4789, &payload).within(v4()).frame()
        },
        other(Outcome::OtherProtocol),
    );
    table.customer("ipv4_in_ipv6_is_not_looked_through_unless_named", inner().within(v6()).frame(), {
        other(Outcome::OtherProtocol)
    });
}

fn softwires(table: &mut Table) {
    // The inner source is of another group than the outer one, so that the two can be told apart.
    let inner = |destination: &str| Tcp::mail().within(Ipv4::new(STRICT, destination));
    let soft = |piece: Piece| piece.within(v6());
    for (setting, name, group) in
        [(CUSTOMER_OUTER, "outer", "residential"), (CUSTOMER_INNER, "inner", "strict")]
    {
        let family = |expected: Expected| if name == "outer" { expected.v6() } else { expected };
        let mut add = |case: &str, frame: Vec<u8>, expected: Expected| {
            table.add(&format!("softwire_by_{name}_address_{case}"), setting, frame, expected);
        };
        add("blocks_the_customer", soft(inner(OUTSIDE)).frame(), family(blocked(group)));
        add("passes_the_relay_by_its_inner_address", soft(inner(POST)).frame(), {
            family(relayed(Some(group), "post"))
        });
        add(
            "passes_submission",
            soft(Tcp::new(40_000, 587).within(Ipv4::new(STRICT, OUTSIDE))).frame(),
            other(Outcome::OtherPort),
        );
        add("passes_udp", soft(udp(40_000, 25, b"x").within(Ipv4::new(STRICT, OUTSIDE))).frame(), {
            other(Outcome::OtherProtocol)
        });
        add("leaves_plain_ipv6_alone", Tcp::mail().within(v6()).frame(), blocked("residential").v6());
        add("leaves_plain_ipv4_alone", Tcp::mail().within(Ipv4::new(STRICT, OUTSIDE)).frame(), {
            blocked("strict")
        });
        add("does_not_open_ipv4_in_ipv4", Tcp::mail().within(v4()).within(v4()).frame(), {
            other(Outcome::OtherProtocol)
        });
        add("does_not_open_ipv6_in_ipv6", Tcp::mail().within(v6()).within(v6()).frame(), {
            other(Outcome::OtherProtocol)
        });
        add("opens_one_softwire_only", inner(OUTSIDE).within(v4()).within(v6()).frame(), {
            other(Outcome::OtherProtocol)
        });
        add(
            "sees_behind_extension_headers",
            chain(inner(OUTSIDE), extension::DESTINATION_OPTIONS, 12).within(v6()).frame(),
            family(blocked(group)),
        );
        add(
            "sees_through_qinq_and_pppoe",
            soft(inner(OUTSIDE)).within(Pppoe::Plain).within(Vlan(0x8100)).within(Vlan(0x88a8)).frame(),
            family(blocked(group)),
        );
        add(
            "sees_behind_inner_options",
            soft(Tcp::mail().within(Ipv4::new(STRICT, OUTSIDE).options(40))).frame(),
            family(blocked(group)),
        );
        add(
            "sees_an_inner_authentication_header",
            {
                soft(chain(Tcp::mail(), extension::AUTHENTICATION, 1).within(Ipv4::new(STRICT, OUTSIDE)))
                    .frame()
            },
            family(blocked(group)),
        );
        add(
            "passes_an_inner_later_fragment",
            soft(Tcp::mail().within(Ipv4::new(STRICT, OUTSIDE).fragment(9))).frame(),
            other(Outcome::LaterFragment),
        );
        add(
            "drops_an_inner_fragment_at_offset_one",
            soft(Tcp::mail().within(Ipv4::new(STRICT, OUTSIDE).fragment(1))).frame(),
            family(malformed(group, Outcome::FragmentInTcpHeader)),
        );
        add(
            "passes_an_outer_later_fragment",
            soft(inner(OUTSIDE).within(Extension::fragment(9, false))).frame(),
            other(Outcome::LaterFragment),
        );
        add(
            "judges_an_outer_first_fragment",
            soft(inner(OUTSIDE).within(Extension::fragment(0, true))).frame(),
            family(blocked(group)),
        );
        add(
            "drops_an_outer_first_fragment_without_ports",
            soft(inner(OUTSIDE).cut_to(20).within(Extension::fragment(0, true))).frame(),
            family(malformed(group, Outcome::CutTcp)),
        );
        add("drops_unreadable_tcp", soft(inner(OUTSIDE).cut_to(23)).frame(), {
            family(malformed(group, Outcome::CutTcp))
        });
        add(
            "takes_ports_beyond_the_outer_length_for_padding",
            inner(OUTSIDE).within(v6().payload_length(23)).frame(),
            family(malformed(group, Outcome::CutTcp)),
        );
        add(
            "takes_ports_beyond_the_inner_length_for_padding",
            soft(Tcp::mail().within(Ipv4::new(STRICT, OUTSIDE).total_length(22))).frame(),
            family(malformed(group, Outcome::CutTcp)),
        );
        add(
            "takes_no_inner_header_of_another_version",
            soft(Tcp::mail().within(Ipv4::new(STRICT, OUTSIDE).version(6))).frame(),
            other(Outcome::BadHeader),
        );
    }
    // RFC 7112: the first fragment must hold the whole chain, which for a tunnel includes the inner header. The
    // customer is known by the outer address.
    for kept in [0, 8, 16] {
        let first = inner(OUTSIDE).cut_to(kept).within(Extension::fragment(0, true));
        table.add(
            &format!("softwire_first_fragment_with_{kept}_bytes_of_the_inner_header_is_malformed"),
            CUSTOMER_OUTER,
            soft(first).frame(),
            malformed("residential", Outcome::CutChain).v6().any_outcome(),
        );
    }
    table.add(
        "softwire_inner_header_in_the_padding_is_malformed",
        CUSTOMER_OUTER,
        {
            // The fragment carries eight bytes; what follows them in the frame says UDP.
            let decoy = udp(40_000, 25, b"x").within(Ipv4::new(STRICT, OUTSIDE));
            decoy.within(Extension::fragment(0, true)).within(v6().payload_length(16)).frame()
        },
        malformed("residential", Outcome::CutChain).v6().any_outcome(),
    );
    // What DS-Lite looks like: the inner source is the same for everyone (RFC 6333 §5.7).
    let dslite = Tcp::mail().within(Ipv4::new("192.0.0.2", OUTSIDE)).within(v6()).frame();
    table.add("dslite_customer_is_known_by_the_outer_address", CUSTOMER_OUTER, dslite.clone(), {
        blocked("residential").v6()
    });
    table.add("dslite_customer_is_unknown_by_the_inner_address", CUSTOMER_INNER, dslite, {
        unknown(Verdict::Pass)
    });
    table.add(
        "softwire_of_a_quarantined_outer_address_is_dropped",
        CUSTOMER_OUTER,
        inner(OUTSIDE).within(Ipv6::new("2001:db8:1000:66::1", OUTSIDE6)).frame(),
        quarantined(Some("residential")).v6(),
    );
    table.add(
        "softwire_of_an_exempt_outer_address_passes",
        CUSTOMER_OUTER,
        inner(OUTSIDE).within(Ipv6::new("2001:db8:1000:80::1", OUTSIDE6)).frame(),
        exempt(Some("residential")).v6(),
    );
    table.add(
        "softwire_destinations_are_inner_ones",
        CUSTOMER_OUTER,
        inner(MOBILE).within(Ipv6::new(PHASED6, OUTSIDE6)).frame(),
        blocked("phased").v6(),
    );
    table.add(
        "softwire_to_an_outer_relay_address_is_no_relay",
        CUSTOMER_OUTER,
        inner(OUTSIDE).within(Ipv6::new(RESIDENTIAL6, POST6)).frame(),
        blocked("residential").v6(),
    );

    let answer = |customer: &str| Tcp::answer().within(Ipv4::new(OUTSIDE, customer));
    table.add(
        "softwire_return_path_is_known_by_the_outer_address",
        UPSTREAM_OUTER,
        answer(SEALED).within(Ipv6::new(OUTSIDE6, STRICT6)).frame(),
        return_path(Some("strict")).v6(),
    );
    table.add(
        "softwire_return_path_is_known_by_the_inner_address",
        UPSTREAM_INNER,
        answer(STRICT).within(Ipv6::new(OUTSIDE6, RESIDENTIAL6)).frame(),
        return_path(Some("strict")),
    );
    let from_relay =
        Tcp::answer().within(Ipv4::new(POST, SEALED)).within(Ipv6::new(OUTSIDE6, STRICT6)).frame();
    table.add("softwire_return_path_from_an_inner_relay_passes", UPSTREAM_OUTER, from_relay, {
        relayed(Some("strict"), "post").v6().after(Outcome::FromPort25)
    });
    table.upstream(
        "softwire_return_path_is_not_looked_through_unless_named",
        answer(STRICT).within(Ipv6::new(OUTSIDE6, STRICT6)).frame(),
        other(Outcome::OtherProtocol),
    );
    table.add("softwire_mail_on_both_roles_is_blocked", BOTH_OUTER, soft(inner(OUTSIDE)).frame(), {
        blocked("residential").v6()
    });
    table.add(
        "softwire_answer_on_both_roles_is_a_return_path",
        BOTH_OUTER,
        answer(SEALED).within(Ipv6::new(OUTSIDE6, STRICT6)).frame(),
        return_path(Some("strict")).v6(),
    );
}

fn upstream(table: &mut Table) {
    let from = Outcome::FromPort25;
    for (name, flags) in [
        ("syn_ack", flag::SYN | flag::ACK),
        ("syn", flag::SYN),
        ("ack", flag::ACK),
        ("data", flag::PSH | flag::ACK),
        ("fin", flag::FIN | flag::ACK),
        ("rst", flag::RST),
    ] {
        table.upstream(
            &format!("{name}_from_port_25_to_a_customer_is_dropped"),
            between(Tcp::answer().flags(flags), OUTSIDE, STRICT),
            return_path(Some("strict")),
        );
    }
    table.upstream("ipv6_answer_from_port_25_to_a_customer_is_dropped", answer(OUTSIDE6, STRICT6), {
        return_path(Some("strict")).v6()
    });
    table.upstream("return_path_is_only_watched_by_default", answer(OUTSIDE, RESIDENTIAL), {
        would_return_path("residential")
    });
    table.upstream("ipv6_return_path_is_only_watched_by_default", answer(OUTSIDE6, RESIDENTIAL6), {
        would_return_path("residential").v6()
    });
    table.upstream("return_path_of_a_monitored_group_is_only_watched", answer(OUTSIDE, WATCHED), {
        would_return_path("watched")
    });
    table.upstream("return_path_that_is_off_is_not_judged", answer(OUTSIDE, SEALED), other(from));
    table.upstream("ipv6_return_path_that_is_off_is_not_judged", answer(OUTSIDE6, "2001:db8:6000::1"), {
        other(from)
    });
    table.upstream("return_path_to_a_group_that_is_off_is_exempt", answer(OUTSIDE, OPEN), {
        exempt(Some("open")).after(from)
    });
    table.upstream("return_path_to_an_exempt_customer_passes", answer(OUTSIDE, "203.0.113.140"), {
        exempt(Some("strict")).after(from)
    });
    table.upstream(
        "ipv6_return_path_to_an_exempt_customer_passes",
        answer(OUTSIDE6, "2001:db8:1000:80::1"),
        exempt(Some("residential")).v6().after(from),
    );
    table.upstream("return_path_from_a_relay_passes", answer(POST, STRICT), {
        relayed(Some("strict"), "post").after(from)
    });
    table.upstream("ipv6_return_path_from_a_relay_passes", answer(POST6, STRICT6), {
        relayed(Some("strict"), "post").v6().after(from)
    });
    table.upstream("return_path_from_a_relay_of_other_groups_is_dropped", answer(VPOST, STRICT), {
        return_path(Some("strict"))
    });
    table.upstream("return_path_from_outside_the_destinations_passes", answer(OUTSIDE, PHASED), {
        out_of_scope("phased").after(from)
    });
    table.upstream("return_path_from_the_destinations_is_dropped", answer(MOBILE, PHASED), {
        return_path(Some("phased"))
    });
    table.upstream("return_path_to_nobody_is_not_judged", answer(OUTSIDE, NOBODY), other(from));
    table.upstream("ipv6_return_path_to_nobody_is_not_judged", answer(OUTSIDE6, NOBODY6), other(from));
    table.upstream(
        "return_path_to_an_exempt_address_in_no_group_is_not_judged",
        answer(OUTSIDE, "192.0.2.200"),
        other(from),
    );
    table.add(
        "return_path_to_nobody_is_not_judged_where_unknown_is_blocked",
        UPSTREAM_BLOCK,
        answer(OUTSIDE, NOBODY),
        other(from),
    );
    table.upstream("return_path_to_a_quarantined_customer_is_dropped", answer(OUTSIDE, "203.0.113.131"), {
        return_path(Some("strict"))
    });
    table.upstream(
        "return_path_to_a_quarantined_address_in_no_group_is_dropped",
        answer(OUTSIDE, "192.0.2.201"),
        return_path(None),
    );
    table.upstream(
        "return_path_from_a_relay_to_a_quarantined_address_in_no_group_passes",
        answer(POST, "192.0.2.201"),
        relayed(None, "post").after(from),
    );
    table.upstream("mail_to_a_customers_server_is_not_judged", mail(OUTSIDE, STRICT), {
        other(Outcome::OtherPort)
    });
    table.upstream("mail_from_a_customer_is_not_judged_on_upstream", mail(RESIDENTIAL, OUTSIDE), {
        other(Outcome::OtherPort)
    });
    table.upstream(
        "submission_answers_are_not_judged",
        between(Tcp::new(587, 40_000), OUTSIDE, STRICT),
        other(Outcome::OtherPort),
    );
    table.upstream(
        "mail_from_port_25_to_port_25_is_a_return_path_on_upstream",
        between(Tcp::new(25, 25), OUTSIDE, STRICT),
        return_path(Some("strict")),
    );
    table.upstream(
        "udp_from_port_25_is_not_judged",
        udp(25, 40_000, b"x").within(Ipv4::new(OUTSIDE, STRICT)).frame(),
        other(Outcome::OtherProtocol),
    );
    table.upstream(
        "return_path_in_qinq_and_pppoe_is_dropped",
        {
            Tcp::answer()
                .within(Ipv6::new(OUTSIDE6, STRICT6))
                .within(Pppoe::Plain)
                .within(Vlan(0x8100))
                .within(Vlan(0x88a8))
                .frame()
        },
        return_path(Some("strict")).v6(),
    );
    table.upstream(
        "return_path_behind_options_is_dropped",
        Tcp::answer().within(Ipv4::new(OUTSIDE, STRICT).options(8)).frame(),
        return_path(Some("strict")),
    );
    table.upstream(
        "return_path_behind_twelve_headers_is_dropped",
        {
            chain(Tcp::answer(), extension::DESTINATION_OPTIONS, 12)
                .within(Ipv6::new(OUTSIDE6, STRICT6))
                .frame()
        },
        return_path(Some("strict")).v6(),
    );
    table.upstream(
        "first_fragment_of_a_return_path_is_dropped",
        Tcp::answer().within(Ipv4::new(OUTSIDE, STRICT).fragment(MORE_FRAGMENTS)).frame(),
        return_path(Some("strict")),
    );
    table.upstream(
        "later_fragment_of_a_return_path_passes",
        Tcp::answer().within(Ipv4::new(OUTSIDE, STRICT).fragment(9)).frame(),
        other(Outcome::LaterFragment),
    );

    // "All else on `upstream`: `other`."
    let cut = Outcome::CutTcp;
    table.upstream("unreadable_tcp_is_not_judged_on_upstream", unreadable(OUTSIDE, STRICT), other(cut));
    table.upstream(
        "unreadable_tcp_with_a_customers_source_is_not_judged_on_upstream",
        unreadable(RESIDENTIAL, OUTSIDE),
        other(cut),
    );
    table.upstream(
        "unreadable_tcp_with_a_quarantined_source_is_not_judged_on_upstream",
        unreadable("203.0.113.20", OUTSIDE),
        other(cut),
    );
    table.add(
        "unreadable_tcp_is_not_judged_on_upstream_where_unknown_is_blocked",
        UPSTREAM_BLOCK,
        unreadable(OUTSIDE, STRICT),
        other(cut),
    );
    table.upstream(
        "fragment_at_offset_one_is_not_judged_on_upstream",
        Tcp::answer().within(Ipv4::new(OUTSIDE, STRICT).fragment(1)).frame(),
        other(Outcome::FragmentInTcpHeader),
    );
    table.add(
        "fragment_at_offset_one_is_not_judged_on_upstream_where_unknown_is_blocked",
        UPSTREAM_BLOCK,
        Tcp::answer().within(Ipv4::new(OUTSIDE, STRICT).fragment(1)).frame(),
        other(Outcome::FragmentInTcpHeader),
    );
    table.upstream(
        "chain_too_long_is_not_judged_on_upstream",
        chain(Tcp::answer(), extension::ROUTING, 13).within(Ipv6::new(OUTSIDE6, STRICT6)).frame(),
        other(Outcome::LongChain),
    );
    table.upstream(
        "cut_chain_is_not_judged_on_upstream",
        {
            chain(Tcp::answer(), extension::ROUTING, 1)
                .within(Ipv6::new(OUTSIDE6, STRICT6))
                .cut_to(42)
                .frame()
        },
        other(Outcome::CutChain),
    );
}

fn both(table: &mut Table) {
    let from = Outcome::FromPort25;
    table.both("mail_of_a_customer_is_blocked_on_both_roles", mail(RESIDENTIAL, OUTSIDE), {
        blocked("residential")
    });
    table.both("return_path_is_dropped_on_both_roles", answer(OUTSIDE, STRICT), return_path(Some("strict")));
    table.both("ipv6_return_path_is_dropped_on_both_roles", answer(OUTSIDE6, STRICT6), {
        return_path(Some("strict")).v6()
    });
    table.both("mail_from_a_relay_passes_on_both_roles", mail(POST, OUTSIDE), relayed(None, "post"));
    table.both("ipv6_mail_from_a_relay_passes_on_both_roles", mail(POST6, OUTSIDE6), {
        relayed(None, "post").v6()
    });
    table.both(
        "mail_from_a_relay_in_a_customer_prefix_passes_on_both_roles",
        mail("203.0.113.100", OUTSIDE),
        relayed(Some("residential"), "inhouse"),
    );
    table.both("mail_to_a_relay_passes_on_both_roles", mail(RESIDENTIAL, POST), {
        relayed(Some("residential"), "post")
    });
    table.both("mail_from_the_internet_is_an_unknown_source_on_both_roles", mail(OUTSIDE, STRICT), {
        unknown(Verdict::Pass)
    });
    table.both("mail_from_the_internet_to_a_relay_passes_on_both_roles", mail(OUTSIDE, POST), {
        relayed(None, "post")
    });
    table.both("customer_table_comes_first_on_both_roles", between(Tcp::new(25, 25), RESIDENTIAL, STRICT), {
        blocked("residential")
    });
    table.both("quarantined_customer_is_dropped_on_both_roles", mail("203.0.113.20", OUTSIDE), {
        quarantined(Some("residential"))
    });
    table.both(
        "answer_of_a_customers_server_to_the_internet_is_not_judged_on_both_roles",
        answer(RESIDENTIAL, OUTSIDE),
        other(from),
    );
    table.both("answer_of_a_relay_to_a_customer_passes_on_both_roles", answer(POST, STRICT), {
        relayed(Some("strict"), "post").after(from)
    });
    table.both(
        "submission_is_not_judged_on_both_roles",
        between(Tcp::new(40_000, 587), RESIDENTIAL, OUTSIDE),
        other(Outcome::OtherPort),
    );
    table.both(
        "unreadable_tcp_of_a_customer_is_malformed_on_both_roles",
        unreadable(RESIDENTIAL, OUTSIDE),
        malformed("residential", Outcome::CutTcp),
    );
    table.both(
        "unreadable_tcp_from_the_internet_is_an_unknown_source_on_both_roles",
        unreadable(OUTSIDE, STRICT),
        unknown(Verdict::Pass).after(Outcome::CutTcp),
    );
    table.both(
        "unreadable_tcp_of_a_relay_in_a_customer_prefix_is_malformed_on_both_roles",
        unreadable("203.0.113.100", OUTSIDE),
        malformed("residential", Outcome::CutTcp),
    );
}

fn sizes(table: &mut Table) {
    let whole = mail(RESIDENTIAL, OUTSIDE);
    let whole6 = mail(RESIDENTIAL6, OUTSIDE6);
    for length in [0, 1, 6, 12, 13, 14, 15, 20, 33] {
        table.customer(
            &format!("ethernet_frame_of_{length}_bytes_is_not_judged"),
            whole[..length].to_vec(),
            other(Outcome::CutHeader),
        );
    }
    for length in [15, 22, 53] {
        table.customer(
            &format!("ipv6_frame_of_{length}_bytes_is_not_judged"),
            whole6[..length].to_vec(),
            other(Outcome::CutHeader),
        );
    }
    let full = Tcp::mail().payload(&[0; 1460]);
    table.customer("full_frame_is_blocked", full.within(v4()).frame(), blocked("residential"));
    let large = Tcp::mail().payload(&[0; 3300]);
    table.customer("frame_that_fills_a_page_is_blocked", large.within(v4()).frame(), blocked("residential"));
    let jumbo = Tcp::mail().payload(&[0; 8948]);
    table.customer("jumbo_frame_is_blocked", jumbo.clone().within(v4()).frame(), blocked("residential"));
    table.customer("ipv6_jumbo_frame_is_blocked", jumbo.clone().within(v6()).frame(), {
        blocked("residential").v6()
    });
    table.customer(
        "jumbo_frame_in_qinq_and_pppoe_is_blocked",
        jumbo.clone().within(v4()).within(Pppoe::Plain).within(Vlan(0x8100)).within(Vlan(0x88a8)).frame(),
        blocked("residential"),
    );
    table.customer("jumbo_frame_to_a_relay_passes", jumbo.within(Ipv4::new(RESIDENTIAL, POST)).frame(), {
        relayed(Some("residential"), "post")
    });
    table.customer(
        "jumbo_frame_to_submission_is_not_judged",
        Tcp::new(40_000, 587).payload(&[0; 8948]).within(v4()).frame(),
        other(Outcome::OtherPort),
    );
}
