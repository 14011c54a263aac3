//! One page of a round, reduced to what the protocol uses.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::availability::Availability;
use crate::json::JsonMembers;

/// A Graph id: opaque, case sensitive, compared as bytes (fact 48).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(Arc<str>);

impl EventId {
    /// Wraps an id exactly as Graph sent it.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self(id.into())
    }

    /// The id as Graph sent it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 16 bytes that identify the event in the store.
    pub fn hash(&self) -> EventHash {
        let digest = Sha256::digest(self.0.as_bytes());
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest[..16]);
        EventHash(hash)
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventId({})", &*self.0)
    }
}

/// The first 16 bytes of the SHA-256 of an id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventHash(pub [u8; 16]);

impl fmt::Debug for EventHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventHash({:032x})", u128::from_be_bytes(self.0))
    }
}

/// Graph's `type` of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A single instance.
    Single,
    /// An occurrence that follows its series' pattern; arrives bare (fact 66).
    Occurrence,
    /// An occurrence that differs from its series.
    Exception,
    /// The series master; never an instance (fact 67).
    Master,
}

/// When an event takes place, `[start, end)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Inclusive.
    pub start: Timestamp,
    /// Exclusive.
    pub end: Timestamp,
}

/// An event as it appeared on a page.
#[derive(Clone, PartialEq)]
pub struct Item {
    /// Its id.
    pub id: EventId,
    /// Its kind.
    pub kind: EventKind,
    /// The master of its series; set for occurrences and exceptions.
    pub master: Option<EventId>,
    /// `@odata.etag`.
    pub etag: Option<Arc<str>>,
    /// When it takes place. A master has the times of the first occurrence, which are not used.
    pub span: Span,
    /// `isAllDay`, if present. All-day events may be up to a day off at the edges (fact 80).
    pub all_day: bool,
    /// Whether it takes up its time; `None` for a bare occurrence, whose master says it.
    pub availability: Option<Availability>,
    /// Whether it has more members than a bare occurrence, so that it can be shown as it is.
    pub full: bool,
    /// The JSON object, with the members as Graph sent them. Of `@odata.*` only `@odata.etag` is
    /// kept; `body` and `bodyPreview` are dropped if the window does not want them.
    pub content: Bytes,
}

impl Item {
    /// Its `changeKey`, hashed, if it has one.
    pub fn change_key(&self) -> Option<EventHash> {
        let members = JsonMembers::parse(&self.content).ok()?;
        Some(EventId::new(members.text("changeKey")?).hash())
    }

    /// The item with a content of its own. The content of a page's item is a part of the page, all
    /// of which stays in memory as long as the item.
    pub fn apart(self) -> Self {
        Self { content: Bytes::copy_from_slice(&self.content), ..self }
    }
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Contents never reach a log (promise 7).
        f.debug_struct("Item")
            .field("id", &self.id)
            .field("kind", &self.kind)
            .field("master", &self.master)
            .field("full", &self.full)
            .field("bytes", &self.content.len())
            .finish_non_exhaustive()
    }
}

/// An item that could not be read; the round continues without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableItem {
    /// Its id, if at least that could be read. The mirror then keeps what it has under the id.
    pub id: Option<EventId>,
    /// What is wrong with it; names members, never values.
    pub reason: &'static str,
}

/// A next link or a delta link, opaque. `Debug` and logs never show it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Link(Arc<str>);

impl Link {
    /// Wraps a link exactly as Graph sent it.
    pub fn new(link: impl Into<Arc<str>>) -> Self {
        Self(link.into())
    }

    /// The link, byte for byte. Only `graph` may follow it and only the store may keep it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({} bytes)", self.0.len())
    }
}

/// The end of a page: exactly one of the two links (fact 55), or no link in a plain listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PageEnd {
    /// More pages follow.
    Next(Link),
    /// No more pages follow; the next round starts from this link.
    Delta(Link),
    /// The last page of a plain listing, which has no link to continue from.
    Last,
}

/// One page. The last entry for an id wins (fact 58), so each id is only once in `present` and
/// `removed` together.
#[derive(Clone, Debug)]
pub struct Page {
    /// Events, in the order Graph sent them.
    pub present: Vec<Item>,
    /// Tombstones: "not in this view", nothing more (fact 62).
    pub removed: Vec<EventId>,
    /// Items that could not be read.
    pub unreadable: Vec<UnreadableItem>,
    /// The link to continue from.
    pub end: PageEnd,
}
