//! How much memory decoded answers may take, all requests in flight together.
//!
//! A single answer is limited by its cap. This is the limit of their sum: each answer reserves
//! what it decodes, in pieces of [`UNIT`], and keeps the reservation until what was made of it is
//! written. An answer that finds the budget exhausted waits for others to finish. Answers that
//! wait for each other would wait forever, so one at a time may exceed the budget, by no more than
//! its own cap. The sum is therefore at most the budget and one answer.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that are reserved at a time.
const UNIT: usize = 64 * 1024;

/// The memory of a client's answers. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub(super) struct PageMemory {
    budget: Arc<Semaphore>,
    /// Held by the one answer that may exceed the budget.
    excess: Arc<Semaphore>,
}

impl PageMemory {
    /// A budget of so many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        let units = (bytes / UNIT).min(Semaphore::MAX_PERMITS);
        Self { budget: Arc::new(Semaphore::new(units)), excess: Arc::new(Semaphore::new(1)) }
    }

    /// Raises a reservation to so many bytes, waiting for memory if there is none.
    pub(super) async fn reserve(&self, reservation: &mut Reservation, bytes: usize) {
        if bytes <= reservation.bytes || reservation.excess.is_some() {
            return;
        }
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

/// Memory that an answer takes; given back when this is dropped.
#[derive(Debug, Default)]
pub struct Reservation {
    budget: Option<OwnedSemaphorePermit>,
    excess: Option<OwnedSemaphorePermit>,
    /// What `budget` covers.
    bytes: usize,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn answers_wait_for_memory_and_one_at_a_time_exceeds_it() {
        let memory = PageMemory::new(10 * UNIT);
        let mut answers = [(); 4].map(|()| Reservation::default());
        let [first, second, third, fourth] = &mut answers;
        memory.reserve(first, 6 * UNIT).await;
        memory.reserve(second, 4 * UNIT).await;
        assert_eq!(memory.budget.available_permits(), 0);
        // The third exceeds the budget, as far as it likes; the others wait.
        memory.reserve(third, UNIT).await;
        memory.reserve(third, 100 * UNIT).await;
        assert!(timeout(SOON, memory.reserve(fourth, 1)).await.is_err());
        assert!(timeout(SOON, memory.reserve(first, 7 * UNIT)).await.is_err());
        memory.reserve(first, 6 * UNIT).await;
        // With the excess free the next one takes it, with memory free that.
        *third = Reservation::default();
        memory.reserve(first, 7 * UNIT).await;
        *second = Reservation::default();
        memory.reserve(fourth, 4 * UNIT).await;
        assert_eq!(memory.budget.available_permits(), 0);
        drop(answers);
        assert_eq!(memory.budget.available_permits(), 10, "everything is given back");
        assert_eq!(memory.excess.available_permits(), 1);
    }
}
