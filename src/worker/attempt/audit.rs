//! A drift audit: lists a whole window and repairs differences that two audits agree on.
//!
//! An audit lists every segment with the few members that [`mirror::audit`](crate::mirror::audit)
//! compares, and compares them with the mirror's rows. Ids are kept as hashes, so that an audit of
//! a large calendar needs little memory. Differences that are found twice are repaired: a single
//! event is fetched, and a series becomes a pending entry. If there are many, the window is
//! enumerated again, and its sweep is judged like any other. An audit without findings writes only
//! its time.

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::GraphError;
use crate::mirror::audit::{BULK_REPAIR_MIN, EventDigest, SELECT, SuspectedDrift, differ};
use crate::mirror::commit::{Commit, Removal};
use crate::mirror::page::{EventHash, EventId, EventKind, Item, Link, Span};
use crate::mirror::position::{PendingEntry, Phase, SegmentIndex};
use crate::mirror::series::{self, ListedInstances};
use crate::mirror::stall::MAX_EMPTY_PAGES;
use crate::mirror::status::ResyncReason;
use crate::mirror::window::{Completion, Edges};
use crate::store::AuditRow;

use super::series::{MAX_EVENTS, VIEW_PAGE_SIZE};
use super::{Attempt, AttemptError};

/// The result of an audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::worker) enum AuditOutcome {
    /// Nothing differs, or earlier differences are gone.
    Clean,
    /// Something differs. The next round may explain it; a second audit confirms it.
    Suspicious,
    /// Differences were confirmed; the next round does the pending work.
    Repaired,
    /// The listing does not end.
    Unavailable,
}

/// The listing of one segment.
#[derive(Default)]
struct AuditListing {
    events: BTreeMap<EventHash, ListedEvent>,
    /// Unreadable events: they exist, and nothing else is known of them.
    unreadable: BTreeSet<EventHash>,
    /// Some unreadable events have no id, so no row counts as missing.
    has_unidentified: bool,
}

/// What is compared of a listed event, and what its repair needs if it is suspected.
type ListedEvent = (EventDigest, Option<Box<DriftSubject>>);

/// The event that a difference is about.
struct DriftSubject {
    id: EventId,
    master: Option<EventId>,
    span: Span,
}

/// A confirmed difference.
struct Drift {
    segment: SegmentIndex,
    edges: Edges,
    listed: Option<Box<DriftSubject>>,
    row: Option<AuditRow>,
}

/// The masters of series that differ.
type DriftedSeries = BTreeMap<(SegmentIndex, EventHash), EventId>;

