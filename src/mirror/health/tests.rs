//! One test for each transition. The random number is 0.5: jitter adds nothing.

use super::*;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

const HEALTHY: WindowHealth =
    WindowHealth { state: WindowState::Following, failures: 0, settled_once: true, logged: None };

const PACING: Pacing =
    Pacing { interval: MINUTE, jitter: 0.2, took: Duration::from_secs(10), held_move: None };

fn after(health: WindowHealth, result: RoundResult) -> (WindowHealth, Duration, Option<Notice>) {
    health.on_result(result, &PACING, || 0.5)
}

fn after_failure(
    health: WindowHealth,
    failure: RoundFailure,
) -> (WindowHealth, Duration, Option<Notice>) {
    health.on_failure(failure, MINUTE, 0.5)
}

fn failure(cause: FailureCause) -> RoundFailure {
    RoundFailure { cause, remembered: false, progress: false, shared: false, left: None }
}

fn in_trouble(state: WindowState, failures: u32) -> WindowHealth {
    WindowHealth { state, failures, settled_once: true, logged: Some(state) }
}

#[test]
fn the_next_round_is_due_an_interval_after_the_last_began() {
    let first = WindowHealth { settled_once: false, ..HEALTHY };
    let (health, delay, notice) = after(first, RoundResult::Settled);
    assert_eq!(health, WindowHealth { state: WindowState::Settled, ..HEALTHY });
    assert_eq!((delay, notice), (Duration::from_secs(50), None));
    // A round that took longer than the interval is followed at once.
    let slow = Pacing { took: HOUR, ..PACING };
    assert_eq!(HEALTHY.on_result(RoundResult::Settled, &slow, || 0.5).1, Duration::ZERO);
}

#[test]
fn a_settled_round_ends_trouble_and_logs_it_once() {
    let (health, _, notice) = after(in_trouble(WindowState::BackingOff, 7), RoundResult::Settled);
    assert_eq!((health.state, health.failures), (WindowState::Settled, 0));
    assert_eq!((health.logged, notice), (None, Some(Notice::Recovered)));
    assert_eq!(after(health, RoundResult::Settled).2, None);
}

#[test]
fn an_incomplete_round_is_trouble_that_is_logged_once() {
    let (health, delay, notice) = after(HEALTHY, RoundResult::Incomplete);
    assert_eq!((health.state, delay), (WindowState::BackingOff, Duration::from_secs(50)));
    assert_eq!(notice, Some(Notice::Incomplete));
    let (health, _, notice) = after(health, RoundResult::Incomplete);
    assert_eq!((health.failures, notice), (0, None));
}

#[test]
fn an_incomplete_round_does_not_count_as_settled() {
    let first = WindowHealth { settled_once: false, ..HEALTHY };
    assert!(!after(first, RoundResult::Incomplete).0.settled_once);
}

#[test]
fn a_held_removal_waits_for_its_confirmation() {
    let held = RoundResult::Held { wait: HOUR, asked: true };
    let (health, delay, notice) = after(HEALTHY, held);
    assert_eq!((health.state, delay), (WindowState::Held, HOUR));
    assert_eq!(notice, Some(Notice::RemovalHeld));
    assert_eq!(after(health, held).2, None);
}

#[test]
fn a_round_without_requests_changes_only_the_state() {
    let before = in_trouble(WindowState::BackingOff, 3);
    let (health, delay, notice) = after(before, RoundResult::Held { wait: MINUTE, asked: false });
    assert_eq!(health, WindowHealth { state: WindowState::Held, ..before });
    assert_eq!((delay, notice), (MINUTE, None));
}

#[test]
fn a_held_move_holds_the_window_while_rounds_go_on() {
    let pacing = Pacing { held_move: Some(Duration::from_secs(20)), ..PACING };
    let (health, delay, notice) = HEALTHY.on_result(RoundResult::Settled, &pacing, || 0.5);
    assert_eq!((health.state, delay), (WindowState::Held, Duration::from_secs(20)));
    assert_eq!(notice, Some(Notice::MoveHeld));
    let (health, _, notice) = health.on_result(RoundResult::Settled, &pacing, || 0.5);
    assert_eq!(notice, None);
    assert_eq!(after(health, RoundResult::Settled).2, Some(Notice::Recovered));
}

