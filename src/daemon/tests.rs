//! What a start refuses, and what a stop leaves.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::config::{Diagnostics, Sources};
use crate::graph::{HttpTransport, script};
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

#[tokio::test(start_paused = true)]
async fn a_start_that_drops_most_windows_needs_permission() {
    let directory = tempfile::tempdir().unwrap();
    let names: Vec<String> = (10..50).map(|number| format!("room{number}")).collect();
    let windows: Vec<(&str, &str)> = names.iter().map(|name| (&**name, "1h")).collect();
    let all = config(directory.path(), "store", &windows);
    let store = open_store(directory.path(), &env());
    let known = all.windows.iter().map(|window| WindowRegistration {
        identity: all.identity(window),
        ..registration(window)
    });
    store.register(known.collect(), env().now()).await.unwrap();
    let stored = store.windows().await.unwrap();
    let transport = Arc::new(HttpTransport::new().unwrap());
    let shared: Arc<dyn Transport> = transport.clone();
    let accounts = tokens(&all, &BTreeMap::new(), &shared, &env());
    // The windows kept, those of them that get another mailbox, and how many that drops.
    for (kept, other, refused) in
        [(40, 0, None), (20, 0, None), (19, 0, Some(21)), (40, 20, None), (40, 21, Some(21))]
    {
        let mut new = config(directory.path(), "store", &windows[..kept]);
        for window in new.windows.iter_mut().take(other) {
            Arc::make_mut(window).mailbox = "other@contoso.com".into();
        }
        let specs = window_specs(&new, &new.windows, &accounts);
        let mut counted = None;
        let permit = |count| {
            counted = Some(count);
            Err(StartError::Graph("not asked".to_owned()))
        };
        let services = Services {
            store: store.clone(),
            client: script::client(&transport),
            env: env(),
            metrics: Arc::default(),
        };
        let mut supervisor = Supervisor::new(services, Duration::from_secs(86_400));
        supervisor.start(specs, &StartProgress::default(), permit).await.unwrap_err();
        let drops = check_drops(counted.unwrap(), false).err().map(|error| match error {
            StartError::Drops { dropped, known } => (dropped, known),
            error => panic!("{error}"),
        });
        let expected = refused.map(|dropped| (dropped, 40));
        assert_eq!(drops, expected, "{kept} kept, {other} of them another mailbox");
        check_drops(counted.unwrap(), true).unwrap();
        assert_eq!(store.windows().await.unwrap(), stored, "a refused start has written");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_comes_before_a_waiting_reload_and_closes_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let read = Arc::new(AtomicBool::new(false));
    let reading = read.clone();
    let options = DaemonOptions {
        config: config(directory.path(), "store", &[]),
        load: Arc::new(move || {
            reading.store(true, Ordering::Relaxed);
            Err(Diagnostics(Vec::new()))
        }),
        reloads: ReloadQueue::default(),
        telemetry: None,
        env: env(),
        transport: Arc::new(HttpTransport::new().unwrap()),
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
    };
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
