//! What the kernel half and the loader agree on: numbers and layouts, integers and byte arrays only.

use crate::{
    found::Outcome,
    verdict::{Reason, cell_by_number},
};

/// Changes with any layout or number in this file; pins of another version are not adopted.
pub const VERSION: u32 = 9;

/// What a frame starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Link {
    /// IEEE 802.3.
    Ethernet = 0,
    /// An IP header: ppp, tun and wireguard interfaces on the TC hook, raw IP captures.
    Ip = 1,
}

impl Link {
    /// The link with this number.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        if number == Self::Ip as u8 { Self::Ip } else { Self::Ethernet }
    }
}

/// Whose packets an interface judges, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Role(pub u8);

impl Role {
    /// Frames from customers.
    pub const CUSTOMER: Self = Self(1);
    /// Frames from the Internet.
    pub const UPSTREAM: Self = Self(2);
    /// A one-armed router's interface.
    pub const BOTH: Self = Self(3);

    /// TCP to port 25 is judged.
    #[inline(always)]
    #[must_use]
    pub const fn judges_customers(self) -> bool {
        self.0 & 1 != 0
    }

    /// TCP from port 25 is judged.
    #[inline(always)]
    #[must_use]
    pub const fn judges_upstream(self) -> bool {
        self.0 & 2 != 0
    }
}

/// Whether IPv4 in IPv6 is looked through, and which address names the customer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Softwire {
    /// Not looked through.
    Closed = 0,
    /// The outer, IPv6 address (DS-Lite, MAP-E).
    Outer = 1,
    /// The inner, IPv4 address.
    Inner = 2,
}

impl Softwire {
    /// The kind with this number.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Outer,
            2 => Self::Inner,
            _ => Self::Closed,
        }
    }
}

/// What a group does with TCP to port 25.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// Nothing.
    Off = 0,
    /// Count what would be blocked.
    Monitor = 1,
    /// Block.
    Enforce = 2,
}

/// Customer groups a policy can have: a byte in a table's value, less zero for "no group".
pub const GROUPS: usize = 255;
/// Relays a policy can have, and groups with `destinations`: one bit of a word each.
pub const MASK_BITS: usize = 64;

/// A customer group, as the kernel reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Group {
    /// Relays that the group may reach, a bit each.
    pub relays: u64,
    /// The bit of the group's `destinations` in [`Server::scopes`]; zero: everywhere.
    pub scope: u64,
    /// [`Mode`].
    pub mode: u8,
    /// [`crate::verdict::Verdict`] of a blocked packet.
    pub action: u8,
    /// [`Mode`] of the return path.
    pub return_path: u8,
    /// Length of the prefix that is one IPv6 source, at most 64; zero: 64.
    pub source_length: u8,
    /// Zero.
    pub reserved: [u8; 4],
}

/// What is known of a mail server's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Server {
    /// Relays that have the address, a bit each.
    pub relays: u64,
    /// `destinations` lists that contain it, a bit each.
    pub scopes: u64,
}

/// What is known of a customer's address, in the value of a table entry.
///
/// | bits | what |
/// |---|---|
/// | 0–7 | group, from 1; 0: in no group |
/// | 8 | exempt |
/// | 9 | quarantined |
/// | 10 | the quarantine leaves it the relays |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Customer(pub u32);

impl Customer {
    /// In no list of the policy.
    pub const UNKNOWN: Self = Self(0);
    /// Bit of an exempt address.
    pub const EXEMPT: u32 = 1 << 8;
    /// Bit of a quarantined address.
    pub const QUARANTINED: u32 = 1 << 9;
    /// Bit of a quarantined address that may still reach the relays.
    pub const RELAYS_LEFT: u32 = 1 << 10;

    /// The group's number, zero for none.
    #[inline(always)]
    #[must_use]
    pub const fn group(self) -> u32 {
        self.0 & 0xff
    }

    /// Whether all of `bits` are set.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, bits: u32) -> bool {
        self.0 & bits == bits
    }
}

/// Cells of one customer group in the counters of one interface: sixteen columns for each address family.
pub const CELLS_OF_GROUP: u32 = 32;
/// Cells of one interface: group 0 is "in no group".
pub const CELLS: u32 = CELLS_OF_GROUP * (GROUPS as u32 + 1);

/// Cells of the map that counts how frames were seen: [`crate::found::Outcome`] by [`crate::found::Wrapping`].
pub const SEEN_CELLS: u32 = 32 * 32;

/// One counter cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Count {
    /// Frames.
    pub packets: u64,
    /// Bytes from the first of the link header to the last of the frame.
    pub bytes: u64,
    /// Connection attempts: see [`crate::source`].
    pub attempts: u64,
}

/// What a sibling program returns for one frame: the decision in 32 bits.
///
/// | bits | what |
/// |---|---|
/// | 0–1 | verdict |
/// | 2–6 | reason |
/// | 7–11 | outcome of the walk |
/// | 12–19 | group, zero for none |
/// | 20–26 | relay, from 1; zero for none |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer(pub u32);

impl Answer {
    /// Packs the parts.
    #[inline(always)]
    #[must_use]
    pub const fn new(verdict: u8, reason: u8, outcome: u8, group: u32, relay: u32) -> Self {
        Self(
            verdict as u32 & 3
                | (reason as u32 & 31) << 2
                | (outcome as u32 & 31) << 7
                | (group & 0xff) << 12
                | (relay & 0x7f) << 20,
        )
    }

    /// The verdict's number.
    #[inline(always)]
    #[must_use]
    pub const fn verdict(self) -> u8 {
        (self.0 & 3) as u8
    }

    /// The reason's number.
    #[inline(always)]
    #[must_use]
    pub const fn reason_number(self) -> u8 {
        (self.0 >> 2 & 31) as u8
    }

    /// The reason, where the number is one.
    #[must_use]
    pub fn reason(self) -> Option<Reason> {
        Reason::from_number(self.reason_number())
    }

    /// What is left of it where nothing can be answered: what would be is dropped.
    #[inline(always)]
    #[must_use]
    pub const fn unanswered(self) -> Self {
        // Of the verdicts 2 and 3 only the bit of 1 is left.
        if self.is_answered() { Self(self.0 & !3 | 1) } else { self }
    }

    /// The counter cell, with the number of the customer's family.
    #[inline(always)]
    #[must_use]
    pub const fn cell(self, family: u8) -> u32 {
        cell_by_number(self.group(), family, self.reason_number(), self.verdict())
    }

    /// Whether the frame is answered.
    #[inline(always)]
    #[must_use]
    pub const fn is_answered(self) -> bool {
        self.verdict() >= 2
    }

    /// How the walk ended, where the number is an outcome.
    #[must_use]
    pub fn outcome(self) -> Option<Outcome> {
        Outcome::from_number((self.0 >> 7 & 31) as u8)
    }

    /// The group's number, zero for none.
    #[inline(always)]
    #[must_use]
    pub const fn group(self) -> u32 {
        self.0 >> 12 & 0xff
    }

    /// The relay's number from 1, zero for none.
    #[must_use]
    pub const fn relay(self) -> u32 {
        self.0 >> 20 & 0x7f
    }
}

const _: () = {
    assert!(size_of::<Group>() == 24);
    assert!(size_of::<Server>() == 16);
    assert!(size_of::<Count>() == 24);
};
