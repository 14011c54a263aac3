//! Parts that fail while others work: what is right goes on, what is not is held, and all of it ends.
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use calmirror::graph::transport::{Body, Transport, TransportError};
use calmirror::mirror::status::State;
use calmirror::mirror::window::{Edge, Window};
use calmirror::simulator::{
    Behaviour, Edit, Fault, Mutation, Pattern, Planned, Settings, Simulator,
};
use calmirror::world::World;
use futures_util::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};

use crate::compare::mirror;
use crate::memory::Memory;
use crate::rig::{BASE, Rig, noon, window};

const ALICE: &str = "alice@contoso.com";
const LONG: Duration = Duration::from_secs(8 * 3600);

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}
fn days(n: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * n)
}
fn graph(world: &World) -> Simulator {
    let latency = Duration::from_millis(5)..Duration::from_millis(100);
    let simulator = Simulator::new(Settings {
        behaviour: Behaviour::calm(),
        latency,
        ..Settings::new(1, world.clone())
    });
    simulator.set_base_url(BASE);
    simulator.add_mailbox(ALICE);
    simulator
}
fn edit(simulator: &Simulator, edit: Edit) -> String {
    simulator.mutate(Mutation { mailbox: ALICE.to_owned(), calendar: None, edit }).unwrap()
}
fn single(subject: &str, start: Timestamp) -> Edit {
    Edit::CreateSingle { subject: subject.into(), start, minutes: 30 }
}
async fn start(directory: &Path, simulator: &Simulator, world: &World, tracked: Window) -> Rig {
    Rig::start(directory, Arc::new(Memory(simulator.clone())), world, vec![tracked]).await
}

/// Facts 123, 124; docs/graph.md: "the mirror and the link are kept".
#[tokio::test(start_paused = true)]
async fn an_outage_keeps_the_link_and_the_page_size() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::simulated(1, noon());
    let simulator = graph(&world);
    for n in 0..60 {
        edit(&simulator, single("x", noon() + days(n)));
    }
    let tracked = Window { interval: Duration::from_secs(300), page_size: 200, ..window(ALICE) };
    let rig = start(directory.path(), &simulator, &world, tracked).await;
    rig.settle(ALICE, 5).await;
    simulator.plan(Planned::always(Fault::UnavailableEmpty).path("alendar"));
    tokio::time::sleep(Duration::from_secs(6 * 3600)).await;
    simulator.clear_faults();
    tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
    simulator.reset_statistics();
    let status = rig.fleet.sync(ALICE, Some(LONG)).await.unwrap().finished.unwrap();
    assert_eq!(status.state, State::Settled);
    let found =
        (status.segments[0].mode.clone(), status.resyncs, status.last_round.unwrap().requests);
    assert_eq!(found, ("delta".to_owned(), 0, 1));
    rig.stop().await;
}

/// CONTRACT/POLICY: at least 20 events and more than half of a window.
#[tokio::test(start_paused = true)]
async fn a_window_of_two_segments_that_empties_is_held() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::simulated(1, noon());
    let simulator = graph(&world);
    let seam = at("2024-01-01T00:00:00Z") + days(1825);
    let mut all = Vec::new();
    for n in 0..30 {
        all.push(edit(&simulator, single("before", seam + days(-100 + n))));
        all.push(edit(&simulator, single("after", seam + days(100 + n))));
    }
    let tracked = Window {
        start: Edge::At(at("2024-01-01T00:00:00Z")),
        end: Edge::At(at("2032-01-01T00:00:00Z")),
        ..window(ALICE)
    };
    let rig = start(directory.path(), &simulator, &world, tracked).await;
    let status = rig.settle(ALICE, 5).await;
    assert_eq!(status.events, 60);
    for event in all {
        edit(&simulator, Edit::Delete { event });
    }
    let status = rig.fleet.sync(ALICE, Some(LONG)).await.unwrap().finished.unwrap();
    assert_eq!(status.state, State::Held, "{} events left", status.events);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn each_segments_link_may_die_once() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::simulated(1, noon());
    let simulator = graph(&world);
    for n in 0..30 {
        edit(&simulator, single("x", noon() + days(n)));
    }
    let tracked = Window {
        start: Edge::At(at("2024-01-01T00:00:00Z")),
        end: Edge::At(at("2048-01-01T00:00:00Z")),
        ..window(ALICE)
    };
    let rig = start(directory.path(), &simulator, &world, tracked).await;
    rig.settle(ALICE, 5).await;
    simulator.kill_tokens(None);
    let mut errors = Vec::new();
    for _ in 0..8 {
        let status = rig.fleet.sync(ALICE, Some(LONG)).await.unwrap().finished.unwrap();
        errors.extend(status.last_error.map(|e| e.kind));
    }
    assert_eq!(errors, Vec::<String>::new());
    rig.stop().await;
}

