//! Reads one table key by key: types, bounds, defaults, effective values.
//!
//! A reader does not stop at an error: it records the error and returns `None`. `None` for a key
//! with a default therefore means that an error was recorded, and the caller can give up without
//! reporting another one.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use config::{Value, ValueKind};

use super::diagnostic::{Issue, suggest};
use super::origin::{DiagnosticSink, EffectiveValue, ValueOrigin};
use super::table::{LayeredTable, default_value};

/// Longer than any sensible setting, and short enough that adding it to a clock does not overflow.
const MAX_DURATION: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// Reads one table.
pub(super) struct TableReader<'a> {
    table: &'a LayeredTable,
    pub(super) report: &'a mut DiagnosticSink,
}

/// A value as it was written, and its origin.
#[derive(Clone, Copy)]
pub(super) struct RawValue<'a> {
    kind: &'a ValueKind,
    origin: &'a ValueOrigin,
}

impl<'a> TableReader<'a> {
    pub(super) fn new(table: &'a LayeredTable, report: &'a mut DiagnosticSink) -> Self {
        Self { table, report }
    }

    /// The key's name in messages.
    pub(super) fn name(&self, key: &str) -> String {
        let path = &self.table.path;
        match key {
            "" => path.clone(),
            key => format!("{path}.{key}"),
        }
    }

    /// Whether the key is configured.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.values.contains_key(key)
    }

    /// The origin of the key, or of its table if the key is absent.
    pub(super) fn origin(&self, key: &str) -> ValueOrigin {
        self.table.values.get(key).map_or(&self.table.origin, |(_, origin)| origin).clone()
    }

    /// Reports an error at the key.
    pub(super) fn fault(&mut self, key: &str, wrong: Issue) {
        let origin = self.origin(key);
        self.report.fault(&origin, &self.name(key), wrong);
    }

    /// Reports that the key is missing. If an entry of the table was rejected, nothing is reported:
    /// that entry is probably the key, mistyped.
    pub(super) fn missing(&mut self, key: &str, problem: &str, remedy: impl Into<String>) {
        if !self.table.refused {
            self.fault(key, Issue::new(problem, remedy));
        }
    }

    /// Reports a warning at the key.
    pub(super) fn warn(&mut self, key: &str, wrong: Issue) {
        let origin = self.origin(key);
        self.report.warn(&origin, &self.name(key), wrong);
    }

    /// The key's value, converted by `read`; `None` if it is invalid, or absent without a default.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(RawValue<'_>) -> Result<T, Issue>,
    ) -> Option<T> {
        let shipped;
        let written = match self.table.values.get(key) {
            Some((kind, origin)) => RawValue { kind, origin },
            None => {
                let key = self.table.defaults.iter().find(|one| one.name == key)?;
                shipped = default_value(key.default?)?;
                RawValue::of_default(&shipped)
            }
        };
        self.explain(key, written, written.kind.to_string(), read)
    }

    /// The same for a value that is never shown, and has no default.
    pub(super) fn read_hidden<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(RawValue<'_>) -> Result<T, Issue>,
    ) -> Option<T> {
        let (kind, origin) = self.table.values.get(key)?;
        self.explain(key, RawValue { kind, origin }, "(hidden)".to_owned(), read)
    }

    fn explain<T>(
        &mut self,
        key: &'static str,
        written: RawValue<'_>,
        value: String,
        read: impl FnOnce(RawValue<'_>) -> Result<T, Issue>,
    ) -> Option<T> {
        match read(written) {
            Ok(result) => {
                let (key, origin) = (self.name(key), written.origin.clone());
                self.report.explained.push(EffectiveValue { key, value, origin });
                Some(result)
            }
            Err(wrong) => {
                self.fault(key, wrong);
                None
            }
        }
    }
}

impl<'a> RawValue<'a> {
    /// A default.
    pub(super) fn of_default(kind: &'a ValueKind) -> Self {
        Self { kind, origin: &ValueOrigin::Default }
    }

