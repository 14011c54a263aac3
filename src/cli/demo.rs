//! `demo`: the whole product in one process. It runs a simulated Graph with a small organisation
//! whose calendars change, runs the daemon against it over real HTTP, and prints the changes.

mod fleet;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use futures_util::StreamExt as _;
use jiff::tz::TimeZone;
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::arguments::DemoArgs;
use super::check;
use super::exit::{CliError, FAILED};
use super::run::{build_info, start_telemetry};
use super::signal_loop;
use super::simulate::OTHER_PORT;
use super::terminal::cut;
use crate::api::BindError;
use crate::config::{Config, Sources};
use crate::daemon::{Daemon, DaemonOptions, StartError};
use crate::env::Env;
use crate::error_chain::error_chain;
use crate::graph::HttpTransport;
use crate::mirror::change::{ChangeKind, RemovalReason};
use crate::mirror::status::{WindowState, WindowStatus};
use crate::platform::resources::without_huge_pages;
use crate::platform::signals::{Signal, Signals};
use crate::platform::start_progress::StartProgress;
use crate::platform::stdout_closed::stdout_closed;
use crate::platform::telemetry::OutputFormat;
use crate::reload::ReloadQueue;
use crate::simulator::{Behaviour, Faults, SimulateArgs, Simulation};
use crate::store::{BATCH_BYTES, Change, FeedError, FeedFilter, Follower, Store};
use crate::supervisor::Fleet;

const PEOPLE: usize = 30;
const ROOMS: usize = 10;
/// Frequent enough to watch, slow enough to read.
const MUTATE_EVERY: Duration = Duration::from_millis(700);
/// The fraction of requests that fail: one in fifty.
const FAULTS: f64 = 0.02;
const INTERVAL: &str = "3s";
/// Bytes of rendered pages that the simulated Graph caches.
const PAGES_BYTES: usize = 4 << 20;

/// Begins the configuration of a demo.
const MADE_BY: &str = "# Made by `calmirror demo`.";

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GREEN: Style = AnsiColor::Green.on_default();
const YELLOW: Style = AnsiColor::Yellow.on_default();
const RED: Style = AnsiColor::Red.on_default();
const CYAN: Style = AnsiColor::Cyan.on_default();

