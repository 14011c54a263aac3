//! A compacted copy of the tree, made beside it and put in its place by the writer.
//!
//! sled never gives space back: pages that are written again and again leave segments that are
//! never filled. A copy in the order of the keys takes the least space. It is filled with a small
//! cache, then opened again as a store is opened, which reads and checks what was written. The
//! writer applies what was written last, and exchanges the directories (`exchange`).

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use super::copy::TreeCopy;
use super::directory::SlicedRead;
use super::disk_space;
use super::error::{OpenFault, StoreError, TreeError};
use super::exchange::{self, ExchangeError};
use super::shared::StoreShared;
use super::tree::Tree;
use super::write_watcher::WriteWatcher;
use super::{directory, open};

/// Bytes copied at once. Readers and the writer wait for about a millisecond.
const SLICE: usize = 256 << 10;
/// Bytes of the copy read at once before it is opened again. That disturbs less than copying, and
/// what is written meanwhile has to be remembered.
const READ_SLICE: usize = 4 * SLICE;
/// The cache while the copy is filled in the order of the keys, which needs none. The cache of the
/// tree in use is as large as it may be at the same time.
const FILL_CACHE: u64 = 4 << 20;
/// Rough bytes of disk that a copy takes for each byte of keys and values.
pub(super) const EXPANSION: u64 = 3;

