//! Limits the blocking threads, time and memory that requests use.
//!
//! Store reads and rendering run on the runtime's blocking threads, for at most [`MAX_CONCURRENT`]
//! requests at a time. So the runtime's own threads always answer `/healthz`, and the workers
//! always find a blocking thread. Responses are sent in slices (`sliced_body`) of about
//! [`MAX_SLICE_BYTES`], or down to [`SLICE_BYTES`] as the budget is used. All slices not yet read by
//! clients share one budget, [`BUDGET`]. Turns (permits to compute) and bytes are granted in
//! request order. A computation that never ends costs only its turn.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::coding::CompressorPool;
use super::problem::Problem;
use crate::env::Env;

/// Requests that compute at the same time. Each takes a blocking thread; the process has 32.
pub(super) const MAX_CONCURRENT: usize = 8;

/// Streams that read at the same time. All of them wake with each change, and reading takes more
/// memory than waiting.
pub(super) const MAX_READING_STREAMS: usize = 2 * MAX_CONCURRENT;

/// The least target size of a slice; the last event or window in one may exceed this.
pub(super) const SLICE_BYTES: usize = 32 << 10;

/// The largest target size of a slice, while the budget is not nearly used up. With smaller ones the
/// threads of a response wake each other more often (docs/design.md).
pub(super) const MAX_SLICE_BYTES: usize = 256 << 10;

/// The share of the unused budget that a slice larger than [`SLICE_BYTES`] may take.
const BUDGET_SHARE: usize = 1 << 7;

/// Bytes of slices produced but not yet read, over all responses.
pub(super) const BUDGET: usize = 48 << 20;

/// Bytes of responses that cannot be sliced, over all of them.
const UNSLICED_BUDGET: usize = 32 << 20;

/// Requests for such responses that compute, or wait for their bytes, at the same time.
const MAX_WHOLE_ANSWERS: usize = 4;

/// Exports at the same time. Each keeps track of what is written meanwhile.
const MAX_EXPORTS: usize = 1;

/// Lists of many windows at the same time: each holds some megabytes while it is sent.
const MAX_MERGES: usize = 16;

/// How long a request waits for its turn, or for the first bytes of its response.
pub(super) const TURN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a single turn may take before its request is abandoned.
pub(super) const MAX_TURN: Duration = Duration::from_secs(30);

/// The limits described in the module docs. Clones share them.
#[derive(Clone, Debug)]
pub struct RequestLimits {
    pub(super) env: Env,
    pub(super) turns: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    wholes: Arc<Semaphore>,
    whole_bytes: Arc<Semaphore>,
    exports: Arc<Semaphore>,
    merges: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    pub(super) compressors: CompressorPool,
}

/// Ends the array `value` of a JSON object with the other members of the object.
pub(super) fn end_list(slice: &mut Vec<u8>, members: &Value) {
    slice.extend_from_slice(b"],");
    // Without its opening brace it continues after the array.
    slice.extend_from_slice(members.to_string().trim_start_matches('{').as_bytes());
}

/// Bytes charged to a budget until they are dropped.
pub(super) struct BudgetedBytes {
    bytes: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

impl BudgetedBytes {
    /// Charges bytes to the budget of slices, of which `permit` was reserved for them. The caller
    /// still has its turn, so that only few large slices wait for their share.
    pub(super) async fn charge(
        work: &RequestLimits,
        bytes: Vec<u8>,
        permit: OwnedSemaphorePermit,
    ) -> Bytes {
        match Self::try_charge(work, bytes, permit) {
            Ok(charged) => charged,
            Err((bytes, mut permit)) => {
                permit.merge(work.reserve(charge(&bytes) - permit.num_permits()).await);
                Bytes::from_owner(Self { bytes, _permit: permit })
            }
        }
    }

