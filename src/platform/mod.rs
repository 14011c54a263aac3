//! The operating system as the daemon meets it: signals, the service manager, and where logs go.

pub mod core;
pub mod notify;
pub mod resources;
pub mod rlimit;
pub mod signals;
pub mod stdout_closed;
pub mod telemetry;
