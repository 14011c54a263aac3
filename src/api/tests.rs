//! The routes over a real store and a test fleet, in paused time.
mod access;
mod busy;
mod changes;
mod conditional;
mod consumers;
mod described;
mod events;
mod export;
mod filters;
mod free;
mod ics;
mod joins;
mod live;
mod logins;
mod merged_events;
mod problems;
mod rounds;
mod shards;
mod sinks;
mod slices;
mod windows;
mod work;

use std::collections::BTreeMap;
use std::sync::Mutex;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::mirror::change::RemovalReason;
use crate::mirror::commit::{Commit, Removal};
use crate::mirror::page::{EventId, Item, Span};
use crate::mirror::status::WindowState;
use crate::mirror::window::{Edge, Edges, Window};
use crate::tests::{open, registration, single, window};
use crate::worker::StateFeed;

const NOON: &str = "2026-11-21T12:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A fleet with preset statuses that finishes every round at once.
#[derive(Default)]
struct Double {
    windows: Mutex<Vec<(WindowStatus, WindowId)>>,
    rounds: Mutex<PastRounds>,
    asked: Mutex<Vec<String>>,
    states: StateFeed,
}

impl Double {
    fn ask(
        &self,
        what: String,
        name: &str,
        wait: Option<Duration>,
    ) -> Result<StartedRound, FleetError> {
        self.asked.lock().unwrap().push(what);
        let finished = self.window(name).ok_or(FleetError::UnknownWindow(name.to_owned()))?;
        Ok(StartedRound { window: name.into(), round: 982, finished: wait.map(|_| finished) })
    }
}

impl FleetApi for Double {
    fn summaries(&self) -> Vec<WindowSummary> {
        let windows = self.windows.lock().unwrap();
        let mut summaries: Vec<WindowSummary> =
            windows.iter().map(|(status, _)| summary(status)).collect();
        summaries.sort_by(|a, b| a.window.name.cmp(&b.window.name));
        summaries
    }
    fn window(&self, name: &str) -> Option<WindowStatus> {
        let windows = self.windows.lock().unwrap();
        windows.iter().map(|(status, _)| status).find(|status| status.name == name).cloned()
    }
    fn states(&self) -> StateFeed {
        self.states.clone()
    }
    fn rounds(&self, name: &str) -> Option<PastRounds> {
        self.id(name).map(|_| self.rounds.lock().unwrap().clone())
    }
    fn id(&self, name: &str) -> Option<WindowId> {
        let windows = self.windows.lock().unwrap();
        windows.iter().find(|(status, _)| status.name == name).map(|(_, id)| *id)
    }
    fn sync<'a>(
        &'a self,
        name: &'a str,
        wait: Option<Duration>,
    ) -> BoxFuture<'a, Result<StartedRound, FleetError>> {
        Box::pin(async move { self.ask(format!("sync {name} {wait:?}"), name, wait) })
    }
    fn resync<'a>(
        &'a self,
        name: &'a str,
        accept: bool,
        wait: Option<Duration>,
    ) -> BoxFuture<'a, Result<StartedRound, FleetError>> {
        Box::pin(async move { self.ask(format!("resync {name} {accept} {wait:?}"), name, wait) })
    }
}

fn summary(status: &WindowStatus) -> WindowSummary {
    let mut window = window(&status.name);
    (window.account, window.mailbox) = (status.account.as_str().into(), (*status.mailbox).into());
    window.settings_mut().interval = Duration::from_secs_f64(status.interval_s);
    WindowSummary {
        window: Arc::new(window),
        state: status.state,
        healthy: status.is_healthy(),
        settled_once: status.settled_once,
        events: status.events,
        stale_s: status.stale_s,
    }
}

pub(crate) struct Fixture {
    pub(crate) store: Store,
    fleet: Arc<Double>,
    pub(crate) env: Env,
    stopping: StopSignal,
    settings: ApiSettings,
    elsewhere: OwnerBoard,
    work: RequestLimits,
    _directory: tempfile::TempDir,
}

impl Fixture {
    /// Says whether a window was enumerated once.
    pub(crate) fn set_settled(&self, name: &str, settled: bool) {
        for (status, _) in self.fleet.windows.lock().unwrap().iter_mut() {
            if status.name == name {
                status.settled_once = settled;
            }
        }
    }

    /// Sets the state of a window.
    pub(crate) fn put_state(&self, name: &str, state: WindowState) {
        for (status, _) in self.fleet.windows.lock().unwrap().iter_mut() {
            if status.name == name {
                status.state = state;
            }
        }
    }

    /// A store with the windows `alice` and `room a/b`, without events.
    pub(crate) async fn new() -> Self {
        let fixture = Self::empty();
        fixture.add_window("alice", "alice@contoso.com").await;
        fixture.add_window("room a/b", "room@contoso.com").await;
        fixture
    }

