//! `shards`: answers that three shards merge, beside one process with the same windows; and the start
//! of a shard that has a third of 300,000 windows.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Instant;

use crate::availability::{self, ask};
use crate::daemon::{Daemon, Setup, directory};
use crate::million;
use crate::quiet::QuietGraph;
use crate::table::{Row, Table, ms};

/// The name to select the merged answers by.
pub(crate) const MERGED: &str = "shards: merged";
/// The name to select the start by. It takes minutes to fill the store, so it runs only if named.
pub(crate) const RESTART: &str = "shards: restart";

const SHARDS: usize = 3;
/// Windows of all shards, of which one is started.
const WINDOWS: usize = 300_000;

/// Answers about 500 windows: the same requests to one process, and to one of three shards.
pub(crate) async fn merged(table: &mut Table) {
    let filled = directory();
    availability::fill(filled.path()).await;
    let origin = "http://127.0.0.1:9".to_owned();
    let setup = Setup { origin, mailboxes: availability::WINDOWS, interval: "7d", page_size: 200 };
    let port = free_port();
    let mut directories = Vec::new();
    for ordinal in 0..=SHARDS {
        let directory = directory();
        copy(&filled.path().join("store"), &directory.path().join("store"));
        directories.push((ordinal, directory));
    }
    let (_, alone) = directories.pop().unwrap();
    let mut alone = Daemon::start(alone.path(), &setup).await;
    let mut shards = Vec::new();
    for (ordinal, directory) in &directories {
        shards.push(start(directory.path(), &setup, *ordinal, port).await);
    }
    // What belongs to other shards is deleted in the background.
    for shard in &shards {
        shard.rest().await;
    }
    let range = "windows=*&from=2026-06-15&to=2026-06-29";
    let hours = "duration=30m&within=08:00-18:00&zone=Europe/Berlin";
    for (what, path) in [
        ("status", "/v1/status".to_owned()),
        ("100 windows", "/v1/windows?limit=100".to_owned()),
        ("free, all of 500, two weeks", format!("/v1/free?{range}&{hours}")),
        ("busy, 500, two weeks", format!("/v1/busy?{range}")),
        ("1000 events of 500, two weeks", format!("/v1/events?{range}&limit=1000")),
    ] {
        for daemon in [&mut alone, &mut shards[0]] {
            let answer = daemon.json(&path).await;
            let missing = answer["incomplete"].as_array().map_or(0, Vec::len);
            assert_eq!(missing, 0, "{what}: a shard does not answer");
        }
        let [half, slow, _] = ask(&mut alone, &path).await;
        let [merged, merged_slow, _] = ask(&mut shards[0], &path).await;
        table.row(Row {
            figure: format!("{MERGED} {what}, p50/p99"),
            measured: format!("{:.2}/{:.2} ms", ms(merged), ms(merged_slow)),
            baseline: format!("one process {:.2}/{:.2} ms", ms(half), ms(slow)),
            ratio: Some(ms(merged) / ms(half)),
            ..Row::default()
        });
    }
    alone.stop().await;
    for shard in shards {
        shard.stop().await;
    }
}

/// How long a shard with a third of the windows takes from its start until it serves.
pub(crate) async fn restart(table: &mut Table) {
    let (graph, directory) = (QuietGraph::start().await, directory());
    million::fill(directory.path(), &graph.origin(), WINDOWS, 3).await;
    let setup =
        Setup { origin: graph.origin(), mailboxes: WINDOWS, interval: "7d", page_size: 200 };
    let port = free_port();
    // The first start deletes what other shards have.
    let first = start(directory.path(), &setup, 0, port).await;
    first.rest().await;
    first.stop().await;
    let began = Instant::now();
    let mut shard = start(directory.path(), &setup, 0, port).await;
    let took = began.elapsed();
    let windows = shard.windows().await;
    table.row(Row {
        figure: format!("{RESTART}, {windows} of {WINDOWS} windows"),
        measured: format!("{:.2} s", took.as_secs_f64()),
        baseline: format!("{} MiB after it", shard.resident() >> 20),
        ..Row::default()
    });
    shard.stop().await;
}

/// Starts a shard whose API is at an address of its own.
async fn start(directory: &Path, setup: &Setup<'_>, ordinal: usize, port: u16) -> Daemon {
    let token = directory.join("token");
    fs::write(&token, "a token of a good length").unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let more = format!(
        "[shard]\nof = \"{ordinal}/{SHARDS}\"\nurl = \"http://127.0.1.{{ordinal}}:{port}\"\n"
    );
    let listen = format!("listen = \"127.0.1.{ordinal}:{port}\"\ntoken_file = \"token\"\n");
    Daemon::start_at(directory, setup, &listen, &more).await
}

/// A port that is free at the addresses of all shards.
fn free_port() -> u16 {
    loop {
        let first = TcpListener::bind("127.0.1.0:0").unwrap();
        let port = first.local_addr().unwrap().port();
        if (1..SHARDS).all(|n| TcpListener::bind(format!("127.0.1.{n}:{port}")).is_ok()) {
            return port;
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}
