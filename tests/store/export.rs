//! Exports and imports: the same store elsewhere, whatever happens meanwhile, or nothing at all.

use std::fs::{self, File};
use std::io::{Seek as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::fleets::listing;
use crate::kit::*;
use calmirror::env::Env;
use calmirror::mirror::change::RemovalReason;
use calmirror::mirror::position::WindowId;
use calmirror::store::{
    BATCH_BYTES, ExportFaultKind, ExportSummary, FeedFilter, Follower, ImportError, OpenFault,
    Store, StoreOptions, import,
};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tokio_util::sync::CancellationToken;

on_each_engine! {
    an_imported_store_is_the_exported_one,
    a_trained_dictionary_goes_along,
}

/// The bytes of an export.
async fn exported(store: &Store) -> Vec<u8> {
    let mut export = store.export().unwrap();
    let mut file = Vec::new();
    while !export.is_over() {
        file.extend(export.next().await.unwrap());
    }
    assert!(export.next().await.unwrap().is_empty());
    file
}

fn import_into(bytes: &[u8], options: &StoreOptions) -> Result<ExportSummary, ImportError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    import(&mut file, options, &CancellationToken::new())
}

/// Imports into a directory that does not exist yet, and opens the store there.
fn imported(bytes: &[u8]) -> (tempfile::TempDir, Store, ExportSummary) {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { path: dir.path().join("new"), ..options(&dir) };
    let summary = import_into(bytes, &options).unwrap();
    let (store, opening) = Store::open(&options, &Env::real()).unwrap();
    assert_eq!(opening.moved_aside, None);
    (dir, store, summary)
}

/// A store with a series, removals of several kinds, a dropped window, positions and seen lists.
async fn rich(engine: &TestEngine) -> (tempfile::TempDir, Store, WindowId) {
    let (dir, store, w) = engine.fresh("alice").await;
    let other = attach(&store, "bob").await;
    put(&store, other, vec![single("z", 1, "z")]).await;
    let mut c = commit(w);
    c.upserts = vec![
        master("M", "1"),
        bare("o1", "M", 5),
        bare("o2", "M", 6),
        exception("x", "M", 7, "X"),
        lasting("l", 1, 90_000, &"long".repeat(60_000)),
    ];
    c.position = Some(settled("link-1"));
    c.seen = Some(seen(0, [hash("o1")]));
    store.commit(c).await.unwrap();
    let many = (0..500).map(|n| single(&format!("e{n}"), n, &format!("{n:0>900}")));
    put(&store, w, many.collect()).await;
    let mut c = commit(w);
    c.removals =
        vec![removal("e3", RemovalReason::Deleted), removal("e4", RemovalReason::LeftWindow)];
    store.commit(c).await.unwrap();
    store.drop_window(other, at(1)).await.unwrap();
    store.save_fleet_listing("rooms", Some(&listing(1500, 1))).await.unwrap();
    (dir, store, w)
}

async fn an_imported_store_is_the_exported_one(engine: TestEngine) {
    let (_dir, store, w) = rich(&engine).await;
    let old = store.cursor(4);
    let newest = store.cursor(store.durable_seq());
    let file = exported(&store).await;
    assert_eq!(file, exported(&store).await, "two exports of the same store");
    let (dir, copy, summary) = imported(&file);
    let visible = events(&store, w).await;
    assert_eq!((summary.windows, summary.events), (1, visible.len() as u64));
    assert_eq!(summary.bytes, file.len() as u64);

    assert_eq!(events(&copy, w).await, visible);
    assert_eq!(feed(&copy).await, feed(&store).await);
    assert_eq!(copy.windows().await.unwrap(), store.windows().await.unwrap());
    assert_eq!(copy.fleet_listings().await.unwrap(), [("rooms".into(), listing(1500, 1))].into());
    let position = copy.position(w, 0).await.unwrap();
    assert_eq!(position, Some(settled("link-1")));
    assert_eq!(position, store.position(w, 0).await.unwrap());
    assert_eq!(copy.durable_seq(), store.durable_seq());
    // A reader of the source goes on at the copy.
    assert_eq!(copy.seq(&old).unwrap(), 4);
    assert_eq!(copy.seq(&newest).unwrap(), store.durable_seq());
    assert_eq!(copy.cursor(4), old);
    let before = store.durable_seq();
    put(&copy, w, vec![single("new", 1, "new")]).await;
    let after = changes_after(&copy, copy.seq(&newest).unwrap(), 10).await.unwrap();
    assert_eq!(after.value.len(), 1);
    assert_eq!(after.value[0].seq, before + 1);
    // From here on the two are different stores.
    put(&store, w, vec![single("another", 1, "another")]).await;
    assert!(store.seq(&copy.cursor(before + 1)).is_err());
    store.close().await.unwrap();
    copy.close().await.unwrap();

    for (path, mode) in [("new", 0o700), ("new/store", 0o700), ("new/store/db", 0o600)] {
        let found = fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{path}: {found:o}");
    }
    assert!(!dir.path().join("new/import.new").exists());
}

