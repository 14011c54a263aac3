//! Stuck rounds and pages that cannot be fetched: larger pages, smaller pages, snapshot mode, and
//! delta retries.

use super::*;

/// A segment in snapshot mode since `AT`, without pending work.
fn listed(phase: Phase) -> Option<Position> {
    let mut fallback = Fallback::default();
    while !fallback.is_snapshot() {
        fallback = fallback.next(StallKind::NoProgress, 200, AT).unwrap();
    }
    Some(Position { fallback, ..Position::new(phase, false) })
}

fn resumed(position: Option<Position>) -> Round {
    Round::resume(place(Completion::Master), position, Vec::new(), 100)
}

fn started(position: Option<Position>, at: Timestamp) -> (Round, Step) {
    resumed(position).step(RoundInput::Start, at)
}

#[test]
fn an_endless_round_waits_and_enumerates_with_larger_pages() {
    let (round, _) = started(settled(), AT);
    let (round, _) = step_page(round, page(vec![single("a")], &[], next("n1")), &[]);
    let (round, _) = round.step(RoundInput::Committed(100), AT);
    // The same ids under another link: the page is not applied.
    let (round, commit) = step_page(round, page(vec![single("a")], &[], next("n2")), &[]);
    assert!(commit.upserts.is_empty() && commit.clear_pending && commit.clear_seen);
    assert_eq!(*phase(&commit), Phase::start(ResyncReason::RoundStuck));
    assert_eq!(commit.counters.resync, Some(ResyncReason::RoundStuck));
    assert_eq!(round.fallback().page_size(200), 400);
    let (_, effect) = round.step(RoundInput::Committed(100), AT);
    assert!(matches!(effect, Step::End(RoundEnd::Stuck(StallKind::NoProgress))));
    // Neither a requested round nor a restart shortens the wait.
    let (_, effect) = started(commit.position.clone(), AT);
    assert!(matches!(effect, Step::End(RoundEnd::Stuck(StallKind::NoProgress))));
    let (round, effect) = started(commit.position, hour(1));
    assert!(matches!(effect, Step::Do(Effect::Page(None))));
    // The page size that helped is kept once a page has succeeded.
    let (_, commit) = step_page(round, page(vec![single("a")], &[], delta("d1")), &[]);
    assert_eq!(commit.position.unwrap().fallback.page_size(200), 400);
}

#[test]
fn the_stall_counters_are_stored_with_each_page_and_dropped_with_the_round() {
    let (round, _) = started(settled(), AT);
    let (_, commit) = step_page(round, page(vec![single("a")], &[], next("n1")), &[]);
    // As after a crash: the next page is the same.
    let (round, effect) = started(commit.position, AT);
    assert!(matches!(effect, Step::Do(Effect::Page(Some(_)))));
    let (_, stuck) = step_page(round, page(vec![single("a")], &[], next("n2")), &[]);
    assert_eq!(*phase(&stuck), Phase::start(ResyncReason::RoundStuck));
    let (round, _) = started(settled(), AT);
    let (round, _) = step_page(round, page(vec![single("a")], &[], next("n1")), &[]);
    let (round, _) = round.step(RoundInput::Committed(100), AT);
    let (_, commit) = step_page(round, page(vec![single("a")], &[], delta("d1")), &[]);
    assert!(commit.position.unwrap().stall.is_idle());
}

#[test]
fn a_page_over_the_cap_is_requested_with_a_smaller_size() {
    let (round, _) = started(settled(), AT);
    let (round, effect) = round.step(RoundInput::Failed(PageFailure::TooLarge), AT);
    let commit = written(effect);
    assert_eq!(*phase(&commit), Phase::start(ResyncReason::PageStuck));
    assert_eq!(round.fallback().page_size(200), 100);
    let (_, effect) = round.step(RoundInput::Committed(100), AT);
    assert!(matches!(effect, Step::End(RoundEnd::Stuck(StallKind::PageTooLarge))));
}

