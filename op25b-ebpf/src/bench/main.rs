//! What parts of the filter cost: programs that look a random address up in a compiled table, in the kernel's LPM
//! trie, or nowhere; and the filter itself on frames of ever other sources. No part of op25b.
#![cfg_attr(
    target_arch = "bpf",
    no_std,
    no_main,
    feature(asm_experimental_arch, core_intrinsics),
    allow(internal_features)
)]

#[cfg(target_arch = "bpf")]
#[path = "../kernel/mod.rs"]
mod kernel;
#[cfg(target_arch = "bpf")]
mod programs;
#[cfg(target_arch = "bpf")]
mod spread;

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("op25b-bench is built for BPF, by op25b-user's build script");
}
