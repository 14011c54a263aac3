//! The answers of a daemon's API over a golden store while Graph does not respond.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use calmirror::env::Env;
use calmirror::graph::transport::{BodyStream, Transport, TransportError};
use calmirror::mirror::position::Phase;
use calmirror::mirror::status::WindowState;
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};

use super::calendars::{configuration, wanted};
use crate::daemon::Running;
use crate::process::eventually;
use crate::rig::noon;
use crate::socket::Api;

struct Silent;

impl Transport for Silent {
    fn send(
        &self,
        _: http::Request<Bytes>,
    ) -> BoxFuture<'_, Result<http::Response<BodyStream>, TransportError>> {
        Box::pin(std::future::pending())
    }
}

/// Windows that make progress without any request to Graph.
const MOVING: [&str; 2] = ["sweeping", "sweeping-listed"];

/// The answers that do not depend on the time of the request. The store lies in `directory/store`.
pub(super) async fn api(directory: &Path) -> Value {
    let env = Env::simulated(7, noon());
    let configuration = configuration("1d");
    let daemon = Running::start(directory, "s3cret", &configuration, Arc::new(Silent), &env).await;
    // Rounds begin, and windows being dropped are purged.
    eventually("the daemon has done what it can", async || {
        for name in MOVING {
            let window = daemon.fleet.id(name).unwrap();
            let position = daemon.store.position(window, 0).await.unwrap().unwrap();
            if !matches!(position.phase, Phase::Settled { .. }) {
                return None;
            }
        }
        let stuck = daemon.fleet.window("stuck").unwrap().last_error.is_some();
        let held = daemon.fleet.window("held").unwrap().state == WindowState::Held;
        let windows = daemon.store.windows().await.unwrap();
        (stuck && held && windows.iter().all(|window| !window.dropping)).then_some(())
    })
    .await;
    let api = Api::at(&directory.join("api.sock"));
    let mut windows = Map::new();
    for wanted in wanted() {
        let name = wanted.name.to_string();
        if MOVING.contains(&&*name) {
            continue;
        }
        let path = format!("/v1/windows/{}", name.replace(' ', "%20").replace('ü', "%C3%BC"));
        let mut window = api.get(&path).await.json();
        for member in
            ["/next_due", "/stale_s", "/held_until", "/last_error/at", "/last_error/retry_at"]
        {
            window.pointer_mut(member).map(Value::take);
        }
        let mut events = api.get(&format!("{path}/events")).await.json();
        for member in ["as_of", "cursor"] {
            events[member].take();
        }
        shorten(&mut events["value"]);
        windows.insert(name, json!({"window": window, "events": events}));
    }
    let kept = |line: &Value| windows.contains_key(line["window"].as_str().unwrap());
    let body = api.get("/v1/changes?limit=10000").await.body;
    let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let lines = lines.map(|line| serde_json::from_slice(line).unwrap()).filter(kept);
    // The daemon removes the events of dropped windows itself, at a time that varies.
    let mut feed: Vec<Value> =
        lines.filter(|line: &Value| line["reason"] != "window_dropped").collect();
    feed.iter_mut().for_each(|line| {
        // A cursor contains the minimal seq; the store-level test compares the seqs in the cursors.
        line["cursor"].take();
        if let Some(event) = line.get_mut("event") {
            let mut list = json!([event.take()]);
            shorten(&mut list);
            *event = list[0].take();
        }
    });
    daemon.stop().await;
    json!({"windows": windows, "feed": feed})
}

/// Replaces the content of a large body by its length.
fn shorten(events: &mut Value) {
    for event in events.as_array_mut().unwrap() {
        if let Some(body) = event.pointer_mut("/body/content")
            && let Some(text) = body.as_str().filter(|text| text.len() > 1000)
        {
            *body = text.len().into();
        }
    }
}
