//! Handles a page: publishes its items at once, or keeps them pending until their series is
//! complete.

use super::{Round, Step};
use crate::mirror::commit::{Commit, SeenPage, StoredKind, StoredKinds};
use crate::mirror::page::{EventHash, EventId, EventKind, Item, Link, Page, PageEnd};
use crate::mirror::pending::etags_match;
use crate::mirror::position::Phase;
use crate::mirror::series;
use crate::mirror::status::ResyncReason;
use crate::mirror::window::Completion;

impl Round {
    pub(super) fn on_page(&mut self, page: Page, known: &StoredKinds) -> Step {
        let mut commit = self.commit();
        let empty =
            page.present.is_empty() && page.removed.is_empty() && page.unreadable.is_empty();
        // The first enumeration has nothing to sweep.
        if let Phase::Enumerating { page: number, reason, .. } = &self.progress.phase
            && *reason != ResyncReason::New
        {
            commit.seen = Some(SeenPage { page: *number, ids: seen_ids(&page) });
        }
        // Unreadable items exist too.
        for unread in page.unreadable.iter().filter_map(|u| u.id.as_ref()) {
            self.progress.pending.cancel_removal(unread.hash());
        }
        // Tombstones before masters, because masters release the instances that wait for them.
        for id in page.removed {
            self.tombstone(&id, known.get(&id.hash()));
        }
        // Masters first: a page that carries both completes its occurrences at once.
        let (masters, instances): (Vec<Item>, Vec<Item>) =
            page.present.into_iter().partition(|item| item.kind == EventKind::Master);
        for item in masters {
            self.page_master(item, known, &mut commit);
        }
        for item in instances {
            self.page_instance(item, known, &mut commit);
        }
        self.progress.pending.write(&mut commit);
        match page.end {
            PageEnd::Next(next) => {
                self.progress.phase = match self.progress.phase {
                    Phase::Enumerating { reason, page, .. } => {
                        Phase::Enumerating { next: Some(next), reason, page: page + 1 }
                    }
                    _ => Phase::Following { next },
                };
                self.write(commit)
            }
            PageEnd::Last => {
                let reason = self.reason().unwrap_or(ResyncReason::Snapshot);
                self.progress.phase = Phase::Sweeping { delta: None, reason };
                self.write(commit)
            }
            PageEnd::Delta(delta) => self.last_page(delta, empty, commit),
        }
    }

    /// Handles a master of a page.
    fn page_master(&mut self, item: Item, known: &StoredKinds, commit: &mut Commit) {
        let exact = self.context.complete == Completion::Exact;
        let swept = self.reason().is_some_and(|reason| reason != ResyncReason::New);
        if exact && !swept && matches!(known.get(&item.id.hash()), Some(StoredKind::Single)) {
            // A single event became a series: an exact window keeps no master in its place.
            self.progress.pending.add_removal(item.id.hash());
        }
        match self.reason() {
            Some(_) => self.enumerated_master(item, commit),
            None => self.wait(item),
        }
    }

    /// Handles a single event, occurrence or exception of a page.
    fn page_instance(&mut self, item: Item, known: &StoredKinds, commit: &mut Commit) {
        // An occurrence has the same content whichever request returned it.
        let item = series::stored_form(item, self.context.complete);
        let id = item.id.hash();
        self.progress.pending.cancel_removal(id);
        match (&item.master, item.kind) {
            (Some(master), EventKind::Occurrence | EventKind::Exception)
                if self.reason().is_some() =>
            {
                let master = master.clone();
                let stored = known.get(&master.hash());
                self.enumerated_instance(item, &master, stored, commit);
            }
            (Some(_), EventKind::Occurrence | EventKind::Exception) => self.wait(item),
            _ if matches!(known.get(&id), Some(StoredKind::Master { .. })) => {
                // A series became a single event under the master's id. Its occurrences are
                // removed first, and only a request for the master confirms it.
                let id = item.id.clone();
                self.wait(item);
                self.progress.pending.get_or_insert(&id).needs_master = true;
            }
            _ => commit.upserts.push(item),
        }
    }

