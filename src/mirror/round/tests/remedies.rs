//! Rounds that would not end and pages that cannot be had: larger pages, smaller ones, listings, and
//! delta tried again.

use super::*;

/// A segment in snapshot mode since `AT`, with nothing to do.
fn listed(phase: Phase) -> Option<Position> {
    let mut remedy = Fallback::default();
    while !remedy.is_snapshot() {
        remedy = remedy.next(StallKind::NoProgress, 200, AT).unwrap();
    }
    Some(Position { fallback: remedy, ..Position::new(phase, false) })
}

fn resumed(position: Option<Position>) -> Round {
    Round::resume(place(Completion::Master), position, Vec::new(), 100)
}

fn started(position: Option<Position>, at: Timestamp) -> (Round, Effect) {
    resumed(position).step(RoundInput::Start, at)
}

#[test]
fn a_round_that_would_not_end_waits_and_enumerates_in_larger_pages() {
    let (round, _) = started(settled(), AT);
    let (round, _) = step_page(round, page(vec![single("a")], &[], next("n1")), &[]);
    let (round, _) = round.step(RoundInput::Committed(100), AT);
    // The same ids under another link: the page is not applied.
    let (round, commit) = step_page(round, page(vec![single("a")], &[], next("n2")), &[]);
    assert!(commit.upserts.is_empty() && commit.clear_todo && commit.clear_seen);
    assert_eq!(*phase(&commit), Phase::start(ResyncReason::RoundStuck));
    assert_eq!(commit.tally.resync, Some(ResyncReason::RoundStuck));
    assert_eq!(round.fallback().page_size(200), 400);
    let (_, effect) = round.step(RoundInput::Committed(100), AT);
    assert!(matches!(effect, Effect::Over(RoundOutcome::Stuck(StallKind::NoProgress))));
    // Whoever asks, and however often the process starts: not before its time.
    let (_, effect) = started(commit.position.clone(), AT);
    assert!(matches!(effect, Effect::Over(RoundOutcome::Stuck(StallKind::NoProgress))));
    let (round, effect) = started(commit.position, hour(1));
    assert!(matches!(effect, Effect::Page(None)));
    // What helped is remembered when it has helped.
    let (_, commit) = step_page(round, page(vec![single("a")], &[], delta("d1")), &[]);
    assert_eq!(commit.position.unwrap().fallback.page_size(200), 400);
}

#[test]
fn a_guard_is_stored_with_every_page_and_forgotten_with_the_round() {
    let (round, _) = started(settled(), AT);
    let (_, commit) = step_page(round, page(vec![single("a")], &[], next("n1")), &[]);
    // As after a crash: the next page is the same.
    let (round, effect) = started(commit.position, AT);
    assert!(matches!(effect, Effect::Page(Some(_))));
    let (_, stuck) = step_page(round, page(vec![single("a")], &[], next("n2")), &[]);
    assert_eq!(*phase(&stuck), Phase::start(ResyncReason::RoundStuck));
    let (round, _) = started(settled(), AT);
    let (round, _) = step_page(round, page(vec![single("a")], &[], next("n1")), &[]);
    let (round, _) = round.step(RoundInput::Committed(100), AT);
    let (_, commit) = step_page(round, page(vec![single("a")], &[], delta("d1")), &[]);
    assert!(commit.position.unwrap().stall.is_idle());
}

#[test]
fn a_page_over_the_cap_has_smaller_ones_asked_for() {
    let (round, _) = started(settled(), AT);
    let (round, effect) = round.step(RoundInput::Failed(PageFailure::TooLarge), AT);
    let commit = written(effect);
    assert_eq!(*phase(&commit), Phase::start(ResyncReason::PageStuck));
    assert_eq!(round.fallback().page_size(200), 100);
    let (_, effect) = round.step(RoundInput::Committed(100), AT);
    assert!(matches!(effect, Effect::Over(RoundOutcome::Stuck(StallKind::PageTooLarge))));
}

#[test]
fn a_refused_link_is_stuck_when_two_attempts_in_a_row_gave_up_there() {
    let refused =
        |position| started(position, AT).0.step(RoundInput::Failed(PageFailure::Refused), AT);
    let (round, effect) = refused(settled());
    let first = written(effect);
    assert_eq!(*phase(&first), settled().unwrap().phase, "only remembered");
    assert!(matches!(
        round.step(RoundInput::Committed(100), AT).1,
        Effect::Over(RoundOutcome::Failed)
    ));
    // The second, after a restart.
    let (_, effect) = refused(first.position.clone());
    assert_eq!(*phase(&written(effect)), Phase::start(ResyncReason::PageStuck));
    // A page in between: it was the day, not the link.
    let (round, _) = started(first.position, AT);
    let (_, commit) = step_page(round, page(vec![single("a")], &[], next("n")), &[]);
    let (_, effect) = refused(commit.position);
    assert!(matches!(phase(&written(effect)), Phase::Following { .. }));
    // Anything else that fails is for the next attempt.
    let (_, effect) = started(settled(), AT).0.step(RoundInput::Failed(PageFailure::Other), AT);
    assert!(matches!(effect, Effect::Over(RoundOutcome::Failed)));
}

