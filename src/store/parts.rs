//! Splits a commit that is too large for one batch.
//!
//! The parts are written one after the other, each in its own batch, and are synced and
//! acknowledged together; a crash may keep only the first ones. Everything that marks the page as
//! processed (the position, finished pending entries, the seen list) goes with the last part: after
//! a crash in between, the page is requested again and its events are found unchanged. What a commit
//! writes and removes of one series is never split, so that no reader sees half of it. Series of
//! which it only removes something come after all events, so that an existing event is never absent.

use std::collections::{BTreeMap, BTreeSet};

use super::error::TreeError;
use super::row_commit::{NewRow, RowCommit};
use super::tree::Tree;
use crate::mirror::commit::{Commit, Removal};
use crate::mirror::page::{EventHash, EventId};
use crate::mirror::position::{PendingEntry, PendingKey};

/// Most bytes, roughly, in one part. A series is one part however large it is: a few thousand
/// instances at most.
const PART: usize = 4 << 20;
/// Bytes an item takes beside its content: keys, feed entry, index.
const BESIDE: usize = 300;
/// Rough bytes a removal loads and writes: the row is not known yet, and the pack of its entry in
/// the feed is written again.
const REMOVAL: usize = 2000;

/// Roughly how many bytes a commit loads and writes.
pub(super) fn weight(rows: &RowCommit) -> usize {
    let RowCommit { commit, rows } = rows;
    let upserts: usize = rows.iter().map(of_row).sum();
    let pending: usize = commit.pending.iter().map(of_pending).sum();
    upserts + pending + commit.removals.len() * REMOVAL + REMOVAL
}

fn of_row(new: &NewRow) -> usize {
    new.row.content().len() + BESIDE
}

fn of_pending(entry: &PendingEntry) -> usize {
    match entry {
        PendingEntry::Waiting { item, .. } => item.content.len() + BESIDE,
        _ => BESIDE,
    }
}

/// A unit that is never split: a series or a single event, and the removals that belong to it.
#[derive(Default)]
struct CommitUnit {
    rows: Vec<NewRow>,
    removals: Vec<Removal>,
}

/// Splits a commit into parts that must be written in this order; nearly always there is only one.
pub(super) fn cut(tree: &Tree, commit: RowCommit) -> Result<Vec<RowCommit>, TreeError> {
    cut_at(tree, commit, PART)
}

fn cut_at(tree: &Tree, whole: RowCommit, most: usize) -> Result<Vec<RowCommit>, TreeError> {
    if weight(&whole) <= most {
        return Ok(vec![whole]);
    }
    let RowCommit { mut commit, rows } = whole;
    let mut units = BTreeMap::<EventHash, CommitUnit>::new();
    for new in rows {
        let series = new.row.master.as_ref().map_or(new.hash, EventId::hash);
        units.entry(series).or_default().rows.push(new);
    }
    // Removals of series of which the commit has no event, by series.
    let mut removals = BTreeMap::<EventHash, Vec<Removal>>::new();
    for removal in std::mem::take(&mut commit.removals) {
        let row = tree.row(commit.window, removal.id)?.map(|stored| stored.row);
        let series = row.and_then(|row| row.master).as_ref().map(EventId::hash);
        match series.and_then(|series| units.get_mut(&series)) {
            Some(unit) => unit.removals.push(removal),
            None => removals.entry(series.unwrap_or(removal.id)).or_default().push(removal),
        }
    }
    let empty = Commit::new(commit.window, commit.segment, commit.at);
    let mut parts = Parts { empty, most, done: Vec::new(), size: 0 };
    for unit in units.into_values() {
        let size: usize = unit.rows.iter().map(of_row).sum();
        let part = parts.with_room_for(size + unit.removals.len() * REMOVAL);
        part.rows.extend(unit.rows);
        part.commit.removals.extend(unit.removals);
    }
    for removals in removals.into_values() {
        parts.with_room_for(removals.len() * REMOVAL).commit.removals.extend(removals);
    }
    // Adding wins over deleting only within one commit, so entries that the last part deletes are
    // also added there.
    if !commit.clear_pending {
        let deleted: BTreeSet<PendingKey> = commit.finished_pending.iter().copied().collect();
        let deleted = |entry: &mut PendingEntry| deleted.contains(&entry.key());
        let last = commit.pending.extract_if(.., deleted).collect();
        let early = std::mem::replace(&mut commit.pending, last);
        for entry in early {
            parts.with_room_for(of_pending(&entry)).commit.pending.push(entry);
        }
    }
    parts.done.push(RowCommit { commit, rows: Vec::new() });
    Ok(parts.done)
}

struct Parts {
    /// A commit of the same segment that changes nothing.
    empty: Commit,
    most: usize,
    done: Vec<RowCommit>,
    /// Bytes of the part that is being filled.
    size: usize,
}

