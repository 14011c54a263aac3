//! Turns `[[window]]` entries into windows: one each, or one per line of a `mailboxes_file`.
//!
//! The windows of an entry share their common strings, and a window named after its mailbox uses
//! one string for both, so that a hundred thousand rooms cost little memory.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::diagnostic::Issue;
use super::entry::EntryReader;
use super::groups::{self, WindowGroups};
use super::layers;
use super::mailboxes::{self, MAX_REPORTED_LINES, check_group, check_mailbox, mailbox_warning};
use super::origin::{DiagnosticSink, ValueOrigin};
use super::reader::TableReader;
use super::table::LayeredTable;
use crate::mirror::schedule;
use crate::mirror::window::{CalendarRef, Edges, Window, WindowSettings, window_name_problem};

/// Collects windows and detects duplicates.
pub(super) struct WindowCollector<'a> {
    shared: &'a EntryReader<'a>,
    // Only looked up, never iterated.
    names: HashMap<Arc<str>, ValueOrigin>,
    ranges: HashMap<StreamRange, u32>,
    streams: HashMap<(u32, Arc<str>), Arc<str>>,
    pub(super) all: Vec<Arc<Window>>,
    pub(super) groups: WindowGroups,
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
    groups: Vec<Arc<str>>,
}

impl<'a> WindowCollector<'a> {
    pub(super) fn new(shared: &'a EntryReader<'a>) -> Self {
        Self {
            shared,
            names: HashMap::new(),
            ranges: HashMap::new(),
            streams: HashMap::new(),
            all: Vec::new(),
            groups: WindowGroups::new(),
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
            let may_be_user = self.shared.may_have_me(&entry.account);
            let checked = check_mailbox(&text, may_be_user)
                .and_then(|()| check_group(&text, &entry.calendar, may_be_user));
            if let Err(wrong) = checked {
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
        let settings = self.shared.defaults.overridden(reader);
        let calendar = reader.read("calendar", |written| {
            let text = written.text()?;
            Ok(if text == "default" { CalendarRef::Default } else { CalendarRef::Id(text.into()) })
        });
        let groups = groups::names(reader);
        let account = self.shared.account(reader);
        let edges = self.shared.edges(reader, &settings);
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
        Some(WindowEntry { account, calendar, settings, range, groups })
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
        let text = match mailboxes::read(file) {
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
        let may_be_me = self.shared.may_have_me(&entry.account);
        for (number, line) in mailboxes::lines(&text) {
            let origin = ValueOrigin::File { path: path.clone(), line: number };
            let checked = check_mailbox(line, may_be_me)
                .and_then(|()| check_group(line, &entry.calendar, may_be_me));
            if let Err(wrong) = checked {
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
        for group in &entry.groups {
            let group = self.groups.entry(group.clone()).or_default();
            group.windows.insert(name.clone());
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
            let segments = schedule::edges(window, self.shared.now).segments();
            let every = |index| {
                schedule::segment_interval(
                    window.settings.interval,
                    &segments,
                    index,
                    self.shared.now,
                )
            };
            (0..segments.len()).map(|index| 1.0 / every(index).as_secs_f64()).sum::<f64>()
        };
        let entries = self.all.chunk_by(of_an_entry);
        entries.map(|windows| windows.len() as f64 * windows.first().map_or(0.0, |w| each(w))).sum()
    }
}

/// The same text in lower case; shared if it already is.
fn lower_case(text: &Arc<str>) -> Arc<str> {
    let is_lower = |byte: u8| byte.is_ascii() && !byte.is_ascii_uppercase();
    if text.bytes().all(is_lower) { text.clone() } else { text.to_lowercase().into() }
}

fn check_name(name: &str) -> Result<(), Issue> {
    let remedy = "write 1 to 200 characters, without \"/\" and control characters";
    window_name_problem(name).map_or(Ok(()), |problem| Err(Issue::new(problem, remedy)))
}
