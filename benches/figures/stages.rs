//! The processor time of an enumeration by module: the same pages through `graph::wire`,
//! `mirror::round` and `store`, one after the other, alone in this process.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use calmirror::env::Env;
use calmirror::graph::{HttpTransport, Transport as _, wire};
use calmirror::mirror::commit::{Commit, CommitOutcome};
use calmirror::mirror::page::Page;
use calmirror::mirror::position::WindowId;
use calmirror::mirror::round::{Effect, Round, RoundInput, SegmentContext, Step};
use calmirror::mirror::window::{BodyFormat, Completion};
use calmirror::store::{Store, StoreOptions};
use jiff::Timestamp;

use crate::bare::{first_link, next_link};
use crate::daemon::directory;
use crate::graph::{Graph, mailbox};
use crate::table::{Row, Table, ms};
use crate::{process, query};

/// The number of mailboxes sampled: enough to measure, few enough for memory.
const SAMPLE: usize = 60;

/// Splits the cost of `mailboxes` by stage.
pub(crate) async fn run(table: &mut Table, graph: &Graph, mailboxes: usize, page_size: u32) {
    let mut pages = Vec::new();
    for number in 0..SAMPLE.min(mailboxes) {
        pages.push(download(graph, number, page_size).await);
    }
    let (rounds, parse, complete) = tokio::task::block_in_place(|| {
        let (pages, parse) = timed(|| {
            pages.iter().map(|p| p.iter().map(parse_page).collect()).collect::<Vec<Vec<_>>>()
        });
        let (rounds, complete) = timed(|| pages.into_iter().zip(0..).map(step).collect::<Vec<_>>());
        (rounds, parse, complete)
    });
    let events: usize = rounds.iter().flatten().map(|commit| commit.upserts.len()).sum();
    let commit = commit(rounds).await;
    for (stage, cost) in [
        ("parse (graph::wire)", parse),
        ("complete (mirror::round)", complete),
        ("commit (store)", commit),
    ] {
        table.row(Row {
            figure: format!("  of it {stage}"),
            measured: format!("{:.1} ms", ms(cost) / events as f64 * 1000.0),
            baseline: "alone in one process".to_owned(),
            ..Row::default()
        });
    }
}

fn parse_page(page: &Bytes) -> Page {
    wire::page(page, BodyFormat::Html).unwrap()
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let before = process::thread_cpu();
    let done = work();
    (done, process::thread_cpu() - before)
}

/// Runs one window's enumeration through the state machine and returns its commits.
fn step((pages, number): (Vec<Page>, u32)) -> Vec<Commit> {
    let place = SegmentContext {
        window: WindowId(number),
        segment: 0,
        edges: query::edges(),
        complete: Completion::Master,
        has_other_segments: false,
        confirm_after: jiff::SignedDuration::from_mins(10),
        page_size: 200,
        has_delta: true,
    };
    let at = Timestamp::UNIX_EPOCH;
    let mut pages = pages.into_iter();
    let mut commits = Vec::new();
    let mut events = 0;
    let (mut round, mut step) =
        Round::resume(place, None, Vec::new(), 0).step(RoundInput::Start, at);
    loop {
        let input = match step {
            Step::Do(Effect::Page(_)) => {
                let page = pages.next().expect("a page for every link");
                RoundInput::Page { page, known: BTreeMap::new(), took: Duration::ZERO }
            }
            Step::Do(Effect::Commit(commit)) => {
                events += commit.upserts.len() as u64;
                commits.push(*commit);
                RoundInput::Committed(events)
            }
            Step::End(_) => return commits,
            other => panic!("single events need no other effect: {other:?}"),
        };
        (round, step) = round.step(input, at);
    }
}

/// Processor time of this process until the windows' commits are durable.
async fn commit(rounds: Vec<Vec<Commit>>) -> Duration {
    let directory = directory();
    let (store, _) =
        Store::open(&StoreOptions::new(directory.path().join("store")), &Env::real()).unwrap();
    let wanted = (0..rounds.len()).map(|n| query::wanted(&mailbox(n))).collect();
    let attached = store.register(wanted, Timestamp::UNIX_EPOCH).await.unwrap();
    let pid = std::process::id();
    let before = process::cpu(pid);
    let writing: Vec<_> = rounds
        .into_iter()
        .zip(attached)
        .map(|(commits, attached)| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut last = CommitOutcome::default();
                for commit in commits {
                    last = store.commit(Commit { window: attached.id, ..commit }).await.unwrap();
                }
                last
            })
        })
        .collect();
    for window in writing {
        window.await.unwrap();
    }
    let cost = process::cpu(pid) - before;
    store.close().await.unwrap();
    cost
}

/// Every page of a mailbox's enumeration.
pub(crate) async fn download(graph: &Graph, number: usize, page_size: u32) -> Vec<Bytes> {
    let transport = HttpTransport::new().unwrap();
    let mut next = Some(first_link(&graph.origin(), number));
    let mut pages = Vec::new();
    while let Some(link) = next {
        let request = http::Request::get(link)
            .header("authorization", format!("Bearer {}", graph.token()))
            .header("prefer", format!("odata.maxpagesize={page_size}, outlook.timezone=\"UTC\""))
            .body(Bytes::new())
            .unwrap();
        let page = transport.send(request).await.unwrap().into_body().read(64 << 20).await.unwrap();
        next = next_link(&page);
        pages.push(page);
    }
    pages
}
