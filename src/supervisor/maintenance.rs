//! What the store needs done that no window's worker does: windows nobody wants leave it, idle
//! rounds' links do not linger in it too long, and old removals are forgotten.
//!
//! A full disk is waited out: it heals, and readers are served meanwhile. A chore that panics is
//! told and begun again. What this refuses is to end the fleet for anything but a store that is over.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::watch;

use super::{FIRST_RESTART_DELAY, MAX_RESTART_DELAY};
use crate::env::Env;
use crate::metrics::GraphClock;
use crate::mirror::position::WindowId;
use crate::mirror::schedule;
use crate::store::{Store, StoreError};

/// How often removed events that are older than the retention are forgotten.
const TRIM_EVERY: Duration = Duration::from_secs(600);
/// How long trimming waits before it looks again whether the wall clock can be believed.
const CLOCK_PAUSE: Duration = Duration::from_secs(5);
/// How long a removal that found the disk full waits before it is tried again.
const SPACE_PAUSE: Duration = Duration::from_secs(60);

/// Does a chore to its end. One that panics is begun again, later each time.
///
/// # Errors
/// Those of the chore.
pub(super) async fn restart_on_panic<C>(
    what: &'static str,
    env: &Env,
    mut stop: watch::Receiver<bool>,
    chore: impl Fn() -> C,
) -> Result<(), StoreError>
where
    C: Future<Output = Result<(), StoreError>>,
{
    let mut restarts = 0;
    loop {
        // Whatever it shares is the store's, which is made to survive those who panic.
        if let Ok(done) = AssertUnwindSafe(chore()).catch_unwind().await {
            return done;
        }
        restarts += 1;
        let pause =
            schedule::backoff(FIRST_RESTART_DELAY, MAX_RESTART_DELAY, restarts, env.random());
        tracing::error!(
            chore = what,
            restarts,
            pause_ms = pause.as_millis(),
            "chore panicked and is begun again"
        );
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Tends the store until told to stop.
///
/// # Errors
/// Where the store is over.
pub(super) async fn run(
    store: &Store,
    env: &Env,
    clock: &GraphClock,
    retention: watch::Receiver<Duration>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), StoreError> {
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => Ok(()),
        over = maintain(store, env, clock, retention) => over,
    }
}

/// Drops windows nobody wants, one after the other, until told to stop.
///
/// # Errors
/// Where the store is over.
pub(super) async fn drop_windows(
    store: &Store,
    env: &Env,
    drops: Vec<(Arc<str>, WindowId)>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), StoreError> {
    let windows = drops.len();
    tracing::info!(windows, "windows left the configuration, their events leave the feed");
    let dropping = async {
        for (name, id) in drops {
            drop_window(store, env, &name, id).await?;
        }
        tracing::info!(windows, "windows that left the configuration are gone");
        Ok(())
    };
    tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => Ok(()),
        over = dropping => over,
    }
}

/// Drops a window; where the disk is full, as soon as it no longer is. May be dropped at any
/// moment: the next call does the rest.
///
/// # Errors
/// Where the store is over.
pub(super) async fn drop_window(
    store: &Store,
    env: &Env,
    window: &str,
    id: WindowId,
) -> Result<(), StoreError> {
    let mut told = false;
    loop {
        match store.drop_window(id, env.now()).await {
            Err(StoreError::Full) => {}
            done => return done,
        }
        if !told {
            tracing::warn!(window, "disk is full, window is dropped later");
            told = true;
        }
        tokio::time::sleep(SPACE_PAUSE).await;
    }
}

