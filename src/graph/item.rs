//! Parses one item of a page: its members as raw JSON, and a few of them typed.
//!
//! An item is never trusted: any shape becomes a [`PageEntry`]. An unreadable item is reported and
//! skipped without losing the page (fact 61, 75-77). Of a readable item every member is kept byte
//! for byte and in order, including unknown ones. Exceptions are `OData` annotations, which
//! describe the request and not the event (`@odata.etag` is kept), and the body if the window does
//! not want it.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use jiff::Timestamp;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::json::JsonText;
use crate::mirror::availability::Availability;
use crate::mirror::event_time::TimeReader;
use crate::mirror::page::{EventId, EventKind, Item, Span, UnreadableItem};
use crate::mirror::window::BodyFormat;

/// More members than any event has; bounds the work that a hostile item can cause.
const MAX_MEMBERS: usize = 1000;
/// Deeper than any event nests, and below the limit of JSON parsers (128).
const MAX_DEPTH: usize = 100;

/// An item of a page's `value`.
pub(super) enum PageEntry {
    Present(Item),
    Removed(EventId),
    Unreadable(UnreadableItem),
}

/// How the item was requested, which decides whether it is `full`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ItemSource {
    /// In a delta page, where occurrences are bare (fact 66).
    Delta,
    /// In a listing, or by its id: every requested member is present.
    Listed,
}

/// Reads the items of a page's `value`, one after the other.
pub(super) struct Items<'de> {
    /// The body that holds the items, unless they were read from a repaired copy of it.
    page: Bytes,
    source: ItemSource,
    body: BodyFormat,
    times: TimeReader,
    /// The members of the current item; the buffer is reused.
    members: Vec<(Cow<'de, str>, &'de str)>,
}

impl Items<'_> {
    /// Items of `page`, of which the content becomes a part where possible.
    pub(super) fn new(page: &Bytes, source: ItemSource, body: BodyFormat) -> Self {
        let (page, times) = (page.clone(), TimeReader::default());
        Self { page, source, body, times, members: Vec::new() }
    }
}

/// Splits one element into names and values, without parsing the values.
impl<'de> DeserializeSeed<'de> for &mut Items<'de> {
    type Value = PageEntry;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<PageEntry, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Items<'de> {
    type Value = PageEntry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an item")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PageEntry, A::Error> {
        self.members.clear();
        while let Some(JsonText(name)) = map.next_key()? {
            if self.members.len() == MAX_MEMBERS {
                map.next_value::<IgnoredAny>()?;
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                return Ok(nameless("the item has too many members"));
            }
            self.members.push((name, map.next_value::<&'de RawValue>()?.get()));
        }
        Ok(self.read())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<PageEntry, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(no_object())
    }

    fn visit_unit<E>(self) -> Result<PageEntry, E> {
        Ok(no_object())
    }

    fn visit_bool<E>(self, _: bool) -> Result<PageEntry, E> {
        Ok(no_object())
    }

    fn visit_i64<E>(self, _: i64) -> Result<PageEntry, E> {
        Ok(no_object())
    }

    fn visit_u64<E>(self, _: u64) -> Result<PageEntry, E> {
        Ok(no_object())
    }

    fn visit_f64<E>(self, _: f64) -> Result<PageEntry, E> {
        Ok(no_object())
    }

    fn visit_str<E>(self, _: &str) -> Result<PageEntry, E> {
        Ok(no_object())
    }
}

fn nameless(why: &'static str) -> PageEntry {
    PageEntry::Unreadable(UnreadableItem { id: None, reason: why })
}

fn no_object() -> PageEntry {
    nameless("the item is not an object")
}

/// The members that are parsed, as raw JSON.
#[derive(Default)]
struct ItemMembers<'a> {
    id: Option<&'a str>,
    kind: Option<&'a str>,
    master: Option<&'a str>,
    recurrence: Option<&'a str>,
    start: Option<&'a str>,
    end: Option<&'a str>,
    all_day: Option<&'a str>,
    show_as: Option<&'a str>,
    cancelled: Option<&'a str>,
    /// True even for `null`: a bare item has no such member.
    has_subject: bool,
    etag: Option<&'a str>,
    removed: Option<&'a str>,
}

