//! Frames by chance from a seed: every encapsulation there is, addresses that the lab's policy knows, and mutations.
#![allow(dead_code, reason = "each test binary generates its own share")]

use op25b_ebpf::abi::Role;

use crate::frames::{
    Extension, Ipv4, Ipv6, MORE_FRAGMENTS, Mpls, Opaque, Piece, Pppoe, Snap, Tcp, Vlan, extension,
    icmp_quoting, udp,
};

/// Addresses on both sides of every boundary in the lab's policy.
pub(crate) const CUSTOMERS4: [&str; 40] = [
    "203.0.113.0",
    "203.0.113.5",
    "203.0.113.15",
    "203.0.113.16",
    "203.0.113.20",
    "203.0.113.24",
    "203.0.113.31",
    "203.0.113.32",
    "203.0.113.40",
    "203.0.113.47",
    "203.0.113.48",
    "203.0.113.50",
    "203.0.113.52",
    "203.0.113.56",
    "203.0.113.63",
    "203.0.113.64",
    "203.0.113.72",
    "203.0.113.76",
    "203.0.113.80",
    "203.0.113.100",
    "203.0.113.127",
    "203.0.113.128",
    "203.0.113.130",
    "203.0.113.131",
    "203.0.113.140",
    "203.0.113.192",
    "203.0.113.223",
    "203.0.113.224",
    "198.51.100.0",
    "198.51.100.3",
    "198.51.100.63",
    "198.51.100.64",
    "198.51.100.70",
    "198.51.100.128",
    "198.51.100.140",
    "198.51.100.192",
    "192.0.2.99",
    "192.0.2.200",
    "192.0.2.201",
    "192.0.2.202",
];

/// The same for IPv6.
pub(crate) const CUSTOMERS6: [&str; 16] = [
    "2001:db8:1000::",
    "2001:db8:1000:66::1",
    "2001:db8:1000:67::1",
    "2001:db8:1000:7f:ffff:ffff:ffff:ffff",
    "2001:db8:1000:80::",
    "2001:db8:1000:8f:ffff:ffff:ffff:ffff",
    "2001:db8:1000:90::",
    "2001:db8:1800::1",
    "2001:db8:1808::1",
    "2001:db8:1fff:ffff:ffff:ffff:ffff:ffff",
    "2001:db8:2000::1",
    "2001:db8:3000::1",
    "2001:db8:4000::1",
    "2001:db8:5000::1",
    "2001:db8:6000::1",
    "2001:db8:f000::1",
];

/// Mail servers: relays, destinations, neither.
pub(crate) const SERVERS4: [&str; 9] = [
    "192.0.2.10",
    "192.0.2.25",
    "192.0.2.26",
    "192.0.2.63",
    "192.0.2.64",
    "192.0.2.79",
    "192.0.2.127",
    "192.0.2.128",
    "203.0.113.100",
];

/// The same for IPv6.
pub(crate) const SERVERS6: [&str; 6] = [
    "2001:db8:25::25",
    "2001:db8:25::26",
    "2001:db8:26::1",
    "2001:db8:27::",
    "2001:db8:d000::1",
    "2001:db8:e000::1",
];

/// Chance from a seed (SplitMix64, Steele et al., OOPSLA 2014).
#[derive(Clone, Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Zero to `bound` less one; zero where there is nothing to choose.
    pub(crate) const fn below(&mut self, bound: usize) -> usize {
        let bits = self.bits() as usize;
        if bound == 0 { 0 } else { bits % bound }
    }

    /// Below `few`, and in so many of a hundred times below `many`.
    pub(crate) const fn mostly_below(&mut self, few: usize, percent: usize, many: usize) -> usize {
        if self.percent(percent) { self.below(many) } else { self.below(few) }
    }

    /// True in so many of a hundred times.
    pub(crate) const fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) const fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// How often frames are what, in percent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    /// TCP whose port the role judges.
    pub(crate) mail: usize,
    /// Mutated afterwards.
    pub(crate) mutated: usize,
}

/// A frame for an interface of this role.
pub(crate) fn frame(chance: &mut Chance, role: Role, mix: Mix) -> Vec<u8> {
    let mut frame = whole(chance, role, mix);
    if chance.percent(mix.mutated) {
        for _ in 0..=chance.below(3) {
            mutate(chance, &mut frame);
        }
    }
    frame
}

fn whole(chance: &mut Chance, role: Role, mix: Mix) -> Vec<u8> {
    let answers = match role {
        Role::CUSTOMER => false,
        Role::UPSTREAM => true,
        _ => chance.percent(40),
    };
    let transport = transport(chance, mix, answers);
    let piece = match chance.below(100) {
        0..45 => ipv4(chance, transport, answers),
        45..85 => ipv6(chance, transport, answers),
        _ => {
            let inner = ipv4(chance, transport, answers);
            ipv6(chance, inner, answers)
        }
    };
    let piece = link(chance, piece);
    let piece = if chance.percent(20) {
        let padding = vec![25; chance.below(24)];
        piece.padded_with(&padding)
    } else {
        piece
    };
    piece.frame()
}

fn transport(chance: &mut Chance, mix: Mix, answers: bool) -> Piece {
    let length = if chance.percent(3) { chance.below(1400) } else { chance.below(40) };
    let payload = vec![25; length];
    let flags = chance.bits() as u8;
    if chance.percent(mix.mail) {
        let (source, destination) = match (answers, chance.below(20)) {
            (_, 0) => (25, 25),
            (false, _) => (40_000, 25),
            (true, _) => (25, 40_000),
        };
        return Tcp::new(source, destination).flags(flags).payload(&payload).into();
    }
    let ports = [0, 24, 25, 26, 465, 587, 2525, 6400, 40_000];
    let (source, destination) = (chance.pick(&ports), chance.pick(&ports));
    match chance.below(10) {
        0..6 => Tcp::new(source, destination).flags(flags).payload(&payload).into(),
        6 | 7 => udp(source, destination, &payload),
        8 => icmp_quoting(Tcp::mail().within(Ipv4::new("203.0.113.5", "192.0.2.10"))),
        _ => Piece::raw(chance.bits() as u8, &payload),
    }
}

