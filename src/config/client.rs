//! What a client wants of the configuration: where the daemon serves, and where tokens are.
//!
//! Read by the same rules as the daemon's own ([`super::Config::load`]), but forgiving: who asks may not
//! be allowed to read every file, and whatever else is wrong is the daemon's matter. No secret is
//! looked at.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::keys::Section;
use super::layers::Layers;
use super::origin::DiagnosticSink;
use super::reader::TableReader;
use super::sections::{LogFormat, listen, log_format, socket};
use super::sources::Sources;

/// Where the daemon serves unless configured otherwise.
const DEFAULT_SOCKET: &str = "/run/calmirror/api.sock";

impl LogFormat {
    /// The configured form of log lines, as far as it can be read: what is wrong elsewhere in a
    /// configuration has to be logged in some form.
    pub fn readable(sources: &Sources) -> Self {
        let mut faults = DiagnosticSink::default();
        let (mut layers, _) = Layers::readable(sources, &mut faults);
        let table = layers.take(Section::Log);
        TableReader::new(Section::Log, &table, &mut faults)
            .take("format", log_format)
            .unwrap_or(Self::Auto)
    }
}

/// Of `[api]` what can be read.
#[derive(Debug)]
pub struct ClientConfig {
    /// `None` where none is wanted.
    pub socket: Option<PathBuf>,
    /// The TCP address, if there is one.
    pub listen: Option<SocketAddr>,
    /// Where tokens are; the one that may do more first.
    pub token_files: Vec<PathBuf>,
}

impl ClientConfig {
    /// Reads what can be read.
    pub fn find(sources: &Sources) -> Self {
        let mut faults = DiagnosticSink::default();
        let (mut layers, _) = Layers::readable(sources, &mut faults);
        let table = layers.take(Section::Api);
        let mut reader = TableReader::new(Section::Api, &table, &mut faults);
        let token_files = ["token_file", "read_token_file"];
        Self {
            socket: reader.take("socket", socket).unwrap_or_else(|| Some(DEFAULT_SOCKET.into())),
            listen: reader.take("listen", listen),
            token_files: token_files
                .into_iter()
                .filter_map(|key| reader.take(key, |written| written.path()))
                .collect(),
        }
    }
}
