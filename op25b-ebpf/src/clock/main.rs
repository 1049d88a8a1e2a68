//! The kernel's jiffies, for the loader: what tells it how far they are from CLOCK_MONOTONIC.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
#[path = "../kernel/common.rs"]
mod common;

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{
        bindings::{TC_ACT_OK, TC_ACT_SHOT},
        helpers::generated::bpf_jiffies64,
        macros::classifier,
        programs::TcContext,
    };

    /// Writes them over the first eight bytes of a frame. Never attached; and no XDP program, for each run of which older
    /// kernels change their own code.
    #[classifier]
    pub(crate) fn op25b_clock(context: TcContext) -> i32 {
        let at = context.data();
        if at + size_of::<u64>() > context.data_end() {
            return TC_ACT_SHOT;
        }
        // SAFETY: the helper takes nothing and returns a number; its place lies within the frame.
        unsafe { (at as *mut u64).write_unaligned(bpf_jiffies64()) };
        TC_ACT_OK
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("op25b-clock is built for BPF, by op25b-user's build script");
}