#[test]
fn a_link_is_stuck_after_two_failed_attempts_in_a_row() {
    let refused =
        |position| started(position, AT).0.step(RoundInput::Failed(PageFailure::PageSpecific), AT);
    let (round, effect) = refused(settled());
    let first = written(effect);
    assert_eq!(*phase(&first), settled().unwrap().phase, "the failure is only recorded");
    assert!(matches!(round.step(RoundInput::Committed(100), AT).1, Step::Fail));
    // The second failure, after a restart.
    let (_, effect) = refused(first.position.clone());
    assert_eq!(*phase(&written(effect)), Phase::start(ResyncReason::PageStuck));
    // A page in between resets the count.
    let (round, _) = started(first.position, AT);
    let (_, commit) = step_page(round, page(vec![single("a")], &[], next("n")), &[]);
    let (_, effect) = refused(commit.position);
    assert!(matches!(phase(&written(effect)), Phase::Following { .. }));
    // Other failures are left to the next attempt.
    let (_, effect) = started(settled(), AT).0.step(RoundInput::Failed(PageFailure::Other), AT);
    assert!(matches!(effect, Step::Fail));
}

#[test]
fn a_forbidden_link_leads_to_snapshot_mode_at_once() {
    for position in [settled(), Some(Position::new(Phase::start(ResyncReason::New), false))] {
        let failed = RoundInput::Failed(PageFailure::LinkForbidden);
        let (round, effect) = started(position, AT).0.step(failed, AT);
        let commit = written(effect);
        assert_eq!(*phase(&commit), Phase::start(ResyncReason::Snapshot));
        assert_eq!(commit.counters.resync, None);
        assert!(commit.position.unwrap().fallback.is_snapshot());
        let (_, effect) = round.step(RoundInput::Committed(0), AT);
        assert!(matches!(effect, Step::Do(Effect::PlainPage(None))));
    }
}

#[test]
fn a_snapshot_round_lists_compares_and_keeps_no_link() {
    let (round, effect) = started(listed(Phase::Settled { delta: None }), AT);
    assert!(
        matches!(effect, Step::Do(Effect::PlainPage(None))),
        "nothing is written before the first page"
    );
    let (round, commit) = step_page(round, page(vec![single("a")], &[], PageEnd::Last), &[]);
    assert_eq!(ids(&commit.upserts), ["a"]);
    assert!(commit.seen.is_some());
    let sweeping = Phase::Sweeping { delta: None, reason: ResyncReason::Snapshot };
    assert_eq!(*phase(&commit), sweeping);
    let (round, effect) = round.step(RoundInput::Committed(100), AT);
    assert!(matches!(effect, Step::Do(Effect::Unseen)));
    let (round, effect) = round.step(RoundInput::Unseen(many(1)), AT);
    let commit = written(effect);
    assert_eq!(gone(&commit).len(), 1, "a single page is consistent");
    assert_eq!(*phase(&commit), Phase::Settled { delta: None });
    assert_eq!(commit.counters.resync, None, "a snapshot round is not counted as a resync");
    let (_, effect) = round.step(RoundInput::Committed(99), AT);
    assert!(matches!(effect, Step::End(RoundEnd::Settled)));
}

#[test]
fn events_missing_from_a_listing_of_several_pages_are_removed_after_the_next_listing() {
    let (round, _) = started(listed(Phase::Settled { delta: None }), AT);
    let list = |round: Round, last: &str| {
        let (round, _) = step_page(round, page(vec![single("a")], &[], next("n")), &[]);
        let (round, effect) = round.step(RoundInput::Committed(100), AT);
        assert!(matches!(effect, Step::Do(Effect::PlainPage(Some(_)))));
        let (round, _) = step_page(round, page(vec![single(last)], &[], PageEnd::Last), &[]);
        round.step(RoundInput::Committed(100), AT).0
    };
    let (round, effect) = list(round, "b").step(RoundInput::Unseen(many(2)), AT);
    let commit = written(effect);
    assert!(commit.removals.is_empty() && commit.clear_seen && commit.pending.len() == 2);
    assert_eq!(*phase(&commit), Phase::start(ResyncReason::Snapshot));
    let (round, effect) = round.step(RoundInput::Committed(100), AT);
    assert!(matches!(effect, Step::Do(Effect::PlainPage(None))), "the next listing starts at once");
    // One of the two is in the second listing.
    let (_, effect) = list(round, "g0").step(RoundInput::Unseen(many(2).split_off(1)), AT);
    let commit = written(effect);
    assert_eq!(gone(&commit), [EventId::new("g1").hash()]);
    assert_eq!(*phase(&commit), Phase::Settled { delta: None });
}