/// Runs the demo until it is interrupted or standard output is closed.
///
/// # Errors
/// If the directory, a port or the store cannot be used.
pub(super) async fn demo(
    args: &DemoArgs,
    level: Option<&str>,
    out: &mut impl Write,
) -> Result<u8, CliError> {
    start_telemetry(level.unwrap_or("off"), OutputFormat::Text)?;
    without_huge_pages();
    let begun = Instant::now();
    let env = Env::real();
    let (_temporary, directory) = directory(args.dir.as_deref())?;

    let simulation = start_simulation(args.seed, env.clone()).await?;
    let mailboxes = simulation.simulator().mailboxes();
    let group = args.fleet.then(|| {
        let is_person = |mailbox: &&String| !mailbox.starts_with("room-");
        let people: Vec<String> = mailboxes.iter().filter(is_person).cloned().collect();
        fleet::ChangingGroup::new(simulation.simulator(), people)
    });
    let file = write_configuration(&directory, &simulation, &mailboxes, args)?;
    let sources = Sources::find(Some(&file), BTreeMap::new());
    let config = check::load(&sources, env.now())?;
    writeln!(
        out,
        "{BOLD}calmirror demo{BOLD:#}: a simulated Graph with {PEOPLE} people and {ROOMS} rooms, and the daemon on it"
    )?;
    writeln!(out, "{DIM}graph{DIM:#}   http://{}/v1.0", simulation.address())?;
    writeln!(out, "{DIM}config{DIM:#}  {}", file.display())?;

    let options = daemon_options(config, sources, env)?;
    let signals = Signals::listen()
        .map_err(|error| CliError::new(FAILED, format!("cannot listen for signals: {error}")))?;
    // SIGHUP stops the demo, because the terminal has gone; `calmirror reload` reloads it.
    let signals = signals.map(|_| Signal::Stop);
    let ignored = || ();
    signal_loop::run(signals, ignored, async |stop: CancellationToken| {
        // The simulated Graph outlives the daemon, so that its last requests are answered.
        let (end, until) = (CancellationToken::new(), CancellationToken::new());
        let simulator = simulation.simulator().clone();
        let graph = tokio::spawn(simulation.run(end.clone().cancelled_owned()));
        let starting = stop.run_until_cancelled(Daemon::start(options));
        let Some(started) = starting.await else { return Ok(()) };
        let daemon = started.map_err(|error| refused(&error))?;
        let (fleet, store, address) = (daemon.fleet(), daemon.store(), daemon.address());
        let running = tokio::spawn(daemon.run(until.clone().cancelled_owned()));
        let story = async {
            let expected = if args.fleet { mailboxes.len() } else { 0 };
            settle(&fleet, expected, begun, out).await?;
            if let Some(address) = address {
                writeln!(out, "{DIM}page{DIM:#}    http://{address}/")?;
                writeln!(out, "{DIM}api{DIM:#}     http://{address}/v1/status")?;
            }
            commands(&file, &mailboxes, out)?;
            simulator.set_faults(Faults::by_rate(FAULTS));
            writeln!(out, "{DIM}changes from here on (Ctrl-C stops the demo):{DIM:#}")?;
            tokio::select! {
                told = print_changes(&fleet, &store, out) => told,
                () = fleet::change(group) => Ok(()),
            }
        };
        let told = tokio::select! {
            told = story => told,
            () = stop.cancelled() => Ok(()),
            () = stdout_closed() => Ok(()),
        };
        until.cancel();
        let closed = match running.await {
            Ok(closed) => closed.map_err(|error| super::run::store_error(&error)),
            Err(_) => Err(CliError::new(FAILED, "the daemon panicked")),
        };
        end.cancel();
        drop(graph.await);
        told.and(closed)
    })
    .await
}

fn daemon_options(config: Config, sources: Sources, env: Env) -> Result<DaemonOptions, CliError> {
    let transport = HttpTransport::new().map_err(|error| {
        CliError::new(FAILED, format!("cannot set up HTTP: {}", error_chain(&error)))
    })?;
    Ok(DaemonOptions {
        config,
        load: check::loader(sources, &env),
        reloads: ReloadQueue::default(),
        telemetry: None,
        about: build_info(&env),
        env,
        transport: Arc::new(transport),
        progress: StartProgress::default(),
        accept_drops: true,
        open_loopback: true,
    })
}

/// Starts the simulated Graph on a free port of loopback, at first without faults.
async fn start_simulation(seed: u64, env: Env) -> Result<Simulation, CliError> {
    let args = SimulateArgs {
        listen: ([127, 0, 0, 1], 0).into(),
        seed,
        people: PEOPLE,
        rooms: ROOMS,
        mutate_every: MUTATE_EVERY,
        faults: 0.0,
        behaviour: Behaviour::by_seed(seed),
        latency: Duration::from_millis(30),
    };
    let simulation = Simulation::start(args, env).await.map_err(|error| {
        CliError::new(FAILED, format!("cannot start the simulated Graph: {error}"))
    })?;
    simulation.simulator().set_page_cache(PAGES_BYTES);
    Ok(simulation)
}

/// The error of a failed start, as for `run`, but with the demo's own remedy for a taken port.
fn refused(error: &StartError) -> CliError {
    let failure = super::run::start_error(error);
    match error {
        StartError::Bind(BindError::Address { .. }) => failure.remedy(OTHER_PORT),
        _ => failure,
    }
}

/// The demo's directory: `--dir`, which is kept, or a temporary one, which is removed at the end.
fn directory(wanted: Option<&Path>) -> Result<(Option<tempfile::TempDir>, PathBuf), CliError> {
    match wanted {
        Some(path) => {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
            // The files of an earlier demo are replaced, those of an administrator are not.
            match std::fs::read(path.join("calmirror.toml")) {
                Ok(found) if !found.starts_with(MADE_BY.as_bytes()) => Err(CliError::new(
                    FAILED,
                    format!("{} holds a configuration that no demo made", path.display()),
                )),
                _ => Ok((None, std::path::absolute(path)?)),
            }
        }
        None => {
            let temporary = tempfile::Builder::new().prefix("calmirror-demo-").tempdir()?;
            let path = temporary.path().to_owned();
            Ok((Some(temporary), path))
        }
    }
}

