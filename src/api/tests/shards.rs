//! Several shards that answer as one, over real connections.
mod access;
mod merges;
mod relays;

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::mirror::shard::WindowOwners;

/// Shards with their listeners, and beside them a daemon without shards that has every window.
struct ShardFixture {
    shards: Vec<Fixture>,
    alone: Fixture,
    owners: WindowOwners,
    addresses: Vec<SocketAddr>,
    servers: Vec<Option<(CancellationToken, JoinHandle<()>)>>,
}

/// Listeners of one port at addresses that differ in their last number.
async fn listeners(count: u32) -> Vec<TcpListener> {
    loop {
        let first = TcpListener::bind("127.0.1.0:0").await.unwrap();
        let port = first.local_addr().unwrap().port();
        let mut all = vec![first];
        for ordinal in 1..count {
            // The port may be taken there.
            all.extend(TcpListener::bind(format!("127.0.1.{ordinal}:{port}")).await.ok());
        }
        if all.len() == count as usize {
            return all;
        }
    }
}

impl ShardFixture {
    /// Shards that have the windows of these names and numbers. The token of all rights is `full`,
    /// that of readers `read`.
    async fn new(count: u32, windows: &[(&str, u32)], consumers: Vec<Consumer>) -> Self {
        let listeners = listeners(count).await;
        let port = listeners[0].local_addr().unwrap().port();
        let owners: WindowOwners =
            windows.iter().map(|(name, owner)| ((*name).into(), *owner)).collect();
        let mut all = Self {
            shards: Vec::new(),
            alone: Fixture::empty(),
            owners,
            addresses: listeners.iter().map(|one| one.local_addr().unwrap()).collect(),
            servers: Vec::new(),
        };
        all.alone.settings = tokens(consumers.clone());
        for (ordinal, listener) in (0..count).zip(listeners) {
            let mut shard = Fixture::empty();
            let of = Shard::new(ordinal, count).unwrap();
            let url = Some(format!("http://127.0.1.{{ordinal}}:{port}"));
            shard.settings = tokens(consumers.clone());
            shard.settings.shard = ShardConfig { of, url };
            shard.settings.peers = Peers::new(&shard.settings.shard, Some("full\n")).unwrap();
            let others = all.owners.iter().filter(|(_, owner)| **owner != ordinal);
            shard.elsewhere.set(others.map(|(name, owner)| (name.clone(), *owner)).collect());
            all.shards.push(shard);
            all.servers.push(None);
            all.serve(ordinal, listener);
        }
        for (name, owner) in windows {
            let mailbox = format!("{name}@contoso.com");
            all.shards[*owner as usize].add_window(name, &mailbox).await;
            all.alone.add_window(name, &mailbox).await;
        }
        all
    }

    fn serve(&mut self, ordinal: u32, listener: TcpListener) {
        let router =
            tcp_router(self.shards[ordinal as usize].app(), listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let serving = tokio::spawn(async move {
            axum::serve(listener, router).with_graceful_shutdown(stopped).await.unwrap();
        });
        self.servers[ordinal as usize] = Some((stop, serving));
    }

    /// Nothing answers at the address of a shard any more.
    async fn kill(&mut self, ordinal: usize) {
        let (stop, serving) = self.servers[ordinal].take().unwrap();
        stop.cancel();
        serving.await.unwrap();
    }

    /// Writes the same events to the owner of a window and to the daemon that has every window.
    async fn put(&self, window: &str, events: &[Value]) {
        for fixture in [&self.shards[self.owners[window] as usize], &self.alone] {
            fixture.put(fixture.id(window), events).await;
        }
    }

    /// Changes the status of a window at both.
    fn change(&self, window: &str, change: impl Fn(&mut WindowStatus)) {
        for fixture in [&self.shards[self.owners[window] as usize], &self.alone] {
            let mut windows = fixture.fleet.windows.lock().unwrap();
            change(&mut windows.iter_mut().find(|(status, _)| status.name == window).unwrap().0);
        }
    }

    /// Sends a request to a shard with the token `full`.
    async fn get(&self, shard: usize, uri: &str) -> Value {
        let (status, _, body) = send(&self.shards[shard], ("GET", uri, "full"), &[]).await;
        assert_eq!(status, 200, "{uri}: {body}");
        serde_json::from_str(&body).unwrap()
    }
}

/// A shard of which nothing but the name is set.
fn tokens(consumers: Vec<Consumer>) -> ApiSettings {
    ApiSettings {
        token: Some(TokenHash::new("full")),
        read_token: Some(TokenHash::new("read")),
        consumers: consumers.into(),
        ..ApiSettings::default()
    }
}

/// The answer of a TCP listener.
async fn send(
    fixture: &Fixture,
    (method, uri, token): (&str, &str, &str),
    headers: &[(&str, &str)],
) -> (u16, HeaderMap, String) {
    let tcp = tcp_router(fixture.app(), "127.0.0.1:8380".parse().unwrap());
    let mut request = Request::builder().method(method).uri(uri).header("host", "localhost");
    request = request.header("authorization", format!("Bearer {token}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = tcp.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    (head.status.as_u16(), head.headers, String::from_utf8_lossy(&body).into_owned())
}

/// An event of some hours from the beginning of 23 November.
fn event(id: &str, start: i64, hours: i64, show_as: &str) -> Value {
    let moment = |hour: i64| {
        let at = at("2026-11-23T00:00:00Z") + jiff::SignedDuration::from_hours(hour);
        json!({"dateTime": at.strftime("%Y-%m-%dT%H:%M:%S").to_string(), "timeZone": "UTC"})
    };
    json!({"id": id, "subject": id, "showAs": show_as, "start": moment(start), "end": moment(start + hours)})
}

/// Every page of a list, each without what only an answer of several shards has.
async fn pages(fixture: &Fixture, uri: &str) -> Vec<Value> {
    let (mut pages, mut next) = (Vec::new(), String::new());
    loop {
        let (status, _, body) = send(fixture, ("GET", &format!("{uri}{next}"), "full"), &[]).await;
        assert_eq!(status, 200, "{uri}{next}: {body}");
        let mut page: Value = serde_json::from_str(&body).unwrap();
        let page_of = page["next"].as_str().map(str::to_owned);
        pages.push(comparable(&mut page));
        match page_of {
            Some(page) => next = format!("&page={page}"),
            None => return pages,
        }
    }
}

/// An answer without what only one of several shards has, or only one of a single daemon.
fn comparable(answer: &mut Value) -> Value {
    let members = answer.as_object_mut().unwrap();
    for name in ["cursor", "cursors", "incomplete"] {
        members.remove(name);
    }
    // Places are the same, cursors are not.
    if members.get("next").is_some_and(Value::is_string) {
        members.insert("next".to_owned(), json!("more"));
    }
    answer.take()
}
