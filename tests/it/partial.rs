//! Partial failures: unaffected parts continue, affected parts are held, and all of it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use calmirror::env::Env;
use calmirror::graph::transport::{self, BodyStream, Transport, TransportError};
use calmirror::mirror::status::WindowState;
use calmirror::mirror::window::{Edge, WindowSettings};
use calmirror::simulator::{
    Behaviour, Edit, Fault, Pattern, PlannedFault, Simulator, SimulatorSettings,
};
use futures_util::future::BoxFuture;
use jiff::SignedDuration;
use tempfile::TempDir;

use crate::compare::mirror;
use crate::memory::Memory;
use crate::rig::{BASE, Rig, noon, window, window_settings, window_with};
use crate::seams::{ALICE, LONG, at, edit, single, start, tracked};

fn days(n: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * n)
}

/// A Graph that behaves well, and a directory for its mirror.
fn calm() -> (TempDir, Env, Simulator) {
    let env = Env::simulated(1, noon());
    let settings = SimulatorSettings {
        behaviour: Behaviour::calm(),
        latency: Duration::from_millis(5)..Duration::from_millis(100),
        ..SimulatorSettings::new(1, env.clone())
    };
    let simulator = crate::rig::graph(settings, &[ALICE]);
    (tempfile::tempdir().unwrap(), env, simulator)
}

/// A settled window of sixty events on one page.
async fn sixty_events() -> (TempDir, Simulator, Rig) {
    let (directory, env, simulator) = calm();
    for n in 0..60 {
        edit(&simulator, single("x", noon() + days(n)));
    }
    let interval = Duration::from_secs(300);
    let tracked =
        window_with(ALICE, WindowSettings { interval, page_size: 200, ..window_settings() });
    let rig = start(directory.path(), &simulator, &env, tracked).await;
    rig.settle(ALICE, 5).await;
    (directory, simulator, rig)
}

/// Facts 123, 124: the mirror and the link are kept.
#[tokio::test(start_paused = true)]
async fn an_outage_keeps_the_link_and_the_page_size() {
    let (_directory, simulator, rig) = sixty_events().await;
    simulator.plan(PlannedFault::always(Fault::UnavailableEmpty).path("alendar"));
    tokio::time::sleep(Duration::from_secs(6 * 3600)).await;
    simulator.clear_faults();
    tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
    simulator.reset_statistics();
    let status = rig.fleet.sync(ALICE, Some(LONG)).await.unwrap().finished.unwrap();
    assert_eq!(status.state, WindowState::Settled);
    let found =
        (status.segments[0].mode.as_str(), status.resyncs, status.last_round.unwrap().requests);
    assert_eq!(found, ("delta", 0, 1));
    rig.stop().await;
}

