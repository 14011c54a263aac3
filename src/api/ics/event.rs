//! One event of Graph as a `VEVENT`.
//!
//! | iCalendar | Graph |
//! |---|---|
//! | `UID` | `uid`, else `iCalUId` without the day of an instance, so that a series shares it, else the id |
//! | `RECURRENCE-ID` | of instances of a series: `originalStart` |
//! | `DTSTART`, `DTEND` | `start`, `end`: instants in UTC, dates where `isAllDay` |
//! | `DTSTAMP`, `LAST-MODIFIED` | `lastModifiedDateTime` |
//! | `STATUS` | `CANCELLED` by `isCancelled`, `TENTATIVE` by `showAs`, else `CONFIRMED` |
//! | `TRANSP` | `TRANSPARENT` where `showAs` is `free` or `workingElsewhere` |
//! | `CLASS` | `sensitivity` |
//!
//! Events that are masked have no subject: their summary is their busy state.

use icalendar::{Component as _, Event, EventLike as _, Property};
use jiff::civil::DateTime;
use jiff::{Timestamp, tz};
use serde_json::Value;

use super::fold::fold;
use super::html;
use crate::api::when::{Clock, Moment};
use crate::mirror::event::Members;

/// The beginning of every `iCalUId` that Exchange made (MS-OXOCAL 2.2.1.27), in hexadecimal.
const GLOBAL_ID: &str = "040000008200E00074C5B7101A82E008";

/// Descriptions are cut here, bytes. The JSON has all of it.
const DESCRIPTION: usize = 64 << 10;

/// Writes an event; `None` where its times or its shape are not understood.
pub(super) fn write(out: &mut String, event: &[u8], clock: &mut Clock) -> Option<()> {
    let when = clock.when(&Members::parse(event).ok()?)?;
    let event: Value = serde_json::from_slice(event).ok()?;
    let text = |pointer: &str| {
        event.pointer(pointer).and_then(Value::as_str).filter(|text| !text.trim().is_empty())
    };
    let all_day = event["isAllDay"] == true;
    let shows = text("/showAs").unwrap_or("busy");
    // What a mask has left has not even a subject.
    let masked = event.get("subject").is_none();

    let mut entry = Event::new();
    entry.uid(&uid(&event)?);
    put(&mut entry, "DTSTART", when.start, all_day);
    // An event without length has no end (RFC 5545, 3.8.2.2: it would have to be later).
    if when.end.at > when.start.at {
        put(&mut entry, "DTEND", when.end, all_day);
    }
    if let Some(at) = original(&event, when.start, all_day).filter(|_| !masked) {
        put(&mut entry, "RECURRENCE-ID", at, all_day);
    }
    let modified = text("/lastModifiedDateTime").and_then(|text| text.parse().ok());
    entry.add_property("DTSTAMP", stamp(modified.unwrap_or(Timestamp::UNIX_EPOCH)));
    if let Some(modified) = modified {
        entry.add_property("LAST-MODIFIED", stamp(modified));
    }
    if let Some(created) = text("/createdDateTime").and_then(|text| text.parse().ok()) {
        entry.add_property("CREATED", stamp(created));
    }
    let summary = text("/subject").map(clean).filter(|_| !masked);
    match (summary, masked) {
        (Some(summary), _) => entry.summary(&summary),
        (None, true) => entry.summary(busy_word(shows)),
        (None, false) => &mut entry,
    };
    entry.add_property("TRANSP", if is_free(shows) { "TRANSPARENT" } else { "OPAQUE" });
    entry.add_property("X-MICROSOFT-CDO-BUSYSTATUS", busy_code(shows));
    entry.add_property("STATUS", status(&event, shows));
    entry.add_property("CLASS", class(text("/sensitivity").unwrap_or("normal")));
    if let Some(priority) = priority(text("/importance").unwrap_or("normal")) {
        entry.add_property("PRIORITY", priority);
    }
    if let Some(place) = text("/location/displayName") {
        entry.add_property("LOCATION", clean(place));
    }
    if let Some(description) = description(&event) {
        entry.description(&description);
    }
    if let Some(link) = text("/webLink").map(uri) {
        entry.url(&link);
    }
    let categories: Vec<String> =
        list(&event, "categories").filter_map(Value::as_str).map(clean).collect();
    if !categories.is_empty() {
        entry.categories(categories);
    }
    if let Some(organizer) = event.pointer("/organizer/emailAddress") {
        entry.append_property(person("ORGANIZER", organizer).done());
    }
    for attendee in list(&event, "attendees") {
        entry.append_multi_property(invited(attendee));
    }
    let from = out.len();
    entry.fmt_write(out).ok()?;
    fold(out, from);
    Some(())
}

fn list<'a>(event: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    event[name].as_array().into_iter().flatten()
}

/// The same for all instances of a series; never the same for two series.
fn uid(event: &Value) -> Option<String> {
    let text = |name: &str| event[name].as_str().filter(|text| !text.is_empty());
    if let Some(uid) = text("uid") {
        return Some(clean(uid));
    }
    let Some(uid) = text("iCalUId") else { return text("id").map(clean) };
    let day = GLOBAL_ID.len()..GLOBAL_ID.len() + 8;
    let global =
        uid.get(..GLOBAL_ID.len()).is_some_and(|head| head.eq_ignore_ascii_case(GLOBAL_ID));
    match uid.get(day.clone()) {
        Some(_) if global => {
            let mut uid = uid.to_owned();
            uid.replace_range(day, "00000000");
            Some(clean(&uid))
        }
        _ => Some(clean(uid)),
    }
}