#[test]
fn a_snapshot_round_lists_compares_and_has_no_link_to_go_on_from() {
    let (round, effect) = started(listed(Phase::Settled { delta: None }), AT);
    assert!(matches!(effect, Effect::Listing(None)), "nothing is written before the first page");
    let (round, commit) = step_page(round, page(vec![single("a")], &[], PageEnd::Last), &[]);
    assert_eq!(ids(&commit.upserts), ["a"]);
    assert!(commit.seen.is_some());
    let sweeping = Phase::Sweeping { delta: None, reason: ResyncReason::Snapshot };
    assert_eq!(*phase(&commit), sweeping);
    let (round, effect) = round.step(RoundInput::Committed(100), AT);
    assert!(matches!(effect, Effect::Unseen));
    let (round, effect) = round.step(RoundInput::Unseen(many(1)), AT);
    let commit = written(effect);
    assert_eq!(gone(&commit).len(), 1, "one page is of one moment");
    assert_eq!(*phase(&commit), Phase::Settled { delta: None });
    assert_eq!(commit.tally.resync, None, "ordinary life");
    let (_, effect) = round.step(RoundInput::Committed(99), AT);
    assert!(matches!(effect, Effect::Over(RoundOutcome::Settled)));
}

#[test]
fn what_several_listed_pages_lack_leaves_when_the_next_listing_lacks_it_too() {
    let (round, _) = started(listed(Phase::Settled { delta: None }), AT);
    let list = |round: Round, last: &str| {
        let (round, _) = step_page(round, page(vec![single("a")], &[], next("n")), &[]);
        let (round, effect) = round.step(RoundInput::Committed(100), AT);
        assert!(matches!(effect, Effect::Listing(Some(_))));
        let (round, _) = step_page(round, page(vec![single(last)], &[], PageEnd::Last), &[]);
        round.step(RoundInput::Committed(100), AT).0
    };
    let (round, effect) = list(round, "b").step(RoundInput::Unseen(many(2)), AT);
    let commit = written(effect);
    assert!(commit.removals.is_empty() && commit.clear_seen && commit.pending.len() == 2);
    assert_eq!(*phase(&commit), Phase::start(ResyncReason::Snapshot));
    let (round, effect) = round.step(RoundInput::Committed(100), AT);
    assert!(matches!(effect, Effect::Listing(None)), "at once");
    // One of them was only overlooked.
    let (_, effect) = list(round, "g0").step(RoundInput::Unseen(many(2).split_off(1)), AT);
    let commit = written(effect);
    assert_eq!(gone(&commit), [EventId::new("g1").hash()]);
    assert_eq!(*phase(&commit), Phase::Settled { delta: None });
}

#[test]
fn a_listed_occurrence_needs_its_master_only_when_the_stored_one_is_of_another_day() {
    let occurrence =
        |id, etag| Item { whole: true, ..item(id, EventKind::Occurrence, Some("m"), etag) };
    let stored = |etag: Option<&str>| StoredKind::Master { etag: etag.map(Into::into) };
    for (etag, known, shown) in [
        ("e1", stored(Some("e1")), true),
        ("e2", stored(Some("e1")), false),
        ("e1", stored(None), false),
        ("e1", StoredKind::Unknown, false),
    ] {
        let (round, _) = started(listed(Phase::Settled { delta: None }), AT);
        let listing = page(vec![occurrence("o", etag)], &[], PageEnd::Last);
        assert!(round.ids_to_look_up(&listing).contains(&EventId::new("m").hash()));
        let (round, commit) = step_page(round, listing, &[("m", known.clone())]);
        assert_eq!(commit.upserts.len(), usize::from(shown), "{etag} {known:?}");
        assert!(commit.upserts.iter().all(|item| !item.whole), "bare, as from any other request");
        let (_, effect) = round.step(RoundInput::Committed(100), AT);
        assert_eq!(matches!(effect, Effect::Master(_)), !shown);
    }
    // Exact windows want them as they are listed.
    let position = listed(Phase::Settled { delta: None });
    let round = Round::resume(place(Completion::Exact), position, Vec::new(), 9);
    let (round, _) = round.step(RoundInput::Start, AT);
    let (_, commit) = step_page(round, page(vec![occurrence("o", "e")], &[], PageEnd::Last), &[]);
    assert!(commit.upserts[0].whole);
}

