//! Debian's cloud kernels: downloaded with this machine's apt, unpacked, and kept.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::sources;
use crate::exec::{exec, read};
use crate::setup;

const PACKAGE: &str = "linux-image-cloud-amd64";

/// What the packages of a kernel's files are called. That of the kernel itself stands for all of them.
const PARTS: [&str; 3] = ["linux-image-", "linux-binary-", "linux-modules-"];

/// An unpacked kernel.
pub(super) struct Kernel {
    /// What the machine starts.
    pub(super) image: PathBuf,
    /// The folder with its modules.
    pub(super) modules: PathBuf,
}

/// The kernel of `suite`, downloaded when `cache` does not have it.
pub(super) fn kernel(suite: &str, cache: &Path) -> Result<Kernel> {
    let kept = cache.join(suite);
    if let Some(kernel) = find(&kept) {
        return Ok(kernel);
    }
    // Beside its place, so that it gets there whole or not at all.
    let download = tempfile::tempdir_in(cache)?;
    let unpacked = download.path().join("unpacked");
    fs::create_dir(&unpacked)?;
    eprintln!("kernels: downloading the kernel of Debian {suite}");
    fetch(suite, download.path(), &unpacked).with_context(|| format!("no kernel of Debian {suite}"))?;
    if find(&unpacked).is_none() {
        bail!("the packages of Debian {suite} hold no kernel with modules");
    }
    if kept.exists() {
        fs::remove_dir_all(&kept)?;
    }
    fs::rename(&unpacked, &kept)?;
    find(&kept).with_context(|| format!("{} has no kernel", kept.display()))
}

fn fetch(suite: &str, folder: &Path, unpacked: &Path) -> Result<()> {
    let apt = Apt::new(suite, folder)?;
    // One of several sources may lack the suite; what matters is whether the kernel is in another.
    let updated = exec(apt.command("apt-get").args(["-qq", "update"]));
    let depends = read(apt.command("apt-cache").args(["depends", "--recurse", "--important", PACKAGE]));
    let depends = depends.unwrap_or_default();
    let packages: Vec<&str> = depends
        .lines()
        .filter(|package| *package != PACKAGE && PARTS.iter().any(|part| package.starts_with(part)))
        .collect();
    if packages.is_empty() {
        updated?;
        bail!("its mirror, as this machine's apt configuration names it, has no {PACKAGE} there");
    }
    exec(apt.command("apt-get").args(["-qq", "download"]).args(&packages).current_dir(folder))?;
    setup::unpack(folder, unpacked)
}

/// What `folder` holds, if it is a whole kernel.
fn find(folder: &Path) -> Option<Kernel> {
    // Where /lib is /usr/lib, newer packages say so.
    let modules = ["lib/modules", "usr/lib/modules"]
        .iter()
        .filter_map(|path| fs::read_dir(folder.join(path)).ok()?.next()?.ok())
        .map(|version| version.path())
        .find(|version| version.join("kernel").is_dir())?;
    let version = modules.file_name()?.to_str()?;
    let image = [modules.join("vmlinuz"), folder.join("boot").join(format!("vmlinuz-{version}"))]
        .into_iter()
        .find(|image| image.is_file())?;
    Some(Kernel { image, modules })
}

/// This machine's apt with the sources of another suite, and nothing of it on this machine's own.
struct Apt {
    options: Vec<OsString>,
}

impl Apt {
    fn new(suite: &str, folder: &Path) -> Result<Self> {
        // Apt takes a relative path for one below its own folders.
        let folder = fs::canonicalize(folder)?;
        let mut options = Vec::new();
        let mut set = |option: OsString| options.extend(["-o".into(), option]);
        for (key, name) in
            [("Dir::Etc::sourceparts", "sources"), ("Dir::State::lists", "lists"), ("Dir::Cache", "cache")]
        {
            let place = folder.join(name);
            fs::create_dir_all(place.join("partial"))?;
            let mut option = OsString::from(format!("{key}="));
            option.push(place);
            set(option);
        }
        for option in [
            "Dir::Etc::sourcelist=/dev/null",
            // The user that it would become may not enter the folder.
            "APT::Sandbox::User=root",
            "Acquire::Languages=none",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
        ] {
            set(option.into());
        }
        sources::derive(suite, &folder.join("sources"))?;
        Ok(Self { options })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options);
        command
    }
}
