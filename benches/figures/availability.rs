//! `free`, `busy` and `events`: when 500 people are free together in two weeks, when each of them is
//! busy, and what they do, over the daemon's Unix socket.
//!
//! Each has five events a workday, at random half hours. Two of the five are occurrences of series,
//! which their masters complete. Graph does not respond, so that only reads are measured.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use calmirror::env::Env;
use calmirror::mirror::availability::Availability;
use calmirror::mirror::commit::Commit;
use calmirror::mirror::page::{EventId, EventKind, Item, Span};
use calmirror::mirror::position::WindowId;
use calmirror::store::{Store, StoreOptions};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::daemon::{Daemon, Setup, directory};
use crate::graph::mailbox;
use crate::query::{settled, wanted};
use crate::table::{Row, Table, ms, note, quantile};

/// The names to select these figures by.
pub(crate) const NAMES: [&str; 3] = ["free", "busy", "events of many"];
pub(crate) const WINDOWS: usize = 500;
/// Weeks with events, of which two are asked for.
const WEEKS: i64 = 12;
const EVENTS_A_DAY: usize = 5;
/// Bytes of an event that is not an occurrence.
const BYTES: usize = 1500;
/// Events on a page.
const PAGE: usize = 1000;
/// Requests of each kind.
const TIMES: usize = 40;

pub(crate) async fn run(table: &mut Table) {
    let directory = directory();
    fill(directory.path()).await;
    let origin = "http://127.0.0.1:9".to_owned();
    let setup = Setup { origin, mailboxes: WINDOWS, interval: "7d", page_size: 200 };
    let mut daemon = Daemon::start(directory.path(), &setup).await;
    let floor = ask(&mut daemon, "/healthz").await[0];
    let range = "windows=*&from=2026-06-15&to=2026-06-29";
    let hours = "duration=30m&within=08:00-18:00&zone=Europe/Berlin";
    for (what, path, limit) in [
        ("free: all of 500, two weeks", format!("/v1/free?{range}&{hours}"), Some(30.0)),
        ("free: 250 of 500", format!("/v1/free?{range}&{hours}&need=250"), None),
        ("free: one of 500", format!("/v1/free?{range}&{hours}&need=1"), None),
        ("busy: 500, two weeks", format!("/v1/busy?{range}"), None),
        ("busy: one, two weeks", format!("/v1/windows/{}/busy?{}", mailbox(7), &range[10..]), None),
    ] {
        let answer = daemon.json(&path).await;
        let rows = answer["value"].as_array().unwrap().len();
        let unknown = answer["unknown"].as_array().map_or(0, Vec::len);
        assert_eq!(unknown, 0, "{what}: windows that cannot be judged");
        let [half, slow, cpu] = ask(&mut daemon, &path).await;
        table.row(Row {
            figure: format!("{what}, {rows} rows, p50/p99"),
            measured: format!("{:.2}/{:.2} ms, cpu {:.1} ms", ms(half), ms(slow), ms(cpu)),
            baseline: format!("healthz {:.2} ms", ms(floor)),
            ratio: Some(ms(half) / ms(floor)),
            limit: limit.map_or_else(String::new, |limit| format!("≤ {limit} ms")),
            kept: limit.map(|limit| ms(half) <= limit),
        });
    }
    events(&mut daemon, range, floor, table).await;
    daemon.stop().await;
}

/// The events of all windows: the first page, and all pages one after the other.
async fn events(daemon: &mut Daemon, range: &str, floor: Duration, table: &mut Table) {
    let path = format!("/v1/events?{range}&limit={PAGE}");
    daemon.get(&path).await;
    let [half, slow, cpu] = ask(daemon, &path).await;
    table.row(Row {
        figure: format!("events of many: 500, two weeks, {PAGE} events, p50/p99"),
        measured: format!("{:.2}/{:.2} ms, cpu {:.1} ms", ms(half), ms(slow), ms(cpu)),
        baseline: format!("healthz {:.2} ms", ms(floor)),
        ratio: Some(ms(half) / ms(floor)),
        ..Row::default()
    });
    let (began, mut rows, mut pages, mut bytes) = (Instant::now(), 0, 0, 0);
    let mut next = String::new();
    loop {
        let body = daemon.get(&format!("{path}{next}")).await;
        let page: Page = serde_json::from_slice(&body).unwrap();
        (rows, pages, bytes) = (rows + page.value.len(), pages + 1, bytes + body.len());
        match page.next {
            Some(page) => next = format!("&page={page}"),
            None => break,
        }
    }
    let took = began.elapsed();
    table.row(Row {
        figure: format!(
            "events of many: {rows} events, all {pages} pages, {} MB",
            bytes / 1_000_000
        ),
        measured: format!("{:.0} ms, {:.2} ms a page", ms(took), ms(took) / f64::from(pages)),
        baseline: format!("first page {:.2} ms", ms(half)),
        ratio: Some(ms(took) / f64::from(pages) / ms(half)),
        ..Row::default()
    });
}

