//! Limits the memory of decoded answers over all requests in flight.
//!
//! A single answer is limited by its cap. This module limits their sum: each answer reserves what
//! it decodes, in pieces of [`UNIT`], and keeps the reservation until its results are written. An
//! answer waits while the budget is exhausted. Answers that wait for each other would deadlock, so
//! one answer at a time may exceed the budget, by at most its own cap. The sum is therefore at most
//! the budget plus one answer.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::{Gauge, GaugeGuard};

/// Bytes reserved at a time.
const UNIT: usize = 64 * 1024;

/// The memory of a client's answers. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub(super) struct PageMemory {
    budget: Arc<Semaphore>,
    /// Held by the one answer that may exceed the budget.
    excess: Arc<Semaphore>,
    /// Shows what is reserved.
    level: Gauge,
}

impl PageMemory {
    /// A budget of `bytes`; `level` shows how much of it is reserved.
    pub(super) fn new(bytes: usize, level: Gauge) -> Self {
        let units = (bytes / UNIT).min(Semaphore::MAX_PERMITS);
        let (budget, excess) = (Arc::new(Semaphore::new(units)), Arc::new(Semaphore::new(1)));
        Self { budget, excess, level }
    }

    /// Raises a reservation to `bytes`; waits while no memory is available.
    pub(super) async fn reserve(&self, reservation: &mut Reservation, bytes: usize) {
        if bytes > reservation.bytes && reservation.excess.is_none() {
            self.acquire(reservation, bytes).await;
        }
        reservation.level.get_or_insert_with(|| self.level.hold(0)).raise(bytes as u64);
    }

    async fn acquire(&self, reservation: &mut Reservation, bytes: usize) {
        let units = u32::try_from((bytes - reservation.bytes).div_ceil(UNIT)).unwrap_or(u32::MAX);
        let budget = self.budget.clone().acquire_many_owned(units);
        let excess = self.excess.clone().acquire_owned();
        // Neither semaphore is ever closed.
        tokio::select! {
            biased;
            Ok(permit) = budget => {
                match &mut reservation.budget {
                    Some(held) => held.merge(permit),
                    None => reservation.budget = Some(permit),
                }
                reservation.bytes += units as usize * UNIT;
            }
            Ok(permit) = excess => reservation.excess = Some(permit),
            else => {}
        }
    }
}

/// Memory reserved for an answer; released on drop.
#[derive(Debug, Default)]
pub struct Reservation {
    budget: Option<OwnedSemaphorePermit>,
    excess: Option<OwnedSemaphorePermit>,
    /// The bytes that `budget` covers.
    bytes: usize,
    level: Option<GaugeGuard>,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn responses_wait_for_memory_and_only_one_at_a_time_may_exceed_it() {
        let level = Gauge::default();
        let memory = PageMemory::new(10 * UNIT, level.clone());
        let mut answers = [(); 4].map(|()| Reservation::default());
        let [first, second, third, fourth] = &mut answers;
        memory.reserve(first, 6 * UNIT).await;
        memory.reserve(second, 4 * UNIT).await;
        assert_eq!(memory.budget.available_permits(), 0);
        // The third exceeds the budget without a limit; the others wait.
        memory.reserve(third, UNIT).await;
        memory.reserve(third, 100 * UNIT).await;
        assert!(timeout(SOON, memory.reserve(fourth, 1)).await.is_err());
        assert!(timeout(SOON, memory.reserve(first, 7 * UNIT)).await.is_err());
        memory.reserve(first, 6 * UNIT).await;
        // The next one takes the excess once it is free, or memory once that is free.
        *third = Reservation::default();
        memory.reserve(first, 7 * UNIT).await;
        *second = Reservation::default();
        memory.reserve(fourth, 4 * UNIT).await;
        assert_eq!(memory.budget.available_permits(), 0);
        assert_eq!(level.value(), 11 * UNIT as u64, "seven for the first, four for the fourth");
        drop(answers);
        assert_eq!(level.value(), 0);
        assert_eq!(memory.budget.available_permits(), 10, "everything is given back");
        assert_eq!(memory.excess.available_permits(), 1);
    }
}
