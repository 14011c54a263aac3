//! From a commit to the writes it means.
//!
//! Only the writer thread plans: it alone sees a settled tree. The rows concerned are loaded into
//! slots, changed there, and in the end each slot is judged once, by what a reader saw before and
//! sees after; whatever looks the same gets no seq and no feed entry.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::attach;
use super::draft::Draft;
use super::fault::{Fault, StoreError};
use super::keys;
use super::look::{self, Master};
use super::record::{self, WindowRecord};
use super::row::Row;
use super::settle::{Feed, Slot};
use super::tree::Tree;
use jiff::Timestamp;

use crate::mirror::change::{RemovalReason, Seq};
use crate::mirror::clock::{self, LONGEST_PAUSE};
use crate::mirror::commit::{Commit, Outcome};
use crate::mirror::event;
use crate::mirror::page::{EventHash, EventId, Item, Kind};
use crate::mirror::status::{AuditRecord, LastResync, ResyncReason};

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
    unretire(commit, &record, &mut draft);
    todo(tree, commit, &mut draft)?;
    seen(tree, commit, &mut draft)?;
    if let Some(position) = &commit.position {
        let key = keys::position(commit.window, commit.segment);
        let value = record::position(position);
        if tree.get(&key)?.is_none_or(|old| *old != *value) {
            draft.put(key, value);
        }
    }
    outcome.events = count(tree, commit, &record, &outcome, &mut draft)?;
    Ok(Planned { draft, outcome, last_seq: seq })
}

/// A segment that was given up and holds rows again is one more segment.
fn unretire(commit: &Commit, record: &WindowRecord, draft: &mut Draft) {
    let bit = record::bit(commit.segment);
    if record.retired & bit != 0 && !commit.upserts.is_empty() {
        let record = WindowRecord { retired: record.retired & !bit, ..record.clone() };
        draft.put(keys::window(commit.window), record.encode());
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
fn count(
    tree: &Tree,
    commit: &Commit,
    record: &WindowRecord,
    outcome: &Outcome,
    draft: &mut Draft,
) -> Result<u64, Fault> {
    let old = tree.counters(commit.window)?;
    let mut new = old.clone();
    new.events = (new.events + u64::from(outcome.created)).saturating_sub(outcome.removed.into());
    if let Some(round) = commit.tally.round {
        new.rounds = round;
    }
    if commit.tally.success.is_some() {
        new.last_success = commit.tally.success;
        let first = AuditRecord { since: commit.at, at: None, differences: 0 };
        new.audit.get_or_insert(first);
    }
    if let (Some(differences), Some(audit)) = (commit.tally.audit, &mut new.audit) {
        audit.at = Some(commit.at);
        audit.differences += differences;
    }
    // A pause stored under a wrong clock must not outlast those that follow.
    let goes_on = |until: &Timestamp| clock::waits(*until, LONGEST_PAUSE, commit.at);
    new.paused_until = commit.tally.paused_until.max(new.paused_until.filter(goes_on));
    if let Some(reason) = commit.tally.resync.filter(|r| *r != ResyncReason::New) {
        new.resyncs += 1;
        new.last_resync = Some(LastResync { at: commit.at, reason });
    }
    if new.settled_once != Some(true)
        && let Some(position) = &commit.position
    {
        let mut positions = tree.positions(commit.window)?;
        let before = attach::settled_before(&old, &positions);
        positions.retain(|(segment, _)| *segment != commit.segment);
        positions.push((commit.segment, position.clone()));
        new.settled_once = Some(before || attach::all_settled(record, &positions));
    }
    if new != old {
        draft.put(keys::counters(commit.window), new.encode());
    }
    Ok(new.events)
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
        // The last instance takes its master along, unless that has just come.
        let left = self.slots.values().filter(|slot| slot.new.is_none());
        let left = left.filter_map(|slot| slot.old()?.master.as_ref().map(EventId::hash));
        orphans.extend(left.filter(|master| !self.carried.contains(master)));
        orphans.sort_unstable();
        orphans.dedup();
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
            // Segments are streams of their own: one may tell late what another has told anew, and
            // may never tell the new, if the event has moved to the other. Within a stream it is
            // the order that counts.
            if old.segments & !bit != 0 && event::is_older(&row.content, &old.content) {
                row = old.clone();
            }
            row.segments |= old.segments | bit;
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
