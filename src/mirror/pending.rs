//! The pending work of a segment in memory: incomplete series, and removals not yet published.
//!
//! It mirrors the pending entries in the store. Changed entries are recorded and written by the
//! next commit passed to `PendingWork::write`.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::sync::Arc;

use super::commit::Commit;
use super::page::{EventHash, EventId, EventKind, Item};
use super::position::{PendingEntry, PendingKey};
use super::series::{EdgeAnswers, ListedInstances, SeriesMember};

/// The incomplete series and the unpublished removals of one segment.
#[derive(Debug, Default)]
pub(super) struct PendingWork {
    series: BTreeMap<EventHash, PendingSeries>,
    removals: BTreeMap<EventHash, RemovalProof>,
    /// Keys of the entries that differ from the store's.
    dirty: BTreeSet<PendingKey>,
}

/// What found that an event left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RemovalProof {
    /// A tombstone of this round, or what counts as one ([`PendingWork::add_removal`]).
    Tombstone,
    /// A listing. A later one may cancel the removal.
    Listing,
}

/// A series that is not complete.
#[derive(Debug)]
pub(super) struct PendingSeries {
    pub(super) master: EventId,
    pub(super) needs_master: bool,
    pub(super) needs_listing: bool,
    /// The master, obtained in this attempt and not yet committed.
    pub(super) fetched: Option<Item>,
    /// Items of the series that pages carried, including the master itself.
    pub(super) waiting: BTreeMap<EventHash, Item>,
    /// The waiting ids that an earlier round carried and no page since.
    pub(super) earlier: BTreeSet<EventHash>,
    /// The series could not be completed in this attempt; its entry stays pending.
    pub(super) set_aside: bool,
    /// What this attempt has learned about the series so far.
    pub(super) findings: SeriesFindings,
}

/// What was learned about a series since it became the current one. Not stored: the next attempt
/// requests it again.
#[derive(Debug, Default)]
pub(super) struct SeriesFindings {
    /// What is known of the master.
    pub(super) master: MasterLookup,
    /// The purpose of the `calendarView` request under way.
    pub(super) view_purpose: Option<ViewPurpose>,
    /// Whether instances near an edge are in the segment.
    pub(super) edge_answers: EdgeAnswers,
}

/// The progress of the lookup of a series' master.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum MasterLookup {
    /// It was not requested by its id.
    #[default]
    Unknown,
    /// The series' listing was not found, so the master is requested by its id.
    Unlisted,
    /// The master was fetched by its id.
    Found,
    /// The master's id was not found.
    Missing,
}

/// Why plain `calendarView` is requested for a series.
#[derive(Debug)]
pub(super) enum ViewPurpose {
    /// This listing lacks exceptions: looks for them on their days.
    Exceptions(ListedInstances),
    /// This listing lacks these instances: checks whether the segment has any of them. Includes
    /// the mirror's rows.
    Absence(ListedInstances, Vec<SeriesMember>, BTreeSet<EventHash>),
    /// The segment has some of the instances that this listing lacks: lists them.
    Locate(ListedInstances),
    /// The master was not found: checks whether any instance exists. Includes the mirror's rows.
    Presence(Vec<SeriesMember>),
    /// Lists the instances in place of the series' listing.
    InsteadOfListing,
    /// Neither this listing nor the pages decide whether the segment has these instances near an
    /// edge: lists the days at the edge.
    Edge(ListedInstances, BTreeSet<EventHash>),
}

impl PendingWork {
    /// Loads the store's entries.
    pub(super) fn load(entries: Vec<PendingEntry>) -> Self {
        let mut list = Self::default();
        for entry in entries {
            match entry {
                PendingEntry::Series { master, needs_master, needs_listing } => {
                    let series = list.get_or_insert(&master);
                    series.needs_master = needs_master;
                    series.needs_listing = needs_listing;
                }
                PendingEntry::Waiting { item, earlier } => {
                    let master = item.master.clone().unwrap_or_else(|| item.id.clone());
                    let series = list.get_or_insert(&master);
                    let id = item.id.hash();
                    series.waiting.insert(id, item);
                    if earlier {
                        series.earlier.insert(id);
                    }
                }
                PendingEntry::Removal { id } => list.add_removal(id),
            }
        }
        list.dirty.clear();
        list
    }

    pub(super) fn is_empty(&self) -> bool {
        self.series.is_empty() && self.removals.is_empty()
    }

    pub(super) fn has_series(&self) -> bool {
        !self.series.is_empty()
    }

    pub(super) fn removals(&self) -> &BTreeMap<EventHash, RemovalProof> {
        &self.removals
    }

    /// All removals count as found by a listing from now on.
    pub(super) fn forget_tombstones(&mut self) {
        self.removals.values_mut().for_each(|proof| *proof = RemovalProof::Listing);
    }

    /// The ids of this round's tombstones.
    pub(super) fn tombstones(&self) -> BTreeSet<EventHash> {
        let found = self.removals.iter().filter(|(_, proof)| **proof == RemovalProof::Tombstone);
        found.map(|(id, _)| *id).collect()
    }

