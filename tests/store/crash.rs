//! Killed at any instant, the store holds every acknowledged commit and no partial commit, except
//! one that is too large for one batch: that one may leave whole events without the position.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::ops::RangeInclusive;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::fleets::listing;
use crate::kit::*;
use calmirror::mirror::change::RemovalReason;
use calmirror::mirror::commit::Commit;
use calmirror::mirror::fleet::FleetListing;
use calmirror::mirror::page::Item;
use calmirror::mirror::position::{Phase, WindowId};
use calmirror::store::{CompactionOutcome, Store};

const KILLS: usize = 20;
const LARGE_KILLS: usize = 6;
/// Events of 60 KB in a large commit: 9 MB, which are split into three parts and a last one.
const LARGE: usize = 150;
const WINDOWS: usize = 3;
const DIR: &str = "CALMIRROR_TEST_CRASH_DIR";
/// The number of bytes a child writes before it dies.
const LIFE: &str = "CALMIRROR_TEST_CRASH_LIFE";
/// Set if a child compacts its store again and again.
const COMPACTING: &str = "CALMIRROR_TEST_CRASH_COMPACTING";

/// The n-th commit of a window: one event changes, one is created, one is removed.
pub(crate) fn nth(window: WindowId, n: usize) -> Commit {
    let subject = n.to_string();
    let mut c = commit(window);
    c.upserts =
        vec![single("always", 1, &subject), lasting(&format!("n{n}"), 2, 30, &subject.repeat(500))];
    if n > 5 {
        c.removals = vec![removal(&format!("n{}", n - 5), RemovalReason::Deleted)];
    }
    c.position = Some(settled(&subject));
    c
}

/// The n-th listing of a fleet.
fn fleet_at(n: usize) -> FleetListing {
    listing(n % 50, i64::try_from(n).unwrap())
}

/// The ids in a window after n commits.
pub(crate) fn expected(n: usize) -> Vec<String> {
    let mut ids: Vec<String> = (n.saturating_sub(5) + 1..=n).map(|n| format!("n{n}")).collect();
    if n > 0 {
        ids.push("always".to_owned());
    }
    ids.sort();
    ids
}

/// The number of the last commit that a window has.
pub(crate) async fn reached(store: &Store, window: WindowId) -> usize {
    match store.position(window, 0).await.unwrap() {
        Some(position) => match position.phase {
            Phase::Settled { delta: Some(delta) } => delta.as_str().parse().unwrap(),
            other => panic!("{other:?}"),
        },
        None => 0,
    }
}

/// Runs with the store in the directory that the parent names.
fn run_child(work: impl AsyncFnOnce(Store)) {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = calmirror::store::StoreOptions {
            cache_bytes: 16 << 20,
            min_free_bytes: 0,
            ..calmirror::store::StoreOptions::new(dir)
        };
        let (store, opening) = Store::open(&options, &calmirror::env::Env::real()).unwrap();
        assert!(opening.moved_aside.is_none());
        work(store).await;
    });
}

/// Starts one of the children and returns its output.
fn spawn(
    name: &str,
    dir: &Path,
    environment: &[(&str, &str)],
) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", &format!("crash::{name}"), "--nocapture"])
        .env(DIR, dir)
        .envs(environment.iter().copied())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

#[test]
#[ignore = "the child of the test below, which kills it"]
fn child() {
    run_child(async |store| {
        let mut writing = Vec::new();
        for w in 0..WINDOWS {
            let store = store.clone();
            writing.push(tokio::spawn(async move {
                let window = attach(&store, &format!("w{w}")).await;
                for n in reached(&store, window).await + 1.. {
                    store.commit(nth(window, n)).await.unwrap();
                    let fleet = fleet_at(n);
                    store.save_fleet_listing(&format!("w{w}"), Some(&fleet)).await.unwrap();
                    writeln!(std::io::stdout(), "at {w} {n}").unwrap();
                }
            }));
        }
        if std::env::var_os(COMPACTING).is_some() {
            writing.push(tokio::spawn(async move {
                loop {
                    let outcome = store.compact(0, Duration::ZERO).await.unwrap();
                    assert!(matches!(outcome, CompactionOutcome::Done { .. }), "{outcome:?}");
                    writeln!(std::io::stdout(), "compacted").unwrap();
                }
            }));
        }
        for task in writing {
            task.await.unwrap();
        }
    });
}

