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

use jiff::civil::DateTime;
use jiff::{Timestamp, tz};
use serde_json::Value;

use super::html;
use super::line::Line;
use crate::mirror::event::Members;
use crate::mirror::times::{Moment, TimeReader};

/// The beginning of every `iCalUId` that Exchange made (MS-OXOCAL 2.2.1.27), in hexadecimal.
const GLOBAL_ID: &str = "040000008200E00074C5B7101A82E008";

/// Descriptions are cut here, bytes. The JSON has all of it.
const DESCRIPTION: usize = 64 << 10;

/// Writes an event; `None` where its times or its shape are not understood.
pub(super) fn write(out: &mut String, event: &[u8], times: &mut TimeReader) -> Option<()> {
    let when = times.event(&Members::parse(event).ok()?)?;
    let event: Value = serde_json::from_slice(event).ok()?;
    let text = |pointer: &str| {
        event.pointer(pointer).and_then(Value::as_str).filter(|text| !text.trim().is_empty())
    };
    let all_day = event["isAllDay"] == true;
    let shows = text("/showAs").unwrap_or("busy");
    // What a mask has left has not even a subject.
    let masked = event.get("subject").is_none();

    let uid = uid(&event)?;

    Line::new(out, "BEGIN").value("VEVENT");
    Line::new(out, "UID").text(&uid);
    put(out, "DTSTART", when.start, all_day);
    // An event without length has no end (RFC 5545, 3.8.2.2: it would have to be later).
    if when.end.at > when.start.at {
        put(out, "DTEND", when.end, all_day);
    }
    if let Some(at) = original(&event, when.start, all_day).filter(|_| !masked) {
        put(out, "RECURRENCE-ID", at, all_day);
    }
    let time = |name: &str| text(name).and_then(|text| text.parse::<Timestamp>().ok());
    let modified = time("/lastModifiedDateTime");
    Line::new(out, "DTSTAMP").value(&stamp(modified.unwrap_or(Timestamp::UNIX_EPOCH)));
    if let Some(modified) = modified {
        Line::new(out, "LAST-MODIFIED").value(&stamp(modified));
    }
    if let Some(created) = time("/createdDateTime") {
        Line::new(out, "CREATED").value(&stamp(created));
    }
    match (text("/subject"), masked) {
        (_, true) => Line::new(out, "SUMMARY").text(busy_word(shows)),
        (Some(subject), false) => Line::new(out, "SUMMARY").text(subject),
        (None, false) => {}
    }
    Line::new(out, "TRANSP").value(if is_free(shows) { "TRANSPARENT" } else { "OPAQUE" });
    Line::new(out, "X-MICROSOFT-CDO-BUSYSTATUS").value(busy_code(shows));
    Line::new(out, "STATUS").value(status(&event, shows));
    Line::new(out, "CLASS").value(class(text("/sensitivity").unwrap_or("normal")));
    if let Some(priority) = priority(text("/importance").unwrap_or("normal")) {
        Line::new(out, "PRIORITY").value(priority);
    }
    if let Some(place) = text("/location/displayName") {
        Line::new(out, "LOCATION").text(place);
    }
    if let Some(description) = description(&event) {
        Line::new(out, "DESCRIPTION").text(&description);
    }
    if let Some(link) = text("/webLink") {
        Line::new(out, "URL").value(link);
    }
    let mut categories = list(&event, "categories").filter_map(Value::as_str).peekable();
    if categories.peek().is_some() {
        Line::new(out, "CATEGORIES").texts(categories);
    }
    if let Some(organizer) = event.pointer("/organizer/emailAddress") {
        person(Line::new(out, "ORGANIZER"), organizer);
    }
    for attendee in list(&event, "attendees") {
        invited(out, attendee);
    }
    Line::new(out, "END").value("VEVENT");
    Some(())
}

fn list<'a>(event: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    event[name].as_array().into_iter().flatten()
}

/// The same for all instances of a series; never the same for two series.
fn uid(event: &Value) -> Option<String> {
    let text = |name: &str| event[name].as_str().filter(|text| !text.is_empty());
    if let Some(uid) = text("uid") {
        return Some(uid.to_owned());
    }
    let Some(uid) = text("iCalUId") else { return text("id").map(str::to_owned) };
    let day = GLOBAL_ID.len()..GLOBAL_ID.len() + 8;
    let global =
        uid.get(..GLOBAL_ID.len()).is_some_and(|head| head.eq_ignore_ascii_case(GLOBAL_ID));
    match uid.get(day.clone()) {
        Some(_) if global => {
            let mut uid = uid.to_owned();
            uid.replace_range(day, "00000000");
            Some(uid)
        }
        _ => Some(uid.to_owned()),
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

fn put(out: &mut String, name: &str, moment: Moment, all_day: bool) {
    let line = Line::new(out, name);
    if all_day {
        line.parameter("VALUE", "DATE").value(&moment.civil.strftime("%Y%m%d").to_string());
    } else {
        line.value(&stamp(moment.at));
    }
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
    let mut text = text.trim().to_owned();
    if text.len() > DESCRIPTION {
        let end = text.floor_char_boundary(DESCRIPTION);
        text.truncate(end);
        text.push('…');
    }
    Some(text).filter(|text| !text.is_empty())
}

fn invited(out: &mut String, attendee: &Value) {
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
    let line = Line::new(out, "ATTENDEE")
        .parameter("ROLE", role)
        .parameter("CUTYPE", kind)
        .parameter("PARTSTAT", answer);
    person(line, &attendee["emailAddress"]);
}

/// Ends a line with somebody's name and address.
fn person(line: Line<'_>, email: &Value) {
    let line = match email["name"].as_str().filter(|name| !name.trim().is_empty()) {
        Some(name) => line.quoted("CN", name),
        None => line,
    };
    match email["address"].as_str().filter(|address| address.contains('@')) {
        Some(address) => line.value(&format!("mailto:{address}")),
        None => line.value("invalid:nomail"),
    }
}
