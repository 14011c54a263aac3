//! Turns `[[fleet]]` entries into fleets. Their members are not known here: the daemon lists them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::account::{is_guid, is_true};
use super::diagnostic::Issue;
use super::entry::{EntryReader, plain_name};
use super::groups::{self, WindowGroups};
use super::layers;
use super::mailboxes::{
    self, MAX_REPORTED_LINES, check_mailbox, is_address, is_plain, mailbox_warning, refuse_group,
};
use super::origin::{DiagnosticSink, ValueOrigin};
use super::reader::{RawValue, TableReader};
use super::table::LayeredTable;
use crate::mirror::fleet::{CalendarSelection, FleetSource, FleetSpec, PLACEHOLDERS};
use crate::mirror::window::window_name_problem;

/// A fleet sets exactly one of these keys.
const SOURCES: [&str; 6] =
    [ROOMS, "room_list", "members_of", "users", "calendars_of", "mailboxes_file"];
const ROOMS: &str = "rooms";

/// Less would list without end. Directories take minutes to show a change, so more is usual.
const MIN_RELIST: Duration = Duration::from_secs(1);

/// Collects fleets and detects duplicates.
pub(super) struct FleetCollector<'a> {
    shared: &'a EntryReader<'a>,
    // Only looked up, never iterated.
    names: HashMap<Arc<str>, ValueOrigin>,
    pub(super) all: Vec<Arc<FleetSpec>>,
    pub(super) groups: WindowGroups,
}

impl<'a> FleetCollector<'a> {
    /// `groups` has those of the windows.
    pub(super) fn new(shared: &'a EntryReader<'a>, groups: WindowGroups) -> Self {
        Self { shared, names: HashMap::new(), all: Vec::new(), groups }
    }

    /// Reads one `[[fleet]]`.
    pub(super) fn read(&mut self, table: &LayeredTable, report: &mut DiagnosticSink) {
        let mut reader = TableReader::new(table, report);
        let name = self.name(&mut reader);
        let groups = groups::names(&mut reader);
        let account = self.shared.account(&mut reader);
        let settings = self.shared.defaults.overridden(&mut reader);
        let edges = self.shared.edges(&mut reader, &settings);
        let relist_every = reader.read("relist_every", |written| written.duration(MIN_RELIST));
        // Without the account there is already an error.
        let may_be_me = account.as_ref().is_none_or(|account| self.shared.may_have_me(account));
        let source = source(&mut reader, may_be_me);
        let calendars = match source {
            Some(FleetSource::Mailbox(_)) => calendars(&mut reader, CalendarSelection::All),
            _ => calendars(&mut reader, CalendarSelection::Default),
        };
        let window_name = window_name(&mut reader, source.as_ref(), calendars.as_ref());
        let parts = (name, account, relist_every, source, calendars, window_name, edges);
        if let (
            Some(name),
            Some(account),
            Some(relist_every),
            Some(source),
            Some(calendars),
            Some(window_name),
            Some(_),
        ) = parts
        {
            for group in groups.into_iter().chain([name.clone()]) {
                self.groups.entry(group).or_default().fleets.insert(name.clone());
            }
            let settings = Arc::new(settings.values);
            self.all.push(Arc::new(FleetSpec {
                name,
                account,
                source,
                calendars,
                window_name,
                relist_every,
                settings,
            }));
        }
    }

    fn name(&mut self, reader: &mut TableReader<'_>) -> Option<Arc<str>> {
        if !reader.has("name") {
            reader.missing("name", "missing", "give the fleet a name of its own");
            return None;
        }
        let name: Arc<str> = reader.read("name", |written| {
            let name = written.text()?;
            plain_name(name, "a fleet").map(|()| name.into())
        })?;
        let origin = reader.origin("name");
        if let Some(first) = self.names.get(&name) {
            let problem = format!("a second fleet named {name:?}; the first is at {first}");
            reader.fault("name", Issue::new(problem, "give each fleet a name of its own"));
            return None;
        }
        self.names.insert(name.clone(), origin);
        Some(name)
    }
}

