//! Signals as a stream of the two things they can mean.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::{Stream, StreamExt as _};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: stop in good order. A second one: stop at once.
    Stop,
    /// SIGHUP: take the new configuration.
    Reload,
}

/// The process's signals from now on. While it lives, none of them ends the process by itself.
pub struct Signals(signal_hook_tokio::Signals);

impl Signals {
    /// Listens for SIGTERM, SIGINT and SIGHUP. Needs a tokio runtime.
    ///
    /// # Errors
    /// Where the handlers cannot be installed.
    pub fn listen() -> io::Result<Self> {
        signal_hook_tokio::Signals::new([SIGTERM, SIGINT, SIGHUP]).map(Self)
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
        self.0.poll_next_unpin(context).map(|signal| {
            signal.map(|number| if number == SIGHUP { Signal::Reload } else { Signal::Stop })
        })
    }
}
