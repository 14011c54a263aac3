//! Applies a commit to rows: what each was before, and what it becomes.
//!
//! The affected rows are loaded into slots and changed there. At the end each slot is compared
//! once, by what a reader saw before and sees after. A row that looks the same gets no seq.

use std::collections::btree_map::Entry as At;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::change_writer::{ChangeWriter, RowChange};
use super::error::{PlanError, StoreError, TreeError};
use super::record::WindowRecord;
use super::render::{self, MasterMembers};
use super::row::EventRow;
use super::row_commit::{NewRow, RowCommit};
use super::tree::Tree;
use crate::mirror::availability::Availability;
use crate::mirror::change::RemovalReason;
use crate::mirror::commit::Commit;
use crate::mirror::event::{self, EventDifference};
use crate::mirror::page::{EventHash, EventId, EventKind};
use crate::mirror::segment_set::SegmentSet;

type RowCache = BTreeMap<EventHash, EventRow>;
type MasterCache<'a> = BTreeMap<EventHash, MasterMembers<'a>>;

fn cut(rows: &RowCache) -> MasterCache<'_> {
    rows.iter().filter_map(|(hash, row)| Some((*hash, MasterMembers::of(row)?))).collect()
}

/// The master that completes a row.
fn master_of<'a>(masters: &'a MasterCache<'a>, row: &EventRow) -> Option<&'a MasterMembers<'a>> {
    let master = row.master.as_ref().filter(|_| row.is_bare())?;
    masters.get(&master.hash())
}

fn show(masters: &MasterCache<'_>, row: &EventRow) -> Bytes {
    render::show(row, master_of(masters, row))
}

/// A commit being applied.
pub(super) struct CommitApplier<'a> {
    tree: &'a Tree,
    commit: &'a Commit,
    rows: &'a [NewRow],
    record: &'a WindowRecord,
    slots: BTreeMap<EventHash, RowChange>,
    /// Ids that the commit itself carries.
    carried: BTreeSet<EventHash>,
    /// Masters whose occurrences look different than before.
    changed: BTreeSet<EventHash>,
}

impl<'a> CommitApplier<'a> {
    /// Starts without loaded rows.
    pub(super) fn new(tree: &'a Tree, commit: &'a RowCommit, record: &'a WindowRecord) -> Self {
        let RowCommit { commit, rows } = commit;
        Self {
            tree,
            commit,
            rows,
            record,
            slots: BTreeMap::new(),
            carried: BTreeSet::new(),
            changed: BTreeSet::new(),
        }
    }

    /// Refuses the commit if a bare occurrence has no master.
    pub(super) fn check(mut self) -> Result<(), PlanError> {
        for row in self.rows {
            self.upsert(row)?;
        }
        self.masters().map(drop)
    }

    /// Applies the commit to the rows and the feed.
    pub(super) fn run(mut self, feed: &mut ChangeWriter<'_>) -> Result<(), PlanError> {
        let commit = self.commit;
        for row in self.rows {
            self.upsert(row)?;
        }
        let mut orphans = commit.orphans.clone();
        for removal in &commit.removals {
            // An id is in only one of the two lists. If it is in both, the event is kept.
            if !self.carried.contains(&removal.id) && self.remove(removal.id, removal.reason)? {
                orphans.push(removal.id);
            }
        }
        // The last instance takes its master along, unless this commit carries the master.
        let left = self.slots.values().filter(|slot| slot.new.is_none());
        let left = left.filter_map(|slot| slot.old()?.master.as_ref().map(EventId::hash));
        orphans.extend(left.filter(|master| !self.carried.contains(master)));
        orphans.sort_unstable();
        orphans.dedup();
        self.follow_masters()?;
        self.forget(&orphans)?;
        let (old, new) = self.masters()?;
        self.follow_availability(&new);
        let (old, new) = (cut(&old), cut(&new));
        // In the order of the rows, so that the feed is read from neighbouring places of the tree.
        // Removals come last: what replaces an event is there before the event is gone.
        let mut slots: Vec<_> = self.slots.iter().collect();
        slots.sort_by_key(|(_, slot)| slot.new.as_ref().map_or(i64::MAX, |row| row.start));
        for (id, slot) in slots {
            let difference = |a: &EventRow, b: &EventRow| {
                let look_same = a.content() == b.content()
                    && (a.kind, &a.master, a.full) == (b.kind, &b.master, b.full);
                let follows = b.is_bare()
                    && b.master.as_ref().is_some_and(|m| self.changed.contains(&m.hash()));
                if look_same && !follows {
                    return EventDifference::None;
                }
                event::difference(&show(&old, a), &show(&new, b))
            };
            let size = |row: &EventRow| render::shown_size(row, master_of(&new, row));
            feed.write_change(*id, slot, difference, |row| show(&old, row), size)?;
        }
        Ok(())
    }

    fn load(&mut self, id: EventHash) -> Result<&mut RowChange, TreeError> {
        self.load_like(id, None)
    }

    /// The same; texts that `like` has are not decompressed.
    fn load_like(
        &mut self,
        id: EventHash,
        like: Option<&EventRow>,
    ) -> Result<&mut RowChange, TreeError> {
        match self.slots.entry(id) {
            At::Occupied(slot) => Ok(slot.into_mut()),
            At::Vacant(place) => {
                let old = self.tree.row_like(self.commit.window, id, like)?;
                let new = old.as_ref().map(|s| s.row.clone());
                Ok(place.insert(RowChange { old, new, reason: RemovalReason::Deleted }))
            }
        }
    }

