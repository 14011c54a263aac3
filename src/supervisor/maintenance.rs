//! Maintains the store beside the workers: drops unwanted windows, flushes the deferred links of
//! idle rounds, trims old removals, compresses rows, and compacts the store.
//!
//! A full disk is waited out, and readers are served meanwhile. A task that panics is logged and
//! restarted. Only a failed store stops the fleet.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{FIRST_RESTART_DELAY, MAX_RESTART_DELAY};
use crate::env::Env;
use crate::metrics::{GraphClock, GraphMetrics};
use crate::mirror::position::WindowId;
use crate::mirror::schedule;
use crate::store::{CompactionOutcome, SizeWatch, Store, StoreError};

/// How often removals older than the retention are trimmed.
const TRIM_EVERY: Duration = Duration::from_secs(600);
/// How long trimming waits before it checks again whether the wall clock is usable.
const CLOCK_PAUSE: Duration = Duration::from_secs(5);
/// How often it is checked whether rows have to be compressed.
const COMPRESS_EVERY: Duration = Duration::from_secs(600);
/// The pause between two slices of 64 rows: 10 million rows take an hour.
const COMPRESS_PAUSE: Duration = Duration::from_millis(20);
/// How often it is checked whether a copy of the store, which compressing waits for, has ended.
const COPY_PAUSE: Duration = Duration::from_secs(5);
/// How often it is checked whether the store has to be compacted.
const COMPACT_EVERY: Duration = Duration::from_secs(60);
/// The pause after a compaction that was given up.
const COMPACT_RETRY: Duration = Duration::from_secs(3600);
/// The pause after the first compaction that writes outran. They may go on for a while.
const OVERRUN_RETRY: Duration = Duration::from_secs(300);
/// The pause after each quarter of a megabyte that a compaction copies: at most 25 MB/s.
const COMPACT_PAUSE: Duration = Duration::from_millis(10);
/// How long dropping a window waits for space after it found the disk full.
const SPACE_PAUSE: Duration = Duration::from_secs(60);

/// Runs a task to its end. A task that panics is restarted, with growing delays.
///
/// # Errors
/// The errors of the task.
pub(super) async fn restart_on_panic<C>(
    name: &'static str,
    env: &Env,
    stop: &CancellationToken,
    task: impl Fn(CancellationToken) -> C,
) -> Result<(), StoreError>
where
    C: Future<Output = Result<(), StoreError>>,
{
    let mut restarts = 0;
    loop {
        // The task shares only the store, which stays consistent when a caller panics.
        if let Ok(result) = AssertUnwindSafe(task(stop.clone())).catch_unwind().await {
            return result;
        }
        restarts += 1;
        let pause =
            schedule::backoff(FIRST_RESTART_DELAY, MAX_RESTART_DELAY, restarts, env.random());
        tracing::error!(
            task = name,
            restarts,
            pause_ms = pause.as_millis(),
            "maintenance task panicked, restarting"
        );
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return Ok(());
        }
    }
}

/// Flushes and trims the store until asked to stop.
///
/// # Errors
/// The store has failed.
pub(super) async fn run(
    store: Store,
    env: Env,
    graph: Arc<GraphMetrics>,
    retention: watch::Receiver<Duration>,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    let maintenance = maintain(&store, &env, &graph.clock, retention);
    stop.run_until_cancelled(maintenance).await.unwrap_or(Ok(()))
}

/// Compresses rows that are not compressed with the newest dictionary, until asked to stop.
///
/// # Errors
/// The store has failed.
pub(super) async fn compress(store: Store, stop: CancellationToken) -> Result<(), StoreError> {
    let compressing = async {
        let mut ticks = tokio::time::interval(COMPRESS_EVERY);
        loop {
            ticks.tick().await;
            match compress_rows(&store).await {
                // Tried again at the next tick.
                Ok(()) | Err(StoreError::Full) => {}
                Err(error) => return Err(error),
            }
        }
    };
    stop.run_until_cancelled(compressing).await.unwrap_or(Ok(()))
}

async fn compress_rows(store: &Store) -> Result<(), StoreError> {
    if store.train_dictionary().await? {
        tracing::info!("trained a dictionary for the store's events");
    } else if !store.needs_recompression().await? {
        return Ok(());
    }
    let mut place = None;
    loop {
        // Compressed rows are written behind a copy, which has to read them again.
        while store.is_being_copied() {
            tokio::time::sleep(COPY_PAUSE).await;
        }
        place = store.recompress(place).await?;
        if place.is_none() {
            return Ok(());
        }
        tokio::time::sleep(COMPRESS_PAUSE).await;
    }
}

