//! Entry points: XDP for the wire, TC where XDP cannot be, and for each a sibling that answers what it would do.

mod constants;
pub(crate) mod frame;
pub(crate) mod hook;
mod maps;
mod sources;
pub(crate) mod table;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use op25b_ebpf::verdict::Verdict;

use self::{
    frame::{TcFrame, XdpFrame},
    hook::{explain, filter, sample},
};

/// Kernels up to 5.17, and drivers without multi-buffer support.
#[xdp]
pub(crate) fn op25b_xdp(context: XdpContext) -> u32 {
    xdp_action(filter::<XdpFrame>(context.ctx))
}

/// The same for frames of several buffers (Linux 5.18): decided from the first one.
#[xdp(frags)]
pub(crate) fn op25b_xdp_frags(context: XdpContext) -> u32 {
    xdp_action(filter::<XdpFrame>(context.ctx))
}

/// Interfaces without Ethernet header, interfaces where XDP is taken, and frames on their way out.
#[classifier]
pub(crate) fn op25b_tc(context: TcContext) -> i32 {
    tc_action(filter::<TcFrame>(context.skb.skb))
}

/// [`op25b_xdp`], sampling.
#[xdp]
pub(crate) fn op25b_sample_xdp(context: XdpContext) -> u32 {
    xdp_action(sample::<XdpFrame>(context.ctx))
}

/// [`op25b_xdp_frags`], sampling.
#[xdp(frags)]
pub(crate) fn op25b_sample_frags(context: XdpContext) -> u32 {
    xdp_action(sample::<XdpFrame>(context.ctx))
}

/// [`op25b_tc`], sampling.
#[classifier]
pub(crate) fn op25b_sample_tc(context: TcContext) -> i32 {
    tc_action(sample::<TcFrame>(context.skb.skb))
}

/// The decision on one frame as an [`op25b_ebpf::abi::Answer`]: never attached, run by BPF_PROG_TEST_RUN.
#[xdp]
pub(crate) fn op25b_explain(context: XdpContext) -> u32 {
    explain::<XdpFrame>(context.ctx)
}

/// The same through the TC hook's reader.
#[classifier]
pub(crate) fn op25b_explain_tc(context: TcContext) -> i32 {
    explain::<TcFrame>(context.skb.skb).cast_signed()
}

/// Passes everything: the floor of measurements, and what the far end of a veth needs to take replies.
#[xdp]
pub(crate) fn op25b_pass(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[inline(always)]
fn xdp_action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::Drop | Verdict::Reset | Verdict::Notice => xdp_action::XDP_DROP,
    }
}

#[inline(always)]
fn tc_action(verdict: Verdict) -> i32 {
    match verdict {
        // Not TC_ACT_OK: programs behind this one have their say.
        Verdict::Pass => TC_ACT_UNSPEC,
        Verdict::Drop | Verdict::Reset | Verdict::Notice => TC_ACT_SHOT,
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The helpers that op25b calls are for GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