/// The first segment lies in the past and cannot be had; the second holds today.
#[tokio::test(start_paused = true)]
async fn a_segment_in_trouble_does_not_starve_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::simulated(1, noon());
    let simulator = graph(&world);
    edit(&simulator, single("today", noon() + SignedDuration::from_hours(2)));
    simulator.plan(Planned::always(Fault::InternalError).path("startDateTime=2020"));
    let tracked = Window {
        start: Edge::At(at("2020-01-01T00:00:00Z")),
        end: Edge::At(at("2029-01-01T00:00:00Z")),
        ..window(ALICE)
    };
    let rig = start(directory.path(), &simulator, &world, tracked).await;
    tokio::time::sleep(Duration::from_secs(48 * 3600)).await;
    let id = rig.fleet.id(ALICE).unwrap();
    assert_eq!(mirror(&rig.store, id).await.len(), 1, "two days, and today is not asked for");
    rig.stop().await;
}

/// Answers every listing of a series with an empty page and an ever new link.
struct Empty(Memory, AtomicU64, std::sync::atomic::AtomicBool);

impl Transport for Empty {
    fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> BoxFuture<'_, Result<http::Response<Body>, TransportError>> {
        if self.2.load(Ordering::Relaxed) && request.uri().path().contains("/instances") {
            let n = self.1.fetch_add(1, Ordering::Relaxed);
            let body = format!(
                r#"{{"value":[],"@odata.nextLink":"{BASE}/users/x/events/y/instances?$skip={n}"}}"#
            );
            return Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(200)).await;
                Ok(http::Response::new(Body::full(body)))
            });
        }
        self.0.send(request)
    }
}

#[tokio::test(start_paused = true)]
async fn a_listing_of_empty_pages_ends() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::simulated(1, noon());
    let simulator = graph(&world);
    let series = edit(
        &simulator,
        Edit::CreateSeries {
            subject: "daily".into(),
            start: noon(),
            minutes: 45,
            repeats: Pattern::Daily { every: 1 },
            until: Some("2026-12-01".parse().unwrap()),
            all_day: false,
        },
    );
    let transport = Arc::new(Empty(Memory(simulator.clone()), AtomicU64::new(0), false.into()));
    let rig = Rig::start(directory.path(), transport.clone(), &world, vec![window(ALICE)]).await;
    rig.settle(ALICE, 5).await;
    transport.2.store(true, Ordering::Relaxed);
    edit(&simulator, Edit::Rename { event: series, subject: "else".into() });
    let ended = rig.fleet.sync(ALICE, Some(Duration::from_secs(4 * 3600))).await.unwrap().finished;
    let asked = transport.1.load(Ordering::Relaxed);
    assert!(ended.is_some(), "{asked} requests in four hours, and no end");
    rig.stop().await;
}

