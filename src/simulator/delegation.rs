//! What a person may read: their own calendars, and the default calendars that others share with
//! them (facts 13 to 16).

use std::collections::BTreeSet;

use http::StatusCode;

use super::access_token::TokenHolder;
use super::request::{RenderedResponse, SimulatedRequest};

/// Who shares a calendar with whom, and the two readings of Graph's behaviour.
#[derive(Debug)]
pub(super) struct Delegation {
    /// Pairs of object ids: who shares the default calendar, and who may read it.
    pub(super) shares: BTreeSet<(String, String)>,
    /// Whether next links of a shared calendar work; if not, they are 403 (fact 14).
    pub(super) shared_links_work: bool,
    /// Whether `/me` itself needs the scope `User.Read`.
    pub(super) profile_needs_scope: bool,
}

impl Default for Delegation {
    fn default() -> Self {
        Self { shares: BTreeSet::new(), shared_links_work: true, profile_needs_scope: false }
    }
}

/// What a path under `/users/{user}` or `/me` reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadTarget {
    /// The directory's entry of the person.
    Profile,
    /// The default calendar, or what lies in it.
    DefaultCalendar,
    /// Another calendar, or the list of calendars.
    OtherCalendars,
}

impl Delegation {
    /// Checks that the token's holder may read something of the person or room `owner`, an object
    /// id. Returns whether the holder is a person who reads another person's calendar.
    pub(super) fn check(
        &self,
        call: &SimulatedRequest,
        holder: &TokenHolder,
        owner: &str,
        is_room: bool,
        target: ReadTarget,
    ) -> Result<bool, RenderedResponse> {
        let TokenHolder::Person { object_id, scopes, .. } = holder else { return Ok(false) };
        let has = |wanted: &[&str]| wanted.iter().any(|scope| scopes.contains(*scope));
        let own = owner == object_id;
        if target == ReadTarget::Profile {
            let needed: &[&str] = match own {
                true => &["user.read", "user.readwrite", "user.read.all", "user.readbasic.all"],
                false => &["user.read.all", "user.readbasic.all", "directory.read.all"],
            };
            let free = own && !self.profile_needs_scope;
            return if free || has(needed) { Ok(false) } else { Err(insufficient_privileges()) };
        }
        let shared = has(&["calendars.read.shared", "calendars.readwrite.shared"]);
        if own {
            let allowed =
                shared || has(&["calendars.read", "calendars.readbasic", "calendars.readwrite"]);
            return if allowed { Ok(false) } else { Err(access_denied()) };
        }
        let pair = (owner.to_owned(), object_id.clone());
        let is_default = target == ReadTarget::DefaultCalendar;
        if !shared || !is_default || !self.shares.contains(&pair) {
            return Err(if is_room { delegated_access_denied() } else { access_denied() });
        }
        if !self.shared_links_work && call.parameter("$skiptoken").is_some() {
            return Err(access_denied());
        }
        Ok(true)
    }
}

/// 403 of Exchange.
pub(super) fn access_denied() -> RenderedResponse {
    RenderedResponse::error(
        StatusCode::FORBIDDEN,
        "ErrorAccessDenied",
        "Access is denied. Check credentials and try again.",
    )
}

/// 403 of Exchange for a room that is not shared (fact 16).
fn delegated_access_denied() -> RenderedResponse {
    RenderedResponse::error(
        StatusCode::FORBIDDEN,
        "DelegatedCalendarAccessDenied",
        "Access is denied. Check credentials and try again.",
    )
}

/// 403 of the directory.
pub(super) fn insufficient_privileges() -> RenderedResponse {
    RenderedResponse::error(
        StatusCode::FORBIDDEN,
        "Authorization_RequestDenied",
        "Insufficient privileges to complete the operation.",
    )
}
