//! When events begin and end, for readers that act at these times.
//!
//! Each look at the selected windows finds the events that take place at that moment, and what
//! differs from the last look has begun or ended. So an event that is cancelled, deleted or moved
//! while it takes place ends, too. Readers of the level `busy` see the merged busy times of each
//! window, as in `/v1/busy`, instead of events.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use super::AppState;
use super::busy_times::{BusyQuery, read_times};
use super::limits::SLICE_BYTES;
use super::line_format::LineFormat;
use super::problem::Problem;
use super::query::Parameters;
use super::selection::SelectedWindows;
use super::view::EventView;
use crate::config::AccessLevel;
use crate::json::{JsonMembers, extend_flat};
use crate::mirror::availability::Availability;
use crate::mirror::busy_time::{self, BusyTime};
use crate::mirror::event_time::TimeReader;
use crate::mirror::page::EventId;
use crate::mirror::position::WindowId;
use crate::store::EventQuery;

/// The most windows that are looked at.
pub(super) const MAX_WINDOWS: usize = 1000;
/// The longest notice of an event.
const MAX_NOTICE: Duration = Duration::from_secs(24 * 3600);
/// How far ahead a look sees, and so the longest time to the next one, also if the clock is set.
const HORIZON: Duration = Duration::from_secs(15);
/// The shortest time between two looks that changes in the store cause.
const RECHECK: Duration = Duration::from_secs(5);
/// How far back a look reaches after a pause of the machine.
const MAX_LATE: SignedDuration = SignedDuration::from_hours(1);
/// How far away the ends of merged busy times are looked for.
const MERGED: SignedDuration = SignedDuration::from_hours(48);
/// Events read from the store at a time.
const BATCH: usize = 500;

/// The lines about events that begin and end.
pub(super) struct Upcoming {
    /// How long before its beginning an event is announced; not at all if zero.
    notice: SignedDuration,
    level: AccessLevel,
    /// When the last look was, by the wall clock; `None` before the first.
    told: Option<Timestamp>,
    looked: Instant,
    /// When the next look is due.
    due: Instant,
    /// What takes place.
    running: BTreeMap<MomentKey, BusyTime>,
    /// What is to be written.
    found: VecDeque<Moment>,
}

/// Which event of which window; the id is empty for the merged busy times.
type MomentKey = (Arc<str>, EventId);

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
    key: MomentKey,
    time: BusyTime,
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

/// One look.
struct Look {
    /// When the last one was; now for the first.
    told: Timestamp,
    now: Timestamp,
    /// The next moment within the horizon, or its end.
    next: Timestamp,
    running: BTreeMap<MomentKey, BusyTime>,
    /// What took place at the last look and was seen again.
    seen: BTreeSet<MomentKey>,
    moments: Vec<Moment>,
}

impl Look {
    /// Adds an event; `was_running`: it took place at the last look.
    fn add(&mut self, was_running: bool, key: &MomentKey, time: BusyTime) {
        let BusyTime { start, end, .. } = time;
        for at in [start, end] {
            if at > self.now {
                self.next = self.next.min(at);
            }
        }
        if start > self.now || start == end {
            return;
        }
        if was_running {
            self.seen.insert(key.clone());
        }
        let begun = start > self.told;
        // One that was planned late has begun when it is seen.
        if !was_running && (begun || end > self.now) {
            let at = if begun { start } else { self.now };
            self.moments.push(Moment { at, kind: MomentKind::Begins, key: key.clone(), time });
        }
        if end > self.now {
            self.running.insert(key.clone(), time);
        } else if was_running || begun {
            self.moments.push(Moment { at: end, kind: MomentKind::Ends, key: key.clone(), time });
        }
    }

    /// Adds the notice of an event.
    fn announce(&mut self, key: &MomentKey, time: BusyTime, notice: SignedDuration) {
        let Ok(at) = time.start.checked_sub(notice) else { return };
        if at > self.now {
            self.next = self.next.min(at);
        } else if at > self.told && time.start < time.end {
            self.moments.push(Moment { at, kind: MomentKind::Upcoming, key: key.clone(), time });
        }
    }
}