    /// A store without windows.
    fn empty() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let env = Env::simulated(7, at(NOON));
        let store = open(&directory.path().join("store"), &env);
        let fleet = Arc::new(Double::default());
        let stopping = StopSignal::default();
        let settings = ApiSettings::default();
        let work = RequestLimits::new(env.clone());
        let elsewhere = OwnerBoard::default();
        Self { store, fleet, env, stopping, settings, elsewhere, work, _directory: directory }
    }

    async fn add_window(&self, name: &str, mailbox: &str) -> WindowId {
        let mut wanted = registration(&Window { mailbox: mailbox.into(), ..window(name) });
        wanted.edges = Edges { start: at("2026-01-01T00:00:00Z"), end: at("2027-01-01T00:00:00Z") };
        (wanted.start, wanted.end) = (Edge::At(wanted.edges.start), Edge::At(wanted.edges.end));
        let edges = wanted.edges;
        let id = self.store.register(vec![wanted], self.env.now()).await.unwrap()[0].id;
        let status = serde_json::from_value::<model::WindowJson>(json!({
            "name": name, "account": "contoso", "mailbox": mailbox, "calendar": "default",
            "start": edges.start, "end": edges.end, "state": "settled", "events": 0,
            "segments": [{"start": edges.start, "end": edges.end, "mode": "delta"}],
            "last_round": {"number": 982, "at": NOON, "took_ms": 180, "requests": 1, "pages": 1,
                "created": 0, "updated": 1, "removed": 0},
            "last_success": "2026-11-21T11:59:00Z", "stale_s": 60.0, "next_due": null,
            "failures": 0, "resyncs": 0, "last_resync": null, "last_error": null,
            "settled_once": true, "interval_s": 300.0,
        }));
        self.fleet.windows.lock().unwrap().push((status.unwrap().into(), id));
        id
    }

    pub(crate) fn id(&self, name: &str) -> WindowId {
        self.fleet.id(name).unwrap()
    }

    /// Writes events that begin at the given hours of the day, and removes others.
    pub(crate) async fn write(
        &self,
        window: WindowId,
        present: &[(&str, u8, &str)],
        gone: &[&str],
    ) {
        let item = |&(id, hour, more): &(&str, u8, &str)| {
            let start = at(&format!("2026-11-21T{hour:02}:00:00Z"));
            let end = at(&format!("2026-11-21T{hour:02}:30:00Z"));
            single(id, Span { start, end }, format!(r#"{{"id":"{id}","subject":"s{hour}"{more}}}"#))
        };
        let removal =
            |id: &&str| Removal { id: EventId::new(*id).hash(), reason: RemovalReason::Deleted };
        let mut commit = Commit::new(window, 0, self.env.now());
        commit.upserts = present.iter().map(item).collect();
        commit.removals = gone.iter().map(removal).collect();
        self.store.commit(commit).await.unwrap();
    }

    /// Writes events as Graph sends them.
    async fn put(&self, window: WindowId, events: &[Value]) {
        let mut commit = Commit::new(window, 0, self.env.now());
        for event in events {
            let content = event.to_string();
            let members = crate::json::JsonMembers::parse(content.as_bytes()).unwrap();
            let when = crate::mirror::event_time::TimeReader::default().event(&members).unwrap();
            let span = Span { start: when.start.at, end: when.end.at };
            let item = single(event["id"].as_str().unwrap(), span, content);
            commit.upserts.push(Item { all_day: event["isAllDay"] == true, ..item });
        }
        self.store.commit(commit).await.unwrap();
    }

    pub(crate) fn app(&self) -> AppState {
        AppState {
            store: self.store.clone(),
            fleet: self.fleet.clone(),
            elsewhere: self.elsewhere.clone(),
            fleets: FleetBoard::default(),
            logins: Arc::new(logins::ScriptedLogins),
            sinks: Arc::new(sinks::ScriptedSinks),
            env: self.env.clone(),
            build: Arc::new(BuildInfo {
                version: "0.1.0".into(),
                commit: "abc".into(),
                target: "x86_64-unknown-linux-gnu".into(),
                started: at("2026-11-21T11:00:00Z"),
                since: tokio::time::Instant::now() - Duration::from_secs(3600),
            }),
            settings: self.settings.clone(),
            consumers: ConsumerLog::default(),
            metrics: crate::metrics::Metrics::default(),
            limits: self.work.clone(),
            stopping: self.stopping.clone(),
            reloads: crate::reload::ReloadQueue::default().handle(),
        }
    }

    async fn ask(&self, method: &str, uri: &str) -> (StatusCode, HeaderMap, String) {
        self.ask_with(method, uri, &[]).await
    }

    async fn ask_with(
        &self,
        method: &str,
        uri: &str,
        headers: &[(&str, &str)],
    ) -> (StatusCode, HeaderMap, String) {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = router(self.app()).oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        (head.status, head.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn get(&self, uri: &str) -> Value {
        let (status, _, body) = self.ask("GET", uri).await;
        assert_eq!(status, StatusCode::OK, "{uri}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// The lines of a feed response, and its cursor.
    async fn changes(&self, uri: &str) -> (Vec<Value>, String) {
        let (status, headers, body) = self.ask("GET", uri).await;
        assert_eq!(status, StatusCode::OK, "{uri}: {body}");
        let lines = body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines, headers["x-calmirror-cursor"].to_str().unwrap().to_owned())
    }
}

fn ids(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap()).collect()
}

/// The lines in short form: `created a`, `removed b`.
fn changes_in(lines: &[Value]) -> Vec<String> {
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    lines.iter().map(|line| format!("{} {}", word(&line["change"]), word(&line["id"]))).collect()
}

/// A reader's copy of a window: its events by id.
type Mirror = BTreeMap<String, Value>;

/// Applies the lines of a feed response.
fn apply(mirror: &mut Mirror, lines: &[Value]) {
    for line in lines {
        let id = line["id"].as_str().unwrap().to_owned();
        match line["change"].as_str() {
            Some("removed") => drop(mirror.remove(&id)),
            _ => drop(mirror.insert(id, line["event"].clone())),
        }
    }
}
