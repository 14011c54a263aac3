//! What is remembered of a window's rounds: the last one that succeeded, and the newest that are
//! worth telling of. A window in which nothing happens keeps one entry; quiet rounds are counted.

use jiff::Timestamp;

use crate::mirror::outcome::RoundOutcome;
use crate::mirror::status::{LastRound, PastRound, PastRounds, ResyncReason};

/// So many noteworthy rounds are remembered.
const MAX_REMEMBERED: usize = 8;

/// See the module. The first entry is the last round that succeeded, if one did; the others are
/// the noteworthy ones, newest first.
#[derive(Debug, Default)]
pub(super) struct RoundHistory {
    entries: Box<[PackedRound]>,
    /// Rounds since the newest noteworthy one, or since the daemon began.
    quiet: u32,
}

/// A round in few bytes: there may be a million windows.
#[derive(Clone, Copy, Debug, Default)]
struct PackedRound {
    /// 0 where there is none.
    number: u32,
    /// When it ended: whole seconds, and milliseconds beyond them.
    at: u32,
    at_ms: u16,
    outcome: RoundOutcome,
    resync: Option<ResyncReason>,
    took_ms: u32,
    requests: u32,
    pages: u32,
    created: u32,
    updated: u32,
    removed: u32,
}

impl RoundHistory {
    /// A round is over. `usual`: as many requests as a round takes in which nothing happened.
    pub(super) fn record(&mut self, round: PastRound, usual: usize) {
        let quiet = is_quiet(&round, usual);
        let entry = PackedRound::of(&round);
        let last = if round.outcome.succeeded() {
            entry
        } else {
            self.entries.first().copied().unwrap_or_default()
        };
        if quiet && let Some(first) = self.entries.first_mut() {
            *first = last;
        } else {
            let new = (!quiet).then_some(entry);
            let older = self.entries.iter().skip(1).copied();
            let noteworthy = new.into_iter().chain(older).take(MAX_REMEMBERED);
            self.entries = std::iter::once(last).chain(noteworthy).collect();
        }
        self.quiet = if quiet { self.quiet.saturating_add(1) } else { 0 };
    }

    /// A round was over before anything was asked.
    pub(super) fn record_idle(&mut self) {
        self.quiet = self.quiet.saturating_add(1);
    }

    /// The last round that succeeded.
    pub(super) fn last(&self) -> Option<LastRound> {
        self.entries.first().filter(|entry| entry.number > 0).map(|entry| entry.unpack().round)
    }

    /// What readers are told.
    pub(super) fn snapshot(&self) -> PastRounds {
        let value = self.entries.iter().skip(1).map(|entry| entry.unpack()).collect();
        PastRounds { value, quiet: self.quiet.into() }
    }
}

/// Whether it did what a round does in a calendar in which nothing happens.
fn is_quiet(past_round: &PastRound, usual: usize) -> bool {
    let PastRound { round, outcome, resync } = past_round;
    let LastRound { created, updated, removed, requests, .. } = *round;
    *outcome == RoundOutcome::Settled
        && resync.is_none()
        && (created, updated, removed) == (0, 0, 0)
        && usize::try_from(requests).is_ok_and(|requests| requests <= usual)
}

impl PackedRound {
    fn of(past_round: &PastRound) -> Self {
        let round = &past_round.round;
        let ms = u64::try_from(round.at.as_millisecond()).unwrap_or(0);
        let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Self {
            number: small(round.number),
            at: small(ms / 1000),
            at_ms: u16::try_from(ms % 1000).unwrap_or(0),
            outcome: past_round.outcome,
            resync: past_round.resync,
            took_ms: small(round.took_ms),
            requests: round.requests,
            pages: round.pages,
            created: round.created,
            updated: round.updated,
            removed: round.removed,
        }
    }

