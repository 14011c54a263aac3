//! Routes requests by Graph's paths, and refuses the others with Graph's own messages.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::event::{CalendarContext, CalendarItem, EventForm, ItemPart};
use super::faults::Fault;
use super::ids::{MailboxIds, mix};
use super::request::{GraphRequest, PreferHeader, RenderedResponse};
use super::state::{SimulatorState, is_delta};
use super::stuck;
use super::zone::{Zone, date_of};

/// The mailbox and calendar that a request's path addresses.
struct RequestScope {
    mailbox: usize,
    /// The calendar the path names, if any.
    calendar: Option<usize>,
    /// The index of the first segment after them.
    rest: usize,
}

impl SimulatorState {
    /// Answers an authorised request.
    pub(super) fn graph(
        &mut self,
        call: &GraphRequest,
        mailbox: Option<usize>,
        fault: Option<&Fault>,
    ) -> RenderedResponse {
        if !call.versioned {
            let version = call.segments.first().map_or("", String::as_str);
            return RenderedResponse::error(
                StatusCode::BAD_REQUEST,
                "BadRequest",
                &format!("Invalid version: {version}"),
            );
        }
        if call.method != Method::GET {
            return RenderedResponse::error(
                StatusCode::METHOD_NOT_ALLOWED,
                "Request_BadRequest",
                "Specified HTTP method is not allowed for the request target.",
            );
        }
        let prefer = match PreferHeader::read(&call.prefer) {
            Ok(prefer) => prefer,
            Err(refused) => return *refused,
        };
        let scope = match self.scope(call, mailbox) {
            Ok(scope) => scope,
            Err(refused) => return *refused,
        };
        let mut reply = self.route(call, &scope, &prefer, fault);
        let mut applied = prefer.applied;
        if is_delta(call) {
            applied.push("odata.track-changes".to_owned());
        }
        if reply.status == StatusCode::OK && !applied.is_empty() {
            reply = reply.header("preference-applied", applied.join(", "));
        }
        reply
    }

    fn scope(
        &self,
        call: &GraphRequest,
        mailbox: Option<usize>,
    ) -> Result<RequestScope, Box<RenderedResponse>> {
        let me = call.segments.first().is_some_and(|s| s.eq_ignore_ascii_case("me"));
        let users = call.segments.first().is_some_and(|s| s.eq_ignore_ascii_case("users"));
        let Some(mailbox) = mailbox else {
            return Err(Box::new(match call.segments.get(1) {
                _ if me => RenderedResponse::error(
                    StatusCode::BAD_REQUEST,
                    "BadRequest",
                    "/me request is only valid with delegated authentication flow.",
                ),
                Some(name) if users => RenderedResponse::error(
                    StatusCode::NOT_FOUND,
                    "ErrorInvalidUser",
                    &format!("The requested user '{name}' is invalid."),
                ),
                _ => no_segment(call, 0),
            }));
        };
        let rest = if me { 1 } else { 2 };
        let segment = |at: usize| call.segments.get(at).map(|s| s.to_lowercase());
        let (calendar, rest) = match segment(rest).as_deref() {
            Some("calendar") => (Some(None), rest + 1),
            Some("calendars") if call.segments.len() > rest + 1 => {
                (Some(call.segments.get(rest + 1)), rest + 2)
            }
            _ => (None, rest),
        };
        let calendar = match calendar {
            None => None,
            Some(id) => match self.calendar(mailbox, id.map(String::as_str)) {
                Some(calendar) => Some(calendar),
                None => return Err(Box::new(not_found())),
            },
        };
        Ok(RequestScope { mailbox, calendar, rest })
    }

    fn route(
        &mut self,
        call: &GraphRequest,
        scope: &RequestScope,
        prefer: &PreferHeader,
        fault: Option<&Fault>,
    ) -> RenderedResponse {
        let RequestScope { mailbox, calendar, rest } = *scope;
        let view = call.segments.get(rest).is_some_and(|s| s.eq_ignore_ascii_case("calendarview"));
        if view && is_delta(call) && call.segments.len() == rest + 2 {
            let Some(calendar) = calendar.or_else(|| self.calendar(mailbox, None)) else {
                return not_found();
            };
            return self.delta(call, mailbox, calendar, prefer, fault);
        }
        if call.is(&["calendarview"], rest) {
            let Some(calendar) = calendar.or_else(|| self.calendar(mailbox, None)) else {
                return not_found();
            };
            return stuck::pad_body(self.list_view(call, mailbox, calendar, prefer), fault);
        }
        if call.is(&["events", "*"], rest) {
            return match self.find(call, scope, rest + 1, &prefer.form) {
                Some((_, item, _)) if self.is_listed_only(&item) => not_found(),
                Some((place, item, part)) => self.event(call, place, &item, part, prefer),
                None => not_found(),
            };
        }
        if call.is(&["events", "*", "instances"], rest) {
            return match self.find(call, scope, rest + 1, &prefer.form) {
                Some((_, item, _)) if self.is_listed_only(&item) => not_found(),
                Some((place, item, ItemPart::Itself)) if item.series.is_some() => {
                    self.list_instances(call, place, &item, prefer)
                }
                Some(_) => RenderedResponse::error(
                    StatusCode::BAD_REQUEST,
                    "ErrorInvalidRequest",
                    "The requested item is not a recurring master.",
                ),
                None => not_found(),
            };
        }
        if call.segments.len() == rest
            && let Some(calendar) = calendar
        {
            return RenderedResponse::json(StatusCode::OK, &self.calendar_json(mailbox, calendar));
        }
        if call.segments.len() == rest {
            let Some(mailbox) = self.mailboxes.get(mailbox) else { return not_found() };
            let user = json!({
                "id": mailbox.object_id,
                "displayName": &*mailbox.person.name,
                "mail": &*mailbox.person.address,
                "userPrincipalName": &*mailbox.person.address,
            });
            return RenderedResponse::json(StatusCode::OK, &user);
        }
        if calendar.is_none() && call.is(&["calendars"], rest) {
            let count = self.mailboxes.get(mailbox).map_or(0, |m| m.calendars.len());
            let value: Vec<Value> = (0..count)
                .filter(|at| !self.mailboxes[mailbox].calendars[*at].deleted)
                .map(|at| self.calendar_json(mailbox, at))
                .collect();
            let list = json!({
                "@odata.context": format!("{}/$metadata#users/calendars", self.base(call)),
                "value": value,
            });
            return RenderedResponse::json(StatusCode::OK, &list);
        }
        if calendar.is_none() && call.is(&["events", "delta"], rest) {
            return RenderedResponse::error(
                StatusCode::BAD_REQUEST,
                "ErrorInvalidRequest",
                "Change tracking is not supported against 'microsoft.graph.event'.",
            );
        }
        no_segment(call, rest)
    }

