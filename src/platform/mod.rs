//! The operating system as the daemon meets it: signals, the service manager, and where logs go.

pub mod core;
pub mod files;
pub mod notify;
pub mod resources;
pub mod signals;
pub mod telemetry;
pub mod unread;
