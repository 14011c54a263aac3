//! Windows of several segments: removals wait for the other segments.

use super::*;

fn resumed(phase: Phase, pending: Vec<PendingEntry>) -> Round {
    let place = SegmentContext { has_other_segments: true, ..place(Completion::Master) };
    Round::resume(place, Some(Position::new(phase, !pending.is_empty())), pending, 50)
}

fn removal(id: &str) -> Removal {
    Removal { id: EventId::new(id).hash(), reason: RemovalReason::Deleted }
}

fn withheld(ids: &[&str]) -> RoundInput {
    let ids = ids.iter().map(|id| EventId::new(*id).hash());
    RoundInput::SegmentsDone { retain: Retain::Named(ids.collect()), removed: 0 }
}

#[test]
fn tombstones_are_published_after_the_other_segments_ran() {
    let round = resumed(Phase::Settled { delta: Some(link("d0")) }, Vec::new());
    let known = [("a", StoredKind::Single), ("b", StoredKind::Single)];
    let news = page(vec![single("c")], &["a", "b"], delta("d1"));
    let (round, commit) = step_page(round, news, &known);
    assert_eq!((ids(&commit.upserts), commit.removals.len()), (vec!["c"], 0));
    let (round, effect) = round.step(RoundInput::Committed(51), AT);
    assert!(matches!(effect, Step::AwaitSegments));
    // b may have moved to a segment that could not be listed.
    let (round, effect) = round.step(withheld(&["b"]), AT);
    let commit = written(effect);
    assert_eq!(gone(&commit), [EventId::new("a").hash()]);
    assert_eq!(commit.finished_pending, [PendingKey::Removal(EventId::new("a").hash())]);
    assert!(commit.position.as_ref().unwrap().has_pending, "the removal of b stays pending");
    let (_, effect) = round.step(RoundInput::Committed(50), AT);
    assert!(matches!(effect, Step::End(RoundEnd::Settled)));
    // The next round requests a page first and then removes b.
    let left = vec![PendingEntry::Removal { id: EventId::new("b").hash() }];
    let round = resumed(Phase::Settled { delta: Some(link("d1")) }, left);
    let (round, effect) = round.step(RoundInput::Start, AT);
    assert!(matches!(effect, Step::Do(Effect::Page(Some(_)))));
    let (round, commit) = step_page(round, page(vec![], &[], delta("d2")), &[]);
    assert!(commit.removals.is_empty() && !commit.deferrable);
    let (round, effect) = round.step(RoundInput::Committed(50), AT);
    assert!(matches!(effect, Step::AwaitSegments));
    let (_, effect) = round.step(withheld(&[]), AT);
    assert_eq!(gone(&written(effect)), [EventId::new("b").hash()]);
}

#[test]
fn a_sweep_waits_only_if_it_removes_something_and_keeps_retained_rows() {
    let sweeping =
        Phase::Sweeping { delta: Some(link("d1")), reason: ResyncReason::SyncStateNotFound };
    let (round, effect) = resumed(sweeping.clone(), Vec::new()).step(RoundInput::Start, AT);
    assert!(matches!(effect, Step::Do(Effect::Unseen)));
    let (_, effect) = round.step(RoundInput::Unseen(Vec::new()), AT);
    assert_eq!(*phase(&written(effect)), Phase::Settled { delta: Some(link("d1")) });

    let (round, _) = resumed(sweeping, Vec::new()).step(RoundInput::Start, AT);
    let rows = || vec![removal("a"), removal("b")];
    let (round, effect) = round.step(RoundInput::Unseen(rows()), AT);
    assert!(matches!(effect, Step::AwaitSegments));
    // Queried again, because other segments may have taken over some of the rows meanwhile.
    let (round, effect) = round.step(withheld(&["a"]), AT);
    assert!(matches!(effect, Step::Do(Effect::Unseen)));
    let (_, effect) = round.step(RoundInput::Unseen(rows()), AT);
    let commit = written(effect);
    assert_eq!(gone(&commit), [EventId::new("b").hash()]);
    assert_eq!(commit.pending, [PendingEntry::Removal { id: EventId::new("a").hash() }]);
    assert!(commit.position.as_ref().unwrap().has_pending && commit.clear_seen);
}

#[test]
fn a_window_that_empties_segment_by_segment_is_held() {
    let sweeping =
        Phase::Sweeping { delta: Some(link("d1")), reason: ResyncReason::SyncStateNotFound };
    // 30 of the window's 60 events are left; the other half was removed in this attempt.
    let place = SegmentContext { has_other_segments: true, ..place(Completion::Master) };
    let round = Round::resume(place, Some(Position::new(sweeping, false)), Vec::new(), 30);
    let (round, _) = round.step(RoundInput::Start, AT);
    let (round, effect) = round.step(RoundInput::Unseen(many(10)), AT);
    assert!(matches!(effect, Step::AwaitSegments));
    let grant = RoundInput::SegmentsDone { retain: Retain::Named(BTreeSet::new()), removed: 30 };
    let (round, effect) = round.step(grant, AT);
    assert!(matches!(effect, Step::Do(Effect::Unseen)));
    let (round, effect) = round.step(RoundInput::Unseen(many(10)), AT);
    assert!(gone(&written(effect)).is_empty());
    let (_, effect) = round.step(RoundInput::Committed(30), AT);
    assert!(matches!(effect, Step::End(RoundEnd::Held)));
}

#[test]
fn a_round_continues_if_no_removal_is_allowed() {
    let round = resumed(Phase::Settled { delta: Some(link("d0")) }, Vec::new());
    let (round, _) =
        step_page(round, page(vec![], &["a"], delta("d1")), &[("a", StoredKind::Single)]);
    let (round, effect) = round.step(RoundInput::Committed(50), AT);
    assert!(matches!(effect, Step::AwaitSegments));
    let (_, effect) = round.step(RoundInput::SegmentsDone { retain: Retain::All, removed: 0 }, AT);
    let commit = written(effect);
    assert_eq!(*phase(&commit), Phase::Settled { delta: Some(link("d1")) });
    assert!(commit.removals.is_empty() && commit.finished_pending.is_empty());
    assert!(commit.position.as_ref().unwrap().has_pending);
}
