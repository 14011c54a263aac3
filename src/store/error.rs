//! Errors of the store, and what to do about them.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::engine::EngineError;
use crate::mirror::page::EventHash;
use crate::mirror::position::WindowId;

/// Why a store could not be opened. Nothing was touched.
#[derive(Debug, thiserror::Error)]
#[error("store {}", path.display())]
pub struct OpenError {
    /// The directory.
    pub path: PathBuf,
    /// The reason.
    #[source]
    pub why: OpenFault,
}

/// The reason of an [`OpenError`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenFault {
    /// Another process has the store open.
    #[error("is in use by another process")]
    Locked,
    /// The disk is full.
    #[error("the disk is full")]
    Full,
    /// The file system is mounted read-only.
    #[error("the file system is read-only")]
    ReadOnly,
    /// The process may not read or write the store.
    #[error("permission denied")]
    PermissionDenied,
    /// Other users may enter the directory, and the daemon may not change that.
    #[error("{} is open to other users (mode {mode:04o})", path.display())]
    Exposed {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A symbolic link is in the place of a file of the store.
    #[error("{} is a symbolic link", .0.display())]
    SymbolicLink(PathBuf),
    /// A pipe, a directory or the like is in the place of a file of the store.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// The store was written by a newer version of this program.
    #[error("was written by a newer version (format {found}, this one knows {known})")]
    NewerFormat {
        /// The format of the store.
        found: u32,
        /// The newest format this program reads.
        known: u32,
    },
    /// A record was written by another version of this program and cannot be read.
    #[error("holds an unknown {0}, which another version wrote")]
    UnknownRecord(&'static str),
    /// The operating system refused for another reason.
    #[error("cannot be opened")]
    Io(#[source] io::Error),
}

impl OpenFault {
    /// One sentence that says what to do.
    pub fn remedy(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Locked => "stop the other process, or give this one a store.path of its own",
            Self::Full => "free some space on the file system of store.path, then start again",
            Self::ReadOnly => "remount the file system of store.path for writing",
            Self::PermissionDenied => {
                "make store.path and everything in it belong to the user the daemon runs as"
            }
            Self::Exposed { path, .. } => {
                return Cow::Owned(format!(
                    "run chmod o= {path} as its owner, or set store.path to a directory in it, \
                     which is created with mode 0700",
                    path = path.display()
                ));
            }
            Self::NotAFile(_) => "remove it, or set store.path to a directory of its own",
            Self::SymbolicLink(_) => {
                "replace the link with the file itself, or set store.path to where the file is"
            }
            Self::NewerFormat { .. } | Self::UnknownRecord(_) => {
                "run the version that wrote it, or move the store away to start with a new one"
            }
            Self::Io(_) => "fix what the operating system reports; the store was not changed",
        })
    }

    /// Whether the configured directory is at fault, not the store.
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Exposed { .. } | Self::SymbolicLink(_) | Self::NotAFile(_))
    }
}

/// Classifies an error of the operating system.
impl From<io::Error> for OpenFault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            io::ErrorKind::PermissionDenied => Self::PermissionDenied,
            io::ErrorKind::WouldBlock => Self::Locked,
            // This text is sled's only sign that another process holds the lock.
            _ if error.to_string().contains("could not acquire lock") => Self::Locked,
            _ => Self::Io(error),
        }
    }
}

/// Why a request to the store failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Writing or reading has failed for good; the process has to be restarted.
    #[error("the store has failed: {0}")]
    Failed(Arc<str>),
    /// There is too little space to write. Nothing of this request was written; reading continues.
    #[error("the store's disk is full")]
    Full,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// More was written while the store was copied than can be kept track of. Nothing is wrong with
    /// the store; the copy can be made again.
    #[error("too much was written while the store was copied")]
    CopyOverrun,
    /// The window is unknown or is being dropped. Nothing was written.
    #[error("window {} is not in the store", .0.0)]
    UnknownWindow(WindowId),
    /// A bare occurrence came without its master, which is not stored either. Nothing was written.
    #[error("the master of occurrence {0:?} is missing")]
    MissingMaster(EventHash),
}

