//! What op25b answers to a blocked segment: a reset, or the operator's sentence from a mail server that remembers
//! nothing. The client's acknowledgement, less the cookie, says how far the conversation is.

pub mod craft;

use crate::{
    address::Family,
    cookie::Connection,
    found::{Found, Wrapping},
    frame::{self, IPV6},
    packet::Packet,
    segment::{Segment, flag},
    verdict::Verdict,
};

/// Bytes that one text has room for: [`LONGEST`], in whole words.
const TEXT: usize = 152;
/// Bytes of the longest text: a frame grows by that much at its head, and drivers leave 150 to 250 for it.
pub const LONGEST: usize = 150;

/// A text that is sent, with its checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Text {
    /// Bytes, an even number.
    pub length: u32,
    /// Sum of its words of sixteen bits (RFC 1071).
    pub sum: u32,
    /// The bytes, zeros behind them.
    pub words: [u64; TEXT / 8],
}

impl Text {
    /// A line, with its CR LF; a space more where its bytes would be odd. `None` where it is longer than [`LONGEST`].
    #[must_use]
    pub fn new(line: &str) -> Option<Self> {
        let mut bytes = [0; TEXT];
        let padded = line.len().next_multiple_of(2);
        let length = padded + 2;
        if length > LONGEST {
            return None;
        }
        bytes.get_mut(..padded)?.fill(b' ');
        bytes.get_mut(..line.len())?.copy_from_slice(line.as_bytes());
        bytes.get_mut(padded..length)?.copy_from_slice(b"\r\n");
        let sum = bytes
            .chunks_exact(2)
            .map(|pair| pair.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
            .sum();
        let mut words = [0; TEXT / 8];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        Some(Self { length: length as u32, sum, words })
    }
}

/// Texts of a generation: the operator's sentence, and what is said to commands.
pub const TEXTS: usize = 3;
/// RFC 5321 §3.1: after a 554, everything but QUIT is out of sequence.
pub const OUT_OF_SEQUENCE: &str = "503 5.5.1 Mail is not accepted here; QUIT";
/// RFC 5321 §4.2.2.
pub const GOODBYE: &str = "221 2.0.0 Bye";
const OUT_OF_SEQUENCE_LENGTH: u32 = OUT_OF_SEQUENCE.len().next_multiple_of(2) as u32 + 2;
const GOODBYE_LENGTH: u32 = GOODBYE.len().next_multiple_of(2) as u32 + 2;
/// Commands that are answered before the connection is reset.
const PATIENCE: u32 = 20;

/// What becomes of a blocked frame whose group answers. The numbers are stable: counters use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reply {
    /// Nothing is to be said: an acknowledgement, or a reset.
    Silence = 0,
    /// RST: the action, or no conversation of ours.
    Reset = 1,
    /// SYN, ACK.
    SynAck = 2,
    /// The operator's sentence.
    Notice = 3,
    /// The same, and the end of the conversation.
    LastNotice = 4,
    /// 503, to a command.
    OutOfSequence = 5,
    /// 221, to QUIT, and the end of the conversation.
    Goodbye = 6,
    /// ACK of data that is no command yet, or of what comes after the end.
    Acknowledge = 7,
    /// FIN, to a FIN.
    Close = 8,
    /// RST, to an acknowledgement of what was never sent.
    InvalidCookie = 9,
    /// No answer can be addressed: MPLS, SNAP, softwire, more VLAN tags than five, a group of hosts, a fragment, IPv6
    /// extension headers; or the header is cut, or says what is not so.
    Unaddressable = 10,
    /// The driver leaves no room for it; a reset is tried in its place, and counted too.
    NoRoom = 11,
    /// The source has had its share.
    SourceLimit = 12,
    /// The interface has had its share.
    InterfaceLimit = 13,
    /// The frame was half an answer when something failed.
    Spoilt = 14,
}

/// Cells of the map that counts replies.
pub const REPLIES: u32 = 16;

impl Reply {
    /// Every reply, in the order of its number.
    pub const ALL: [Self; 15] = [
        Self::Silence,
        Self::Reset,
        Self::SynAck,
        Self::Notice,
        Self::LastNotice,
        Self::OutOfSequence,
        Self::Goodbye,
        Self::Acknowledge,
        Self::Close,
        Self::InvalidCookie,
        Self::Unaddressable,
        Self::NoRoom,
        Self::SourceLimit,
        Self::InterfaceLimit,
        Self::Spoilt,
    ];

