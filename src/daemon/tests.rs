//! What a start refuses, and what a stop leaves.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::config::{Diagnostics, Sources};
use crate::graph::script::Script;
use crate::mirror::shard::Shard;
use crate::platform::start_progress::StartProgress;
use crate::reload::ReloadError;
use crate::store::WindowRegistration;
use crate::tests::{env, open as open_store, registration};

/// A valid configuration with this store and these windows and intervals.
pub(super) fn config(directory: &Path, store: &str, windows: &[(&str, &str)]) -> Config {
    let secret = directory.join("secret");
    std::fs::write(&secret, "s3cret").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let path = directory.display();
    let mut text = format!(
        r#"[store]
path = "{path}/{store}"
[api]
socket = "{path}/api.sock"
[defaults]
start = "2026-10-01"
end = "2027-02-01"
[account.contoso]
tenant = "t"
client_id = "c"
client_secret_file = "secret"
"#
    );
    for (name, interval) in windows {
        text.push_str(&format!(
            "[[window]]\nname = \"{name}\"\naccount = \"contoso\"\nmailbox = \"{name}@contoso.com\"\ninterval = \"{interval}\"\n"
        ));
    }
    let file = directory.join("calmirror.toml");
    std::fs::write(&file, text).unwrap();
    let now = "2026-11-02T12:00:00Z".parse().unwrap();
    Config::load(&Sources::find(Some(&file), BTreeMap::new()), now).unwrap()
}

/// Options of a daemon that must not request anything.
pub(super) fn options(config: Config) -> DaemonOptions {
    DaemonOptions {
        config,
        load: Arc::new(|| Err(Diagnostics(Vec::new()))),
        reloads: ReloadQueue::default(),
        telemetry: None,
        env: env(),
        transport: Script::new([], []),
        about: BuildInfo {
            version: String::new(),
            commit: String::new(),
            target: String::new(),
            started: env().now(),
            since: Instant::now(),
        },
        progress: StartProgress::default(),
        accept_drops: false,
        open_loopback: false,
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_that_drops_most_windows_needs_permission() {
    let names: Vec<String> = (10..50).map(|number| format!("room{number}")).collect();
    let windows: Vec<(&str, &str)> = names.iter().map(|name| (&**name, "1h")).collect();
    // The windows kept, those of them that get another mailbox, whether drops are accepted, and how
    // many windows a refused start would have dropped.
    for (kept, other, accept_drops, refused) in [
        (40, 0, false, None),
        (20, 0, false, None),
        (19, 0, false, Some(21)),
        (40, 20, false, None),
        (40, 21, false, Some(21)),
        (1, 0, false, Some(39)),
        (1, 0, true, None),
    ] {
        let case = format!("{kept} kept, {other} of them another mailbox, accept: {accept_drops}");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let all = config(directory.path(), "store", &windows);
        let known = all.windows.iter().map(|window| WindowRegistration {
            identity: all.identity(window),
            ..registration(window)
        });
        let store = open_store(&path, &env());
        store.register(known.collect(), env().now()).await.unwrap();
        let stored = store.windows().await.unwrap();
        store.close().await.unwrap();

        let mut new = config(directory.path(), "store", &windows[..kept]);
        for window in new.windows.iter_mut().take(other) {
            Arc::make_mut(window).mailbox = "other@contoso.com".into();
        }
        let drops = match Daemon::start(DaemonOptions { accept_drops, ..options(new) }).await {
            Ok(daemon) => {
                daemon.run(std::future::ready(())).await.unwrap();
                None
            }
            Err(StartError::Drops { dropped, known }) => Some((dropped, known)),
            Err(error) => panic!("{case}: {error}"),
        };
        assert_eq!(drops, refused.map(|dropped| (dropped, 40)), "{case}");
        let store = open_store(&path, &env());
        if refused.is_some() {
            assert_eq!(store.windows().await.unwrap(), stored, "{case}: has written");
        } else {
            assert_eq!(store.identities().await.unwrap().len(), kept, "{case}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_comes_before_a_waiting_reload_and_closes_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let read = Arc::new(AtomicBool::new(false));
    let reading = read.clone();
    let load = move || {
        reading.store(true, Ordering::Relaxed);
        Err(Diagnostics(Vec::new()))
    };
    let config = config(directory.path(), "store", &[]);
    let options = DaemonOptions { load: Arc::new(load), ..options(config) };
    let daemon = Daemon::start(options).await.unwrap();
    let (reloads, socket) = (daemon.reloads(), daemon.socket().unwrap());
    assert!(socket.exists());
    let (reloaded, ended) = tokio::join!(reloads.ask(false), daemon.run(std::future::ready(())));
    assert_eq!((reloaded, ended.is_ok()), (Err(ReloadError::Stopping), true));
    assert!(!read.load(Ordering::Relaxed), "the files were read");
    assert!(!socket.exists(), "the listener was left open");
    let store = open_store(&directory.path().join("store"), &env());
    assert!(store.windows().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn windows_that_other_shards_have_now_are_no_mass_drop() {
    let names: Vec<String> = (10..50).map(|number| format!("room{number}")).collect();
    let windows: Vec<(&str, &str)> = names.iter().map(|name| (&**name, "1h")).collect();
    let directory = tempfile::tempdir().unwrap();
    let start = async |kept: usize, ordinal, count| {
        let mut config = config(directory.path(), "store", &windows[..kept]);
        config.sections.shard.of = Shard::new(ordinal, count).unwrap();
        let daemon = Daemon::start(options(config)).await?;
        let running: Vec<Arc<str>> = daemon.config.windows.iter().map(|w| w.name.clone()).collect();
        assert!(running.iter().all(|name| daemon.elsewhere.owner(name).is_none()));
        assert_eq!(running.len() + daemon.config.elsewhere.len(), kept);
        daemon.run(std::future::ready(())).await.unwrap();
        Ok::<usize, StartError>(running.len())
    };
    assert_eq!(start(40, 0, 1).await.unwrap(), 40);
    let share = start(40, 1, 4).await.unwrap();
    assert!((5..20).contains(&share), "{share} windows");
    // A truncated file, of which this shard would lose less than 20 windows.
    match start(2, 1, 4).await {
        Err(StartError::Drops { known, .. }) => assert_eq!(known, share),
        other => panic!("{other:?}"),
    }
    assert_eq!(start(40, 0, 1).await.unwrap(), 40);
}
