//! Turns `[[window]]` entries into windows: one each, or one per line of a `mailboxes_file`.
//!
//! The windows of an entry share their common strings, and a window named after its mailbox uses
//! one string for both, so that a hundred thousand rooms cost little memory.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::account::is_guid;
use super::diagnostic::{Issue, suggest};
use super::layers;
use super::origin::{DiagnosticSink, ValueOrigin};
use super::reader::TableReader;
use super::settings::LayeredSettings;
use super::table::LayeredTable;
use crate::mirror::account::Account;
use crate::mirror::schedule;
use crate::mirror::window::{CalendarRef, Edges, MAX_SEGMENT_DAYS, Window, WindowSettings};

/// The maximum length of a name, in characters.
const MAX_NAME_CHARS: usize = 200;

/// The maximum number of segments of a window ([`Edges::segments`]).
const MAX_SEGMENTS: i64 = 64;

/// A window that will become empty causes a warning this many days before.
const EMPTY_WARNING_DAYS: i64 = 30;

/// At most this many wrong lines of a mailboxes file are reported; further ones are mostly the same
/// mistake.
const MAX_REPORTED_LINES: usize = 100;

/// Collects windows and detects duplicates.
pub(super) struct WindowCollector<'a> {
    defaults: LayeredSettings,
    accounts: &'a BTreeMap<Arc<str>, Account>,
    /// Accounts with errors: a window that names one causes no further error.
    faulty: Vec<String>,
    now: Timestamp,
    // Only looked up, never iterated.
    names: HashMap<Arc<str>, ValueOrigin>,
    ranges: HashMap<StreamRange, u32>,
    streams: HashMap<(u32, Arc<str>), Arc<str>>,
    pub(super) all: Vec<Arc<Window>>,
}

/// Two windows of different names that agree in all of this, and in the mailbox, are probably a
/// mistake. Windows of an entry share it, so it has a number.
type StreamRange = (Arc<str>, CalendarRef, Timestamp, Timestamp);

/// A parsed entry, except for its mailboxes.
struct WindowEntry {
    account: Arc<str>,
    calendar: CalendarRef,
    settings: Arc<WindowSettings>,
    /// The number of its [`StreamRange`].
    range: u32,
}

impl<'a> WindowCollector<'a> {
    pub(super) fn new(
        defaults: LayeredSettings,
        accounts: &'a BTreeMap<Arc<str>, Account>,
        faulty: Vec<String>,
        now: Timestamp,
    ) -> Self {
        Self {
            defaults,
            accounts,
            faulty,
            now,
            names: HashMap::new(),
            ranges: HashMap::new(),
            streams: HashMap::new(),
            all: Vec::new(),
        }
    }

    /// Reads one `[[window]]`.
    pub(super) fn read(&mut self, table: &LayeredTable, report: &mut DiagnosticSink) {
        let mut reader = TableReader::new(table, report);
        let many = reader.has("mailboxes_file");
        let name = reader.read("name", |written| written.text().map(str::to_owned));
        let mailbox = reader.read("mailbox", |written| Ok(written.text()?.to_owned()));
        let file = reader.read("mailboxes_file", |written| written.path());
        if !many && !reader.has("mailbox") {
            let remedy = "write the user's id or address, or name a mailboxes_file";
            reader.missing("mailbox", "missing", remedy);
        }
        let Some(entry) = self.entry(&mut reader) else { return };
        if many && reader.has("mailbox") {
            let wrong = Issue::new("set together with mailboxes_file", "keep one of the two");
            reader.fault("mailbox", wrong);
        } else if many {
            let template = name.unwrap_or_else(|| "{mailbox}".to_owned());
            if let Some(file) = file {
                self.add_from_file(&mut reader, &entry, &template, &file);
            }
        } else if let Some(text) = mailbox {
            let named = reader.has("name");
            if named && name.is_none() {
                return;
            }
            if let Err(wrong) = self.check_mailbox(&text, &entry) {
                reader.fault("mailbox", wrong);
                return;
            }
            if let Some(wrong) = mailbox_warning(&text) {
                reader.warn("mailbox", wrong);
            }
            let mailbox: Arc<str> = text.into();
            let name: Arc<str> = match (name, &entry.calendar) {
                (Some(name), _) => name.into(),
                (None, CalendarRef::Default) => mailbox.clone(),
                (None, CalendarRef::Id(id)) => format!("{mailbox}:{id}").into(),
            };
            let key = if named { "name" } else { "mailbox" };
            let origin = reader.origin(key);
            let path = reader.name(key);
            self.add(&entry, name, mailbox, &origin, &path, reader.report);
        }
    }

