//! Busy times: the events of windows merged into intervals, for booking screens.

use std::sync::Arc;

use axum::response::Response;
use jiff::{RoundMode, SignedDuration, Timestamp, TimestampRound, Unit};
use serde::Serialize;
use serde_json::{Value, json};

use super::AppState;
use super::busy_times::{BusyQuery, WindowTimes, read_times};
use super::etag::{ETag, ETagBuilder};
use super::extract::ApiRequest;
use super::limits::end_list;
use super::model::PlaceJson;
use super::problem::Problem;
use super::query::Parameters;
use super::selection::{SELECTION, SelectedWindows};
use super::slice_run::SliceProducer;
use super::view::EventView;
use crate::mirror::busy_time::{self, BusyTime};
use crate::mirror::status::WindowStatus;

/// Windows that are read before a turn ends: with a filter each may take long.
const WINDOWS_PER_TURN: usize = 64;

/// How long the range of several windows is if the request does not say.
pub(super) const DEFAULT_RANGE: SignedDuration = SignedDuration::from_hours(7 * 24);

/// An interval of one state.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Interval {
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

/// One window in the answer about several.
#[derive(Serialize)]
struct WindowBusyJson<'a> {
    window: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<PlaceJson>,
    busy: Vec<Interval>,
    complete: bool,
    as_of: Option<Timestamp>,
    unplaced: usize,
    /// Only in the part of a shard, which is merged.
    #[serde(skip_serializing_if = "Option::is_none")]
    settled_once: Option<bool>,
}

/// The range of an answer about several windows.
#[derive(Clone, Copy, Debug)]
pub(super) struct BusyRange {
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
}

impl BusyRange {
    /// `from` and `to` of a request, or the usual ones.
    pub(super) fn parse(request: &ApiRequest, parameters: &Parameters) -> Result<Self, Problem> {
        let (from, to) = request.range(parameters)?;
        // Midnight in UTC.
        let today = rounded_down(request.app.env.now(), Unit::Hour, 24);
        let from = from.unwrap_or(today);
        Ok(Self { from, to: end_of_range(from, to)? })
    }
}

/// `GET /v1/windows/{name}/busy`.
pub(super) async fn one(request: ApiRequest) -> Result<Response, Problem> {
    let (parameters, view) = request.viewed(&["from", "to"])?;
    let (from, to) = request.range(&parameters)?;
    let (window, status) = request.window()?;
    let store = &request.app.store;
    let (from, to) = (from.unwrap_or(status.start), to.unwrap_or(status.end));
    if to <= from {
        return Err(Problem::bad_parameter("to", "must be later than from"));
    }
    let complete = covers(&status, from, to);
    let state = (store.version(window), complete, status.unreadable);
    let tag = ETag::of(&(state, view.tag(), from, to));
    if let Some(answer) = request.not_modified(&tag) {
        return Ok(answer);
    }
    let (store, as_of) = (store.clone(), status.last_success);
    let computing = async move {
        let times = read_times(&store, &view, BusyQuery { window, from, to }).await?;
        let unplaced = unplaced(&times, status.unreadable);
        let value = intervals(&times.times, from, to);
        let answer = BusyAnswer { value, from, to, complete, as_of, unplaced };
        // Numbers, times and names always serialize.
        Ok((serde_json::to_vec(&answer).unwrap_or_default(), ()))
    };
    let (answer, ()) = request.app.limits.unsliced(computing).await?;
    Ok(tag.json(answer))
}

/// `GET /v1/busy` of this shard.
pub(super) async fn many(request: ApiRequest) -> Result<Response, Problem> {
    let known = [&["windows", "from", "to"], &SELECTION[..]].concat();
    let (parameters, view) = request.viewed(&known)?;
    let range = BusyRange::parse(&request, &parameters)?;
    let BusyRange { from, to } = range;
    let app = request.app.clone();
    let selection = SelectedWindows::parse(&parameters, Some("windows"), &app, &request.access)?;
    let parts = json!(["busy", view.tag(), from, to]);
    let (names, tag) = select(selection, &app, parts).await?;
    if let Some(answer) = request.not_modified(&tag) {
        return Ok(answer);
    }
    let (work, stopping) = (app.limits.clone(), app.stopping.clone());
    let names = names.into_iter();
    let is_part = request.is_part();
    let (begun, wrote, over) = (false, false, false);
    let writer = BusyWriter { app, view, range, is_part, names, begun, wrote, over };
    Ok(tag.json(work.body(writer, stopping).await?))
}