    fn unpack(&self) -> PastRound {
        let ms = i64::from(self.at) * 1000 + i64::from(self.at_ms);
        PastRound {
            round: LastRound {
                number: self.number.into(),
                at: Timestamp::from_millisecond(ms).unwrap_or_default(),
                took_ms: self.took_ms.into(),
                requests: self.requests,
                pages: self.pages,
                created: self.created,
                updated: self.updated,
                removed: self.removed,
            },
            outcome: self.outcome,
            resync: self.resync,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;
    use crate::mirror::outcome::ErrorKind;

    fn round(number: u64, outcome: RoundOutcome) -> PastRound {
        let at = Timestamp::from_millisecond(1_700_000_000_123 + number as i64).unwrap();
        let round = LastRound {
            number,
            at,
            took_ms: 7,
            requests: 1,
            pages: 1,
            created: 0,
            updated: 0,
            removed: 0,
        };
        PastRound { round, outcome, resync: None }
    }

    fn numbers(past: &RoundHistory) -> (Option<u64>, Vec<u64>, u64) {
        let past_round = past.snapshot();
        let value = past_round.value.iter().map(|past_round| past_round.round.number).collect();
        (past.last().map(|round| round.number), value, past_round.quiet)
    }

    #[test]
    fn quiet_rounds_are_counted_and_all_others_are_kept() {
        let mut past = RoundHistory::default();
        assert_eq!(numbers(&past), (None, vec![], 0));
        for number in 1..=3 {
            past.record(round(number, RoundOutcome::Settled), 1);
        }
        assert_eq!(numbers(&past), (Some(3), vec![], 3));
        assert_eq!(past.entries.len(), 1, "one entry for however many of them");

        let alter: [fn(&mut PastRound); 7] = [
            |past_round| past_round.round.created = 1,
            |past_round| past_round.round.updated = 1,
            |past_round| past_round.round.removed = 1,
            |past_round| past_round.round.requests = 2,
            |past_round| past_round.resync = Some(ResyncReason::Requested),
            |past_round| past_round.outcome = RoundOutcome::Failed(ErrorKind::Incomplete),
            |past_round| past_round.outcome = RoundOutcome::Held,
        ];
        for (alter, number) in alter.into_iter().zip(4..) {
            let mut past_round = round(number, RoundOutcome::Settled);
            alter(&mut past_round);
            past.record(past_round.clone(), 1);
            assert_eq!((&past.snapshot().value[0], past.snapshot().quiet), (&past_round, 0));
            assert_eq!(past.last(), Some(past_round.round));
        }
        // A failure is kept, and is not the last that succeeded.
        past.record(round(11, RoundOutcome::Failed(ErrorKind::Throttled)), 1);
        past.record(round(12, RoundOutcome::Crashed), 1);
        assert_eq!(numbers(&past), (Some(10), (5..=12).rev().collect(), 0));
        assert_eq!(past.snapshot().value[0].outcome, RoundOutcome::Crashed);
        assert_eq!(past.snapshot().value[1].outcome, RoundOutcome::Failed(ErrorKind::Throttled));
        past.record(round(13, RoundOutcome::Settled), 1);
        past.record_idle();
        assert_eq!(numbers(&past), (Some(13), (5..=12).rev().collect(), 2));
    }

    #[test]
    fn a_window_of_three_segments_asks_three_times_in_a_quiet_round() {
        let mut past = RoundHistory::default();
        let mut past_round = round(1, RoundOutcome::Settled);
        past_round.round.requests = 3;
        past.record(past_round.clone(), 3);
        assert_eq!(numbers(&past), (Some(1), vec![], 1));
        past_round.round.requests = 4;
        past.record(past_round, 3);
        assert_eq!(numbers(&past), (Some(1), vec![1], 0));
    }

    /// Times a million windows.
    #[test]
    fn an_entry_is_small() {
        assert_eq!(size_of::<PackedRound>(), 36);
        assert!(size_of::<RoundHistory>() <= 24);
    }
}
