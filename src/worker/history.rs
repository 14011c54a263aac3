//! Keeps a window's last successful round and its newest noteworthy rounds. Quiet rounds are only
//! counted, so a window in which nothing happens keeps one entry.

use jiff::Timestamp;

use crate::mirror::outcome::RoundOutcome;
use crate::mirror::status::{PastRound, PastRounds, ResyncReason, RoundFigures};

/// How many noteworthy rounds are kept.
const MAX_REMEMBERED: usize = 8;

/// A window's past rounds. The first entry is the last successful round, or `None` if there was
/// none; the others are the noteworthy ones, newest first.
#[derive(Debug, Default)]
pub(super) struct RoundHistory {
    entries: Box<[Option<PackedRound>]>,
    /// Rounds since the newest noteworthy one, or since the daemon started.
    quiet: u32,
}

/// A round in few bytes, because there may be a million windows.
#[derive(Clone, Copy, Debug)]
struct PackedRound {
    number: u32,
    /// When it ended, in whole seconds; `at_ms` has the milliseconds.
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
    /// Records a finished round. `usual` is the number of requests of a round in which nothing
    /// happened.
    pub(super) fn record(&mut self, round: PastRound, usual: usize) {
        let quiet = is_quiet(&round, usual);
        let entry = Some(PackedRound::of(&round));
        let last =
            if round.outcome.succeeded() { entry } else { self.entries.first().copied().flatten() };
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

    /// Counts a round that ended before its first request.
    pub(super) fn record_without_request(&mut self) {
        self.quiet = self.quiet.saturating_add(1);
    }

    /// The last successful round.
    pub(super) fn last(&self) -> Option<RoundFigures> {
        self.entries.first()?.map(|entry| entry.unpack().round)
    }

    /// The noteworthy rounds and the count of quiet ones, as published.
    pub(super) fn snapshot(&self) -> PastRounds {
        let value = self.entries.iter().skip(1).flatten().map(PackedRound::unpack).collect();
        PastRounds { value, quiet: self.quiet.into() }
    }
}

/// Whether the round changed nothing and made no more than the usual requests.
fn is_quiet(past_round: &PastRound, usual: usize) -> bool {
    let PastRound { round, outcome, resync } = past_round;
    let RoundFigures { created, updated, removed, requests, .. } = *round;
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
            round: RoundFigures {
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
    use super::*;
    use crate::mirror::failure::{ErrorClass, ErrorKind};

    fn round(number: u64, outcome: RoundOutcome) -> PastRound {
        let at = Timestamp::from_millisecond(1_700_000_000_123 + number as i64).unwrap();
        let round = RoundFigures {
            number,
            at,
            took_ms: 7,
            requests: 1,
            pages: 1,
            ..RoundFigures::default()
        };
        PastRound { round, outcome, resync: None }
    }

    fn numbers(history: &RoundHistory) -> (Option<u64>, Vec<u64>, u64) {
        let past_round = history.snapshot();
        let value = past_round.value.iter().map(|past_round| past_round.round.number).collect();
        (history.last().map(|round| round.number), value, past_round.quiet)
    }

    #[test]
    fn idle_rounds_are_counted_and_all_others_are_kept() {
        let mut history = RoundHistory::default();
        assert_eq!(numbers(&history), (None, vec![], 0));
        for number in 1..=3 {
            history.record(round(number, RoundOutcome::Settled), 1);
        }
        assert_eq!(numbers(&history), (Some(3), vec![], 3));
        assert_eq!(history.entries.len(), 1, "quiet rounds take one entry, whatever their number");

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
            history.record(past_round.clone(), 1);
            assert_eq!((&history.snapshot().value[0], history.snapshot().quiet), (&past_round, 0));
            assert_eq!(history.last(), Some(past_round.round));
        }
        // A failure is kept, but it is not the last successful round.
        history.record(round(11, RoundOutcome::Failed(ErrorKind::Graph(ErrorClass::Throttled))), 1);
        history.record(round(12, RoundOutcome::Crashed), 1);
        assert_eq!(numbers(&history), (Some(10), (5..=12).rev().collect(), 0));
        assert_eq!(history.snapshot().value[0].outcome, RoundOutcome::Crashed);
        assert_eq!(
            history.snapshot().value[1].outcome,
            RoundOutcome::Failed(ErrorKind::Graph(ErrorClass::Throttled))
        );
        history.record(round(13, RoundOutcome::Settled), 1);
        history.record_without_request();
        assert_eq!(numbers(&history), (Some(13), (5..=12).rev().collect(), 2));
    }

    #[test]
    fn an_idle_round_of_three_segments_has_three_requests() {
        let mut history = RoundHistory::default();
        let mut past_round = round(1, RoundOutcome::Settled);
        past_round.round.requests = 3;
        history.record(past_round.clone(), 3);
        assert_eq!(numbers(&history), (Some(1), vec![], 1));
        past_round.round.requests = 4;
        history.record(past_round, 3);
        assert_eq!(numbers(&history), (Some(1), vec![1], 0));
    }

    /// There may be a million windows.
    #[test]
    fn a_history_entry_uses_little_memory() {
        assert_eq!(size_of::<Option<PackedRound>>(), 36);
        assert!(size_of::<RoundHistory>() <= 24);
    }
}
