//! What an attempt writes, and that a stop ends it between two writes to the store, however many
//! are left.

use super::barrier::SegmentBarrier;
use super::*;
use crate::graph::script::{BASE, reply};
use crate::mirror::page::{EventId, Link};
use crate::mirror::position::PendingEntry;
use crate::mirror::window::{Edge, Window};
use crate::tests::{NOON, registration, window};
use crate::worker::tests::{WorkerFixture, delta, event};

/// A window of several segments.
fn long() -> Window {
    let mut window = window("alice");
    window.settings_mut().end = Edge::At("2046-01-01T00:00:00Z".parse().unwrap());
    window
}

/// A window of several segments, and a worker that is asked to stop.
async fn stopped() -> WorkerFixture {
    let fixture = WorkerFixture::new(long(), []).await;
    fixture.stop.cancel();
    fixture
}

/// The segments that have a position.
async fn begun(fixture: &WorkerFixture) -> Vec<SegmentIndex> {
    fixture.services.store.segments(fixture.id).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_round_writes_its_page_with_the_link_and_counts_it() {
    let fixture =
        WorkerFixture::new(window("alice"), [delta(&[event("a", 3), event("b", 4)])]).await;
    let (end, stats) = fixture.run().await;
    assert_eq!((end, stats.settled.contains(0)), (AttemptEnd::Settled, true));
    let RoundFigures { requests, pages, created, .. } = stats.round;
    assert_eq!((requests, pages, created, fixture.events()), (1, 1, 2, 2));
    let position = fixture.services.store.position(fixture.id, 0).await.unwrap().unwrap();
    let link = format!("{}/delta", BASE);
    assert_eq!(position.phase, Phase::Settled { delta: Some(Link::new(link)) });
}

/// None is missed if the first request fails.
#[tokio::test(start_paused = true)]
async fn a_requested_resync_begins_in_all_segments_before_the_first_request() {
    for (request, reason) in [
        (RoundRequest::Resync, ResyncReason::Requested),
        (RoundRequest::AcceptRemovals, ResyncReason::Confirm),
    ] {
        let fixture = WorkerFixture::new(long(), [reply(403, "")]).await;
        let failed = fixture.attempt().run(Some(request), SegmentSet::EMPTY).await;
        assert!(matches!(failed, Err(AttemptError::Graph(_))), "{failed:?}");
        for segment in [0, 1] {
            let position =
                fixture.services.store.position(fixture.id, segment).await.unwrap().unwrap();
            assert_eq!(position.phase.enumeration_reason(), Some(reason), "of {segment}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_stored_across_a_restart() {
    for (seconds, remembered) in [("20", false), ("60", true)] {
        let answer = reply(429, "").with("retry-after", seconds);
        let fixture = WorkerFixture::new(window("alice"), [answer]).await;
        let throttled = fixture.attempt().run(None, SegmentSet::EMPTY).await;
        assert!(matches!(throttled, Err(AttemptError::Graph(_))), "{throttled:?}");
        let again = vec![registration(&window("alice"))];
        let known = fixture.services.store.register(again, NOON).await.unwrap().remove(0);
        assert_eq!(known.paused_until.is_some(), remembered, "{seconds} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_requested_resync_of_many_segments_is_left_to_the_next_worker() {
    let fixture = stopped().await;
    assert!(fixture.handle.lock().segments().len() > 3);
    let request = Some(RoundRequest::AcceptRemovals);
    let ended = fixture.attempt().run(request, SegmentSet::EMPTY).await;
    assert!(matches!(ended, Err(AttemptError::Stopped)), "{ended:?}");
    assert!(begun(&fixture).await.is_empty(), "written after the stop");
    assert_eq!(fixture.handle.lock().request, request);
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_repairs_before_the_next_commit() {
    let fixture = stopped().await;
    let position = Position::start(ResyncReason::New, Fallback::default());
    let mut commit = Commit::new(fixture.id, 0, NOON);
    commit.position = Some(position.clone());
    fixture.services.store.commit(commit).await.unwrap();
    let mut attempt = fixture.attempt();
    let mut repair = Commit::new(fixture.id, 1, NOON);
    repair.position = Some(position);
    let ended = attempt.commit(repair).await;
    assert!(matches!(ended, Err(AttemptError::Stopped)), "a single event");
    let ended = attempt.begin_resync(1, ResyncReason::Drift).await;
    assert!(matches!(ended, Err(AttemptError::Stopped)), "a segment");
    let ended = attempt.add_pending_series(0, EventId::new("series")).await;
    assert!(matches!(ended, Err(AttemptError::Stopped)), "a series");
    assert_eq!(begun(&fixture).await, [0], "written after the stop");
    assert!(fixture.services.store.pending(fixture.id, 0).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_lookup_of_events_in_other_segments() {
    let fixture = stopped().await;
    let mut commit = Commit::new(fixture.id, 1, NOON);
    let position = Position::start(ResyncReason::New, Fallback::default());
    commit.position = Some(Position { has_pending: true, ..position });
    let master = EventId::new("series");
    commit.pending.push(PendingEntry::Series { master, needs_master: true, needs_listing: true });
    fixture.services.store.commit(commit).await.unwrap();
    let barrier = SegmentBarrier::new(fixture.handle.lock().segments());
    let ended = fixture.attempt().retained_events(0, &barrier).await;
    assert!(matches!(ended, Err(AttemptError::Stopped)), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn an_enumeration_of_one_segment_keeps_the_unreadable_items_of_the_others() {
    let fixture = stopped().await;
    let unreadable = || fixture.handle.status(NOON).unreadable;
    let count = |segment, first, n| fixture.handle.lock().count_unreadable(segment, first, n);
    count(0, true, 2);
    count(0, false, 1);
    count(1, true, 4);
    assert_eq!(unreadable(), 7);
    count(0, true, 0);
    assert_eq!(unreadable(), 4);
}
