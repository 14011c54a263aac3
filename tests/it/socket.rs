//! A client of a running daemon's API over its Unix socket.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use calmirror::api::model;
use calmirror::mirror::status::WindowStatus;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::compare::{EventsById, by_id};

/// A complete response.
pub(crate) struct ApiReply {
    pub(crate) status: StatusCode,
    pub(crate) cursor: Option<String>,
    pub(crate) body: Bytes,
}

impl ApiReply {
    pub(crate) fn json(&self) -> Value {
        assert!(self.status.is_success(), "{}: {:?}", self.status, self.body);
        serde_json::from_slice(&self.body).unwrap()
    }

    fn lines(&self) -> Vec<Value> {
        assert_eq!(self.status, StatusCode::OK, "{:?}", self.body);
        self.body
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }
}

#[derive(Clone)]
pub(crate) struct Api(pub(crate) PathBuf);

impl Api {
    pub(crate) fn at(socket: &Path) -> Self {
        Self(socket.to_owned())
    }

    /// Returns `None` without a daemon, or if it ended before the response was complete.
    pub(crate) async fn ask(&self, method: Method, path: &str) -> Option<ApiReply> {
        let stream = UnixStream::connect(&self.0).await.ok()?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let whole = async {
            let (head, body) = sender.send_request(request).await.ok()?.into_parts();
            let body = body.collect().await.ok()?.to_bytes();
            let cursor = head.headers.get("x-calmirror-cursor");
            let cursor = cursor.map(|cursor| cursor.to_str().unwrap().to_owned());
            Some(ApiReply { status: head.status, cursor, body })
        };
        let answer = whole.await;
        connection.abort();
        answer
    }

    pub(crate) async fn try_get(&self, path: &str) -> Option<ApiReply> {
        self.ask(Method::GET, path).await
    }

    pub(crate) async fn get(&self, path: &str) -> ApiReply {
        self.try_get(path).await.unwrap_or_else(|| panic!("no response to {path}"))
    }

    pub(crate) async fn post(&self, path: &str) -> ApiReply {
        self.ask(Method::POST, path).await.unwrap_or_else(|| panic!("no response to {path}"))
    }

    pub(crate) async fn window(&self, name: &str) -> WindowStatus {
        let window = self.get(&format!("/v1/windows/{name}")).await.json();
        serde_json::from_value::<model::WindowJson>(window).unwrap().into()
    }

    /// The events that readers of a window see, read page by page.
    pub(crate) async fn events(&self, name: &str) -> EventsById {
        let mut all = Vec::new();
        let mut path = format!("/v1/windows/{name}/events?limit=97");
        loop {
            let answer = self.get(&path).await.json();
            all.extend(answer["value"].as_array().unwrap().iter().cloned());
            match answer["next"].as_str() {
                Some(next) => path = format!("/v1/windows/{name}/events?limit=97&page={next}"),
                None => break,
            }
        }
        let read = all.len();
        let events = by_id(all);
        assert_eq!(read, events.len(), "an event is listed twice");
        events
    }
}

/// A client that follows the feed and keeps its cursor. Events are held by window and id.
#[derive(Default)]
pub(crate) struct FeedClient {
    pub(crate) cursor: Option<String>,
    pub(crate) held: std::collections::BTreeMap<(String, String), Value>,
    /// The last seq applied.
    pub(crate) seq: u64,
    pub(crate) lines: usize,
}

impl FeedClient {
    /// Makes one request and applies its lines. Returns `None` if there is no daemon, true at the
    /// feed's end.
    pub(crate) async fn follow(&mut self, api: &Api, wait: &str) -> Option<bool> {
        let mut path = format!("/v1/changes?limit=50&wait={wait}");
        if let Some(cursor) = &self.cursor {
            path.push_str(&format!("&after={cursor}"));
        }
        let answer = api.try_get(&path).await?;
        if answer.status == StatusCode::SERVICE_UNAVAILABLE {
            return None;
        }
        let lines = answer.lines();
        lines.iter().for_each(|line| self.apply(line));
        self.cursor = answer.cursor;
        Some(lines.is_empty())
    }

    /// Applies one line, which must be newer than all before it.
    pub(crate) fn apply(&mut self, line: &Value) {
        let seq = line["seq"].as_u64().unwrap();
        assert!(seq > self.seq, "seq {seq} after {}", self.seq);
        self.seq = seq;
        self.lines += 1;
        let text = |name: &str| line[name].as_str().unwrap().to_owned();
        let key = (text("window"), text("id"));
        match line["change"].as_str().unwrap() {
            "created" | "updated" => self.held.insert(key, line["event"].clone()),
            "removed" => self.held.remove(&key),
            other => panic!("unknown change {other}"),
        };
    }

    /// Follows to the feed's current end.
    pub(crate) async fn catch_up(&mut self, api: &Api) {
        while !self.follow(api, "0s").await.expect("the daemon is running") {}
    }

    /// The events held of one window.
    pub(crate) fn of(&self, window: &str) -> EventsById {
        let of = self.held.iter().filter(|((name, _), _)| name == window);
        of.map(|((_, id), event)| (id.clone(), event.clone())).collect()
    }
}
