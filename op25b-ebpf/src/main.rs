//! The kernel shell: entry points and the subprograms behind them. Knows nothing of YAML, DNS or people.
#![cfg_attr(
    target_arch = "bpf",
    no_std,
    no_main,
    feature(asm_experimental_arch, core_intrinsics),
    allow(internal_features)
)]

#[cfg(target_arch = "bpf")]
mod kernel;

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("op25b-kernel is built for BPF, by op25b-user's build script");
}
