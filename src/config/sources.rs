//! Where a configuration is written: one file, the files of `conf.d` beside it, the environment.
//!
//! Each file is parsed with spans, so that every value carries its file and line; then the layers
//! are laid over one another, tables merged key by key, the environment last. `[[window]]` entries
//! are kept aside and only ever append. Whatever has no place in the raw shape is refused here:
//! unknown sections and keys, tables where values belong, text that is not TOML.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use config::{ConfigError, Environment, Map, Source, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::Wrong;
use super::keys::Section;
use super::origin::{Origin, Report};

/// Looked at when neither `--config` nor `$CALMIRROR_CONFIG` names a file.
pub const DEFAULT_FILE: &str = "/etc/calmirror/calmirror.toml";

/// Before the names of settings in the environment: `CALMIRROR__SECTION__KEY`.
const PREFIX: &str = "CALMIRROR";

/// Between the names of sections and keys in the environment.
const SEPARATOR: &str = "__";

/// Where to read from. The environment is a value, so that nothing here depends on the process.
#[derive(Clone)]
pub struct Sources {
    /// The main file; `conf.d/*.toml` beside it belongs to it.
    pub file: PathBuf,
    /// The whole environment.
    pub environment: BTreeMap<String, String>,
}

impl Sources {
    /// The file named on the command line, else by `$CALMIRROR_CONFIG`, else [`DEFAULT_FILE`].
    pub fn find(cli: Option<&Path>, environment: BTreeMap<String, String>) -> Self {
        let named = environment.get("CALMIRROR_CONFIG").filter(|file| !file.is_empty());
        let file = cli
            .map(Path::to_owned)
            .or_else(|| named.map(PathBuf::from))
            .unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
        Self { file, environment }
    }
}

impl fmt::Debug for Sources {
    /// Without the environment's values, among which are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").field("file", &self.file).finish_non_exhaustive()
    }
}

/// One table as it was written, each value with its origin.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// What comes before its keys in names: `graph`, `account.contoso`, `window[alice]`.
    pub(super) path: String,
    pub(super) origin: Origin,
    pub(super) values: BTreeMap<String, (ValueKind, Origin)>,
    /// Whether something in it was refused already, so that what seems missing may not be.
    pub(super) refused: bool,
}

/// All layers, laid over one another.
#[derive(Debug)]
pub(super) struct Layers {
    sections: BTreeMap<&'static str, Table>,
    pub(super) accounts: BTreeMap<String, Table>,
    pub(super) windows: Vec<Table>,
}

impl Layers {
    /// Reads everything, or nothing if any of it is not even TOML: what is missing then would only
    /// raise faults of its own.
    pub(super) fn read(sources: &Sources, report: &mut Report) -> Option<Self> {
        let mut paths = vec![sources.file.clone()];
        paths.extend(conf_d(&sources.file, report));
        let files: Vec<File> = paths.iter().filter_map(|path| File::read(path, report)).collect();
        let variables = variables(&sources.environment, report);
        if files.len() < paths.len() {
            return None;
        }
        Some(Self::merge(files, variables, report))
    }

    /// A section's table, empty if nobody wrote one.
    pub(super) fn take(&mut self, section: Section) -> Table {
        self.sections.remove(section.name()).unwrap_or_default()
    }

