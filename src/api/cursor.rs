//! Where a reader is in the feed, as text.
//!
//! A cursor of the store stands for one seq, and dies once tombstones after it were trimmed.
//! A reader who began at the beginning holds nothing that was removed before it began, so what
//! must be kept for it is only what came since then: until it has caught up to where the feed
//! ended at that time, its cursor is that end's cursor, `~`, and the seq it has reached. Without
//! this, nobody could read a large and old feed from the beginning in more than one request.
//!
//! Tombstones may be trimmed while a reader reads. So the cursor it came with is looked at again
//! after reading, and after the cursors it leaves with were made: if that one still holds,
//! nothing was missed.

use super::problem::Problem;
use crate::mirror::change::Seq;
use crate::store::{FeedError, Store};

/// A reader's place in the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FeedPosition {
    /// The last seq it has.
    pub(super) seq: Seq,
    /// The store's cursor that must hold, or something may be missing.
    guard: String,
    /// The end of the feed when it began at the beginning, while `seq` is below it. `guard` is
    /// then that end's cursor.
    began: Option<Seq>,
}

impl FeedPosition {
    /// Reads `after`: absent is the beginning, `now` the durable end.
    pub(super) fn parse(store: &Store, after: Option<&str>) -> Result<Self, Problem> {
        let end = *store.durable().borrow();
        match after {
            None => Ok(Self { seq: 0, guard: store.cursor(end), began: Some(end) }),
            Some("now") => Ok(Self { seq: end, guard: store.cursor(end), began: None }),
            Some(cursor) => match cursor.split_once('~') {
                None => Ok(Self { seq: store.seq(cursor)?, guard: cursor.to_owned(), began: None }),
                Some((guard, seq)) => {
                    let began = store.seq(guard)?;
                    let seq = seq.parse().map_err(|_| FeedError::Malformed)?;
                    if seq > began {
                        return Err(FeedError::Malformed.into());
                    }
                    Ok(Self { seq, guard: guard.to_owned(), began: Some(began) })
                }
            },
        }
    }

    /// The cursor of this reader once it has reached `seq`.
    pub(super) fn cursor(&self, store: &Store, seq: Seq) -> String {
        match self.began {
            Some(began) if seq < began => format!("{}~{seq}", self.guard),
            _ => store.cursor(seq),
        }
    }

    /// Whether everything up to now was really there to be read.
    pub(super) fn check(&self, store: &Store) -> Result<(), Problem> {
        Ok(store.seq(&self.guard).map(drop)?)
    }

    /// Moves to `seq`, whose cursor was made before the last check.
    pub(super) fn advance(&mut self, seq: Seq, cursor: &str) {
        self.seq = seq;
        if self.began.is_none_or(|began| seq >= began) {
            self.began = None;
            cursor.clone_into(&mut self.guard);
        }
    }
}
