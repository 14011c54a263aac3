//! The command line. `run`, `demo`, `check`, `simulate` and `import` run in this process; the other
//! commands are clients of the API. Apart from `main`, only this module prints.

pub mod arguments;
mod availability;
mod changes;
mod check;
mod client;
mod complete;
#[cfg(feature = "simulator")]
mod demo;
mod endpoint;
mod events;
pub mod exit;
mod export;
mod health;
mod import;
mod login;
mod manual;
mod reload;
mod run;
mod shards;
pub mod signal_loop;
#[cfg(feature = "simulator")]
mod simulate;
mod sink;
mod status;
mod suggest;
mod sync;
mod terminal;
mod time_range;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use tokio::runtime::Runtime;

use arguments::{Arguments, Command};
use client::ApiClient;
use endpoint::ClientTarget;
use exit::{CliError, DONE, FAILED, USAGE};

use crate::config::Sources;

/// The most blocking threads, which read the store. A change wakes all waiting readers at once.
/// More threads would not serve them sooner, and each costs as much memory as about a hundred
/// readers.
const MAX_BLOCKING_THREADS: usize = 32;

/// Parses the command line, runs the command, and returns the exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if let Some(code) = complete::answer(Arguments::command, &arguments) {
        return code;
    }
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(refusal) => {
            // clap reports help and version as errors too. Writing fails if the output is closed.
            refusal.print().ok();
            return ExitCode::from(if refusal.use_stderr() { USAGE } else { DONE });
        }
    };
    match runtime() {
        Ok(runtime) => run_on(runtime, arguments),
        Err(error) => {
            report(Err(CliError::new(FAILED, format!("cannot start the runtime: {error}"))))
        }
    }
}

/// Builds the runtime of the program.
///
/// # Errors
/// If the system cannot start its threads.
pub fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .build()
}

/// Runs a parsed command on a runtime, and shuts the runtime down.
pub fn run_on(runtime: Runtime, arguments: Arguments) -> ExitCode {
    let code = report(runtime.block_on(dispatch(arguments)));
    // Blocking threads that are still busy end with the process.
    runtime.shutdown_background();
    code
}

/// Prints the message of a failed command, and returns the exit code.
fn report(outcome: Result<u8, CliError>) -> ExitCode {
    ExitCode::from(outcome.unwrap_or_else(|failure| {
        if !failure.message.is_empty() {
            // Standard error may be closed too; the exit code still reports the failure.
            let text = terminal::printable_lines(&failure.to_string());
            writeln!(anstream::stderr(), "calmirror: {text}").ok();
        }
        failure.exit
    }))
}

/// The environment, without variables that are not UTF-8.
fn environment() -> BTreeMap<String, String> {
    let text = |(name, value): (OsString, OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}

async fn dispatch(arguments: Arguments) -> Result<u8, CliError> {
    let environment = environment();
    let json = arguments.json;
    let client = || {
        let api = arguments.api.as_deref();
        let found = endpoint::find(api, arguments.config.as_deref(), &environment)?;
        let ClientTarget { endpoint: place, token, exposed, unusable } = found;
        // Standard error may be closed.
        let warn = |text| writeln!(anstream::stderr(), "calmirror: warning: {text}").ok();
        if let Some(fault) = unusable {
            warn(terminal::printable(&fault.to_string()));
        }
        if exposed {
            warn(format!(
                "$CALMIRROR_TOKEN goes to {place} as clear text; use a tunnel to its loopback address instead"
            ));
        }
        Ok::<_, CliError>(ApiClient::new(place, token))
    };
    crate::platform::limits::raise_limit();
    crate::platform::limits::disable_core_dumps();
    // Strips colours if the output is not a terminal or NO_COLOR is set.
    let out = &mut anstream::stdout();
    let (file, level) = (arguments.config.as_deref(), arguments.log_level.as_deref());
    let sources = || Sources::find(file, environment.clone());
    let exit = match &arguments.command {
        Command::Status(args) => status::status(&client()?, args, json, out).await,
        Command::Health => health::health(&client()?, json, out).await,
        Command::Events(args) => events::events(&client()?, args, json, out).await,
        Command::Busy(args) => availability::busy(&client()?, args, json, out).await,
        Command::Free(args) => availability::free(&client()?, args, json, out).await,
        Command::Changes(args) => {
            let exact = json || !std::io::stdout().is_terminal();
            changes::changes(&client()?, args, exact, out, &mut anstream::stderr()).await
        }
        Command::Sync(which) => {
            sync::request_rounds(&client()?, which, "sync", "", json, out).await
        }
        Command::Resync { which, accept_removals } => {
            let accept = if *accept_removals { "&accept_removals=true" } else { "" };
            sync::request_rounds(&client()?, which, "resync", accept, json, out).await
        }
        Command::Export { file } => export::export(&client()?, file, json, out).await,
        Command::Import { file } => import::import(&sources(), file, json, out).await,
        Command::Completions { shell } => manual::completions(*shell, out),
        Command::Man { directory } => manual::man(directory.as_deref(), out),
        Command::Reload { accept_drops } => {
            reload::reload(&client()?, *accept_drops, json, out).await
        }
        Command::Login { account, replace } => {
            login::login(&client()?, account, *replace, json, out).await
        }
        Command::Sink { request } => sink::sink(&client()?, request, json, out).await,
        Command::Logout { account } => login::logout(&client()?, account, json, out).await,
        Command::Check { online, explain } => {
            let options = check::CheckOptions { online: *online, explain: *explain, json };
            check::check(&sources(), options, client, out).await
        }
        Command::Run { accept_drops } => run::run(sources(), level, *accept_drops).await,
        #[cfg(feature = "simulator")]
        Command::Demo(args) => demo::demo(args, level, out).await,
        #[cfg(feature = "simulator")]
        Command::Simulate(args) => simulate::simulate(args.clone(), level, out).await,
    }?;
    out.flush()?;
    Ok(exit)
}