impl Items<'_> {
    /// Reads the current item.
    fn read(&mut self) -> PageEntry {
        last_wins(&mut self.members);
        let mut looked = ItemMembers::default();
        for (name, raw) in &self.members {
            let place = match name.as_ref() {
                "id" => &mut looked.id,
                "type" => &mut looked.kind,
                "seriesMasterId" => &mut looked.master,
                "recurrence" => &mut looked.recurrence,
                "start" => &mut looked.start,
                "end" => &mut looked.end,
                "isAllDay" => &mut looked.all_day,
                "showAs" => &mut looked.show_as,
                "isCancelled" => &mut looked.cancelled,
                "@odata.etag" => &mut looked.etag,
                "@removed" => &mut looked.removed,
                "subject" => {
                    looked.has_subject = true;
                    continue;
                }
                _ => continue,
            };
            // For these members `null` and absent mean the same.
            *place = (*raw != "null").then_some(*raw);
        }
        let id = match looked.id.map(text) {
            Some(Ok(id)) if !id.is_empty() => EventId::new(id),
            _ => return nameless("id is missing or not a string"),
        };
        if looked.removed.is_some() {
            return PageEntry::Removed(id);
        }
        let content = content(&self.members, self.body, &self.page);
        match looked.item(&id, self.source, &mut self.times, content) {
            Ok(item) => PageEntry::Present(item),
            Err(why) => PageEntry::Unreadable(UnreadableItem { id: Some(id), reason: why }),
        }
    }
}

impl ItemMembers<'_> {
    fn item(
        &self,
        id: &EventId,
        source: ItemSource,
        times: &mut TimeReader,
        content: Result<Bytes, &'static str>,
    ) -> Result<Item, &'static str> {
        let master = match self.master.map(text).transpose() {
            Ok(master) => master.filter(|m| !m.is_empty()).map(EventId::new),
            Err(NotAString) => return Err("seriesMasterId is not a string"),
        };
        if master.as_ref() == Some(id) {
            return Err("the item is its own series master");
        }
        let told = self.kind.map(text).transpose().map_err(|NotAString| "type is not a string")?;
        let kind = match told.as_deref() {
            Some("singleInstance") => EventKind::Single,
            Some("occurrence") => EventKind::Occurrence,
            Some("exception") => EventKind::Exception,
            Some("seriesMaster") => EventKind::Master,
            // Absent, or an unknown word: the other members decide.
            _ if master.is_some() => EventKind::Occurrence,
            _ if self.recurrence.is_some() => EventKind::Master,
            _ => EventKind::Single,
        };
        // A listing may be requested without `seriesMasterId`; a delta page never is.
        let kind = match kind {
            EventKind::Occurrence if master.is_none() && source == ItemSource::Delta => {
                return Err("an occurrence without seriesMasterId");
            }
            // It is complete, so it becomes a single event.
            EventKind::Exception if master.is_none() && source == ItemSource::Delta => {
                EventKind::Single
            }
            kind => kind,
        };
        let etag =
            self.etag.map(text).transpose().map_err(|NotAString| "@odata.etag is not a string")?;
        let all_day = match self.all_day {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err("isAllDay is not a boolean"),
        };
        let span = match (self.span(times), kind) {
            (Ok(span), _) => span,
            // A master's dates are those of the first occurrence and mean nothing here (fact 67).
            (Err(_), EventKind::Master) => {
                Span { start: Timestamp::UNIX_EPOCH, end: Timestamp::UNIX_EPOCH }
            }
            (Err(why), _) => return Err(why),
        };
        let whole = match kind {
            EventKind::Occurrence => source == ItemSource::Listed,
            EventKind::Exception => self.has_subject,
            EventKind::Single | EventKind::Master => true,
        };
        Ok(Item {
            id: id.clone(),
            kind,
            master: master.filter(|_| matches!(kind, EventKind::Occurrence | EventKind::Exception)),
            etag: etag.map(Into::into),
            span,
            all_day,
            availability: Availability::of(self.show_as, self.cancelled),
            full: whole,
            content: content?,
        })
    }

    fn span(&self, times: &mut TimeReader) -> Result<Span, &'static str> {
        let when = times.parse_span(self.start, self.end)?;
        Ok(Span { start: when.start.at, end: when.end.at })
    }
}

struct NotAString;

fn text(raw: &str) -> Result<Cow<'_, str>, NotAString> {
    serde_json::from_str::<JsonText<'_>>(raw).map(|JsonText(text)| text).map_err(|_| NotAString)
}