    fn merge(files: Vec<File>, variables: Map<String, String>, report: &mut Report) -> Self {
        let mut windows = Vec::new();
        let mut headers: BTreeMap<String, Origin> = BTreeMap::new();
        let mut refused: BTreeSet<String> = BTreeSet::new();
        let paths: Vec<Arc<Path>> = files.iter().map(|file| file.path.clone()).collect();
        let mut builder = config::Config::builder();
        for (index, mut file) in files.into_iter().enumerate() {
            windows.append(&mut file.windows);
            refused.append(&mut file.refused);
            for (account, line) in std::mem::take(&mut file.accounts) {
                let origin = Origin::File { path: file.path.clone(), line };
                headers.entry(account).or_insert(origin);
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
                let remedy = "look at the environment's CALMIRROR__ variables";
                report.fault(&Origin::Default, "", Wrong::new(error.to_string(), remedy));
                Map::new()
            }
        };
        let mut layers = Self { sections: BTreeMap::new(), accounts: BTreeMap::new(), windows };
        for (name, value) in merged {
            let Ok(section) = Section::find(&name) else { continue };
            let Ok(values) = value.into_table() else { continue };
            if section == Section::Account {
                for (account, value) in values {
                    let header = headers.remove(&account);
                    let path = format!("account.{account}");
                    let mut table = table(path, header, value.into_table().ok(), &paths);
                    table.refused = refused.contains(&table.path);
                    layers.accounts.insert(account, table);
                }
            } else {
                let table = table(section.name().to_owned(), None, Some(values), &paths);
                layers.sections.insert(section.name(), table);
            }
        }
        layers
    }
}

/// Values with the origins that their layers gave them.
fn table(
    path: String,
    header: Option<Origin>,
    values: Option<Map<String, Value>>,
    paths: &[Arc<Path>],
) -> Table {
    let values: BTreeMap<String, (ValueKind, Origin)> = values
        .unwrap_or_default()
        .into_iter()
        .map(|(key, value)| {
            let origin = match value.origin().and_then(Mark::parse) {
                Some(Mark { file, line }) if file < paths.len() => {
                    Origin::File { path: paths[file].clone(), line }
                }
                _ => {
                    let name = format!("{PREFIX}.{path}.{key}").replace('.', SEPARATOR);
                    Origin::Environment(name.to_uppercase())
                }
            };
            (key, (value.kind, origin))
        })
        .collect();
    let origin = header
        .or_else(|| values.values().next().map(|(_, origin)| origin.clone()))
        .unwrap_or(Origin::Default);
    Table { path, origin, values, refused: false }
}

/// A place in the files, in the form in which it passes through the layering.
#[derive(Clone, Copy)]
struct Mark {
    file: usize,
    line: usize,
}

impl Mark {
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

/// A value and its line; an account's values stand under `account` and its name.
type Leaf = (ValueKind, usize);

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
                    let mark = Mark { file: self.index, line: *line };
                    (key.clone(), mark.value(kind.clone()))
                })
                .collect();
            let values = Value::new(None, values);
            match path.split_once('.') {
                None => drop(root.insert(path.clone(), values)),
                Some((section, account)) => {
                    let accounts = root
                        .entry(section.to_owned())
                        .or_insert_with(|| Value::new(None, Map::<String, Value>::new()));
                    if let ValueKind::Table(accounts) = &mut accounts.kind {
                        accounts.insert(account.to_owned(), values);
                    }
                }
            }
        }
        Ok(root)
    }
}

/// One file, taken apart.
struct File {
    path: Arc<Path>,
    /// `graph`, `account.contoso`, …
    tables: BTreeMap<String, BTreeMap<String, Leaf>>,
    /// The lines where accounts begin.
    accounts: BTreeMap<String, usize>,
    /// Tables of which something was refused.
    refused: BTreeSet<String>,
    windows: Vec<Table>,
}

