//! Where an effective value came from, and what is gathered while a configuration is read.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::fault::{Fault, Wrong};

/// Where an effective value came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
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

impl fmt::Display for Origin {
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
pub struct Explained {
    /// The path of the key, such as `graph.max_concurrent` or `window[alice].start`.
    pub key: String,
    /// The value as it was written. Secrets have no key, so none is ever here: only the names of
    /// the files and variables that hold them.
    pub value: String,
    /// Who set it.
    pub origin: Origin,
}

/// What gathers while a configuration is read: faults, warnings, explanations.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) faults: Vec<Fault>,
    pub(super) warnings: Vec<Fault>,
    pub(super) explained: Vec<Explained>,
}

impl Report {
    pub(super) fn fault(&mut self, origin: &Origin, key: &str, wrong: Wrong) {
        self.faults.push(located(origin, key, wrong));
    }

    /// A fault of a file as a whole, of no line of it.
    pub(super) fn file_fault(&mut self, path: &Path, wrong: Wrong) {
        self.faults.push(of_file(path, wrong));
    }

    /// A warning about a file as a whole.
    pub(super) fn file_warning(&mut self, path: &Path, wrong: Wrong) {
        self.warnings.push(of_file(path, wrong));
    }

    pub(super) fn warn(&mut self, origin: &Origin, key: &str, wrong: Wrong) {
        self.warnings.push(located(origin, key, wrong));
    }
}

fn of_file(path: &Path, Wrong { problem, remedy }: Wrong) -> Fault {
    Fault { file: Some(path.to_owned()), line: None, key: String::new(), problem, remedy }
}

fn located(origin: &Origin, key: &str, Wrong { problem, remedy }: Wrong) -> Fault {
    let (file, line, key) = match origin {
        Origin::Default => (None, None, key),
        Origin::File { path, line } => (Some(path.to_path_buf()), Some(*line), key),
        // The variable is what the person who mends it has to look for.
        Origin::Environment(variable) => (None, None, variable.as_str()),
    };
    Fault { file, line, key: key.to_owned(), problem, remedy }
}