/// Keeps each name once, with the last value at the first position.
fn last_wins(members: &mut Vec<(Cow<'_, str>, &str)>) {
    let mut at = 0;
    // A bit for each name so far. Most names find theirs unset and need no search.
    let mut seen = 0_u128;
    while at < members.len() {
        let (before, rest) = members.split_at_mut(at);
        let Some((name, raw)) = rest.first() else { break };
        let bit = name_bit(name);
        if seen & bit == 0 {
            seen |= bit;
            at += 1;
            continue;
        }
        match before.iter_mut().find(|(earlier, _)| earlier == name) {
            Some(earlier) => {
                earlier.1 = raw;
                members.remove(at);
            }
            None => at += 1,
        }
    }
}

/// One of 128 bits, which depends on the first and last character and the length of a name.
fn name_bit(name: &str) -> u128 {
    let bytes = name.as_bytes();
    let [first, last] = [bytes.first(), bytes.last()].map(|byte| usize::from(*byte.unwrap_or(&0)));
    1 << ((first * 7 + last * 13 + bytes.len() * 31) % 128)
}

/// The object with the members that are kept: a part of `page` if it already has this form, and
/// else a new one.
fn content(
    members: &[(Cow<'_, str>, &str)],
    body: BodyFormat,
    page: &Bytes,
) -> Result<Bytes, &'static str> {
    let kept = |name: &str| match name {
        "@odata.etag" => true,
        "@removed" => false,
        "body" | "bodyPreview" => body != BodyFormat::None,
        _ => !(name.contains('@') && name.contains("@odata.")),
    };
    let (mut size, mut all) = (1, true);
    for (name, raw) in members {
        if !kept(name) {
            all = false;
            continue;
        }
        if is_deep(raw) {
            return Err("the item is nested too deeply");
        }
        size += name.len() + raw.len() + 4;
    }
    if all && let Some(part) = part_of(page, members, size) {
        return Ok(part);
    }
    let mut object = Vec::with_capacity(size);
    object.push(b'{');
    for (name, raw) in members.iter().filter(|(name, _)| kept(name)) {
        if object.len() > 1 {
            object.push(b',');
        }
        match name {
            // A name without an escape in the page needs none here.
            Cow::Borrowed(name) => {
                object.push(b'"');
                object.extend_from_slice(name.as_bytes());
                object.push(b'"');
            }
            Cow::Owned(name) => {
                serde_json::to_writer(&mut object, name).map_err(|_| "a name is not a string")?;
            }
        }
        object.push(b':');
        copy_replacing_lone_surrogates(raw, &mut object);
    }
    object.push(b'}');
    Ok(object.into())
}

/// The part of a page that is an object of exactly these members, without white space between
/// them, with `size` bytes.
///
/// The part begins before the first name and ends after the last value. If a brace follows, that is
/// the last member of the object, and anything else in the object would make the part longer.
fn part_of(page: &Bytes, members: &[(Cow<'_, str>, &str)], size: usize) -> Option<Bytes> {
    let ((first, _), (_, last)) = (members.first()?, members.last()?);
    let named = members.iter().all(|(name, _)| matches!(name, Cow::Borrowed(_)));
    // Text of a repaired copy lies elsewhere; an empty slice could lie anywhere.
    let offset = |text: &str| text.as_ptr().addr().checked_sub(page.as_ptr().addr());
    let (start, end) = (offset(first)?.checked_sub(2)?, offset(last)? + last.len() + 1);
    let part = page.get(start..end).filter(|_| named && !first.is_empty())?;
    let exact = part.len() == size && part.starts_with(b"{\"") && part.ends_with(b"}");
    // An escape may be half of a pair of surrogates, which is replaced.
    (exact && memchr::memmem::find(part, b"\\u").is_none()).then(|| page.slice(start..end))
}

/// Whether the value nests deeper than [`MAX_DEPTH`].
fn is_deep(raw: &str) -> bool {
    let opens = |b: &u8| matches!(b, b'{' | b'[');
    // Counting is fast and decides all but the strangest values.
    if !raw.starts_with(['{', '['])
        || raw.as_bytes().iter().filter(|b| opens(b)).count() <= MAX_DEPTH
    {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for b in raw.bytes() {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// Copies a raw value; unpaired surrogates become U+FFFD.
///
/// Exchange cuts previews by UTF-16 units and may leave half an emoji. Every JSON parser would
/// reject the whole event because of it.
fn copy_replacing_lone_surrogates(text: &str, to: &mut Vec<u8>) {
    let raw = text.as_bytes();
    // Most values have no escape, and most others only short ones.
    if memchr::memchr(b'\\', raw).is_none() || memchr::memmem::find(raw, b"\\u").is_none() {
        return to.extend_from_slice(raw);
    }
    let (mut copied, mut at) = (0, 0);
    // Escapes occur only in strings, so a backslash always starts one.
    while let Some(next) = raw.get(at..).and_then(|rest| memchr::memchr(b'\\', rest)) {
        at += next;
        let unit = |at: usize| match raw.get(at..at + 6) {
            Some([b'\\', b'u', hex @ ..]) => {
                std::str::from_utf8(hex).ok().and_then(|hex| u16::from_str_radix(hex, 16).ok())
            }
            _ => None,
        };
        at += match unit(at) {
            Some(0xD800..=0xDBFF) if matches!(unit(at + 6), Some(0xDC00..=0xDFFF)) => 12,
            Some(0xD800..=0xDFFF) => {
                to.extend_from_slice(&raw[copied..at]);
                to.extend_from_slice(b"\\ufffd");
                copied = at + 6;
                6
            }
            Some(_) => 6,
            None => 2,
        };
    }
    to.extend_from_slice(&raw[copied..]);
}
