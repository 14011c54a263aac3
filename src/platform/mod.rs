//! Interfaces to the operating system: signals, the service manager, process limits and logs.

pub mod limits;
pub mod notify;
pub mod resources;
pub mod signals;
pub mod start_progress;
pub mod stdout_closed;
pub mod telemetry;
