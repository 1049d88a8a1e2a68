//! The package in clean roots of Debian: installed, run, upgraded, removed, purged. Nothing of the machine is touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::tree::Tree;
use super::{CACHE, VERSION, deb};
use crate::exec::{exec, read};

const SUITES: [&str; 2] = ["bookworm", "trixie"];

const ENTER: &str = include_str!("roots/enter.sh");
const TRY: &str = include_str!("roots/try.sh");

/// Seconds that all steps in one root may take.
const LIMIT: &str = "300";

/// Highest score that `systemd-analyze security` may give to the unit, in tenths.
const EXPOSURE: &str = "20";

/// Tries `package`, and an upgrade to the same with a higher version.
pub(super) fn check(package: &Path, tree: &Tree, epoch: u64) -> Result<()> {
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
    for suite in SUITES {
        let root = folder.path().join(suite);
        exec(Command::new("cp").args(["--archive", "--reflink=auto"]).arg(clean(suite)?).arg(&root))?;
        fs::copy(package, root.join("old.deb"))?;
        fs::copy(&upgrade, root.join("new.deb"))?;
        fs::write(root.join("try.sh"), TRY)?;
        exec(
            Command::new("timeout")
                .args([LIMIT, "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"])
                .args(["sh", "-c", ENTER, "enter"])
                .arg(&root),
        )
        .with_context(|| format!("the package does not do in Debian {suite}"))?;
    }
    Ok(())
}

/// A root of `suite` as its installer leaves it, made when the cache does not have it.
fn clean(suite: &str) -> Result<PathBuf> {
    let kept = Path::new(CACHE).join(format!("{suite}.root"));
    if !kept.exists() {
        // Beside its place, so that it gets there whole or not at all.
        let folder = tempfile::tempdir_in(CACHE)?;
        let root = folder.path().join("root");
        eprintln!("dist: making a root of Debian {suite}");
        exec(
            Command::new("debootstrap")
                .args(["--variant=minbase", suite])
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
