//! A receiver that answers every request alike. Ends with the test.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The longest wait for what has to happen.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// What follows an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The next request.
    Keep,
    /// The end of the connection.
    Close,
    /// Nothing.
    Silent,
    /// Chunks, until the client hangs up.
    Endless,
}

/// A request, complete.
pub(super) struct ReceivedRequest {
    pub(super) line: String,
    head: String,
    pub(super) body: Vec<u8>,
}

impl ReceivedRequest {
    /// The value of a header.
    pub(super) fn header(&self, name: &str) -> Option<String> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut values = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name));
        values.next().map(|(_, value)| value.to_owned())
    }
}

pub(super) struct WebhookReceiver {
    origin: String,
    connections: Arc<AtomicUsize>,
    requests: UnboundedReceiver<ReceivedRequest>,
    ended: UnboundedReceiver<()>,
    _tasks: JoinSet<()>,
}

impl WebhookReceiver {
    pub(super) async fn new(answer: Vec<u8>, ending: Ending) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let (received, requests) = unbounded_channel();
        let (ends, ended) = unbounded_channel();
        let connections = Arc::<AtomicUsize>::default();
        let count = connections.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (answer, received, ends) = (answer.clone(), received.clone(), ends.clone());
                open.spawn(async move {
                    converse(stream, &answer, ending, &received).await;
                    ends.send(()).ok();
                });
            }
        });
        Self { origin, connections, requests, ended, _tasks: tasks }
    }

    /// An address there.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The next request.
    pub(super) async fn next(&mut self) -> ReceivedRequest {
        timeout(PATIENCE, self.requests.recv()).await.unwrap().unwrap()
    }

    /// Whether no request is left.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.requests.try_recv().is_err()
    }

    /// Waits until a connection has ended.
    pub(super) async fn hung_up(&mut self) {
        timeout(PATIENCE, self.ended.recv()).await.unwrap().unwrap();
    }
}

async fn converse(
    mut stream: TcpStream,
    answer: &[u8],
    ending: Ending,
    received: &UnboundedSender<ReceivedRequest>,
) -> Option<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).unwrap();
        let line = head.lines().next().unwrap_or_default().to_owned();
        let mut request = ReceivedRequest { line, head, body: Vec::new() };
        let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
        request.body.resize(length, 0);
        stream.read_exact(&mut request.body).await.ok()?;
        stream.write_all(answer).await.ok()?;
        received.send(request).ok()?;
        match ending {
            Ending::Keep => {}
            Ending::Close => return Some(()),
            Ending::Silent => std::future::pending().await,
            Ending::Endless => loop {
                stream.write_all(b"6\r\ncanary\r\n").await.ok()?;
            },
        }
    }
}

/// An answer; without a body also without its length.
pub(super) fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = match headers.contains("transfer-encoding") {
        true => String::new(),
        false => format!("content-length: {}\r\n", body.len()),
    };
    format!("HTTP/1.1 {status}\r\n{headers}{length}\r\n{body}").into_bytes()
}
