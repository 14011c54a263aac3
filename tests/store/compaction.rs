//! Compactions: what they take of the memory, and what becomes of the store if the operating system
//! cannot sync a file. Both concern a whole process, so the tests start child processes.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "children print their results")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::faults::{of_child, options_at, peak, reset_peak, run, said};
use crate::kit::*;
use calmirror::env::Env;
use calmirror::mirror::commit::Commit;
use calmirror::store::{CompactionOutcome, Store, StoreOptions};

/// Events of 1 KB in a store that is compacted: 50 MB.
const MANY: i64 = 60_000;

#[test]
#[ignore = "a child of the test below"]
fn child_compacts_much() {
    let Some((dir, runtime)) = of_child() else { return };
    runtime.block_on(async {
        let options = StoreOptions { cache_bytes: 1 << 20, ..options_at(&dir) };
        let store = Store::open(&options, &Env::real()).unwrap().0;
        let w = attach(&store, "alice").await;
        let mut dice = fastrand::Rng::with_seed(3);
        for from in (0..MANY).step_by(500) {
            let event = |n| {
                let body: String =
                    std::iter::repeat_with(|| dice.alphanumeric()).take(1000).collect();
                single(&format!("e{n}"), n, &body)
            };
            put(&store, w, (from..from + 500).map(event).collect()).await;
        }
        reset_peak();
        let before = peak();
        let live = store.live_bytes(Duration::ZERO).await.unwrap();
        println!("measuring={}", peak() - before);
        let outcome = store.compact(live, Duration::ZERO).await.unwrap();
        println!("more={}", peak() - before);
        println!("live={}", live >> 20);
        println!("done={}", matches!(outcome, CompactionOutcome::Done { .. }));
        store.close().await.unwrap();
    });
}

#[test]
fn a_compaction_does_not_keep_the_store_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let text =
        run("compaction::child_compacts_much", dir.path(), &[("MALLOC_TRIM_THRESHOLD_", "0")]);
    assert_eq!(said(&text, "done"), "true");
    let number = |name| said(&text, name).parse::<u64>().unwrap();
    let (live, measuring, more) = (number("live"), number("measuring"), number("more"));
    println!("{live} MiB: {measuring} MiB more for measuring it, {more} MiB for all");
    // Without limits each of them keeps all of the content.
    assert!(live > 50 && measuring < 30 && more < 75);
}

#[test]
#[ignore = "a child of the test below"]
fn child_compacts() {
    let Some((dir, runtime)) = of_child() else { return };
    runtime.block_on(async {
        let store = Store::open(&options_at(&dir), &Env::real()).unwrap().0;
        let w = attach(&store, "alice").await;
        put(&store, w, (0..50).map(|n| single(&format!("e{n}"), n, "before")).collect()).await;
        let outcome = store.compact(0, Duration::ZERO).await;
        println!(
            "outcome={}",
            match outcome {
                Ok(CompactionOutcome::Done { .. }) => "done",
                Ok(CompactionOutcome::GivenUp(_)) => "given up",
                Ok(other) => panic!("{other:?}"),
                Err(_) => "failed",
            }
        );
        let after = commit(w);
        let after = Commit { upserts: vec![single("after", 1, "after")], ..after };
        println!("written={}", store.commit(after).await.is_ok());
        println!("closed={}", store.close().await.is_ok());
    });
}

/// Whatever cannot be synced: the store goes on, or it ends, but it has one tree, with everything
/// that was acknowledged.
#[tokio::test]
async fn a_failed_sync_during_a_compaction_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let Some(shim) = shim("sync_fault.c", dir.path()) else {
        eprintln!("skipped: there is no C compiler");
        return;
    };
    let mut met = BTreeSet::new();
    for sync in 1.. {
        let path = dir.path().join(format!("{sync}"));
        let (second, log) = (path.join("store.second"), dir.path().join("log"));
        let text = run(
            "compaction::child_compacts",
            &path,
            &[
                ("LD_PRELOAD", shim.to_str().unwrap()),
                ("SYNC_FAULT_DIR", path.to_str().unwrap()),
                ("SYNC_FAULT_SINCE", second.to_str().unwrap()),
                ("SYNC_FAULT_LOG", log.to_str().unwrap()),
                ("SYNC_FAULT", &sync.to_string()),
            ],
        );
        let Ok(failed) = fs::read_to_string(&log) else {
            assert_eq!((said(&text, "outcome"), said(&text, "closed")), ("done", "true"));
            break;
        };
        fs::remove_file(&log).unwrap();
        let (outcome, written) = (said(&text, "outcome"), said(&text, "written") == "true");
        println!("{sync}: {failed}: {outcome}, {written}");
        assert!(written || outcome != "given up", "sync {sync} of {failed} ended the store");
        met.insert((Path::new(&failed) == path, outcome.to_owned()));
        let (store, opening) = Store::open(&options_at(&path), &Env::real()).unwrap();
        assert_eq!(opening.moved_aside, None, "sync {sync} of {failed}");
        assert!(!second.exists() && !path.join("second").exists());
        let w = attach(&store, "alice").await;
        let held = fold(&store, None).await;
        assert_eq!(held, mirror(&store, &[w]).await);
        let is_kept = |id: &str| held.contains_key(&("alice".to_owned(), id.to_owned()));
        assert!((0..50).all(|n| is_kept(&format!("e{n}"))), "sync {sync} of {failed}");
        assert!(is_kept("after") || !written, "sync {sync} of {failed}");
        store.close().await.unwrap();
    }
    // Of the store's directory: when the copy is made, and in the exchange itself.
    for known in [(false, "given up"), (true, "given up"), (true, "failed")] {
        assert!(met.contains(&(known.0, known.1.to_owned())), "{known:?} is not in {met:?}");
    }
}
