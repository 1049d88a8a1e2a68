//! Finds or installs what the other tasks need; it must not know what they do with it.

mod emulator;
mod exim;
mod linker;
mod packages;
mod toolchain;

use anyhow::Result;

use packages::Packages;

pub(crate) use emulator::Emulator;
pub(crate) use packages::unpack;

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
    let llvm = toolchain::find_or_link(&mut packages)?;
    linker::find_or_build(llvm, &mut packages)?;
    packages.install("for the demo and the tests", LAB)?;
    exim::find_or_get(&mut packages)?;
    emulator::find_or_get(&mut packages)
}
