//! A series is applied as a whole, after its master and its listing.

use super::*;

#[test]
fn a_touched_series_is_applied_in_one_commit_after_its_listing() {
    let round = Round::resume(place(Completion::Master), settled(), Vec::new(), 9);
    let master = item("m", EventKind::Master, None, "e2");
    let carried = item("o1", EventKind::Occurrence, Some("m"), "e2");
    let (round, commit) = step_page(round, page(vec![master, carried], &[], delta("d1")), &[]);
    assert!(commit.upserts.is_empty(), "nothing of the series is shown yet");
    assert!(matches!(phase(&commit), Phase::Completing { .. }));
    let (round, effect) = round.step(RoundInput::Committed(9), AT);
    // The master came with the round, so only membership is asked.
    assert!(matches!(effect, Step::Do(Effect::Instances(ref id)) if id.as_str() == "m"));
    let listed = Item { full: true, ..item("o1", EventKind::Occurrence, Some("m"), "e2") };
    let rows = vec![row("o1"), row("ghost")];
    let (round, effect) = round.step(RoundInput::Instances(Some((vec![listed].into(), rows))), AT);
    let (round, effect) = nowhere(round, effect);
    let commit = written(effect);
    assert_eq!(gone(&commit), [EventId::new("ghost").hash()]);
    assert_eq!(ids(&commit.upserts), ["o1", "m"]);
    assert!(!commit.upserts[0].full, "kept bare: the master completes it");
    let (round, effect) = round.step(RoundInput::Committed(8), AT);
    assert_eq!(*phase(&written(effect)), Phase::Settled { delta: Some(link("d1")) });
    let (_, effect) = round.step(RoundInput::Committed(8), AT);
    assert!(matches!(effect, Step::End(RoundEnd::Settled)));
}

#[test]
fn occurrences_newer_than_their_master_cause_its_fetch() {
    let round = Round::resume(place(Completion::Master), settled(), Vec::new(), 9);
    let master = item("m", EventKind::Master, None, "e1");
    let newer = item("o1", EventKind::Occurrence, Some("m"), "e2");
    let (round, _) = step_page(round, page(vec![master, newer], &[], delta("d1")), &[]);
    let (_, effect) = round.step(RoundInput::Committed(9), AT);
    assert!(matches!(effect, Step::Do(Effect::Master(_))));
}

#[test]
fn a_tombstone_for_a_master_only_marks_the_series() {
    let round = Round::resume(place(Completion::Master), settled(), Vec::new(), 9);
    let known = [("m", StoredKind::Master { etag: None })];
    let (round, commit) = step_page(round, page(vec![], &["m"], delta("d1")), &known);
    assert!(commit.removals.is_empty());
    let (round, effect) = round.step(RoundInput::Committed(9), AT);
    assert!(matches!(effect, Step::Do(Effect::Master(_))));
    let (round, effect) = round.step(RoundInput::Master(None), AT);
    assert!(
        matches!(effect, Step::Do(Effect::Rows(_))),
        "only its absence says that the series is gone"
    );
    let rows = vec![row("o1")];
    let (round, effect) = round.step(RoundInput::SeriesRows(rows), AT);
    assert!(
        matches!(effect, Step::Do(Effect::Presence(_))),
        "and a private series is absent too (fact 180)"
    );
    let (_, effect) = round.step(RoundInput::Presence(false), AT);
    assert_eq!(gone(&written(effect)), [EventId::new("o1").hash()]);
}

#[test]
fn an_incomplete_series_stays_pending_and_the_rest_continues() {
    let round = Round::resume(place(Completion::Master), settled(), Vec::new(), 9);
    let carried = item("o1", EventKind::Occurrence, Some("m"), "e2");
    let (round, _) = step_page(round, page(vec![carried, single("a")], &[], delta("d1")), &[]);
    let (round, _) = round.step(RoundInput::Committed(9), AT);
    let (round, effect) = round.step(RoundInput::Unavailable, AT);
    let commit = written(effect);
    assert_eq!(*phase(&commit), Phase::Settled { delta: Some(link("d1")) });
    assert!(commit.position.unwrap().has_pending, "not settled before the to-do is empty");
    let (_, effect) = round.step(RoundInput::Committed(9), AT);
    assert!(matches!(effect, Step::End(RoundEnd::Incomplete)));
}

#[test]
fn pending_entries_of_an_earlier_round_are_completed_before_the_first_request() {
    let waiting = item("o1", EventKind::Occurrence, Some("m"), "e2");
    let pending = vec![
        PendingEntry::Series { master: EventId::new("m"), needs_master: true, needs_listing: true },
        PendingEntry::Waiting { item: waiting, earlier: false },
    ];
    let position = Some(Position::new(Phase::Settled { delta: Some(link("d0")) }, true));
    let round = Round::resume(place(Completion::Master), position, pending, 9);
    let (_, effect) = round.step(RoundInput::Start, AT);
    assert!(matches!(effect, Step::Do(Effect::Master(_))));
}