    /// The same, unless the bytes would have to wait for their share of the budget.
    pub(super) fn try_charge(
        work: &RequestLimits,
        bytes: Vec<u8>,
        mut permit: OwnedSemaphorePermit,
    ) -> Result<Bytes, (Vec<u8>, OwnedSemaphorePermit)> {
        let bytes = shrink(bytes);
        let reserved = permit.num_permits();
        match charge(&bytes) {
            0 => return Ok(Bytes::new()),
            more if more > reserved => match work.try_reserve(more - reserved) {
                Some(rest) => permit.merge(rest),
                None => return Err((bytes, permit)),
            },
            less => drop(permit.split(reserved - less)),
        }
        Ok(Bytes::from_owner(Self { bytes, _permit: permit }))
    }
}

/// What a slice of these bytes is charged.
fn charge(bytes: &[u8]) -> usize {
    bytes.len().min(BUDGET / 4)
}

impl AsRef<[u8]> for BudgetedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl RequestLimits {
    /// Creates a new set of limits.
    pub fn new(env: Env) -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self {
            env,
            turns: semaphore(MAX_CONCURRENT),
            bytes: semaphore(BUDGET),
            wholes: semaphore(MAX_WHOLE_ANSWERS),
            whole_bytes: semaphore(UNSLICED_BUDGET),
            exports: semaphore(MAX_EXPORTS),
            merges: semaphore(MAX_MERGES),
            streams: semaphore(MAX_READING_STREAMS),
            compressors: CompressorPool::default(),
        }
    }

