//! The one place with packet pointer arithmetic: how each hook's frames are read.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_RECOMPUTE_CSUM, xdp_md},
    helpers::generated::{
        bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes, bpf_xdp_adjust_head,
        bpf_xdp_adjust_tail, bpf_xdp_get_buff_len,
    },
};
use op25b_ebpf::{
    abi::Answer,
    found::{FARTHEST, Found, Wrapping},
    reply::{
        Reply,
        craft::{Resized, Rewrite},
    },
    source::Event,
    verdict::Verdict,
};

use super::constants::MULTI_BUFFER;

/// A frame in the kernel.
pub(crate) trait Frame: Rewrite {
    /// What the kernel hands to a program of the hook.
    type Context;

    /// The frame of an entry point's context.
    fn new(context: *mut Self::Context) -> Self;

    /// What the kernel took off the frame before the hook.
    fn stripped(&self) -> Wrapping;

    /// Decides a frame and counts it.
    fn judge(&self, found: Found) -> Verdict;

    /// Counts a SYN to a submission port.
    fn note_submission(&self, found: Found);

    /// Number of the interface.
    fn interface(&self) -> u32;

    /// Bytes from the first on that can be read without a copy.
    fn at_hand(&self) -> u64;

    /// A tag that travels beside the frame: see [`Event::tag`].
    fn tag(&self) -> u32;

    /// What to answer: see [`super::replies`].
    fn choose(&self, found: Found, action: Verdict) -> Reply;

    /// Makes the frame into the answer.
    fn craft(&self, found: Found, reply: Reply) -> Reply;

    /// Both, as far as there is to answer. Whether there is something to send.
    fn reply(&self, found: Found, action: Verdict) -> bool;

    /// Tells whoever listens, with the frame's first bytes; `kind` is [`Event::kind`].
    fn tell(&self, found: Found, answer: Answer, kind: u32);
}

/// A frame at the XDP hook.
pub(crate) struct XdpFrame {
    pub(super) context: *mut xdp_md,
}

impl XdpFrame {
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        // SAFETY: the kernel hands every XDP program a valid `xdp_md`.
        unsafe { ((*self.context).data as usize, (*self.context).data_end as usize) }
    }

    /// The `N` bytes at `offset`.
    #[inline(always)]
    pub(super) fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        read(self.bounds(), offset)
    }

    /// The same: XDP has one way only.
    #[inline(always)]
    pub(super) fn bytes_one_way<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.bytes(offset)
    }

    /// The same, for the everyday frames.
    #[inline(always)]
    pub(super) fn bytes_at_hand<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        peek(self.bounds(), offset)
    }

    /// Bytes of the whole frame, of which only the first buffer can be read.
    #[inline(always)]
    pub(super) fn length(&self) -> usize {
        if MULTI_BUFFER.load() != 0 {
            // SAFETY: as in `bounds`.
            return unsafe { bpf_xdp_get_buff_len(self.context) } as usize;
        }
        self.at_hand() as usize
    }

    /// Whether it has one buffer.
    #[inline(always)]
    pub(super) fn is_whole(&self) -> bool {
        self.length() as u64 == self.at_hand()
    }

    /// Makes the frame `length` bytes long: shorter at its tail, longer at its head, where drivers leave room.
    #[inline(always)]
    pub(super) fn resize(&self, length: usize, _: usize) -> Option<Resized> {
        let more = length as i32 - self.length() as i32;
        // SAFETY: as in `bounds`; nothing that points into the frame is kept.
        let result = unsafe {
            if more > 0 {
                bpf_xdp_adjust_head(self.context, -more)
            } else {
                bpf_xdp_adjust_tail(self.context, more)
            }
        };
        let old = if more > 0 { more as usize } else { 0 };
        if result == 0 { Some(Resized { old, summed: false }) } else { None }
    }

    /// Overwrites the `N` bytes at `offset`.
    #[inline(always)]
    pub(super) fn write<const N: usize>(&self, offset: usize, bytes: [u8; N]) -> Option<()> {
        let (data, end) = self.bounds();
        if offset > FARTHEST {
            return None;
        }
        let at = sum(data, offset);
        if at + N > end {
            return None;
        }
        // SAFETY: as in `read`; the frame is this program's own.
        unsafe { *(at as *mut [u8; N]) = bytes };
        Some(())
    }

    /// Packets that the frame stands for.
    #[inline(always)]
    pub(super) fn packets(&self, _: Found) -> u64 {
        1
    }

    /// A driver with receive VLAN offload takes a tag off before XDP and tells nobody.
    #[inline(always)]
    pub(super) fn stripped(&self) -> Wrapping {
        Wrapping::NONE
    }

    /// The same for an event.
    #[inline(always)]
    pub(super) fn tag(&self) -> u32 {
        0
    }

    /// Number of the interface.
    #[inline(always)]
    pub(super) fn interface(&self) -> u32 {
        // SAFETY: as in `bounds`.
        unsafe { (*self.context).ingress_ifindex }
    }

    /// Bytes of the first buffer.
    #[inline(always)]
    pub(super) fn at_hand(&self) -> u64 {
        let (data, end) = self.bounds();
        (end - data) as u64
    }
}

/// Bytes of a TCP header up to the end of its checksum (RFC 9293 §3.1).
const CHECKSUM_END: usize = 18;

/// Bytes on the stack where words can lie: the verifier takes no unaligned access to it.
#[repr(align(8))]
struct Aligned<T>(T);

/// A frame at the TC hook.
pub(crate) struct TcFrame {
    pub(super) context: *mut __sk_buff,
}

