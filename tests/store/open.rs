//! Opening: unusable stores are left alone, damaged ones are rebuilt, and cursors of another
//! history are rejected.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::kit::*;
use calmirror::env::Env;
use calmirror::mirror::change::RemovalReason;
use calmirror::store::{FeedError, OpenFault, OpenReport, Store};

const EVENTS: usize = 300;

on_each_engine! {
    one_process_at_a_time,
    a_newer_store_is_not_touched,
    a_deleted_store_starts_empty,
    a_store_being_opened_by_another_process_is_not_touched,
}

/// Builds and closes a store with events. Returns a reader's copy and its cursor.
async fn built(engine: &TestEngine, dir: &tempfile::TempDir) -> (FeedCopy, String) {
    let store = engine.open(dir);
    let w = attach(&store, "alice").await;
    for n in 0..EVENTS / 10 {
        let mut c = commit(w);
        c.upserts = (0..10)
            .map(|i| single(&format!("e{}", n * 10 + i), 1, &format!("{n}").repeat(800)))
            .collect();
        c.position = Some(settled(&format!("link-{n}")));
        store.commit(c).await.unwrap();
    }
    let held = fold(&store, None).await;
    assert_eq!(held.len(), EVENTS);
    let cursor = store.cursor(store.durable_seq());
    store.close().await.unwrap();
    (held, cursor)
}

fn try_open(dir: &tempfile::TempDir) -> (Store, OpenReport) {
    Store::open(&options(dir), &Env::real()).unwrap()
}

/// Opens the store, which must have everything that it had.
async fn assert_intact(dir: &tempfile::TempDir, held: &FeedCopy, cursor: &str) {
    let (store, opening) = try_open(dir);
    assert_eq!(opening.moved_aside, None);
    assert_eq!(fold(&store, None).await, *held);
    assert!(store.seq(cursor).is_ok());
    store.close().await.unwrap();
}

fn refused(engine: &TestEngine, dir: &tempfile::TempDir) -> OpenFault {
    engine.try_open(&options(dir)).unwrap_err().why
}

/// Every file below a directory, with its content.
fn files(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    all
}

fn snapshots(dir: &tempfile::TempDir) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.path().join("store")).unwrap();
    let paths = entries.map(|e| e.unwrap().path());
    paths.filter(|p| p.file_name().unwrap().to_string_lossy().starts_with("snap.")).collect()
}

fn drop_snapshots(dir: &tempfile::TempDir) {
    for snapshot in snapshots(dir) {
        fs::remove_file(snapshot).unwrap();
    }
}

/// Asserts that the store was moved aside, an empty one was made, and the reader must start again.
async fn assert_rebuilt(store: &Store, opening: &OpenReport, cursor: &str) {
    assert!(
        opening.moved_aside.as_ref().unwrap().join("db").exists(),
        "the damaged store was deleted"
    );
    assert!(store.windows().await.unwrap().is_empty());
    assert!(matches!(store.seq(cursor), Err(FeedError::SnapshotRequired)));
    let w = attach(store, "alice").await;
    put(store, w, vec![single("a", 1, "A")]).await;
    assert_eq!(fold(store, None).await.len(), 1);
    assert!(matches!(store.seq(cursor), Err(FeedError::SnapshotRequired)));
}

async fn one_process_at_a_time(engine: TestEngine) {
    let (dir, store, w) = engine.fresh("alice").await;
    let why = refused(&engine, &dir);
    assert!(matches!(why, OpenFault::Locked), "{why:?}");
    assert!(!why.remedy().is_empty());
    put(&store, w, vec![single("a", 1, "A")]).await;
    store.close().await.unwrap();
    drop(engine.open(&dir));
    drop(engine.open(&dir));
}

async fn a_newer_store_is_not_touched(engine: TestEngine) {
    let dir = engine.directory();
    built(&engine, &dir).await;
    let json = br#"{"format":6,"something":"else"}"#;
    let mut bytes = vec![1];
    bytes.extend_from_slice(&crc32fast::hash(json).to_be_bytes());
    bytes.extend_from_slice(json);
    fs::write(dir.path().join("watermark"), bytes).unwrap();
    let before = files(dir.path());
    let why = refused(&engine, &dir);
    assert!(matches!(why, OpenFault::NewerFormat { found: 6, .. }), "{why:?}");
    assert!(files(dir.path()) == before, "the store was changed");
}

