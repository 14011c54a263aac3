//! Applies a new configuration to the running daemon, completely or not at all.
//!
//! Files are read and compared in the background, so that the fleet is watched meanwhile. Steps
//! that can fail come first and can be undone: binding, then the store. The later steps cannot
//! fail.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Daemon;
use super::fleets::{PlacedWindows, extended};
use super::settings::{self, api_settings, window_specs};
use crate::api::ApiSettings;
use crate::config::{self, Config, ConfigDiff, Diagnostic, Diagnostics, ReloadEffect, ValueOrigin};
use crate::error_chain::error_chain;
use crate::graph::Tokens;
use crate::reload::{ReloadError, ReloadRequest, ReloadSummary};
use crate::supervisor::FleetChange;

/// Reads the configuration again. Blocking.
pub type Loader = Arc<dyn Fn() -> Result<Config, Diagnostics> + Send + Sync>;

/// Dropping at least this many windows, and more than half of all, needs permission: a truncated
/// file must not drop a whole fleet.
const MASS_DROP_MIN: usize = 20;

/// Whether dropping that many windows needs permission.
pub(super) fn is_mass_drop(dropped: usize, known: usize) -> bool {
    dropped >= MASS_DROP_MIN && dropped * 2 > known
}

/// A requested reload whose files are being read.
pub(super) struct PendingReload {
    request: ReloadRequest,
    begun: Instant,
    reading: JoinHandle<LoadResult>,
}

impl PendingReload {
    /// Fails the request with [`ReloadError::Stopping`]; returns the reading, which must be awaited.
    pub(super) fn cancel(self) -> JoinHandle<LoadResult> {
        self.reading
    }
}

/// The new configuration, or why there is none.
pub(super) type LoadResult = Result<Box<LoadedConfig>, ReloadError>;

/// A new valid configuration and how it differs from the one in force.
pub(super) struct LoadedConfig {
    /// As it was read.
    base: Config,
    /// With the windows of its fleets.
    config: Config,
    windows: PlacedWindows,
    settings: ApiSettings,
    difference: ConfigDiff,
}

/// Waits until the files of a pending reload have been read; forever if none is pending. Cancel
/// safe.
pub(super) async fn loaded(pending: &mut Option<PendingReload>) -> LoadResult {
    match pending {
        Some(reload) => match (&mut reload.reading).await {
            Ok(loaded) => loaded,
            Err(panic) => Err(ReloadError::failed(&panic)),
        },
        None => std::future::pending().await,
    }
}

/// Refuses keys that cannot change while the daemon runs, each with its place in the file.
fn refuse(difference: &ConfigDiff, old: &Config, new: &Config) -> Result<(), ReloadError> {
    let fault = |key: &&str| {
        let location = |config: &Config| {
            let value = config.explained.iter().find(|one| one.key == *key);
            match value.map(|one| &one.origin) {
                Some(ValueOrigin::File { path, line }) => Some((path.to_path_buf(), *line)),
                _ => None,
            }
        };
        // A key that was deleted has only a place in the old file.
        let (file, line) = location(new).or_else(|| location(old)).unzip();
        Diagnostic {
            file,
            line,
            key: (*key).to_owned(),
            problem: "cannot change while the daemon runs".to_owned(),
            remedy: "set it back, or restart the daemon".to_owned(),
        }
    };
    match difference.refused.as_slice() {
        [] => Ok(()),
        refused => Err(ReloadError::Faults(refused.iter().map(fault).collect())),
    }
}

impl Daemon {
    /// Begins a requested reload: reads and checks the files.
    pub(super) fn on_reload_request(&mut self, request: ReloadRequest) {
        self.supervisor.notify().reloading();
        let begun = Instant::now();
        let (load, old, open_loopback) =
            (self.load.clone(), self.config.clone(), self.open_loopback);
        let listings = self.fleets.listings();
        let reading = tokio::task::spawn_blocking(move || {
            let base = load().map_err(|faults| ReloadError::Faults(faults.0))?;
            let (mut config, windows) = extended(&base, &listings);
            config.share_windows(&old);
            let settings = api_settings(&config, open_loopback)
                .map_err(|error| ReloadError::failed(&error))?;
            let difference = config::diff(&old, &config);
            refuse(&difference, &old, &config)?;
            Ok(Box::new(LoadedConfig { base, config, windows, settings, difference }))
        });
        self.pending = Some(PendingReload { request, begun, reading });
    }

