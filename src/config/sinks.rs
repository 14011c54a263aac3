//! Reads sinks: where changes are sent, and which.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::authorities::{AuthorityFile, authorities};
use super::consumers::{AccessLevel, patterns};
use super::diagnostic::{Issue, suggest};
use super::groups::WindowGroups;
use super::origin::DiagnosticSink;
use super::reader::TableReader;
use super::secret;
use super::sections::Sections;
use super::sources::Sources;
use super::table::LayeredTable;
use crate::mirror::event_filter::{EventFilter, FilterKey};
use crate::mirror::name_pattern::NamePattern;
use crate::mirror::shard::Shard;
use crate::percent;

/// A `[sink.NAME]`: where changes are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkConfig {
    /// Unique among the sinks.
    pub name: Arc<str>,
    /// Where to.
    pub target: SinkTargetConfig,
    /// The windows whose changes are sent, together with `groups`; of neither, all.
    pub windows: Vec<NamePattern>,
    /// The groups whose windows' changes are sent.
    pub groups: Vec<Arc<str>>,
    /// Which events, as in a query; empty for all.
    pub filter: String,
    /// What is sent of each event.
    pub level: AccessLevel,
    /// Changes within this time are sent together.
    pub batch: Duration,
}

/// Where a sink sends changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkTargetConfig {
    /// A receiver of webhooks.
    Webhook(WebhookConfig),
    /// A PostgreSQL database.
    Postgres {
        /// The database and who logs in.
        url: SinkUrl,
        /// The schema, which is the sink's own.
        schema: Arc<str>,
        /// Additional authorities.
        ca_file: Option<AuthorityFile>,
    },
    /// A file of SQLite.
    Sqlite {
        /// The file.
        path: PathBuf,
    },
    /// A stream of NATS JetStream.
    Nats(NatsConfig),
}

/// A stream of NATS JetStream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsConfig {
    /// The servers.
    pub url: SinkUrl,
    /// The file with the JWT and the key of the user.
    pub credentials_file: Option<PathBuf>,
    /// Additional authorities.
    pub ca_file: Option<AuthorityFile>,
    /// The stream.
    pub stream: Arc<str>,
    /// What the subjects of this sink begin with.
    pub subject: Arc<str>,
    /// How long removals stay in the stream, which is as long as in the feed.
    pub retention: Duration,
}

/// A receiver of webhooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookConfig {
    /// Where requests are sent.
    pub url: SinkUrl,
    /// The file with the secret that signs.
    pub secret_file: PathBuf,
    /// Whether requests are batches of CloudEvents.
    pub cloud_events: bool,
    /// Whether the receiver may be at an address that is not public.
    pub allow_private: bool,
    /// Additional authorities.
    pub ca_file: Option<AuthorityFile>,
}

/// An address, which may be a secret.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum SinkUrl {
    /// As written.
    Text(Arc<str>),
    /// In a file.
    File(PathBuf),
}

impl fmt::Debug for SinkUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text(…)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum TargetKind {
    Webhook,
    Postgres,
    Sqlite,
    Nats,
}

const KINDS: [(&str, TargetKind); 4] = [
    ("webhook", TargetKind::Webhook),
    ("postgres", TargetKind::Postgres),
    ("sqlite", TargetKind::Sqlite),
    ("nats", TargetKind::Nats),
];

impl TargetKind {
    /// The keys of this kind only.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Webhook => {
                &["url", "url_file", "secret_file", "format", "allow_private", "ca_file"]
            }
            Self::Postgres => &["url", "url_file", "schema", "ca_file"],
            Self::Sqlite => &["path"],
            Self::Nats => &["url", "url_file", "credentials_file", "ca_file", "stream", "subject"],
        }
    }
}

const FORMATS: [(&str, bool); 2] = [("lines", false), ("cloudevents", true)];

/// What events a sink can send.
const LEVELS: [(&str, AccessLevel); 2] = [("times", AccessLevel::Times), ("all", AccessLevel::All)];

/// Collects sinks and detects targets that two of them share.
pub(super) struct SinkCollector<'a> {
    sources: &'a Sources,
    groups: &'a WindowGroups,
    /// How long removals stay in the feed.
    retention: Duration,
    /// Which of several processes this is.
    shard: Shard,
    /// The owners of SQLite files.
    paths: BTreeMap<PathBuf, String>,
    /// The owners of subjects, by stream.
    subjects: BTreeMap<(SinkUrl, Arc<str>, Arc<str>), String>,
    pub(super) all: Vec<SinkConfig>,
}

