//! The Debian package, by dpkg's own tools.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::tree::Tree;
use crate::exec::{exec, read};

const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Packs `tree` as `version` into `out`.
pub(super) fn build(workspace: &Path, tree: &Tree, version: &str, out: &Path, epoch: u64) -> Result<PathBuf> {
    let folder = tempfile::tempdir()?;
    let root = folder.path().join("root");
    exec(Command::new("cp").arg("--archive").arg(tree.root()).arg(&root))?;
    let debian = root.join("DEBIAN");
    fs::create_dir(&debian)?;
    fs::set_permissions(&debian, fs::Permissions::from_mode(0o755))?;
    for script in SCRIPTS {
        let to = debian.join(script);
        let from = workspace.join("packaging/debian").join(script);
        fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
    }
    let architecture = read(Command::new("dpkg").arg("--print-architecture"))?.trim().to_owned();
    let files = tree.files()?;
    let put = |name: &str, text: String| {
        let path = debian.join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))
    };
    put("control", control(workspace, tree, version, &architecture, &files)?)?;
    put(
        "conffiles",
        files.iter().filter(|file| file.starts_with("etc/")).map(|file| format!("/{file}\n")).collect(),
    )?;
    let summed = files.iter().filter(|file| !file.starts_with("etc/"));
    put("md5sums", read(Command::new("md5sum").args(summed).current_dir(tree.root()))?)?;

    let deb = out.join(format!("op25b_{version}_{architecture}.deb"));
    exec(
        Command::new("dpkg-deb")
            .env("SOURCE_DATE_EPOCH", epoch.to_string())
            // With one thread, since the number of them would be seen in the bytes.
            .args(["--root-owner-group", "-Zxz", "--threads-max=1", "--build"])
            .arg(&root)
            .arg(&deb)
            .stdout(Stdio::null()),
    )?;
    Ok(deb)
}

fn control(
    workspace: &Path,
    tree: &Tree,
    version: &str,
    architecture: &str,
    files: &[String],
) -> Result<String> {
    let template = workspace.join("packaging/debian/control");
    let template =
        fs::read_to_string(&template).with_context(|| format!("cannot read {}", template.display()))?;
    let mut bytes = 0;
    for file in files {
        bytes += fs::metadata(tree.path(file))?.len();
    }
    let mut control = String::new();
    for line in template.lines().filter(|line| !line.starts_with('#')) {
        let _ = writeln!(control, "{line}");
        if line.starts_with("Package:") {
            let _ = writeln!(control, "Version: {version}\nArchitecture: {architecture}");
            let _ = writeln!(control, "Installed-Size: {}", bytes.div_ceil(1024));
        }
    }
    Ok(control)
}
