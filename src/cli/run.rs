//! `run`: the daemon in the foreground, from the configuration to the exit code.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use super::arguments::{COMMIT, RunArgs, TARGET};
use super::check;
use super::exit::{CONFIGURATION, CliError, FAILED, STORE};
use super::signal_loop::{self, DaemonControls};
use crate::api::{BindError, BuildInfo};
use crate::config::{LogFormat, Sources};
use crate::daemon::{CACHE_BYTES, Daemon, DaemonOptions, StartError};
use crate::env::Env;
use crate::graph::HttpTransport;
use crate::platform::notify::Notify;
use crate::platform::resources::without_huge_pages;
use crate::platform::signals::Signals;
use crate::platform::telemetry::{OutputFormat, Telemetry};
use crate::store::{OpenFault, StoreError};

/// How often a start that takes long asks for twice as much.
const EXTENSION: Duration = Duration::from_secs(15);

/// No store is so large, and no disk so slow, that opening it takes longer.
const OPENING: Duration = Duration::from_secs(3600);

/// Runs until signals or the store end it. `level` overrides the configured one. Where logs are in
/// JSON, what it ends with is their last line.
///
/// # Errors
/// What kept it from starting, or the store's failure, as an exit code with its reason.
pub(super) async fn run(
    file: Option<&Path>,
    environment: BTreeMap<String, String>,
    level: Option<&str>,
    args: &RunArgs,
) -> Result<u8, CliError> {
    let configured = LogFormat::readable(&Sources::find(file, environment.clone()));
    let ended = serve(file, environment, level, args).await;
    match (ended, format(configured).resolve()) {
        (Err(failure), OutputFormat::Json) if !failure.message.is_empty() => {
            // A log that cannot be written is lost; the exit code still tells.
            writeln!(std::io::stderr(), "{}", failure.log_line(Timestamp::now())).ok();
            Err(CliError::new(failure.exit, ""))
        }
        (ended, _) => ended,
    }
}

async fn serve(
    file: Option<&Path>,
    environment: BTreeMap<String, String>,
    level: Option<&str>,
    args: &RunArgs,
) -> Result<u8, CliError> {
    let env = Env::real();
    let load = check::loader(file, environment.clone(), &env);
    let told = environment.clone();
    let config = check::load(file, environment, env.now())?;
    let telemetry = start_telemetry(level.unwrap_or(&config.log.level), format(config.log.format))?;
    without_huge_pages();
    // From the first line on that anybody can see it has started.
    let signals = Signals::listen()
        .map_err(|error| CliError::new(FAILED, format!("cannot listen for signals: {error}")))?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        commit = COMMIT,
        config = %config.file.display(),
        windows = config.windows.len(),
        accounts = config.accounts.len(),
        store = %config.store.path.display(),
        socket = config.api.socket.as_ref().map(|socket| tracing::field::display(socket.display())),
        listen = config.api.listen.map(tracing::field::display),
        "starting"
    );
    for warning in &config.warnings {
        tracing::warn!(%warning, "configuration");
    }
    let transport = HttpTransport::new()
        .map_err(|error| CliError::new(FAILED, format!("cannot speak TLS: {}", chain(&error))))?;
    let about = about(&env);
    let options = DaemonOptions {
        config,
        load,
        // What was said on the command line holds for as long as it runs.
        telemetry: level.is_none().then_some(telemetry),
        env,
        transport: Arc::new(transport),
        about,
        accept_drops: args.accept_drops,
        open_loopback: false,
        cache_bytes: CACHE_BYTES,
    };
    foreground(options, signals, Notify::new(&told, std::process::id())).await
}

