//! The part of the configuration that a client needs: where the daemon listens and where tokens
//! are.
//!
//! The same for commands that work on the store.
//!
//! It follows the rules of [`super::Config::load`] but reads what can be read. The client's user may
//! not be allowed to read every file, and other errors concern only the daemon. Secrets are not read.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::api::{listen, socket};
use super::diagnostic::{Diagnostic, Diagnostics};
use super::layers::Layers;
use super::origin::DiagnosticSink;
use super::reader::TableReader;
use super::sections::{LogFormat, Section, StoreConfig, log_format};
use super::sources::{DEFAULT_FILE, Sources};
use super::table::LayeredTable;

impl LogFormat {
    /// The configured log format, or `Auto` if it cannot be read. Errors elsewhere in the
    /// configuration must be logged in some format.
    pub fn readable(sources: &Sources) -> Self {
        let mut faults = DiagnosticSink::default();
        let (mut layers, _) = Layers::read_lenient(sources, &mut faults);
        let table = layers.take(Section::Log);
        TableReader::new(&table, &mut faults).read("format", log_format).unwrap_or(Self::Auto)
    }
}

impl StoreConfig {
    /// `[store]` alone. A command that works on the store needs no secrets, and its user may not be
    /// allowed to read them.
    ///
    /// # Errors
    /// What is wrong with the section, and files that cannot be read: they may contain it.
    pub fn find(sources: &Sources) -> Result<Self, Diagnostics> {
        let mut faults = DiagnosticSink::default();
        let (mut layers, _) = Layers::read_lenient(sources, &mut faults);
        let read = Self::read(&layers.take(Section::Store), sources, &mut faults);
        let mut faults = faults.faults;
        faults.retain(|fault| fault.key.is_empty() || is_of(&fault.key, Section::Store));
        match read {
            Some(config) if faults.is_empty() => Ok(config),
            _ => Err(Diagnostics(faults)),
        }
    }
}

/// The part of `[api]` that a client uses.
#[derive(Debug)]
pub struct ClientConfig {
    /// `None` if the socket is `off`.
    pub socket: Option<PathBuf>,
    /// The TCP address, if there is one.
    pub listen: Option<SocketAddr>,
    /// The files with tokens; the token with more rights first.
    pub token_files: Vec<PathBuf>,
    /// Why `socket` is only the default: what could not be used and may name another one.
    pub unusable: Vec<Diagnostic>,
}

impl ClientConfig {
    /// Reads what can be read.
    pub fn find(sources: &Sources) -> Self {
        let mut faults = DiagnosticSink::default();
        let (mut layers, _) = Layers::read_lenient(sources, &mut faults);
        let table = layers.take(Section::Api);
        let unset = LayeredTable { defaults: table.defaults, ..LayeredTable::default() };
        let set = LayeredTable { defaults: &[], ..table };
        let mut reader = TableReader::new(&set, &mut faults);
        let token_files = ["token_file", "read_token_file"];
        let configured = reader.read("socket", socket);
        let listen = reader.read("listen", listen);
        let token_files = token_files
            .into_iter()
            .filter_map(|key| reader.read(key, |written| written.path()))
            .collect();
        // An invalid value counts as not set.
        let default =
            || TableReader::new(&unset, &mut DiagnosticSink::default()).read("socket", socket);
        let mut unusable = faults.faults;
        // The default file may be absent: a client needs none.
        let absent = sources.file == Path::new(DEFAULT_FILE)
            && sources.file.try_exists().is_ok_and(|exists| !exists);
        unusable.retain(|fault| {
            configured.is_none()
                && (fault.key.is_empty() || is_of(&fault.key, Section::Api))
                && !(absent && fault.file.as_ref() == Some(&sources.file))
        });
        let socket = configured.or_else(default).flatten();
        Self { socket, listen, token_files, unusable }
    }
}

/// Whether a diagnostic's key is one of a section, in a file or in the environment.
fn is_of(key: &str, section: Section) -> bool {
    let (key, section) = (key.to_lowercase(), section.name());
    key.starts_with(&format!("{section}.")) || key.starts_with(&format!("calmirror__{section}__"))
}
