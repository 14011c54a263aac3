//! Events missing from one response are requested in another way before they are removed.

use super::*;
use crate::mirror::series;

fn exception(id: &str, day: i64) -> SeriesMember {
    let span = Span { start: hour(24 * day), end: hour(24 * day + 1) };
    SeriesMember { id: EventId::new(id).hash(), kind: EventKind::Exception, span }
}

/// A round in which the delta carried these items of series "m", up to its first request about the
/// series.
fn touched(complete: Completion, carried: Vec<Item>) -> (Round, Step) {
    let round = Round::resume(place(complete), settled(), Vec::new(), 9);
    let (round, _) = step_page(round, page(carried, &[], delta("d1")), &[]);
    round.step(RoundInput::Committed(9), AT)
}

fn master() -> Item {
    item("m", EventKind::Master, None, "e2")
}

fn asked(effect: Step) -> ViewRequest {
    match effect {
        Step::Do(Effect::View(request)) => *request,
        other => panic!("expected a view, got {other:?}"),
    }
}

fn asked_presence(effect: Step) -> PresenceRequest {
    match effect {
        Step::Do(Effect::Presence(request)) => *request,
        other => panic!("expected a presence request, got {other:?}"),
    }
}

fn settles(round: Round) {
    let (round, effect) = round.step(RoundInput::Committed(9), AT);
    assert!(matches!(phase(&written(effect)), Phase::Settled { .. }));
    let (_, effect) = round.step(RoundInput::Committed(9), AT);
    assert!(matches!(effect, Step::End(RoundEnd::Settled)));
}

#[test]
fn exceptions_missing_from_a_listing_are_removed_if_a_view_of_their_days_lacks_them_too() {
    let (round, effect) = touched(Completion::Master, vec![master()]);
    assert!(matches!(effect, Step::Do(Effect::Instances(_))));
    let rows = vec![row("o"), exception("x", 10), exception("y", 20), row("ghost")];
    let listed = vec![item("o", EventKind::Occurrence, Some("m"), "e2")];
    let (round, effect) =
        round.step(RoundInput::Instances(Some((listed.into(), rows.clone()))), AT);
    let request = asked(effect);
    let wanted = ["x", "y"].map(|id| EventId::new(id).hash());
    assert_eq!(request.ids, wanted.into(), "one request for both");
    assert!(request.ids_only);
    assert_eq!(request.edges, Edges { start: hour(24 * 9), end: hour(24 * 21 + 1) });
    let viewed = vec![item("x", EventKind::Exception, Some("m"), "e1")];
    let (round, effect) = round.step(RoundInput::Viewed(viewed.into(), rows), AT);
    let request = asked_presence(effect);
    let unfound = ["y", "ghost"].map(|id| EventId::new(id).hash());
    assert_eq!(request.ids, unfound.into(), "they may have moved, or become exceptions");
    assert_eq!(request.master, None);
    let (round, effect) = round.step(RoundInput::Presence(false), AT);
    let commit = written(effect);
    let mut left = gone(&commit);
    left.sort_unstable();
    let mut expected = ["y", "ghost"].map(|id| EventId::new(id).hash());
    expected.sort_unstable();
    assert_eq!(left, expected);
    settles(round);
}

#[test]
fn exceptions_received_in_the_round_need_no_view() {
    let x = item("x", EventKind::Exception, Some("m"), "e2");
    let (round, _) = touched(Completion::Master, vec![master(), x]);
    let rows = vec![exception("x", 10)];
    let (round, effect) =
        round.step(RoundInput::Instances(Some((ListedInstances::default(), rows))), AT);
    let commit = written(effect);
    assert!(commit.removals.is_empty());
    assert_eq!(ids(&commit.upserts), ["x", "m"]);
    settles(round);
}

#[test]
fn a_stub_exception_missing_from_listings_is_published_as_in_the_view() {
    let x = Item { full: false, ..item("x", EventKind::Exception, Some("m"), "e2") };
    let (round, _) = touched(Completion::Master, vec![master(), x]);
    let (round, effect) =
        round.step(RoundInput::Instances(Some((ListedInstances::default(), Vec::new()))), AT);
    assert_eq!(asked(effect).ids, [EventId::new("x").hash()].into());
    let viewed = vec![item("x", EventKind::Exception, Some("m"), "e2")];
    let (_, effect) = round.step(RoundInput::Viewed(viewed.into(), Vec::new()), AT);
    let commit = written(effect);
    assert_eq!(ids(&commit.upserts), ["x", "m"]);
    assert!(commit.upserts[0].full);
}

