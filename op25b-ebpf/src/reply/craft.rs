//! Makes a blocked frame into the answer to it: the headers in front of IP stay, turned round; all else is new.

use crate::{
    address::Family,
    found::{Found, Wrapping},
    frame::{self, ETHERNET, IPV4, IPV6},
    packet::Packet,
    segment::{Segment, flag},
};

use super::{Reply, Speaker, Text};

/// Ethernet, five VLAN tags and PPPoE.
pub const LONGEST_LINK: usize = ETHERNET + 5 * 4 + 8;
/// IEEE 802.3: the shortest frame, without its check sequence.
const SHORTEST: usize = 60;
/// RFC 9293 §3.1: header without options.
const TCP: usize = 20;
/// RFC 9293 §3.2: kind, length and value of the option that names the largest segment.
const MSS_OPTION: usize = 4;
/// RFC 9293 §3.7.1: what every host takes. A client of ours has commands to send, not mail.
const MSS: [u16; 2] = [536, 1220];
/// Bytes of commands that we would take at a time.
const WINDOW: u16 = 4096;
const HOPS: u8 = 64;

/// A frame that can be made into another.
pub trait Rewrite: Packet {
    /// Makes the frame `length` bytes long; of its bytes those in front of the TCP header are needed, which begins at
    /// `tcp`. `None` where there is no room: the frame is as it was, or too short to be read as one that is answered.
    fn resize(&self, length: usize, tcp: usize) -> Option<Resized>;

    /// Overwrites the `N` bytes at `offset`; `None` where the frame ends before them.
    fn write<const N: usize>(&self, offset: usize, bytes: [u8; N]) -> Option<()>;

    // Steps that the kernel calls as subprograms, as those of the walk.

    /// See [`turn`].
    fn turn(&self, link: Link, blank: (usize, usize)) -> Option<()> {
        turn(self, link, blank)
    }

    /// See [`put`].
    fn put(&self, at: usize, length: usize, words: [u64; 3]) -> Option<()> {
        put(self, at, length, words)
    }

    /// See [`say`]; `number` is that of the text.
    fn say(&self, at: usize, number: u32, speaker: &impl Speaker) -> Option<()> {
        say(self, at, speaker.text(number)?)
    }
}

/// A frame of another length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resized {
    /// Where its first byte lies: behind what was added at the head.
    pub old: usize,
    /// Whether the kernel will add up all behind where the TCP header began, since the sender has left the checksum to
    /// its hardware: the sum of the pseudo header alone is to be written.
    pub summed: bool,
}

/// Writes the first 16, 20 or 24 bytes of three words in network order: a header, in as many registers as a BPF
/// subprogram takes.
#[inline(always)]
pub fn put<P: Rewrite>(packet: &P, at: usize, length: usize, [first, second, third]: [u64; 3]) -> Option<()> {
    packet.write(at, first.to_be_bytes())?;
    packet.write(at + 8, second.to_be_bytes())?;
    match length {
        20 => packet.write(at + 16, ((third >> 32) as u32).to_be_bytes()),
        24 => packet.write(at + 16, third.to_be_bytes()),
        _ => Some(()),
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The frame is not longer than it was: it can still be dropped, or made into what needs no room.
    NoRoom,
    /// It cannot be sent any more.
    Spoilt,
}

/// Makes the frame into `reply`.
///
/// # Errors
///
/// Where the frame cannot take it.
#[inline(always)]
pub fn craft<P: Rewrite>(
    packet: &P,
    found: Found,
    reply: Reply,
    speaker: &impl Speaker,
) -> Result<(), Failure> {
    let segment = Segment::read(packet, found).ok_or(Failure::NoRoom)?;
    let text = match reply.text() {
        Some(number) => Some(speaker.text(number).ok_or(Failure::NoRoom)?),
        None => None,
    };
    let option = if matches!(reply, Reply::SynAck) { MSS_OPTION } else { 0 };
    let ip = match segment.family {
        Family::Ipv4 => IPV4,
        Family::Ipv6 => IPV6,
    };
    let segment_length = TCP + option + text.map_or(0, |text| text.length as usize);
    let packet_length = ip + segment_length;
    let length = segment.link + packet_length;
    // A frame from a wire is as long as a frame on a wire must be.
    let padded = if segment.link == 0 { 0 } else { packet.length().min(SHORTEST) & !1 };
    let whole = length.max(padded);
    let tcp = found.transport_at();
    let Resized { old, summed } = packet.resize(whole, tcp).ok_or(Failure::NoRoom)?;
    if summed && tcp != segment.link + ip {
        // IP options are left out: it would be written elsewhere.
        return Err(Failure::Spoilt);
    }
    let link = Link {
        old,
        bytes: segment.link,
        // RFC 2516 §4: of what follows, the protocol field included.
        pppoe: if found.wrapping().has(Wrapping::PPPOE) { packet_length + 2 } else { 0 },
    };
    let written = packet
        .turn(link, (length, whole))
        .and_then(|()| network(packet, &segment, segment_length))
        .and_then(|()| transport(packet, &segment, (segment.link + ip, summed), reply, text, speaker))
        .and_then(|()| match reply.text() {
            Some(number) => packet.say(segment.link + ip + TCP, number, speaker),
            None => Some(()),
        });
    written.ok_or(Failure::Spoilt)
}

/// The headers in front of IP.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Where they lie.
    pub old: usize,
    /// How long they are.
    pub bytes: usize,
    /// What a PPPoE header among them has to say of what follows; zero where there is none.
    pub pppoe: usize,
}

