//! What Graph is asked of one series: its master, its instances. A fault that stays with them is no
//! reason to keep the rest of the calendar waiting.

use std::collections::BTreeSet;

use super::{Attempt, Trouble};
use crate::graph::{Class, GraphError};
use crate::mirror::guard;
use crate::mirror::page::{EventHash, EventId, Link};
use crate::mirror::position::SegmentIndex;
use crate::mirror::round::Input;
use crate::mirror::schedule;
use crate::mirror::series::{self, Listed, Row};
use crate::mirror::window::Edges;

/// More instances than this no series has within a segment; a listing that yields more is lying.
const MOST_INSTANCES: usize = 50_000;
/// What a listing keeps in memory at most; a series of 1,000 whole exceptions comes to about 5 MiB.
const MOST_BYTES: usize = 128 * 1024 * 1024;
/// So many times a series is listed in search of two listings that agree.
const MOST_LISTINGS: u32 = 4;

impl Attempt<'_> {
    pub(super) async fn master(&mut self, id: &EventId, edges: Edges) -> Result<Input, Trouble> {
        let mut missed = false;
        loop {
            match self.services.client.event(self.target, &self.ask, id, self.retries > 0).await {
                Ok(Some(found)) => return Ok(Input::Master(Some(found))),
                Ok(None) if missed => return Ok(Input::Master(None)),
                // What it takes with it never comes again, so it is said twice, and in between
                // the calendar was there.
                Ok(None) => {
                    self.probe(edges).await?;
                    missed = true;
                }
                Err(error) => {
                    if self.retry_or_leave(error).await? {
                        return Ok(Input::Unavailable);
                    }
                }
            }
        }
    }

    /// A series' listing, and the mirror's rows of it.
    ///
    /// Plain pages are no snapshot: a series that changes between two of them shifts what the
    /// next one skips, and an instance that is there may stand on none. So where a listing of
    /// several pages lacks what the mirror has, another has to lack it too.
    pub(super) async fn instances(
        &mut self,
        segment: SegmentIndex,
        master: &EventId,
        edges: Edges,
    ) -> Result<Input, Trouble> {
        let mut before: Option<BTreeSet<EventHash>> = None;
        for _ in 0..MOST_LISTINGS {
            let (listed, met, pages) = match self.listing(master, edges).await? {
                Ok(listing) => listing,
                Err(input) => return Ok(input),
            };
            let rows = self.rows(segment, master).await?;
            let lacks = rows.iter().any(|row| !met.contains(&row.id));
            if pages == 1 || !lacks || before.as_ref() == Some(&met) {
                return Ok(Input::Instances(Some((listed, rows))));
            }
            before = Some(met);
        }
        tracing::debug!("series changes faster than it can be listed");
        Ok(Input::Unavailable)
    }

    /// All pages of a series' listing, asked one day wider than the segment on both sides, in
    /// stretches that Graph answers for: what it lists, all ids it named, and on how many pages.
    async fn listing(
        &mut self,
        master: &EventId,
        edges: Edges,
    ) -> Result<Result<(Listed, BTreeSet<EventHash>, u32), Input>, Trouble> {
        let (mut pages, mut empties, mut bytes) = (0, 0, 0);
        let mut listed = Listed::default();
        let mut met: BTreeSet<EventHash> = BTreeSet::new();
        let longest = self.cell.vitals().segment_days();
        for stretch in series::widen(edges, 1).cut(longest) {
            let mut next: Option<Link> = None;
            loop {
                let fresh = self.retries > 0;
                let asked = self.services.client.instances(
                    self.target,
                    &self.ask,
                    master,
                    stretch,
                    next.as_ref(),
                    fresh,
                );
                match asked.await {
                    Ok(Some(listing)) => {
                        pages += 1;
                        let before = met.len();
                        let empty = listing.items.is_empty() && listing.unreadable.is_empty();
                        met.extend(listing.items.iter().map(|item| item.id.hash()));
                        for unreadable in &listing.unreadable {
                            tracing::warn!(
                                reason = unreadable.why,
                                "listed instance could not be read"
                            );
                            match &unreadable.id {
                                Some(id) => drop(listed.unread.insert(id.hash())),
                                None => listed.nameless = true,
                            }
                        }
                        met.extend(listed.unread.iter().copied());
                        bytes += listing.items.iter().map(|item| item.content.len()).sum::<usize>();
                        listed.items.extend(listing.items);
                        next = listing.next;
                        if next.is_none() {
                            break;
                        }
                        // Ever new links with nothing new behind them would have no end (fact 172).
                        // Empty pages may come in between (fact 56), but not for ever.
                        empties = if empty { empties + 1 } else { 0 };
                        if (!empty && met.len() == before)
                            || empties > guard::MOST_EMPTY
                            || met.len() > MOST_INSTANCES
                            || bytes > MOST_BYTES
                        {
                            tracing::warn!(
                                instances = met.len(),
                                "listing of a series does not end"
                            );
                            return Ok(Err(Input::Unavailable));
                        }
                    }
                    // Only the master can tell whether the series is gone.
                    Ok(None) => return Ok(Err(Input::Instances(None))),
                    Err(error) => {
                        if self.retry_or_leave(error).await? {
                            return Ok(Err(Input::Unavailable));
                        }
                    }
                }
            }
        }
        Ok(Ok((listed, met, pages)))
    }

    pub(super) async fn rows(
        &self,
        segment: SegmentIndex,
        master: &EventId,
    ) -> Result<Vec<Row>, Trouble> {
        let rows = self.services.store.series(self.id, segment, master.hash()).await?;
        Ok(rows.into_iter().map(|row| Row { id: row.id }).collect())
    }

    /// Like [`Self::retry`], for what concerns one series only: a fault that stays is no reason
    /// to keep the rest of the calendar waiting. True: leave it on the to-do.
    async fn retry_or_leave(&mut self, error: GraphError) -> Result<bool, Trouble> {
        let lasting = matches!(
            error.class(),
            Class::MalformedPage
                | Class::TooLarge
                | Class::LinkDead
                | Class::NotFound
                | Class::Quarantine(_)
                | Class::SegmentTooLong
        );
        if lasting
            || (error.class() == Class::Transient
                && !error.is_of_account()
                && self.retries >= schedule::RETRIES)
        {
            tracing::debug!(
                kind = error.kind(),
                status = error.status(),
                "series cannot be completed now"
            );
            return Ok(true);
        }
        self.retry(error).await.map(|()| false)
    }
}
