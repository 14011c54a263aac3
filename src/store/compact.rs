//! Gives space back while the store is in use: decides when a compaction pays, and runs it.
//!
//! The size of the files costs nothing to know, that of their content a scan of the store. So the
//! content is measured only after the files have grown by a quarter, a quarter of the keys was
//! deleted, or after a day. Once nothing was written between two looks, a tenth is enough, because
//! the store may stay as it is. After that it is left alone until something is written.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::Store;
use super::compaction::{ClosedCompaction, Compaction, CompactionError, EXPANSION};
use super::disk_space;
use super::error::{StoreError, TreeError};
use super::exchange;
use super::job::WriteJob;
use super::tree::Tree;
use crate::error_chain::error_chain;

/// Files of less than this are left alone.
const MIN_BYTES: u64 = 24 << 20;
/// Bytes on disk, and of the keys and values in them, as a compaction usually leaves them: 2.1 to 2.2
/// times as many.
const COMPACTED: (u64, u64) = (11, 5);
/// How much larger files are, in twentieths, when something is done about it.
const GROWN: u64 = 25;
/// The same once nothing is written.
const GROWN_AT_REST: u64 = 22;
/// How long a measurement of the content counts while something is written: values may shrink.
const REMEASURE_AFTER: Duration = Duration::from_secs(86_400);
/// Bytes of content measured at once.
const SLICE: u64 = 1 << 20;

/// What became of a request to compact the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompactionOutcome {
    /// The files are not much larger than their content.
    NotNeeded,
    /// The files were replaced by smaller ones.
    Done {
        /// Bytes on disk before.
        before: u64,
        /// Bytes on disk now.
        after: u64,
    },
    /// There is too little disk space for a copy. Nothing was changed.
    NoSpace {
        /// Bytes that are free.
        free: u64,
        /// Bytes that must be.
        needed: u64,
    },
    /// More was written meanwhile than a copy can follow. Nothing was changed.
    Overrun,
    /// It was given up for this reason. Nothing was changed.
    GivenUp(String),
}

/// What is known about the sizes of a store since it was opened.
#[derive(Debug)]
pub struct SizeWatch {
    /// Smaller files are left alone.
    min_bytes: u64,
    /// The last group at the last look that found nothing to do.
    group: u64,
    /// Whether another look found the same, or nothing was written since the opening.
    rests: bool,
    measured: Option<ContentSize>,
    /// What the last compaction left: bytes on disk, and of content. Their ratio counts rather than
    /// the bytes on disk, which need not grow while the content shrinks.
    compacted: (u64, u64),
}

/// A measurement of the content.
#[derive(Clone, Copy, Debug)]
struct ContentSize {
    at: Instant,
    /// Bytes on disk.
    disk: u64,
    /// Bytes of keys and values.
    live: u64,
    /// Number of keys.
    keys: u64,
    /// Keys that had been deleted since the opening.
    deleted: u64,
}

impl Default for SizeWatch {
    fn default() -> Self {
        let (min_bytes, compacted) = (MIN_BYTES, COMPACTED);
        Self { min_bytes, group: 0, rests: true, measured: None, compacted }
    }
}

impl SizeWatch {
    /// Whether the content has to be measured for files of `disk` bytes, after `deleted` keys were
    /// deleted since the opening. `grown` is [`GROWN`] or [`GROWN_AT_REST`].
    fn is_outdated(&self, disk: u64, deleted: u64, grown: u64) -> bool {
        self.measured.is_none_or(|then| {
            product(disk, 20) >= product(then.disk, grown)
                || deleted - then.deleted > then.keys / 4
                || then.at.elapsed() >= REMEASURE_AFTER
        })
    }

    /// Whether files of `disk` bytes are worth a compaction: they have so much more for each byte of
    /// content than the last one left.
    fn is_worth_it(&self, disk: u64, live: u64, grown: u64) -> bool {
        let (after, of) = self.compacted;
        product(disk, of) * 20 >= product(after, live) * u128::from(grown)
    }
}

fn product(a: u64, b: u64) -> u128 {
    u128::from(a) * u128::from(b)
}