/// Copies the headers in front of IP from where they lie, MAC addresses turned round, and writes zeros from one offset
/// to the other: up to the length of a frame on a wire.
#[inline(always)]
pub fn turn<P: Rewrite>(packet: &P, link: Link, (mut blank, end): (usize, usize)) -> Option<()> {
    let Link { old, bytes: link, pppoe } = link;
    for _ in 0..(SHORTEST - ETHERNET - IPV4 - TCP) / 2 {
        if blank >= end {
            break;
        }
        packet.write(blank, [0; 2])?;
        blank += 2;
    }
    if link == 0 {
        return Some(());
    }
    let router: [u8; 6] = packet.read_one_way(old)?;
    let sender: [u8; 6] = packet.read_one_way(old + 6)?;
    let kind: [u8; 2] = packet.read_one_way(old + 12)?;
    packet.write(0, sender)?;
    packet.write(6, router)?;
    packet.write(12, kind)?;
    let mut at = ETHERNET;
    for _ in 0..(LONGEST_LINK - ETHERNET) / 4 {
        if at >= link {
            break;
        }
        let word: [u8; 4] = packet.read_one_way(old + at)?;
        packet.write(at, word)?;
        at += 4;
    }
    if pppoe == 0 { Some(()) } else { packet.write(link - 4, (pppoe as u16).to_be_bytes()) }
}

#[inline(always)]
fn network<P: Rewrite>(packet: &P, segment: &Segment, length: usize) -> Option<()> {
    let (source, destination) = (segment.connection.server, segment.connection.client);
    match segment.family {
        Family::Ipv4 => {
            let total = (IPV4 + length) as u16;
            // The first 12 bytes but for the checksum: no options, do not fragment (RFC 791 §3.1, RFC 6864 §4.1).
            let sum = 0x4500 + u64::from(total) + 0x4000 + u64::from(u16::from_be_bytes([HOPS, frame::TCP]));
            let sum = checksum(sum + words(source.low) + words(destination.low));
            let first = 0x4500 << 48 | u64::from(total) << 32 | 0x4000;
            let second =
                u64::from(HOPS) << 56 | u64::from(frame::TCP) << 48 | u64::from(sum) << 32 | source.low;
            packet.put(segment.link, IPV4, [first, second, destination.low << 32])
        }
        Family::Ipv6 => {
            let first =
                0x6000_u64 << 48 | (length as u64) << 16 | u64::from(frame::TCP) << 8 | u64::from(HOPS);
            packet.put(segment.link, 24, [first, source.high, source.low])?;
            packet.put(segment.link + 24, 16, [destination.high, destination.low, 0])
        }
    }
}

