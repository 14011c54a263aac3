//! The processor time of a daemon with ten sinks while windows change, beside the same with ten
//! readers of the plain feed, and with neither.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::places::{SinkPlaces, SinkType, have_sent, patience};
use super::stream;
use crate::daemon::{Daemon, Setup, directory};
use crate::graph::Graph;
use crate::table::{Row, Table, quantile};

/// The name to select this figure by.
pub(super) const NAME: &str = "sinks: cpu";
/// Sinks, or readers of the feed.
const MANY: usize = 10;
const WINDOWS: usize = 20;
/// How many times each window gets new events, a second apart.
const STEPS: usize = 8;
/// Events that a window gets at a time.
const EVENTS: usize = 50;
const ALL: usize = WINDOWS * STEPS * EVENTS;
/// Turns of each.
const TURNS: usize = 3;

/// What follows the changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Follow {
    Nothing,
    Readers,
    Sinks(SinkType),
}

pub(super) async fn run(table: &mut Table) {
    let places = SinkPlaces::start(|_, _| {}).await;
    // PostgreSQL would take connections for each of ten schemas.
    let sinks = places.types().into_iter().filter(|to| *to != SinkType::Postgres);
    let all = [Follow::Nothing, Follow::Readers].into_iter().chain(sinks.map(Follow::Sinks));
    let mut times: Vec<_> = all.map(|follow| (follow, Vec::new())).collect();
    for turn in 0..TURNS {
        for (follow, times) in &mut times {
            times.push(spent(&places, *follow, turn).await);
        }
    }
    let half = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        quantile(times, 0.5).unwrap().as_secs_f64()
    };
    let mut times = times.into_iter().map(|(follow, mut times)| (follow, half(&mut times)));
    let ((_, nothing), (_, readers)) = (times.next().unwrap(), times.next().unwrap());
    // Of one of them, for a thousand changes.
    let each = |cpu: f64| (cpu - nothing) / (MANY * ALL) as f64 * 1e6;
    for (follow, cpu) in times {
        let Follow::Sinks(to) = follow else { continue };
        table.row(Row {
            figure: format!("{NAME} of {MANY} to {}, {ALL} changes", to.as_str()),
            measured: format!("{cpu:.2} s, {:.1} ms per 1,000 each", each(cpu)),
            baseline: format!(
                "readers {readers:.2} s, {:.1} ms; none {nothing:.2} s",
                each(readers)
            ),
            ratio: (readers > nothing).then(|| each(cpu) / each(readers)),
            ..Row::default()
        });
    }
}

/// The daemon's processor time from the first change until all have everything.
async fn spent(places: &SinkPlaces, follow: Follow, turn: usize) -> Duration {
    let graph = Graph::start(WINDOWS).await;
    let directory = directory();
    let setup =
        Setup { origin: graph.origin(), mailboxes: WINDOWS, interval: "1s", page_size: 200 };
    let names: Vec<String> = (0..MANY).map(|number| format!("turn{turn}-{number}")).collect();
    let sections = match follow {
        Follow::Sinks(to) => names.iter().map(|name| places.section(to, name, "2s")).collect(),
        Follow::Nothing | Follow::Readers => String::new(),
    };
    let mut daemon = Daemon::start_with(directory.path(), &setup, &sections).await;
    daemon.settle(Duration::from_millis(100)).await;
    let received: Arc<[AtomicUsize]> = (0..MANY).map(|_| AtomicUsize::new(0)).collect();
    let mut readers = JoinSet::new();
    for number in (0..MANY).filter(|_| follow == Follow::Readers) {
        let (socket, received) = (directory.path().join("api.sock"), received.clone());
        readers.spawn(stream::read(socket, move |_, text| {
            received[number].fetch_add(stream::lines(text), Ordering::Relaxed);
        }));
    }
    // Sinks have ended their snapshots, and readers wait.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(have_sent(&daemon.json("/v1/sinks").await, 0), "no snapshot has ended");
    let before = daemon.cpu();
    let began = Instant::now();
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    for _ in 0..STEPS {
        seconds.tick().await;
        graph.populate(EVENTS);
    }
    loop {
        let all = match follow {
            Follow::Nothing => daemon.events().await == ALL as u64,
            Follow::Readers => received.iter().all(|one| one.load(Ordering::Relaxed) >= ALL),
            Follow::Sinks(_) => have_sent(&daemon.json("/v1/sinks").await, ALL as u64),
        };
        if all {
            break;
        }
        patience(began, format_args!("{follow:?}: not everything arrived"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let cpu = daemon.cpu() - before;
    readers.shutdown().await;
    daemon.stop().await;
    if let Follow::Sinks(to) = follow {
        for name in &names {
            places.forget(to, name).await;
        }
    }
    cpu
}
