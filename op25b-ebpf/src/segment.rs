//! A TCP segment of a judged frame, as far as an answer to it depends on it.

use crate::{
    address::Family,
    cookie::Connection,
    found::{FARTHEST, Found, Wrapping},
    frame::IPV6,
    packet::Packet,
    verdict::Flow,
};

/// RFC 9293 §3.1: control bits; those of ECN are left out.
pub mod flag {
    /// The sender has no more to say.
    pub const FIN: u8 = 1;
    /// Opens a connection.
    pub const SYN: u8 = 2;
    /// Ends it.
    pub const RST: u8 = 4;
    /// Hand it to the program at once.
    pub const PSH: u8 = 8;
    /// The acknowledgement counts.
    pub const ACK: u8 = 16;
}

/// The end of the last command, as far as it is looked at.
pub type Ending = [u8; 6];

/// How far a segment reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes of data.
    pub data: u32,
    /// Offset behind the last of them.
    pub end: u32,
}

/// Where the data of a segment ends. `None` where its header is cut.
#[inline(always)]
pub fn extent<P: Packet>(packet: &P, found: Found) -> Option<Extent> {
    let family = found.source_family();
    let link = link(family, found);
    // Of the packet, or of what follows its header.
    let (length_at, before) = match family {
        Family::Ipv4 => (link + 2, 0),
        Family::Ipv6 => (link + 4, IPV6),
    };
    let declared = usize::from(packet.u16(length_at)?);
    let [offset, _]: [u8; 2] = packet.read(found.transport_at() + 12)?;
    let data_at = found.transport_at() + usize::from(offset >> 4) * 4;
    // A length of zero is a packet that segmentation offload will cut.
    let end = if declared == 0 { packet.length() } else { link + before + declared };
    let end = if end < FARTHEST { end } else { FARTHEST };
    // Bytes that are not there, or belong to no packet, are no segment's.
    if offset >> 4 < 5 || data_at > end || end > packet.length() {
        return None;
    }
    Some(Extent { data: (end - data_at) as u32, end: end as u32 })
}

/// Bytes in front of an IP header, whose addresses the walk found.
#[inline(always)]
const fn link(family: Family, found: Found) -> usize {
    match family {
        Family::Ipv4 => found.source_at() - 12,
        Family::Ipv6 => found.source_at() - 8,
    }
}

/// A TCP segment, and where it lies.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Bytes in front of the IP header.
    pub link: usize,
    /// Of the IP header.
    pub family: Family,
    /// Who speaks with whom.
    pub connection: Connection,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement.
    pub acknowledgement: u32,
    /// [`flag`]
    pub flags: u8,
    /// Bytes that the sender takes.
    pub window: u16,
    /// Bytes of data.
    pub data: u32,
    /// Offset behind its last byte.
    end: usize,
}

impl Segment {
    /// Reads the segment that the walk found. `None` where its header is cut, or where addresses and segment are not
    /// of one packet.
    #[inline(always)]
    pub fn read<P: Packet>(packet: &P, found: Found) -> Option<Self> {
        let flow = Flow::read(packet, found)?;
        let family = flow.source().family;
        if !flow.readable || found.wrapping().has(Wrapping::SOFTWIRE) {
            return None;
        }
        let header: [u8; 20] = packet.read(found.transport_at())?;
        let [a, b, c, d, s0, s1, s2, s3, a0, a1, a2, a3, _, flags, w0, w1, ..] = header;
        let Extent { data, end } = packet.extent(found)?;
        Some(Self {
            link: link(family, found),
            family,
            connection: Connection {
                client: flow.source(),
                server: flow.destination(),
                ports: u32::from_be_bytes([a, b, c, d]),
            },
            sequence: u32::from_be_bytes([s0, s1, s2, s3]),
            acknowledgement: u32::from_be_bytes([a0, a1, a2, a3]),
            flags: flags & 0x1f,
            window: u16::from_be_bytes([w0, w1]),
            data,
            end: end as usize,
        })
    }

    /// Whether all of `flags` are set.
    #[inline(always)]
    #[must_use]
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// What acknowledges all of it: the next number that its sender will use.
    #[inline(always)]
    #[must_use]
    pub const fn next(&self) -> u32 {
        let controls = (self.flags & flag::FIN) + (self.flags >> 1 & 1);
        self.sequence.wrapping_add(self.data).wrapping_add(controls as u32)
    }

    /// Its last bytes. Where there are fewer, the last one behind blanks: a line's end may come alone.
    #[inline(always)]
    pub fn ending<P: Packet>(&self, packet: &P) -> Ending {
        const BLANK: u8 = b' ';
        if self.end < size_of::<Ending>() {
            return [BLANK; 6];
        }
        // In front of the data lies the TCP header.
        let ending = packet.read_one_way(self.end - size_of::<Ending>()).unwrap_or([BLANK; 6]);
        match self.data {
            0 => [BLANK; 6],
            1..6 => [BLANK, BLANK, BLANK, BLANK, BLANK, ending[5]],
            6.. => ending,
        }
    }
}