    fn entry(&mut self, reader: &mut TableReader<'_>) -> Option<WindowEntry> {
        let settings = self.defaults.overridden(reader);
        let calendar = reader.read("calendar", |written| {
            let text = written.text()?;
            Ok(if text == "default" { CalendarRef::Default } else { CalendarRef::Id(text.into()) })
        });
        let account = self.account(reader);
        let edges = self.edges(reader, &settings);
        let calendar = match calendar {
            Some(calendar) => calendar,
            None if reader.has("calendar") => return None,
            None => CalendarRef::Default,
        };
        let settings = Arc::new(settings.values);
        let (account, Edges { start, end }) = (account?, edges?);
        let next = u32::try_from(self.ranges.len()).unwrap_or(u32::MAX);
        let range = (account.clone(), calendar.clone(), start, end);
        let range = *self.ranges.entry(range).or_insert(next);
        Some(WindowEntry { account, calendar, settings, range })
    }

    fn account(&self, reader: &mut TableReader<'_>) -> Option<Arc<str>> {
        let names = || self.accounts.keys().map(|name| &**name);
        let known = || match self.accounts.len() {
            0 => "write an [account.NAME] first".to_owned(),
            _ => format!("write one of {}", names().collect::<Vec<_>>().join(", ")),
        };
        if !reader.has("account") {
            reader.missing("account", "missing", known());
            return None;
        }
        reader
            .read("account", |written| {
                let text = written.text()?;
                match self.accounts.get_key_value(text) {
                    Some((name, _)) => Ok(Some(name.clone())),
                    None if self.faulty.iter().any(|name| name == text) => Ok(None),
                    None => {
                        let remedy = match self.accounts.len() {
                            0 => known(),
                            _ => suggest(text, names(), "the accounts are"),
                        };
                        Err(Issue::new(format!("unknown account {text:?}"), remedy))
                    }
                }
            })
            .flatten()
    }

    /// The edges that a request would use now; `None` after an error.
    fn edges(&self, reader: &mut TableReader<'_>, settings: &LayeredSettings) -> Option<Edges> {
        let (start, end) = settings.edges()?;
        let move_every = settings.values.move_every;
        let stated = Edges { start: start.resolve(self.now), end: end.resolve(self.now) };
        let key = if reader.has("end") || !reader.has("start") { "end" } else { "start" };
        let closing = start.is_relative() && !end.is_relative();
        if stated.is_empty() && closing {
            // The window was valid once. A restart must not fail because of it.
            let wrong = Issue::new(
                format!("the start has moved past the end ({}): the window is empty", stated.end),
                "move the end, or remove the window",
            );
            reader.warn(key, wrong);
            return Some(schedule::requested_edges(start, end, move_every, self.now));
        }
        if stated.is_empty() {
            let moving = start.is_relative() || end.is_relative();
            let today = if moving { " as of today" } else { "" };
            let wrong = Issue::new(
                format!(
                    "the window does not end ({}) after it starts ({}){today}",
                    stated.end, stated.start
                ),
                "move one of start and end, or remove the window",
            );
            reader.fault(key, wrong);
            return None;
        }
        let left = days(&stated);
        if closing && left <= EMPTY_WARNING_DAYS {
            let problem =
                format!("the start moves and the end does not: in {left} days the window is empty");
            let remedy = "make both relative or neither, or remove the window in time";
            reader.warn(key, Issue::new(problem, remedy));
        }
        let edges = schedule::requested_edges(start, end, move_every, self.now);
        let (days, segments) = (days(&edges), edges.segments().len());
        if days >= MAX_SEGMENT_DAYS * MAX_SEGMENTS {
            let wrong = Issue::new(
                format!("the window is {days} days long"),
                format!("stay below {} days", MAX_SEGMENT_DAYS * MAX_SEGMENTS),
            );
            reader.fault(key, wrong);
            return None;
        }
        if segments > 2 {
            let wrong = Issue::new(
                format!("the window needs {segments} segments of {MAX_SEGMENT_DAYS} days"),
                "each is read by itself, those far from today less often: would \"+5y\" do?",
            );
            reader.warn(key, wrong);
        }
        Some(edges)
    }