    fn upsert(&mut self, new: &NewRow) -> Result<(), TreeError> {
        let own = SegmentSet::of(self.commit.segment);
        self.carried.insert(new.hash);
        let slot = self.load_like(new.hash, Some(&new.row))?;
        let mut row = new.row.clone();
        if let Some(old) = slot.old() {
            // Each segment is a stream of its own. One stream may deliver an old state of an event
            // after another delivered a newer one, and it may never deliver the newer one if the
            // event has moved. Within a stream the order of arrival counts.
            if !old.segments.without(own).is_empty()
                && event::is_older(row.content(), old.content())
            {
                row = old.clone();
            }
            row.segments = row.segments.union(old.segments).union(own);
            row.seq = old.seq;
            // Equal JSON: keep the stored bytes.
            if event::same_json(old.content(), row.content()) {
                row.keep_texts_of(old);
            }
        }
        slot.new = Some(row);
        Ok(())
    }

    /// Removes the segment from a row. Returns whether the row is a master, which is deleted only
    /// when no instance refers to it. Segments that the window no longer has (`retired`) do not
    /// count: a row that only they hold is treated as held by this one.
    fn remove(&mut self, id: EventHash, reason: RemovalReason) -> Result<bool, TreeError> {
        let (segment, retired) = (self.commit.segment, self.record.retired);
        let slot = self.load(id)?;
        let Some(row) = &mut slot.new else { return Ok(false) };
        if row.kind == EventKind::Master {
            return Ok(true);
        }
        if row.segments.contains(segment) || row.segments.without(retired).is_empty() {
            row.segments = row.segments.without(retired);
            row.segments.remove(segment);
            if row.segments.is_empty() {
                slot.new = None;
                slot.reason = reason;
            }
        }
        Ok(false)
    }

    /// Loads the occurrences of changed masters. If a master turns into another kind of event, its
    /// occurrences keep what readers saw of them until their removal is known.
    fn follow_masters(&mut self) -> Result<(), TreeError> {
        let mut ended = Vec::new();
        for (id, slot) in &self.slots {
            let was = slot.old().filter(|r| r.kind == EventKind::Master);
            let is = slot.new.as_ref().filter(|r| r.kind == EventKind::Master);
            match (was, is) {
                (Some(a), Some(b)) if !event::same_for_occurrences(a.content(), b.content()) => {
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
            let master = MasterMembers::of(&master);
            for id in self.tree.instances(self.commit.window, hash)? {
                if self.carried.contains(&id) {
                    continue;
                }
                let slot = self.load(id)?;
                if let Some(row) = slot.new.as_mut().filter(|r| r.is_bare()) {
                    row.complete(render::show(row, master.as_ref()));
                }
            }
        }
        Ok(())
    }

    /// Gives bare occurrences the availability of their masters, so that busy times need not look
    /// at these.
    fn follow_availability(&mut self, masters: &RowCache) {
        let all: BTreeMap<EventHash, Availability> =
            masters.iter().map(|(id, master)| (*id, master.own_availability())).collect();
        for row in self.slots.values_mut().filter_map(|slot| slot.new.as_mut()) {
            if row.is_bare() {
                let master = row.master.as_ref().map(EventId::hash);
                row.availability = master.and_then(|id| all.get(&id).copied());
            }
        }
    }

    /// Deletes masters that no instance refers to any more.
    fn forget(&mut self, orphans: &[EventHash]) -> Result<(), TreeError> {
        for &orphan in orphans {
            let named = |row: &EventRow| row.master.as_ref().is_some_and(|m| m.hash() == orphan);
            let kept = self.slots.values().any(|s| s.new.as_ref().is_some_and(named));
            let stored = self.tree.instances(self.commit.window, orphan)?;
            if kept || stored.iter().any(|id| !self.slots.contains_key(id)) {
                continue;
            }
            let slot = self.load(orphan)?;
            if slot.new.as_ref().is_some_and(|r| r.kind == EventKind::Master) {
                slot.new = None;
            }
        }
        Ok(())
    }

    /// The masters that the slots need, before and after the commit.
    fn masters(&self) -> Result<(RowCache, RowCache), PlanError> {
        let (mut old, mut new) = (RowCache::new(), RowCache::new());
        let mut stored = BTreeMap::<EventHash, Option<EventRow>>::new();
        let mut find = |hash: EventHash, after: bool| -> Result<Option<EventRow>, TreeError> {
            let row = match self.slots.get(&hash) {
                Some(slot) if after => slot.new.clone(),
                Some(slot) => slot.old().cloned(),
                None => match stored.entry(hash) {
                    At::Occupied(row) => row.get().clone(),
                    At::Vacant(place) => {
                        let row = self.tree.row(self.commit.window, hash)?;
                        place.insert(row.map(|s| s.row)).clone()
                    }
                },
            };
            Ok(row.filter(|r| r.kind == EventKind::Master))
        };
        for (id, slot) in &self.slots {
            for (row, after) in [(slot.old(), false), (slot.new.as_ref(), true)] {
                let Some(row) = row.filter(|r| r.is_bare()) else { continue };
                let masters = if after { &mut new } else { &mut old };
                let hash = row.master.as_ref().map(EventId::hash);
                if hash.is_some_and(|h| masters.contains_key(&h)) {
                    continue;
                }
                let master = hash.map(|h| find(h, after)).transpose()?.flatten();
                if let Some((master, hash)) = master.zip(hash) {
                    masters.insert(hash, master);
                } else if after && self.carried.contains(id) {
                    return Err(PlanError::Rejected(StoreError::MissingMaster(*id)));
                }
            }
        }
        Ok((old, new))
    }
}
