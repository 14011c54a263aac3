//! `GET /v1/free`: when the calendars of several windows are free together.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::json;

use super::AppState;
use super::busy::{end_of_range, rounded_down, select, unplaced};
use super::busy_times::{BusyQuery, WindowTimes, read_times};
use super::extract::ApiRequest;
use super::model::PlaceJson;
use super::problem::Problem;
use super::query::{ANSWER_BYTES, Parameters};
use super::selection::{SELECTION, SelectedWindows};
use super::view::EventView;
use crate::mirror::busy_time::BusyTime;
use crate::mirror::free_slots::{FreeSlot, SlotRule, find, occupied, occupies};
use crate::mirror::open_hours::{DayHours, OpenHours, WeekDays};
use crate::mirror::page::Span;
use crate::mirror::zone;

/// The parameters of the search.
pub(super) const SEARCH: [&str; 10] =
    ["windows", "from", "to", "duration", "within", "days", "zone", "need", "buffer", "tentative"];

/// The shortest slot if the request does not say.
const DEFAULT_DURATION: SignedDuration = SignedDuration::from_mins(30);

/// The largest `buffer`.
const MAX_BUFFER: SignedDuration = SignedDuration::from_hours(24);

/// The most days of all calendars together that one request may search.
const MAX_DAYS: u64 = 100_000;

/// What a request searches.
pub(super) struct FreeSearch {
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
    duration: SignedDuration,
    buffer: SignedDuration,
    tentative_is_free: bool,
    open: OpenHours,
    /// The zone as the request names it.
    zone: String,
}

#[derive(Serialize)]
struct SlotJson<'a> {
    start: Timestamp,
    end: Timestamp,
    free: Vec<&'a FreeWindowJson>,
}

/// A window that is free.
#[derive(Serialize)]
struct FreeWindowJson {
    window: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<PlaceJson>,
}

/// A window of which it is not known when it is free.
#[derive(Serialize)]
struct UnknownWindowJson {
    window: Arc<str>,
    reason: UnknownReason,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum UnknownReason {
    NeverSettled,
    UnplacedEvents,
    RangeNotCovered,
    ShardMissing,
}

/// What the search needs to know of a window.
pub(super) struct SearchedWindow {
    pub(super) name: Arc<str>,
    pub(super) place: Option<PlaceJson>,
    pub(super) settled_once: bool,
    /// Events that are not in `times`.
    pub(super) unplaced: usize,
    /// Whether the window has the whole range, with the buffer.
    pub(super) covers: bool,
    pub(super) times: Vec<BusyTime>,
}

/// The members after the slots.
#[derive(Serialize)]
struct FreeTail<'a> {
    unknown: &'a [UnknownWindowJson],
    from: Timestamp,
    to: Timestamp,
    duration: String,
    need: usize,
    zone: &'a str,
    /// Shards that are missing, if there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    incomplete: Option<&'a [String]>,
}

/// `GET /v1/free` of this shard.
pub(super) async fn free(request: ApiRequest) -> Result<Response, Problem> {
    let (parameters, view) = request.viewed(&[&SEARCH[..], &SELECTION].concat())?;
    let search = FreeSearch::parse(&parameters, request.app.env.now())?;
    let app = request.app.clone();
    let selection = SelectedWindows::parse(&parameters, Some("windows"), &app, &request.access)?;
    let parts = json!(["free", view.tag(), search.tag(), parameters.text("need")]);
    let (names, tag) = select(selection, &app, parts).await?;
    let need = parse_need(&parameters, names.len())?;
    search.check_size(names.len())?;
    if let Some(answer) = request.not_modified(&tag) {
        return Ok(answer);
    }
    let computing = async move {
        let judged = JudgedWindows::read(&app, &view, &search, names).await?;
        Ok((judged.answer(&search, need, None)?, ()))
    };
    let (answer, ()) = request.app.limits.unsliced(computing).await?;
    Ok(tag.json(answer))
}