impl File {
    fn read(path: &Path, report: &mut Report) -> Option<Self> {
        let path: Arc<Path> = Arc::from(path);
        let text = match std::fs::read(&path).map(String::from_utf8) {
            Ok(Ok(text)) => text,
            Ok(Err(_)) => {
                report.file_fault(&path, Wrong::new("not UTF-8 text", "save the file as UTF-8"));
                return None;
            }
            Err(error) => {
                let remedy = if error.kind() == std::io::ErrorKind::NotFound {
                    "write one, or name another with --config or $CALMIRROR_CONFIG"
                } else {
                    "make it a file that the daemon's user may read"
                };
                let wrong = Wrong::new(format!("cannot be read: {error}"), remedy);
                report.file_fault(&path, wrong);
                return None;
            }
        };
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let lines = Lines::of(text);
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut last = 0;
        for error in &errors {
            let line = error.span().map_or(1, |span| lines.at(span.start));
            // What follows in the same line is mostly the echo of the first mistake.
            if line > last {
                let origin = Origin::File { path: path.clone(), line };
                let wrong = Wrong::new(
                    format!("not TOML: {}", error.message().replace('\n', ", ")),
                    "mend the line; texts stand in quotes, tables in [brackets]",
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
            accounts: BTreeMap::new(),
            refused: BTreeSet::new(),
            windows: Vec::new(),
        };
        file.root(root.into_inner(), &lines, report);
        Some(file)
    }

    fn origin(&self, line: usize) -> Origin {
        Origin::File { path: self.path.clone(), line }
    }

    fn root(&mut self, root: DeTable<'_>, lines: &Lines, report: &mut Report) {
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
                (Section::Window, DeValue::Array(entries)) => {
                    for entry in entries {
                        self.window(entry, lines, report);
                    }
                }
                (Section::Account, DeValue::Table(accounts)) => {
                    for (account, value) in accounts {
                        self.account(&account, value, lines, report);
                    }
                }
                (Section::Window | Section::Account, _) => {
                    let remedy = format!("open each with a line {}", section.header());
                    let problem = format!("not a list of {name}s");
                    report.fault(&self.origin(line), &name, Wrong::new(problem, remedy));
                }
                (_, DeValue::Table(table)) => {
                    let leaves = self.leaves(section, &name, table, lines, report);
                    self.tables.insert(section.name().to_owned(), leaves);
                }
                (..) => {
                    let remedy = format!("open it with a line {}", section.header());
                    report.fault(&self.origin(line), &name, Wrong::new("not a section", remedy));
                }
            }
        }
    }

    fn account(
        &mut self,
        account: &Spanned<std::borrow::Cow<'_, str>>,
        value: Spanned<DeValue<'_>>,
        lines: &Lines,
        report: &mut Report,
    ) {
        let line = lines.at(account.span().start);
        let name = account.get_ref();
        let path = format!("account.{name}");
        let DeValue::Table(table) = value.into_inner() else {
            let wrong = Wrong::new("not an account", "open each with a line [account.NAME]");
            report.fault(&self.origin(line), &path, wrong);
            return;
        };
        if let Err(wrong) = account_name(name) {
            report.fault(&self.origin(line), &path, wrong);
            return;
        }
        let leaves = self.leaves(Section::Account, &path, table, lines, report);
        self.accounts.insert(name.to_string(), line);
        self.tables.insert(path, leaves);
    }

    fn window(&mut self, entry: Spanned<DeValue<'_>>, lines: &Lines, report: &mut Report) {
        let line = lines.at(entry.span().start);
        let DeValue::Table(table) = entry.into_inner() else {
            let wrong = Wrong::new("not a window", "open each with a line [[window]]");
            report.fault(&self.origin(line), "window", wrong);
            return;
        };
        let path = format!("window[{}]", self.label(&table));
        let before = report.faults.len();
        let leaves = self.leaves(Section::Window, &path, table, lines, report);
        let values = leaves.into_iter().map(|(key, (kind, line))| (key, (kind, self.origin(line))));
        let (values, origin) = (values.collect(), self.origin(line));
        let refused = report.faults.len() > before;
        let table = Table { path, origin, values, refused };
        self.windows.push(table);
    }

    /// What identifies a window best to people, else its number in the file.
    fn label(&self, table: &DeTable<'_>) -> String {
        ["name", "mailbox", "mailboxes_file"]
            .into_iter()
            .find_map(|key| match table.get(key)?.get_ref() {
                DeValue::String(text) if !text.trim().is_empty() => Some(text.to_string()),
                _ => None,
            })
            .unwrap_or_else(|| (self.windows.len() + 1).to_string())
    }

