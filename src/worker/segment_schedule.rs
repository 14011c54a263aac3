//! When the segments of a window are due: those far from the present less often than the window.

use jiff::Timestamp;
use tokio::time::Instant;

use crate::mirror::schedule;
use crate::mirror::segment_set::SegmentSet;
use crate::mirror::window::{Edges, WindowSettings};

/// When each segment of a window is due; empty for a window of one segment.
#[derive(Debug, Default)]
pub(super) struct SegmentSchedule {
    due: Box<[Instant]>,
}

impl SegmentSchedule {
    /// Segments that need no round yet.
    pub(super) fn resting(&self) -> SegmentSet {
        let now = Instant::now();
        let resting = (0..).zip(&self.due).filter(|(_, due)| **due > now);
        resting.map(|(segment, _)| segment).collect()
    }

    /// Records when the segments that settled in a round are due again. The round began at
    /// `begun`; the wall clock reads `now`. For windows of several segments: that of a single one
    /// never rests.
    pub(super) fn record(
        &mut self,
        settings: &WindowSettings,
        segments: &[Edges],
        begun: Instant,
        settled: SegmentSet,
        now: Timestamp,
    ) {
        let mut due = std::mem::take(&mut self.due).into_vec();
        if due.len() != segments.len() {
            // The segments were halved or the edges moved: the due times belong to other segments.
            due.clear();
        }
        due.resize(segments.len(), begun);
        let WindowSettings { interval, jitter, .. } = *settings;
        for (segment, due) in (0..).zip(&mut due) {
            let index = usize::from(segment);
            let longer = schedule::segment_interval(interval, segments, index, now);
            if settled.contains(segment) && longer > interval {
                // The shortest delay that jitter allows, so that the segment is due at a round.
                *due = begun + schedule::delay(longer, jitter, 0.0);
            }
        }
        self.due = due.into_boxed_slice();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(60);

    fn settings() -> WindowSettings {
        let settings = crate::tests::window("alice").settings;
        WindowSettings { interval: INTERVAL, jitter: 0.0, ..(*settings).clone() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn segments(count: i64) -> Vec<Edges> {
        (0..count).map(|n| Edges { start: at(n * 1000), end: at((n + 1) * 1000) }).collect()
    }

    fn resting(schedule: &SegmentSchedule, segment: u8) -> bool {
        schedule.resting().contains(segment)
    }

    #[tokio::test(start_paused = true)]
    async fn only_settled_segments_away_from_the_present_rest() {
        let mut schedule = SegmentSchedule::default();
        let begun = Instant::now();
        let settled: SegmentSet = [0, 1].into_iter().collect();
        schedule.record(&settings(), &segments(3), begun, settled, at(0));
        assert_eq!([0, 1, 2].map(|segment| resting(&schedule, segment)), [false, true, false]);
        tokio::time::advance(INTERVAL).await;
        assert!(resting(&schedule, 1), "every second round is enough");
        // A round in which it rested does not change when it is due.
        schedule.record(&settings(), &segments(3), Instant::now(), SegmentSet::EMPTY, at(60));
        assert!(resting(&schedule, 1));
        tokio::time::advance(INTERVAL).await;
        assert!(!resting(&schedule, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn other_segments_are_all_due() {
        let mut schedule = SegmentSchedule::default();
        let settled: SegmentSet = [0, 1].into_iter().collect();
        for count in [1, 3] {
            schedule.record(&settings(), &segments(2), Instant::now(), settled, at(0));
            assert!(resting(&schedule, 1));
            let now = Instant::now();
            schedule.record(&settings(), &segments(count), now, SegmentSet::EMPTY, at(0));
            assert_eq!(schedule.resting(), SegmentSet::EMPTY, "{count}");
        }
    }
}
