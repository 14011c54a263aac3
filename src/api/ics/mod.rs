//! A window as an iCalendar object (RFC 5545), for any calendar program to subscribe to.
//!
//! A series is its instances: no rule has to be computed by two programs alike. Each of them has a
//! `UID` of its own, because many readers show only one event of those that share a `UID` without
//! a master; `?series=linked` writes the series' `UID` with `RECURRENCE-ID` instead. Times are
//! instants in UTC, whatever the window's `time_zone`; all-day events are dates. So no `VTIMEZONE`
//! is needed, and none can be wrong.
//!
//! The window is read twice: once for what the events are called (`identity`), and once to write
//! those that are asked for. It is written page by page and never held whole. An event that moves while it is written
//! stands in it once, and none is missing that was there all along: what changed meanwhile is
//! looked at in the feed at the end.

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
use super::extract::WindowRequest;
use super::limits::{SLICE_BYTES, SliceProducer};
use super::problem::Problem;
use super::redact::shown;
use crate::mirror::change::Seq;
use crate::mirror::event::JsonMembers;
use crate::mirror::event_time::TimeReader;
use crate::mirror::page::{EventHash, EventId};
use crate::mirror::status::WindowStatus;
use crate::store::{EventQuery, StoreError};

/// Events read from the store at a time.
const BATCH: usize = 500;

/// Bytes of events read at a time for what the events are called; only a few numbers of each are
/// kept.
const SURVEY_BYTES: usize = 512 << 10;

/// How the instances of a series are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum SeriesMode {
    /// Each with a `UID` of its own, `{series uid}/{original start}`.
    Own,
    /// With the series' `UID` and `RECURRENCE-ID`, without a master.
    Linked,
}

/// The text of an HTML body: its beginning, soon ending after `enough` bytes.
pub fn text_of_html(html: &str, enough: usize) -> String {
    html::text(html, enough)
}

/// `VEVENT`s of what is an event with times, of a window that has these JSON objects.
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
pub(super) async fn calendar(ask: WindowRequest) -> Result<Response, Problem> {
    let parameters = ask.parameters(&["from", "to", "series"])?;
    let (from, to) = ask.range(&parameters)?;
    let series = match parameters.text("series") {
        None | Some("own") => SeriesMode::Own,
        Some("linked") => SeriesMode::Linked,
        Some(_) => return Err(Problem::bad_parameter("series", "must be own or linked")),
    };
    let (window, status) = ask.window()?;
    let mask = ask.access.settings.mask_private;
    let tag = ETag::of(&("ics", ask.access.store.version(window), mask, from, to, series));
    if let Some(answer) = ask.held(&tag) {
        return Ok(answer);
    }
    let WindowRequest { access, name, .. } = ask;
    let (work, stopping) = (access.work.clone(), access.stopping.clone());
    let began = *access.store.durable().borrow();
    let query = EventQuery { window, from, to, limit: BATCH, bytes: SLICE_BYTES, after: None };
    let writing = CalendarWriter {
        access,
        name,
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
    Ok(tag.put_on(response))
}

/// A calendar being written.
struct CalendarWriter {
    access: Arc<AppState>,
    name: String,
    query: EventQuery,
    /// Where the feed ended before the first page was read.
    began: Seq,
    series: SeriesMode,
    times: TimeReader,
    identities: Identities,
    /// What stands in it already.
    written: BTreeSet<EventHash>,
    step: CalendarStep,
}

enum CalendarStep {
    Head(Box<WindowStatus>),
    /// The identities read so far, and the event after which reading continues.
    Survey(IdentitySurvey, Option<(Timestamp, EventId)>),
    Events,
    /// What changed meanwhile, after this seq.
    Changes(Seq),
    Tail,
    Over,
}

impl SliceProducer for CalendarWriter {
    async fn next(&mut self) -> Result<Vec<u8>, Problem> {
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
    /// Reads one stretch of the whole window, whatever part of it is asked for.
    async fn survey(
        &mut self,
        mut survey: IdentitySurvey,
        after: Option<(Timestamp, EventId)>,
    ) -> Result<(), StoreError> {
        let whole =
            EventQuery { from: None, to: None, after, bytes: SURVEY_BYTES, ..self.query.clone() };
        let events = self.access.store.events(whole).await?;
        for event in events.value {
            let event = shown(event, self.access.settings.mask_private);
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

    async fn events(&mut self, text: &mut String) -> Result<(), StoreError> {
        let events = self.access.store.events(self.query.clone()).await?;
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

    async fn changes(&mut self, text: &mut String, after: Seq) -> Result<(), StoreError> {
        let changes = self.access.store.changes(after, Some(self.query.window), BATCH).await?;
        for event in changes.value.into_iter().filter_map(|change| change.event) {
            if self.overlaps(&event) {
                self.write(text, event);
            }
        }
        self.step =
            if changes.at_end { CalendarStep::Tail } else { CalendarStep::Changes(changes.seq) };
        Ok(())
    }

    /// Whether an event takes place in the time asked for.
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
        let event = shown(event, self.access.settings.mask_private);
        let written = event::write(text, &event, &self.identities, self.series, &mut self.times);
        if written.is_none() {
            // Its times or its shape are not understood here; the JSON has it.
            tracing::debug!(window = %self.name, "event left out of a calendar");
        }
    }
}

/// The id in an event's JSON.
pub(super) fn id_of(event: &[u8]) -> Option<EventHash> {
    let members = JsonMembers::parse(event).ok()?;
    let id: String = serde_json::from_str(members.get("id")?.get()).ok()?;
    Some(EventId::new(id).hash())
}

/// What stands before the events.
fn head(status: &WindowStatus) -> String {
    let mut head = String::new();
    // Programs that heed it come again about as often as there can be anything new.
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
