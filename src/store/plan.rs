//! From a commit to the writes it means.
//!
//! Only the writer thread plans: it alone sees a settled tree. The rows concerned are loaded into
//! slots, changed there, and in the end each slot is judged once, by what a reader saw before and
//! sees after; whatever looks the same gets no seq and no feed entry.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::draft::Draft;
use super::fault::{Fault, StoreError};
use super::keys;
use super::look::{self, Master};
use super::record::{self, Entry, Gone, Row, WindowRecord};
use super::tree::{Stored, Tree};
use crate::mirror::change::{ChangeKind, RemovalReason, Seq};
use crate::mirror::commit::{Commit, Outcome};
use crate::mirror::event;
use crate::mirror::page::{EventHash, EventId, Item, Kind};
use crate::mirror::position::WindowId;
use crate::mirror::status::{LastResync, ResyncReason};

/// Events longer than this stand in an index of their own, so that looking for what overlaps an
/// instant has to look back only this far. Microseconds; a day of 25 hours still fits.
pub(super) const LONG: i64 = 26 * 3600 * 1_000_000;

/// What a commit means.
pub(super) struct Planned {
    pub(super) draft: Draft,
    pub(super) outcome: Outcome,
    /// The last seq it gave out.
    pub(super) last_seq: Seq,
}

/// Why a commit was not planned.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It alone is at fault.
    Told(StoreError),
    /// The store is.
    Fault(Fault),
}

impl<F: Into<Fault>> From<F> for Refusal {
    fn from(fault: F) -> Self {
        Self::Fault(fault.into())
    }
}

/// Plans a commit on top of what the tree holds and the last seq given out.
pub(super) fn plan(tree: &Tree, last_seq: Seq, commit: &Commit) -> Result<Planned, Refusal> {
    let unknown = || Refusal::Told(StoreError::UnknownWindow(commit.window));
    let record = tree.window(commit.window)?.ok_or_else(unknown)?;
    let mut draft = Draft::default();
    let mut feed = Feed {
        draft: &mut draft,
        tree,
        window: commit.window,
        name: record.name.clone(),
        at: record::micros(commit.at),
        seq: last_seq,
        outcome: Outcome::default(),
    };
    if !commit.upserts.is_empty() || !commit.removals.is_empty() || !commit.orphans.is_empty() {
        Work::new(tree, commit, &record).run(&mut feed)?;
    }
    let Feed { seq, mut outcome, .. } = feed;
    if seq != last_seq {
        draft.put(keys::LAST_SEQ.to_vec(), record::number(seq));
    }
    unretire(commit, record, &mut draft);
    todo(tree, commit, &mut draft)?;
    seen(tree, commit, &mut draft)?;
    if let Some(position) = &commit.position {
        let key = keys::position(commit.window, commit.segment);
        let value = record::json(position);
        if tree.get(&key)?.is_none_or(|old| *old != *value) {
            draft.put(key, value);
        }
    }
    outcome.events = count(tree, commit, &outcome, &mut draft)?;
    Ok(Planned { draft, outcome, last_seq: seq })
}

/// A segment that was given up and holds rows again is one more segment.
fn unretire(commit: &Commit, mut record: WindowRecord, draft: &mut Draft) {
    let bit = record::bit(commit.segment);
    if record.retired & bit != 0 && !commit.upserts.is_empty() {
        record.retired &= !bit;
        draft.put(keys::window(commit.window), record::json(&record));
    }
}

fn todo(tree: &Tree, commit: &Commit, draft: &mut Draft) -> Result<(), Fault> {
    let (window, segment) = (commit.window, commit.segment);
    if commit.clear_todo {
        for key in tree.keys(&keys::todos(window, segment)) {
            draft.delete(key?.to_vec());
        }
    }
    for done in &commit.done {
        let key = keys::todo(window, segment, *done);
        if let Some(old) = tree.large(&key)? {
            draft.delete_large(key, old.chunks);
        }
    }
    // Adding wins over deleting, so that nothing still to do is ever lost.
    for todo in &commit.todo {
        let key = keys::todo(window, segment, todo.key());
        let value = record::todo(todo);
        match tree.large(&key)? {
            Some(old) if old.value == value && !commit.clear_todo && commit.done.is_empty() => {}
            old => draft.put_large(key, &value, old.map_or(0, |o| o.chunks)),
        }
    }
    Ok(())
}

