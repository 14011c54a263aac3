//! A minimal client: it follows delta links and discards the pages.
//!
//! It runs as a separate process, as the daemon does, with the same HTTP client, and reports its
//! own processor time: the cost of receiving alone, and the highest rate possible.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use calmirror::graph::{HttpTransport, Transport as _};
use serde::{Deserialize, Serialize};

use crate::graph::{END, Graph, START, mailbox};
use crate::process;

/// Set for the process that is to be the bare client; contains its [`Task`].
const TASK: &str = "CALMIRROR_FIGURES_BARE";

/// The downloads of a bare client.
#[derive(Debug, Serialize, Deserialize)]
struct Task {
    origin: String,
    token: String,
    mailboxes: usize,
    page_size: u32,
}

/// The result of a bare client.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) took: Duration,
    pub(crate) cpu: Duration,
    pub(crate) pages: u64,
    /// Decoded.
    pub(crate) bytes: u64,
}

/// Enumerates this many mailboxes concurrently, in a separate process.
pub(crate) async fn download(graph: &Graph, mailboxes: usize, page_size: u32) -> Outcome {
    let task = Task { origin: graph.origin(), token: graph.token(), mailboxes, page_size };
    let child = tokio::task::spawn_blocking(move || {
        std::process::Command::new(std::env::current_exe().unwrap())
            .env(TASK, serde_json::to_string(&task).unwrap())
            .stdout(Stdio::piped())
            .output()
            .unwrap()
    });
    let output = child.await.unwrap();
    assert!(output.status.success(), "the bare client failed");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Runs the bare client if this process was started as one.
pub(crate) fn be() -> bool {
    let Ok(task) = std::env::var(TASK) else { return false };
    let task: Task = serde_json::from_str(&task).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    println!("{}", serde_json::to_string(&runtime.block_on(perform(task))).unwrap());
    true
}

async fn perform(task: Task) -> Outcome {
    let task = Arc::new(task);
    let transport = Arc::new(HttpTransport::new().unwrap());
    let began = Instant::now();
    let clients: Vec<_> = (0..task.mailboxes)
        .map(|number| tokio::spawn(follow(task.clone(), transport.clone(), number)))
        .collect();
    let (mut pages, mut bytes) = (0, 0);
    for client in clients {
        let (p, b) = client.await.unwrap();
        pages += p;
        bytes += b;
    }
    Outcome { took: began.elapsed(), cpu: process::cpu(std::process::id()), pages, bytes }
}

async fn follow(task: Arc<Task>, transport: Arc<HttpTransport>, number: usize) -> (u64, u64) {
    let mut next = Some(first_link(&task.origin, number));
    let (mut pages, mut bytes) = (0, 0);
    while let Some(link) = next {
        let request = http::Request::get(link)
            .header("authorization", format!("Bearer {}", task.token))
            .header("accept", "application/json")
            .header(
                "prefer",
                format!(
                    "odata.maxpagesize={}, outlook.timezone=\"UTC\", \
                     outlook.body-content-type=\"html\"",
                    task.page_size
                ),
            )
            .body(Bytes::new())
            .unwrap();
        let answer = transport.send(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        let body = answer.into_body().read(64 << 20).await.unwrap();
        pages += 1;
        bytes += body.len() as u64;
        next = next_link(&body);
    }
    (pages, bytes)
}

/// The first link of a mailbox's enumeration.
pub(crate) fn first_link(origin: &str, number: usize) -> String {
    let encoded = |at: &str| at.replace(':', "%3A");
    format!(
        "{origin}/v1.0/users/{}/calendarView/delta?startDateTime={}&endDateTime={}",
        mailbox(number),
        encoded(START),
        encoded(END)
    )
}

/// The next link, which is at the very end of a page.
pub(crate) fn next_link(page: &[u8]) -> Option<String> {
    let tail = &page[page.len().saturating_sub(4096)..];
    let tail = String::from_utf8_lossy(tail);
    let (_, link) = tail.rsplit_once("\"@odata.nextLink\":\"")?;
    link.split('"').next().map(str::to_owned)
}
