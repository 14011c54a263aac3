//! The sections of a configuration with their keys and defaults. Small sections are read here.
//!
//! A default is written as TOML and read exactly like a configured value, so that there is one way
//! to read a value. The reason for each default is in `config/calmirror.toml`; a test keeps the two
//! in agreement. Keys that are in no table of keys are rejected as unknown.

use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::api::ApiConfig;
use super::diagnostic::{Issue, nearest, suggest};
use super::diff::ConfigDiff;
use super::graph::GraphConfig;
use super::memory_limit::memory_limit;
use super::origin::DiagnosticSink;
use super::reader::{RawValue, TableReader};
use super::settings;
use super::shard::ShardConfig;
use super::sources::Sources;
use super::table::{ConfigKey, LayeredTable, changes};

/// Generates what handles every section from the table of sections. A section with settings of the
/// daemon has a type with `KEYS`, `read` and `changes`.
macro_rules! sections {
    (
        settings { $($section:ident $field:ident: $config:ident;)* }
        others { $($other:ident $name:literal $header:literal $keys:expr;)* }
    ) => {
        /// A section: a kind of table in the configuration.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Section { $($section,)* $($other,)* }

        /// Every section.
        pub(super) const SECTIONS: &[Section] = &[$(Section::$section,)* $(Section::$other,)*];

        impl Section {
            /// The table's name in the file.
            pub(super) fn name(self) -> &'static str {
                match self {
                    $(Self::$section => stringify!($field),)*
                    $(Self::$other => $name,)*
                }
            }

            /// The line that opens the table in the file.
            pub(super) fn header(self) -> &'static str {
                match self {
                    $(Self::$section => concat!("[", stringify!($field), "]"),)*
                    $(Self::$other => $header,)*
                }
            }

            /// The section's own keys.
            pub(super) fn own_keys(self) -> &'static [ConfigKey] {
                match self {
                    $(Self::$section => $config::KEYS,)*
                    $(Self::$other => $keys,)*
                }
            }
        }

        /// The sections with settings of the daemon.
        #[derive(Clone, Debug)]
        #[expect(missing_docs, reason = "documented at the types")]
        pub struct Sections { $(pub $field: $config,)* }

        impl Sections {
            /// Reads the sections, whose tables `take` returns; `None` after an error.
            pub(super) fn read(
                mut take: impl FnMut(Section) -> LayeredTable,
                sources: &Sources,
                report: &mut DiagnosticSink,
            ) -> Option<Self> {
                $(let $field = $config::read(&take(Section::$section), sources, report);)*
                Some(Self { $($field: $field?,)* })
            }

            /// Adds the keys that differ.
            pub(super) fn changes(&self, new: &Self, difference: &mut ConfigDiff) {
                $(self.$field.changes(&new.$field, difference);)*
            }
        }
    };
}

sections! {
    settings {
        Store store: StoreConfig;
        Graph graph: GraphConfig;
        Api api: ApiConfig;
        Feed feed: FeedConfig;
        Shard shard: ShardConfig;
        Log log: LogConfig;
    }
    others {
        Defaults "defaults" "[defaults]" settings::KEYS;
        Account "account" "[account.NAME]" ACCOUNT;
        Consumer "consumer" "[consumer.NAME]" CONSUMER;
        Sink "sink" "[sink.NAME]" SINK;
        Window "window" "[[window]]" WINDOW;
        Fleet "fleet" "[[fleet]]" FLEET;
    }
}

/// `[store]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// The store's directory.
    pub path: PathBuf,
    /// Bytes of the store's page cache.
    pub cache: u64,
}

/// Less holds hardly a page for each segment of the tree.
const MIN_CACHE: u64 = 1 << 20;