impl Upcoming {
    /// What the parameter `upcoming` asks for.
    ///
    /// # Errors
    /// 400 if it is no duration.
    pub(super) fn parse(
        parameters: &Parameters,
        level: AccessLevel,
    ) -> Result<Option<Self>, Problem> {
        let Some(text) = parameters.text("upcoming") else { return Ok(None) };
        let notice = humantime::parse_duration(text).ok().filter(|notice| *notice <= MAX_NOTICE);
        let Some(notice) = notice.and_then(|notice| SignedDuration::try_from(notice).ok()) else {
            let detail = "must be a duration of at most 24h, such as 10m or 0s";
            return Err(Problem::bad_parameter("upcoming", detail));
        };
        let now = Instant::now();
        let (running, found) = (BTreeMap::new(), VecDeque::new());
        Ok(Some(Self { notice, level, told: None, looked: now, due: now, running, found }))
    }

    /// The store has changed: an event may begin or end sooner than was known.
    pub(super) fn on_changes(&mut self) {
        self.due = self.due.min(self.looked + RECHECK);
    }

    /// Waits until a look is due.
    pub(super) async fn wait(&self) {
        sleep_until(self.due).await;
    }

    /// Whether there are lines to write.
    pub(super) fn has_lines(&self) -> bool {
        !self.found.is_empty()
    }

    /// Looks at the selected windows, if that is due. What takes place at the first look is not
    /// told.
    pub(super) async fn look(
        &mut self,
        app: &AppState,
        selection: &SelectedWindows,
        view: &EventView,
    ) -> Result<(), Problem> {
        if Instant::now() < self.due || self.has_lines() {
            return Ok(());
        }
        let now = app.env.now();
        let earliest = now.checked_sub(MAX_LATE).unwrap_or(Timestamp::MIN);
        // The clock may have been set.
        let told = self.told.unwrap_or(now).clamp(earliest, now);
        let next = now.checked_add(HORIZON).unwrap_or(Timestamp::MAX);
        let mut look = Look {
            told,
            now,
            next,
            running: BTreeMap::new(),
            seen: BTreeSet::new(),
            moments: Vec::new(),
        };
        for name in selection.members().into_iter().take(MAX_WINDOWS) {
            // A window dropped meanwhile has none.
            let Some(window) = app.fleet.id(&name) else { continue };
            match self.level {
                AccessLevel::Busy => self.look_at_times(&mut look, app, view, name, window).await?,
                _ => self.look_at_events(&mut look, app, view, name, window).await?,
            }
        }
        // What took place and is gone: cancelled, deleted, moved, or of a window that is gone.
        let gone = std::mem::take(&mut self.running).into_iter();
        let gone = gone.filter(|(key, _)| !look.seen.contains(key));
        let ends = |(key, time)| Moment { at: now, kind: MomentKind::Ends, key, time };
        self.found.extend(gone.map(ends));
        look.moments.sort_by(|a, b| (a.at, a.kind, &a.key).cmp(&(b.at, b.kind, &b.key)));
        if self.told.is_some() {
            self.found.extend(look.moments);
        }
        self.told = Some(now);
        self.running = look.running;
        self.looked = Instant::now();
        let wait = Duration::try_from(look.next.duration_since(now)).unwrap_or_default();
        self.due = self.looked + wait.min(HORIZON);
        Ok(())
    }

    /// Looks at the merged busy times of a window.
    async fn look_at_times(
        &self,
        look: &mut Look,
        app: &AppState,
        view: &EventView,
        name: Arc<str>,
        window: WindowId,
    ) -> Result<(), Problem> {
        let from = look.told.checked_sub(MERGED).unwrap_or(Timestamp::MIN);
        let to = look.now.checked_add(self.notice + MERGED).unwrap_or(Timestamp::MAX);
        let times = read_times(&app.store, view, BusyQuery { window, from, to }).await?.times;
        let key = (name, EventId::new(""));
        for time in busy_time::merge(&times, from, to) {
            let was_running = self.running.get(&key).is_some_and(|was| {
                let overlaps = was.start < time.end && time.start < was.end;
                overlaps && was.show_as == time.show_as
            });
            look.add(was_running, &key, time);
            if !self.notice.is_zero() {
                look.announce(&key, time, self.notice);
            }
        }
        Ok(())
    }

