//! Parses one configuration file and keeps the line of every value.
//!
//! Rejects unknown sections and keys, tables in place of values, and text that is not TOML.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use config::ValueKind;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::Issue;
use super::entry::plain_name;
use super::origin::{DiagnosticSink, ValueOrigin};
use super::sections::Section;
use super::table::{LayeredTable, leaf};

/// A value and its line.
pub(super) type Leaf = (ValueKind, usize);

/// One parsed file.
pub(super) struct ConfigFile {
    pub(super) path: Arc<Path>,
    /// Values by table: `graph`, `account.contoso`, …
    pub(super) tables: BTreeMap<String, BTreeMap<String, Leaf>>,
    /// The line where each named table begins: `account.contoso`, …
    pub(super) named: BTreeMap<String, usize>,
    /// The tables with a rejected key or value.
    pub(super) refused: BTreeSet<String>,
    pub(super) windows: Vec<LayeredTable>,
    pub(super) fleets: Vec<LayeredTable>,
}

impl ConfigFile {
    /// Reads a file; returns `None` if it cannot be read or is not TOML.
    pub(super) fn read(path: &Path, report: &mut DiagnosticSink) -> Option<Self> {
        let path: Arc<Path> = Arc::from(path);
        let text = match std::fs::read(&path).map(String::from_utf8) {
            Ok(Ok(text)) => text,
            Ok(Err(_)) => {
                report.file_fault(&path, Issue::new("not UTF-8 text", "save the file as UTF-8"));
                return None;
            }
            Err(error) => {
                let remedy = if error.kind() == std::io::ErrorKind::NotFound {
                    "write one, or name another with --config or $CALMIRROR_CONFIG"
                } else {
                    "make it a file that the daemon's user may read"
                };
                let wrong = Issue::new(format!("cannot be read: {error}"), remedy);
                report.file_fault(&path, wrong);
                return None;
            }
        };
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let lines = LineIndex::of(text);
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut last = 0;
        for error in &errors {
            let line = error.span().map_or(1, |span| lines.at(span.start));
            // Further errors on the same line mostly follow from the first.
            if line > last {
                let origin = ValueOrigin::File { path: path.clone(), line };
                let wrong = Issue::new(
                    format!("not TOML: {}", error.message().replace('\n', ", ")),
                    "fix the line; strings need quotes, table names [brackets]",
                );
                report.fault(&origin, "", wrong);
            }
            last = line;
        }
        if !errors.is_empty() {
            return None;
        }
        let mut file = Self {
            path,
            tables: BTreeMap::new(),
            named: BTreeMap::new(),
            refused: BTreeSet::new(),
            windows: Vec::new(),
            fleets: Vec::new(),
        };
        file.root(root.into_inner(), &lines, report);
        Some(file)
    }

    fn origin(&self, line: usize) -> ValueOrigin {
        ValueOrigin::File { path: self.path.clone(), line }
    }

    fn root(&mut self, root: DeTable<'_>, lines: &LineIndex, report: &mut DiagnosticSink) {
        for (name, value) in root {
            let line = lines.at(name.span().start);
            let name = name.into_inner();
            let section = match Section::find(&name) {
                Ok(section) => section,
                Err(wrong) => {
                    report.fault(&self.origin(line), &name, wrong);
                    continue;
                }
            };
            match (section, value.into_inner()) {
                (Section::Window | Section::Fleet, DeValue::Array(entries)) => {
                    for entry in entries {
                        self.entry(section, entry, lines, report);
                    }
                }
                (_, DeValue::Table(tables)) if section.is_named() => {
                    for (name, value) in tables {
                        self.named(section, &name, value, lines, report);
                    }
                }
                (
                    Section::Window
                    | Section::Fleet
                    | Section::Account
                    | Section::Consumer
                    | Section::Sink,
                    _,
                ) => {
                    let remedy = format!("open each with a line {}", section.header());
                    let problem = format!("not a list of {name}s");
                    report.fault(&self.origin(line), &name, Issue::new(problem, remedy));
                }
                (_, DeValue::Table(table)) => {
                    let leaves = self.leaves(section, &name, table, lines, report);
                    self.tables.insert(section.name().to_owned(), leaves);
                }
                (..) => {
                    let remedy = format!("open it with a line {}", section.header());
                    report.fault(&self.origin(line), &name, Issue::new("not a section", remedy));
                }
            }
        }
    }

