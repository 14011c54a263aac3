//! `query`: a month and a day of a window of 10,000 events, over the daemon's Unix socket, on a
//! store of a million events.
//!
//! This process fills the store by commits, then the daemon opens it. Graph does not respond, so
//! that only reads are measured.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use calmirror::env::Env;
use calmirror::mirror::availability::Availability;
use calmirror::mirror::commit::Commit;
use calmirror::mirror::page::{EventId, EventKind, Item, Link, Span};
use calmirror::mirror::position::{Phase, Position, WindowId};
use calmirror::mirror::window::{
    BodyFormat, CalendarRef, Completion, Edge, Edges, EventShape, WindowIdentity,
};
use calmirror::store::{Store, StoreOptions, WindowRegistration};
use jiff::{SignedDuration, Timestamp};

use crate::daemon::{ACCOUNT, Daemon, Setup, TENANT, directory};
use crate::graph::{END, START, mailbox};
use crate::table::{Row, Table, ms, note, quantile};

/// The name to select this figure by.
pub(crate) const NAME: &str = "query";
/// Events in each window.
pub(crate) const EVENTS: usize = 10_000;
/// The number of events in the store, unless [`SIZE`] is set.
const ALL: usize = 1_000_000;
/// The variable with another number of events.
const SIZE: &str = "CALMIRROR_FIGURES_EVENTS";
/// Bytes of each event.
const BYTES: usize = 1500;
/// Events of one commit.
const PAGE: usize = 500;
/// The number of windows that are read repeatedly.
const WARM: usize = 10;
/// Windows filled at the same time.
const WRITERS: usize = 16;

pub(crate) async fn run(table: &mut Table) {
    let all = std::env::var(SIZE).ok().and_then(|n| n.parse().ok()).unwrap_or(ALL);
    let windows = all.div_ceil(EVENTS);
    let directory = directory();
    let began = Instant::now();
    fill(directory.path(), windows).await;
    let filled = began.elapsed().as_secs_f64();
    note(format_args!("{NAME}: filled a store of {} events in {filled:.0} s", windows * EVENTS));
    // Nothing listens at this address, so the windows do not change.
    let origin = "http://127.0.0.1:9".to_owned();
    let setup = Setup { origin, mailboxes: windows, interval: "7d", page_size: 200 };
    let began = Instant::now();
    let daemon = Daemon::start(directory.path(), &setup).await;
    note(format_args!("{NAME}: opened in {:.1} s", began.elapsed().as_secs_f64()));
    let mut floor = daemon.alone(async |api| {
        let mut floor = Vec::new();
        for _ in 0..500 {
            let began = Instant::now();
            api.get("/healthz").await;
            floor.push(began.elapsed());
        }
        floor
    });
    floor.sort_unstable();
    let floor = quantile(&floor, 0.5).unwrap();
    // A few windows read repeatedly, then all of them, which exceed the memory of the cache.
    let few = WARM.min(windows);
    for (what, days, limits) in [("a month", 30, [2.75, 5.4]), ("a day", 1, [0.28, 0.67])] {
        let (rows, _) = ask(&daemon, few, (own_month, days), 1);
        let (_, took) = ask(&daemon, few, (own_month, days), 50);
        let [half, slow] = percentiles(took);
        table.row(Row {
            figure: format!("{NAME}: {what}, {rows} rows, warm, p50/p99"),
            measured: format!("{half:.2}/{slow:.2} ms"),
            baseline: format!("healthz {:.2} ms", ms(floor)),
            ratio: Some(half / ms(floor)),
            limit: format!("≤ {}/{} ms", limits[0], limits[1]),
            kept: Some(half <= limits[0] && slow <= limits[1]),
        });
        let (rows, took) = ask(&daemon, windows, (own_month, days), 2);
        let [usual, rare] = percentiles(took);
        table.row(Row {
            figure: format!("  {what}, {rows} rows, all {windows} windows in turn"),
            measured: format!("{usual:.2}/{rare:.2} ms"),
            baseline: format!("warm {half:.2} ms"),
            ratio: Some(usual / half),
            limit: "≤ 5 ms".to_owned(),
            kept: Some(usual <= 5.0),
        });
    }
    daemon.stop().await;
}

/// The first day that is read of a window: in another month for each of ten.
fn own_month(window: usize) -> i64 {
    5 + 30 * (window as i64 % 10)
}

/// The 50th and 99th percentile, milliseconds.
fn percentiles(mut took: Vec<Duration>) -> [f64; 2] {
    took.sort_unstable();
    [0.5, 0.99].map(|share| ms(quantile(&took, share).unwrap()))
}

