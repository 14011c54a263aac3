//! Origins of effective values, and the sink for diagnostics while a configuration is read.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::diagnostic::{Diagnostic, Issue};

/// Where an effective value came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ValueOrigin {
    /// The key is not configured.
    #[default]
    Default,
    /// A line of a file.
    File {
        /// The file.
        path: Arc<Path>,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable, by name.
    Environment(String),
}

impl fmt::Display for ValueOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(variable) => write!(f, "environment {variable}"),
        }
    }
}

/// One effective value and its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveValue {
    /// The path of the key, such as `graph.max_concurrent` or `window[alice].start`.
    pub key: String,
    /// The value as it was written. No key holds a secret, so this shows only the names of the
    /// files and variables that hold secrets.
    pub value: String,
    /// Where the value was set.
    pub origin: ValueOrigin,
}

/// Collects errors, warnings and effective values while a configuration is read.
#[derive(Debug, Default)]
pub(super) struct DiagnosticSink {
    pub(super) faults: Vec<Diagnostic>,
    pub(super) warnings: Vec<Diagnostic>,
    pub(super) explained: Vec<EffectiveValue>,
}

impl DiagnosticSink {
    pub(super) fn fault(&mut self, origin: &ValueOrigin, key: &str, wrong: Issue) {
        self.faults.push(located(origin, key, wrong));
    }

    /// Reports an error of a whole file.
    pub(super) fn file_fault(&mut self, path: &Path, wrong: Issue) {
        self.faults.push(of_file(path, wrong));
    }

    /// Reports a warning about a whole file.
    pub(super) fn file_warning(&mut self, path: &Path, wrong: Issue) {
        self.warnings.push(of_file(path, wrong));
    }

    pub(super) fn warn(&mut self, origin: &ValueOrigin, key: &str, wrong: Issue) {
        self.warnings.push(located(origin, key, wrong));
    }
}

fn of_file(path: &Path, Issue { problem, remedy }: Issue) -> Diagnostic {
    Diagnostic { file: Some(path.to_owned()), line: None, key: String::new(), problem, remedy }
}

fn located(origin: &ValueOrigin, key: &str, Issue { problem, remedy }: Issue) -> Diagnostic {
    let (file, line, key) = match origin {
        ValueOrigin::Default => (None, None, key),
        ValueOrigin::File { path, line } => (Some(path.to_path_buf()), Some(*line), key),
        // The user has to look for the variable's name.
        ValueOrigin::Environment(variable) => (None, None, variable.as_str()),
    };
    Diagnostic { file, line, key: key.to_owned(), problem, remedy }
}