impl Attempt<'_> {
    /// Audits the window: a first audit if nothing is suspected, else the second.
    pub(in crate::worker) async fn audit(
        &mut self,
        suspects: &mut SuspectedDrift,
    ) -> Result<AuditOutcome, AttemptError> {
        let segments = self.context.handle.lock().segments();
        let (mut found, mut confirmed) = (SuspectedDrift::default(), Vec::new());
        for (segment, edges) in (0..).zip(&segments) {
            if edges.is_empty() || !self.is_followed(segment).await? {
                continue;
            }
            let wanted = |id| suspects.has(segment, id);
            let Some(mut listing) = self.list_segment(*edges, wanted).await? else {
                return Ok(AuditOutcome::Unavailable);
            };
            let mut judge = |id, row: Option<AuditRow>, listed: Option<ListedEvent>| {
                let mirrored = row.as_ref().map(|row| row.digest);
                let digest = listed.as_ref().map(|(digest, _)| digest);
                if differ(*edges, mirrored.as_ref(), digest) {
                    found.add(segment, id, mirrored);
                    if suspects.confirm(segment, id, mirrored) {
                        let listed = listed.and_then(|(_, subject)| subject);
                        confirmed.push(Drift { segment, edges: *edges, listed, row });
                    }
                }
            };
            let mut after = None;
            loop {
                self.check_stopped()?;
                let store = &self.context.services.store;
                let (rows, next) = store.audit_rows(self.context.id, segment, after).await?;
                for row in rows {
                    let listed = listing.events.remove(&row.id);
                    if !listing.unreadable.contains(&row.id)
                        && (listed.is_some() || !listing.has_unidentified)
                    {
                        judge(row.id, Some(row), listed);
                    }
                }
                after = next;
                if after.is_none() {
                    break;
                }
            }
            for (id, listed) in listing.events {
                if !listing.unreadable.contains(&id) {
                    judge(id, None, Some(listed));
                }
            }
        }
        if suspects.is_empty() && !found.is_empty() {
            tracing::debug!(differences = found.len(), "drift audit waits for the next round");
            *suspects = found;
            return Ok(AuditOutcome::Suspicious);
        }
        let outcome =
            if confirmed.is_empty() { AuditOutcome::Clean } else { AuditOutcome::Repaired };
        let differences = self.repair(confirmed).await?;
        self.record_audit(differences).await?;
        *suspects = SuspectedDrift::default();
        Ok(outcome)
    }

    /// Whether the segment is followed by delta and up to date. Other segments are not compared.
    async fn is_followed(&self, segment: SegmentIndex) -> Result<bool, AttemptError> {
        let position = self.context.services.store.position(self.context.id, segment).await?;
        Ok(position.is_some_and(|p| {
            matches!(p.phase, Phase::Settled { delta: Some(_) }) && !p.has_pending
        }))
    }

    /// Lists a segment. Ids are kept only for events that are `wanted`. `None` if the listing does
    /// not end.
    async fn list_segment(
        &mut self,
        edges: Edges,
        wanted: impl Fn(EventHash) -> bool,
    ) -> Result<Option<AuditListing>, AttemptError> {
        let mut listing = AuditListing::default();
        let (mut count, mut empties) = (0, 0);
        let mut next: Option<Link> = None;
        loop {
            let (page, more) = self.list(edges, Some(SELECT), next.as_ref()).await?;
            let empty = page.items.is_empty() && page.unreadable.is_empty();
            listing.unreadable.extend(page.unreadable);
            listing.has_unidentified |= page.has_unidentified;
            for item in page.items.into_iter().filter(|item| item.kind != EventKind::Master) {
                let (hash, digest) = (item.id.hash(), EventDigest::of(&item));
                let Item { id, master, span, .. } = item;
                let subject = || Box::new(DriftSubject { id, master, span });
                listing.events.insert(hash, (digest, wanted(hash).then(subject)));
            }
            next = more;
            if next.is_none() {
                return Ok(Some(listing));
            }
            let before =
                std::mem::replace(&mut count, listing.events.len() + listing.unreadable.len());
            empties = if empty { empties + 1 } else { 0 };
            if (!empty && count == before) || empties > MAX_EMPTY_PAGES || count > MAX_EVENTS {
                tracing::warn!(events = count, "plain listing does not end");
                return Ok(None);
            }
        }
    }

    /// A page of a plain listing with the members in `select`, or all; and the next link.
    async fn list(
        &mut self,
        edges: Edges,
        select: Option<&str>,
        next: Option<&Link>,
    ) -> Result<(ListedInstances, Option<Link>), AttemptError> {
        let (client, target, mut options) = self.request_parts();
        if select.is_some() {
            options.page_size = VIEW_PAGE_SIZE;
        }
        let page = self
            .fetch(|fresh| client.calendar_view(target, &options, edges, select, next, fresh))
            .await?;
        let has_unidentified = page.unreadable.iter().any(|unread| unread.id.is_none());
        let unreadable = page.unreadable.into_iter().filter_map(|unread| unread.id);
        let unreadable = unreadable.map(|id| id.hash()).collect();
        Ok((ListedInstances { items: page.items, unreadable, has_unidentified }, page.next))
    }

    /// Repairs confirmed differences; returns how many there were.
    async fn repair(&mut self, confirmed: Vec<Drift>) -> Result<u64, AttemptError> {
        let mut differences = confirmed.len() as u64;
        let (mut drifted, mut singles) = (DriftedSeries::new(), Vec::new());
        for finding in confirmed {
            let masters = [
                finding.listed.as_ref().and_then(|subject| subject.master.clone()),
                finding.row.as_ref().and_then(|row| row.master.clone()),
            ];
            if masters.iter().all(Option::is_none) {
                singles.push(finding);
                continue;
            }
            for master in masters.into_iter().flatten() {
                drifted.insert((finding.segment, master.hash()), master);
            }
        }
        if drifted.len() + singles.len() >= BULK_REPAIR_MIN {
            tracing::warn!(differences, "drift audit found many differences, enumerating again");
            self.begin_resyncs(ResyncReason::Drift).await?;
        } else {
            let (series, single_events) = (drifted.len(), singles.len());
            differences -= self.repair_singles(singles, &mut drifted).await?;
            for ((segment, _), master) in drifted {
                self.add_pending_series(segment, master).await?;
            }
            if differences > 0 {
                tracing::warn!(
                    differences,
                    series,
                    singles = single_events,
                    "drift audit repairs differences"
                );
            }
        }
        Ok(differences)
    }

    /// Fetches single events that differ and removes those that are gone; adds to `series` those
    /// that belong to one. Returns how many differences turned out to be none.
    async fn repair_singles(
        &mut self,
        singles: Vec<Drift>,
        series: &mut DriftedSeries,
    ) -> Result<u64, AttemptError> {
        let mut spurious = 0;
        let mut upserts = Vec::new();
        let mut removals = Vec::new();
        for Drift { segment, edges, listed, row } in singles {
            match (listed, row) {
                (Some(subject), _) => match self.single(&subject).await? {
                    Some(item) if item.id != subject.id => spurious += 1,
                    Some(item) if item.kind == EventKind::Single => {
                        if series::inside(edges, item.span, item.all_day) != Some(false) {
                            upserts.push((segment, item));
                        }
                    }
                    Some(Item { master: Some(master), .. })
                    | Some(Item { id: master, kind: EventKind::Master, .. }) => {
                        series.insert((segment, master.hash()), master);
                    }
                    // Gone since, or not an event that can be shown: the next round decides.
                    _ => spurious += 1,
                },
                // A listing of a whole window may skip an event while others are added or removed.
                (None, Some(row))
                    if self.listed(row.digest.span, row.id, Some("id")).await?.is_some() =>
                {
                    spurious += 1;
                }
                (None, Some(row)) => removals.push((segment, row.id)),
                (None, None) => {}
            }
        }
        // Before the removals, because an event may have moved from one segment to another.
        for (segment, item) in upserts {
            let mut commit = Commit::new(self.context.id, segment, self.context.services.env.now());
            commit.upserts.push(item);
            self.commit(commit).await?;
        }
        for (segment, id) in removals {
            let mut commit = Commit::new(self.context.id, segment, self.context.services.env.now());
            commit.removals.push(Removal::deleted(id));
            self.commit(commit).await?;
        }
        Ok(spurious)
    }

    /// An event with its content. One that is listed but not found by its id is a private one of
    /// another mailbox (fact 180): its content comes from a listing.
    async fn single(&mut self, subject: &DriftSubject) -> Result<Option<Item>, AttemptError> {
        match self.event(&subject.id).await? {
            Some(item) => Ok(Some(item)),
            None => Ok(self.listed(subject.span, subject.id.hash(), None).await?.flatten()),
        }
    }

    /// An event from a listing of its own days (a page or two), with the members in `select`, or
    /// all. `None` if it is not listed, `Some(None)` if it is listed but unreadable.
    async fn listed(
        &mut self,
        span: Span,
        id: EventHash,
        select: Option<&str>,
    ) -> Result<Option<Option<Item>>, AttemptError> {
        let days = series::widen(Edges { start: span.start, end: span.end }, 1);
        for part in days.segments() {
            let mut next: Option<Link> = None;
            loop {
                let (page, more) = self.list(part, select, next.as_ref()).await?;
                if page.has(&id) {
                    return Ok(Some(page.items.into_iter().find(|item| item.id.hash() == id)));
                }
                if more.is_none() || page.items.is_empty() && page.unreadable.is_empty() {
                    break;
                }
                next = more;
            }
        }
        Ok(None)
    }

    async fn event(&mut self, id: &EventId) -> Result<Option<Item>, AttemptError> {
        let (client, target, options) = self.request_parts();
        let (client, target, options) = (&client, &target, &options);
        let read = |fresh| async move {
            match client.event(target, options, id, fresh).await {
                Err(error @ GraphError::Malformed(_)) => {
                    tracing::debug!(kind = error.class().as_str(), "event could not be read");
                    Ok(None)
                }
                result => result,
            }
        };
        self.fetch(read).await
    }

    /// Makes a series a pending entry, which the next round handles before its first page.
    pub(super) async fn add_pending_series(
        &mut self,
        segment: SegmentIndex,
        master: EventId,
    ) -> Result<(), AttemptError> {
        self.check_stopped()?;
        let Some(mut position) =
            self.context.services.store.position(self.context.id, segment).await?
        else {
            return Ok(());
        };
        position.has_pending = true;
        let mut commit = Commit::new(self.context.id, segment, self.context.services.env.now());
        let needs_master = self.context.window.settings.complete == Completion::Master;
        commit.pending.push(PendingEntry::Series { master, needs_master, needs_listing: true });
        commit.position = Some(position);
        self.context.services.store.commit(commit).await?;
        Ok(())
    }

    /// Records the finished audit.
    async fn record_audit(&mut self, differences: u64) -> Result<(), AttemptError> {
        let now = self.context.services.env.now();
        let mut commit = Commit::new(self.context.id, 0, now);
        commit.counters.audit = Some(differences);
        if differences == 0 {
            commit.deferrable = true;
            self.context.services.store.submit(commit).await?;
        } else {
            self.context.services.store.commit(commit).await?;
        }
        self.context.handle.lock().audits.end(now, differences);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{NOON, window};
    use crate::worker::tests::{WorkerFixture, delta, event, list, next};

    /// A round finds the events `a` and `b`; then the window is audited.
    #[tokio::test(start_paused = true)]
    async fn a_difference_is_repaired_once_two_audits_agree() {
        use AuditOutcome::{Clean, Repaired, Suspicious, Unavailable};
        let (a, b) = (|| event("a", 3), || event("b", 4));
        let without_b = || list(&[a()]);
        let cases = [
            (
                "missing in both, and on its own days",
                vec![without_b(), without_b(), list(&[])],
                vec![Suspicious, Repaired],
                (1, 1),
            ),
            (
                "missing in both, but not on its own days",
                vec![without_b(), without_b(), list(&[b()])],
                vec![Suspicious, Repaired],
                (2, 0),
            ),
            (
                "missing in the first only",
                vec![without_b(), list(&[a(), b()])],
                vec![Suspicious, Clean],
                (2, 0),
            ),
            ("no difference", vec![list(&[a(), b()])], vec![Clean], (2, 0)),
            (
                "a listing without end",
                vec![next(&[a()], 1), next(&[a()], 2)],
                vec![Unavailable],
                (2, 0),
            ),
        ];
        for (case, listings, outcomes, (events, differences)) in cases {
            let answers = std::iter::once(delta(&[a(), b()])).chain(listings);
            let fixture = WorkerFixture::new(window("alice"), answers).await;
            fixture.run().await;
            fixture.handle.lock().audits.begin(NOON);
            let mut suspects = SuspectedDrift::default();
            for outcome in outcomes {
                let audited = fixture.attempt().audit(&mut suspects).await.unwrap();
                assert_eq!(audited, outcome, "{case}");
                assert_eq!(suspects.is_empty(), outcome != Suspicious, "{case}");
            }
            assert_eq!(fixture.events(), events, "{case}");
            let record = fixture.handle.lock().audits.record();
            assert_eq!(record.map_or(0, |record| record.differences), differences, "{case}");
        }
    }
}
