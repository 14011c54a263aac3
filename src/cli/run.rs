//! `run`: runs the daemon in the foreground, from loading the configuration to the exit code.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::arguments::{COMMIT, TARGET};
use super::check;
use super::exit::{CONFIGURATION, CliError, FAILED, STORE};
use super::signal_loop;
use crate::api::{BindError, BuildInfo};
use crate::config::{LogFormat, Sources};
use crate::daemon::{Daemon, DaemonOptions, StartError};
use crate::env::Env;
use crate::error_chain::error_chain;
use crate::graph::HttpTransport;
use crate::platform::notify::Notify;
use crate::platform::resources::without_huge_pages;
use crate::platform::signals::Signals;
use crate::platform::start_progress::StartProgress;
use crate::platform::telemetry::{OutputFormat, Telemetry};
use crate::reload::ReloadQueue;
use crate::store::{OpenFault, StoreError};

/// How often a slow start extends the service manager's timeout, each time by twice this.
const EXTEND_INTERVAL: Duration = Duration::from_secs(15);

/// For how long a slow start extends the timeout: longer than the largest store on the slowest
/// disk takes to open.
const MAX_EXTENSION: Duration = Duration::from_secs(3600);

/// Runs the daemon until a signal or a store failure ends it. `level` overrides the configured
/// level. If logs are in JSON, the final error is logged as their last line.
///
/// # Errors
/// Why the daemon could not start, or the store's failure, with the exit code.
pub(super) async fn run(
    sources: Sources,
    level: Option<&str>,
    accept_drops: bool,
) -> Result<u8, CliError> {
    let configured = LogFormat::readable(&sources);
    let ended = serve(sources, level, accept_drops).await;
    match (ended, format(configured).resolve()) {
        (Err(failure), OutputFormat::Json) if !failure.message.is_empty() => {
            // A log line that cannot be written is lost; the exit code still reports the failure.
            writeln!(std::io::stderr(), "{}", failure.log_line(Timestamp::now())).ok();
            Err(CliError::new(failure.exit, ""))
        }
        (ended, _) => ended,
    }
}

async fn serve(sources: Sources, level: Option<&str>, accept_drops: bool) -> Result<u8, CliError> {
    let env = Env::real();
    let config = check::load(&sources, env.now())?;
    let telemetry = start_telemetry(
        level.unwrap_or(&config.sections.log.level),
        format(config.sections.log.format),
    )?;
    without_huge_pages();
    // Before the first log line: once the start is visible, signals must be handled.
    let signals = Signals::listen()
        .map_err(|error| CliError::new(FAILED, format!("cannot listen for signals: {error}")))?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        commit = COMMIT,
        config = %config.file.display(),
        windows = config.windows.len(),
        accounts = config.accounts.len(),
        store = %config.sections.store.path.display(),
        socket = config.sections.api.socket.as_ref().map(|socket| tracing::field::display(socket.display())),
        listen = config.sections.api.listen.map(tracing::field::display),
        "starting"
    );
    for warning in &config.warnings {
        tracing::warn!(%warning, "configuration");
    }
    let transport = HttpTransport::new().map_err(|error| {
        CliError::new(FAILED, format!("cannot set up TLS: {}", error_chain(&error)))
    })?;
    let notify = Notify::new(&sources.environment, std::process::id());
    let options = DaemonOptions {
        config,
        load: check::loader(sources, &env),
        reloads: ReloadQueue::default(),
        // A level from the command line applies until the process ends; reloads do not change it.
        telemetry: level.is_none().then_some(telemetry),
        about: build_info(&env),
        env,
        transport: Arc::new(transport),
        progress: StartProgress::default(),
        accept_drops,
        open_loopback: false,
    };
    foreground(options, signals, notify).await
}

