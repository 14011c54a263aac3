//! Incomplete information is not guessed: occurrences without a master, and outdated items.

use super::*;

fn enumerating() -> Option<Position> {
    let phase = Phase::Enumerating {
        next: Some(link("n")),
        reason: ResyncReason::SyncStateNotFound,
        page: 0,
    };
    Some(Position::new(phase, false))
}

#[test]
fn a_stub_exception_without_its_master_is_completed_by_the_next_round() {
    let round = Round::resume(place(Completion::Master), enumerating(), Vec::new(), 5);
    let x = Item { full: false, ..item("x", EventKind::Exception, Some("m"), "e") };
    let (round, commit) = step_page(round, page(vec![x], &[], delta("d1")), &[]);
    let mut pending: std::collections::BTreeMap<PendingKey, PendingEntry> =
        commit.pending.into_iter().map(|t| (t.key(), t)).collect();
    let (round, effect) = round.step(RoundInput::Committed(5), AT);
    assert!(matches!(effect, Step::Do(Effect::Instances(_))), "{effect:?}");
    let (round, effect) = round.step(RoundInput::Unavailable, AT);
    assert!(matches!(effect, Step::Do(Effect::Unseen)), "{effect:?}");
    let (round, effect) = round.step(RoundInput::Unseen(Vec::new()), AT);
    let commit = written(effect);
    assert!(matches!(phase(&commit), Phase::Settled { .. }));
    for done in &commit.finished_pending {
        pending.remove(done);
    }
    pending.extend(commit.pending.into_iter().map(|t| (t.key(), t)));
    let (_, effect) = round.step(RoundInput::Committed(5), AT);
    assert!(matches!(effect, Step::End(RoundEnd::Incomplete)));
    // The next attempt; meanwhile the series got an ordinary occurrence in the window.
    let round = Round::resume(
        place(Completion::Master),
        commit.position,
        pending.into_values().collect(),
        5,
    );
    let (round, effect) = round.step(RoundInput::Start, AT);
    let (round, effect) = match effect {
        Step::Do(Effect::Master(_)) => {
            round.step(RoundInput::Master(Some(item("m", EventKind::Master, None, "e"))), AT)
        }
        effect => (round, effect),
    };
    assert!(matches!(effect, Step::Do(Effect::Instances(_))), "{effect:?}");
    let listed = vec![
        Item { full: true, ..item("x", EventKind::Exception, Some("m"), "e") },
        Item { full: true, ..item("o", EventKind::Occurrence, Some("m"), "e") },
    ];
    let (_, effect) = round.step(RoundInput::Instances(Some((listed.into(), Vec::new()))), AT);
    let commit = written(effect);
    let bare = commit.upserts.iter().any(|i| i.kind == EventKind::Occurrence && !i.full);
    let master = commit.upserts.iter().any(|i| i.kind == EventKind::Master);
    assert!(!bare || master, "the store refuses this commit: MissingMaster, in every attempt");
}

#[test]
fn an_item_of_an_earlier_round_is_not_published_if_it_is_outside_the_window_now() {
    let o = item("o", EventKind::Occurrence, Some("m"), "e");
    let pending = vec![
        PendingEntry::Series { master: EventId::new("m"), needs_master: true, needs_listing: true },
        PendingEntry::Waiting { item: o, earlier: true },
    ];
    let round = Round::resume(
        place(Completion::Master),
        Some(Position::new(Phase::Settled { delta: Some(link("d")) }, true)),
        pending,
        5,
    );
    let (round, _) = round.step(RoundInput::Start, AT);
    let (round, effect) =
        round.step(RoundInput::Master(Some(item("m", EventKind::Master, None, "e"))), AT);
    assert!(matches!(effect, Step::Do(Effect::Instances(_))), "{effect:?}");
    let edge = 24 * 365;
    let span = Span { start: hour(edge + 5), end: hour(edge + 6) };
    let listed =
        vec![Item { full: true, span, ..item("o", EventKind::Occurrence, Some("m"), "e") }];
    let (_, effect) = round.step(RoundInput::Instances(Some((listed.into(), Vec::new()))), AT);
    let commit = written(effect);
    assert!(!ids(&commit.upserts).contains(&"o"), "o lies outside the window");
}

#[test]
fn the_last_item_of_a_listing_wins() {
    let pending = vec![PendingEntry::Series {
        master: EventId::new("m"),
        needs_master: true,
        needs_listing: true,
    }];
    let round = Round::resume(
        place(Completion::Master),
        Some(Position::new(Phase::Settled { delta: Some(link("d")) }, true)),
        pending,
        5,
    );
    let (round, _) = round.step(RoundInput::Start, AT);
    let (round, _) =
        round.step(RoundInput::Master(Some(item("m", EventKind::Master, None, "e"))), AT);
    let listed = vec![
        item("x", EventKind::Exception, Some("m"), "first"),
        item("x", EventKind::Exception, Some("m"), "last"),
    ];
    let (_, effect) = round.step(RoundInput::Instances(Some((listed.into(), Vec::new()))), AT);
    let commit = written(effect);
    let x = commit.upserts.iter().find(|i| i.id.as_str() == "x").unwrap();
    assert_eq!(x.etag.as_deref(), Some("last"));
}