/// Writes a value in another layout under the key of the first window's position.
fn overwrite_position(dir: &tempfile::TempDir, layout: u8, json: &[u8]) -> Vec<u8> {
    let db = sled::Config::new().path(dir.path().join("store")).open().unwrap();
    let mut value = vec![layout];
    value.extend_from_slice(&crc32fast::hash(json).to_be_bytes());
    value.extend_from_slice(json);
    let (key, _) = db.scan_prefix(b"l").next().unwrap().unwrap();
    let old = db.insert(key, value).unwrap().unwrap();
    db.flush().unwrap();
    drop(db);
    // sled's threads release the file a moment later.
    fs::File::open(dir.path().join("store/db")).unwrap().lock().unwrap();
    old.to_vec()
}

#[tokio::test]
async fn a_record_of_another_version_is_not_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (held, cursor) = built(&TestEngine::Sled, &dir).await;
    let json = br#"{"phase":{"resting":{}},"todo":false}"#;
    let old = overwrite_position(&dir, 1, json);
    assert!(matches!(refused(&TestEngine::Sled, &dir), OpenFault::UnknownRecord("position")));
    overwrite_position(&dir, 6, b"not even json");
    assert!(matches!(
        refused(&TestEngine::Sled, &dir),
        OpenFault::NewerFormat { found: 6, known: 5 }
    ));
    // With the old record restored, everything is there.
    overwrite_position(&dir, 1, &old[5..]);
    assert_intact(&dir, &held, &cursor).await;
}

#[tokio::test]
async fn a_path_that_is_not_a_directory_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "mine").unwrap();
    let options = calmirror::store::StoreOptions { path: path.clone(), ..options(&dir) };
    let error = Store::open(&options, &Env::real()).unwrap_err();
    assert!(matches!(error.why, OpenFault::Io(_)), "{error:?}");
    assert_eq!(fs::read(&path).unwrap(), b"mine");
}

#[tokio::test]
async fn the_directory_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b");
    let options = calmirror::store::StoreOptions { path: path.clone(), ..options(&dir) };
    let (store, _) = Store::open(&options, &Env::real()).unwrap();
    for path in [path.as_path(), path.parent().unwrap()] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_damaged_snapshot_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let (held, cursor) = built(&TestEngine::Sled, &dir).await;
    for damage in [|b: &mut Vec<u8>| b.clear(), |b: &mut Vec<u8>| b[20] ^= 1] {
        // Opening writes the snapshot.
        open(&dir).close().await.unwrap();
        let all = snapshots(&dir);
        assert!(!all.is_empty());
        for snapshot in all {
            let mut bytes = fs::read(&snapshot).unwrap();
            damage(&mut bytes);
            fs::write(&snapshot, bytes).unwrap();
        }
        assert_intact(&dir, &held, &cursor).await;
    }
}

#[tokio::test]
async fn flipped_bits_are_never_served() {
    let good = tempfile::tempdir().unwrap();
    let (held, cursor) = built(&TestEngine::Sled, &good).await;
    drop_snapshots(&good);
    let bytes = fs::read(good.path().join("store/db")).unwrap();
    // sled preallocates: the used bytes come first.
    let used = bytes.len() - bytes.iter().rev().take_while(|b| **b == 0).count();
    let mut rebuilt = 0;
    for n in 0..12 {
        let dir = tempfile::tempdir().unwrap();
        copy(good.path(), dir.path());
        let mut bytes = bytes.clone();
        bytes[used * (2 * n + 1) / 24] ^= 1 << (n % 8);
        fs::write(dir.path().join("store/db"), bytes).unwrap();
        let (store, opening) = try_open(&dir);
        if opening.moved_aside.is_some() {
            rebuilt += 1;
            assert_rebuilt(&store, &opening, &cursor).await;
            store.close().await.unwrap();
        } else if let Ok(changes) = changes_after(&store, 0, 10 * EVENTS).await {
            // The flip hit unused space: then everything is unchanged.
            let mut mirror = FeedCopy::new();
            apply(&mut mirror, &changes.value);
            let differ: Vec<_> = held
                .iter()
                .filter(|(k, v)| mirror.get(k) != Some(v))
                .map(|(k, _)| k.1.clone())
                .collect();
            assert!(
                mirror == held,
                "flip {n}: {} of {}, {differ:?}, {:?}",
                mirror.len(),
                held.len(),
                store.windows().await
            );
            store.close().await.unwrap();
        } else {
            // The damage was only found while reading: the next opening verifies everything.
            store.failed().await;
            drop(store);
            let (store, opening) = try_open(&dir);
            rebuilt += 1;
            assert_rebuilt(&store, &opening, &cursor).await;
            store.close().await.unwrap();
        }
    }
    assert!(rebuilt > 0, "no flip hit used space");
}

