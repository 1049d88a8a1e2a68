//! Entry points: XDP for the wire, TC where XDP cannot be, and for each a sibling that answers what it would do.

mod common;
mod constants;
pub(crate) mod frame;
pub(crate) mod hook;
mod maps;
mod replies;
mod sources;
pub(crate) mod table;

use self::{
    frame::{TcFrame, XdpFrame},
    hook::{Action, explain, filter, sample},
};
use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    helpers::generated::bpf_redirect,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
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
    tc_action(context.skb.skb, filter::<TcFrame>(context.skb.skb))
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
    tc_action(context.skb.skb, sample::<TcFrame>(context.skb.skb))
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
fn xdp_action(action: Action) -> u32 {
    match action {
        Action::Pass => xdp_action::XDP_PASS,
        Action::Drop => xdp_action::XDP_DROP,
        Action::Return => xdp_action::XDP_TX,
    }
}

#[inline(always)]
fn tc_action(context: *mut __sk_buff, action: Action) -> i32 {
    match action {
        // Not TC_ACT_OK: programs behind this one have their say.
        Action::Pass => TC_ACT_UNSPEC,
        Action::Drop => TC_ACT_SHOT,
        // SAFETY: the kernel hands every TC program a valid `__sk_buff`; the helper takes numbers.
        Action::Return => unsafe { bpf_redirect((*context).ifindex, 0) as i32 },
    }
}
