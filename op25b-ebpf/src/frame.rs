//! The walk through a frame: from the link header to the first four bytes of TCP. Knows nothing of policies.
//!
//! A frame always ends in a named [`Outcome`]: a fragment, a cut header or too long a chain is an input to the
//! decision, not an error that slips past it.

use crate::{
    abi::{Link, Role, Softwire},
    address::Family,
    found::{FARTHEST, Found, Outcome, Wrapping},
    packet::Packet,
};

/// VLAN tags that are looked through, priority tags not counted.
pub const TAGS: usize = 5;
/// Tags may end here: what follows them must be within what offsets can name.
const TAGS_END: usize = FARTHEST - 256;
/// Tags that one step of the walk takes at most; as many steps as a frame has room for follow each other.
const TAGS_OF_STEP: usize = 128;
/// MPLS labels that are looked through.
pub const LABELS: usize = 8;
/// Extension headers that are looked through, in either family; RFC 8200 names eight for one packet.
pub const HEADERS: usize = 12;

/// IEEE 802.3: source and destination MAC and the type field.
pub(crate) const ETHERNET: usize = 14;
/// Type fields up to this are a length, and LLC follows. IEEE 802.3 leaves those above 1,500 undefined; Linux takes
/// them for lengths.
pub(crate) const LLC_LENGTH: u16 = 0x5ff;
/// RFC 1042: LLC with SNAP and an all-zero organisation code; the EtherType follows.
const SNAP: [u8; 6] = [0xaa, 0xaa, 0x03, 0, 0, 0];
/// IEEE 802 numbers: EtherTypes.
const TYPE_IPV4: u16 = 0x0800;
const TYPE_IPV6: u16 = 0x86dd;
const TYPE_MPLS: u16 = 0x8847;
const TYPE_MPLS_MULTICAST: u16 = 0x8848;
pub(crate) const TYPE_PPPOE_SESSION: u16 = 0x8864;
/// PPP protocol numbers (RFC 1661, RFC 5072, RFC 3032).
const PPP_IPV4: u16 = 0x0021;
const PPP_IPV6: u16 = 0x0057;
const PPP_MPLS: u16 = 0x0281;
/// RFC 791: header without options.
pub(crate) const IPV4: usize = 20;
/// RFC 791: header with all the options it can have.
const LONGEST_IPV4: usize = 60;
/// RFC 8200: the fixed header.
pub(crate) const IPV6: usize = 40;
/// RFC 9293: the two ports.
const PORTS: usize = 4;
/// IANA protocol numbers.
const HOP_BY_HOP: u8 = 0;
const IPV4_IN_IP: u8 = 4;
pub(crate) const TCP: u8 = 6;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const ICMPV6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
/// RFC 5321: the SMTP port.
const PORT_25: u16 = 25;
/// RFC 6409: message submission.
pub const SUBMISSION: u16 = 587;
/// RFC 8314: submission over implicit TLS.
pub const SUBMISSIONS: u16 = 465;

/// How to look at the frames of one interface: constants of its generation, asked for only where they matter.
pub trait Look: Copy {
    /// What the frame starts with.
    fn link(self) -> Link;
    /// Whose packets are judged.
    fn role(self) -> Role;
    /// Whether IPv4 in IPv6 is looked through, and who the customer is then.
    fn softwire(self) -> Softwire;
    /// Whether submission is counted: TCP to ports 587 and 465.
    fn submission(self) -> bool;
}

/// The host's way to say it.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    /// See [`Look::link`].
    pub link: Link,
    /// See [`Look::role`].
    pub role: Role,
    /// See [`Look::softwire`].
    pub softwire: Softwire,
    /// See [`Look::submission`].
    pub submission: bool,
}

impl Look for Sight {
    fn link(self) -> Link {
        self.link
    }

    fn role(self) -> Role {
        self.role
    }

    fn softwire(self) -> Softwire {
        self.softwire
    }

    fn submission(self) -> bool {
        self.submission
    }
}

/// Where the network header starts.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    /// Offset from the start of the frame.
    pub at: usize,
    /// The family that the link layer announced.
    pub family: Family,
}

/// Finds what there is to judge in a frame.
#[inline(always)]
pub fn parse<P: Packet>(packet: &P, look: impl Look) -> Found {
    match plain(packet, look) {
        Some(found) => found,
        None => packet.walk(look),
    }
}

