//! The plain feed as server-sent events, which is what a sink is compared with.

use std::path::PathBuf;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use memchr::{memchr, memmem};
use tokio::net::UnixStream;

/// Reads changes from now on, and passes on what has arrived whole.
pub(super) async fn read(socket: PathBuf, mut take: impl FnMut(Instant, &[u8])) {
    let stream = UnixStream::connect(socket).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    // This task ends with the connection.
    tokio::spawn(connection);
    let request = http::Request::get("/v1/changes?after=now").header("host", "calmirror");
    let request = request.header("accept", "text/event-stream").body(Empty::<Bytes>::new());
    let mut body = sender.send_request(request.unwrap()).await.unwrap().into_body();
    // A large answer is cut anywhere, also within an event.
    let mut seen = Vec::with_capacity(64 << 10);
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        seen.extend_from_slice(&data);
        if seen.ends_with(b"\n\n") {
            take(Instant::now(), &seen);
            seen.clear();
        }
    }
}

/// The number of lines of the feed in this text.
pub(super) fn lines(text: &[u8]) -> usize {
    memmem::find_iter(text, br#""change":""#).count()
}

/// The ids of the events in this text. An event may come twice.
pub(super) fn ids(text: &[u8]) -> impl Iterator<Item = String> {
    const BEFORE: &[u8] = br#""id":"AAMkADBench"#;
    memmem::find_iter(text, BEFORE).filter_map(|at| {
        let rest = &text[at + br#""id":""#.len()..];
        let id = &rest[..memchr(b'"', rest)?];
        Some(String::from_utf8_lossy(id).into_owned())
    })
}