    /// The series' entry, created if necessary. It is written with the next commit.
    pub(super) fn get_or_insert(&mut self, master: &EventId) -> &mut PendingSeries {
        let hash = master.hash();
        self.dirty.insert(PendingKey::Series(hash));
        self.series.entry(hash).or_insert_with(|| PendingSeries {
            master: master.clone(),
            needs_master: false,
            needs_listing: false,
            fetched: None,
            waiting: BTreeMap::new(),
            earlier: BTreeSet::new(),
            set_aside: false,
            findings: SeriesFindings::default(),
        })
    }

    /// The first series that can still be worked on in this attempt.
    pub(super) fn current(&mut self) -> Option<&mut PendingSeries> {
        self.series.values_mut().find(|series| !series.set_aside)
    }

    /// [`Self::current`], read-only.
    pub(super) fn current_ref(&self) -> Option<&PendingSeries> {
        self.series.values().find(|series| !series.set_aside)
    }

    /// Takes out the current series. The commit that completes it deletes its entries
    /// ([`PendingSeries::keys`]).
    pub(super) fn take_current(&mut self) -> Option<(EventHash, PendingSeries)> {
        let hash =
            self.series.iter().find(|(_, series)| !series.set_aside).map(|(hash, _)| *hash)?;
        self.series.remove(&hash).map(|series| (hash, series))
    }

    /// Adds an item that waits until its series is complete.
    pub(super) fn add_waiting(&mut self, master: &EventId, item: Item) {
        let id = item.id.hash();
        self.dirty.insert(PendingKey::Waiting(master.hash(), id));
        let series = self.get_or_insert(master);
        series.earlier.remove(&id);
        series.waiting.insert(id, item.apart());
    }

    /// Ends the round: items that still wait belong to an earlier round from now on.
    pub(super) fn end_round(&mut self) {
        for (master, series) in &mut self.series {
            for id in series.waiting.keys().filter(|id| !series.earlier.contains(*id)) {
                self.dirty.insert(PendingKey::Waiting(*master, *id));
            }
            series.earlier = series.waiting.keys().copied().collect();
        }
    }

    /// Drops a waiting item from an earlier page that a later page supersedes.
    pub(super) fn forget_waiting(&mut self, master: EventHash, id: EventHash) {
        if let Some(series) = self.series.get_mut(&master)
            && series.waiting.remove(&id).is_some()
        {
            self.dirty.insert(PendingKey::Waiting(master, id));
        }
    }

    /// The series under which an item with this id waits.
    pub(super) fn waiting_under(&self, id: EventHash) -> Option<EventHash> {
        self.series.iter().find(|(_, s)| s.waiting.contains_key(&id)).map(|(master, _)| *master)
    }

    /// Takes out the waiting items that a master with this etag completes.
    pub(super) fn take_completable(
        &mut self,
        master: EventHash,
        etag: &Option<Arc<str>>,
    ) -> Vec<Item> {
        let Some(series) = self.series.get_mut(&master) else { return Vec::new() };
        let (ready, waiting): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut series.waiting)
                .into_iter()
                .partition(|(_, item)| etags_match(&item.etag, etag) && needs_only_master(item));
        series.waiting = waiting;
        let whole = series.waiting.is_empty() && !series.needs_listing;
        self.dirty.extend(ready.keys().map(|id| PendingKey::Waiting(master, *id)));
        if whole {
            self.series.remove(&master);
            self.dirty.insert(PendingKey::Series(master));
        }
        ready.into_values().collect()
    }

    /// Adds a removal, which is published at the end of the round. Whatever found it, it counts as
    /// reported by a tombstone: an item on a page cancels it, a listing does not. So does one that is
    /// loaded from the store, because its proof is not stored.
    pub(super) fn add_removal(&mut self, id: EventHash) {
        self.removals.entry(id).or_insert(RemovalProof::Tombstone);
        self.dirty.insert(PendingKey::Removal(id));
    }

    /// Cancels a removal, because the event exists after all.
    pub(super) fn cancel_removal(&mut self, id: EventHash) {
        if self.removals.remove(&id).is_some() {
            self.dirty.insert(PendingKey::Removal(id));
        }
    }

    /// A tombstone reports this event: a removal that a listing found has its proof.
    pub(super) fn mark_tombstone(&mut self, id: EventHash) {
        self.removals.entry(id).and_modify(|proof| *proof = RemovalProof::Tombstone);
    }

    /// Defers a commit's removals, which a listing found, to the end of the round.
    pub(super) fn defer_removals(&mut self, commit: &mut Commit) {
        for removal in std::mem::take(&mut commit.removals) {
            if let Entry::Vacant(entry) = self.removals.entry(removal.id) {
                entry.insert(RemovalProof::Listing);
                self.dirty.insert(PendingKey::Removal(removal.id));
            }
        }
    }

    /// Finishes the removals that a commit performs, so that they are not performed and counted
    /// again at the end of the round.
    pub(super) fn finish_removals(&mut self, commit: &mut Commit) {
        for removal in &commit.removals {
            if self.removals.contains_key(&removal.id) {
                self.cancel_removal(removal.id);
                commit.finished_pending.push(PendingKey::Removal(removal.id));
            }
        }
    }

    /// Takes out the removals for which `stays` is false. The commit that publishes them deletes
    /// their entries.
    pub(super) fn take_removals(&mut self, stays: impl Fn(&EventHash) -> bool) -> Vec<EventHash> {
        self.removals.extract_if(.., |id, _| !stays(id)).map(|(id, _)| id).collect()
    }

    /// Adds to a commit the entries that differ from the store, and the keys of finished ones.
    pub(super) fn write(&mut self, commit: &mut Commit) {
        for key in std::mem::take(&mut self.dirty) {
            let entry = match key {
                PendingKey::Series(master) => self.series.get(&master).map(PendingSeries::entry),
                PendingKey::Waiting(master, id) => self.series.get(&master).and_then(|series| {
                    let item = series.waiting.get(&id)?.clone();
                    Some(PendingEntry::Waiting { item, earlier: series.earlier.contains(&id) })
                }),
                PendingKey::Removal(id) => {
                    self.removals.contains_key(&id).then_some(PendingEntry::Removal { id })
                }
            };
            match entry {
                Some(entry) => commit.pending.push(entry),
                None => commit.finished_pending.push(key),
            }
        }
    }
}

