//! Reads consumers: programs and displays with a token or a user of their own, and what each of them
//! may read.
//!
//! Rejected: keys that two consumers share, and a consumer that may read no window. Whether a reader
//! may see something is decided by the API, not here.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::sync::Arc;

use http::Uri;

use super::api::{self, ApiConfig};
use super::diagnostic::Issue;
use super::origin::DiagnosticSink;
use super::reader::{RawValue, TableReader};
use super::secret;
use super::sources::Sources;
use super::table::LayeredTable;
use crate::mirror::name_pattern::NamePattern;
use crate::mirror::window::{Window, window_name_problem};

/// What a reader may see of events; a later level includes the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AccessLevel {
    /// When somebody is busy, without events.
    Busy,
    /// Time and busy state of each event.
    Times,
    /// Whole events.
    All,
}

/// How a consumer is recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsumerKey {
    /// By the token in this file.
    TokenFile(PathBuf),
    /// By the user id of its process, on the Unix socket.
    Uid(u32),
}

/// A `[consumer.NAME]`: who may read what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerConfig {
    /// Unique among the consumers.
    pub name: Arc<str>,
    /// How it is recognised; no two consumers share one.
    pub key: ConsumerKey,
    /// The windows that it may read, ordered and without duplicates; `None`: all.
    pub windows: Option<Vec<NamePattern>>,
    /// What it may see of their events.
    pub level: AccessLevel,
    /// Whether it may ask for rounds and resyncs of its windows.
    pub write: bool,
    /// The origins whose pages may read with its token (CORS), as browsers send them.
    pub origins: Vec<String>,
}

impl AccessLevel {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Times => "times",
            Self::All => "all",
        }
    }
}

const LEVELS: [(&str, AccessLevel); 3] =
    [("busy", AccessLevel::Busy), ("times", AccessLevel::Times), ("all", AccessLevel::All)];

/// The largest number means "no user" to the system.
const MAX_UID: i64 = u32::MAX as i64 - 1;

/// Collects consumers and detects duplicates.
pub(super) struct ConsumerCollector<'a> {
    sources: &'a Sources,
    windows: &'a [Arc<Window>],
    /// Whether fleets exist: their windows are not known here.
    has_fleets: bool,
    /// The owners of tokens, by [`secret::digest`].
    tokens: BTreeMap<[u8; 32], String>,
    uids: BTreeMap<u32, String>,
    pub(super) all: Vec<ConsumerConfig>,
}

impl<'a> ConsumerCollector<'a> {
    /// `api` has the tokens that no consumer may have.
    pub(super) fn new(
        sources: &'a Sources,
        windows: &'a [Arc<Window>],
        has_fleets: bool,
        api: Option<&ApiConfig>,
    ) -> Self {
        let tokens = api.into_iter().flat_map(|api| {
            [("read_token_file", &api.read_token_file), ("token_file", &api.token_file)]
        });
        let tokens = tokens
            .filter_map(|(key, file)| Some((secret::digest(file.as_deref()?)?, key)))
            .map(|(digest, key)| (digest, format!("api.{key}")))
            .collect();
        Self { sources, windows, has_fleets, tokens, uids: BTreeMap::new(), all: Vec::new() }
    }

    /// Reads one `[consumer.NAME]`.
    pub(super) fn read(&mut self, name: &str, table: &LayeredTable, report: &mut DiagnosticSink) {
        let mut reader = TableReader::new(table, report);
        let key = self.key(&mut reader);
        let windows = reader.read("windows", patterns);
        let level = reader.read("level", |written| written.choice(&LEVELS));
        let write = reader.read("write", |written| written.flag());
        let origins = reader.read("origins", |written| {
            written.texts()?.into_iter().map(web_origin).collect::<Result<Vec<_>, _>>()
        });
        self.warn_unmatched(windows.as_ref(), &mut reader);
        let faulty = |key, absent: bool| absent && reader.has(key);
        if faulty("windows", windows.is_none()) || faulty("origins", origins.is_none()) {
            return;
        }
        if let (Some(key), Some(level), Some(write)) = (key, level, write) {
            // A pattern for every name is the same as none, also in comparisons.
            let windows = windows.filter(|patterns| patterns.iter().all(|one| !is_any(one)));
            let origins = origins.unwrap_or_default();
            self.all.push(ConsumerConfig {
                name: name.into(),
                key,
                windows,
                level,
                write,
                origins,
            });
        }
    }

