//! Decides how to read a segment whose delta stream does not work.
//!
//! A round that never ends needs larger pages (fact 173). A page that cannot be fetched needs
//! smaller pages (facts 121, 122). A segment that needs both, or for which neither is enough, is
//! listed completely in each round (*snapshot mode*), and delta is tried again daily. So is, at once,
//! a segment whose links are forbidden while its calendar is not (fact 14). Each fallback enumerates from the first page, because the failure stays with the links of the stuck round
//! (facts 121, 173); the page size itself is not part of a link (fact 41).

use jiff::{SignedDuration, Timestamp};

use super::clock;

/// The largest page size that a fallback requests.
pub const MAX_PAGE_SIZE: u32 = 1000;
/// The smallest page size that a fallback requests.
pub const MIN_PAGE_SIZE: u32 = 10;
/// How long a segment stays in snapshot mode before delta is tried again.
pub const DELTA_RETRY_AFTER: SignedDuration = SignedDuration::from_hours(24);

/// What is wrong with a delta stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StallKind {
    /// The round does not end.
    NoProgress,
    /// A page cannot be fetched: it is over the size cap, or an error persists at one link.
    PageTooLarge,
}

/// How a segment is read where that differs from the configuration. Stored with the position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fallback {
    /// The page size to request.
    pub(crate) size: Option<FoundPageSize>,
    /// Whether [`StallKind::NoProgress`] was seen. Cleared when delta recovers.
    pub(crate) no_progress_seen: bool,
    /// Whether [`StallKind::PageTooLarge`] was seen. Cleared when delta recovers.
    pub(crate) too_large_seen: bool,
    /// When delta is tried again; set only in snapshot mode.
    pub(crate) delta_retry_at: Option<Timestamp>,
}

/// A page size that a fallback chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FoundPageSize {
    /// The page size to request.
    pub(crate) requested: u32,
    /// The page size configured at the time. If it changes, the new configured size is used.
    pub(crate) configured: u32,
}

impl Fallback {
    /// Whether nothing is remembered, so that the segment is read as configured.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The page size to request.
    pub fn page_size(&self, configured: u32) -> u32 {
        self.size.filter(|size| size.configured == configured).map_or(configured, |s| s.requested)
    }

    /// Whether the segment is in snapshot mode.
    pub fn is_snapshot(&self) -> bool {
        self.delta_retry_at.is_some()
    }

    /// Whether it is time to try delta again.
    pub fn is_delta_due(&self, at: Timestamp) -> bool {
        self.delta_retry_at.is_some_and(|due| !clock::wait_continues(due, DELTA_RETRY_AFTER, at))
    }

    /// Delta does not work: tries it again a day later, and lists until then.
    pub fn postpone_delta(&mut self, at: Timestamp) {
        self.delta_retry_at = Some(at.checked_add(DELTA_RETRY_AFTER).unwrap_or(Timestamp::MAX));
    }

    /// There is no delta: lists from the first round on. The time is never due, because
    /// [`SegmentContext::has_delta`](super::round::SegmentContext::has_delta) is false.
    pub(super) fn list_always(&mut self) {
        self.delta_retry_at.get_or_insert(Timestamp::UNIX_EPOCH);
    }

    /// Delta works again: keeps only the page size.
    pub fn delta_recovered(&mut self) {
        *self = Self { size: self.size, ..Self::default() };
    }

