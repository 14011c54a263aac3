//! Decides which segment runs next and when a segment may publish its removals.
//!
//! An epoch is a number that grows with every round that begins or is parked in an attempt.

use crate::mirror::position::SegmentIndex;
use crate::mirror::round::Round;
use crate::mirror::window::Edges;

/// The epochs in which the segments' rounds began, and the parked rounds.
pub(super) struct SegmentBarrier {
    segments: Vec<Edges>,
    epoch: u64,
    /// The epoch in which each segment's latest round began; 0 if none began in this attempt.
    began: Vec<u64>,
    /// At most one per segment, each with its epoch: rounds that began in this epoch or later know
    /// what the parked round does not.
    parked: Vec<(u64, ParkedRound)>,
}

/// A round that waits for the other segments.
pub(super) struct ParkedRound {
    pub(super) segment: SegmentIndex,
    /// Whether it began in this attempt.
    pub(super) begins: bool,
    /// Whether Graph was asked which events exist since the round was opened or released.
    pub(super) asked_members: bool,
    pub(super) round: Box<Round>,
}

/// What the segments do next.
pub(super) enum NextSegment {
    /// No round is parked.
    Nothing,
    /// A parked round waits for this segment: begin a round of it.
    Begin(SegmentIndex),
    /// This round waits for no segment any more: release it.
    Release(ParkedRound),
    /// All parked rounds wait for each other, and this segment's for the longest time. Interrupted
    /// attempts left more than one segment in mid-round.
    Deadlock(SegmentIndex),
}

impl SegmentBarrier {
    pub(super) fn new(segments: Vec<Edges>) -> Self {
        Self { epoch: 0, began: vec![0; segments.len()], parked: Vec::new(), segments }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = SegmentIndex> + use<> {
        (0..self.segments.len()).filter_map(|segment| SegmentIndex::try_from(segment).ok())
    }

    pub(super) fn edges(&self, segment: SegmentIndex) -> Option<Edges> {
        self.segments.get(usize::from(segment)).copied()
    }

    pub(super) fn next_epoch(&mut self) -> u64 {
        self.epoch += 1;
        self.epoch
    }

    pub(super) fn began(&mut self, segment: SegmentIndex, epoch: u64) {
        if let Some(began) = self.began.get_mut(usize::from(segment)) {
            *began = epoch;
        }
    }

    pub(super) fn park(&mut self, parked: ParkedRound) {
        // Without a request, all it knows is of an earlier attempt: any round of this attempt that
        // has begun is later.
        let epoch = if parked.asked_members { self.next_epoch() } else { 1 };
        self.parked.push((epoch, parked));
    }

    /// Takes any parked round, whether or not the segments it waits for have run.
    pub(super) fn pop_parked(&mut self) -> Option<ParkedRound> {
        self.parked.pop().map(|(_, parked)| parked)
    }

    /// The segments that a parked round still waits for.
    fn awaited(&self, parked: &(u64, ParkedRound)) -> impl Iterator<Item = SegmentIndex> {
        let (epoch, segment) = (parked.0, parked.1.segment);
        let began = |other: &SegmentIndex| self.began.get(usize::from(*other)).copied();
        self.all().filter(move |other| *other != segment && began(other) < Some(epoch))
    }

    pub(super) fn next(&mut self) -> NextSegment {
        let free = self.parked.iter().position(|p| self.awaited(p).next().is_none());
        if let Some(free) = free {
            return NextSegment::Release(self.parked.remove(free).1);
        }
        let waits = |segment| self.parked.iter().any(|(_, parked)| parked.segment == segment);
        if let Some(idle) =
            self.parked.iter().flat_map(|p| self.awaited(p)).find(|awaited| !waits(*awaited))
        {
            return NextSegment::Begin(idle);
        }
        if self.parked.is_empty() {
            return NextSegment::Nothing;
        }
        NextSegment::Deadlock(self.parked.remove(0).1.segment)
    }
}

#[cfg(test)]
mod tests {

    use jiff::{SignedDuration, Timestamp};

    use super::*;
    use crate::mirror::position::WindowId;
    use crate::mirror::round::SegmentContext;
    use crate::mirror::window::Completion;

    const EDGES: Edges = Edges { start: Timestamp::UNIX_EPOCH, end: Timestamp::UNIX_EPOCH };

    /// A parked round that began in this attempt and has asked Graph.
    fn fresh(segment: SegmentIndex) -> ParkedRound {
        ParkedRound { segment, begins: true, asked_members: true, round: round(segment) }
    }

    /// A parked round that only continues one of an earlier attempt.
    fn continued(segment: SegmentIndex) -> ParkedRound {
        ParkedRound { segment, begins: false, asked_members: false, round: round(segment) }
    }

    fn round(segment: SegmentIndex) -> Box<Round> {
        let context = SegmentContext {
            window: WindowId(1),
            segment,
            edges: EDGES,
            complete: Completion::Master,
            confirm_after: SignedDuration::ZERO,
            has_other_segments: true,
            page_size: 200,
            has_delta: true,
        };
        Box::new(Round::resume(context, None, Vec::new(), 0))
    }

    /// The result of `next` as text.
    fn next(barrier: &mut SegmentBarrier) -> String {
        match barrier.next() {
            NextSegment::Nothing => "nothing".to_owned(),
            NextSegment::Begin(segment) => format!("begin {segment}"),
            NextSegment::Release(parked) => format!("release {}", parked.segment),
            NextSegment::Deadlock(segment) => format!("deadlock {segment}"),
        }
    }

    fn began(barrier: &mut SegmentBarrier, segment: SegmentIndex) {
        let epoch = barrier.next_epoch();
        barrier.began(segment, epoch);
    }

    #[test]
    fn removals_wait_for_later_rounds_of_the_other_segments() {
        let mut barrier = SegmentBarrier::new(vec![EDGES; 3]);
        assert_eq!(next(&mut barrier), "nothing");
        began(&mut barrier, 0);
        began(&mut barrier, 1);
        barrier.park(fresh(1));
        began(&mut barrier, 2);
        // The first round began before the removals of the second were known.
        assert_eq!(next(&mut barrier), "begin 0");
        began(&mut barrier, 0);
        assert_eq!(next(&mut barrier), "release 1");
        assert_eq!(next(&mut barrier), "nothing");
    }

    #[test]
    fn removals_of_an_earlier_attempt_wait_for_any_round_of_this_one() {
        let mut barrier = SegmentBarrier::new(vec![EDGES; 2]);
        // This round only finishes an earlier one and has not seen the current state.
        barrier.next_epoch();
        barrier.park(continued(0));
        began(&mut barrier, 1);
        barrier.park(fresh(1));
        assert_eq!(next(&mut barrier), "release 0");
        assert_eq!(next(&mut barrier), "begin 0");
        began(&mut barrier, 0);
        assert_eq!(next(&mut barrier), "release 1");
    }

    #[test]
    fn segments_that_wait_for_each_other_are_released() {
        let mut barrier = SegmentBarrier::new(vec![EDGES; 2]);
        barrier.park(continued(0));
        barrier.park(continued(1));
        assert_eq!(next(&mut barrier), "deadlock 0");
        began(&mut barrier, 0);
        barrier.park(fresh(0));
        assert_eq!(next(&mut barrier), "release 1");
        assert_eq!(next(&mut barrier), "begin 1");
    }
}
