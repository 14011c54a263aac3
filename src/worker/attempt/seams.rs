//! The segments of a window, one round each, and the seams between them.
//!
//! An event that moves over a seam leaves one segment and enters another, and each says only its
//! half. So no segment of several publishes removals before all others have made a round that
//! began after these removals were known: until then its round is parked. Everything a parked
//! round knows is in the store; a crash forgets nothing but the order, and where that decides,
//! one segment is enumerated anew. What may have moved into a series that another segment could
//! not complete stays until that one can.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use crate::mirror::change::RemovalReason;
use crate::mirror::commit::{Commit, Removal};
use crate::mirror::page::EventHash;
use crate::mirror::position::{PendingEntry, SegmentIndex};
use crate::mirror::round::{Effect, Retain, Round, RoundInput, RoundOutcome};
use crate::mirror::status::ResyncReason;
use crate::mirror::window::Edges;

use super::looks::{Looks, Next, Parked};
use super::{Attempt, Trouble};

/// Steps over the seams in one attempt. More there are only while events leave faster than rounds
/// are made; what is left waits for the next attempt.
const MOST_STEPS: usize = 256;

/// A page or listing of more items takes long enough to be stepped on another thread.
const LARGE: usize = 2000;

/// Events that leave an empty window in one commit.
const SLICE: usize = 256;

/// How far a round came, and what it learned on the way.
struct Course {
    came: Came,
    /// Whether Graph was asked for anything.
    asked: bool,
    /// Whether that was everything from the first page.
    anew: bool,
}

enum Came {
    /// To its end.
    Over(RoundOutcome),
    /// To its removals.
    Parked(Box<Round>),
}

