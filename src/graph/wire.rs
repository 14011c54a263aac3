//! Parses answers into pages, listings and single events.
//!
//! A body is parsed once. Items stay raw JSON (see `item.rs`); only a few of their members are
//! typed. A bad item costs only that item. A bad page (not JSON, no `value`, neither link or both)
//! costs the page. No input causes a panic.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::item::{ItemSource, Items, PageEntry};
use super::page_memory::Reservation;
use crate::json::JsonText;
use crate::mirror::page::{EventId, Item, Link, Page, PageEnd, UnreadableItem};
use crate::mirror::window::BodyFormat;

/// The maximum number of items of a page. A parsed item takes more memory than its bytes, so a page
/// of many small items is too large long before its body reaches the cap.
const MAX_ITEMS: usize = 50_000;
/// The error of a page with more items. It counts as too large: smaller pages are requested.
pub(super) const TOO_MANY_ITEMS: WireError = WireError("the page has more than 50,000 items");

/// What is wrong with an answer. Names members, never values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WireError(pub(super) &'static str);

/// One page of a plain list: `calendarView` or a series' instances.
#[derive(Debug)]
pub struct ListPage {
    /// The memory of the answer, reserved until this is dropped.
    pub memory: Reservation,
    /// Events in the order Graph sent them, each id once (the last entry wins).
    pub items: Vec<Item>,
    /// Items that could not be read.
    pub unreadable: Vec<UnreadableItem>,
    /// The next page, if there is one.
    pub next: Option<Link>,
}

/// Parses a page of a delta round.
///
/// # Errors
/// If it is not JSON, has no `value`, or does not have exactly one of the two links (fact 55).
pub fn page(bytes: &Bytes, body: BodyFormat) -> Result<Page, WireError> {
    let Envelope { entries, next, delta } = Envelope::read(bytes, ItemSource::Delta, body)?;
    let end = match (next, delta) {
        (Some(next), None) => PageEnd::Next(next),
        (None, Some(delta)) => PageEnd::Delta(delta),
        (None, None) => return Err(WireError("the page has neither link")),
        (Some(_), Some(_)) => return Err(WireError("the page has both links")),
    };
    let PageItems { present, removed, unreadable } = entries;
    Ok(Page { present, removed, unreadable, end })
}

/// Parses a page of a plain list.
///
/// # Errors
/// If it is not JSON or has no `value`.
pub fn listing(bytes: &Bytes, body: BodyFormat) -> Result<ListPage, WireError> {
    let Envelope { entries, next, .. } = Envelope::read(bytes, ItemSource::Listed, body)?;
    // A plain list has no tombstones; an unexpected one is not an event.
    let PageItems { present, unreadable, .. } = entries;
    Ok(ListPage { memory: Reservation::default(), items: present, unreadable, next })
}

/// Parses an event that was requested by its id.
///
/// # Errors
/// If it is not JSON or not a readable event.
pub fn event(bytes: &Bytes, body: BodyFormat) -> Result<Item, WireError> {
    let text = utf8(bytes);
    let mut items = Items::new(bytes, ItemSource::Listed, body);
    match parse(&text, &mut items).map_err(|_| WireError("the answer is not json"))? {
        PageEntry::Present(item) => Ok(item),
        PageEntry::Removed(_) => Err(WireError("a tombstone instead of the requested event")),
        PageEntry::Unreadable(unreadable) => Err(WireError(unreadable.reason)),
    }
}

/// Replaces broken characters, so that one of them does not block a round forever.
fn utf8(bytes: &[u8]) -> Cow<'_, str> {
    let body = without_bom(bytes);
    // Checking alone is several times faster than `from_utf8_lossy`, which checks piece by piece.
    std::str::from_utf8(body).map_or_else(|_| String::from_utf8_lossy(body), Cow::Borrowed)
}

