//! Many readers that consume large responses very slowly: their cost in the real process, and that
//! the process stops in time.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use calmirror::simulator::Population;
use tokio::time::Instant;

use crate::peak::peak;
use crate::process::{DaemonFixture, PATIENCE, eventually};
use crate::rig::noon;

/// The number of concurrent readers.
const READERS: usize = 300;

/// The resident memory allowed with all readers, MiB. Measured in the test profile: 165 to 168.
const MOST: u64 = 300;

/// Adds a mailbox whose responses are far larger than the kernel's socket buffers.
fn large(fixture: &DaemonFixture) {
    let address = "hall@contoso.com";
    fixture.simulator.add_mailbox(address);
    let plan = Population {
        singles: 1500,
        series: 20,
        all_day: 20,
        body_bytes: 8000,
        around: noon(),
        spread_days: 100,
    };
    fixture.simulator.populate(address, None, plan);
    let window =
        "[[window]]\nname = \"hall\"\naccount = \"contoso\"\nmailbox = \"hall@contoso.com\"\n";
    let text = fixture.preamble().replace("page_size = 10", "page_size = 200");
    fixture.configure(&(text + window));
}

fn ask(fixture: &DaemonFixture, index: usize) -> UnixStream {
    let (path, coding) = [
        ("/v1/changes?limit=10000", "identity"),
        ("/v1/windows/hall/events?limit=10000", "identity"),
        ("/v1/windows/hall/calendar.ics", "identity"),
        ("/v1/changes?limit=10000", "zstd"),
        ("/v1/windows/hall/events?limit=10000", "gzip"),
    ][index % 5];
    let mut reader = UnixStream::connect(&fixture.api.0).unwrap();
    let head =
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\naccept-encoding: {coding}\r\n\r\n");
    reader.write_all(head.as_bytes()).unwrap();
    reader
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_read_nothing_cost_little_and_do_not_delay_shutdown() {
    let fixture = DaemonFixture::new(72, &[]).await;
    large(&fixture);
    let manager = fixture.path("notify");
    let heard = UnixDatagram::bind(&manager).unwrap();
    let fed = Arc::new(AtomicU64::new(0));
    let counted = fed.clone();
    // Reads as a service manager does, until the test is over.
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok(length) = heard.recv(&mut buffer) {
            let feeds = buffer[..length].windows(10).any(|part| part == b"WATCHDOG=1");
            counted.fetch_add(u64::from(feeds), Ordering::Relaxed);
        }
    });
    let manager = manager.to_str().unwrap().to_owned();
    let mut daemon = fixture.spawn_in(&[("NOTIFY_SOCKET", &manager), ("WATCHDOG_USEC", "1000000")]);
    eventually("the daemon serves", async || {
        fixture.api.try_get("/readyz").await.filter(|answer| answer.status.is_success())
    })
    .await;
    fixture.settle("hall").await;
    let before = peak(&daemon);

    let mut readers: Vec<UnixStream> = (0..READERS).map(|index| ask(&fixture, index)).collect();
    // Each reader gets the beginning of its response and continues with small reads.
    for reader in &mut readers {
        reader.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        reader.read_exact(&mut [0; 4096]).unwrap();
    }
    for _ in 0..5 {
        for reader in &mut readers {
            reader.read_exact(&mut [0; 4096]).unwrap();
        }
        let begun = Instant::now();
        assert!(fixture.api.get("/healthz").await.status.is_success());
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
    // The slow readers do not delay a normal reader.
    let begun = Instant::now();
    let whole = fixture.api.get("/v1/windows/hall/events?limit=10000").await.json();
    assert!(!whole["value"].as_array().unwrap().is_empty());
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    let after = peak(&daemon);
    assert!(after < MOST, "{before} MiB before, {after} MiB at most");

    let before = fed.load(Ordering::Relaxed);
    let begun = Instant::now();
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.code(), Some(0), "{}", daemon.log());
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    // The connections are cut after five seconds; the watchdog is fed meanwhile.
    let fed = fed.load(Ordering::Relaxed) - before;
    assert!(fed >= took.as_secs(), "fed {fed} times in {took:?}");
    drop(readers);
}