/// Walks the whole frame.
#[inline(always)]
pub fn walk<P: Packet>(packet: &P, look: impl Look) -> Found {
    let (network, wrapping) = match link(packet, look.link()) {
        Ok(found) => found,
        Err(outcome) => return Found::nothing(outcome),
    };
    let everyday = packet.peek(network.at).and_then(|head| everyday(packet, network, head, look));
    everyday.unwrap_or_else(|| packet.network(network, look)).through(wrapping)
}

/// The frames that need no walk, decided without one: IPv4 without options and IPv6 without extension headers, as they
/// are or behind up to two tags, a PPPoE header or both. `None`: walk. Never says anything that the walk would not.
#[inline(always)]
pub fn plain<P: Packet>(packet: &P, look: impl Look) -> Option<Found> {
    // One bounds check for all that IPv4 needs: every frame on an Ethernet wire is longer.
    match look.link() {
        Link::Ethernet => {
            let frame: [u8; ETHERNET + IPV4 + PORTS] = packet.peek(0)?;
            let family = match u16::from_be_bytes([frame[ETHERNET - 2], frame[ETHERNET - 1]]) {
                TYPE_IPV4 => Family::Ipv4,
                TYPE_IPV6 => Family::Ipv6,
                kind => return wrapped(packet, kind, frame, look),
            };
            everyday(packet, Network { at: ETHERNET, family }, *frame.last_chunk()?, look)
        }
        Link::Ip => {
            let head: [u8; IPV4 + PORTS] = packet.peek(0)?;
            everyday(packet, Network { at: 0, family: nibble(head[0])? }, head, look)
        }
    }
}

/// What most frames of an access network have in front of IP: up to two tags, PPPoE, or both.
#[inline(always)]
fn wrapped<P: Packet>(
    packet: &P,
    kind: u16,
    frame: [u8; ETHERNET + IPV4 + PORTS],
    look: impl Look,
) -> Option<Found> {
    const TAG: usize = 4;
    const PPPOE: usize = 8;
    let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let (mut at, mut kind, mut wrapping) = (ETHERNET, kind, Wrapping::NONE);
    if is_tag(kind) {
        (at, kind, wrapping) = (ETHERNET + TAG, word(ETHERNET + 2), Wrapping::VLAN);
        if is_tag(kind) {
            (at, kind) = (ETHERNET + 2 * TAG, word(ETHERNET + TAG + 2));
        }
    }
    if kind == TYPE_PPPOE_SESSION {
        // Written out, so that each is a load at an offset that is known.
        let protocol = match at {
            ETHERNET => word(ETHERNET + 6),
            at if at == ETHERNET + TAG => word(ETHERNET + TAG + 6),
            _ => word(ETHERNET + 2 * TAG + 6),
        };
        kind = match protocol {
            PPP_IPV4 => TYPE_IPV4,
            PPP_IPV6 => TYPE_IPV6,
            _ => return None,
        };
        at += PPPOE;
        wrapping = wrapping.and(Wrapping::PPPOE);
    }
    let family = match kind {
        TYPE_IPV4 => Family::Ipv4,
        TYPE_IPV6 => Family::Ipv6,
        _ => return None,
    };
    Some(everyday(packet, Network { at, family }, packet.peek(at)?, look)?.through(wrapping))
}

/// TCP and UDP behind a bare IP header, whose first bytes are `head`. `None` where it takes more than a look.
#[inline(always)]
fn everyday<P: Packet>(
    packet: &P,
    Network { at, family }: Network,
    head: [u8; IPV4 + PORTS],
    look: impl Look,
) -> Option<Found> {
    let (transport, ends_before_ports, bytes) = match family {
        Family::Ipv4 => {
            let first_byte_without_options = 4 << 4 | 5;
            if head[0] != first_byte_without_options
                || ipv4_fragment_offset(head[6], head[7]) != 0
                || head[9] == AUTHENTICATION
            {
                return None;
            }
            if head[9] != TCP {
                return Some(Found::nothing(Outcome::OtherProtocol));
            }
            let length = u16::from_be_bytes([head[2], head[3]]);
            (at + IPV4, length < (IPV4 + PORTS) as u16, *head.last_chunk()?)
        }
        Family::Ipv6 => {
            if head[0] >> 4 != 6 {
                return None;
            }
            if head[6] != TCP {
                return match head[6] {
                    UDP | ICMPV6 => Some(Found::nothing(Outcome::OtherProtocol)),
                    _ => None,
                };
            }
            let length = u16::from_be_bytes([head[4], head[5]]);
            (at + IPV6, length < PORTS as u16, packet.peek(at + IPV6)?)
        }
    };
    // A length of zero is the walk's business too.
    if ends_before_ports {
        return None;
    }
    Some(match ports(bytes, look) {
        Outcome::OtherPort => Found::nothing(Outcome::OtherPort),
        // Judged, or counted.
        judged => Found::at(judged, source(family, at), destination(family, at), transport),
    })
}

