//! A window as an iCalendar object (RFC 5545) that calendar programs can subscribe to.
//!
//! A series is written as its instances, so clients need not evaluate recurrence rules as Graph
//! does. Each instance has its own `UID`, because many clients show only one of several events that
//! share a `UID` without a master; `?series=linked` writes the series' `UID` with `RECURRENCE-ID`
//! instead. Times are instants in UTC, whatever the window's `time_zone`; all-day events are dates.
//! So no `VTIMEZONE` is needed, and none can be wrong.
//!
//! The window is read twice: first to decide the `UID`s (`identity`), then to write the requested
//! events. It is written page by page and never held whole. An event that moves meanwhile appears
//! once, and no event that exists throughout is missing: at the end, changes since the start are
//! read from the feed.

mod event;
mod html;
mod identity;
mod line;

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;

use self::identity::{Identities, IdentitySurvey};
use self::line::ContentLine;
use super::AppState;
use super::etag::ETag;
use super::extract::ApiRequest;
use super::limits::SLICE_BYTES;
use super::problem::Problem;
use super::slice_run::SliceProducer;
use super::view::EventView;
use crate::json::JsonMembers;
use crate::mirror::change::Seq;
use crate::mirror::event_time::TimeReader;
use crate::mirror::page::{EventHash, EventId};
use crate::mirror::status::WindowStatus;
use crate::store::{BATCH_BYTES, EventQuery, FeedError, FeedFilter, Follower, StoreError};

/// Events read from the store at a time.
const BATCH: usize = 500;

/// Bytes of events read at a time for their identities; only a few numbers per event are kept.
const SURVEY_BYTES: usize = 512 << 10;

/// How the instances of a series are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum SeriesMode {
    /// Each with its own `UID`, `{series uid}/{original start}`.
    Own,
    /// With the series' `UID` and `RECURRENCE-ID`, without a master.
    Linked,
}

/// The text of an HTML body, cut soon after `enough` bytes.
pub fn text_of_html(html: &str, enough: usize) -> String {
    html::text(html, enough)
}

/// The `VEVENT`s of a window with these JSON objects; objects that are not events with times are
/// skipped.
pub fn events_of(window: &[impl AsRef<[u8]>], series: SeriesMode) -> String {
    let (mut survey, mut times) = (IdentitySurvey::default(), TimeReader::default());
    for event in window {
        if let Ok(members) = JsonMembers::parse(event.as_ref()) {
            survey.add(&members, &mut times);
        }
    }
    let (identities, mut out) = (survey.finish(), String::new());
    for event in window {
        event::write(&mut out, event.as_ref(), &identities, series, &mut times);
    }
    out
}

/// `GET /v1/windows/{name}/calendar.ics`.
pub(super) async fn calendar(request: ApiRequest) -> Result<Response, Problem> {
    let (parameters, view) = request.viewed(&["from", "to", "series"])?;
    let (from, to) = request.range(&parameters)?;
    let series = match parameters.text("series") {
        None | Some("own") => SeriesMode::Own,
        Some("linked") => SeriesMode::Linked,
        Some(_) => return Err(Problem::bad_parameter("series", "must be own or linked")),
    };
    let (window, status) = request.window()?;
    let tag = ETag::of(&("ics", request.app.store.version(window), view.tag(), from, to, series));
    if let Some(answer) = request.not_modified(&tag) {
        return Ok(answer);
    }
    let ApiRequest { app, name, .. } = request;
    let (work, stopping) = (app.limits.clone(), app.stopping.clone());
    let began = app.store.durable_seq();
    let query = EventQuery { window, from, to, limit: BATCH, bytes: SLICE_BYTES, after: None };
    let writing = CalendarWriter {
        app,
        name,
        view,
        query,
        began,
        series,
        times: TimeReader::default(),
        identities: Identities::default(),
        written: BTreeSet::new(),
        step: CalendarStep::Head(Box::new(status)),
    };
    let kind = HeaderValue::from_static("text/calendar; charset=utf-8");
    let body = work.body(writing, stopping).await?;
    let response = ([(header::CONTENT_TYPE, kind)], body).into_response();
    Ok(tag.attach_to(response))
}

/// Writes one calendar.
struct CalendarWriter {
    app: Arc<AppState>,
    name: String,
    view: EventView,
    query: EventQuery,
    /// The end of the feed before the first page was read.
    began: Seq,
    series: SeriesMode,
    times: TimeReader,
    identities: Identities,
    /// The events already written.
    written: BTreeSet<EventHash>,
    step: CalendarStep,
}

enum CalendarStep {
    Head(Box<WindowStatus>),
    /// The identities read so far, and the event after which reading continues.
    Survey(IdentitySurvey, Option<(Timestamp, EventId)>),
    Events,
    /// Reads the changes since `began`.
    Changes(Seq),
    Tail,
    Over,
}

