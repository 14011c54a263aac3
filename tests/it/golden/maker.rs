//! Makes a golden store and records what the same version returns from it.
//!
//! It uses only the public interface, so that every version that changes the on-disk format can add
//! a golden store of its own; see `tests/fixtures/stores/README.md`.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use calmirror::env::Env;
use calmirror::mirror::change::RemovalReason;
use calmirror::mirror::commit::{Commit, Removal, SeenPage};
use calmirror::mirror::fallback::StallKind;
use calmirror::mirror::page::{EventHash, EventId, Item};
use calmirror::mirror::position::{PendingEntry, Phase, Position, SegmentIndex, WindowId};
use calmirror::mirror::status::ResyncReason;
use calmirror::mirror::window::Edges;
use calmirror::store::{FeedFilter, Follower, Store, WindowRegistration};
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::SignedDuration;

use super::calendars::{
    LEAVING, PLAIN, bodiless, calendar, decade, delta, enumerating, fallback_after, instances,
    instant, large, minutes, next, plain, reasons, relative, series, settled, single, small,
    stall_after_pages,
};
use super::{answers, options, silent};
use crate::rig::noon;

fn removal(id: &EventId, reason: RemovalReason) -> Removal {
    Removal { id: id.hash(), reason }
}

async fn write(store: &Store, commit: Commit) {
    store.commit(commit).await.unwrap();
}

fn commit(window: WindowId, segment: SegmentIndex, at: i64) -> Commit {
    Commit::new(window, segment, minutes(at))
}

/// A window after successful rounds.
fn known(window: WindowId, name: &str) -> Commit {
    let mut commit = commit(window, 0, -60);
    commit.upserts = calendar(name);
    commit.position = Some(settled(name, 1));
    commit.counters.round = Some(1);
    commit.counters.success = Some(minutes(-60));
    commit
}

async fn attach(store: &Store, wanted: WindowRegistration) -> WindowId {
    store.register(vec![wanted], minutes(-90)).await.unwrap().remove(0).id
}

/// Everything except the changes that readers of the feed see later.
async fn first(store: &Store) {
    for name in PLAIN {
        if name == "replaced" {
            let mut before = plain(name);
            before.identity.tenant = "an older tenant".into();
            let window = attach(store, before).await;
            let mut commit = known(window, name);
            commit.position = Some(settled(name, 0));
            write(store, commit).await;
            continue;
        }
        let window = attach(store, plain(name)).await;
        if !matches!(name, "unvisited" | "enumerating") {
            write(store, known(window, name)).await;
        }
        write_segment_state(store, window, name).await;
    }
    for (name, reason) in reasons() {
        let window = attach(store, plain(&name)).await;
        let mut commit = commit(window, 0, -50);
        commit.position = Some(Position::start(reason, Default::default()));
        commit.counters.resync = Some(reason);
        write(store, commit).await;
    }
    for wanted in [relative("relative"), bodiless("bodiless")] {
        let name = wanted.name.clone();
        let window = store.register(vec![wanted], noon()).await.unwrap().remove(0).id;
        let mut commit = known(window, &name);
        if &*name == "relative" {
            // Occurrences listed one by one are full events.
            commit.upserts.retain(|item| item.full);
            let whole = |item: Item| Item { full: true, ..item };
            commit.upserts.extend(instances(&name).into_iter().skip(1).map(whole));
        }
        write(store, commit).await;
    }
    segments(store).await;
    for name in LEAVING {
        let window = attach(store, plain(name)).await;
        write(store, known(window, name)).await;
        if name == "dropping" {
            let mut commit = commit(window, 0, -40);
            commit.upserts = (0..260).map(|n| small(name, n)).collect();
            write(store, commit).await;
        }
    }
}

