//! Files that are there whole or not at all, whatever happens while they are written; and are gone when removed.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, fchown},
    path::Path,
};

use anyhow::{Context as _, Result};

/// Replaces a file in one step; one that was there keeps its owner and its permissions, a new one is the owner's alone.
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
        fchown(beside.as_file(), Some(there.uid()), Some(there.gid())).with_context(failed)?;
        beside.as_file().set_permissions(there.permissions()).with_context(failed)?;
    }
    beside.as_file().sync_all().with_context(failed)?;
    beside.persist(path).with_context(failed)?;
    // The name is on the disk only when its directory is.
    fs::File::open(directory).and_then(|directory| directory.sync_all()).with_context(failed)
}

/// Waits for this process' turn at the files that lie beside `path`, until what is returned is dropped. The directory is
/// what is locked: a file in it is another one when it has been replaced.
///
/// # Errors
///
/// When there is no directory, or its file system has no locks.
pub fn lock_directory_of(path: &Path) -> Result<fs::File> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = path.parent().unwrap_or(&path);
    let failed = || format!("cannot lock {}", directory.display());
    let file = fs::File::open(directory).with_context(failed)?;
    file.lock().with_context(failed)?;
    Ok(file)
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