/// When an instance of a series takes place by its series' rule.
fn original(event: &Value, start: Moment, all_day: bool) -> Option<Moment> {
    match event["type"].as_str()? {
        "occurrence" => Some(start),
        "exception" => {
            let Some(at) = event["originalStart"].as_str().and_then(|t| t.parse().ok()) else {
                return Some(start);
            };
            Some(Moment { civil: if all_day { midnight(event, at) } else { start.civil }, at })
        }
        _ => None,
    }
}

/// The day an instant lies on that is a midnight somewhere (fact 81): in the event's own zone,
/// or on the day whose midnight in UTC is nearest.
fn midnight(event: &Value, at: Timestamp) -> DateTime {
    let own = event["originalStartTimeZone"].as_str().and_then(crate::mirror::zone::find);
    let local = own
        .map(|zone| zone.to_datetime(at))
        .filter(|local| local.time() == jiff::civil::Time::midnight());
    local.unwrap_or_else(|| {
        let near = at.checked_add(jiff::SignedDuration::from_hours(12)).unwrap_or(at);
        tz::TimeZone::UTC.to_datetime(near)
    })
}

fn put(entry: &mut Event, name: &str, moment: Moment, all_day: bool) {
    let property = if all_day {
        Property::new(name, moment.civil.strftime("%Y%m%d").to_string())
            .add_parameter("VALUE", "DATE")
            .done()
    } else {
        Property::new(name, stamp(moment.at))
    };
    entry.append_property(property);
}

fn stamp(at: Timestamp) -> String {
    at.strftime("%Y%m%dT%H%M%SZ").to_string()
}

fn is_free(shows: &str) -> bool {
    matches!(shows, "free" | "workingElsewhere")
}

fn busy_word(shows: &str) -> &'static str {
    match shows {
        "free" => "Free",
        "tentative" => "Tentative",
        "oof" => "Out of office",
        "workingElsewhere" => "Working elsewhere",
        _ => "Busy",
    }
}

fn busy_code(shows: &str) -> &'static str {
    match shows {
        "free" => "FREE",
        "tentative" => "TENTATIVE",
        "oof" => "OOF",
        "workingElsewhere" => "WORKINGELSEWHERE",
        _ => "BUSY",
    }
}

fn status(event: &Value, shows: &str) -> &'static str {
    match (event["isCancelled"] == true, shows) {
        (true, _) => "CANCELLED",
        (false, "tentative") => "TENTATIVE",
        (false, _) => "CONFIRMED",
    }
}

fn class(sensitivity: &str) -> &'static str {
    match sensitivity {
        "personal" | "private" => "PRIVATE",
        "confidential" => "CONFIDENTIAL",
        _ => "PUBLIC",
    }
}

fn priority(importance: &str) -> Option<&'static str> {
    match importance {
        "high" => Some("1"),
        "low" => Some("9"),
        _ => None,
    }
}

/// The body as text, else its preview.
fn description(event: &Value) -> Option<String> {
    let content = event.pointer("/body/content").and_then(Value::as_str).unwrap_or_default();
    let body = match event.pointer("/body/contentType").and_then(Value::as_str) {
        Some("html" | "HTML") => html::text(content),
        _ => content.to_owned(),
    };
    let preview = || event["bodyPreview"].as_str().unwrap_or_default();
    let text = if body.trim().is_empty() { preview() } else { &body };
    let mut text = clean(text.trim());
    if text.len() > DESCRIPTION {
        let end = text.floor_char_boundary(DESCRIPTION);
        text.truncate(end);
        text.push('…');
    }
    Some(text).filter(|text| !text.is_empty())
}

fn invited(attendee: &Value) -> Property {
    let mut property = person("ATTENDEE", &attendee["emailAddress"]);
    let (role, kind) = match attendee["type"].as_str() {
        Some("optional") => ("OPT-PARTICIPANT", "INDIVIDUAL"),
        Some("resource") => ("NON-PARTICIPANT", "RESOURCE"),
        _ => ("REQ-PARTICIPANT", "INDIVIDUAL"),
    };
    let answer = match attendee.pointer("/status/response").and_then(Value::as_str) {
        Some("accepted" | "organizer") => "ACCEPTED",
        Some("declined") => "DECLINED",
        Some("tentativelyAccepted") => "TENTATIVE",
        _ => "NEEDS-ACTION",
    };
    property.add_parameter("ROLE", role);
    property.add_parameter("CUTYPE", kind);
    property.add_parameter("PARTSTAT", answer);
    property.done()
}

fn person(name: &str, email: &Value) -> Property {
    let address = uri(email["address"].as_str().unwrap_or_default());
    let address = if address.contains('@') {
        format!("mailto:{address}")
    } else {
        "invalid:nomail".to_owned()
    };
    let mut property = Property::new(name, address);
    if let Some(name) = email["name"].as_str().filter(|name| !name.trim().is_empty()) {
        property.add_parameter("CN", &parameter(name));
    }
    property
}

/// A parameter's value: what may not stand in one is written as RFC 6868 says.
fn parameter(text: &str) -> String {
    clean(text).replace('^', "^^").replace('\n', "^n").replace('"', "^'")
}

/// An address as it may stand in a line: without white space and control characters.
fn uri(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace() && !c.is_control() && *c != '"').collect()
}

/// Text with one kind of line end and no other control characters, which iCalendar cannot carry.
pub(super) fn clean(text: &str) -> String {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}
