//! What requests may take of the process: blocking threads, time and memory.
//!
//! Reading the store and rendering run on the runtime's blocking threads, at most [`TURNS`]
//! requests at a time, so that the runtime's own threads always answer `/healthz` and the workers
//! always find a blocking thread. Answers leave in slices of about [`SLICE_BYTES`]. All slices that
//! readers have not taken yet share one budget, [`BUDGET`]; turns and bytes are handed out in the
//! order of the requests. A computation that does not end costs its turn and nothing else.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::coding::CompressorPool;
use super::problem::Problem;
use crate::env::Env;

/// Requests that compute at the same time. Each takes a blocking thread and, while it reads the
/// store, a second one; the process has 32.
pub(super) const MAX_CONCURRENT: usize = 8;

/// How many bytes a slice of an answer has, but for the last event or window in it.
pub(super) const SLICE_BYTES: usize = 32 << 10;

/// Bytes of slices that were made and not taken by their readers, over all answers.
pub(super) const BUDGET: usize = 48 << 20;

/// Bytes of answers that cannot be made in slices, over all of them.
const WHOLE_BUDGET: usize = 32 << 20;

/// Requests for such answers that compute, or wait for their bytes, at the same time.
const MAX_WHOLE_ANSWERS: usize = 4;

/// How long a request waits for its turn, or for the first bytes of its answer.
pub(super) const TURN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a single turn may take before its request is given up.
pub(super) const MAX_TURN: Duration = Duration::from_secs(30);

/// How long an answer that has begun may go on once the daemon stops or other settings are in
/// force.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// See the module. Clones share the same limits.
#[derive(Clone, Debug)]
pub struct RequestLimits {
    env: Env,
    turns: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    wholes: Arc<Semaphore>,
    whole_bytes: Arc<Semaphore>,
    pub(super) coders: CompressorPool,
}

/// Produces an answer slice by slice.
pub(super) trait SliceProducer: Send + 'static {
    /// The next slice, on a blocking thread; empty where there is nothing yet.
    ///
    /// # Errors
    /// Before the first slice left, the answer is this problem; later the answer is cut off.
    fn next(&mut self) -> impl Future<Output = Result<Vec<u8>, Problem>> + Send;

    /// Whether the last slice was made.
    fn is_over(&self) -> bool;
}

/// An answer ended early: the connection is closed, so that its reader notices.
#[derive(Debug, thiserror::Error)]
#[error("the answer was cut off")]
struct AnswerCutOff;

/// Bytes that count against a budget until they are dropped.
struct BudgetedBytes {
    bytes: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for BudgetedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl RequestLimits {
    /// Limits of their own.
    pub fn new(env: Env) -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self {
            env,
            turns: semaphore(MAX_CONCURRENT),
            bytes: semaphore(BUDGET),
            wholes: semaphore(MAX_WHOLE_ANSWERS),
            whole_bytes: semaphore(WHOLE_BUDGET),
            coders: CompressorPool::default(),
        }
    }

