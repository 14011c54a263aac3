//! The segments of a window, one round each, and the seams between them.
//!
//! An event that moves over a seam leaves one segment and enters another, and each says only its
//! half. So no segment of several publishes removals before all others have made a round that
//! began after these removals were known: until then its round is parked, in the order in which
//! they came to that point. Everything a parked round knows is in the store; a crash forgets
//! nothing but the order.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use crate::mirror::change::RemovalReason;
use crate::mirror::commit::{Commit, Removal};
use crate::mirror::position::{Phase, SegmentIndex};
use crate::mirror::round::{Effect, Input, Over, Round};
use crate::mirror::window::Edges;

use super::{Attempt, Trouble};

/// Parked rounds that are taken up again in one attempt. More there are only while events leave
/// faster than rounds are made; what is left waits for the next attempt.
const MOST_TAKEN_UP: usize = 256;

/// Events that leave an empty window in one commit.
const SLICE: usize = 256;

/// Whether removals may be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    /// There is no other segment.
    Open,
    /// The others have looked: until this one learns something new.
    Ajar,
    /// The others have to look first.
    Shut,
}

/// How far a round came.
enum Came {
    /// To its end.
    Over(Over),
    /// To its removals, which the effect publishes.
    Parked(Box<(Round, Effect)>),
}

/// A round that waits for the other segments.
struct Parked {
    segment: SegmentIndex,
    waits: Box<(Round, Effect)>,
    /// Whether it has asked Graph for anything, or only ends what an earlier attempt had begun.
    asked: bool,
    /// Rounds that have begun after this turn know what it does not.
    turn: u64,
}

