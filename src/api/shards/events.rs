//! `GET /v1/events` of all shards.
//!
//! A page ends at a place in the list of all, after which each shard continues. Cursors belong to a
//! shard: a page has one of each, and the next page carries them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::super::extract::ApiRequest;
use super::super::merged_events::{self, MergeKey, MergedPage, PARAMETERS};
use super::super::problem::Problem;
use super::super::query::{ANSWER_BYTES, rewritten};
use super::super::selection::{SELECTION, SelectedWindows};
use super::gathered::{GatheredParts, names, tag_of};
use super::peers::ShardPart;
use crate::mirror::page::EventId;

/// A shard's page.
#[derive(Deserialize)]
struct EventsPart<'a> {
    #[serde(borrow)]
    value: Vec<EventPart<'a>>,
    cursor: String,
    complete: bool,
    next: Option<String>,
}

/// An event and its place in the list.
#[derive(Deserialize)]
struct EventPart<'a> {
    window: Arc<str>,
    start: Timestamp,
    id: String,
    #[serde(borrow)]
    event: &'a RawValue,
}

/// The page of all shards.
#[derive(Serialize)]
struct MergedEventsPage<'a> {
    value: Vec<MergedEvent<'a>>,
    cursors: BTreeMap<u32, String>,
    complete: bool,
    next: Option<String>,
    incomplete: Vec<String>,
}

#[derive(Serialize)]
struct MergedEvent<'a> {
    window: Arc<str>,
    event: &'a RawValue,
}

/// `GET /v1/events`.
pub(in crate::api) async fn list(request: ApiRequest) -> Result<Response, Problem> {
    if !request.is_merged() {
        return merged_events::list(request).await;
    }
    let (parameters, _) = request.viewed(&[&PARAMETERS[..], &SELECTION].concat())?;
    let (from, to) = request.range(&parameters)?;
    let limit = parameters.limit()?;
    let selection =
        SelectedWindows::parse(&parameters, Some("windows"), &request.app, &request.access)?;
    let page = parameters.text("page").map(ShardedPage::parse).transpose()?;
    // One range for all shards, whatever their clocks say.
    let range = [("from", from), ("to", to)];
    let range = range.into_iter().filter_map(|(name, at)| Some((name, at?.to_string())));
    let range: Vec<_> = range.collect();
    // The query of a shard; none for one that is missing since an earlier page.
    let query = |shard: u32| {
        let mut added = range.clone();
        if let Some(page) = &page {
            added.push(("page", page.of_shard(shard)?));
        }
        Some(rewritten(request.query(), |name| !["from", "to", "page"].contains(&name), &added))
    };
    let here = request.app.settings.shard.of.ordinal();
    let (mut shards, mut absent) = (selection.shards(), None);
    let own = query(here);
    if own.is_none() {
        // Another shard began the list: it needed this one only for windows that this one has.
        shards.remove(&here);
        absent = Some(here).filter(|_| selection.only_names().is_none());
    }
    let own = merged_events::list(request.of_this_shard(own.unwrap_or_default()));
    let target = |shard| Some(format!("{}?{}", request.path, query(shard)?));
    let gathered = GatheredParts::gather(&request, shards, target, own).await?;
    let (parts, mut missing) = gathered.split();
    missing.extend(absent);
    let tag = tag_of(&parts, &missing, &());
    if let Some(answer) = request.not_modified(&tag) {
        return Ok(answer);
    }
    let merging = async move { Ok((merged(&parts, missing, limit), ())) };
    let (body, ()) = request.app.limits.unsliced(merging).await?;
    Ok(tag.json(body))
}

fn merged(parts: &[ShardPart], mut missing: BTreeSet<u32>, limit: usize) -> Vec<u8> {
    let (mut events, mut cursors) = (Vec::new(), BTreeMap::new());
    let mut complete = true;
    // Where the first page of a shard ends: what follows is not known of that shard.
    let mut known_until: Option<MergeKey> = None;
    for (shard, part, _) in GatheredParts::read::<EventsPart<'_>>(parts, &mut missing) {
        let end = part.next.as_deref().map(MergedPage::parse).transpose();
        let Ok(end) = end else {
            tracing::warn!(shard, "shard is missing in a list: its next page could not be read");
            missing.insert(shard);
            continue;
        };
        if let Some(MergedPage { start, window, id, .. }) = end {
            let end = (start, window, id);
            known_until = Some(known_until.map_or(end.clone(), |known| known.min(end)));
        }
        complete &= part.complete;
        cursors.insert(shard, part.cursor);
        events.extend(part.value.into_iter().map(|EventPart { window, start, id, event }| {
            ((start, window.clone(), EventId::new(id)), MergedEvent { window, event })
        }));
    }
    events.sort_by(|(a, _), (b, _): &(MergeKey, _)| a.cmp(b));
    let known = |key: &MergeKey| known_until.as_ref().is_none_or(|end| key <= end);
    let (mut value, mut bytes, mut last) = (Vec::new(), 0, None);
    let mut events = events.into_iter().peekable();
    while let Some((key, event)) =
        events.next_if(|(key, _)| known(key) && value.len() < limit && bytes < ANSWER_BYTES)
    {
        bytes += event.event.get().len();
        value.push(event);
        last = Some(key);
    }
    let end = match events.peek() {
        Some((key, _)) if known(key) => last,
        _ => known_until,
    };
    let next = end.map(|(start, window, id)| {
        ShardedPage { start, window, id, cursors: cursors.clone() }.encode()
    });
    complete &= missing.is_empty();
    let incomplete = names(&missing);
    let page = MergedEventsPage { value, cursors, complete, next, incomplete };
    // Texts and numbers always serialize.
    serde_json::to_vec(&page).unwrap_or_default()
}

/// The place after which the next page starts, with the cursors of the first page. A shard without
/// a cursor was missing and stays so: the pages after it would not make up for those before.
#[derive(Debug, PartialEq)]
struct ShardedPage {
    start: Timestamp,
    window: Arc<str>,
    id: EventId,
    cursors: BTreeMap<u32, String>,
}

impl ShardedPage {
    /// The page of one shard.
    fn of_shard(&self, shard: u32) -> Option<String> {
        let cursor = self.cursors.get(&shard)?.clone();
        let (start, window, id) = (self.start, self.window.clone(), self.id.clone());
        Some(MergedPage { start, window, id, cursor }.encode())
    }

    /// `start` in nanoseconds, then the texts, each followed by a zero byte: none of them has one.
    fn encode(&self) -> String {
        let mut bytes = self.start.as_nanosecond().to_be_bytes().to_vec();
        let mut texts = vec![self.window.to_string(), self.id.as_str().to_owned()];
        for (shard, cursor) in &self.cursors {
            texts.extend([shard.to_string(), cursor.clone()]);
        }
        for text in texts {
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(0);
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn parse(text: &str) -> Result<Self, Problem> {
        let page = || {
            let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
            let (start, rest) = bytes.split_first_chunk::<16>()?;
            let texts = std::str::from_utf8(rest.strip_suffix(&[0])?).ok()?;
            let mut texts = texts.split('\0');
            let (window, id) = (texts.next()?.into(), EventId::new(texts.next()?));
            let mut cursors = BTreeMap::new();
            while let Some(shard) = texts.next() {
                cursors.insert(shard.parse().ok()?, texts.next()?.to_owned());
            }
            let start = Timestamp::from_nanosecond(i128::from_be_bytes(*start)).ok()?;
            Some(Self { start, window, id, cursors })
        };
        page().ok_or_else(|| Problem::bad_parameter("page", "must be the next of a previous page"))
    }
}
