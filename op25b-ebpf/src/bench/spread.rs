//! A SYN, each time from another of many sources: given to the filter, to nothing, or sent out of an interface.

use aya_ebpf::{
    Global,
    bindings::xdp_action,
    macros::{classifier, map, xdp},
    maps::PerCpuArray,
    programs::{TcContext, XdpContext},
};

use crate::kernel::{
    frame::XdpFrame,
    hook::{Action, filter},
};

/// Of how many sources.
#[unsafe(no_mangle)]
static SOURCE_COUNT: Global<u32> = Global::new(1);
/// Whether every frame is an attempt, and none a retransmission.
#[unsafe(no_mangle)]
static ATTEMPTS: Global<u8> = Global::new(0);
/// Whether every frame is to another server.
#[unsafe(no_mangle)]
static SERVERS_VARY: Global<u8> = Global::new(0);
/// From one source's address to the next one's.
#[unsafe(no_mangle)]
static STRIDE: Global<u32> = Global::new(1);
/// Of a hundred frames, how many are for port 25; the others are for port 443.
#[unsafe(no_mangle)]
static MAIL: Global<u32> = Global::new(100);
/// What is returned for a frame that is sent: `XDP_TX`, or `XDP_PASS` into the interface's own stack.
#[unsafe(no_mangle)]
static SENT_BY: Global<u32> = Global::new(xdp_action::XDP_TX);
/// The Ethernet address that frames are sent to, its first byte lowest.
#[unsafe(no_mangle)]
static SENT_TO: Global<u64> = Global::new(0);
/// Frames made so far.
#[map]
static MADE: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

/// Offsets in an Ethernet frame with an IPv4 header without options.
const TIME_TO_LIVE: usize = 14 + 8;
const CHECKSUM: usize = 14 + 10;
const SOURCE: usize = 14 + 12;
const PORTS: usize = 14 + 20;
const SEQUENCE: usize = PORTS + 4;
const END: usize = SEQUENCE + 4;
const MAIL_PORTS: u32 = 40_025 << 16 | 25;
const WEB_PORTS: u32 = 40_443 << 16 | 443;
/// The first customer, 10.0.0.0.
const FIRST: u32 = 0x0a00_0000;

/// Makes the frame another one; `None` where it is too short.
#[inline(always)]
fn vary(context: &XdpContext) -> Option<()> {
    let (start, end) = (context.data(), context.data_end());
    if start + END > end {
        return None;
    }
    let made = MADE.get_ptr_mut(0)?;
    // SAFETY: the entry is this CPU's own; all fields end before `end`, and nobody else has the frame.
    unsafe {
        let number = (*made).wrapping_add(1);
        *made = number;
        // Odd, so that the sources come evenly, and neighbours in time are none in memory.
        let spread = u64::from(number.wrapping_mul(0x9e37_79b1)) * u64::from(SOURCE_COUNT.load());
        let place = (spread >> 32) as u32 * STRIDE.load();
        ((start + SOURCE) as *mut u32).write_unaligned((FIRST | place).to_be());
        if ATTEMPTS.load() != 0 {
            ((start + SEQUENCE) as *mut u32).write_unaligned(number);
        }
        if SERVERS_VARY.load() != 0 {
            // 198.18.0.0/15, of RFC 2544.
            ((start + SOURCE + 4) as *mut u32)
                .write_unaligned((0xc612_0000 | number >> 4 & 0x1_ffff).to_be());
        }
        // Both ports at once, so that each kind can be told by its source port too.
        let ports: u32 = if number % 100 < MAIL.load() { MAIL_PORTS } else { WEB_PORTS };
        ((start + PORTS) as *mut u32).write_unaligned(ports.to_be());
    }
    Some(())
}

/// The filter.
#[xdp]
pub(crate) fn bench_spread(context: XdpContext) -> u32 {
    if vary(&context).is_none() {
        return xdp_action::XDP_ABORTED;
    }
    match filter::<XdpFrame>(context.ctx) {
        Action::Pass => xdp_action::XDP_PASS,
        _ => xdp_action::XDP_DROP,
    }
}

/// Nothing: the floor of the filter.
#[xdp]
pub(crate) fn bench_spread_floor(context: XdpContext) -> u32 {
    if vary(&context).is_none() { xdp_action::XDP_ABORTED } else { xdp_action::XDP_DROP }
}

/// Sends the frame. Its memory was another's before, which may have been forwarded: what a router changes is written
/// anew.
#[xdp]
pub(crate) fn bench_send(context: XdpContext) -> u32 {
    if vary(&context).is_none() {
        return xdp_action::XDP_ABORTED;
    }
    let (start, end) = (context.data(), context.data_end());
    if start + END > end {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: as in `vary`.
    unsafe {
        let to = SENT_TO.load();
        (start as *mut u32).write_unaligned(to as u32);
        ((start + 4) as *mut u16).write_unaligned((to >> 32) as u16);
        *((start + TIME_TO_LIVE) as *mut u8) = 64;
        let mut sum = 0_u32;
        for word in 0..10 {
            if word != 5 {
                sum += u32::from(((start + 14 + 2 * word) as *const u16).read_unaligned());
            }
        }
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        ((start + CHECKSUM) as *mut u16).write_unaligned(!(sum as u16));
    }
    SENT_BY.load()
}

/// Drops everything: the floor of what is blocked.
#[xdp]
pub(crate) fn bench_drop(_: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// Passes everything, frames of several buffers too: the floor of what is forwarded.
#[xdp(frags)]
pub(crate) fn bench_pass(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// The same at the TC hook.
#[classifier]
pub(crate) fn bench_pass_tc(_: TcContext) -> i32 {
    aya_ebpf::bindings::TC_ACT_UNSPEC
}
