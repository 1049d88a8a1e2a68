//! What a disk or a database can refuse, and what to do about each.

use std::{fmt, io, path::Path};

use rusqlite::{Error, ErrorCode};

/// A kind of failure: each is told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The pins of the instance cannot be read.
    Pins,
    /// There is no file.
    Missing,
    /// The path names something that no database can be.
    Path,
    /// The file belongs to another program.
    Foreign,
    /// A newer op25b has written it.
    Newer,
    /// What is in it is not what was written.
    Damaged,
    /// No room.
    Full,
    /// It cannot be opened or written.
    Refused,
    /// Another process keeps it.
    Busy,
    /// Anything else.
    Other,
}

impl Kind {
    /// What to do.
    #[must_use]
    pub const fn cure(self) -> &'static str {
        match self {
            Self::Pins => "`op25b status` tells what is attached",
            Self::Missing => "the daemon makes it when it first writes",
            Self::Path => "write another path in `history:`",
            Self::Foreign => "write another path in `history:`, or move that file away",
            Self::Newer => "run the newer op25b, or move that file away",
            Self::Damaged => "it is set aside and begun anew",
            Self::Full => "make room on the disk",
            Self::Refused => "look at the file's owner and mode, and whether its file system is read-only",
            Self::Busy => "see which other process has it open, for example with fuser",
            Self::Other => "see the kernel's log for errors of the disk",
        }
    }
}

/// Why something could not be written down.
#[derive(Debug)]
pub struct Failure {
    /// Its kind.
    pub kind: Kind,
    message: String,
}

impl Failure {
    /// Of a kind, in words.
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// What a database says.
    #[must_use]
    pub fn of(path: &Path, error: &Error) -> Self {
        Self::new(kind(error), format!("{}: {error}", path.display()))
    }

    /// What a file system says.
    #[must_use]
    pub fn io(path: &Path, error: &io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::Full,
            io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory | io::ErrorKind::AlreadyExists => {
                Kind::Path
            }
            io::ErrorKind::NotFound => Kind::Missing,
            _ => Kind::Refused,
        };
        Self::new(kind, format!("{}: {error}", path.display()))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}; {}", self.message, self.kind.cure())
    }
}

impl std::error::Error for Failure {}

fn kind(error: &Error) -> Kind {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Kind::Damaged,
        Some(ErrorCode::DiskFull) => Kind::Full,
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => Kind::Refused,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Kind::Busy,
        _ => Kind::Other,
    }
}
