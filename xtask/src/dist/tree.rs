//! The files as they lie on a router: the .deb and the tarball hold the same.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::build::Built;
use super::{licences, manual, sbom};
use crate::exec::exec;

const DOC: &str = "usr/share/doc/op25b";
const MAN: &str = "usr/share/man/man1";
const POLICY: &str = "etc/op25b/policy.yaml";
const DOCUMENTS: [&str; 6] = ["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-GPL", "docs", "policies"];

/// A folder that holds what belongs below `/`.
pub(super) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Fills the folder `root` from the sources in `workspace` and from what was built of them.
    pub(super) fn plant(workspace: &Path, built: &Built, root: &Path, epoch: u64) -> Result<Self> {
        let tree = Self { root: root.to_owned() };
        tree.install(&built.program, "usr/bin/op25b", 0o755)?;
        tree.install(&workspace.join("packaging/prepare"), "usr/lib/op25b/prepare", 0o755)?;
        tree.install(
            &workspace.join("packaging/op25b.service"),
            "usr/lib/systemd/system/op25b.service",
            0o644,
        )?;
        tree.install(&workspace.join("packaging/policy.yaml"), POLICY, 0o640)?;
        tree.install(&workspace.join("packaging/debian/copyright"), &format!("{DOC}/copyright"), 0o644)?;
        // As in the repository, so that their links lead somewhere.
        for name in DOCUMENTS {
            tree.install_all(workspace, name)?;
        }
        licences::write(workspace, &tree.path(&format!("{DOC}/THIRD-PARTY.txt")))?;
        sbom::write(workspace, &tree.path(&format!("{DOC}/op25b.cdx.json")), epoch)?;
        manual::man_pages(&tree.path(MAN))?;
        manual::completions(&tree.root)?;
        tree.compress(MAN)?;
        exec(Command::new("gzip").args(["-9n"]).arg(tree.path(&format!("{DOC}/THIRD-PARTY.txt"))))?;
        open_to_all(&tree.root)?;
        Ok(tree)
    }

    /// The folder.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Where `place`, below `/`, is.
    pub(super) fn path(&self, place: &str) -> PathBuf {
        self.root.join(place)
    }

    /// The files, below `/`, in order.
    pub(super) fn files(&self) -> Result<Vec<String>> {
        let mut files = Vec::new();
        walk(&self.root, &mut |path, _| {
            if let Ok(place) = path.strip_prefix(&self.root)
                && path.is_file()
            {
                files.push(place.display().to_string());
            }
            Ok(())
        })?;
        files.sort();
        Ok(files)
    }

    fn install(&self, from: &Path, place: &str, mode: u32) -> Result<()> {
        let to = self.path(place);
        fs::create_dir_all(to.parent().context("a file without a folder")?)?;
        fs::copy(from, &to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(mode))?;
        Ok(())
    }

    /// A file or a folder of the sources, as documentation.
    fn install_all(&self, workspace: &Path, name: &str) -> Result<()> {
        let mut found = Vec::new();
        walk(&workspace.join(name), &mut |path, _| {
            if path.is_file() {
                found.push(path.to_owned());
            }
            Ok(())
        })?;
        for path in found {
            let name = path.strip_prefix(workspace).unwrap_or(&path).display().to_string();
            self.install(&path, &format!("{DOC}/{name}"), 0o644)?;
        }
        Ok(())
    }

    /// -n: neither name nor time, which would differ from build to build.
    fn compress(&self, place: &str) -> Result<()> {
        let mut files = Vec::new();
        for file in fs::read_dir(self.path(place))? {
            files.push(file?.path());
        }
        exec(Command::new("gzip").args(["-9n"]).args(files))
    }
}

/// Whatever umask this was done under; what was installed with a mode of its own keeps it.
fn open_to_all(root: &Path) -> Result<()> {
    walk(root, &mut |path, mode| {
        let wanted = match mode & 0o777 {
            _ if path.is_dir() => 0o755,
            mode if mode == 0o755 || path == root.join(POLICY) => mode,
            _ => 0o644,
        };
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(wanted))?)
    })
}

/// Shows each file and folder, and its mode.
fn walk(path: &Path, show: &mut dyn FnMut(&Path, u32) -> Result<()>) -> Result<()> {
    let found = fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    show(path, found.permissions().mode())?;
    if found.is_dir() {
        let mut names = Vec::new();
        for file in fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))? {
            names.push(file?.path());
        }
        names.sort();
        for name in names {
            walk(&name, show)?;
        }
    }
    Ok(())
}
