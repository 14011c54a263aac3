//! Follows the feed. This is the only way to read changes.
//!
//! A [`Follower`] is one consumer: it knows how far it has read ([`Follower::cursor`]), reads the
//! next changes ([`Follower::read`]), and waits until there are more ([`Follower::wait`]).
//! [`Follower::next_batch`] does both. A consumer stores the cursor together with what it made of
//! the changes, and continues with [`Follower::after`].
//!
//! Delivery is in order and without gaps. A store cursor names one seq, and expires once tombstones
//! after it are trimmed. A follower that started at the beginning holds no events removed before it
//! started, so it needs only later tombstones. Until it reaches the end that the feed had at its
//! start, its cursor is the cursor of that end, `~`, and the seq it has reached. Otherwise a large
//! and old feed could only be read from the beginning in a single batch.
//!
//! Tombstones may be trimmed during a read. So the cursor from which a read started is checked
//! again after reading, and after the new cursors were made: if it is still valid, nothing was
//! missed.
//!
//! Every method can be cancelled: a follower moves only when a read returns, without waiting again,
//! so the next read repeats what a cancelled one has read. A follower holds no changes; a batch is
//! bounded by its caller. The tree is read on a blocking thread.

use tokio::sync::watch;

use super::cursor::ReadPosition;
use super::error::{FeedError, StoreError};
use super::feed::{self, FeedFilter};
use super::shared::StoreShared;
use super::{Changes, Store};
use crate::mirror::change::Seq;

/// Bytes of events in a batch, for consumers that need no smaller ones.
pub const BATCH_BYTES: usize = 4 << 20;

/// A consumer of the feed. It keeps the store open, as every handle does.
#[derive(Debug)]
pub struct Follower {
    store: Store,
    filter: FeedFilter,
    position: ReadPosition,
    guard: Guard,
    durable: watch::Receiver<Seq>,
}

/// Shows whether changes after the follower's seq may have been missed.
#[derive(Clone, Debug)]
struct Guard {
    /// The store cursor that must stay valid.
    cursor: String,
    /// For a follower that started at the beginning, until it reaches it: the end of the feed at
    /// that time. `cursor` is then the cursor of that end.
    initial_end: Option<Seq>,
}

impl Guard {
    /// The follower's cursor once it has read up to a position.
    fn cursor_at(&self, shared: &StoreShared, position: ReadPosition) -> String {
        match self.initial_end {
            Some(end) if position.seq < end => format!("{}~{}", self.cursor, position.seq),
            _ => shared.cursor(position),
        }
    }
}

impl Follower {
    /// Follows from the beginning: first every existing event, then each change.
    pub fn from_beginning(store: &Store, filter: FeedFilter) -> Self {
        let end = store.durable_seq();
        Self::new(store, filter, ReadPosition::caught_up(0), store.cursor(end), end)
    }

    /// Follows from the durable end: only later changes.
    pub fn from_now(store: &Store, filter: FeedFilter) -> Self {
        let end = store.durable_seq();
        Self::new(store, filter, ReadPosition::caught_up(end), store.cursor(end), end)
    }

    /// Continues after a cursor: [`Follower::cursor`], [`Change::cursor`](super::Change::cursor) or
    /// [`Store::cursor`]. The filter is not part of the cursor.
    ///
    /// # Errors
    /// [`FeedError::Malformed`] if it is not a cursor, [`FeedError::SnapshotRequired`] if the feed
    /// cannot be continued from it.
    pub fn after(store: &Store, cursor: &str, filter: FeedFilter) -> Result<Self, FeedError> {
        let Some((guard, seq)) = cursor.split_once('~') else {
            let position = store.shared().position(cursor)?;
            return Ok(Self::new(store, filter, position, cursor.to_owned(), position.seq));
        };
        let end = store.seq(guard)?;
        match seq.parse() {
            Ok(seq) if seq <= end => {
                let position = ReadPosition { seq, caught_up: 0 };
                Ok(Self::new(store, filter, position, guard.to_owned(), end))
            }
            _ => Err(FeedError::Malformed),
        }
    }

    fn new(
        store: &Store,
        filter: FeedFilter,
        position: ReadPosition,
        cursor: String,
        end: Seq,
    ) -> Self {
        let guard = Guard { cursor, initial_end: (position.seq < end).then_some(end) };
        let durable = store.shared().durable();
        Self { store: store.clone(), filter, position, guard, durable }
    }