    fn check_mailbox(&self, text: &str, entry: &WindowEntry) -> Result<(), Issue> {
        let strange = |c: char| c.is_control() || c.is_whitespace() || "/\\,;\"<>?".contains(c);
        if text.len() > 320 || text.chars().any(strange) {
            return Err(Issue::new(
                "not a mailbox",
                "write one user id or address, and nothing else",
            ));
        }
        let delegated = self
            .accounts
            .get(&entry.account)
            .is_some_and(|account| account.credential.may_be_a_user());
        if text == "me" && !delegated {
            return Err(Issue::new(
                "an application without a user has no \"me\"",
                "write a user id or address, or use an account that signs in as a user",
            ));
        }
        Ok(())
    }

    /// Adds one window for each mailbox in the file.
    fn add_from_file(
        &mut self,
        reader: &mut TableReader<'_>,
        entry: &WindowEntry,
        template: &str,
        file: &Path,
    ) {
        if !template.contains("{mailbox}") {
            let wrong = Issue::new("all windows would have the same name", "put {mailbox} into it");
            reader.fault("name", wrong);
            return;
        }
        let text = match read_text(file) {
            Ok(text) => text,
            Err(wrong) => {
                reader.fault("mailboxes_file", wrong);
                return;
            }
        };
        if let Some(Issue { problem, remedy }) = layers::world_writable(file) {
            let problem = format!("{}: {problem}", file.display());
            reader.warn("mailboxes_file", Issue { problem, remedy });
        }
        // A table that grows hashes every name once more each time.
        let lines = text.lines().count();
        self.names.reserve(lines);
        self.streams.reserve(lines);
        self.all.reserve(lines);
        let path: Arc<Path> = Arc::from(file);
        let before = (self.all.len(), reader.report.faults.len());
        let mut doubts = 0;
        let key = reader.name("mailbox");
        for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let line = strip_comment(line);
            if line.is_empty() {
                continue;
            }
            let origin = ValueOrigin::File { path: path.clone(), line: index + 1 };
            if let Err(wrong) = self.check_mailbox(line, entry) {
                reader.report.fault(&origin, &key, wrong);
            } else {
                if let Some(wrong) = mailbox_warning(line) {
                    doubts += 1;
                    if doubts <= MAX_REPORTED_LINES {
                        reader.report.warn(&origin, &key, wrong);
                    }
                }
                let mailbox: Arc<str> = line.into();
                let name = match template {
                    "{mailbox}" => mailbox.clone(),
                    _ => template.replace("{mailbox}", line).into(),
                };
                self.add(entry, name, mailbox, &origin, &key, reader.report);
            }
            if reader.report.faults.len() - before.1 >= MAX_REPORTED_LINES {
                let wrong = Issue::new("too many faults", "the rest of the file was not read");
                reader.report.fault(&origin, &key, wrong);
                return;
            }
        }
        if doubts > MAX_REPORTED_LINES {
            let problem = format!(
                "{} more lines of {} are neither an address nor a user id",
                doubts - MAX_REPORTED_LINES,
                file.display()
            );
            let wrong = Issue::new(problem, "write an address or a user id on each line");
            reader.warn("mailboxes_file", wrong);
        }
        if (self.all.len(), reader.report.faults.len()) == before {
            let problem = format!("{} names no mailbox", file.display());
            let wrong = Issue::new(problem, "write an address or id on each line");
            reader.warn("mailboxes_file", wrong);
        }
    }

    fn add(
        &mut self,
        entry: &WindowEntry,
        name: Arc<str>,
        mailbox: Arc<str>,
        origin: &ValueOrigin,
        key: &str,
        report: &mut DiagnosticSink,
    ) {
        if let Err(wrong) = check_name(&name) {
            report.fault(origin, key, wrong);
            return;
        }
        if let Some(first) = self.names.get(&name) {
            let wrong = Issue::new(
                format!("a second window named {name:?}; the first is at {first}"),
                "give each window a name of its own",
            );
            report.fault(origin, key, wrong);
            return;
        }
        self.names.insert(name.clone(), origin.clone());
        // Addresses and ids of users are case-insensitive.
        let stream = (entry.range, lower_case(&mailbox));
        if let Some(first) = self.streams.get(&stream) {
            let wrong = Issue::new(
                format!("the windows {first:?} and {name:?} track the same calendar and time"),
                "keep one of them, unless they are meant to differ in other settings",
            );
            report.warn(origin, key, wrong);
        } else {
            self.streams.insert(stream, name.clone());
        }
        self.all.push(Arc::new(Window {
            name,
            account: entry.account.clone(),
            mailbox,
            calendar: entry.calendar.clone(),
            settings: entry.settings.clone(),
        }));
    }

    /// The average number of requests in flight if every idle round takes a second.
    pub(super) fn expected_concurrency(&self) -> f64 {
        // Windows of an entry have the same settings, which decide it.
        let of_an_entry = |a: &Arc<Window>, b: &Arc<Window>| Arc::ptr_eq(&a.settings, &b.settings);
        let each = |window: &Window| {
            let segments = schedule::edges(window, self.now).segments();
            let every = |index| {
                schedule::segment_interval(window.settings.interval, &segments, index, self.now)
            };
            (0..segments.len()).map(|index| 1.0 / every(index).as_secs_f64()).sum::<f64>()
        };
        let entries = self.all.chunk_by(of_an_entry);
        entries.map(|windows| windows.len() as f64 * windows.first().map_or(0.0, |w| each(w))).sum()
    }
}