/// Never ends but with the store.
async fn maintain(
    store: &Store,
    env: &Env,
    clock: &GraphClock,
    retention: watch::Receiver<Duration>,
) -> Result<(), StoreError> {
    let mut flush = tokio::time::interval(store.max_defer());
    let mut trim = tokio::time::interval(TRIM_EVERY);
    let mut told = false;
    loop {
        tokio::select! {
            biased;
            _ = flush.tick() => store.flush().await?,
            _ = trim.tick() => {
                let (kept, now) = (*retention.borrow(), env.now());
                if !clock.check(now).is_usable() {
                    // A clock that is ahead would forget what readers have not seen yet.
                    trim.reset_after(CLOCK_PAUSE);
                    continue;
                }
                let Ok(before) = now.checked_sub(kept) else { continue };
                match store.trim(before).await {
                    Err(StoreError::Full) if told => {}
                    Err(StoreError::Full) => {
                        tracing::warn!("disk is full, old removals are forgotten later");
                        told = true;
                    }
                    Err(error) => return Err(error),
                    Ok(_) => told = false,
                }
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::mirror::window::{
        BodyFormat, CalendarRef, Completion, Edge, Edges, EventShape, WindowIdentity,
    };
    use crate::store::{StoreOptions, WindowRegistration};

    const HOUR: Duration = Duration::from_secs(3600);

    /// A store with one window, opened again with so much space to be kept free.
    async fn store(dir: &tempfile::TempDir, min_free_bytes: u64) -> (Store, Env, WindowId) {
        let start = "2026-11-02T12:00:00Z".parse().unwrap();
        let end = "2026-12-02T12:00:00Z".parse().unwrap();
        let env = Env::simulated(1, start);
        let options = StoreOptions {
            cache_bytes: 1 << 20,
            min_free_bytes: 0,
            ..StoreOptions::new(dir.path())
        };
        let (first, _) = Store::open(&options, &env).unwrap();
        let wanted = WindowRegistration {
            name: "alice".into(),
            identity: WindowIdentity {
                account: "contoso".into(),
                tenant: "t".into(),
                mailbox: "alice@example.com".into(),
                calendar: CalendarRef::Default,
                immutable_ids: false,
            },
            shape: EventShape {
                body: BodyFormat::Html,
                time_zone: "UTC".into(),
                complete: Completion::Master,
            },
            start: Edge::At(start),
            end: Edge::At(end),
            edges: Edges { start, end },
        };
        let id = first.register(vec![wanted], start).await.unwrap().remove(0).id;
        first.close().await.unwrap();
        let (store, _) = Store::open(&StoreOptions { min_free_bytes, ..options }, &env).unwrap();
        (store, env, id)
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_disk_is_waited_out() {
        let dir = tempfile::tempdir().unwrap();
        let (store, env, id) = store(&dir, u64::MAX).await;
        let (stop, stopped) = watch::channel(false);
        {
            let (_retention, kept) = watch::channel(HOUR);
            let clock = GraphClock::default();
            let janitor = run(&store, &env, &clock, kept, stopped.clone());
            let dropping = drop_windows(&store, &env, vec![("alice".into(), id)], stopped);
            let both = async { tokio::try_join!(janitor, dropping) };
            tokio::pin!(both);
            assert!(timeout(2 * HOUR, &mut both).await.is_err(), "one ended, and all with it");
            assert_eq!(store.windows().await.unwrap().len(), 1, "it gave up");
            stop.send(true).unwrap();
            assert!(both.await.is_ok());
        }
        assert!(timeout(2 * HOUR, drop_window(&store, &env, "alice", id)).await.is_err());
        assert_eq!(store.windows().await.unwrap().len(), 1);
        store.close().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_chore_that_panics_is_begun_again_until_it_is_done_or_told_to_stop() {
        let env = Env::simulated(1, "2026-11-02T12:00:00Z".parse().unwrap());
        let (stop, stopped) = watch::channel(false);
        let begun = std::cell::Cell::new(0);
        let chore = |panics: u32| {
            let begun = &begun;
            move || async move {
                begun.set(begun.get() + 1);
                assert!(begun.get() > panics, "a panic that is meant");
                Err(StoreError::Closed)
            }
        };
        let done = restart_on_panic("test", &env, stopped.clone(), chore(3)).await;
        assert!(matches!(done, Err(StoreError::Closed)), "its error is its own");
        assert_eq!(begun.get(), 4);
        let for_ever = restart_on_panic("test", &env, stopped, chore(u32::MAX));
        tokio::pin!(for_ever);
        assert!(timeout(HOUR, &mut for_ever).await.is_err());
        assert!((60..200).contains(&begun.get()), "at most each minute: {}", begun.get());
        stop.send(true).unwrap();
        assert!(for_ever.await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let (store, env, id) = store(&dir, 0).await;
        let (_stop, stopped) = watch::channel(false);
        let (_retention, kept) = watch::channel(HOUR);
        let clock = GraphClock::default();
        let janitor = run(&store, &env, &clock, kept, stopped.clone());
        tokio::pin!(janitor);
        assert!(timeout(HOUR, &mut janitor).await.is_err());
        drop_windows(&store, &env, vec![("alice".into(), id)], stopped).await.unwrap();
        assert!(store.windows().await.unwrap().is_empty(), "what nobody wanted is gone");
        store.close().await.unwrap();
        assert!(matches!(janitor.await, Err(StoreError::Closed)));
    }
}
