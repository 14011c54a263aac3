//! Mailboxes: what one is called, and files that list many.

use std::path::Path;

use super::account::is_guid;
use super::diagnostic::Issue;
use crate::mirror::window::{CalendarRef, group_id};

/// At most this many wrong lines of a mailboxes file are reported; further ones are mostly the same
/// mistake.
pub(super) const MAX_REPORTED_LINES: usize = 100;

/// The text of a file of mailboxes.
pub(super) fn read(file: &Path) -> Result<String, Issue> {
    let shown = file.display();
    let bytes = std::fs::read(file).map_err(|error| {
        let problem = format!("{shown} cannot be read: {error}");
        Issue::new(problem, "make it a file that the daemon's user may read")
    })?;
    let no_text = |_| Issue::new(format!("{shown} is not UTF-8 text"), "save it as UTF-8");
    String::from_utf8(bytes).map_err(no_text)
}

/// The lines that name a mailbox, with their numbers from 1.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.trim_start_matches('\u{feff}').lines().map(strip_comment);
    (1..).zip(lines).filter(|(_, line)| !line.is_empty())
}

/// The mailboxes in a file. Lines that cannot be one are left out; `check` reports them.
///
/// # Errors
/// The file cannot be read.
pub fn read_mailboxes(file: &Path) -> Result<Vec<String>, Issue> {
    let text = read(file)?;
    let of_a_person = |line: &&str| is_plain(line) && group_id(line).is_none() && *line != "me";
    let mailboxes = lines(&text).map(|(_, line)| line).filter(of_a_person);
    Ok(mailboxes.map(str::to_owned).collect())
}

/// Whether the text can be an id or address: it is short, and without spaces and separators.
pub(super) fn is_plain(text: &str) -> bool {
    let strange = |c: char| c.is_control() || c.is_whitespace() || "/\\,;\"<>?".contains(c);
    text.len() <= 320 && !text.chars().any(strange)
}

/// Whether the text has the form of an address: something on both sides of an `@`.
pub(super) fn is_address(text: &str) -> bool {
    text.split_once('@').is_some_and(|(user, domain)| {
        !user.is_empty() && !domain.is_empty() && !domain.contains('@')
    })
}

/// Checks a user id or address; `may_be_me` says whether `me` is one.
pub(super) fn check_mailbox(text: &str, may_be_me: bool) -> Result<(), Issue> {
    if !is_plain(text) {
        return Err(Issue::new("not a mailbox", "write one user id or address, and nothing else"));
    }
    if text == "me" && !may_be_me {
        return Err(Issue::new(
            "an application without a user has no \"me\"",
            "write a user id or address, or use an account that signs in as a user",
        ));
    }
    Ok(())
}

/// Refuses `group:ID` in a fleet: the calendar of a group is a window of its own.
pub(super) fn refuse_group(text: &str) -> Result<(), Issue> {
    match group_id(text) {
        None => Ok(()),
        Some(_) => Err(Issue::new(
            "the calendar of a group cannot belong to a fleet",
            "write it as the mailbox of a [[window]]",
        )),
    }
}

/// Checks `group:ID`, the calendar of a Microsoft 365 group; other mailboxes pass. `may_be_user` says
/// whether the account may be a person.
pub(super) fn check_group(
    text: &str,
    calendar: &CalendarRef,
    may_be_user: bool,
) -> Result<(), Issue> {
    let Some(group) = group_id(text) else { return Ok(()) };
    Err(if !is_guid(group) {
        Issue::new(
            "not the id of a group",
            "write group: and the group's object id (a GUID), not its name or address",
        )
    } else if *calendar != CalendarRef::Default {
        Issue::new(
            "a group has only its default calendar, but calendar names another one",
            "remove calendar, or write the mailbox that has that calendar",
        )
    } else if !may_be_user {
        // Documented for events and calendars of groups, and reported for all requests.
        Issue::new(
            "Graph shows group calendars to members of the group only, not to applications",
            "use an account with device_code = true, and sign in as a member of the group",
        )
    } else {
        return Ok(());
    })
}

/// A warning about a mailbox that is neither an address (user principal name) nor an object id:
/// Graph answers 404 for all others. A `me` or group that was not rejected before is intentional.
pub(super) fn mailbox_warning(mailbox: &str) -> Option<Issue> {
    let known =
        is_address(mailbox) || is_guid(mailbox) || mailbox == "me" || group_id(mailbox).is_some();
    (!known).then(|| {
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
