//! The routes over a real store and a fleet that answers as told, in paused time.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed test may panic")]

use std::sync::Mutex;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::mirror::change::RemovalReason;
use crate::mirror::commit::{Commit, Removal};
use crate::mirror::page::{EventId, Item, Kind, Span};
use crate::mirror::status::State;
use crate::mirror::window::{Body as EventBody, Calendar, Complete, Edge, Edges, Identity, Shape};
use crate::store::{Options, Wanted};

const NOON: &str = "2026-11-21T12:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A fleet that has the statuses it was given and finishes every round at once.
#[derive(Default)]
struct Double {
    windows: Mutex<Vec<(WindowStatus, WindowId)>>,
    asked: Mutex<Vec<String>>,
}

impl Double {
    fn ask(&self, what: String, name: &str, wait: Option<Duration>) -> Result<Started, FleetError> {
        self.asked.lock().unwrap().push(what);
        let finished = self.window(name).ok_or(FleetError::UnknownWindow(name.to_owned()))?;
        Ok(Started { window: name.into(), round: 982, finished: wait.map(|_| finished) })
    }
}

impl Windows for Double {
    fn windows(&self) -> Vec<WindowStatus> {
        self.windows.lock().unwrap().iter().map(|(status, _)| status.clone()).collect()
    }
    fn window(&self, name: &str) -> Option<WindowStatus> {
        self.windows().into_iter().find(|status| status.name == name)
    }
    fn id(&self, name: &str) -> Option<WindowId> {
        let windows = self.windows.lock().unwrap();
        windows.iter().find(|(status, _)| status.name == name).map(|(_, id)| *id)
    }
    fn sync<'a>(
        &'a self,
        name: &'a str,
        wait: Option<Duration>,
    ) -> BoxFuture<'a, Result<Started, FleetError>> {
        Box::pin(async move { self.ask(format!("sync {name} {wait:?}"), name, wait) })
    }
    fn resync<'a>(
        &'a self,
        name: &'a str,
        accept: bool,
        wait: Option<Duration>,
    ) -> BoxFuture<'a, Result<Started, FleetError>> {
        Box::pin(async move { self.ask(format!("resync {name} {accept} {wait:?}"), name, wait) })
    }
}

struct Fixture {
    store: Store,
    fleet: Arc<Double>,
    world: World,
    stopping: watch::Sender<bool>,
    settings: ApiSettings,
    _directory: tempfile::TempDir,
}

