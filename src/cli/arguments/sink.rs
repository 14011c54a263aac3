//! The arguments of `sink`.

use clap::Subcommand;

/// What is asked of sinks.
#[derive(Debug, Subcommand)]
pub enum SinkRequestArgs {
    /// Show the sinks, how far each is, and its last error.
    List,
    /// Send a test delivery.
    Test {
        /// The sink's name in the configuration.
        name: String,
    },
    /// Send nothing until the sink is resumed, also after a restart.
    Pause {
        /// The sink's name in the configuration.
        name: String,
    },
    /// Send again, and at once.
    Resume {
        /// The sink's name in the configuration.
        name: String,
    },
    /// Send again what came after a cursor or a time.
    Replay {
        /// The sink's name in the configuration.
        name: String,

        /// A cursor, a time, or `start` for every event, as a new snapshot.
        #[arg(long, allow_hyphen_values = true)]
        from: String,
    },
}
