//! The two things no computation can make up: what time it is, and chance.
//!
//! Everything that needs either is handed a [`World`]. In production that is the system clock and
//! a seed from the operating system; in simulation the wall clock is derived from tokio's
//! (pausable) clock and chance from one seed, so that a whole daemon replays exactly.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::time::Instant;

/// Wall clock and entropy. Cheap to clone; clones share the entropy.
#[derive(Clone, Debug)]
pub struct World {
    clock: Clock,
    entropy: Arc<Mutex<fastrand::Rng>>,
}

#[derive(Clone, Copy, Debug)]
enum Clock {
    System,
    Simulated { at: Timestamp, since: Instant },
}

impl World {
    /// The machine's own clock, and entropy seeded by the operating system.
    pub fn real() -> Self {
        Self { clock: Clock::System, entropy: Arc::new(Mutex::new(fastrand::Rng::new())) }
    }

    /// A wall clock that reads `start` now and follows tokio's clock, and entropy from `seed`.
    pub fn simulated(seed: u64, start: Timestamp) -> Self {
        Self {
            clock: Clock::Simulated { at: start, since: Instant::now() },
            entropy: Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))),
        }
    }

    /// The wall-clock time.
    pub fn now(&self) -> Timestamp {
        match self.clock {
            Clock::System => Timestamp::now(),
            Clock::Simulated { at, since } => {
                at.checked_add(since.elapsed()).unwrap_or(Timestamp::MAX)
            }
        }
    }

    /// A random number in `[0, 1)`.
    pub fn chance(&self) -> f64 {
        self.with(fastrand::Rng::f64)
    }

    /// A random 64-bit number.
    pub fn number(&self) -> u64 {
        self.with(|rng| rng.u64(..))
    }

    /// A random (version 4) UUID, for `client-request-id`, assertions and the like.
    pub fn uuid(&self) -> uuid::Uuid {
        self.with(|rng| uuid::Builder::from_random_bytes(rng.u128(..).to_be_bytes()).into_uuid())
    }

    /// Stops tokio's paused clock from running ahead while the guard lives; costs nothing
    /// outside simulation. Held around waits for other threads (the store's writer, a socket),
    /// which tokio's clock knows nothing of.
    pub fn hold(&self) -> Option<HoldClock> {
        match self.clock {
            Clock::System => None,
            Clock::Simulated { .. } => {
                let (held, wait) = std::sync::mpsc::channel::<()>();
                tokio::task::spawn_blocking(move || wait.recv().is_ok());
                Some(HoldClock { _held: held })
            }
        }
    }

    fn with<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        // A generator cannot be left half-advanced, so a poisoned lock is still good.
        draw(&mut self.entropy.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// See [`World::hold`].
#[derive(Debug)]
pub struct HoldClock {
    _held: std::sync::mpsc::Sender<()>,
}
