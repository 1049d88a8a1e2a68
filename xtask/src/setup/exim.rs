//! Exim, one of the mail programs that the tests try: unpacked in a folder of its own, since as a package it would push
//! out the mail server that the machine has.

use std::path::Path;

use anyhow::Result;

use super::packages::Packages;

const PACKAGE: &str = "exim4-daemon-light";

/// The shared libraries that it depends on.
const LIBRARIES: &[&str] = &[
    "libcrypt1",
    "libdb5.3",
    "libgnutls-dane0",
    "libgnutls30",
    "libidn12",
    "libidn2-0",
    "libnsl2",
    "libpcre2-8-0",
];

/// Where it is kept, and where the tests look; git ignores it.
const KEPT: &str = ".cache/exim";

/// Makes sure that it is there.
pub(crate) fn find_or_get(packages: &mut Packages) -> Result<()> {
    if Path::new(KEPT).join("usr/sbin/exim4").exists() {
        return Ok(());
    }
    packages.install("for Exim", LIBRARIES)?;
    println!("setup: unpacking in {KEPT}: {PACKAGE}");
    packages.keep_unpacked(&[PACKAGE], Path::new(KEPT), |_| Ok(()))
}
