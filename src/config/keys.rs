//! The sections of a configuration, their keys and defaults.
//!
//! A default is written as TOML and read exactly like a configured value, so that there is one way
//! to read a value. The reason for each default is in `config/calmirror.toml`; a test keeps the two
//! in agreement. Keys that are not in these tables are rejected as unknown. The keys of `[defaults]`
//! are in the table of [`settings`].

use super::diagnostic::{Issue, suggest};
use super::settings;
use super::table::ConfigKey;

const fn set(name: &'static str, default: &'static str) -> ConfigKey {
    ConfigKey { name, default: Some(default) }
}

const fn unset(name: &'static str) -> ConfigKey {
    ConfigKey { name, default: None }
}

/// A section: a kind of table in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Store,
    Graph,
    Api,
    Feed,
    Log,
    Defaults,
    Account,
    Window,
}

/// Every section.
pub(super) const SECTIONS: [Section; 8] = [
    Section::Store,
    Section::Graph,
    Section::Api,
    Section::Feed,
    Section::Log,
    Section::Defaults,
    Section::Account,
    Section::Window,
];

const STORE: &[ConfigKey] = &[set("path", r#""/var/lib/calmirror""#)];

const GRAPH: &[ConfigKey] = &[
    set("cloud", r#""global""#),
    unset("base_url"),
    unset("login_url"),
    set("max_concurrent", "256"),
    set("max_concurrent_per_mailbox", "3"),
    set("request_timeout", r#""100s""#),
];

const API: &[ConfigKey] = &[
    set("socket", r#""/run/calmirror/api.sock""#),
    unset("socket_group"),
    unset("listen"),
    unset("hosts"),
    unset("token_file"),
    unset("read_token_file"),
    set("mask_private", "false"),
];

const FEED: &[ConfigKey] = &[set("retention", r#""30d""#)];

const LOG: &[ConfigKey] = &[set("level", r#""info""#), set("format", r#""auto""#)];

const ACCOUNT: &[ConfigKey] = &[
    unset("tenant"),
    unset("client_id"),
    unset("client_secret_file"),
    unset("client_secret_env"),
    unset("certificate_file"),
    unset("access_token_file"),
];

/// The keys of a window, in addition to every key of `[defaults]`.
const WINDOW: &[ConfigKey] = &[
    unset("name"),
    unset("account"),
    unset("mailbox"),
    unset("mailboxes_file"),
    unset("calendar"),
];

/// Planned sign-in methods. They have their own error, so that users do not look for a typo.
const PLANNED: [&str; 4] =
    ["federated_token_file", "managed_identity", "device_code", "access_token_command"];

impl Section {
    /// The table's name in the file, the line that opens it, and its own keys.
    fn row(self) -> (&'static str, &'static str, &'static [ConfigKey]) {
        match self {
            Self::Store => ("store", "[store]", STORE),
            Self::Graph => ("graph", "[graph]", GRAPH),
            Self::Api => ("api", "[api]", API),
            Self::Feed => ("feed", "[feed]", FEED),
            Self::Log => ("log", "[log]", LOG),
            Self::Defaults => ("defaults", "[defaults]", settings::KEYS),
            Self::Account => ("account", "[account.NAME]", ACCOUNT),
            Self::Window => ("window", "[[window]]", WINDOW),
        }
    }

    /// The table's name in the file.
    pub(super) fn name(self) -> &'static str {
        self.row().0
    }

    /// The line that opens the table in the file.
    pub(super) fn header(self) -> &'static str {
        self.row().1
    }

    /// The section's own keys.
    pub(super) fn own_keys(self) -> &'static [ConfigKey] {
        self.row().2
    }

    /// The section of that name, or an error that suggests what to write.
    pub(super) fn find(name: &str) -> Result<Self, Issue> {
        SECTIONS.into_iter().find(|section| section.name() == name).ok_or_else(|| {
            let names = SECTIONS.into_iter().map(Self::name);
            Issue::new("unknown section", remedy(name, names, "the sections are"))
        })
    }

    /// Every key that the section may have.
    pub(super) fn keys(self) -> impl Iterator<Item = &'static ConfigKey> + Clone {
        let inherited: &[ConfigKey] = if self == Self::Window { settings::KEYS } else { &[] };
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
        if self == Self::Account && PLANNED.contains(&name) {
            return Err(Issue::new(
                "not supported in this version",
                "use client_secret_file, client_secret_env, certificate_file or access_token_file",
            ));
        }
        if self == Self::Account && ["client_secret", "access_token"].contains(&name) {
            return Err(Issue::new(
                "secrets do not belong in the configuration",
                format!("put it into a file of mode 0600 and name that with {name}_file"),
            ));
        }
        let names = self.keys().map(|key| key.name);
        Err(Issue::new("unknown key", remedy(name, names, "the keys here are")))
    }
}

/// Where an unknown name belongs, or which name is meant.
fn remedy(
    name: &str,
    known: impl Iterator<Item = &'static str> + Clone,
    all: &'static str,
) -> String {
    match SECTIONS.into_iter().find(|section| section.key(name).is_some()) {
        Some(section) => format!("it belongs under {}", section.header()),
        None => suggest(name, known, all),
    }
}
