//! Runs a daemon and turns the process's signals into stops and reloads. Used by `run`, `demo` and
//! `simulate`.

use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::exit::{CliError, DONE, FAILED};
use crate::platform::signals::Signal;

/// The stop and reload requests for a running daemon.
#[derive(Debug)]
pub struct DaemonControls {
    /// Cancelled when the daemon is to stop gracefully.
    pub stop: CancellationToken,
    /// One message per reload request; requests that arrive while one is pending are merged.
    pub reload: mpsc::Receiver<()>,
}

/// Runs the future that `start` returns until it ends by itself or signals end it. The first
/// [`Signal::Stop`] asks it to stop; a second one abandons it and returns at once.
///
/// # Errors
/// The error that the daemon ends with.
pub async fn run<D>(
    mut signals: impl Stream<Item = Signal> + Unpin,
    start: impl FnOnce(DaemonControls) -> D,
) -> Result<u8, CliError>
where
    D: Future<Output = Result<(), CliError>>,
{
    let stop = CancellationToken::new();
    let (reload, reloads) = mpsc::channel(1);
    let controls = DaemonControls { stop: stop.clone(), reload: reloads };
    let mut daemon = std::pin::pin!(start(controls));
    loop {
        let signal = tokio::select! {
            biased;
            ended = &mut daemon => return ended.map(|()| DONE),
            Some(signal) = signals.next() => signal,
        };
        match signal {
            Signal::Reload => {
                // If the channel is full, a pending request will read the newest files.
                reload.try_send(()).ok();
            }
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
    async fn the_first_stop_is_an_order_and_the_second_the_end() {
        let obeyed = run(stream::iter([Signal::Stop]), async |controls: DaemonControls| {
            controls.stop.cancelled().await;
            Ok(())
        });
        assert_eq!(obeyed.await, Ok(DONE));

        let deaf = run(stream::iter([Signal::Stop, Signal::Stop]), async |_: DaemonControls| {
            std::future::pending().await
        });
        assert_eq!(deaf.await, Ok(FAILED));
    }

    #[tokio::test]
    async fn reloads_arrive_and_do_not_pile_up() {
        let signals = [Signal::Reload, Signal::Reload, Signal::Reload, Signal::Stop];
        let outcome = run(stream::iter(signals), async |mut controls: DaemonControls| {
            controls.stop.cancelled().await;
            assert!(controls.reload.try_recv().is_ok());
            assert!(controls.reload.try_recv().is_err());
            Ok(())
        });
        assert_eq!(outcome.await, Ok(DONE));
    }

    #[tokio::test]
    async fn a_daemon_that_ends_by_itself_says_why() {
        let failure = CliError::new(74, "the store is in use");
        let outcome = run(stream::pending(), async |_: DaemonControls| {
            Err(CliError::new(74, "the store is in use"))
        });
        assert_eq!(outcome.await, Err(failure));
    }
}