#[test]
fn a_tombstone_or_an_exception_outside_the_window_proves_a_removal() {
    let round = Round::resume(place(Completion::Master), settled(), Vec::new(), 9);
    let known = [("x", StoredKind::Instance { master: EventId::new("m") })];
    let (round, _) = step_page(round, page(vec![master()], &["x"], delta("d1")), &known);
    let (round, _) = round.step(RoundInput::Committed(9), AT);
    let rows = vec![exception("x", 10), exception("y", 11)];
    let (round, effect) =
        round.step(RoundInput::Instances(Some((ListedInstances::default(), rows.clone()))), AT);
    assert_eq!(asked(effect).ids, [EventId::new("y").hash()].into());
    let outside = Span { start: hour(24 * 400), end: hour(24 * 400 + 1) };
    let moved = Item { span: outside, ..item("y", EventKind::Exception, Some("m"), "e2") };
    let (_, effect) = round.step(RoundInput::Viewed(vec![moved].into(), rows), AT);
    assert_eq!(gone(&written(effect)).len(), 2);
}

#[test]
fn a_failed_view_removes_nothing() {
    let (round, _) = touched(Completion::Master, vec![master()]);
    let rows = vec![exception("x", 10), row("ghost")];
    let (round, _) =
        round.step(RoundInput::Instances(Some((ListedInstances::default(), rows))), AT);
    let (round, effect) = round.step(RoundInput::Unavailable, AT);
    assert!(written(effect).removals.is_empty());
    let (round, effect) = round.step(RoundInput::Committed(9), AT);
    assert!(written(effect).position.unwrap().has_pending, "the series stays pending");
    let (_, effect) = round.step(RoundInput::Committed(9), AT);
    assert!(matches!(effect, Step::End(RoundEnd::Incomplete)));
}

/// A series whose master and listing are not found.
fn private(carried: Vec<Item>) -> Round {
    let (round, effect) = touched(Completion::Master, carried);
    let (round, effect) = match effect {
        Step::Do(Effect::Instances(_)) => round.step(RoundInput::Instances(None), AT),
        effect => (round, effect),
    };
    assert!(matches!(effect, Step::Do(Effect::Master(_))), "{effect:?}");
    let (round, effect) = round.step(RoundInput::Master(None), AT);
    assert!(matches!(effect, Step::Do(Effect::Rows(_))));
    round
}

#[test]
fn a_private_series_keeps_what_delta_sent() {
    let o = item("o", EventKind::Occurrence, Some("m"), "e2");
    let (round, effect) =
        private(vec![master(), o]).step(RoundInput::SeriesRows(vec![row("o")]), AT);
    let commit = written(effect);
    assert_eq!(ids(&commit.upserts), ["o", "m"]);
    assert!(commit.removals.is_empty());
    settles(round);
}

#[test]
fn a_private_series_takes_the_rest_from_the_view() {
    let o = item("o", EventKind::Occurrence, Some("m"), "e2");
    let rows = vec![row("o"), row("p"), row("ghost")];
    let (round, effect) = private(vec![o]).step(RoundInput::SeriesRows(rows.clone()), AT);
    let request = asked(effect);
    assert!(!request.ids_only);
    let whole = |id| Item { full: true, ..item(id, EventKind::Occurrence, Some("m"), "e2") };
    let viewed = vec![whole("o"), whole("p")];
    let (round, effect) = round.step(RoundInput::Viewed(viewed.into(), rows), AT);
    let commit = written(effect);
    assert_eq!(ids(&commit.upserts), ["o", "p"]);
    assert!(commit.upserts.iter().all(|item| item.full), "no master completes them");
    assert_eq!(gone(&commit), [EventId::new("ghost").hash()]);
    settles(round);
}