    fn leaves(
        &mut self,
        section: Section,
        path: &str,
        table: DeTable<'_>,
        lines: &Lines,
        report: &mut Report,
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

/// A plain value. TOML's own dates are taken as the text they were written as.
fn leaf(value: DeValue<'_>) -> Result<ValueKind, Wrong> {
    Ok(match value {
        DeValue::String(text) => ValueKind::String(text.into_owned()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(ValueKind::I64)
            .map_err(|_| Wrong::new("the number is too large", "write a smaller one"))?,
        DeValue::Float(number) => number
            .as_str()
            .parse()
            .map(ValueKind::Float)
            .map_err(|_| Wrong::new("not a number", "write it like 0.2"))?,
        DeValue::Boolean(flag) => ValueKind::Boolean(flag),
        DeValue::Datetime(date) => ValueKind::String(date.to_string()),
        DeValue::Array(_) | DeValue::Table(_) => {
            return Err(Wrong::new("a list or a table, not a single value", "write one value"));
        }
    })
}

/// Reads a default of [`super::keys`].
pub(super) fn default(text: &'static str) -> Option<ValueKind> {
    DeValue::parse(text).ok().and_then(|value| leaf(value.into_inner()).ok())
}

fn account_name(name: &str) -> Result<(), Wrong> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 200 || !name.chars().all(plain) {
        return Err(Wrong::new(
            "not a name for an account",
            "use 1 to 200 letters, digits, `-` and `_`",
        ));
    }
    Ok(())
}

/// The variables that are ours and have a place; the others of our prefix are faults.
fn variables(environment: &BTreeMap<String, String>, report: &mut Report) -> Map<String, String> {
    let mut ours = Map::new();
    for (variable, value) in environment {
        let Some(path) = variable.strip_prefix("CALMIRROR__") else { continue };
        if value.is_empty() {
            continue;
        }
        let path = path.to_lowercase();
        let parts: Vec<&str> = path.split(SEPARATOR).collect();
        let checked = Section::find(parts[0]).and_then(|section| match (section, &parts[1..]) {
            (Section::Window, _) => Err(Wrong::new(
                "windows cannot be set in the environment",
                "write them into a file, or name one with mailboxes_file there",
            )),
            (Section::Account, [account, key]) => {
                account_name(account).and_then(|()| section.check(key))
            }
            (Section::Account, _) => {
                Err(Wrong::new("not a key", "write CALMIRROR__ACCOUNT__NAME__KEY"))
            }
            (_, [key]) => section.check(key),
            (..) => Err(Wrong::new("not a key", "write CALMIRROR__SECTION__KEY")),
        });
        match checked {
            Ok(()) => drop(ours.insert(variable.to_uppercase(), value.clone())),
            Err(wrong) => report.fault(&Origin::Environment(variable.clone()), variable, wrong),
        }
    }
    ours
}

/// The files of `conf.d` beside the main one, by name; hidden ones are not looked at.
fn conf_d(main: &Path, report: &mut Report) -> Vec<PathBuf> {
    let folder = main.with_file_name("conf.d");
    let unreadable = |error: &std::io::Error, report: &mut Report| {
        let wrong = Wrong::new(
            format!("cannot be read: {error}"),
            "make it a directory that the daemon's user may read",
        );
        report.file_fault(&folder, wrong);
    };
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            unreadable(&error, report);
            return Vec::new();
        }
    };
    let mut files = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) => {
                let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
                let path = entry.path();
                if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
                    files.push(path);
                }
            }
            Err(error) => unreadable(&error, report),
        }
    }
    files.sort();
    files
}

/// Finds the line of a byte.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(
            text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect(),
        )
    }

    fn at(&self, byte: usize) -> usize {
        self.0.partition_point(|newline| *newline < byte) + 1
    }
}
