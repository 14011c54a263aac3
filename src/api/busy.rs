//! Busy times: the events of a window merged into intervals, for booking screens.
//!
//! At every instant the strongest state counts: `oof`, then `busy`, `tentative`,
//! `workingElsewhere`. Time outside the intervals is free. An unknown state counts as busy, to
//! prevent double booking. Cancelled events and events without length are ignored.
//!
//! The result is one response, however many events there are. They are read in batches, and events
//! that change between two batches are looked up in the feed.

use std::collections::BTreeMap;

use axum::response::Response;
use jiff::Timestamp;
use serde::Serialize;

use super::etag::ETag;
use super::extract::ApiRequest;
use super::ics::id_of;
use super::limits::SLICE_BYTES;
use super::problem::Problem;
use crate::json::JsonMembers;
use crate::mirror::event_time::TimeReader;
use crate::mirror::page::EventHash;
use crate::store::{BATCH_BYTES, EventQuery, FeedFilter, Follower, Store};

/// Events read from the store at a time, if they are not too large together.
const BATCH: usize = 2000;

/// How many times the feed is read to its end after reading several batches: an event that changes
/// again during a pass moves behind the end of that pass.
const CATCH_UP_PASSES: usize = 3;

/// The states, weakest first.
const STATES: [&str; 4] = ["workingElsewhere", "tentative", "busy", "oof"];
/// The index of the state that unknown states count as.
const UNKNOWN_STATE: usize = 2;

/// An interval of one state.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Interval {
    start: Timestamp,
    end: Timestamp,
    show_as: &'static str,
}

#[derive(Serialize)]
struct BusyAnswer {
    value: Vec<Interval>,
    from: Timestamp,
    to: Timestamp,
    complete: bool,
    as_of: Option<Timestamp>,
    /// Events left out because their times are not understood.
    unplaced: usize,
}

/// `GET /v1/windows/{name}/busy`.
pub(super) async fn busy(request: ApiRequest) -> Result<Response, Problem> {
    let parameters = request.parameters(&["from", "to"])?;
    let (from, to) = request.range(&parameters)?;
    let (window, status) = request.window()?;
    let store = &request.app.store;
    let (from, to) = (from.unwrap_or(status.start), to.unwrap_or(status.end));
    if to <= from {
        return Err(Problem::bad_parameter("to", "must be later than from"));
    }
    let tag = ETag::of(&(&store.version(window), status.settled_once, from, to));
    if let Some(answer) = request.not_modified(&tag) {
        return Ok(answer);
    }
    let query = EventQuery {
        window,
        from: Some(from),
        to: Some(to),
        limit: BATCH,
        bytes: SLICE_BYTES,
        after: None,
    };
    let (store, complete, as_of) = (store.clone(), status.settled_once, status.last_success);
    let computing = async move {
        let merging = place_events(&store, query, from, to).await?;
        let unplaced = merging.unplaced();
        let answer = BusyAnswer { unplaced, value: merging.merge(), from, to, complete, as_of };
        // Numbers, times and names always serialize.
        Ok((serde_json::to_vec(&answer).unwrap_or_default(), ()))
    };
    let (answer, ()) = request.app.limits.unsliced(computing).await?;
    Ok(tag.json(answer))
}

/// Reads and places all events of a query.
async fn place_events(
    store: &Store,
    mut query: EventQuery,
    from: Timestamp,
    to: Timestamp,
) -> Result<IntervalMerger, Problem> {
    let mut merging = IntervalMerger { from, to, ..IntervalMerger::default() };
    let mut follower = Follower::from_now(store, FeedFilter::Window(query.window));
    loop {
        let events = store.events(query.clone()).await?;
        for event in &events.value {
            merging.add(event);
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
            for change in &changes.value {
                merging.put(change.id.hash(), change.event.as_deref());
            }
            if changes.at_end {
                passes += 1;
            }
        }
    }
    Ok(merging)
}

/// The placed events, to be merged.
#[derive(Default)]
struct IntervalMerger {
    from: Timestamp,
    to: Timestamp,
    times: TimeReader,
    placed: BTreeMap<EventHash, Placement>,
    /// Events without an id.
    without_id: usize,
}

/// Where an event lies in the range; `Unplaced` if its times are not understood.
enum Placement {
    /// From, to, and the index of its state in [`STATES`].
    At(Timestamp, Timestamp, usize),
    Unplaced,
}

impl IntervalMerger {
    fn add(&mut self, event: &[u8]) {
        match id_of(event) {
            Some(id) => self.put(id, Some(event)),
            None => self.without_id += 1,
        }
    }

    /// Replaces what is known of an event; `None` if the event is gone.
    fn put(&mut self, id: EventHash, event: Option<&[u8]>) {
        match event.and_then(|event| self.place(event)) {
            Some(placed) => self.placed.insert(id, placed),
            None => self.placed.remove(&id),
        };
    }

    fn place(&mut self, event: &[u8]) -> Option<Placement> {
        let Ok(members) = JsonMembers::parse(event) else { return Some(Placement::Unplaced) };
        let is = |name: &str, value: &str| members.get(name).is_some_and(|v| v.get() == value);
        if is("isCancelled", "true") || is("showAs", "\"free\"") {
            return None;
        }
        let Some(when) = self.times.event(&members) else { return Some(Placement::Unplaced) };
        let (start, end) = (when.start.at.max(self.from), when.end.at.min(self.to));
        let shown = members.get("showAs").map_or("", |v| v.get()).trim_matches('"');
        let state = STATES.iter().position(|state| *state == shown).unwrap_or(UNKNOWN_STATE);
        (start < end).then_some(Placement::At(start, end, state))
    }