fn seen(tree: &Tree, commit: &Commit, draft: &mut Draft) -> Result<(), Fault> {
    let (window, segment) = (commit.window, commit.segment);
    if commit.clear_seen {
        for key in tree.keys(&keys::seen_all(window, segment)) {
            draft.delete(key?.to_vec());
        }
    }
    if let Some((page, ids)) = &commit.seen {
        for key in tree.keys(&keys::seen_page(window, segment, *page)) {
            draft.delete(key?.to_vec());
        }
        for (part, value) in (0..).zip(record::seen_parts(ids)) {
            draft.put(keys::seen(window, segment, *page, part), value);
        }
    }
    Ok(())
}

/// Writes the window's counters if they changed, and tells how many events readers see.
fn count(tree: &Tree, commit: &Commit, outcome: &Outcome, draft: &mut Draft) -> Result<u64, Fault> {
    let old = tree.counters(commit.window)?;
    let mut new = old.clone();
    new.events = (new.events + u64::from(outcome.created)).saturating_sub(outcome.removed.into());
    if let Some(round) = commit.tally.round {
        new.rounds = round;
    }
    if commit.tally.success.is_some() {
        new.last_success = commit.tally.success;
    }
    if let Some(reason) = commit.tally.resync.filter(|r| *r != ResyncReason::New) {
        new.resyncs += 1;
        new.last_resync = Some(LastResync { at: commit.at, reason });
    }
    if new != old {
        draft.put(keys::counters(commit.window), record::json(&new));
    }
    Ok(new.events)
}

/// One row on its way from what it was to what it will be.
struct Slot {
    old: Option<Stored>,
    new: Option<Row>,
    /// Why it leaves, if it leaves.
    reason: RemovalReason,
}

impl Slot {
    fn old(&self) -> Option<&Row> {
        self.old.as_ref().map(|s| &s.row)
    }
}

type Rows = BTreeMap<EventHash, Row>;
type Masters<'a> = BTreeMap<EventHash, Master<'a>>;

fn cut(rows: &Rows) -> Masters<'_> {
    rows.iter().filter_map(|(hash, row)| Some((*hash, Master::of(row)?))).collect()
}

fn show(masters: &Masters<'_>, row: &Row) -> Bytes {
    let master = row.master.as_ref().filter(|_| row.is_bare()).map(EventId::hash);
    look::show(row, master.and_then(|hash| masters.get(&hash)))
}

/// A commit being worked in.
struct Work<'a> {
    tree: &'a Tree,
    commit: &'a Commit,
    record: &'a WindowRecord,
    slots: BTreeMap<EventHash, Slot>,
    /// Ids that the commit itself carries.
    carried: BTreeSet<EventHash>,
    /// Masters that give their occurrences something else than before.
    changed: BTreeSet<EventHash>,
}

impl<'a> Work<'a> {
    fn new(tree: &'a Tree, commit: &'a Commit, record: &'a WindowRecord) -> Self {
        Self {
            tree,
            commit,
            record,
            slots: BTreeMap::new(),
            carried: BTreeSet::new(),
            changed: BTreeSet::new(),
        }
    }

    fn run(mut self, feed: &mut Feed<'_>) -> Result<(), Refusal> {
        let commit = self.commit;
        for item in &commit.upserts {
            self.upsert(item)?;
        }
        let mut orphans = commit.orphans.clone();
        for removal in &commit.removals {
            // An id stands in one of the two lists; should it stand in both, keeping is safe.
            if !self.carried.contains(&removal.id) && self.remove(removal.id, removal.reason)? {
                orphans.push(removal.id);
            }
        }
        self.follow_masters()?;
        self.forget(&orphans)?;
        let (old, new) = self.masters()?;
        let (old, new) = (cut(&old), cut(&new));
        for (id, slot) in &self.slots {
            let same = |a: &Row, b: &Row| {
                let look_same = a.content == b.content
                    && (a.kind, &a.master, a.whole) == (b.kind, &b.master, b.whole);
                let follows = b.is_bare()
                    && b.master.as_ref().is_some_and(|m| self.changed.contains(&m.hash()));
                (look_same && !follows) || event::same(&show(&old, a), &show(&new, b))
            };
            feed.settle(*id, slot, same)?;
        }
        Ok(())
    }

    fn load(&mut self, id: EventHash) -> Result<&mut Slot, Fault> {
        use std::collections::btree_map::Entry as At;
        match self.slots.entry(id) {
            At::Occupied(slot) => Ok(slot.into_mut()),
            At::Vacant(place) => {
                let old = self.tree.row(self.commit.window, id)?;
                let new = old.as_ref().map(|s| s.row.clone());
                Ok(place.insert(Slot { old, new, reason: RemovalReason::Deleted }))
            }
        }
    }