#[test]
fn a_series_that_delta_did_not_send_is_removed_only_if_the_view_lacks_it() {
    for exists in [false, true] {
        let round = Round::resume(place(Completion::Master), settled(), Vec::new(), 9);
        let known = [("m", StoredKind::Master { etag: None })];
        let (round, _) = step_page(round, page(vec![], &["m"], delta("d1")), &known);
        let (round, _) = round.step(RoundInput::Committed(9), AT);
        let (round, _) = round.step(RoundInput::Master(None), AT);
        let rows = vec![row("o"), exception("x", 10)];
        let (round, effect) = round.step(RoundInput::SeriesRows(rows.clone()), AT);
        let request = asked_presence(effect);
        assert_eq!(request.master, Some(EventId::new("m")));
        assert_eq!(request.ids.len(), 2);
        let whole = Item { full: true, ..item("o", EventKind::Occurrence, Some("m"), "e2") };
        let viewed = vec![whole];
        let (round, effect) = round.step(RoundInput::Presence(exists), AT);
        let (commit, left) = if exists {
            assert!(!asked(effect).ids_only);
            (written(round.step(RoundInput::Viewed(viewed.into(), rows), AT).1), vec!["x"])
        } else {
            (written(effect), vec!["o", "x"])
        };
        let left: Vec<EventHash> = left.iter().map(|id| EventId::new(*id).hash()).collect();
        assert_eq!(gone(&commit), left, "exists: {exists}");
    }
}

#[test]
fn an_unlistable_series_is_taken_from_the_view() {
    let (round, _) = touched(Completion::Master, vec![master()]);
    let (round, effect) = round.step(RoundInput::Instances(None), AT);
    assert!(matches!(effect, Step::Do(Effect::Master(_))));
    let (round, effect) = round.step(RoundInput::Master(Some(master())), AT);
    assert!(!asked(effect).ids_only);
    let x = item("x", EventKind::Exception, Some("m"), "e2");
    let rows = vec![exception("x", 10), row("ghost")];
    let (round, effect) = round.step(RoundInput::Viewed(vec![x].into(), rows), AT);
    let commit = written(effect);
    assert_eq!(ids(&commit.upserts), ["x", "m"]);
    assert_eq!(gone(&commit), [EventId::new("ghost").hash()]);
    settles(round);
}

#[test]
fn an_exception_that_moves_during_its_view_request_stays() {
    let (round, _) = touched(Completion::Master, vec![master()]);
    let rows = vec![exception("x", 10)];
    let (round, _) =
        round.step(RoundInput::Instances(Some((ListedInstances::default(), rows.clone()))), AT);
    let (round, effect) = round.step(RoundInput::Viewed(ListedInstances::default(), rows), AT);
    asked_presence(effect);
    let (round, effect) = round.step(RoundInput::Presence(true), AT);
    let request = asked(effect);
    assert!(request.ids_only);
    assert_eq!(request.edges, series::widen(place(Completion::Master).edges, 1));
    let x = item("x", EventKind::Exception, Some("m"), "e2");
    let (round, effect) =
        round.step(RoundInput::Viewed(vec![x].into(), vec![exception("x", 10)]), AT);
    let commit = written(effect);
    assert!(commit.removals.is_empty());
    assert_eq!(ids(&commit.upserts), ["x", "m"]);
    settles(round);
}

#[test]
fn an_occurrence_that_becomes_an_exception_during_its_view_request_stays() {
    let (round, _) = touched(Completion::Master, vec![master()]);
    let rows = vec![row("o")];
    let (round, effect) =
        round.step(RoundInput::Instances(Some((ListedInstances::default(), rows.clone()))), AT);
    asked_presence(effect);
    let (round, effect) = round.step(RoundInput::Presence(true), AT);
    asked(effect);
    let o = item("o", EventKind::Exception, Some("m"), "e2");
    let (_, effect) = round.step(RoundInput::Viewed(vec![o].into(), rows), AT);
    let commit = written(effect);
    assert!(commit.removals.is_empty());
    assert_eq!(ids(&commit.upserts), ["o", "m"]);
}

#[test]
fn with_several_segments_an_item_that_no_view_has_keeps_its_series_pending() {
    for seams in [false, true] {
        let place = SegmentContext { has_other_segments: seams, ..place(Completion::Master) };
        let round = Round::resume(place, settled(), Vec::new(), 9);
        let x = Item { full: false, ..item("x", EventKind::Exception, Some("m"), "e2") };
        let (round, _) = step_page(round, page(vec![master(), x], &[], delta("d1")), &[]);
        let (round, _) = round.step(RoundInput::Committed(9), AT);
        let listed = RoundInput::Instances(Some((ListedInstances::default(), Vec::new())));
        let (round, _) = round.step(listed, AT);
        let (round, _) = round.step(RoundInput::Viewed(ListedInstances::default(), Vec::new()), AT);
        let (round, effect) = round.step(RoundInput::Presence(false), AT);
        let commit = written(effect);
        assert_eq!(ids(&commit.upserts), ["m"]);
        let (_, effect) = round.step(RoundInput::Committed(9), AT);
        assert_eq!(written(effect).position.unwrap().has_pending, seams);
    }
}
