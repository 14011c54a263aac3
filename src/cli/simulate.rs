//! `simulate`: the simulated Graph alone, on a port.

use std::io::Write;

use futures_util::StreamExt as _;

use super::exit::{CliError, FAILED};
use super::run::start_telemetry;
use super::signal_loop::{self, DaemonControls};
use crate::env::Env;
use crate::platform::signals::{Signal, Signals};
use crate::platform::stdout_closed::stdout_closed;
use crate::platform::telemetry::OutputFormat;
use crate::simulator::{SimulateArgs, Simulation};

/// What to do where a port is taken.
pub(super) const OTHER_PORT: &str =
    "name another, or port 0 for any that is free: --listen 127.0.0.1:0";

/// Serves until it is interrupted, or nobody reads what it printed any more.
///
/// # Errors
/// Where the address cannot be had.
pub(super) async fn simulate(
    args: SimulateArgs,
    level: Option<&str>,
    out: &mut impl Write,
) -> Result<u8, CliError> {
    start_telemetry(level.unwrap_or("info"), OutputFormat::Auto)?;
    let listen = args.listen;
    let simulation = Simulation::start(args, Env::real()).await.map_err(|error| {
        CliError::new(FAILED, format!("cannot listen on {listen}: {error}")).remedy(OTHER_PORT)
    })?;
    write!(out, "{}", simulation.banner())?;
    out.flush()?;
    let signals = Signals::listen()
        .map_err(|error| CliError::new(FAILED, format!("cannot listen for signals: {error}")))?;
    // There is nothing to reload: a terminal that goes away takes it along.
    let signals = signals.map(|_| Signal::Stop);
    signal_loop::run(signals, async |mut controls: DaemonControls| {
        let until = async {
            tokio::select! {
                _ = controls.stop.wait_for(|stop| *stop) => {}
                () = stdout_closed() => {}
            }
        };
        simulation.run(until).await.map_err(|error| CliError::new(FAILED, error.to_string()))
    })
    .await
}
