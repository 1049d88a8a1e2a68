//! Debian packages: which are missing, installing them, and unpacking those that cannot be installed.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::exec::{exec, feed, read};
use crate::root;

/// The machine's packages; the index is updated once, before the first installation.
#[derive(Default)]
pub(crate) struct Packages {
    index_updated: bool,
}

impl Packages {
    /// Installs those of `wanted` that are missing.
    pub(crate) fn install<P: AsRef<str>>(&mut self, purpose: &str, wanted: &[P]) -> Result<()> {
        let missing = missing(wanted)?;
        if missing.is_empty() {
            return Ok(());
        }
        let list = missing.join(" ");
        if !root::is_root()? {
            bail!(
                "missing {purpose}: {list}\n\
                 hint: as root: apt-get update && apt-get install --no-install-recommends {list}"
            );
        }
        println!("setup: installing {purpose}: {list}");
        if missing.contains(&"postfix") {
            leave_postfix_unconfigured()?;
        }
        self.update_index()?;
        exec(apt_install().arg("-y").args(&missing).stdout(Stdio::null()))
    }

    /// Whether the machine's package sources have `package`.
    pub(crate) fn offer(&mut self, package: &str) -> bool {
        in_index(package) || (self.update_index().is_ok() && in_index(package))
    }

    /// Whether `package` can be installed beside everything that the machine has.
    pub(crate) fn can_install(&mut self, package: &str) -> bool {
        self.offer(package) && read(apt_install().args(["-s", package]).stderr(Stdio::null())).is_ok()
    }

    /// Downloads `wanted` into `folder`.
    pub(crate) fn download(&mut self, wanted: &[&str], folder: &Path) -> Result<()> {
        // Others than root have no way to update it; it may well be new enough.
        if root::is_root()? {
            self.update_index()?;
        }
        // The user that it would become may not enter the folder.
        exec(
            apt_get()
                .args(["-qq", "-o", "APT::Sandbox::User=root", "download"])
                .args(wanted)
                .current_dir(folder)
                .stdout(Stdio::null()),
        )
    }

    /// Downloads `wanted` and unpacks them as they would be in `/` into the folder `kept`, if they are `right` there.
    /// Whole or not at all; a folder of before goes.
    pub(crate) fn keep_unpacked(
        &mut self,
        wanted: &[&str],
        kept: &Path,
        right: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        let beside = kept.parent().context("a folder to unpack in lies in another")?;
        fs::create_dir_all(beside).with_context(|| format!("cannot create {}", beside.display()))?;
        let download = tempfile::tempdir_in(beside)?;
        let unpacked = download.path().join("unpacked");
        fs::create_dir(&unpacked)?;
        self.download(wanted, download.path())?;
        unpack(download.path(), &unpacked)?;
        right(&unpacked)?;
        if kept.exists() {
            fs::remove_dir_all(kept)?;
        }
        fs::rename(&unpacked, kept).with_context(|| format!("cannot make {}", kept.display()))
    }

    fn update_index(&mut self) -> Result<()> {
        if !self.index_updated {
            exec(apt_get().args(["-qq", "update"]))?;
            self.index_updated = true;
        }
        Ok(())
    }
}

/// Unpacks the packages in the folder `downloaded` into the folder `unpacked`; nothing of theirs is run.
pub(crate) fn unpack(downloaded: &Path, unpacked: &Path) -> Result<()> {
    for file in fs::read_dir(downloaded)? {
        let file = file?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            exec(Command::new("dpkg").arg("-x").arg(&file).arg(unpacked))?;
        }
    }
    Ok(())
}

fn missing<P: AsRef<str>>(wanted: &[P]) -> Result<Vec<&str>> {
    let names = wanted.iter().map(AsRef::as_ref);
    // It exits with 1 when it knows nothing of one of them, and still lists the others.
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\n"])
        .args(names.clone())
        .output()
        .with_context(|| {
            let list = names.clone().collect::<Vec<_>>().join(" ");
            format!("cannot run dpkg-query; install what these Debian packages hold by hand: {list}")
        })?;
    let known = String::from_utf8_lossy(&output.stdout);
    let installed: HashSet<&str> = known.lines().filter_map(|line| line.strip_suffix(" installed")).collect();
    Ok(names.filter(|name| !installed.contains(name)).collect())
}

/// With its own default answer the package writes a configuration and starts a mail server on the machine.
fn leave_postfix_unconfigured() -> Result<()> {
    let answer = "postfix postfix/main_mailer_type select No configuration\n";
    feed(&mut Command::new("debconf-set-selections"), answer)
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// --no-remove: postfix must not push out the mail server that the machine already has.
fn apt_install() -> Command {
    let mut command = apt_get();
    command.args(["-qq", "--no-remove", "--no-install-recommends", "install"]);
    command
}

fn in_index(package: &str) -> bool {
    read(Command::new("apt-cache").args(["show", package]).stderr(Stdio::null()))
        .is_ok_and(|description| !description.is_empty())
}