#[inline(always)]
fn transport<P: Rewrite>(
    packet: &P,
    segment: &Segment,
    (at, summed): (usize, bool),
    reply: Reply,
    text: Option<&Text>,
    speaker: &impl Speaker,
) -> Option<()> {
    let is_reset = matches!(reply, Reply::Reset | Reply::InvalidCookie);
    // RFC 9293 §3.10.7.1: a reset has the number that its cause asked for, if it did.
    let sequence = match reply {
        Reply::SynAck => speaker.cookie(&segment.connection, false),
        _ if segment.has(flag::ACK) => segment.acknowledgement,
        _ => 0,
    };
    let flags = match reply {
        Reply::Reset | Reply::InvalidCookie if segment.has(flag::ACK) => flag::RST,
        Reply::Reset | Reply::InvalidCookie => flag::RST | flag::ACK,
        Reply::SynAck => flag::SYN | flag::ACK,
        Reply::Notice | Reply::OutOfSequence => flag::ACK | flag::PSH,
        Reply::LastNotice | Reply::Goodbye => flag::ACK | flag::PSH | flag::FIN,
        Reply::Close => flag::ACK | flag::FIN,
        _ => flag::ACK,
    };
    let acknowledgement = match reply {
        // Data that came with it is not taken: it will be sent again.
        Reply::SynAck => segment.sequence.wrapping_add(1),
        _ if flags & flag::ACK == 0 => 0,
        _ => segment.next(),
    };
    let window = if is_reset { 0 } else { WINDOW };
    let ports = segment.connection.ports.rotate_left(16);
    let option = if matches!(reply, Reply::SynAck) { MSS_OPTION } else { 0 };
    let mss = if option == 0 { 0 } else { 2 << 24 | 4 << 16 | u32::from(MSS[segment.family as usize & 1]) };
    let offset_and_flags = ((TCP + option) as u16 / 4) << 12 | u16::from(flags);
    let (text_length, text_sum) = text.map_or((0, 0), |text| (text.length, text.sum));

    let segment_length = (TCP + option) as u32 + text_length;
    let pseudo = pseudo(segment, segment_length);
    let sum = pseudo
        + words(u64::from(ports))
        + words(u64::from(sequence))
        + words(u64::from(acknowledgement))
        + u64::from(offset_and_flags)
        + u64::from(window)
        + words(u64::from(mss))
        + u64::from(text_sum);

    let first = u64::from(ports) << 32 | u64::from(sequence);
    let second = u64::from(acknowledgement) << 32 | u64::from(offset_and_flags) << 16 | u64::from(window);
    let sum = if summed { !checksum(pseudo) } else { checksum(sum) };
    let third = u64::from(sum) << 48 | u64::from(mss);
    packet.put(at, TCP + option, [first, second, third])
}

/// Sum of the pseudo header (RFC 9293 §3.1, RFC 8200 §8.1).
#[inline(always)]
const fn pseudo(segment: &Segment, length: u32) -> u64 {
    let (client, server) = (segment.connection.client, segment.connection.server);
    words(client.high)
        + words(client.low)
        + words(server.high)
        + words(server.low)
        + frame::TCP as u64
        + length as u64
}

/// Sum of the four words of sixteen bits in one of sixty-four.
#[inline(always)]
const fn words(all: u64) -> u64 {
    (all >> 48) + (all >> 32 & 0xffff) + (all >> 16 & 0xffff) + (all & 0xffff)
}

/// RFC 1071: folds a sum below 2^32 and complements it.
#[inline(always)]
const fn checksum(sum: u64) -> u16 {
    let once = (sum >> 16) + (sum & 0xffff);
    let twice = (once >> 16) + (once & 0xffff);
    !(twice as u16)
}

/// Writes a text, eight bytes at a time and the rest by two.
#[inline(always)]
pub fn say<P: Rewrite>(packet: &P, mut at: usize, text: &Text) -> Option<()> {
    let mut left = text.length;
    for word in &text.words {
        let bytes = word.to_ne_bytes();
        if left >= 8 {
            packet.write(at, bytes)?;
            at += 8;
            left -= 8;
            continue;
        }
        let [a, b, c, d, e, f, ..] = bytes;
        for pair in [[a, b], [c, d], [e, f]] {
            if left < 2 {
                break;
            }
            packet.write(at, pair)?;
            at += 2;
            left -= 2;
        }
        break;
    }
    Some(())
}
