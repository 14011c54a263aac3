//! `simulate`: the simulated Graph alone, on a port.

use std::io::Write;

use super::exit::{FAILED, Failure};
use super::run::{self, Controls};
use super::serve::start_telemetry;
use crate::platform::signals::Signals;
use crate::platform::telemetry::Format;
use crate::simulator::{SimulateArgs, Simulation};
use crate::world::World;

/// Serves until it is interrupted.
///
/// # Errors
/// Where the address cannot be had.
pub(super) async fn simulate(
    args: SimulateArgs,
    level: Option<&str>,
    out: &mut impl Write,
) -> Result<u8, Failure> {
    start_telemetry(level.unwrap_or("info"), Format::Auto)?;
    let listen = args.listen;
    let simulation = Simulation::start(args, World::real())
        .await
        .map_err(|error| Failure::new(FAILED, format!("cannot listen on {listen}: {error}")))?;
    write!(out, "{}", simulation.banner())?;
    out.flush()?;
    let signals = Signals::listen()
        .map_err(|error| Failure::new(FAILED, format!("cannot listen for signals: {error}")))?;
    run::run(signals, async |mut controls: Controls| {
        let until = async { drop(controls.stop.wait_for(|stop| *stop).await) };
        simulation.run(until).await.map_err(|error| Failure::new(FAILED, error.to_string()))
    })
    .await
}
