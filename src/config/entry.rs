//! What `[[window]]` and `[[fleet]]` entries have in common: the account, the edges, the settings.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::diagnostic::{Issue, suggest};
use super::reader::TableReader;
use super::settings::LayeredSettings;
use crate::mirror::account::Account;
use crate::mirror::schedule;
use crate::mirror::window::{Edges, MAX_SEGMENT_DAYS};

/// The maximum number of segments of a window ([`Edges::segments`]).
const MAX_SEGMENTS: i64 = 64;

/// A window that will become empty causes a warning this many days before.
const EMPTY_WARNING_DAYS: i64 = 30;

/// Reads the common keys of entries.
pub(super) struct EntryReader<'a> {
    pub(super) defaults: LayeredSettings,
    pub(super) accounts: &'a BTreeMap<Arc<str>, Account>,
    /// Accounts with errors: an entry that names one causes no further error.
    pub(super) faulty: Vec<String>,
    pub(super) now: Timestamp,
}

impl EntryReader<'_> {
    /// The account of the entry; `None` after an error, or if the account has one.
    pub(super) fn account(&self, reader: &mut TableReader<'_>) -> Option<Arc<str>> {
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

    /// Whether the account may be a person, who has a mailbox `me`.
    pub(super) fn may_have_me(&self, account: &str) -> bool {
        self.accounts.get(account).is_some_and(|account| account.credential.may_be_a_user())
    }

    /// The edges that a request would use now; `None` after an error.
    pub(super) fn edges(
        &self,
        reader: &mut TableReader<'_>,
        settings: &LayeredSettings,
    ) -> Option<Edges> {
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
}

/// Checks the name of an account or a fleet. That of an account becomes a table key and a part of
/// environment variables' names.
pub(super) fn plain_name(name: &str, of: &str) -> Result<(), Issue> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 200 || !name.chars().all(plain) {
        return Err(Issue::new(
            format!("not a name for {of}"),
            "use 1 to 200 letters, digits, `-` and `_`",
        ));
    }
    Ok(())
}

/// The length in whole days.
fn days(edges: &Edges) -> i64 {
    (edges.end.as_second() - edges.start.as_second()) / (24 * 3600)
}
