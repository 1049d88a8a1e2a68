//! What the walk through a frame found, in one register, so that a BPF subprogram can return it.

use crate::address::Family;

/// How the walk through a frame ended. The numbers are stable: counters and captures use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Outcome {
    /// TCP to port 25, on an interface whose role judges that.
    ToPort25 = 0,
    /// TCP from port 25, on an interface whose role judges that.
    FromPort25 = 1,

    // TCP (or what may be TCP) whose ports cannot be read: judged without them.
    /// TCP that ends before its fourth byte.
    CutTcp = 2,
    /// An IPv4 fragment that starts inside the TCP header (RFC 1858, RFC 3128).
    FragmentInTcpHeader = 3,
    /// IPv6 extension headers run past the end of the frame or of the first fragment (RFC 7112).
    CutChain = 4,
    /// More extension headers than the walk follows.
    LongChain = 5,

    // Not judged.
    /// TCP between other ports.
    OtherPort = 15,
    /// The frame ends inside a link or network header.
    CutHeader = 16,
    /// Neither IP nor anything that is looked through.
    NotIp = 17,
    /// A sixth VLAN tag.
    ManyTags = 18,
    /// A ninth MPLS label.
    ManyLabels = 19,
    /// Version nibble or header length that no IP stack accepts.
    BadHeader = 20,
    /// A fragment that carries no transport header.
    LaterFragment = 21,
    /// IP, but not TCP.
    OtherProtocol = 22,
    /// TCP to port 587 or 465, where the policy counts submission (RFC 6409, RFC 8314).
    Submission = 23,
}

impl Outcome {
    /// Every outcome, in the order of its number.
    pub const ALL: [Self; 15] = [
        Self::ToPort25,
        Self::FromPort25,
        Self::CutTcp,
        Self::FragmentInTcpHeader,
        Self::CutChain,
        Self::LongChain,
        Self::OtherPort,
        Self::CutHeader,
        Self::NotIp,
        Self::ManyTags,
        Self::ManyLabels,
        Self::BadHeader,
        Self::LaterFragment,
        Self::OtherProtocol,
        Self::Submission,
    ];

    /// The name people see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ToPort25 => "to-port-25",
            Self::FromPort25 => "from-port-25",
            Self::CutTcp => "cut-tcp",
            Self::FragmentInTcpHeader => "fragment-in-tcp-header",
            Self::CutChain => "cut-extension-headers",
            Self::LongChain => "too-many-extension-headers",
            Self::OtherPort => "other-port",
            Self::CutHeader => "cut-header",
            Self::NotIp => "not-ip",
            Self::ManyTags => "too-many-vlan-tags",
            Self::ManyLabels => "too-many-mpls-labels",
            Self::BadHeader => "bad-ip-header",
            Self::LaterFragment => "later-fragment",
            Self::OtherProtocol => "other-protocol",
            Self::Submission => "submission",
        }
    }

    /// The outcome with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| *outcome as u8 == number)
    }
}

/// What was looked through on the way, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Wrapping(pub u8);

impl Wrapping {
    /// Nothing: IP right behind Ethernet, or a bare IP packet.
    pub const NONE: Self = Self(0);
    /// IEEE 802.1Q, 802.1ad or 0x9100 tags.
    pub const VLAN: Self = Self(1);
    /// IEEE 802.2 LLC with SNAP (RFC 1042).
    pub const SNAP: Self = Self(2);
    /// PPPoE session (RFC 2516).
    pub const PPPOE: Self = Self(4);
    /// MPLS label stack (RFC 3032).
    pub const MPLS: Self = Self(8);
    /// IPv4 in IPv6 (RFC 2473).
    pub const SOFTWIRE: Self = Self(16);

