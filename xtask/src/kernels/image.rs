//! What a virtual machine has instead of a disk: archives of files that the kernel unpacks when it starts.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::checks::Checks;
use super::modules::Module;
use crate::exec::{feed, read};

/// What the tests run beside op25b and what busybox has.
const TOOLS: [&str; 3] = ["ethtool", "ip", "tc"];

/// The first program. Busybox comes last in the path, since it has an `ip` of its own.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /busybox
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:/busybox HOME=/root LC_ALL=C
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs run /run
for module in /modules/*.ko; do insmod $module; done
ip link set lo up
sh /checks </dev/null
poweroff -f
";

/// Files to be, under the paths that they have in the machine.
struct Image {
    root: TempDir,
}

/// Writes an archive of what all machines have: the checks and what they need, under the paths of this one.
pub(super) fn common(checks: &Checks, archive: &Path) -> Result<()> {
    let image = Image::new()?;
    for folder in ["busybox", "dev", "modules", "proc", "root", "run", "sys", "tmp", "var"] {
        fs::create_dir(image.place(Path::new(folder))?)?;
    }
    symlink("/run", image.place(Path::new("/var/run"))?)?;
    image.copy(&program("busybox")?, Path::new("/bin/busybox"))?;
    symlink("busybox", image.place(Path::new("/bin/sh"))?)?;
    image.write(Path::new("/init"), INIT.as_bytes())?;
    image.write(Path::new("/checks"), checks.script().as_bytes())?;

    let mut programs: Vec<PathBuf> = checks.programs().map(Path::to_owned).collect();
    for tool in TOOLS {
        programs.push(program(tool)?);
    }
    for library in libraries(&programs)? {
        image.copy(&library, &library)?;
    }
    for program in &programs {
        image.copy(program, program)?;
    }
    for folder in checks.folders() {
        image.copy_folder(folder)?;
    }
    image.pack(archive)
}

/// Writes an archive of everything: what all machines have, then what this one's kernel has.
pub(super) fn whole(common: &Path, modules: &[Module], archive: &Path) -> Result<()> {
    let image = Image::new()?;
    for (position, Module { name, content }) in modules.iter().enumerate() {
        image.write(Path::new(&format!("/modules/{position:02}-{name}.ko")), content)?;
    }
    // The kernel unpacks one after another.
    image.pack(archive)?;
    let mut file = File::options().append(true).open(archive)?;
    std::io::copy(&mut File::open(common)?, &mut file)?;
    Ok(())
}

impl Image {
    fn new() -> Result<Self> {
        let root = tempfile::tempdir()?;
        // It becomes the machine's root folder, which is for everybody.
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755))?;
        Ok(Self { root })
    }

    /// Where a file has to be for the machine to find it at `path`.
    fn place(&self, path: &Path) -> Result<PathBuf> {
        let place = self.root.path().join(path.strip_prefix("/").unwrap_or(path));
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder)?;
        }
        Ok(place)
    }

    fn copy(&self, from: &Path, to: &Path) -> Result<()> {
        fs::copy(from, self.place(to)?).with_context(|| format!("cannot copy {}", from.display()))?;
        Ok(())
    }

    fn copy_folder(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(self.place(folder)?)?;
        for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                self.copy_folder(&path)?;
            } else {
                self.copy(&path, &path)?;
            }
        }
        Ok(())
    }

    fn write(&self, path: &Path, content: &[u8]) -> Result<()> {
        let place = self.place(path)?;
        fs::write(&place, content)?;
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    fn pack(&self, archive: &Path) -> Result<()> {
        let root = self.root.path();
        let names = read(Command::new("find").arg(".").current_dir(root))?;
        let file = File::create(archive)?;
        let mut cpio = Command::new("cpio");
        cpio.args(["--quiet", "-o", "-H", "newc"]).stdout(Stdio::from(file)).current_dir(root);
        feed(&mut cpio, &names)
    }
}

/// Where a program is on this machine, whatever the path says.
fn program(name: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .with_context(|| format!("{name} is not installed"))?;
    Ok(fs::canonicalize(found)?)
}

/// The shared libraries of `programs`, and what loads them.
fn libraries(programs: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
    let list = read(Command::new("ldd").args(programs))?;
    Ok(list
        .split_whitespace()
        .filter(|word| word.starts_with('/') && !word.ends_with(':'))
        .map(PathBuf::from)
        .collect())
}