impl PendingSeries {
    fn entry(&self) -> PendingEntry {
        PendingEntry::Series {
            master: self.master.clone(),
            needs_master: self.needs_master,
            needs_listing: self.needs_listing,
        }
    }

    /// The full master from this round's pages, if all this round's occurrences have its etag.
    pub(super) fn carried_master(&self) -> Option<&Item> {
        let of_now = |id: &EventHash| !self.earlier.contains(id);
        let carried = self.waiting.get(&self.master.hash()).filter(|m| of_now(&m.id.hash()))?;
        let current = self
            .waiting
            .iter()
            .filter(|(id, item)| of_now(id) && item.kind == EventKind::Occurrence)
            .all(|(_, item)| etags_match(&item.etag, &carried.etag));
        (carried.kind == EventKind::Master && carried.full && current).then_some(carried)
    }

    /// Waiting occurrences and exceptions.
    pub(super) fn waiting_instances(&self) -> impl Iterator<Item = (&EventHash, &Item)> {
        let is_instance =
            |item: &Item| matches!(item.kind, EventKind::Occurrence | EventKind::Exception);
        self.waiting.iter().filter(move |(_, item)| is_instance(item))
    }

    /// The keys of all entries that the store has for the series.
    pub(super) fn keys(&self, master: EventHash) -> Vec<PendingKey> {
        let mut keys: Vec<PendingKey> =
            self.waiting.keys().map(|id| PendingKey::Waiting(master, *id)).collect();
        keys.push(PendingKey::Series(master));
        keys
    }
}

/// Whether an occurrence's etag is its master's. If either is missing, they count as equal.
pub(super) fn etags_match(occurrence: &Option<Arc<str>>, master: &Option<Arc<str>>) -> bool {
    match (occurrence, master) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    }
}

/// Whether an instance needs at most its master to be shown.
pub(super) fn needs_only_master(item: &Item) -> bool {
    item.full || item.kind == EventKind::Occurrence
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use jiff::Timestamp;

    use super::*;
    use crate::mirror::commit::Removal;
    use crate::mirror::page::Span;
    use crate::mirror::position::WindowId;

    #[test]
    fn a_waiting_item_does_not_keep_its_page_in_memory() {
        let page = Bytes::from(b"{\"id\":\"o\"}, and all other items".to_vec());
        let item = Item {
            id: EventId::new("o"),
            kind: EventKind::Occurrence,
            master: Some(EventId::new("m")),
            etag: None,
            span: Span { start: Timestamp::UNIX_EPOCH, end: Timestamp::UNIX_EPOCH },
            all_day: false,
            availability: None,
            full: false,
            content: page.slice(..10),
        };
        let mut pending = PendingWork::default();
        pending.add_waiting(&EventId::new("m"), item);
        assert!(page.is_unique());
    }

    #[test]
    fn a_cancelled_removal_discards_its_proof() {
        let id = EventId::new("a").hash();
        let mut pending = PendingWork::default();
        let mut commit = Commit::new(WindowId(7), 0, Timestamp::UNIX_EPOCH);
        commit.removals = vec![Removal::deleted(id)];
        pending.defer_removals(&mut commit);
        assert!(pending.removals().contains_key(&id) && pending.tombstones().is_empty());
        pending.cancel_removal(id);
        pending.add_removal(id);
        assert_eq!(pending.tombstones(), [id].into(), "the listing's removal was cancelled");
        pending.forget_tombstones();
        assert!(pending.tombstones().is_empty());
        pending.mark_tombstone(id);
        assert_eq!(pending.tombstones(), [id].into());
    }
}
