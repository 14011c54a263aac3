//! A connection that is closed when its client reads too slowly.
//!
//! Buffered data per response is bounded, and a stream reads the store only as its client reads.
//! But a client that reads nothing, or next to nothing, would hold even that forever. So every
//! connection has a time allowance. It runs down while a write waits. It is restored by every byte
//! the client takes, and by time during which no write waits.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// How long a client may take nothing of what is sent to it.
pub(super) const STALL_LIMIT: Duration = Duration::from_secs(30);

/// The rate a client must sustain over that time, bytes a second. A throttled mobile connection
/// still reaches 8 KiB/s.
const MIN_RATE: u32 = 6 << 10;

/// A connection whose writes fail once its time allowance is used up.
pub(super) struct MinRateStream<I> {
    io: I,
    /// Allowance left at `since`; at most [`STALL_LIMIT`].
    left: Duration,
    /// When `left` was last updated.
    since: Instant,
    /// Runs while a write waits. Boxed, because few connections need it.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<I> MinRateStream<I> {
    pub(super) fn new(io: I) -> Self {
        Self { io, left: STALL_LIMIT, since: Instant::now(), waiting: None }
    }

    /// Passes a write result through, or fails it once it has waited too long. `taken` gives the
    /// bytes written.
    fn enforce_rate<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: Poll<io::Result<T>>,
        taken: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        let now = Instant::now();
        if let Poll::Ready(done) = &poll {
            let taken = done.as_ref().map_or(0, taken);
            let earned = Duration::from_secs(1)
                .saturating_mul(u32::try_from(taken).unwrap_or(u32::MAX))
                / MIN_RATE;
            let left = match self.waiting.take() {
                Some(waiting) => waiting.deadline().saturating_duration_since(now),
                // The client did not block this write.
                None => self.left + now.saturating_duration_since(self.since),
            };
            (self.left, self.since) = (STALL_LIMIT.min(left.saturating_add(earned)), now);
            return poll;
        }
        let left = STALL_LIMIT.min(self.left + now.saturating_duration_since(self.since));
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep_until(now + left)));
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads too slowly")))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for MinRateStream<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for MinRateStream<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.enforce_rate(cx, poll, |taken| *taken)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.io).poll_write_vectored(cx, slices);
        this.enforce_rate(cx, poll, |taken| *taken)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.io).poll_flush(cx);
        this.enforce_rate(cx, poll, |()| 0)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.io).poll_shutdown(cx);
        this.enforce_rate(cx, poll, |()| 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Writes endlessly to a client that reads `bytes` every `every` seconds. Returns how many
    /// seconds the connection lasted, at most an hour.
    async fn reading(bytes: usize, every: u64) -> u64 {
        let (mut reader, writer) = tokio::io::duplex(64 << 10);
        let mut writer = MinRateStream::new(writer);
        let begun = Instant::now();
        let mut writing = tokio::spawn(async move {
            let ended = loop {
                if let Err(error) = writer.write_all(&[7; 1000]).await {
                    break error.kind();
                }
            };
            (ended, begun.elapsed().as_secs())
        });
        let mut buffer = vec![0; bytes];
        loop {
            tokio::select! {
                ended = &mut writing => {
                    let (ended, after) = ended.unwrap();
                    assert_eq!(ended, io::ErrorKind::TimedOut);
                    return after;
                }
                () = tokio::time::sleep(Duration::from_secs(every)) => {
                    reader.read_exact(&mut buffer).await.unwrap();
                }
            }
            if begun.elapsed() >= Duration::from_secs(3600) {
                writing.abort();
                return 3600;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_below_the_minimum_rate_is_disconnected() {
        for (bytes, every, went) in [
            // No progress.
            (1, 40_000, 30..31),
            // A byte a second, a tenth of the rate, and nearly the rate.
            (1, 1, 30..31),
            (600, 1, 30..36),
            (5 << 10, 1, 150..200),
            // Slightly above the rate, steadily or in bursts.
            (7 << 10, 1, 3600..3601),
            (140 << 10, 20, 3600..3601),
            // A burst that comes too late.
            (64 << 10, 31, 30..31),
        ] {
            let after = reading(bytes, every).await;
            assert!(went.contains(&after), "{bytes} every {every} s: cut after {after} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn slowness_is_reset_while_there_is_nothing_to_send() {
        let (mut reader, writer) = tokio::io::duplex(10);
        let mut writer = MinRateStream::new(writer);
        let writing = tokio::spawn(async move {
            writer.write_all(&[7; 20]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(3600)).await;
            writer.write_all(&[7; 20]).await
        });
        for pause in [29, 3600, 29, 0] {
            tokio::time::sleep(Duration::from_secs(pause)).await;
            reader.read_exact(&mut [0; 10]).await.unwrap();
        }
        assert!(writing.await.unwrap().is_ok());
    }
}
