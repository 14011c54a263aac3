//! Reads a window's events: those that overlap an interval, in order, page by page.
//!
//! A page is gathered in one read of the tree, so that an event that moves between two batches is
//! never missed or shown twice. It is completed afterwards.

use std::ops::RangeInclusive;

use bytes::Bytes;
use jiff::Timestamp;

use super::error::{StoreError, TreeError};
use super::keys;
use super::record::instant;
use super::result_page::ResultPage;
use super::row::EventRow;
use super::rows::{IndexValue, LONG_EVENT};
use super::shared::StoreShared;
use super::tree::Tree;
use super::{EventQuery, Events, Store};
use crate::mirror::page::{EventHash, EventId};
use crate::mirror::position::WindowId;

/// Rows of events with the same start that are kept while these are sorted; further ones are read
/// twice.
const KEPT_TIES: usize = 16;

impl Store {
    /// Events of a window. A page shows one state of the tree. A window that is not in the store
    /// has no events.
    ///
    /// # Errors
    /// If the store can no longer be used.
    pub async fn events(&self, query: EventQuery) -> Result<Events, StoreError> {
        let read = move |shared: &StoreShared| {
            // Taken before reading: a change written meanwhile may be on the page already and is
            // delivered again after the cursor. A seq taken afterwards could skip it.
            let seq = shared.durable_seq();
            let ((mut page, more), group) = shared.read_tree(|tree| gather(tree, &query))?;
            let keys: Vec<_> =
                page.rows.iter().map(|row| (instant(row.start), row.id.clone())).collect();
            let next = keys.last().filter(|_| more).cloned();
            Ok((Events { value: page.show(), keys, next, seq }, group))
        };
        self.shared().read(read).await
    }

    /// One complete event. A master is not an event.
    ///
    /// # Errors
    /// If the store can no longer be used.
    pub async fn event(&self, window: WindowId, id: &EventId) -> Result<Option<Bytes>, StoreError> {
        let id = id.clone();
        let read = move |shared: &StoreShared| {
            let (mut page, group) = shared.read_tree(|tree| {
                let mut page = ResultPage::default();
                let stored = tree.row(window, id.hash())?;
                // The key is only a hash, so compare the id.
                if let Some(stored) = stored.filter(|s| s.row.is_shown() && s.row.id == id) {
                    page.add(tree, window, stored.row)?;
                }
                Ok(page)
            })?;
            Ok((page.show().into_iter().next(), group))
        };
        self.shared().read(read).await
    }
}

/// Gathers a page; returns whether there is more after it.
fn gather(tree: &Tree, query: &EventQuery) -> Result<(ResultPage, bool), TreeError> {
    let limit = query.limit.max(1);
    let from = query.from.map_or(i64::MIN, Timestamp::as_microsecond);
    let to = query.to.map_or(i64::MAX, Timestamp::as_microsecond);
    let after = query.after.as_ref().map(|(start, id)| (start.as_microsecond(), id));
    let resume = after.map_or(i64::MIN, |(start, _)| start);
    // Long events that start before the look-back, then everything else.
    let near = from.saturating_sub(LONG_EVENT);
    let mut ranges: Vec<(RangeInclusive<i64>, bool)> = Vec::new();
    if near > i64::MIN && resume < near {
        ranges.push((resume..=near - 1, true));
    }
    ranges.push((near.max(resume)..=to, false));
    let gathered = ResultPage::default();
    let mut page = ResultPageBuilder { tree, query, after, limit, tie: Vec::new(), gathered };
    for (starts, long) in ranges {
        if starts.is_empty() {
            continue;
        }
        let (first, last) = if long {
            (keys::long_from(query.window, *starts.start()), keys::long_from(query.window, near))
        } else {
            (keys::time_from(query.window, *starts.start()), keys::time_end(query.window))
        };
        for entry in tree.range(first..last) {
            let (key, value) = entry?;
            let (start, id) = keys::time_of(&key).ok_or(TreeError::Damaged("index"))?;
            if start >= to && query.to.is_some() {
                break;
            }
            let value = IndexValue::of(value);
            let end = value.end()?;
            let overlaps = end > from || (start == end && start >= from);
            if overlaps && page.push(start, id, value)? {
                return Ok((page.gathered, true));
            }
        }
    }
    let more = page.flush_ties()?;
    Ok((page.gathered, more))
}

/// A page being filled. Events with the same start are sorted by id before they are added.
struct ResultPageBuilder<'a> {
    tree: &'a Tree,
    query: &'a EventQuery,
    after: Option<(i64, &'a EventId)>,
    limit: usize,
    /// The events of one start that were found so far.
    tie: Vec<(i64, EventHash, IndexValue)>,
    gathered: ResultPage,
}

impl ResultPageBuilder<'_> {
    /// Takes the next event; returns whether the page is full and there is more.
    fn push(&mut self, start: i64, id: EventHash, value: IndexValue) -> Result<bool, TreeError> {
        if self.tie.first().is_some_and(|(at, ..)| *at != start) && self.flush_ties()? {
            return Ok(true);
        }
        // Such events may be a whole window of all-day events, so few rows of them are kept.
        let value = if self.tie.len() < KEPT_TIES { value } else { IndexValue::End(value.end()?) };
        self.tie.push((start, id, value));
        Ok(false)
    }

    /// Adds the events of one start; returns whether the page is full and there is more.
    fn flush_ties(&mut self) -> Result<bool, TreeError> {
        let mut tie = std::mem::take(&mut self.tie);
        let start = tie.first().map_or(0, |(start, ..)| *start);
        if tie.len() == 1
            && let Some((_, hash, value)) = tie.pop()
        {
            // Most starts have one event, and nothing is to be sorted.
            self.tie = tie;
            let row = self.tree.indexed_row(self.query.window, hash, value)?;
            return match self.is_read(start, &row.id) {
                true => Ok(false),
                false if self.is_full() => Ok(true),
                false => self.gathered.add(self.tree, self.query.window, row).map(|()| false),
            };
        }
        let mut ids: Vec<(EventId, EventHash, Option<EventRow>)> = Vec::with_capacity(tie.len());
        for (_, hash, value) in tie.drain(..) {
            let row = self.tree.indexed_row(self.query.window, hash, value)?;
            ids.push((row.id.clone(), hash, (ids.len() < KEPT_TIES).then_some(row)));
        }
        self.tie = tie;
        ids.sort_by(|a, b| a.0.cmp(&b.0));
        for (id, hash, row) in ids {
            if self.is_read(start, &id) {
                continue;
            }
            if self.is_full() {
                return Ok(true);
            }
            let row = row.map_or_else(|| self.row(hash), Ok)?;
            self.gathered.add(self.tree, self.query.window, row)?;
        }
        Ok(false)
    }

    /// Whether an event was on an earlier page.
    fn is_read(&self, start: i64, id: &EventId) -> bool {
        self.after.is_some_and(|(from, after)| (start, id) <= (from, after))
    }

    /// Whether the page takes no further event.
    fn is_full(&self) -> bool {
        let full = self.gathered.bytes >= self.query.bytes && !self.gathered.rows.is_empty();
        full || self.gathered.rows.len() == self.limit
    }

    fn row(&self, id: EventHash) -> Result<EventRow, TreeError> {
        let stored = self.tree.row(self.query.window, id)?;
        Ok(stored.ok_or(TreeError::Damaged("index"))?.row)
    }
}
