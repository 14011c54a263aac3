//! Checks the consistency of the tree.
//!
//! sled silently skips damage in the middle of its log: the rows in it are missing. But a row, its
//! feed entry, its index entry and its window's counters lie in different places, so a hole in one
//! of them shows in the others. Small stores are checked completely at every opening (64 MiB take
//! less than a second). Large ones are checked at random places, and completely once a reader has
//! found damage.

use std::collections::BTreeMap;

use super::error::TreeError;
use super::keys::{
    self, COUNTERS, DROPPING, EVENT, FEED, FLEET, INCARNATION, LONG, NAME, POSITION, SEEN, SINK,
    TIME, TOMBSTONE, WINDOW,
};
use super::record::{self, FeedChecksum, FeedEntry, FeedPack, WindowRecord};
use super::rows::{self, StoredRow};
use super::tree::Tree;
use crate::env::Env;
use crate::mirror::page::{EventHash, EventId};
use crate::mirror::position::WindowId;

/// Bytes on disk up to which a store is checked completely.
pub(super) const SMALL: u64 = 64 << 20;
/// Places checked in a large store.
const PLACES: usize = 32;
/// Rows and changes checked at one place.
const AT_ONCE: usize = 32;

/// Checks the store, completely if it is small or `suspect`.
pub(super) fn audit(tree: &Tree, suspect: bool, env: &Env) -> Result<(), TreeError> {
    if suspect || tree.engine().size_on_disk()? <= SMALL {
        return audit_all(tree, &mut |_| true).map(drop);
    }
    let last = tree.number(keys::LAST_SEQ)?;
    let windows = u32::try_from(tree.number(keys::NEXT_WINDOW)?).unwrap_or(u32::MAX);
    for _ in 0..PLACES {
        let from = 1 + env.random_u64() % last.max(1);
        let mut checked = 0;
        for pack in tree.feed_packs(from) {
            let pack = pack?;
            checked += pack.entries.len();
            changes(tree, pack)?;
            if checked >= AT_ONCE {
                break;
            }
        }
        let window =
            WindowId(u32::try_from(env.random_u64() % u64::from(windows.max(1))).unwrap_or(0));
        let half = env.random_u64().to_be_bytes();
        let mut place = [0; 16];
        place[..8].copy_from_slice(&half);
        for (id, stored) in tree.rows(window, Some(EventHash(place)), AT_ONCE)? {
            row(tree, window, id, &stored)?;
        }
    }
    Ok(())
}

/// Checks the store completely. Calls `goes_on` with the key of each record before it checks that;
/// if the answer is no, returns `false` at once.
pub(super) fn audit_all(
    tree: &Tree,
    goes_on: &mut dyn FnMut(&[u8]) -> bool,
) -> Result<bool, TreeError> {
    let mut shown = BTreeMap::<WindowId, u64>::new();
    let mut windows = BTreeMap::<WindowId, WindowRecord>::new();
    let mut sum = FeedChecksum::default();
    for entry in tree.engine().scan_all(&[]) {
        let (key, value) = entry?;
        if !goes_on(&key) {
            return Ok(false);
        }
        let window = keys::window_of(&key);
        match key.first() {
            Some(&EVENT) => {
                // Chunks are read with their rows.
                let Some((window, id)) = window.zip(keys::event_of(&key)) else { continue };
                if !goes_on(&rows::row_key(window, id, &value)) {
                    return Ok(false);
                }
                let stored = tree.row(window, id)?.ok_or(TreeError::Damaged("event"))?;
                row(tree, window, id, &stored)?;
                *shown.entry(window).or_default() += u64::from(stored.row.is_shown());
            }
            Some(&FEED) => {
                let key = keys::seq_of(&key).ok_or(TreeError::Damaged("change"))?;
                let pack = FeedPack::decode(key, &value)?;
                pack.entries.iter().for_each(|(seq, _)| sum.add(*seq));
                changes(tree, pack)?;
            }
            Some(&WINDOW) => {
                let record = WindowRecord::decode(&value)?;
                windows.insert(window.ok_or(TreeError::Damaged("window"))?, record);
            }
            Some(&(TIME | LONG)) => {
                let window = window.ok_or(TreeError::Damaged("index"))?;
                let (start, id) = keys::time_of(&key).ok_or(TreeError::Damaged("index"))?;
                if !tree.is_index_of(window, id, start)? {
                    return Err(TreeError::Damaged("index (event missing)"));
                }
            }
            Some(&POSITION) => {
                record::from_position(&value)?;
            }
            // The parts are read with their record.
            Some(&FLEET) if keys::is_fleet(&key) => {
                tree.fleet_listing(&key, &value)?;
            }
            Some(&INCARNATION) => {
                record::from_incarnation(&value)?;
            }
            Some(b'm' | &(NAME | DROPPING | COUNTERS | SEEN | SINK | TOMBSTONE)) => {
                record::unseal(&value, "record")?;
            }
            // Pending entries and what has no checksum.
            _ => {}
        }
    }
    if !goes_on(keys::SUM) {
        return Ok(false);
    }
    if sum != tree.sum()? {
        return Err(TreeError::Damaged("feed (wrong checksum)"));
    }
    audit_windows(tree, &shown, windows, goes_on)
}