/// Why a compaction was given up. The store goes on as it is, if not said otherwise.
#[derive(Debug, thiserror::Error)]
pub(super) enum CompactionError {
    /// The store can no longer be used, or too much was written meanwhile.
    #[error("the store cannot be copied")]
    Store(#[from] StoreError),
    /// The disk has too little space for a copy.
    #[error("{free} bytes are free, a copy needs {needed}")]
    Space {
        /// Bytes that are free.
        free: u64,
        /// Bytes that must be.
        needed: u64,
    },
    /// The copy cannot be written or read.
    #[error("the copy cannot be used")]
    Copy(#[from] TreeError),
    /// The copy cannot be opened, or is not what was copied.
    #[error("the copy cannot be opened")]
    Open(#[from] OpenFault),
    /// The operating system refuses.
    #[error("the copy's directory cannot be used")]
    Io(#[from] io::Error),
    /// The copy cannot be put in the place of the store. The store has failed if its error says so.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// sled panicked, as it does on some errors of the operating system.
    #[error("the copy was given up after a panic")]
    Panicked,
}

/// An open tree with what belongs to it. Dropping it closes the tree, which is blocking but neither
/// panics nor waits for ever.
pub(super) struct TreeHandles {
    // Dropped in this order.
    /// Has a handle to the tree.
    watcher: WriteWatcher,
    tree: Tree,
    last: LastHandle,
}

/// The handle to a tree that is dropped last. A tree that cannot be closed is no longer needed.
struct LastHandle(Option<Tree>);

impl Drop for LastHandle {
    fn drop(&mut self) {
        self.0.take().map(Tree::close);
    }
}

/// A copy under way. Blocking: its methods write to the disk.
pub(super) struct Compaction {
    shared: Arc<StoreShared>,
    copy: TreeCopy,
    target: TreeHandles,
    directory: PathBuf,
    /// Bytes that must stay free.
    reserved: u64,
}

/// A copy that is closed. All of its files are read before it is opened again, as those of a store
/// are, but no faster than four times as they were written. Blocking.
pub(super) struct ClosedCompaction {
    shared: Arc<StoreShared>,
    copy: TreeCopy,
    directory: PathBuf,
    reserved: u64,
    reading: SlicedRead,
}

impl Compaction {
    /// Begins a copy of a tree that has `live` bytes of keys and values. `min_free` bytes of the
    /// disk stay free.
    ///
    /// # Errors
    /// See [`CompactionError`].
    pub(super) fn begin(
        shared: &Arc<StoreShared>,
        live: u64,
        min_free: u64,
    ) -> Result<Self, CompactionError> {
        let path = &shared.path;
        exchange::remove_other(path)?;
        let (free, total) = disk_space::free(path)?;
        let reserved = disk_space::kept_free(min_free, total);
        let needed = live.saturating_mul(EXPANSION).saturating_add(reserved);
        if free < needed {
            return Err(CompactionError::Space { free, needed });
        }
        let directory = exchange::other_directory(path);
        directory::make_private(&directory)?;
        let copy = TreeCopy::begin(shared)?;
        let tree = Tree::open(&*shared.engine, &directory, FILL_CACHE)?;
        let target = TreeHandles::new(tree)?;
        Ok(Self { shared: shared.clone(), copy, target, directory, reserved })
    }

    /// Copies the next slice. Returns whether the copy was the same as the tree for a moment.
    ///
    /// # Errors
    /// See [`CompactionError`].
    pub(super) fn copy_slice(&mut self) -> Result<bool, CompactionError> {
        let (free, _) = disk_space::free(&self.shared.path)?;
        if free < self.reserved {
            return Err(CompactionError::Space { free, needed: self.reserved });
        }
        let slice = self.copy.next_slice(SLICE)?;
        let watched = self.target.watcher.watch_write();
        for entry in slice.entries {
            // Not as a batch, for which all trees of a process are locked. Until the copy is
            // complete nothing reads it.
            self.target.tree.engine().write(entry).map_err(TreeError::from)?;
        }
        drop(watched);
        Ok(slice.last)
    }

    /// Closes the copy, to open it again.
    ///
    /// # Errors
    /// See [`CompactionError`].
    pub(super) fn close(self) -> Result<ClosedCompaction, CompactionError> {
        let Self { shared, copy, target, directory, reserved } = self;
        target.make_durable()?;
        // A sync that fails from here on concerns nothing of the copy.
        drop(target);
        open::await_unlocked(&directory);
        let reading = SlicedRead::begin(&directory, READ_SLICE)?;
        Ok(ClosedCompaction { shared, copy, directory, reserved, reading })
    }

    /// Checks the copy, which must be the same as the tree was at some moment.
    ///
    /// # Errors
    /// See [`CompactionError`].
    pub(super) fn check(&mut self) -> Result<(), CompactionError> {
        open::check_copy(&self.target.tree)?;
        // The dictionaries of the store go on to grow.
        self.target.tree.dictionaries = self.shared.dictionaries.clone();
        Ok(())
    }

    /// Copies the rest and puts the copy in the place of the store's directory, durably. For the
    /// writer, which must use the returned tree from now on.
    ///
    /// # Errors
    /// See [`CompactionError`].
    pub(super) fn finish(mut self) -> Result<TreeHandles, CompactionError> {
        while !self.copy_slice()? {}
        self.target.make_durable()?;
        directory::make_private(&self.directory)?;
        exchange::exchange(&self.shared.path)?;
        Ok(self.target)
    }
}

impl ClosedCompaction {
    /// Reads the next slice of what was written. Returns whether that was the last one.
    ///
    /// # Errors
    /// See [`CompactionError`].
    pub(super) fn read_slice(&mut self) -> Result<bool, CompactionError> {
        Ok(self.reading.read_slice()?)
    }

    /// Opens the copy again, of which every slice was read, with `cache` bytes of cache.
    ///
    /// # Errors
    /// See [`CompactionError`].
    pub(super) fn open(self, cache: u64) -> Result<Compaction, CompactionError> {
        let Self { shared, copy, directory, reserved, .. } = self;
        let tree = open::open_copy(&*shared.engine, &directory, cache)?;
        let target = TreeHandles::new(tree)?;
        Ok(Compaction { shared, copy, target, directory, reserved })
    }
}

impl TreeHandles {
    fn new(tree: Tree) -> Result<Self, CompactionError> {
        let last = LastHandle(Some(tree.clone()));
        let handles = Self { watcher: WriteWatcher::start(&tree)?, tree, last };
        // The first flush takes longest. The writer must not wait for it.
        handles.make_durable()?;
        Ok(handles)
    }

    fn make_durable(&self) -> Result<(), CompactionError> {
        let watched = self.watcher.watch_write();
        self.tree.flush()?;
        drop(watched);
        Ok(())
    }

    /// Exchanges the tree for that of the writer.
    pub(super) fn swap(&mut self, watcher: &mut WriteWatcher, tree: &mut Tree) {
        std::mem::swap(&mut self.watcher, watcher);
        std::mem::swap(&mut self.tree, tree);
        self.last = LastHandle(Some(self.tree.clone()));
    }

    /// The tree.
    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }
}

impl Drop for TreeHandles {
    fn drop(&mut self) {
        // The tree flushes when it is closed, and then waits for ever if a write fails that nothing
        // watches. Any error is found there again.
        let _watched = self.watcher.watch_write();
        catch_unwind(AssertUnwindSafe(|| self.tree.flush().ok())).ok();
    }
}