impl Attempt<'_> {
    /// A round of each segment that is not `resting` (as bits), and of those too where another one
    /// has something to remove.
    pub(super) async fn segments(&mut self, resting: u64) -> Result<(), Trouble> {
        let segments = self.cell.vitals().segments();
        if let [edges] = &segments[..] {
            return self.only(*edges).await;
        }
        let mut looks = Looks::at(segments);
        let awake = looks.all().filter(|segment| resting & 1 << segment == 0);
        // Who is in mid-round knows only half of what is now: it comes first, so that the others
        // begin after what it brings to its end.
        let mut order = Vec::new();
        for segment in awake {
            let position = self.services.store.position(self.id, segment).await?;
            order.push((position.is_none_or(|position| position.phase.begins()), segment));
        }
        order.sort_unstable();
        // One that fails keeps none of the others from looking.
        let mut failed = None;
        for (_, segment) in order {
            if let Err(trouble) = self.begin(segment, &mut looks).await {
                let trouble = of_segment(trouble)?;
                failed = failed.or(Some(trouble));
            }
        }
        if let Some(trouble) = failed {
            // Nothing leaves, as it may have moved to where nobody could look; the rest goes on.
            while let Some(parked) = looks.parked() {
                self.release(parked, Retain::All, &mut looks).await?;
            }
            return Err(trouble);
        }
        for _ in 0..MOST_STEPS {
            if self.done.over > RoundOutcome::Incomplete {
                // Somebody could not look. The removals are in the to-do.
                return Ok(());
            }
            match looks.next() {
                Next::Nothing => return Ok(()),
                Next::Begin(segment) => self.begin(segment, &mut looks).await?,
                Next::Release(parked) => {
                    let stay = Retain::Named(self.withheld(parked.segment, &looks).await?);
                    self.release(parked, stay, &mut looks).await?;
                }
                Next::Tangle(segment) => {
                    self.begin_resync(segment, ResyncReason::Seam).await?;
                    self.begin(segment, &mut looks).await?;
                }
            }
        }
        self.done.over = self.done.over.max(RoundOutcome::Incomplete);
        Ok(())
    }

    /// The one segment that most windows have.
    async fn only(&mut self, edges: Edges) -> Result<(), Trouble> {
        if edges.is_empty() {
            return self.nothing().await;
        }
        let mut over = RoundOutcome::Settled;
        for _ in 0..2 {
            let pages = self.done.pages;
            let (round, _) = self.open(0, edges, false).await?;
            let course = self.drive(0, edges, round, RoundInput::Start).await?;
            if let Came::Over(end) = course.came {
                over = end;
            }
            // A run that only ended what an earlier one had begun has not asked Graph yet.
            if over != RoundOutcome::Settled || self.done.pages != pages {
                break;
            }
        }
        self.end(0, over);
        Ok(())
    }

    /// The moving start has passed the fixed end: what is left of the window leaves it, and there
    /// is nothing to ask.
    async fn nothing(&mut self) -> Result<(), Trouble> {
        let rows = self.unseen(0).await?;
        for slice in rows.chunks(SLICE) {
            let mut commit = Commit::new(self.id, 0, self.services.env.now());
            let leaves = |row: &Removal| Removal { reason: RemovalReason::LeftWindow, ..*row };
            commit.removals = slice.iter().map(leaves).collect();
            self.commit(commit).await?;
        }
        let now = self.services.env.now();
        let mut commit = Commit::new(self.id, 0, now);
        commit.tally.round = Some(self.number);
        commit.tally.success = Some(now);
        commit.lazy = true;
        self.services.store.submit(commit).await?;
        self.end(0, RoundOutcome::Settled);
        Ok(())
    }

    /// A round of a segment, up to its removals; one in the middle is brought to its end before.
    async fn begin(&mut self, segment: SegmentIndex, looks: &mut Looks) -> Result<(), Trouble> {
        let Some(edges) = looks.edges(segment) else { return Ok(()) };
        for again in [false, true] {
            let turn = looks.turn();
            let (round, begins) = self.open(segment, edges, true).await?;
            let course = self.drive(segment, edges, round, RoundInput::Start).await?;
            let begins = begins || course.anew;
            if begins {
                looks.began(segment, turn);
            }
            match course.came {
                Came::Over(RoundOutcome::Settled) if !begins && !again => {}
                Came::Over(over) => {
                    self.end(segment, over);
                    break;
                }
                Came::Parked(round) => {
                    looks.park(segment, begins, course.asked, round);
                    break;
                }
            }
        }
        Ok(())
    }

    /// All others have looked: a parked round goes on.
    async fn release(
        &mut self,
        parked: Parked,
        stay: Retain,
        looks: &mut Looks,
    ) -> Result<(), Trouble> {
        let Parked { segment, begins, round, .. } = parked;
        let Some(edges) = looks.edges(segment) else { return Ok(()) };
        let turn = looks.turn();
        let all = matches!(stay, Retain::All);
        let gone = usize::try_from(self.done.removed).unwrap_or(usize::MAX);
        let course =
            self.drive(segment, edges, *round, RoundInput::Withheld { stay, gone }).await?;
        if course.anew {
            looks.began(segment, turn);
        }
        let begins = begins || course.anew;
        match course.came {
            // Where nothing may leave it would only come back here.
            Came::Parked(_) if all => {}
            Came::Over(RoundOutcome::Settled) if !begins && !all => {
                self.begin(segment, looks).await?
            }
            Came::Over(over) => self.end(segment, over),
            Came::Parked(round) => looks.park(segment, begins, course.asked, round),
        }
        Ok(())
    }

    /// The rows of a segment that its enumeration did not meet.
    pub(super) async fn unseen(&self, segment: SegmentIndex) -> Result<Vec<Removal>, Trouble> {
        // What left the segment need not have left the window.
        let window = self.cell.vitals().edges;
        Ok(self.services.store.unseen(self.id, segment, window).await?)
    }

    /// The segment's events of series that another one could not complete: one of them may have
    /// moved there.
    async fn withheld(
        &self,
        segment: SegmentIndex,
        looks: &Looks,
    ) -> Result<BTreeSet<EventHash>, Trouble> {
        let mut withheld = BTreeSet::new();
        for other in looks.all().filter(|other| *other != segment) {
            let position = self.services.store.position(self.id, other).await?;
            if !position.is_some_and(|position| position.todo) {
                continue;
            }
            for todo in self.services.store.todo(self.id, other).await? {
                if let PendingEntry::Series { master, .. } = todo {
                    withheld.extend(self.rows(segment, &master).await?.iter().map(|row| row.id));
                }
            }
        }
        Ok(withheld)
    }

    /// Performs what a round asks for, until it is over or the others have to look.
    async fn drive(
        &mut self,
        segment: SegmentIndex,
        edges: Edges,
        mut round: Round,
        mut input: RoundInput,
    ) -> Result<Course, Trouble> {
        let (mut asked, mut anew) = (false, false);
        // Each segment's link may die once, and its requests be made again.
        (self.retries, self.deaths) = (0, 0);
        self.present = None;
        let before = round.fallback().clone();
        self.ask.page_size = before.page_size(self.window.page_size);
        loop {
            self.steps.fetch_add(1, Ordering::Relaxed);
            let now = self.services.env.now();
            let large = match &input {
                RoundInput::Page { page, .. } => page.present.len() > LARGE,
                RoundInput::Instances(Some((listed, _))) | RoundInput::Viewed(listed, _) => {
                    listed.items.len() > LARGE
                }
                _ => false,
            };
            let (next, effect) = if large {
                self.services.env.compute(move || round.step(input, now)).await
            } else {
                round.step(input, now)
            };
            round = next;
            if let Effect::Over(over) = effect {
                self.done.held_until = self.done.held_until.max(round.held_until());
                self.show_remedy(segment, &before, round.fallback());
                if over == RoundOutcome::Failed {
                    return Err(self.fault.take().unwrap_or(Trouble::Endless));
                }
                return Ok(Course { came: Came::Over(over), asked, anew });
            }
            if matches!(effect, Effect::Seam) {
                self.show_remedy(segment, &before, round.fallback());
                let came = Came::Parked(Box::new(round));
                return Ok(Course { came, asked, anew });
            }
            asked |= matches!(
                effect,
                Effect::Page(_)
                    | Effect::Listing(_)
                    | Effect::Instances(_)
                    | Effect::View(_)
                    | Effect::Presence(_)
            );
            anew |= matches!(effect, Effect::Page(None) | Effect::Listing(None));
            input = self.perform(&round, segment, edges, effect).await?;
        }
    }

    fn end(&mut self, segment: SegmentIndex, over: RoundOutcome) {
        self.done.over = self.done.over.max(over);
        if over == RoundOutcome::Settled {
            self.done.settled |= 1 << segment;
        }
    }
}

/// A trouble that says nothing about the other segments; the others are of the whole window.
fn of_segment(trouble: Trouble) -> Result<Trouble, Trouble> {
    match &trouble {
        Trouble::LinksDie | Trouble::Endless => Ok(trouble),
        Trouble::Transient(error) if !error.is_of_account() => Ok(trouble),
        _ => Err(trouble),
    }
}
