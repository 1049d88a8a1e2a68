//! Frames for tests, layer by layer, inside out: lengths and checksums are right unless a layer says otherwise.
#![allow(dead_code, reason = "each test binary builds its own kinds of frames")]

use std::net::{Ipv4Addr, Ipv6Addr};

/// What an outer layer must call what it wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Names {
    /// EtherType.
    ethernet: u16,
    /// PPP protocol number.
    ppp: u16,
    /// IP protocol number.
    ip: u8,
}

impl Names {
    const fn ip(number: u8) -> Self {
        Self { ethernet: 0, ppp: 0, ip: number }
    }

    const fn ethernet(number: u16) -> Self {
        Self { ethernet: number, ppp: 0, ip: 0 }
    }
}

/// A transport header whose checksum waits for the addresses of an IP header.
#[derive(Clone, Copy, Debug)]
struct Unsummed {
    at: usize,
    field: usize,
    protocol: u8,
}

/// Bytes, and what the next layer needs to know of them.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    bytes: Vec<u8>,
    names: Names,
    unsummed: Option<Unsummed>,
    /// Where the outermost IP header starts.
    network: Option<usize>,
    /// Where the innermost transport header starts.
    transport: Option<usize>,
}

impl Piece {
    /// Bytes that are no header of ours, under an IP protocol number.
    pub(crate) fn raw(protocol: u8, bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.to_vec(),
            names: Names::ip(protocol),
            unsummed: None,
            network: None,
            transport: None,
        }
    }

    /// This, inside another layer.
    pub(crate) fn within(self, layer: impl Layer) -> Self {
        layer.wrap(self)
    }

    /// This, inside Ethernet with the right type, as bytes.
    pub(crate) fn frame(self) -> Vec<u8> {
        self.within(Ethernet::default()).bytes
    }

    /// The bytes.
    pub(crate) fn bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The first `length` bytes.
    pub(crate) fn cut_to(mut self, length: usize) -> Self {
        self.bytes.truncate(length);
        self
    }

    /// The first bytes, as many as leave `kept` of the innermost transport header.
    pub(crate) fn cut_in_transport(self, kept: usize) -> Self {
        let at = self.transport.unwrap_or(0);
        self.cut_to(at + kept)
    }

    /// Followed by bytes that belong to no inner layer.
    pub(crate) fn padded_with(mut self, padding: &[u8]) -> Self {
        self.bytes.extend_from_slice(padding);
        self
    }

    /// Followed by zeros up to `length`, as Ethernet needs 60.
    pub(crate) fn padded_to(mut self, length: usize) -> Self {
        if self.bytes.len() < length {
            self.bytes.resize(length, 0);
        }
        self
    }

    /// Where the outermost IP header starts.
    pub(crate) fn network(&self) -> usize {
        self.network.unwrap_or(0)
    }

    /// Where the innermost transport header starts.
    pub(crate) fn transport(&self) -> usize {
        self.transport.unwrap_or(0)
    }

    /// Puts a header in front.
    fn behind(mut self, header: &[u8], names: Names) -> Self {
        self.bytes.splice(0..0, header.iter().copied());
        let length = header.len();
        if let Some(unsummed) = &mut self.unsummed {
            unsummed.at += length;
            unsummed.field += length;
        }
        self.network = self.network.map(|at| at + length);
        self.transport = self.transport.map(|at| at + length);
        self.names = names;
        self
    }

    /// Fills the waiting transport checksum in, with the addresses of a pseudo header.
    fn sum(&mut self, addresses: &[u8]) {
        let Some(unsummed) = self.unsummed.take() else { return };
        let Some(segment) = self.bytes.get(unsummed.at..) else { return };
        let mut pseudo = addresses.to_vec();
        pseudo.extend_from_slice(&(segment.len() as u32).to_be_bytes());
        pseudo.extend_from_slice(&[0, 0, 0, unsummed.protocol]);
        pseudo.extend_from_slice(segment);
        let sum = checksum(&pseudo).to_be_bytes();
        if let Some(field) = self.bytes.get_mut(unsummed.field..unsummed.field + 2) {
            field.copy_from_slice(&sum);
        }
    }
}

