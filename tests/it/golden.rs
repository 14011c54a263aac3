//! Stores written by earlier versions: each opens, returns what it returned then, and continues
//! from the links in it. `tests/fixtures/stores/README.md` says how they are made.

mod answers;
mod calendars;
mod graph;
mod maker;
mod silent;

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use calmirror::env::Env;
use calmirror::mirror::page::Link;
use calmirror::mirror::position::{Phase, Position};
use calmirror::mirror::status::WindowState;
use calmirror::store::{Store, StoreOptions, import};
use flate2::read::GzDecoder;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::daemon::Running;
use crate::rig::{BASE, noon};
use calendars::{calendar, configuration, delta, wanted};
use graph::{Asked, Graph};

/// The versions with a golden store.
const VERSIONS: [&str; 3] = ["0.1", "0.2", "0.3"];

/// Windows whose first enumeration was complete, and that were not settled when the golden store of
/// 0.1 was made.
const SETTLED_BEFORE: [&str; 8] =
    ["following", "completing", "resync", "held", "stuck", "decade", "retired", "halved"];

fn options(path: &Path) -> StoreOptions {
    StoreOptions { cache_bytes: 16 << 20, min_free_bytes: 0, ..StoreOptions::new(path) }
}

/// The directory of a version's golden store.
fn fixture(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stores").join(version)
}

/// Decompresses a directory that the maker compressed.
fn unpack(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|e| (e.path(), e.file_name())).unwrap();
        if path.is_dir() {
            unpack(&path, &to.join(name));
        } else {
            let name = name.to_str().unwrap().strip_suffix(".gz").unwrap().to_owned();
            fs::write(to.join(name), unpacked(&path)).unwrap();
        }
    }
}