    /// Drives a computation on a blocking thread when it is its turn.
    ///
    /// # Errors
    /// 503 where its turn does not come or does not end in time; 500 where it panics.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Problem> {
        let turn =
            timeout(TURN_TIMEOUT, permits(&self.turns, 1)).await.map_err(|_| Problem::busy())?;
        self.take(&Arc::new(turn), work).await
    }

    /// Drives a computation within a turn. The thread keeps the turn for as long as it runs.
    async fn take<T: Send + 'static>(
        &self,
        turn: &Arc<OwnedSemaphorePermit>,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Problem> {
        let (turn, handle) = (turn.clone(), Handle::current());
        let thread = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            handle.block_on(work)
        });
        match timeout(MAX_TURN, self.env.block_on_external(thread)).await {
            Ok(Ok(done)) => Ok(done),
            // A panic is logged where it happens.
            Ok(Err(_)) => Err(Problem::internal()),
            Err(_) => {
                tracing::error!(
                    limit_s = MAX_TURN.as_secs(),
                    turns_left = self.turns.available_permits(),
                    "request given up, its thread still computes"
                );
                Err(Problem::too_slow())
            }
        }
    }

    /// Makes one slice of an answer and whatever comes with it.
    ///
    /// # Errors
    /// As [`Work::run`].
    pub(super) async fn slice<T: Send + 'static>(
        &self,
        make: impl Future<Output = (Vec<u8>, T)> + Send + 'static,
    ) -> Result<(Bytes, T), Problem> {
        // On a task of its own: a body that is not polled, because its reader takes nothing, must
        // not keep a turn or its place in a line.
        let mut task = JoinSet::new();
        task.spawn(self.clone().make(make));
        match task.join_next().await {
            Some(Ok(made)) => made,
            _ => Err(Problem::internal()),
        }
    }

    async fn make<T: Send + 'static>(
        self,
        make: impl Future<Output = (Vec<u8>, T)> + Send + 'static,
    ) -> Result<(Bytes, T), Problem> {
        // Nothing is computed before there is room for it.
        let mut permit = permits(&self.bytes, SLICE_BYTES).await;
        let turn =
            timeout(TURN_TIMEOUT, permits(&self.turns, 1)).await.map_err(|_| Problem::busy())?;
        let turn = Arc::new(turn);
        let (bytes, with) = self.take(&turn, make).await?;
        let bytes = exactly(bytes);
        match bytes.len().min(BUDGET / 4) {
            0 => return Ok((Bytes::new(), with)),
            length if length > SLICE_BYTES => {
                // With the turn, so that few large slices wait for their share.
                permit.merge(permits(&self.bytes, length - SLICE_BYTES).await);
            }
            length => drop(permit.split(SLICE_BYTES - length)),
        }
        Ok((Bytes::from_owner(BudgetedBytes { bytes, _permit: permit }), with))
    }

    /// A body that is made slice by slice, as its reader takes it. The first slice is made here,
    /// so that what goes wrong before it is still a problem.
    ///
    /// # Errors
    /// As [`Work::run`], and what the first slice fails with.
    pub(super) async fn body(
        &self,
        source: impl SliceProducer,
        stopping: watch::Receiver<bool>,
    ) -> Result<Body, Problem> {
        let first = timeout(TURN_TIMEOUT, self.next(source)).await.map_err(|_| Problem::busy())?;
        let (first, source) = first?;
        Ok(self.body_after(first, source, stopping))
    }

    /// The same where the first slice is there already.
    pub(super) fn body_after(
        &self,
        first: Bytes,
        source: impl SliceProducer,
        stopping: watch::Receiver<bool>,
    ) -> Body {
        if source.is_over() {
            // Of known length.
            return Body::from(first);
        }
        let sending = BodyProducer { work: self.clone(), source, cut: cut(stopping) };
        let rest = stream::unfold(Some(sending), async |sending| {
            let BodyProducer { work, source, mut cut } = sending.filter(|s| !s.source.is_over())?;
            let made = tokio::select! {
                biased;
                () = &mut cut => return Some((Err(AnswerCutOff), None)),
                made = work.next(source) => made,
            };
            Some(match made {
                Ok((bytes, source)) => (Ok(bytes), Some(BodyProducer { work, source, cut })),
                Err(problem) => {
                    tracing::debug!(reason = problem.detail(), "answer cut off");
                    (Err(AnswerCutOff), None)
                }
            })
        });
        // A compressor may ask once more after the end.
        let slices = stream::once(std::future::ready(Ok(first))).chain(rest).fuse();
        Body::from_stream(slices.filter(|slice| {
            let empty = slice.as_ref().is_ok_and(Bytes::is_empty);
            std::future::ready(!empty)
        }))
    }

    /// The next slice that is not empty.
    async fn next<S: SliceProducer>(&self, mut source: S) -> Result<(Bytes, S), Problem> {
        loop {
            let make = async move {
                match source.next().await {
                    Ok(bytes) => (bytes, (source, Ok(()))),
                    Err(problem) => (Vec::new(), (source, Err(problem))),
                }
            };
            let (bytes, (again, made)) = self.slice(make).await?;
            made?;
            if !bytes.is_empty() || again.is_over() {
                return Ok((bytes, again));
            }
            source = again;
        }
    }

    /// An answer that has to be made whole: computed when it is its turn, and held until its
    /// reader has taken it.
    ///
    /// # Errors
    /// As [`Work::run`], and what the computation fails with.
    pub(super) async fn whole<T: Send + 'static>(
        &self,
        make: impl Future<Output = Result<(Vec<u8>, T), Problem>> + Send + 'static,
    ) -> Result<(Bytes, T), Problem> {
        let making = async {
            let place = permits(&self.wholes, 1).await;
            let (bytes, with) = self.run(make).await??;
            let bytes = exactly(bytes);
            let charge = bytes.len().clamp(1, WHOLE_BUDGET);
            let permit = permits(&self.whole_bytes, charge).await;
            drop(place);
            Ok((Bytes::from_owner(BudgetedBytes { bytes, _permit: permit }), with))
        };
        timeout(TURN_TIMEOUT + MAX_TURN, making).await.map_err(|_| Problem::busy())?
    }

    /// Takes all turns, as computations that never end would.
    #[cfg(test)]
    pub(super) async fn take_all_turns(&self) -> OwnedSemaphorePermit {
        permits(&self.turns, MAX_CONCURRENT).await
    }

    /// Bytes of the budget that are not in use.
    #[cfg(test)]
    pub(super) fn bytes_left(&self) -> usize {
        self.bytes.available_permits()
    }
}

/// A body on its way.
struct BodyProducer<S> {
    work: RequestLimits,
    source: S,
    cut: BoxFuture<'static, ()>,
}

/// Resolves when an answer that has begun has to end.
fn cut(mut stopping: watch::Receiver<bool>) -> BoxFuture<'static, ()> {
    async move {
        // Where the sender is gone without a word, nothing has changed.
        if stopping.wait_for(|stopping| *stopping).await.map(drop).is_err() {
            std::future::pending::<()>().await;
        }
        sleep(STOP_GRACE).await;
    }
    .boxed()
}

/// The same bytes in no more memory than they need. Shrinking in place keeps up to twice as much.
fn exactly(bytes: Vec<u8>) -> Vec<u8> {
    if bytes.capacity() > bytes.len() + bytes.len() / 8 { bytes.as_slice().to_vec() } else { bytes }
}

/// Waits in line for permits.
async fn permits(of: &Arc<Semaphore>, count: usize) -> OwnedSemaphorePermit {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    match of.clone().acquire_many_owned(count).await {
        Ok(permit) => permit,
        // No semaphore here is ever closed.
        Err(_) => std::future::pending().await,
    }
}
