//! `simulate`: runs only the simulated Graph, on a port.

use std::io::Write;

use futures_util::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::exit::{CliError, FAILED};
use super::run::start_telemetry;
use super::signal_loop;
use crate::env::Env;
use crate::platform::signals::{Signal, Signals};
use crate::platform::stdout_closed::stdout_closed;
use crate::platform::telemetry::OutputFormat;
use crate::simulator::{SimulateArgs, Simulation};

/// The remedy for a taken port.
pub(super) const OTHER_PORT: &str =
    "choose another port, or port 0 for any free one: --listen 127.0.0.1:0";

/// Serves until it is interrupted or standard output is closed.
///
/// # Errors
/// If logging cannot be set up or the address cannot be used.
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
    // There is nothing to reload: SIGHUP stops it, because the terminal has gone.
    let signals = signals.map(|_| Signal::Stop);
    let ignored = || ();
    signal_loop::run(signals, ignored, async |stop: CancellationToken| {
        let until = async {
            tokio::select! {
                () = stop.cancelled() => {}
                () = stdout_closed() => {}
            }
        };
        simulation.run(until).await;
        Ok(())
    })
    .await
}