fn unpacked(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(fs::File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
    bytes
}

fn recorded(version: &str, name: &str) -> Value {
    serde_json::from_slice(&unpacked(&fixture(version).join(name))).unwrap()
}

/// A copy of a version's golden store, in `store` of a temporary directory.
fn golden(version: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    unpack(&fixture(version).join("directory"), &directory.path().join("store"));
    directory
}

/// Asserts that every recorded member exists with the same value. New members are allowed.
fn assert_contains(at: &str, actual: &Value, recorded: &Value) {
    match (actual, recorded) {
        (Value::Object(actual), Value::Object(recorded)) => {
            for (name, value) in recorded {
                // Left out for a reader that missed an earlier change, as one from the beginning did.
                if name == "changed" && !actual.contains_key(name) {
                    continue;
                }
                let found = actual.get(name).unwrap_or_else(|| panic!("{at}/{name} is missing"));
                assert_contains(&format!("{at}/{name}"), found, value);
            }
        }
        (Value::Array(actual), Value::Array(recorded)) => {
            assert_eq!(actual.len(), recorded.len(), "{at}");
            for (n, (actual, recorded)) in actual.iter().zip(recorded).enumerate() {
                assert_contains(&format!("{at}/{n}"), actual, recorded);
            }
        }
        // Wording may change, and so may the text of cursors: the recorded ones stay valid.
        (Value::String(_), Value::String(_))
            if at.ends_with("/message") || at.ends_with("/cursor") => {}
        _ => assert_eq!(actual, recorded, "{at}"),
    }
}

#[tokio::test]
async fn an_old_store_opens_with_its_contents() {
    for version in VERSIONS {
        let directory = golden(version);
        // The second opening reads what this version wrote in the first.
        for opening in ["first", "second"] {
            let options = options(&directory.path().join("store"));
            let (store, found) = Store::open(&options, &Env::real()).unwrap();
            assert_eq!(found.moved_aside, None, "{version}");
            let recorded = recorded(version, "store.json.gz");
            let answers = answers::of_store(&store).await;
            assert_contains(&format!("{version}, {opening} opening: "), &answers, &recorded);
            let floor = recorded["floor"].as_u64().unwrap();
            for line in recorded["feed"].as_array().unwrap() {
                let seq = line["seq"].as_u64().unwrap();
                if seq >= floor {
                    assert_eq!(store.seq(line["cursor"].as_str().unwrap()).unwrap(), seq);
                }
            }
            store.close().await.unwrap();
        }
    }
}

/// Its rows go along as they are.
#[tokio::test]
async fn an_old_store_is_exported_and_imported() {
    for version in VERSIONS {
        let directory = golden(version);
        let (old, _) =
            Store::open(&options(&directory.path().join("store")), &Env::real()).unwrap();
        let (mut export, mut file) = (old.export().unwrap(), tempfile::tempfile().unwrap());
        while !export.is_over() {
            file.write_all(&export.next().await.unwrap()).unwrap();
        }
        old.close().await.unwrap();
        let new = options(&directory.path().join("new"));
        import(&mut file, &new, &CancellationToken::new()).unwrap();
        let (store, _) = Store::open(&new, &Env::real()).unwrap();
        let recorded = recorded(version, "store.json.gz");
        assert_contains(&format!("{version}: "), &answers::of_store(&store).await, &recorded);
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn an_old_store_is_served_unchanged() {
    for version in VERSIONS {
        let directory = golden(version);
        let mut recorded = recorded(version, "api.json.gz");
        // 0.1 reported a window as never settled if a round was in progress when it started.
        for name in SETTLED_BEFORE.into_iter().filter(|_| version == "0.1") {
            recorded["windows"][name]["window"]["settled_once"] = true.into();
            recorded["windows"][name]["events"]["complete"] = true.into();
        }
        let answers = silent::api(directory.path()).await;
        assert_contains(&format!("{version}: "), &answers, &recorded);
    }
}

/// The path of the first request for a segment with this position.
fn first_request(name: &str, position: Option<&Position>) -> String {
    let path = |link: &Link| link.as_str().strip_prefix("http://127.0.0.1:1").unwrap().to_owned();
    let view = format!("/v1.0/users/{}@contoso.com/", calendars::mailbox(name));
    match position.map(|position| &position.phase) {
        Some(
            Phase::Settled { delta: Some(link) }
            | Phase::Following { next: link }
            | Phase::Enumerating { next: Some(link), .. }
            | Phase::Sweeping { delta: Some(link), .. },
        ) => path(link),
        // Snapshot mode.
        Some(Phase::Settled { delta: None } | Phase::Sweeping { delta: None, .. }) => {
            view + "calendarView?"
        }
        Some(Phase::Completing { .. }) => view + "events/completing%2F",
        Some(Phase::Enumerating { next: None, .. }) | None => {
            view + "calendarView/delta?startDateTime"
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_old_store_continues_from_its_links() {
    assert!(
        BASE.starts_with("http://127.0.0.1:1/"),
        "the links in the golden stores have this base"
    );
    for version in VERSIONS {
        let directory = golden(version);
        let env = Env::simulated(7, noon());
        // Reads the positions, and gives Graph the calendars that the store mirrors.
        let (store, _) = Store::open(&options(&directory.path().join("store")), &env).unwrap();
        let attached = store.register(wanted(), noon()).await.unwrap();
        let mut graph = Graph::default();
        let mut windows = Vec::new();
        for (wanted, attached) in wanted().iter().zip(&attached) {
            graph.add(&wanted.name, calendar(&wanted.name));
            let mut positions = Vec::new();
            for segment in store.segments(attached.id).await.unwrap() {
                positions.push(store.position(attached.id, segment).await.unwrap());
            }
            if positions.is_empty() {
                positions.push(None);
            }
            windows.push((wanted.name.to_string(), positions, attached.resyncs));
        }
        store.close().await.unwrap();

        let graph = Arc::new(graph);
        let daemon =
            Running::start(directory.path(), "s3cret", &configuration("1h"), graph.clone(), &env)
                .await;
        tokio::time::sleep(Duration::from_secs(3 * 3600)).await;
        for (name, positions, resyncs) in windows {
            // One window names its calendar by id.
            let without_id = |path: &str| path.replace("calendars/AAMkAGI1AAAoZCfHAAA%3D/", "");
            let asked: Vec<Asked> = graph.asked(&name);
            let paths: Vec<String> = asked.iter().map(|asked| without_id(&asked.path)).collect();
            // The order of several segments does not matter.
            let first = if positions.len() == 1 { &paths[..1] } else { &paths[..] };
            for position in &positions {
                let expected = first_request(&name, position.as_ref());
                let found = first.iter().any(|path| path.starts_with(&expected));
                assert!(found, "{name}: {first:?} instead of {expected}");
            }
            let prefer = &asked[0].prefer;
            let size = match &*name {
                "smaller" | "snapshot" => 100,
                "stuck" => 400,
                "sweeping-listed" => 1000,
                _ => 200,
            };
            let size = format!("odata.maxpagesize={size}");
            assert!(prefer.split(", ").any(|part| part == size), "{name}: {prefer}");
            let status = daemon.fleet.window(&name).unwrap();
            assert_eq!(status.state, WindowState::Settled, "{name}: {status:?}");
            assert_eq!(status.resyncs, resyncs, "{name} was enumerated again");
            let window = daemon.fleet.id(&name).unwrap();
            for segment in daemon.store.segments(window).await.unwrap() {
                let position = daemon.store.position(window, segment).await.unwrap().unwrap();
                let listed = position.fallback.is_snapshot();
                let settled = Phase::Settled { delta: (!listed).then(|| delta(&name, 100)) };
                assert_eq!(position.phase, settled, "{name}");
            }
        }
        daemon.stop().await;
    }
}
