//! The sources of a configuration: one file, the files of `conf.d` beside it, the environment.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
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
    let paths: io::Result<Vec<PathBuf>> = std::fs::read_dir(&folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut files = match paths {
        Ok(paths) => paths,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            let problem = format!("cannot be read: {error}");
            let remedy = "make it a directory that the daemon's user may read";
            report.file_fault(&folder, Issue::new(problem, remedy));
            return Vec::new();
        }
    };
    files.retain(|file| {
        let hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        !hidden && file.extension().is_some_and(|extension| extension == "toml")
    });
    files.sort();
    files
}
