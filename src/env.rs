//! Provides the wall clock and randomness as values.
//!
//! Code that needs either takes an [`Env`]. In production it uses the system clock and a seed from
//! the operating system. In simulation the wall clock follows tokio's (pausable) clock and all
//! randomness comes from one seed, so a whole daemon can be replayed exactly.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{Thread, available_parallelism};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Semaphore;
use tokio::task::JoinError;
use tokio::time::Instant;

/// More computations at the same time would not end sooner, but each thread has memory of its own,
/// which hundreds of enumerations would fill.
const COMPUTATIONS_PER_CORE: usize = 2;

/// Wall clock and entropy. Cheap to clone; clones share the entropy.
#[derive(Clone, Debug)]
pub struct Env {
    clock: WallClock,
    entropy: Arc<Mutex<fastrand::Rng>>,
    /// Limits the work of [`Env::compute`].
    computing: Arc<Semaphore>,
}

#[derive(Clone, Debug)]
enum WallClock {
    System,
    Simulated { at: Arc<Mutex<Timestamp>>, since: Instant },
}

impl Env {
    /// The system clock, and entropy seeded by the operating system.
    pub fn real() -> Self {
        Self::new(WallClock::System, fastrand::Rng::new())
    }

    /// A wall clock that reads `start` now and then follows tokio's clock, and entropy from `seed`.
    pub fn simulated(seed: u64, start: Timestamp) -> Self {
        let at = Arc::new(Mutex::new(start));
        let clock = WallClock::Simulated { at, since: Instant::now() };
        Self::new(clock, fastrand::Rng::with_seed(seed))
    }

    fn new(clock: WallClock, entropy: fastrand::Rng) -> Self {
        let cores = available_parallelism().map_or(1, usize::from);
        let computing = Arc::new(Semaphore::new(cores * COMPUTATIONS_PER_CORE));
        Self { clock, entropy: Arc::new(Mutex::new(entropy)), computing }
    }

    /// The current wall-clock time.
    pub fn now(&self) -> Timestamp {
        match &self.clock {
            WallClock::System => Timestamp::now(),
            WallClock::Simulated { at, since } => {
                let at = *at.lock().unwrap_or_else(PoisonError::into_inner);
                at.checked_add(since.elapsed()).unwrap_or(Timestamp::MAX)
            }
        }
    }

    /// Moves a simulated wall clock forward or back, as an administrator would. Tokio's clock is
    /// not affected. Has no effect on the system clock.
    pub fn advance_wall_clock(&self, by: SignedDuration) {
        if let WallClock::Simulated { at, .. } = &self.clock {
            let mut at = at.lock().unwrap_or_else(PoisonError::into_inner);
            *at = at.checked_add(by).unwrap_or(*at);
        }
    }

    /// A random number in `[0, 1)`.
    pub fn random(&self) -> f64 {
        self.with(fastrand::Rng::f64)
    }

    /// A random 64-bit number.
    pub fn random_u64(&self) -> u64 {
        self.with(|rng| rng.u64(..))
    }

    /// A random (version 4) UUID, for example for `client-request-id` and assertions.
    pub fn uuid(&self) -> uuid::Uuid {
        self.with(|rng| uuid::Builder::from_random_bytes(rng.u128(..).to_be_bytes()).into_uuid())
    }

    /// Waits for work that another thread does, such as the store's writer or a disk read.
    ///
    /// In simulation this blocks the runtime's only thread, so no other task runs and tokio's
    /// clock, which does not know other threads, does not advance. A simulated daemon therefore
    /// does not depend on the speed of other threads, and the same seed gives the same run. `work`
    /// must then wait only for threads other than the runtime's.
    pub async fn block_on_external<F: Future>(&self, work: F) -> F::Output {
        match self.clock {
            WallClock::System => work.await,
            WallClock::Simulated { .. } => block_on(work),
        }
    }

    /// Marks the work of a thread of the blocking pool, which may block: what it awaits need not be
    /// moved to another one ([`Env::may_block`]).
    pub async fn blocking<F: Future>(work: F) -> F::Output {
        MAY_BLOCK.scope((), work).await
    }

    /// Whether the caller was marked by [`Env::blocking`].
    pub fn may_block() -> bool {
        MAY_BLOCK.try_with(|()| ()).is_ok()
    }

    /// Runs a long computation on the blocking thread pool. A few of them run at the same time, the
    /// others wait.
    pub async fn compute<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match self.block_on_external(limited(&self.computing, work)).await {
            Ok(value) => value,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down, and this task with it.
                Err(_) => std::future::pending().await,
            },
        }
    }

    fn with<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        // The generator is never left half-advanced, so a poisoned lock is still usable.
        draw(&mut self.entropy.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

tokio::task_local! {
    static MAY_BLOCK: ();
}

/// Runs work on the blocking thread pool once `limit` has a permit, which it keeps until the work
/// ends, even if the caller does not wait for it.
///
/// # Errors
/// If the work panicked, or the runtime ended before the work began.
pub async fn limited<T: Send + 'static>(
    limit: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    // The semaphore is never closed.
    let permit = limit.clone().acquire_owned().await.ok();
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        work()
    })
    .await
}

/// Runs only this future on the current thread.
fn block_on<F: Future>(work: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    // Tokio's cooperative budget would make the future yield to a scheduler that does not run.
    let mut work = pin!(tokio::task::unconstrained(work));
    loop {
        match work.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_permit_lasts_as_long_as_the_work_even_if_nobody_waits_for_it() {
        let limit = Arc::new(Semaphore::new(2));
        let gate = Arc::new(Barrier::new(3));
        let begun = Arc::new(AtomicUsize::new(0));
        let works = [(); 2].map(|()| {
            let (limit, gate, begun) = (limit.clone(), gate.clone(), begun.clone());
            let work = move || {
                begun.fetch_add(1, Ordering::Relaxed);
                gate.wait();
            };
            tokio::spawn(async move { limited(&limit, work).await })
        });
        while begun.load(Ordering::Relaxed) < 2 {
            tokio::task::yield_now().await;
        }
        works.iter().for_each(|work| work.abort());
        tokio::task::yield_now().await;
        let (next, free) = (limited(&limit, || ()).now_or_never(), limit.available_permits());
        gate.wait();
        assert!(next.is_none());
        assert_eq!(free, 0);
        limited(&limit, || ()).await.unwrap();
    }
}
