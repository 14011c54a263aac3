//! What a request to Graph asks: the calendar, the options, the address.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, utf8_percent_encode};

use super::auth::Tokens;
use super::budget::MailboxBudget;
use super::error::GraphError;
use crate::mirror::page::Link;
use crate::mirror::window::{BodyFormat, CalendarRef, Edges, group_id};
use crate::percent;

/// What is encoded in a segment of a path.
const SEGMENT: &AsciiSet = &percent::RESERVED.remove(b'@').remove(b'=');
/// What is encoded in `$select`.
const SELECT: &AsciiSet = &percent::RESERVED.remove(b',');

/// The calendar to read, the account's tokens, and counters of the requests made.
#[derive(Debug)]
pub struct Target {
    /// User id or address, `me`, or `group:{id}`.
    pub mailbox: Arc<str>,
    /// The calendar of the mailbox.
    pub calendar: CalendarRef,
    /// The account's token.
    pub tokens: Arc<Tokens>,
    /// The mailbox's budget.
    pub budget: Arc<MailboxBudget>,
    /// HTTP requests made for this target so far.
    pub requests: AtomicU64,
    /// Microseconds that successful requests took, without the wait for the budget.
    pub response_micros: AtomicU64,
    /// Whether a request waits for the budget, which may take any time.
    pub queued: AtomicBool,
}

/// The options of a request; the same for every request of a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestOptions {
    /// The `odata.maxpagesize` hint (facts 40-42).
    pub page_size: u32,
    /// The format in which bodies are requested and kept.
    pub body: BodyFormat,
    /// `outlook.timezone`, a Windows or IANA name.
    pub time_zone: Arc<str>,
    /// Whether ids survive moves within the mailbox (fact 46).
    pub immutable_ids: bool,
}

/// What a request says beside its address.
#[derive(Clone, Copy, Debug)]
pub(super) enum RequestHeaders<'a> {
    /// The preferences of a window.
    Window(&'a RequestOptions),
    /// Nothing.
    Plain,
    /// That the answer may be slightly old: advanced queries of the directory need it, with
    /// `$count`.
    Eventual,
}

/// Where a page starts.
#[derive(Clone, Copy, Debug)]
pub enum PageStart<'a> {
    /// A new round over these edges.
    Window(Edges),
    /// A link from Graph.
    Link(&'a Link),
}

impl Target {
    /// A target to which no request was made yet.
    pub fn new(
        mailbox: Arc<str>,
        calendar: CalendarRef,
        tokens: Arc<Tokens>,
        budget: Arc<MailboxBudget>,
    ) -> Self {
        let (requests, response_micros) = (AtomicU64::new(0), AtomicU64::new(0));
        let queued = AtomicBool::new(false);
        Self { mailbox, calendar, tokens, budget, requests, response_micros, queued }
    }

    /// The address of a resource below the calendar, where Graph's address is `base`.
    pub(super) fn url(&self, base: &str, below: &str) -> Result<String, GraphError> {
        let mut url = base.to_owned();
        if &*self.mailbox == "me" {
            url.push_str("/me/");
        } else if let Some(group) = group_id(&self.mailbox) {
            url.push_str("/groups/");
            push_segment(&mut url, group)?;
            url.push('/');
        } else {
            url.push_str("/users/");
            push_segment(&mut url, &self.mailbox)?;
            url.push('/');
        }
        if let CalendarRef::Id(id) = &self.calendar {
            url.push_str("calendars/");
            push_segment(&mut url, id)?;
            url.push('/');
        }
        url.push_str(below);
        Ok(url)
    }
}

impl RequestOptions {
    /// Every preference in one header (fact 50), on every request including links (facts 41, 46).
    pub(super) fn prefer(&self) -> Result<HeaderValue, GraphError> {
        // Bodies that are dropped are smaller as text.
        let body = match self.body {
            BodyFormat::Html => "html",
            BodyFormat::Text | BodyFormat::None => "text",
        };
        if self.time_zone.contains(['"', '\\']) {
            return Err(GraphError::InvalidRequest("time_zone is not the name of a zone"));
        }
        let mut prefer = format!(
            "odata.maxpagesize={}, outlook.timezone=\"{}\", outlook.body-content-type=\"{body}\"",
            self.page_size, self.time_zone
        );
        if self.immutable_ids {
            prefer.push_str(", IdType=\"ImmutableId\"");
        }
        HeaderValue::try_from(prefer)
            .map_err(|_| GraphError::InvalidRequest("time_zone is not the name of a zone"))
    }
}

impl RequestHeaders<'_> {
    /// Adds them to a request.
    pub(super) fn add_to(self, headers: &mut HeaderMap) -> Result<(), GraphError> {
        match self {
            Self::Window(options) => headers.insert("prefer", options.prefer()?),
            Self::Plain => None,
            Self::Eventual => {
                headers.insert("consistencylevel", HeaderValue::from_static("eventual"))
            }
        };
        Ok(())
    }
}

/// Appends `?startDateTime=…&endDateTime=…` in `Z` form (facts 23, 26, 28).
pub(super) fn with_range(url: &str, edges: Edges) -> String {
    let encoded = |at: Timestamp| percent::encode(&at.to_string());
    format!("{url}?startDateTime={}&endDateTime={}", encoded(edges.start), encoded(edges.end))
}

/// Appends one segment of a path. `.` and `..` are rejected: in any encoding they leave the path.
pub(super) fn push_segment(url: &mut String, segment: &str) -> Result<(), GraphError> {
    if matches!(segment, "" | "." | "..") {
        return Err(GraphError::InvalidRequest("an id or address that cannot be part of a path"));
    }
    url.extend(utf8_percent_encode(segment, SEGMENT));
    Ok(())
}

/// Appends `$select` to an address with a range.
pub(super) fn push_select(url: &mut String, select: &str) {
    url.push_str("&$select=");
    url.extend(utf8_percent_encode(select, SELECT));
}
