//! Slices of a response that one thread produces one after the other, while its reader takes them.
//!
//! A change of thread costs as much as several events, so the thread goes on with the next slice as
//! long as the reader keeps up and others need neither its turn nor the bytes.

use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::limits::{BudgetedBytes, MAX_TURN, RequestLimits};
use super::problem::Problem;
use crate::env::Env;

/// Slices that are ready before their reader asks for them, at most.
pub(super) const AHEAD: usize = 2;

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

/// How a run ended.
pub(super) struct RunEnd<S> {
    /// The source, to go on from.
    pub(super) source: S,
    /// Why it cannot be gone on from.
    pub(super) failed: Option<Problem>,
    /// The last slice, if there was too little left of the budget for it.
    pub(super) large: Option<LargeSlice>,
}

/// A slice larger than what was reserved for it. It keeps its turn, so that only few of them wait for
/// their share of the budget.
pub(super) struct LargeSlice {
    bytes: Vec<u8>,
    permit: OwnedSemaphorePermit,
    _turn: OwnedSemaphorePermit,
}

impl LargeSlice {
    /// Waits for its share.
    pub(super) async fn charge(self, work: RequestLimits) -> Bytes {
        BudgetedBytes::charge(&work, self.bytes, self.permit).await
    }
}

/// A slice, and whether it is the last one of its response.
pub(super) type Slice = (Bytes, bool);

/// A thread that produces slices. It ends by itself, also without a reader.
pub(super) struct SliceRun<S> {
    work: RequestLimits,
    slices: mpsc::Receiver<Slice>,
    thread: JoinHandle<RunEnd<S>>,
    /// The result of the thread, once it was taken.
    ended: Option<Result<RunEnd<S>, Problem>>,
}

impl RequestLimits {
    /// Produces slices, of which at most `most` are not taken yet.
    ///
    /// # Errors
    /// 503 if it does not get a turn in time.
    pub(super) async fn run_slices<S: SliceProducer>(
        &self,
        source: S,
        most: usize,
    ) -> Result<SliceRun<S>, Problem> {
        // The bytes are reserved before computing.
        let permit = self.reserve(self.next_size()).await;
        let turn = self.turn().await?;
        Ok(self.start_run(source, most, permit, turn))
    }

    /// The same if it can begin at once; otherwise returns the source.
    pub(super) fn try_run_slices<S: SliceProducer>(
        &self,
        source: S,
        most: usize,
    ) -> Result<SliceRun<S>, S> {
        match self.try_reserve(self.next_size()).zip(self.try_turn()) {
            Some((permit, turn)) => Ok(self.start_run(source, most, permit, turn)),
            None => Err(source),
        }
    }

    fn start_run<S: SliceProducer>(
        &self,
        source: S,
        most: usize,
        permit: OwnedSemaphorePermit,
        turn: OwnedSemaphorePermit,
    ) -> SliceRun<S> {
        let (send, slices) = mpsc::channel(most);
        let (work, handle) = (self.clone(), Handle::current());
        // The thread holds the turn as long as it runs.
        let mut thread = tokio::task::spawn_blocking(move || {
            handle.block_on(Env::blocking(work.produce(source, (permit, turn), send)))
        });
        // In simulation it has ended when this returns, so that it does not run beside others.
        let ended = self.env.block_on_external(&mut thread).now_or_never();
        let ended = ended.map(|ended| ended.map_err(|_| Problem::Internal));
        SliceRun { work: self.clone(), slices, thread, ended }
    }

    /// Produces slices until the source is over or fails, `send` is full, the reader has gone, or
    /// others need the turn or the bytes. The first one uses the bytes of `permit`.
    async fn produce<S: SliceProducer>(
        self,
        mut source: S,
        (mut permit, turn): (OwnedSemaphorePermit, OwnedSemaphorePermit),
        send: mpsc::Sender<Slice>,
    ) -> RunEnd<S> {
        let (mut failed, mut large) = (None, None);
        while !send.is_closed() {
            let bytes = match source.next(permit.num_permits()).await {
                Ok(bytes) => bytes,
                Err(problem) => {
                    failed = Some(problem);
                    break;
                }
            };
            let last = bytes.len();
            if last == 0 {
                // Without a slice for the reader, others have their turn first.
                break;
            }
            let slice = match BudgetedBytes::try_charge(&self, bytes, permit) {
                Ok(slice) => slice,
                Err((bytes, permit)) => {
                    large = Some(LargeSlice { bytes, permit, _turn: turn });
                    break;
                }
            };
            let is_last = source.is_over();
            if send.try_send((slice, is_last)).is_err() || is_last || send.capacity() == 0 {
                break;
            }
            let next = self.allows_ahead(last).then(|| self.next_size());
            match next.and_then(|size| self.try_reserve(size)) {
                Some(next) => permit = next,
                None => break,
            }
        }
        RunEnd { source, failed, large }
    }
}

impl<S: SliceProducer> SliceRun<S> {
    /// The next slice; `None` after the last one of the run.
    ///
    /// # Errors
    /// 503 if it is not produced in time.
    pub(super) async fn next(&mut self) -> Result<Option<Slice>, Problem> {
        let slice = self.work.env.block_on_external(self.slices.recv());
        timeout(MAX_TURN, slice).await.map_err(|_| {
            tracing::error!(
                limit_s = MAX_TURN.as_secs(),
                turns_left = self.work.turns.available_permits(),
                "request abandoned, its thread is still computing"
            );
            Problem::TooSlow
        })
    }

    /// The next slice, if it is ready.
    pub(super) fn try_next(&mut self) -> Option<Slice> {
        self.slices.try_recv().ok()
    }

    /// Whether the thread has ended.
    pub(super) fn is_finished(&self) -> bool {
        self.ended.is_some() || self.thread.is_finished()
    }

    /// How the run ended, after its last slice was taken.
    ///
    /// # Errors
    /// 500 if the thread panicked, which the panic hook has logged.
    pub(super) async fn end(self) -> Result<RunEnd<S>, Problem> {
        match self.ended {
            Some(ended) => ended,
            None => {
                let ended = self.work.env.block_on_external(self.thread).await;
                ended.map_err(|_| Problem::Internal)
            }
        }
    }
}
