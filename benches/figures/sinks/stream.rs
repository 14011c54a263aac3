//! The plain feed as server-sent events, which is what a sink is compared with.

use std::path::PathBuf;
use std::time::Instant;

use memchr::{memchr, memmem};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// Reads changes from now on, and passes on what has arrived whole.
pub(super) async fn read(socket: PathBuf, mut take: impl FnMut(Instant, &[u8])) {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let request = "GET /v1/changes?after=now HTTP/1.1\r\nhost: calmirror\r\naccept: text/event-stream\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = Vec::with_capacity(64 << 10);
    while stream.read_buf(&mut seen).await.unwrap() > 0 {
        // The end of an event and of a chunk.
        if seen.ends_with(b"\n\n\r\n") {
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
