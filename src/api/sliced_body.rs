//! Responses that are produced slice by slice as their readers take them.

use std::collections::VecDeque;
use std::mem;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::limits::{RequestLimits, TURN_TIMEOUT};
use super::problem::Problem;
use super::slice_run::{AHEAD, SliceRun};
use super::stop_signal::StopSignal;

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

/// What comes after the slices that are ready.
enum NextSlices<S> {
    /// Nothing.
    Over,
    /// They are produced when the reader asks for them.
    Wanted(S),
    /// They wait for their turn, in a task of its own: a body is not polled while its reader takes
    /// nothing, and must not hold a place in the queue meanwhile.
    Waiting(JoinSet<Result<SliceRun<S>, Problem>>),
    /// They are being produced.
    Running(SliceRun<S>),
    /// The response is cut off.
    Failed(Problem),
}

/// The slices of a response.
struct Slices<S> {
    work: RequestLimits,
    /// Produced before the reader asked for them.
    ready: VecDeque<Bytes>,
    next: NextSlices<S>,
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
        stopping: StopSignal,
    ) -> Result<Body, Problem> {
        let first = async {
            let mut source = source;
            loop {
                let mut run = self.run_slices(source, AHEAD).await?;
                if let Some((slice, is_last)) = run.next().await? {
                    let next = if is_last { NextSlices::Over } else { NextSlices::Running(run) };
                    return Ok((slice, next));
                }
                source = run.end().await?;
                if source.is_over() {
                    return Ok((Bytes::new(), NextSlices::Over));
                }
            }
        };
        let first: Result<_, Problem> =
            timeout(TURN_TIMEOUT, first).await.map_err(|_| Problem::Busy)?;
        let (first, next) = first?;
        Ok(self.body_of(first, next, stopping))
    }

    /// As [`RequestLimits::body`], for a first slice that was already produced.
    pub(super) fn body_after(
        &self,
        first: Bytes,
        source: impl SliceProducer,
        stopping: StopSignal,
    ) -> Body {
        let next = if source.is_over() { NextSlices::Over } else { NextSlices::Wanted(source) };
        self.body_of(first, next, stopping)
    }

    fn body_of<S: SliceProducer>(
        &self,
        first: Bytes,
        next: NextSlices<S>,
        stopping: StopSignal,
    ) -> Body {
        if matches!(next, NextSlices::Over) {
            // Its length is known.
            return Body::from(first);
        }
        let cut = stopping.grace_over();
        let slices = Slices { work: self.clone(), ready: VecDeque::new(), next };
        let rest = stream::unfold(Some((slices, cut.boxed())), async |sending| {
            let (mut slices, mut cut) = sending?;
            let slice = tokio::select! {
                biased;
                () = &mut cut => return Some((Err(AnswerCutOff), None)),
                slice = slices.next() => slice,
            };
            match slice {
                Ok(slice) => Some((Ok(slice?), Some((slices, cut)))),
                Err(problem) => {
                    tracing::debug!(reason = %problem, "response cut off");
                    Some((Err(AnswerCutOff), None))
                }
            }
        });
        // A compressor may poll again after the end.
        let first = Some(first).filter(|first| !first.is_empty()).map(Ok);
        Body::from_stream(stream::iter(first).chain(rest).fuse())
    }

    /// Produces further slices, at most `most` ahead.
    fn begin<S: SliceProducer>(&self, source: S, most: usize) -> NextSlices<S> {
        match self.try_run_slices(source, most) {
            Ok(run) => NextSlices::Running(run),
            Err(source) => {
                let (work, mut task) = (self.clone(), JoinSet::new());
                task.spawn(async move { work.run_slices(source, most).await });
                NextSlices::Waiting(task)
            }
        }
    }
}

impl<S: SliceProducer> Slices<S> {
    /// The next slice; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        loop {
            if let Some(slice) = self.ready.pop_front() {
                self.read_ahead(slice.len()).await;
                return Ok(Some(slice));
            }
            self.next = match mem::replace(&mut self.next, NextSlices::Over) {
                NextSlices::Over => return Ok(None),
                NextSlices::Failed(problem) => return Err(problem),
                NextSlices::Wanted(source) => self.work.begin(source, AHEAD),
                NextSlices::Waiting(mut task) => match task.join_next().await {
                    Some(Ok(run)) => NextSlices::Running(run?),
                    _ => return Err(Problem::Internal),
                },
                NextSlices::Running(mut run) => match run.next().await? {
                    Some((slice, _)) => {
                        self.ready.push_back(slice);
                        NextSlices::Running(run)
                    }
                    None => NextSlices::after(run).await,
                },
            };
        }
    }

    /// Begins the next run if the last one has ended and few slices are ready, for a reader that
    /// keeps up: it then does not wait for each of them. It has just taken `last` bytes.
    async fn read_ahead(&mut self, last: usize) {
        let next = match mem::replace(&mut self.next, NextSlices::Over) {
            NextSlices::Running(mut run) if run.is_finished() => {
                self.ready.extend(std::iter::from_fn(|| run.try_next()).map(|(slice, _)| slice));
                NextSlices::after(run).await
            }
            next => next,
        };
        self.next = match next {
            NextSlices::Wanted(source)
                if self.ready.len() < AHEAD && self.work.allows_ahead(last) =>
            {
                self.work.begin(source, AHEAD - self.ready.len())
            }
            next => next,
        };
    }
}

impl<S: SliceProducer> NextSlices<S> {
    /// What follows a run of which every slice was taken.
    async fn after(run: SliceRun<S>) -> Self {
        match run.end().await {
            Ok(source) if source.is_over() => Self::Over,
            Ok(source) => Self::Wanted(source),
            Err(problem) => Self::Failed(problem),
        }
    }
}
