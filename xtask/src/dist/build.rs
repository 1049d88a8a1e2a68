//! The release build: the same bytes in whatever folder it is done, and linked to nothing.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::exec::{exec, read};

/// What cargo has built.
pub(super) struct Built {
    /// The `op25b` command.
    pub(super) program: PathBuf,
    /// The kernel object that is embedded in it.
    pub(super) object: PathBuf,
}

/// Builds the sources in `workspace` into the folder `target`.
pub(super) fn release(workspace: &Path, target: &Path, epoch: u64) -> Result<Built> {
    let messages = read(
        Command::new("cargo")
            .current_dir(workspace)
            .env("SOURCE_DATE_EPOCH", epoch.to_string())
            .env("CARGO_ENCODED_RUSTFLAGS", flags(workspace)?)
            .args(["build", "--locked", "--release", "--package", "op25b-user", "--bin", "op25b"])
            // Named, so that the flags are for the program alone: what runs while it is built cannot be static.
            .args(["--target", &host()?])
            .args(["--message-format", "json-render-diagnostics", "--target-dir"])
            .arg(target),
    )?;
    let messages: Vec<Value> = messages.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let find = |reason: &str, key: &str| {
        messages
            .iter()
            .filter(|message| message["reason"] == reason)
            .filter(|message| message["package_id"].as_str().is_some_and(|id| id.contains("/op25b-user#")))
            .find_map(|message| message[key].as_str().map(PathBuf::from))
            .with_context(|| format!("cargo does not say where the {key} of op25b is"))
    };
    let program = workspace.join(find("compiler-artifact", "executable")?);
    let dynamic = read(Command::new("readelf").args(["--dynamic", "--wide"]).arg(&program))?;
    ensure!(!dynamic.contains("(NEEDED)"), "{} needs shared libraries: {dynamic}", program.display());
    let object = find("build-script-executed", "out_dir")?.join("op25b-kernel");
    Ok(Built { program, object: workspace.join(object) })
}

/// What the compiler builds for when nothing is said.
fn host() -> Result<String> {
    let version = read(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc does not say what it builds for")
}

/// The C library is linked in: a router has whatever version of it. It is asked for no users and no hosts, which it would
/// need the router's own for. Names of folders become those of no machine: the bytes do not depend on them, and nobody's
/// name is told.
fn flags(workspace: &Path) -> Result<OsString> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
        .context("where is cargo's home? set CARGO_HOME")?;
    let mut flags = OsString::from("-Ctarget-feature=+crt-static");
    for (from, to) in [(home.as_path(), "/cargo"), (workspace, "/op25b")] {
        flags.push("\x1f--remap-path-prefix=");
        flags.push(from);
        flags.push("=");
        flags.push(to);
    }
    Ok(flags)
}

/// Copies the sources, those that are not committed too, and nothing that was built.
pub(super) fn copy_sources(workspace: &Path, copy: &Path) -> Result<()> {
    if copy.exists() {
        fs::remove_dir_all(copy).with_context(|| format!("cannot remove {}", copy.display()))?;
    }
    fs::create_dir_all(copy).with_context(|| format!("cannot make {}", copy.display()))?;
    let script = "git ls-files -z --cached --others --exclude-standard | \
                  tar --create --null --files-from=- | tar --extract --directory=\"$1\"";
    exec(Command::new("bash").args(["-o", "pipefail", "-c", script, "copy"]).arg(copy).current_dir(workspace))
}
