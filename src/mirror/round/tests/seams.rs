//! Windows of several segments: what leaves waits until the others have looked.

use super::*;

fn resumed(phase: Phase, todo: Vec<Todo>) -> Round {
    let place = Place { seams: true, ..place(Complete::Master) };
    Round::resume(place, Some(Position::new(phase, !todo.is_empty())), todo, 50)
}

fn removal(id: &str) -> Removal {
    Removal { id: EventId::new(id).hash(), reason: RemovalReason::Deleted }
}

fn set(ids: &[&str]) -> BTreeSet<EventHash> {
    ids.iter().map(|id| EventId::new(*id).hash()).collect()
}

#[test]
fn tombstones_leave_after_everything_else_is_durable_and_the_others_have_looked() {
    let round = resumed(Phase::Settled { delta: Some(link("d0")) }, Vec::new());
    let known = [("a", Known::Single), ("b", Known::Single)];
    let news = page(vec![single("c")], &["a", "b"], delta("d1"));
    let (round, commit) = step_page(round, news, &known);
    assert_eq!((ids(&commit.upserts), commit.removals.len()), (vec!["c"], 0));
    let (round, effect) = round.step(Input::Committed(51), AT);
    assert!(matches!(effect, Effect::Seam));
    // b may have moved to where a segment could not look.
    let (round, effect) = round.step(Input::Withheld(set(&["b"])), AT);
    let commit = written(effect);
    assert_eq!(gone(&commit), [EventId::new("a").hash()]);
    assert_eq!(commit.done, [TodoKey::Removal(EventId::new("a").hash())]);
    assert!(commit.position.as_ref().unwrap().todo, "b stays on the list");
    let (_, effect) = round.step(Input::Committed(50), AT);
    assert!(matches!(effect, Effect::Over(Over::Settled)));
    // The next round asks first, and then lets it go.
    let left = vec![Todo::Removal { id: EventId::new("b").hash() }];
    let round = resumed(Phase::Settled { delta: Some(link("d1")) }, left);
    let (round, effect) = round.step(Input::Start, AT);
    assert!(matches!(effect, Effect::Page(Some(_))));
    let (round, commit) = step_page(round, page(vec![], &[], delta("d2")), &[]);
    assert!(commit.removals.is_empty() && !commit.lazy);
    let (round, effect) = round.step(Input::Committed(50), AT);
    assert!(matches!(effect, Effect::Seam));
    let (_, effect) = round.step(Input::Withheld(set(&[])), AT);
    assert_eq!(gone(&written(effect)), [EventId::new("b").hash()]);
}

#[test]
fn a_sweep_waits_only_if_it_finds_something_and_keeps_what_is_withheld() {
    let sweeping =
        Phase::Sweeping { delta: Some(link("d1")), reason: ResyncReason::SyncStateNotFound };
    let (round, effect) = resumed(sweeping.clone(), Vec::new()).step(Input::Start, AT);
    assert!(matches!(effect, Effect::Unseen));
    let (_, effect) = round.step(Input::Unseen(Vec::new()), AT);
    assert_eq!(*phase(&written(effect)), Phase::Settled { delta: Some(link("d1")) });

    let (round, _) = resumed(sweeping, Vec::new()).step(Input::Start, AT);
    let rows = || vec![removal("a"), removal("b")];
    let (round, effect) = round.step(Input::Unseen(rows()), AT);
    assert!(matches!(effect, Effect::Seam));
    // Found anew: others may have taken over some of them meanwhile.
    let (round, effect) = round.step(Input::Withheld(set(&["a"])), AT);
    assert!(matches!(effect, Effect::Unseen));
    let (_, effect) = round.step(Input::Unseen(rows()), AT);
    let commit = written(effect);
    assert_eq!(gone(&commit), [EventId::new("b").hash()]);
    assert_eq!(commit.todo, [Todo::Removal { id: EventId::new("a").hash() }]);
    assert!(commit.position.as_ref().unwrap().todo && commit.clear_seen);
}