    /// Ends the page that has the delta link; `empty` if the page is empty.
    fn last_page(&mut self, delta: Link, empty: bool, mut commit: Commit) -> Step {
        if let Some(reason) = self.reason() {
            self.progress.phase = Phase::Sweeping { delta: Some(delta), reason };
            if reason == ResyncReason::New && self.progress.pending.is_empty() {
                return self.judge_and_settle(commit);
            }
            return self.write(commit);
        }
        self.progress.phase = Phase::Completing { delta };
        let awaits_segments =
            self.context.has_other_segments && !self.progress.pending.removals().is_empty();
        if self.progress.pending.current().is_some() || awaits_segments {
            return self.write(commit);
        }
        commit.deferrable = empty && self.progress.pending.is_empty();
        self.judge_and_settle(commit)
    }

    /// Handles a master in an enumeration: completes the instances that wait for it; later ones
    /// find it in `masters_seen`.
    pub(super) fn enumerated_master(&mut self, item: Item, commit: &mut Commit) {
        if self.context.complete == Completion::Exact {
            return;
        }
        if !item.full {
            self.progress.pending.get_or_insert(&item.id).needs_master = true;
            return;
        }
        let id = item.id.hash();
        commit.upserts.extend(self.progress.pending.take_completable(id, &item.etag));
        self.progress.masters_seen.insert(id, item.etag.clone());
        commit.upserts.push(item);
    }

    /// Handles an occurrence or exception in an enumeration: published at once if its master was
    /// received or the stored one is current, else kept pending.
    pub(super) fn enumerated_instance(
        &mut self,
        item: Item,
        master: &EventId,
        stored: Option<&StoredKind>,
        commit: &mut Commit,
    ) {
        let exact = self.context.complete == Completion::Exact;
        let hash = master.hash();
        let complete = match item.kind {
            EventKind::Exception => item.full,
            // The plain listing has the exact content.
            _ if exact => item.full && self.uses_plain_pages(),
            // Only equal etags on both sides show that a stored master is current.
            _ => {
                self.progress
                    .masters_seen
                    .get(&hash)
                    .is_some_and(|etag| etags_match(&item.etag, etag))
                    || matches!(stored, Some(StoredKind::Master { etag: Some(etag) })
                        if self.uses_plain_pages() && item.etag.as_ref() == Some(etag))
            }
        };
        if complete {
            self.progress.pending.forget_waiting(hash, item.id.hash());
            commit.upserts.push(item);
            return;
        }
        let needs_listing = exact || item.kind == EventKind::Exception;
        let series = self.progress.pending.get_or_insert(master);
        series.needs_master |= !needs_listing;
        series.needs_listing |= needs_listing;
        self.progress.pending.add_waiting(master, item);
    }

    /// Keeps an item of a series pending, in an incremental round, until the series is complete.
    pub(super) fn wait(&mut self, item: Item) {
        let master = match (&item.master, item.kind) {
            (Some(master), EventKind::Occurrence | EventKind::Exception) => master.clone(),
            _ => item.id.clone(),
        };
        self.invalidate_series(&master);
        self.progress.pending.add_waiting(&master, item);
    }

    /// Marks a series for completion, because the mirror's state of it may be outdated.
    pub(super) fn invalidate_series(&mut self, master: &EventId) {
        let exact = self.context.complete == Completion::Exact;
        let series = self.progress.pending.get_or_insert(master);
        series.needs_master = !exact;
        series.needs_listing = true;
        series.set_aside = false;
    }

    pub(super) fn tombstone(&mut self, id: &EventId, known: Option<&StoredKind>) {
        let hash = id.hash();
        self.progress.pending.mark_tombstone(hash);
        // The tombstone overrides an item on an earlier page.
        if let Some(master) = self.progress.pending.waiting_under(hash) {
            self.progress.pending.forget_waiting(master, hash);
            self.progress.pending.add_removal(hash);
        }
        match known {
            None | Some(StoredKind::Unknown) => {}
            Some(StoredKind::Master { .. }) => self.invalidate_series(id),
            Some(StoredKind::Single) => self.progress.pending.add_removal(hash),
            Some(StoredKind::Instance { master }) => {
                // In an enumeration the pages and the sweep decide who is a member.
                if self.reason().is_none() {
                    self.invalidate_series(master);
                }
                self.progress.pending.add_removal(hash);
            }
        }
    }
}

/// The ids that a sweep keeps because of this page: all but those of masters and tombstones.
fn seen_ids(page: &Page) -> Vec<EventHash> {
    let present = page.present.iter().filter(|i| i.kind != EventKind::Master).map(|i| &i.id);
    let unreadable = page.unreadable.iter().filter_map(|u| u.id.as_ref());
    present.chain(unreadable).map(EventId::hash).collect()
}
