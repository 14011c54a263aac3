//! Reading the feed: entries in the order of their seqs, joined with what the events look like now.
//!
//! An entry of a living event names the event's latest change, so the row that stands there now
//! is what that change led to. The feed is read in slices; an entry that moves to a later seq
//! between two of them is beyond the end that was fixed at the start, and comes next time.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::fault::{Fault, StoreError};
use super::keys;
use super::query::Gathered;
use super::record::{Entry, instant};
use super::shared::Shared;
use super::tree::Tree;
use super::{Change, Changes};
use crate::mirror::change::Seq;
use crate::mirror::position::WindowId;

/// Entries looked at under one guard.
const SLICE: usize = 512;
/// Bytes of events gathered under one guard, but for the last of them.
const BYTES: usize = 4 << 20;
/// Entries looked at for one answer: with a window to filter by, most may be others'.
const LOOKED_AT: usize = 65_536;

/// What one slice found.
#[derive(Default)]
struct Slice {
    /// Seq, entry and the window's name.
    found: Vec<(Seq, Entry, Arc<str>)>,
    /// The rows of the living, in the same order.
    living: Gathered,
    /// Entries looked at.
    looked: usize,
    /// The seq up to which everything was looked at.
    seq: Seq,
    /// Whether there is more below the end.
    more: bool,
}

/// Reads at most `limit` changes after a seq. Blocking; answers what to wait for as well.
pub(super) fn changes(
    shared: &Shared,
    after: Seq,
    window: Option<WindowId>,
    limit: usize,
) -> Result<(Changes, u64), StoreError> {
    let limit = limit.max(1);
    let end = shared.durable_seq();
    let mut changes = Changes { value: Vec::new(), seq: after, at_end: after >= end };
    let (mut looked, mut group) = (0, 0);
    let (mut names, mut bytes) = (BTreeMap::new(), 0);
    while !changes.at_end && changes.value.len() < limit && looked < LOOKED_AT && bytes < BYTES {
        let left = limit - changes.value.len();
        let from = changes.seq;
        let (slice, applied) =
            shared.look(|tree| look(tree, from, end, window, left, &mut names))?;
        group = applied;
        looked += slice.looked;
        bytes += slice.living.bytes;
        changes.seq = slice.seq;
        changes.at_end = !slice.more;
        let mut shown = slice.living.show().into_iter().zip(&slice.living.rows);
        for (seq, entry, window) in slice.found {
            let at = instant(entry.at);
            let (reason, id, event) = match entry.gone {
                Some(gone) => (Some(gone.reason), gone.id, None),
                // `look` put one row there for every living entry.
                None => match shown.next() {
                    Some((event, row)) => (None, row.id.clone(), Some(event)),
                    None => continue,
                },
            };
            changes.value.push(Change { seq, at, window, kind: entry.kind, reason, id, event });
        }
    }
    changes.seq = changes.seq.max(if changes.at_end { end } else { 0 });
    Ok((changes, group))
}

fn look(
    tree: &Tree,
    after: Seq,
    end: Seq,
    window: Option<WindowId>,
    limit: usize,
    names: &mut BTreeMap<WindowId, Arc<str>>,
) -> Result<Slice, Fault> {
    let mut slice = Slice { seq: after, ..Slice::default() };
    for item in tree.0.range(keys::feed(after.saturating_add(1))..=keys::feed(end)) {
        if slice.found.len() == limit || slice.looked == SLICE || slice.living.bytes >= BYTES {
            slice.more = true;
            break;
        }
        let (key, value) = item?;
        let seq = keys::seq_of(&key).ok_or(Fault::Damaged("change"))?;
        slice.looked += 1;
        slice.seq = seq;
        let entry = Entry::decode(&value)?;
        if window.is_some_and(|window| window != entry.window) {
            continue;
        }
        let name = match &entry.gone {
            Some(gone) => gone.window.clone(),
            None => {
                let stored = tree.row(entry.window, entry.id)?;
                let stored = stored.ok_or(Fault::Damaged("change without its event"))?;
                slice.living.add(tree, entry.window, stored.row)?;
                name_of(tree, entry.window, names)?
            }
        };
        slice.found.push((seq, entry, name));
    }
    Ok(slice)
}

fn name_of(
    tree: &Tree,
    window: WindowId,
    names: &mut BTreeMap<WindowId, Arc<str>>,
) -> Result<Arc<str>, Fault> {
    if let Some(name) = names.get(&window) {
        return Ok(name.clone());
    }
    let record = match tree.window(window)? {
        Some(record) => record,
        None => tree.leaving(window)?.ok_or(Fault::Damaged("change of no window"))?,
    };
    names.insert(window, record.name.clone());
    Ok(record.name)
}
