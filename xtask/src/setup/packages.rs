//! Debian packages: which are missing, installing them, and unpacking those that cannot be installed.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::exec::{exec, feed, on_path, read};
use crate::root;

/// What Debian's packages ask before they start or stop a service.
const SERVICE_POLICY: &str = "/usr/sbin/policy-rc.d";

/// Runs "$@" with $0 in the way of all services, and takes it away however that ends: by a shell, since Ctrl-C ends this
/// program before it could.
const WITHOUT_SERVICES: &str = r#"trap 'rm -f "$0"' EXIT
trap 'exit 130' HUP INT TERM
printf '#!/bin/sh\nexit 101\n' >"$0" && chmod 755 "$0" && "$@""#;

/// Packages that enable a service for the next boot, and the service: the lab runs its own, in namespaces.
const SERVICES: [(&str, &str); 4] =
    [("iperf3", "iperf3"), ("prometheus", "prometheus"), ("rsyslog", "rsyslog"), ("sasl2-bin", "saslauthd")];

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
        let mut install = apt_install();
        install.arg("-y").args(&missing);
        exec(without_services(Path::new(SERVICE_POLICY), install).stdout(Stdio::null()))?;
        for (_, service) in SERVICES.into_iter().filter(|(package, _)| missing.contains(package)) {
            leave_disabled(service);
        }
        Ok(())
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

/// `command` on a machine where packages start nothing meanwhile. What it says of services itself stays as it is.
fn without_services(policy: &Path, command: Command) -> Command {
    if policy.exists() {
        return command;
    }
    let mut shell = Command::new("sh");
    shell.args(["-c", WITHOUT_SERVICES]).arg(policy).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

/// What was just installed for the lab does not start with the machine either.
fn leave_disabled(service: &str) {
    // Without it there is nothing that would start it.
    if on_path("systemctl").is_none() {
        return;
    }
    let disabled = exec(
        Command::new("systemctl")
            .args(["disable", "--quiet", service])
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    );
    if let Err(error) = disabled {
        eprintln!("setup: {service} may start at the next boot: {error:#}");
    }
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

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// A shell that ends with 7 when the file at `policy` says no, and with 1 otherwise.
    fn asks(policy: &Path) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", r#""$0"; [ $? -eq 101 ] && exit 7"#]).arg(policy);
        shell
    }

    #[test]
    fn services_are_in_the_way_of_nothing_but_the_installation() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let policy = folder.path().join("policy-rc.d");
        // A failure is the installation's own, and the file goes all the same.
        let status = without_services(&policy, asks(&policy)).status()?;
        assert_eq!((status.code(), policy.exists()), (Some(7), false));
        let mut works = Command::new("sh");
        works.args(["-c", r#"[ "$SAID" = yes ]"#]).env("SAID", "yes");
        let status = without_services(&policy, works).status()?;
        assert_eq!((status.code(), policy.exists()), (Some(0), false));
        Ok(())
    }

    #[test]
    fn an_installation_that_is_interrupted_leaves_no_policy() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let policy = folder.path().join("policy-rc.d");
        let mut waits = Command::new("sleep");
        waits.arg("1");
        let mut installing = without_services(&policy, waits).spawn()?;
        while !policy.exists() {
            thread::sleep(Duration::from_millis(10));
        }
        exec(Command::new("kill").args(["-s", "TERM", &installing.id().to_string()]))?;
        let status = installing.wait()?;
        assert_eq!((status.code(), policy.exists()), (Some(130), false));
        Ok(())
    }

    #[test]
    fn a_policy_of_the_machines_own_stays() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let policy = folder.path().join("policy-rc.d");
        fs::write(&policy, "its own")?;
        let read = read(&mut without_services(&policy, {
            let mut cat = Command::new("cat");
            cat.arg(&policy);
            cat
        }))?;
        assert_eq!((read.as_str(), policy.exists()), ("its own", true));
        Ok(())
    }
}