    /// Looks at the events of a window.
    async fn look_at_events(
        &self,
        look: &mut Look,
        app: &AppState,
        view: &EventView,
        name: Arc<str>,
        window: WindowId,
    ) -> Result<(), Problem> {
        let horizon = look.now.checked_add(HORIZON).unwrap_or(Timestamp::MAX);
        let mut times = TimeReader::default();
        let later = |at: Timestamp| at.checked_add(self.notice).unwrap_or(Timestamp::MAX);
        let near = [(look.told, horizon, false)].into_iter();
        let noticed = (!self.notice.is_zero()).then(|| (later(look.told), later(horizon), true));
        for (from, to, announces) in near.chain(noticed) {
            // The range of a query excludes its end.
            let to = to.checked_add(SignedDuration::from_secs(1)).unwrap_or(Timestamp::MAX);
            let (from, to) = (Some(from), Some(to));
            let mut query =
                EventQuery { window, from, to, limit: BATCH, bytes: SLICE_BYTES, after: None };
            loop {
                let events = app.store.events(query.clone()).await?;
                for ((_, id), event) in events.keys.into_iter().zip(events.value) {
                    let Some(event) = view.accept(event) else { continue };
                    let Some(time) = time_of(&event, &mut times) else { continue };
                    let key = (name.clone(), id);
                    match announces {
                        true => look.announce(&key, time, self.notice),
                        false => look.add(self.running.contains_key(&key), &key, time),
                    }
                }
                match events.next {
                    Some(place) => query.after = Some(place),
                    None => break,
                }
            }
        }
        Ok(())
    }

    /// Writes about `bytes` bytes of lines.
    pub(super) async fn write(
        &mut self,
        text: &mut Vec<u8>,
        (form, cursor, bytes): (LineFormat, &str, usize),
        (app, view): (&AppState, &EventView),
    ) -> Result<(), Problem> {
        while text.len() < bytes
            && let Some(Moment { at, kind, key: (window, id), time }) = self.found.pop_front()
        {
            let shows_event = self.level > AccessLevel::Busy;
            let event = match app.fleet.id(&window).filter(|_| shows_event) {
                Some(window) => app.store.event(window, &id).await?,
                None => None,
            };
            // It may have been cancelled meanwhile, so that the filter refuses it.
            let event = event.and_then(|event| view.accept(event));
            let line = MomentLine {
                cursor,
                at,
                window: &window,
                change: kind.as_str(),
                id: shows_event.then(|| id.as_str()),
                start: time.start,
                end: time.end,
                show_as: time.show_as.as_str(),
            };
            form.write(text, (line.change, cursor), |text| {
                // Words and times always serialize, and a Vec takes every byte.
                serde_json::to_writer(&mut *text, &line).ok();
                if let Some(event) = event.and_then(|event| view.in_line(event)) {
                    text.pop();
                    text.extend_from_slice(b",\"event\":");
                    extend_flat(text, &event);
                    text.push(b'}');
                }
            });
        }
        Ok(())
    }
}

/// When an event takes place, and how it shows; `None` if it is cancelled or its times cannot be
/// read.
fn time_of(event: &[u8], times: &mut TimeReader) -> Option<BusyTime> {
    let members = JsonMembers::parse(event).ok()?;
    let raw = |name| members.get(name).map(|value| value.get());
    let availability = Availability::of(raw("showAs"), raw("isCancelled"));
    let Availability { show_as, cancelled } = availability.unwrap_or(Availability::UNKNOWN);
    let when = times.event(&members).filter(|_| !cancelled)?;
    Some(BusyTime { start: when.start.at, end: when.end.at, show_as })
}