impl FreeSearch {
    pub(super) fn parse(parameters: &Parameters, now: Timestamp) -> Result<Self, Problem> {
        let (from, to) = parameters.range(now)?;
        let from = from.unwrap_or_else(|| rounded_down(now, jiff::Unit::Minute, 1));
        let to = end_of_range(from, to)?;
        let (name, zone) = match parameters.text("zone") {
            None => ("UTC", TimeZone::UTC),
            Some(name) => {
                let detail = "unknown time zone: write a name such as Europe/Berlin or UTC";
                let zone = zone::find(name).ok_or_else(|| Problem::bad_parameter("zone", detail));
                (name, zone?)
            }
        };
        let (days, hours) = (parse_days(parameters)?, parse_within(parameters)?);
        let duration = duration(parameters, "duration")?.unwrap_or(DEFAULT_DURATION);
        check_duration(duration, to.duration_since(from), hours)?;
        let buffer = duration_of_buffer(parameters)?;
        let tentative_is_free = match parameters.text("tentative") {
            None | Some("busy") => false,
            Some("free") => true,
            Some(_) => return Err(Problem::bad_parameter("tentative", "must be busy or free")),
        };
        // Hours without days are those of workdays.
        let usual = if hours.is_some() { WeekDays::WORKDAYS } else { WeekDays::ALL };
        let (days, hours) = (days.unwrap_or(usual), hours.unwrap_or(DayHours::ALL));
        let (open, zone) = (OpenHours { zone, days, hours }, name.to_owned());
        Ok(Self { from, to, duration, buffer, tentative_is_free, open, zone })
    }

    /// The range with the buffer: a meeting outside of the range may need its buffer inside.
    pub(super) fn widened(&self) -> (Timestamp, Timestamp) {
        let from = self.from.checked_sub(self.buffer).unwrap_or(Timestamp::MIN);
        (from, self.to.checked_add(self.buffer).unwrap_or(Timestamp::MAX))
    }

    /// Checks that so many windows may be searched.
    pub(super) fn check_size(&self, windows: usize) -> Result<(), Problem> {
        let days = self.to.duration_since(self.from).as_secs().unsigned_abs() / 86_400 + 1;
        let of_windows = u64::try_from(windows.max(1)).unwrap_or(u64::MAX);
        if of_windows.saturating_mul(days) <= MAX_DAYS {
            return Ok(());
        }
        let detail = format!(
            "{windows} windows over {days} days are too much for one request: at most {MAX_DAYS} \
             days of all windows together"
        );
        Err(Problem::bad_parameter("to", detail))
    }

    /// What distinguishes searches, for tags.
    pub(super) fn tag(&self) -> impl Serialize {
        let OpenHours { days, hours, .. } = &self.open;
        let open = format!("{days:?} {hours:?} {}", self.zone);
        let rule = format!("{:?} {:?} {}", self.duration, self.buffer, self.tentative_is_free);
        (self.from, self.to, open, rule)
    }
}

/// `days`, if given.
fn parse_days(parameters: &Parameters) -> Result<Option<WeekDays>, Problem> {
    let Some(text) = parameters.text("days") else { return Ok(None) };
    let detail = "days must name days of the week, such as mon-fri or mon,wed";
    WeekDays::parse(text).map(Some).ok_or_else(|| Problem::bad_parameter("days", detail))
}

/// `within`, if given.
fn parse_within(parameters: &Parameters) -> Result<Option<DayHours>, Problem> {
    let Some(text) = parameters.text("within") else { return Ok(None) };
    let detail = "within must be hours such as 09:00-17:00, 22:00-06:00 or 00:00-24:00";
    DayHours::parse(text).map(Some).ok_or_else(|| Problem::bad_parameter("within", detail))
}

/// `need`, or all windows.
pub(super) fn parse_need(parameters: &Parameters, windows: usize) -> Result<usize, Problem> {
    let Some(text) = parameters.text("need") else { return Ok(windows) };
    match text.parse() {
        Ok(need) if (1..=windows).contains(&need) => Ok(need),
        _ => {
            let detail =
                format!("need must be a number from 1 to the number of windows, {windows}");
            Err(Problem::bad_parameter("need", detail))
        }
    }
}

fn check_duration(
    duration: SignedDuration,
    range: SignedDuration,
    hours: Option<DayHours>,
) -> Result<(), Problem> {
    let wrong = |detail| Err(Problem::bad_parameter("duration", detail));
    if duration.is_zero() {
        return wrong("the duration must be longer than nothing");
    }
    if duration > range {
        return wrong("the duration is longer than the range from from to to");
    }
    // Whole days may follow each other.
    let hours = hours.filter(|hours| *hours != DayHours::ALL);
    match hours {
        Some(hours) if duration > SignedDuration::from_mins(hours.minutes().into()) => {
            wrong("the duration is longer than the hours of within")
        }
        _ => Ok(()),
    }
}

fn duration_of_buffer(parameters: &Parameters) -> Result<SignedDuration, Problem> {
    match duration(parameters, "buffer")? {
        Some(buffer) if buffer > MAX_BUFFER => {
            Err(Problem::bad_parameter("buffer", "the buffer must be at most 24h"))
        }
        buffer => Ok(buffer.unwrap_or(SignedDuration::ZERO)),
    }
}

