//! An IP address of either family, as tables and verdicts see it.

/// Address family; the number is the one used in counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Family {
    /// RFC 791.
    Ipv4 = 0,
    /// RFC 8200.
    Ipv6 = 1,
}

/// An IPv4 or IPv6 address.
///
/// IPv4 lies in the low 32 bits of `low`; `high` is then zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Which family the bits belong to.
    pub family: Family,
    /// The upper 64 bits of an IPv6 address.
    pub high: u64,
    /// The lower 64 bits of an IPv6 address, or the 32 bits of an IPv4 one.
    pub low: u64,
}

impl Address {
    /// From the four bytes on the wire.
    #[inline(always)]
    #[must_use]
    pub const fn ipv4(bytes: [u8; 4]) -> Self {
        Self { family: Family::Ipv4, high: 0, low: u32::from_be_bytes(bytes) as u64 }
    }

    /// From the two halves of the sixteen bytes on the wire.
    #[inline(always)]
    #[must_use]
    pub const fn ipv6(high: [u8; 8], low: [u8; 8]) -> Self {
        Self { family: Family::Ipv6, high: u64::from_be_bytes(high), low: u64::from_be_bytes(low) }
    }
}