    fn upsert(&mut self, item: &Item) -> Result<(), Fault> {
        let id = item.id.hash();
        let bit = record::bit(self.commit.segment);
        self.carried.insert(id);
        let slot = self.load(id)?;
        let mut row = Row::of(item, bit);
        if let Some(old) = slot.old() {
            row.segments |= old.segments;
            row.seq = old.seq;
            // Equal as JSON is equal: the bytes that are there stay.
            if event::same(&old.content, &row.content) {
                row.content = old.content.clone();
            }
        }
        slot.new = Some(row);
        Ok(())
    }

    /// Lets go of a row; tells whether it is a master, which goes only when nothing names it.
    fn remove(&mut self, id: EventHash, reason: RemovalReason) -> Result<bool, Fault> {
        let (bit, retired) = (record::bit(self.commit.segment), self.record.retired);
        let slot = self.load(id)?;
        let Some(row) = &mut slot.new else { return Ok(false) };
        if row.kind == Kind::Master {
            return Ok(true);
        }
        if row.segments & bit != 0 || row.segments & !retired == 0 {
            row.segments &= !bit & !retired;
            if row.segments == 0 {
                slot.new = None;
                slot.reason = reason;
            }
        }
        Ok(false)
    }

    /// Takes along the occurrences of masters that changed. Those whose master turns into
    /// something else keep what readers saw of them, until their removal is known.
    fn follow_masters(&mut self) -> Result<(), Fault> {
        let mut ended = Vec::new();
        for (id, slot) in &self.slots {
            let was = slot.old().filter(|r| r.kind == Kind::Master);
            let is = slot.new.as_ref().filter(|r| r.kind == Kind::Master);
            match (was, is) {
                (Some(a), Some(b)) if !event::same_for_occurrences(&a.content, &b.content) => {
                    self.changed.insert(*id);
                }
                (Some(a), None) => ended.push((*id, a.clone())),
                _ => {}
            }
        }
        for master in self.changed.clone() {
            for id in self.tree.instances(self.commit.window, master)? {
                self.load(id)?;
            }
        }
        for (hash, master) in ended {
            let master = Master::of(&master);
            for id in self.tree.instances(self.commit.window, hash)? {
                if self.carried.contains(&id) {
                    continue;
                }
                let slot = self.load(id)?;
                if let Some(row) = slot.new.as_mut().filter(|r| r.is_bare()) {
                    row.content = look::show(row, master.as_ref());
                    row.whole = true;
                }
            }
        }
        Ok(())
    }

    /// Deletes masters that no instance names any more.
    fn forget(&mut self, orphans: &[EventHash]) -> Result<(), Fault> {
        for &orphan in orphans {
            let named = |row: &Row| row.master.as_ref().is_some_and(|m| m.hash() == orphan);
            let kept = self.slots.values().any(|s| s.new.as_ref().is_some_and(named));
            let stored = self.tree.instances(self.commit.window, orphan)?;
            if kept || stored.iter().any(|id| !self.slots.contains_key(id)) {
                continue;
            }
            let slot = self.load(orphan)?;
            if slot.new.as_ref().is_some_and(|r| r.kind == Kind::Master) {
                slot.new = None;
            }
        }
        Ok(())
    }

    /// The masters that the slots need, as they were and as they will be.
    fn masters(&self) -> Result<(Rows, Rows), Refusal> {
        let (mut old, mut new) = (Rows::new(), Rows::new());
        let mut stored = BTreeMap::<EventHash, Option<Row>>::new();
        let mut find = |hash: EventHash, after: bool| -> Result<Option<Row>, Fault> {
            let row = match self.slots.get(&hash) {
                Some(slot) if after => slot.new.clone(),
                Some(slot) => slot.old().cloned(),
                None => match stored.get(&hash) {
                    Some(row) => row.clone(),
                    None => {
                        let row = self.tree.row(self.commit.window, hash)?.map(|s| s.row);
                        stored.insert(hash, row.clone());
                        row
                    }
                },
            };
            Ok(row.filter(|r| r.kind == Kind::Master))
        };
        for (id, slot) in &self.slots {
            for (row, after) in [(slot.old(), false), (slot.new.as_ref(), true)] {
                let Some(row) = row.filter(|r| r.is_bare()) else { continue };
                let masters = if after { &mut new } else { &mut old };
                let hash = row.master.as_ref().map(EventId::hash);
                if hash.is_some_and(|h| masters.contains_key(&h)) {
                    continue;
                }
                match hash.map(|h| find(h, after)).transpose()?.flatten().zip(hash) {
                    Some((master, hash)) => {
                        masters.insert(hash, master);
                    }
                    None if after && self.carried.contains(id) => {
                        return Err(Refusal::Told(StoreError::MissingMaster(*id)));
                    }
                    None => {}
                }
            }
        }
        Ok((old, new))
    }
}

