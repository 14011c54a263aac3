//! Exit codes, and the error type that carries one.

use std::fmt;
use std::io;

use jiff::Timestamp;
use serde_json::json;

use crate::config::Diagnostic;

/// Success.
pub const DONE: u8 = 0;
/// Unhealthy, or failed.
pub const FAILED: u8 = 1;
/// The command line is invalid.
pub const USAGE: u8 = 64;
/// The daemon cannot be reached.
pub const UNAVAILABLE: u8 = 69;
/// The store cannot be opened or written.
pub const STORE: u8 = 74;
/// Permission denied, or a sign-in is required.
pub const PERMISSION: u8 = 77;
/// The configuration is invalid.
pub const CONFIGURATION: u8 = 78;

/// The error of a command: the message for standard error, and the exit code.
#[derive(Debug, PartialEq)]
pub struct CliError {
    /// One of the constants above.
    pub exit: u8,
    /// What went wrong. If it is empty, nothing is printed.
    pub message: String,
    /// What to do about it.
    pub remedy: Option<String>,
    /// All faults of the configuration, if that is the reason.
    pub faults: Vec<Diagnostic>,
}

impl CliError {
    /// An error without a remedy.
    pub fn new(exit: u8, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), remedy: None, faults: Vec::new() }
    }

    /// The error as a line of the JSON log, in the same form as other lines.
    pub fn log_line(&self, now: Timestamp) -> String {
        let mut line = json!({
            "timestamp": now,
            "level": "ERROR",
            "message": self.message,
            "exit": self.exit,
            "target": "calmirror::cli",
        });
        if let Some(remedy) = &self.remedy {
            line["remedy"] = remedy.as_str().into();
        }
        if !self.faults.is_empty() {
            line["faults"] = self.faults.iter().map(|fault| json!(fault)).collect();
        }
        line.to_string()
    }

    /// Sets the remedy.
    #[must_use]
    pub fn remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for fault in &self.faults {
            write!(f, "\n{fault}")?;
        }
        match &self.remedy {
            Some(remedy) => write!(f, "\n  {remedy}"),
            None => Ok(()),
        }
    }
}

impl From<io::Error> for CliError {
    /// A closed output pipe (`calmirror events alice | head`) is not an error.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(DONE, ""),
            _ => Self::new(FAILED, error.to_string()),
        }
    }
}
