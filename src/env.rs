//! The two things no computation can make up: what time it is, and chance.
//!
//! Everything that needs either is handed a [`World`]. In production that is the system clock and
//! a seed from the operating system; in simulation the wall clock is derived from tokio's
//! (pausable) clock and chance from one seed, so that a whole daemon replays exactly.

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
    /// The machine's own clock, and entropy seeded by the operating system.
    pub fn real() -> Self {
        Self { clock: WallClock::System, entropy: Arc::new(Mutex::new(fastrand::Rng::new())) }
    }

    /// A wall clock that reads `start` now and follows tokio's clock, and entropy from `seed`.
    pub fn simulated(seed: u64, start: Timestamp) -> Self {
        Self {
            clock: WallClock::Simulated { at: Arc::new(Mutex::new(start)), since: Instant::now() },
            entropy: Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))),
        }
    }

    /// The wall-clock time.
    pub fn now(&self) -> Timestamp {
        match &self.clock {
            WallClock::System => Timestamp::now(),
            WallClock::Simulated { at, since } => {
                let at = *at.lock().unwrap_or_else(PoisonError::into_inner);
                at.checked_add(since.elapsed()).unwrap_or(Timestamp::MAX)
            }
        }
    }

    /// Sets a simulated wall clock forward or back, as an administrator would; tokio's clock
    /// goes on as if nothing had been. The machine's own clock is left alone.
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

    /// A random (version 4) UUID, for `client-request-id`, assertions and the like.
    pub fn uuid(&self) -> uuid::Uuid {
        self.with(|rng| uuid::Builder::from_random_bytes(rng.u128(..).to_be_bytes()).into_uuid())
    }

    /// Waits for what another thread does: the store's writer, a read of the disk.
    ///
    /// In simulation nobody else moves meanwhile, tokio's clock included, which knows nothing of
    /// other threads. So the course of a simulated daemon does not depend on how fast they are,
    /// and the same seed is the same course. Whatever `work` waits for must then happen on another
    /// thread than the runtime's only one.
    pub async fn block_on_external<F: Future>(&self, work: F) -> F::Output {
        match self.clock {
            WallClock::System => work.await,
            WallClock::Simulated { .. } => block_on(work),
        }
    }

    /// Does a computation that may take long on another thread than the runtime's.
    pub async fn compute<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match self.block_on_external(tokio::task::spawn_blocking(work)).await {
            Ok(value) => value,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime shuts down, and this task with it.
                Err(_) => std::future::pending().await,
            },
        }
    }

    fn with<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        // A generator cannot be left half-advanced, so a poisoned lock is still good.
        draw(&mut self.entropy.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Runs a future on this thread and nothing else.
fn block_on<F: Future>(work: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    // Tokio's budget would make it yield to a scheduler that is not there.
    let mut work = pin!(tokio::task::unconstrained(work));
    loop {
        match work.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}