/// One segment in every phase, with everything that can be stored beside it.
async fn write_segment_state(store: &Store, window: WindowId, name: &str) {
    let mut c = commit(window, 0, -30);
    let todo = [
        PendingEntry::Series {
            master: EventId::new(series(name)),
            needs_master: true,
            needs_listing: true,
        },
        PendingEntry::Series {
            master: EventId::new(format!("{name}/another series=")),
            needs_master: false,
            needs_listing: true,
        },
        PendingEntry::Removal { id: EventId::new(format!("{name}/day=")).hash() },
    ];
    let waiting = instances(name).into_iter().skip(1).zip([true, false, false]);
    let waiting = waiting.map(|(item, earlier)| PendingEntry::Waiting { item, earlier });
    match name {
        "settled" => {
            let mut long = single(name, "long", instant("2026-11-20T08:00:00Z"));
            long.span.end = long.span.start + SignedDuration::from_hours(75);
            let short = single(name, "short", instant("2026-11-20T08:00:00Z"));
            c.upserts = vec![long, short, large(name)];
            c.position = Some(settled(name, 7));
            c.counters.round = Some(411);
            c.counters.success = Some(minutes(-30));
            c.counters.audit = Some(3);
        }
        "paused" => c.counters.paused_until = Some(minutes(25)),
        "following" => {
            let mut position = Position::new(Phase::Following { next: next(name, 3) }, true);
            position.stall = stall_after_pages(&["a", "b", "", ""]);
            assert!(!position.stall.page_failed());
            c.position = Some(position);
            c.pending = todo.into_iter().chain(waiting).collect();
        }
        "completing" => {
            c.position = Some(Position::new(Phase::Completing { delta: delta(name, 4) }, true));
            c.pending = todo.into_iter().chain(waiting).collect();
        }
        "enumerating" => {
            let mut position = enumerating(name, ResyncReason::New, 2);
            position.has_pending = true;
            position.stall = stall_after_pages(&["a", "b"]);
            c.position = Some(position);
            c.upserts = vec![single(name, "single", instant("2026-11-03T09:00:00Z"))];
            c.pending = instances(name)
                .into_iter()
                .skip(1)
                .map(|item| PendingEntry::Waiting { item, earlier: false })
                .collect();
            c.pending.push(PendingEntry::Series {
                master: EventId::new(series(name)),
                needs_master: false,
                needs_listing: false,
            });
            seen(store, window, name).await;
        }
        "resync" => {
            c.position = Some(enumerating(name, ResyncReason::SyncStateNotFound, 1));
            c.counters.resync = Some(ResyncReason::SyncStateNotFound);
            c.counters.round = Some(12);
            seen(store, window, name).await;
        }
        "sweeping" | "sweeping-listed" => {
            let listed = name == "sweeping-listed";
            let delta = (!listed).then(|| delta(name, 5));
            let reason =
                if listed { ResyncReason::Snapshot } else { ResyncReason::SyncStateNotFound };
            let mut position = Position::new(Phase::Sweeping { delta, reason }, false);
            if listed {
                position.fallback = fallback_after(&[StallKind::NoProgress; 4]);
                assert!(position.fallback.is_snapshot());
            }
            c.position = Some(position);
            seen(store, window, name).await;
        }
        "held" => {
            let mut position = Position::start(ResyncReason::Confirm, Default::default());
            position.held_until = Some(minutes(10));
            c.position = Some(position);
            c.counters.resync = Some(ResyncReason::Confirm);
        }
        "snapshot" => {
            let mut position = Position::new(Phase::Settled { delta: None }, false);
            position.fallback = fallback_after(&[StallKind::PageTooLarge, StallKind::NoProgress]);
            assert!(position.fallback.is_snapshot());
            c.position = Some(position);
        }
        "smaller" => {
            let remedy = fallback_after(&[StallKind::PageTooLarge]);
            assert_eq!(remedy.page_size(200), 100);
            c.position = Some(Position { fallback: remedy, ..settled(name, 6) });
        }
        "stuck" => {
            let mut position =
                Position::start(ResyncReason::RoundStuck, fallback_after(&[StallKind::NoProgress]));
            position.held_until = Some(minutes(9));
            c.position = Some(position);
            c.counters.resync = Some(ResyncReason::RoundStuck);
        }
        _ => {}
    }
    write(store, c).await;
}

/// Two pages of an enumeration, the second with more ids than one value holds.
async fn seen(store: &Store, window: WindowId, name: &str) {
    let all: Vec<_> = calendar(name).iter().map(|item| item.id.hash()).collect();
    let (first, second) = all.split_at(2);
    for (page, ids) in [(0, first), (1, second)] {
        let mut c = commit(window, 0, -31);
        let mut ids = ids.to_vec();
        if page == 1 && name == "resync" {
            ids.extend((0..4200_u128).map(|n| EventHash(n.to_be_bytes())));
        }
        c.seen = Some(SeenPage { page, ids });
        write(store, c).await;
    }
}