    /// Reads an `[account.NAME]` or a `[consumer.NAME]`.
    fn named(
        &mut self,
        section: Section,
        name: &Spanned<Cow<'_, str>>,
        value: Spanned<DeValue<'_>>,
        lines: &LineIndex,
        report: &mut DiagnosticSink,
    ) {
        let line = lines.at(name.span().start);
        let name = name.get_ref();
        let path = format!("{}.{name}", section.name());
        let one = section.one();
        let DeValue::Table(table) = value.into_inner() else {
            let remedy = format!("open each with a line {}", section.header());
            report.fault(&self.origin(line), &path, Issue::new(format!("not {one}"), remedy));
            return;
        };
        if let Err(wrong) = plain_name(name, &one) {
            report.fault(&self.origin(line), &path, wrong);
            return;
        }
        let leaves = self.leaves(section, &path, table, lines, report);
        self.named.insert(path.clone(), line);
        self.tables.insert(path, leaves);
    }

    /// Reads a `[[window]]` or a `[[fleet]]`.
    fn entry(
        &mut self,
        section: Section,
        entry: Spanned<DeValue<'_>>,
        lines: &LineIndex,
        report: &mut DiagnosticSink,
    ) {
        let line = lines.at(entry.span().start);
        let kind = section.name();
        let DeValue::Table(table) = entry.into_inner() else {
            let remedy = format!("open each with a line {}", section.header());
            let wrong = Issue::new(format!("not {}", section.one()), remedy);
            report.fault(&self.origin(line), kind, wrong);
            return;
        };
        let before = report.faults.len();
        let number = self.entries(section).len() + 1;
        let path = format!("{kind}[{}]", label(&table).unwrap_or_else(|| number.to_string()));
        let leaves = self.leaves(section, &path, table, lines, report);
        let values = leaves.into_iter().map(|(key, (kind, line))| (key, (kind, self.origin(line))));
        let (values, origin) = (values.collect(), self.origin(line));
        let refused = report.faults.len() > before;
        let defaults = section.own_keys();
        self.entries(section).push(LayeredTable { path, origin, values, defaults, refused });
    }

    fn entries(&mut self, section: Section) -> &mut Vec<LayeredTable> {
        if section == Section::Fleet { &mut self.fleets } else { &mut self.windows }
    }

    fn leaves(
        &mut self,
        section: Section,
        path: &str,
        table: DeTable<'_>,
        lines: &LineIndex,
        report: &mut DiagnosticSink,
    ) -> BTreeMap<String, Leaf> {
        let mut leaves = BTreeMap::new();
        for (key, value) in table {
            let line = lines.at(key.span().start);
            let key = key.into_inner();
            let kind = section.check(&key).and_then(|()| leaf(value.into_inner()));
            match kind {
                Ok(kind) => drop(leaves.insert(key.into_owned(), (kind, line))),
                Err(wrong) => {
                    self.refused.insert(path.to_owned());
                    report.fault(&self.origin(line), &format!("{path}.{key}"), wrong);
                }
            }
        }
        leaves
    }
}

/// What best identifies an entry to people.
fn label(table: &DeTable<'_>) -> Option<String> {
    ["name", "mailbox", "mailboxes_file"].into_iter().find_map(|key| {
        match table.get(key)?.get_ref() {
            DeValue::String(text) if !text.trim().is_empty() => Some(text.to_string()),
            _ => None,
        }
    })
}

/// Finds the line of a byte offset.
struct LineIndex(Vec<usize>);

impl LineIndex {
    fn of(text: &str) -> Self {
        Self(
            text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect(),
        )
    }

    fn at(&self, byte: usize) -> usize {
        self.0.partition_point(|newline| *newline < byte) + 1
    }
}