/// Starts a daemon and keeps it until signals or the store end it.
///
/// # Errors
/// As [`run`].
async fn foreground(
    options: DaemonOptions,
    signals: Signals,
    notify: Notify,
) -> Result<u8, CliError> {
    signal_loop::run(signals, |controls: DaemonControls| async move {
        let DaemonControls { mut stop, mut reload } = controls;
        let starting = patiently(Daemon::start(options), &notify);
        let Some(started) = unless_stopped(starting, stop.clone()).await else {
            notify.stopping();
            tracing::info!("stopped before it served");
            return Ok(());
        };
        let mut daemon = started.map_err(|error| refused(&error))?;
        tracing::info!("serving");
        let reloads = daemon.reloads();
        daemon.announce(notify);
        let hangups = async {
            while reload.recv().await.is_some() {
                // How it went is logged where it is performed.
                drop(reloads.ask(false).await);
            }
            std::future::pending::<()>().await;
        };
        let until = async {
            tokio::select! {
                // An error means that the sender is gone, which is an end too.
                _ = stop.wait_for(|stop| *stop) => {}
                () = hangups => {}
            }
        };
        daemon.run(until).await.map_err(|error| failed(&error))
    })
    .await
}

/// Waits for a start and keeps the service manager patient meanwhile: a large store that was not
/// closed is read whole. Not for ever: what is not open after [`OPENING`] will not be.
async fn patiently<T>(start: impl Future<Output = T>, notify: &Notify) -> T {
    let mut start = std::pin::pin!(start);
    for _ in 0..OPENING.as_secs() / EXTENSION.as_secs() {
        notify.extend(EXTENSION * 2, "opening the store");
        if let Ok(started) = tokio::time::timeout(EXTENSION, &mut start).await {
            return started;
        }
    }
    start.await
}

/// Waits for a start; `None`: told to stop meanwhile. A store that is still being opened is left as
/// it is, which does it no more harm than any other end of the process.
pub(super) async fn unless_stopped<T>(
    start: impl Future<Output = T>,
    mut stop: watch::Receiver<bool>,
) -> Option<T> {
    tokio::select! {
        started = start => Some(started),
        // An error means that the sender is gone, which is an end too.
        _ = stop.wait_for(|stop| *stop) => None,
    }
}

/// Starts the logs.
pub(super) fn start_telemetry(level: &str, format: OutputFormat) -> Result<Telemetry, CliError> {
    Telemetry::start(level, format)
        .map_err(|error| CliError::new(CONFIGURATION, format!("log.level: {}", chain(&error))))
}

/// What is running.
pub(super) fn about(env: &Env) -> BuildInfo {
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

pub(super) fn refused(error: &StartError) -> CliError {
    let exit = match error {
        StartError::Open(open) if open.why.is_configuration() => CONFIGURATION,
        StartError::Open(_) | StartError::Store(_) => STORE,
        StartError::Drops { .. }
        | StartError::Token { .. }
        | StartError::Graph(_)
        | StartError::Bind(
            BindError::UnknownGroup(_) | BindError::NotASocket(_) | BindError::Leftover(_),
        ) => CONFIGURATION,
        // Another process, or an address that is not there yet: that may pass by itself.
        StartError::Bind(_) => FAILED,
    };
    let failure = CliError::new(exit, chain(error));
    match error {
        StartError::Bind(bind) => failure.remedy(bind_remedy(bind)),
        StartError::Open(open) => failure.remedy(open.why.remedy()),
        StartError::Store(StoreError::Full) => failure.remedy(OpenFault::Full.remedy()),
        _ => failure,
    }
}

/// What to do where the API cannot be served.
fn bind_remedy(error: &BindError) -> String {
    use std::io::ErrorKind;
    match error {
        BindError::InUse(_) => {
            "another calmirror serves there: stop it, or set another api.socket (and store.path)"
                .to_owned()
        }
        BindError::NotASocket(path) | BindError::Leftover(path) => {
            format!("remove it (rm {}), or set another api.socket", path.display())
        }
        BindError::UnknownGroup(_) => {
            "make the group (groupadd --system NAME), or set another api.socket_group".to_owned()
        }
        BindError::Socket { path, source } => {
            let directory = path.parent().unwrap_or(path).display();
            match source.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => format!(
                    "make its directory (mkdir -p {directory}) and give it to the daemon's user, or set another api.socket"
                ),
                ErrorKind::PermissionDenied => format!(
                    "let the daemon's user write to {directory} and be a member of api.socket_group, or set another api.socket"
                ),
                _ => format!("look at {directory}, or set another api.socket"),
            }
        }
        BindError::Address { address, source } => match source.kind() {
            ErrorKind::AddrInUse => {
                let port = address.port();
                format!(
                    "another program has it (ss -ltnp 'sport = :{port}'): stop that, or set another api.listen"
                )
            }
            ErrorKind::AddrNotAvailable => {
                "this machine does not have the address (ip address): set another api.listen"
                    .to_owned()
            }
            ErrorKind::PermissionDenied => {
                "set a port above 1023 in api.listen, or give the daemon CAP_NET_BIND_SERVICE"
                    .to_owned()
            }
            _ => "set another api.listen".to_owned(),
        },
    }
}