#[test]
fn exact_occurrences_wait_for_the_listing() {
    let round = Round::resume(place(Completion::Exact), None, Vec::new(), 0);
    let bare = item("o1", EventKind::Occurrence, Some("m"), "e");
    let master = item("m", EventKind::Master, None, "e");
    let (round, commit) = step_page(round, page(vec![master, bare], &[], delta("d")), &[]);
    assert!(commit.upserts.is_empty());
    let (round, effect) = round.step(RoundInput::Committed(0), AT);
    assert!(matches!(effect, Step::Do(Effect::Instances(_))));
    let whole = Item { full: true, ..item("o1", EventKind::Occurrence, Some("m"), "e") };
    let (_, effect) = round.step(RoundInput::Instances(Some((vec![whole].into(), Vec::new()))), AT);
    let commit = written(effect);
    assert_eq!(ids(&commit.upserts), ["o1"]);
    assert!(commit.upserts[0].full);
}

#[test]
fn incomplete_events_are_published_as_far_as_known() {
    let round = Round::resume(place(Completion::Master), settled(), Vec::new(), 9);
    let master = item("m", EventKind::Master, None, "e");
    let carried = item("o1", EventKind::Occurrence, Some("m"), "e");
    let (round, _) = step_page(round, page(vec![master, carried], &[], delta("d1")), &[]);
    let (round, effect) = round.step(RoundInput::Committed(9), AT);
    assert!(matches!(effect, Step::Do(Effect::Instances(_))));
    let (round, effect) = round.step(RoundInput::Unavailable, AT);
    let commit = written(effect);
    assert_eq!(ids(&commit.upserts), ["o1", "m"]);
    assert!(
        commit.removals.is_empty() && commit.finished_pending.is_empty(),
        "it stays on the list"
    );
    let (round, effect) = round.step(RoundInput::Committed(9), AT);
    assert!(written(effect).position.unwrap().has_pending);
    let (_, effect) = round.step(RoundInput::Committed(9), AT);
    assert!(matches!(effect, Step::End(RoundEnd::Incomplete)));
}

#[test]
fn an_incomplete_listing_removes_nothing() {
    let round = Round::resume(place(Completion::Master), settled(), Vec::new(), 9);
    let known = [("m", StoredKind::Master { etag: None })];
    let (round, _) = step_page(round, page(vec![], &["m"], delta("d1")), &known);
    let (round, _) = round.step(RoundInput::Committed(9), AT);
    let (round, _) =
        round.step(RoundInput::Master(Some(item("m", EventKind::Master, None, "e"))), AT);
    let rows = vec![row("a"), row("b")];
    let unread = [EventId::new("a").hash()].into();
    let listed = ListedInstances { unreadable: unread, ..ListedInstances::default() };
    let (round, effect) = round.step(RoundInput::Instances(Some((listed, rows))), AT);
    let (_, effect) = nowhere(round, effect);
    assert_eq!(gone(&written(effect)), [EventId::new("b").hash()], "the unread one is a member");
}

#[test]
fn items_of_an_earlier_round_yield_to_the_current_listing() {
    let waits = item("m1", EventKind::Occurrence, Some("m"), "e");
    let round = Round::resume(
        place(Completion::Master),
        settled(),
        vec![
            PendingEntry::Series {
                master: EventId::new("m"),
                needs_master: true,
                needs_listing: false,
            },
            PendingEntry::Waiting { item: waits, earlier: true },
        ],
        5,
    );
    let (round, effect) = round.step(RoundInput::Start, AT);
    assert!(matches!(effect, Step::Do(Effect::Master(_))));
    let (round, effect) = round.step(RoundInput::Unavailable, AT);
    assert!(matches!(effect, Step::Do(Effect::Page(Some(_)))), "it is shown no more, and waits");
    // The series comes again, whole, and without the occurrence that waits.
    let resent = vec![
        item("m", EventKind::Master, None, "e2"),
        item("m2", EventKind::Occurrence, Some("m"), "e2"),
    ];
    let (round, _) = step_page(round, page(resent.clone(), &[], delta("d1")), &[]);
    let (round, effect) = round.step(RoundInput::Committed(5), AT);
    assert!(matches!(effect, Step::Do(Effect::Instances(_))));
    let rows = vec![row("m1")];
    let listed = ListedInstances::from(resent[1..].to_vec());
    let (round, effect) = round.step(RoundInput::Instances(Some((listed, rows))), AT);
    let (_, effect) = nowhere(round, effect);
    let commit = written(effect);
    assert_eq!(ids(&commit.upserts), ["m2", "m"]);
    assert_eq!(gone(&commit), [EventId::new("m1").hash()]);
}

#[test]
fn items_waiting_at_the_end_of_a_round_count_as_earlier_items() {
    let round = Round::resume(place(Completion::Master), settled(), Vec::new(), 5);
    let carried = vec![item("m1", EventKind::Occurrence, Some("m"), "e")];
    let (round, commit) = step_page(round, page(carried, &[], delta("d1")), &[]);
    assert!(
        commit.pending.iter().any(|t| matches!(t, PendingEntry::Waiting { earlier: false, .. }))
    );
    let (round, _) = round.step(RoundInput::Committed(5), AT);
    let (_, effect) = round.step(RoundInput::Unavailable, AT);
    let commit = written(effect);
    assert!(matches!(phase(&commit), Phase::Settled { .. }));
    assert!(
        commit.pending.iter().any(|t| matches!(t, PendingEntry::Waiting { earlier: true, .. }))
    );
}