#[test]
fn a_listed_occurrence_needs_its_master_only_if_the_stored_etag_differs() {
    let occurrence =
        |id, etag| Item { full: true, ..item(id, EventKind::Occurrence, Some("m"), etag) };
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
        assert!(commit.upserts.iter().all(|item| !item.full), "stubs, as from any other request");
        let (_, effect) = round.step(RoundInput::Committed(100), AT);
        assert_eq!(matches!(effect, Step::Do(Effect::Master(_))), !shown);
    }
    // Exact windows keep occurrences as listed.
    let position = listed(Phase::Settled { delta: None });
    let round = Round::resume(place(Completion::Exact), position, Vec::new(), 9);
    let (round, _) = round.step(RoundInput::Start, AT);
    let (_, commit) = step_page(round, page(vec![occurrence("o", "e")], &[], PageEnd::Last), &[]);
    assert!(commit.upserts[0].full);
}

#[test]
fn delta_is_tried_again_after_a_day_and_kept_if_it_works() {
    let tomorrow = hour(24);
    let (round, effect) = started(listed(Phase::Settled { delta: None }), tomorrow);
    let commit = written(effect);
    assert_eq!(*phase(&commit), Phase::start(ResyncReason::DeltaRetry));
    assert_eq!(commit.counters.resync, Some(ResyncReason::DeltaRetry));
    assert!(round.fallback().is_snapshot(), "snapshot mode until delta has worked");
    let (round, effect) = round.step(RoundInput::Committed(100), tomorrow);
    assert!(matches!(effect, Step::Do(Effect::Page(None))));
    let (round, _) = step_page(round, page(vec![single("a")], &[], delta("d")), &[]);
    let (round, _) = round.step(RoundInput::Committed(100), tomorrow);
    let (round, effect) = round.step(RoundInput::Unseen(Vec::new()), tomorrow);
    assert_eq!(*phase(&written(effect)), Phase::Settled { delta: Some(link("d")) });
    assert!(!round.fallback().is_snapshot());
    assert_eq!(round.fallback().page_size(200), 1000);
}

#[test]
fn a_failed_delta_retry_ends_at_once() {
    let tomorrow = hour(24);
    let trial = || {
        let (round, _) = started(listed(Phase::Settled { delta: None }), tomorrow);
        round.step(RoundInput::Committed(100), tomorrow).0
    };
    let failures = [
        PageFailure::TooLarge,
        PageFailure::PageSpecific,
        PageFailure::LinkForbidden,
        PageFailure::Other,
    ];
    let mut ended: Vec<(Round, Step)> =
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
        assert_eq!(commit.counters.resync, None);
        let (_, effect) = round.step(RoundInput::Committed(100), tomorrow);
        assert!(matches!(effect, Step::Do(Effect::PlainPage(None))), "the listing starts at once");
        let (_, effect) = started(commit.position, hour(47));
        assert!(
            matches!(effect, Step::Do(Effect::PlainPage(None))),
            "delta is not due before another day"
        );
    }
    // A dead link causes a repetition, as usual.
    let (_, effect) = trial().step(RoundInput::LinkDead, tomorrow);
    assert_eq!(*phase(&written(effect)), Phase::start(ResyncReason::DeltaRetry));
}

