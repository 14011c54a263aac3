//! Routes requests by Graph's paths, and refuses the others with Graph's own messages.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::access_token::TokenHolder;
use super::behaviour::PrivateEvents;
use super::calendar::Calendar;
use super::content::Person;
use super::delegation::{ReadTarget, access_denied};
use super::directory_page::shown;
use super::event::{CalendarContext, CalendarItem, EventForm, ItemPart};
use super::faults::Fault;
use super::group_calendar::{group_in_user_path, is_group_calendar};
use super::ids::MailboxIds;
use super::request::{PreferHeader, RenderedResponse, SimulatedRequest};
use super::state::{Mailbox, SimulatorState, is_delta};
use super::stuck;
use super::zone::date_of;

/// Permissions of which an application needs one to read calendars (fact 22).
const READ_CALENDARS: [&str; 4] =
    ["calendars.read", "calendars.readbasic", "calendars.readbasic.all", "calendars.readwrite"];

/// The mailbox and calendar that a request's path addresses.
struct RequestScope {
    mailbox: usize,
    /// The calendar the path names, if any.
    calendar: Option<usize>,
    /// The index of the first segment after them.
    rest: usize,
    /// Whether a person reads another person's calendar.
    delegate: bool,
}

impl SimulatorState {
    /// Answers a request to Graph. A refusal is an `Err`.
    pub(super) fn graph(
        &mut self,
        call: &SimulatedRequest,
        mailbox: Option<usize>,
        fault: Option<&Fault>,
    ) -> Result<RenderedResponse, RenderedResponse> {
        let holder =
            self.sign_in.access_tokens.authorise(call, self.env.now(), &mut self.statistics)?;
        if !call.versioned {
            let version = call.segments.first().map_or("", String::as_str);
            let message = format!("Invalid version: {version}");
            return Err(RenderedResponse::bad_request("BadRequest", &message));
        }
        if call.method != Method::GET {
            return Err(RenderedResponse::error(
                StatusCode::METHOD_NOT_ALLOWED,
                "Request_BadRequest",
                "Specified HTTP method is not allowed for the request target.",
            ));
        }
        let prefer = PreferHeader::read(&call.prefer)?;
        if let Some(answer) = self.directory_route(call, &holder) {
            return answer;
        }
        let mut scope = self.scope(call, mailbox)?;
        scope.delegate = self.check_delegation(call, &holder, &scope)?;
        let reply = self.route(call, &scope, &prefer, fault)?;
        let mut applied = prefer.applied;
        if is_delta(call) {
            applied.push("odata.track-changes".to_owned());
        }
        if applied.is_empty() {
            return Ok(reply);
        }
        Ok(reply.header("preference-applied", applied.join(", ")))
    }

    fn scope(
        &self,
        call: &SimulatedRequest,
        mailbox: Option<usize>,
    ) -> Result<RequestScope, RenderedResponse> {
        let me = call.segments.first().is_some_and(|s| s.eq_ignore_ascii_case("me"));
        let users = call.segments.first().is_some_and(|s| s.eq_ignore_ascii_case("users"));
        let mailbox = mailbox.ok_or_else(|| match call.segments.get(1) {
            _ if me => RenderedResponse::bad_request(
                "BadRequest",
                "/me request is only valid with delegated authentication flow.",
            ),
            Some(name) if users && self.group_calendar(name).is_some() => group_in_user_path(),
            Some(name) if users && self.directory.find(name).is_some() => RenderedResponse::error(
                StatusCode::NOT_FOUND,
                "MailboxNotEnabledForRESTAPI",
                "REST API is not yet supported for this mailbox.",
            ),
            Some(name) if users => RenderedResponse::error(
                StatusCode::NOT_FOUND,
                "ErrorInvalidUser",
                &format!("The requested user '{name}' is invalid."),
            ),
            Some(id) if is_group_calendar(call) => self.no_group_calendar(id),
            _ => no_segment(call, 0),
        })?;
        let rest = if me { 1 } else { 2 };
        let found = |id| self.calendar(mailbox, id).ok_or_else(not_found);
        let segment = |at: usize| call.segments.get(at).map(String::as_str);
        let (calendar, rest) = match segment(rest).map(str::to_lowercase).as_deref() {
            Some("calendar") => (Some(found(None)?), rest + 1),
            Some("calendars") if segment(rest + 1).is_some() => {
                (Some(found(segment(rest + 1))?), rest + 2)
            }
            _ => (None, rest),
        };
        Ok(RequestScope { mailbox, calendar, rest, delegate: false })
    }