impl Attempt<'_> {
    /// A round of each segment that is not `resting` (as bits), and of those too where another one
    /// has something to remove.
    pub(super) async fn segments(&mut self, resting: u64) -> Result<(), Trouble> {
        let segments = self.cell.vitals().segments();
        if let [edges] = &segments[..] {
            return self.only(*edges).await;
        }
        let mut turns = Turns { now: 0, begun: vec![0; segments.len()], parked: VecDeque::new() };
        for (segment, edges) in (0..).zip(&segments) {
            if resting & 1 << segment == 0 {
                self.first(segment, *edges, &mut turns).await?;
            }
        }
        let mut taken_up = 0;
        while let Some(Parked { segment, waits, asked, turn }) = turns.parked.pop_front() {
            taken_up += 1;
            if taken_up > MOST_TAKEN_UP {
                self.done.over = self.done.over.max(Over::Incomplete);
                break;
            }
            for (other, edges) in (0..).zip(&segments) {
                if other != segment && turns.began(other) < turn {
                    self.first(other, *edges, &mut turns).await?;
                }
            }
            if self.done.over > Over::Incomplete {
                // Somebody could not look. The removals are in the to-do.
                continue;
            }
            let Some(edges) = segments.get(usize::from(segment)) else { continue };
            let (round, effect) = *waits;
            let pages = self.done.pages;
            let input = self.perform(&round, segment, *edges, effect).await?;
            match self.drive(segment, *edges, round, input, Gate::Ajar).await? {
                Came::Over(Over::Settled) if !asked && self.done.pages == pages => {
                    self.first(segment, *edges, &mut turns).await?;
                }
                Came::Over(over) => self.end(segment, over),
                Came::Parked(waits) => {
                    let turn = turns.next();
                    turns.parked.push_back(Parked { segment, waits, asked: true, turn });
                }
            }
        }
        Ok(())
    }

    /// The one segment that most windows have.
    async fn only(&mut self, edges: Edges) -> Result<(), Trouble> {
        if edges.is_empty() {
            return self.nothing().await;
        }
        let mut over = Over::Settled;
        for _ in 0..2 {
            let pages = self.done.pages;
            let round = self.open(0, edges, false).await?;
            if let Came::Over(end) = self.drive(0, edges, round, Input::Start, Gate::Open).await? {
                over = end;
            }
            // A run that only ended what an earlier one had begun has not asked Graph yet.
            if over != Over::Settled || self.done.pages != pages {
                break;
            }
        }
        self.end(0, over);
        Ok(())
    }

    /// The moving start has passed the fixed end: what is left of the window leaves it, and there
    /// is nothing to ask.
    async fn nothing(&mut self) -> Result<(), Trouble> {
        let window = self.cell.vitals().edges;
        let rows = self.services.store.unseen(self.id, 0, window).await?;
        for slice in rows.chunks(SLICE) {
            let mut commit = Commit::new(self.id, 0, self.services.world.now());
            let leaves = |row: &Removal| Removal { reason: RemovalReason::LeftWindow, ..*row };
            commit.removals = slice.iter().map(leaves).collect();
            self.commit(commit).await?;
        }
        let now = self.services.world.now();
        let mut commit = Commit::new(self.id, 0, now);
        commit.tally.round = Some(self.number);
        commit.tally.success = Some(now);
        commit.lazy = true;
        self.services.store.submit(commit).await?;
        self.end(0, Over::Settled);
        Ok(())
    }

    /// A round of a segment, up to its removals.
    async fn first(
        &mut self,
        segment: SegmentIndex,
        edges: Edges,
        turns: &mut Turns,
    ) -> Result<(), Trouble> {
        for again in [false, true] {
            turns.begin(segment);
            let pages = self.done.pages;
            let round = self.open(segment, edges, true).await?;
            let came = self.drive(segment, edges, round, Input::Start, Gate::Shut).await?;
            let asked = self.done.pages != pages;
            match came {
                Came::Over(Over::Settled) if !asked && !again => {}
                Came::Over(over) => {
                    self.end(segment, over);
                    break;
                }
                Came::Parked(waits) => {
                    let turn = turns.next();
                    turns.parked.push_back(Parked { segment, waits, asked, turn });
                    break;
                }
            }
        }
        Ok(())
    }

    /// Performs what a round asks for, until it is over or meets the gate.
    async fn drive(
        &mut self,
        segment: SegmentIndex,
        edges: Edges,
        mut round: Round,
        mut input: Input,
        mut gate: Gate,
    ) -> Result<Came, Trouble> {
        let before = round.remedy().clone();
        self.ask.page_size = before.page_size(self.window.page_size);
        loop {
            self.steps.fetch_add(1, Ordering::Relaxed);
            let (next, effect) = round.step(input, self.services.world.now());
            round = next;
            if let Effect::Over(over) = effect {
                self.done.held_until = self.done.held_until.max(round.held_until());
                self.show_remedy(segment, &before, round.remedy());
                if over == Over::Failed {
                    return Err(self.fault.take().unwrap_or(Trouble::Endless));
                }
                return Ok(Came::Over(over));
            }
            if gate == Gate::Shut && publishes(&effect) {
                self.show_remedy(segment, &before, round.remedy());
                return Ok(Came::Parked(Box::new((round, effect))));
            }
            let asks =
                matches!(effect, Effect::Page(_) | Effect::Listing(_) | Effect::Instances(_));
            if gate == Gate::Ajar && asks {
                // What is learned now the others may not know.
                gate = Gate::Shut;
            }
            input = self.perform(&round, segment, edges, effect).await?;
        }
    }

    fn end(&mut self, segment: SegmentIndex, over: Over) {
        self.done.over = self.done.over.max(over);
        if over == Over::Settled {
            self.done.settled |= 1 << segment;
        }
    }
}

/// Who has begun when, and who waits.
struct Turns {
    now: u64,
    begun: Vec<u64>,
    parked: VecDeque<Parked>,
}

impl Turns {
    fn next(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    fn begin(&mut self, segment: SegmentIndex) {
        let now = self.next();
        if let Some(begun) = self.begun.get_mut(usize::from(segment)) {
            *begun = now;
        }
    }

    /// When a segment's latest round began; 0: not yet.
    fn began(&self, segment: SegmentIndex) -> u64 {
        self.begun.get(usize::from(segment)).copied().unwrap_or(0)
    }
}

/// Whether performing it makes events leave that may stand in another segment. A series that is
/// gone is gone everywhere.
fn publishes(effect: &Effect) -> bool {
    match effect {
        Effect::Unseen => true,
        Effect::Commit(commit) => {
            let settles = commit.position.as_ref().map(|position| &position.phase);
            !commit.removals.is_empty() && matches!(settles, Some(Phase::Settled { .. }))
        }
        _ => false,
    }
}