    fn calendar_json(&self, mailbox: usize, calendar: usize) -> Value {
        let Some(owner) = self.mailboxes.get(mailbox) else { return Value::Null };
        let Some(this) = owner.calendars.get(calendar) else { return Value::Null };
        json!({
            "id": this.id,
            "name": this.name,
            "color": "auto",
            "hexColor": "",
            "isDefaultCalendar": calendar == 0,
            "changeKey": MailboxIds::calendar(this.version, 0).chars().take(30).collect::<String>(),
            "canShare": !this.shared,
            "canViewPrivateItems": true,
            "canEdit": !this.shared,
            "isRemovable": calendar != 0,
            "isTallyingResponses": true,
            "allowedOnlineMeetingProviders": ["teamsForBusiness"],
            "defaultOnlineMeetingProvider": "teamsForBusiness",
            "owner": {"name": &*owner.person.name, "address": &*owner.person.address},
        })
    }

    /// The event that segment `at` of the path names, in the path's calendar. A path without a
    /// calendar reaches every calendar that is not shared.
    fn find(
        &self,
        call: &GraphRequest,
        scope: &RequestScope,
        at: usize,
        form: &EventForm,
    ) -> Option<(CalendarContext, std::sync::Arc<CalendarItem>, ItemPart)> {
        let mailbox = self.mailboxes.get(scope.mailbox)?;
        // Both kinds of id are accepted, whichever the request prefers (fact 46).
        let id = call.segments.get(at)?;
        let named = [form.immutable, !form.immutable]
            .into_iter()
            .find_map(|immutable| MailboxIds { mailbox: mailbox.number, immutable }.read(id))?;
        let calendar = mailbox.calendars.get(usize::from(named.calendar)).filter(|c| !c.deleted)?;
        let reachable = match scope.calendar {
            Some(calendar) => calendar == usize::from(named.calendar),
            None => !calendar.shared,
        };
        let item = calendar.items.get(&named.key).filter(|_| reachable)?.clone();
        let part = match named.day {
            0 => ItemPart::Itself,
            day => item.instance(i32::from(day))?,
        };
        Some((self.rendering(scope.mailbox, usize::from(named.calendar)), item, part))
    }

    fn event(
        &self,
        call: &GraphRequest,
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
    pub(super) fn base(&self, call: &GraphRequest) -> std::sync::Arc<str> {
        match &self.base {
            Some(base) => base.clone(),
            None => format!("{}/v1.0", call.origin()).into(),
        }
    }

    /// The address of the request's own path, under the base address.
    pub(super) fn own_address(&self, call: &GraphRequest) -> String {
        let path = call.path.get(..5).filter(|p| p.eq_ignore_ascii_case("/v1.0"));
        let path = if path.is_some() { &call.path[5..] } else { &call.path };
        format!("{}{path}", self.base(call))
    }
}

/// A hash of the request's path and query, which identifies a link.
pub(super) fn link_hash(call: &GraphRequest) -> u64 {
    mix(&[u64::from(crc32fast::hash(call.target.as_bytes())), call.target.len() as u64])
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
    RenderedResponse::error(StatusCode::BAD_REQUEST, "BadRequest", "Badly formed token.")
}

fn no_segment(call: &GraphRequest, at: usize) -> RenderedResponse {
    let segment = call.segments.get(at).map(String::as_str).unwrap_or_default();
    RenderedResponse::error(
        StatusCode::BAD_REQUEST,
        "BadRequest",
        &format!("Resource not found for the segment '{segment}'."),
    )
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
    call: &GraphRequest,
    max_days: Option<u32>,
) -> Result<(jiff::Timestamp, jiff::Timestamp), Box<RenderedResponse>> {
    let invalid = |message: &str| {
        Box::new(RenderedResponse::error(StatusCode::BAD_REQUEST, "ErrorInvalidParameter", message))
    };
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
        return Err(Box::new(RenderedResponse::error(
            StatusCode::BAD_REQUEST,
            "ErrorInvalidRequest",
            &format!(
                "Your request can't be completed. The range between the start and end dates is \
                 greater than the allowed range. Maximum number of days: {days}"
            ),
        )));
    }
    Ok(window)
}

/// The start of an instance, for sorting.
pub(super) fn start_of(item: &CalendarItem, part: ItemPart) -> jiff::Timestamp {
    let zone: &Zone = &item.zone;
    zone.instant(item.span_of(part).start)
}
