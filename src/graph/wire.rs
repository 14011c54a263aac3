//! Bytes in, what the protocol looks at out: pages, listings and single events.
//!
//! A body is read once. Items stay raw JSON (see `item.rs`); only a handful of their members are
//! typed. What is wrong with an item costs that item; what is wrong with the page (no JSON, no
//! `value`, neither link or both) costs the page. No input makes this panic.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::item::{ItemSource, Items, PageEntry};
use super::page_memory::Reservation;
use crate::mirror::event::JsonText;
use crate::mirror::page::{EventId, Item, Link, Page, PageEnd, UnreadableItem};
use crate::mirror::window::BodyFormat;

/// The most items of a page that are read. What is made of an item takes more memory than its
/// bytes, so a page of many small ones is too large long before the cap of a body is reached.
const MAX_ITEMS: usize = 50_000;
/// The error of a page with more items: it is too large, and has to be asked for in smaller pages.
pub(super) const TOO_MANY_ITEMS: WireError = WireError("the page has more than 50,000 items");

/// What is wrong with an answer. Names members, never values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WireError(pub(super) &'static str);

/// One page of a plain list: `calendarView` or a series' instances.
#[derive(Debug)]
pub struct ListPage {
    /// The memory that the answer takes, until this is dropped.
    pub memory: Reservation,
    /// Events in the order Graph sent them, each id once (the last word wins).
    pub items: Vec<Item>,
    /// Items that could not be read.
    pub unreadable: Vec<UnreadableItem>,
    /// Where the next page is, if there is one.
    pub next: Option<Link>,
}

/// Reads a page of a delta round.
///
/// # Errors
/// When it is not JSON, has no `value`, or not exactly one of the two links (fact 55).
pub fn page(bytes: &Bytes, body: BodyFormat) -> Result<Page, WireError> {
    let Envelope { entries, next, delta } = Envelope::read(bytes, ItemSource::Delta, body)?;
    let end = match (next, delta) {
        (Some(next), None) => PageEnd::Next(next),
        (None, Some(delta)) => PageEnd::Delta(delta),
        (None, None) => return Err(WireError("the page has neither link")),
        (Some(_), Some(_)) => return Err(WireError("the page has both links")),
    };
    let PageItems { present, removed, unreadable } = entries;
    Ok(Page { present, removed, unreadable, end, bytes: bytes.len() })
}

/// Reads a page of a plain list.
///
/// # Errors
/// When it is not JSON or has no `value`.
pub fn listing(bytes: &Bytes, body: BodyFormat) -> Result<ListPage, WireError> {
    let Envelope { entries, next, .. } = Envelope::read(bytes, ItemSource::Listed, body)?;
    // A plain list has no tombstones; one that came all the same is not an event.
    let PageItems { present, unreadable, .. } = entries;
    Ok(ListPage { memory: Reservation::default(), items: present, unreadable, next })
}

/// Reads an event asked for by its id.
///
/// # Errors
/// When it is not JSON or not a readable event.
pub fn event(bytes: &Bytes, body: BodyFormat) -> Result<Item, WireError> {
    let text = utf8(bytes);
    let mut items = Items::new(ItemSource::Listed, body);
    match parse(&text, &mut items).map_err(|_| WireError("the answer is not json"))? {
        PageEntry::Present(item) => Ok(item),
        PageEntry::Removed(_) => Err(WireError("a tombstone where an event was asked for")),
        PageEntry::Unreadable(unreadable) => Err(WireError(unreadable.why)),
    }
}

/// One broken character must not stop a round for ever, so it is replaced.
fn utf8(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(without_bom(bytes))
}

/// A body without the byte order mark that some of Graph's servers put before it, which is not
/// JSON (fact 200).
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
    /// Within a page the last word on an id wins (fact 58).
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
            tracing::debug!(contradicted, "ids stand twice on a page, the last word counts");
        }
        sorted.present.reverse();
        sorted.removed.reverse();
        sorted.unreadable.reverse();
        sorted
    }
}

/// A page: its items and its links.
struct Envelope {
    entries: PageItems,
    next: Option<Link>,
    delta: Option<Link>,
}

impl Envelope {
    fn read(bytes: &[u8], source: ItemSource, body: BodyFormat) -> Result<Self, WireError> {
        let text = utf8(bytes);
        let too_many = Cell::new(false);
        let members = EnvelopeVisitor(Items::new(source, body), &too_many);
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

/// An absent, null or empty link is none.
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
