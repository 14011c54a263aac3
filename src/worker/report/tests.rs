//! What the end of a round publishes.

use super::*;
use crate::graph::GraphError;
use crate::graph::script::reply;
use crate::graph::transport::{TransportError, TransportErrorKind};
use crate::mirror::fallback::StallKind;
use crate::mirror::status::{WindowState, WindowStatus};
use crate::tests::{NOON, window};
use crate::worker::tests::{WorkerFixture, delta};

const HOUR: Duration = Duration::from_secs(3600);

/// A window with hourly rounds, whose first round runs.
async fn running() -> WorkerFixture {
    let mut window = window("alice");
    window.settings_mut().interval = HOUR;
    window.settings_mut().jitter = 0.0;
    window.settings_mut().confirm_after = HOUR * 10;
    let fixture = WorkerFixture::new(window, []).await;
    fixture.handle.lock().running = true;
    fixture
}

/// What an attempt with this number of requests did.
fn stats(requests: u32) -> AttemptStats {
    let round = RoundFigures { requests, pages: requests, created: 2, ..RoundFigures::default() };
    AttemptStats { round, ..AttemptStats::default() }
}

/// Publishes the end of a round; returns the wait until the next one.
fn publish(fixture: &WorkerFixture, end: AttemptEnd, stats: &AttemptStats) -> Duration {
    let window = fixture.handle.window();
    let due = fixture.worker().publish_end(&window, 1, Instant::now(), end, stats);
    due.duration_since(Instant::now())
}

/// Publishes a failure; returns the wait until the next round.
fn publish_failure(
    fixture: &WorkerFixture,
    stats: &AttemptStats,
    error: &AttemptError,
) -> Duration {
    let window = fixture.handle.window();
    let due = fixture.worker().publish_failure(&window, 1, Instant::now(), stats, error);
    due.duration_since(Instant::now())
}

/// The outcomes that the metrics have counted.
fn counted(fixture: &WorkerFixture) -> Vec<(&'static str, u64)> {
    fixture.services.metrics.rounds.counts().filter(|(_, count)| *count > 0).collect()
}

#[tokio::test(start_paused = true)]
async fn each_end_of_a_round_is_published() {
    let until = NOON + SignedDuration::from_hours(5);
    let incomplete = ErrorKind::Incomplete;
    for (end, state, outcome, error, wait) in [
        (AttemptEnd::Settled, WindowState::Settled, RoundOutcome::Settled, None, HOUR),
        (
            AttemptEnd::Incomplete,
            WindowState::BackingOff,
            RoundOutcome::Failed(incomplete),
            Some(incomplete),
            HOUR,
        ),
        (
            AttemptEnd::Held { until: Some(until) },
            WindowState::Held,
            RoundOutcome::Held,
            None,
            HOUR * 5,
        ),
    ] {
        let fixture = running().await;
        assert_eq!(publish(&fixture, end, &stats(3)), wait, "{end:?}");
        let WindowStatus { last_round, last_success, last_error, held_until, .. } =
            fixture.handle.status(NOON);
        assert_eq!(fixture.handle.state(), state, "{end:?}");
        assert_eq!(held_until, (state == WindowState::Held).then_some(until), "{end:?}");
        assert_eq!(last_success, Some(NOON), "{end:?}");
        assert_eq!(last_error.as_ref().map(|error| error.kind), error, "{end:?}");
        let retry_at = last_error.and_then(|error| error.retry_at);
        assert_eq!(retry_at, error.map(|_| NOON + SignedDuration::from_hours(1)), "{end:?}");
        let round = RoundFigures { number: 1, at: NOON, took_ms: 0, ..stats(3).round };
        assert_eq!(last_round.as_ref(), Some(&round), "{end:?}");
        let past = fixture.handle.rounds();
        assert_eq!((&past.value[0].round, past.value[0].outcome), (&round, outcome), "{end:?}");
        assert_eq!(counted(&fixture), [(outcome.as_str(), 1)], "{end:?}");
        let worker = fixture.handle.lock();
        assert_eq!((worker.rounds, worker.running), (1, false), "{end:?}");
        let settled = end == AttemptEnd::Settled;
        assert_eq!(worker.audits.record().is_some(), settled, "{end:?}: audits begin");
    }
}

