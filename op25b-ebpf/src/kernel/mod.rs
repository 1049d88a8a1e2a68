//! Entry points: XDP for the wire, and a sibling that answers what it would do.

mod constants;
mod frame;
mod maps;

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    macros::xdp,
    programs::XdpContext,
};
use aya_log_ebpf::debug;
use op25b_ebpf::{
    abi::Answer,
    address::Family,
    found::Found,
    frame::{Network, parse},
    verdict::{Decision, Flow, Verdict, decide},
};

use self::{
    constants::{role, sight},
    frame::{Frame, XdpFrame},
    maps::Tables,
};

/// Kernels up to 5.17, and drivers without multi-buffer support.
#[xdp]
pub(crate) fn op25b_xdp(context: XdpContext) -> u32 {
    filter(context.ctx)
}

/// The same for frames of several buffers (Linux 5.18): decided from the first one.
#[xdp(frags)]
pub(crate) fn op25b_xdp_frags(context: XdpContext) -> u32 {
    filter(context.ctx)
}

/// The decision on one frame as an [`Answer`]: never attached, run by BPF_PROG_TEST_RUN; counts nothing.
#[xdp]
pub(crate) fn op25b_explain(context: XdpContext) -> u32 {
    let frame = XdpFrame::new(context.ctx);
    let found = parse(&frame, sight());
    if !found.is_judged() {
        return Answer::new(0, 0, found.outcome_number(), 0, 0).0;
    }
    let Some((_, decision)) = decision(&frame, found) else { return 0 };
    Answer::new(
        decision.verdict as u8,
        decision.reason as u8,
        found.outcome_number(),
        decision.group,
        decision.relay(),
    )
    .0
}

/// Passes everything: the floor of measurements, and what the far end of a veth needs to take replies.
#[xdp]
pub(crate) fn op25b_pass(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[inline(always)]
fn filter(context: *mut xdp_md) -> u32 {
    let found = parse(&XdpFrame::new(context), sight());
    // 99.9 % of traffic ends here: no map, no counter.
    if !found.is_judged() {
        return xdp_action::XDP_PASS;
    }
    op25b_judge_xdp(context, found.0)
}

/// Verified once, for any frame, instead of once for every way the walk can end.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn op25b_judge_xdp(context: *mut xdp_md, found: u64) -> u32 {
    let frame = XdpFrame::new(context);
    let found = Found(found);
    let Some((flow, decision)) = decision(&frame, found) else {
        return xdp_action::XDP_PASS;
    };
    maps::count(decision.cell(flow.family()), frame.length());
    // The loader sets the level; at its default the verifier cuts this away.
    debug!(
        &XdpContext::new(context),
        "judged: outcome {}, group {}, reason {}, verdict {}",
        found.outcome_number(),
        decision.group,
        decision.reason as u8,
        decision.verdict as u8
    );
    match decision.verdict {
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::Drop | Verdict::Reset | Verdict::Notice => xdp_action::XDP_DROP,
    }
}

/// The walk through a frame that is not an everyday one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn op25b_walk_xdp(context: *mut xdp_md) -> u64 {
    op25b_ebpf::frame::walk(&XdpFrame::new(context), sight()).0
}

/// The walk from the network header on; verified once, for any start.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn op25b_network_xdp(context: *mut xdp_md, at: u64, ipv6: u64) -> u64 {
    let at = at as usize;
    if at > Network::FARTHEST {
        return 0;
    }
    let family = if ipv6 == 0 { Family::Ipv4 } else { Family::Ipv6 };
    op25b_ebpf::frame::network(&XdpFrame::new(context), Network { at, family }, sight()).0
}

/// One extension header; verified once, for any offset.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn op25b_extension_xdp(context: *mut xdp_md, protocol: u64, at: u64) -> u64 {
    frame::pack(op25b_ebpf::frame::extension(&XdpFrame::new(context), protocol as u8, at as usize))
}

#[inline(always)]
fn decision<F: Frame>(frame: &F, found: Found) -> Option<(Flow, Decision)> {
    let flow = Flow::read(frame, found)?;
    Some((flow, decide(&flow, role(), &Tables)))
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The helpers that op25b calls are for GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
