//! Configuration errors and warnings, worded so that a person can fix them.
//!
//! A diagnostic names the location (file and line, or the environment variable), the key, the
//! problem and the remedy. Diagnostics are collected, not returned one at a time. They quote a
//! configured value only if it cannot be a secret: of an account's values, only numbers and
//! durations.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// An error, or a warning about a valid but questionable setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// The file; `None` for the environment and for a problem without a single location.
    pub file: Option<PathBuf>,
    /// The line in that file, from 1.
    pub line: Option<usize>,
    /// The path of the key, such as `graph.max_concurrent` or `window[alice].start`; the variable's
    /// name if the value is from the environment; empty if the problem is a whole file.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", file.display())?;
            if let Some(line) = self.line {
                write!(f, "{line}:")?;
            }
            f.write_str(" ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}; {}", self.problem, self.remedy)
    }
}

/// All errors, ordered by file and line; never empty when returned as an error. Shown one per line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(Diagnostic::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Diagnostics(pub Vec<Diagnostic>);

/// A problem and its remedy, not yet attached to a location.
#[derive(Debug, thiserror::Error)]
#[error("{problem}; {remedy}")]
pub struct Issue {
    pub(super) problem: String,
    pub(super) remedy: String,
}

impl Issue {
    pub(super) fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { problem: problem.into(), remedy: remedy.into() }
    }
}

/// Suggests the nearest of the known names, or lists all of them if none is near.
pub(super) fn suggest<'a>(
    written: &str,
    known: impl Iterator<Item = &'a str> + Clone,
    all: &str,
) -> String {
    match nearest(written, known.clone()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("{all} {}", known.collect::<Vec<_>>().join(", ")),
    }
}

/// The known name that was probably intended; `None` if none is near.
pub fn nearest<'a>(written: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = written.to_lowercase();
    let near = known
        .map(|name| (strsim::damerau_levenshtein(&lower, &name.to_lowercase()), name))
        .filter(|(distance, name)| {
            let longer = name.chars().count().max(lower.chars().count());
            let begun = lower.len() >= 4 && name.to_lowercase().starts_with(&lower);
            *distance * 3 <= longer || begun
        })
        .min();
    near.map(|(_, name)| name)
}
