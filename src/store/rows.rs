//! The rows of events: where each lies, and the keys that lead to it. No other file knows both
//! places.
//!
//! A row that readers see lies in the index by start, so that a period is one scan in the order of
//! the keys. A master has no time, and a row that is too large for one key must not slow the scan:
//! both lie under the event's own key. 0.1 kept all rows there. Such rows stay readable, and move
//! when they are written.
//!
//! | the row lies | value under the event's key | value in the index by start |
//! |---|---|---|
//! | in the index | [`MOVED`], the start | the row |
//! | under the event's key | the row, perhaps in chunks | the end, if readers see the row |
//!
//! An end has 8 bytes, and a row more.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::batch::{CHUNK, WriteBatch};
use super::engine::EngineBytes;
use super::error::TreeError;
use super::keys;
use super::row::EventRow;
use super::row_header::RowHeader;
use super::tree::Tree;
use crate::mirror::availability::Availability;
use crate::mirror::commit::StoredKind;
use crate::mirror::page::{EventHash, EventKind};
use crate::mirror::position::{SegmentIndex, WindowId};
use crate::mirror::series::SeriesMember;

/// Events longer than this are also in an index of their own, so that a search for events that
/// overlap an instant looks back only this far. Microseconds; a day of 25 hours still fits.
pub(super) const LONG_EVENT: i64 = 26 * 3600 * 1_000_000;

/// Begins the value under an event's key if the row lies in the index; a row begins with another
/// byte (`batch::head`).
const MOVED: u8 = 2;

/// Where a row lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowPlace {
    /// In the index by start.
    Index,
    /// Under the event's key, with so many further chunks.
    Event(u16),
}

/// A row and its place.
pub(super) struct StoredRow {
    pub(super) row: EventRow,
    pub(super) place: RowPlace,
}

/// The stored bytes of a row and its place.
pub(super) struct StoredBytes {
    pub(super) value: Bytes,
    pub(super) place: RowPlace,
}

/// The value of an entry of the index by start.
pub(super) enum IndexValue {
    /// The end of an event whose row lies under the event's key. Microseconds.
    End(i64),
    /// A row.
    Row(EngineBytes),
}

impl IndexValue {
    /// Reads an entry's value.
    pub(super) fn of(value: EngineBytes) -> Self {
        match <[u8; 8]>::try_from(&*value) {
            Ok(end) => Self::End(i64::from_be_bytes(end)),
            Err(_) => Self::Row(value),
        }
    }

    /// The event's end in microseconds. The checksum of a row is not checked.
    pub(super) fn end(&self) -> Result<i64, TreeError> {
        match self {
            Self::End(end) => Ok(*end),
            Self::Row(value) => RowHeader::end_of(value).ok_or(TreeError::Damaged("index")),
        }
    }
}

impl StoredRow {
    /// Whether the row lies where 0.1 wrote it, and would be written to the index today.
    pub(super) fn is_misplaced(&self) -> bool {
        self.place == RowPlace::Event(0) && self.row.is_shown()
    }
}

impl Tree {
    /// An event's row.
    pub(super) fn row(
        &self,
        window: WindowId,
        id: EventHash,
    ) -> Result<Option<StoredRow>, TreeError> {
        self.row_like(window, id, None)
    }

    /// The same; texts that `like` has are not decompressed.
    pub(super) fn row_like(
        &self,
        window: WindowId,
        id: EventHash,
        like: Option<&EventRow>,
    ) -> Result<Option<StoredRow>, TreeError> {
        let stored = self.row_bytes(window, id)?;
        stored.map(|stored| self.decoded(stored, like)).transpose()
    }

    /// The stored bytes of an event's row.
    pub(super) fn row_bytes(
        &self,
        window: WindowId,
        id: EventHash,
    ) -> Result<Option<StoredBytes>, TreeError> {
        let value = self.get(&keys::event(window, id))?;
        value.map(|value| self.behind(window, id, value)).transpose()
    }

    /// The row of an event that probably starts at `start`, to show it.
    pub(super) fn shown_row_at(
        &self,
        window: WindowId,
        id: EventHash,
        start: Option<i64>,
    ) -> Result<Option<EventRow>, TreeError> {
        let value = start.map(|start| self.get(&keys::time(window, start, id))).transpose()?;
        match value.flatten().map(IndexValue::of) {
            Some(IndexValue::Row(row)) => EventRow::read(row, &self.dictionaries).map(Some),
            _ => Ok(self.row(window, id)?.map(|stored| stored.row)),
        }
    }

