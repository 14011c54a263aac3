//! In which order the segments of a window look, and which of those that have something to remove
//! may go on.
//!
//! A turn is a number that grows with everything that begins or is parked in an attempt.

use crate::mirror::position::SegmentIndex;
use crate::mirror::round::Round;
use crate::mirror::window::Edges;

/// Who has looked when, and who waits.
pub(super) struct SegmentBarrier {
    segments: Vec<Edges>,
    epoch: u64,
    /// The turn in which a segment's latest round began; 0: none did in this attempt.
    began: Vec<u64>,
    /// At most one of a segment.
    parked: Vec<ParkedRound>,
}

/// A round that waits for the other segments.
pub(super) struct ParkedRound {
    pub(super) segment: SegmentIndex,
    /// Whether it began in this attempt.
    pub(super) begins: bool,
    pub(super) round: Box<Round>,
    /// Rounds that begin in this turn or later know what it does not.
    epoch: u64,
}

/// What comes next over the seams.
pub(super) enum NextSegment {
    /// Nobody waits.
    Nothing,
    /// Somebody waits for this segment.
    Begin(SegmentIndex),
    /// Nobody has to be waited for.
    Release(ParkedRound),
    /// All wait for each other, and this one for the longest time: interrupted attempts left more
    /// than one in the middle.
    Deadlock(SegmentIndex),
}

impl SegmentBarrier {
    pub(super) fn at(segments: Vec<Edges>) -> Self {
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

    pub(super) fn began(&mut self, segment: SegmentIndex, turn: u64) {
        if let Some(began) = self.began.get_mut(usize::from(segment)) {
            *began = turn;
        }
    }

    pub(super) fn park(
        &mut self,
        segment: SegmentIndex,
        begins: bool,
        asked: bool,
        round: Box<Round>,
    ) {
        // What it has from an earlier attempt every round of this one is later than.
        let turn = if asked { self.next_epoch() } else { 1 };
        self.parked.push(ParkedRound { segment, begins, round, epoch: turn });
    }

    /// Somebody who waits, whoever has looked.
    pub(super) fn parked(&mut self) -> Option<ParkedRound> {
        self.parked.pop()
    }

    /// Whom a parked round still waits for.
    fn awaited(&self, parked: &ParkedRound) -> impl Iterator<Item = SegmentIndex> {
        let (segment, turn) = (parked.segment, parked.epoch);
        let began = |other: &SegmentIndex| self.began.get(usize::from(*other)).copied();
        self.all().filter(move |other| *other != segment && began(other) < Some(turn))
    }

    pub(super) fn next(&mut self) -> NextSegment {
        let free = self.parked.iter().position(|p| self.awaited(p).next().is_none());
        if let Some(free) = free {
            return NextSegment::Release(self.parked.remove(free));
        }
        let waits = |segment| self.parked.iter().any(|p| p.segment == segment);
        if let Some(idle) =
            self.parked.iter().flat_map(|p| self.awaited(p)).find(|awaited| !waits(*awaited))
        {
            return NextSegment::Begin(idle);
        }
        if self.parked.is_empty() {
            return NextSegment::Nothing;
        }
        NextSegment::Deadlock(self.parked.remove(0).segment)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use jiff::{SignedDuration, Timestamp};

    use super::*;
    use crate::mirror::position::WindowId;
    use crate::mirror::round::SegmentContext;
    use crate::mirror::window::Completion;

    const EDGES: Edges = Edges { start: Timestamp::UNIX_EPOCH, end: Timestamp::UNIX_EPOCH };

    fn round(segment: SegmentIndex) -> Box<Round> {
        let place = SegmentContext {
            window: WindowId(1),
            segment,
            edges: EDGES,
            complete: Completion::Master,
            confirm_after: SignedDuration::ZERO,
            seams: true,
            page_size: 200,
        };
        Box::new(Round::resume(place, None, Vec::new(), 0))
    }

    /// What `next` says, released rounds by their segment.
    fn next(looks: &mut SegmentBarrier) -> String {
        match looks.next() {
            NextSegment::Nothing => "nothing".to_owned(),
            NextSegment::Begin(segment) => format!("begin {segment}"),
            NextSegment::Release(parked) => format!("release {}", parked.segment),
            NextSegment::Deadlock(segment) => format!("tangle {segment}"),
        }
    }

    fn began(looks: &mut SegmentBarrier, segment: SegmentIndex) {
        let turn = looks.next_epoch();
        looks.began(segment, turn);
    }

    #[test]
    fn removals_wait_for_rounds_that_began_later() {
        let mut looks = SegmentBarrier::at(vec![EDGES; 3]);
        assert_eq!(next(&mut looks), "nothing");
        began(&mut looks, 0);
        began(&mut looks, 1);
        looks.park(1, true, true, round(1));
        began(&mut looks, 2);
        // The first one began before the removals of the second were known.
        assert_eq!(next(&mut looks), "begin 0");
        began(&mut looks, 0);
        assert_eq!(next(&mut looks), "release 1");
        assert_eq!(next(&mut looks), "nothing");
    }

    #[test]
    fn removals_of_an_earlier_attempt_wait_for_any_round_of_this_one() {
        let mut looks = SegmentBarrier::at(vec![EDGES; 2]);
        // Only ends what was begun before, and does not know what is now.
        looks.next_epoch();
        looks.park(0, false, false, round(0));
        began(&mut looks, 1);
        looks.park(1, true, true, round(1));
        assert_eq!(next(&mut looks), "release 0");
        assert_eq!(next(&mut looks), "begin 0");
        began(&mut looks, 0);
        assert_eq!(next(&mut looks), "release 1");
    }

    #[test]
    fn whoever_waits_for_each_other_is_untangled() {
        let mut looks = SegmentBarrier::at(vec![EDGES; 2]);
        looks.park(0, false, false, round(0));
        looks.park(1, false, false, round(1));
        assert_eq!(next(&mut looks), "tangle 0");
        began(&mut looks, 0);
        looks.park(0, true, true, round(0));
        assert_eq!(next(&mut looks), "release 1");
        assert_eq!(next(&mut looks), "begin 1");
    }
}
