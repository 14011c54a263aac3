//! Deletes in slices: dropped windows and old tombstones.
//!
//! Each slice is one small batch that leaves the store consistent, so both can be interrupted at
//! any time and started again.

use std::sync::Arc;

use super::batch::WriteBatch;
use super::change_writer::ChangeWriter;
use super::error::TreeError;
use super::feed_edit::FeedEdit;
use super::keys;
use super::record::{self, FeedEntry, FeedPack};
use super::register;
use super::result_page::ResultPage;
use super::tree::Tree;
use crate::mirror::change::{RemovalReason, Seq};
use crate::mirror::page::EventHash;
use crate::mirror::position::WindowId;

/// Rows or tombstones per slice.
const SLICE: usize = 256;

/// The next step of dropping a window.
#[derive(Clone, Copy, Debug)]
pub(super) enum PurgeProgress {
    /// Free the name.
    Mark,
    /// Write tombstones for the events after this one and delete their rows. Masters stay: events
    /// that are still shown need them.
    WriteTombstones(Option<EventHash>),
    /// Delete what is left, one kind of key at a time.
    DeleteLeftovers(usize),
}

/// Plans one slice; returns the last assigned seq and the next step.
pub(super) fn drop_slice(
    tree: &Tree,
    window: WindowId,
    at: i64,
    step: PurgeProgress,
    last_seq: Seq,
    batch: &mut WriteBatch,
) -> Result<(Seq, Option<PurgeProgress>), TreeError> {
    match step {
        PurgeProgress::Mark => {
            if let Some(record) = tree.window(window)? {
                register::mark_dropping(window, &record, batch);
                return Ok((last_seq, Some(PurgeProgress::WriteTombstones(None))));
            }
            Ok((last_seq, tree.dropping(window)?.map(|_| PurgeProgress::WriteTombstones(None))))
        }
        PurgeProgress::WriteTombstones(after) => {
            let name = tree.dropping(window)?.map_or_else(|| Arc::from(""), |r| r.name);
            let mut changes = ChangeWriter::new(tree, batch, (window, name), at, last_seq);
            let rows = tree.rows(window, after, SLICE)?;
            let last = rows.last().map(|(id, _)| *id).filter(|_| rows.len() == SLICE);
            for (id, stored) in rows.iter().filter(|(_, s)| s.row.is_shown()) {
                let mut shown = ResultPage::default();
                shown.add(tree, window, stored.row.clone())?;
                let event = shown.show().pop().unwrap_or_default();
                let reason = RemovalReason::WindowDropped;
                changes.write_tombstone(*id, &stored.row, reason, &event);
                changes.write(*id, Some(stored), None);
            }
            let (_, seq) = changes.finish()?;
            if seq != last_seq {
                batch.put(keys::LAST_SEQ.to_vec(), record::number(seq));
            }
            let next = match last {
                Some(id) => PurgeProgress::WriteTombstones(Some(id)),
                None => PurgeProgress::DeleteLeftovers(0),
            };
            Ok((seq, Some(next)))
        }
        PurgeProgress::DeleteLeftovers(kind) => {
            let Some(prefix) = keys::leftovers(window).into_iter().nth(kind) else {
                batch.delete(keys::counters(window));
                batch.delete(keys::dropping(window));
                return Ok((last_seq, None));
            };
            let mut taken = 0;
            for key in tree.keys(&prefix).take(SLICE) {
                batch.delete(key?.to_vec());
                taken += 1;
            }
            let next = if taken == SLICE { kind } else { kind + 1 };
            Ok((last_seq, Some(PurgeProgress::DeleteLeftovers(next))))
        }
    }
}

/// A slice of trimming.
pub(super) struct Trimmed {
    /// Tombstones that leave.
    pub(super) count: u64,
    /// The new lowest valid seq, if any leave.
    pub(super) min_seq: Option<Seq>,
    /// Whether there may be more.
    pub(super) more: bool,
}

/// Plans the trimming of the oldest tombstones written before `before`, as seen at `now` (both
/// microseconds).
///
/// Tombstones leave in seq order: one behind a younger one waits for it. A time ahead of `now` came
/// from a wrong clock and is ignored: such a tombstone leaves with the next one behind it that is
/// old enough, since it was written earlier.
pub(super) fn trim_slice(
    tree: &Tree,
    before: i64,
    now: i64,
    batch: &mut WriteBatch,
) -> Result<Trimmed, TreeError> {
    let mut oldest = Vec::new();
    let mut due = 0;
    for entry in tree.scan_prefix([keys::AGE]) {
        let (key, value) = entry?;
        let at = <[u8; 8]>::try_from(&*value).map_err(|_| TreeError::Damaged("age"))?;
        let at = i64::from_be_bytes(at);
        if at <= now && at >= before {
            break;
        }
        if oldest.len() < SLICE {
            oldest.push(key);
        }
        if at < before {
            due = oldest.len();
            if due == SLICE {
                break;
            }
        }
    }
    let mut min_seq = None;
    let mut feed = FeedEdit::default();
    let mut pack = None::<FeedPack>;
    for key in &oldest[..due] {
        let seq = keys::seq_of(key).ok_or(TreeError::Damaged("age"))?;
        if pack.as_ref().is_none_or(|pack| pack.entry(seq).is_none()) {
            pack = tree.feed_pack(seq)?;
        }
        if let Some(FeedEntry { window, id, .. }) = pack.as_ref().and_then(|pack| pack.entry(seq)) {
            batch.delete(keys::tombstone(*window, *id));
        }
        feed.remove(seq);
        batch.delete(key.to_vec());
        min_seq = Some(seq);
    }
    feed.write(tree, batch)?;
    if let Some(min_seq) = min_seq {
        batch.put(keys::MIN_SEQ.to_vec(), record::number(min_seq));
    }
    Ok(Trimmed { count: due as u64, min_seq, more: due == SLICE })
}