fn ipv4(chance: &mut Chance, piece: Piece, answers: bool) -> Piece {
    let mut piece = piece;
    if chance.percent(10) {
        for _ in 0..=chance.mostly_below(2, 20, 14) {
            let bytes = 12 + 4 * chance.below(6);
            piece = piece.within(Extension::new(extension::AUTHENTICATION).bytes(bytes));
        }
    }
    let (customer, server) = (chance.pick(&CUSTOMERS4), chance.pick(&SERVERS4));
    let mut header = if answers { Ipv4::new(server, customer) } else { Ipv4::new(customer, server) };
    if chance.percent(25) {
        header = header.options(4 * chance.below(11));
    }
    if chance.percent(15) {
        let offset = chance.pick(&[0, 0, 0, 1, 1, 2, 3, 256, 8191]);
        header = header.fragment(chance.pick(&[0, MORE_FRAGMENTS, 0x4000, 0x8000]) | offset);
    }
    if chance.percent(5) {
        header = header.total_length(chance.pick(&[0, 1, 19, 20, 21, 23, 24, 28, 40, 64, 1500, 65_535]));
    }
    if chance.percent(2) {
        header = header.words(chance.below(16) as u8);
    }
    if chance.percent(1) {
        header = header.version(chance.below(16) as u8);
    }
    if chance.percent(4) {
        // The first bytes of a fragment, and not all of the next header.
        let kept = chance.below(28);
        piece = piece.cut_to(kept);
    }
    piece.within(header)
}

fn ipv6(chance: &mut Chance, piece: Piece, answers: bool) -> Piece {
    let mut piece = piece;
    if chance.percent(55) {
        let most = if chance.percent(15) { 15 } else { 4 };
        for _ in 0..=chance.below(most) {
            let kind = chance.pick(&extension::ALL);
            let header = match kind {
                extension::FRAGMENT => {
                    let offset = chance.pick(&[0, 0, 0, 0, 0, 0, 1, 2, 8191]);
                    Extension::fragment(offset, chance.percent(50))
                }
                extension::AUTHENTICATION => Extension::new(kind).bytes(16 + 8 * chance.below(4)),
                _ => Extension::new(kind).bytes(8 + 8 * chance.mostly_below(3, 3, 30)),
            };
            let header = if chance.percent(1) { header.length(chance.bits() as u8) } else { header };
            piece = piece.within(header);
        }
        if chance.percent(4) {
            let kept = chance.below(piece.len() + 1);
            piece = piece.cut_to(kept);
        }
    }
    if chance.percent(1) {
        piece = piece.within(Opaque(chance.bits() as u8, vec![0; 8]));
    }
    let (customer, server) = (chance.pick(&CUSTOMERS6), chance.pick(&SERVERS6));
    let mut header = if answers { Ipv6::new(server, customer) } else { Ipv6::new(customer, server) };
    if chance.percent(5) {
        header = header.payload_length(chance.pick(&[0, 1, 3, 4, 7, 8, 11, 12, 16, 28, 40, 1400, 65_535]));
    }
    if chance.percent(1) {
        header = header.version(chance.below(16) as u8);
    }
    piece.within(header)
}

fn link(chance: &mut Chance, piece: Piece) -> Piece {
    let mut piece = piece;
    if chance.percent(15) {
        let labels = 1 + chance.mostly_below(3, 20, 10);
        piece = piece.within(Mpls(labels));
    }
    if chance.percent(15) {
        piece = piece.within(chance.pick(&[Pppoe::Plain, Pppoe::Compressed]));
    }
    if chance.percent(10) {
        piece = piece.within(Snap);
    }
    if chance.percent(40) {
        for _ in 0..=chance.mostly_below(3, 20, 7) {
            piece = piece.within(Vlan(chance.pick(&[0x8100, 0x88a8, 0x9100])));
        }
    }
    piece
}

fn mutate(chance: &mut Chance, frame: &mut Vec<u8>) {
    let length = frame.len();
    if length == 0 {
        return;
    }
    // Headers are at the front, and so are the bytes worth changing.
    let at = if chance.percent(85) { chance.below(length.min(90)) } else { chance.below(length) };
    match chance.below(8) {
        0 | 1 => frame[at] ^= 1 << chance.below(8),
        2 => frame[at] = chance.bits() as u8,
        3 => frame[at] = chance.pick(&[0, 1, 4, 5, 6, 20, 25, 44, 51, 60, 0x45, 0x60, 0xff]),
        4 => {
            let value: u16 =
                chance.pick(&[0, 1, 8, 20, 40, 1500, 0x0800, 0x86dd, 0x8100, 0x8847, 0x8864, 0xffff]);
            if let Some(pair) = frame.get_mut(at..at + 2) {
                pair.copy_from_slice(&value.to_be_bytes());
            }
        }
        5 => frame.truncate(at),
        6 => {
            let end = (at + 4 * (1 + chance.below(10))).min(length);
            let again = frame[at..end].to_vec();
            frame.splice(at..at, again);
        }
        _ => {
            let end = (at + 1 + chance.below(8)).min(length);
            frame.drain(at..end);
        }
    }
}

/// A number from the environment, so that a run can be repeated or made longer.
#[expect(clippy::panic, reason = "a number that is none must not pass for the default")]
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")),
        Err(_) => default,
    }
}