impl Store {
    /// Compacts the store if its files are much larger than their content. Pauses this long after
    /// each quarter of a megabyte. Costs nothing if nothing was written since the last call with
    /// the same `watch`. The future may be dropped at any time.
    ///
    /// # Errors
    /// If the store can no longer be used.
    pub async fn compact_if_grown(
        &self,
        watch: &mut SizeWatch,
        pause: Duration,
    ) -> Result<CompactionOutcome, StoreError> {
        let group = self.shared().durable_group();
        let at_rest = group == watch.group;
        if at_rest && watch.rests {
            return Ok(CompactionOutcome::NotNeeded);
        }
        let disk = self.tree_bytes().await;
        if disk < watch.min_bytes {
            (watch.group, watch.rests) = (group, true);
            return Ok(CompactionOutcome::NotNeeded);
        }
        let grown = if at_rest { GROWN_AT_REST } else { GROWN };
        let deleted = self.shared().deleted_keys();
        let measured = match watch.measured {
            Some(measured) if !watch.is_outdated(disk, deleted, grown) => measured,
            _ => {
                let (keys, live) = self.content(pause).await?;
                *watch.measured.insert(ContentSize {
                    at: Instant::now(),
                    disk,
                    live,
                    keys,
                    deleted,
                })
            }
        };
        let live = measured.live;
        if !watch.is_worth_it(disk, live, grown) {
            (watch.group, watch.rests) = (group, at_rest);
            return Ok(CompactionOutcome::NotNeeded);
        }
        let outcome = self.compact(live, pause).await?;
        match outcome {
            CompactionOutcome::Done { after, .. } => {
                watch.measured = Some(ContentSize { disk: after, ..measured });
                watch.compacted = (after, live);
            }
            // Found while copying: the content may have grown since it was measured. If it is found
            // before, the next call looks at the free space before it reads anything.
            CompactionOutcome::NoSpace { needed, .. }
                if needed < live.saturating_mul(EXPANSION) =>
            {
                watch.measured = None;
            }
            _ => {}
        }
        Ok(outcome)
    }

    /// Compacts a store of `live` bytes of keys and values ([`Store::live_bytes`]). Readers and
    /// writers are served meanwhile. The future may be dropped at any time.
    ///
    /// # Errors
    /// If the store can no longer be used.
    pub async fn compact(
        &self,
        live: u64,
        pause: Duration,
    ) -> Result<CompactionOutcome, StoreError> {
        let before = self.tree_bytes().await;
        let compacted = match self.replace_tree(live, pause).await {
            // It may be unknown which directory the store is. The next opening deletes the other.
            Err(CompactionError::Store(why @ (StoreError::Failed(_) | StoreError::Closed))) => {
                return Err(why);
            }
            compacted => compacted,
        };
        let path = self.shared().path.clone();
        let removed = self.on_blocking_thread(move || Ok(exchange::remove_other(&path)?)).await;
        if let Err(error) = removed {
            tracing::warn!(
                error = %error_chain(&error),
                "files of a compaction could not be deleted"
            );
        }
        match compacted {
            Ok(()) => {
                self.shared().metrics.compactions.fetch_add(1, Ordering::Relaxed);
                Ok(CompactionOutcome::Done { before, after: self.tree_bytes().await })
            }
            Err(CompactionError::Space { free, needed }) => {
                Ok(CompactionOutcome::NoSpace { free, needed })
            }
            Err(CompactionError::Store(StoreError::CopyOverrun)) => Ok(CompactionOutcome::Overrun),
            Err(error) => Ok(CompactionOutcome::GivenUp(error_chain(&error).to_string())),
        }
    }

    /// Whether a copy of the store is being made: a compaction or an export. What is written behind
    /// it makes it longer, and more than it can follow ends it.
    pub fn is_being_copied(&self) -> bool {
        self.shared().copies.any()
    }

    /// Bytes of all keys and values. Reads the whole store, with a pause after each megabyte.
    ///
    /// # Errors
    /// If the store can no longer be used.
    pub async fn live_bytes(&self, pause: Duration) -> Result<u64, StoreError> {
        Ok(self.content(pause).await?.1)
    }

    /// The number of all keys, and [`Store::live_bytes`].
    async fn content(&self, pause: Duration) -> Result<(u64, u64), StoreError> {
        let (mut keys, mut all, mut after) = (0, 0, Some(Vec::new()));
        while let Some(from) = after {
            let slice = self.read_tree(move |tree| measure_slice(tree, &from)).await?;
            keys += slice.keys;
            all += slice.bytes;
            after = slice.last;
            if after.is_some() {
                tokio::time::sleep(pause).await;
            }
        }
        self.shared().metrics.live_bytes.store(all, Ordering::Relaxed);
        Ok((keys, all))
    }

