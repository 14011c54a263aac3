//! What the store needs of its engine, which keeps keys and values on disk.
//!
//! Production uses sled. Tests of the store also run on an engine in memory, on which they cut the
//! power and inject failures at every single write. No file outside `engine` names sled.

use std::fmt::Debug;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

#[cfg(any(test, feature = "simulator"))]
pub(super) mod memory;
mod sled;
mod tree_files;

/// Opens the trees of every store, except in tests.
pub(super) use self::sled::open;

/// The bytes of a key or a value; a clone shares them. sled's own type, so that reading copies
/// nothing.
pub(super) type EngineBytes = ::sled::IVec;

/// A key to put with its value, or to delete.
pub(super) type EngineWrite = (EngineBytes, Option<EngineBytes>);

/// The entries of a range, in the order of their keys from either end. From the last one only over
/// keys that outside data cannot shape: sled can loop and panic on others (docs/design.md).
pub(super) type EngineScan =
    Box<dyn DoubleEndedIterator<Item = Result<(EngineBytes, EngineBytes), EngineError>> + Send>;

/// Opens or creates the tree of a directory, with so many bytes of cache.
pub(super) type OpenEngine =
    dyn Fn(&Path, u64) -> Result<Arc<dyn Engine>, EngineError> + Send + Sync;

/// An open tree of keys and values. What an engine has to promise:
///
/// - After a crash or a power loss, a prefix of the applied batches and single writes is there,
///   each of them completely. It has at least those that a flush has returned for.
/// - Whatever is applied is visible at once to every reader. A scan may see a batch in part.
/// - After a failed write or flush it refuses all further ones until it is opened again.
/// - It keeps its files in its directory, which may be renamed while the tree is closed. One of them
///   is `db`, which it locks (`flock`) as long as the tree is open.
///
/// It may panic when it is opened, when it is read, and when its last handle is dropped. It need not
/// notice damage: `audit` does.
pub(super) trait Engine: Debug + Send + Sync {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<EngineBytes>, EngineError>;

    /// The entries of a range, which may be empty or reversed.
    fn scan(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> EngineScan;

    /// The entries after a key, for a reader of the whole tree. Takes more time than a scan, but
    /// leaves no more in the cache than its size.
    fn scan_all(&self, after: &[u8]) -> EngineScan {
        self.scan(Bound::Excluded(after), Bound::Unbounded)
    }

    /// Applies a batch atomically. The last write of a key counts.
    fn apply(&self, batch: &mut dyn Iterator<Item = EngineWrite>) -> Result<(), EngineError>;

    /// Writes one key. Costs less than a batch, and stops no other tree of the process.
    fn write(&self, write: EngineWrite) -> Result<(), EngineError>;

    /// Makes everything that was applied durable.
    fn flush(&self) -> Result<(), EngineError>;

    /// An error that the engine met in the background. It then refuses all writes.
    fn background_error(&self) -> Option<EngineError>;

    /// Bytes that the tree takes.
    fn size_on_disk(&self) -> Result<u64, EngineError>;
}

/// Why an engine cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum EngineError {
    /// The operating system refused a read or a write.
    #[error("IO error: {0}")]
    Io(io::Error),
    /// The files could not be synced.
    #[error("the file cannot be synced")]
    Sync(#[source] io::Error),
    /// The engine cannot read what it wrote, or has met a fault of its own.
    #[error("{0}")]
    Damaged(String),
}

#[cfg(test)]
mod tests;