    /// The name people see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Silence => "silence",
            Self::Reset => "reset",
            Self::SynAck => "syn-ack",
            Self::Notice => "notice",
            Self::LastNotice => "last-notice",
            Self::OutOfSequence => "out-of-sequence",
            Self::Goodbye => "goodbye",
            Self::Acknowledge => "acknowledge",
            Self::Close => "close",
            Self::InvalidCookie => "invalid-cookie",
            Self::Unaddressable => "unaddressable",
            Self::NoRoom => "no-room",
            Self::SourceLimit => "source-limit",
            Self::InterfaceLimit => "interface-limit",
            Self::Spoilt => "spoilt",
        }
    }

    /// The reply with this number; what is no number of one says nothing.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Reset,
            2 => Self::SynAck,
            3 => Self::Notice,
            4 => Self::LastNotice,
            5 => Self::OutOfSequence,
            6 => Self::Goodbye,
            7 => Self::Acknowledge,
            8 => Self::Close,
            9 => Self::InvalidCookie,
            10 => Self::Unaddressable,
            11 => Self::NoRoom,
            12 => Self::SourceLimit,
            13 => Self::InterfaceLimit,
            14 => Self::Spoilt,
            _ => Self::Silence,
        }
    }

    /// Whether a frame is sent.
    #[inline(always)]
    #[must_use]
    pub const fn is_sent(self) -> bool {
        let number = self as u8;
        number != 0 && number < Self::Unaddressable as u8
    }

    /// The text that it carries, as a position among the generation's.
    #[inline(always)]
    #[must_use]
    pub const fn text(self) -> Option<u32> {
        match self {
            Self::Notice | Self::LastNotice => Some(0),
            Self::OutOfSequence => Some(1),
            Self::Goodbye => Some(2),
            _ => None,
        }
    }
}

/// What the answers of a generation are made of.
pub trait Speaker {
    /// The cookie of a connection, of now and of the period before.
    fn cookie(&self, connection: &Connection, before: bool) -> u32;
    /// A text.
    fn text(&self, number: u32) -> Option<&Text>;
    /// Whether the notice is all there is to say (421), and ends the conversation.
    fn hangs_up(&self) -> bool;
}

/// Decides what to answer to a blocked frame whose group has this action.
#[inline(always)]
pub fn choose<P: Packet>(packet: &P, found: Found, action: Verdict, speaker: &impl Speaker) -> Reply {
    let Some(segment) = Segment::read(packet, found) else { return Reply::Unaddressable };
    if !is_addressable(packet, found, &segment) {
        return Reply::Unaddressable;
    }
    if segment.has(flag::RST) {
        return Reply::Silence;
    }
    if !matches!(action, Verdict::Notice) || !packet.is_whole() {
        return Reply::Reset;
    }
    if segment.has(flag::SYN) {
        // One that is acknowledged, or is the last as well, opens nothing.
        return if segment.flags & (flag::ACK | flag::FIN) == 0 { Reply::SynAck } else { Reply::Reset };
    }
    if !segment.has(flag::ACK) {
        return Reply::Reset;
    }
    let Some(notice) = speaker.text(0) else { return Reply::Reset };
    let said = |before| segment.acknowledgement.wrapping_sub(speaker.cookie(&segment.connection, before));
    let most = 1 + notice.length + PATIENCE * OUT_OF_SEQUENCE_LENGTH + GOODBYE_LENGTH + 1;
    let mut heard = said(false);
    if heard.wrapping_sub(1) >= most {
        heard = said(true);
    }
    if heard.wrapping_sub(1) >= most {
        return Reply::InvalidCookie;
    }
    let reply = if heard == 1 {
        before_the_notice(&segment, speaker.hangs_up())
    } else {
        let Some(since) = heard.checked_sub(1 + notice.length) else { return Reply::Reset };
        after_the_notice(packet, &segment, since)
    };
    let length = match reply {
        Reply::Notice | Reply::LastNotice => notice.length,
        Reply::OutOfSequence => OUT_OF_SEQUENCE_LENGTH,
        Reply::Goodbye => GOODBYE_LENGTH,
        _ => 0,
    };
    if u32::from(segment.window) >= length {
        reply
    } else if segment.window == 0 {
        // It will say when it has room.
        Reply::Silence
    } else {
        Reply::Reset
    }
}

