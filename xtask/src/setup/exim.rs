//! Exim, one of the mail programs that the tests try: unpacked in a folder of its own, since as a package it would push
//! out the mail server that the machine has.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::packages::{self, Packages};

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

const CACHE: &str = ".cache";

/// Where it is kept, and where the tests look; git ignores it.
const KEPT: &str = ".cache/exim";

/// Makes sure that it is there.
pub(crate) fn find_or_get(packages: &mut Packages) -> Result<()> {
    if Path::new(KEPT).join("usr/sbin/exim4").exists() {
        return Ok(());
    }
    packages.install("for Exim", LIBRARIES)?;
    println!("setup: unpacking in {KEPT}: {PACKAGE}");
    fs::create_dir_all(CACHE).with_context(|| format!("cannot create {CACHE}"))?;
    // Beside its place, so that it gets there whole or not at all.
    let download = tempfile::tempdir_in(CACHE)?;
    let unpacked = download.path().join("unpacked");
    fs::create_dir(&unpacked)?;
    packages.download(&[PACKAGE], download.path())?;
    packages::unpack(download.path(), &unpacked)?;
    if Path::new(KEPT).exists() {
        fs::remove_dir_all(KEPT)?;
    }
    fs::rename(&unpacked, KEPT).with_context(|| format!("cannot make {KEPT}"))
}