/// What is listed; `None` after an error.
fn source(reader: &mut TableReader<'_>, may_be_me: bool) -> Option<FleetSource> {
    let written: Vec<&'static str> = SOURCES.into_iter().filter(|key| reader.has(key)).collect();
    let all = SOURCES.join(", ");
    let key = match written.as_slice() {
        [key] => *key,
        [] => {
            reader.missing("", "nothing to list", format!("write one of {all}"));
            return None;
        }
        [first, .., last] => {
            let problem = format!("set together with {first}");
            reader.fault(last, Issue::new(problem, format!("keep exactly one of {all}")));
            return None;
        }
    };
    match key {
        ROOMS => reader.read(key, is_true).map(|()| FleetSource::Rooms),
        "room_list" => {
            let list = reader.read(key, |written| directory_object(written, "a room list"))?;
            if !is_address(&list) {
                let problem = format!("{list:?} is not an address");
                reader.warn(key, Issue::new(problem, "write the address of the room list"));
            }
            Some(FleetSource::RoomList(list))
        }
        "members_of" => {
            let group = reader.read(key, |written| directory_object(written, "a group"))?;
            if !is_address(&group) && !is_guid(&group) {
                let problem = format!("{group:?} is neither an address nor the id of a group");
                let remedy = "write the group's object id (a GUID) or address, not its name";
                reader.warn(key, Issue::new(problem, remedy));
            }
            Some(FleetSource::Members(group))
        }
        "users" => reader.read(key, filter).map(FleetSource::Users),
        "calendars_of" => {
            let mailbox: Arc<str> = reader.read(key, |written| {
                let text = written.text()?;
                check_mailbox(text, may_be_me)?;
                refuse_group(text).map(|()| text.into())
            })?;
            if let Some(wrong) = mailbox_warning(&mailbox) {
                reader.warn(key, wrong);
            }
            Some(FleetSource::Mailbox(mailbox))
        }
        _ => {
            let file: PathBuf = reader.read(key, |written| written.path())?;
            check_file(reader, key, &file, may_be_me);
            Some(FleetSource::File(file))
        }
    }
}

/// An address or id. It becomes a part of URLs, so its characters are restricted.
fn directory_object(written: RawValue<'_>, what: &str) -> Result<Arc<str>, Issue> {
    let text = written.text()?;
    if !is_plain(text) {
        let remedy = "write one id or address, and nothing else";
        return Err(Issue::new(format!("not {what}"), remedy));
    }
    Ok(text.into())
}

/// An OData filter. Only Graph can say whether it is one.
fn filter(written: RawValue<'_>) -> Result<Arc<str>, Issue> {
    let text = written.text()?.trim();
    if text.to_ascii_lowercase().starts_with("$filter") || text.chars().any(char::is_control) {
        let remedy = "write only the condition, such as \"accountEnabled eq true\"";
        return Err(Issue::new("not an OData filter", remedy));
    }
    Ok(text.into())
}

/// Warns about a file with wrong lines, or without any. The file is read again for each listing and
/// may change at any time, so nothing in it prevents a start.
fn check_file(reader: &mut TableReader<'_>, key: &str, file: &Path, may_be_me: bool) {
    if let Some(Issue { problem, remedy }) = layers::world_writable(file) {
        let problem = format!("{}: {problem}", file.display());
        reader.warn(key, Issue { problem, remedy });
    }
    let text = match mailboxes::read(file) {
        Ok(text) => text,
        Err(wrong) => {
            reader.warn(key, wrong);
            return;
        }
    };
    let path: Arc<Path> = Arc::from(file);
    let place = reader.name(key);
    let mut lines = mailboxes::lines(&text).peekable();
    if lines.peek().is_none() {
        let problem = format!("{} names no mailbox", file.display());
        reader.warn(key, Issue::new(problem, "write an address or id on each line"));
    }
    let wrong = lines.filter_map(|(line, text)| {
        let wrong = check_mailbox(text, may_be_me).and_then(|()| refuse_group(text)).err();
        let wrong = wrong.or_else(|| mailbox_warning(text))?;
        Some((line, wrong))
    });
    for (line, wrong) in wrong.take(MAX_REPORTED_LINES) {
        let origin = ValueOrigin::File { path: path.clone(), line };
        reader.report.warn(&origin, &place, wrong);
    }
}