/// Looks through tags, LLC/SNAP, PPPoE and MPLS.
#[inline(always)]
pub fn link<P: Packet>(packet: &P, link: Link) -> Result<(Network, Wrapping), Outcome> {
    let mut wrapping = Wrapping::NONE;
    let mut at = 0;
    let mut kind = match link {
        Link::Ethernet => {
            at = ETHERNET;
            packet.u16(ETHERNET - 2).ok_or(Outcome::CutHeader)?
        }
        Link::Ip => match packet.u16(0).ok_or(Outcome::CutHeader)? >> 12 {
            4 => TYPE_IPV4,
            6 => TYPE_IPV6,
            _ => return Err(Outcome::BadHeader),
        },
    };

    for _ in 0..TAGS {
        if !is_tag(kind) {
            break;
        }
        kind = packet.u16(at + 2).ok_or(Outcome::CutHeader)?;
        at += 4;
        wrapping = Wrapping::VLAN;
    }
    if is_tag(kind) {
        // Once more, and counted: priority tags are no VLANs.
        match packet.all_tags() {
            Tags::Passed { kind: next, at: behind, vlans } if vlans <= TAGS && behind <= TAGS_END => {
                (kind, at) = (next, behind);
            }
            Tags::Passed { .. } => return Err(Outcome::ManyTags),
            Tags::Cut => return Err(Outcome::CutHeader),
        }
    }

    if kind <= LLC_LENGTH {
        let [a, b, c, d, e, f, high, low]: [u8; 8] = packet.read(at).ok_or(Outcome::CutHeader)?;
        if [a, b, c, d, e, f] != SNAP {
            return Err(Outcome::NotIp);
        }
        kind = u16::from_be_bytes([high, low]);
        at += 8;
        wrapping = wrapping.and(Wrapping::SNAP);
    }

    if kind == TYPE_PPPOE_SESSION {
        // Version, type and code are not asked for: Linux's own receiver ignores them.
        let [high, low]: [u8; 2] = packet.read(at + 6).ok_or(Outcome::CutHeader)?;
        // RFC 1661 §6.5: an odd first byte is a compressed protocol field.
        let compressed = high & 1 == 1;
        let protocol = if compressed { u16::from(high) } else { u16::from_be_bytes([high, low]) };
        at += if compressed { 7 } else { 8 };
        wrapping = wrapping.and(Wrapping::PPPOE);
        kind = match protocol {
            PPP_IPV4 => TYPE_IPV4,
            PPP_IPV6 => TYPE_IPV6,
            PPP_MPLS => TYPE_MPLS,
            _ => return Err(Outcome::NotIp),
        };
    }

    if kind == TYPE_MPLS || kind == TYPE_MPLS_MULTICAST {
        wrapping = wrapping.and(Wrapping::MPLS);
        let mut bottom = false;
        for _ in 0..LABELS {
            let [_, _, third, _]: [u8; 4] = packet.read(at).ok_or(Outcome::CutHeader)?;
            at += 4;
            // RFC 3032 §2.1: the S bit marks the last label.
            bottom = third & 1 == 1;
            if bottom {
                break;
            }
        }
        if !bottom {
            return Err(Outcome::ManyLabels);
        }
        kind = match packet.u16(at).ok_or(Outcome::CutHeader)? >> 12 {
            4 => TYPE_IPV4,
            6 => TYPE_IPV6,
            _ => return Err(Outcome::NotIp),
        };
    }

    match kind {
        TYPE_IPV4 => Ok((Network { at, family: Family::Ipv4 }, wrapping)),
        TYPE_IPV6 => Ok((Network { at, family: Family::Ipv6 }, wrapping)),
        _ => Err(Outcome::NotIp),
    }
}

/// What a run of tags says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tags {
    /// Type and offset of what follows, and how many of them name a VLAN.
    ///
    /// A tag of VLAN 0 is a priority (IEEE 802.1Q §6.9.3). Linux takes any number of those off, with VLANs or without.
    Passed {
        /// The type behind them.
        kind: u16,
        /// The offset behind them.
        at: usize,
        /// Tags of a VLAN other than 0.
        vlans: usize,
    },
    /// The frame ends inside one.
    Cut,
}