/// A removal of at least 20 events and more than half of the window, over all its segments.
#[tokio::test(start_paused = true)]
async fn a_window_of_two_segments_that_empties_is_held() {
    let (directory, env, simulator) = calm();
    let seam = at("2024-01-01T00:00:00Z") + days(1825);
    let mut all = Vec::new();
    for n in 0..30 {
        all.push(edit(&simulator, single("before", seam + days(-100 + n))));
        all.push(edit(&simulator, single("after", seam + days(100 + n))));
    }
    let rig = start(directory.path(), &simulator, &env, tracked()).await;
    let status = rig.settle(ALICE, 5).await;
    assert_eq!(status.events, 60);
    for event in all {
        edit(&simulator, Edit::Delete { event });
    }
    let status = rig.fleet.sync(ALICE, Some(LONG)).await.unwrap().finished.unwrap();
    assert_eq!(status.state, WindowState::Held, "{} events left", status.events);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn each_segments_link_may_die_once() {
    let (directory, env, simulator) = calm();
    for n in 0..30 {
        edit(&simulator, single("x", noon() + days(n)));
    }
    let tracked = window_with(
        ALICE,
        WindowSettings {
            start: Edge::At(at("2024-01-01T00:00:00Z")),
            end: Edge::At(at("2048-01-01T00:00:00Z")),
            ..window_settings()
        },
    );
    let rig = start(directory.path(), &simulator, &env, tracked).await;
    rig.settle(ALICE, 5).await;
    simulator.kill_tokens(None);
    let mut errors = Vec::new();
    for _ in 0..8 {
        let status = rig.fleet.sync(ALICE, Some(LONG)).await.unwrap().finished.unwrap();
        errors.extend(status.last_error.map(|e| e.kind));
    }
    assert_eq!(errors, []);
    rig.stop().await;
}

/// The first segment lies in the past and cannot be fetched; the second contains today.
#[tokio::test(start_paused = true)]
async fn a_segment_in_trouble_does_not_starve_the_others() {
    let (directory, env, simulator) = calm();
    edit(&simulator, single("today", noon() + SignedDuration::from_hours(2)));
    simulator.plan(PlannedFault::always(Fault::InternalError).path("startDateTime=2020"));
    let tracked = window_with(
        ALICE,
        WindowSettings {
            start: Edge::At(at("2020-01-01T00:00:00Z")),
            end: Edge::At(at("2029-01-01T00:00:00Z")),
            ..window_settings()
        },
    );
    let rig = start(directory.path(), &simulator, &env, tracked).await;
    tokio::time::sleep(Duration::from_secs(48 * 3600)).await;
    let id = rig.fleet.id(ALICE).unwrap();
    assert_eq!(mirror(&rig.store, id).await.len(), 1, "today's event is missing after two days");
    rig.stop().await;
}

type SendResult = Result<http::Response<BodyStream>, TransportError>;

/// A Graph that answers some URLs with a fault once `spoilt` is set.
struct FaultyTransport {
    graph: Memory,
    of: fn(&http::Uri) -> bool,
    spoilt: AtomicBool,
    asked: AtomicU64,
    answer: fn(u64) -> SendResult,
}

impl FaultyTransport {
    fn new(
        graph: &Simulator,
        of: fn(&http::Uri) -> bool,
        answer: fn(u64) -> SendResult,
    ) -> Arc<Self> {
        let (spoilt, asked) = (AtomicBool::new(false), AtomicU64::new(0));
        Arc::new(Self { graph: Memory(graph.clone()), of, spoilt, asked, answer })
    }
}

impl Transport for FaultyTransport {
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'_, SendResult> {
        if !self.spoilt.load(Ordering::Relaxed) || !(self.of)(request.uri()) {
            return self.graph.send(request);
        }
        let answer = (self.answer)(self.asked.fetch_add(1, Ordering::Relaxed));
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            answer
        })
    }
}

/// A mirrored series that was renamed and can no longer be listed.
async fn spoilt(answer: fn(u64) -> SendResult) -> (TempDir, Rig, Simulator, Arc<FaultyTransport>) {
    let (directory, env, simulator) = calm();
    let series = Edit::CreateSeries {
        subject: "daily".into(),
        start: noon(),
        minutes: 45,
        repeats: Pattern::Daily { every: 1 },
        until: Some("2026-12-01".parse().unwrap()),
        all_day: false,
    };
    let series = edit(&simulator, series);
    let listings =
        FaultyTransport::new(&simulator, |uri| uri.path().contains("/instances"), answer);
    let rig = Rig::start(directory.path(), listings.clone(), &env, vec![window(ALICE)]).await;
    rig.settle(ALICE, 5).await;
    listings.spoilt.store(true, Ordering::Relaxed);
    edit(&simulator, Edit::Rename { event: series, subject: "else".into() });
    (directory, rig, simulator, listings)
}

