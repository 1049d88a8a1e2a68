//! Finds or installs what the other tasks need; it must not know what they do with it.

mod emulator;
mod exim;
mod linker;
mod packages;
mod packaging;
mod toolchain;

use anyhow::Result;

use packages::Packages;

pub(crate) use emulator::Emulator;
pub(crate) use packages::unpack;
pub(crate) use packaging::{CYCLONEDX, DENY};

/// What the demo and the tests run beside op25b. Swaks needs the two Perl modules for TLS and for IPv6.
const LAB: &[&str] = &[
    "busybox-static",
    "chromium",
    "chromium-driver",
    "cpio",
    "ethtool",
    "faketime",
    "fonts-ipafont-gothic",
    "iproute2",
    "libio-socket-inet6-perl",
    "libnet-ssleay-perl",
    "libsasl2-modules",
    "libsasl2-modules-db",
    "msmtp",
    "nftables",
    "openssl",
    "postfix",
    "procps",
    "prometheus",
    "python3",
    "rsyslog",
    "sasl2-bin",
    "swaks",
    "tcpdump",
    "tmux",
    "tshark",
    "util-linux",
    "xz-utils",
];

/// Makes sure that everything is there. Says what it installs, and nothing when nothing is missing.
pub(crate) fn run() -> Result<()> {
    let mut packages = Packages::default();
    for_bpf(&mut packages)?;
    packages.install("for the demo and the tests", LAB)?;
    exim::find_or_get(&mut packages)?;
    emulator::find_or_get(&mut packages)
}

/// What `cargo xtask bench` measures op25b against, and with.
const PEERS: &[&str] = &["ipset", "iperf3", "iptables", "xdp-tools"];

/// The same, and what op25b is measured against.
pub(crate) fn run_for_bench() -> Result<()> {
    run()?;
    Packages::default().install("to measure against", PEERS)
}

/// Makes sure that packages can be made and, with `check`, tried: none of the demo's and the tests' programs.
pub(crate) fn run_for_dist(check: bool) -> Result<()> {
    let mut packages = Packages::default();
    for_bpf(&mut packages)?;
    packaging::find_or_get(check, &mut packages)
}

fn for_bpf(packages: &mut Packages) -> Result<()> {
    let llvm = toolchain::find_or_link(packages)?;
    linker::find_or_build(llvm, packages)
}