impl StoreConfig {
    const KEYS: &[ConfigKey] = &[
        ConfigKey::with_default("path", r#""/var/lib/calmirror""#),
        ConfigKey::with_default("cache", r#""96MiB""#),
    ];

    pub(super) fn read(
        table: &LayeredTable,
        _: &Sources,
        report: &mut DiagnosticSink,
    ) -> Option<Self> {
        let mut reader = TableReader::new(table, report);
        let path = reader.read("path", |written| written.path());
        let cache = reader.read("cache", |written| written.bytes(MIN_CACHE));
        if let Some((cache, memory)) = cache.zip(memory_limit())
            && cache > memory
        {
            let [shown, memory] = [cache, memory].map(|bytes| bytes >> 20);
            let problem = format!("{shown} MiB are more than the memory of {memory} MiB");
            reader.warn("cache", Issue::new(problem, "leave most of the memory to other uses"));
        }
        Some(Self { path: path?, cache: cache? })
    }

    changes!("store", { path: refused, cache: refused, });
}

/// `[feed]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedConfig {
    /// How long tombstones are kept.
    pub retention: Duration,
}

/// Readers must be able to resume after an outage of a night or a weekend. Less than an hour is
/// probably a wrong unit.
const MIN_RETENTION: Duration = Duration::from_secs(3600);

impl FeedConfig {
    const KEYS: &[ConfigKey] = &[ConfigKey::with_default("retention", r#""30d""#)];

    fn read(table: &LayeredTable, _: &Sources, report: &mut DiagnosticSink) -> Option<Self> {
        let mut reader = TableReader::new(table, report);
        let retention = reader.read("retention", |written| written.duration(MIN_RETENTION));
        Some(Self { retention: retention? })
    }

    changes!("feed", { retention: settings, });
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// A level or tracing directives, already validated.
    pub level: String,
    /// The format of log lines.
    pub format: LogFormat,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Journald under systemd, text on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Text,
    /// For programs.
    Json,
    /// With journald's own fields.
    Journald,
}

impl LogConfig {
    const KEYS: &[ConfigKey] = &[
        ConfigKey::with_default("level", r#""info""#),
        ConfigKey::with_default("format", r#""auto""#),
    ];

    fn read(table: &LayeredTable, _: &Sources, report: &mut DiagnosticSink) -> Option<Self> {
        let mut reader = TableReader::new(table, report);
        let level = reader.read("level", |written| level(written.text()?));
        let format = reader.read("format", log_format);
        Some(Self { level: level?, format: format? })
    }

    changes!("log", { level: settings, format: refused, });
}

const ACCOUNT: &[ConfigKey] = &[
    ConfigKey::without_default("tenant"),
    ConfigKey::without_default("client_id"),
    ConfigKey::without_default("client_secret_file"),
    ConfigKey::without_default("client_secret_env"),
    ConfigKey::without_default("certificate_file"),
    ConfigKey::without_default("certificate_password_file"),
    ConfigKey::without_default("federated_token_file"),
    ConfigKey::without_default("managed_identity"),
    ConfigKey::without_default("device_code"),
    ConfigKey::without_default("access_token_file"),
    ConfigKey::without_default("access_token_command"),
    ConfigKey::without_default("proxy"),
    ConfigKey::without_default("proxy_credentials_file"),
];

const CONSUMER: &[ConfigKey] = &[
    ConfigKey::without_default("token_file"),
    ConfigKey::without_default("uid"),
    ConfigKey::without_default("windows"),
    ConfigKey::with_default("level", r#""all""#),
    ConfigKey::with_default("write", "false"),
    ConfigKey::without_default("origins"),
];

const SINK: &[ConfigKey] = &[
    ConfigKey::without_default("type"),
    ConfigKey::without_default("windows"),
    ConfigKey::without_default("groups"),
    ConfigKey::without_default("filter"),
    ConfigKey::with_default("level", r#""all""#),
    ConfigKey::with_default("batch", r#""2s""#),
    ConfigKey::without_default("url_file"),
    ConfigKey::without_default("url"),
    ConfigKey::without_default("ca_file"),
    ConfigKey::without_default("secret_file"),
    ConfigKey::with_default("format", r#""lines""#),
    ConfigKey::with_default("allow_private", "false"),
    ConfigKey::with_default("schema", r#""calmirror""#),
    ConfigKey::without_default("path"),
    ConfigKey::without_default("credentials_file"),
    ConfigKey::with_default("stream", r#""CALMIRROR""#),
    ConfigKey::with_default("subject", r#""calmirror""#),
];

/// The keys of a window, in addition to every key of `[defaults]`.
const WINDOW: &[ConfigKey] = &[
    ConfigKey::without_default("name"),
    ConfigKey::without_default("account"),
    ConfigKey::without_default("mailbox"),
    ConfigKey::without_default("mailboxes_file"),
    ConfigKey::without_default("calendar"),
    ConfigKey::without_default("groups"),
];

/// The keys of a fleet, in addition to every key of `[defaults]`.
const FLEET: &[ConfigKey] = &[
    ConfigKey::without_default("name"),
    ConfigKey::without_default("account"),
    ConfigKey::without_default("rooms"),
    ConfigKey::without_default("room_list"),
    ConfigKey::without_default("members_of"),
    ConfigKey::without_default("users"),
    ConfigKey::without_default("calendars_of"),
    ConfigKey::without_default("mailboxes_file"),
    ConfigKey::without_default("calendars"),
    ConfigKey::without_default("window_name"),
    ConfigKey::without_default("groups"),
    ConfigKey::with_default("relist_every", r#""1h""#),
];

impl Section {
    /// The section of that name, or an error that suggests what to write.
    pub(super) fn find(name: &str) -> Result<Self, Issue> {
        let names = SECTIONS.iter().copied().map(Self::name);
        SECTIONS.iter().copied().find(|section| section.name() == name).ok_or_else(|| {
            // `windows` is a mistyped section rather than a key of another one.
            let home = if nearest(name, names.clone()).is_some() { None } else { home_of(name) };
            let remedy = home.unwrap_or_else(|| suggest(name, names, "the sections are"));
            Issue::new("unknown section", remedy)
        })
    }

    /// Whether each of its tables has a name in its header, such as `[account.contoso]`.
    pub(super) fn is_named(self) -> bool {
        matches!(self, Self::Account | Self::Consumer | Self::Sink)
    }

    /// One of its tables, in messages: `an account`.
    pub(super) fn one(self) -> String {
        let article = if self == Self::Account { "an" } else { "a" };
        format!("{article} {}", self.name())
    }

    /// Every key that the section may have.
    pub(super) fn keys(self) -> impl Iterator<Item = &'static ConfigKey> + Clone {
        let inherited: &[ConfigKey] = match self {
            Self::Window | Self::Fleet => settings::KEYS,
            _ => &[],
        };
        self.own_keys().iter().chain(inherited)
    }

    /// The key of that name.
    pub(super) fn key(self, name: &str) -> Option<&'static ConfigKey> {
        self.keys().find(|key| key.name == name)
    }

    /// Checks that the section may have a key of that name; the error suggests what to write.
    pub(super) fn check(self, name: &str) -> Result<(), Issue> {
        if self.key(name).is_some() {
            return Ok(());
        }
        let secrets: &[&str] = match self {
            Self::Account => &["client_secret", "access_token"],
            Self::Consumer => &["token"],
            _ => &[],
        };
        if secrets.contains(&name) {
            return Err(Issue::new(
                "secrets do not belong in the configuration",
                format!("put it into a file of mode 0600 and name that with {name}_file"),
            ));
        }
        let names = self.keys().map(|key| key.name);
        let remedy = home_of(name).unwrap_or_else(|| suggest(name, names, "the keys here are"));
        Err(Issue::new("unknown key", remedy))
    }
}

/// Names the section of a key in a remedy; `None` if no section has it.
fn home_of(key: &str) -> Option<String> {
    let section = SECTIONS.iter().find(|section| section.key(key).is_some())?;
    Some(format!("it belongs under {}", section.header()))
}

pub(super) fn log_format(written: RawValue<'_>) -> Result<LogFormat, Issue> {
    written.choice(&[
        ("auto", LogFormat::Auto),
        ("text", LogFormat::Text),
        ("json", LogFormat::Json),
        ("journald", LogFormat::Journald),
    ])
}

/// Validates a level or directives for [`LogConfig::level`]. Tracing takes a mistyped level for the
/// name of a target and then logs nothing else, so a single word must be a level.
///
/// # Errors
/// The problem, and the known levels.
pub fn level(text: &str) -> Result<String, Issue> {
    const LEVELS: [&str; 6] = ["trace", "debug", "info", "warn", "error", "off"];
    let text = text.trim();
    let plain = text.chars().all(char::is_alphanumeric);
    if plain && !LEVELS.contains(&text.to_ascii_lowercase().as_str()) {
        let remedy = suggest(text, LEVELS.into_iter(), "the levels are");
        return Err(Issue::new(format!("unknown level {text:?}"), remedy));
    }
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|_| {
        let remedy = "write a level, or directives such as \"info,calmirror::graph=debug\"";
        Issue::new(format!("neither a level nor directives: {text:?}"), remedy)
    })
}