/// Writes an ordinary configuration: only its addresses show that Graph is simulated.
fn write_configuration(
    directory: &Path,
    simulation: &Simulation,
    mailboxes: &[String],
    args: &DemoArgs,
) -> Result<PathBuf, CliError> {
    let secret = directory.join("demo.secret");
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&secret)?
        .write_all(b"any secret is accepted\n")?;
    let listed = directory.join("mailboxes.txt");
    std::fs::write(&listed, mailboxes.join("\n") + "\n")?;
    let address = simulation.address();
    let windows = if args.fleet {
        fleet::configuration()
    } else {
        "[[window]]\nmailboxes_file = \"mailboxes.txt\"\naccount = \"demo\"\n".to_owned()
    };
    let text = format!(
        r#"{MADE_BY}
[store]
path = "store"
cache = "8MiB"                  # what is not in it is read from disk

[graph]
base_url = "http://{address}/v1.0"
login_url = "http://{address}"
max_concurrent = 4              # keeps few pages in memory; the demo's fleet is small

[api]
socket = "api.sock"
listen = "{listen}"
token_file = "demo.secret"      # the demo itself serves loopback without it

[defaults]
interval = "{INTERVAL}"
start = "-60d"
end = "+180d"

[account.demo]
tenant = "00000000-0000-0000-0000-000000000000"
client_id = "11111111-1111-1111-1111-111111111111"
client_secret_file = "demo.secret"

{windows}"#,
        listen = args.listen,
    );
    let file = directory.join("calmirror.toml");
    std::fs::write(&file, text)?;
    Ok(file)
}

