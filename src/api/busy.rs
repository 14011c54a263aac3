//! When somebody is busy: the events of a window as merged intervals, for booking screens.
//!
//! At every instant the strongest of the states there counts: `oof`, then `busy`, `tentative`,
//! `workingElsewhere`. What is not listed is free. A state that is not known makes busy, so that
//! nobody is booked over it; cancelled events and those without length make nothing.

use std::collections::BTreeMap;

use axum::Json;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::Serialize;

use super::ask::Ask;
use super::problem::Problem;
use super::query::MAX_LIMIT;
use super::tag::Tag;
use super::when::Clock;
use crate::mirror::event::Members;
use crate::store::Query;

/// Weakest first.
const STATES: [&str; 4] = ["workingElsewhere", "tentative", "busy", "oof"];
/// Where what is not known stands.
const BUSY: usize = 2;

/// A stretch of one state.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Interval {
    start: Timestamp,
    end: Timestamp,
    show_as: &'static str,
}

#[derive(Serialize)]
struct Answer {
    value: Vec<Interval>,
    from: Timestamp,
    to: Timestamp,
    complete: bool,
    as_of: Option<Timestamp>,
    /// Events whose times are not understood, and which are therefore not in it.
    unplaced: u64,
}

/// `GET /v1/windows/{name}/busy`.
pub(super) async fn busy(ask: Ask) -> Result<Response, Problem> {
    let parameters = ask.parameters(&["from", "to"])?;
    let (from, to) = ask.range(&parameters)?;
    let (window, status) = ask.window()?;
    let store = &ask.access.store;
    let (from, to) = (from.unwrap_or(status.start), to.unwrap_or(status.end));
    if to <= from {
        return Err(Problem::bad_parameter("to", "must be later than from"));
    }
    let tag = Tag::of(&(&store.version(window), status.settled_once, from, to));
    if let Some(answer) = ask.held(&tag) {
        return Ok(answer);
    }
    let mut merging = Merging { from, to, ..Merging::default() };
    let mut query = Query {
        window,
        from: Some(from),
        to: Some(to),
        limit: MAX_LIMIT,
        // What is kept of an event is a pair of times.
        bytes: usize::MAX,
        after: None,
    };
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
    let unplaced = merging.unplaced;
    let answer = Answer {
        value: merging.merge(),
        from,
        to,
        complete: status.settled_once,
        as_of: status.last_success,
        unplaced,
    };
    Ok(tag.put_on(Json(answer).into_response()))
}

/// Intervals on their way to being merged.
#[derive(Default)]
struct Merging {
    from: Timestamp,
    to: Timestamp,
    clock: Clock,
    /// At each instant, how many events of each state begin less how many end.
    edges: BTreeMap<Timestamp, [i32; 4]>,
    unplaced: u64,
}

impl Merging {
    fn add(&mut self, event: &[u8]) {
        let Ok(members) = Members::parse(event) else {
            self.unplaced += 1;
            return;
        };
        let is = |name: &str, value: &str| members.get(name).is_some_and(|v| v.get() == value);
        if is("isCancelled", "true") || is("showAs", "\"free\"") {
            return;
        }
        let Some(when) = self.clock.when(&members) else {
            self.unplaced += 1;
            return;
        };
        let (start, end) = (when.start.at.max(self.from), when.end.at.min(self.to));
        if start >= end {
            return;
        }
        let shown = members.get("showAs").map_or("", |v| v.get()).trim_matches('"');
        let state = STATES.iter().position(|state| *state == shown).unwrap_or(BUSY);
        for (at, step) in [(start, 1), (end, -1)] {
            if let Some(count) = self.edges.entry(at).or_default().get_mut(state) {
                *count += step;
            }
        }
    }

    fn merge(self) -> Vec<Interval> {
        let mut merged: Vec<Interval> = Vec::new();
        let mut open = [0; 4];
        let mut since: Option<(Timestamp, &'static str)> = None;
        for (at, steps) in self.edges {
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
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;
    use serde_json::json;

    fn merged(events: &[(&str, &str, &str)]) -> Vec<String> {
        let at = |hour: &str| format!("2026-11-21T{hour}:00Z").parse::<Timestamp>().unwrap();
        let mut merging = Merging { from: at("08:00"), to: at("20:00"), ..Merging::default() };
        for (start, end, show_as) in events {
            let moment = |t: &str| json!({"dateTime": format!("2026-11-21T{t}:00.0000000"), "timeZone": "UTC"});
            let event = json!({
                "start": moment(start), "end": moment(end), "showAs": show_as.trim_end_matches('!'),
                "isCancelled": show_as.ends_with('!'),
            });
            merging.add(event.to_string().as_bytes());
        }
        let clock = |at: Timestamp| at.strftime("%H:%M").to_string();
        let text = |i: Interval| format!("{}-{} {}", clock(i.start), clock(i.end), i.show_as);
        merging.merge().into_iter().map(text).collect()
    }

    #[test]
    fn the_strongest_state_counts_at_every_instant() {
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
    fn all_day_events_begin_at_the_midnight_of_their_zone() {
        let mut merging = Merging {
            from: "2026-11-01T00:00:00Z".parse().unwrap(),
            to: "2026-12-01T00:00:00Z".parse().unwrap(),
            ..Merging::default()
        };
        merging.add(br#"{"isAllDay":true,"showAs":"oof","start":{"dateTime":"2026-11-21T00:00:00.0000000","timeZone":"Pacific Standard Time"},"end":{"dateTime":"2026-11-22T00:00:00.0000000","timeZone":"Pacific Standard Time"}}"#);
        merging.add(
            br#"{"start":{"dateTime":"2026-11-21T00:00:00","timeZone":"Mars/Base"},"end":{}}"#,
        );
        assert_eq!(merging.unplaced, 1);
        let merged = merging.merge();
        assert_eq!(merged.len(), 1);
        assert_eq!(merged[0].start.to_string(), "2026-11-21T08:00:00Z");
        assert_eq!(merged[0].end.to_string(), "2026-11-22T08:00:00Z");
    }
}
