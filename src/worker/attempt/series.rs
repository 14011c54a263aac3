//! What Graph is asked of one series: its master, its instances. A fault that stays with them is no
//! reason to keep the rest of the calendar waiting.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Attempt, AttemptError};
use crate::graph;
use crate::mirror::page::{EventHash, EventId, EventKind, Item, Link};
use crate::mirror::position::SegmentIndex;
use crate::mirror::round::RoundInput;
use crate::mirror::series::{self, ListedInstances, PresenceRequest, SeriesMember, ViewRequest};
use crate::mirror::window::{Completion, Edges};
use crate::mirror::{audit, stall};
use crate::store::SeriesRow;

/// More instances than this no series has within a segment; a listing that yields more is lying.
const MAX_INSTANCES: usize = 50_000;
/// More events than this no segment has.
const MAX_EVENTS: usize = 500_000;
/// Events on a page of a view without contents, the most that Graph allows (fact 38).
const VIEW_PAGE_SIZE: u32 = 1000;
/// What a listing keeps in memory at most; a series of 1,000 whole exceptions comes to about 5 MiB.
const MAX_BYTES: usize = 128 * 1024 * 1024;
/// So many times a series is listed in search of two listings that agree.
const MAX_LISTINGS: u32 = 4;

/// Where a listing comes from.
#[derive(Clone, Copy)]
enum ListingSource<'a> {
    /// The instances of this series.
    Instances(&'a EventId),
    /// Plain `calendarView`.
    View(&'a ViewRequest),
    /// The same without contents, of all events: only which there are.
    All,
}

impl ListingSource<'_> {
    fn wants(self, item: &Item) -> bool {
        match self {
            Self::Instances(_) => true,
            Self::View(request) => request.matches(item),
            Self::All => false,
        }
    }

    fn most(self) -> usize {
        match self {
            Self::Instances(_) => MAX_INSTANCES,
            Self::View(_) | Self::All => MAX_EVENTS,
        }
    }
}

/// A listing that came to its end.
struct SeriesListing {
    listed: ListedInstances,
    /// The ids that were asked for and are there, readable or not.
    met: BTreeSet<EventHash>,
    present: ListedIds,
    pages: u32,
}

/// Which events a listing names, readable or not. As in a sweep, an item without a name is none of
/// those that are missed.
#[derive(Default)]
pub(super) struct ListedIds {
    events: BTreeSet<EventHash>,
    /// The masters of the series among them.
    masters: BTreeSet<EventHash>,
}

impl ListedIds {
    fn has_any_of(&self, request: &PresenceRequest) -> bool {
        request.master.as_ref().is_some_and(|id| self.masters.contains(&id.hash()))
            || !self.events.is_disjoint(&request.ids)
    }

    fn add(&mut self, other: Self) {
        self.events.extend(other.events);
        self.masters.extend(other.masters);
    }
}

enum SeriesOutcome {
    Listed(ListedInstances, Vec<SeriesMember>),
    NotFound,
    Unavailable,
}