/// Reads all tags behind an Ethernet header, until there are too many VLANs.
#[inline(always)]
pub fn all_tags<P: Packet>(packet: &P) -> Tags {
    let Some(kind) = packet.u16(ETHERNET - 2) else { return Tags::Cut };
    let mut all = Tags::Passed { kind, at: ETHERNET, vlans: 0 };
    for _ in 0..FARTHEST / 4 / TAGS_OF_STEP {
        let Tags::Passed { kind, at, vlans } = all else { return all };
        if !is_tag(kind) || vlans > TAGS {
            return all;
        }
        all = match packet.more_tags(kind, at) {
            Tags::Passed { kind, at, vlans: more } => Tags::Passed { kind, at, vlans: vlans + more },
            Tags::Cut => Tags::Cut,
        };
    }
    all
}

/// Reads the tags at `at`, the first of which is of type `kind`, as many as one step takes.
#[inline(always)]
pub fn more_tags<P: Packet>(packet: &P, mut kind: u16, mut at: usize) -> Tags {
    let mut vlans = 0;
    for _ in 0..TAGS_OF_STEP {
        if !is_tag(kind) {
            break;
        }
        let Some([high, low, next_high, next_low]) = packet.read_one_way::<4>(at) else {
            return Tags::Cut;
        };
        vlans += usize::from(u16::from_be_bytes([high, low]) & 0xfff != 0);
        kind = u16::from_be_bytes([next_high, next_low]);
        at += 4;
    }
    Tags::Passed { kind, at, vlans }
}

/// Walks from the network header to the ports, through a softwire where the policy names one.
#[inline(always)]
pub fn network<P: Packet>(packet: &P, outer: Network, look: impl Look) -> Found {
    let mut inner = outer;
    let mut wrapping = Wrapping::NONE;
    let mut upper = headers(packet, outer, usize::MAX);
    if let Ok(Upper { protocol: IPV4_IN_IP, at, end }) = upper
        && matches!(outer.family, Family::Ipv6)
        && !matches!(look.softwire(), Softwire::Closed)
    {
        wrapping = Wrapping::SOFTWIRE;
        // A header that the outer packet, or its first fragment, ends inside of (RFC 7112), whatever the bytes behind
        // it read as; or one so far behind that its parts could not be named. The outer addresses are all there is.
        if at + IPV4 > end || at > FARTHEST - LONGEST_IPV4 - PORTS {
            upper = Err(Outcome::CutChain);
        } else {
            inner = Network { at, family: Family::Ipv4 };
            upper = headers(packet, inner, end);
        }
    }
    let (outcome, transport) = match upper {
        Ok(Upper { protocol: TCP, at, end }) => (tcp(packet, at, end, look), at),
        Ok(_) => (Outcome::OtherProtocol, 0),
        Err(outcome) => (outcome, 0),
    };
    // A softwire's customer is known by the outer address unless the policy says otherwise: the inner ones of
    // DS-Lite are private and overlap (RFC 6333 §5.7).
    let customer = if matches!(look.softwire(), Softwire::Inner) { inner } else { outer };
    let (from, to) =
        if outcome as u8 == Outcome::FromPort25 as u8 { (inner, customer) } else { (customer, inner) };
    Found::at(outcome, source(from.family, from.at), destination(to.family, to.at), transport)
        .through(wrapping)
}

/// What follows the last header that was looked through.
#[derive(Clone, Copy)]
struct Upper {
    protocol: u8,
    /// Offset of the first byte.
    at: usize,
    /// Offset behind the last byte that belongs to the packet; what lies beyond is link layer padding.
    end: usize,
}

/// One IP header and the extension headers behind it.
#[inline(always)]
fn headers<P: Packet>(packet: &P, ip: Network, limit: usize) -> Result<Upper, Outcome> {
    let at = ip.at;
    let (mut protocol, mut next, length) = match ip.family {
        Family::Ipv4 => {
            let header: [u8; IPV4] = packet.read(at).ok_or(Outcome::CutHeader)?;
            let words = header[0] & 15;
            if header[0] >> 4 != 4 || words < 5 {
                return Err(Outcome::BadHeader);
            }
            match ipv4_fragment_offset(header[6], header[7]) {
                0 => {}
                1 if header[9] == TCP => return Err(Outcome::FragmentInTcpHeader),
                _ => return Err(Outcome::LaterFragment),
            }
            (header[9], at + usize::from(words) * 4, u16::from_be_bytes([header[2], header[3]]))
        }
        Family::Ipv6 => {
            let header: [u8; 8] = packet.read(at).ok_or(Outcome::CutHeader)?;
            if header[0] >> 4 != 6 {
                return Err(Outcome::BadHeader);
            }
            if packet.read::<2>(at + IPV6 - 2).is_none() {
                return Err(Outcome::CutHeader);
            }
            (header[6], at + IPV6, u16::from_be_bytes([header[4], header[5]]))
        }
    };
    // A length of zero is a packet that segmentation offload will cut (Linux big TCP) or a jumbogram (RFC 2675).
    let start = if matches!(ip.family, Family::Ipv4) { at } else { at + IPV6 };
    let end = if length == 0 { limit } else { limit.min(start + usize::from(length)) };

    for _ in 0..HEADERS {
        if !is_extension(ip.family, protocol) {
            return Ok(Upper { protocol, at: next, end });
        }
        // The shortest extension header has eight bytes.
        if next + 8 > end {
            return Err(Outcome::CutChain);
        }
        match packet.extension(protocol, next) {
            Extension::Passed(following, at) => (protocol, next) = (following, at),
            Extension::LaterFragment => return Err(Outcome::LaterFragment),
            Extension::Cut => return Err(Outcome::CutChain),
        }
    }
    if is_extension(ip.family, protocol) {
        Err(Outcome::LongChain)
    } else {
        Ok(Upper { protocol, at: next, end })
    }
}

