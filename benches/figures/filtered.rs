//! `filtered feed`: the feed with a filter, and without the changes that ignore versions, each in
//! turn with the plain one.
//!
//! Of 100,000 events of 1.5 KB every fourth is free and every tenth cancelled. All of them then
//! change: 17 of 25 get a new version only, as 68 % of the changes in the demo.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use calmirror::env::Env;
use calmirror::mirror::availability::Availability;
use calmirror::mirror::commit::Commit;
use calmirror::mirror::page::Item;
use calmirror::mirror::position::WindowId;
use calmirror::store::{Store, StoreOptions};
use serde_json::Value;

use crate::daemon::{Daemon, Setup, directory};
use crate::graph::mailbox;
use crate::query::{EVENTS, item, now, settled, wanted};
use crate::table::{Row, Table, ms, quantile};

/// The name to select this figure by.
pub(crate) const NAME: &str = "filtered feed";
const WINDOWS: usize = 10;
/// Bytes of each event.
const BYTES: usize = 1500;
/// Events of one commit.
const PAGE: usize = 500;
/// How many times each feed is read.
const TIMES: usize = 7;

const FILTER: &str = "cancelled=false&showAs=busy,tentative,oof";
const IGNORE: &str = "ignore=changeKey,lastModifiedDateTime,@odata.etag";

pub(crate) async fn run(table: &mut Table) {
    let directory = directory();
    let changed = fill(directory.path()).await;
    // Nothing listens at this address, so the windows do not change.
    let origin = "http://127.0.0.1:9".to_owned();
    let setup = Setup { origin, mailboxes: WINDOWS, interval: "7d", page_size: 200 };
    let mut daemon = Daemon::start(directory.path(), &setup).await;
    let all = WINDOWS * EVENTS;
    let count = |is: fn(usize) -> bool| WINDOWS * (0..EVENTS).filter(|number| is(*number)).count();
    for (what, parameters, after, expected) in [
        (FILTER, FILTER, None, count(|number| !is_free(number) && !is_cancelled(number))),
        ("ignore=... since a cursor", IGNORE, Some(changed), count(is_edited)),
    ] {
        // The first reads fill the caches. What they fold to is known.
        assert_eq!(fold(&read(&mut daemon, "", after.as_deref()).await).len(), all);
        let lines = read(&mut daemon, parameters, after.as_deref()).await;
        assert_eq!(fold(&lines).len(), expected, "{parameters}");
        let (mut plain, mut filtered) = (Vec::new(), Vec::new());
        for _ in 0..TIMES {
            for (parameters, took) in [("", &mut plain), (parameters, &mut filtered)] {
                let began = Instant::now();
                read(&mut daemon, parameters, after.as_deref()).await;
                took.push(began.elapsed());
            }
        }
        let [plain, filtered] = [plain, filtered].map(half);
        table.row(Row {
            figure: format!("{NAME}: {what}, {expected} of {all} lines"),
            measured: format!("{:.0} ms", ms(filtered)),
            baseline: format!("plain {:.0} ms", ms(plain)),
            ratio: Some(ms(filtered) / ms(plain)),
            ..Row::default()
        });
    }
    daemon.stop().await;
}

/// The 50th percentile.
fn half(mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    quantile(&took, 0.5).unwrap()
}

/// Reads the feed from a cursor, or from its beginning, to its end.
async fn read(daemon: &mut Daemon, parameters: &str, after: Option<&str>) -> Vec<Bytes> {
    let mut bodies = Vec::new();
    let mut after = after.map(str::to_owned);
    loop {
        let place = after.as_ref().map_or_else(String::new, |cursor| format!("&after={cursor}"));
        let body = daemon.get(&format!("/v1/changes?limit=10000&{parameters}{place}")).await;
        let Some(last) = lines(&body).next_back() else { return bodies };
        after = Some(json(last)["cursor"].as_str().unwrap().to_owned());
        bodies.push(body);
    }
}

fn lines(body: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

fn json(line: &[u8]) -> Value {
    serde_json::from_slice(line).unwrap()
}

/// The ids of the events that exist after these lines.
fn fold(bodies: &[Bytes]) -> BTreeSet<String> {
    let mut events = BTreeSet::new();
    for line in bodies.iter().flat_map(|body| lines(body)).map(json) {
        let id = line["id"].as_str().unwrap();
        match line["change"].as_str() {
            Some("removed") => events.remove(id),
            _ => events.insert(id.to_owned()),
        };
    }
    events
}

/// Fills a store. Returns the cursor before the second version of every event.
async fn fill(directory: &Path) -> String {
    let options =
        StoreOptions { cache_bytes: 512 << 20, ..StoreOptions::new(directory.join("store")) };
    let (store, _) = Store::open(&options, &Env::real()).unwrap();
    let all = (0..WINDOWS).map(|number| wanted(&mailbox(number))).collect();
    let windows = store.register(all, now()).await.unwrap();
    let mut between = String::new();
    for turn in 0..2 {
        for window in &windows {
            for first in (0..EVENTS).step_by(PAGE) {
                store.commit(page(window.id, first, turn)).await.unwrap();
            }
        }
        if turn == 0 {
            between = store.cursor(store.durable_seq());
        }
    }
    store.close().await.unwrap();
    between
}

fn page(window: WindowId, first: usize, turn: usize) -> Commit {
    let mut commit = settled(Commit::new(window, 0, now()));
    commit.upserts = (first..first + PAGE).map(|number| event(window, number, turn)).collect();
    commit
}

/// An event in its first or its second version.
fn event(window: WindowId, number: usize, turn: usize) -> Item {
    let event = item(&format!("{}-{number}", window.0), number, turn, BYTES);
    let mut content = String::from_utf8(event.content.to_vec()).unwrap();
    if !is_edited(number) {
        content = content.replace("Design review 1", "Design review 0");
    }
    if is_free(number) {
        content = content.replace(r#""showAs":"busy""#, r#""showAs":"free""#);
    }
    if is_cancelled(number) {
        content = content.replace(r#""isCancelled":false"#, r#""isCancelled":true"#);
    }
    let availability = Availability::of_event(content.as_bytes());
    Item { availability, content: content.into(), ..event }
}

fn is_free(number: usize) -> bool {
    number.is_multiple_of(4)
}

fn is_cancelled(number: usize) -> bool {
    number % 10 == 1
}

/// Whether the second version differs in more than the version.
fn is_edited(number: usize) -> bool {
    number % 25 >= 17
}