    /// Performs the pending reload and replies to its requester.
    pub(super) async fn on_config_loaded(&mut self, loaded: LoadResult) {
        let Some(PendingReload { request, begun, .. }) = self.pending.take() else { return };
        let result = match loaded {
            Ok(loaded) => self.apply(*loaded, &request, begun).await,
            Err(error) => Err(error),
        };
        self.reloads.answer(request, result, self.env.now());
        let last = self.reloads.handle().last();
        self.supervisor.reloaded(last.and_then(|last| last.status_note()));
    }

    /// Applies a new configuration.
    ///
    /// # Errors
    /// Why the old one stays in force.
    async fn apply(
        &mut self,
        loaded: LoadedConfig,
        request: &ReloadRequest,
        begun: Instant,
    ) -> Result<ReloadSummary, ReloadError> {
        let LoadedConfig { base, config, windows, settings, difference } = loaded;
        let meant = request.signed_in.as_deref();
        let (dropped, known) = (difference.drops_besides(meant), self.config.all_windows());
        if !request.accept_drops && is_mass_drop(dropped, known) {
            return Err(ReloadError::Drops { dropped, known });
        }
        let (old, new) = (&self.config.sections.api, &config.sections.api);
        let known = self.accounts.all();
        let sign_ins =
            settings::sign_ins(&config, &known).map_err(|error| ReloadError::failed(&error))?;
        let bound = self.listeners.prepare(old, new).await.map_err(|error| {
            ReloadError::Failed(format!("{}; {}", error_chain(&error), error.remedy()))
        })?;
        let accounts = settings::tokens(&sign_ins, &known, &self.transport, &self.env);
        let change = fleet_change(&config, &accounts, &difference);
        let point_of_no_return = || {
            for (name, tokens) in &accounts {
                if let Some(sign_in) = sign_ins.get(name) {
                    tokens.reconfigure(sign_in.clone());
                }
                // The next token uses rotated credential files, and a refused sign-in is retried.
                tokens.forget();
            }
        };
        // Before the first page of a new window is stored.
        self.fleets.announce(&windows);
        if let Err(error) = self.supervisor.change_fleet(change, point_of_no_return).await {
            self.fleets.withdraw();
            self.listeners.discard(bound).await;
            return Err(ReloadError::failed(&error));
        }
        // Before the groups of the new settings, which readers select by the fleets of windows.
        self.fleets.configure(&config, &accounts, &self.fleets.listings(), windows);
        self.elsewhere.set(config.elsewhere.clone());
        self.listeners.change(bound, settings);
        if let Err(error) = self.sinks.configure(&config.sinks, self.listeners.app()).await {
            // The store has ended, and so will the daemon.
            tracing::error!(reason = error_chain(&error), "sinks could not be changed");
        }
        self.change_settings(&config);
        let retried = self.supervisor.retry_sign_ins().into_iter().collect();
        self.accounts.replace(accounts);
        self.forget_removed_fleets(&config).await;
        self.base = Arc::new(base);
        let warnings = config.warnings.clone();
        self.config = Arc::new(config);
        let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(ReloadSummary { took_ms, retried, warnings, ..difference.into() })
    }
}