    /// The row that the value under an event's key is or leads to.
    fn behind(
        &self,
        window: WindowId,
        id: EventHash,
        value: EngineBytes,
    ) -> Result<StoredBytes, TreeError> {
        let Some(start) = start_in(&value) else {
            let large = self.joined(&keys::event(window, id), value)?;
            return Ok(StoredBytes { value: large.value, place: RowPlace::Event(large.chunks) });
        };
        match self.get(&keys::time(window, start, id))?.map(IndexValue::of) {
            Some(IndexValue::Row(row)) => {
                Ok(StoredBytes { value: Bytes::from_owner(row), place: RowPlace::Index })
            }
            _ => Err(TreeError::Damaged("event (not in the index)")),
        }
    }

    /// Decodes a row.
    pub(super) fn decoded(
        &self,
        stored: StoredBytes,
        like: Option<&EventRow>,
    ) -> Result<StoredRow, TreeError> {
        let StoredBytes { value, place } = stored;
        Ok(StoredRow { row: EventRow::decode(&value, &self.dictionaries, like)?, place })
    }

    /// The availability of a master, which its bare occurrences have; `None` if the store has none of
    /// that id.
    pub(super) fn master_availability(
        &self,
        window: WindowId,
        id: EventHash,
    ) -> Result<Option<Availability>, TreeError> {
        let stored = self.row(window, id)?.map(|stored| stored.row);
        let master = stored.filter(|row| row.kind == EventKind::Master);
        Ok(master.map(|master| master.own_availability()))
    }

    /// The row that an entry of the index by start is or leads to, to show it.
    pub(super) fn indexed_row(
        &self,
        window: WindowId,
        id: EventHash,
        value: IndexValue,
    ) -> Result<EventRow, TreeError> {
        match value {
            IndexValue::Row(row) => EventRow::read(row, &self.dictionaries),
            IndexValue::End(_) => {
                let stored = self.row(window, id)?;
                Ok(stored.ok_or(TreeError::Damaged("index (event missing)"))?.row)
            }
        }
    }

    /// Whether the entry of an event in the index by start has this start, and it and the value
    /// under the event's key agree about the place of the row.
    pub(super) fn is_index_of(
        &self,
        window: WindowId,
        id: EventHash,
        start: i64,
    ) -> Result<bool, TreeError> {
        let entry = self.get(&keys::time(window, start, id))?.map(IndexValue::of);
        let value = self.get(&keys::event(window, id))?;
        Ok(match (entry, value) {
            (Some(IndexValue::Row(_)), Some(value)) => start_in(&value) == Some(start),
            (Some(IndexValue::End(_)), Some(value)) => start_in(&value).is_none(),
            _ => false,
        })
    }

    /// At most `limit` rows of a window in hash order, after a given hash.
    pub(super) fn rows(
        &self,
        window: WindowId,
        after: Option<EventHash>,
        limit: usize,
    ) -> Result<Vec<(EventHash, StoredRow)>, TreeError> {
        let prefix = keys::events(window);
        let from = after.map_or_else(|| prefix.clone(), |id| keys::event(window, id));
        let mut rows = Vec::new();
        for entry in self.range(from..) {
            let (key, value) = entry?;
            if !key.starts_with(&prefix) || rows.len() == limit {
                break;
            }
            match keys::event_of(&key) {
                Some(id) if Some(id) != after => {
                    rows.push((id, self.decoded(self.behind(window, id, value)?, None)?));
                }
                _ => {}
            }
        }
        Ok(rows)
    }

    /// What the store knows of an id.
    pub(super) fn known(&self, window: WindowId, id: EventHash) -> Result<StoredKind, TreeError> {
        let Some(StoredRow { row, .. }) = self.row(window, id)? else {
            // Full occurrences need no master, so the master may never have been stored.
            let named = !self.instances(window, id)?.is_empty();
            return Ok(if named { StoredKind::Master { etag: None } } else { StoredKind::Unknown });
        };
        Ok(match (row.kind, row.master) {
            (EventKind::Master, _) => StoredKind::Master { etag: row.etag },
            (EventKind::Occurrence | EventKind::Exception, Some(master)) => {
                StoredKind::Instance { master }
            }
            _ => StoredKind::Single,
        })
    }

    /// The instances of a series, in hash order.
    pub(super) fn instances(
        &self,
        window: WindowId,
        master: EventHash,
    ) -> Result<Vec<EventHash>, TreeError> {
        self.keys(&keys::instances(window, master))
            .map(|key| keys::instance_of(&key?).ok_or(TreeError::Damaged("series")))
            .collect()
    }

