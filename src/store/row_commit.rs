//! A commit as the writer gets it: its items are rows, which the caller has hashed and compressed.

use std::sync::Arc;

use super::dictionary::Dictionary;
use super::row::EventRow;
use crate::mirror::commit::Commit;
use crate::mirror::page::EventHash;
use crate::mirror::segment_set::SegmentSet;

/// A commit and its rows.
pub(super) struct RowCommit {
    /// Everything but the upserts, which are empty here.
    pub(super) commit: Commit,
    /// The upserts.
    pub(super) rows: Vec<NewRow>,
}

/// The row of an upserted item, held by the segment of the commit.
pub(super) struct NewRow {
    pub(super) hash: EventHash,
    pub(super) row: EventRow,
}

impl RowCommit {
    /// The rows of a commit, compressed.
    pub(super) fn of(mut commit: Commit, dictionary: &Arc<Dictionary>) -> Self {
        let own = SegmentSet::of(commit.segment);
        let items = std::mem::take(&mut commit.upserts);
        let row = |item| EventRow::of(item, own).compressed(dictionary);
        let rows = items.iter().map(|item| NewRow { hash: item.id.hash(), row: row(item) });
        Self { rows: rows.collect(), commit }
    }
}