impl SliceProducer for CalendarWriter {
    async fn next(&mut self, bytes: usize) -> Result<Vec<u8>, Problem> {
        self.query.bytes = bytes;
        let mut text = String::new();
        match std::mem::replace(&mut self.step, CalendarStep::Over) {
            CalendarStep::Head(status) => {
                text.push_str(&head(&status));
                self.step = CalendarStep::Survey(IdentitySurvey::default(), None);
            }
            CalendarStep::Survey(survey, after) => self.survey(survey, after).await?,
            CalendarStep::Events => self.events(&mut text).await?,
            CalendarStep::Changes(after) => self.changes(&mut text, after).await?,
            CalendarStep::Tail => text.push_str("END:VCALENDAR\r\n"),
            CalendarStep::Over => {}
        }
        Ok(text.into_bytes())
    }

    fn is_over(&self) -> bool {
        matches!(self.step, CalendarStep::Over)
    }
}

impl CalendarWriter {
    /// Surveys one batch of the whole window, whatever range is requested.
    async fn survey(
        &mut self,
        mut survey: IdentitySurvey,
        after: Option<(Timestamp, EventId)>,
    ) -> Result<(), StoreError> {
        let whole =
            EventQuery { from: None, to: None, after, bytes: SURVEY_BYTES, ..self.query.clone() };
        let events = self.app.store.events(whole).await?;
        for event in events.value {
            let event = self.view.reduce(event);
            if let Ok(members) = JsonMembers::parse(&event) {
                survey.add(&members, &mut self.times);
            }
        }
        self.step = match events.next {
            Some(next) => CalendarStep::Survey(survey, Some(next)),
            None => {
                self.identities = survey.finish();
                CalendarStep::Events
            }
        };
        Ok(())
    }

    async fn events(&mut self, text: &mut String) -> Result<(), FeedError> {
        let events = self.app.store.events(self.query.clone()).await?;
        for event in events.value {
            self.write(text, event);
        }
        self.step = match events.next {
            Some(next) => {
                self.query.after = Some(next);
                CalendarStep::Events
            }
            None => CalendarStep::Changes(self.began),
        };
        Ok(())
    }

    async fn changes(&mut self, text: &mut String, after: Seq) -> Result<(), FeedError> {
        // A fresh cursor per batch counts as issued now, so trimming cannot invalidate it; missed
        // removals do not matter, none is written.
        let (store, filter) = (&self.app.store, FeedFilter::Window(self.query.window));
        let mut follower = Follower::after(store, &store.cursor(after), filter)?;
        let changes = follower.read(BATCH, BATCH_BYTES).await?;
        for event in changes.value.into_iter().filter_map(|change| change.event) {
            if self.overlaps(&event) {
                self.write(text, event);
            }
        }
        self.step =
            if changes.at_end { CalendarStep::Tail } else { CalendarStep::Changes(changes.seq) };
        Ok(())
    }

    /// Whether an event overlaps the requested range.
    fn overlaps(&mut self, event: &[u8]) -> bool {
        let when = JsonMembers::parse(event).ok().and_then(|members| self.times.event(&members));
        let EventQuery { from, to, .. } = self.query;
        when.is_some_and(|when| {
            let (start, end) = (when.start.at, when.end.at);
            to.is_none_or(|to| start < to)
                && from.is_none_or(|from| end > from || (start == end && start >= from))
        })
    }

    fn write(&mut self, text: &mut String, event: Bytes) {
        let id = id_of(&event);
        if id.is_some_and(|id| !self.written.insert(id)) {
            return;
        }
        let Some(event) = self.view.show(event) else { return };
        let written = event::write(text, &event, &self.identities, self.series, &mut self.times);
        if written.is_none() {
            // Its times or its structure are not understood here; the JSON API still has it.
            tracing::debug!(window = %self.name, "event left out of a calendar");
        }
    }
}

/// The id in an event's JSON.
pub(super) fn id_of(event: &[u8]) -> Option<EventHash> {
    Some(EventId::new(JsonMembers::parse(event).ok()?.text("id")?).hash())
}

/// The lines before the events.
fn head(status: &WindowStatus) -> String {
    let mut head = String::new();
    // Clients that honour it refresh about as often as the window can change.
    let seconds = status.interval_s.clamp(60.0, 86_400.0).round();
    let often = format!("PT{seconds}S");
    ContentLine::new(&mut head, "BEGIN").value("VCALENDAR");
    ContentLine::new(&mut head, "PRODID").text(concat!(
        "-//calmirror//calmirror ",
        env!("CARGO_PKG_VERSION"),
        "//EN"
    ));
    ContentLine::new(&mut head, "VERSION").value("2.0");
    ContentLine::new(&mut head, "CALSCALE").value("GREGORIAN");
    ContentLine::new(&mut head, "NAME").text(&status.name);
    ContentLine::new(&mut head, "X-WR-CALNAME").text(&status.name);
    ContentLine::new(&mut head, "REFRESH-INTERVAL").parameter("VALUE", "DURATION").value(&often);
    ContentLine::new(&mut head, "X-PUBLISHED-TTL").value(&often);
    head
}
