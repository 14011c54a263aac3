//! The part of the configuration that a client needs: where the daemon listens and where tokens
//! are.
//!
//! It follows the rules of [`super::Config::load`] but ignores errors. The client's user may not be
//! allowed to read every file, and other errors concern only the daemon. Secrets are not read.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::api::{listen, socket};
use super::layers::Layers;
use super::origin::DiagnosticSink;
use super::reader::TableReader;
use super::sections::{LogFormat, Section, log_format};
use super::sources::Sources;
use super::table::LayeredTable;

impl LogFormat {
    /// The configured log format, or `Auto` if it cannot be read. Errors elsewhere in the
    /// configuration must be logged in some format.
    pub fn readable(sources: &Sources) -> Self {
        let mut faults = DiagnosticSink::default();
        let (mut layers, _) = Layers::read_lenient(sources, &mut faults);
        let table = layers.take(Section::Log);
        TableReader::new(&table, &mut faults).take("format", log_format).unwrap_or(Self::Auto)
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
}

impl ClientConfig {
    /// Reads what can be read and ignores errors.
    pub fn find(sources: &Sources) -> Self {
        let mut faults = DiagnosticSink::default();
        let (mut layers, _) = Layers::read_lenient(sources, &mut faults);
        let table = layers.take(Section::Api);
        // An invalid value counts as not set.
        let unset = LayeredTable { defaults: table.defaults, ..LayeredTable::default() };
        let mut read = |table| TableReader::new(table, &mut faults).take("socket", socket);
        let socket = read(&table).or_else(|| read(&unset)).flatten();
        let mut reader = TableReader::new(&table, &mut faults);
        let token_files = ["token_file", "read_token_file"];
        Self {
            socket,
            listen: reader.take("listen", listen),
            token_files: token_files
                .into_iter()
                .filter_map(|key| reader.take(key, |written| written.path()))
                .collect(),
        }
    }
}