    /// Checks what the token's holder may read. Returns whether it is another person's calendar.
    fn check_delegation(
        &self,
        call: &SimulatedRequest,
        holder: &TokenHolder,
        scope: &RequestScope,
    ) -> Result<bool, RenderedResponse> {
        if self.mailboxes[scope.mailbox].is_group {
            return self.check_group(holder, &self.mailboxes[scope.mailbox].object_id);
        }
        let is_list = call.is(&["calendars"], scope.rest);
        let target = match scope.calendar {
            None if call.segments.len() == scope.rest => ReadTarget::Profile,
            None | Some(0) if !is_list => ReadTarget::DefaultCalendar,
            _ => ReadTarget::OtherCalendars,
        };
        let is_application = matches!(holder, TokenHolder::Application(_));
        let is_profile = target == ReadTarget::Profile;
        if is_application && !is_profile && !self.has_permission(holder, &READ_CALENDARS) {
            return Err(access_denied());
        }
        let owner = &self.mailboxes[scope.mailbox].object_id;
        self.delegation.check(call, holder, owner, self.directory.is_room(owner), target)
    }

    fn route(
        &mut self,
        call: &SimulatedRequest,
        scope: &RequestScope,
        prefer: &PreferHeader,
        fault: Option<&Fault>,
    ) -> Result<RenderedResponse, RenderedResponse> {
        let RequestScope { mailbox, calendar, rest, .. } = *scope;
        let view = call.segments.get(rest).is_some_and(|s| s.eq_ignore_ascii_case("calendarview"));
        if view && is_delta(call) && call.segments.len() == rest + 2 {
            if self.mailboxes[mailbox].is_group {
                return Err(no_change_tracking());
            }
            return self.delta(call, (mailbox, calendar.unwrap_or(0)), prefer, fault);
        }
        if call.is(&["events", "delta"], rest) {
            return Err(no_change_tracking());
        }
        let owner = &self.mailboxes[mailbox];
        if call.is(&["calendarview"], rest) {
            let view = self.list_view(call, &owner.calendars[calendar.unwrap_or(0)], prefer)?;
            return Ok(stuck::pad_body(view, fault));
        }
        if call.is(&["events", "*"], rest) {
            let (place, item, part) = self.find(call, scope, &prefer.form).ok_or_else(not_found)?;
            return Ok(self.event(call, place, item, part, prefer));
        }
        if call.is(&["events", "*", "instances"], rest) {
            let (place, item, part) = self.find(call, scope, &prefer.form).ok_or_else(not_found)?;
            if item.series.is_none() || part != ItemPart::Itself {
                return Err(RenderedResponse::bad_request(
                    "ErrorInvalidRequest",
                    "The requested item is not a recurring master.",
                ));
            }
            return self.list_instances(call, place, item, prefer);
        }
        if call.segments.len() == rest {
            let found = match calendar {
                Some(calendar) => {
                    let mut found = calendar_json(&owner.person, &owner.calendars[calendar]);
                    select_members(&mut found, call.parameter("$select"));
                    found
                }
                None => shown(self.mailbox_user(mailbox), call, false)?,
            };
            return Ok(RenderedResponse::json(StatusCode::OK, &found));
        }
        if calendar.is_none() && call.is(&["calendars"], rest) {
            return self.list_calendars(call, owner, prefer);
        }
        Err(no_segment(call, rest))
    }