pub(super) fn failed(error: &StoreError) -> CliError {
    let failure = CliError::new(STORE, chain(error));
    match error {
        StoreError::Full => failure.remedy(OpenFault::Full.remedy()),
        _ => failure.remedy("start it again: what it had acknowledged is still there"),
    }
}

/// An error and what it came from, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn what_a_person_has_to_correct_is_not_tried_again() {
        let path = || std::path::PathBuf::from("/run/api.sock");
        for (error, exit) in [
            (BindError::UnknownGroup("staf".to_owned()), CONFIGURATION),
            (BindError::NotASocket(path()), CONFIGURATION),
            (BindError::Leftover(path()), CONFIGURATION),
            (BindError::InUse(path()), FAILED),
        ] {
            let failure = refused(&StartError::Bind(error));
            assert_eq!(failure.exit, exit, "{failure}");
            assert!(failure.remedy.is_some_and(|remedy| remedy.contains("api.socket")));
        }
    }

    #[tokio::test]
    async fn each_fault_of_a_listener_has_its_own_remedy() {
        use crate::api::{bind_tcp, bind_unix};
        let directory = tempfile::tempdir().unwrap();
        let told = |error: BindError| refused(&StartError::Bind(error)).to_string();

        let missing = told(bind_unix(&directory.path().join("a/b/api.sock"), None).unwrap_err());
        assert!(missing.contains("mkdir -p "), "{missing}");
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        let file_in_between = told(bind_unix(&file.join("api.sock"), None).unwrap_err());
        assert!(file_in_between.contains("mkdir -p "), "{file_in_between}");
        let not_one = told(bind_unix(&file, None).unwrap_err());
        assert!(not_one.contains("rm "), "{not_one}");
        let path = directory.path().join("api.sock");
        let _first = bind_unix(&path, None).unwrap();
        let in_use = told(bind_unix(&path, None).unwrap_err());
        assert!(in_use.contains("stop it, or set another api.socket"), "{in_use}");

        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let taken = told(bind_tcp(address).unwrap_err());
        assert!(taken.contains(&format!("sport = :{}", address.port())), "{taken}");
        let foreign = told(bind_tcp(([192, 0, 2, 1], 0).into()).unwrap_err());
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
    async fn a_start_that_takes_long_asks_for_more_time_in_time() {
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
        let long = EXTENSION * 2 + Duration::from_secs(1);
        let mut start = std::pin::pin!(patiently(tokio::time::sleep(long), &notify));
        // Each asks for twice the time until the next.
        for at in 0..3 {
            let waited = Duration::from_secs(1);
            assert!(tokio::time::timeout(waited, &mut start).await.is_err() || at == 2);
            let asked = format!("EXTEND_TIMEOUT_USEC={}", (EXTENSION * 2).as_micros());
            assert_eq!(heard(), format!("{asked}\nSTATUS=opening the store\n"), "{at}");
            assert_eq!(heard(), "");
            if at < 2 {
                let rest = tokio::time::timeout(EXTENSION - waited, &mut start).await;
                assert!(rest.is_err(), "it started early");
            }
        }
    }
}
