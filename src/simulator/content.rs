//! What an event or an exception of a series contains, and when it takes place.

use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::DateTime;
use serde_json::{Value, json};

use super::zone::Zone;

/// A body in both formats that a client can request.
#[derive(Debug)]
pub(super) struct EventBody {
    pub(super) html: Box<str>,
    pub(super) text: Box<str>,
}

impl EventBody {
    pub(super) fn preview(&self) -> &str {
        let end = self.text.char_indices().nth(255).map_or(self.text.len(), |(at, _)| at);
        &self.text[..end]
    }
}

/// A name with an email address.
#[derive(Clone, Debug)]
pub(super) struct Person {
    pub(super) name: Arc<str>,
    pub(super) address: Arc<str>,
}

impl Person {
    pub(super) fn json(&self) -> Value {
        json!({"emailAddress": {"name": &*self.name, "address": &*self.address}})
    }
}

/// An attendee and their response.
#[derive(Clone, Debug)]
pub(super) struct Attendee {
    pub(super) who: Person,
    /// `required`, `optional` or `resource`.
    pub(super) kind: &'static str,
    pub(super) response: Arc<str>,
    pub(super) answered: Option<Timestamp>,
}

/// The content of an event or exception.
#[derive(Clone, Debug)]
pub(super) struct EventContent {
    pub(super) subject: Arc<str>,
    pub(super) body: Arc<EventBody>,
    pub(super) location: Arc<str>,
    pub(super) organizer: Person,
    /// Whether the mailbox's owner is the organizer.
    pub(super) is_organizer: bool,
    pub(super) attendees: Arc<[Attendee]>,
    pub(super) show_as: &'static str,
    pub(super) sensitivity: &'static str,
    pub(super) importance: &'static str,
    pub(super) category: Option<&'static str>,
    pub(super) online: bool,
    pub(super) cancelled: bool,
}

/// The time of an event, `[start, end)`, local to the zone of its item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LocalSpan {
    pub(super) start: DateTime,
    pub(super) end: DateTime,
}

impl LocalSpan {
    /// The same length at another start.
    pub(super) fn with_start(self, start: DateTime) -> Self {
        let length = self.end.duration_since(self.start);
        Self { start, end: start.checked_add(length).unwrap_or(DateTime::MAX) }
    }

    /// Both ends as instants. A start in a skipped hour is an hour later; if the end would then be
    /// before the start, the span keeps its length.
    pub(super) fn instants(self, zone: &Zone) -> (Timestamp, Timestamp) {
        let (start, end) = (zone.instant(self.start), zone.instant(self.end));
        let length = self.end.duration_since(self.start);
        (start, if end < start { start.checked_add(length).unwrap_or(start) } else { end })
    }
}