    /// The next fallback to try; `None` if all have been tried.
    pub fn next(&self, kind: StallKind, configured: u32, at: Timestamp) -> Option<Self> {
        let size = self.page_size(configured);
        let with = |requested| Self {
            size: Some(FoundPageSize { requested, configured }),
            ..self.clone()
        };
        let smaller = (size > MIN_PAGE_SIZE).then(|| with((size / 2).max(MIN_PAGE_SIZE)));
        if self.is_snapshot() {
            // Listed pages may be too large as well. A listing without end has no fallback.
            return smaller.filter(|_| kind == StallKind::PageTooLarge);
        }
        let larger = (size < MAX_PAGE_SIZE).then(|| with((size * 2).min(MAX_PAGE_SIZE)));
        let mut next = match kind {
            StallKind::NoProgress => larger.filter(|_| !self.too_large_seen),
            StallKind::PageTooLarge => smaller.filter(|_| !self.no_progress_seen),
        };
        if let Some(next) = &mut next {
            next.no_progress_seen |= kind == StallKind::NoProgress;
            next.too_large_seen |= kind == StallKind::PageTooLarge;
        }
        next.or_else(|| {
            let mut snapshot = self.clone();
            snapshot.postpone_delta(at);
            Some(snapshot)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Timestamp = Timestamp::UNIX_EPOCH;

    /// The page sizes that are tried in turn until snapshot mode, and the fallback at that point.
    fn ladder(mut kinds: impl Iterator<Item = StallKind>, configured: u32) -> (Vec<u32>, Fallback) {
        let (mut fallback, mut sizes) = (Fallback::default(), vec![configured]);
        while !fallback.is_snapshot() {
            let kind = kinds.next().unwrap();
            fallback = fallback.next(kind, configured, AT).unwrap();
            if !fallback.is_snapshot() {
                sizes.push(fallback.page_size(configured));
            }
        }
        (sizes, fallback)
    }

    fn all(kind: StallKind) -> impl Iterator<Item = StallKind> {
        std::iter::repeat(kind)
    }

    #[test]
    fn endless_rounds_get_larger_pages_then_snapshot_mode() {
        assert_eq!(ladder(all(StallKind::NoProgress), 200).0, [200, 400, 800, 1000]);
        assert_eq!(ladder(all(StallKind::NoProgress), 1000).0, [1000]);
    }

    #[test]
    fn oversized_pages_get_smaller_pages_then_snapshot_mode() {
        assert_eq!(ladder(all(StallKind::PageTooLarge), 200).0, [200, 100, 50, 25, 12, 10]);
        assert_eq!(ladder(all(StallKind::PageTooLarge), 7).0, [7], "the configured size stays");
    }

    #[test]
    fn a_segment_with_both_stalls_enters_snapshot_mode_at_once() {
        use StallKind::{NoProgress, PageTooLarge};
        assert_eq!(ladder([NoProgress, PageTooLarge].into_iter(), 200).0, [200, 400]);
        assert_eq!(
            ladder([PageTooLarge, PageTooLarge, NoProgress].into_iter(), 200).0,
            [200, 100, 50]
        );
    }

    #[test]
    fn listed_pages_shrink_to_the_minimum() {
        let (_, mut fallback) = ladder(all(StallKind::NoProgress), 400);
        assert_eq!(fallback.next(StallKind::NoProgress, 400, AT), None);
        let mut sizes = Vec::new();
        while let Some(next) = fallback.next(StallKind::PageTooLarge, 400, AT) {
            assert!(next.is_snapshot());
            sizes.push(next.page_size(400));
            fallback = next;
        }
        assert_eq!(sizes, [500, 250, 125, 62, 31, 15, 10]);
    }

    #[test]
    fn delta_is_due_after_a_day_and_leaves_the_page_size_when_it_works() {
        let (_, mut fallback) = ladder(all(StallKind::NoProgress), 200);
        let day = AT.checked_add(DELTA_RETRY_AFTER).unwrap();
        assert!(!fallback.is_delta_due(AT) && fallback.is_delta_due(day));
        fallback.postpone_delta(day);
        assert!(!fallback.is_delta_due(day) && fallback.is_snapshot());
        fallback.delta_recovered();
        assert!(!fallback.is_snapshot() && !fallback.is_none());
        assert_eq!(fallback.page_size(200), 1000);
        // Pages that are too large no longer conflict with the earlier stall.
        let next = fallback.next(StallKind::PageTooLarge, 200, AT).unwrap();
        assert_eq!((next.page_size(200), next.is_snapshot()), (500, false));
    }

    #[test]
    fn a_changed_page_size_is_used() {
        let fallback = Fallback::default().next(StallKind::NoProgress, 200, AT).unwrap();
        assert_eq!((fallback.page_size(200), fallback.page_size(50)), (400, 50));
    }
}