impl Attempt<'_> {
    pub(super) async fn master(
        &mut self,
        id: &EventId,
        edges: Edges,
    ) -> Result<RoundInput, AttemptError> {
        let (client, target, options) = self.request_parts();
        // A series that is gone takes its instances with it for good. So the answer has to come
        // twice, and in between the calendar has to answer.
        for missed in [false, true] {
            let found =
                self.fetch_for_series(|fresh| client.event(target, &options, id, fresh)).await?;
            match found {
                Some(Some(master)) => return Ok(RoundInput::Master(Some(master))),
                Some(None) if missed => break,
                Some(None) => self.probe(edges).await?,
                None => return Ok(RoundInput::Unavailable),
            }
        }
        Ok(RoundInput::Master(None))
    }

    /// A series' listing, and the mirror's rows of it.
    pub(super) async fn instances(
        &mut self,
        segment: SegmentIndex,
        master: &EventId,
        edges: Edges,
    ) -> Result<RoundInput, AttemptError> {
        // One day wider than the segment on both sides (fact 80).
        let wide = series::widen(edges, 1);
        let found = self.agreed(segment, master, ListingSource::Instances(master), wide).await?;
        Ok(match found {
            SeriesOutcome::Listed(listed, rows) => RoundInput::Instances(Some((listed, rows))),
            SeriesOutcome::NotFound => RoundInput::Instances(None),
            SeriesOutcome::Unavailable => RoundInput::Unavailable,
        })
    }

    /// What a plain `calendarView` says about a series, and the mirror's rows of it.
    pub(super) async fn view(
        &mut self,
        segment: SegmentIndex,
        request: &ViewRequest,
    ) -> Result<RoundInput, AttemptError> {
        let source = ListingSource::View(request);
        let found = self.agreed(segment, &request.master, source, request.edges).await?;
        Ok(match found {
            SeriesOutcome::Listed(listed, rows) => RoundInput::Viewed(listed, rows),
            SeriesOutcome::NotFound | SeriesOutcome::Unavailable => RoundInput::Unavailable,
        })
    }

    /// Whether a plain `calendarView` has any of these events: of the segment, or of the whole window
    /// where a series is asked for, as all that is left of it may have moved to another segment.
    ///
    /// All series of a round are answered from one view: what it lacks was not there after the
    /// round's last page, and what has come back since then is on the next round's pages. A view
    /// of several pages is no snapshot, so what one of two has is there.
    pub(super) async fn presence(
        &mut self,
        request: &PresenceRequest,
        segment: Edges,
    ) -> Result<RoundInput, AttemptError> {
        let edges = match request.master {
            Some(_) => self.handle.lock().edges,
            None => segment,
        };
        if self.listed_ids.as_ref().is_none_or(|(viewed, _)| *viewed != edges) {
            let mut present = ListedIds::default();
            for _ in 0..2 {
                // One day wider on both sides (fact 80).
                match self.listing(ListingSource::All, series::widen(edges, 1)).await? {
                    Ok(listing) => {
                        present.add(listing.present);
                        if listing.pages == 1 {
                            break;
                        }
                    }
                    Err(_) => return Ok(RoundInput::Unavailable),
                }
            }
            self.listed_ids = Some((edges, present));
        }
        let has_any = |(_, present): &(Edges, ListedIds)| present.has_any_of(request);
        Ok(RoundInput::Presence(self.listed_ids.as_ref().is_some_and(has_any)))
    }

    /// A listing, and the mirror's rows of the series that it is about.
    ///
    /// Plain pages are no snapshot: a series that changes between two of them shifts what the
    /// next one skips, and an instance that is there may stand on none. So where a listing of
    /// several pages lacks what the mirror has, another has to lack it too.
    async fn agreed(
        &mut self,
        segment: SegmentIndex,
        master: &EventId,
        source: ListingSource<'_>,
        edges: Edges,
    ) -> Result<SeriesOutcome, AttemptError> {
        let mut before: Option<BTreeSet<EventHash>> = None;
        for _ in 0..MAX_LISTINGS {
            let SeriesListing { listed, met, pages, .. } = match self.listing(source, edges).await?
            {
                Ok(listing) => listing,
                Err(outcome) => return Ok(outcome),
            };
            let rows = self.rows(segment, master).await?;
            let lacks = match source {
                ListingSource::View(request) if request.ids_only => !request.ids.is_subset(&met),
                _ => rows.iter().any(|row| !met.contains(&row.id)),
            };
            if pages == 1 || !lacks || before.as_ref() == Some(&met) {
                return Ok(SeriesOutcome::Listed(listed, rows));
            }
            before = Some(met);
        }
        tracing::debug!("series changes faster than it can be listed");
        Ok(SeriesOutcome::Unavailable)
    }

    /// All pages of a listing, in stretches that Graph answers for.
    async fn listing(
        &mut self,
        source: ListingSource<'_>,
        edges: Edges,
    ) -> Result<Result<SeriesListing, SeriesOutcome>, AttemptError> {
        let (mut pages, mut empties, mut bytes) = (0, 0, 0);
        let mut listed = ListedInstances::default();
        let mut present = ListedIds::default();
        let mut met: BTreeSet<EventHash> = BTreeSet::new();
        let longest = self.handle.lock().segment_days();
        for stretch in edges.cut(longest) {
            let mut next: Option<Link> = None;
            loop {
                let listing = match self.listing_page(source, stretch, next.as_ref()).await? {
                    Some(Some(listing)) => listing,
                    // Only the master can tell whether the series is gone.
                    Some(None) => return Ok(Err(SeriesOutcome::NotFound)),
                    None => return Ok(Err(SeriesOutcome::Unavailable)),
                };
                pages += 1;
                let before = present.events.len();
                let empty = listing.items.is_empty() && listing.unreadable.is_empty();
                for unreadable in &listing.unreadable {
                    tracing::warn!(reason = unreadable.reason, "listed instance could not be read");
                    match &unreadable.id {
                        Some(id) => {
                            present.events.insert(id.hash());
                            met.insert(id.hash());
                            listed.unreadable.insert(id.hash());
                        }
                        None => listed.has_unidentified = true,
                    }
                }
                for item in listing.items {
                    present.events.insert(item.id.hash());
                    present.masters.extend(item.master.as_ref().map(EventId::hash));
                    if source.wants(&item) {
                        met.insert(item.id.hash());
                        let item = self.kept(source, item);
                        bytes += item.content.len();
                        listed.items.push(item);
                    }
                }
                next = listing.next;
                if next.is_none() {
                    break;
                }
                // Ever new links with nothing new behind them would have no end (fact 172).
                // Empty pages may come in between (fact 56), but not for ever.
                empties = if empty { empties + 1 } else { 0 };
                if (!empty && present.events.len() == before)
                    || empties > stall::MAX_EMPTY_PAGES
                    || present.events.len() > source.most()
                    || bytes > MAX_BYTES
                {
                    tracing::warn!(
                        instances = present.events.len(),
                        "listing of a series does not end"
                    );
                    return Ok(Err(SeriesOutcome::Unavailable));
                }
            }
        }
        Ok(Ok(SeriesListing { listed, met, present, pages }))
    }

    /// What is kept of a listed item until its series is applied. A slice would keep the whole
    /// page; and an occurrence that its master completes is applied bare.
    fn kept(&self, source: ListingSource<'_>, item: Item) -> Item {
        let completed =
            self.window.complete == Completion::Master && item.kind == EventKind::Occurrence;
        match source {
            ListingSource::Instances(_) if completed => series::strip_to_stub(item),
            _ => Item { content: Bytes::copy_from_slice(&item.content), ..item },
        }
    }

    /// One page of a listing. `None`: it cannot be had now; `Some(None)`: there is no such series.
    async fn listing_page(
        &mut self,
        source: ListingSource<'_>,
        edges: Edges,
        next: Option<&Link>,
    ) -> Result<Option<Option<graph::ListPage>>, AttemptError> {
        let (client, target, mut options) = self.request_parts();
        let select = match source {
            ListingSource::Instances(master) => {
                return self
                    .fetch_for_series(|fresh| {
                        client.instances(target, &options, master, edges, next, fresh)
                    })
                    .await;
            }
            ListingSource::View(_) => None,
            ListingSource::All => {
                options.page_size = VIEW_PAGE_SIZE;
                Some(audit::SELECT)
            }
        };
        let page = self
            .fetch_for_series(|fresh| {
                client.calendar_view(target, &options, edges, select, next, fresh)
            })
            .await?;
        Ok(page.map(Some))
    }

    pub(super) async fn rows(
        &self,
        segment: SegmentIndex,
        master: &EventId,
    ) -> Result<Vec<SeriesMember>, AttemptError> {
        let rows = self.services.store.series(self.id, segment, master.hash()).await?;
        let row = |SeriesRow { id, kind, span }| SeriesMember { id, kind, span };
        Ok(rows.into_iter().map(row).collect())
    }
}
