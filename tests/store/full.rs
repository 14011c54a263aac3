//! A disk that other programs have filled to the last byte when the store is opened.
#![allow(clippy::print_stderr, reason = "the test reports what was taken, or why it was skipped")]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use calmirror::env::Env;
use calmirror::store::{Store, StoreError, StoreOptions};

use crate::kit::*;

const MIB: u64 = 1 << 20;
/// New windows that a start has to register.
const WINDOWS: usize = 100;

/// A file system in memory, if this process may mount one.
struct MemoryMount(tempfile::TempDir);

impl MemoryMount {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256m,mode=0700", "tmpfs"])
            .arg(dir.path())
            .output();
        mount.is_ok_and(|output| output.status.success()).then(|| Self(dir))
    }

    fn free(&self) -> u64 {
        let disk = rustix::fs::statvfs(self.0.path()).unwrap();
        disk.f_bavail * disk.f_frsize
    }

    /// Fills it to the last byte.
    fn fill(&self, name: &str) {
        let mut other = fs::File::create(self.0.path().join(name)).unwrap();
        for size in [1 << 20, 1 << 12] {
            while other.write_all(&vec![0x5A; size]).is_ok() {}
        }
        assert_eq!(self.free(), 0);
    }
}

impl Drop for MemoryMount {
    fn drop(&mut self) {
        // Lazily, because a test that fails may still use it.
        Command::new("umount").arg("-l").arg(self.0.path()).status().ok();
    }
}

/// Writes the files of a directory into another one, over those that it has.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (from, to) = entry.map(|e| (e.path(), to.join(e.file_name()))).unwrap();
        if from.is_dir() { copy(&from, &to) } else { assert!(fs::copy(from, to).is_ok()) }
    }
}

/// Opens a store of so many events of 1.5 KB on a full disk, six times. Returns the most bytes that
/// an opening and its windows took.
async fn taken(events: usize, killed: bool) -> Option<u64> {
    let disk = MemoryMount::mount()?;
    let path = disk.0.path().join("path");
    let options = StoreOptions { cache_bytes: 16 << 20, ..StoreOptions::new(&path) };
    let open = || Store::open(&options, &Env::real()).unwrap().0;
    let store = open();
    let w = attach(&store, "alice").await;
    let mut random = fastrand::Rng::with_seed(7);
    for n in (0..events).step_by(20) {
        let mut text = || (0..1500).map(|_| random.alphanumeric()).collect::<String>();
        put(&store, w, (n..n + 20).map(|n| single(&format!("e{n}"), 1, &text())).collect()).await;
    }
    let all = events_of(&store, w).await;
    let aside = tempfile::tempdir().unwrap();
    copy(&path.join("store"), aside.path());
    store.close().await.unwrap();
    if killed {
        // As the process left it: without the last sync, and with no snapshot of its end.
        fs::remove_dir_all(path.join("store")).unwrap();
        copy(aside.path(), &path.join("store"));
    }
    let mut most = 0;
    for round in 0..6 {
        disk.fill(&format!("full-{round}"));
        let reserved = fs::metadata(path.join("reserve")).unwrap().len();
        let store = open();
        let wanted = (0..WINDOWS).map(|n| wanted(&format!("{round}-{n}"))).collect();
        store.register_for_start(wanted, vec![], at(0)).await.unwrap();
        // An opening may also give space back: the engine ends its file at the last whole segment.
        let taken = reserved.saturating_sub(disk.free());
        assert!(taken < MIB, "an opening took {taken} of {reserved} bytes");
        most = most.max(taken);
        assert_eq!(events_of(&store, w).await, all);
        let refused = store.commit(commit(w)).await;
        assert!(matches!(refused, Err(StoreError::Full)), "{refused:?}");
        assert!(disk.free() < MIB, "the space was not taken again: {} bytes", disk.free());
        store.close().await.unwrap();
    }
    Some(most)
}

async fn events_of(store: &Store, window: calmirror::mirror::position::WindowId) -> usize {
    events(store, window).await.len()
}

#[tokio::test]
async fn a_store_opens_with_its_reserve_and_registers_windows() {
    for events in [20, 4_000, 20_000] {
        for killed in [false, true] {
            match taken(events, killed).await {
                None => eprintln!("skipped: this process may not mount a file system"),
                Some(bytes) => eprintln!("{events} events, killed {killed}: {bytes} bytes taken"),
            }
        }
    }
}
