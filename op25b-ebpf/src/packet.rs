//! The seam between the core and a frame's bytes: one read method, and nothing of where the bytes come from.

use crate::{
    found::Found,
    frame::{self, Extension, Look, Network, Tags},
    segment::{self, Extent},
};

/// A frame that can be read at any offset.
///
/// The core never sees a slice: the BPF verifier tracks packet pointers against the end of the packet, not lengths.
pub trait Packet: Sized {
    /// The `N` bytes at `offset`, or `None` where the frame ends before them. At least two: the verifier makes nothing
    /// of `start < end`, into which LLVM turns the check for one.
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// The same for the everyday frames' one look; may say `None` of bytes that take longer to reach.
    #[inline(always)]
    fn peek<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.read(offset)
    }

    /// The same for long loops over frames that nobody should send: one way for the verifier to follow, however slow.
    #[inline(always)]
    fn read_one_way<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.read(offset)
    }

    /// Bytes of the whole frame, of which the last may be where [`Packet::read`] does not reach.
    fn length(&self) -> usize;

    /// Whether all of it can be read.
    #[inline(always)]
    fn is_whole(&self) -> bool {
        true
    }

    // The steps of the walk. The kernel overrides them to call subprograms: each is verified once, and what one
    // returns is unknown to the verifier, so that the ways through a frame add up instead of multiplying.

    /// See [`frame::walk`].
    fn walk(&self, look: impl Look) -> Found {
        frame::walk(self, look)
    }

    /// See [`frame::network`].
    fn network(&self, network: Network, look: impl Look) -> Found {
        frame::network(self, network, look)
    }

    /// See [`frame::all_tags`].
    fn all_tags(&self) -> Tags {
        frame::all_tags(self)
    }

    /// See [`frame::more_tags`].
    fn more_tags(&self, kind: u16, at: usize) -> Tags {
        frame::more_tags(self, kind, at)
    }

    /// See [`frame::extension`].
    fn extension(&self, protocol: u8, at: usize) -> Extension {
        frame::extension(self, protocol, at)
    }

    /// See [`segment::extent`].
    fn extent(&self, found: Found) -> Option<Extent> {
        segment::extent(self, found)
    }

    /// Two bytes in network order.
    #[inline(always)]
    fn u16(&self, offset: usize) -> Option<u16> {
        Some(u16::from_be_bytes(self.read(offset)?))
    }
}

/// The host's frames.
impl Packet for &[u8] {
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }

    fn length(&self) -> usize {
        self.len()
    }
}
