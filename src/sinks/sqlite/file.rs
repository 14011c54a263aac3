//! The file of a SQLite target: its lock, its mode, and whether it is still there.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use tokio::sync::OwnedMutexGuard;

use crate::sinks::error::{SinkError, SinkErrorKind};

/// Copies of calendars are for their owner alone, until an administrator changes the mode.
const MODE: u32 = 0o600;

/// A file that no other sink writes to.
pub(super) struct DatabaseFile {
    path: PathBuf,
    /// Device and inode of the file that was opened.
    identity: Option<(u64, u64)>,
    /// Locked as long as it is open. Not the database itself: closing that would take away SQLite's
    /// own locks, which belong to the process.
    _lock: File,
    /// Given to the next target of the sink after everything is closed.
    _turn: OwnedMutexGuard<()>,
}

/// The result of one attempt.
pub(super) enum Locking {
    /// The file is ours.
    Locked(DatabaseFile),
    /// Somebody else has it. The turn stays ours.
    InUse(OwnedMutexGuard<()>),
}

impl DatabaseFile {
    /// Where the file of a path is or would be, without symbolic links. Changes nothing.
    pub(super) fn find(path: &Path) -> Result<PathBuf, SinkError> {
        let path = real(path).map_err(|error| unusable(path, &error))?;
        if path.exists() && !path.is_file() {
            return Err(unusable(&path, &io::ErrorKind::IsADirectory.into()));
        }
        Ok(path)
    }

    /// Locks the file that a path leads to, which need not exist yet.
    pub(super) fn lock(path: &Path, turn: OwnedMutexGuard<()>) -> Result<Locking, SinkError> {
        let path = Self::find(path)?;
        let mut name = path.clone().into_os_string();
        name.push("-lock");
        let lock = open(Path::new(&name)).map_err(|error| unusable(&path, &error))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Locking::Locked(Self { path, identity: None, _lock: lock, _turn: turn })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(Locking::InUse(turn)),
            Err(error) => Err(unusable(&path, &error.into())),
        }
    }

    /// Where it is, without symbolic links.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Creates the file if it is missing; its mode is then that of its other files, too.
    pub(super) fn create(&mut self) -> Result<(), SinkError> {
        let found = open(&self.path).and_then(|file| file.metadata());
        let found = found.map_err(|error| unusable(&self.path, &error))?;
        self.identity = Some(identity(&found));
        Ok(())
    }

    /// Checks that the path still leads to the opened file: SQLite would write to one that was
    /// moved or deleted without an error.
    pub(super) fn check(&self) -> Result<(), SinkError> {
        let now = fs::metadata(&self.path).ok().as_ref().map(identity);
        if now.is_some() && now == self.identity {
            return Ok(());
        }
        let message = format!(
            "{} was moved or deleted while it was open; it is opened again, or made again",
            self.path.display()
        );
        Err(SinkError::new(SinkErrorKind::Unavailable, message))
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(MODE).open(path)
}

/// The path without symbolic links, so that two paths to a file have the same lock.
fn real(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        found => return found,
    }
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok(fs::canonicalize(directory.unwrap_or(Path::new(".")))?.join(name))
}

fn unusable(path: &Path, error: &io::Error) -> SinkError {
    use io::ErrorKind as Kind;
    let (kind, problem) = match error.kind() {
        Kind::NotFound => {
            (SinkErrorKind::Misconfigured, "cannot be made: its directory does not exist")
        }
        Kind::IsADirectory | Kind::NotADirectory | Kind::InvalidFilename => {
            (SinkErrorKind::Misconfigured, "is not the path of a file")
        }
        Kind::PermissionDenied => {
            (SinkErrorKind::Refused, "and its directory must belong to the daemon's user")
        }
        Kind::ReadOnlyFilesystem => {
            (SinkErrorKind::Unavailable, "is on a file system that is read-only")
        }
        Kind::StorageFull | Kind::QuotaExceeded => {
            (SinkErrorKind::Unavailable, "cannot be written: the disk is full")
        }
        _ => {
            let message = format!("{} cannot be used: {error}", path.display());
            return SinkError::new(SinkErrorKind::Unavailable, message);
        }
    };
    SinkError::new(kind, format!("{} {problem}", path.display()))
}