#[tokio::test]
async fn acknowledged_commits_survive_a_kill() {
    assert_eq!(kill_again_and_again(&[]).await, 0);
}

#[tokio::test]
async fn acknowledged_commits_survive_a_kill_during_a_compaction() {
    let compactions = kill_again_and_again(&[(COMPACTING, "1")]).await;
    assert!(compactions > 0, "no compaction ended before a kill");
}

/// Kills a child in this environment again and again, and checks what it leaves. Returns how many
/// compactions it has ended.
async fn kill_again_and_again(environment: &[(&str, &str)]) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let mut compactions = 0;
    let mut answered = [0; WINDOWS];
    let mut dice = fastrand::Rng::with_seed(7);
    for kill in 0..KILLS {
        let (mut child, lines) = spawn("child", dir.path(), environment);
        let life = dice.usize(1..120);
        let mut lived = 0;
        for line in lines {
            let line = line.unwrap();
            compactions += usize::from(line.contains("compacted"));
            // A line that arrives after the kill was acknowledged before it.
            let Some((_, at)) = line.split_once("at ") else { continue };
            let (w, n) = at.split_once(' ').unwrap();
            answered[w.parse::<usize>().unwrap()] = n.parse().unwrap();
            lived += 1;
            if lived == life {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(lived >= life, "the child ended before the kill");

        let store = open(&dir);
        let mut windows = Vec::new();
        for (w, answered) in answered.iter_mut().enumerate() {
            let window = attach(&store, &format!("w{w}")).await;
            let reached = reached(&store, window).await;
            assert!(
                reached >= *answered,
                "kill {kill}: {answered} was acknowledged, {reached} is stored"
            );
            let mut held = ids(&events(&store, window).await);
            held.sort();
            assert_eq!(held, expected(reached), "kill {kill}");
            // The listing is written after the commit.
            let fleet = store.fleet_listings().await.unwrap().remove(&*format!("w{w}"));
            let saved = (reached.saturating_sub(1).max(*answered)..=reached)
                .find(|n| fleet == (*n > 0).then(|| fleet_at(*n)));
            assert!(saved.is_some(), "kill {kill}: {answered} was acknowledged");
            *answered = reached;
            windows.push(window);
        }
        assert_eq!(fold(&store, None).await, mirror(&store, &windows).await);
        store.close().await.unwrap();
        for leftover in ["second", "store.second"] {
            assert!(!dir.path().join(leftover).exists(), "kill {kill}: {leftover}");
        }
    }
    compactions
}

/// The n-th large commit: every event changes, one is created, one is removed.
pub(crate) fn large(window: WindowId, n: usize) -> Commit {
    // Random text, which compression hardly shrinks.
    let mut random = fastrand::Rng::with_seed(n as u64);
    let noise: String = std::iter::repeat_with(|| random.alphanumeric()).take(60_000).collect();
    let event = |id: String| {
        let item = single(&id, 1, &n.to_string());
        let open = str::from_utf8(&item.content).unwrap().strip_suffix('}').unwrap();
        Item { content: format!(r#"{open},"noise":"{noise}"}}"#).into(), ..item }
    };
    let mut c = commit(window);
    c.upserts = (0..LARGE).map(|e| event(format!("e{e}"))).collect();
    c.upserts.push(event(format!("n{n}")));
    c.removals = vec![removal(&format!("n{}", n - 1), RemovalReason::Deleted)];
    c.position = Some(settled(&n.to_string()));
    c
}

#[test]
#[ignore = "the child of the test below, which dies"]
fn child_of_large_commits() {
    run_child(async |store| {
        let window = attach(&store, "w").await;
        let life = std::env::var(LIFE).unwrap().parse().unwrap();
        std::thread::spawn(move || die_after(life));
        for n in reached(&store, window).await + 1.. {
            writeln!(std::io::stdout(), "begins {n}").unwrap();
            store.commit(large(window, n)).await.unwrap();
            writeln!(std::io::stdout(), "at {n}").unwrap();
        }
    });
}

/// Kills this process once it has written this many bytes.
fn die_after(bytes: u64) {
    let written = || {
        let io = std::fs::read_to_string("/proc/self/io").unwrap();
        let line = io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap();
        line.parse::<u64>().unwrap()
    };
    let before = written();
    while written() < before + bytes {
        std::thread::yield_now();
    }
    let this = rustix::process::getpid();
    rustix::process::kill_process(this, rustix::process::Signal::KILL).unwrap();
}

/// The number of the commit that last wrote each event of a window.
async fn numbers(store: &Store, window: WindowId) -> BTreeMap<String, usize> {
    let events = events(store, window).await;
    let number = |event| json(event)["subject"].as_str().unwrap().parse().unwrap();
    ids(&events).into_iter().zip(events.iter().map(number)).collect()
}

/// Checks what the interruption of a large commit has left of it, and makes it again. Returns its
/// number, and whether it was there in part.
pub(crate) async fn resume_large(
    store: &Store,
    window: WindowId,
    possible: RangeInclusive<usize>,
) -> (usize, bool) {
    let reached = reached(store, window).await;
    assert!(possible.contains(&reached), "{reached} of {possible:?}");
    assert_eq!(fold(store, None).await, mirror(store, &[window]).await);
    let mut numbers = numbers(store, window).await;
    let stayed = numbers.remove(&format!("n{reached}")) == Some(reached);
    let came = numbers.remove(&format!("n{}", reached + 1)).is_some();
    let newer = numbers.values().filter(|n| **n == reached + 1).count();
    // Removals come after all events, and only the position after them: an existing event was
    // never missing.
    assert!(reached == 0 || stayed || (came && newer == LARGE));
    let older = numbers.values().filter(|n| **n == reached).count();
    assert_eq!(newer + older, numbers.len(), "{numbers:?}");
    assert!(reached == 0 || numbers.len() == LARGE);

    // The page is committed again; rows already written stay unchanged.
    let outcome = store.commit(large(window, reached + 1)).await.unwrap();
    let new = LARGE - numbers.len() + usize::from(!came);
    assert_eq!((outcome.created as usize, outcome.updated as usize), (new, older));
    assert_eq!(outcome.events, LARGE as u64 + 1);
    (reached + 1, newer > 0)
}

#[tokio::test]
async fn a_commit_in_parts_that_a_kill_interrupts_is_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let mut dice = fastrand::Rng::with_seed(11);
    let (mut kill, mut answered, mut torn) = (0, 0, 0);
    // The place of the kill also depends on the machine.
    while kill < LARGE_KILLS || torn == 0 {
        kill += 1;
        assert!(kill < 10 * LARGE_KILLS, "no kill came between two parts");
        // In the first commit or one of the next.
        let life = dice.u64(6 << 20..26 << 20).to_string();
        let (mut child, lines) = spawn("child_of_large_commits", dir.path(), &[(LIFE, &life)]);
        let mut begun = answered;
        for line in lines {
            let line = line.unwrap();
            if let Some((_, n)) = line.split_once("begins ") {
                begun = n.parse().unwrap();
            } else if let Some((_, n)) = line.split_once("at ") {
                answered = n.parse().unwrap();
            }
        }
        assert_eq!(child.wait().unwrap().signal(), Some(9), "the child ended before the kill");

        let store = open(&dir);
        let window = attach(&store, "w").await;
        let (next, in_part) = resume_large(&store, window, answered..=begun).await;
        (answered, torn) = (next, torn + usize::from(in_part));
        store.close().await.unwrap();
    }
    let store = open(&dir);
    let window = attach(&store, "w").await;
    assert!(numbers(&store, window).await.values().all(|n| *n == answered));
    assert_eq!(fold(&store, None).await, mirror(&store, &[window]).await);
    store.close().await.unwrap();
}
