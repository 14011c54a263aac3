//! Signals as a stream of the two things they can mean, and the end of a stop that does not end.
//!
//! They are taken by a thread of their own. However busy the runtime is, SIGTERM ends the process
//! within [`LONGEST_STOP`], and a second one at once.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread::Builder;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};
use signal_hook::iterator::{Handle, Signals as Taken};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// How long a stop may take. After it the process exits as it is; the store survives that as it
/// survives a kill.
pub const MAX_STOP: Duration = Duration::from_secs(10);

/// How long the runtime may take to obey a second SIGTERM.
const SECOND_STOP_GRACE: Duration = Duration::from_millis(500);

/// The exit code of a process that was ended here.
const FAILED: i32 = 1;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: stop in good order. A second one: stop at once.
    Stop,
    /// SIGHUP: take the new configuration.
    Reload,
}

/// The process's signals from now on. While it lives, none of them ends the process by itself.
pub struct Signals {
    signals: UnboundedReceiver<Signal>,
    thread: Handle,
}

impl Signals {
    /// Listens for SIGTERM, SIGINT and SIGHUP.
    ///
    /// # Errors
    /// Where the handlers cannot be installed, or the thread cannot be started.
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

/// An item each time the terminal changes its size. Needs a tokio runtime.
///
/// # Errors
/// Where the handler cannot be installed.
pub fn resizes() -> io::Result<impl Stream<Item = ()> + Unpin> {
    Ok(signal_hook_tokio::Signals::new([SIGWINCH])?.map(|_| ()))
}

impl Stream for Signals {
    type Item = Signal;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Signal>> {
        self.signals.poll_recv(context)
    }
}

/// Passes signals on until the stream is dropped.
fn take(mut taken: Taken, told: &UnboundedSender<Signal>) {
    let mut stops = 0;
    for number in taken.forever() {
        let signal = if number == SIGHUP { Signal::Reload } else { Signal::Stop };
        // The stream may be gone: the process is ending then.
        told.send(signal).ok();
        if signal == Signal::Stop {
            stops += 1;
            end_after(if stops == 1 { MAX_STOP } else { SECOND_STOP_GRACE });
        }
    }
}

/// Ends the process unless it ends by itself before.
#[expect(
    clippy::disallowed_methods,
    reason = "the limit holds when no task of the runtime is polled any more"
)]
fn end_after(limit: Duration) {
    let ending = Builder::new().name("stop".to_owned()).spawn(move || {
        std::thread::sleep(limit);
        tracing::error!(
            limit_s = limit.as_secs_f64(),
            "stop takes too long, process ends as it is"
        );
        signal_hook::low_level::exit(FAILED);
    });
    if let Err(error) = ending {
        tracing::warn!(%error, "stop has no time limit");
    }
}