    /// Lists the calendars of a mailbox, 10 a page (fact 187).
    fn list_calendars(
        &self,
        call: &SimulatedRequest,
        owner: &Mailbox,
        prefer: &PreferHeader,
    ) -> Result<RenderedResponse, RenderedResponse> {
        let calendars = owner.calendars.iter().filter(|calendar| !calendar.deleted);
        let all: Vec<Value> = calendars.map(|it| calendar_json(&owner.person, it)).collect();
        let part = self.listing_part(call, prefer, all.len())?;
        let mut shown: Vec<Value> = all.into_iter().skip(part.skip).take(part.size).collect();
        for calendar in &mut shown {
            select_members(calendar, call.parameter("$select"));
        }
        let mut list = json!({
            "@odata.context": format!("{}/$metadata#users/calendars", self.base(call)),
            "value": shown,
        });
        if let Some(next) = part.next {
            list["@odata.nextLink"] = next.into();
        }
        Ok(RenderedResponse::json(StatusCode::OK, &list))
    }

    /// The event that the path names after `events`, in the path's calendar, if it can be fetched
    /// by its id. A path without a calendar reaches every calendar that is not shared.
    fn find(
        &self,
        call: &SimulatedRequest,
        scope: &RequestScope,
        form: &EventForm,
    ) -> Option<(CalendarContext, &CalendarItem, ItemPart)> {
        let mailbox = &self.mailboxes[scope.mailbox];
        // Both kinds of id are accepted, whichever the request prefers (fact 46).
        let id = call.segments.get(scope.rest + 1)?;
        let named = [form.immutable, !form.immutable]
            .into_iter()
            .find_map(|immutable| MailboxIds { mailbox: mailbox.number, immutable }.read(id))?;
        let calendar = mailbox.calendars.get(usize::from(named.calendar)).filter(|c| !c.deleted)?;
        let reachable = match scope.calendar {
            Some(calendar) => calendar == usize::from(named.calendar),
            None => !calendar.shared,
        };
        let item = calendar.items.get(&named.key).filter(|_| reachable)?;
        // A delegate lists private events, but cannot fetch them (fact 180).
        let hidden = self.behaviour.private_events == PrivateEvents::ListedOnly || scope.delegate;
        let listed_only = hidden && item.content.sensitivity == "private";
        let part = item.part(named.day)?;
        (!listed_only).then_some((calendar.place, &**item, part))
    }

    fn event(
        &self,
        call: &SimulatedRequest,
        place: CalendarContext,
        item: &CalendarItem,
        part: ItemPart,
        prefer: &PreferHeader,
    ) -> RenderedResponse {
        let mut event = place.whole(item, part, &prefer.form);
        let select = call.parameter("$select");
        if let (Some(series), ItemPart::Itself) = (&item.series, part) {
            if select.is_some_and(|s| s.contains("cancelledOccurrences")) {
                let master = place.id(&prefer.form, item.key, 0);
                event["cancelledOccurrences"] = series
                    .cancelled
                    .iter()
                    .map(|day| format!("OID.{master}.{}", date_of(*day)))
                    .collect();
            }
            if call.parameter("$expand").is_some_and(|e| e.contains("exceptionOccurrences")) {
                event["exceptionOccurrences"] = series
                    .exceptions
                    .keys()
                    .map(|day| place.whole(item, ItemPart::Exception(*day), &prefer.form))
                    .collect();
            }
        }
        select_members(&mut event, select);
        event["@odata.context"] =
            format!("{}/$metadata#users('x')/events/$entity", self.base(call)).into();
        RenderedResponse::json(StatusCode::OK, &event)
    }

    /// The base address of links: the one set, else the one the client used, else Graph's own.
    pub(super) fn base(&self, call: &SimulatedRequest) -> std::sync::Arc<str> {
        match &self.base {
            Some(base) => base.clone(),
            None => format!("{}/v1.0", call.origin()).into(),
        }
    }