/// A duration, if given.
fn duration(parameters: &Parameters, name: &str) -> Result<Option<SignedDuration>, Problem> {
    let Some(text) = parameters.text(name) else { return Ok(None) };
    let parsed = humantime::parse_duration(text).ok();
    match parsed.and_then(|duration| SignedDuration::try_from(duration).ok()) {
        Some(duration) => Ok(Some(duration)),
        None => {
            let detail = format!("{name} must be a duration such as 30m or 1h 30m");
            Err(Problem::bad_parameter(name, detail))
        }
    }
}

/// The windows of a request.
#[derive(Default)]
pub(super) struct JudgedWindows {
    known: Vec<FreeWindowJson>,
    /// When each known window is occupied.
    occupied: Vec<Vec<Span>>,
    unknown: Vec<UnknownWindowJson>,
}

impl JudgedWindows {
    async fn read(
        app: &AppState,
        view: &EventView,
        search: &FreeSearch,
        names: Vec<Arc<str>>,
    ) -> Result<Self, Problem> {
        let (from, to) = search.widened();
        let mut judged = Self::default();
        for name in names {
            // A window dropped meanwhile has neither.
            let Some(window) = app.fleet.id(&name) else { continue };
            let Some(status) = app.window(&name) else { continue };
            let times = match status.settled_once {
                true => read_times(&app.store, view, BusyQuery { window, from, to }).await?,
                false => WindowTimes::default(),
            };
            let window = SearchedWindow {
                settled_once: status.settled_once,
                unplaced: unplaced(&times, status.unreadable),
                covers: !status.is_moving() && status.start <= from && status.end >= to,
                place: status.place.map(PlaceJson::from),
                times: times.times,
                name,
            };
            judged.add(search, window);
        }
        Ok(judged)
    }

    /// Adds the next window, in the order of their names.
    pub(super) fn add(&mut self, search: &FreeSearch, window: SearchedWindow) {
        match reason(&window) {
            Some(reason) => self.unknown.push(UnknownWindowJson { window: window.name, reason }),
            None => {
                let times = window.times.into_iter();
                let taken = times.filter(|time| occupies(time.show_as, search.tentative_is_free));
                self.occupied.push(occupied(taken, search.buffer));
                self.known.push(FreeWindowJson { window: window.name, place: window.place });
            }
        }
    }

    /// Adds the next window, whose shard has not said anything about it.
    pub(super) fn add_missing(&mut self, window: Arc<str>) {
        self.unknown.push(UnknownWindowJson { window, reason: UnknownReason::ShardMissing });
    }

    /// The body of the response.
    pub(super) fn answer(
        &self,
        search: &FreeSearch,
        need: usize,
        incomplete: Option<&[String]>,
    ) -> Result<Vec<u8>, Problem> {
        let mut body = b"{\"value\":[".to_vec();
        let begun = body.len();
        let open = search.open.between(search.from, search.to);
        let rule = SlotRule { duration: search.duration, need };
        let written = find(&self.occupied, &open, rule, |FreeSlot { span, free }| {
            if body.len() > begun {
                body.push(b',');
            }
            let free = free.into_iter().filter_map(|window| self.known.get(window)).collect();
            let slot = SlotJson { start: span.start, end: span.end, free };
            // Names and times always serialize, and a Vec takes every byte.
            serde_json::to_writer(&mut body, &slot).ok();
            if body.len() < ANSWER_BYTES {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        if written.is_break() {
            let detail = "the slots would exceed 8 MiB: ask for a shorter range or fewer windows";
            return Err(Problem::bad_parameter("to", detail));
        }
        let duration = Duration::try_from(search.duration).unwrap_or_default();
        let tail = FreeTail {
            unknown: &self.unknown,
            from: search.from,
            to: search.to,
            duration: humantime::format_duration(duration).to_string(),
            need,
            zone: &search.zone,
            incomplete,
        };
        body.extend_from_slice(b"],");
        let tail = serde_json::to_vec(&tail).unwrap_or_default();
        body.extend_from_slice(tail.strip_prefix(b"{").unwrap_or_default());
        Ok(body)
    }
}

/// Why it is not known when a window is free.
fn reason(window: &SearchedWindow) -> Option<UnknownReason> {
    if !window.settled_once {
        return Some(UnknownReason::NeverSettled);
    }
    if window.unplaced > 0 {
        return Some(UnknownReason::UnplacedEvents);
    }
    (!window.covers).then_some(UnknownReason::RangeNotCovered)
}
