//! Helpers for the store's tests: items, commits, and a reader's copy of the feed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use calmirror::env::Env;
use calmirror::mirror::availability::Availability;
use calmirror::mirror::change::{ChangeKind, RemovalReason};
use calmirror::mirror::commit::{Commit, CommitOutcome, Removal, SeenPage};
use calmirror::mirror::page::{EventHash, EventId, EventKind, Item, Link, Span};
use calmirror::mirror::position::{Phase, Position, WindowId};
use calmirror::mirror::window::{
    BodyFormat, CalendarRef, Completion, Edge, Edges, EventShape, WindowIdentity,
};
use calmirror::store::{
    BATCH_BYTES, Change, Changes, EventQuery, FeedError, FeedFilter, Follower, KnownWindow,
    MemoryDisk, OpenError, OpenReport, Store, StoreOptions, WindowRegistration,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// An instant, in minutes after the tests' start.
pub(crate) fn at(minutes: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap() + SignedDuration::from_mins(minutes)
}

pub(crate) fn options(dir: &tempfile::TempDir) -> StoreOptions {
    let linger = Duration::from_secs(20);
    StoreOptions {
        cache_bytes: 16 << 20,
        max_defer: linger,
        min_free_bytes: 0,
        ..StoreOptions::new(dir.path())
    }
}

pub(crate) fn open(dir: &tempfile::TempDir) -> Store {
    TestEngine::Sled.open(dir)
}

/// The engine of a test's stores.
#[derive(Clone, Debug)]
pub(crate) enum TestEngine {
    Sled,
    Memory(MemoryDisk),
}

impl TestEngine {
    pub(crate) fn memory() -> Self {
        Self::Memory(MemoryDisk::default())
    }

    pub(crate) fn try_open(
        &self,
        options: &StoreOptions,
    ) -> Result<(Store, OpenReport), OpenError> {
        match self {
            Self::Sled => Store::open(options, &Env::real()),
            Self::Memory(disk) => Store::open_in_memory(disk, options, &Env::real()),
        }
    }

    pub(crate) fn open(&self, dir: &tempfile::TempDir) -> Store {
        self.try_open(&options(dir)).unwrap().0
    }

    /// A directory for a store. With an engine in memory no file has to reach a disk.
    pub(crate) fn directory(&self) -> tempfile::TempDir {
        let in_memory = match self {
            Self::Sled => None,
            Self::Memory(_) => tempfile::tempdir_in("/dev/shm").ok(),
        };
        in_memory.unwrap_or_else(|| tempfile::tempdir().unwrap())
    }

    /// A store with one window.
    pub(crate) async fn fresh(&self, name: &str) -> (tempfile::TempDir, Store, WindowId) {
        let dir = self.directory();
        let store = self.open(&dir);
        let window = attach(&store, name).await;
        (dir, store, window)
    }
}

/// Runs each test, an `async fn(TestEngine)`, on sled and in memory.
macro_rules! on_each_engine {
    ($($test:ident),+ $(,)?) => {
        mod on_sled {
            $(#[tokio::test]
            async fn $test() {
                super::$test(crate::kit::TestEngine::Sled).await;
            })+
        }
        mod in_memory {
            $(#[tokio::test]
            async fn $test() {
                super::$test(crate::kit::TestEngine::memory()).await;
            })+
        }
    };
}
pub(crate) use on_each_engine;

pub(crate) fn id(id: &str) -> EventId {
    EventId::new(id)
}

pub(crate) fn hash(id: &str) -> EventHash {
    EventId::new(id).hash()
}

pub(crate) fn wanted(name: &str) -> WindowRegistration {
    let edges = Edges { start: at(0), end: at(100_000) };
    WindowRegistration {
        name: name.into(),
        identity: WindowIdentity {
            account: "contoso".into(),
            tenant: "t".into(),
            mailbox: "alice@example.com".into(),
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

/// The seen list of a page.
pub(crate) fn seen(page: u32, ids: impl IntoIterator<Item = EventHash>) -> SeenPage {
    SeenPage { page, ids: ids.into_iter().collect() }
}

/// A window in the store's list that is not being dropped.
pub(crate) fn live(name: &str, id: WindowId) -> KnownWindow {
    KnownWindow { name: name.into(), id, dropping: false }
}

pub(crate) async fn attach(store: &Store, name: &str) -> WindowId {
    store.register(vec![wanted(name)], at(0)).await.unwrap().remove(0).id
}

/// A store with one window.
pub(crate) async fn fresh(name: &str) -> (tempfile::TempDir, Store, WindowId) {
    TestEngine::Sled.fresh(name).await
}

/// Writes these events.
pub(crate) async fn put(store: &Store, window: WindowId, upserts: Vec<Item>) -> CommitOutcome {
    store.commit(Commit { upserts, ..commit(window) }).await.unwrap()
}

pub(crate) fn commit(window: WindowId) -> Commit {
    Commit::new(window, 0, at(0))
}

pub(crate) fn settled(link: &str) -> Position {
    Position::new(Phase::Settled { delta: Some(Link::new(link)) }, false)
}

pub(crate) fn removal(id: &str, reason: RemovalReason) -> Removal {
    Removal { id: hash(id), reason }
}

fn item(
    id: &str,
    kind: EventKind,
    of: Option<&str>,
    start: i64,
    end: i64,
    content: String,
) -> Item {
    Item {
        id: EventId::new(id),
        kind,
        master: of.map(EventId::new),
        etag: Some("W/1".into()),
        span: Span { start: at(start), end: at(end) },
        all_day: false,
        availability: Availability::of_event(content.as_bytes()),
        full: true,
        content: content.into(),
    }
}

/// A single instance of half an hour.
pub(crate) fn single(id: &str, start: i64, subject: &str) -> Item {
    lasting(id, start, 30, subject)
}

pub(crate) fn lasting(id: &str, start: i64, minutes: i64, subject: &str) -> Item {
    let content =
        format!(r#"{{"id":"{id}","type":"singleInstance","start":{start},"subject":"{subject}"}}"#);
    item(id, EventKind::Single, None, start, start + minutes, content)
}

/// The item of [`single`] with its members in another order.
pub(crate) fn reordered(id: &str, start: i64, subject: &str) -> Item {
    let content =
        format!(r#"{{"subject":"{subject}","start":{start},"type":"singleInstance","id":"{id}"}}"#);
    item(id, EventKind::Single, None, start, start + 30, content)
}

pub(crate) fn master(id: &str, subject: &str) -> Item {
    let encoded = id.replace('/', "%2F").replace('+', "%2B");
    let content = format!(
        r#"{{"@odata.etag":"W/1","id":"{id}","type":"seriesMaster","subject":"{subject}","recurrence":{{"a":1}},"webLink":"https://x/?itemid={encoded}"}}"#
    );
    item(id, EventKind::Master, None, 0, 30, content)
}

/// An occurrence as delta sends it, without the master's members.
pub(crate) fn bare(id: &str, of: &str, start: i64) -> Item {
    let content =
        format!(r#"{{"id":"{id}","type":"occurrence","seriesMasterId":"{of}","start":{start}}}"#);
    let item = item(id, EventKind::Occurrence, Some(of), start, start + 30, content);
    Item { full: false, ..item }
}

pub(crate) fn exception(id: &str, of: &str, start: i64, subject: &str) -> Item {
    let content = format!(
        r#"{{"id":"{id}","type":"exception","seriesMasterId":"{of}","start":{start},"subject":"{subject}"}}"#
    );
    item(id, EventKind::Exception, Some(of), start, start + 30, content)
}

pub(crate) fn all(window: WindowId) -> EventQuery {
    EventQuery { window, from: None, to: None, limit: 100_000, bytes: usize::MAX, after: None }
}

pub(crate) async fn events(store: &Store, window: WindowId) -> Vec<Bytes> {
    store.events(all(window)).await.unwrap().value
}

/// The pages of a query.
pub(crate) async fn pages(store: &Store, mut query: EventQuery) -> Vec<Vec<Bytes>> {
    let mut pages = Vec::new();
    loop {
        let page = store.events(query.clone()).await.unwrap();
        pages.push(page.value);
        match page.next {
            Some(next) => query.after = Some(next),
            None => return pages,
        }
    }
}

pub(crate) fn json(event: &Bytes) -> Value {
    serde_json::from_slice(event).unwrap()
}

pub(crate) fn ids(events: &[Bytes]) -> Vec<String> {
    events.iter().map(|e| json(e)["id"].as_str().unwrap().to_owned()).collect()
}

/// The changes of all windows after a seq, at most `limit`.
pub(crate) async fn changes_after(
    store: &Store,
    seq: u64,
    limit: usize,
) -> Result<Changes, FeedError> {
    let mut follower = Follower::after(store, &store.cursor(seq), FeedFilter::All)?;
    follower.read(limit, BATCH_BYTES).await
}

/// The whole feed in short form.
pub(crate) async fn feed(store: &Store) -> Vec<String> {
    let changes = changes_after(store, 0, 100_000).await.unwrap();
    assert!(changes.at_end);
    let kind = |kind| match kind {
        ChangeKind::Created => "created",
        ChangeKind::Updated => "updated",
        ChangeKind::Removed => "removed",
    };
    changes.value.iter().map(|c| format!("{} {} {}", c.seq, kind(c.kind), c.id.as_str())).collect()
}

/// A reader's copy: events by window and id.
pub(crate) type FeedCopy = BTreeMap<(String, String), Value>;

/// Applies a part of the feed.
pub(crate) fn apply(mirror: &mut FeedCopy, changes: &[Change]) {
    for change in changes {
        let key = (change.window.to_string(), change.id.as_str().to_owned());
        match &change.event {
            Some(event) => mirror.insert(key, json(event)),
            None => mirror.remove(&key),
        };
    }
}

/// The feed from the beginning, in small pages, applied to an empty copy; of one window or all.
pub(crate) async fn fold(store: &Store, window: Option<WindowId>) -> FeedCopy {
    let mut mirror = FeedCopy::new();
    let filter = window.map_or(FeedFilter::All, FeedFilter::Window);
    let mut follower = Follower::from_beginning(store, filter);
    loop {
        let after = follower.seq();
        let changes = follower.read(3, BATCH_BYTES).await.unwrap();
        apply(&mut mirror, &changes.value);
        assert!(changes.seq > after || changes.at_end, "the reader makes no progress");
        if changes.at_end {
            return mirror;
        }
    }
}

/// The events in the windows' own listings, read page by page.
pub(crate) async fn mirror(store: &Store, windows: &[WindowId]) -> FeedCopy {
    let mut mirror = FeedCopy::new();
    for KnownWindow { name, id: window, .. } in store.windows().await.unwrap() {
        if !windows.contains(&window) {
            continue;
        }
        for event in pages(store, EventQuery { limit: 3, ..all(window) }).await.concat() {
            let event = json(&event);
            let key = (name.to_string(), event["id"].as_str().unwrap().to_owned());
            assert!(mirror.insert(key, event).is_none(), "an event is listed twice");
        }
    }
    mirror
}

/// Moves those rows of a closed store whose first hash byte is chosen to where 0.1 wrote all rows,
/// and takes their availability away, which it did not write. Returns how many.
pub(crate) fn move_rows_back(dir: &tempfile::TempDir, chosen: impl Fn(u8) -> bool) -> usize {
    let db = sled::Config::new().path(dir.path().join("store")).open().unwrap();
    let mut moved = 0;
    for entry in db.scan_prefix(b"t") {
        let (key, row) = entry.unwrap();
        let (window, hash) = (&key[1..5], &key[13..]);
        if row.len() == 8 || !chosen(hash[0]) {
            continue;
        }
        // Layout and checksum, kind, flags, seq and start come before the end.
        db.insert(&key, &row[23..31]).unwrap();
        let (layout, mut fields) = (&row[..1], row[5..].to_vec());
        fields[1] &= 0b1111;
        let sum = crc32fast::hash(&fields).to_be_bytes();
        let value = [b"\0", layout, &sum, &fields].concat();
        db.insert([b"e", window, hash].concat(), value).unwrap();
        moved += 1;
    }
    db.flush().unwrap();
    drop(db);
    // sled's threads release the file a moment later.
    std::fs::File::open(dir.path().join("store/db")).unwrap().lock().unwrap();
    moved
}

/// Builds a shim to preload into children. Returns `None` without a C compiler.
pub(crate) fn shim(name: &str, dir: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/faults").join(name);
    let library = dir.join(name).with_extension("so");
    let built = Command::new("cc")
        .args(["-O1", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(source)
        .arg("-ldl")
        .status()
        .is_ok_and(|status| status.success());
    built.then_some(library)
}