/// An empty page with a new link each time.
fn empty_page(n: u64) -> SendResult {
    let next = format!("{BASE}/users/x/events/y/instances?$skip={n}");
    let body = format!(r#"{{"value":[],"@odata.nextLink":"{next}"}}"#);
    Ok(http::Response::new(BodyStream::full(body)))
}

#[tokio::test(start_paused = true)]
async fn a_listing_of_empty_pages_ends() {
    let (_directory, rig, _, listings) = spoilt(empty_page).await;
    let ended = rig.fleet.sync(ALICE, Some(Duration::from_secs(4 * 3600))).await.unwrap().finished;
    let asked = listings.asked.load(Ordering::Relaxed);
    assert!(ended.is_some(), "{asked} requests in four hours without an end");
    rig.stop().await;
}

/// Page requests are never refused; only the token endpoint is down.
#[tokio::test(start_paused = true)]
async fn a_failing_token_endpoint_affects_neither_pages_nor_links() {
    let (_directory, simulator, rig) = sixty_events().await;
    simulator.plan(PlannedFault::always(Fault::UnknownError).path("/token"));
    simulator.expire_tokens();
    tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
    simulator.clear_faults();
    tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
    let status = rig.fleet.sync(ALICE, Some(LONG)).await.unwrap().finished.unwrap();
    assert_eq!((status.segments[0].mode.as_str(), status.resyncs), ("delta", 0));
    rig.stop().await;
}

/// One removal in the near segment waits for the far segment, which is failing. Other changes in
/// the near segment are published meanwhile.
#[tokio::test(start_paused = true)]
async fn a_waiting_removal_does_not_block_its_segment() {
    let (directory, env, simulator) = calm();
    let gone = edit(&simulator, single("gone", noon() + days(1)));
    edit(&simulator, single("stays", noon() + days(2)));
    let rig = start(directory.path(), &simulator, &env, tracked()).await;
    rig.settle(ALICE, 5).await;
    simulator.kill_tokens(None);
    // The second segment fails from its first request on.
    simulator.plan(PlannedFault::always(Fault::InternalError).path("startDateTime=2028"));
    edit(&simulator, Edit::Delete { event: gone });
    for _ in 0..3 {
        rig.fleet.sync(ALICE, Some(LONG)).await.unwrap();
    }
    let new = edit(&simulator, single("new", noon() + days(3)));
    for _ in 0..3 {
        rig.fleet.sync(ALICE, Some(LONG)).await.unwrap();
    }
    assert_arrives_within_a_day(&rig, &new).await;
    rig.stop().await;
}

/// Waits for a day, after which the mirror must have the event.
async fn assert_arrives_within_a_day(rig: &Rig, event: &str) {
    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    let mirrored = mirror(&rig.store, rig.fleet.id(ALICE).unwrap()).await;
    assert!(mirrored.contains_key(event), "the new event is missing after a day");
}

/// However a listing breaks off, received changes are published, the series stays pending, and the
/// rest of the calendar continues.
#[tokio::test(start_paused = true)]
async fn a_listing_that_always_fails_delays_no_other_series() {
    let timeout = |_| Err(TransportError::new(transport::TransportErrorKind::Timeout));
    let (_directory, rig, simulator, _) = spoilt(timeout).await;
    rig.fleet.sync(ALICE, Some(LONG)).await.unwrap();
    let new = edit(&simulator, single("new", noon() + days(3)));
    assert_arrives_within_a_day(&rig, &new).await;
    rig.stop().await;
}

/// From the second dead link in a round on, the window waits, and the waits double although each
/// attempt fetches pages.
#[tokio::test(start_paused = true)]
async fn links_that_keep_dying_back_off_exponentially() {
    let (directory, env, simulator) = calm();
    for n in 0..60 {
        edit(&simulator, single("x", noon() + days(n)));
    }
    let next = |uri: &http::Uri| uri.query().is_some_and(|query| query.contains("skiptoken"));
    let dead = FaultyTransport::new(&simulator, next, |_| {
        let body = r#"{"error":{"code":"SyncStateNotFound","message":"gone"}}"#;
        let answer = http::Response::builder().status(410);
        Ok(answer.header("content-type", "application/json").body(BodyStream::full(body)).unwrap())
    });
    dead.spoilt.store(true, Ordering::Relaxed);
    let interval = Duration::from_secs(300);
    let tracked =
        window_with(ALICE, WindowSettings { interval, page_size: 10, ..window_settings() });
    let rig = Rig::start(directory.path(), dead.clone(), &env, vec![tracked]).await;
    tokio::time::sleep(Duration::from_secs(12 * 3600)).await;
    let deaths = dead.asked.load(Ordering::Relaxed);
    assert!((20..60).contains(&deaths), "{deaths} dead links; 288 without longer waits");
    dead.spoilt.store(false, Ordering::Relaxed);
    let status = rig.settle(ALICE, 60).await;
    assert_eq!(status.events, 60);
    rig.stop().await;
}
