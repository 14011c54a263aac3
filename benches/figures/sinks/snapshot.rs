//! How fast a sink sends a snapshot to an empty place, beside the same events read from the feed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use calmirror::env::Env;
use calmirror::store::{Store, StoreOptions};

use super::places::{SinkPlaces, SinkType, have_sent, patience};
use super::{created, stream};
use crate::daemon::{Daemon, Setup, configure, directory};
use crate::feed;
use crate::graph::mailbox;
use crate::query::{now, wanted};
use crate::table::{Row, Table, quantile};

/// The name to select this figure by.
pub(super) const NAME: &str = "sinks: snapshot";
const WINDOWS: usize = 20;
/// Events of each window, in one commit.
const EVENTS: usize = 1000;
const ALL: usize = WINDOWS * EVENTS;
/// The feed and each type of sink take turns.
const ROUNDS: usize = 5;
/// How often a sink is asked how far it is.
const LOOK: Duration = Duration::from_millis(2);

pub(super) async fn run(table: &mut Table) {
    let received = Arc::new(AtomicUsize::new(0));
    let count = received.clone();
    let places = SinkPlaces::start(move |_, body| {
        count.fetch_add(stream::ids(body).count(), Ordering::Relaxed);
    })
    .await;
    let directory = directory();
    fill(directory.path()).await;
    // Nothing listens at this address, so the windows do not change.
    let origin = "http://127.0.0.1:9".to_owned();
    let setup = Setup { origin, mailboxes: WINDOWS, interval: "7d", page_size: 200 };
    let mut daemon = Daemon::start(directory.path(), &setup).await;
    // The first pass fills the caches.
    feed::whole(&daemon, |_| {});
    let types = places.types();
    let (mut plain, mut rates) = (Vec::new(), vec![Vec::new(); types.len()]);
    for round in 0..ROUNDS {
        let (entries, _, took) = feed::whole(&daemon, |_| {});
        assert_eq!(entries, ALL);
        plain.push(rate(took));
        for (to, rates) in types.iter().zip(&mut rates) {
            let name = format!("{}{round}", to.as_str());
            let apply = |more: &str| drop(configure(directory.path(), &setup, more));
            apply(&places.section(*to, &name, "2s"));
            received.store(0, Ordering::Relaxed);
            rates.push(rate(send(&mut daemon).await));
            match places.events(*to, &name).await {
                Some(events) => assert_eq!(events, ALL as u64, "{name}"),
                // Each has its id in the line and in the event.
                None => assert_eq!(received.load(Ordering::Relaxed), 2 * ALL),
            }
            apply("");
            daemon.post("/v1/reload").await;
            places.forget(*to, &name).await;
        }
    }
    daemon.stop().await;
    for (to, rates) in types.into_iter().zip(rates) {
        row(table, to, rates, plain.clone());
    }
}

/// Reloads, which starts the sink, and returns the time until it has sent everything.
async fn send(daemon: &mut Daemon) -> Duration {
    let began = Instant::now();
    daemon.post("/v1/reload").await;
    loop {
        let sinks = daemon.json("/v1/sinks").await;
        if have_sent(&sinks, ALL as u64) {
            return began.elapsed();
        }
        patience(began, sinks);
        tokio::time::sleep(LOOK).await;
    }
}

fn rate(took: Duration) -> f64 {
    ALL as f64 / took.as_secs_f64()
}

fn row(table: &mut Table, to: SinkType, mut rates: Vec<f64>, mut plain: Vec<f64>) {
    rates.sort_unstable_by(f64::total_cmp);
    plain.sort_unstable_by(f64::total_cmp);
    let [mine, feed] = [&rates, &plain].map(|rates| quantile(rates, 0.5).unwrap());
    let spread = |rates: &[f64]| format!("{:.0}–{:.0}", rates[0], rates[rates.len() - 1]);
    table.row(Row {
        figure: format!("{NAME} to {}, {ALL} of 1.5 KB", to.as_str()),
        measured: format!("{mine:.0}/s ({})", spread(&rates)),
        baseline: format!("plain feed {feed:.0}/s ({})", spread(&plain)),
        ratio: Some(mine / feed),
        ..Row::default()
    });
}

async fn fill(directory: &Path) {
    let options = StoreOptions::new(directory.join("store"));
    let (store, _) = Store::open(&options, &Env::real()).unwrap();
    let all = (0..WINDOWS).map(|number| wanted(&mailbox(number))).collect();
    for window in store.register(all, now()).await.unwrap() {
        store.commit(created(window.id, 0..EVENTS)).await.unwrap();
    }
    store.close().await.unwrap();
}
