//! How the program ends: exit codes, and the failure that carries one.

use std::fmt;
use std::io;

use jiff::Timestamp;
use serde_json::json;

use crate::config::Diagnostic;

/// Done.
pub const DONE: u8 = 0;
/// Done but unhealthy, or failed.
pub const FAILED: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 64;
/// The daemon cannot be reached.
pub const UNAVAILABLE: u8 = 69;
/// The store cannot be opened or written.
pub const STORE: u8 = 74;
/// Not permitted, or a sign-in is needed.
pub const PERMISSION: u8 = 77;
/// The configuration is at fault.
pub const CONFIGURATION: u8 = 78;

/// Why a command ends early: what a person reads on standard error, and the exit code.
#[derive(Debug, PartialEq)]
pub struct CliError {
    /// One of the constants above.
    pub exit: u8,
    /// What went wrong; nothing is printed where it is empty.
    pub message: String,
    /// What to do about it.
    pub remedy: Option<String>,
    /// Every fault of the configuration, where that is what went wrong.
    pub faults: Vec<Diagnostic>,
}

impl CliError {
    /// A failure without a known remedy.
    pub fn new(exit: u8, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), remedy: None, faults: Vec::new() }
    }

    /// The same failure as a line of a log in JSON, in the form of the lines before it.
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

    /// The same failure with a remedy.
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
    /// Output that nobody reads any more (`calmirror events alice | head`) is no failure.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(DONE, ""),
            _ => Self::new(FAILED, error.to_string()),
        }
    }
}
