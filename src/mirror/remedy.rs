//! What is done about a segment whose delta stream does not work, and what is remembered of it.
//!
//! A round that never ends wants larger pages (fact 173), a page that cannot be had smaller ones
//! (facts 121, 122); a segment that wants both, or for which neither was enough, is listed whole
//! each time (*snapshot mode*), and delta is tried again daily. A page size other than before
//! always means an enumeration from the first address: links were given under the old one.

use jiff::{SignedDuration, Timestamp};

use super::clock;

/// The largest page that is asked for.
pub const LARGEST_PAGE: u32 = 1000;
/// The smallest page that is asked for.
pub const SMALLEST_PAGE: u32 = 10;
/// How long a segment in snapshot mode is listed before delta is tried again.
pub const DELTA_AGAIN: SignedDuration = SignedDuration::from_hours(24);

/// What ails a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ailment {
    /// The round would not end.
    Endless,
    /// A page could not be had: over the cap, or an error that stays with one link.
    Heavy,
}

/// How a segment is asked for, where that is not as configured. Stored with the position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remedy {
    /// The page size that is asked for.
    pub(crate) size: Option<Size>,
    /// Met in this mode of asking: see [`Ailment::Endless`].
    pub(crate) endless: bool,
    /// Met in this mode of asking: see [`Ailment::Heavy`].
    pub(crate) heavy: bool,
    /// In snapshot mode: when delta is tried again.
    pub(crate) delta_at: Option<Timestamp>,
}

/// A page size that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// What is asked for.
    pub(crate) asked: u32,
    /// What was configured then: who configures another wants that.
    pub(crate) configured: u32,
}

impl Remedy {
    /// Nothing is remembered: the segment is asked for as configured.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The page size to ask for.
    pub fn page_size(&self, configured: u32) -> u32 {
        self.size.filter(|size| size.configured == configured).map_or(configured, |s| s.asked)
    }

    /// Whether the segment is listed whole instead of followed.
    pub fn is_snapshot(&self) -> bool {
        self.delta_at.is_some()
    }

    /// Whether delta is to be tried again.
    pub fn is_delta_due(&self, at: Timestamp) -> bool {
        self.delta_at.is_some_and(|due| !clock::waits(due, DELTA_AGAIN, at))
    }

    /// Delta still does not work: another day.
    pub fn postpone(&mut self, at: Timestamp) {
        self.delta_at = Some(at.checked_add(DELTA_AGAIN).unwrap_or(Timestamp::MAX));
    }

    /// Delta works again. Only the page size is still remembered.
    pub fn recover(&mut self) {
        *self = Self { size: self.size, ..Self::default() };
    }

    /// The next thing to try; none if everything was.
    pub fn next(&self, ailment: Ailment, configured: u32, at: Timestamp) -> Option<Self> {
        let size = self.page_size(configured);
        let with = |asked| Self { size: Some(Size { asked, configured }), ..self.clone() };
        let smaller = (size > SMALLEST_PAGE).then(|| with((size / 2).max(SMALLEST_PAGE)));
        if self.is_snapshot() {
            // Listed pages may be too large as well. For a listing without end nothing is left.
            return smaller.filter(|_| ailment == Ailment::Heavy);
        }
        let larger = (size < LARGEST_PAGE).then(|| with((size * 2).min(LARGEST_PAGE)));
        let mut next = match ailment {
            Ailment::Endless => larger.filter(|_| !self.heavy),
            Ailment::Heavy => smaller.filter(|_| !self.endless),
        };
        if let Some(next) = &mut next {
            next.endless |= ailment == Ailment::Endless;
            next.heavy |= ailment == Ailment::Heavy;
        }
        next.or_else(|| {
            let mut snapshot = self.clone();
            snapshot.postpone(at);
            Some(snapshot)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;

    const AT: Timestamp = Timestamp::UNIX_EPOCH;

    /// The page sizes that are tried in turn until the segment is listed, and that one.
    fn ladder(mut ailments: impl Iterator<Item = Ailment>, configured: u32) -> (Vec<u32>, Remedy) {
        let (mut remedy, mut sizes) = (Remedy::default(), vec![configured]);
        while !remedy.is_snapshot() {
            let ailment = ailments.next().unwrap();
            remedy = remedy.next(ailment, configured, AT).unwrap();
            if !remedy.is_snapshot() {
                sizes.push(remedy.page_size(configured));
            }
        }
        (sizes, remedy)
    }

    fn all(ailment: Ailment) -> impl Iterator<Item = Ailment> {
        std::iter::repeat(ailment)
    }

    #[test]
    fn endless_rounds_get_larger_pages_and_then_snapshots() {
        assert_eq!(ladder(all(Ailment::Endless), 200).0, [200, 400, 800, 1000]);
        assert_eq!(ladder(all(Ailment::Endless), 1000).0, [1000]);
    }

    #[test]
    fn heavy_pages_get_smaller_and_then_snapshots() {
        assert_eq!(ladder(all(Ailment::Heavy), 200).0, [200, 100, 50, 25, 12, 10]);
        assert_eq!(ladder(all(Ailment::Heavy), 7).0, [7], "configured is configured");
    }

    #[test]
    fn who_met_both_is_listed_at_once() {
        use Ailment::{Endless, Heavy};
        assert_eq!(ladder([Endless, Heavy].into_iter(), 200).0, [200, 400]);
        assert_eq!(ladder([Heavy, Heavy, Endless].into_iter(), 200).0, [200, 100, 50]);
    }

    #[test]
    fn listed_pages_shrink_too_until_nothing_is_left() {
        let (_, mut remedy) = ladder(all(Ailment::Endless), 400);
        assert_eq!(remedy.next(Ailment::Endless, 400, AT), None);
        let mut sizes = Vec::new();
        while let Some(next) = remedy.next(Ailment::Heavy, 400, AT) {
            assert!(next.is_snapshot());
            sizes.push(next.page_size(400));
            remedy = next;
        }
        assert_eq!(sizes, [500, 250, 125, 62, 31, 15, 10]);
    }

    #[test]
    fn delta_is_due_after_a_day_and_leaves_the_page_size_when_it_works() {
        let (_, mut remedy) = ladder(all(Ailment::Endless), 200);
        let day = AT.checked_add(DELTA_AGAIN).unwrap();
        assert!(!remedy.is_delta_due(AT) && remedy.is_delta_due(day));
        remedy.postpone(day);
        assert!(!remedy.is_delta_due(day) && remedy.is_snapshot());
        remedy.recover();
        assert!(!remedy.is_snapshot() && !remedy.is_none());
        assert_eq!(remedy.page_size(200), 1000);
        // Heavy pages are no contradiction any more.
        let next = remedy.next(Ailment::Heavy, 200, AT).unwrap();
        assert_eq!((next.page_size(200), next.is_snapshot()), (500, false));
    }

    #[test]
    fn another_configured_page_size_is_obeyed() {
        let remedy = Remedy::default().next(Ailment::Endless, 200, AT).unwrap();
        assert_eq!((remedy.page_size(200), remedy.page_size(50)), (400, 50));
    }
}