impl Parts {
    /// The part with room for `size` more bytes.
    fn with_room_for(&mut self, size: usize) -> &mut RowCommit {
        if self.done.is_empty() || self.size + size > self.most {
            self.done.push(RowCommit { commit: self.empty.clone(), rows: Vec::new() });
            self.size = 0;
        }
        self.size += size;
        let last = self.done.len() - 1;
        &mut self.done[last]
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::batch::WriteBatch;
    use super::super::dictionary::Dictionaries;
    use super::super::engine::memory::MemoryDisk;
    use super::super::keys;
    use super::super::row::EventRow;
    use super::*;
    use crate::mirror::change::RemovalReason;
    use crate::mirror::commit::SeenPage;
    use crate::mirror::page::{EventKind, Item, Link, Span};
    use crate::mirror::position::{Phase, Position, WindowId};
    use crate::mirror::segment_set::SegmentSet;

    fn tree(dir: &tempfile::TempDir) -> Tree {
        Tree::open(&*MemoryDisk::default().opener(), dir.path(), 0).unwrap()
    }

    fn item(id: &str, master: Option<&str>) -> Item {
        let span = Span { start: Timestamp::UNIX_EPOCH, end: Timestamp::UNIX_EPOCH };
        Item {
            kind: if master.is_some() { EventKind::Occurrence } else { EventKind::Single },
            master: master.map(EventId::new),
            ..crate::tests::single(id, span, vec![b'x'; 700])
        }
    }

    fn rows(commit: Commit) -> RowCommit {
        RowCommit::of(commit, &Dictionaries::shipped().unwrap().newest())
    }

    fn large() -> Commit {
        let mut commit = Commit::new(WindowId(1), 0, Timestamp::UNIX_EPOCH);
        commit.upserts = (0..40).map(|n| item(&format!("e{n}"), None)).collect();
        commit.upserts.extend((0..8).map(|n| item(&format!("o{n}"), Some("m"))));
        commit.removals = (0..20)
            .map(|n| Removal {
                id: EventId::new(format!("r{n}")).hash(),
                reason: RemovalReason::Deleted,
            })
            .collect();
        commit.finished_pending = vec![PendingKey::Removal(EventId::new("r1").hash())];
        commit.pending = (0..20)
            .map(|n| PendingEntry::Removal { id: EventId::new(format!("r{n}")).hash() })
            .collect();
        commit.position =
            Some(Position::new(Phase::Settled { delta: Some(Link::new("next")) }, false));
        commit.counters.round = Some(7);
        commit.seen = Some(SeenPage { page: 0, ids: vec![EventId::new("e1").hash()] });
        commit
    }

    #[test]
    fn the_position_is_written_with_the_last_part() {
        let dir = tempfile::tempdir().unwrap();
        let parts = cut_at(&tree(&dir), rows(large()), 5000).unwrap();
        let (last, earlier) = parts.split_last().unwrap();
        assert!(earlier.len() > 8, "{}", earlier.len());
        for part in earlier {
            assert!(
                part.commit.position.is_none()
                    && part.commit.seen.is_none()
                    && part.commit.finished_pending.is_empty()
            );
            assert_eq!(part.commit.counters, crate::mirror::commit::CounterUpdates::default());
            assert!(
                weight(part) <= 5000 + REMOVAL
                    || part.rows.iter().all(|new| new.row.master.is_some())
            );
        }
        assert!(
            last.commit.position.is_some()
                && last.commit.seen.is_some()
                && last.commit.counters.round == Some(7)
        );
        assert_eq!(last.commit.finished_pending.len(), 1);
        assert_eq!(last.commit.pending.len(), 1, "added where it is deleted");
        assert!(last.rows.is_empty() && last.commit.removals.is_empty());
    }

    #[test]
    fn parts_lose_nothing_keep_series_together_and_order_removals_last() {
        let dir = tempfile::tempdir().unwrap();
        let parts = cut_at(&tree(&dir), rows(large()), 5000).unwrap();
        let count = |of: fn(&RowCommit) -> usize| parts.iter().map(of).sum::<usize>();
        assert_eq!(count(|part| part.rows.len()), 48);
        assert_eq!(count(|part| part.commit.removals.len()), 20);
        assert_eq!(count(|part| part.commit.pending.len()), 20);
        let of_series =
            parts.iter().filter(|part| part.rows.iter().any(|new| new.row.master.is_some()));
        assert_eq!(of_series.count(), 1);
        let last_event = parts.iter().rposition(|part| !part.rows.is_empty()).unwrap();
        let first_removal = parts.iter().position(|part| !part.commit.removals.is_empty()).unwrap();
        assert!(first_removal >= last_event);
    }

    #[test]
    fn a_series_is_removed_in_one_part() {
        let dir = tempfile::tempdir().unwrap();
        let tree = tree(&dir);
        let mut batch = WriteBatch::default();
        let series: Vec<Item> = (0..20).map(|n| item(&format!("r{n}"), Some("m"))).collect();
        for item in &series {
            let row = EventRow::of(item, SegmentSet::EMPTY).encode();
            batch.put_large(keys::event(WindowId(1), item.id.hash()), &row, 0);
        }
        tree.apply(batch).unwrap();
        let mut commit = large();
        commit.upserts.retain(|item| item.master.is_none());
        let parts = cut_at(&tree, rows(commit), 5000).unwrap();
        let removing: Vec<usize> =
            parts.iter().map(|part| part.commit.removals.len()).filter(|n| *n > 0).collect();
        assert_eq!(removing, [20], "readers see half of a series");
    }

    #[test]
    fn small_commits_and_cleared_pending_entries_are_not_split() {
        let dir = tempfile::tempdir().unwrap();
        let tree = tree(&dir);
        assert_eq!(cut(&tree, rows(large())).unwrap().len(), 1);
        let cleared = Commit { clear_pending: true, ..large() };
        let parts = cut_at(&tree, rows(cleared), 5000).unwrap();
        assert_eq!(parts.last().unwrap().commit.pending.len(), 20);
    }
}
