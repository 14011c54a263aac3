//! `page parse`: a page of 200 events through `graph::wire`, compared with serde_json reading the
//! same bytes into a `Value`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use calmirror::graph::wire;
use calmirror::mirror::window::BodyFormat;
use serde_json::Value;

use crate::graph::Graph;
use crate::process;
use crate::stages;
use crate::table::{Row, Table};

/// The name to select this figure by.
pub(crate) const NAME: &str = "page parse";
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) async fn run(table: &mut Table) {
    let graph = Graph::start(1).await;
    graph.populate(200);
    graph.set_gzip(false);
    let page = stages::download(&graph, 0, 200).await.remove(0);
    let (mine, value) = tokio::task::block_in_place(|| {
        let mine = rate(page.len(), || {
            black_box(wire::page(black_box(&page), BodyFormat::Html).unwrap());
        });
        let value = rate(page.len(), || {
            black_box(serde_json::from_slice::<Value>(black_box(&page)).unwrap());
        });
        (mine, value)
    });
    table.row(Row {
        figure: format!("{NAME}: {} KB, 200 events", page.len() / 1000),
        measured: format!("{mine:.0} MB/s"),
        baseline: format!("serde_json Value {value:.0} MB/s"),
        ratio: Some(mine / value),
        limit: "≥ 1".to_owned(),
        kept: Some(mine >= value),
    });
}

/// Megabytes per second of processor time.
fn rate(bytes: usize, work: impl Fn()) -> f64 {
    let (began, before) = (Instant::now(), process::thread_cpu());
    let mut times = 0;
    while began.elapsed() < PATIENCE {
        work();
        times += 1;
    }
    let cpu = process::thread_cpu() - before;
    (bytes * times) as f64 / 1e6 / cpu.as_secs_f64()
}
