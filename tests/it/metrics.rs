//! `/metrics` over a running fleet: documented metrics exist and move when they should, and their
//! number does not grow with the windows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body as ApiBody, to_bytes};
use bytes::Bytes;
use calmirror::api::{
    ApiSettings, AppState, BuildInfo, FleetBoard, FleetStatusJson, HeldListingJson, LoginApi,
    LoginRefusal, RequestLimits, SinkApi, SinkCommand, SinkRefusal, SinkStatusJson, StartedLogin,
    StopSignal, router, tcp_router,
};
use calmirror::env::Env;
use calmirror::graph::transport::{BodyStream, Transport, TransportError};
use calmirror::mirror::window::Window;
use calmirror::reload::{ReloadError, ReloadHandle, ReloadQueue};
use calmirror::simulator::{
    Behaviour, DeadLinkAnswer, Fault, PlannedFault, Population, Simulator, SimulatorSettings,
};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use http::Request;
use tower::ServiceExt as _;

use crate::converge::simulator;
use crate::memory::Memory;
use crate::rig::{BASE, Rig, noon, window};

const DOCUMENT: &str = include_str!("../../docs/monitoring/README.md");
const MAILBOX: &str = "alice@contoso.com";

/// Every series with its value.
type Samples = BTreeMap<String, f64>;

/// No account.
struct NoLogins;

impl LoginApi for NoLogins {
    fn login(&self, account: String, _: bool) -> BoxFuture<'_, Result<StartedLogin, LoginRefusal>> {
        Box::pin(async { Err(LoginRefusal::UnknownAccount(account)) })
    }

    fn logout(&self, account: String) -> BoxFuture<'_, Result<Option<String>, LoginRefusal>> {
        Box::pin(async { Err(LoginRefusal::UnknownAccount(account)) })
    }
}

/// A sink that is `behind`, or not.
#[derive(Clone, Default)]
struct OneSink(Arc<AtomicBool>);

impl SinkApi for OneSink {
    fn list(&self) -> Vec<SinkStatusJson> {
        let behind = self.0.load(Ordering::Relaxed);
        let sink = serde_json::json!({
            "name": "crm", "type": "webhook", "to": "https://crm.example", "snapshot": false,
            "state": if behind { "waiting" } else { "running" }, "sent": 7, "cursor": null,
            "pending": if behind { 12 } else { 0 }, "behind_s": if behind { 60.5 } else { 0.0 },
            "last_error": null, "next_attempt": null, "attempts": [],
        });
        vec![serde_json::from_value(sink).unwrap()]
    }

    fn ask(
        &self,
        sink: String,
        _: SinkCommand,
    ) -> BoxFuture<'_, Result<SinkStatusJson, SinkRefusal>> {
        Box::pin(async { Err(SinkRefusal::Unknown(sink)) })
    }
}

fn api(rig: &Rig, env: &Env, reloads: ReloadHandle) -> Router {
    router(access(rig, env, reloads))
}

/// A fleet before its first listing.
fn unlisted_fleet() -> FleetStatusJson {
    FleetStatusJson {
        name: "staff".to_owned(),
        account: "contoso".to_owned(),
        members: 0,
        windows: 0,
        without_mailbox: 0,
        listed_at: None,
        next_due: None,
        held: None,
        calendars_held: None,
        failures: 0,
        last_error: None,
        faults: 0,
        members_with_faults: Vec::new(),
        calendars_left_out: Vec::new(),
    }
}

fn access(rig: &Rig, env: &Env, reloads: ReloadHandle) -> AppState {
    AppState {
        fleets: FleetBoard::default(),
        elsewhere: Default::default(),
        logins: Arc::new(NoLogins),
        sinks: Arc::new(OneSink::default()),
        store: rig.store.clone(),
        fleet: Arc::new(rig.fleet.clone()),
        env: env.clone(),
        build: Arc::new(BuildInfo {
            version: "0.1.0".into(),
            commit: "abc".into(),
            target: "x".into(),
            started: noon(),
            since: tokio::time::Instant::now(),
        }),
        settings: ApiSettings::default(),
        consumers: calmirror::api::ConsumerLog::default(),
        metrics: rig.metrics.clone(),
        limits: RequestLimits::new(env.clone()),
        reloads,
        stopping: StopSignal::default(),
    }
}

async fn text(api: &Router) -> String {
    let request = Request::get("/metrics").body(ApiBody::empty()).unwrap();
    let answer = api.clone().oneshot(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let body = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

async fn scrape(api: &Router) -> Samples {
    let text = text(api).await;
    let samples = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        (series.to_owned(), value.parse().unwrap())
    });
    samples.collect()
}