/// Whether everything in a range is known: the window has settled once, and is not shorter.
fn covers(status: &WindowStatus, from: Timestamp, to: Timestamp) -> bool {
    status.settled_once && !status.is_moving() && status.start <= from && status.end >= to
}

/// The latest whole number of units that is not after a time.
pub(super) fn rounded_down(at: Timestamp, unit: Unit, increment: i64) -> Timestamp {
    let round = TimestampRound::new().smallest(unit).increment(increment).mode(RoundMode::Floor);
    at.round(round).unwrap_or(at)
}

/// The end of a range: `to`, or some days after `from`.
pub(super) fn end_of_range(from: Timestamp, to: Option<Timestamp>) -> Result<Timestamp, Problem> {
    let to = to.or_else(|| from.checked_add(DEFAULT_RANGE).ok()).unwrap_or(Timestamp::MAX);
    if to <= from {
        return Err(Problem::bad_parameter("to", "must be later than from"));
    }
    Ok(to)
}

/// The names of the selected windows that run, and the tag of the answer about them. It depends on
/// `parts` and on the windows.
pub(super) async fn select(
    selection: SelectedWindows,
    app: &Arc<AppState>,
    parts: Value,
) -> Result<(Vec<Arc<str>>, ETag), Problem> {
    let state = app.clone();
    let selecting = async move {
        let names = selection.running()?;
        let mut tag = ETagBuilder::new("windows together");
        tag.add(&parts);
        for name in &names {
            tag.add(&window_tag(&state, name));
        }
        Ok((names, tag.done()))
    };
    app.limits.run(selecting).await?
}

/// Everything that the answers about a window depend on, beside their parameters.
fn window_tag(app: &AppState, name: &str) -> impl Serialize {
    let id = app.fleet.id(name);
    let version = id.map(|id| app.store.version(id));
    let status = app.window(name).map(|status| {
        let moving = status.is_moving();
        let place = status.place.map(PlaceJson::from);
        (status.settled_once, status.unreadable, moving, status.start, status.end, place)
    });
    (name.to_owned(), version, status)
}

/// Events that are not in the times: those that could not be placed, and those that the mirror
/// lacks because Graph sent them in a form that could not be read.
pub(super) fn unplaced(times: &WindowTimes, unreadable: u32) -> usize {
    times.unplaced.saturating_add(usize::try_from(unreadable).unwrap_or(usize::MAX))
}

fn intervals(times: &[BusyTime], from: Timestamp, to: Timestamp) -> Vec<Interval> {
    let merged = busy_time::merge(times, from, to).into_iter();
    let json =
        |BusyTime { start, end, show_as }| Interval { start, end, show_as: show_as.as_str() };
    merged.map(json).collect()
}

/// Writes the busy times of several windows. Each window is shown at one moment.
struct BusyWriter {
    app: Arc<AppState>,
    view: EventView,
    range: BusyRange,
    /// Whether it is merged with those of other shards.
    is_part: bool,
    /// The windows not written yet.
    names: std::vec::IntoIter<Arc<str>>,
    begun: bool,
    /// Whether a window was written.
    wrote: bool,
    over: bool,
}

impl SliceProducer for BusyWriter {
    async fn next(&mut self, bytes: usize) -> Result<Vec<u8>, Problem> {
        let mut slice = Vec::with_capacity(bytes + 4096);
        if !std::mem::replace(&mut self.begun, true) {
            slice.extend_from_slice(b"{\"value\":[");
        }
        let BusyRange { from, to } = self.range;
        let mut read = 0;
        while slice.len() < bytes && read < WINDOWS_PER_TURN {
            read += 1;
            let Some(name) = self.names.next() else {
                end_list(&mut slice, &json!({ "from": from, "to": to }));
                self.over = true;
                break;
            };
            // A window dropped meanwhile has neither.
            let Some(window) = self.app.fleet.id(&name) else { continue };
            let Some(status) = self.app.window(&name) else { continue };
            let query = BusyQuery { window, from, to };
            let times = read_times(&self.app.store, &self.view, query).await?;
            let json = WindowBusyJson {
                window: &name,
                complete: covers(&status, from, to),
                place: status.place.map(PlaceJson::from),
                busy: intervals(&times.times, from, to),
                as_of: status.last_success,
                unplaced: unplaced(&times, status.unreadable),
                settled_once: self.is_part.then_some(status.settled_once),
            };
            if std::mem::replace(&mut self.wrote, true) {
                slice.push(b',');
            }
            // Numbers, times and names always serialize, and a Vec takes every byte.
            serde_json::to_writer(&mut slice, &json).ok();
        }
        Ok(slice)
    }

    fn is_over(&self) -> bool {
        self.over
    }
}
