//! Responses that are produced slice by slice as their readers take them.

use std::collections::VecDeque;
use std::mem;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::limits::{RequestLimits, TURN_TIMEOUT};
use super::problem::Problem;
use super::slice_run::{AHEAD, RunEnd, SliceProducer, SliceRun};
use super::stop_signal::StopSignal;

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
    /// The next one waits for its share of the budget, in a task of its own, too.
    Charging(JoinSet<Bytes>, S),
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
        let until = Instant::now() + TURN_TIMEOUT;
        let mut source = source;
        loop {
            let run = timeout_at(until, self.run_slices(source, AHEAD));
            let mut run = run.await.map_err(|_| Problem::Busy)??;
            if let Some((first, is_last)) = run.next().await? {
                let next = if is_last { NextSlices::Over } else { NextSlices::Running(run) };
                return Ok(self.body_of(first, next, stopping));
            }
            let end = run.end().await?;
            if let Some(problem) = end.failed {
                return Err(problem);
            }
            if let Some(large) = end.large {
                let first = timeout_at(until, large.charge(self.clone()));
                let first = first.await.map_err(|_| Problem::Busy)?;
                return Ok(self.body_after(first, end.source, stopping));
            }
            source = end.source;
            if source.is_over() {
                return Ok(Body::empty());
            }
        }
    }

    /// As [`RequestLimits::body`], for a first slice that was already produced.
    pub(super) fn body_after(
        &self,
        first: Bytes,
        source: impl SliceProducer,
        stopping: StopSignal,
    ) -> Body {
        self.body_of(first, source.into(), stopping)
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
                    None => Self::after(&self.work, run).await,
                },
                NextSlices::Charging(mut task, source) => match task.join_next().await {
                    Some(Ok(slice)) => {
                        self.ready.push_back(slice);
                        NextSlices::from(source)
                    }
                    _ => return Err(Problem::Internal),
                },
            };
        }
    }

    /// What follows a run of which every slice was taken.
    async fn after(work: &RequestLimits, run: SliceRun<S>) -> NextSlices<S> {
        match run.end().await {
            Err(problem) | Ok(RunEnd { failed: Some(problem), .. }) => NextSlices::Failed(problem),
            Ok(RunEnd { source, large: Some(large), .. }) => {
                let mut task = JoinSet::new();
                task.spawn(large.charge(work.clone()));
                NextSlices::Charging(task, source)
            }
            Ok(RunEnd { source, .. }) => source.into(),
        }
    }

    /// Begins the next run if the last one has ended and few slices are ready, for a reader that
    /// keeps up: it then does not wait for each of them. It has just taken `last` bytes.
    async fn read_ahead(&mut self, last: usize) {
        let next = match mem::replace(&mut self.next, NextSlices::Over) {
            NextSlices::Running(mut run) if run.is_finished() => {
                self.ready.extend(std::iter::from_fn(|| run.try_next()).map(|(slice, _)| slice));
                Self::after(&self.work, run).await
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

impl<S: SliceProducer> From<S> for NextSlices<S> {
    fn from(source: S) -> Self {
        if source.is_over() { Self::Over } else { Self::Wanted(source) }
    }
}
