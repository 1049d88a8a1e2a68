//! Files that are there whole or not at all, whatever happens while they are written; and are gone when removed.

use std::{
    fs::{self, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, fchown},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

/// Replaces a file in one step; one that was there keeps its permissions, and its owner and group where this process may
/// give it to them; a new one is the owner's alone.
///
/// # Errors
///
/// When the disk does not take it; the old file is untouched then.
pub fn replace(path: &Path, text: &str) -> Result<()> {
    // A link stays one: what it leads to is replaced.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let failed = || format!("cannot write {}", path.display());
    let directory = path.parent().with_context(failed)?;
    fs::create_dir_all(directory).with_context(failed)?;
    let mut beside = tempfile::NamedTempFile::new_in(directory).with_context(failed)?;
    beside.write_all(text.as_bytes()).with_context(failed)?;
    if let Ok(there) = fs::metadata(path) {
        // First, since a change of the owner takes bits away.
        give(beside.as_file(), &there).with_context(failed)?;
        beside.as_file().set_permissions(there.permissions()).with_context(failed)?;
    }
    beside.as_file().sync_all().with_context(failed)?;
    beside.persist(path).with_context(failed)?;
    // The name is on the disk only when its directory is.
    fs::File::open(directory).and_then(|directory| directory.sync_all()).with_context(failed)
}

/// Gives a file that was just made to whom its directory belongs: root's commands make files that a daemon without root's
/// rights goes on with.
///
/// # Errors
///
/// When the directory cannot be asked for, or the file system keeps no owners.
pub fn give_to_owner_of(directory: &Path, file: &fs::File) -> Result<()> {
    let failed = || format!("cannot give a file in {} to its owner", directory.display());
    fs::metadata(directory).and_then(|directory| give(file, &directory)).with_context(failed)
}

/// Gives a file the owner and the group that something else has, or the group alone, as far as this process may: the
/// daemon of the package may give nothing away, and what it writes must not fail for that.
fn give(file: &fs::File, like: &fs::Metadata) -> io::Result<()> {
    for owner in [Some(like.uid()), None] {
        match fchown(file, owner, Some(like.gid())) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            given => return given,
        }
    }
    Ok(())
}

/// Waits for this process' turn at the files that lie beside `path`, until what is returned is dropped. The directory is
/// what is locked: a file in it is another one when it has been replaced.
///
/// # Errors
///
/// When there is no directory, or its file system has no locks.
pub fn lock_directory_of(path: &Path) -> Result<fs::File> {
    let (directory, file) = directory_of(path)?;
    file.lock().with_context(|| format!("cannot lock {}", directory.display()))?;
    Ok(file)
}

/// The same where nobody may be waited for; nothing where the file system has no locks.
///
/// # Errors
///
/// When another process has its turn.
pub fn try_lock_directory_of(path: &Path) -> Result<Option<fs::File>> {
    let (directory, file) = directory_of(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            bail!("another command edits a file in {} right now; try again", directory.display())
        }
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(None),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", directory.display()))
        }
    }
}

/// The directory in which a file really lies.
fn directory_of(path: &Path) -> Result<(PathBuf, fs::File)> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = path.parent().unwrap_or(&path).to_owned();
    let file = fs::File::open(&directory).with_context(|| format!("cannot open {}", directory.display()))?;
    Ok((directory, file))
}

/// Removes a file, if it is there.
///
/// # Errors
///
/// When it is there and stays.
pub fn remove(path: &Path) -> Result<()> {
    gone(fs::remove_file(path), path).map(|_| ())
}

/// Removes a directory and all that is in it; whether it was there.
///
/// # Errors
///
/// When it is there and stays.
pub fn remove_all(path: &Path) -> Result<bool> {
    gone(fs::remove_dir_all(path), path)
}

/// Removes what is in a directory, but what is to be kept, and the directory where nothing is; whether anything was there.
///
/// # Errors
///
/// When something is there and stays.
pub fn remove_all_but(path: &Path, kept: impl Fn(&Path) -> bool) -> Result<bool> {
    let mut was_there = false;
    for entry in fs::read_dir(path).into_iter().flatten() {
        let entry = entry.with_context(|| format!("cannot read {}", path.display()))?.path();
        if !kept(&entry) {
            was_there |=
                if entry.is_dir() { remove_all(&entry)? } else { gone(fs::remove_file(&entry), &entry)? };
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(was_there),
        removed => gone(removed, path),
    }
}

/// Whether something was there that is gone now.
fn gone(removed: io::Result<()>, path: &Path) -> Result<bool> {
    match removed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::{PermissionsExt as _, chown},
        thread,
    };

    use anyhow::ensure;
    use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

    use super::*;

    /// Somebody who is not root, and a group that they are not in.
    const NOBODY: u32 = 65_534;
    const STRANGERS: u32 = 54_321;

    /// Acts with the rights to files that `user` has. They are a thread's own, and root's capabilities go with root's.
    fn as_user<T: Send>(user: u32, act: impl FnOnce() -> T + Send) -> Result<T> {
        let acted = thread::scope(|scope| {
            let acting = scope.spawn(|| {
                setfsgid(Gid::from_raw(user));
                setfsuid(Uid::from_raw(user));
                act()
            });
            acting.join()
        });
        acted.map_err(|_| anyhow::anyhow!("it panicked"))
    }

    /// Text, owner, group and permissions of a file.
    fn looks(path: &Path) -> Result<(String, u32, u32, u32)> {
        let there = fs::metadata(path)?;
        Ok((fs::read_to_string(path)?, there.uid(), there.gid(), there.mode() & 0o7777))
    }

    #[test]
    fn a_file_of_somebody_else_is_replaced_with_its_group_and_mode() -> Result<()> {
        let directory = tempfile::tempdir()?;
        chown(directory.path(), Some(NOBODY), Some(NOBODY))?;
        for (group, kept) in [(NOBODY, NOBODY), (STRANGERS, NOBODY)] {
            let path = directory.path().join(format!("{group}.yaml"));
            fs::write(&path, "before")?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640))?;
            chown(&path, Some(0), Some(group))?;
            as_user(NOBODY, || replace(&path, "after"))??;
            ensure!(looks(&path)? == ("after".to_owned(), NOBODY, kept, 0o640), "{:?}", looks(&path)?);
        }
        Ok(())
    }

    #[test]
    fn root_replaces_a_file_and_leaves_it_to_its_owner() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("policy.yaml");
        fs::write(&path, "before")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640))?;
        chown(&path, Some(NOBODY), Some(STRANGERS))?;
        replace(&path, "after")?;
        ensure!(looks(&path)? == ("after".to_owned(), NOBODY, STRANGERS, 0o640), "{:?}", looks(&path)?);
        Ok(())
    }
}
