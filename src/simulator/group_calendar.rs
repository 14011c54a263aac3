//! Calendars of Microsoft 365 groups, below `/groups/{id}`.
//!
//! The calendar of a group is that of a mailbox named `group:{id}`, which is no user. A member of the
//! group reads it; applications do not, whatever their permissions.

use http::StatusCode;

use super::Simulator;
use super::access_token::TokenHolder;
use super::content::Person;
use super::delegation::access_denied;
use super::directory::DirectoryObject;
use super::directory_routes::resource_not_found;
use super::request::{RenderedResponse, SimulatedRequest};
use super::state::{Mailbox, SimulatorState};

/// Delegated permissions of which one is needed.
const READ_GROUP_CALENDARS: [&str; 2] = ["group.read.all", "group.readwrite.all"];

impl Mailbox {
    /// The name by which all calls know it.
    pub(super) fn name(&self) -> String {
        match self.is_group {
            true => format!("group:{}", self.object_id),
            false => self.person.address.to_string(),
        }
    }
}

impl SimulatorState {
    /// The mailbox of a group that has a calendar, by the group's id.
    pub(super) fn group_calendar(&self, id: &str) -> Option<usize> {
        self.mailbox(&format!("group:{id}"))
    }

    /// The mailbox of the group whose calendar a path below `/groups` addresses.
    pub(super) fn group_mailbox(&self, call: &SimulatedRequest) -> Option<usize> {
        let id = call.segments.get(1).filter(|_| is_group_calendar(call))?;
        self.group_calendar(id).filter(|_| self.directory.group(id).is_some())
    }

    /// Checks that the token's holder may read the calendar of a group. Members read it like their
    /// own, so the answer to whether it is another person's calendar is always no.
    pub(super) fn check_group(
        &self,
        holder: &TokenHolder,
        group: &str,
    ) -> Result<bool, RenderedResponse> {
        let TokenHolder::Person { object_id, .. } = holder else { return Err(access_denied()) };
        let is_member = self.directory.members(group, false).contains(object_id);
        match is_member && self.has_permission(holder, &READ_GROUP_CALENDARS) {
            true => Ok(false),
            false => Err(access_denied()),
        }
    }

    /// The refusal for a group without a calendar.
    pub(super) fn no_group_calendar(&self, id: &str) -> RenderedResponse {
        match self.directory.group(id) {
            None => resource_not_found(id),
            Some(_) => RenderedResponse::error(
                StatusCode::NOT_FOUND,
                "MailboxNotEnabledForRESTAPI",
                "REST API is not yet supported for this mailbox.",
            ),
        }
    }

    fn add_group_calendar(&mut self, group: &str) -> Option<usize> {
        let id = self.directory.find(group)?;
        let DirectoryObject::Group(group) = self.directory.objects.get_mut(&id)? else {
            return None;
        };
        group.unified = true;
        let nickname = group.name.to_lowercase().replace(' ', "-");
        let mail = group.mail.get_or_insert_with(|| format!("{nickname}@contoso.example"));
        let person = Person { name: group.name.as_str().into(), address: mail.as_str().into() };
        if let Some(known) = self.group_calendar(&id) {
            return Some(known);
        }
        let at = self.push_mailbox(person, Some(id));
        self.names.insert(self.mailboxes[at].name(), at);
        Some(at)
    }
}

impl Simulator {
    /// Makes a group, by id or address, a Microsoft 365 group with an empty calendar. Returns the
    /// name `group:{id}` by which all calls that take a mailbox know it, or an empty string for an
    /// unknown group.
    pub fn add_group_calendar(&self, group: &str) -> String {
        let mut state = self.state();
        let added = state.add_group_calendar(group);
        added.map(|at| state.mailboxes[at].name()).unwrap_or_default()
    }
}

/// Whether a path addresses the calendar of a group, or an event in it.
pub(super) fn is_group_calendar(call: &SimulatedRequest) -> bool {
    let named = |at: usize, names: &[&str]| {
        call.segments
            .get(at)
            .is_some_and(|segment| names.iter().any(|name| segment.eq_ignore_ascii_case(name)))
    };
    named(0, &["groups"]) && named(2, &["calendar", "calendarview", "events"])
}

/// 400 for a group addressed as a user.
pub(super) fn group_in_user_path() -> RenderedResponse {
    RenderedResponse::bad_request(
        "ErrorGroupIsUsedInNonGroupURI",
        "Group Shard is used in non-Groups URI.",
    )
}