/// The metrics that a scrape declares, with their types.
fn declared(text: &str) -> BTreeMap<&str, &str> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.map(|line| line.split_once(' ').unwrap()).collect()
}

/// The metric that a series belongs to.
fn metric<'a>(series: &'a str, declared: &BTreeMap<&str, &str>) -> &'a str {
    let name = series.split('{').next().unwrap();
    let parts = ["_bucket", "_sum", "_count"];
    let histogram = parts.iter().find_map(|part| name.strip_suffix(part));
    histogram.filter(|name| declared.contains_key(name)).unwrap_or(name)
}

/// The metrics in the documentation's table, with their types.
fn documented() -> BTreeMap<&'static str, &'static str> {
    let rows = DOCUMENT.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.filter_map(|row| {
        let (name, rest) = row.split_once('`')?;
        let kind = rest.split('|').nth(1)?.trim();
        Some((name.split('{').next()?, kind))
    });
    cells
        .filter(|(name, _)| name.starts_with("calmirror_") || name.starts_with("process_"))
        .collect()
}

/// The simulated Graph over a transport that panics on request.
struct PanickingTransport {
    graph: Memory,
    stumble: Arc<AtomicBool>,
}

impl Transport for PanickingTransport {
    fn send(
        &self,
        request: Request<Bytes>,
    ) -> BoxFuture<'_, Result<http::Response<BodyStream>, TransportError>> {
        assert!(!self.stumble.swap(false, Ordering::Relaxed), "requested by the test");
        self.graph.send(request)
    }
}

/// Metrics that no test can move reliably, and why.
const STILL: &[&str] = &[
    "calmirror_build_info",        // a constant
    "calmirror_graph_page_bytes",  // 0 between the steps of a simulation
    "calmirror_store_cache_bytes", // a constant
    "calmirror_store_free_bytes",  // the disk is shared
    "calmirror_store_queue_jobs",  // empty by the time of a scrape
    "process_start_time_seconds",  // a constant
    "process_cpu_seconds_total",   // coarse
    "process_resident_memory_bytes",
    "process_max_fds", // a constant
];

