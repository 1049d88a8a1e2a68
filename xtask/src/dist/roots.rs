//! The package in clean roots of Debian: installed, run, upgraded, removed, purged; and once more under systemd, with
//! traffic meanwhile, and the tarball. Nothing of the machine is touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::tree::Tree;
use super::{CACHE, SUMS, VERSION, deb};
use crate::exec::{exec, read};

const SUITES: [&str; 2] = ["bookworm", "trixie"];

/// What systemd needs, and the tarball's packing.
const WITH_SYSTEMD: &str = "systemd,systemd-sysv,xz-utils";

const ENTER: &str = include_str!("roots/enter.sh");
const BOOT: &str = include_str!("roots/boot.sh");

/// What is run in a root, or read there.
const SCRIPTS: [(&str, &str); 4] = [
    ("common.sh", include_str!("roots/common.sh")),
    ("try.sh", include_str!("roots/try.sh")),
    ("systemd.sh", include_str!("roots/systemd.sh")),
    ("knock.pl", include_str!("roots/knock.pl")),
];

/// Seconds that all steps in one root may take.
const LIMIT: &str = "300";

/// Highest score that `systemd-analyze security` may give to the unit, in tenths.
const EXPOSURE: &str = "20";

/// Tries `package`, and an upgrade to the same with a higher version; and `tarball`, which lies beside its checksum.
pub(super) fn check(package: &Path, tarball: &Path, tree: &Tree, epoch: u64) -> Result<()> {
    exec(
        Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager", "--threshold", EXPOSURE])
            .arg(tree.path("usr/lib/systemd/system/op25b.service"))
            .stdout(Stdio::null()),
    )
    .context("the unit is not tight enough")?;
    let workspace = std::env::current_dir().context("where is the workspace?")?;
    let folder = tempfile::tempdir_in(CACHE)?;
    let upgrade = deb::build(&workspace, tree, &format!("{VERSION}+upgrade"), folder.path(), epoch)?;
    let copy = |root: &Path, name: &str| -> Result<PathBuf> {
        let copy = workspace.join(folder.path()).join(name);
        exec(Command::new("cp").args(["--archive", "--reflink=auto"]).arg(root).arg(&copy))?;
        fs::copy(package, copy.join("old.deb"))?;
        fs::copy(&upgrade, copy.join("new.deb"))?;
        for (name, script) in SCRIPTS {
            fs::write(copy.join(name), script)?;
        }
        Ok(copy)
    };
    for suite in SUITES {
        let root = copy(&clean(suite, None)?, suite)?;
        exec(
            Command::new("timeout")
                // KILL, since unshare waits on after a TERM; what it has started ends with it.
                .args(["--signal", "KILL", LIMIT])
                .args(["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"])
                .args(["sh", "-c", ENTER, "enter"])
                .arg(&root)
                .args(["sh", "/try.sh"]),
        )
        .with_context(|| format!("the package does not do in Debian {suite}"))?;

        let root = copy(&clean(suite, Some(WITH_SYSTEMD))?, &format!("{suite}-systemd"))?;
        let beside = root.join("tarball");
        fs::create_dir(&beside)?;
        for file in [tarball, &tarball.with_file_name(SUMS)] {
            fs::copy(file, beside.join(file.file_name().context("a file without a name")?))?;
        }
        exec(
            Command::new("unshare")
                .args(["--mount", "sh", "-c", BOOT, "boot"])
                .arg(&root)
                .args([LIMIT, ENTER]),
        )
        .with_context(|| format!("package or tarball do not do under the systemd of Debian {suite}"))?;
    }
    Ok(())
}

/// A root of `suite` as its installer leaves it, with `more` packages or without, made when the cache does not have it.
fn clean(suite: &str, more: Option<&str>) -> Result<PathBuf> {
    let name = if more.is_some() { format!("{suite}-systemd.root") } else { format!("{suite}.root") };
    let kept = Path::new(CACHE).join(name);
    if !kept.exists() {
        // Beside its place, so that it gets there whole or not at all.
        let folder = tempfile::tempdir_in(CACHE)?;
        let root = folder.path().join("root");
        eprintln!("dist: making {}", kept.display());
        exec(
            Command::new("debootstrap")
                .arg("--variant=minbase")
                .args(more.map(|packages| format!("--include={packages}")))
                .arg(suite)
                .arg(&root)
                .arg(mirror()?)
                .stdout(Stdio::null()),
        )?;
        fs::rename(&root, &kept)?;
    }
    Ok(kept)
}

/// Where this machine's own apt gets Debian from.
fn mirror() -> Result<String> {
    let targets = read(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI) $(SUITE) $(ORIGIN)",
        "Created-By: Packages",
        "Component: main",
    ]))?;
    debian(&targets)
        .context("this machine's apt configuration names no mirror of Debian; `apt-get update` finds it")
}

/// The first that has Debian itself: its security updates come from elsewhere.
fn debian(targets: &str) -> Option<String> {
    targets.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (mirror, suite, origin) = (words.next()?, words.next()?, words.next()?);
        (origin == "Debian" && !suite.contains('-')).then(|| mirror.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_that_of_debian_itself() {
        let targets = "http://node.test/ nodistro . nodesource\n\
                       http://security.test/debian-security/ oldstable-security Debian\n\
                       http://mirror.test/debian/ oldstable-updates Debian\n\
                       http://mirror.test/debian/ oldstable Debian\n";
        assert_eq!(debian(targets).as_deref(), Some("http://mirror.test/debian/"));
        assert_eq!(debian("http://node.test/ nodistro\n"), None);
    }
}
