//! Turns signals into a stream of stop and reload requests, and limits how long a stop may take.
//!
//! A thread of its own receives the signals. However busy the runtime is, SIGTERM ends the process
//! within [`MAX_STOP`], and a second one almost at once.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread::Builder;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};
use signal_hook::iterator::{Handle, Signals as Taken};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// How long a stop may take. After that the process exits without cleanup; the store survives this
/// as it survives a kill.
pub const MAX_STOP: Duration = Duration::from_secs(10);

/// How long the runtime may take to act on a second SIGTERM.
const SECOND_STOP_GRACE: Duration = Duration::from_millis(500);

/// The exit code after a stop that exceeded its limit.
const FAILED: i32 = 1;

/// What a signal requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: stop gracefully. A second one: stop at once.
    Stop,
    /// SIGHUP: reload the configuration.
    Reload,
}

/// A stream of the process's signals. While it lives, none of them ends the process directly.
pub struct Signals {
    signals: UnboundedReceiver<Signal>,
    thread: Handle,
}

impl Signals {
    /// Listens for SIGTERM, SIGINT and SIGHUP.
    ///
    /// # Errors
    /// If the handlers cannot be installed or the thread cannot be started.
    pub fn listen() -> io::Result<Self> {
        let taken = Taken::new([SIGTERM, SIGINT, SIGHUP])?;
        let thread = taken.handle();
        let (told, signals) = unbounded_channel();
        Builder::new().name("signals".to_owned()).spawn(move || take(taken, &told))?;
        Ok(Self { signals, thread })
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.thread.close();
    }
}

/// Yields an item each time the terminal changes its size. Needs a tokio runtime.
///
/// # Errors
/// If the handler cannot be installed.
pub fn resizes() -> io::Result<impl Stream<Item = ()> + Unpin> {
    Ok(signal_hook_tokio::Signals::new([SIGWINCH])?.map(|_| ()))
}

impl Stream for Signals {
    type Item = Signal;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Signal>> {
        self.signals.poll_recv(context)
    }
}

/// Forwards signals until the stream is dropped.
fn take(mut taken: Taken, told: &UnboundedSender<Signal>) {
    let mut stops = 0;
    for number in taken.forever() {
        let signal = if number == SIGHUP { Signal::Reload } else { Signal::Stop };
        // The stream is gone if the process is ending.
        told.send(signal).ok();
        if signal == Signal::Stop {
            stops += 1;
            end_after(if stops == 1 { MAX_STOP } else { SECOND_STOP_GRACE });
        }
    }
}

/// Ends the process after `limit`, unless it ends by itself before.
#[expect(
    clippy::disallowed_methods,
    reason = "the limit must hold even if the runtime no longer polls any task"
)]
fn end_after(limit: Duration) {
    let ending = Builder::new().name("stop".to_owned()).spawn(move || {
        std::thread::sleep(limit);
        tracing::error!(limit_s = limit.as_secs_f64(), "shutdown takes too long, exiting now");
        signal_hook::low_level::exit(FAILED);
    });
    if let Err(error) = ending {
        tracing::warn!(%error, "cannot limit the time of the shutdown");
    }
}