/// Checks the records of the windows; `shown` is how many events readers see of each.
fn audit_windows(
    tree: &Tree,
    shown: &BTreeMap<WindowId, u64>,
    windows: BTreeMap<WindowId, WindowRecord>,
    goes_on: &mut dyn FnMut(&[u8]) -> bool,
) -> Result<bool, TreeError> {
    for window in shown.keys().filter(|window| !windows.contains_key(window)) {
        if !goes_on(&keys::counters(*window)) {
            return Ok(false);
        }
        tree.dropping(*window)?.ok_or(TreeError::Damaged("event (window missing)"))?;
    }
    for (id, record) in windows {
        if !goes_on(&keys::window(id)) {
            return Ok(false);
        }
        let named = tree.get(&keys::name(&record.name))?.ok_or(TreeError::Damaged("name"))?;
        let events = tree.counters(id)?.events;
        if record::from_number(&named)? != u64::from(id.0)
            || shown.get(&id).copied().unwrap_or(0) != events
        {
            return Err(TreeError::Damaged("window (wrong name or event count)"));
        }
    }
    Ok(true)
}

/// Checks that everything a row implies exists.
fn row(tree: &Tree, window: WindowId, id: EventHash, stored: &StoredRow) -> Result<(), TreeError> {
    let row = &stored.row;
    if !row.is_shown() {
        return Ok(());
    }
    let told = tree.entry(row.seq)?.is_some_and(|e| (e.window, e.id) == (window, id));
    let found = tree.is_index_of(window, id, row.start)?;
    let master = row.master.as_ref().map(EventId::hash);
    let joined = match master {
        Some(master) => tree.get(&keys::instance(window, master, id))?.is_some(),
        None => true,
    };
    let complete = match master.filter(|_| row.is_bare()) {
        Some(master) => tree.get(&keys::event(window, master))?.is_some(),
        None => true,
    };
    if told && found && joined && complete {
        Ok(())
    } else {
        Err(TreeError::Damaged("event (change, index or master missing)"))
    }
}

/// Checks that the rows or tombstones of changes exist.
fn changes(tree: &Tree, pack: FeedPack) -> Result<(), TreeError> {
    for (seq, FeedEntry { window, id, gone, .. }) in pack.entries {
        let whole = match gone {
            None => tree.row(window, id)?.is_some_and(|stored| stored.row.seq == seq),
            Some(_) => {
                tree.tombstone(window, id)? == Some(seq) && tree.get(&keys::age(seq))?.is_some()
            }
        };
        if !whole {
            return Err(TreeError::Damaged("change (event or tombstone missing)"));
        }
    }
    Ok(())
}