/// Strips the byte order mark that some of Graph's servers put before a body; it is not JSON (fact
/// 200).
pub(super) fn without_bom(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

fn parse<'de, S: DeserializeSeed<'de>>(text: &'de str, seed: S) -> serde_json::Result<S::Value> {
    let mut json = serde_json::Deserializer::from_str(text);
    let value = seed.deserialize(&mut json)?;
    json.end()?;
    Ok(value)
}

/// The items of a page, each id once.
#[derive(Default)]
struct PageItems {
    present: Vec<Item>,
    removed: Vec<EventId>,
    unreadable: Vec<UnreadableItem>,
}

impl PageItems {
    /// Within a page the last entry of an id wins (fact 58).
    fn of(entries: Vec<PageEntry>) -> Self {
        let mut seen: HashMap<EventId, Option<Arc<str>>> = HashMap::with_capacity(entries.len());
        let mut sorted = Self::default();
        let mut contradicted = 0_usize;
        for entry in entries.into_iter().rev() {
            match entry {
                PageEntry::Present(item) => match seen.get(&item.id) {
                    None => {
                        seen.insert(item.id.clone(), item.etag.clone());
                        sorted.present.push(item);
                    }
                    Some(last) => contradicted += usize::from(*last != item.etag),
                },
                PageEntry::Removed(id) => {
                    if !seen.contains_key(&id) {
                        seen.insert(id.clone(), None);
                        sorted.removed.push(id);
                    }
                }
                PageEntry::Unreadable(unreadable) => sorted.unreadable.push(unreadable),
            }
        }
        if contradicted > 0 {
            tracing::debug!(contradicted, "ids repeated on a page, keeping the last entries");
        }
        sorted.present.reverse();
        sorted.removed.reverse();
        sorted.unreadable.reverse();
        sorted
    }
}

/// A page's items and links.
struct Envelope {
    entries: PageItems,
    next: Option<Link>,
    delta: Option<Link>,
}

impl Envelope {
    fn read(bytes: &Bytes, source: ItemSource, body: BodyFormat) -> Result<Self, WireError> {
        let text = utf8(bytes);
        let too_many = Cell::new(false);
        let members = EnvelopeVisitor(Items::new(bytes, source, body), &too_many);
        let (value, next, delta) = parse(&text, members).map_err(|_| match too_many.get() {
            true => TOO_MANY_ITEMS,
            false => WireError("the answer is not a json page"),
        })?;
        let value = value.ok_or(WireError("the page has no value"))?;
        Ok(Self { entries: PageItems::of(value), next, delta })
    }
}

/// Reads a page's own members: `value` and the two links.
struct EnvelopeVisitor<'a, 'de>(Items<'de>, &'a Cell<bool>);

impl<'de> DeserializeSeed<'de> for EnvelopeVisitor<'_, 'de> {
    type Value = (Option<Vec<PageEntry>>, Option<Link>, Option<Link>);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EnvelopeVisitor<'_, 'de> {
    type Value = (Option<Vec<PageEntry>>, Option<Link>, Option<Link>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a page")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut value, mut next, mut delta) = (None, None, None);
        while let Some(JsonText(name)) = map.next_key()? {
            match name.as_ref() {
                "value" => value = Some(map.next_value_seed(ItemsVisitor(&mut self.0, self.1))?),
                "@odata.nextLink" => next = link(&mut map)?,
                "@odata.deltaLink" => delta = link(&mut map)?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok((value, next, delta))
    }
}

/// An absent, null or empty link counts as none.
fn link<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Option<Link>, A::Error> {
    let text = map.next_value::<Option<JsonText<'de>>>()?.map(|JsonText(text)| text);
    Ok(text.filter(|text| !text.is_empty()).map(Link::new))
}

/// Reads the elements of `value`.
struct ItemsVisitor<'a, 'de>(&'a mut Items<'de>, &'a Cell<bool>);

impl<'de> DeserializeSeed<'de> for ItemsVisitor<'_, 'de> {
    type Value = Vec<PageEntry>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ItemsVisitor<'_, 'de> {
    type Value = Vec<PageEntry>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = seq.next_element_seed(&mut *self.0)? {
            if entries.len() == MAX_ITEMS {
                self.1.set(true);
                return Err(de::Error::custom("too many items"));
            }
            entries.push(entry);
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests;
