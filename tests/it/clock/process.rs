//! The real binary, with a wall clock shifted by the preloaded `shift.c`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use calmirror::mirror::status::WindowState;

use crate::process::{DaemonFixture, eventually};

const YEAR: i64 = 365 * 86_400;

/// Builds the library. Returns `None` without a C compiler.
#[expect(clippy::print_stderr, reason = "a skipped test reports why")]
fn library(directory: &Path) -> Option<PathBuf> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/clock/shift.c");
    let library = directory.join("shift.so");
    let built = Command::new("cc")
        .args(["-O1", "-shared", "-fPIC", "-o"])
        .args([library.as_path(), Path::new(source)])
        .status();
    match built {
        Ok(status) => {
            assert!(status.success(), "shift.c does not compile");
            Some(library)
        }
        Err(error) => {
            eprintln!("skipped: no cc ({error})");
            None
        }
    }
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_ten_years_ahead_for_four_seconds_empties_no_window() {
    let fixture = DaemonFixture::new(2036, &["alice"]).await;
    let Some(library) = library(fixture.directory.path()) else { return };
    let config = fs::read_to_string(&fixture.config).unwrap();
    let relative = config
        .replace("start = \"2026-10-01\"", "start = \"-2y\"")
        .replace("end = \"2027-02-01\"", "end = \"+2y\"");
    fixture.configure(&relative);
    let shift = fixture.path("shift");
    // The file is mapped and must not be truncated when it is written.
    fs::write(&shift, 0_i64.to_ne_bytes()).unwrap();
    let set = |seconds: i64| {
        let file = File::options().write(true).open(&shift).unwrap();
        file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    };
    let environment =
        [("LD_PRELOAD", library.to_str().unwrap()), ("CLOCK_SHIFT_FILE", shift.to_str().unwrap())];
    let daemon = fixture.spawn_in(&environment);
    eventually("the daemon serves", async || {
        let answer = fixture.api.try_get("/readyz?settled=1").await?;
        answer.status.is_success().then_some(())
    })
    .await;
    let before = fixture.settle("alice").await;
    for shifted in [10 * YEAR, 8 * 86_400, -YEAR] {
        set(shifted);
        seconds(4).await;
        let during = fixture.api.window("alice").await;
        assert_eq!((during.start, during.end), (before.start, before.end), "{shifted} s");
        assert_eq!(during.events, before.events, "{shifted} s");
        let stale = during.stale_s.unwrap();
        assert!((0.0..60.0).contains(&stale), "{shifted} s: {stale}");
        let status = fixture.api.get("/v1/status").await.json();
        assert_eq!(status["clock"]["wrong"], true, "{shifted} s: {status}");
        set(0);
        let after = fixture.settle("alice").await;
        assert_eq!(after.state, WindowState::Settled);
        assert_eq!((after.start, after.end), (before.start, before.end), "{shifted} s");
        assert_eq!((after.events, after.resyncs), (before.events, before.resyncs), "{shifted} s");
        let status = fixture.api.get("/v1/status").await.json();
        assert_eq!(status["clock"]["wrong"], false, "{shifted} s: {status}");
    }
    daemon.stop().await;
}