/// What one extension header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Protocol and offset of what follows it.
    Passed(u8, usize),
    /// It heads a fragment that is not the first.
    LaterFragment,
    /// The frame ends inside it.
    Cut,
}

/// Reads the extension header at `at`.
#[inline(always)]
pub fn extension<P: Packet>(packet: &P, protocol: u8, at: usize) -> Extension {
    let Some([following, length, high, low]) = packet.read::<4>(at) else {
        return Extension::Cut;
    };
    let bytes = match protocol {
        // RFC 8200 §4.5: a fixed length, and the offset in the upper thirteen bits.
        FRAGMENT if u16::from_be_bytes([high, low]) >> 3 != 0 => return Extension::LaterFragment,
        FRAGMENT => 8,
        // RFC 4302 §2.2: in words of four bytes, less two.
        AUTHENTICATION => (usize::from(length) + 2) * 4,
        // RFC 8200 §4.3: in words of eight bytes, less one.
        _ => (usize::from(length) + 1) * 8,
    };
    let next = at + bytes;
    if next > FARTHEST - PORTS { Extension::Cut } else { Extension::Passed(following, next) }
}

#[inline(always)]
const fn is_extension(family: Family, protocol: u8) -> bool {
    match protocol {
        AUTHENTICATION => true,
        HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS | MOBILITY => matches!(family, Family::Ipv6),
        _ => false,
    }
}

/// The ports, where they are inside the packet and the frame.
#[inline(always)]
fn tcp<P: Packet>(packet: &P, at: usize, end: usize, look: impl Look) -> Outcome {
    if at + PORTS > end {
        return Outcome::CutTcp;
    }
    match packet.read(at) {
        Some(bytes) => ports(bytes, look),
        None => Outcome::CutTcp,
    }
}

/// Row 1 of the verdict table, for TCP.
#[inline(always)]
fn ports([a, b, c, d]: [u8; PORTS], look: impl Look) -> Outcome {
    if u16::from_be_bytes([c, d]) == PORT_25 && look.role().judges_customers() {
        Outcome::ToPort25
    } else if u16::from_be_bytes([a, b]) == PORT_25 && look.role().judges_upstream() {
        Outcome::FromPort25
    } else if look.submission()
        && look.role().judges_customers()
        && matches!(u16::from_be_bytes([c, d]), SUBMISSION | SUBMISSIONS)
    {
        Outcome::Submission
    } else {
        Outcome::OtherPort
    }
}

/// RFC 791: in units of eight bytes, below the three flag bits.
#[inline(always)]
const fn ipv4_fragment_offset(high: u8, low: u8) -> u16 {
    u16::from_be_bytes([high, low]) & 0x1fff
}

#[inline(always)]
pub(crate) const fn is_tag(kind: u16) -> bool {
    matches!(kind, 0x8100 | 0x88a8 | 0x9100)
}

#[inline(always)]
const fn nibble(byte: u8) -> Option<Family> {
    match byte >> 4 {
        4 => Some(Family::Ipv4),
        6 => Some(Family::Ipv6),
        _ => None,
    }
}

#[inline(always)]
const fn source(family: Family, at: usize) -> (Family, usize) {
    match family {
        Family::Ipv4 => (family, at + 12),
        Family::Ipv6 => (family, at + 8),
    }
}

#[inline(always)]
const fn destination(family: Family, at: usize) -> (Family, usize) {
    match family {
        Family::Ipv4 => (family, at + 16),
        Family::Ipv6 => (family, at + 24),
    }
}