/// RFC 1071.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = bytes.chunks(2).fold(0_u64, |sum, pair| {
        sum + u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))
    });
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Something that wraps bytes.
pub(crate) trait Layer {
    /// Those bytes, wrapped.
    fn wrap(&self, inner: Piece) -> Piece;
}

/// TCP flag bits (RFC 9293).
pub(crate) mod flag {
    pub(crate) const FIN: u8 = 1;
    pub(crate) const SYN: u8 = 2;
    pub(crate) const RST: u8 = 4;
    pub(crate) const PSH: u8 = 8;
    pub(crate) const ACK: u8 = 16;
    pub(crate) const URG: u8 = 32;
    pub(crate) const ECE: u8 = 64;
    pub(crate) const CWR: u8 = 128;
}

/// A TCP segment.
#[derive(Clone, Debug)]
pub(crate) struct Tcp {
    pub(crate) source: u16,
    pub(crate) destination: u16,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) checksum: Option<u16>,
}

impl Tcp {
    /// A SYN between two ports.
    pub(crate) fn new(source: u16, destination: u16) -> Self {
        Self {
            source,
            destination,
            sequence: 1,
            acknowledgement: 0,
            flags: flag::SYN,
            window: 0xfaf0,
            options: Vec::new(),
            payload: Vec::new(),
            checksum: None,
        }
    }

    /// A SYN to port 25.
    pub(crate) fn mail() -> Self {
        Self::new(40_000, 25)
    }

    /// A SYN-ACK from port 25.
    pub(crate) fn answer() -> Self {
        Self::new(25, 40_000).flags(flag::SYN | flag::ACK)
    }

    pub(crate) fn flags(mut self, flags: u8) -> Self {
        self.flags = flags;
        self
    }

    pub(crate) fn numbers(mut self, sequence: u32, acknowledgement: u32) -> Self {
        (self.sequence, self.acknowledgement) = (sequence, acknowledgement);
        self
    }

    pub(crate) fn window(mut self, window: u16) -> Self {
        self.window = window;
        self
    }

    pub(crate) fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    pub(crate) fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    pub(crate) fn checksum(mut self, checksum: u16) -> Self {
        self.checksum = Some(checksum);
        self
    }

    /// The segment, to be wrapped.
    pub(crate) fn within(self, layer: impl Layer) -> Piece {
        Piece::from(self).within(layer)
    }
}

impl From<Tcp> for Piece {
    fn from(tcp: Tcp) -> Self {
        let mut options = tcp.options;
        options.resize(options.len().next_multiple_of(4), 1);
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&tcp.source.to_be_bytes());
        bytes.extend_from_slice(&tcp.destination.to_be_bytes());
        bytes.extend_from_slice(&tcp.sequence.to_be_bytes());
        bytes.extend_from_slice(&tcp.acknowledgement.to_be_bytes());
        bytes.extend_from_slice(&[(5 + options.len() as u8 / 4) << 4, tcp.flags]);
        bytes.extend_from_slice(&tcp.window.to_be_bytes());
        bytes.extend_from_slice(&tcp.checksum.unwrap_or(0).to_be_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&options);
        bytes.extend_from_slice(&tcp.payload);
        let unsummed =
            if tcp.checksum.is_none() { Some(Unsummed { at: 0, field: 16, protocol: 6 }) } else { None };
        Self { bytes, names: Names::ip(6), unsummed, network: None, transport: Some(0) }
    }
}

/// A UDP datagram.
pub(crate) fn udp(source: u16, destination: u16, payload: &[u8]) -> Piece {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&source.to_be_bytes());
    bytes.extend_from_slice(&destination.to_be_bytes());
    bytes.extend_from_slice(&(8 + payload.len() as u16).to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(payload);
    let unsummed = Some(Unsummed { at: 0, field: 6, protocol: 17 });
    Piece { bytes, names: Names::ip(17), unsummed, network: None, transport: Some(0) }
}

