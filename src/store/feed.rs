//! Reads the feed: entries in seq order, joined with the current content of their events.
//!
//! The entry of an existing event is its latest change, so the current row is the result of that
//! change. The feed is read in slices. An entry that moves to a later seq between two slices is
//! beyond the end that was fixed at the start, and is delivered by a later read. [`reach`] finds
//! how far a response of a given size goes without building it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as At;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::cursor::ReadPosition;
use super::error::{StoreError, TreeError};
use super::keys;
use super::record::{FeedEntry, UpdateEntry, instant};
use super::result_page::ResultPage;
use super::shared::StoreShared;
use super::tree::Tree;
use super::{Change, Changes};
use crate::mirror::change::Seq;
use crate::mirror::page::EventHash;
use crate::mirror::position::WindowId;

/// Entries read under one lock.
const SLICE: usize = 512;
/// Entries that are counted before their number is estimated.
const COUNTED: usize = 1024;
/// Entries read for one answer: with a window filter, most may belong to other windows.
const MAX_ENTRIES_SCANNED: usize = 65_536;

/// Which changes are wanted.
#[derive(Clone, Debug)]
pub enum FeedFilter {
    /// Those of all windows.
    All,
    /// Those of one window.
    Window(WindowId),
    /// Those of all windows that have or had such a name: a window that was replaced under its name
    /// leaves removals under the same name.
    Names(NameFilter),
}

/// Says for each name of a window whether its changes are wanted, or only, if the flag is set, those
/// that say that an event is gone: the window may be gone, too.
#[derive(Clone)]
pub struct NameFilter(Arc<Acceptance>);

/// Takes a name, and whether the change says that an event is gone.
type Acceptance = dyn Fn(&str, bool) -> bool + Send + Sync;

impl NameFilter {
    /// A filter that accepts the names for which `accepts` returns true.
    pub fn new(accepts: impl Fn(&str, bool) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(accepts))
    }
}

impl fmt::Debug for NameFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NameFilter(…)")
    }
}

/// The result of one slice.
#[derive(Default)]
struct FeedSlice {
    /// Seq, entry and the window's name.
    found: Vec<(Seq, FeedEntry, Arc<str>)>,
    /// The rows of the entries that are not removals, in the same order.
    living: ResultPage,
    /// Entries read.
    scanned: usize,
    /// The seq up to which everything was read.
    seq: Seq,
    /// Whether there is more below the end.
    more: bool,
    /// Whether the feed has nothing after the end: every event was seen as it is now.
    is_complete: bool,
}

/// Reads at most `limit` changes after a position and up to a seq, and stops after the change with
/// which their events reach `enough` bytes. `cursor` makes the cursor of a position. Blocking. Also
/// returns the group that must be durable first.
pub(super) fn changes(
    shared: &StoreShared,
    (after, end): (ReadPosition, Seq),
    wanted: &FeedFilter,
    limit: usize,
    enough: usize,
    cursor: impl Fn(ReadPosition) -> String,
) -> Result<(Changes, u64), StoreError> {
    let limit = limit.max(1);
    let end = shared.durable_seq().min(end);
    let ReadPosition { seq: after, caught_up } = after;
    let mut changes = Changes { value: Vec::new(), seq: after, caught_up, at_end: after >= end };
    let (mut scanned, mut group) = (0, 0);
    let (mut names, mut bytes) = (BTreeMap::new(), 0);
    // At the end, a reader that is not caught up yet may be by now.
    let mut looks = !changes.at_end || caught_up < after;
    while looks && changes.value.len() < limit && scanned < MAX_ENTRIES_SCANNED && bytes < enough {
        let left = limit - changes.value.len();
        let from = changes.seq;
        let (mut slice, applied) = shared
            .read_tree(|tree| read_slice(tree, from, end, wanted, left, enough, &mut names))?;
        group = applied;
        scanned += slice.scanned;
        bytes += slice.living.bytes;
        changes.seq = slice.seq;
        changes.at_end = !slice.more;
        looks = slice.more;
        let is_complete = slice.is_complete;
        let mut shown = slice.living.show().into_iter().zip(&slice.living.rows);
        for (seq, entry, window) in slice.found {
            let at = instant(entry.at);
            let is_new_version = entry.essential(seq) <= caught_up;
            let (reason, id, event, summary) = match entry.gone {
                Some(gone) => (Some(gone.reason), gone.id, None, gone.summary.map(Bytes::from)),
                // `read_slice` added one row for every entry that is not a removal.
                None => match shown.next() {
                    Some((event, row)) => (None, row.id.clone(), Some(event), None),
                    None => continue,
                },
            };
            let known = |update: &UpdateEntry| update.previous.is_some_and(|seq| seq <= caught_up);
            let changed = entry.update.filter(known).map(|update| update.changed);
            changes.value.push(Change {
                cursor: cursor(ReadPosition { seq, caught_up }),
                seq,
                at,
                window,
                kind: entry.kind,
                reason,
                id,
                event,
                changed,
                is_new_version,
                summary,
            });
        }
        if is_complete {
            changes.caught_up = changes.seq;
            // A reader that goes on from the last line has seen everything before it.
            if let Some(last) = changes.value.last_mut() {
                last.cursor = cursor(ReadPosition::caught_up(last.seq));
            }
        }
    }
    if changes.at_end {
        changes.seq = changes.seq.max(end);
        if changes.caught_up > caught_up {
            changes.caught_up = changes.seq;
        }
    }
    Ok((changes, group))
}