    /// Runs a computation on a blocking thread once it gets a turn.
    ///
    /// # Errors
    /// 503 if it does not get a turn, or does not finish, in time; 500 if it panics.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Problem> {
        self.run_in_turn(&Arc::new(self.turn().await?), work).await
    }

    /// Waits until one more list of many windows may be sent.
    ///
    /// # Errors
    /// 503 if it takes too long.
    pub(super) async fn merge(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let permit = timeout(TURN_TIMEOUT, permits(&self.merges, 1)).await;
        permit.map_err(|_| Problem::Busy)
    }

    /// Waits until one more stream may read. The caller must be polled until it drops the permit.
    ///
    /// # Errors
    /// 503 if it takes too long.
    pub(super) async fn stream_turn(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let turn = timeout(TURN_TIMEOUT, permits(&self.streams, 1)).await;
        turn.map_err(|_| Problem::Busy)
    }

    /// Waits for a turn: the permit to compute.
    ///
    /// # Errors
    /// 503 if it takes too long.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let turn = timeout(TURN_TIMEOUT, permits(&self.turns, 1)).await;
        turn.map_err(|_| Problem::Busy)
    }

    /// A turn, if nothing has to be waited for.
    pub(super) fn try_turn(&self) -> Option<OwnedSemaphorePermit> {
        self.turns.clone().try_acquire_owned().ok()
    }

    /// Waits for bytes of the budget of slices.
    pub(super) async fn reserve(&self, bytes: usize) -> OwnedSemaphorePermit {
        permits(&self.bytes, bytes).await
    }

    /// Bytes of the budget of slices, if nothing has to be waited for.
    pub(super) fn try_reserve(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.bytes.clone().try_acquire_many_owned(u32::try_from(bytes).ok()?).ok()
    }

    /// Runs a computation within a turn. The thread holds the turn as long as it runs.
    async fn run_in_turn<T: Send + 'static>(
        &self,
        turn: &Arc<OwnedSemaphorePermit>,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Problem> {
        let (turn, handle) = (turn.clone(), Handle::current());
        let thread = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            handle.block_on(Env::blocking(work))
        });
        match timeout(MAX_TURN, self.env.block_on_external(thread)).await {
            Ok(Ok(done)) => Ok(done),
            // The panic hook has logged it.
            Ok(Err(_)) => Err(Problem::Internal),
            Err(_) => {
                tracing::error!(
                    limit_s = MAX_TURN.as_secs(),
                    turns_left = self.turns.available_permits(),
                    "request abandoned, its thread is still computing"
                );
                Err(Problem::TooSlow)
            }
        }
    }

    /// Produces one slice of about `bytes` bytes, and the value that `make` returns with it.
    ///
    /// # Errors
    /// As [`RequestLimits::run`].
    pub(super) async fn slice<T: Send + 'static>(
        &self,
        bytes: usize,
        make: impl Future<Output = (Vec<u8>, T)> + Send + 'static,
    ) -> Result<(Bytes, T), Problem> {
        // In its own task: a body is not polled while its reader takes nothing, and must not hold a
        // turn or a queue position meanwhile.
        let mut task = JoinSet::new();
        task.spawn(self.clone().make(bytes, make));
        match task.join_next().await {
            Some(Ok(made)) => made,
            _ => Err(Problem::Internal),
        }
    }

    /// The size of the next slice of a response.
    pub(super) fn next_size(&self) -> usize {
        let share = self.bytes.available_permits() / BUDGET_SHARE;
        share.clamp(SLICE_BYTES, MAX_SLICE_BYTES)
    }

    /// Whether the next slice may be produced before its reader asks for it: the last one, of `last`
    /// bytes, was no small one and none of a very large event, and others need neither the bytes nor
    /// the turn.
    pub(super) fn allows_ahead(&self, last: usize) -> bool {
        (SLICE_BYTES..=2 * MAX_SLICE_BYTES).contains(&last)
            && self.bytes.available_permits() >= BUDGET / 2
            && self.turns.available_permits() >= MAX_CONCURRENT / 2
    }

    async fn make<T: Send + 'static>(
        self,
        reserved: usize,
        make: impl Future<Output = (Vec<u8>, T)> + Send + 'static,
    ) -> Result<(Bytes, T), Problem> {
        // Reserve the bytes before computing.
        let permit = self.reserve(reserved).await;
        let turn = Arc::new(self.turn().await?);
        let (bytes, with) = self.run_in_turn(&turn, make).await?;
        Ok((BudgetedBytes::charge(&self, bytes, permit).await, with))
    }

    /// Produces a response that cannot be sliced. It is computed within a turn and charged to the
    /// budget until its reader has taken it.
    ///
    /// # Errors
    /// As [`RequestLimits::run`], and the error of the computation.
    pub(super) async fn unsliced<T: Send + 'static>(
        &self,
        make: impl Future<Output = Result<(Vec<u8>, T), Problem>> + Send + 'static,
    ) -> Result<(Bytes, T), Problem> {
        let making = async {
            let place = permits(&self.wholes, 1).await;
            let (bytes, with) = self.run(make).await??;
            let bytes = shrink(bytes);
            let charge = bytes.len().clamp(1, UNSLICED_BUDGET);
            let permit = permits(&self.whole_bytes, charge).await;
            drop(place);
            Ok((Bytes::from_owner(BudgetedBytes { bytes, _permit: permit }), with))
        };
        timeout(TURN_TIMEOUT + MAX_TURN, making).await.map_err(|_| Problem::Busy)?
    }

    /// The permit to export, until it is dropped.
    ///
    /// # Errors
    /// 503 if another export is under way.
    pub(super) fn begin_export(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.exports.clone().try_acquire_owned().map_err(|_| Problem::ExportBusy)
    }

    /// Takes all turns, as computations that never end would.
    #[cfg(test)]
    pub(super) async fn take_all_turns(&self) -> OwnedSemaphorePermit {
        permits(&self.turns, MAX_CONCURRENT).await
    }

    /// Unused bytes of the budget.
    #[cfg(test)]
    pub(super) fn bytes_left(&self) -> usize {
        self.bytes.available_permits()
    }
}

/// Copies the bytes if much capacity is unused. Shrinking in place can keep up to twice as much.
fn shrink(bytes: Vec<u8>) -> Vec<u8> {
    if bytes.capacity() > bytes.len() + bytes.len() / 8 { bytes.as_slice().to_vec() } else { bytes }
}

/// Waits in FIFO order for permits.
async fn permits(of: &Arc<Semaphore>, count: usize) -> OwnedSemaphorePermit {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    match of.clone().acquire_many_owned(count).await {
        Ok(permit) => permit,
        // No semaphore here is ever closed.
        Err(_) => std::future::pending().await,
    }
}