#[test]
fn delta_is_tried_again_after_a_day_and_kept_if_it_works() {
    let tomorrow = hour(24);
    let (round, effect) = started(listed(Phase::Settled { delta: None }), tomorrow);
    let commit = written(effect);
    assert_eq!(*phase(&commit), Phase::start(ResyncReason::DeltaRetry));
    assert_eq!(commit.tally.resync, Some(ResyncReason::DeltaRetry));
    assert!(round.fallback().is_snapshot(), "until it has worked");
    let (round, effect) = round.step(RoundInput::Committed(100), tomorrow);
    assert!(matches!(effect, Effect::Page(None)));
    let (round, _) = step_page(round, page(vec![single("a")], &[], delta("d")), &[]);
    let (round, _) = round.step(RoundInput::Committed(100), tomorrow);
    let (round, effect) = round.step(RoundInput::Unseen(Vec::new()), tomorrow);
    assert_eq!(*phase(&written(effect)), Phase::Settled { delta: Some(link("d")) });
    assert!(!round.fallback().is_snapshot());
    assert_eq!(round.fallback().page_size(200), 1000);
}

#[test]
fn a_trial_of_delta_that_fails_in_any_way_is_over_at_once() {
    let tomorrow = hour(24);
    let trial = || {
        let (round, _) = started(listed(Phase::Settled { delta: None }), tomorrow);
        round.step(RoundInput::Committed(100), tomorrow).0
    };
    let failures = [PageFailure::TooLarge, PageFailure::Refused, PageFailure::Other];
    let mut ended: Vec<(Round, Effect)> =
        failures.map(|how| trial().step(RoundInput::Failed(how), tomorrow)).into();
    let (round, _) = step_page(trial(), page(vec![single("a")], &[], next("n1")), &[]);
    let again = RoundInput::Page {
        page: page(vec![single("a")], &[], next("n2")),
        known: BTreeMap::new(),
        took: Duration::ZERO,
    };
    ended.push(round.step(RoundInput::Committed(100), tomorrow).0.step(again, tomorrow));
    for (round, effect) in ended {
        let commit = written(effect);
        assert_eq!(*phase(&commit), Phase::start(ResyncReason::Snapshot));
        assert_eq!(commit.tally.resync, None);
        let (_, effect) = round.step(RoundInput::Committed(100), tomorrow);
        assert!(matches!(effect, Effect::Listing(None)), "listed at once, no waiting");
        let (_, effect) = started(commit.position, hour(47));
        assert!(matches!(effect, Effect::Listing(None)), "another day");
    }
    // A link that dies costs a repetition, as ever.
    let (_, effect) = trial().step(RoundInput::LinkDead, tomorrow);
    assert_eq!(*phase(&written(effect)), Phase::start(ResyncReason::DeltaRetry));
}

#[test]
fn whatever_begins_anew_in_snapshot_mode_is_listed() {
    for reason in [ResyncReason::Requested, ResyncReason::WindowMoved, ResyncReason::Confirm] {
        let (_, effect) = started(listed(Phase::start(reason)), AT);
        assert!(matches!(effect, Effect::Listing(None)), "{reason:?}");
    }
    // A large removal is not believed here either.
    let sweeping = Phase::Sweeping { delta: None, reason: ResyncReason::Snapshot };
    let (_, effect) = resumed(listed(sweeping)).step(RoundInput::Unseen(many(60)), AT);
    let commit = written(effect);
    assert!(commit.removals.is_empty());
    assert_eq!(*phase(&commit), Phase::start(ResyncReason::Confirm));
    assert!(commit.position.unwrap().fallback.is_snapshot());
}

#[test]
fn when_even_the_listing_does_not_work_nothing_is_left_to_try() {
    let (round, _) = started(listed(Phase::Settled { delta: None }), AT);
    let (round, _) = step_page(round, page(vec![single("a")], &[], next("n1")), &[]);
    let (round, _) = round.step(RoundInput::Committed(100), AT);
    let (round, commit) = step_page(round, page(vec![single("a")], &[], next("n2")), &[]);
    assert_eq!(*phase(&commit), Phase::start(ResyncReason::RoundStuck));
    assert!(commit.position.unwrap().held_until.is_none());
    let (_, effect) = round.step(RoundInput::Committed(100), AT);
    assert!(matches!(effect, Effect::Over(RoundOutcome::Failed)));
    // Pages shrink to the smallest before that.
    let mut position = listed(Phase::Settled { delta: None });
    let mut sizes = Vec::new();
    let last = loop {
        let (round, _) = started(position, hour(1));
        let (round, effect) = round.step(RoundInput::Failed(PageFailure::TooLarge), AT);
        let Effect::Commit(commit) = effect else { break effect };
        sizes.push(round.fallback().page_size(200));
        position = commit.position;
    };
    assert_eq!(sizes, [500, 250, 125, 62, 31, 15, 10]);
    assert!(matches!(last, Effect::Over(RoundOutcome::Failed)));
}
