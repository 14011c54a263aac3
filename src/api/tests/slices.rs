//! Responses in slices: their sizes, and when they are produced.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::limits::{
    BUDGET, MAX_CONCURRENT, MAX_READING_STREAMS, MAX_SLICE_BYTES, SLICE_BYTES, TURN_TIMEOUT,
};
use super::super::slice_run::{AHEAD, SliceProducer};
use tokio::sync::Semaphore;

use super::*;

/// A source whose slices wait for a permit.
struct Gated(Arc<Semaphore>);

impl SliceProducer for Gated {
    async fn next(&mut self, _: usize) -> Result<Vec<u8>, Problem> {
        self.0.acquire().await.unwrap().forget();
        Ok(vec![b'x'; 100])
    }

    fn is_over(&self) -> bool {
        false
    }
}

/// A compressor polls the next slice before it hands over the last one, and is then not polled
/// until its reader has taken that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abandoned_slice_keeps_no_turn() {
    let work = RequestLimits::new(Env::real());
    let stopping = StopSignal::default();
    let mut bodies = Vec::new();
    for _ in 0..2 * MAX_CONCURRENT {
        let gate = Arc::new(Semaphore::new(1));
        let body = work.body(Gated(gate.clone()), stopping.clone()).await.unwrap();
        let mut stream = body.into_data_stream();
        assert_eq!(stream.next().await.unwrap().unwrap().len(), 100);
        // Polled once, then left alone.
        assert!(futures_util::FutureExt::now_or_never(stream.next()).is_none());
        gate.add_permits(1);
        bodies.push(stream);
    }
    let turns = tokio::time::timeout(Duration::from_secs(20), work.take_all_turns()).await;
    assert!(turns.is_ok(), "slices without a waiting reader keep turns");
}

/// A source whose slices have exactly the requested size.
struct Exact;

impl SliceProducer for Exact {
    async fn next(&mut self, bytes: usize) -> Result<Vec<u8>, Problem> {
        Ok(vec![b'x'; bytes])
    }

    fn is_over(&self) -> bool {
        false
    }
}

#[tokio::test(start_paused = true)]
async fn slices_are_large_unless_the_budget_is_used() {
    let work = RequestLimits::new(Env::real());
    let begin = async || work.body(Exact, StopSignal::default()).await.unwrap();
    let mut stream = begin().await.into_data_stream();
    let mut held = Vec::new();
    assert_eq!(stream.next().await.unwrap().unwrap().len(), MAX_SLICE_BYTES);
    // Readers that take everything and keep it.
    while work.bytes_left() > BUDGET / 16 {
        held.push(stream.next().await.unwrap().unwrap());
    }
    assert!(held[0].len() == MAX_SLICE_BYTES && held.last().unwrap().len() == SLICE_BYTES);
    held.clear();
    assert_eq!(stream.next().await.unwrap().unwrap().len(), MAX_SLICE_BYTES);
}

/// A source that counts its slices, each of the requested size.
struct Counted(Arc<AtomicUsize>);

impl SliceProducer for Counted {
    async fn next(&mut self, bytes: usize) -> Result<Vec<u8>, Problem> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(vec![b'x'; bytes])
    }

    fn is_over(&self) -> bool {
        false
    }
}