/// Starts a daemon and runs it until a signal or a store failure ends it.
///
/// # Errors
/// As [`run`].
async fn foreground(
    options: DaemonOptions,
    signals: Signals,
    notify: Notify,
) -> Result<u8, CliError> {
    let reloads = options.reloads.handle();
    let reload = || reloads.signal();
    signal_loop::run(signals, reload, |stop| async move {
        let progress = options.progress.clone();
        let starting = with_extended_timeout(Daemon::start(options), &notify, &progress);
        // Opening the store may be abandoned, which does no more harm than any other end of the
        // process.
        let Some(started) = stop.run_until_cancelled(starting).await else {
            notify.stopping();
            tracing::info!("stopped before serving");
            return Ok(());
        };
        let mut daemon = started.map_err(|error| start_error(&error))?;
        tracing::info!("serving");
        daemon.announce(notify);
        daemon.run(stop.cancelled_owned()).await.map_err(|error| store_error(&error))
    })
    .await
}

/// Waits for a start and extends the service manager's timeout meanwhile: a large store that was
/// not closed is read completely, and a million windows are registered. Each time the log and the
/// status say how far it is. After [`MAX_EXTENSION`] the timeout is no longer extended.
async fn with_extended_timeout<T>(
    start: impl Future<Output = T>,
    notify: &Notify,
    progress: &StartProgress,
) -> T {
    let mut start = std::pin::pin!(start);
    for _ in 0..MAX_EXTENSION.as_secs() / EXTEND_INTERVAL.as_secs() {
        notify.extend(EXTEND_INTERVAL * 2, &progress.step());
        if let Ok(started) = tokio::time::timeout(EXTEND_INTERVAL, &mut start).await {
            return started;
        }
        tracing::info!(step = %progress.step(), "still starting");
    }
    start.await
}

/// Starts logging.
pub(super) fn start_telemetry(level: &str, format: OutputFormat) -> Result<Telemetry, CliError> {
    Telemetry::start(level, format).map_err(|error| {
        CliError::new(CONFIGURATION, format!("log.level: {}", error_chain(&error)))
    })
}

/// Version and start time of this process, for `/v1/status`.
pub(super) fn build_info(env: &Env) -> BuildInfo {
    BuildInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: COMMIT.to_owned(),
        target: TARGET.to_owned(),
        started: env.now(),
        since: tokio::time::Instant::now(),
    }
}

fn format(format: LogFormat) -> OutputFormat {
    match format {
        LogFormat::Auto => OutputFormat::Auto,
        LogFormat::Text => OutputFormat::Text,
        LogFormat::Json => OutputFormat::Json,
        LogFormat::Journald => OutputFormat::Journald,
    }
}

pub(super) fn start_error(error: &StartError) -> CliError {
    let exit = match error {
        StartError::Open(open) if open.why.is_configuration() => CONFIGURATION,
        StartError::Open(_) | StartError::Store(_) => STORE,
        StartError::Drops { .. }
        | StartError::Token { .. }
        | StartError::Graph(_)
        | StartError::Shards(_)
        | StartError::Bind(
            BindError::UnknownGroup(_) | BindError::NotASocket(_) | BindError::Leftover(_),
        ) => CONFIGURATION,
        // Another process uses it, or the address does not exist yet: a later start may succeed.
        StartError::Bind(_) => FAILED,
    };
    let failure = CliError::new(exit, error_chain(error));
    match error {
        StartError::Bind(bind) => failure.remedy(bind.remedy()),
        StartError::Open(open) => failure.remedy(open.why.remedy()),
        StartError::Store(StoreError::Full) => failure.remedy(OpenFault::Full.remedy()),
        _ => failure,
    }
}