    /// Each with the name that people see.
    pub const NAMES: [(Self, &'static str); 5] = [
        (Self::VLAN, "vlan"),
        (Self::SNAP, "llc-snap"),
        (Self::PPPOE, "pppoe"),
        (Self::MPLS, "mpls"),
        (Self::SOFTWIRE, "ipv4-in-ipv6"),
    ];

    /// This and that.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in it.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The largest offset that a [`Found`] can hold, in bytes from the start of the frame.
pub const FARTHEST: usize = 0x3fff;

/// How the walk ended and where the parts lie, packed into 64 bits.
///
/// | bits | what |
/// |---|---|
/// | 0–7 | [`Outcome`] |
/// | 8–15 | [`Wrapping`] |
/// | 16–29, 30–43 | offset of source and destination address |
/// | 44–57 | offset of the transport header |
/// | 58, 59 | source, destination is IPv6 |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found(pub u64);

impl Found {
    /// A walk that ended before an address was found.
    #[inline(always)]
    #[must_use]
    pub const fn nothing(outcome: Outcome) -> Self {
        Self(outcome as u64)
    }

    /// A walk that found addresses, each given as family and offset.
    #[inline(always)]
    #[must_use]
    pub const fn at(
        outcome: Outcome,
        source: (Family, usize),
        destination: (Family, usize),
        transport: usize,
    ) -> Self {
        Self(
            outcome as u64
                | ((source.1 & FARTHEST) as u64) << 16
                | ((destination.1 & FARTHEST) as u64) << 30
                | ((transport & FARTHEST) as u64) << 44
                | (source.0 as u64) << 58
                | (destination.0 as u64) << 59,
        )
    }

    /// The same, seen through `wrapping`.
    #[inline(always)]
    #[must_use]
    pub const fn through(self, wrapping: Wrapping) -> Self {
        Self(self.0 | (wrapping.0 as u64) << 8)
    }

    /// How the walk ended; `None` for a number that no walk returns.
    #[must_use]
    pub fn outcome(self) -> Option<Outcome> {
        Outcome::from_number(self.outcome_number())
    }

    /// The outcome's number.
    #[inline(always)]
    #[must_use]
    pub const fn outcome_number(self) -> u8 {
        self.0 as u8
    }

    /// TCP to or from port 25 with readable ports.
    #[inline(always)]
    #[must_use]
    pub const fn is_readable(self) -> bool {
        self.outcome_number() < Outcome::CutTcp as u8
    }

    /// TCP from port 25: the customer is the destination.
    #[inline(always)]
    #[must_use]
    pub const fn is_from_port_25(self) -> bool {
        self.outcome_number() == Outcome::FromPort25 as u8
    }

    /// Whether the policy has a say. All else is `other`: it passes and touches no map.
    #[inline(always)]
    #[must_use]
    pub const fn is_judged(self) -> bool {
        self.outcome_number() < Outcome::OtherPort as u8
    }

    /// Not judged, but to be counted.
    #[inline(always)]
    #[must_use]
    pub const fn is_submission(self) -> bool {
        self.outcome_number() == Outcome::Submission as u8
    }

    /// What was looked through.
    #[inline(always)]
    #[must_use]
    pub const fn wrapping(self) -> Wrapping {
        Wrapping((self.0 >> 8) as u8)
    }

    /// The cell in a map of [`crate::abi::SEEN_CELLS`].
    #[inline(always)]
    #[must_use]
    pub const fn cell(self) -> u32 {
        seen_cell(self.outcome_number(), self.wrapping())
    }

    /// Offset of the source address, from the start of the frame.
    #[inline(always)]
    #[must_use]
    pub const fn source_at(self) -> usize {
        (self.0 >> 16) as usize & FARTHEST
    }

    /// Offset of the destination address.
    #[inline(always)]
    #[must_use]
    pub const fn destination_at(self) -> usize {
        (self.0 >> 30) as usize & FARTHEST
    }

    /// Offset of the transport header.
    #[inline(always)]
    #[must_use]
    pub const fn transport_at(self) -> usize {
        (self.0 >> 44) as usize & FARTHEST
    }

    // Whose end is which is not a choice between two ways: arithmetic, that the verifier need not follow.

    /// Number of the family of the customer's address.
    #[inline(always)]
    #[must_use]
    pub const fn customer_family_number(self) -> u8 {
        (self.0 >> (58 + self.is_from_port_25() as u64)) as u8 & 1
    }

    /// Family of the customer's address.
    #[inline(always)]
    #[must_use]
    pub const fn customer_family(self) -> Family {
        if self.customer_family_number() == 0 { Family::Ipv4 } else { Family::Ipv6 }
    }

    /// Family of the other end's address.
    #[inline(always)]
    #[must_use]
    pub const fn peer_family(self) -> Family {
        if self.0 >> (59 - self.is_from_port_25() as u64) & 1 == 0 { Family::Ipv4 } else { Family::Ipv6 }
    }

    /// Offset of the customer's address.
    #[inline(always)]
    #[must_use]
    pub const fn customer_at(self) -> usize {
        (self.0 >> (16 + 14 * self.is_from_port_25() as u64)) as usize & FARTHEST
    }

    /// Offset of the other end's address.
    #[inline(always)]
    #[must_use]
    pub const fn peer_at(self) -> usize {
        (self.0 >> (30 - 14 * self.is_from_port_25() as u64)) as usize & FARTHEST
    }

    /// Family of the source address.
    #[inline(always)]
    #[must_use]
    pub const fn source_family(self) -> Family {
        if self.0 & 1 << 58 == 0 { Family::Ipv4 } else { Family::Ipv6 }
    }
}

/// The cell of an outcome and a wrapping in a map of [`crate::abi::SEEN_CELLS`].
#[inline(always)]
#[must_use]
pub const fn seen_cell(outcome: u8, wrapping: Wrapping) -> u32 {
    (outcome as u32 & 31) << 5 | wrapping.0 as u32 & 31
}
