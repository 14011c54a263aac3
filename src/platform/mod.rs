//! The operating system as the daemon meets it: signals, and where logs go.

pub mod resources;
pub mod signals;
pub mod telemetry;
