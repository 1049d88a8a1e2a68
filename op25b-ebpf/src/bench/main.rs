//! What a lookup costs: programs that look a random address up in a compiled table, in the kernel's LPM trie, or
//! nowhere. Built for BPF like the filter, but no part of it.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod programs;
#[cfg(target_arch = "bpf")]
#[path = "../kernel/table.rs"]
mod table;

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("op25b-bench is built for BPF, by op25b-user's build script");
}