/// Waits long enough for everything that was begun, and returns how many slices were produced.
async fn produced(slices: &AtomicUsize) -> usize {
    tokio::time::sleep(Duration::from_secs(60)).await;
    slices.load(Ordering::Relaxed)
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_keeps_up_does_not_wait_for_each_slice() {
    let work = RequestLimits::new(Env::real());
    let slices = Arc::new(AtomicUsize::new(0));
    let body = work.body(Counted(slices.clone()), StopSignal::default()).await.unwrap();
    let mut stream = body.into_data_stream();
    let mut held = Vec::new();
    let mut taken = 0;
    for number in 1.. {
        let slice = stream.next().await.unwrap().unwrap();
        taken += slice.len();
        // The first one was taken before there was a reader.
        let ahead = if number == 1 { 1..=AHEAD } else { AHEAD..=AHEAD };
        let ready = produced(&slices).await - number;
        assert!(ahead.contains(&ready), "{ready} ahead after {number}");
        if taken > 4 * MAX_SLICE_BYTES {
            break;
        }
    }
    // With much of the budget used, no reader gets two slices.
    while work.bytes_left() >= BUDGET / 2 {
        held.push(stream.next().await.unwrap().unwrap());
    }
    held.push(stream.next().await.unwrap().unwrap());
    let before = produced(&slices).await;
    held.push(stream.next().await.unwrap().unwrap());
    assert_eq!(produced(&slices).await, before + 1);
    // What was produced for a reader that has gone is given back.
    held.clear();
    stream.next().await.unwrap().unwrap();
    assert_eq!(produced(&slices).await, before + 2 + AHEAD);
    drop(stream);
    assert_eq!(produced(&slices).await, before + 2 + AHEAD);
    assert_eq!(work.bytes_left(), BUDGET);
}

#[tokio::test(start_paused = true)]
async fn a_slice_ahead_needs_usual_slices_and_half_of_the_turns() {
    let work = RequestLimits::new(Env::real());
    assert!(work.allows_ahead(MAX_SLICE_BYTES));
    assert!(!work.allows_ahead(SLICE_BYTES - 1), "there is hardly anything");
    assert!(!work.allows_ahead(2 * MAX_SLICE_BYTES + 1), "large events");
    let turns = work.take_all_turns().await;
    assert!(!work.allows_ahead(MAX_SLICE_BYTES), "others compute");
    drop(turns);
    assert!(work.allows_ahead(MAX_SLICE_BYTES));
}

/// A source of large slices, each of which waits for a permit; once there are no more it fails.
struct GatedLarge(Arc<Semaphore>);

impl SliceProducer for GatedLarge {
    async fn next(&mut self, _: usize) -> Result<Vec<u8>, Problem> {
        match self.0.acquire().await {
            Ok(permit) => permit.forget(),
            Err(_) => return Err(Problem::Internal),
        }
        Ok(vec![b'x'; MAX_SLICE_BYTES])
    }

    fn is_over(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slice_ahead_ends_with_its_reader_and_fails_after_the_one_before() {
    let work = RequestLimits::new(Env::real());
    let gate = Arc::new(Semaphore::new(2));
    let body = work.body(GatedLarge(gate.clone()), StopSignal::default()).await.unwrap();
    let mut stream = body.into_data_stream();
    for _ in 0..2 {
        assert_eq!(stream.next().await.unwrap().unwrap().len(), MAX_SLICE_BYTES);
    }
    // The third is being produced.
    drop(stream);
    gate.add_permits(1);
    let wait = Duration::from_secs(20);
    let turns = tokio::time::timeout(wait, work.take_all_turns()).await;
    assert!(turns.is_ok(), "a slice without a reader keeps its turn");
    drop(turns);
    assert_eq!(work.bytes_left(), BUDGET);
    let gate = Arc::new(Semaphore::new(2));
    let body = work.body(GatedLarge(gate.clone()), StopSignal::default()).await.unwrap();
    let mut stream = body.into_data_stream();
    stream.next().await.unwrap().unwrap();
    let second = stream.next().await.unwrap();
    gate.close();
    assert_eq!(second.unwrap().len(), MAX_SLICE_BYTES);
    assert!(stream.next().await.unwrap().is_err(), "the response ends as if it were complete");
    assert!(stream.next().await.is_none());
}

/// A source of slices larger than what is reserved for them.
struct Huge;

impl SliceProducer for Huge {
    async fn next(&mut self, _: usize) -> Result<Vec<u8>, Problem> {
        Ok(vec![b'x'; 3 * MAX_SLICE_BYTES])
    }

    fn is_over(&self) -> bool {
        false
    }
}

/// In simulation no thread may wait for what a task gives back.
#[tokio::test(start_paused = true)]
async fn a_large_slice_waits_for_its_share() {
    let simulated = Env::simulated(7, "2026-11-30T12:00:00Z".parse().unwrap());
    for env in [Env::real(), simulated] {
        let work = RequestLimits::new(env);
        let held = work.reserve(BUDGET - MAX_SLICE_BYTES).await;
        let free = async |held| {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(held);
        };
        let (body, ()) = tokio::join!(work.body(Huge, StopSignal::default()), free(held));
        let mut stream = body.unwrap().into_data_stream();
        let first = stream.next().await.unwrap().unwrap();
        let held = work.reserve(work.bytes_left() - MAX_SLICE_BYTES).await;
        let (second, ()) = tokio::join!(stream.next(), free(held));
        assert_eq!(first.len(), 3 * MAX_SLICE_BYTES);
        assert_eq!(second.unwrap().unwrap().len(), 3 * MAX_SLICE_BYTES);
        drop((first, stream));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(work.bytes_left(), BUDGET);
        drop(work.take_all_turns().await);
    }
}

/// Streams that cannot read end, so that their readers learn why, and all of them end at a stop.
#[tokio::test(start_paused = true)]
async fn streams_do_not_wait_for_ever_to_read() {
    let fixture = Fixture::new().await;
    let open = async || {
        let request = Request::get("/v1/changes?after=now").header("accept", "text/event-stream");
        let request = request.body(Body::empty()).unwrap();
        let response = router(fixture.app()).oneshot(request).await.unwrap();
        response.into_body().into_data_stream()
    };
    let mut waiting = Vec::new();
    for _ in 0..MAX_READING_STREAMS {
        waiting.push(fixture.work.stream_turn().await.unwrap());
    }
    let begun = tokio::time::Instant::now();
    assert!(open().await.next().await.is_none());
    assert_eq!(begun.elapsed(), TURN_TIMEOUT);
    let mut stream = open().await;
    let stopping = fixture.stopping.clone();
    let end = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        stopping.give();
    };
    let (last, ()) = tokio::join!(stream.next(), end);
    assert!(last.is_none());
    assert_eq!(begun.elapsed(), TURN_TIMEOUT + Duration::from_secs(1));
}

/// All streams wake with a change. Those that read reserve the bytes of a slice.
#[tokio::test(start_paused = true)]
async fn few_of_many_streams_read_at_the_same_time() {
    const STREAMS: usize = 5 * MAX_READING_STREAMS;
    let fixture = Fixture::new().await;
    let mut frames = tokio::task::JoinSet::new();
    for _ in 0..STREAMS {
        let request = Request::get("/v1/changes?after=now").header("accept", "text/event-stream");
        let request = request.body(Body::empty()).unwrap();
        let response = router(fixture.app()).oneshot(request).await.unwrap();
        let mut stream = response.into_body().into_data_stream();
        frames.spawn(async move { stream.next().await.unwrap().unwrap() });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let turns = fixture.work.take_all_turns().await;
    fixture.write(fixture.id("alice"), &[("a", 9, "")], &[]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(BUDGET - fixture.work.bytes_left(), MAX_READING_STREAMS * SLICE_BYTES);
    drop(turns);
    while let Some(frame) = frames.join_next().await {
        let frame = String::from_utf8(frame.unwrap().to_vec()).unwrap();
        assert!(frame.contains("\"change\":\"created\""), "{frame}");
    }
}