/// Compacts the store whenever its files are much larger than their content, until asked to stop.
///
/// # Errors
/// The store has failed.
pub(super) async fn compact(store: Store, stop: CancellationToken) -> Result<(), StoreError> {
    let compacting = async {
        let mut ticks = tokio::time::interval_at(Instant::now() + COMPACT_EVERY, COMPACT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = SizeWatch::default();
        let (mut logged, mut overruns) = (false, 0);
        loop {
            ticks.tick().await;
            let outcome = store.compact_if_grown(&mut watch, COMPACT_PAUSE).await?;
            overruns = if outcome == CompactionOutcome::Overrun { overruns + 1 } else { 0 };
            match outcome {
                CompactionOutcome::NotNeeded => {}
                CompactionOutcome::Overrun => {
                    tracing::info!(
                        overruns,
                        "more was written than a compaction can follow, trying again later"
                    );
                    ticks.reset_after(overrun_pause(overruns));
                }
                CompactionOutcome::Done { before, after } => {
                    tracing::info!(before_bytes = before, after_bytes = after, "store compacted");
                    logged = false;
                }
                CompactionOutcome::NoSpace { free, needed } => {
                    if !logged {
                        tracing::warn!(
                            free_bytes = free,
                            needed_bytes = needed,
                            "too little disk space to compact the store, it is done later"
                        );
                    }
                    logged = true;
                    ticks.reset_after(COMPACT_RETRY);
                }
                CompactionOutcome::GivenUp(reason) => {
                    tracing::warn!(reason, "store could not be compacted, trying again later");
                    ticks.reset_after(COMPACT_RETRY);
                }
            }
        }
    };
    stop.run_until_cancelled(compacting).await.unwrap_or(Ok(()))
}

/// The pause after so many compactions in a row that writes outran.
fn overrun_pause(overruns: u32) -> Duration {
    OVERRUN_RETRY.saturating_mul(1 << overruns.saturating_sub(1).min(8)).min(COMPACT_RETRY)
}

/// Drops unwanted windows, one after the other, until asked to stop.
///
/// # Errors
/// The store has failed.
pub(super) async fn drop_windows(
    store: Store,
    env: Env,
    drops: Vec<(Arc<str>, WindowId)>,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    let windows = drops.len();
    tracing::info!(windows, "windows left the configuration, dropping their events");
    let dropping = async {
        for (name, id) in drops {
            drop_window(&store, &env, &name, id).await?;
        }
        tracing::info!(windows, "windows that left the configuration are dropped");
        Ok(())
    };
    stop.run_until_cancelled(dropping).await.unwrap_or(Ok(()))
}

/// Drops a window. If the disk is full, waits until it is not. The future may be dropped at any
/// time: the next call does the rest.
///
/// # Errors
/// The store has failed.
pub(super) async fn drop_window(
    store: &Store,
    env: &Env,
    window: &str,
    id: WindowId,
) -> Result<(), StoreError> {
    let mut logged = false;
    loop {
        match store.drop_window(id, env.now()).await {
            Err(StoreError::Full) => {}
            result => return result,
        }
        if !logged {
            tracing::warn!(window, "disk is full, dropping the window later");
            logged = true;
        }
        tokio::time::sleep(SPACE_PAUSE).await;
    }
}

/// Flushes and trims the store until it fails.
async fn maintain(
    store: &Store,
    env: &Env,
    clock: &GraphClock,
    retention: watch::Receiver<Duration>,
) -> Result<(), StoreError> {
    let mut flush = tokio::time::interval(store.max_defer());
    let mut trim = tokio::time::interval(TRIM_EVERY);
    let mut logged = false;
    loop {
        tokio::select! {
            biased;
            _ = flush.tick() => store.flush().await?,
            _ = trim.tick() => {
                let (kept, now) = (*retention.borrow(), env.now());
                if !clock.check(now).is_usable() {
                    // A clock that is ahead would trim removals that readers have not seen yet.
                    trim.reset_after(CLOCK_PAUSE);
                    continue;
                }
                let Ok(before) = now.checked_sub(kept) else { continue };
                match store.trim(before).await {
                    Err(StoreError::Full) if logged => {}
                    Err(StoreError::Full) => {
                        tracing::warn!("disk is full, trimming old removals later");
                        logged = true;
                    }
                    Err(error) => return Err(error),
                    Ok(_) => logged = false,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::store::StoreOptions;
    use crate::tests::{NOON, env, open, registration, store_options, window};

    const HOUR: Duration = Duration::from_secs(3600);

    /// A store with one window, opened again with this much space to be kept free.
    async fn store(dir: &tempfile::TempDir, min_free_bytes: u64) -> (Store, Env, WindowId) {
        let env = env();
        let first = open(dir.path(), &env);
        let id = first.register(vec![registration(&window("alice"))], NOON).await.unwrap()[0].id;
        first.close().await.unwrap();
        let options = StoreOptions { min_free_bytes, ..store_options(dir.path()) };
        (Store::open(&options, &env).unwrap().0, env, id)
    }

    #[tokio::test(start_paused = true)]
    async fn maintenance_waits_until_the_disk_has_space() {
        let dir = tempfile::tempdir().unwrap();
        let (store, env, id) = store(&dir, u64::MAX).await;
        let stop = CancellationToken::new();
        {
            let (_retention, retention) = watch::channel(HOUR);
            let maintenance =
                run(store.clone(), env.clone(), Arc::default(), retention, stop.clone());
            let drops = vec![("alice".into(), id)];
            let dropping = drop_windows(store.clone(), env.clone(), drops, stop.clone());
            let both = async { tokio::try_join!(maintenance, dropping) };
            tokio::pin!(both);
            assert!(
                timeout(2 * HOUR, &mut both).await.is_err(),
                "a task ended while the disk was full"
            );
            assert_eq!(store.windows().await.unwrap().len(), 1, "the window was dropped");
            stop.cancel();
            assert!(both.await.is_ok());
        }
        assert!(timeout(2 * HOUR, drop_window(&store, &env, "alice", id)).await.is_err());
        assert_eq!(store.windows().await.unwrap().len(), 1);
        store.close().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn rows_are_not_compressed_while_the_store_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let (store, ..) = store(&dir, 0).await;
        let mut copy = store.export().unwrap();
        let stop = CancellationToken::new();
        let compressing = compress(store.clone(), stop.clone());
        tokio::pin!(compressing);
        assert!(timeout(HOUR, &mut compressing).await.is_err());
        assert!(store.needs_recompression().await.unwrap(), "rows were written behind the copy");
        while !copy.is_over() {
            copy.next().await.unwrap();
        }
        assert!(timeout(HOUR, &mut compressing).await.is_err());
        assert!(!store.needs_recompression().await.unwrap());
        store.close().await.unwrap();
    }

    #[test]
    fn a_compaction_that_was_outrun_is_soon_tried_again() {
        let minutes = |overruns| overrun_pause(overruns).as_secs() / 60;
        assert_eq!([1, 2, 3, 4, 5, 99, u32::MAX].map(minutes), [5, 10, 20, 40, 60, 60, 60]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_restarted_until_it_ends_or_is_stopped() {
        let env = env();
        let stop = CancellationToken::new();
        let started = std::cell::Cell::new(0);
        let task = |panics: u32| {
            let started = &started;
            move |_| async move {
                started.set(started.get() + 1);
                assert!(started.get() > panics, "a deliberate panic");
                Err(StoreError::Closed)
            }
        };
        let result = restart_on_panic("test", &env, &stop, task(3)).await;
        assert!(matches!(result, Err(StoreError::Closed)), "the task's error is not returned");
        assert_eq!(started.get(), 4);
        let endless = restart_on_panic("test", &env, &stop, task(u32::MAX));
        tokio::pin!(endless);
        assert!(timeout(HOUR, &mut endless).await.is_err());
        assert!((60..200).contains(&started.get()), "restarts in an hour: {}", started.get());
        stop.cancel();
        assert!(endless.await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn maintenance_ends_with_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let (store, env, id) = store(&dir, 0).await;
        let stop = CancellationToken::new();
        let (_retention, retention) = watch::channel(HOUR);
        let maintenance = run(store.clone(), env.clone(), Arc::default(), retention, stop.clone());
        tokio::pin!(maintenance);
        assert!(timeout(HOUR, &mut maintenance).await.is_err());
        drop_windows(store.clone(), env, vec![("alice".into(), id)], stop).await.unwrap();
        assert!(store.windows().await.unwrap().is_empty(), "the unwanted window is still there");
        store.close().await.unwrap();
        assert!(matches!(maintenance.await, Err(StoreError::Closed)));
    }
}