/// ICMP "destination unreachable, administratively prohibited", quoting a packet (RFC 792).
pub(crate) fn icmp_quoting(quoted: Piece) -> Piece {
    let mut bytes = vec![3, 13, 0, 0, 0, 0, 0, 0];
    bytes.extend_from_slice(&quoted.bytes);
    let sum = checksum(&bytes).to_be_bytes();
    bytes[2..4].copy_from_slice(&sum);
    Piece { bytes, names: Names::ip(1), unsummed: None, network: None, transport: Some(0) }
}

/// The same for IPv6 (RFC 4443).
pub(crate) fn icmpv6_quoting(quoted: Piece) -> Piece {
    let mut bytes = vec![1, 1, 0, 0, 0, 0, 0, 0];
    bytes.extend_from_slice(&quoted.bytes);
    let unsummed = Some(Unsummed { at: 0, field: 2, protocol: 58 });
    Piece { bytes, names: Names::ip(58), unsummed, network: None, transport: Some(0) }
}

/// An IPv4 header.
#[derive(Clone, Debug)]
pub(crate) struct Ipv4 {
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
    pub(crate) options: Vec<u8>,
    pub(crate) version: u8,
    pub(crate) words: Option<u8>,
    pub(crate) total_length: Option<u16>,
    /// Reserved bit, DF and MF in the upper three bits, the offset in units of eight bytes below.
    pub(crate) fragment: u16,
    pub(crate) protocol: Option<u8>,
    pub(crate) checksum: Option<u16>,
}

/// MF (RFC 791).
pub(crate) const MORE_FRAGMENTS: u16 = 0x2000;
/// DF.
pub(crate) const DONT_FRAGMENT: u16 = 0x4000;

impl Ipv4 {
    pub(crate) fn new(source: &str, destination: &str) -> Self {
        Self::between(address(source), address(destination))
    }

    pub(crate) fn between(source: Ipv4Addr, destination: Ipv4Addr) -> Self {
        Self {
            source,
            destination,
            options: Vec::new(),
            version: 4,
            words: None,
            total_length: None,
            fragment: 0,
            protocol: None,
            checksum: None,
        }
    }

    /// `bytes` of options, at most 40, all "no operation".
    pub(crate) fn options(mut self, bytes: usize) -> Self {
        self.options = vec![1; bytes.next_multiple_of(4)];
        self
    }

    /// Options of these very bytes.
    pub(crate) fn option_bytes(mut self, bytes: &[u8]) -> Self {
        self.options = bytes.to_vec();
        self.options.resize(bytes.len().next_multiple_of(4), 0);
        self
    }

    pub(crate) fn version(mut self, version: u8) -> Self {
        self.version = version;
        self
    }

    /// The header length field, whatever the options are.
    pub(crate) fn words(mut self, words: u8) -> Self {
        self.words = Some(words);
        self
    }

    pub(crate) fn total_length(mut self, length: u16) -> Self {
        self.total_length = Some(length);
        self
    }

    /// Flags and offset, as they are on the wire.
    pub(crate) fn fragment(mut self, field: u16) -> Self {
        self.fragment = field;
        self
    }

    pub(crate) fn protocol(mut self, protocol: u8) -> Self {
        self.protocol = Some(protocol);
        self
    }

    pub(crate) fn checksum(mut self, checksum: u16) -> Self {
        self.checksum = Some(checksum);
        self
    }
}

