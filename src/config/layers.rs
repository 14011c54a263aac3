//! Merges the layers of a configuration.
//!
//! Tables merge key by key: files in their order, then the environment; the last value wins. Every
//! value keeps its origin. `[[window]]` and `[[fleet]]` entries are not merged: those of all
//! files are concatenated. Variables with our prefix that match no key are rejected here.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use config::{ConfigError, Environment, Map, Source, Value, ValueKind};

use super::diagnostic::Issue;
use super::entry::plain_name;
use super::file::{ConfigFile, Leaf};
use super::origin::{DiagnosticSink, ValueOrigin};
use super::sections::Section;
use super::sources::{CONF_D, Sources, conf_d};
use super::table::LayeredTable;

/// The prefix of settings in the environment: `CALMIRROR__SECTION__KEY`.
const PREFIX: &str = "CALMIRROR";

/// Separates sections and keys in the environment.
const SEPARATOR: &str = "__";

/// All layers, merged.
#[derive(Debug)]
pub(super) struct Layers {
    sections: BTreeMap<&'static str, LayeredTable>,
    pub(super) accounts: BTreeMap<String, LayeredTable>,
    pub(super) consumers: BTreeMap<String, LayeredTable>,
    pub(super) sinks: BTreeMap<String, LayeredTable>,
    pub(super) windows: Vec<LayeredTable>,
    pub(super) fleets: Vec<LayeredTable>,
}

impl Layers {
    /// Reads everything. Returns `None` if a file cannot be read or is not TOML, because the values
    /// missing from it would cause further errors.
    pub(super) fn read(sources: &Sources, report: &mut DiagnosticSink) -> Option<Self> {
        let (layers, whole) = Self::read_lenient(sources, report);
        whole.then_some(layers)
    }

    /// Reads what can be read; the flag says whether that is everything.
    pub(super) fn read_lenient(sources: &Sources, report: &mut DiagnosticSink) -> (Self, bool) {
        let mut paths = vec![sources.file.clone()];
        paths.extend(conf_d(&sources.file, report));
        let folder = sources.file.with_file_name(CONF_D);
        for path in paths.iter().chain(std::iter::once(&folder)) {
            if let Some(wrong) = world_writable(path) {
                report.file_warning(path, wrong);
            }
        }
        let files: Vec<ConfigFile> =
            paths.iter().filter_map(|path| ConfigFile::read(path, report)).collect();
        let variables = variables(&sources.environment, report);
        let whole = files.len() == paths.len();
        (Self::merge(files, variables, report), whole)
    }

    /// Removes and returns a section's table; only defaults if the section is not configured.
    pub(super) fn take(&mut self, section: Section) -> LayeredTable {
        let table = self.sections.remove(section.name()).unwrap_or_default();
        let path = section.name().to_owned();
        LayeredTable { path, defaults: section.own_keys(), ..table }
    }

    /// Whether a token for the API is configured, valid or not.
    pub(super) fn has_token(&self) -> bool {
        let api = self.sections.get(Section::Api.name());
        let mut tables = api.into_iter().chain(self.consumers.values());
        let has = |table: &LayeredTable, key| table.values.contains_key(key);
        tables.any(|table| has(table, "token_file") || has(table, "read_token_file"))
    }

    fn merge(
        files: Vec<ConfigFile>,
        variables: Map<String, String>,
        report: &mut DiagnosticSink,
    ) -> Self {
        let (mut windows, mut fleets) = (Vec::new(), Vec::new());
        let mut headers: BTreeMap<String, ValueOrigin> = BTreeMap::new();
        let mut refused: BTreeSet<String> = BTreeSet::new();
        let paths: Vec<Arc<Path>> = files.iter().map(|file| file.path.clone()).collect();
        let mut builder = config::Config::builder();
        for (index, mut file) in files.into_iter().enumerate() {
            windows.append(&mut file.windows);
            fleets.append(&mut file.fleets);
            refused.append(&mut file.refused);
            for (table, line) in std::mem::take(&mut file.named) {
                let origin = ValueOrigin::File { path: file.path.clone(), line };
                headers.entry(table).or_insert(origin);
            }
            builder = builder.add_source(Layer { index, tables: file.tables });
        }
        let environment = Environment::with_prefix(PREFIX)
            .prefix_separator(SEPARATOR)
            .separator(SEPARATOR)
            .source(Some(variables));
        let merged = match builder.add_source(environment).build() {
            Ok(merged) => merged.cache.into_table().unwrap_or_default(),
            Err(error) => {
                let remedy = "check the environment's CALMIRROR__ variables";
                report.fault(&ValueOrigin::Default, "", Issue::new(error.to_string(), remedy));
                Map::new()
            }
        };
        let (sections, accounts) = (BTreeMap::new(), BTreeMap::new());
        let (consumers, sinks) = (BTreeMap::new(), BTreeMap::new());
        let mut layers = Self { sections, accounts, consumers, sinks, windows, fleets };
        for (name, value) in merged {
            let Ok(section) = Section::find(&name) else { continue };
            let Ok(values) = value.into_table() else { continue };
            if section.is_named() {
                let named = match section {
                    Section::Consumer => &mut layers.consumers,
                    Section::Sink => &mut layers.sinks,
                    _ => &mut layers.accounts,
                };
                for (name, value) in values {
                    let path = format!("{}.{name}", section.name());
                    let header = headers.remove(&path);
                    let mut table = table(path, header, value.into_table().ok(), &paths);
                    table.refused = refused.contains(&table.path);
                    table.defaults = section.own_keys();
                    named.insert(name, table);
                }
            } else {
                let table = table(section.name().to_owned(), None, Some(values), &paths);
                layers.sections.insert(section.name(), table);
            }
        }
        layers
    }
}