    /// The rows of a series that a segment holds.
    pub(super) fn series(
        &self,
        window: WindowId,
        segment: SegmentIndex,
        master: EventHash,
    ) -> Result<Vec<SeriesMember>, TreeError> {
        let mut series = Vec::new();
        for id in self.instances(window, master)? {
            let StoredRow { row, .. } =
                self.row(window, id)?.ok_or(TreeError::Damaged("series"))?;
            if row.segments.contains(segment) {
                series.push(SeriesMember { id, kind: row.kind, span: row.span() });
            }
        }
        Ok(series)
    }
}

/// Replaces a row and the entries that lead to it. Does not compare the rows.
pub(super) fn replace_row(
    batch: &mut WriteBatch,
    window: WindowId,
    id: EventHash,
    old: Option<&StoredRow>,
    new: Option<&EventRow>,
) {
    batch.count_row();
    let value = new.map(EventRow::encode).unwrap_or_default();
    let new = new.map(|row| (row, place_of(row, value.len())));
    let entries = |(row, place)| entries(window, id, row, place);
    let before = old.map(|old| entries((&old.row, old.place))).unwrap_or_default();
    let after = new.map(entries).unwrap_or_default();
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        batch.delete(key.clone());
    }
    match old.map(|old| (&old.row, old.place)) {
        Some((row, RowPlace::Index)) => batch.delete(keys::time(window, row.start, id)),
        Some((_, RowPlace::Event(chunks))) => {
            batch.delete_large(keys::event(window, id), chunks);
        }
        None => {}
    }
    for (key, value) in after {
        if before.get(&key) != Some(&value) {
            batch.put(key, value);
        }
    }
    match new {
        Some((row, RowPlace::Index)) => batch.put(keys::time(window, row.start, id), value),
        Some((_, RowPlace::Event(_))) => batch.put_large(keys::event(window, id), &value, 0),
        None => {}
    }
}

/// The key of the first bytes of the row that the value under an event's key is or leads to.
pub(super) fn row_key(window: WindowId, id: EventHash, value: &[u8]) -> Vec<u8> {
    match start_in(value) {
        Some(start) => keys::time(window, start, id),
        None => keys::event(window, id),
    }
}

/// Where a row of so many bytes is written.
fn place_of(row: &EventRow, bytes: usize) -> RowPlace {
    if row.is_shown() && bytes <= CHUNK { RowPlace::Index } else { RowPlace::Event(0) }
}

/// The entries that lead to a row.
fn entries(
    window: WindowId,
    id: EventHash,
    row: &EventRow,
    place: RowPlace,
) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut entries = BTreeMap::new();
    if row.is_shown() {
        let end = row.end.to_be_bytes().to_vec();
        if row.end.saturating_sub(row.start) > LONG_EVENT {
            entries.insert(keys::long(window, row.start, id), end.clone());
        }
        match place {
            RowPlace::Index => {
                let moved = [&[MOVED][..], &row.start.to_be_bytes()].concat();
                entries.insert(keys::event(window, id), moved);
            }
            RowPlace::Event(_) => drop(entries.insert(keys::time(window, row.start, id), end)),
        }
        if let Some(master) = &row.master {
            entries.insert(keys::instance(window, master.hash(), id), Vec::new());
        }
    }
    entries
}