/// The calendars; `None` after an error.
fn calendars(
    reader: &mut TableReader<'_>,
    default: CalendarSelection,
) -> Option<CalendarSelection> {
    if !reader.has("calendars") {
        return Some(default);
    }
    let selection = reader.read("calendars", |written| {
        let wrong = |problem: &str| {
            let remedy = "write \"default\", \"all\" or a list of names, like [\"Team\"]";
            Issue::new(problem, remedy)
        };
        if let Ok(names) = written.texts() {
            if names.is_empty() || names.iter().any(|name| name.trim().is_empty()) {
                return Err(wrong("a list with an empty name, or without names"));
            }
            let names = names.into_iter().map(|name| name.trim().to_owned());
            return Ok(CalendarSelection::Named(names.collect()));
        }
        match written.text() {
            Ok("default") => Ok(CalendarSelection::Default),
            Ok("all") => Ok(CalendarSelection::All),
            _ => Err(wrong("not a selection of calendars")),
        }
    })?;
    if let CalendarSelection::Named(names) = &selection
        && let Some(word) = names.iter().find(|name| matches!(name.as_str(), "default" | "all"))
    {
        let problem = format!("{word:?} in a list is the name of a calendar");
        reader.warn("calendars", Issue::new(problem, format!("write calendars = {word:?}")));
    }
    Some(selection)
}

/// The template of the windows' names; `None` after an error.
fn window_name(
    reader: &mut TableReader<'_>,
    source: Option<&FleetSource>,
    calendars: Option<&CalendarSelection>,
) -> Option<Arc<str>> {
    let key = "window_name";
    if !reader.has(key) {
        let plural = calendars?.is_plural();
        return Some(if plural { "{mailbox}:{calendar}" } else { "{mailbox}" }.into());
    }
    let template = reader.read(key, |written| template(written.text()?))?;
    let has = |name: &str| template.contains(&format!("{{{name}}}"));
    let remedy = match source? {
        // One mailbox has only one name.
        FleetSource::Mailbox(_) => None,
        // A file has no display names.
        FleetSource::File(_) if !has("mailbox") && !has("id") => Some("put {mailbox} into it"),
        _ if !has("mailbox") && !has("id") && !has("name") => {
            Some("put {mailbox}, {id} or {name} into it")
        }
        _ => None,
    };
    if let Some(remedy) = remedy {
        reader.fault(key, Issue::new("all members would have windows of the same name", remedy));
        return None;
    }
    if calendars?.is_plural() && !has("calendar") {
        let problem = "all calendars of a mailbox would have windows of the same name";
        reader.fault(key, Issue::new(problem, "put {calendar} into it"));
        return None;
    }
    Some(template)
}

/// Checks the placeholders and what is between them.
fn template(text: &str) -> Result<Arc<str>, Issue> {
    let (mut example, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('{') {
        let behind = match after.split_once('}') {
            Some((name, behind)) if PLACEHOLDERS.contains(&name) => behind,
            unknown => {
                let problem = match unknown {
                    Some((name, _)) => format!("unknown placeholder {{{name}}}"),
                    None => "a placeholder without its }".to_owned(),
                };
                let known = PLACEHOLDERS.map(|name| format!("{{{name}}}")).join(", ");
                return Err(Issue::new(problem, format!("the placeholders are {known}")));
            }
        };
        example.push_str(before);
        example.push('x');
        rest = behind;
    }
    example.push_str(rest);
    match window_name_problem(&example) {
        None => Ok(text.into()),
        Some(problem) => {
            let remedy = "write up to 200 characters, without \"/\" and control characters";
            Err(Issue::new(problem, remedy))
        }
    }
}
