//! Both limits, pauses and the ten-minute count, on paused time.

use futures_util::FutureExt;
use futures_util::future::join_all;

use super::*;

#[tokio::test(start_paused = true)]
async fn each_mailbox_has_its_permits_and_all_share_an_overall_limit() {
    let budgets = Budgets::new(4, 3);
    let (a, b) = (budgets.mailbox("x", "a"), budgets.mailbox("x", "b"));
    let held = join_all((0..3).map(|_| a.acquire())).await;
    assert!(a.acquire().now_or_never().is_none(), "a fourth request to one mailbox");
    let last = b.acquire().now_or_never();
    assert!(last.is_some());
    assert!(b.acquire().now_or_never().is_none(), "a fifth request overall");
    drop(held);
    assert!(b.acquire().now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn mailboxes_ignore_case_and_are_forgotten_with_their_last_window() {
    let budgets = Budgets::new(4, 3);
    let first = budgets.mailbox("x", "Alice@Contoso.com");
    assert!(Arc::ptr_eq(&first, &budgets.mailbox("x", "alice@contoso.com")));
    assert!(!Arc::ptr_eq(&first, &budgets.mailbox("y", "alice@contoso.com")));
    for n in 0..10_000 {
        drop(budgets.mailbox("x", n.to_string()));
    }
    let known = budgets.mailboxes.lock().unwrap_or_else(PoisonError::into_inner).count;
    assert!(known < 300, "{known} forgotten mailboxes are remembered");
}

#[tokio::test(start_paused = true)]
async fn permits_are_first_come_first_served_and_waits_can_be_cancelled() {
    let budgets = Budgets::new(1, 1);
    let mailbox = budgets.mailbox("x", "a");
    let held = mailbox.acquire().await;
    let mut given_up = Box::pin(mailbox.acquire());
    let mut second = Box::pin(mailbox.acquire());
    let mut third = Box::pin(mailbox.acquire());
    for waiting in [&mut given_up, &mut second, &mut third] {
        assert!(waiting.as_mut().now_or_never().is_none());
    }
    drop(given_up);
    drop(held);
    assert!(third.as_mut().now_or_never().is_none());
    let permit = second.as_mut().now_or_never();
    assert!(permit.is_some());
    drop(permit);
    assert!(third.as_mut().now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn throttling_pauses_only_its_mailbox() {
    let budgets = Budgets::new(1, 3);
    let (a, b) = (budgets.mailbox("x", "a"), budgets.mailbox("x", "b"));
    let began = Instant::now();
    a.throttled(Duration::from_secs(17), 0.0);
    let mut waiting = Box::pin(a.acquire());
    assert!(waiting.as_mut().now_or_never().is_none());
    assert!(b.acquire().now_or_never().is_some());
    drop(waiting.await);
    assert_eq!(began.elapsed(), Duration::from_secs(17));
}

#[tokio::test(start_paused = true)]
async fn throttling_without_retry_after_backs_off_exponentially() {
    let mailbox = Budgets::new(1, 1).mailbox("x", "a");
    let mut waits = Vec::new();
    for _ in 0..14 {
        mailbox.throttled(Duration::ZERO, 0.0);
        let began = Instant::now();
        drop(mailbox.acquire().await);
        waits.push(began.elapsed().as_secs());
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600]);
    mailbox.succeeded();
    mailbox.throttled(Duration::ZERO, 0.999);
    let pause = mailbox.paused_until().map(|at| at - Instant::now());
    assert!(pause.is_some_and(|p| p > Duration::from_millis(499) && p < Duration::from_secs(1)));
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_begins_while_waiting_releases_the_overall_permit() {
    let budgets = Budgets::new(1, 3);
    let (a, b) = (budgets.mailbox("x", "a"), budgets.mailbox("x", "b"));
    let held = b.acquire().await;
    let mut waiting = Box::pin(a.acquire());
    assert!(waiting.as_mut().now_or_never().is_none());
    a.throttled(Duration::from_secs(60), 0.0);
    drop(held);
    assert!(waiting.as_mut().now_or_never().is_none());
    assert!(b.acquire().now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn never_ten_thousand_requests_in_any_ten_minutes() {
    let mailbox = Budgets::new(8, 8).mailbox("x", "a");
    let mut sent = Vec::new();
    for _ in 0..30_000 {
        drop(mailbox.acquire().await);
        sent.push(Instant::now());
        tokio::time::advance(Duration::from_millis(20)).await;
    }
    for (n, at) in sent.iter().enumerate().skip(10_000) {
        assert!(*at - sent[n - 10_000] > Duration::from_secs(600));
    }
    // And the delay is no longer than the granularity of a minute explains.
    assert!(sent[29_999] - sent[0] < Duration::from_secs(3 * 12 * 60));
}

#[tokio::test(start_paused = true)]
async fn both_limits_can_change_while_requests_run() {
    let budgets = Budgets::new(4, 3);
    let (a, b) = (budgets.mailbox("x", "a"), budgets.mailbox("x", "b"));
    let mut held = join_all((0..3).map(|_| a.acquire())).await;
    held.push(b.acquire().await);
    budgets.resize(2, 1);
    // Two too many are in flight: a new request waits until both, and one more, have ended.
    for _ in 0..3 {
        assert!(budgets.mailbox("x", "c").acquire().now_or_never().is_none());
        held.remove(0);
    }
    let c = budgets.mailbox("x", "c");
    let one = c.acquire().now_or_never();
    assert!(one.is_some());
    assert!(c.acquire().now_or_never().is_none(), "a second request to one mailbox");
    drop((one, held));
    budgets.resize(5, 4);
    let four = join_all((0..4).map(|_| a.acquire())).await;
    assert!(a.acquire().now_or_never().is_none(), "a fifth request to one mailbox");
    let fifth = b.acquire().now_or_never();
    assert!(fifth.is_some());
    assert!(c.acquire().now_or_never().is_none(), "a sixth request overall");
    // Shrinking and growing again before a request ends neither loses nor gains permits.
    budgets.resize(1, 1);
    budgets.resize(5, 4);
    drop((four, fifth));
    let five = join_all([a.acquire(), a.acquire(), a.acquire(), a.acquire(), b.acquire()]).await;
    assert_eq!(five.len(), 5);
    assert!(c.acquire().now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_falls_and_rises_admits_no_more_rounds() {
    let budgets = Budgets::new(1000, 4);
    for limit in [100, 1000, 300, 1000] {
        budgets.resize(limit, 4);
        assert_eq!(budgets.overall.rounds.available_permits(), 4000);
    }
    budgets.resize(1001, 4);
    assert_eq!(budgets.overall.rounds.available_permits(), 4004);
}

#[test]
fn an_idle_mailbox_uses_little_memory() {
    assert!(size_of::<MailboxBudget>() <= 160, "{}", size_of::<MailboxBudget>());
}