    /// A string that is not empty.
    pub(super) fn text(self) -> Result<&'a str, Issue> {
        match self.kind {
            ValueKind::String(text) if text.trim().is_empty() => {
                Err(Issue::new("empty", "write a value, or remove the line"))
            }
            ValueKind::String(text) => Ok(text.as_str()),
            ValueKind::Array(_) => {
                Err(Issue::new("a list or a table, not a single value", "write one value"))
            }
            _ => Err(Issue::new("not a string", "put it in quotes")),
        }
    }

    /// A list of strings; in the environment separated by commas.
    pub(super) fn texts(self) -> Result<Vec<&'a str>, Issue> {
        if let Some(text) = self.variable() {
            return Ok(text.split(',').map(str::trim).collect());
        }
        let wrong = || Issue::new("not a list of strings", "write it like [\"one\", \"another\"]");
        let ValueKind::Array(values) = self.kind else { return Err(wrong()) };
        let text = |value: &'a Value| match &value.kind {
            ValueKind::String(text) => Ok(text.as_str()),
            _ => Err(wrong()),
        };
        values.iter().map(text).collect()
    }

    /// The trimmed value of an environment variable. Variables have only string values.
    fn variable(self) -> Option<&'a str> {
        match (self.kind, self.origin) {
            (ValueKind::String(text), ValueOrigin::Environment(_)) => Some(text.trim()),
            _ => None,
        }
    }

    pub(super) fn flag(self) -> Result<bool, Issue> {
        match (self.kind, self.variable()) {
            (ValueKind::Boolean(flag), _) => Ok(*flag),
            (_, Some("true")) => Ok(true),
            (_, Some("false")) => Ok(false),
            _ => Err(Issue::new("neither true nor false", "write true or false, without quotes")),
        }
    }

    pub(super) fn integer<T: TryFrom<i64>>(self, range: RangeInclusive<i64>) -> Result<T, Issue> {
        let number = match (self.kind, self.variable()) {
            (ValueKind::I64(number), _) => Some(*number),
            (_, Some(text)) => text.parse().ok(),
            _ => None,
        };
        let bounds = format!("write {} to {}, without quotes", range.start(), range.end());
        let Some(number) = number else { return Err(Issue::new("not a whole number", bounds)) };
        let fitting = T::try_from(number).ok().filter(|_| range.contains(&number));
        fitting.ok_or_else(|| Issue::new(format!("{number} is out of bounds"), bounds))
    }

    /// A fraction from 0 to 1.
    pub(super) fn share(self) -> Result<f64, Issue> {
        let number = match (self.kind, self.variable()) {
            (ValueKind::Float(number), _) => Some(*number),
            (ValueKind::I64(0), _) => Some(0.0),
            (ValueKind::I64(1), _) => Some(1.0),
            (_, Some(text)) => text.parse().ok(),
            _ => None,
        };
        number
            .filter(|number| (0.0..=1.0).contains(number))
            .ok_or_else(|| Issue::new("not a fraction", "write 0.0 to 1.0, without quotes"))
    }

    /// A duration of at least `least`, such as `90s`, `5m` or `1h 30m`.
    pub(super) fn duration(self, least: Duration) -> Result<Duration, Issue> {
        let text = match self.kind {
            ValueKind::I64(number) => {
                let remedy = format!("write it with its unit, in quotes, such as \"{number}s\"");
                return Err(Issue::new("a duration without a unit", remedy));
            }
            _ => self.text()?,
        };
        let duration = humantime::parse_duration(text).map_err(|_| {
            let remedy = "write it like \"90s\", \"5m\", \"1h 30m\" or \"7d\"";
            Issue::new(format!("not a duration: {text:?}"), remedy)
        })?;
        if duration < least {
            let least = humantime::format_duration(least);
            return Err(Issue::new("too short", format!("write at least {least}")));
        }
        if duration > MAX_DURATION {
            return Err(Issue::new("too long", "stay within ten years"));
        }
        Ok(duration)
    }

    /// A number of bytes of at least `least`, such as `128MiB`.
    pub(super) fn bytes(self, least: u64) -> Result<u64, Issue> {
        let remedy = "write it with its unit, in quotes, such as \"128MiB\"";
        let text = match self.kind {
            ValueKind::I64(_) => return Err(Issue::new("a size without a unit", remedy)),
            _ => self.text()?,
        };
        let has_unit = text.ends_with(|c: char| c.is_ascii_alphabetic());
        let size = text.parse::<ByteSize>().ok().filter(|_| has_unit);
        let size = size.ok_or_else(|| Issue::new(format!("not a size: {text:?}"), remedy))?;
        if size.as_u64() < least {
            let least = ByteSize(least);
            return Err(Issue::new("too small", format!("write at least {least}")));
        }
        Ok(size.as_u64())
    }

    /// A duration, or `off`.
    pub(super) fn duration_or_off(self, least: Duration) -> Result<Option<Duration>, Issue> {
        if matches!(self.kind, ValueKind::String(text) if text == "off") {
            return Ok(None);
        }
        self.duration(least).map(Some)
    }

    /// One of a fixed set of words.
    pub(super) fn choice<T: Copy>(self, choices: &[(&'static str, T)]) -> Result<T, Issue> {
        let text = self.text()?;
        choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
            let names = choices.iter().map(|(name, _)| *name);
            Issue::new(format!("unknown value {text:?}"), suggest(text, names, "write one of"))
        })
    }

    /// A path. A relative one in a file is resolved against the directory of that file.
    pub(super) fn path(self) -> Result<PathBuf, Issue> {
        let path = Path::new(self.text()?);
        Ok(match self.origin {
            ValueOrigin::File { path: file, .. } => file.parent().unwrap_or(file).join(path),
            ValueOrigin::Default | ValueOrigin::Environment(_) => path.to_owned(),
        })
    }
}