/// Pages were never refused: only the token endpoint is down.
#[tokio::test(start_paused = true)]
async fn a_token_endpoint_that_is_down_leaves_pages_and_links_alone() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::simulated(1, noon());
    let simulator = graph(&world);
    for n in 0..60 {
        edit(&simulator, single("x", noon() + days(n)));
    }
    let tracked = Window { interval: Duration::from_secs(300), page_size: 200, ..window(ALICE) };
    let rig = start(directory.path(), &simulator, &world, tracked).await;
    rig.settle(ALICE, 5).await;
    simulator.plan(Planned::always(Fault::UnknownError).path("/token"));
    simulator.expire_tokens();
    tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
    simulator.clear_faults();
    tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
    let status = rig.fleet.sync(ALICE, Some(LONG)).await.unwrap().finished.unwrap();
    assert_eq!((status.segments[0].mode.clone(), status.resyncs), ("delta".to_owned(), 0));
    rig.stop().await;
}

/// One removal in the near segment waits for the far one, which is in trouble; what else happens in
/// the near one is shown meanwhile.
#[tokio::test(start_paused = true)]
async fn a_parked_removal_does_not_freeze_its_segment() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::simulated(1, noon());
    let simulator = graph(&world);
    let gone = edit(&simulator, single("gone", noon() + days(1)));
    edit(&simulator, single("stays", noon() + days(2)));
    let tracked = Window {
        start: Edge::At(at("2024-01-01T00:00:00Z")),
        end: Edge::At(at("2032-01-01T00:00:00Z")),
        ..window(ALICE)
    };
    let rig = start(directory.path(), &simulator, &world, tracked).await;
    rig.settle(ALICE, 5).await;
    simulator.kill_tokens(None);
    // The second segment, from its first address.
    simulator.plan(Planned::always(Fault::InternalError).path("startDateTime=2028"));
    edit(&simulator, Edit::Delete { event: gone });
    for _ in 0..3 {
        rig.fleet.sync(ALICE, Some(LONG)).await.unwrap();
    }
    let new = edit(&simulator, single("new", noon() + days(3)));
    for _ in 0..3 {
        rig.fleet.sync(ALICE, Some(LONG)).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    let id = rig.fleet.id(ALICE).unwrap();
    assert!(mirror(&rig.store, id).await.contains_key(&new), "a day later it is not there");
    rig.stop().await;
}

/// Every listing of a series breaks off without an answer (timeout, reset, truncated body).
struct Broken(Memory, std::sync::atomic::AtomicBool, calmirror::graph::transport::Fault);

impl Transport for Broken {
    fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> BoxFuture<'_, Result<http::Response<Body>, TransportError>> {
        if self.1.load(Ordering::Relaxed) && request.uri().path().contains("/instances") {
            let fault = self.2;
            return Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(200)).await;
                Err(TransportError::new(fault))
            });
        }
        self.0.send(request)
    }
}

/// POLICY: if that listing cannot be had now, what came is upserted and the series stays on the
/// to-do; the rest of the calendar goes on.
#[tokio::test(start_paused = true)]
async fn a_listing_that_always_breaks_off_keeps_nobody_else_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::simulated(1, noon());
    let simulator = graph(&world);
    let series = edit(
        &simulator,
        Edit::CreateSeries {
            subject: "daily".into(),
            start: noon(),
            minutes: 45,
            repeats: Pattern::Daily { every: 1 },
            until: Some("2026-12-01".parse().unwrap()),
            all_day: false,
        },
    );
    let fault = calmirror::graph::transport::Fault::Timeout;
    let transport = Arc::new(Broken(Memory(simulator.clone()), false.into(), fault));
    let rig = Rig::start(directory.path(), transport.clone(), &world, vec![window(ALICE)]).await;
    rig.settle(ALICE, 5).await;
    transport.1.store(true, Ordering::Relaxed);
    edit(&simulator, Edit::Rename { event: series, subject: "else".into() });
    rig.fleet.sync(ALICE, Some(LONG)).await.unwrap();
    let new = edit(&simulator, single("new", noon() + days(3)));
    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    let id = rig.fleet.id(ALICE).unwrap();
    assert!(mirror(&rig.store, id).await.contains_key(&new), "a day later it is not there");
    rig.stop().await;
}