    /// Counts events whose times are not understood.
    fn unplaced(&self) -> usize {
        let unplaced = self.placed.values().filter(|placed| matches!(placed, Placement::Unplaced));
        unplaced.count() + self.without_id
    }

    fn merge(self) -> Vec<Interval> {
        // Per instant and state: the number of events that begin minus the number that end.
        let mut edges: BTreeMap<Timestamp, [i32; 4]> = BTreeMap::new();
        for placed in self.placed.into_values() {
            let Placement::At(start, end, state) = placed else { continue };
            for (at, step) in [(start, 1), (end, -1)] {
                if let Some(count) = edges.entry(at).or_default().get_mut(state) {
                    *count += step;
                }
            }
        }
        let mut merged: Vec<Interval> = Vec::new();
        let mut open = [0; 4];
        let mut since: Option<(Timestamp, &'static str)> = None;
        for (at, steps) in edges {
            for (count, step) in open.iter_mut().zip(steps) {
                *count += step;
            }
            let strongest = STATES.iter().zip(open).rev().find(|(_, count)| *count > 0);
            let now = strongest.map(|(state, _)| *state);
            if since.map(|(_, state)| state) == now {
                continue;
            }
            if let Some((start, show_as)) = since {
                merged.push(Interval { start, end: at, show_as });
            }
            since = now.map(|state| (at, state));
        }
        merged
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn merged(events: &[(&str, &str, &str)]) -> Vec<String> {
        let at = |hour: &str| format!("2026-11-21T{hour}:00Z").parse::<Timestamp>().unwrap();
        let mut merging =
            IntervalMerger { from: at("08:00"), to: at("20:00"), ..IntervalMerger::default() };
        for (index, (start, end, show_as)) in events.iter().enumerate() {
            let moment = |t: &str| json!({"dateTime": format!("2026-11-21T{t}:00.0000000"), "timeZone": "UTC"});
            let event = json!({
                "id": index.to_string(), "start": moment(start), "end": moment(end), "showAs": show_as.trim_end_matches('!'),
                "isCancelled": show_as.ends_with('!'),
            });
            merging.add(event.to_string().as_bytes());
        }
        let clock = |at: Timestamp| at.strftime("%H:%M").to_string();
        let text = |i: Interval| format!("{}-{} {}", clock(i.start), clock(i.end), i.show_as);
        merging.merge().into_iter().map(text).collect()
    }

    #[test]
    fn the_busiest_state_wins_at_every_instant() {
        for (events, expected) in [
            (
                &[("09:00", "10:00", "busy"), ("10:00", "11:00", "busy")][..],
                &["09:00-11:00 busy"][..],
            ),
            (
                &[("09:00", "12:00", "tentative"), ("10:00", "11:00", "busy")],
                &["09:00-10:00 tentative", "10:00-11:00 busy", "11:00-12:00 tentative"],
            ),
            (
                &[
                    ("09:00", "12:00", "oof"),
                    ("10:00", "13:00", "busy"),
                    ("08:30", "14:00", "workingElsewhere"),
                ],
                &[
                    "08:30-09:00 workingElsewhere",
                    "09:00-12:00 oof",
                    "12:00-13:00 busy",
                    "13:00-14:00 workingElsewhere",
                ],
            ),
            (&[("09:00", "10:00", "free"), ("09:30", "10:30", "busy!")], &[]),
            (&[("09:00", "10:00", "unknown")], &["09:00-10:00 busy"]),
            (
                &[("06:00", "09:00", "busy"), ("19:00", "23:00", "oof")],
                &["08:00-09:00 busy", "19:00-20:00 oof"],
            ),
            (
                &[
                    ("06:00", "08:00", "busy"),
                    ("20:00", "21:00", "busy"),
                    ("09:00", "09:00", "busy"),
                ],
                &[],
            ),
            (&[("09:00", "11:00", "busy"), ("09:00", "10:00", "busy")], &["09:00-11:00 busy"]),
        ] {
            assert_eq!(merged(events), expected, "{events:?}");
        }
    }

    #[test]
    fn all_day_events_start_at_midnight_in_their_zone() {
        let mut merging = IntervalMerger {
            from: "2026-11-01T00:00:00Z".parse().unwrap(),
            to: "2026-12-01T00:00:00Z".parse().unwrap(),
            ..IntervalMerger::default()
        };
        merging.add(br#"{"id":"a","isAllDay":true,"showAs":"oof","start":{"dateTime":"2026-11-21T00:00:00.0000000","timeZone":"Pacific Standard Time"},"end":{"dateTime":"2026-11-22T00:00:00.0000000","timeZone":"Pacific Standard Time"}}"#);
        merging.add(
            br#"{"id":"b","start":{"dateTime":"2026-11-21T00:00:00","timeZone":"Mars/Base"},"end":{}}"#,
        );
        assert_eq!(merging.unplaced(), 1);
        let merged = merging.merge();
        assert_eq!(merged.len(), 1);
        assert_eq!(merged[0].start.to_string(), "2026-11-21T08:00:00Z");
        assert_eq!(merged[0].end.to_string(), "2026-11-22T08:00:00Z");
    }
}
