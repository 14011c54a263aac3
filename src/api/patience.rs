//! A connection that is given up when its reader takes nothing for too long.
//!
//! What an answer holds is bounded, and a stream is read from the store only as its reader takes
//! it; but a reader that takes nothing at all would keep even that for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// How long a reader may take nothing of what is sent to it.
pub(super) const STALL: Duration = Duration::from_secs(30);

/// A connection whose writes fail once none has got on for [`STALL`].
pub(super) struct Patience<I> {
    io: I,
    /// Runs while a write waits. Boxed: few connections ever need it.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<I> Patience<I> {
    pub(super) fn new(io: I) -> Self {
        Self { io, waiting: None }
    }

    /// Lets a result through, and turns waiting for too long into an error.
    fn judge<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.waiting = None;
            return poll;
        }
        let waiting =
            self.waiting.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + STALL)));
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the reader takes nothing")))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Patience<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Patience<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.judge(cx, poll)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.io).poll_write_vectored(cx, slices);
        this.judge(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.io).poll_flush(cx);
        this.judge(cx, poll)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.io).poll_shutdown(cx);
        this.judge(cx, poll)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test(start_paused = true)]
    async fn a_reader_may_be_slow_but_not_stand_still() {
        let (mut reader, writer) = tokio::io::duplex(10);
        let mut writer = Patience::new(writer);
        let begun = Instant::now();
        let writing = tokio::spawn(async move {
            let written = writer.write_all(&[7; 60]).await;
            written.map_err(|error| error.kind())
        });
        // Slowly, but within patience each time: 10 at once, then 10 every 20 s.
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(20)).await;
            reader.read_exact(&mut [0; 10]).await.unwrap();
        }
        assert_eq!(writing.await.unwrap(), Err(io::ErrorKind::TimedOut));
        assert_eq!(begun.elapsed().as_secs(), 60 + 30);
    }
}
