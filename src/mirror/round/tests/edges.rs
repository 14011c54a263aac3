//! All-day instances near an edge: their times do not tell whether the segment has them (fact 80).

use super::*;
use crate::mirror::series;

/// An all-day occurrence that begins exactly at the end, a day off in some time zone's reading.
fn at_end(id: &str) -> Item {
    let end = 24 * 365;
    let span = Span { start: hour(end), end: hour(end + 24) };
    Item { span, all_day: true, ..item(id, EventKind::Occurrence, Some("m"), "e2") }
}

fn at_start(id: &str) -> Item {
    let span = Span { start: hour(-24), end: hour(0) };
    Item { span, ..at_end(id) }
}

/// A round in which the delta carried the series' master and these instances, up to the listing,
/// which has `listed`. The mirror has `rows`.
fn listed(carried: Vec<Item>, listed: Vec<Item>, rows: &[SeriesMember]) -> (Round, Step) {
    let round = Round::resume(place(Completion::Master), settled(), Vec::new(), 9);
    let mut present = vec![item("m", EventKind::Master, None, "e2")];
    present.extend(carried);
    let (round, _) = step_page(round, page(present, &[], delta("d1")), &[]);
    let (round, step) = round.step(RoundInput::Committed(9), AT);
    assert!(matches!(step, Step::Do(Effect::Instances(_))), "{step:?}");
    round.step(RoundInput::Instances(Some((listed.into(), rows.to_vec()))), AT)
}

fn asked(step: Step) -> ViewRequest {
    match step {
        Step::Do(Effect::View(request)) => *request,
        other => panic!("expected a view, got {other:?}"),
    }
}

/// Graph sends a changed series again without tombstones for what left (facts 65, 69), and the
/// listing is a day wider than the window, so neither shows that the occurrence is outside.
#[test]
fn a_mirrored_instance_at_an_edge_stays_only_if_the_view_between_the_exact_edges_has_it() {
    let edges = place(Completion::Master).edges;
    let (at_the_end, at_the_start) =
        (Edges { start: hour(24 * 362), ..edges }, Edges { end: hour(72), ..edges });
    for (o, asked_for) in [(at_end("o"), at_the_end), (at_start("o"), at_the_start)] {
        for has in [false, true] {
            let rows = [row("o")];
            let (round, step) = listed(Vec::new(), vec![o.clone()], &rows);
            let request = asked(step);
            assert_eq!(request.edges, asked_for);
            assert_eq!(request.ids, [o.id.hash()].into());
            assert!(request.ids_only);
            let viewed = if has { vec![o.clone()] } else { Vec::new() };
            let (_, step) = round.step(RoundInput::Viewed(viewed.into(), rows.to_vec()), AT);
            let commit = written(step);
            let (kept, left) = (ids(&commit.upserts), gone(&commit));
            if has {
                assert_eq!((kept, left), (vec!["o", "m"], Vec::new()));
            } else {
                assert_eq!((kept, left), (vec!["m"], vec![o.id.hash()]));
            }
        }
    }
}

#[test]
fn instances_at_both_edges_need_two_views() {
    let rows = [row("a"), row("b"), row("c")];
    let all = vec![at_end("a"), at_start("b"), at_end("c")];
    let (round, step) = listed(Vec::new(), all, &rows);
    assert_eq!(asked(step).ids, ["a", "c"].map(|id| EventId::new(id).hash()).into());
    let (round, step) = round.step(RoundInput::Viewed(vec![at_end("c")].into(), rows.to_vec()), AT);
    assert_eq!(asked(step).ids, [EventId::new("b").hash()].into());
    let (_, step) = round.step(RoundInput::Viewed(vec![at_start("b")].into(), rows.to_vec()), AT);
    let commit = written(step);
    assert_eq!(ids(&commit.upserts), ["b", "c", "m"]);
    assert_eq!(gone(&commit), [EventId::new("a").hash()]);
}

#[test]
fn instances_decided_by_pages_or_the_mirror_need_no_view() {
    let rows = [row("o")];
    let (_, step) = listed(vec![at_end("o")], vec![at_end("o")], &rows);
    assert_eq!(ids(&written(step).upserts), ["o", "m"], "a page of this round carried it");
    let (_, step) = listed(Vec::new(), vec![at_end("o")], &[]);
    assert_eq!(ids(&written(step).upserts), ["m"], "had it entered, a page would have carried it");
}

#[test]
fn a_view_of_an_edge_without_ids_decides_nothing() {
    let rows = [row("o")];
    let (round, _) = listed(Vec::new(), vec![at_end("o")], &rows);
    let viewed = ListedInstances { has_unidentified: true, ..ListedInstances::default() };
    let (round, step) = round.step(RoundInput::Viewed(viewed, rows.to_vec()), AT);
    assert!(gone(&written(step)).is_empty());
    let (_, step) = round.step(RoundInput::Committed(9), AT);
    assert!(written(step).position.unwrap().has_pending, "asked again in the next round");
}

#[test]
fn the_view_of_an_edge_stays_inside_the_other_edge() {
    let day = Edges { start: hour(0), end: hour(24) };
    let span = Span { start: hour(24), end: hour(48) };
    assert_eq!(series::at_nearest_edge(day, span), day);
    assert_eq!(series::at_nearest_edge(day, Span { start: hour(-24), end: hour(0) }), day);
}