impl Layer for Ipv4 {
    fn wrap(&self, mut inner: Piece) -> Piece {
        let mut addresses = self.source.octets().to_vec();
        addresses.extend_from_slice(&self.destination.octets());
        inner.sum(&addresses);
        let length = 20 + self.options.len();
        let mut header = vec![self.version << 4 | self.words.unwrap_or(length as u8 / 4), 0];
        let total = self.total_length.unwrap_or((length + inner.bytes.len()) as u16);
        header.extend_from_slice(&total.to_be_bytes());
        header.extend_from_slice(&[0x12, 0x34]);
        header.extend_from_slice(&self.fragment.to_be_bytes());
        header.extend_from_slice(&[64, self.protocol.unwrap_or(inner.names.ip), 0, 0]);
        header.extend_from_slice(&addresses);
        header.extend_from_slice(&self.options);
        let sum = self.checksum.unwrap_or_else(|| checksum(&header)).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
        let mut piece = inner.behind(&header, Names { ethernet: 0x0800, ppp: 0x0021, ip: 4 });
        piece.network = Some(0);
        piece
    }
}

/// An IPv6 header.
#[derive(Clone, Debug)]
pub(crate) struct Ipv6 {
    pub(crate) source: Ipv6Addr,
    pub(crate) destination: Ipv6Addr,
    pub(crate) version: u8,
    pub(crate) payload_length: Option<u16>,
    pub(crate) next: Option<u8>,
}

impl Ipv6 {
    pub(crate) fn new(source: &str, destination: &str) -> Self {
        Self::between(address(source), address(destination))
    }

    pub(crate) fn between(source: Ipv6Addr, destination: Ipv6Addr) -> Self {
        Self { source, destination, version: 6, payload_length: None, next: None }
    }

    pub(crate) fn version(mut self, version: u8) -> Self {
        self.version = version;
        self
    }

    pub(crate) fn payload_length(mut self, length: u16) -> Self {
        self.payload_length = Some(length);
        self
    }

    pub(crate) fn next(mut self, protocol: u8) -> Self {
        self.next = Some(protocol);
        self
    }
}

impl Layer for Ipv6 {
    fn wrap(&self, mut inner: Piece) -> Piece {
        let mut addresses = self.source.octets().to_vec();
        addresses.extend_from_slice(&self.destination.octets());
        inner.sum(&addresses);
        let mut header = vec![self.version << 4, 0, 0, 0];
        let length = self.payload_length.unwrap_or(inner.bytes.len() as u16);
        header.extend_from_slice(&length.to_be_bytes());
        header.extend_from_slice(&[self.next.unwrap_or(inner.names.ip), 64]);
        header.extend_from_slice(&addresses);
        let mut piece = inner.behind(&header, Names { ethernet: 0x86dd, ppp: 0x0057, ip: 41 });
        piece.network = Some(0);
        piece
    }
}

/// Kinds of extension header, by protocol number.
pub(crate) mod extension {
    pub(crate) const HOP_BY_HOP: u8 = 0;
    pub(crate) const ROUTING: u8 = 43;
    pub(crate) const FRAGMENT: u8 = 44;
    pub(crate) const AUTHENTICATION: u8 = 51;
    pub(crate) const DESTINATION_OPTIONS: u8 = 60;
    pub(crate) const MOBILITY: u8 = 135;
    /// All that an IPv6 walk follows.
    pub(crate) const ALL: [u8; 6] =
        [HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION_OPTIONS, MOBILITY];
}

/// An extension header, also AH between IPv4 and TCP.
#[derive(Clone, Debug)]
pub(crate) struct Extension {
    pub(crate) kind: u8,
    /// Bytes of the whole header.
    pub(crate) bytes: usize,
    /// The length field, whatever the header's length is.
    pub(crate) length: Option<u8>,
    pub(crate) next: Option<u8>,
    /// Of a fragment header: the offset in units of eight bytes, above two zero bits and M.
    pub(crate) fragment: u16,
}

impl Extension {
    /// The shortest of its kind; AH with a 12-byte integrity value (RFC 4302).
    pub(crate) fn new(kind: u8) -> Self {
        let bytes = if kind == extension::AUTHENTICATION { 24 } else { 8 };
        Self { kind, bytes, length: None, next: None, fragment: 0 }
    }