fn read_slice(
    tree: &Tree,
    after: Seq,
    end: Seq,
    wanted: &FeedFilter,
    limit: usize,
    enough: usize,
    names: &mut BTreeMap<WindowId, Arc<str>>,
) -> Result<FeedSlice, TreeError> {
    let mut slice = FeedSlice { seq: after, ..FeedSlice::default() };
    for item in entries(tree, after, end) {
        if slice.found.len() == limit || slice.scanned == SLICE || slice.living.bytes >= enough {
            slice.more = true;
            break;
        }
        let (seq, entry) = item?;
        slice.scanned += 1;
        slice.seq = seq;
        let Some(name) = wanted.name(tree, &entry, names)? else { continue };
        if entry.gone.is_none() {
            let row = tree.shown_row_at(entry.window, entry.id, entry.start)?;
            let row = row.ok_or(TreeError::Damaged("change (event missing)"))?;
            slice.living.add(tree, entry.window, row)?;
        }
        slice.found.push((seq, entry, name));
    }
    // Changes that are not durable yet may have moved events behind the end.
    slice.is_complete = !slice.more && {
        let later = tree.range(keys::feed(end.saturating_add(1))..=keys::feed(Seq::MAX)).next();
        later.transpose()?.is_none()
    };
    Ok(slice)
}

/// The seq and the time of the first entry after a seq and up to another.
pub(super) fn first_after(
    tree: &Tree,
    after: Seq,
    end: Seq,
) -> Result<Option<(Seq, i64)>, TreeError> {
    let first = entries(tree, after, end).next().transpose()?;
    Ok(first.map(|(seq, entry)| (seq, entry.at)))
}

/// The entries after a seq and up to another, in order.
fn entries(
    tree: &Tree,
    after: Seq,
    end: Seq,
) -> impl Iterator<Item = Result<(Seq, FeedEntry), TreeError>> {
    let packs = tree.feed_packs(after.saturating_add(1));
    let entries = packs.flat_map(|pack| {
        let (entries, fault) = match pack {
            Ok(pack) => (pack.entries, None),
            Err(fault) => (Vec::new(), Some(Err(fault))),
        };
        entries.into_iter().map(Ok).chain(fault)
    });
    let is_before =
        move |item: &Result<(Seq, FeedEntry), _>| item.as_ref().is_ok_and(|(seq, _)| *seq <= after);
    entries
        .skip_while(is_before)
        .take_while(move |item| item.as_ref().map_or(true, |(seq, _)| *seq <= end))
}

impl FeedFilter {
    /// The name of an entry's window if the filter accepts the entry.
    fn name(
        &self,
        tree: &Tree,
        entry: &FeedEntry,
        names: &mut BTreeMap<WindowId, Arc<str>>,
    ) -> Result<Option<Arc<str>>, TreeError> {
        if matches!(self, Self::Window(window) if *window != entry.window) {
            return Ok(None);
        }
        let name = match &entry.gone {
            Some(gone) => gone.window.clone(),
            None => name_of(tree, entry.window, names)?,
        };
        let is_gone = entry.gone.is_some();
        let other = matches!(self, Self::Names(wanted) if !(wanted.0)(&name, is_gone));
        Ok((!other).then_some(name))
    }
}

/// The seq up to which there are at most `limit` changes after a seq with about `bytes` bytes in
/// all, not counting the last one. Blocking. Also returns the group that must be durable first.
pub(super) fn reach(
    shared: &StoreShared,
    after: Seq,
    wanted: &FeedFilter,
    limit: usize,
    bytes: usize,
) -> Result<(Seq, u64), StoreError> {
    let end = shared.durable_seq();
    let (mut seq, mut lines, mut size, mut full) = (after, 0, 0, after >= end);
    let (mut names, mut masters) = (BTreeMap::new(), BTreeMap::new());
    let mut group = 0;
    while !full {
        let measure = |tree: &Tree| -> Result<(), TreeError> {
            for (scanned, item) in entries(tree, seq, end).enumerate() {
                if scanned == SLICE {
                    return Ok(());
                }
                let (at, entry) = item?;
                if wanted.name(tree, &entry, &mut names)?.is_some() {
                    if lines >= limit || size >= bytes {
                        full = true;
                        return Ok(());
                    }
                    lines += 1;
                    size += event_size(tree, &entry, &mut masters)?;
                }
                seq = at;
            }
            (seq, full) = (end, true);
            Ok(())
        };
        ((), group) = shared.read_tree(measure)?;
    }
    Ok((seq, group))
}