/// Windows of several segments: all in use, retired, or halved.
async fn segments(store: &Store) {
    for name in ["decade", "retired", "halved"] {
        let window = attach(store, if name == "halved" { plain(name) } else { decade(name) }).await;
        if name == "halved" {
            write(store, known(window, name)).await;
            store.shorten_segments(window, 60, minutes(-30)).await.unwrap();
            continue;
        }
        for segment in 0..3 {
            let mut c = commit(window, segment, -60);
            let year = [2026, 2032, 2036][usize::from(segment)];
            let at = instant(&format!("{year}-09-03T09:00:00Z"));
            c.upserts = vec![single(name, &format!("of segment {segment}"), at)];
            let number = 10 + u32::from(segment);
            c.position = Some(match segment {
                1 => Position::new(Phase::Following { next: next(name, number) }, false),
                _ => settled(name, number),
            });
            c.counters.success = Some(minutes(-60));
            write(store, c).await;
        }
        // Both segments hold the event on the boundary between them.
        for segment in 0..2 {
            let mut c = commit(window, segment, -59);
            c.upserts = vec![single(name, "of two", instant("2031-09-30T00:00:00Z"))];
            write(store, c).await;
        }
    }
    let retired = store.register(vec![plain("retired")], minutes(-30)).await.unwrap().remove(0);
    assert_eq!(retired.resync, Some(ResyncReason::WindowMoved));
    let decade = store.register(vec![decade("decade")], minutes(-30)).await.unwrap().remove(0);
    assert_eq!(decade.resync, None);
    let edges: Edges = decade.edges;
    assert_eq!(edges.segments().len(), 3);
}

/// Changes that readers see: each kind, and tombstones of every reason, old and new.
async fn second(store: &Store) {
    let window = attach(store, plain("settled")).await;
    for (n, at) in [(0, -40 * 1440), (1, -20), (2, -20), (3, -20)] {
        let mut c = commit(window, 0, at);
        let item = single("settled", &format!("passing {n}"), instant("2026-11-06T08:00:00Z"));
        let reason = if n == 2 { RemovalReason::LeftWindow } else { RemovalReason::Deleted };
        c.upserts = vec![item.clone()];
        write(store, c.clone()).await;
        c.upserts.clear();
        c.removals = vec![removal(&item.id, reason)];
        write(store, c.clone()).await;
        if n == 3 {
            c.removals.clear();
            c.upserts = vec![item];
            write(store, c).await;
        }
    }
    let mut c = commit(window, 0, -19);
    let mut master = instances("settled").remove(0);
    let content = String::from_utf8(master.content.to_vec()).unwrap();
    master.content = content.replace("Subject of", "New subject of").into();
    c.upserts = vec![master];
    write(store, c).await;
}

/// Leaves windows that are being dropped, and one that a window of the same name replaces.
async fn third(store: &Store) {
    let replaced = store.register(vec![plain("replaced")], minutes(-10)).await.unwrap().remove(0);
    assert_eq!(replaced.replaces.len(), 1);
    let mut c = commit(replaced.id, 0, -10);
    c.position = Some(settled("replaced", 1));
    c.counters.success = Some(minutes(-10));
    write(store, c).await;
    let windows = store.windows().await.unwrap();
    let find = |name: &str| windows.iter().find(|window| &*window.name == name).unwrap().id;
    let leaving = LEAVING.into_iter().map(find).collect();
    store.replace_windows(Vec::new(), leaving, minutes(-9)).await.unwrap();
    // Only the first slice of the larger window's removals.
    let mut follower = Follower::from_now(store, FeedFilter::All);
    tokio::select! {
        biased;
        waited = follower.wait() => waited.unwrap(),
        _ = store.drop_window(find("dropping"), minutes(-8)) => panic!("the removal took a single slice"),
    }
}

async fn store(path: &Path) {
    let open = || Store::open(&options(path), &Env::real()).unwrap().0;
    let at_once = open();
    first(&at_once).await;
    at_once.close().await.unwrap();
    let again = open();
    second(&again).await;
    assert_eq!(again.trim(minutes(-30 * 1440)).await.unwrap(), 1);
    again.close().await.unwrap();
    // An opening that assigns no seq leaves no trace for the next one.
    open().close().await.unwrap();
    let last = open();
    third(&last).await;
    last.close().await.unwrap();
}

/// Compresses each file of a directory separately.
fn pack(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|e| (e.path(), e.file_name())).unwrap();
        if path.is_dir() {
            pack(&path, &to.join(name));
        } else {
            write_packed(&to.join(name), &fs::read(path).unwrap());
        }
    }
}

fn write_packed(path: &Path, bytes: &[u8]) {
    let file = fs::File::create(path.with_added_extension("gz")).unwrap();
    let mut packed = GzEncoder::new(file, Compression::best());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap();
}

#[tokio::test]
#[ignore = "writes the golden store of this version into the directory GOLDEN_STORE"]
async fn make() {
    let to = std::env::var("GOLDEN_STORE").expect("GOLDEN_STORE names a directory");
    let to = Path::new(&to);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    store(&path).await;
    pack(&path, &to.join("directory"));
    let record = |name: &str, value: serde_json::Value| {
        let text = serde_json::to_string_pretty(&value).unwrap();
        write_packed(&to.join(name), text.as_bytes());
    };
    let (opened, _) = Store::open(&options(&path), &Env::real()).unwrap();
    record("store.json", answers::of_store(&opened).await);
    opened.close().await.unwrap();
    record("api.json", silent::api(directory.path()).await);
}