impl Fixture {
    /// A store with the windows `alice` and `room a/b`, without events.
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let world = World::simulated(7, at(NOON));
        let options = Options { min_free_bytes: 0, ..Options::new(directory.path().join("store")) };
        let (store, _) = Store::open(&options, &world).unwrap();
        let fleet = Arc::new(Double::default());
        let (stopping, _) = watch::channel(false);
        let settings = ApiSettings::default();
        let fixture = Self { store, fleet, world, stopping, settings, _directory: directory };
        fixture.add_window("alice", "alice@contoso.com").await;
        fixture.add_window("room a/b", "room@contoso.com").await;
        fixture
    }

    async fn add_window(&self, name: &str, mailbox: &str) -> WindowId {
        let edges = Edges { start: at("2026-01-01T00:00:00Z"), end: at("2027-01-01T00:00:00Z") };
        let wanted = Wanted {
            name: name.into(),
            identity: Identity {
                account: "contoso".into(),
                tenant: "t".into(),
                mailbox: mailbox.into(),
                calendar: Calendar::Default,
                immutable_ids: false,
            },
            shape: Shape {
                body: EventBody::Html,
                time_zone: "UTC".into(),
                complete: Complete::Master,
            },
            start: Edge::At(edges.start),
            end: Edge::At(edges.end),
            edges,
        };
        let id = self.store.attach(vec![wanted], self.world.now()).await.unwrap()[0].id;
        let status = serde_json::from_value(json!({
            "name": name, "account": "contoso", "mailbox": mailbox, "calendar": "default",
            "start": edges.start, "end": edges.end, "state": "settled", "events": 0,
            "segments": [{"start": edges.start, "end": edges.end, "mode": "delta"}],
            "last_round": {"number": 982, "at": NOON, "took_ms": 180, "requests": 1, "pages": 1,
                "created": 0, "updated": 1, "removed": 0},
            "last_success": "2026-11-21T11:59:00Z", "stale_s": 60.0, "next_due": null,
            "failures": 0, "resyncs": 0, "last_resync": null, "last_error": null,
            "settled_once": true, "interval_s": 300.0,
        }));
        self.fleet.windows.lock().unwrap().push((status.unwrap(), id));
        id
    }

    fn id(&self, name: &str) -> WindowId {
        self.fleet.id(name).unwrap()
    }

    /// Writes events that begin at the given hours of the day, and removes others.
    async fn write(&self, window: WindowId, present: &[(&str, u8, &str)], gone: &[&str]) {
        let item = |&(id, hour, more): &(&str, u8, &str)| {
            let start = at(&format!("2026-11-21T{hour:02}:00:00Z"));
            let end = at(&format!("2026-11-21T{hour:02}:30:00Z"));
            Item {
                id: EventId::new(id),
                kind: Kind::Single,
                master: None,
                etag: None,
                span: Span { start, end },
                all_day: false,
                whole: true,
                content: format!(r#"{{"id":"{id}","subject":"s{hour}"{more}}}"#).into(),
            }
        };
        let removal =
            |id: &&str| Removal { id: EventId::new(*id).hash(), reason: RemovalReason::Deleted };
        let mut commit = Commit::new(window, 0, self.world.now());
        commit.upserts = present.iter().map(item).collect();
        commit.removals = gone.iter().map(removal).collect();
        self.store.commit(commit).await.unwrap();
    }

    fn access(&self) -> Access {
        Access {
            store: self.store.clone(),
            fleet: self.fleet.clone(),
            world: self.world.clone(),
            about: Arc::new(About {
                version: "0.1.0".into(),
                commit: "abc".into(),
                target: "x86_64-unknown-linux-gnu".into(),
                started: at("2026-11-21T11:00:00Z"),
            }),
            settings: self.settings.clone(),
            meters: Meters::default(),
            stopping: self.stopping.subscribe(),
        }
    }

    async fn ask(&self, method: &str, uri: &str) -> (StatusCode, HeaderMap, String) {
        let request = Request::builder().method(method).uri(uri).body(Body::empty()).unwrap();
        let response = router(self.access()).oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        (head.status, head.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn get(&self, uri: &str) -> Value {
        let (status, _, body) = self.ask("GET", uri).await;
        assert_eq!(status, StatusCode::OK, "{uri}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// The lines of an answer of the feed, and its cursor.
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

/// What a line says, in short: `created a`, `removed b`.
fn told(lines: &[Value]) -> Vec<String> {
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    lines.iter().map(|line| format!("{} {}", word(&line["change"]), word(&line["id"]))).collect()
}

#[tokio::test(start_paused = true)]
async fn a_wrong_parameter_is_named() {
    let fixture = Fixture::new().await;
    for (method, uri, parameter) in [
        ("GET", "/healthz?x=1", "x"),
        ("GET", "/readyz?settled=maybe", "settled"),
        ("GET", "/v1/status?verbose=1", "verbose"),
        ("GET", "/v1/windows?limit=0", "limit"),
        ("GET", "/v1/windows?limit=10001", "limit"),
        ("GET", "/v1/windows?limit=ten", "limit"),
        ("GET", "/v1/windows?page=%21", "page"),
        ("GET", "/v1/windows?state=happy", "state"),
        ("GET", "/v1/windows/alice?from=now", "from"),
        ("GET", "/v1/windows/alice/events?form=now", "form"),
        ("GET", "/v1/windows/alice/events?from=yesterday", "from"),
        ("GET", "/v1/windows/alice/events?from=2026-13-01", "from"),
        ("GET", "/v1/windows/alice/events?from=%FF", "from"),
        ("GET", "/v1/windows/alice/events?from=%2", "from"),
        ("GET", "/v1/windows/alice/events?to=7d", "to"),
        ("GET", "/v1/windows/alice/events?from=now&to=now", "to"),
        ("GET", "/v1/windows/alice/events?limit=-1", "limit"),
        ("GET", "/v1/windows/alice/events?limit=1&limit=2", "limit"),
        ("GET", "/v1/windows/alice/events?page=AAAA", "page"),
        ("GET", "/v1/windows/alice/events/x?y=1", "y"),
        ("GET", "/v1/changes?after=yesterday", "after"),
        ("GET", "/v1/changes?after=yesterday~7", "after"),
        ("GET", "/v1/changes?wait=soon", "wait"),
        ("GET", "/v1/changes?since=1", "since"),
        ("POST", "/v1/windows/alice/sync?accept_removals=true", "accept_removals"),
        ("POST", "/v1/windows/alice/resync?accept_removals=perhaps", "accept_removals"),
        ("POST", "/v1/windows/alice/resync?wait=1", "wait"),
    ] {
        let (status, headers, body) = fixture.ask(method, uri).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{uri}: {body}");
        assert_eq!(headers["content-type"], "application/problem+json", "{uri}");
        let problem: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(problem["parameter"], parameter, "{uri}: {body}");
        assert_eq!(problem["type"], "https://calmirror.dev/problems/bad-parameter", "{uri}");
    }
}

#[tokio::test(start_paused = true)]
async fn times_are_taken_in_every_form_of_the_configuration() {
    let fixture = Fixture::new().await;
    fixture.write(fixture.id("alice"), &[("a", 9, "")], &[]).await;
    for (from, listed) in [
        ("2026-11-21T09:29:59Z", true),
        ("2026-11-21T09:30:00Z", false),
        ("2026-11-21T10:29:59+01:00", true),
        ("2026-11-21T10%3A30%3A00%2B01%3A00", false),
        ("2026-11-21", true),
        ("2026-11-22", false),
        ("now", true),
        ("+1d", false),
        ("%2B1d", false),
        ("-2w", true),
        ("-1mo", true),
        ("+1y", false),
    ] {
        let list = fixture.get(&format!("/v1/windows/alice/events?from={from}")).await;
        assert_eq!(ids(&list["value"]).len(), usize::from(listed), "{from}");
    }
}

#[tokio::test(start_paused = true)]
async fn problems_have_their_shape() {
    let fixture = Fixture::new().await;
    let mut problems = String::new();
    for (method, uri) in [
        ("GET", "/nowhere"),
        ("GET", "/metrics"),
        ("POST", "/v1/status"),
        ("GET", "/v1/windows/alice/sync"),
        ("GET", "/v1/windows/nobody"),
        ("GET", "/v1/windows/nobody/events"),
        ("GET", "/v1/windows/alice/events/none"),
        ("POST", "/v1/windows/nobody/sync"),
        ("GET", "/v1/changes?window=nobody"),
        ("GET", "/v1/windows?limit=0"),
        ("GET", "/v1/windows/%FF"),
    ] {
        let (status, headers, body) = fixture.ask(method, uri).await;
        let kind = headers["content-type"].to_str().unwrap();
        let allow = headers.get("allow").map(|allow| format!(" allow {}", allow.to_str().unwrap()));
        let allow = allow.unwrap_or_default();
        problems += &format!("{method} {uri}\n{} {kind}{allow}\n{body}\n\n", status.as_u16());
    }
    insta::assert_snapshot!(problems);
}

#[tokio::test(start_paused = true)]
async fn status_and_windows() {
    let fixture = Fixture::new().await;
    let (_, _, status) = fixture.ask("GET", "/v1/status").await;
    let incarnation = fixture.store.incarnation();
    assert!(!incarnation.is_empty());
    insta::assert_snapshot!(status.replace(&incarnation, "…"));

    let first = fixture.get("/v1/windows?limit=1").await;
    assert_eq!(first["value"][0]["name"], "alice");
    let next = first["next"].as_str().unwrap();
    let second = fixture.get(&format!("/v1/windows?limit=1&page={next}")).await;
    assert_eq!(second["value"][0]["name"], "room a/b");
    assert_eq!(second["next"], Value::Null);
    assert_eq!(fixture.get("/v1/windows/room%20a%2Fb").await["mailbox"], "room@contoso.com");
    let held = fixture.get("/v1/windows?state=held").await;
    assert_eq!(held["value"], json!([]));
    let settled = fixture.get("/v1/windows?state=settled").await;
    assert_eq!(settled["value"].as_array().map(Vec::len), Some(2));
}

#[tokio::test(start_paused = true)]
async fn readiness_waits_for_windows_that_are_not_in_trouble() {
    let fixture = Fixture::new().await;
    let ready = async |uri: &str| fixture.ask("GET", uri).await.0.as_u16();
    assert_eq!(ready("/readyz?settled=1").await, 200);
    fixture.fleet.windows.lock().unwrap()[0].0.settled_once = false;
    assert_eq!(ready("/readyz").await, 200);
    assert_eq!(ready("/readyz?settled=1").await, 503);
    fixture.fleet.windows.lock().unwrap()[0].0.state = State::Quarantined;
    assert_eq!(ready("/readyz?settled=1").await, 200);
    assert_eq!(ready("/healthz").await, 200);
    fixture.stopping.send_replace(true);
    assert_eq!(ready("/healthz").await, 503);
    assert_eq!(ready("/readyz").await, 503);
}

#[tokio::test(start_paused = true)]
async fn pages_and_the_changes_after_them_make_the_mirror() {
    let fixture = Fixture::new().await;
    let alice = fixture.id("alice");
    let events = [("c", 11, ""), ("a", 9, ""), ("b", 10, ""), ("d", 12, "")];
    fixture.write(alice, &events, &[]).await;

    let first = fixture.get("/v1/windows/alice/events?limit=2").await;
    assert_eq!(ids(&first["value"]), ["a", "b"]);
    assert_eq!(first["complete"], true);
    assert_eq!(first["as_of"], "2026-11-21T11:59:00Z");
    // Between the pages one that was read leaves, one changes, and one comes before the key.
    fixture.write(alice, &[("b", 10, r#","x":1"#), ("0", 8, "")], &["a"]).await;
    let next = first["next"].as_str().unwrap();
    let second = fixture.get(&format!("/v1/windows/alice/events?limit=2&page={next}")).await;
    assert_eq!(ids(&second["value"]), ["c", "d"]);
    assert_eq!(second["cursor"], first["cursor"], "every page repeats the first one's cursor");

    let cursor = first["cursor"].as_str().unwrap();
    let (lines, _) = fixture.changes(&format!("/v1/changes?after={cursor}")).await;
    let mut told = told(&lines);
    told.sort();
    assert_eq!(told, ["created 0", "removed a", "updated b"]);
    let removed = lines.iter().find(|line| line["change"] == "removed").unwrap();
    assert_eq!(removed["reason"], "deleted");
    assert_eq!(removed.get("event"), None);
    let updated = lines.iter().find(|line| line["change"] == "updated").unwrap();
    assert_eq!(updated["event"], json!({"id": "b", "subject": "s10", "x": 1}));
    assert_eq!(updated.get("reason"), None);
}

#[tokio::test(start_paused = true)]
async fn an_event_is_found_by_its_encoded_id_and_stays_as_it_was_sent() {
    let fixture = Fixture::new().await;
    let more = r#", "Odd" : 1.50,"n":null"#;
    fixture.write(fixture.id("room a/b"), &[("A/b+c=", 9, more)], &[]).await;
    let (status, headers, body) =
        fixture.ask("GET", "/v1/windows/room%20a%2Fb/events/A%2Fb%2Bc%3D").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(body, r#"{"id":"A/b+c=","subject":"s9", "Odd" : 1.50,"n":null}"#);
    let (status, ..) = fixture.ask("GET", "/v1/windows/room%20a%2Fb/events/a%2Fb%2Bc%3D").await;
    assert_eq!(status, StatusCode::NOT_FOUND, "ids are compared as bytes");
}

#[tokio::test(start_paused = true)]
async fn a_change_is_one_line_however_its_event_was_sent() {
    let fixture = Fixture::new().await;
    fixture.write(fixture.id("alice"), &[("a", 9, ",\r\n\"x\":\n\"y\\n\"")], &[]).await;
    let (lines, _) = fixture.changes("/v1/changes").await;
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["event"], json!({"id": "a", "subject": "s9", "x": "y\n"}));
}

#[tokio::test(start_paused = true)]
async fn masked_events_are_masked_in_every_answer() {
    let mut fixture = Fixture::new().await;
    fixture.settings.mask_private = true;
    let more = r#","sensitivity":"private","showAs":"busy""#;
    fixture.write(fixture.id("alice"), &[("p", 9, more)], &[]).await;
    let masked = json!({"id": "p", "sensitivity": "private", "showAs": "busy"});
    assert_eq!(fixture.get("/v1/windows/alice/events").await["value"], json!([masked]));
    assert_eq!(fixture.get("/v1/windows/alice/events/p").await, masked);
    assert_eq!(fixture.changes("/v1/changes").await.0[0]["event"], masked);
}

#[tokio::test(start_paused = true)]
async fn a_reader_from_the_beginning_gets_everything_once_in_small_steps() {
    let fixture = Fixture::new().await;
    let alice = fixture.id("alice");
    for hour in 0..6 {
        fixture.write(alice, &[(&format!("e{hour}"), hour, "")], &[]).await;
    }
    fixture.write(alice, &[], &["e0"]).await;
    let (mut all, mut after) = (Vec::new(), None::<String>);
    for _ in 0..20 {
        let after_text = after.map_or(String::new(), |cursor| format!("&after={cursor}"));
        let (lines, cursor) = fixture.changes(&format!("/v1/changes?limit=2{after_text}")).await;
        after = Some(cursor);
        if lines.is_empty() {
            break;
        }
        assert!(lines.len() <= 2);
        all.extend(lines);
    }
    let expected =
        ["created e1", "created e2", "created e3", "created e4", "created e5", "removed e0"];
    assert_eq!(told(&all), expected);
    // Each line's own cursor goes on right after it.
    let cursor = all[2]["cursor"].as_str().unwrap();
    let (rest, _) = fixture.changes(&format!("/v1/changes?after={cursor}")).await;
    assert_eq!(told(&rest), &expected[3..]);
}

#[tokio::test(start_paused = true)]
async fn trimming_spares_readers_on_their_way_from_the_beginning() {
    let fixture = Fixture::new().await;
    let alice = fixture.id("alice");
    for (id, hour) in [("a", 9), ("b", 10), ("c", 11)] {
        fixture.write(alice, &[(id, hour, "")], &[]).await;
    }
    let (_, early) = fixture.changes("/v1/changes?after=now").await;
    fixture.write(alice, &[], &["c"]).await;
    fixture.write(alice, &[("d", 12, "")], &[]).await;
    let (lines, halfway) = fixture.changes("/v1/changes?limit=1").await;
    assert_eq!(told(&lines), ["created a"]);
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(fixture.store.trim(fixture.world.now()).await.unwrap(), 1);

    // It saw c, and can no longer be told that c left.
    let (status, _, body) = fixture.ask("GET", &format!("/v1/changes?after={early}")).await;
    assert_eq!(status, StatusCode::GONE, "{body}");
    assert!(body.contains("https://calmirror.dev/problems/snapshot-required"), "{body}");
    // It began after c had left.
    let (lines, _) = fixture.changes(&format!("/v1/changes?after={halfway}")).await;
    assert_eq!(told(&lines), ["created b", "created d"]);
}

#[tokio::test(start_paused = true)]
async fn a_window_is_told_by_name_even_after_it_was_dropped() {
    let fixture = Fixture::new().await;
    let (alice, room) = (fixture.id("alice"), fixture.id("room a/b"));
    fixture.write(alice, &[("a", 9, "")], &[]).await;
    fixture.write(room, &[("r", 9, "")], &[]).await;
    let (lines, cursor) = fixture.changes("/v1/changes?window=room+a/b").await;
    assert_eq!(told(&lines), ["created r"]);
    fixture.fleet.windows.lock().unwrap().pop();
    fixture.store.drop_window(room, fixture.world.now()).await.unwrap();
    let uri = format!("/v1/changes?window=room%20a%2Fb&after={cursor}");
    let (lines, cursor) = fixture.changes(&uri).await;
    assert_eq!(told(&lines), ["removed r"]);
    assert_eq!(lines[0]["reason"], "window_dropped");
    let uri = format!("/v1/changes?window=room%20a%2Fb&after={cursor}&wait=1m");
    assert_eq!(fixture.ask("GET", &uri).await.0, StatusCode::NOT_FOUND, "nothing more will come");
}

#[tokio::test(start_paused = true)]
async fn a_held_request_is_answered_by_the_first_change() {
    let fixture = Fixture::new().await;
    let begun = tokio::time::Instant::now();
    let (held, ()) = tokio::join!(fixture.changes("/v1/changes?after=now&wait=5m"), async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        fixture.write(fixture.id("alice"), &[("a", 9, "")], &[]).await;
    });
    assert_eq!(told(&held.0), ["created a"]);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_held_request_ends_with_its_time_or_with_the_daemon() {
    let fixture = Fixture::new().await;
    let begun = tokio::time::Instant::now();
    let (lines, cursor) = fixture.changes("/v1/changes?after=now&wait=30s").await;
    assert!(lines.is_empty());
    assert_eq!(begun.elapsed().as_secs(), 30);
    let held = fixture.changes("/v1/changes?after=now&wait=1day");
    let ((lines, same), ()) = tokio::join!(held, async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        fixture.stopping.send_replace(true);
    });
    assert!(lines.is_empty());
    assert_eq!(same, cursor);
    assert!(begun.elapsed().as_secs() < 32);
}

#[tokio::test(start_paused = true)]
async fn a_stream_tells_what_is_there_and_what_comes_and_resumes() {
    let fixture = Fixture::new().await;
    let alice = fixture.id("alice");
    fixture.write(alice, &[("a", 9, "")], &[]).await;
    let open = async |last: Option<&str>| {
        let mut request = Request::get("/v1/changes").header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = router(fixture.access()).oneshot(request).await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        response.into_body().into_data_stream()
    };
    let mut stream = open(None).await;
    let mut next = async || {
        let frame = stream.next().await?.unwrap();
        Some(String::from_utf8(frame.to_vec()).unwrap())
    };
    let first = next().await.unwrap();
    assert!(first.starts_with("id: ") && first.contains("\nevent: change\ndata: {"), "{first}");
    assert!(first.ends_with("\n\n"), "{first}");
    let quiet = next().await.unwrap();
    let id = quiet.strip_prefix("id: ").unwrap().trim_end();
    assert_eq!(quiet, format!("id: {id}\n\n"), "a sign of life moves the id and tells nothing");
    fixture.write(alice, &[("b", 10, "")], &[]).await;
    assert!(next().await.unwrap().contains(r#""id":"b""#));
    fixture.stopping.send_replace(true);
    assert_eq!(next().await, None, "the daemon's end is the stream's");

    fixture.stopping.send_replace(false);
    let resumed = open(Some(id)).await.next().await.unwrap().unwrap();
    let resumed = String::from_utf8(resumed.to_vec()).unwrap();
    assert!(resumed.contains(r#""id":"b""#) && !resumed.contains(r#""id":"a""#), "{resumed}");
}

#[tokio::test(start_paused = true)]
async fn rounds_are_asked_for_and_waited_for() {
    let fixture = Fixture::new().await;
    let (status, _, body) = fixture.ask("POST", "/v1/windows/alice/sync").await;
    assert_eq!((status, &*body), (StatusCode::ACCEPTED, r#"{"round":982,"window":"alice"}"#));
    let uri = "/v1/windows/alice/resync?wait=1h&accept_removals=true";
    let (status, _, body) = fixture.ask("POST", uri).await;
    assert_eq!(status, StatusCode::OK);
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["last_round"]["number"], 982);
    assert_eq!(
        *fixture.fleet.asked.lock().unwrap(),
        ["sync alice None", "resync alice true Some(300s)"]
    );
}

#[tokio::test(start_paused = true)]
async fn over_tcp_the_door_stands_before_every_route() {
    let mut fixture = Fixture::new().await;
    fixture.settings.token = Some(Secret::new("t0ken"));
    let door = tcp_router(fixture.access(), "127.0.0.1:8380".parse().unwrap());
    for (uri, host, token, status) in [
        ("/healthz", "localhost:8380", None, 401),
        ("/nowhere", "localhost:8380", None, 401),
        ("/v1/status", "localhost:8380", Some("Bearer t0ken"), 200),
        ("/v1/status", "evil.example", Some("Bearer t0ken"), 421),
    ] {
        let mut request = Request::get(uri).header("host", host);
        if let Some(token) = token {
            request = request.header("authorization", token);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = door.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{uri} {host}");
        assert_eq!(response.headers().contains_key("www-authenticate"), status == 401);
    }
}
