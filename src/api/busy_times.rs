//! The busy times of a window, as far as a reader's filter accepts them.
//!
//! Without a filter, or with one on the availability, the store's index says everything. Other
//! filters need the events themselves. These are read in batches, and events that change between
//! two batches are looked up in the feed.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::ics::id_of;
use super::limits::SLICE_BYTES;
use super::problem::Problem;
use super::view::EventView;
use crate::json::JsonMembers;
use crate::mirror::availability::Availability;
use crate::mirror::busy_time::BusyTime;
use crate::mirror::event_time::TimeReader;
use crate::mirror::page::EventHash;
use crate::mirror::position::WindowId;
use crate::store::{BATCH_BYTES, EventQuery, FeedFilter, Follower, Store};

/// Events read from the store at a time, if they are not too large together.
const BATCH: usize = 2000;

/// How many times the feed is read to its end after reading several batches: an event that changes
/// again during a pass moves behind the end of that pass.
const CATCH_UP_PASSES: usize = 3;

/// Which busy times are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct BusyQuery {
    pub(super) window: WindowId,
    /// Only times that overlap `[from, to)`.
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
}

/// The busy times of a window, in no particular order.
#[derive(Debug, Default)]
pub(super) struct WindowTimes {
    pub(super) times: Vec<BusyTime>,
    /// Events left out because their times are not understood.
    pub(super) unplaced: usize,
}

/// Reads the busy times that a view accepts.
pub(super) async fn read_times(
    store: &Store,
    view: &EventView,
    query: BusyQuery,
) -> Result<WindowTimes, Problem> {
    if !view.filter.is_of_availability() {
        return place_events(store, view, query).await;
    }
    let mut times = store.busy_times(query.window, query.from, query.to).await?;
    times.retain(|time| {
        let availability = Availability { show_as: time.show_as, cancelled: false };
        view.filter.matches_availability(availability)
    });
    Ok(WindowTimes { times, unplaced: 0 })
}

/// Reads the same from the events themselves.
pub(super) async fn place_events(
    store: &Store,
    view: &EventView,
    BusyQuery { window, from, to }: BusyQuery,
) -> Result<WindowTimes, Problem> {
    let (from, to, limit) = (Some(from), Some(to), BATCH);
    let mut query = EventQuery { window, from, to, limit, bytes: SLICE_BYTES, after: None };
    let mut placer = EventPlacer { view, times: TimeReader::default(), placed: BTreeMap::new() };
    let mut without_id = 0;
    let mut follower = Follower::from_now(store, FeedFilter::Window(window));
    loop {
        let events = store.events(query.clone()).await?;
        for event in events.value {
            match id_of(&event) {
                Some(id) => placer.put(id, Some(event)),
                None => without_id += 1,
            }
        }
        match events.next {
            Some(next) => query.after = Some(next),
            None => break,
        }
    }
    // A single read is one snapshot. Several are not, so later changes are applied.
    if query.after.is_some() {
        let mut passes = 0;
        while passes < CATCH_UP_PASSES {
            let changes = follower.read(BATCH, BATCH_BYTES).await?;
            for change in changes.value {
                placer.put(change.id.hash(), change.event);
            }
            if changes.at_end {
                passes += 1;
            }
        }
    }
    let times: Vec<BusyTime> = placer.placed.values().filter_map(|placed| *placed).collect();
    let unplaced = placer.placed.len() - times.len() + without_id;
    Ok(WindowTimes { times, unplaced })
}

/// Places events that the view accepts.
struct EventPlacer<'a> {
    view: &'a EventView,
    times: TimeReader,
    /// `None` for an event whose times are not understood.
    placed: BTreeMap<EventHash, Option<BusyTime>>,
}

impl EventPlacer<'_> {
    /// Replaces what is known of an event; `None` if the event is gone.
    fn put(&mut self, id: EventHash, event: Option<bytes::Bytes>) {
        let accepted = event.and_then(|event| self.view.show(event));
        match accepted.and_then(|event| self.place(&event)) {
            Some(placed) => self.placed.insert(id, placed),
            None => self.placed.remove(&id),
        };
    }

    /// `None` if the event does not take any time.
    fn place(&mut self, event: &[u8]) -> Option<Option<BusyTime>> {
        let Ok(members) = JsonMembers::parse(event) else { return Some(None) };
        let raw = |name| members.get(name).map(|value| value.get());
        let availability = Availability::of(raw("showAs"), raw("isCancelled"));
        let Availability { show_as, cancelled } = availability.unwrap_or(Availability::UNKNOWN);
        if cancelled {
            return None;
        }
        let Some(when) = self.times.event(&members) else { return Some(None) };
        let (start, end) = (when.start.at, when.end.at);
        (start < end).then_some(Some(BusyTime { start, end, show_as }))
    }
}