/// Reports a configuration file that every user of the machine can change: it decides where secrets
/// are sent and which calendars are read. A file that cannot be inspected is not reported here.
pub(super) fn world_writable(path: &Path) -> Option<Issue> {
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o7777;
    (mode & 0o002 != 0).then(|| {
        let problem = format!("every user of this machine can change it (mode {mode:04o})");
        Issue::new(problem, format!("chmod o-w {}", path.display()))
    })
}

/// Builds a table whose values have the origins recorded by their layers.
fn table(
    path: String,
    header: Option<ValueOrigin>,
    values: Option<Map<String, Value>>,
    paths: &[Arc<Path>],
) -> LayeredTable {
    let values: BTreeMap<String, (ValueKind, ValueOrigin)> = values
        .unwrap_or_default()
        .into_iter()
        .map(|(key, value)| {
            let origin = match value.origin().and_then(SourceMark::parse) {
                Some(SourceMark { file, line }) if file < paths.len() => {
                    ValueOrigin::File { path: paths[file].clone(), line }
                }
                _ => {
                    let name = format!("{PREFIX}.{path}.{key}").replace('.', SEPARATOR);
                    ValueOrigin::Environment(name.to_uppercase())
                }
            };
            (key, (value.kind, origin))
        })
        .collect();
    let origin = header
        .or_else(|| values.values().next().map(|(_, origin)| origin.clone()))
        .unwrap_or(ValueOrigin::Default);
    LayeredTable { path, origin, values, ..LayeredTable::default() }
}

/// A position in the files, in the form in which it passes through the merge.
#[derive(Clone, Copy)]
struct SourceMark {
    file: usize,
    line: usize,
}

impl SourceMark {
    fn parse(text: &str) -> Option<Self> {
        let (file, line) = text.split_once(':')?;
        Some(Self { file: file.parse().ok()?, line: line.parse().ok()? })
    }

    fn value(self, kind: ValueKind) -> Value {
        Value::new(Some(&format!("{}:{}", self.file, self.line)), kind)
    }
}

/// One file's tables as a layer.
#[derive(Clone, Debug)]
struct Layer {
    index: usize,
    tables: BTreeMap<String, BTreeMap<String, Leaf>>,
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        let mut root: Map<String, Value> = Map::new();
        for (path, leaves) in &self.tables {
            let values: Map<String, Value> = leaves
                .iter()
                .map(|(key, (kind, line))| {
                    let mark = SourceMark { file: self.index, line: *line };
                    (key.clone(), mark.value(kind.clone()))
                })
                .collect();
            let values = Value::new(None, values);
            match path.split_once('.') {
                None => drop(root.insert(path.clone(), values)),
                Some((section, name)) => {
                    let named = root
                        .entry(section.to_owned())
                        .or_insert_with(|| Value::new(None, Map::<String, Value>::new()));
                    if let ValueKind::Table(named) = &mut named.kind {
                        named.insert(name.to_owned(), values);
                    }
                }
            }
        }
        Ok(root)
    }
}

/// The variables that match a key; others with our prefix are errors.
fn variables(
    environment: &BTreeMap<String, String>,
    report: &mut DiagnosticSink,
) -> Map<String, String> {
    let mut ours = Map::new();
    for (variable, value) in environment {
        let Some(path) = variable.strip_prefix("CALMIRROR__") else { continue };
        if value.is_empty() {
            continue;
        }
        let path = path.to_lowercase();
        let parts: Vec<&str> = path.split(SEPARATOR).collect();
        let checked = Section::find(parts[0]).and_then(|section| match (section, &parts[1..]) {
            (Section::Window, _) => Err(Issue::new(
                "windows cannot be set in the environment",
                "write them into a file, or name one with mailboxes_file there",
            )),
            (Section::Fleet, _) => {
                Err(Issue::new("fleets cannot be set in the environment", "write them into a file"))
            }
            (_, [name, key]) if section.is_named() => {
                plain_name(name, &section.one()).and_then(|()| section.check(key))
            }
            _ if section.is_named() => {
                let section = section.name().to_uppercase();
                Err(Issue::new("not a key", format!("write CALMIRROR__{section}__NAME__KEY")))
            }
            (_, [key]) => section.check(key),
            (..) => Err(Issue::new("not a key", "write CALMIRROR__SECTION__KEY")),
        });
        match checked {
            Ok(()) => drop(ours.insert(variable.to_uppercase(), value.clone())),
            Err(wrong) => {
                report.fault(&ValueOrigin::Environment(variable.clone()), variable, wrong)
            }
        }
    }
    ours
}