    async fn replace_tree(&self, live: u64, pause: Duration) -> Result<(), CompactionError> {
        let (shared, min_free) = (self.shared().clone(), self.min_free_bytes());
        let cache = self.cache_bytes();
        let begin = move || Compaction::begin(&shared, live, min_free);
        let compaction = self.on_blocking_thread(begin).await?;
        let compaction = self.copy(compaction, pause).await?;
        let closed = self.on_blocking_thread(move || compaction.close()).await?;
        let closed = self.read_closed(closed, pause).await?;
        let compaction = self.on_blocking_thread(move || closed.open(cache)).await?;
        let mut compaction = self.copy(compaction, pause).await?;
        let check = move || compaction.check().map(|()| compaction);
        let compaction = Box::new(self.on_blocking_thread(check).await?);
        let replaced = self.ask(|reply| WriteJob::Replace { compaction, reply }).await?;
        let replaced = replaced?;
        // Closing the old tree takes time.
        self.on_blocking_thread(move || {
            drop(replaced);
            Ok(())
        })
        .await
    }

    /// Copies until the copy is the same as the tree.
    async fn copy(
        &self,
        compaction: Compaction,
        pause: Duration,
    ) -> Result<Compaction, CompactionError> {
        let mut resting = RestingCompaction(Some(compaction));
        while let Some(mut compaction) = resting.0.take() {
            let slice = move || compaction.copy_slice().map(|equal| (compaction, equal));
            let (copied, equal) = self.on_blocking_thread(slice).await?;
            if equal {
                return Ok(copied);
            }
            resting.0 = Some(copied);
            tokio::time::sleep(pause).await;
        }
        // Not reached: only a dropped future leaves a compaction at rest.
        Err(CompactionError::Store(StoreError::Closed))
    }

    /// Reads all files of a copy.
    async fn read_closed(
        &self,
        mut closed: ClosedCompaction,
        pause: Duration,
    ) -> Result<ClosedCompaction, CompactionError> {
        loop {
            let slice = move || closed.read_slice().map(|last| (closed, last));
            let (read, last) = self.on_blocking_thread(slice).await?;
            if last {
                return Ok(read);
            }
            closed = read;
            tokio::time::sleep(pause).await;
        }
    }

    /// Bytes on disk of the tree's files; 0 if the operating system does not report it.
    async fn tree_bytes(&self) -> u64 {
        let path = self.shared().path.clone();
        let measure = move || Ok(disk_space::bytes(&exchange::current_directory(&path))?);
        self.on_blocking_thread(measure).await.unwrap_or_default()
    }

    async fn on_blocking_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, CompactionError> + Send + 'static,
    ) -> Result<T, CompactionError> {
        let working = tokio::task::spawn_blocking(move || {
            catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(CompactionError::Panicked))
        });
        let done = self.shared().env.block_on_external(working).await;
        // An error means that the runtime ended before the work began.
        done.unwrap_or(Err(CompactionError::Store(StoreError::Closed)))
    }
}

/// A compaction between two slices. Dropping it closes its copy on another thread, because closing
/// takes as long as the disk needs.
struct RestingCompaction(Option<Compaction>);

impl Drop for RestingCompaction {
    fn drop(&mut self) {
        if let Some(compaction) = self.0.take() {
            std::thread::spawn(move || drop(compaction));
        }
    }
}

/// A part of the content.
#[derive(Default)]
struct MeasuredSlice {
    keys: u64,
    bytes: u64,
    /// The key to continue after; `None` at the end.
    last: Option<Vec<u8>>,
}

/// Measures the next keys and values after a key.
fn measure_slice(tree: &Tree, after: &[u8]) -> Result<MeasuredSlice, TreeError> {
    let mut slice = MeasuredSlice::default();
    for entry in tree.engine().scan_all(after) {
        let (key, value) = entry?;
        slice.keys += 1;
        slice.bytes += (key.len() + value.len()) as u64;
        if slice.bytes >= SLICE {
            slice.last = Some(key.to_vec());
            break;
        }
    }
    Ok(slice)
}

#[cfg(test)]
mod tests;