/// The client has heard our SYN, and nothing since.
#[inline(always)]
const fn before_the_notice(segment: &Segment, hangs_up: bool) -> Reply {
    if hangs_up || segment.data != 0 || segment.has(flag::FIN) {
        // Who speaks, or has done, before the server has greeted would not wait for an answer either.
        Reply::LastNotice
    } else {
        Reply::Notice
    }
}

/// The client has heard `since` more than the notice.
#[inline(always)]
fn after_the_notice<P: Packet>(packet: &P, segment: &Segment, since: u32) -> Reply {
    let (commands, rest) = (since / OUT_OF_SEQUENCE_LENGTH, since % OUT_OF_SEQUENCE_LENGTH);
    // Our FIN, after commands or after the goodbye.
    let over = rest == 1 || rest == GOODBYE_LENGTH + 1;
    if over {
        return if segment.data != 0 || segment.has(flag::FIN) { Reply::Acknowledge } else { Reply::Silence };
    }
    if rest != 0 {
        return Reply::Reset;
    }
    if segment.data == 0 {
        return if segment.has(flag::FIN) { Reply::Close } else { Reply::Silence };
    }
    let ending = segment.ending(packet);
    let [q, u, i, t, ..] = ending.map(|byte| byte & !0x20);
    if segment.has(flag::FIN) || [q, u, i, t] == *b"QUIT" && ending[4..] == *b"\r\n" {
        Reply::Goodbye
    } else if ending[5] != b'\n' {
        Reply::Acknowledge
    } else if commands < PATIENCE {
        Reply::OutOfSequence
    } else {
        Reply::Reset
    }
}

/// Whether an answer would reach who sent the frame, and nobody else.
#[inline(always)]
fn is_addressable<P: Packet>(packet: &P, found: Found, segment: &Segment) -> bool {
    // A softwire's segment is none, see `Segment::read`.
    let closed = Wrapping::SNAP.and(Wrapping::MPLS);
    found.wrapping().0 & closed.0 == 0
        && segment.link <= craft::LONGEST_LINK
        && segment.link.is_multiple_of(2)
        && is_of_one_host(packet, segment).unwrap_or(false)
        && is_bare(packet, found, segment).unwrap_or(false)
}

/// Not from or to a group of hosts, nor from a host to itself: RFC 1122 §4.2.3.10, RFC 9293 MUST-57.
#[inline(always)]
fn is_of_one_host<P: Packet>(packet: &P, segment: &Segment) -> Option<bool> {
    let Connection { client, server, .. } = segment.connection;
    let to_group = match segment.family {
        // Multicast, reserved and broadcast.
        Family::Ipv4 => server.low >= 0xe000_0000,
        Family::Ipv6 => server.high >> 56 == 0xff,
    };
    // The lowest bit of the first byte of a MAC address.
    let between_groups = if segment.link == 0 {
        false
    } else {
        let [to, _]: [u8; 2] = packet.read(0)?;
        let [from, _]: [u8; 2] = packet.read(6)?;
        (to | from) & 1 != 0
    };
    let to_itself = client.high == server.high && client.low == server.low;
    Some(!to_group && !between_groups && !to_itself)
}

/// TCP right behind its IP header, and all of it: no fragment is answered, nor what a routing header sent here.
#[inline(always)]
fn is_bare<P: Packet>(packet: &P, found: Found, segment: &Segment) -> Option<bool> {
    const MORE_FRAGMENTS: u16 = 0x2000;
    match segment.family {
        Family::Ipv4 => {
            let [_, protocol]: [u8; 2] = packet.read(segment.link + 8)?;
            Some(packet.u16(segment.link + 6)? & MORE_FRAGMENTS == 0 && protocol == frame::TCP)
        }
        Family::Ipv6 => Some(found.transport_at() == segment.link + IPV6),
    }
}

const _: () = {
    assert!(size_of::<Text>() == 160);
    // What was heard tells a goodbye from a command.
    assert!(OUT_OF_SEQUENCE_LENGTH > GOODBYE_LENGTH + 1);
};
