//! The ways through the program.

use crate::frames::{Extension, Ipv4, Ipv6, Piece, Pppoe, Tcp, Vlan, extension, udp};

/// One of them.
pub(crate) struct Path {
    pub(crate) name: &'static str,
    pub(crate) frame: Vec<u8>,
    /// What the program returns for it.
    pub(crate) returns: u32,
}

const DROP: u32 = 1;
const PASS: u32 = 2;

const CUSTOMER: &str = "10.0.0.9";
const CUSTOMER6: &str = "2001:db8:1000::9";
const OUTSIDE: &str = "198.51.100.25";
const OUTSIDE6: &str = "2001:db8:f::25";

const IPV4_TCP: &str = "IPv4 TCP";
const IPV4_UDP: &str = "IPv4 UDP";
const IPV6_TCP: &str = "IPv6 TCP";
const IPV6_UDP: &str = "IPv6 UDP";
const SESSION: &str = "IPv4 TCP in PPPoE in two VLAN tags";
const SESSION6: &str = "IPv6 TCP in PPPoE in two VLAN tags";

/// Nanoseconds over an empty program, at most.
pub(crate) const DUE: [(&str, f64); 6] =
    [(IPV4_TCP, 4.0), (IPV4_UDP, 4.0), (IPV6_TCP, 6.0), (IPV6_UDP, 6.0), (SESSION, 12.0), (SESSION6, 12.0)];

fn two_tags_and_pppoe(piece: Piece) -> Piece {
    piece.within(Pppoe::Plain).within(Vlan(0x8100)).within(Vlan(0x88a8))
}

/// Frames that are not judged.
pub(crate) fn passing() -> Vec<Path> {
    let ipv4 = || Ipv4::new(CUSTOMER, OUTSIDE);
    let ipv6 = || Ipv6::new(CUSTOMER6, OUTSIDE6);
    let web = || Tcp::new(40_000, 443);
    let datagram = || udp(40_000, 443, &[0; 40]);
    let chain = (0..10)
        .fold(Piece::from(web()), |piece, _| piece.within(Extension::new(extension::DESTINATION_OPTIONS)));
    let path = |name, piece: Piece| Path { name, frame: piece.frame(), returns: PASS };
    vec![
        path(IPV4_TCP, web().within(ipv4())),
        path(IPV4_UDP, datagram().within(ipv4())),
        path(IPV6_TCP, web().within(ipv6())),
        path(IPV6_UDP, datagram().within(ipv6())),
        path("IPv4 TCP in one VLAN tag", web().within(ipv4()).within(Vlan(0x8100))),
        path("IPv4 TCP in two VLAN tags", web().within(ipv4()).within(Vlan(0x8100)).within(Vlan(0x88a8))),
        path("IPv4 TCP in PPPoE", web().within(ipv4()).within(Pppoe::Plain)),
        path(SESSION, two_tags_and_pppoe(web().within(ipv4()))),
        path("IPv4 UDP in PPPoE in two VLAN tags", two_tags_and_pppoe(datagram().within(ipv4()))),
        path(SESSION6, two_tags_and_pppoe(web().within(ipv6()))),
        path("IPv6 TCP behind ten extension headers", chain.within(ipv6())),
    ]
}

/// Frames to port 25, of the policy in [`crate::loaded`].
pub(crate) fn judged() -> Vec<Path> {
    let mail = |from: &str, to: &str, returns, name| Path {
        name,
        frame: Tcp::mail().within(Ipv4::new(from, to)).frame(),
        returns,
    };
    let blocked = || Tcp::mail().within(Ipv4::new(CUSTOMER, OUTSIDE));
    vec![
        mail(CUSTOMER, "192.0.2.25", PASS, "relay"),
        mail("10.0.1.9", OUTSIDE, PASS, "exempt"),
        mail("203.0.113.9", OUTSIDE, PASS, "would-block"),
        mail("192.0.2.99", OUTSIDE, PASS, "unknown-source"),
        mail(CUSTOMER, OUTSIDE, DROP, "blocked"),
        Path {
            name: "blocked, IPv6",
            frame: Tcp::mail().within(Ipv6::new(CUSTOMER6, OUTSIDE6)).frame(),
            returns: DROP,
        },
        Path {
            name: "blocked, in PPPoE in two VLAN tags",
            frame: two_tags_and_pppoe(blocked()).frame(),
            returns: DROP,
        },
        Path {
            name: "return-path",
            frame: Tcp::answer().within(Ipv4::new(OUTSIDE, CUSTOMER)).frame(),
            returns: DROP,
        },
    ]
}

/// What is answered with what.
pub(crate) const ANSWERED: [(&str, &str, Stage); 4] = [
    ("drop", "drop", Stage::Opening),
    ("reset", "reset", Stage::Opening),
    ("SYN-ACK of a notice", "notice", Stage::Opening),
    ("notice", "notice", Stage::Opened),
];

/// How far a conversation is.
#[derive(Clone, Copy)]
pub(crate) enum Stage {
    /// The customer's SYN.
    Opening,
    /// The acknowledgement of the answer to it.
    Opened,
}

impl Stage {
    /// The frame, which acknowledges this number.
    pub(crate) fn frame(self, number: u32) -> Vec<u8> {
        let tcp = match self {
            Self::Opening => Tcp::mail(),
            Self::Opened => Tcp::mail().flags(crate::frames::flag::ACK).numbers(2, number),
        };
        tcp.within(Ipv4::new(CUSTOMER, OUTSIDE)).frame()
    }
}