/// Reads a period of `days` of each window repeatedly, which begins so many days after the window's
/// start. Returns the rows of the first response, and the response times.
pub(crate) fn ask(
    daemon: &Daemon,
    windows: usize,
    (first, days): (impl Fn(usize) -> i64, i64),
    times: usize,
) -> (usize, Vec<Duration>) {
    daemon.alone(async |api| {
        let mut took = Vec::new();
        let mut rows = None;
        for _ in 0..times {
            for window in 0..windows {
                let from = edges().start + SignedDuration::from_hours(24 * first(window));
                let to = from + SignedDuration::from_hours(24 * days);
                let window = mailbox(window);
                let path = format!("/v1/windows/{window}/events?from={from}&to={to}&limit=10000");
                let began = Instant::now();
                let body = api.get(&path).await;
                took.push(began.elapsed());
                rows.get_or_insert_with(|| {
                    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
                    answer["value"].as_array().unwrap().len()
                });
            }
        }
        (rows.unwrap_or_default(), took)
    })
}

pub(crate) async fn fill(directory: &Path, windows: usize) {
    let options =
        StoreOptions { cache_bytes: 512 << 20, ..StoreOptions::new(directory.join("store")) };
    let (store, _) = Store::open(&options, &Env::real()).unwrap();
    let wanted = (0..windows).map(|number| wanted(&mailbox(number))).collect();
    let ids: Arc<[WindowId]> =
        store.register(wanted, now()).await.unwrap().iter().map(|w| w.id).collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (store, ids) = (store.clone(), ids.clone());
            tokio::spawn(async move {
                for id in ids.iter().skip(writer).step_by(WRITERS) {
                    for first in (0..EVENTS).step_by(PAGE) {
                        store.commit(page(*id, first)).await.unwrap();
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    // Otherwise the daemon would do it beside its readers.
    if store.train_dictionary().await.unwrap() || store.needs_recompression().await.unwrap() {
        let mut place = store.recompress(None).await.unwrap();
        while place.is_some() {
            place = store.recompress(place).await.unwrap();
        }
    }
    store.close().await.unwrap();
}

fn page(window: WindowId, first: usize) -> Commit {
    let mut commit = settled(Commit::new(window, 0, now()));
    commit.upserts = (first..first + PAGE)
        .map(|event| item(&format!("{}-{event}", window.0), event, 0, BYTES))
        .collect();
    commit
}

/// A commit that settles its window, as far as Graph is asked again.
pub(crate) fn settled(mut commit: Commit) -> Commit {
    let delta = Link::new("http://127.0.0.1:9/v1.0/delta?$deltatoken=1");
    commit.position = Some(Position::new(Phase::Settled { delta: Some(delta) }, false));
    commit.counters.success = Some(commit.at);
    commit
}

/// The edges of every window.
pub(crate) fn edges() -> Edges {
    Edges { start: START.parse().unwrap(), end: END.parse().unwrap() }
}

/// A window as the daemon's configuration describes it.
pub(crate) fn wanted(mailbox: &str) -> WindowRegistration {
    let edges = edges();
    WindowRegistration {
        name: mailbox.into(),
        identity: WindowIdentity {
            account: ACCOUNT.into(),
            tenant: TENANT.into(),
            mailbox: mailbox.into(),
            calendar: CalendarRef::Default,
            immutable_ids: false,
        },
        shape: EventShape {
            body: BodyFormat::Html,
            time_zone: "UTC".into(),
            complete: Completion::Master,
        },
        start: Edge::At(edges.start),
        end: Edge::At(edges.end),
        edges,
    }
}

/// A single event of half an hour; the numbers up to 10,000 spread evenly over a year.
pub(crate) fn item(name: &str, number: usize, turn: usize, bytes: usize) -> Item {
    let step = Duration::from_secs(365 * 86_400) / EVENTS as u32;
    let start = edges().start + step * number as u32;
    let span = Span { start, end: start + SignedDuration::from_mins(30) };
    let id = format!("AAMkADBench{name:_<120}AAA=");
    let etag = format!("W/\"{turn}\"");
    let mut content = format!(
        r#"{{"@odata.etag":"W/\"{turn}\"","id":"{id}","type":"singleInstance","subject":"Design review {turn}","start":{{"dateTime":"{}","timeZone":"UTC"}},"end":{{"dateTime":"{}","timeZone":"UTC"}},"showAs":"busy","sensitivity":"normal","importance":"normal","isAllDay":false,"isCancelled":false,"categories":[],"body":{{"contentType":"html","content":""#,
        span.start.strftime("%Y-%m-%dT%H:%M:%S.0000000"),
        span.end.strftime("%Y-%m-%dT%H:%M:%S.0000000"),
    );
    while content.len() + 3 < bytes {
        write!(content, "Agenda: numbers, risks {}, people. ", content.len() * 31 + number)
            .unwrap();
    }
    content.push_str("\"}}");
    Item {
        id: EventId::new(id),
        kind: EventKind::Single,
        master: None,
        etag: Some(etag.into()),
        span,
        all_day: false,
        availability: Availability::of(Some("\"busy\""), Some("false")),
        full: true,
        content: content.into(),
    }
}

pub(crate) fn now() -> Timestamp {
    "2026-07-01T12:00:00Z".parse().unwrap()
}
