//! The key table of `[defaults]`: settings of every window, which each window may override.
//!
//! The row of a key in `window_settings!` is its only definition in this room. A field of
//! [`WindowSettings`] without a row, or a row without a field, does not compile.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::diagnostic::Issue;
use super::edge::edge;
use super::origin::DiagnosticSink;
use super::reader::{RawValue, TableReader};
use super::table::{ConfigKey, LayeredTable, default_value};
use crate::mirror::window::{BodyFormat, Completion, Edge, WindowSettings};

/// What a changed window requires; a later variant is stronger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReloadEffect {
    /// Only the schedule or the request options of the next rounds change.
    Retimed,
    /// The window is enumerated again.
    Resynced,
    /// The name refers to another stream of ids: the old events are removed first.
    Replaced,
}

/// The shortest interval; below a second the daemon would loop.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// A move is a whole enumeration and an audit is an extra read, so neither may run every minute.
const HOUR: Duration = Duration::from_secs(3600);

/// The settings of a window, and which of them were rejected.
#[derive(Clone, Debug)]
pub(super) struct LayeredSettings {
    pub(super) values: WindowSettings,
    /// The keys with an invalid value, for which `values` has that of the layer below.
    invalid: BTreeSet<&'static str>,
}

impl LayeredSettings {
    /// The settings of `[defaults]`.
    pub(super) fn defaults(table: &LayeredTable, report: &mut DiagnosticSink) -> Option<Self> {
        let shipped = Self { values: default_settings()?, invalid: BTreeSet::new() };
        Some(shipped.overridden(&mut TableReader::new(table, report)))
    }

    /// The edges; `None` if one is invalid, because the length of the window is then unknown.
    pub(super) fn edges(&self) -> Option<(Edge, Edge)> {
        let valid = !self.invalid.contains("start") && !self.invalid.contains("end");
        valid.then_some((self.values.start, self.values.end))
    }
}

/// Generates what handles every key from the rows of the key table: the list of keys, the defaults,
/// the reader and the comparison.
macro_rules! window_settings {
    ($($key:ident: $default:literal, $read:expr, $effect:ident;)*) => {
        /// Every key of `[defaults]`, with its default.
        pub(super) const KEYS: &[ConfigKey] =
            &[$(ConfigKey { name: stringify!($key), default: Some($default) }),*];

        /// The settings of a window for which the configuration sets none; `None` if a default of
        /// the table is invalid, which the tests exclude.
        pub fn default_settings() -> Option<WindowSettings> {
            Some(WindowSettings { $($key: shipped($default, $read)?),* })
        }

        impl LayeredSettings {
            /// These settings, overridden by those of a table.
            pub(super) fn overridden(&self, reader: &mut TableReader<'_>) -> Self {
                let mut over = self.clone();
                $(match reader.read(stringify!($key), $read) {
                    Some(value) => {
                        over.values.$key = value;
                        over.invalid.remove(stringify!($key));
                    }
                    None if reader.has(stringify!($key)) => {
                        over.invalid.insert(stringify!($key));
                    }
                    None => {}
                })*
                over
            }
        }

        /// The keys in which two windows differ, each with the effect of its change.
        pub(super) fn changed_keys(
            old: &WindowSettings,
            new: &WindowSettings,
        ) -> Vec<(&'static str, ReloadEffect)> {
            let mut changed = Vec::new();
            $(if old.$key != new.$key {
                changed.push((stringify!($key), ReloadEffect::$effect));
            })*
            changed
        }
    };
}

// The columns: the key, its default as TOML, how a value is read and checked, and the effect of a
// reload that changes it.
window_settings! {
    interval:      r#""5m""#,     |value| value.duration(MIN_INTERVAL),  Retimed;
    jitter:        "0.2",         |value| value.share(),                 Retimed;
    start:         r#""-30d""#,   |value| edge(value.text()?),           Resynced;
    end:           r#""+365d""#,  |value| edge(value.text()?),           Resynced;
    move_every:    r#""7d""#,     |value| value.duration(HOUR),          Retimed;
    page_size:     "200",         |value| value.integer(1..=1000),       Retimed;
    body:          r#""html""#,   |value| value.choice(&BODY_FORMATS),   Resynced;
    time_zone:     r#""UTC""#,    time_zone,                             Resynced;
    immutable_ids: "false",       |value| value.flag(),                  Replaced;
    complete:      r#""master""#, |value| value.choice(&COMPLETIONS),    Resynced;
    audit:         r#""7d""#,     |value| value.duration_or_off(HOUR),   Retimed;
    confirm_after: r#""10m""#,    |value| value.duration(MIN_INTERVAL),  Retimed;
}

const BODY_FORMATS: [(&str, BodyFormat); 3] =
    [("html", BodyFormat::Html), ("text", BodyFormat::Text), ("none", BodyFormat::None)];

const COMPLETIONS: [(&str, Completion); 2] =
    [("master", Completion::Master), ("exact", Completion::Exact)];

/// Reads a default of the table.
fn shipped<T>(default: &str, read: impl FnOnce(RawValue<'_>) -> Result<T, Issue>) -> Option<T> {
    read(RawValue::of_default(&default_value(default)?)).ok()
}

/// A time zone that Outlook knows, by its Windows name or an IANA name.
fn time_zone(written: RawValue<'_>) -> Result<Arc<str>, Issue> {
    let name = written.text()?;
    if localzone::win_zone_to_iana(name, None).is_some() || TimeZone::get(name).is_ok() {
        return Ok(name.into());
    }
    Err(Issue::new(
        format!("unknown time zone {name:?}"),
        "write an IANA name such as \"Europe/Berlin\", or a Windows one such as \"W. Europe Standard Time\"",
    ))
}