/// The bytes of an export, between whose parts some commits become durable.
async fn exported_slowly(store: &Store) -> Vec<u8> {
    let mut export = store.export().unwrap();
    let mut file = Vec::new();
    while !export.is_over() {
        file.extend(export.next().await.unwrap());
        let reached = store.durable_seq() + 10;
        while !export.is_over() && store.durable_seq() < reached {
            tokio::task::yield_now().await;
        }
    }
    file
}

/// Changes, moves or removes an event. What changes "last" also changes the link.
async fn write(store: &Store, w: WindowId, number: usize) {
    let id = format!("e{}", number * 7 % 400);
    let mut c = commit(w);
    if number % 5 == 4 {
        c.removals = vec![removal(&id, RemovalReason::Deleted)];
    } else {
        let start = i64::try_from(number % 900).unwrap();
        let mut random = fastrand::Rng::with_seed(number as u64);
        let subject: String = (0..2500).map(|_| random.alphanumeric()).collect();
        c.upserts = vec![single(&id, start, &subject), single("last", 1, &number.to_string())];
        c.position = Some(settled(&format!("link-{number}")));
    }
    store.commit(c).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_is_the_store_of_one_moment_while_commits_go_on() {
    let (_dir, store, w) = fresh("alice").await;
    for number in 0..400 {
        write(&store, w, number).await;
    }
    let stop = CancellationToken::new();
    let writing = tokio::spawn({
        let (store, stop) = (store.clone(), stop.clone());
        async move {
            let mut number = 400;
            while !stop.is_cancelled() {
                write(&store, w, number).await;
                number += 1;
            }
        }
    });
    let (mut meanwhile, mut copies) = (0, Vec::new());
    for _ in 0..4 {
        let before = store.durable_seq();
        let file = exported_slowly(&store).await;
        meanwhile += store.durable_seq() - before;
        let (_dir, copy, _) = imported(&file);
        let held = fold(&copy, None).await;
        assert_eq!(held, mirror(&copy, &[w]).await);
        // The link and the events are of the same commit.
        let subject = &held[&("alice".to_owned(), "last".to_owned())]["subject"];
        let position = copy.position(w, 0).await.unwrap().unwrap();
        let link = settled(&format!("link-{}", subject.as_str().unwrap()));
        assert_eq!(position, link);
        copies.push((held, copy.cursor(copy.durable_seq())));
        copy.close().await.unwrap();
    }
    stop.cancel();
    writing.await.unwrap();
    // A reader of each copy catches up with the source.
    let now = fold(&store, None).await;
    for (mut held, cursor) in copies {
        let mut follower = Follower::after(&store, &cursor, FeedFilter::All).unwrap();
        loop {
            let changes = follower.read(1000, BATCH_BYTES).await.unwrap();
            apply(&mut held, &changes.value);
            if changes.at_end {
                break;
            }
        }
        assert!(held == now, "a change was neither in the copy nor after it");
    }
    assert!(meanwhile > 50, "only {meanwhile} changes while the exports were made");
    store.close().await.unwrap();
}

async fn a_trained_dictionary_goes_along(engine: TestEngine) {
    let (_dir, store, w) = engine.fresh("alice").await;
    for from in (0..20_000).step_by(2000) {
        let event = |n: i64| {
            let subject = format!("Donaudampfschiffahrtsgesellschaft {n} Kapitänsmütze {}", n * n);
            single(&format!("e{n}"), n, &subject.repeat(3))
        };
        put(&store, w, (from..from + 2000).map(event).collect()).await;
    }
    assert!(store.train_dictionary().await.unwrap());
    let mut place = store.recompress(None).await.unwrap();
    while place.is_some() {
        place = store.recompress(place).await.unwrap();
    }
    let (_dir, copy, summary) = imported(&exported(&store).await);
    assert_eq!((summary.windows, summary.events), (1, 20_000));
    assert_eq!(events(&copy, w).await, events(&store, w).await);
    assert!(!copy.needs_recompression().await.unwrap());
    copy.close().await.unwrap();
    store.close().await.unwrap();
}

/// An export of a small store.
async fn small() -> Vec<u8> {
    let (_dir, store, w) = fresh("alice").await;
    put(&store, w, (0..20).map(|n| single(&format!("e{n}"), n, "s")).collect()).await;
    let file = exported(&store).await;
    store.close().await.unwrap();
    file
}

/// Asserts that an import is refused because of the file and leaves no trace.
fn assert_refused(file: &[u8]) -> (u64, ExportFaultKind) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new");
    let options = StoreOptions { path: path.clone(), ..options(&dir) };
    match import_into(file, &options) {
        Err(ImportError::File(fault)) => {
            assert!(!path.exists(), "{fault}");
            (fault.offset, fault.why)
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_file_that_is_no_export_changes_nothing() {
    let file = small().await;
    assert_eq!(assert_refused(b"somebody's notes"), (0, ExportFaultKind::Foreign));
    assert_eq!(assert_refused(b""), (0, ExportFaultKind::Truncated));
    let newer = [b"calmirror export 2\n", &file[19..]].concat();
    let (at, why) = assert_refused(&newer);
    assert!(at == 0 && matches!(why, ExportFaultKind::Newer { found: 2, known: 1, .. }));
    let longer = [&file[..], b"x"].concat();
    assert_eq!(assert_refused(&longer).0, file.len() as u64);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(200));
    let altered = (any::<prop::sample::Index>(), 1u8.., any::<bool>());
    let tried = runner.run(&altered, |(place, flip, cut)| {
        let at = place.index(file.len());
        let mut bad = file.clone();
        if cut {
            bad.truncate(at);
            assert_eq!(assert_refused(&bad), (at as u64, ExportFaultKind::Truncated));
        } else {
            bad[at] ^= flip;
            assert_refused(&bad);
        }
        Ok(())
    });
    tried.unwrap();
}

/// The names below a directory.
fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_store_with_a_window_is_never_replaced() {
    let file = small().await;
    let (dir, store, w) = fresh("bob").await;
    let locked = import_into(&file, &options(&dir));
    assert!(matches!(
        locked,
        Err(ImportError::Open(error)) if matches!(error.why, OpenFault::Locked)
    ));
    store.close().await.unwrap();
    let before = (names(dir.path()), fs::read(dir.path().join("store/db")).unwrap());
    let refused = import_into(&file, &options(&dir));
    assert!(matches!(refused, Err(ImportError::NotEmpty(path)) if path == dir.path()));
    let after = (names(dir.path()), fs::read(dir.path().join("store/db")).unwrap());
    assert!(before == after, "the store was changed");
    // A window that is being dropped, and the removals of a dropped one, are something too.
    let store = open(&dir);
    put(&store, w, vec![single("e", 1, "s")]).await;
    store.drop_window(w, at(1)).await.unwrap();
    store.close().await.unwrap();
    assert!(matches!(import_into(&file, &options(&dir)), Err(ImportError::NotEmpty(_))));
    // What cannot be read is not overwritten either.
    fs::write(dir.path().join("store/db"), b"damaged").unwrap();
    assert!(matches!(import_into(&file, &options(&dir)), Err(ImportError::NotEmpty(_))));
    assert_eq!(fs::read(dir.path().join("store/db")).unwrap(), b"damaged");
}

#[tokio::test]
async fn an_empty_store_is_replaced() {
    let file = small().await;
    let dir = tempfile::tempdir().unwrap();
    // A daemon without windows ran twice, and an import was killed.
    for _ in 0..2 {
        open(&dir).close().await.unwrap();
    }
    fs::create_dir_all(dir.path().join("import.new/store")).unwrap();
    fs::write(dir.path().join("import.new/store/db"), b"half").unwrap();
    import_into(&file, &options(&dir)).unwrap();
    assert!(!dir.path().join("import.new").exists());
    let store = open(&dir);
    assert_eq!(store.durable_seq(), 20);
    store.close().await.unwrap();
    assert!(matches!(import_into(&file, &options(&dir)), Err(ImportError::NotEmpty(_))));
}

#[tokio::test]
async fn an_import_removes_what_it_made_when_the_disk_is_full_or_the_caller_stops_it() {
    let file = small().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new");
    let full = StoreOptions { path: path.clone(), min_free_bytes: u64::MAX / 2, ..options(&dir) };
    let refused = import_into(&file, &full);
    assert!(matches!(
        refused,
        Err(ImportError::Open(error)) if matches!(error.why, OpenFault::Full)
    ));
    assert!(!path.exists());
    // The directory existed before: it stays, and is empty.
    fs::create_dir(&path).unwrap();
    assert!(import_into(&file, &full).is_err());
    assert_eq!(names(&path), Vec::<String>::new());

    let stop = CancellationToken::new();
    stop.cancel();
    let mut input = File::open("/dev/zero").unwrap();
    let stopped = import(&mut input, &full, &stop);
    assert!(matches!(stopped, Err(ImportError::Stopped)));
}

/// A user may have removed the tree and left the watermark.
#[tokio::test]
async fn the_watermark_of_a_store_that_is_gone_does_no_harm() {
    let file = small().await;
    let (dir, store, w) = fresh("bob").await;
    put(&store, w, (0..200).map(|n| single(&format!("e{n}"), n, "s")).collect()).await;
    store.close().await.unwrap();
    fs::remove_dir_all(dir.path().join("store")).unwrap();
    import_into(&file, &options(&dir)).unwrap();
    let (store, opening) = Store::open(&options(&dir), &Env::real()).unwrap();
    assert_eq!((opening.moved_aside, store.durable_seq()), (None, 20));
    store.close().await.unwrap();
}