#[tokio::test(start_paused = true)]
async fn a_round_that_waits_for_a_confirmation_is_not_a_success() {
    let fixture = running().await;
    let held = AttemptEnd::Held { until: Some(NOON + SignedDuration::from_hours(5)) };
    assert_eq!(publish(&fixture, held, &stats(0)), HOUR * 5);
    let WindowStatus { last_round, last_success, state, .. } = fixture.handle.status(NOON);
    assert_eq!((last_round, last_success, state), (None, None, WindowState::Held));
    assert_eq!((fixture.handle.rounds().quiet, counted(&fixture)), (1, vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_held_move_is_retried_before_the_next_round_is_due() {
    let fixture = running().await;
    let until = MonotonicTime::at(Instant::now() + HOUR / 2, NOON);
    fixture.handle.lock().edit_rare(|rare| rare.held_move = Some(until));
    assert_eq!(publish(&fixture, AttemptEnd::Settled, &stats(1)), HOUR / 2);
    let held_until = Some(NOON + SignedDuration::from_mins(30));
    assert_eq!(
        (fixture.handle.state(), fixture.handle.status(NOON).held_until),
        (WindowState::Held, held_until)
    );
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_published_and_cleared_by_the_next_success() {
    let transport = TransportError::new(TransportErrorKind::Timeout);
    let error = AttemptError::Graph(GraphError::Transport(transport));
    let fixture = running().await;
    let wait = publish_failure(&fixture, &stats(2), &error);
    let WindowStatus { last_round, last_success, last_error, failures, .. } =
        fixture.handle.status(NOON);
    assert_eq!((last_round, last_success, failures), (None, None, 1));
    let last_error = last_error.unwrap();
    let retry_at = NOON + SignedDuration::try_from(wait).unwrap();
    assert_eq!((last_error.at, last_error.retry_at), (NOON, Some(retry_at)));
    assert_eq!(fixture.handle.state(), WindowState::BackingOff);
    let past = &fixture.handle.rounds().value[0];
    assert_eq!((past.outcome, past.round.requests), (RoundOutcome::Failed(last_error.kind), 2));
    assert_eq!(counted(&fixture), [(last_error.kind.as_str(), 1)]);
    assert_eq!(fixture.handle.lock().rounds, 1);
    assert!(!fixture.handle.lock().running);

    publish(&fixture, AttemptEnd::Settled, &stats(1));
    let WindowStatus { last_error, failures, state, .. } = fixture.handle.status(NOON);
    assert_eq!((last_error, failures, state), (None, 0, WindowState::Settled));
}

#[tokio::test(start_paused = true)]
async fn readers_of_the_feed_are_told_what_changes() {
    let gone = reply(410, r#"{"error":{"code":"syncStateNotFound"}}"#);
    let fixture = WorkerFixture::new(window("alice"), [delta(&[]), gone, delta(&[])]).await;
    let (_, mut reader) = fixture.services.states.readers();
    let mut told = || {
        let change = reader.read(1).pop()?;
        assert_eq!((&*change.window, change.error.is_some()), ("alice", change.state.is_trouble()));
        Some(change.state)
    };
    // A new window settles.
    assert_eq!(fixture.run().await.0, AttemptEnd::Settled);
    publish(&fixture, AttemptEnd::Settled, &stats(1));
    assert_eq!(told(), Some(WindowState::Settled));
    // An expired link.
    assert_eq!(fixture.run().await.0, AttemptEnd::Settled);
    assert_eq!(told(), Some(WindowState::Enumerating));
    publish(&fixture, AttemptEnd::Settled, &stats(1));
    assert_eq!(told(), Some(WindowState::Settled));
    let transport = TransportError::new(TransportErrorKind::Timeout);
    let error = AttemptError::Graph(GraphError::Transport(transport));
    for _ in 0..2 {
        publish_failure(&fixture, &stats(2), &error);
    }
    assert_eq!((told(), told()), (Some(WindowState::BackingOff), None));
    publish(&fixture, AttemptEnd::Settled, &stats(1));
    assert_eq!(told(), Some(WindowState::Settled));
    publish(&fixture, AttemptEnd::Settled, &stats(1));
    assert_eq!(told(), None);
}

#[tokio::test(start_paused = true)]
async fn a_failure_without_a_request_does_not_extend_the_wait() {
    for (requests, wait) in [(0, HOUR), (1, HOUR * 5)] {
        let fixture = running().await;
        fixture.handle.lock().next_due = Some(MonotonicTime::at(Instant::now() + HOUR, NOON));
        let until = Some(NOON + SignedDuration::from_hours(5));
        let stuck = AttemptError::Stuck { kind: StallKind::NoProgress, cause: None, until };
        let waits = publish_failure(&fixture, &stats(requests), &stuck);
        assert_eq!(waits, wait, "{requests} requests");
    }
}