pub(super) fn store_error(error: &StoreError) -> CliError {
    let failure = CliError::new(STORE, error_chain(error));
    match error {
        StoreError::Full => failure.remedy(OpenFault::Full.remedy()),
        _ => failure.remedy("start it again: everything it had acknowledged is still there"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn errors_that_need_a_person_are_not_retried() {
        let path = || std::path::PathBuf::from("/run/api.sock");
        for (error, exit) in [
            (BindError::UnknownGroup("staf".to_owned()), CONFIGURATION),
            (BindError::NotASocket(path()), CONFIGURATION),
            (BindError::Leftover(path()), CONFIGURATION),
            (BindError::InUse(path()), FAILED),
        ] {
            let failure = start_error(&StartError::Bind(error));
            assert_eq!(failure.exit, exit, "{failure}");
            assert!(failure.remedy.is_some_and(|remedy| remedy.contains("api.socket")));
        }
    }

    #[tokio::test]
    async fn each_fault_of_a_listener_has_its_own_remedy() {
        use crate::api::{bind_tcp, bind_unix};
        let directory = tempfile::tempdir().unwrap();
        let message = |error: BindError| start_error(&StartError::Bind(error)).to_string();

        let missing = message(bind_unix(&directory.path().join("a/b/api.sock"), None).unwrap_err());
        assert!(missing.contains("mkdir -p "), "{missing}");
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        let file_in_between = message(bind_unix(&file.join("api.sock"), None).unwrap_err());
        assert!(file_in_between.contains("mkdir -p "), "{file_in_between}");
        let not_one = message(bind_unix(&file, None).unwrap_err());
        assert!(not_one.contains("rm "), "{not_one}");
        let path = directory.path().join("api.sock");
        let _first = bind_unix(&path, None).unwrap();
        let in_use = message(bind_unix(&path, None).unwrap_err());
        assert!(in_use.contains("stop it, or set another api.socket"), "{in_use}");

        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let taken = message(bind_tcp(address).unwrap_err());
        assert!(taken.contains(&format!("sport = :{}", address.port())), "{taken}");
        let foreign = message(bind_tcp(([192, 0, 2, 1], 0).into()).unwrap_err());
        assert!(foreign.contains("does not have the address"), "{foreign}");
    }

    #[test]
    fn the_last_line_of_a_log_in_json_is_json() {
        let failure = CliError::new(STORE, "two\nlines").remedy("do this");
        let line = failure.log_line(Timestamp::UNIX_EPOCH);
        assert_eq!(line.lines().count(), 1, "{line}");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["level"], "ERROR");
        assert_eq!(value["message"], "two\nlines");
        assert_eq!((&value["exit"], &value["remedy"]), (&74.into(), &"do this".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_start_extends_its_startup_timeout() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let place = path.display().to_string();
        let notify = Notify::new(&[("NOTIFY_SOCKET".to_owned(), place)].into(), 7);
        let heard = || {
            let mut buffer = [0; 512];
            let message = manager.recv(&mut buffer).map(|length| buffer[..length].to_vec());
            message.map_or(String::new(), |bytes| String::from_utf8(bytes).unwrap())
        };
        let long = EXTEND_INTERVAL * 2 + Duration::from_secs(1);
        let progress = StartProgress::default();
        let slow = with_extended_timeout(tokio::time::sleep(long), &notify, &progress);
        let mut start = std::pin::pin!(slow);
        // Each extension is twice the time until the next one.
        for at in 0..3 {
            let waited = Duration::from_secs(1);
            assert!(tokio::time::timeout(waited, &mut start).await.is_err() || at == 2);
            let asked = format!("EXTEND_TIMEOUT_USEC={}", (EXTEND_INTERVAL * 2).as_micros());
            let step = ["opening the store", "registering windows: 8 of 9"][at.min(1)];
            assert_eq!(heard(), format!("{asked}\nSTATUS={step}\n"), "{at}");
            progress.set("registering windows: 8 of 9");
            assert_eq!(heard(), "");
            if at < 2 {
                let rest = tokio::time::timeout(EXTEND_INTERVAL - waited, &mut start).await;
                assert!(rest.is_err(), "it started early");
            }
        }
    }
}