impl TcFrame {
    /// The linear part.
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        // SAFETY: the kernel hands every TC program a valid `__sk_buff`.
        unsafe { ((*self.context).data as usize, (*self.context).data_end as usize) }
    }

    /// The `N` bytes at `offset` of the linear part, for the everyday frames.
    #[inline(always)]
    pub(super) fn bytes_at_hand<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        peek(self.bounds(), offset)
    }

    /// The `N` bytes at `offset`: from the linear part where they are there, from the pages behind it otherwise.
    #[inline(always)]
    pub(super) fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        match read(self.bounds(), offset) {
            Some(bytes) => Some(bytes),
            None => self.bytes_one_way(offset),
        }
    }

    /// The `N` bytes at `offset`, wherever they are.
    #[inline(always)]
    pub(super) fn bytes_one_way<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut bytes = Aligned([0; N]);
        // SAFETY: the helper writes N bytes to an array of N, or fails.
        let result = unsafe {
            bpf_skb_load_bytes(self.context.cast(), offset as u32, bytes.0.as_mut_ptr().cast(), N as u32)
        };
        if result == 0 { Some(bytes.0) } else { None }
    }

    /// Bytes of the whole frame.
    #[inline(always)]
    pub(super) fn length(&self) -> usize {
        // SAFETY: as in `bounds`.
        unsafe { (*self.context).len as usize }
    }

    /// Makes the frame `length` bytes long, at its tail. What was merged out of several is one frame then.
    #[inline(always)]
    pub(super) fn resize(&self, length: usize, tcp: usize) -> Option<Resized> {
        // The kernel cuts no frame before the end of a checksum that is still to be made: so it says which has one.
        let end = tcp + CHECKSUM_END;
        let summed = !self.cut(tcp);
        if summed && (self.cut(end - 1) || !self.cut(end)) || !self.cut(length) {
            return None;
        }
        Some(Resized { old: 0, summed })
    }

    /// Makes the frame so long; `false` where the kernel refuses.
    #[inline(always)]
    fn cut(&self, length: usize) -> bool {
        // SAFETY: as in `bounds`; nothing that points into the frame is kept.
        unsafe { bpf_skb_change_tail(self.context, length as u32, 0) == 0 }
    }

    /// All of it can be read, from the pages too.
    #[inline(always)]
    pub(super) fn is_whole(&self) -> bool {
        true
    }

    /// Overwrites the `N` bytes at `offset`.
    #[inline(always)]
    pub(super) fn write<const N: usize>(&self, offset: usize, bytes: [u8; N]) -> Option<()> {
        // The kernel keeps the frame's own checksum, where its driver has made one.
        let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
        let bytes = Aligned(bytes);
        // SAFETY: the helper reads N bytes of an array of N, or fails.
        let result = unsafe {
            bpf_skb_store_bytes(self.context, offset as u32, bytes.0.as_ptr().cast(), N as u32, flags)
        };
        if result == 0 { Some(()) } else { None }
    }

    /// Packets that the frame stands for: segmentation offload puts many into one.
    #[inline(always)]
    pub(super) fn packets(&self, found: Found) -> u64 {
        // SAFETY: as in `bounds`.
        let (segments, size) = unsafe { ((*self.context).gso_segs, (*self.context).gso_size) };
        if segments != 0 {
            return u64::from(segments);
        }
        if size == 0 || !found.is_readable() {
            return 1;
        }
        // A virtual machine's or a tunnel's: nobody has counted its segments yet. RFC 9293 §3.1: the header's length
        // is in words, in the upper four bits of its thirteenth byte.
        let transport = found.transport_at();
        let words = self.bytes::<2>(transport + 12).map_or(5, |[offset, _]| u64::from(offset >> 4));
        let payload = (self.length() as u64).saturating_sub(transport as u64 + words * 4);
        payload.div_ceil(u64::from(size)).max(1)
    }

    /// A tag travels beside the frame here.
    #[inline(always)]
    pub(super) fn stripped(&self) -> Wrapping {
        // SAFETY: as in `bounds`.
        if unsafe { (*self.context).vlan_present } == 0 { Wrapping::NONE } else { Wrapping::VLAN }
    }

    /// The same for an event.
    #[inline(always)]
    pub(super) fn tag(&self) -> u32 {
        // SAFETY: as in `bounds`.
        let (present, tag) = unsafe { ((*self.context).vlan_present, (*self.context).vlan_tci) };
        if present == 0 { 0 } else { Event::TAGGED | tag & 0xffff }
    }

    /// Number of the interface.
    #[inline(always)]
    pub(super) fn interface(&self) -> u32 {
        // SAFETY: as in `bounds`.
        unsafe { (*self.context).ifindex }
    }

    /// All of the frame: the kernel copies what is in pages, too.
    #[inline(always)]
    pub(super) fn at_hand(&self) -> u64 {
        self.length() as u64
    }
}

#[inline(always)]
fn read<const N: usize>((data, end): (usize, usize), offset: usize) -> Option<[u8; N]> {
    if offset > FARTHEST {
        return None;
    }
    let at =
        if core::intrinsics::is_val_statically_known(offset) { data + offset } else { sum(data, offset) };
    if at + N > end {
        return None;
    }
    // SAFETY: `at..at + N` lies between `data` and `data_end`; an array of bytes has no alignment.
    Some(unsafe { *(at as *const [u8; N]) })
}

/// The same without the two instructions that keep LLVM off, for offsets that it knows: for straight code only, since
/// behind a branch it merges such reads.
#[inline(always)]
fn peek<const N: usize>((data, end): (usize, usize), offset: usize) -> Option<[u8; N]> {
    if !core::intrinsics::is_val_statically_known(offset) {
        return read((data, end), offset);
    }
    if data + offset + N > end {
        return None;
    }
    // SAFETY: as in `read`.
    Some(unsafe { *((data + offset) as *const [u8; N]) })
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
