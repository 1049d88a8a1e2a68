//! The filter on a SYN to port 25, each time from another of many sources, or with another sequence number.

use aya_ebpf::{Global, bindings::xdp_action, macros::xdp, programs::XdpContext};

use crate::kernel::{
    frame::XdpFrame,
    hook::{Action, filter},
};

/// Less one, of how many sources; a power of two before that.
#[unsafe(no_mangle)]
static LAST_SOURCE: Global<u32> = Global::new(0);
/// Whether every frame is an attempt, and none a retransmission.
#[unsafe(no_mangle)]
static ATTEMPTS: Global<u8> = Global::new(0);

/// Offsets in an Ethernet frame with an IPv4 header without options: source address, sequence number, and the
/// acknowledgement, which counts the runs.
const SOURCE: usize = 14 + 12;
const SEQUENCE: usize = 14 + 20 + 4;
const ACKNOWLEDGEMENT: usize = SEQUENCE + 4;

#[xdp]
pub(crate) fn bench_spread(context: XdpContext) -> u32 {
    let (start, end) = (context.data(), context.data_end());
    if start + ACKNOWLEDGEMENT + 4 > end {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: all fields end before `end`; nobody else has the frame.
    unsafe {
        let run = (start + ACKNOWLEDGEMENT) as *mut u32;
        let number = run.read_unaligned().wrapping_add(1);
        run.write_unaligned(number);
        // Odd, so that all sources come before one comes again.
        let place = number.wrapping_mul(0x9e37_79b1) & LAST_SOURCE.load();
        ((start + SOURCE) as *mut u32).write_unaligned((0x0a00_0000 | place).to_be());
        if ATTEMPTS.load() != 0 {
            ((start + SEQUENCE) as *mut u32).write_unaligned(number);
        }
    }
    match filter::<XdpFrame>(context.ctx) {
        Action::Pass => xdp_action::XDP_PASS,
        _ => xdp_action::XDP_DROP,
    }
}
