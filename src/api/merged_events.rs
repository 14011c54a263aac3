//! `GET /v1/events` of this shard: the events of many windows in one list, ordered by start, window
//! and id.
//!
//! Each window is read a few events at a time, and the earliest of all is written next. As in the
//! list of one window, every page carries the cursor that was taken before the first page, so pages
//! and the changes after it are the mirror. The windows are read one after the other: an event that
//! moves meanwhile may be listed at both places or at none, and is in the changes.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;

use super::AppState;
use super::etag::ETagBuilder;
use super::extract::ApiRequest;
use super::limits::end_list;
use super::problem::Problem;
use super::query::ANSWER_BYTES;
use super::selection::{FeedScope, SELECTION, SelectedWindows};
use super::slice_run::SliceProducer;
use super::view::EventView;
use crate::mirror::page::EventId;
use crate::mirror::position::WindowId;
use crate::store::EventQuery;

/// Most windows of a list: each costs a read and some events in memory.
const MAX_WINDOWS: usize = 1000;

/// Events of a window that are read at first; each further read takes twice as many.
const FIRST_BATCH: usize = 16;
/// The most events of a window that are read at a time.
const LAST_BATCH: usize = 1024;
/// Bytes of events that all windows of a list hold together, besides one event of each.
const HELD_BYTES: usize = 2 << 20;
/// Bytes of events that one window holds at most, besides one event.
const MAX_HELD_BYTES: usize = 256 << 10;

/// Reads of the store for a slice after the first: a filter may refuse millions of events.
const MAX_READS: usize = 64;

/// The parameters beside those of the selection and the filter.
pub(super) const PARAMETERS: [&str; 6] = ["from", "to", "limit", "page", "fields", "windows"];

/// `GET /v1/events` of this shard.
pub(super) async fn list(request: ApiRequest) -> Result<Response, Problem> {
    let (parameters, view) = request.viewed(&[&PARAMETERS[..], &SELECTION].concat())?;
    let (from, to) = request.range(&parameters)?;
    let limit = parameters.limit()?;
    let ApiRequest { app, access, .. } = &request;
    let selection = SelectedWindows::parse(&parameters, Some("windows"), app, access)?;
    let scope = FeedScope::new(&selection, &view);
    let page = parameters.text("page").map(MergedPage::parse).transpose()?;
    let finding = async move { selection.running() };
    let names = app.limits.run(finding).await??;
    if names.len() > MAX_WINDOWS {
        let detail = format!("{} windows are selected: at most {MAX_WINDOWS} can be", names.len());
        return Err(Problem::bad_parameter("windows", detail));
    }
    let (cursor, after) = match page {
        Some(page) => {
            app.store.seq(scope.remove_from(&page.cursor, "page")?)?;
            (page.cursor, Some((page.start, page.window, page.id)))
        }
        None => (scope.add_to(app.store.cursor(app.store.durable_seq())), None),
    };
    let mut tag = ETagBuilder::new("merged");
    tag.add(&(app.store.min_seq(), view.tag(), scope.add_to(String::new())));
    tag.add(&(from, to, limit, parameters.text("page")));
    let (mut sources, mut complete) = (Vec::new(), true);
    for name in names {
        let Some((id, status)) = app.fleet.id(&name).zip(app.fleet.window(&name)) else { continue };
        complete &= status.settled_once;
        tag.add(&(&name, app.store.version(id), status.settled_once));
        sources.push(EventSource::new(name, id, after.as_ref()));
    }
    let tag = tag.done();
    if let Some(answer) = request.not_modified(&tag) {
        return Ok(answer);
    }
    let (work, stopping) = (app.limits.clone(), app.stopping.clone());
    let held_bytes = (HELD_BYTES / sources.len().max(1)).min(MAX_HELD_BYTES);
    let merged = MergedEvents {
        _permit: work.merge().await?,
        app: app.clone(),
        view,
        held_bytes,
        range: (from, to),
        sources,
        heads: BinaryHeap::new(),
        left: limit,
        bytes: 0,
        last: None,
        cursor,
        complete,
        is_part: request.is_part(),
        step: MergeStep::Head,
    };
    Ok(tag.json(work.body(merged, stopping).await?))
}

/// Where an event lies in the list.
pub(super) type MergeKey = (Timestamp, Arc<str>, EventId);

/// A window and its next events.
struct EventSource {
    name: Arc<str>,
    window: WindowId,
    read: VecDeque<(Timestamp, EventId, Bytes)>,
    /// What was read last.
    after: Option<(Timestamp, EventId)>,
    /// Events of the next read.
    batch: usize,
    /// Whether the window may have more.
    more: bool,
}

impl EventSource {
    /// A window whose events up to a place in the list were listed already.
    fn new(name: Arc<str>, window: WindowId, after: Option<&MergeKey>) -> Self {
        let after = after.map(|(start, last, id)| match name.cmp(last) {
            // Windows before the last one have had their events of that start, those after it have
            // not. No id is empty.
            std::cmp::Ordering::Less => {
                let later = start.checked_add(SignedDuration::from_micros(1)).unwrap_or(*start);
                (later, EventId::new(""))
            }
            std::cmp::Ordering::Equal => (*start, id.clone()),
            std::cmp::Ordering::Greater => (*start, EventId::new("")),
        });
        Self { name, window, read: VecDeque::new(), after, batch: FIRST_BATCH, more: true }
    }
}

/// The step of a merge.
enum MergeStep {
    Head,
    Events { wrote: bool },
    Over,
}

