//! Who has looked at what customers did.

use std::{
    fmt::Display,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use anyhow::{Context as _, Result};
use jiff::Timestamp;

use crate::{control, document::printable, durable, instance::Instance};

/// The log, and the one before it.
const LOG: &str = "reads.log";
const BEFORE: &str = "reads.log.1";
/// Bytes of the log at which it becomes the one before: some 30,000 reads.
const LARGEST: u64 = 4 << 20;

/// Notes that somebody reads what customers did: in the log, and in the instance's `reads.log`. A note that cannot be
/// written keeps nobody from reading.
pub fn note_read(instance: &Instance, command: &str, about: &str) {
    // Quoted, since a name comes from the environment: it must not pass for another field.
    let user = format!("user={:?} uid={}", control::user(), nix::unistd::getuid());
    log::info!("{}", note(instance, &user, &format!("{command} {about}")));
}

/// The same of a read over HTTP, for the file alone: a page that is left open would fill the daemon's log.
pub fn note_request(instance: &Instance, client: &dyn Display, path: &str) {
    note(instance, &client.to_string(), path);
}

fn note(instance: &Instance, who: &str, what: &str) -> String {
    let line = printable(&format!("{:.0} {who} instance={} read {what}", Timestamp::now(), instance.name()));
    if let Err(error) = append(&instance.persistent(), &line) {
        log::warn!("nobody will see later who has read this: {error:#}");
    }
    line
}

/// Whether a file of the instance outlives a `detach`: who has read something is asked for later.
#[must_use]
pub fn outlives(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == LOG || name == BEFORE)
}

fn append(directory: &Path, line: &str) -> Result<()> {
    let path = directory.join(LOG);
    let failed = || format!("cannot write {}", path.display());
    fs::create_dir_all(directory).with_context(failed)?;
    // Two that find it full must not both put it aside.
    let _turn = durable::lock_directory_of(&path)?;
    if fs::metadata(&path).is_ok_and(|log| log.len() >= LARGEST) {
        fs::rename(&path, directory.join(BEFORE)).with_context(failed)?;
    }
    let mut options = File::options();
    options.append(true).mode(0o600);
    let mut file = match options.clone().create_new(true).open(&path) {
        // A command of root's is often the first to read; the daemon, which is not root, has to note after it.
        Ok(made) => durable::give_to_owner_of(directory, &made).map(|()| made)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            options.open(&path).with_context(failed)?
        }
        Err(error) => return Err(error).with_context(failed),
    };
    file.write_all(format!("{line}\n").as_bytes()).with_context(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, chown};

    use anyhow::ensure;

    use super::*;

    #[test]
    fn a_log_that_root_begins_is_the_directorys_owners() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let owner = (65_534, 54_321);
        chown(directory.path(), Some(owner.0), Some(owner.1))?;
        // The second time it is there; what makes room for it is a new one again.
        for text in ["first", "second", &"x".repeat(4 << 20), "last"] {
            append(directory.path(), text)?;
            for name in [LOG, BEFORE] {
                if let Ok(log) = fs::metadata(directory.path().join(name)) {
                    let looks = (log.uid(), log.gid(), log.mode() & 0o7777);
                    ensure!(looks == (owner.0, owner.1, 0o600), "{name}: {looks:?}");
                }
            }
        }
        ensure!(directory.path().join(BEFORE).exists(), "nothing was put aside");
        Ok(())
    }

    #[test]
    fn the_log_has_bounds_and_the_latest_notes_are_there() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let lengths =
            || [LOG, BEFORE].map(|name| fs::metadata(directory.path().join(name)).map_or(0, |log| log.len()));
        let line = "x".repeat(1 << 20);
        for number in 0..20 {
            append(directory.path(), &format!("{number} {line}"))?;
            assert!(lengths().iter().sum::<u64>() < 2 * (LARGEST + (2 << 20)), "{:?}", lengths());
        }
        let texts =
            [BEFORE, LOG].map(|name| fs::read_to_string(directory.path().join(name)).unwrap_or_default());
        let numbers: Vec<u32> =
            texts.concat().lines().filter_map(|line| line.split(' ').next()?.parse().ok()).collect();
        assert!(numbers.len() >= 5 && numbers.is_sorted() && numbers.last() == Some(&19), "{numbers:?}");
        Ok(())
    }
}