/// A page, of which the events are only counted.
#[derive(Deserialize)]
struct Page {
    value: Vec<Box<RawValue>>,
    next: Option<String>,
}

/// The 50th and 99th percentile of the response times, and the daemon's processor time of a
/// request.
pub(crate) async fn ask(daemon: &mut Daemon, path: &str) -> [Duration; 3] {
    let (mut took, before) = (Vec::new(), daemon.cpu());
    for _ in 0..TIMES {
        let began = Instant::now();
        daemon.get(path).await;
        took.push(began.elapsed());
    }
    let cpu = (daemon.cpu() - before) / u32::try_from(TIMES).unwrap();
    took.sort_unstable();
    let [half, slow] = [0.5, 0.99].map(|share| quantile(&took, share).unwrap());
    [half, slow, cpu]
}

/// Fills a store with the calendars of all windows.
pub(crate) async fn fill(directory: &Path) {
    let began = Instant::now();
    let options =
        StoreOptions { cache_bytes: 512 << 20, ..StoreOptions::new(directory.join("store")) };
    let (store, _) = Store::open(&options, &Env::real()).unwrap();
    let all = (0..WINDOWS).map(|number| wanted(&mailbox(number))).collect();
    let windows = store.register(all, monday()).await.unwrap();
    let mut random = fastrand::Rng::with_seed(1);
    for window in &windows {
        store.commit(calendar(window.id, &mut random)).await.unwrap();
    }
    store.close().await.unwrap();
    let events = WINDOWS * WEEKS as usize * 5 * EVENTS_A_DAY;
    note(format_args!("free: filled {events} events in {:.0} s", began.elapsed().as_secs_f64()));
}

/// The first day with events.
fn monday() -> Timestamp {
    "2026-05-11T00:00:00Z".parse().unwrap()
}

/// All events of a window: a master for every weekday and time of day, singles and occurrences.
fn calendar(window: WindowId, random: &mut fastrand::Rng) -> Commit {
    let mut commit = settled(Commit::new(window, 0, monday()));
    let epoch = Span { start: Timestamp::UNIX_EPOCH, end: Timestamp::UNIX_EPOCH };
    for master in 0..5 * EVENTS_A_DAY {
        commit.upserts.push(item(&format!("m{master}"), epoch, EventKind::Master, None));
    }
    for day in (0..7 * WEEKS).filter(|day| day % 7 < 5) {
        for number in 0..EVENTS_A_DAY {
            let half_hours = 48 * day + 12 + i64::from(random.u8(0..20));
            let start = monday() + SignedDuration::from_mins(30 * half_hours);
            let span = Span { start, end: start + SignedDuration::from_mins(30) };
            let master = format!("m{}", 5 * usize::try_from(day % 7).unwrap() + number);
            let (kind, master) = match number % 2 {
                0 => (EventKind::Single, None),
                _ => (EventKind::Occurrence, Some(master)),
            };
            commit.upserts.push(item(&format!("{day}-{number}"), span, kind, master));
        }
    }
    commit
}

/// An event as Graph sends it; occurrences are bare.
fn item(name: &str, span: Span, kind: EventKind, master: Option<String>) -> Item {
    let id = |name: &str| format!("AAMkADBench{name:_<120}AAA=");
    let moment = |at: Timestamp| {
        let at = at.strftime("%Y-%m-%dT%H:%M:%S.0000000");
        format!(r#"{{"dateTime":"{at}","timeZone":"UTC"}}"#)
    };
    let mut content = format!(
        r#"{{"@odata.etag":"W/\"1\"","id":"{}","start":{},"end":{}"#,
        id(name),
        moment(span.start),
        moment(span.end)
    );
    let is_bare = kind == EventKind::Occurrence;
    if let Some(master) = &master {
        write!(content, r#","type":"occurrence","seriesMasterId":"{}""#, id(master)).unwrap();
    } else {
        content.push_str(r#","subject":"Design review","showAs":"busy","isCancelled":false,"body":{"contentType":"html","content":""#);
        while content.len() + 3 < BYTES {
            write!(content, "Agenda: numbers, risks {}, people. ", content.len() * 31).unwrap();
        }
        content.push_str("\"}");
    }
    content.push('}');
    Item {
        id: EventId::new(id(name)),
        kind,
        master: master.map(|master| EventId::new(id(&master))),
        etag: Some("W/\"1\"".into()),
        span,
        all_day: false,
        availability: Availability::of_event(content.as_bytes()),
        full: !is_bare,
        content: content.into(),
    }
}