#[tokio::test]
async fn a_lost_tail_is_detected() {
    let good = tempfile::tempdir().unwrap();
    let (_, cursor) = built(&TestEngine::Sled, &good).await;
    drop_snapshots(&good);
    let bytes = fs::read(good.path().join("store/db")).unwrap();
    let used = bytes.len() - bytes.iter().rev().take_while(|b| **b == 0).count();
    for kept in [0, used / 4, used / 2, used - used / 8] {
        let dir = tempfile::tempdir().unwrap();
        copy(good.path(), dir.path());
        fs::write(dir.path().join("store/db"), &bytes[..kept]).unwrap();
        let (store, opening) = try_open(&dir);
        assert_rebuilt(&store, &opening, &cursor).await;
        store.close().await.unwrap();
    }
}

async fn a_deleted_store_starts_empty(engine: TestEngine) {
    let dir = engine.directory();
    let (_, cursor) = built(&engine, &dir).await;
    fs::remove_dir_all(dir.path().join("store")).unwrap();
    let (store, opening) = engine.try_open(&options(&dir)).unwrap();
    assert_eq!(opening.moved_aside, None);
    assert!(store.windows().await.unwrap().is_empty());
    assert!(matches!(store.seq(&cursor), Err(FeedError::SnapshotRequired)));
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_restored_copy_refuses_cursors_it_never_issued() {
    let dir = tempfile::tempdir().unwrap();
    let (_, cursor) = built(&TestEngine::Sled, &dir).await;
    let copied = tempfile::tempdir().unwrap();
    copy(dir.path(), copied.path());
    let mut cursors = Vec::new();
    for dir in [&dir, &copied] {
        let store = open(dir);
        assert!(store.seq(&cursor).is_ok(), "a cursor from before the copy is invalid");
        let w = attach(&store, "alice").await;
        let mut c = commit(w);
        c.removals = vec![removal("e0", RemovalReason::Deleted)];
        store.commit(c).await.unwrap();
        cursors.push(store.cursor(store.durable_seq()));
        store.close().await.unwrap();
    }
    for (dir, own, other) in [(&dir, 0, 1), (&copied, 1, 0)] {
        let store = open(dir);
        assert!(store.seq(&cursors[own]).is_ok());
        assert!(matches!(store.seq(&cursors[other]), Err(FeedError::SnapshotRequired)));
        store.close().await.unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            match fs::create_dir(&to) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => panic!("{e}"),
                _ => copy(&entry.path(), &to),
            }
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

async fn a_store_being_opened_by_another_process_is_not_touched(engine: TestEngine) {
    let dir = engine.directory();
    let (held, _) = built(&engine, &dir).await;
    let before = files(dir.path());
    let opening = fs::File::open(dir.path()).unwrap();
    opening.lock().unwrap();
    let why = refused(&engine, &dir);
    assert!(matches!(why, OpenFault::Locked), "{why:?}");
    assert_eq!(files(dir.path()), before);
    drop(opening);
    let store = engine.open(&dir);
    // After opening only the lock of the tree is held.
    fs::File::open(dir.path()).unwrap().try_lock().unwrap();
    assert_eq!(fold(&store, None).await, held);
    store.close().await.unwrap();
}

#[test]
fn special_files_are_refused_without_blocking() {
    let beside = ["watermark", "watermark.new", "reserve", "suspect", "second"];
    for name in beside.into_iter().chain(["store/db", "store/blobs/1"]) {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join(name);
        fs::create_dir_all(fifo.parent().unwrap()).unwrap();
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from(0o600));
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, mode, 0).unwrap();
        let options = calmirror::store::StoreOptions { min_free_bytes: 1, ..options(&dir) };
        let (tell, told) = std::sync::mpsc::channel();
        // Opening a pipe for reading would block until a writer opens it.
        std::thread::spawn(move || tell.send(Store::open(&options, &Env::real())));
        let told = told.recv_timeout(std::time::Duration::from_secs(20));
        let why = told.unwrap_or_else(|_| panic!("{name} blocks the opening")).unwrap_err().why;
        assert!(matches!(&why, OpenFault::NotAFile(path) if *path == fifo), "{name}: {why:?}");
        assert!(why.is_configuration() && !why.remedy().is_empty());
        assert_eq!(
            files_named(dir.path()),
            [name.split('/').next().unwrap()],
            "a file was created"
        );
    }
}

fn files_named(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}