/// Waits until there are at least `expected` windows and each has settled once, then prints how long
/// it took.
async fn settle(
    fleet: &Fleet,
    expected: usize,
    begun: Instant,
    out: &mut impl Write,
) -> Result<(), CliError> {
    loop {
        let windows = fleet.windows();
        let settled = windows.iter().filter(|window| window.settled_once).count();
        if settled == windows.len() && settled >= expected {
            let events: u64 = windows.iter().map(|window| window.events).sum();
            let seconds = begun.elapsed().as_secs_f64();
            writeln!(
                out,
                "{GREEN}settled{GREEN:#} after {seconds:.1} s: {} windows, {events} events",
                windows.len()
            )?;
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn commands(file: &Path, mailboxes: &[String], out: &mut impl Write) -> Result<(), CliError> {
    let program = std::env::current_exe()
        .map_or_else(|_| "calmirror".to_owned(), |path| path.display().to_string());
    let prefix = format!("{program} --config {}", file.display());
    let somebody = mailboxes.first().map_or("", String::as_str);
    writeln!(out, "{BOLD}try, in another terminal:{BOLD:#}")?;
    for command in [
        "status".to_owned(),
        format!("events {somebody}"),
        "changes --follow --after now".to_owned(),
    ] {
        writeln!(out, "  {CYAN}{prefix} {command}{CYAN:#}")?;
    }
    Ok(())
}

/// Prints the changes of the feed, and each window that gets into trouble or recovers.
async fn print_changes(fleet: &Fleet, store: &Store, out: &mut impl Write) -> Result<(), CliError> {
    let mut follower = Follower::from_now(store, FeedFilter::All);
    let mut states: BTreeMap<String, WindowState> = BTreeMap::new();
    let mut members: BTreeSet<String> =
        fleet.windows().into_iter().map(|window| window.name).collect();
    loop {
        let changes = follower.read(100, BATCH_BYTES).await.map_err(|error| match error {
            FeedError::Store(error) => super::run::store_error(&error),
            error => CliError::new(FAILED, error_chain(&error)),
        })?;
        // A window that is dropped takes its events along; that it left is printed once.
        let shown: Vec<&Change> = changes
            .value
            .iter()
            .filter(|change| change.reason != Some(RemovalReason::WindowDropped))
            .collect();
        for (change, count) in grouped(&shown) {
            print_change(change, count, out)?;
        }
        let windows = fleet.windows();
        print_members(&windows, &mut members, out)?;
        for window in windows {
            let before = states.insert(window.name.clone(), window.state);
            let trouble = window.state.is_trouble();
            let news =
                window.last_error.as_ref().filter(|_| trouble && before != Some(window.state));
            if let Some(error) = news {
                writeln!(out, "{RED}!{RED:#} {:<28} {}", cut(&window.name, 28), error.message)?;
            } else if !trouble && before.is_some_and(WindowState::is_trouble) {
                writeln!(out, "{GREEN}✓{GREEN:#} {:<28} recovered", cut(&window.name, 28))?;
            }
        }
        if changes.at_end {
            // After a timeout only the states are checked. The next read reports a closed store.
            tokio::time::timeout(Duration::from_millis(500), follower.wait()).await.ok();
        }
    }
}

/// Prints which windows came and went since the last call.
fn print_members(
    windows: &[WindowStatus],
    members: &mut BTreeSet<String>,
    out: &mut impl Write,
) -> Result<(), CliError> {
    let now: BTreeSet<String> = windows.iter().map(|window| window.name.clone()).collect();
    for name in now.difference(members) {
        writeln!(out, "{GREEN}→{GREEN:#} {:<28} joined the fleet", cut(name, 28))?;
    }
    for name in members.difference(&now) {
        writeln!(out, "{RED}←{RED:#} {:<28} left the fleet", cut(name, 28))?;
    }
    *members = now;
    Ok(())
}

/// Groups changes with the same window, kind and subject, which one edit of a series causes.
fn grouped<'a>(changes: &[&'a Change]) -> Vec<(&'a Change, usize)> {
    let mut groups: Vec<(&Change, String, usize)> = Vec::new();
    for &change in changes {
        let subject = start_and_subject(change).1;
        let same = groups.iter_mut().find(|(first, known, _)| {
            first.window == change.window && first.kind == change.kind && *known == subject
        });
        match same {
            Some((_, _, count)) => *count += 1,
            None => groups.push((change, subject, 1)),
        }
    }
    groups.into_iter().map(|(change, _, count)| (change, count)).collect()
}

/// The start and the subject of an event, or of what is known of a removed one.
fn start_and_subject(change: &Change) -> (String, String) {
    let shown = change.event.as_ref().or(change.summary.as_ref());
    let Some(event) = shown.and_then(|raw| serde_json::from_slice::<Value>(raw).ok()) else {
        return (String::new(), "gone".to_owned());
    };
    let start = event["start"]["dateTime"].as_str().unwrap_or_default();
    let start = start.get(..16).unwrap_or(start).replace('T', " ");
    (start, cut(event["subject"].as_str().unwrap_or_default(), 60))
}

fn print_change(change: &Change, count: usize, out: &mut impl Write) -> Result<(), CliError> {
    let (style, sign) = match change.kind {
        ChangeKind::Created => (GREEN, '+'),
        ChangeKind::Updated => (YELLOW, '~'),
        ChangeKind::Removed => (RED, '-'),
    };
    let (start, subject) = start_and_subject(change);
    let at = change.at.to_zoned_datetime(TimeZone::system()).strftime("%H:%M:%S").to_string();
    let window = cut(&change.window, 28);
    let more = if count > 1 { format!("  ({count} of a series)") } else { String::new() };
    writeln!(
        out,
        "{DIM}{at}{DIM:#} {style}{sign}{style:#} {window:<28} {start:<16} {subject}{DIM}{more}{DIM:#}"
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_another_configuration_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("calmirror.toml");
        assert!(directory(Some(dir.path())).is_ok());
        std::fs::write(&file, format!("{MADE_BY}\n[store]\n")).unwrap();
        assert!(directory(Some(dir.path())).is_ok());
        std::fs::write(&file, "[store]\n").unwrap();
        assert!(directory(Some(dir.path())).is_err());
    }
}
