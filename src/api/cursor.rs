//! Positions in the feed, as cursor text.
//!
//! A store cursor names one seq, and expires once tombstones after it are trimmed. A reader that
//! started at the beginning holds no events removed before it started, so it needs only later
//! tombstones. Until it reaches the end that the feed had at its start, its cursor is the cursor of
//! that end, `~`, and the seq it has reached. Otherwise a large and old feed could only be read
//! from the beginning in a single request.
//!
//! Tombstones may be trimmed during a read. So the incoming cursor is checked again after reading,
//! and after the outgoing cursors were made: if it is still valid, nothing was missed.

use super::problem::Problem;
use crate::mirror::change::Seq;
use crate::store::{FeedError, Store};

/// A reader's position in the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FeedPosition {
    /// The last seq the reader has.
    pub(super) seq: Seq,
    /// The store cursor that must stay valid; otherwise changes may have been missed.
    guard: String,
    /// For a reader that started at the beginning: the end of the feed at that time, while `seq` is
    /// below it. `guard` is then the cursor of that end.
    initial_end: Option<Seq>,
}

impl FeedPosition {
    /// Parses `after`: absent is the beginning, `now` the durable end.
    pub(super) fn parse(store: &Store, after: Option<&str>) -> Result<Self, Problem> {
        let end = *store.durable().borrow();
        match after {
            None => Ok(Self { seq: 0, guard: store.cursor(end), initial_end: Some(end) }),
            Some("now") => Ok(Self { seq: end, guard: store.cursor(end), initial_end: None }),
            Some(cursor) => match cursor.split_once('~') {
                None => Ok(Self {
                    seq: store.seq(cursor)?,
                    guard: cursor.to_owned(),
                    initial_end: None,
                }),
                Some((guard, seq)) => {
                    let began = store.seq(guard)?;
                    let seq = seq.parse().map_err(|_| FeedError::Malformed)?;
                    if seq > began {
                        return Err(FeedError::Malformed.into());
                    }
                    Ok(Self { seq, guard: guard.to_owned(), initial_end: Some(began) })
                }
            },
        }
    }

    /// The reader's cursor once it has reached `seq`.
    pub(super) fn cursor(&self, store: &Store, seq: Seq) -> String {
        match self.initial_end {
            Some(began) if seq < began => format!("{}~{seq}", self.guard),
            _ => store.cursor(seq),
        }
    }

    /// Checks that no change read so far was missed.
    pub(super) fn check(&self, store: &Store) -> Result<(), Problem> {
        Ok(store.seq(&self.guard).map(drop)?)
    }

    /// Moves to `seq`, whose cursor was made before the last check.
    pub(super) fn advance(&mut self, seq: Seq, cursor: &str) {
        self.seq = seq;
        if self.initial_end.is_none_or(|began| seq >= began) {
            self.initial_end = None;
            cursor.clone_into(&mut self.guard);
        }
    }
}