/// Gives out seqs and writes rows, indexes and feed entries.
pub(super) struct Feed<'a> {
    pub(super) draft: &'a mut Draft,
    pub(super) tree: &'a Tree,
    pub(super) window: WindowId,
    pub(super) name: Arc<str>,
    /// Microseconds.
    pub(super) at: i64,
    pub(super) seq: Seq,
    pub(super) outcome: Outcome,
}

impl Feed<'_> {
    fn settle(
        &mut self,
        id: EventHash,
        slot: &Slot,
        same: impl FnOnce(&Row, &Row) -> bool,
    ) -> Result<(), Fault> {
        let was = slot.old().filter(|r| r.is_shown());
        let is = slot.new.as_ref().filter(|r| r.is_shown());
        let mut new = slot.new.clone();
        let seq = match (was, is) {
            (Some(was), None) => {
                self.bury(id, was, slot.reason);
                0
            }
            (None, Some(_)) => {
                if let Some(tombstone) = self.tree.tombstone(self.window, id)? {
                    self.draft.delete_change(tombstone);
                    self.draft.delete(keys::age(tombstone));
                    self.draft.delete(keys::tombstone(self.window, id));
                }
                self.outcome.created += 1;
                self.announce(id, ChangeKind::Created)
            }
            (Some(was), Some(is)) if same(was, is) => was.seq,
            (Some(was), Some(_)) => {
                self.draft.delete_change(was.seq);
                self.outcome.updated += 1;
                self.announce(id, ChangeKind::Updated)
            }
            (None, None) => 0,
        };
        if let Some(new) = &mut new {
            new.seq = seq;
        }
        self.write(id, slot.old.as_ref(), new.as_ref());
        Ok(())
    }

    fn announce(&mut self, id: EventHash, kind: ChangeKind) -> Seq {
        self.seq += 1;
        let entry = Entry { window: self.window, id, kind, at: self.at, gone: None };
        self.draft.put_change(self.seq, &entry);
        self.seq
    }

    /// Puts a tombstone in the place of a row's feed entry.
    pub(super) fn bury(&mut self, id: EventHash, row: &Row, reason: RemovalReason) {
        self.draft.delete_change(row.seq);
        self.seq += 1;
        self.outcome.removed += 1;
        let gone = Gone { reason, id: row.id.clone(), window: self.name.clone() };
        let kind = ChangeKind::Removed;
        let entry = Entry { window: self.window, id, kind, at: self.at, gone: Some(gone) };
        self.draft.put_change(self.seq, &entry);
        self.draft.put(keys::tombstone(self.window, id), record::number(self.seq));
        self.draft.put(keys::age(self.seq), self.at.to_be_bytes().to_vec());
    }

    /// Replaces a row and what points to it.
    pub(super) fn write(&mut self, id: EventHash, old: Option<&Stored>, new: Option<&Row>) {
        if old.map(|s| &s.row) == new {
            return;
        }
        let old_index = old.map(|s| index(self.window, id, &s.row)).unwrap_or_default();
        let new_index = new.map(|r| index(self.window, id, r)).unwrap_or_default();
        for key in old_index.keys().filter(|k| !new_index.contains_key(*k)) {
            self.draft.delete(key.clone());
        }
        for (key, value) in new_index {
            if old_index.get(&key) != Some(&value) {
                self.draft.put(key, value);
            }
        }
        let key = keys::event(self.window, id);
        let chunks = old.map_or(0, |s| s.chunks);
        match new {
            Some(row) => self.draft.put_large(key, &row.encode(), chunks),
            None => self.draft.delete_large(key, chunks),
        }
    }
}

/// The index entries of a row.
fn index(window: WindowId, id: EventHash, row: &Row) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut index = BTreeMap::new();
    if row.is_shown() {
        let end = row.end.to_be_bytes().to_vec();
        if row.end.saturating_sub(row.start) > LONG {
            index.insert(keys::long(window, row.start, id), end.clone());
        }
        index.insert(keys::time(window, row.start, id), end);
        if let Some(master) = &row.master {
            index.insert(keys::instance(window, master.hash(), id), Vec::new());
        }
    }
    index
}