/// Why the feed cannot be read from a cursor.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FeedError {
    /// Older than the kept tombstones, or of no incarnation of this store: start from a snapshot.
    #[error("the cursor is older than the kept removals or belongs to another store")]
    SnapshotRequired,
    /// Not a cursor.
    #[error("malformed cursor")]
    Malformed,
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why something in the tree could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum TreeError {
    /// The engine returned an error.
    #[error("the tree cannot be used")]
    Engine(#[source] EngineError),
    /// The file, or the directory that it lies in, could not be synced.
    #[error("the file cannot be synced")]
    Sync(#[source] io::Error),
    /// A value is not what was written. Names the kind of value, never its content.
    #[error("damaged {0}")]
    Damaged(&'static str),
    /// An intact value in a layout that a newer format introduced.
    #[error("{0} of format {1}, which a newer version wrote")]
    Newer(&'static str, u8),
    /// An intact value that this version cannot read.
    #[error("unknown {0}, which another version wrote")]
    Unknown(&'static str),
}

impl From<EngineError> for TreeError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Sync(error) => Self::Sync(error),
            error => Self::Engine(error),
        }
    }
}

impl TreeError {
    /// Whether the bytes on disk are wrong, as opposed to a failing disk.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Self::Damaged(_) => true,
            Self::Newer(..) | Self::Unknown(_) => false,
            Self::Engine(EngineError::Io(e)) | Self::Sync(e) => matches!(
                e.kind(),
                io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::InvalidData
                    | io::ErrorKind::InvalidInput
            ),
            Self::Engine(_) => true,
        }
    }

    /// The error for callers of the store.
    pub(super) fn to_store_error(&self) -> StoreError {
        match self {
            Self::Engine(EngineError::Io(e)) | Self::Sync(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                ) =>
            {
                StoreError::Full
            }
            Self::Engine(e) => StoreError::Failed(format!("{self}: {e}").into()),
            Self::Sync(e) => StoreError::Failed(format!("{self}: {e}").into()),
            Self::Damaged(_) | Self::Newer(..) | Self::Unknown(_) => {
                StoreError::Failed(self.to_string().into())
            }
        }
    }
}

/// Why a job was not planned.
#[derive(Debug)]
pub(super) enum PlanError {
    /// The job is refused; the store is intact.
    Rejected(StoreError),
    /// The store has failed.
    Fault(TreeError),
}

impl<F: Into<TreeError>> From<F> for PlanError {
    fn from(fault: F) -> Self {
        Self::Fault(fault.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_system_error_maps_to_its_own_fault() {
        let of = |kind| OpenFault::from(io::Error::new(kind, "x"));
        assert!(matches!(of(io::ErrorKind::StorageFull), OpenFault::Full));
        assert!(matches!(of(io::ErrorKind::ReadOnlyFilesystem), OpenFault::ReadOnly));
        assert!(matches!(of(io::ErrorKind::PermissionDenied), OpenFault::PermissionDenied));
        assert!(matches!(of(io::ErrorKind::NotADirectory), OpenFault::Io(_)));
        let lock = io::Error::other("could not acquire lock on \"db\": WouldBlock");
        assert!(matches!(OpenFault::from(lock), OpenFault::Locked));
    }

    #[test]
    fn a_full_disk_is_distinguished_from_other_errors() {
        let full = TreeError::Engine(EngineError::Io(io::ErrorKind::StorageFull.into()));
        assert!(matches!(full.to_store_error(), StoreError::Full));
        let broken = TreeError::Sync(io::ErrorKind::Other.into());
        assert!(matches!(broken.to_store_error(), StoreError::Failed(_)));
    }
}
