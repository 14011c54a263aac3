//! Runs a daemon and turns the process's signals into stops and reloads. Used by `run`, `demo` and
//! `simulate`.

use futures_util::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;

use super::exit::{CliError, DONE, FAILED};
use crate::platform::signals::Signal;

/// Runs the future that `start` returns until it ends by itself or signals end it. The first
/// [`Signal::Stop`] cancels the token that `start` gets, a second one abandons the future and
/// returns at once. [`Signal::Reload`] calls `reload`.
///
/// # Errors
/// The error that the future ends with.
pub async fn run<D>(
    mut signals: impl Stream<Item = Signal> + Unpin,
    reload: impl Fn(),
    start: impl FnOnce(CancellationToken) -> D,
) -> Result<u8, CliError>
where
    D: Future<Output = Result<(), CliError>>,
{
    let stop = CancellationToken::new();
    let mut running = std::pin::pin!(start(stop.clone()));
    loop {
        let signal = tokio::select! {
            biased;
            ended = &mut running => return ended.map(|()| DONE),
            Some(signal) = signals.next() => signal,
        };
        match signal {
            Signal::Reload => reload(),
            Signal::Stop if !stop.is_cancelled() => stop.cancel(),
            Signal::Stop => {
                tracing::warn!("stopped at once by a second signal");
                return Ok(FAILED);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    #[tokio::test]
    async fn the_first_stop_signal_drains_and_the_second_exits_at_once() {
        let ignored = || ();
        let obeyed = run(stream::iter([Signal::Stop]), ignored, async |stop: CancellationToken| {
            stop.cancelled().await;
            Ok(())
        });
        assert_eq!(obeyed.await, Ok(DONE));

        let stops = stream::iter([Signal::Stop, Signal::Stop]);
        let deaf = run(stops, ignored, async |_: CancellationToken| std::future::pending().await);
        assert_eq!(deaf.await, Ok(FAILED));
    }

    #[tokio::test]
    async fn every_reload_signal_is_delivered() {
        let signals = [Signal::Reload, Signal::Reload, Signal::Reload, Signal::Stop];
        let reloads = std::cell::Cell::new(0);
        let count = || reloads.set(reloads.get() + 1);
        let outcome = run(stream::iter(signals), count, async |stop: CancellationToken| {
            stop.cancelled().await;
            Ok(())
        });
        assert_eq!(outcome.await, Ok(DONE));
        assert_eq!(reloads.get(), 3);
    }

    #[tokio::test]
    async fn a_daemon_that_ends_on_its_own_returns_its_error() {
        let failure = CliError::new(74, "the store is in use");
        let ignored = || ();
        let outcome = run(stream::pending(), ignored, async |_: CancellationToken| {
            Err(CliError::new(74, "the store is in use"))
        });
        assert_eq!(outcome.await, Err(failure));
    }
}
