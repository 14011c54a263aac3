//! One answer of Graph inside a round, reduced to what the protocol looks at.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::event::JsonMembers;

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

    /// The 16 bytes that name the event in the store.
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

/// An event as a page carried it.
#[derive(Clone, PartialEq)]
pub struct Item {
    /// Its id.
    pub id: EventId,
    /// What it is.
    pub kind: EventKind,
    /// The series it belongs to: set for occurrences and exceptions.
    pub master: Option<EventId>,
    /// `@odata.etag`.
    pub etag: Option<Arc<str>>,
    /// When it takes place. Masters have the first occurrence's, of no meaning here.
    pub span: Span,
    /// `isAllDay` where the item says so: such events may lie up to a day off at the edges (fact 80).
    pub all_day: bool,
    /// Whether it carries more than a bare occurrence does, so that it can be shown as it is.
    pub whole: bool,
    /// The JSON object: members as Graph sent them, of `@odata.*` only `@odata.etag`; without
    /// `body` and `bodyPreview` where the window does not want them.
    pub content: Bytes,
}

impl Item {
    /// Its `changeKey`, hashed, if it carries one.
    pub fn change_key(&self) -> Option<EventHash> {
        let members = JsonMembers::parse(&self.content).ok()?;
        let key: &str = serde_json::from_str(members.get("changeKey")?.get()).ok()?;
        Some(EventId::new(key).hash())
    }
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Contents never reach a log (promise 7).
        f.debug_struct("Item")
            .field("id", &self.id)
            .field("kind", &self.kind)
            .field("master", &self.master)
            .field("whole", &self.whole)
            .field("bytes", &self.content.len())
            .finish_non_exhaustive()
    }
}

/// An item that could not be read; the round goes on without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableItem {
    /// Its id, where at least that could be read: what the mirror holds under it is then kept.
    pub id: Option<EventId>,
    /// What was wrong; names members, never values.
    pub why: &'static str,
}

/// One of Graph's two opaque links. `Debug` and logs never show it.
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

/// What ends a page: exactly one of the two links (fact 55), or in a plain listing no link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PageEnd {
    /// More pages follow.
    Next(Link),
    /// The round is over.
    Delta(Link),
    /// The last page of a plain listing, from which no link leads on.
    Last,
}

/// One answer. Within a page the last word on an id wins (fact 58), so an id stands either in
/// `present` or in `removed`, once.
#[derive(Clone, Debug)]
pub struct Page {
    /// Events, in the order Graph sent them.
    pub present: Vec<Item>,
    /// Tombstones: "not in this view", nothing more (fact 62).
    pub removed: Vec<EventId>,
    /// Items that could not be read.
    pub unreadable: Vec<UnreadableItem>,
    /// The link to go on from.
    pub end: PageEnd,
    /// Decoded size, bytes.
    pub bytes: usize,
}
