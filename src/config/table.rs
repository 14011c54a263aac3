//! A table of the configuration that keeps where each value comes from.

use std::collections::BTreeMap;

use config::{Value, ValueKind};
use toml::de::DeValue;

use super::diagnostic::Issue;
use super::origin::ValueOrigin;

/// A key and its default, as TOML; `None` if an absent key has a meaning or is an error.
#[derive(Debug)]
pub(super) struct ConfigKey {
    pub(super) name: &'static str,
    pub(super) default: Option<&'static str>,
}

impl ConfigKey {
    pub(super) const fn with_default(name: &'static str, default: &'static str) -> Self {
        Self { name, default: Some(default) }
    }

    pub(super) const fn without_default(name: &'static str) -> Self {
        Self { name, default: None }
    }
}

/// Generates the comparison of two values of a section, field by field. Each field names its key and
/// the list of the `ConfigDiff` for a change: `settings` if a reload can apply it, otherwise
/// `refused`. A field that is not listed does not compile.
macro_rules! changes {
    ($section:literal, { $($key:ident: $list:ident,)* $(_: $derived:ident)? }) => {
        pub(super) fn changes(&self, new: &Self, difference: &mut ConfigDiff) {
            let Self { $($key,)* $($derived: _)? } = self;
            $(if *$key != new.$key {
                difference.$list.push(concat!($section, ".", stringify!($key)).into());
            })*
        }
    };
}

pub(super) use changes;

/// One merged table; each value has its origin.
#[derive(Debug, Default)]
pub(super) struct LayeredTable {
    /// The prefix of its keys in messages: `graph`, `account.contoso`, `window[alice]`.
    pub(super) path: String,
    pub(super) origin: ValueOrigin,
    pub(super) values: BTreeMap<String, (ValueKind, ValueOrigin)>,
    /// The keys that take their defaults if they are absent. The keys that entries inherit are not
    /// among them: if absent, they take the values of `[defaults]`.
    pub(super) defaults: &'static [ConfigKey],
    /// Whether an entry was already rejected. A key that seems missing may be that entry, mistyped.
    pub(super) refused: bool,
}

/// Parses a default.
pub(super) fn default_value(text: &str) -> Option<ValueKind> {
    DeValue::parse(text).ok().and_then(|value| leaf(value.into_inner()).ok())
}

/// Converts a plain value or a list of strings. TOML dates become strings.
pub(super) fn leaf(value: DeValue<'_>) -> Result<ValueKind, Issue> {
    Ok(match value {
        DeValue::String(text) => ValueKind::String(text.into_owned()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(ValueKind::I64)
            .map_err(|_| Issue::new("the number is too large", "write a smaller one"))?,
        DeValue::Float(number) => number
            .as_str()
            .parse()
            .map(ValueKind::Float)
            .map_err(|_| Issue::new("not a number", "write it like 0.2"))?,
        DeValue::Boolean(flag) => ValueKind::Boolean(flag),
        DeValue::Datetime(date) => ValueKind::String(date.to_string()),
        DeValue::Array(values) if values.iter().all(|value| value.get_ref().is_str()) => {
            let texts = values.into_iter().map(|value| leaf(value.into_inner()));
            let texts = texts.map(|text| Ok(Value::new(None, text?)));
            ValueKind::Array(texts.collect::<Result<_, Issue>>()?)
        }
        DeValue::Array(_) | DeValue::Table(_) => {
            return Err(Issue::new("a list or a table, not a single value", "write one value"));
        }
    })
}
