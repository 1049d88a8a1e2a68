//! Who has looked at what customers did.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
};

use anyhow::{Context as _, Result};
use jiff::Timestamp;

use crate::{control, document::printable, instance::Instance};

/// Notes that somebody reads what customers did: in the log, and in the instance's `reads.log`. A note that cannot be
/// written keeps nobody from reading.
pub fn note_read(instance: &Instance, command: &str, about: &str) {
    // Quoted, since a name comes from the environment: it must not pass for another field.
    let user = format!("{:?}", control::user());
    let line = printable(&format!(
        "{:.0} user={user} uid={} instance={} read {command} {about}",
        Timestamp::now(),
        nix::unistd::getuid(),
        instance.name()
    ));
    log::info!("{line}");
    if let Err(error) = append(instance, &line) {
        log::warn!("nobody will see later who has read this: {error:#}");
    }
}

fn append(instance: &Instance, line: &str) -> Result<()> {
    let directory = instance.persistent();
    let path = directory.join("reads.log");
    let failed = || format!("cannot write {}", path.display());
    fs::create_dir_all(&directory).with_context(failed)?;
    let mut file = File::options().create(true).append(true).mode(0o600).open(&path).with_context(failed)?;
    // In one piece: two readers at once must not mix their lines.
    file.write_all(format!("{line}\n").as_bytes()).with_context(failed)
}