#[tokio::test(start_paused = true)]
async fn every_documented_metric_exists_and_changes() {
    let directory = tempfile::tempdir().unwrap();
    let env = Env::simulated(31, noon());
    let graph = simulator(31, Behaviour::by_seed(31), &env);
    let stumble = Arc::new(AtomicBool::new(false));
    let transport = PanickingTransport { graph: Memory(graph.clone()), stumble: stumble.clone() };
    let rig = Rig::start(directory.path(), Arc::new(transport), &env, vec![window(MAILBOX)]).await;
    let mut queue = ReloadQueue::default();
    let reloads = queue.handle();
    let sink = OneSink::default();
    let sinks = Arc::new(sink.clone());
    let app = AppState { sinks, ..access(&rig, &env, reloads.clone()) };
    let fleets = app.fleets.clone();
    fleets.set_fleets(vec![unlisted_fleet()]);
    let api = router(app);
    let mut scrapes = vec![scrape(&api).await];

    rig.settle(MAILBOX, 10).await;
    scrapes.push(scrape(&api).await);
    let settled = scrapes.last().unwrap().clone();
    assert_eq!(settled["calmirror_windows{state=\"settled\"}"], 1.0);
    assert_eq!(settled["calmirror_windows_unsettled"], 0.0);
    let events = rig.fleet.window(MAILBOX).unwrap().events as f64;
    assert_eq!(settled["calmirror_events"], events);
    assert_eq!(settled["calmirror_changes_total{change=\"created\"}"], events);

    // A request in flight, and a fleet that waits for it.
    graph.plan(PlannedFault::once(Fault::Stall).path("delta"));
    tokio::time::sleep(Duration::from_secs(80)).await;
    let stalled = scrape(&api).await;
    assert_eq!(stalled["calmirror_graph_requests_in_flight"], 1.0);
    assert_eq!(stalled["calmirror_rounds_in_progress"], 1.0);
    assert_eq!(stalled["calmirror_windows{state=\"following\"}"], 1.0);
    assert!(stalled["calmirror_window_staleness_max_seconds"] > 30.0);
    scrapes.push(stalled);
    rig.settle(MAILBOX, 10).await;

    // Throttling, a refusal, a dead link, a panic, and many changes.
    let retry_after = Some("17".to_owned());
    graph.plan(PlannedFault::once(Fault::Throttled { retry_after }).path("delta"));
    rig.fleet.sync(MAILBOX, Some(Duration::from_secs(600))).await.unwrap();
    scrapes.push(scrape(&api).await);
    rig.settle(MAILBOX, 10).await;
    graph.plan(
        PlannedFault::once(Fault::DeadLink { how: DeadLinkAnswer::ResyncRequired }).path("delta"),
    );
    for _ in 0..60 {
        graph.mutate_randomly();
    }
    rig.settle(MAILBOX, 10).await;
    rig.fleet.resync(MAILBOX, false, Some(Duration::from_secs(600))).await.unwrap();
    stumble.store(true, Ordering::Relaxed);
    rig.fleet.sync(MAILBOX, Some(Duration::from_secs(600))).await.unwrap();
    rig.settle(MAILBOX, 10).await;
    std::fs::create_dir(directory.path().join("store/store.damaged.1")).unwrap();
    let now = scrape(&api).await;
    for (series, least) in [
        ("calmirror_graph_requests_total{status=\"429\"}", 1.0),
        ("calmirror_graph_requests_total{status=\"410\"}", 1.0),
        ("calmirror_graph_requests_total{status=\"none\"}", 1.0),
        ("calmirror_throttle_pauses_total", 1.0),
        ("calmirror_throttle_pause_seconds_total", 17.0),
        ("calmirror_rounds_total{outcome=\"throttled\"}", 1.0),
        ("calmirror_rounds_total{outcome=\"settled\"}", 5.0),
        ("calmirror_resyncs_total{reason=\"sync_state_not_found\"}", 1.0),
        ("calmirror_resyncs_total{reason=\"requested\"}", 1.0),
        ("calmirror_changes_total{change=\"updated\"}", 1.0),
        ("calmirror_changes_total{change=\"removed\"}", 1.0),
        ("calmirror_round_lateness_seconds_count", 1.0),
        ("calmirror_graph_wait_seconds_count", 5.0),
        ("calmirror_graph_request_seconds_sum", 100.0),
        ("calmirror_store_commit_seconds_count", 2.0),
        ("calmirror_worker_restarts_total", 1.0),
        ("calmirror_store_damaged", 1.0),
    ] {
        assert!(now[series] >= least, "{series} is {}", now[series]);
    }
    assert_eq!(now["calmirror_throttle_pause_seconds_total"], 17.0);
    let changes: f64 = ["created", "updated", "removed"]
        .map(|change| now[&format!("calmirror_changes_total{{change=\"{change}\"}}")])
        .iter()
        .sum();
    assert_eq!(now["calmirror_feed_last_seq"], changes);
    scrapes.push(now);

    let live = rig.store.live_bytes(Duration::ZERO).await.unwrap();
    rig.store.compact(live, Duration::ZERO).await.unwrap();
    let compacted = scrape(&api).await;
    assert_eq!(compacted["calmirror_store_compactions_total"], 1.0);
    assert_eq!(compacted["calmirror_store_live_bytes"], live as f64);
    scrapes.push(compacted);

    // A refused reload.
    assert_eq!(scrapes[0]["calmirror_reload_last_success"], 1.0);
    let asking = tokio::spawn(async move { reloads.ask(false).await });
    let ask = queue.next().await;
    queue.answer(ask, Err(ReloadError::Faults(Vec::new())), env.now());
    assert!(asking.await.unwrap().is_err());
    let refused = scrape(&api).await;
    assert_eq!(refused["calmirror_reload_last_success"], 0.0);
    assert_eq!(refused["calmirror_reloads_total{outcome=\"refused\"}"], 1.0);
    assert!(
        refused["calmirror_reload_last_timestamp_seconds"]
            > scrapes[0]["calmirror_reload_last_timestamp_seconds"]
    );
    scrapes.push(refused);

    // A fleet that is listed, but not as a whole, and then cannot be listed.
    let held = FleetStatusJson {
        members: 42,
        windows: 40,
        without_mailbox: 1,
        listed_at: Some(noon()),
        held: Some(HeldListingJson { missing: 30, until: noon() }),
        failures: 3,
        faults: 2,
        ..unlisted_fleet()
    };
    fleets.set_fleets(vec![held]);
    let listed = scrape(&api).await;
    for (name, value) in [
        ("members", 42.0),
        ("windows", 40.0),
        ("without_mailbox", 1.0),
        ("faults", 2.0),
        ("failures", 3.0),
        ("held", 1.0),
        ("last_listing_timestamp_seconds", noon().as_second() as f64),
    ] {
        assert_eq!(listed[&format!("calmirror_fleet_{name}{{fleet=\"staff\"}}")], value, "{name}");
    }
    scrapes.push(listed);
    let calendars_held = Some(HeldListingJson { missing: 30, until: noon() });
    fleets.set_fleets(vec![FleetStatusJson { calendars_held, ..unlisted_fleet() }]);
    assert_eq!(scrape(&api).await["calmirror_fleet_held{fleet=\"staff\"}"], 1.0);

    // A sink whose target is away.
    sink.0.store(true, Ordering::Relaxed);
    let behind = scrape(&api).await;
    for (name, value) in [("pending", 12.0), ("behind_seconds", 60.5), ("failing", 1.0)] {
        assert_eq!(behind[&format!("calmirror_sink_{name}{{sink=\"crm\"}}")], value, "{name}");
    }
    scrapes.push(behind);

    // Readers of the feed are counted while they are connected.
    let ask = |path: &str, accept: &str| {
        let request = Request::get(path).header("accept", accept.to_owned());
        api.clone().oneshot(request.body(ApiBody::empty()).unwrap())
    };
    let mut stream =
        ask("/v1/changes", "text/event-stream").await.unwrap().into_body().into_data_stream();
    assert!(stream.next().await.is_some());
    let waiting = tokio::spawn(ask("/v1/changes?after=now&wait=20s", "*/*"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let reading = scrape(&api).await;
    assert_eq!(reading["calmirror_feed_readers{kind=\"stream\"}"], 1.0);
    assert_eq!(reading["calmirror_feed_readers{kind=\"wait\"}"], 1.0);
    scrapes.push(reading);
    let tcp = access(&rig, &env, ReloadQueue::default().handle());
    let tcp = tcp_router(tcp, "127.0.0.1:8380".parse().unwrap());
    let wrong = Request::get("/v1/status")
        .header("host", "localhost")
        .header("authorization", "Bearer wrong")
        .body(ApiBody::empty())
        .unwrap();
    assert_eq!(tcp.oneshot(wrong).await.unwrap().status(), 401);
    scrapes.push(scrape(&api).await);
    drop(stream);
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
    let after = scrape(&api).await;
    assert_eq!(after["calmirror_feed_readers{kind=\"stream\"}"], 0.0);
    assert_eq!(after["calmirror_feed_readers{kind=\"wait\"}"], 0.0);

    let text = text(&api).await;
    let declared = declared(&text);
    assert_eq!(declared, documented(), "the metrics and docs/monitoring/README.md");
    let mut moved: BTreeSet<&str> = STILL.iter().copied().collect();
    for (earlier, later) in scrapes.iter().zip(&scrapes[1..]) {
        assert!(earlier.keys().eq(later.keys()), "the set of series changed");
        let differing = later.iter().filter(|(series, value)| earlier[*series] != **value);
        moved.extend(differing.map(|(series, _)| metric(series, &declared)));
    }
    moved.insert("process_open_fds");
    let still: Vec<_> = declared.keys().filter(|name| !moved.contains(**name)).collect();
    assert!(still.is_empty(), "never moved: {still:?}");
    assert!(!text.contains("alice") && !text.contains("contoso"), "names of people");
    rig.stop().await;
}

/// The series of a fleet of this size after a few rounds.
async fn series(windows: usize) -> BTreeSet<String> {
    let directory = tempfile::tempdir().unwrap();
    let env = Env::simulated(32, noon());
    let graph = Simulator::new(SimulatorSettings::new(32, env.clone()));
    graph.set_base_url(BASE);
    let names: Vec<String> = (0..windows).map(|n| format!("room{n}@contoso.com")).collect();
    let plan = Population {
        singles: 1,
        series: 0,
        all_day: 0,
        body_bytes: 0,
        around: noon(),
        spread_days: 10,
    };
    for name in &names {
        graph.add_mailbox(name);
        graph.populate(name, None, plan.clone());
    }
    let tracked: Vec<Window> = names.iter().map(|name| window(name)).collect();
    let rig = Rig::start(directory.path(), Arc::new(Memory(graph)), &env, tracked).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    let samples = scrape(&api(&rig, &env, ReloadQueue::default().handle())).await;
    assert_eq!(samples["calmirror_windows{state=\"settled\"}"], windows as f64);
    assert_eq!(samples["calmirror_window_staleness_seconds_count"], windows as f64);
    rig.stop().await;
    samples.into_keys().collect()
}

#[tokio::test(start_paused = true)]
async fn the_number_of_series_does_not_grow_with_the_windows() {
    let few = series(10).await;
    assert_eq!(few, series(500).await);
    assert!(few.len() < 300, "{} series", few.len());
}
