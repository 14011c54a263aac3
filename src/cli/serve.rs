//! `run`: the daemon in the foreground, from the configuration to the exit code.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::arguments::{COMMIT, RunArgs, TARGET};
use super::check;
use super::exit::{CONFIGURATION, FAILED, Failure, STORE};
use super::run::{self, Controls};
use crate::api::{About, BindError};
use crate::config::LogFormat;
use crate::daemon::{CACHE_BYTES, Daemon, Options, StartError};
use crate::graph::HttpTransport;
use crate::platform::notify::Notify;
use crate::platform::signals::Signals;
use crate::platform::telemetry::{Format, Telemetry};
use crate::store::{OpenFault, StoreError};
use crate::world::World;

/// How often a start that takes long asks for twice as much.
const EXTENSION: Duration = Duration::from_secs(15);

/// No store is so large, and no disk so slow, that opening it takes longer.
const OPENING: Duration = Duration::from_secs(3600);

/// Runs until signals or the store end it. `level` overrides the configured one.
///
/// # Errors
/// What kept it from starting, or the store's failure, as an exit code with its reason.
pub(super) async fn run(
    file: Option<&Path>,
    environment: BTreeMap<String, String>,
    level: Option<&str>,
    args: &RunArgs,
) -> Result<u8, Failure> {
    let world = World::real();
    let load = check::loader(file, environment.clone(), &world);
    let told = environment.clone();
    let config = check::load(file, environment, world.now())?;
    let telemetry = start_telemetry(level.unwrap_or(&config.log.level), format(config.log.format))?;
    // From the first line on that anybody can see it has started.
    let signals = Signals::listen()
        .map_err(|error| Failure::new(FAILED, format!("cannot listen for signals: {error}")))?;
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
        .map_err(|error| Failure::new(FAILED, format!("cannot speak TLS: {}", chain(&error))))?;
    let about = about(&world);
    let options = Options {
        config,
        load,
        // What was said on the command line holds for as long as it runs.
        telemetry: level.is_none().then_some(telemetry),
        world,
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
async fn foreground(options: Options, signals: Signals, notify: Notify) -> Result<u8, Failure> {
    run::run(signals, |controls: Controls| async move {
        let Controls { mut stop, mut reload } = controls;
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
pub(super) fn start_telemetry(level: &str, format: Format) -> Result<Telemetry, Failure> {
    Telemetry::start(level, format)
        .map_err(|error| Failure::new(CONFIGURATION, format!("log.level: {}", chain(&error))))
}

/// What is running.
pub(super) fn about(world: &World) -> About {
    About {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: COMMIT.to_owned(),
        target: TARGET.to_owned(),
        started: world.now(),
    }
}

fn format(format: LogFormat) -> Format {
    match format {
        LogFormat::Auto => Format::Auto,
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
        LogFormat::Journald => Format::Journald,
    }
}

pub(super) fn refused(error: &StartError) -> Failure {
    let exit = match error {
        StartError::Open(_) | StartError::Store(_) => STORE,
        StartError::Drops { .. }
        | StartError::Token { .. }
        | StartError::Graph(_)
        | StartError::Bind(BindError::UnknownGroup(_) | BindError::NotASocket(_)) => CONFIGURATION,
        // Another process, or an address that is not there yet: that may pass by itself.
        StartError::Bind(_) => FAILED,
    };
    let failure = Failure::new(exit, chain(error));
    match error {
        StartError::Open(open) => failure.remedy(open.why.remedy()),
        StartError::Store(StoreError::Full) => failure.remedy(OpenFault::Full.remedy()),
        StartError::Bind(BindError::Address { .. }) => failure.remedy(
            "does another program, or another calmirror, have it? Else set another api.listen",
        ),
        _ => failure,
    }
}

pub(super) fn failed(error: &StoreError) -> Failure {
    let failure = Failure::new(STORE, chain(error));
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
            (BindError::InUse(path()), FAILED),
        ] {
            let failure = refused(&StartError::Bind(error));
            assert_eq!(failure.exit, exit, "{failure}");
        }
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
