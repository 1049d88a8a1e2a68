//! The one place with packet pointer arithmetic.

use aya_ebpf::bindings::xdp_md;
use op25b_ebpf::{
    address::Family,
    found::{FARTHEST, Found},
    frame::{Extension, Network, Sight},
    packet::Packet,
};

/// A frame in the kernel.
pub(crate) trait Frame: Packet {
    /// Bytes of the whole frame.
    fn length(&self) -> u64;
}

/// A frame at the XDP hook.
pub(crate) struct XdpFrame {
    context: *mut xdp_md,
}

impl XdpFrame {
    /// The frame of an entry point's context.
    #[inline(always)]
    pub(crate) fn new(context: *mut xdp_md) -> Self {
        Self { context }
    }

    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        // SAFETY: the kernel hands every XDP program a valid `xdp_md`.
        unsafe { ((*self.context).data as usize, (*self.context).data_end as usize) }
    }
}

impl Packet for XdpFrame {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if offset > FARTHEST {
            return None;
        }
        let (data, end) = self.bounds();
        let at = sum(data, offset);
        if at + N > end {
            return None;
        }
        // SAFETY: `at..at + N` lies between `data` and `data_end`; an array of bytes has no alignment.
        Some(unsafe { *(at as *const [u8; N]) })
    }

    #[inline(always)]
    fn walk(&self, _: Sight) -> Found {
        Found(super::op25b_walk_xdp(self.context))
    }

    #[inline(always)]
    fn network(&self, network: Network, _: Sight) -> Found {
        let ipv6 = matches!(network.family, Family::Ipv6);
        Found(super::op25b_network_xdp(self.context, network.at as u64, u64::from(ipv6)))
    }

    #[inline(always)]
    fn extension(&self, protocol: u8, at: usize) -> Extension {
        unpack(super::op25b_extension_xdp(self.context, u64::from(protocol), at as u64))
    }
}

impl Frame for XdpFrame {
    #[inline(always)]
    fn length(&self) -> u64 {
        let (data, end) = self.bounds();
        (end - data) as u64
    }
}

const CUT: u64 = u64::MAX;
const LATER_FRAGMENT: u64 = u64::MAX - 1;

/// An extension header's answer as a subprogram returns it: what follows in the low byte, its offset above.
#[inline(always)]
pub(super) fn pack(extension: Extension) -> u64 {
    match extension {
        Extension::Passed(protocol, at) => (at as u64) << 8 | u64::from(protocol),
        Extension::LaterFragment => LATER_FRAGMENT,
        Extension::Cut => CUT,
    }
}

#[inline(always)]
fn unpack(packed: u64) -> Extension {
    match packed {
        CUT => Extension::Cut,
        LATER_FRAGMENT => Extension::LaterFragment,
        _ => Extension::Passed(packed as u8, (packed >> 8) as usize & FARTHEST),
    }
}

/// The sum, in a register of which LLVM knows nothing, with a bound that the verifier sees. Otherwise LLVM drops a
/// bound it can prove, or checks one register and reads through an equal one; the verifier, which tracks
/// registers, then refuses.
#[inline(always)]
fn sum(mut address: usize, offset: usize) -> usize {
    // SAFETY: two instructions on registers; `offset` is at most FARTHEST, so that the mask changes nothing.
    unsafe {
        core::arch::asm!(
            "{offset} &= {farthest}",
            "{address} += {offset}",
            address = inout(reg) address,
            offset = inout(reg) offset => _,
            farthest = const FARTHEST,
            options(nomem, nostack, pure, preserves_flags)
        );
    }
    address
}
