//! Responses that are produced slice by slice as their readers take them.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::limits::{RequestLimits, TURN_TIMEOUT};
use super::problem::Problem;

/// How long a started response may continue after the daemon stops or new settings take effect.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Resolves when a started response must end.
pub(super) async fn grace_over(stopping: CancellationToken) {
    stopping.cancelled().await;
    sleep(STOP_GRACE).await;
}

/// Produces a response slice by slice.
pub(super) trait SliceProducer: Send + 'static {
    /// Produces the next slice of about `bytes` bytes, on a blocking thread; empty if no bytes are
    /// ready yet.
    ///
    /// # Errors
    /// Before the first slice is sent, the problem is the response. Later, the response is cut off.
    fn next(&mut self, bytes: usize) -> impl Future<Output = Result<Vec<u8>, Problem>> + Send;

    /// Whether the last slice was produced.
    fn is_over(&self) -> bool;
}

/// A slice and its source, for the next one.
type NextResult<S> = Result<(Bytes, S), Problem>;

/// The slice after the one that is being sent.
enum NextSlice<S> {
    /// There is none.
    Over,
    /// It is produced when the reader asks for it.
    Wanted(S),
    /// It is being produced.
    Begun(JoinSet<NextResult<S>>),
}

/// Aborts a response: the connection is closed, so that the reader notices.
#[derive(Debug, thiserror::Error)]
#[error("the response was cut off")]
struct AnswerCutOff;

impl RequestLimits {
    /// A body produced slice by slice as its reader takes it. The first slice is produced here, so
    /// that an earlier failure can still be reported as a problem.
    ///
    /// # Errors
    /// As [`RequestLimits::run`], and the error of the first slice.
    pub(super) async fn body(
        &self,
        source: impl SliceProducer,
        stopping: CancellationToken,
    ) -> Result<Body, Problem> {
        let first = timeout(TURN_TIMEOUT, self.next(source, 0)).await.map_err(|_| Problem::Busy)?;
        let (first, source) = first?;
        Ok(self.body_after(first, source, stopping))
    }

    /// As [`RequestLimits::body`], for a first slice that was already produced.
    pub(super) fn body_after(
        &self,
        first: Bytes,
        source: impl SliceProducer,
        stopping: CancellationToken,
    ) -> Body {
        if source.is_over() {
            // Its length is known.
            return Body::from(first);
        }
        let cut = grace_over(stopping);
        let next = NextSlice::Wanted(source);
        let sending = Some((self.clone(), next, first.len(), cut.boxed()));
        let rest = stream::unfold(sending, async |sending| {
            let (work, next, sent, mut cut) = sending?;
            let mut made = match next {
                NextSlice::Over => return None,
                NextSlice::Wanted(source) => work.begin(source, sent),
                NextSlice::Begun(made) => made,
            };
            let made = tokio::select! {
                biased;
                () = &mut cut => return Some((Err(AnswerCutOff), None)),
                made = made.join_next() => made,
            };
            Some(match made {
                Some(Ok(Ok((bytes, source)))) => {
                    let sent = sent.saturating_add(bytes.len());
                    let next = work.after(source, sent, bytes.len());
                    (Ok(bytes), Some((work, next, sent, cut)))
                }
                failed => {
                    let problem = failed.and_then(Result::ok).and_then(Result::err);
                    let reason = problem.unwrap_or(Problem::Internal).to_string();
                    tracing::debug!(reason, "response cut off");
                    (Err(AnswerCutOff), None)
                }
            })
        });
        // A compressor may poll again after the end.
        let slices = stream::once(std::future::ready(Ok(first))).chain(rest).fuse();
        Body::from_stream(slices.filter(|slice| {
            let empty = slice.as_ref().is_ok_and(Bytes::is_empty);
            std::future::ready(!empty)
        }))
    }

    /// What follows after the reader was given `given` bytes, with `last` bytes in the last slice. A
    /// reader that keeps up does not wait for each slice: the next is produced while this one is
    /// sent.
    fn after<S: SliceProducer>(&self, source: S, given: usize, last: usize) -> NextSlice<S> {
        if source.is_over() {
            NextSlice::Over
        } else if self.allows_ahead(given, last) {
            NextSlice::Begun(self.begin(source, given))
        } else {
            NextSlice::Wanted(source)
        }
    }

    /// Produces a slice in a task of its own, which ends with the returned set.
    fn begin<S: SliceProducer>(&self, source: S, taken: usize) -> JoinSet<NextResult<S>> {
        let (work, mut task) = (self.clone(), JoinSet::new());
        task.spawn(async move { work.next(source, taken).await });
        task
    }

    /// Produces the next slice that is not empty, after the reader has taken `taken` bytes.
    async fn next<S: SliceProducer>(&self, mut source: S, taken: usize) -> NextResult<S> {
        loop {
            let size = self.next_size(taken);
            let make = async move {
                match source.next(size).await {
                    Ok(bytes) => (bytes, (source, Ok(()))),
                    Err(problem) => (Vec::new(), (source, Err(problem))),
                }
            };
            let (bytes, (again, made)) = self.slice(size, make).await?;
            made?;
            if !bytes.is_empty() || again.is_over() {
                return Ok((bytes, again));
            }
            source = again;
        }
    }
}