    /// `bytes` long.
    pub(crate) fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes;
        self
    }

    pub(crate) fn length(mut self, field: u8) -> Self {
        self.length = Some(field);
        self
    }

    pub(crate) fn next(mut self, protocol: u8) -> Self {
        self.next = Some(protocol);
        self
    }

    /// A fragment header; `offset` in units of eight bytes.
    pub(crate) fn fragment(offset: u16, more: bool) -> Self {
        Self { fragment: offset << 3 | u16::from(more), ..Self::new(extension::FRAGMENT) }
    }
}

impl Layer for Extension {
    fn wrap(&self, inner: Piece) -> Piece {
        let mut header = vec![0; self.bytes];
        header[0] = self.next.unwrap_or(inner.names.ip);
        header[1] = self.length.unwrap_or(match self.kind {
            extension::FRAGMENT => 0,
            extension::AUTHENTICATION => (self.bytes / 4).saturating_sub(2) as u8,
            _ => (self.bytes / 8).saturating_sub(1) as u8,
        });
        match self.kind {
            extension::FRAGMENT => {
                header[2..4].copy_from_slice(&self.fragment.to_be_bytes());
                header[4..8].copy_from_slice(&[0x12, 0x34, 0x56, 0x78]);
            }
            // RFC 8200 §4.2: PadN over the rest.
            extension::HOP_BY_HOP | extension::DESTINATION_OPTIONS if self.bytes <= 256 => {
                header[2] = 1;
                header[3] = self.bytes as u8 - 4;
            }
            _ => {}
        }
        inner.behind(&header, Names::ip(self.kind))
    }
}

/// Any header of these bytes, between IP and what it carries: GRE, ESP.
#[derive(Clone, Debug)]
pub(crate) struct Opaque(pub(crate) u8, pub(crate) Vec<u8>);

impl Layer for Opaque {
    fn wrap(&self, inner: Piece) -> Piece {
        inner.behind(&self.1, Names::ip(self.0))
    }
}

/// A VLAN tag with this EtherType of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vlan(pub(crate) u16);

impl Layer for Vlan {
    fn wrap(&self, inner: Piece) -> Piece {
        let [high, low] = inner.names.ethernet.to_be_bytes();
        inner.behind(&[0x20, 7, high, low], Names::ethernet(self.0))
    }
}

/// A PPPoE session header (RFC 2516) and the PPP protocol field behind it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pppoe {
    /// Two bytes of protocol.
    Plain,
    /// One byte where the other is zero (RFC 1661 §6.5).
    Compressed,
    /// Two bytes of this protocol.
    Of(u16),
}

impl Layer for Pppoe {
    fn wrap(&self, inner: Piece) -> Piece {
        let protocol = match self {
            Self::Of(protocol) => *protocol,
            Self::Plain | Self::Compressed => inner.names.ppp,
        };
        let [high, low] = protocol.to_be_bytes();
        let compressed = matches!(self, Self::Compressed) && high == 0;
        let protocol = if compressed { vec![low] } else { vec![high, low] };
        let [length, rest] = ((protocol.len() + inner.bytes.len()) as u16).to_be_bytes();
        let mut header = vec![0x11, 0, 0, 1, length, rest];
        header.extend(protocol);
        inner.behind(&header, Names::ethernet(0x8864))
    }
}

/// An MPLS stack of this many labels; the last has the S bit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mpls(pub(crate) usize);

impl Layer for Mpls {
    fn wrap(&self, inner: Piece) -> Piece {
        let header = (0..self.0)
            .flat_map(|label| [0, 1, 0x40 | u8::from(label + 1 == self.0), 64])
            .collect::<Vec<_>>();
        inner.behind(&header, Names { ethernet: 0x8847, ppp: 0x0281, ip: 137 })
    }
}

/// LLC with SNAP (RFC 1042); the type field before it becomes a length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Snap;