fn read_text(file: &Path) -> Result<String, Issue> {
    let shown = file.display();
    let bytes = std::fs::read(file).map_err(|error| {
        let problem = format!("{shown} cannot be read: {error}");
        Issue::new(problem, "make it a file that the daemon's user may read")
    })?;
    let no_text = |_| Issue::new(format!("{shown} is not UTF-8 text"), "save it as UTF-8");
    String::from_utf8(bytes).map_err(no_text)
}

/// The length in whole days.
fn days(edges: &Edges) -> i64 {
    (edges.end.as_second() - edges.start.as_second()) / (24 * 3600)
}

/// A warning about a mailbox that is neither an address (user principal name) nor an object id:
/// Graph answers 404 for all others. A `me` that was not rejected before is intentional.
fn mailbox_warning(mailbox: &str) -> Option<Issue> {
    let address = mailbox.split_once('@').is_some_and(|(user, domain)| {
        !user.is_empty() && !domain.is_empty() && !domain.contains('@')
    });
    (!address && !is_guid(mailbox) && mailbox != "me").then(|| {
        Issue::new(
            format!("{mailbox:?} is neither an address nor a user id"),
            "write the user's address (alice@contoso.com) or object id (a GUID)",
        )
    })
}

/// Strips the comment from a line. A `#` inside an address (a guest's `#EXT#`) starts no comment.
fn strip_comment(line: &str) -> &str {
    let line = line.trim();
    if line.starts_with('#') {
        return "";
    }
    let comment = line.find(" #").or_else(|| line.find("\t#")).unwrap_or(line.len());
    line[..comment].trim_end()
}

/// The same text in lower case; shared if it already is.
fn lower_case(text: &Arc<str>) -> Arc<str> {
    let is_lower = |byte: u8| byte.is_ascii() && !byte.is_ascii_uppercase();
    if text.bytes().all(is_lower) { text.clone() } else { text.to_lowercase().into() }
}

fn check_name(name: &str) -> Result<(), Issue> {
    let remedy = "write 1 to 200 characters, without \"/\" and control characters";
    if name.chars().count() > MAX_NAME_CHARS {
        return Err(Issue::new(
            format!("the window's name is longer than {MAX_NAME_CHARS}"),
            remedy,
        ));
    }
    if name.contains('/') || name.chars().any(char::is_control) {
        return Err(Issue::new("the window's name has a \"/\" or a control character", remedy));
    }
    // Programs that resolve paths would remove these from URLs.
    if name == "." || name == ".." || name.trim() != name || name.is_empty() {
        let problem = "the window's name is empty, \".\" or \"..\", or has spaces at its ends";
        return Err(Issue::new(problem, remedy));
    }
    Ok(())
}
