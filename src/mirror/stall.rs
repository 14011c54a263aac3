//! Detects rounds that do not end, from the contents of their pages.
//!
//! Graph has been seen to answer every next link with a new one and the same page, or with no
//! item at all, for ever (facts 172-175). A detector observes the pages of one round in order and
//! reports when requesting the next one is pointless.

use std::collections::BTreeSet;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::page::{EventHash, EventId, Page, PageEnd};

/// A round with more pages than this is stuck.
pub const MAX_PAGES: u32 = 10_000;
/// A round with this many empty pages in a row is stuck; some are normal (fact 56).
pub const MAX_EMPTY_PAGES: u32 = 500;
/// How long responses may take in total without an id that is new to the round.
pub const MAX_TIME_WITHOUT_NEW_ID: Duration = Duration::from_secs(30 * 60);

/// What is remembered of a round's pages. Stored with the position, so that a round that is
/// interrupted every few pages is detected too.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StallDetector {
    /// Pages so far.
    pub pages: u32,
    /// Empty pages since the last page that was not empty.
    pub(crate) empty: u32,
    /// Fingerprint of the ids of the last page that was not empty.
    pub(crate) fingerprint: Option<u64>,
    /// Milliseconds of response time since the last new id.
    pub(crate) without_new_id_ms: u64,
    /// Attempts in a row that gave up at the current page.
    pub(crate) failed_attempts: u32,
}

impl StallDetector {
    /// Observes a page and returns true if the round is stuck. `took` is the response time without
    /// our own waits; `ids_seen` holds the ids that this attempt has seen.
    pub fn observe(
        &mut self,
        page: &Page,
        took: Duration,
        ids_seen: &mut BTreeSet<EventHash>,
    ) -> bool {
        if !matches!(page.end, PageEnd::Next(_)) {
            // The round ends, so it is not stuck.
            return false;
        }
        self.pages = self.pages.saturating_add(1);
        self.failed_attempts = 0;
        let present = page.present.iter().map(|item| &item.id);
        let unreadable = page.unreadable.iter().filter_map(|item| item.id.as_ref());
        let ids: Vec<EventHash> =
            present.chain(&page.removed).chain(unreadable).map(EventId::hash).collect();
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.without_new_id_ms = self.without_new_id_ms.saturating_add(took);
        for id in &ids {
            if ids_seen.insert(*id) {
                self.without_new_id_ms = 0;
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
            || u128::from(self.without_new_id_ms) > MAX_TIME_WITHOUT_NEW_ID.as_millis()
    }

    /// Records that an attempt gave up at a page (facts 121, 122, 197). Returns true if two in a
    /// row did: then the link is at fault, not a passing problem.
    pub fn page_failed(&mut self) -> bool {
        self.failed_attempts = self.failed_attempts.saturating_add(1);
        self.failed_attempts > 1
    }

    /// Whether nothing is recorded.
    pub fn is_idle(&self) -> bool {
        *self == Self::default()
    }
}

/// A hash of the ids in their order.
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
    use super::*;
    use crate::mirror::page::{Link, UnreadableItem};

    fn page(ids: &[&str]) -> Page {
        // Tombstones count like any other ids.
        let removed = ids.iter().map(|id| EventId::new(*id)).collect();
        let end = PageEnd::Next(Link::new("n"));
        Page { present: Vec::new(), removed, unreadable: Vec::new(), end }
    }

    /// The number of the page at which the round counts as stuck; each page takes `took`.
    fn stuck_at(pages: impl Iterator<Item = Page>, took: Duration) -> Option<usize> {
        let (mut detector, mut ids_seen) = (StallDetector::default(), BTreeSet::new());
        for (number, page) in (1..).zip(pages.take(20_000)) {
            if detector.observe(&page, took, &mut ids_seen) {
                return Some(number);
            }
        }
        None
    }

    const SHORT: Duration = Duration::from_millis(1);

    #[test]
    fn two_pages_in_a_row_with_the_same_ids_are_a_stall() {
        let pages = [page(&["a"]), page(&["b", "c"]), page(&["b", "c"])];
        assert_eq!(stuck_at(pages.into_iter(), SHORT), Some(3));
        // Empty pages between them do not hide it.
        let pages = [page(&["b"]), page(&[]), page(&["b"])];
        assert_eq!(stuck_at(pages.into_iter(), SHORT), Some(3));
        // Pages that alternate, or that have a part of the ids, are no proof.
        let pages = [page(&["a", "b"]), page(&["b"]), page(&["a", "b"])];
        assert_eq!(stuck_at(pages.into_iter(), SHORT), None);
    }

    #[test]
    fn ten_thousand_pages_are_a_stall() {
        let pages = (0..).map(|n| page(&[&format!("e{n}")]));
        assert_eq!(stuck_at(pages, SHORT), Some(10_001));
    }

    #[test]
    fn five_hundred_empty_pages_in_a_row_are_a_stall() {
        assert_eq!(stuck_at(std::iter::repeat_with(|| page(&[])), SHORT), Some(500));
        let broken =
            (0..).map(|n| if n % 400 == 399 { page(&[&format!("e{n}")]) } else { page(&[]) });
        assert_eq!(stuck_at(broken, Duration::ZERO), Some(10_001), "each id resets the count");
    }

    #[test]
    fn half_an_hour_without_a_new_id_is_a_stall() {
        let minute = Duration::from_secs(60);
        let old = |n: u32| page(&[["a", "b", "c"][n as usize % 3]]);
        assert_eq!(stuck_at((0..).map(old), minute), Some(34), "the first three were new");
        let fruitful = (0..).map(|n| if n % 30 == 0 { page(&[&format!("e{n}")]) } else { old(n) });
        assert_eq!(stuck_at(fruitful, minute), Some(10_001));
    }

    #[test]
    fn unreadable_items_are_progress_and_a_delta_link_ends_the_round() {
        let (mut detector, mut ids_seen) = (StallDetector::default(), BTreeSet::new());
        let mut nameless = page(&[]);
        nameless.unreadable.push(UnreadableItem { id: None, reason: "x" });
        for _ in 0..600 {
            assert!(
                !detector.observe(&nameless, SHORT, &mut ids_seen),
                "neither empty nor a repetition"
            );
        }
        let ended = Page { end: PageEnd::Delta(Link::new("d")), ..page(&["a"]) };
        assert!(!detector.observe(&page(&["a"]), SHORT, &mut ids_seen));
        assert!(!detector.observe(&ended, SHORT, &mut ids_seen));
        assert!(detector.observe(&page(&["a"]), SHORT, &mut ids_seen));
    }
}
