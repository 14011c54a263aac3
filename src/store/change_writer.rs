//! Assigns seqs: turns changes of rows into rows, index entries and feed entries.

use std::sync::Arc;

use bytes::Bytes;

use super::batch::WriteBatch;
use super::error::TreeError;
use super::feed_edit::FeedEdit;
use super::keys;
use super::record::{self, EventSize, FeedEntry, TombstoneEntry, UpdateEntry};
use super::row::EventRow;
use super::rows::{StoredRow, replace_row};
use super::tree::Tree;
use crate::mirror::change::{ChangeKind, RemovalReason, Seq};
use crate::mirror::commit::CommitOutcome;
use crate::mirror::event::{self, EventDifference};
use crate::mirror::page::EventHash;
use crate::mirror::position::WindowId;

/// Most bytes that an entry of the feed says about its change; one that would need more says
/// nothing. Graph's limits are far below.
const MAX_DETAIL: usize = 4096;

/// One row before and after a commit.
pub(super) struct RowChange {
    pub(super) old: Option<StoredRow>,
    pub(super) new: Option<EventRow>,
    /// The reason, if the row is removed.
    pub(super) reason: RemovalReason,
}

impl RowChange {
    /// The row before the commit.
    pub(super) fn old(&self) -> Option<&EventRow> {
        self.old.as_ref().map(|s| &s.row)
    }
}

/// Assigns seqs and writes rows, index entries and feed entries.
pub(super) struct ChangeWriter<'a> {
    batch: &'a mut WriteBatch,
    tree: &'a Tree,
    window: WindowId,
    name: Arc<str>,
    /// Microseconds.
    at: i64,
    seq: Seq,
    feed: FeedEdit,
    outcome: CommitOutcome,
}

impl<'a> ChangeWriter<'a> {
    /// Begins behind the last assigned seq. `at` is in microseconds.
    pub(super) fn new(
        tree: &'a Tree,
        batch: &'a mut WriteBatch,
        (window, name): (WindowId, Arc<str>),
        at: i64,
        seq: Seq,
    ) -> Self {
        let (feed, outcome) = (FeedEdit::default(), CommitOutcome::default());
        Self { batch, tree, window, name, at, seq, feed, outcome }
    }

    /// Writes the entries of the feed; returns the last assigned seq.
    pub(super) fn finish(self) -> Result<(CommitOutcome, Seq), TreeError> {
        self.feed.write(self.tree, self.batch)?;
        Ok((self.outcome, self.seq))
    }

    /// Writes a changed row. `difference` says what a reader sees of it, `show` completes the row
    /// as it was, `size` is that of the completed row as it is now.
    pub(super) fn write_change(
        &mut self,
        id: EventHash,
        slot: &RowChange,
        difference: impl FnOnce(&EventRow, &EventRow) -> EventDifference,
        show: impl FnOnce(&EventRow) -> Bytes,
        size: impl FnOnce(&EventRow) -> usize,
    ) -> Result<(), TreeError> {
        let shown = |is: &EventRow| (is.start, EventSize::of(size(is)));
        let was = slot.old().filter(|r| r.is_shown());
        let is = slot.new.as_ref().filter(|r| r.is_shown());
        let seq = match (was, is) {
            (Some(was), None) => {
                self.write_tombstone(id, was, slot.reason, &show(was));
                0
            }
            (None, Some(is)) => {
                if let Some(tombstone) = self.tree.tombstone(self.window, id)? {
                    self.feed.remove(tombstone);
                    self.batch.delete(keys::age(tombstone));
                    self.batch.delete(keys::tombstone(self.window, id));
                }
                self.outcome.created += 1;
                self.put_entry(id, ChangeKind::Created, Some(shown(is)), None, None)
            }
            (Some(was), Some(is)) => match difference(was, is) {
                EventDifference::None => was.seq,
                difference => self.write_update(id, was.seq, shown(is), difference)?,
            },
            (None, None) => 0,
        };
        let new = slot.new.clone().map(|row| row.with_seq(seq));
        self.write(id, slot.old.as_ref(), new.as_ref());
        Ok(())
    }

    /// Replaces the feed entry of an event by that of an update; returns the new seq.
    fn write_update(
        &mut self,
        id: EventHash,
        was: Seq,
        shown: (i64, EventSize),
        difference: EventDifference,
    ) -> Result<Seq, TreeError> {
        let (essential, changed) = match difference {
            EventDifference::Members(changed) => (self.seq + 1, changed),
            EventDifference::Version | EventDifference::None => {
                (self.tree.entry(was)?.map_or(was, |entry| entry.essential(was)), Vec::new())
            }
        };
        self.feed.remove(was);
        self.outcome.updated += 1;
        // Without the entry before, readers are told that they missed something.
        let is_short = changed.iter().map(String::len).sum::<usize>() <= MAX_DETAIL;
        let (previous, changed) = if is_short { (Some(was), changed) } else { (None, Vec::new()) };
        let update = UpdateEntry { essential, previous, changed };
        Ok(self.put_entry(id, ChangeKind::Updated, Some(shown), Some(update), None))
    }

    /// Assigns the next seq to a feed entry. `shown` is the start and the size of its event.
    fn put_entry(
        &mut self,
        id: EventHash,
        kind: ChangeKind,
        shown: Option<(i64, EventSize)>,
        update: Option<UpdateEntry>,
        gone: Option<TombstoneEntry>,
    ) -> Seq {
        self.seq += 1;
        let ((start, size), window, at) = (shown.unzip(), self.window, self.at);
        let entry = FeedEntry { window, id, kind, at, start, size, update, gone };
        self.feed.add(self.seq, entry);
        self.seq
    }

    /// Replaces a row's feed entry by a tombstone; `shown` is the event as readers saw it.
    pub(super) fn write_tombstone(
        &mut self,
        id: EventHash,
        row: &EventRow,
        reason: RemovalReason,
        shown: &[u8],
    ) {
        self.feed.remove(row.seq);
        self.outcome.removed += 1;
        // What was taken out of valid JSON is valid UTF-8.
        let summary = String::from_utf8(event::summary(shown)).ok();
        let summary = summary.filter(|summary| summary.len() <= MAX_DETAIL);
        let (id_text, window) = (row.id.clone(), self.name.clone());
        let gone = TombstoneEntry { reason, id: id_text, window, summary };
        let seq = self.put_entry(id, ChangeKind::Removed, None, None, Some(gone));
        self.batch.put(keys::tombstone(self.window, id), record::number(seq));
        self.batch.put(keys::age(seq), self.at.to_be_bytes().to_vec());
    }

    /// Replaces a row and its index entries, unless it would be stored alike.
    pub(super) fn write(&mut self, id: EventHash, old: Option<&StoredRow>, new: Option<&EventRow>) {
        let alike = match (old, new) {
            (Some(old), Some(new)) => old.row.is_stored_alike(new),
            (None, None) => true,
            _ => false,
        };
        if alike {
            return;
        }
        replace_row(self.batch, self.window, id, old, new);
    }
}