/// Writes one page.
struct MergedEvents {
    app: Arc<AppState>,
    view: EventView,
    /// Bytes of events that a window holds, besides one event.
    held_bytes: usize,
    /// Limits such lists, because of what they hold.
    _permit: OwnedSemaphorePermit,
    range: (Option<Timestamp>, Option<Timestamp>),
    sources: Vec<EventSource>,
    /// Where each window that is not over goes on, earliest first, with the index of the window: its
    /// next event, or the last one that was read if none of those read is listed.
    heads: BinaryHeap<Reverse<(MergeKey, usize)>>,
    /// Events that may still be written.
    left: usize,
    bytes: usize,
    last: Option<MergeKey>,
    cursor: String,
    complete: bool,
    /// Whether it is merged with those of other shards, which needs the places of the events.
    is_part: bool,
    step: MergeStep,
}

impl SliceProducer for MergedEvents {
    async fn next(&mut self, bytes: usize) -> Result<Vec<u8>, Problem> {
        let mut slice = Vec::with_capacity(bytes + 1024);
        let mut wrote = match self.step {
            MergeStep::Head => {
                slice.extend_from_slice(b"{\"value\":[");
                for index in 0..self.sources.len() {
                    self.fill(index).await?;
                }
                false
            }
            MergeStep::Events { wrote } => wrote,
            MergeStep::Over => return Ok(slice),
        };
        let mut reads = 0;
        while slice.len() < bytes && reads < MAX_READS {
            let is_full = self.left == 0 || self.bytes >= ANSWER_BYTES;
            if is_full || self.heads.is_empty() {
                self.end(&mut slice);
                return Ok(slice);
            }
            let Some(Reverse((key, index))) = self.heads.pop() else { break };
            let Some(source) = self.sources.get_mut(index) else { break };
            let Some((_, _, event)) = source.read.pop_front() else {
                self.last = Some(key);
                self.fill(index).await?;
                reads += 1;
                continue;
            };
            if std::mem::replace(&mut wrote, true) {
                slice.push(b',');
            }
            // A string always serializes.
            let name = serde_json::to_string(&*source.name).unwrap_or_default();
            slice.extend_from_slice(format!("{{\"window\":{name},").as_bytes());
            if self.is_part {
                let (start, _, id) = &key;
                let id = serde_json::to_string(id.as_str()).unwrap_or_default();
                slice.extend_from_slice(format!("\"start\":\"{start}\",\"id\":{id},").as_bytes());
            }
            slice.extend_from_slice(b"\"event\":");
            slice.extend_from_slice(&event);
            slice.push(b'}');
            (self.left, self.bytes, self.last) =
                (self.left - 1, self.bytes + event.len(), Some(key));
            reads += usize::from(self.fill(index).await?);
        }
        self.step = MergeStep::Events { wrote };
        Ok(slice)
    }

    fn is_over(&self) -> bool {
        matches!(self.step, MergeStep::Over)
    }
}

impl MergedEvents {
    /// Puts the place where a window goes on among the heads; reads once if no event is left. Returns
    /// whether it read.
    async fn fill(&mut self, index: usize) -> Result<bool, Problem> {
        let Some(source) = self.sources.get_mut(index) else { return Ok(false) };
        let reads = source.read.is_empty() && source.more;
        if reads {
            let query = EventQuery {
                window: source.window,
                from: self.range.0,
                to: self.range.1,
                limit: source.batch,
                bytes: self.held_bytes,
                after: source.after.clone(),
            };
            let events = self.app.store.events(query).await?;
            source.batch = (2 * source.batch).min(LAST_BATCH);
            source.more = events.next.is_some();
            source.after = events.keys.last().cloned().or(source.after.take());
            for ((start, id), event) in events.keys.into_iter().zip(events.value) {
                if let Some(event) = self.view.show(event) {
                    source.read.push_back((start, id, event));
                }
            }
        }
        let next = source.read.front().map(|(start, id, _)| (*start, id.clone()));
        if let Some((start, id)) = next.or_else(|| source.after.clone().filter(|_| source.more)) {
            self.heads.push(Reverse(((start, source.name.clone(), id), index)));
        }
        Ok(reads)
    }

    /// Writes the members after the events.
    fn end(&mut self, slice: &mut Vec<u8>) {
        let more = !self.heads.is_empty();
        let last = self.last.take().filter(|_| more);
        let next = last.map(|(start, window, id)| MergedPage {
            start,
            window,
            id,
            cursor: self.cursor.clone(),
        });
        let tail = json!({
            "cursor": self.cursor,
            "complete": self.complete,
            "next": next.map(|page| page.encode()),
        });
        end_list(slice, &tail);
        self.step = MergeStep::Over;
    }
}

/// The place after which the next page starts, with the first page's cursor.
#[derive(Debug, PartialEq)]
pub(super) struct MergedPage {
    pub(super) start: Timestamp,
    pub(super) window: Arc<str>,
    pub(super) id: EventId,
    pub(super) cursor: String,
}

impl MergedPage {
    /// `start` in nanoseconds, then the texts, each followed by a zero byte: none of them has one.
    pub(super) fn encode(&self) -> String {
        let mut bytes = self.start.as_nanosecond().to_be_bytes().to_vec();
        for text in [&self.cursor, &*self.window, self.id.as_str()] {
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(0);
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        let page = || {
            let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
            let (start, rest) = bytes.split_first_chunk::<16>()?;
            let mut texts = std::str::from_utf8(rest.strip_suffix(&[0])?).ok()?.split('\0');
            let (cursor, window, id) = (texts.next()?, texts.next()?, texts.next()?);
            (texts.next().is_none()).then_some(())?;
            Some(Self {
                start: Timestamp::from_nanosecond(i128::from_be_bytes(*start)).ok()?,
                window: window.into(),
                id: EventId::new(id),
                cursor: cursor.to_owned(),
            })
        };
        page().ok_or_else(|| Problem::bad_parameter("page", "must be the next of a previous page"))
    }
}