    /// The address of the request's own path, under the base address.
    pub(super) fn own_address(&self, call: &SimulatedRequest) -> String {
        let path = call.path.get(..5).filter(|p| p.eq_ignore_ascii_case("/v1.0"));
        let path = if path.is_some() { &call.path[5..] } else { &call.path };
        format!("{}{path}", self.base(call))
    }
}

fn calendar_json(owner: &Person, calendar: &Calendar) -> Value {
    let is_default = calendar.place.calendar == 0;
    let change_key = MailboxIds::calendar(calendar.version, 0);
    json!({
        "id": calendar.id,
        "name": calendar.name,
        "color": "auto",
        "hexColor": "",
        "isDefaultCalendar": is_default,
        "changeKey": change_key.chars().take(30).collect::<String>(),
        "canShare": !calendar.shared && !calendar.read_only,
        "canViewPrivateItems": true,
        "canEdit": !calendar.shared && !calendar.read_only,
        "isRemovable": !is_default,
        "isTallyingResponses": true,
        "allowedOnlineMeetingProviders": ["teamsForBusiness"],
        "defaultOnlineMeetingProvider": "teamsForBusiness",
        "owner": {"name": &*owner.name, "address": &*owner.address},
    })
}

/// 404 for an event or calendar.
pub(super) fn not_found() -> RenderedResponse {
    RenderedResponse::error(
        StatusCode::NOT_FOUND,
        "ErrorItemNotFound",
        "The specified object was not found in the store.",
    )
}

/// 400 for an invalid token.
pub(super) fn badly_formed() -> RenderedResponse {
    RenderedResponse::bad_request("BadRequest", "Badly formed token.")
}

/// 400 for delta where there is none (fact 10).
fn no_change_tracking() -> RenderedResponse {
    RenderedResponse::bad_request(
        "ErrorInvalidRequest",
        "Change tracking is not supported against 'microsoft.graph.event'.",
    )
}

fn no_segment(call: &SimulatedRequest, at: usize) -> RenderedResponse {
    let segment = call.segments.get(at).map(String::as_str).unwrap_or_default();
    let message = format!("Resource not found for the segment '{segment}'.");
    RenderedResponse::bad_request("BadRequest", &message)
}

/// Keeps the members that `$select` names, and those that Graph never leaves out.
pub(super) fn select_members(event: &mut Value, select: Option<&str>) {
    let (Some(select), Value::Object(members)) = (select, event) else { return };
    let wanted: Vec<&str> = select.split(',').map(str::trim).collect();
    members.retain(|name, _| {
        name == "id" || name == "@odata.etag" || wanted.iter().any(|w| w.eq_ignore_ascii_case(name))
    });
}

/// The window of a request, or the error if it is missing or invalid (facts 25, 28, 31).
pub(super) fn read_window(
    call: &SimulatedRequest,
    max_days: Option<u32>,
) -> Result<(jiff::Timestamp, jiff::Timestamp), RenderedResponse> {
    let invalid = |message: &str| RenderedResponse::bad_request("ErrorInvalidParameter", message);
    let (Some(start), Some(end)) = (call.parameter("startdatetime"), call.parameter("enddatetime"))
    else {
        return Err(invalid(
            "This request requires a time window specified by the query string parameters \
             StartDateTime and EndDateTime.",
        ));
    };
    let read = |name: &str, text: &str| {
        super::zone::read_instant(text).ok_or_else(|| {
            invalid(&format!("The value '{text}' of parameter '{name}' is invalid."))
        })
    };
    let window = (read("StartDateTime", start)?, read("EndDateTime", end)?);
    if window.1 <= window.0 {
        return Err(invalid("The end of the time window must be after its start."));
    }
    let seconds = window.1.as_second() - window.0.as_second();
    if let Some(days) = max_days.filter(|days| seconds > i64::from(*days) * 86_400) {
        return Err(RenderedResponse::bad_request(
            "ErrorInvalidRequest",
            &format!(
                "Your request can't be completed. The range between the start and end dates is \
                 greater than the allowed range. Maximum number of days: {days}"
            ),
        ));
    }
    Ok(window)
}
