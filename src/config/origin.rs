//! Where an effective value came from, and what is gathered while a configuration is read.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::diagnostic::{Diagnostic, Issue};

/// Where an effective value came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ValueOrigin {
    /// Nobody set it.
    #[default]
    Default,
    /// A file's line, from 1.
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
    /// The value as it was written. Secrets have no key, so none is ever here: only the names of
    /// the files and variables that hold them.
    pub value: String,
    /// Who set it.
    pub origin: ValueOrigin,
}

/// What gathers while a configuration is read: faults, warnings, explanations.
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

    /// A fault of a file as a whole, of no line of it.
    pub(super) fn file_fault(&mut self, path: &Path, wrong: Issue) {
        self.faults.push(of_file(path, wrong));
    }

    /// A warning about a file as a whole.
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
        // The variable is what the person who mends it has to look for.
        ValueOrigin::Environment(variable) => (None, None, variable.as_str()),
    };
    Diagnostic { file, line, key: key.to_owned(), problem, remedy }
}