/// The start in the value under an event's key, if the row lies in the index.
fn start_in(value: &[u8]) -> Option<i64> {
    let start = value.strip_prefix(&[MOVED])?;
    start.try_into().ok().map(i64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::mirror::page::{EventId, Item, Span};
    use crate::mirror::segment_set::SegmentSet;
    use crate::store::MemoryDisk;

    const WINDOW: WindowId = WindowId(3);

    fn tree(dir: &tempfile::TempDir) -> Tree {
        Tree::open(&*MemoryDisk::default().opener(), dir.path(), 0).unwrap()
    }

    /// A row of an event `minutes` long: of noise, so that it stays as large as it is.
    fn row(kind: EventKind, start: i64, minutes: i64, bytes: usize) -> EventRow {
        let at = |minutes| Timestamp::from_second(60 * minutes).unwrap();
        let span = Span { start: at(start), end: at(start + minutes) };
        let mut random = fastrand::Rng::with_seed(bytes as u64);
        let content: Vec<u8> = (0..bytes).map(|_| random.u8(..)).collect();
        let series = matches!(kind, EventKind::Occurrence | EventKind::Exception);
        let item = Item {
            kind,
            master: series.then(|| EventId::new("m")),
            ..crate::tests::single("e", span, content)
        };
        EventRow::of(&item, SegmentSet::EMPTY)
    }

    /// The kinds of keys of a row, and the lengths of the values that are not the row's.
    fn shape(tree: &Tree) -> Vec<(char, Option<usize>)> {
        let entries = tree.range::<&[u8]>(..).map(|entry| entry.unwrap());
        let shape = entries.map(|(key, value)| {
            let small = Some(value.len()).filter(|length| *length < 10);
            (char::from(key[0]), small)
        });
        shape.collect()
    }

    /// Moves the row to where 0.1 wrote it.
    fn move_back(tree: &Tree, id: EventHash, stored: &StoredRow) {
        let mut batch = WriteBatch::default();
        let row = &stored.row;
        batch.put_large(keys::event(WINDOW, id), &row.encode(), 0);
        batch.put(keys::time(WINDOW, row.start, id), row.end.to_be_bytes().to_vec());
        tree.apply(batch).unwrap();
    }

    #[test]
    fn shown_rows_lie_in_the_index_and_others_under_their_keys() {
        let id = EventId::new("e").hash();
        let (pointer, end) = (Some(9), Some(8));
        for (new, expected) in [
            (row(EventKind::Single, 5, 30, 100), vec![('e', pointer), ('t', None)]),
            (row(EventKind::Single, 5, 9000, 100), vec![('e', pointer), ('t', None), ('u', end)]),
            (
                row(EventKind::Exception, 5, 30, 9),
                vec![('e', pointer), ('r', Some(0)), ('t', None)],
            ),
            (row(EventKind::Single, 5, 30, 70_000), vec![('e', None), ('e', None), ('t', end)]),
            (row(EventKind::Master, 5, 30, 100), vec![('e', None)]),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let tree = tree(&dir);
            let mut batch = WriteBatch::default();
            replace_row(&mut batch, WINDOW, id, None, Some(&new));
            tree.apply(batch).unwrap();
            assert_eq!(shape(&tree), expected);
        }
    }

    fn any_row() -> impl Strategy<Value = Option<EventRow>> {
        let kinds = [EventKind::Single, EventKind::Exception, EventKind::Master];
        let bytes = prop::sample::select(vec![10, 500, 70_000, 140_000]);
        let row = (prop::sample::select(kinds.to_vec()), 0..3i64, 0..2i64, bytes)
            .prop_map(|(kind, start, long, bytes)| row(kind, start, 30 + 2000 * long, bytes));
        prop::option::weighted(0.9, row)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
        #[test]
        fn a_row_and_its_entries_are_replaced_wherever_they_were(
            steps in prop::collection::vec((any_row(), any::<bool>()), 1..12),
        ) {
            let id = EventId::new("e").hash();
            let (dir, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let (tree, fresh) = (tree(&dir), tree(&fresh));
            for (new, back) in steps {
                let old = tree.row(WINDOW, id).unwrap();
                for (tree, old) in [(&tree, old.as_ref()), (&fresh, None)] {
                    let mut batch = WriteBatch::default();
                    replace_row(&mut batch, WINDOW, id, old, new.as_ref());
                    tree.apply(batch).unwrap();
                }
                // The same as if the row had been written to an empty tree.
                let entries = |tree: &Tree| tree.range::<&[u8]>(..).map(|e| e.unwrap());
                let all = |tree: &Tree| entries(tree).collect::<Vec<_>>();
                prop_assert_eq!(all(&tree), all(&fresh));
                let stored = tree.row(WINDOW, id).unwrap();
                // Found by any start, because an entry of the feed may have an earlier one.
                for start in 0..3 {
                    let near = tree.shown_row_at(WINDOW, id, Some(start)).unwrap();
                    let same = match (&near, &stored) {
                        (Some(near), Some(stored)) => near.item() == stored.row.item(),
                        (near, stored) => near.is_none() && stored.is_none(),
                    };
                    prop_assert!(same);
                }
                let same = match (&stored, &new) {
                    (Some(stored), Some(new)) => stored.row.is_stored_alike(new),
                    (stored, new) => stored.is_none() && new.is_none(),
                };
                prop_assert!(same);
                if let Some(stored) = stored.filter(|stored| back && stored.place == RowPlace::Index) {
                    prop_assert!(tree.is_index_of(WINDOW, id, stored.row.start).unwrap());
                    move_back(&tree, id, &stored);
                    prop_assert!(tree.row(WINDOW, id).unwrap().unwrap().is_misplaced());
                    prop_assert!(tree.is_index_of(WINDOW, id, stored.row.start).unwrap());
                }
                let mut batch = WriteBatch::default();
                fresh.delete_all(&[], &mut batch).unwrap();
                fresh.apply(batch).unwrap();
            }
        }
    }
}