    fn key(&mut self, reader: &mut TableReader<'_>) -> Option<ConsumerKey> {
        let remedy = "exactly one of token_file, uid";
        match (reader.has("token_file"), reader.has("uid")) {
            (true, false) => {}
            (false, true) => return self.uid(reader),
            (false, false) => {
                reader.missing("", "no token and no uid", format!("write {remedy}"));
                return None;
            }
            (true, true) => {
                let wrong = Issue::new("set together with token_file", format!("keep {remedy}"));
                reader.fault("uid", wrong);
                return None;
            }
        }
        let key = "token_file";
        let file = reader.read(key, |written| secret::path(written, self.sources))?;
        for wrong in secret::weak_token(&file, None) {
            reader.warn(key, wrong);
        }
        let digest = secret::digest(&file)?;
        if let Some(owner) = self.tokens.get(&digest) {
            let remedy = "name a file with a token of its own: openssl rand -hex 32 makes one";
            reader.fault(key, Issue::new(format!("the same token as in {owner}"), remedy));
            return None;
        }
        self.tokens.insert(digest, reader.name(key));
        Some(ConsumerKey::TokenFile(file))
    }

    fn uid(&mut self, reader: &mut TableReader<'_>) -> Option<ConsumerKey> {
        let uid: u32 = reader.read("uid", |written| written.integer(0..=MAX_UID))?;
        if let Some(owner) = self.uids.get(&uid) {
            let problem = format!("the same user as in {owner}");
            reader.fault("uid", Issue::new(problem, "write each user into one consumer only"));
            return None;
        }
        self.uids.insert(uid, reader.name("uid"));
        Some(ConsumerKey::Uid(uid))
    }

    /// Warns about names that no window has. Without windows there is a warning about that.
    fn warn_unmatched(&self, patterns: Option<&Vec<NamePattern>>, reader: &mut TableReader<'_>) {
        if self.has_fleets || self.windows.is_empty() {
            return;
        }
        for pattern in patterns.into_iter().flatten() {
            if self.windows.iter().any(|window| pattern.matches(&window.name)) {
                continue;
            }
            let text = pattern.as_str();
            let problem = match pattern.is_plain() {
                true => format!("no window is named {text:?}"),
                false => format!("no window has a name like {text:?}"),
            };
            let remedy = "write the names of windows, or patterns such as \"room-*\"";
            reader.warn("windows", Issue::new(problem, remedy));
        }
    }
}

/// Whether every name matches.
fn is_any(pattern: &NamePattern) -> bool {
    pattern.as_str().bytes().all(|byte| byte == b'*')
}

/// Names of windows and patterns, ordered, so that only a difference that matters is one.
pub(super) fn patterns(written: RawValue<'_>) -> Result<Vec<NamePattern>, Issue> {
    let texts = written.texts()?;
    if texts.is_empty() {
        let remedy = "write names or patterns, or remove the line for all windows";
        return Err(Issue::new("no windows", remedy));
    }
    if let Some(problem) = texts.iter().find_map(|text| window_name_problem(text)) {
        let remedy = "write the names of windows, or patterns such as \"room-*\"";
        return Err(Issue::new(problem, remedy));
    }
    let mut patterns: Vec<NamePattern> = texts.into_iter().map(NamePattern::new).collect();
    patterns.sort();
    patterns.dedup();
    Ok(patterns)
}

/// An origin as browsers send it (RFC 6454). Requests are compared with the text, so it must be
/// exact. What is before an `@` may be a password and is not quoted.
fn web_origin(text: &str) -> Result<String, Issue> {
    if text.contains('*') || text == "null" {
        let remedy = "write each origin, such as \"https://board.contoso.com\"";
        return Err(Issue::new(format!("{text:?} is not one origin"), remedy));
    }
    match canonical_origin(text) {
        Some(origin) if origin == text => Ok(origin),
        canonical => {
            let shown = text.rsplit('@').next().unwrap_or_default();
            let remedy = match canonical {
                Some(origin) => format!("write it as browsers send it: {origin:?}"),
                None => "write scheme, host and port, such as \"https://board.contoso.com\"".into(),
            };
            Err(Issue::new(format!("not an origin: {shown:?}"), remedy))
        }
    }
}

/// The origin of an address; `None` if it is not one of `http` or `https`.
fn canonical_origin(text: &str) -> Option<String> {
    let uri: Uri = text.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
    let default_port = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let named = authority.host();
    let host = match named.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => format!("[{}]", address.parse::<Ipv6Addr>().ok()?),
        None => api::host(named).ok()?,
    };
    match authority.port_u16().filter(|port| *port != default_port) {
        Some(port) => Some(format!("{scheme}://{host}:{port}")),
        None => Some(format!("{scheme}://{host}")),
    }
}
