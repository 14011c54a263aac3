//! A daemon whose blocking threads compute without end still answers, polls and stops.
//!
//! The daemon is this test binary itself, started as a child process, because its blocking threads
//! can only be kept busy from inside.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use calmirror::cli;
use calmirror::cli::arguments::Arguments;
use clap::Parser as _;
use tokio::time::Instant;

use crate::process::{DaemonFixture, DaemonProcess, eventually};

/// The variable that gives the child its configuration.
const CONFIG: &str = "SPIN_CONFIG";

/// The child process: a daemon with more spinning threads than cores.
#[test]
#[ignore = "the child process of the test below"]
fn child() {
    let Some(config) = std::env::var_os(CONFIG) else { return };
    let arguments = ["calmirror".into(), "--config".into(), config, OsString::from("run")];
    let arguments = Arguments::try_parse_from(arguments).unwrap();
    let runtime = cli::runtime().unwrap();
    let cores = std::thread::available_parallelism().unwrap().get();
    for _ in 0..cores + 4 {
        runtime.spawn_blocking(|| {
            loop {
                std::hint::spin_loop();
            }
        });
    }
    let code = cli::run_on(runtime, arguments);
    // Exit with the daemon's code instead of the test harness's.
    std::process::exit(i32::from(
        format!("{code:?}") != format!("{:?}", std::process::ExitCode::SUCCESS),
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocked_threads_stop_neither_responses_nor_rounds_nor_shutdown() {
    let fixture = DaemonFixture::new(71, &["alice"]).await;
    let log = fixture.path("log");
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["spin::child", "--exact", "--ignored", "--nocapture"])
        .env(CONFIG, &fixture.config)
        .env_remove("JOURNAL_STREAM")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let mut daemon = DaemonProcess::of(child, log);
    eventually("the daemon serves", async || {
        assert!(daemon.exit_status().is_none(), "the daemon ended");
        fixture.api.try_get("/readyz").await.filter(|answer| answer.status.is_success())
    })
    .await;
    fixture.settle("alice").await;
    let before = fixture.api.window("alice").await.last_round.unwrap().number;
    eventually("rounds go on", async || {
        let begun = Instant::now();
        assert!(fixture.api.get("/healthz").await.status.is_success());
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        (fixture.api.window("alice").await.last_round.unwrap().number >= before + 3).then_some(())
    })
    .await;
    let begun = Instant::now();
    daemon.signal("TERM");
    let ended = daemon.ended().await;
    assert_eq!((ended.code(), ended.signal()), (Some(0), None), "{}", daemon.log());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}