    /// The cursor to continue from. It moves with every read, also with one that finds nothing, so
    /// that the cursor of a consumer whose filter accepts little does not expire.
    pub fn cursor(&self) -> String {
        match self.guard.initial_end {
            Some(_) => format!("{}~{}", self.guard.cursor, self.position.seq),
            None => self.guard.cursor.clone(),
        }
    }

    /// The last seq that was read.
    pub fn seq(&self) -> Seq {
        self.position.seq
    }

    /// The end that the feed had when the follower started at the beginning, until that end is
    /// reached: the follower has not had any event yet whose entry is not after it.
    pub fn initial_end(&self) -> Option<Seq> {
        self.guard.initial_end
    }

    /// Waits for changes and reads them: at most `limit`, and none after that with which their
    /// events reach `bytes` bytes. Never returns an empty batch.
    ///
    /// # Errors
    /// As [`Follower::read`].
    pub async fn next_batch(&mut self, limit: usize, bytes: usize) -> Result<Changes, FeedError> {
        loop {
            let changes = self.read(limit, bytes).await?;
            if !changes.value.is_empty() {
                return Ok(changes);
            }
            if changes.at_end {
                self.wait().await?;
            }
        }
    }

    /// Reads the next changes without waiting, bounded as in [`Follower::next_batch`]. With a
    /// filter, there may be fewer changes, or none, before the end of the feed.
    ///
    /// # Errors
    /// [`FeedError::SnapshotRequired`] if the consumer fell behind the kept tombstones: it must
    /// start over with [`Follower::from_beginning`]. [`FeedError::Store`] if the store was closed
    /// or has failed.
    pub async fn read(&mut self, limit: usize, bytes: usize) -> Result<Changes, FeedError> {
        self.read_to(Seq::MAX, limit, bytes).await
    }

    /// As [`Follower::read`], but reads no change after `end`.
    ///
    /// # Errors
    /// As [`Follower::read`].
    pub async fn read_to(
        &mut self,
        end: Seq,
        limit: usize,
        bytes: usize,
    ) -> Result<Changes, FeedError> {
        let shared = self.store.shared();
        let (after, filter, guard) = (self.position, self.filter.clone(), self.guard.clone());
        let read = move |shared: &StoreShared| {
            let cursor = |position| guard.cursor_at(shared, position);
            feed::changes(shared, (after, end), &filter, limit, bytes, cursor)
        };
        let changes = shared.read(read).await?;
        let position = ReadPosition { seq: changes.seq, caught_up: changes.caught_up };
        let cursor = self.guard.cursor_at(shared, position);
        shared.position(&self.guard.cursor)?;
        self.position = position;
        if self.guard.initial_end.is_none_or(|end| position.seq >= end) {
            self.guard = Guard { cursor, initial_end: None };
        }
        Ok(changes)
    }

    /// The seq up to which there are at most `limit` changes with about `bytes` bytes in all, not
    /// counting the last one, and the cursor there. Does not move the follower. Later changes can
    /// move entries out of this range, but not into it.
    ///
    /// # Errors
    /// As [`Follower::read`].
    pub async fn reach(&self, limit: usize, bytes: usize) -> Result<(Seq, String), FeedError> {
        let shared = self.store.shared();
        let (after, filter) = (self.position, self.filter.clone());
        let end = shared
            .read(move |shared| feed::reach(shared, after.seq, &filter, limit, bytes))
            .await?;
        // What moves behind this end meanwhile is not seen.
        let cursor = self.guard.cursor_at(shared, ReadPosition { seq: end, ..after });
        shared.position(&self.guard.cursor)?;
        Ok((end, cursor))
    }

    /// About how many entries of the feed, of all windows, follow after a cursor of this follower.
    ///
    /// # Errors
    /// As [`Follower::read`].
    pub async fn pending(&self, after: Seq) -> Result<u64, FeedError> {
        let shared = self.store.shared();
        if after >= shared.durable_seq() {
            return Ok(0);
        }
        Ok(shared.read(move |shared| feed::pending(shared, after)).await?)
    }

    /// Waits until the feed continues after what was read. The filter may reject all of it.
    ///
    /// # Errors
    /// [`FeedError::Store`] if the store was closed or has failed.
    pub async fn wait(&mut self) -> Result<(), FeedError> {
        let seq = self.position.seq;
        tokio::select! {
            biased;
            why = self.store.failed() => Err(why.into()),
            moved = self.durable.wait_for(|durable| *durable > seq) => {
                Ok(moved.map(drop).map_err(|_| StoreError::Closed)?)
            }
        }
    }
}
