//! One test per arrow of the state machine, with no store and no Graph.
mod absence;
mod doubt;
mod edges;
mod fallbacks;
mod seams;
mod series;

use std::time::Duration;

use super::*;
use crate::mirror::change::RemovalReason;
use crate::mirror::commit::StoredKind;
use crate::mirror::page::{Link, PageEnd, Span, UnreadableItem};
use crate::mirror::position::PendingKey;
use crate::mirror::series::{ListedInstances, PresenceRequest, SeriesMember, ViewRequest};
use bytes::Bytes;

const AT: Timestamp = Timestamp::UNIX_EPOCH;

fn place(complete: Completion) -> SegmentContext {
    SegmentContext {
        window: WindowId(7),
        segment: 0,
        edges: Edges { start: hour(0), end: hour(24 * 365) },
        complete,
        confirm_after: SignedDuration::from_secs(600),
        has_other_segments: false,
        page_size: 200,
        has_delta: true,
    }
}

fn hour(n: i64) -> Timestamp {
    Timestamp::from_second(n * 3600).unwrap()
}

fn item(id: &str, kind: EventKind, master: Option<&str>, etag: &str) -> Item {
    Item {
        id: EventId::new(id),
        kind,
        master: master.map(EventId::new),
        etag: Some(etag.into()),
        span: Span { start: hour(48), end: hour(49) },
        all_day: false,
        availability: None,
        full: kind != EventKind::Occurrence,
        content: Bytes::from(format!(r#"{{"id":"{id}","type":"x"}}"#)),
    }
}

fn row(id: &str) -> SeriesMember {
    let span = Span { start: hour(48), end: hour(49) };
    SeriesMember { id: EventId::new(id).hash(), kind: EventKind::Occurrence, span }
}

fn single(id: &str) -> Item {
    item(id, EventKind::Single, None, "e")
}

fn link(name: &str) -> Link {
    Link::new(name)
}

fn page(present: Vec<Item>, removed: &[&str], end: PageEnd) -> Page {
    let removed = removed.iter().map(|id| EventId::new(*id)).collect();
    Page { present, removed, unreadable: Vec::new(), end }
}

fn settled() -> Option<Position> {
    Some(Position::new(Phase::Settled { delta: Some(link("d0")) }, false))
}

fn next(name: &str) -> PageEnd {
    PageEnd::Next(link(name))
}

fn delta(name: &str) -> PageEnd {
    PageEnd::Delta(link(name))
}

/// Feeds a page together with what the store knows.
fn step_page(round: Round, page: Page, known: &[(&str, StoredKind)]) -> (Round, Commit) {
    let known = known.iter().map(|(id, k)| (EventId::new(*id).hash(), k.clone())).collect();
    let (round, effect) = round.step(RoundInput::Page { page, known, took: Duration::ZERO }, AT);
    (round, written(effect))
}

fn written(effect: Step) -> Commit {
    match effect {
        Step::Do(Effect::Commit(commit)) => *commit,
        other => panic!("expected a commit, got {other:?}"),
    }
}

/// What a listing lacks is asked for once more, and is in no view either.
fn nowhere(round: Round, effect: Step) -> (Round, Step) {
    assert!(matches!(effect, Step::Do(Effect::Presence(_))), "{effect:?}");
    round.step(RoundInput::Presence(false), AT)
}

fn ids(items: &[Item]) -> Vec<&str> {
    items.iter().map(|item| item.id.as_str()).collect()
}

fn gone(commit: &Commit) -> Vec<EventHash> {
    commit.removals.iter().map(|removal| removal.id).collect()
}

fn phase(commit: &Commit) -> &Phase {
    &commit.position.as_ref().unwrap().phase
}

#[test]
fn the_first_enumeration_commits_page_by_page_and_settles() {
    let round = Round::resume(place(Completion::Master), None, Vec::new(), 0);
    let (round, effect) = round.step(RoundInput::Start, AT);
    assert!(matches!(effect, Step::Do(Effect::Page(None))));
    let (round, commit) = step_page(round, page(vec![single("a")], &[], next("n1")), &[]);
    assert_eq!(ids(&commit.upserts), ["a"]);
    assert_eq!(
        *phase(&commit),
        Phase::Enumerating { next: Some(link("n1")), reason: ResyncReason::New, page: 1 }
    );
    assert!(commit.seen.is_none(), "nothing to sweep the first time");
    let (round, effect) = round.step(RoundInput::Committed(1), AT);
    assert!(matches!(effect, Step::Do(Effect::Page(Some(ref l))) if *l == link("n1")));
    let (round, commit) = step_page(round, page(vec![single("b")], &[], delta("d1")), &[]);
    assert_eq!(*phase(&commit), Phase::Settled { delta: Some(link("d1")) });
    let (_, effect) = round.step(RoundInput::Committed(2), AT);
    assert!(matches!(effect, Step::End(RoundEnd::Settled)));
}

#[test]
fn an_idle_round_is_one_deferrable_commit_of_the_link() {
    let round = Round::resume(place(Completion::Master), settled(), Vec::new(), 5);
    let (round, effect) = round.step(RoundInput::Start, AT);
    assert!(matches!(effect, Step::Do(Effect::Page(Some(ref l))) if *l == link("d0")));
    let (_, commit) = step_page(round, page(vec![], &[], delta("d1")), &[]);
    assert!(commit.deferrable && commit.upserts.is_empty() && commit.pending.is_empty());
    assert_eq!(*phase(&commit), Phase::Settled { delta: Some(link("d1")) });
}

#[test]
fn removals_wait_for_the_delta_link_and_the_last_item_wins() {
    let round = Round::resume(place(Completion::Master), settled(), Vec::new(), 5);
    let known = [("a", StoredKind::Single), ("b", StoredKind::Single)];
    let (round, commit) =
        step_page(round, page(vec![], &["a", "b", "stranger"], next("n1")), &known);
    assert!(commit.removals.is_empty() && !commit.deferrable);
    assert_eq!(commit.pending.len(), 2, "unknown ids are ignored quietly");
    assert!(commit.position.as_ref().unwrap().has_pending);
    let (round, _) = round.step(RoundInput::Committed(5), AT);
    // b comes again: it stays.
    let (_, commit) = step_page(round, page(vec![single("b")], &[], delta("d1")), &[]);
    assert_eq!(gone(&commit), [EventId::new("a").hash()]);
    assert_eq!(ids(&commit.upserts), ["b"]);
    assert!(commit.finished_pending.contains(&PendingKey::Removal(EventId::new("b").hash())));
}

#[test]
fn removals_survive_a_restart_between_pages() {
    let pending = vec![PendingEntry::Removal { id: EventId::new("a").hash() }];
    let position = Some(Position::new(Phase::Following { next: link("n1") }, true));
    let round = Round::resume(place(Completion::Master), position, pending, 5);
    let (round, effect) = round.step(RoundInput::Start, AT);
    assert!(matches!(effect, Step::Do(Effect::Page(Some(ref l))) if *l == link("n1")));
    let (_, commit) = step_page(round, page(vec![], &[], delta("d1")), &[]);
    assert_eq!(gone(&commit), [EventId::new("a").hash()]);
    assert!(!commit.deferrable, "it changes something");
}

#[test]
fn an_enumerated_occurrence_waits_for_its_master_only() {
    let round = Round::resume(place(Completion::Master), None, Vec::new(), 0);
    let occurrence = |id| item(id, EventKind::Occurrence, Some("m"), "e1");
    let (round, commit) = step_page(round, page(vec![occurrence("o1")], &[], next("n1")), &[]);
    assert!(commit.upserts.is_empty(), "not shown half");
    assert_eq!(commit.pending.len(), 2);
    let (round, _) = round.step(RoundInput::Committed(0), AT);
    let master = item("m", EventKind::Master, None, "e1");
    let (round, commit) =
        step_page(round, page(vec![occurrence("o2"), master], &[], next("n2")), &[]);
    let mut shown = ids(&commit.upserts);
    shown.sort_unstable();
    assert_eq!(shown, ["m", "o1", "o2"]);
    assert_eq!(commit.finished_pending.len(), 2, "the series is off the list");
    let (round, _) = round.step(RoundInput::Committed(2), AT);
    let (_, commit) = step_page(round, page(vec![occurrence("o3")], &[], delta("d")), &[]);
    assert_eq!(ids(&commit.upserts), ["o3"]);
    assert_eq!(*phase(&commit), Phase::Settled { delta: Some(link("d")) });
}

#[test]
fn a_missing_master_is_fetched_once_at_the_end() {
    let round = Round::resume(place(Completion::Master), None, Vec::new(), 0);
    let occurrences = vec![
        item("o1", EventKind::Occurrence, Some("m"), "e"),
        item("o2", EventKind::Occurrence, Some("m"), "e"),
    ];
    let (round, commit) = step_page(round, page(occurrences, &[], delta("d")), &[]);
    assert!(matches!(phase(&commit), Phase::Sweeping { .. }));
    let (round, effect) = round.step(RoundInput::Committed(0), AT);
    assert!(matches!(effect, Step::Do(Effect::Master(ref id)) if id.as_str() == "m"));
    let master = item("m", EventKind::Master, None, "e");
    let (round, effect) = round.step(RoundInput::Master(Some(master)), AT);
    let commit = written(effect);
    assert_eq!(ids(&commit.upserts).len(), 3);
    let (round, effect) = round.step(RoundInput::Committed(2), AT);
    // Nothing is swept: there are no lists of what the first enumeration saw.
    assert_eq!(*phase(&written(effect)), Phase::Settled { delta: Some(link("d")) });
    let (_, effect) = round.step(RoundInput::Committed(2), AT);
    assert!(matches!(effect, Step::End(RoundEnd::Settled)));
}

#[test]
fn a_dead_link_begins_an_enumeration_and_keeps_every_row() {
    let round = Round::resume(place(Completion::Master), settled(), Vec::new(), 9);
    let (round, effect) = round.step(RoundInput::LinkDead, AT);
    let commit = written(effect);
    assert!(commit.removals.is_empty() && commit.clear_pending && commit.clear_seen);
    assert_eq!(commit.counters.resync, Some(ResyncReason::SyncStateNotFound));
    let (round, effect) = round.step(RoundInput::Committed(9), AT);
    assert!(matches!(effect, Step::Do(Effect::Page(None))));
    let unreadable = UnreadableItem { id: Some(EventId::new("odd")), reason: "start" };
    let mut carried = page(vec![single("a")], &[], delta("d1"));
    carried.unreadable.push(unreadable);
    let (round, commit) = step_page(round, carried, &[]);
    let seen = commit.seen.clone().unwrap();
    assert_eq!((seen.page, seen.ids.len()), (0, 2), "what could not be read is not swept either");
    let (round, effect) = round.step(RoundInput::Committed(9), AT);
    assert!(matches!(effect, Step::Do(Effect::Unseen)));
    let ghost = Removal { id: EventId::new("ghost").hash(), reason: RemovalReason::Deleted };
    let (_, effect) = round.step(RoundInput::Unseen(vec![ghost]), AT);
    let commit = written(effect);
    assert_eq!(gone(&commit), [ghost.id]);
    assert!(commit.clear_seen);
}

fn many(n: usize) -> Vec<Removal> {
    (0..n)
        .map(|i| Removal {
            id: EventId::new(format!("g{i}")).hash(),
            reason: RemovalReason::Deleted,
        })
        .collect()
}

fn sweeping(reason: ResyncReason, events: u64) -> Round {
    let phase = Phase::Sweeping { delta: Some(link("d")), reason };
    let position = Some(Position::new(phase, false));
    Round::resume(place(Completion::Master), position, Vec::new(), events)
}

#[test]
fn a_mass_removal_is_held_and_confirmed() {
    let (round, effect) =
        sweeping(ResyncReason::Requested, 39).step(RoundInput::Unseen(many(20)), AT);
    let commit = written(effect);
    assert!(commit.removals.is_empty(), "upserts are published, nothing leaves");
    assert_eq!(*phase(&commit), Phase::start(ResyncReason::Confirm));
    let (_, effect) = round.step(RoundInput::Committed(39), AT);
    assert!(matches!(effect, Step::End(RoundEnd::Held)));
    // It waits, however often a round is requested or the process starts; then it enumerates.
    let resumed = |at| {
        let round =
            Round::resume(place(Completion::Master), commit.position.clone(), Vec::new(), 39);
        round.step(RoundInput::Start, at).1
    };
    assert!(matches!(resumed(AT), Step::End(RoundEnd::Held)));
    assert!(matches!(resumed(hour(1)), Step::Do(Effect::Page(None))));
    // The removals of a confirming enumeration are published, and so are few, or the smaller half.
    for (reason, events, n) in [
        (ResyncReason::Confirm, 39, 20),
        (ResyncReason::Requested, 19, 19),
        (ResyncReason::Requested, 40, 20),
    ] {
        let (_, effect) = sweeping(reason, events).step(RoundInput::Unseen(many(n)), AT);
        assert_eq!(written(effect).removals.len(), n, "{reason:?} {n} of {events}");
    }
}

#[test]
fn a_large_sweep_is_judged_as_a_whole_and_written_in_slices() {
    let (mut round, mut effect) =
        sweeping(ResyncReason::Requested, 2000).step(RoundInput::Unseen(many(900)), AT);
    let mut left = 2000_u64;
    let mut removed = 0;
    loop {
        let commit = written(effect);
        removed += commit.removals.len();
        left -= commit.removals.len() as u64;
        assert!(commit.removals.len() <= 256);
        let last = matches!(phase(&commit), Phase::Settled { .. });
        assert_eq!(commit.clear_seen, last, "the lists go with the last slice");
        (round, effect) = round.step(RoundInput::Committed(left), AT);
        if last {
            break;
        }
    }
    assert_eq!(removed, 900);
    assert!(matches!(effect, Step::End(RoundEnd::Settled)));
}

#[test]
fn a_tombstone_on_the_masters_page_is_not_lost() {
    let round = Round::resume(place(Completion::Master), None, Vec::new(), 0);
    let occurrence = item("o", EventKind::Occurrence, Some("m"), "e");
    let (round, _) = step_page(round, page(vec![occurrence], &[], next("n")), &[]);
    let (round, _) = round.step(RoundInput::Committed(0), AT);
    let master = item("m", EventKind::Master, None, "e");
    let (_, commit) = step_page(round, page(vec![master], &["o"], delta("d")), &[]);
    assert_eq!(ids(&commit.upserts), ["m"]);
}

/// The second page of a first enumeration.
fn second(complete: Completion) -> Round {
    let phase = Phase::Enumerating { next: Some(link("n")), reason: ResyncReason::New, page: 1 };
    Round::resume(place(complete), Some(Position::new(phase, false)), Vec::new(), 5)
}

#[test]
fn an_event_that_changes_its_kind_in_the_first_enumeration_leaves_no_old_rows() {
    let round = second(Completion::Master);
    let became = page(vec![single("m")], &[], delta("d"));
    assert_eq!(round.ids_to_look_up(&became), [EventId::new("m").hash()]);
    let (round, commit) = step_page(round, became, &[("m", StoredKind::Master { etag: None })]);
    assert!(commit.upserts.is_empty(), "before the occurrences have left");
    let (_, effect) = round.step(RoundInput::Committed(5), AT);
    assert!(
        matches!(effect, Step::Do(Effect::Master(ref id)) if *id == EventId::new("m")),
        "{effect:?}"
    );

    let round = second(Completion::Exact);
    let became = page(vec![item("x", EventKind::Master, None, "e")], &[], delta("d"));
    let (round, commit) = step_page(round, became, &[("x", StoredKind::Single)]);
    let leaving = PendingKey::Removal(EventId::new("x").hash());
    assert!(commit.pending.iter().any(|entry| entry.key() == leaving));
    let (round, effect) = round.step(RoundInput::Committed(5), AT);
    assert_eq!(gone(&written(effect)), [EventId::new("x").hash()]);
    let (_, effect) = round.step(RoundInput::Committed(4), AT);
    assert!(matches!(effect, Step::End(RoundEnd::Settled)), "{effect:?}");
}

#[test]
fn a_single_event_that_becomes_a_series_leaves_an_exact_window() {
    let round = Round::resume(place(Completion::Exact), settled(), Vec::new(), 9);
    let master = item("x", EventKind::Master, None, "e");
    let (_, commit) =
        step_page(round, page(vec![master], &[], delta("d")), &[("x", StoredKind::Single)]);
    let leaving = PendingKey::Removal(EventId::new("x").hash());
    assert!(commit.pending.iter().any(|entry| entry.key() == leaving));
}
