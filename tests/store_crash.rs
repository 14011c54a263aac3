//! Killed at any instant, the store holds everything it ever answered for, and nothing by halves.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

mod store_kit;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use calmirror::mirror::change::RemovalReason;
use calmirror::mirror::page::{Item, Link};
use calmirror::mirror::position::{Phase, WindowId};
use calmirror::store::Store;
use store_kit::*;

const KILLS: usize = 20;
const WINDOWS: usize = 3;
const DIR: &str = "CALMIRROR_TEST_CRASH_DIR";

/// What the n-th commit of every window does: one event changes, one comes, one leaves.
fn upserts(n: usize) -> Vec<Item> {
    let subject = n.to_string();
    vec![single("always", 1, &subject), lasting(&format!("n{n}"), 2, 30, &subject.repeat(500))]
}

/// What stands in a window after n commits.
fn expected(n: usize) -> Vec<String> {
    let mut ids: Vec<String> = (n.saturating_sub(5) + 1..=n).map(|n| format!("n{n}")).collect();
    if n > 0 {
        ids.push("always".to_owned());
    }
    ids.sort();
    ids
}

async fn reached(store: &Store, window: WindowId) -> usize {
    match store.position(window, 0).await.unwrap() {
        Some(position) => match position.phase {
            Phase::Settled { delta: Some(delta) } => delta.as_str().parse().unwrap(),
            other => panic!("{other:?}"),
        },
        None => 0,
    }
}

#[test]
#[ignore = "the child of the test below, which kills it"]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = calmirror::store::Options {
            cache_bytes: 16 << 20,
            min_free_bytes: 0,
            ..calmirror::store::Options::new(dir)
        };
        let (store, opening) = Store::open(&options, &calmirror::world::World::real()).unwrap();
        assert!(opening.moved_aside.is_none());
        let mut writing = Vec::new();
        for w in 0..WINDOWS {
            let store = store.clone();
            writing.push(tokio::spawn(async move {
                let window = attach(&store, &format!("w{w}")).await;
                for n in reached(&store, window).await + 1.. {
                    let mut c = commit(window);
                    c.upserts = upserts(n);
                    if n > 5 {
                        c.removals = vec![removal(&format!("n{}", n - 5), RemovalReason::Deleted)];
                    }
                    c.position = Some(settled(Link::new(n.to_string()).as_str()));
                    store.commit(c).await.unwrap();
                    writeln!(std::io::stdout(), "at {w} {n}").unwrap();
                }
            }));
        }
        for task in writing {
            task.await.unwrap();
        }
    });
}

#[tokio::test]
async fn what_was_answered_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut answered = [0; WINDOWS];
    let mut dice = fastrand::Rng::with_seed(7);
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "child", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let life = dice.usize(1..120);
        let mut lived = 0;
        for line in lines {
            let line = line.unwrap();
            // What still comes through the pipe after the kill was answered before it.
            let Some((_, at)) = line.split_once("at ") else { continue };
            let (w, n) = at.split_once(' ').unwrap();
            answered[w.parse::<usize>().unwrap()] = n.parse().unwrap();
            lived += 1;
            if lived == life {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(lived >= life, "killed, not ended");

        let store = open(&dir);
        let mut windows = Vec::new();
        for (w, answered) in answered.iter_mut().enumerate() {
            let window = attach(&store, &format!("w{w}")).await;
            let reached = reached(&store, window).await;
            assert!(
                reached >= *answered,
                "kill {kill}: {answered} was answered, {reached} is there"
            );
            let mut held = ids(&events(&store, window).await);
            held.sort();
            assert_eq!(held, expected(reached), "kill {kill}");
            *answered = reached;
            windows.push(window);
        }
        assert_eq!(fold(&store, None).await, mirror(&store, &windows).await);
        store.close().await.unwrap();
    }
}
