//! Requests about one series: its master, its instances, and plain views that confirm absences.
//! An error that concerns only the series does not delay the rest of the calendar.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Attempt, AttemptError};
use crate::graph;
use crate::mirror::page::{EventHash, EventId, EventKind, Item, Link};
use crate::mirror::position::SegmentIndex;
use crate::mirror::round::RoundInput;
use crate::mirror::series::{
    self, ListedInstances, ListedSeries, PresenceRequest, SeriesMember, ViewRequest,
};
use crate::mirror::window::{Completion, Edges};
use crate::mirror::{audit, stall};

/// No series has more instances than this within a segment; a longer listing is wrong.
const MAX_INSTANCES: usize = 50_000;
/// No segment has more events than this; a longer listing is wrong.
pub(super) const MAX_EVENTS: usize = 500_000;
/// Events on a page of a view without contents; the most that Graph allows (fact 38).
pub(super) const VIEW_PAGE_SIZE: u32 = 1000;
/// The most that a listing keeps in memory; a series of 1,000 full exceptions takes about 5 MiB.
const MAX_BYTES: usize = 128 * 1024 * 1024;
/// How often a series is listed to find two listings that agree.
const MAX_LISTINGS: u32 = 4;

/// The request that a listing is made with.
#[derive(Clone, Copy)]
enum ListingSource<'a> {
    /// The instances of this series.
    Instances(&'a EventId),
    /// A plain `calendarView`, of which the matching items are kept.
    View(&'a ViewRequest),
    /// A plain `calendarView` of all events without contents, which only tells what exists.
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
}

/// A complete listing.
struct SeriesListing {
    /// The wanted events.
    listed: ListedInstances,
    present: ListedIds,
    pages: u32,
}

/// The events that a listing contains, readable or not. An item without a readable id is not
/// counted: as in a sweep, it does not stand for any event.
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

/// Why a request about a series has no result.
#[derive(Debug)]
pub(super) enum SeriesError {
    /// Graph has no instances of such a series. Only a request for the master shows whether it is
    /// gone.
    NotFound,
    /// The error concerns only the series, which stays pending.
    Unavailable,
    /// The attempt ends.
    Attempt(AttemptError),
}

impl From<AttemptError> for SeriesError {
    fn from(error: AttemptError) -> Self {
        Self::Attempt(error)
    }
}

impl Attempt<'_> {
    pub(super) async fn master(
        &mut self,
        id: &EventId,
        edges: Edges,
    ) -> Result<RoundInput, SeriesError> {
        let (client, target, options) = self.request_parts();
        let read = |fresh| client.event(target, &options, id, fresh);
        let mut found = self.fetch_for_series(read).await?;
        if found.is_none() {
            // Removing a series removes all its instances. So "not found" must be answered twice,
            // and the calendar must answer in between.
            self.probe(edges).await?;
            found = self.fetch_for_series(read).await?;
        }
        Ok(RoundInput::Master(found))
    }

    /// A series' listing, and the mirror's rows of it.
    pub(super) async fn instances(
        &mut self,
        segment: SegmentIndex,
        master: &EventId,
        edges: Edges,
    ) -> Result<RoundInput, SeriesError> {
        // One day wider than the segment on both sides (fact 80).
        let wide = series::widen(edges, 1);
        let source = ListingSource::Instances(master);
        match self.confirmed_listing(segment, master, source, wide).await {
            Err(SeriesError::NotFound) => Ok(RoundInput::Instances(None)),
            found => Ok(RoundInput::Instances(Some(found?))),
        }
    }

    /// The instances of a series in a plain `calendarView`, and the mirror's rows of it.
    pub(super) async fn view(
        &mut self,
        segment: SegmentIndex,
        request: &ViewRequest,
    ) -> Result<RoundInput, SeriesError> {
        let source = ListingSource::View(request);
        let (listed, rows) =
            self.confirmed_listing(segment, &request.master, source, request.edges).await?;
        Ok(RoundInput::Viewed(listed, rows))
    }

    /// Whether a plain `calendarView` has any of these events. It lists the segment, or the whole
    /// window if the request is about a series, whose last instances may have moved to another
    /// segment.
    ///
    /// One view answers for all series of a round. What it lacks did not exist after the round's
    /// last page, and what has come back since is on the next round's pages. A view of several
    /// pages is no snapshot, so it is made twice, and an event in either counts as present.
    pub(super) async fn presence(
        &mut self,
        request: &PresenceRequest,
        segment: Edges,
    ) -> Result<RoundInput, SeriesError> {
        let edges = match request.master {
            Some(_) => self.context.handle.lock().edges,
            None => segment,
        };
        if self.current_page.listed_ids.as_ref().is_none_or(|(viewed, _)| *viewed != edges) {
            let mut present = ListedIds::default();
            for _ in 0..2 {
                // One day wider on both sides (fact 80).
                let listing = self.listing(ListingSource::All, series::widen(edges, 1)).await?;
                present.add(listing.present);
                if listing.pages == 1 {
                    break;
                }
            }
            self.current_page.listed_ids = Some((edges, present));
        }
        let has_any = |(_, present): &(Edges, ListedIds)| present.has_any_of(request);
        Ok(RoundInput::Presence(self.current_page.listed_ids.as_ref().is_some_and(has_any)))
    }

    /// A listing of a series, and the mirror's rows of it.
    ///
    /// Plain pages are no snapshot: a series that changes between two pages shifts what the next
    /// one skips, so an existing instance may be on none of them. If a listing of several pages
    /// lacks a row of the mirror, another listing has to lack it too.
    async fn confirmed_listing(
        &mut self,
        segment: SegmentIndex,
        master: &EventId,
        source: ListingSource<'_>,
        edges: Edges,
    ) -> Result<ListedSeries, SeriesError> {
        let mut before: Option<BTreeSet<EventHash>> = None;
        for _ in 0..MAX_LISTINGS {
            let SeriesListing { listed, pages, .. } = self.listing(source, edges).await?;
            let listed_ids = listed.ids();
            let rows = self.rows(segment, master).await?;
            let lacks = match source {
                ListingSource::View(request) if request.ids_only => {
                    !request.ids.is_subset(&listed_ids)
                }
                _ => rows.iter().any(|row| !listed_ids.contains(&row.id)),
            };
            if pages == 1 || !lacks || before.as_ref() == Some(&listed_ids) {
                return Ok((listed, rows));
            }
            before = Some(listed_ids);
        }
        tracing::debug!("series changes faster than it can be listed");
        Err(SeriesError::Unavailable)
    }

    /// Fetches all pages of a listing, in parts that are short enough for Graph.
    async fn listing(
        &mut self,
        source: ListingSource<'_>,
        edges: Edges,
    ) -> Result<SeriesListing, SeriesError> {
        let max_events = match source {
            ListingSource::Instances(_) => MAX_INSTANCES,
            ListingSource::View(_) | ListingSource::All => MAX_EVENTS,
        };
        let (mut pages, mut empties, mut bytes) = (0, 0, 0);
        let mut listed = ListedInstances::default();
        let mut present = ListedIds::default();
        let longest = self.context.handle.lock().segment_days();
        for part in edges.cut(longest) {
            let mut next: Option<Link> = None;
            loop {
                let listing = self.listing_page(source, part, next.as_ref()).await?;
                pages += 1;
                let before = present.events.len();
                let empty = listing.items.is_empty() && listing.unreadable.is_empty();
                for unreadable in &listing.unreadable {
                    tracing::warn!(reason = unreadable.reason, "listed instance could not be read");
                    match &unreadable.id {
                        Some(id) => {
                            present.events.insert(id.hash());
                            listed.unreadable.insert(id.hash());
                        }
                        None => listed.has_unidentified = true,
                    }
                }
                for item in listing.items {
                    present.events.insert(item.id.hash());
                    present.masters.extend(item.master.as_ref().map(EventId::hash));
                    if source.wants(&item) {
                        let item = self.kept(source, item);
                        bytes += item.content.len();
                        listed.items.push(item);
                    }
                }
                next = listing.next;
                if next.is_none() {
                    break;
                }
                // New links with nothing new behind them would continue without end (fact 172).
                // Empty pages may occur (fact 56), but only up to a limit.
                empties = if empty { empties + 1 } else { 0 };
                if (!empty && present.events.len() == before)
                    || empties > stall::MAX_EMPTY_PAGES
                    || present.events.len() > max_events
                    || bytes > MAX_BYTES
                {
                    tracing::warn!(
                        instances = present.events.len(),
                        "listing of a series does not end"
                    );
                    return Err(SeriesError::Unavailable);
                }
            }
        }
        Ok(SeriesListing { listed, present, pages })
    }

    /// A listed item as it is kept until its series is applied. Its content is copied, because a
    /// slice would keep the whole page. An occurrence that its master completes is kept as a stub.
    fn kept(&self, source: ListingSource<'_>, item: Item) -> Item {
        let completed = self.context.window.settings.complete == Completion::Master
            && item.kind == EventKind::Occurrence;
        match source {
            ListingSource::Instances(_) if completed => series::strip_to_stub(item),
            _ => Item { content: Bytes::copy_from_slice(&item.content), ..item },
        }
    }

    /// Fetches one page of a listing.
    async fn listing_page(
        &mut self,
        source: ListingSource<'_>,
        edges: Edges,
        next: Option<&Link>,
    ) -> Result<graph::ListPage, SeriesError> {
        let (client, target, mut options) = self.request_parts();
        let select = match source {
            ListingSource::Instances(master) => {
                let read = |fresh| client.instances(target, &options, master, edges, next, fresh);
                return self.fetch_for_series(read).await?.ok_or(SeriesError::NotFound);
            }
            ListingSource::View(_) => None,
            ListingSource::All => {
                options.page_size = VIEW_PAGE_SIZE;
                Some(audit::SELECT)
            }
        };
        let read = |fresh| client.calendar_view(target, &options, edges, select, next, fresh);
        self.fetch_for_series(read).await
    }

    pub(super) async fn rows(
        &self,
        segment: SegmentIndex,
        master: &EventId,
    ) -> Result<Vec<SeriesMember>, AttemptError> {
        Ok(self.context.services.store.series(self.context.id, segment, master.hash()).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::script::{ScriptedResponse, reply};
    use crate::tests::window;
    use crate::worker::tests::{WorkerFixture, delta, list, next, not_found, part};

    fn master() -> String {
        part("m", r#""type":"seriesMaster","recurrence":{}"#, 3)
    }

    fn occurrence(id: &str, day: u8) -> String {
        part(id, r#""type":"occurrence","seriesMasterId":"m""#, day)
    }

    /// Removing a series removes all its instances, and "not found" may be said of the whole mailbox.
    #[tokio::test(start_paused = true)]
    async fn a_master_is_gone_when_it_is_missed_twice_and_the_calendar_answers() {
        let found = || reply(200, master());
        for (case, answers, expected) in [
            ("found", vec![found()], Some(true)),
            ("missed twice", vec![not_found(), list(&[]), not_found()], Some(false)),
            ("missed once", vec![not_found(), list(&[]), found()], Some(true)),
            ("missed like the calendar", vec![not_found(), not_found()], None),
        ] {
            let fixture = WorkerFixture::new(window("alice"), answers).await;
            let master = fixture.attempt().master(&EventId::new("m"), fixture.edges()).await;
            let found = match master {
                Ok(RoundInput::Master(master)) => Some(master.is_some()),
                _ => None,
            };
            assert_eq!(found, expected, "{case}");
        }
    }

    /// The mirror has the instances `o1` and `o2`. Pages of a listing are no snapshot.
    #[tokio::test(start_paused = true)]
    async fn an_event_missing_from_a_listing_of_several_pages_is_checked_by_a_second_listing() {
        let (o1, o2) = (|| occurrence("o1", 3), || occurrence("o2", 4));
        let without_o2 = |n| [next(&[o1()], n), list(&[])];
        let listed: [(_, Vec<ScriptedResponse>, _); 5] = [
            ("one page", vec![list(&[o1()])], Some(1)),
            ("two pages with both", vec![next(&[o1()], 1), list(&[o2()])], Some(2)),
            ("twice without", without_o2(1).into_iter().chain(without_o2(2)).collect(), Some(1)),
            (
                "once without",
                without_o2(1).into_iter().chain([next(&[o1()], 2), list(&[o2()])]).collect(),
                Some(2),
            ),
            ("nothing new on a page", vec![next(&[o1()], 1), next(&[o1()], 2)], None),
        ];
        for (case, answers, expected) in listed {
            let round = [delta(&[master(), o1(), o2()])];
            let fixture =
                WorkerFixture::new(window("alice"), round.into_iter().chain(answers)).await;
            fixture.run().await;
            assert_eq!(fixture.events(), 2, "{case}");
            let input = fixture.attempt().instances(0, &EventId::new("m"), fixture.edges()).await;
            let count = match input {
                Ok(RoundInput::Instances(Some((listed, rows)))) => {
                    assert_eq!(rows.len(), 2, "{case}");
                    Some(listed.items.len())
                }
                Err(SeriesError::Unavailable) => None,
                other => panic!("{case}: {other:?}"),
            };
            assert_eq!(count, expected, "{case}");
        }
    }
}