pub(super) fn fleet_change(
    config: &Config,
    accounts: &BTreeMap<Arc<str>, Arc<Tokens>>,
    difference: &ConfigDiff,
) -> FleetChange {
    let (retimed, to_start): (Vec<_>, Vec<_>) =
        difference.changed.iter().partition(|changed| changed.effect == ReloadEffect::Retimed);
    let to_start = difference.added.iter().chain(to_start.into_iter().map(|changed| &changed.new));
    FleetChange {
        removed: difference.removed.iter().map(|window| window.name.clone()).collect(),
        to_start: window_specs(config, to_start, accounts),
        retimed: retimed.into_iter().map(|changed| changed.new.clone()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio::time::{Duration, timeout};

    use super::*;
    use crate::api::BuildInfo;
    use crate::daemon::DaemonOptions;
    use crate::daemon::settings::sign_in;
    use crate::daemon::tests::config;
    use crate::env::Env;
    use crate::graph::HttpTransport;
    use crate::platform::start_progress::StartProgress;
    use crate::reload::ReloadQueue;

    #[test]
    fn dropping_many_and_most_needs_permission() {
        for (dropped, known, needed) in
            [(0, 0, false), (19, 19, false), (20, 39, true), (20, 40, false), (21, 40, true)]
        {
            assert_eq!(is_mass_drop(dropped, known), needed, "{dropped} of {known}");
        }
    }

    #[test]
    fn a_change_of_a_fixed_key_is_refused_with_its_position() {
        let directory = tempfile::tempdir().unwrap();
        let old = config(directory.path(), "one", &[("same", "1h")]);
        let new = config(directory.path(), "two", &[("same", "1h")]);
        assert_eq!(refuse(&config::diff(&old, &old), &old, &old), Ok(()));
        let Err(ReloadError::Faults(faults)) = refuse(&config::diff(&old, &new), &old, &new) else {
            panic!("another store was accepted");
        };
        let [fault] = faults.as_slice() else { panic!("{faults:?}") };
        assert_eq!((fault.key.as_str(), fault.line), ("store.path", Some(2)));
        assert_eq!(fault.file, Some(directory.path().join("calmirror.toml")));
    }

    #[tokio::test]
    async fn a_stop_waits_for_files_that_are_being_read() {
        let directory = tempfile::tempdir().unwrap();
        let (begin, mut begun) = tokio::sync::mpsc::unbounded_channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let released = std::sync::Mutex::new(released);
        let load = move || {
            begin.send(()).unwrap();
            released.lock().unwrap().recv().ok();
            Err(Diagnostics(Vec::new()))
        };
        let env = Env::real();
        let about = BuildInfo {
            version: String::new(),
            commit: String::new(),
            target: String::new(),
            started: env.now(),
            since: Instant::now(),
        };
        let daemon = Daemon::start(DaemonOptions {
            config: config(directory.path(), "one", &[]),
            load: Arc::new(load),
            reloads: ReloadQueue::default(),
            telemetry: None,
            env,
            transport: Arc::new(HttpTransport::new().unwrap()),
            about,
            progress: StartProgress::default(),
            accept_drops: false,
            open_loopback: false,
        })
        .await
        .unwrap();
        let reloads = daemon.reloads();
        let (stop, stopped) = oneshot::channel::<()>();
        let mut running = tokio::spawn(daemon.run(async { drop(stopped.await) }));
        let asked = tokio::spawn(async move { reloads.ask(false).await });
        begun.recv().await.unwrap();
        drop(stop);
        assert_eq!(asked.await.unwrap(), Err(ReloadError::Stopping));
        let early = timeout(Duration::from_millis(500), &mut running).await;
        assert!(early.is_err(), "stopped while the files were being read");
        drop(release);
        running.await.unwrap().unwrap();
    }

    #[test]
    fn only_changed_windows_are_part_of_a_fleet_change() {
        let directory = tempfile::tempdir().unwrap();
        let old =
            config(directory.path(), "one", &[("gone", "1h"), ("same", "1h"), ("timed", "1h")]);
        let new =
            config(directory.path(), "one", &[("new", "1h"), ("same", "1h"), ("timed", "2h")]);
        let env = Env::simulated(1, "2026-11-02T12:00:00Z".parse().unwrap());
        let transport = Arc::new(HttpTransport::new().unwrap());
        let tokens = Tokens::new(sign_in(&new.accounts["contoso"], &new, None), transport, env);
        let accounts = [("contoso".into(), tokens)].into();
        let FleetChange { removed, to_start, retimed } =
            fleet_change(&new, &accounts, &config::diff(&old, &new));
        let removed: Vec<_> = removed.iter().map(|name| &**name).collect();
        assert_eq!(removed, ["gone"]);
        let to_start: Vec<_> = to_start.iter().map(|spec| &*spec.window.name).collect();
        assert_eq!(to_start, ["new"]);
        let retimed: Vec<_> = retimed.iter().map(|window| &*window.name).collect();
        assert_eq!(retimed, ["timed"]);
    }
}
