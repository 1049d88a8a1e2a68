//! Builds the kernel object with the `bpf` toolchain that `cargo xtask setup` provides, to be embedded.

use anyhow::{Context as _, Result};
use aya_build::{Package, Toolchain, build_ebpf};

fn main() -> Result<()> {
    // SAFETY: a build script is a single thread; nobody reads the environment meanwhile.
    unsafe {
        // `-Z build-std=core` on a toolchain that need not be a nightly.
        std::env::set_var("RUSTC_BOOTSTRAP", "1");
        // Names of folders in its debug information would make the object another one in every folder.
        std::env::set_var("CARGO_UNSTABLE_TRIM_PATHS", "true");
        std::env::set_var("CARGO_PROFILE_RELEASE_TRIM_PATHS", "all");
    }
    let package = Package {
        name: "op25b-ebpf",
        root_dir: concat!(env!("CARGO_MANIFEST_DIR"), "/../op25b-ebpf"),
        ..Default::default()
    };
    build_ebpf([package], Toolchain::Custom("bpf"))
        .context("the kernel object cannot be built; `cargo xtask setup` installs what it needs")
}