impl<'a> SinkCollector<'a> {
    pub(super) fn new(
        sources: &'a Sources,
        groups: &'a WindowGroups,
        sections: Option<&Sections>,
    ) -> Self {
        let (paths, subjects) = (BTreeMap::new(), BTreeMap::new());
        let retention = sections.map(|sections| sections.feed.retention).unwrap_or_default();
        let shard = sections.map_or(Shard::ALONE, |sections| sections.shard.of);
        Self { sources, groups, retention, shard, paths, subjects, all: Vec::new() }
    }

    /// Reads one `[sink.NAME]`.
    pub(super) fn read(&mut self, name: &str, table: &LayeredTable, report: &mut DiagnosticSink) {
        let mut reader = TableReader::new(table, report);
        if !reader.has("type") {
            let remedy = "write type = \"webhook\", \"postgres\", \"sqlite\" or \"nats\"";
            reader.missing("", "no type", remedy);
            return;
        }
        let Some(kind) = reader.read("type", |written| written.choice(&KINDS)) else { return };
        for (_, other) in KINDS {
            for key in other.keys().iter().filter(|key| !kind.keys().contains(key)) {
                if reader.has(key) {
                    let wrong = Issue::new("not a key of this type of sink", "remove the line");
                    reader.fault(key, wrong);
                    return;
                }
            }
        }
        let target = match kind {
            TargetKind::Webhook => self.webhook(&mut reader),
            TargetKind::Postgres => self.postgres(&mut reader),
            TargetKind::Sqlite => self.sqlite(&mut reader),
            TargetKind::Nats => self.nats(&mut reader),
        };
        let windows = match reader.has("windows") {
            true => reader.read("windows", patterns),
            false => Some(Vec::new()),
        };
        let groups = self.groups(&mut reader);
        let filter = match reader.has("filter") {
            true => reader.read("filter", |written| {
                check_filter(written.text()?, kind == TargetKind::Webhook)?;
                Ok(written.text()?.to_owned())
            }),
            false => Some(String::new()),
        };
        let level = reader.read("level", |written| written.choice(&LEVELS));
        let batch = reader.read("batch", |written| written.duration(Duration::ZERO));
        if let (Some(target), Some(windows), Some(groups), Some(filter), Some(level), Some(batch)) =
            (target, windows, groups, filter, level, batch)
        {
            let name = name.into();
            self.all.push(SinkConfig { name, target, windows, groups, filter, level, batch });
        }
    }

    fn webhook(&self, reader: &mut TableReader<'_>) -> Option<SinkTargetConfig> {
        let url = self.url(reader);
        let secret_file = match reader.has("secret_file") {
            true => reader.read("secret_file", |written| secret::path(written, self.sources)),
            false => {
                let remedy = "write secret_file, a file with the secret that signs requests";
                reader.missing("", "no secret_file", remedy);
                None
            }
        };
        let format = reader.read("format", |written| written.choice(&FORMATS));
        let allow_private = reader.read("allow_private", |written| written.flag());
        let ca_file = ca_file(reader)?;
        Some(SinkTargetConfig::Webhook(WebhookConfig {
            url: url?,
            secret_file: secret_file?,
            cloud_events: format?,
            allow_private: allow_private?,
            ca_file,
        }))
    }

    fn postgres(&self, reader: &mut TableReader<'_>) -> Option<SinkTargetConfig> {
        if self.shard != Shard::ALONE {
            let remedy = "let the shards publish to one stream with type = \"nats\", and fill the database from there";
            let wrong = Issue::new("several shards cannot write one schema", remedy);
            reader.fault("type", wrong);
            return None;
        }
        let url = self.url(reader);
        let schema = reader.read("schema", |written| {
            let text = written.text()?;
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            match text.len() <= 63
                && text.chars().all(plain)
                && !text.starts_with(|c: char| c.is_ascii_digit())
                && !text.starts_with("pg_")
            {
                true => Ok(text.into()),
                false => Err(Issue::new(
                    "not a name for a schema",
                    "use at most 63 lower-case letters, digits and `_`, not pg_ at the start",
                )),
            }
        });
        let ca_file = ca_file(reader)?;
        Some(SinkTargetConfig::Postgres { url: url?, schema: schema?, ca_file })
    }

    fn sqlite(&mut self, reader: &mut TableReader<'_>) -> Option<SinkTargetConfig> {
        if !reader.has("path") {
            reader.missing("", "no path", "write path, the file of the copy");
            return None;
        }
        let path = reader.read("path", |written| written.path())?;
        if let Some(owner) = self.paths.insert(path.clone(), reader.name("path")) {
            let problem = format!("the same file as {owner}");
            reader.fault("path", Issue::new(problem, "give each sink a file of its own"));
            return None;
        }
        Some(SinkTargetConfig::Sqlite { path })
    }

