//! Provides the wall clock and randomness as values.
//!
//! Code that needs either takes an [`Env`]. In production it uses the system clock and a seed from
//! the operating system. In simulation the wall clock follows tokio's (pausable) clock and all
//! randomness comes from one seed, so a whole daemon can be replayed exactly.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Wall clock and entropy. Cheap to clone; clones share the entropy.
#[derive(Clone, Debug)]
pub struct Env {
    clock: WallClock,
    entropy: Arc<Mutex<fastrand::Rng>>,
}

#[derive(Clone, Debug)]
enum WallClock {
    System,
    Simulated { at: Arc<Mutex<Timestamp>>, since: Instant },
}

impl Env {
    /// The system clock, and entropy seeded by the operating system.
    pub fn real() -> Self {
        Self { clock: WallClock::System, entropy: Arc::new(Mutex::new(fastrand::Rng::new())) }
    }

    /// A wall clock that reads `start` now and then follows tokio's clock, and entropy from `seed`.
    pub fn simulated(seed: u64, start: Timestamp) -> Self {
        Self {
            clock: WallClock::Simulated { at: Arc::new(Mutex::new(start)), since: Instant::now() },
            entropy: Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))),
        }
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

    /// Runs a long computation on the blocking thread pool.
    pub async fn compute<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match self.block_on_external(tokio::task::spawn_blocking(work)).await {
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
