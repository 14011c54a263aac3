//! The signal that ends held requests and streams: the daemon stops, or new settings take effect.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// How long a started response may continue.
const GRACE: Duration = Duration::from_secs(5);

/// The signal. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct StopSignal {
    token: CancellationToken,
    /// When it was given: a body that its reader does not take is not polled, so it cannot measure
    /// the time itself.
    at: Arc<OnceLock<Instant>>,
}

impl StopSignal {
    /// Gives the signal.
    pub fn give(&self) {
        self.at.get_or_init(Instant::now);
        self.token.cancel();
    }

    /// Whether it was given.
    pub fn is_given(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Resolves when it is given.
    pub async fn given(&self) {
        self.token.cancelled().await;
    }

    /// Resolves when a started response must end.
    pub(super) async fn grace_over(self) {
        self.given().await;
        // It is set before the token is cancelled.
        let at = self.at.get().copied().unwrap_or_else(Instant::now);
        sleep_until(at + GRACE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_grace_begins_with_the_signal_whoever_waits() {
        let signal = StopSignal::default();
        let waiting = signal.clone().grace_over();
        signal.give();
        let begun = Instant::now();
        tokio::time::sleep(Duration::from_secs(4)).await;
        // Polled for the first time.
        waiting.await;
        assert_eq!(begun.elapsed(), GRACE);
        signal.give();
        signal.clone().grace_over().await;
        assert_eq!(begun.elapsed(), GRACE, "the first signal counts");
    }
}