    fn nats(&mut self, reader: &mut TableReader<'_>) -> Option<SinkTargetConfig> {
        let url = self.url(reader);
        let credentials_file = match reader.has("credentials_file") {
            true => reader
                .read("credentials_file", |written| secret::path(written, self.sources))
                .map(Some),
            false => Some(None),
        };
        let stream: Option<Arc<str>> = reader.read("stream", |written| {
            let text = written.text()?;
            match is_token(text) {
                true => Ok(Arc::from(text)),
                false => Err(Issue::new("not a name for a stream", TOKEN_REMEDY)),
            }
        });
        let subject: Option<Arc<str>> = reader.read("subject", |written| {
            let text = written.text()?;
            match text.split('.').all(is_token) {
                true => Ok(Arc::from(text)),
                false => Err(Issue::new(
                    "not the beginning of subjects",
                    "write words of letters, digits, `-` and `_`, with dots between them",
                )),
            }
        });
        let ca_file = ca_file(reader)?;
        let (url, credentials_file) = (url?, credentials_file?);
        let (stream, subject, retention) = (stream?, subject?, self.retention);
        let place = (url.clone(), stream.clone(), subject.clone());
        if let Some(owner) = self.subjects.insert(place, reader.name("subject")) {
            let problem = format!("the same stream and subject as {owner}");
            reader.fault("subject", Issue::new(problem, "give each sink a subject of its own"));
            return None;
        }
        let nats = NatsConfig { url, credentials_file, ca_file, stream, subject, retention };
        Some(SinkTargetConfig::Nats(nats))
    }

    /// The address, which is never shown.
    fn url(&self, reader: &mut TableReader<'_>) -> Option<SinkUrl> {
        match (reader.has("url_file"), reader.has("url")) {
            (true, false) => reader
                .read("url_file", |written| secret::path(written, self.sources))
                .map(SinkUrl::File),
            (false, true) => reader
                .read_hidden("url", |written| written.text().map(Arc::from))
                .map(SinkUrl::Text),
            (has_both, _) => {
                let problem = if has_both { "url and url_file" } else { "no url and no url_file" };
                reader.missing("", problem, "write exactly one of url_file, url");
                None
            }
        }
    }

    fn groups(&self, reader: &mut TableReader<'_>) -> Option<Vec<Arc<str>>> {
        if !reader.has("groups") {
            return Some(Vec::new());
        }
        reader.read("groups", |written| {
            let named = written.texts()?.into_iter().map(|name| {
                if self.groups.contains_key(name) {
                    return Ok(Arc::from(name));
                }
                let names = self.groups.keys().map(|name| &**name);
                let remedy = suggest(name, names, "the groups are");
                Err(Issue::new(format!("no group is named {name:?}"), remedy))
            });
            named.collect()
        })
    }
}

/// `ca_file`, if there is one; `None` after an error.
fn ca_file(reader: &mut TableReader<'_>) -> Option<Option<AuthorityFile>> {
    match reader.has("ca_file") {
        true => authorities("ca_file", reader).map(Some),
        false => Some(None),
    }
}

/// Whether it is a word of a subject, which is also the name of a file.
fn is_token(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=64).contains(&text.len()) && text.chars().all(plain)
}

const TOKEN_REMEDY: &str = "use 1 to 64 letters, digits, `-` and `_`";

/// Checks a filter. Only lines for people and programs can lack members or changes.
fn check_filter(text: &str, of_lines: bool) -> Result<(), Issue> {
    let remedy = "write it as in a query, such as \"response=accepted,organizer&cancelled=false\"";
    let mut filter = EventFilter::default();
    for part in text.split('&') {
        let (key, values) = part.split_once('=').unwrap_or((part, ""));
        if of_lines && matches!(key, "fields" | "ignore") {
            continue;
        }
        let Some(known) = FilterKey::ALL.into_iter().find(|known| known.name() == key) else {
            let keys = suggest(key, FilterKey::NAMES.into_iter(), "the keys are");
            return Err(Issue::new(format!("{key:?} is no key of a filter"), keys));
        };
        let decoded = percent::decode(&values.replace('+', " "));
        let decoded = decoded.ok_or_else(|| Issue::new("not percent-encoded UTF-8", remedy))?;
        filter
            .add(known, &decoded)
            .map_err(|error| Issue::new(format!("{key}: {error}"), remedy))?;
    }
    Ok(())
}