impl Layer for Snap {
    fn wrap(&self, inner: Piece) -> Piece {
        let [high, low] = inner.names.ethernet.to_be_bytes();
        let length = (inner.bytes.len() + 8).min(1500) as u16;
        inner.behind(&[0xaa, 0xaa, 3, 0, 0, 0, high, low], Names::ethernet(length))
    }
}

/// An Ethernet header, with the type of what it carries or another.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ethernet {
    pub(crate) kind: Option<u16>,
}

impl Ethernet {
    pub(crate) const fn of(kind: u16) -> Self {
        Self { kind: Some(kind) }
    }
}

impl Layer for Ethernet {
    fn wrap(&self, inner: Piece) -> Piece {
        // Locally administered addresses: the MAC decides nothing.
        let mut header = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        header.extend_from_slice(&self.kind.unwrap_or(inner.names.ethernet).to_be_bytes());
        inner.behind(&header, Names { ethernet: 0x6558, ppp: 0x0031, ip: 143 })
    }
}

/// Cuts an IPv4 packet (a frame's network layer, no link header) into fragments at these payload offsets, each a
/// multiple of eight.
pub(crate) fn fragments4(packet: &[u8], cuts: &[usize]) -> Vec<Piece> {
    let header = usize::from(packet[0] & 15) * 4;
    let payload = &packet[header..];
    pieces(payload.len(), cuts)
        .map(|(start, end, more)| {
            let mut bytes = packet[..header].to_vec();
            let total = (header + end - start) as u16;
            bytes[2..4].copy_from_slice(&total.to_be_bytes());
            let field = (start / 8) as u16 | if more { MORE_FRAGMENTS } else { 0 };
            bytes[6..8].copy_from_slice(&field.to_be_bytes());
            bytes[10..12].copy_from_slice(&[0, 0]);
            let sum = checksum(&bytes).to_be_bytes();
            bytes[10..12].copy_from_slice(&sum);
            bytes.extend_from_slice(&payload[start..end]);
            let names = Names { ethernet: 0x0800, ppp: 0x0021, ip: 4 };
            Piece { bytes, names, unsummed: None, network: Some(0), transport: Some(header) }
        })
        .collect()
}

/// The same for IPv6: all behind the fixed header is the fragmentable part.
pub(crate) fn fragments6(packet: &[u8], cuts: &[usize]) -> Vec<Piece> {
    let payload = &packet[40..];
    pieces(payload.len(), cuts)
        .map(|(start, end, more)| {
            let mut bytes = packet[..40].to_vec();
            bytes[4..6].copy_from_slice(&((8 + end - start) as u16).to_be_bytes());
            let following = std::mem::replace(&mut bytes[6], extension::FRAGMENT);
            let field = ((start as u16) | u16::from(more)).to_be_bytes();
            bytes.extend_from_slice(&[following, 0, field[0], field[1], 0x12, 0x34, 0x56, 0x78]);
            bytes.extend_from_slice(&payload[start..end]);
            let names = Names { ethernet: 0x86dd, ppp: 0x0057, ip: 41 };
            Piece { bytes, names, unsummed: None, network: Some(0), transport: Some(48) }
        })
        .collect()
}

/// Start, end, and whether more follow.
fn pieces(length: usize, cuts: &[usize]) -> impl Iterator<Item = (usize, usize, bool)> {
    let mut bounds =
        cuts.iter().map(|cut| cut / 8 * 8).filter(|cut| *cut > 0 && *cut < length).collect::<Vec<_>>();
    bounds.extend([0, length]);
    bounds.sort_unstable();
    bounds.dedup();
    (1..bounds.len()).map(move |end| (bounds[end - 1], bounds[end], bounds[end] < length))
}

#[expect(clippy::panic, reason = "a wrong address is a mistake in the test that wrote it")]
fn address<A: std::str::FromStr>(text: &str) -> A {
    text.parse().unwrap_or_else(|_| panic!("{text} is no address of the family"))
}

/// A frame as people paste it.
pub(crate) fn hex(frame: &[u8]) -> String {
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}