#[test]
fn transient_faults_back_off_exponentially() {
    let mut health = HEALTHY;
    let waits: Vec<u64> = (0..8)
        .map(|_| {
            let (next, delay, notice) = after_failure(health, failure(FailureCause::Transient));
            assert_eq!(notice.is_some(), health == HEALTHY, "logged once");
            health = next;
            delay.as_secs() / 60
        })
        .collect();
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!((health.state, health.failures), (WindowState::BackingOff, 8));
}

#[test]
fn a_different_trouble_restarts_the_failure_count() {
    let before = in_trouble(WindowState::Quarantined, 5);
    let (health, _, notice) = after_failure(before, failure(FailureCause::Transient));
    assert_eq!((health.state, health.failures), (WindowState::BackingOff, 1));
    assert_eq!(notice, Some(Notice::Trouble));
}

#[test]
fn a_resync_within_a_trouble_keeps_the_failure_count() {
    let before = WindowHealth { state: WindowState::Enumerating, failures: 5, ..HEALTHY };
    assert_eq!(after_failure(before, failure(FailureCause::Transient)).0.failures, 6);
}

#[test]
fn committed_pages_restart_the_failure_count() {
    let progress = RoundFailure { progress: true, ..failure(FailureCause::Transient) };
    let before = in_trouble(WindowState::BackingOff, 5);
    assert_eq!(after_failure(before, progress).0.failures, 1);
}

#[test]
fn throttling_waits_as_long_as_graph_asks() {
    let (health, delay, _) = after_failure(HEALTHY, failure(FailureCause::Throttled(HOUR)));
    assert_eq!((health.state, delay), (WindowState::BackingOff, HOUR));
    // Graph asked for nothing: the wait doubles from a second.
    let before = in_trouble(WindowState::BackingOff, 3);
    let delay = after_failure(before, failure(FailureCause::Throttled(Duration::ZERO))).1;
    assert_eq!(delay, Duration::from_secs(8));
}

#[test]
fn a_sign_in_waits_for_an_administrator() {
    let (health, delay, notice) = after_failure(HEALTHY, failure(FailureCause::SignIn));
    assert_eq!((health.state, delay), (WindowState::SignInRequired, 5 * MINUTE));
    assert_eq!(notice, Some(Notice::Trouble));
}

#[test]
fn a_quarantine_is_retried_slowly() {
    let (health, delay, _) = after_failure(HEALTHY, failure(FailureCause::Quarantined));
    assert_eq!((health.state, delay), (WindowState::Quarantined, 15 * MINUTE));
    let before = in_trouble(WindowState::Quarantined, 20);
    assert_eq!(after_failure(before, failure(FailureCause::Quarantined)).1, 6 * HOUR);
}

#[test]
fn a_stalled_stream_waits_for_its_fallback() {
    let (health, delay, _) = after_failure(HEALTHY, failure(FailureCause::Stalled(10 * MINUTE)));
    assert_eq!((health.state, delay), (WindowState::BackingOff, 10 * MINUTE));
}

#[test]
fn a_full_disk_has_a_state_of_its_own() {
    let (health, delay, _) = after_failure(HEALTHY, failure(FailureCause::StoreFull));
    assert_eq!((health.state, delay), (WindowState::StoreFull, MINUTE));
}

#[test]
fn a_remembered_failure_neither_counts_nor_prolongs_the_wait() {
    let left = Some(MINUTE);
    let remembered = RoundFailure { remembered: true, left, ..failure(FailureCause::SignIn) };
    let before = in_trouble(WindowState::SignInRequired, 4);
    let (health, delay, _) = after_failure(before, remembered);
    assert_eq!((health.failures, delay), (4, MINUTE));
    // A wait that has ended does not shorten the next one.
    let delay = after_failure(before, RoundFailure { left: Some(Duration::ZERO), ..remembered }).1;
    assert_eq!(delay, 40 * MINUTE);
}

#[test]
fn a_failure_that_the_account_logged_is_not_logged_for_each_window() {
    let shared = RoundFailure { shared: true, ..failure(FailureCause::SignIn) };
    let (health, _, notice) = after_failure(HEALTHY, shared);
    assert_eq!((health.logged, notice), (None, None));
}

#[test]
fn a_crash_counts_as_a_failure() {
    let health = in_trouble(WindowState::Quarantined, 2).on_crash();
    assert_eq!((health.state, health.failures), (WindowState::BackingOff, 3));
}
