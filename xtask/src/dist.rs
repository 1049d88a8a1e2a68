//! `cargo xtask dist`: what an operator installs, made so that the same commit gives the same bytes.

mod build;
mod deb;
mod licences;
mod manual;
mod roots;
mod sbom;
mod tarball;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use build::Built;
use tree::Tree;

use crate::exec::{exec, read};
use crate::{root, setup};

/// What is made.
const PACKAGES: &str = "target/packages";
/// Where cargo builds: its flags differ from those of other builds, which must not be undone by them.
const TARGET: &str = "target/dist";
/// Tools, clean roots of Debian, and the second build; git ignores it.
const CACHE: &str = ".cache/dist";

/// Beside the packages.
const SUMS: &str = "SHA256SUMS";

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The files of one build.
struct Packages {
    deb: PathBuf,
    tarball: PathBuf,
}

/// Makes the packages; with `check`, twice, and installs them.
pub(crate) fn run(check: bool) -> Result<()> {
    if check {
        root::require("cargo xtask dist --check")?;
    }
    let begun = Instant::now();
    setup::run_for_dist(check)?;
    if check {
        // Known vulnerabilities, which it would fetch from elsewhere, are for who has the network: deny.toml is ready.
        exec(
            Command::new(setup::DENY.path()?)
                .args(["check", "--hide-inclusion-graph", "--allow", "duplicate"])
                .args(["licenses", "bans", "sources"]),
        )
        .context("what op25b is made of is not what deny.toml allows")?;
    }
    let workspace = std::env::current_dir().context("where is the workspace?")?;
    let epoch = epoch()?;
    let built = build::release(&workspace, Path::new(TARGET), epoch)?;
    let (packages, tree) = pack(&workspace, &built, Path::new(PACKAGES), epoch)?;
    println!("{}", fs::read_to_string(Path::new(PACKAGES).join(SUMS))?.trim_end());
    println!("dist: both made in {PACKAGES} within {} s", begun.elapsed().as_secs());
    if check {
        roots::check(&packages.deb, &packages.tarball, &tree, epoch)?;
        compare_with_another_build(&workspace, &built, &packages, epoch)?;
        println!("dist: all checks are ok");
    }
    Ok(())
}

/// Packs a build of the sources in `workspace` into `out`.
fn pack(workspace: &Path, built: &Built, out: &Path, epoch: u64) -> Result<(Packages, Tree)> {
    if out.exists() {
        fs::remove_dir_all(out).with_context(|| format!("cannot remove {}", out.display()))?;
    }
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let tree = Tree::plant(workspace, built, &out.join("tree"), epoch)?;
    let deb = deb::build(workspace, &tree, VERSION, out, epoch)?;
    let tarball = tarball::build(&tree, VERSION, out, epoch)?;
    let names = [&deb, &tarball].map(|path| path.file_name().unwrap_or_default().to_owned());
    let sums = read(Command::new("sha256sum").args(names).current_dir(out))?;
    fs::write(out.join(SUMS), sums)?;
    Ok((Packages { deb, tarball }, tree))
}

/// Builds a copy of the sources in another folder, from nothing, and compares.
fn compare_with_another_build(
    workspace: &Path,
    built: &Built,
    packages: &Packages,
    epoch: u64,
) -> Result<()> {
    let copy = workspace.join(CACHE).join("again");
    eprintln!("dist: building again, in another folder and from nothing");
    build::copy_sources(workspace, &copy)?;
    let again = build::release(&copy, &copy.join("target"), epoch)?;
    let (others, _) = pack(&copy, &again, &copy.join("packages"), epoch)?;
    let mut differ = Vec::new();
    for (what, one, other) in [
        ("the BPF object", &built.object, &again.object),
        ("op25b", &built.program, &again.program),
        ("the .deb", &packages.deb, &others.deb),
        ("the tarball", &packages.tarball, &others.tarball),
    ] {
        let (one, other) = (sha256(one)?, sha256(other)?);
        println!("dist: {what}: {one}{}", if one == other { ", twice" } else { " and another" });
        if one != other {
            differ.push(what);
        }
    }
    if !differ.is_empty() {
        bail!("two builds differ in {}; `diffoscope` on both shows where", differ.join(", "));
    }
    fs::remove_dir_all(&copy).with_context(|| format!("cannot remove {}", copy.display()))
}

fn sha256(file: &Path) -> Result<String> {
    let line = read(Command::new("sha256sum").arg(file))?;
    Ok(line.split_whitespace().next().unwrap_or_default().to_owned())
}

/// The time that is written into packages: of the last commit, or as SOURCE_DATE_EPOCH says.
fn epoch() -> Result<u64> {
    let text = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => read(Command::new("git").args(["log", "-1", "--format=%ct"]))
            .context("no git history tells the time; set SOURCE_DATE_EPOCH to seconds since 1970")?,
    };
    text.trim()
        .parse()
        .with_context(|| format!("SOURCE_DATE_EPOCH: {:?} is no number of seconds", text.trim()))
}