#[test]
fn a_resync_in_snapshot_mode_is_listed() {
    for reason in [ResyncReason::Requested, ResyncReason::WindowMoved, ResyncReason::Confirm] {
        let (_, effect) = started(listed(Phase::start(reason)), AT);
        assert!(matches!(effect, Step::Do(Effect::PlainPage(None))), "{reason:?}");
    }
    // A mass removal is not accepted in snapshot mode either.
    let sweeping = Phase::Sweeping { delta: None, reason: ResyncReason::Snapshot };
    let (_, effect) = resumed(listed(sweeping)).step(RoundInput::Unseen(many(60)), AT);
    let commit = written(effect);
    assert!(commit.removals.is_empty());
    assert_eq!(*phase(&commit), Phase::start(ResyncReason::Confirm));
    assert!(commit.position.unwrap().fallback.is_snapshot());
}

#[test]
fn a_calendar_without_delta_is_always_listed() {
    let begin = |position, at| {
        let place = SegmentContext { has_delta: false, ..place(Completion::Master) };
        Round::resume(place, position, Vec::new(), 100).step(RoundInput::Start, at)
    };
    let (round, effect) = begin(None, AT);
    assert!(matches!(effect, Step::Do(Effect::PlainPage(None))), "from the first round on");
    assert!(round.fallback().is_snapshot());
    // A restart in the middle of a listing goes on with its link.
    let (_, commit) = step_page(round, page(vec![single("a")], &[], next("n")), &[]);
    let (round, effect) = begin(commit.position, AT);
    assert!(matches!(effect, Step::Do(Effect::PlainPage(Some(ref l))) if *l == link("n")));
    let (round, commit) = step_page(round, page(vec![single("b")], &[], PageEnd::Last), &[]);
    assert_eq!(commit.counters.resync, None);
    let (_, effect) = round.step(RoundInput::Committed(2), AT);
    let position = match effect {
        Step::Do(Effect::Commit(settled)) => settled.position,
        _ => commit.position,
    };
    assert_eq!(position.as_ref().unwrap().phase, Phase::Settled { delta: None });
    assert!(position.as_ref().unwrap().fallback.is_snapshot());
    // Delta is not tried, however much later, and a listing is still no resync.
    for later in [AT, hour(25), hour(24 * 4000)] {
        let (round, effect) = begin(position.clone(), later);
        assert!(matches!(effect, Step::Do(Effect::PlainPage(None))), "{later}");
        let (_, commit) = step_page(round, page(Vec::new(), &[], PageEnd::Last), &[]);
        assert_eq!(commit.counters.resync, None);
    }
    // Segments that are enumerated again for another reason are listed too.
    for reason in [ResyncReason::New, ResyncReason::Requested, ResyncReason::WindowMoved] {
        let (_, effect) = begin(Some(Position::new(Phase::start(reason), false)), hour(25));
        assert!(matches!(effect, Step::Do(Effect::PlainPage(None))), "{reason:?}");
    }
}

#[test]
fn a_failing_listing_leaves_no_fallback() {
    let (round, _) = started(listed(Phase::Settled { delta: None }), AT);
    let (round, _) = step_page(round, page(vec![single("a")], &[], next("n1")), &[]);
    let (round, _) = round.step(RoundInput::Committed(100), AT);
    let (round, commit) = step_page(round, page(vec![single("a")], &[], next("n2")), &[]);
    assert_eq!(*phase(&commit), Phase::start(ResyncReason::RoundStuck));
    assert!(commit.position.unwrap().held_until.is_none());
    let (_, effect) = round.step(RoundInput::Committed(100), AT);
    assert!(matches!(effect, Step::Fail));
    // Pages shrink to the smallest size before that.
    let mut position = listed(Phase::Settled { delta: None });
    let mut sizes = Vec::new();
    let last = loop {
        let (round, _) = started(position, hour(1));
        let (round, effect) = round.step(RoundInput::Failed(PageFailure::TooLarge), AT);
        let Step::Do(Effect::Commit(commit)) = effect else { break effect };
        sizes.push(round.fallback().page_size(200));
        position = commit.position;
    };
    assert_eq!(sizes, [500, 250, 125, 62, 31, 15, 10]);
    assert!(matches!(last, Step::Fail));
}
