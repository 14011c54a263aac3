//! When events begin and end, for readers that act at these times.
//!
//! The times are read from the store, not planned: each look at the selected windows finds what
//! began or ended since the last one, and when the next event does.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use super::AppState;
use super::feed_reader::LineFormat;
use super::limits::SLICE_BYTES;
use super::problem::Problem;
use super::query::Parameters;
use super::selection::SelectedWindows;
use super::view::EventView;
use crate::config::AccessLevel;
use crate::json::{JsonMembers, extend_flat};
use crate::mirror::availability::Availability;
use crate::mirror::event_time::TimeReader;
use crate::mirror::page::EventId;
use crate::mirror::position::WindowId;
use crate::store::EventQuery;

/// The most windows: all of them are looked at together.
const MAX_WINDOWS: usize = 1000;
/// The longest notice of an event.
const MAX_NOTICE: Duration = Duration::from_secs(24 * 3600);
/// How far ahead a look sees, and so the longest time to the next one.
const HORIZON: Duration = Duration::from_secs(60);
/// The shortest time between two looks that changes in the store cause.
const RECHECK: Duration = Duration::from_secs(5);
/// How far back a look reaches after a pause of the machine.
const MAX_LATE: SignedDuration = SignedDuration::from_hours(1);
/// Events read from the store at a time.
const BATCH: usize = 500;

/// The lines about events that begin and end.
pub(super) struct Upcoming {
    /// How long before its beginning an event is announced; not at all if zero.
    notice: SignedDuration,
    level: AccessLevel,
    /// What happened up to here was told.
    told: Timestamp,
    looked: Instant,
    /// When the next look is due.
    due: Instant,
}

/// What happens to an event at a moment. Meetings that follow each other end before they begin.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum MomentKind {
    Ends,
    Begins,
    Upcoming,
}

impl MomentKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ends => "ends",
            Self::Begins => "begins",
            Self::Upcoming => "upcoming",
        }
    }
}

/// An event that begins or ends.
struct Moment {
    at: Timestamp,
    kind: MomentKind,
    window: Arc<str>,
    id: EventId,
    start: Timestamp,
    end: Timestamp,
    show_as: &'static str,
    event: bytes::Bytes,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MomentLine<'a> {
    cursor: &'a str,
    at: Timestamp,
    window: &'a str,
    change: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    start: Timestamp,
    end: Timestamp,
    show_as: &'static str,
}

/// What a look has found.
struct FoundMoments {
    now: Timestamp,
    past: Vec<Moment>,
    /// The next moment within the horizon, or its end.
    next: Timestamp,
}

impl Upcoming {
    /// What the parameter `upcoming` asks for.
    ///
    /// # Errors
    /// 400 if it is no duration, or too many windows are selected.
    pub(super) fn parse(
        parameters: &Parameters,
        app: &AppState,
        selection: &SelectedWindows,
        level: AccessLevel,
    ) -> Result<Option<Self>, Problem> {
        let Some(text) = parameters.text("upcoming") else { return Ok(None) };
        let notice = humantime::parse_duration(text).ok().filter(|notice| *notice <= MAX_NOTICE);
        let Some(notice) = notice.and_then(|notice| SignedDuration::try_from(notice).ok()) else {
            let detail = "must be a duration of at most 24h, such as 10m or 0s";
            return Err(Problem::bad_parameter("upcoming", detail));
        };
        let windows = selection.running()?.len();
        if windows > MAX_WINDOWS {
            let detail =
                format!("{windows} windows are selected: with upcoming at most {MAX_WINDOWS}");
            return Err(Problem::bad_parameter("upcoming", detail));
        }
        let now = Instant::now();
        Ok(Some(Self { notice, level, told: app.env.now(), looked: now, due: now }))
    }

    /// The store has changed: an event may begin sooner than was known.
    pub(super) fn on_changes(&mut self) {
        self.due = self.due.min(self.looked + RECHECK);
    }

    /// Waits until a look is due.
    pub(super) async fn wait(&self) {
        sleep_until(self.due).await;
    }

