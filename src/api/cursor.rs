//! Where a reader is in the feed, as text.
//!
//! A cursor of the store stands for one seq, and dies once tombstones after it were trimmed.
//! A reader who began at the beginning holds nothing that was removed before it began, so what
//! must be kept for it is only what came since then: until it has caught up to where the feed
//! ended at that time, its cursor is that end's cursor, `~`, and the seq it has reached. Without
//! this, nobody could read a large and old feed from the beginning in more than one request.

use super::problem::Problem;
use crate::mirror::change::Seq;
use crate::store::{FeedError, Store};

/// A reader's place in the feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The last seq it has.
    pub(super) seq: Seq,
    /// The end of the feed when it began at the beginning.
    began: Option<Seq>,
}

impl Place {
    /// The durable end of the feed.
    pub(super) fn end(store: &Store) -> Self {
        Self { seq: *store.durable().borrow(), began: None }
    }

    /// The beginning, seen from now.
    pub(super) fn beginning(store: &Store) -> Self {
        Self { seq: 0, began: Some(*store.durable().borrow()) }
    }

    /// Reads `after`: absent is the beginning, `now` the end.
    pub(super) fn parse(store: &Store, after: Option<&str>) -> Result<Self, Problem> {
        Ok(match after {
            None => Self::beginning(store),
            Some("now") => Self::end(store),
            Some(cursor) => match cursor.split_once('~') {
                None => Self { seq: store.seq(cursor)?, began: None },
                Some((end, seq)) => {
                    let began = store.seq(end)?;
                    let seq = seq.parse().map_err(|_| FeedError::Malformed)?;
                    if seq > began {
                        return Err(FeedError::Malformed.into());
                    }
                    Self { seq, began: Some(began) }
                }
            },
        })
    }

    /// The same reader, having reached `seq`.
    pub(super) fn at(self, seq: Seq) -> Self {
        Self { seq, ..self }
    }

    /// The cursor that stands for this place.
    pub(super) fn cursor(self, store: &Store) -> String {
        match self.began {
            Some(began) if self.seq < began => format!("{}~{}", store.cursor(began), self.seq),
            _ => store.cursor(self.seq),
        }
    }
}
