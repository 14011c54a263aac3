//! What compactions take of the memory. This concerns a whole process, so the test starts a child.
#![allow(clippy::print_stdout, reason = "children print their results")]

use std::time::Duration;

use crate::faults::{of_child, options_at, peak, reset_peak, run, said};
use crate::kit::*;
use calmirror::env::Env;
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