    /// Writes what began or ended since the last look, if a look is due.
    pub(super) async fn write(
        &mut self,
        text: &mut Vec<u8>,
        form: LineFormat,
        cursor: &str,
        (app, selection, view): (&AppState, &SelectedWindows, &EventView),
    ) -> Result<(), Problem> {
        if Instant::now() < self.due {
            return Ok(());
        }
        let found = self.look(app, selection, view).await?;
        let wait = Duration::try_from(found.next.duration_since(found.now)).unwrap_or_default();
        self.told = found.now;
        self.looked = Instant::now();
        self.due = self.looked + wait.min(HORIZON);
        let shows_event = self.level > AccessLevel::Busy;
        for moment in &found.past {
            let line = MomentLine {
                cursor,
                at: moment.at,
                window: &moment.window,
                change: moment.kind.as_str(),
                id: shows_event.then(|| moment.id.as_str()),
                start: moment.start,
                end: moment.end,
                show_as: moment.show_as,
            };
            form.write(text, (line.change, cursor), |text| {
                // Words and times always serialize, and a Vec takes every byte.
                serde_json::to_writer(&mut *text, &line).ok();
                if shows_event && let Some(event) = view.in_line(moment.event.clone()) {
                    text.pop();
                    text.extend_from_slice(b",\"event\":");
                    extend_flat(text, &event);
                    text.push(b'}');
                }
            });
        }
        Ok(())
    }

    /// Looks at all selected windows.
    async fn look(
        &self,
        app: &AppState,
        selection: &SelectedWindows,
        view: &EventView,
    ) -> Result<FoundMoments, Problem> {
        let now = app.env.now();
        let earliest = now.checked_sub(MAX_LATE).unwrap_or(Timestamp::MIN);
        // The clock may have been set.
        let told = self.told.clamp(earliest, now);
        let next = now.checked_add(HORIZON).unwrap_or(Timestamp::MAX);
        let mut found = FoundMoments { now, past: Vec::new(), next };
        let mut times = TimeReader::default();
        for name in selection.members() {
            // A window dropped meanwhile has none.
            let Some(window) = app.fleet.id(&name) else { continue };
            let mut query = self.query(window, told, next);
            loop {
                let events = app.store.events(query.clone()).await?;
                for ((_, id), event) in events.keys.into_iter().zip(events.value) {
                    self.add(&mut found, told, (&name, id), view.accept(event), &mut times);
                }
                match events.next {
                    Some(place) => query.after = Some(place),
                    None => break,
                }
            }
        }
        found.past.sort_by(|a, b| {
            (a.at, a.kind, &a.window, a.id.as_str()).cmp(&(b.at, b.kind, &b.window, b.id.as_str()))
        });
        Ok(found)
    }

    /// The events that begin, end or are announced after a time and up to another.
    fn query(&self, window: WindowId, from: Timestamp, to: Timestamp) -> EventQuery {
        let to = to.checked_add(self.notice).unwrap_or(Timestamp::MAX);
        // The range of a query excludes its end.
        let to = to.checked_add(SignedDuration::from_secs(1)).unwrap_or(Timestamp::MAX);
        let (from, to) = (Some(from), Some(to));
        EventQuery { window, from, to, limit: BATCH, bytes: SLICE_BYTES, after: None }
    }

    /// Adds the moments of an event. A cancelled one takes no place.
    fn add(
        &self,
        found: &mut FoundMoments,
        told: Timestamp,
        (window, id): (&Arc<str>, EventId),
        event: Option<bytes::Bytes>,
        times: &mut TimeReader,
    ) {
        let Some(event) = event else { return };
        let Ok(members) = JsonMembers::parse(&event) else { return };
        let raw = |name| members.get(name).map(|value| value.get());
        let availability = Availability::of(raw("showAs"), raw("isCancelled"));
        let Availability { show_as, cancelled } = availability.unwrap_or(Availability::UNKNOWN);
        let Some(when) = times.event(&members).filter(|_| !cancelled) else { return };
        let (start, end) = (when.start.at, when.end.at);
        let announced = (!self.notice.is_zero()).then(|| start.checked_sub(self.notice).ok());
        let moments = [
            (Some(end), MomentKind::Ends),
            (Some(start), MomentKind::Begins),
            (announced.flatten(), MomentKind::Upcoming),
        ];
        for (at, kind) in moments.into_iter().filter_map(|(at, kind)| Some((at?, kind))) {
            if at > found.now {
                found.next = found.next.min(at);
            } else if at > told {
                let (window, id, event) = (window.clone(), id.clone(), event.clone());
                let show_as = show_as.as_str();
                found.past.push(Moment { at, kind, window, id, start, end, show_as, event });
            }
        }
    }
}
