//! Whether a round comes to an end: counts what its pages bring.
//!
//! Graph has been seen to answer every next link with a new one and the same page, or with no
//! item at all, for ever (facts 172-175). A guard looks at the pages of one round, in the order
//! they came, and says when it is pointless to ask for the next.

use std::collections::BTreeSet;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::page::{EventHash, EventId, Page, PageEnd};

/// More pages than this no round has.
pub const MAX_PAGES: u32 = 10_000;
/// More empty pages in a row than this no round has; some are normal (fact 56).
pub const MAX_EMPTY_PAGES: u32 = 500;
/// How long answers may take together without naming an id that the round had not met.
pub const MAX_FRUITLESS: Duration = Duration::from_secs(30 * 60);

/// What is remembered of a round's pages. Stored with the position, so that a round which is
/// interrupted every few pages is found out too.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StallDetector {
    /// Pages so far.
    pub pages: u32,
    /// Empty pages since the last that was not.
    pub(crate) empty: u32,
    /// Of the ids of the last page that was not empty.
    pub(crate) fingerprint: Option<u64>,
    /// Milliseconds of answers since the last new id.
    pub(crate) fruitless_ms: u64,
    /// Attempts in a row that gave up where the round now stands.
    pub(crate) refused: u32,
}

impl StallDetector {
    /// Looks at a page that took `took` to be answered, waits of our own not counted; `met` are
    /// the ids that the round has met in this run. True: the round is stuck.
    pub fn observe(&mut self, page: &Page, took: Duration, met: &mut BTreeSet<EventHash>) -> bool {
        if !matches!(page.end, PageEnd::Next(_)) {
            // It ends: whatever came before, it was not stuck.
            return false;
        }
        self.pages = self.pages.saturating_add(1);
        self.refused = 0;
        let present = page.present.iter().map(|item| &item.id);
        let unreadable = page.unreadable.iter().filter_map(|item| item.id.as_ref());
        let ids: Vec<EventHash> =
            present.chain(&page.removed).chain(unreadable).map(EventId::hash).collect();
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.fruitless_ms = self.fruitless_ms.saturating_add(took);
        for id in &ids {
            if met.insert(*id) {
                self.fruitless_ms = 0;
            }
        }
        let mut again = false;
        if ids.is_empty() && page.unreadable.is_empty() {
            self.empty += 1;
        } else {
            self.empty = 0;
            let fingerprint = fingerprint(&ids);
            again = !ids.is_empty() && self.fingerprint == Some(fingerprint);
            self.fingerprint = Some(fingerprint);
        }
        again
            || self.pages > MAX_PAGES
            || self.empty >= MAX_EMPTY_PAGES
            || u128::from(self.fruitless_ms) > MAX_FRUITLESS.as_millis()
    }

    /// An attempt gave up at a page (facts 121, 122, 197). True: two in a row did, so that it
    /// is the link and not the day.
    pub fn page_failed(&mut self) -> bool {
        self.refused = self.refused.saturating_add(1);
        self.refused > 1
    }

    /// Whether there is nothing to remember.
    pub fn is_idle(&self) -> bool {
        *self == Self::default()
    }
}

/// Of ids in their order.
fn fingerprint(ids: &[EventHash]) -> u64 {
    let mut digest = Sha256::new();
    for id in ids {
        digest.update(id.0);
    }
    let mut first = [0; 8];
    first.copy_from_slice(&digest.finalize()[..8]);
    u64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;
    use crate::mirror::page::{Link, UnreadableItem};

    fn page(ids: &[&str]) -> Page {
        // Tombstones are ids like any other.
        let removed = ids.iter().map(|id| EventId::new(*id)).collect();
        let end = PageEnd::Next(Link::new("n"));
        Page { present: Vec::new(), removed, unreadable: Vec::new(), end, bytes: 0 }
    }

    /// Which of the pages, each answered in `took`, is the one too many.
    fn stuck_at(pages: impl Iterator<Item = Page>, took: Duration) -> Option<usize> {
        let (mut guard, mut met) = (StallDetector::default(), BTreeSet::new());
        for (number, page) in (1..).zip(pages.take(20_000)) {
            if guard.observe(&page, took, &mut met) {
                return Some(number);
            }
        }
        None
    }

    const SHORT: Duration = Duration::from_millis(1);

    #[test]
    fn the_same_ids_twice_in_a_row_are_once_too_often() {
        let pages = [page(&["a"]), page(&["b", "c"]), page(&["b", "c"])];
        assert_eq!(stuck_at(pages.into_iter(), SHORT), Some(3));
        // Empty pages between them do not hide it.
        let pages = [page(&["b"]), page(&[]), page(&["b"])];
        assert_eq!(stuck_at(pages.into_iter(), SHORT), Some(3));
        // The same ids in turn, or a part of them, are no proof.
        let pages = [page(&["a", "b"]), page(&["b"]), page(&["a", "b"])];
        assert_eq!(stuck_at(pages.into_iter(), SHORT), None);
    }

    #[test]
    fn ten_thousand_pages_are_enough() {
        let pages = (0..).map(|n| page(&[&format!("e{n}")]));
        assert_eq!(stuck_at(pages, SHORT), Some(10_001));
    }

    #[test]
    fn five_hundred_empty_pages_in_a_row_are_enough() {
        assert_eq!(stuck_at(std::iter::repeat_with(|| page(&[])), SHORT), Some(500));
        let broken =
            (0..).map(|n| if n % 400 == 399 { page(&[&format!("e{n}")]) } else { page(&[]) });
        assert_eq!(stuck_at(broken, Duration::ZERO), Some(10_001), "each one is a new beginning");
    }

    #[test]
    fn half_an_hour_of_answers_without_a_new_id_is_enough() {
        let minute = Duration::from_secs(60);
        let old = |n: u32| page(&[["a", "b", "c"][n as usize % 3]]);
        assert_eq!(stuck_at((0..).map(old), minute), Some(34), "the first three were new");
        let fruitful = (0..).map(|n| if n % 30 == 0 { page(&[&format!("e{n}")]) } else { old(n) });
        assert_eq!(stuck_at(fruitful, minute), Some(10_001));
    }

    #[test]
    fn what_cannot_be_read_is_something_and_the_end_is_the_end() {
        let (mut guard, mut met) = (StallDetector::default(), BTreeSet::new());
        let mut nameless = page(&[]);
        nameless.unreadable.push(UnreadableItem { id: None, why: "x" });
        for _ in 0..600 {
            assert!(!guard.observe(&nameless, SHORT, &mut met), "neither empty nor a repetition");
        }
        let ended = Page { end: PageEnd::Delta(Link::new("d")), ..page(&["a"]) };
        assert!(!guard.observe(&page(&["a"]), SHORT, &mut met));
        assert!(!guard.observe(&ended, SHORT, &mut met));
        assert!(guard.observe(&page(&["a"]), SHORT, &mut met));
    }
}
