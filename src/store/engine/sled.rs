//! sled as the store's engine. docs/design.md lists its traps, and what is done about each.

use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::tree_files::TreeFiles;
use super::{Engine, EngineBytes, EngineError, EngineScan, EngineWrite};

/// How many bytes of a tree are read for each access to its cache. sled drops pages only after 64
/// accesses to one of the 256 parts of its cache, whatever they bring in. A scan accesses each page
/// once, so 16,384 pages would stay beyond the size of the cache: 200 MiB with rows of Graph.
const BYTES_PER_ACCESS: usize = 1 << 10;

/// An open tree of sled.
#[derive(Debug)]
struct SledEngine {
    db: sled::Db,
    /// What the tree was opened with; it knows of errors in the background.
    config: sled::Config,
    directory: PathBuf,
    synced: Mutex<SyncState>,
}

/// What a sync needs of the ones before.
#[derive(Debug, Default)]
struct SyncState {
    /// The tree's files, once there was a sync.
    files: Option<TreeFiles>,
    /// Whether a sync has failed.
    failed: bool,
}

/// Opens or creates a tree. Panics on some kinds of damage, and on some errors of the operating
/// system; the last handle also panics if sled's final sync fails when it is dropped.
pub(in crate::store) fn open(directory: &Path, cache: u64) -> Result<Arc<dyn Engine>, EngineError> {
    let config = sled::Config::new()
        .path(directory)
        .cache_capacity(cache)
        // sled's own flusher keeps rewriting segments even if nothing is committed. Without it,
        // every replaced page cleans another one, which keeps the file as small.
        .flush_every_ms(None)
        .use_compression(false);
    let (db, synced) = (config.open()?, Mutex::default());
    Ok(Arc::new(SledEngine { db, config, directory: directory.to_owned(), synced }))
}

impl SledEngine {
    /// Syncs what was flushed: sled's flush alone does not reach the disk's own cache. The first
    /// call also syncs what sled never does.
    fn sync(&self) -> io::Result<()> {
        let mut state = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        if state.failed {
            // The system reports an error only once.
            return Err(io::Error::other("an earlier sync failed"));
        }
        let synced = match &mut state.files {
            Some(files) => files.sync(),
            None => TreeFiles::open(&self.directory).map(|files| state.files = Some(files)),
        };
        state.failed = synced.is_err();
        synced
    }
}

impl Engine for SledEngine {
    fn get(&self, key: &[u8]) -> Result<Option<EngineBytes>, EngineError> {
        Ok(self.db.get(key)?)
    }

    fn scan(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> EngineScan {
        Box::new(self.db.range::<&[u8], _>((from, to)).map(|entry| Ok(entry?)))
    }

    fn scan_all(&self, after: &[u8]) -> EngineScan {
        let (db, mut unaccounted) = (self.db.clone(), 0);
        let range = (Bound::Excluded(after), Bound::Unbounded);
        Box::new(self.db.range::<&[u8], _>(range).map(move |entry| {
            let (key, value) = entry?;
            unaccounted += key.len() + value.len();
            while unaccounted >= BYTES_PER_ACCESS {
                unaccounted -= BYTES_PER_ACCESS;
                db.get(&key)?;
            }
            Ok((key, value))
        }))
    }

    fn apply(&self, batch: &mut dyn Iterator<Item = EngineWrite>) -> Result<(), EngineError> {
        let mut all = sled::Batch::default();
        for (key, value) in batch {
            match value {
                Some(value) => all.insert(key, value),
                None => all.remove(key),
            }
        }
        Ok(self.db.apply_batch(all)?)
    }

    fn write(&self, (key, value): EngineWrite) -> Result<(), EngineError> {
        match value {
            Some(value) => self.db.insert(key, value)?,
            None => self.db.remove(key)?,
        };
        Ok(())
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.db.flush()?;
        self.sync().map_err(EngineError::Sync)
    }

    fn background_error(&self) -> Option<EngineError> {
        self.config.global_error().err().map(EngineError::from)
    }

    fn size_on_disk(&self) -> Result<u64, EngineError> {
        Ok(self.db.size_on_disk()?)
    }
}

impl From<sled::Error> for EngineError {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(error) => Self::Io(error),
            fault => Self::Damaged(fault.to_string()),
        }
    }
}
