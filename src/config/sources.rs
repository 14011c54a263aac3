//! The sources of a configuration: one file, the files of `conf.d` beside it, the environment.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::diagnostic::Issue;
use super::origin::DiagnosticSink;

/// Used if neither `--config` nor `$CALMIRROR_CONFIG` names a file.
pub(super) const DEFAULT_FILE: &str = "/etc/calmirror/calmirror.toml";

/// The directory beside the main file whose `*.toml` files belong to the configuration.
pub(super) const CONF_D: &str = "conf.d";

/// Where to read from. The environment is passed as a value, so nothing here depends on the
/// process.
#[derive(Clone)]
pub struct Sources {
    /// The main file; `conf.d/*.toml` beside it belongs to it.
    pub file: PathBuf,
    /// The whole environment.
    pub environment: BTreeMap<String, String>,
}

impl Sources {
    /// The file named on the command line, otherwise by `$CALMIRROR_CONFIG`, otherwise
    /// `/etc/calmirror/calmirror.toml`.
    pub fn find(cli: Option<&Path>, environment: BTreeMap<String, String>) -> Self {
        let named = environment.get("CALMIRROR_CONFIG").filter(|file| !file.is_empty());
        let file = cli
            .map(Path::to_owned)
            .or_else(|| named.map(PathBuf::from))
            .unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
        Self { file, environment }
    }
}

impl fmt::Debug for Sources {
    /// Omits the environment's values, because some are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").field("file", &self.file).finish_non_exhaustive()
    }
}

/// The files of `conf.d` beside the main file, ordered by name; hidden files are skipped.
pub(super) fn conf_d(main: &Path, report: &mut DiagnosticSink) -> Vec<PathBuf> {
    let folder = main.with_file_name(CONF_D);
    let unreadable = |error: &std::io::Error, report: &mut DiagnosticSink| {
        let wrong = Issue::new(
            format!("cannot be read: {error}"),
            "make it a directory that the daemon's user may read",
        );
        report.file_fault(&folder, wrong);
    };
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            unreadable(&error, report);
            return Vec::new();
        }
    };
    let mut files = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) => {
                let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
                let path = entry.path();
                if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
                    files.push(path);
                }
            }
            Err(error) => unreadable(&error, report),
        }
    }
    files.sort();
    files
}