/// About how many entries there are after a seq, of all windows: exact if they are few, else as dense
/// as the first of them. Blocking. Also returns the group that must be durable first.
pub(super) fn pending(shared: &StoreShared, after: Seq) -> Result<(u64, u64), StoreError> {
    let end = shared.durable_seq();
    shared.read_tree(|tree| {
        let (mut found, mut seq) = (0_u64, after);
        for item in entries(tree, after, end).take(COUNTED) {
            (seq, found) = (item?.0, found + 1);
        }
        if found < COUNTED as u64 {
            return Ok(found);
        }
        let (span, left) = (seq - after, end - seq);
        Ok(found
            + u64::try_from(u128::from(left) * u128::from(found) / u128::from(span.max(1)))
                .unwrap_or(left))
    })
}

/// Rough number of bytes of an entry's event. `masters` caches the sizes of series masters.
fn event_size(
    tree: &Tree,
    entry: &FeedEntry,
    masters: &mut BTreeMap<(WindowId, EventHash), usize>,
) -> Result<usize, TreeError> {
    if entry.gone.is_some() {
        return Ok(0);
    }
    if let Some(size) = entry.size {
        return Ok(size.bytes());
    }
    // An entry of an earlier build.
    let missing = TreeError::Damaged("change (event missing)");
    let row = tree.shown_row_at(entry.window, entry.id, entry.start)?.ok_or(missing)?;
    let Some(master) = row.master.as_ref().filter(|_| row.is_bare()) else {
        return Ok(row.content().len());
    };
    let key = (entry.window, master.hash());
    let inherited = match masters.entry(key) {
        At::Occupied(size) => *size.get(),
        At::Vacant(place) => {
            let master = tree.row(entry.window, key.1)?;
            *place.insert(master.map_or(0, |stored| stored.row.content().len()))
        }
    };
    Ok(row.content().len() + inherited)
}

fn name_of(
    tree: &Tree,
    window: WindowId,
    names: &mut BTreeMap<WindowId, Arc<str>>,
) -> Result<Arc<str>, TreeError> {
    if let Some(name) = names.get(&window) {
        return Ok(name.clone());
    }
    let record = match tree.window(window)? {
        Some(record) => record,
        None => tree.dropping(window)?.ok_or(TreeError::Damaged("change (window missing)"))?,
    };
    names.insert(window, record.name.clone());
    Ok(record.name)
}

#[cfg(test)]
mod tests {
    use super::super::record::EventSize;
    use super::*;
    use crate::mirror::commit::Commit;
    use crate::mirror::page::{EventId, EventKind, Item, Span};
    use crate::tests::{NOON, env, open, registration, single, window};

    #[tokio::test]
    async fn an_entry_says_how_large_its_event_is() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), &env());
        let id = store.register(vec![registration(&window("alice"))], NOON).await.unwrap()[0].id;
        let span = Span { start: NOON, end: NOON };
        let of = |id: &str, bytes: usize| {
            single(id, span, format!(r#"{{"id":"{id}","subject":"{}"}}"#, "x".repeat(bytes)))
        };
        let bare = Item {
            kind: EventKind::Occurrence,
            master: Some(EventId::new("series")),
            full: false,
            ..of("occurrence", 0)
        };
        for subject in [9000, 5000] {
            let master = Item { kind: EventKind::Master, ..of("series", subject) };
            let upserts = vec![of("single", subject / 10), bare.clone(), master];
            store.commit(Commit { upserts, ..Commit::new(id, 0, NOON) }).await.unwrap();
            let all = |tree: &Tree| entries(tree, 0, Seq::MAX).collect::<Result<Vec<_>, _>>();
            let entries = store.read_tree(all).await.unwrap();
            let mut sizes: Vec<_> = entries.into_iter().map(|(_, entry)| entry.size).collect();
            sizes.sort_by_key(|size| size.map(EventSize::bytes));
            // Beside the subjects there are less than a hundred bytes in each.
            let expected = [subject / 10 + 50, subject + 80].map(EventSize::of);
            assert_eq!(sizes, expected.map(Some));
        }
        store.close().await.unwrap();
    }
}
