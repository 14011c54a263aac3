//! Writes a Graph event as a `VEVENT`.
//!
//! | iCalendar | Graph |
//! |---|---|
//! | `UID`, `RECURRENCE-ID` | see [`super::identity`] |
//! | `DTSTART`, `DTEND` | `start`, `end`: instants in UTC, dates where `isAllDay` |
//! | `DTSTAMP`, `LAST-MODIFIED` | `lastModifiedDateTime` |
//! | `STATUS` | `CANCELLED` by `isCancelled`, `TENTATIVE` by `showAs`, else `CONFIRMED` |
//! | `TRANSP` | `TRANSPARENT` where `showAs` is `free` or `workingElsewhere` |
//! | `CLASS` | `sensitivity` |
//! | `CONFERENCE` (RFC 7986) | the join link ([`join_url`](crate::mirror::join_link::join_url); facts 86, 201) |
//!
//! Masked events have no subject: their summary is their busy state.

use jiff::Timestamp;
use serde_json::Value;

use super::SeriesMode;
use super::html;
use super::identity::{Identities, OriginalStart};
use super::line::ContentLine;
use crate::api::redact::is_reduced;
use crate::json::JsonMembers;
use crate::mirror::event_time::{EventSpan, EventTime, TimeReader};
use crate::mirror::join_link::join_url;

/// The length at which descriptions are cut, bytes. The JSON API has the full text.
const DESCRIPTION: usize = 64 << 10;

/// The known values of `showAs`, each with its words and its code.
const BUSY_STATES: [(&str, &str, &str); 5] = [
    ("busy", "Busy", "BUSY"),
    ("free", "Free", "FREE"),
    ("tentative", "Tentative", "TENTATIVE"),
    ("oof", "Out of office", "OOF"),
    ("workingElsewhere", "Working elsewhere", "WORKINGELSEWHERE"),
];

/// Writes an event; `None` if its times or its structure are not understood.
pub(super) fn write(
    out: &mut String,
    event: &[u8],
    identities: &Identities,
    series: SeriesMode,
    times: &mut TimeReader,
) -> Option<()> {
    let members = JsonMembers::parse(event).ok()?;
    let when = times.event(&members)?;
    let identity = identities.of(&members, times)?;
    let event: Value = serde_json::from_slice(event).ok()?;
    let shows = text(&event, "/showAs").unwrap_or("busy");
    let busy = BUSY_STATES.into_iter().find(|(state, ..)| *state == shows);
    let (shows, busy_words, busy_code) = busy.unwrap_or(BUSY_STATES[0]);
    // A masked event has no subject.
    let masked = is_reduced(&members);

    ContentLine::new(out, "BEGIN").value("VEVENT");
    match series {
        SeriesMode::Own => ContentLine::new(out, "UID").text(&identity.own_uid()),
        SeriesMode::Linked => ContentLine::new(out, "UID").text(&identity.uid),
    }
    write_span(out, when, event["isAllDay"] == true);
    if let Some(slot) = identity.slot.filter(|_| series == SeriesMode::Linked) {
        write_recurrence_id(out, slot);
    }
    write_stamps(out, &event);
    // Some clients require a summary, so an event without a subject has an empty one.
    let summary = if masked { busy_words } else { text(&event, "/subject").unwrap_or_default() };
    ContentLine::new(out, "SUMMARY").text(summary);
    ContentLine::new(out, "TRANSP").value(if is_free(shows) { "TRANSPARENT" } else { "OPAQUE" });
    ContentLine::new(out, "X-MICROSOFT-CDO-BUSYSTATUS").value(busy_code);
    ContentLine::new(out, "STATUS").value(status(&event, shows));
    let sensitivity = text(&event, "/sensitivity").unwrap_or("normal");
    ContentLine::new(out, "CLASS").value(class(sensitivity));
    if let Some(priority) = priority(text(&event, "/importance").unwrap_or("normal")) {
        ContentLine::new(out, "PRIORITY").value(priority);
    }
    if let Some(place) = text(&event, "/location/displayName") {
        ContentLine::new(out, "LOCATION").text(place);
    }
    write_description_and_links(out, &event, join_url(&members).as_deref());
    let mut categories = list(&event, "categories").filter_map(Value::as_str).peekable();
    if categories.peek().is_some() {
        ContentLine::new(out, "CATEGORIES").texts(categories);
    }
    if let Some(organizer) = event.pointer("/organizer/emailAddress") {
        person(ContentLine::new(out, "ORGANIZER"), organizer);
    }
    for attendee in list(&event, "attendees") {
        invited(out, attendee);
    }
    ContentLine::new(out, "END").value("VEVENT");
    Some(())
}

/// Writes `DTSTART` and `DTEND`.
fn write_span(out: &mut String, EventSpan { start, end }: EventSpan, all_day: bool) {
    put(out, "DTSTART", start, all_day);
    // An event without length gets no DTEND, which would have to be later (RFC 5545, 3.8.2.2).
    if if all_day { end.civil.date() > start.civil.date() } else { end.at > start.at } {
        put(out, "DTEND", end, all_day);
    }
}

fn write_recurrence_id(out: &mut String, slot: OriginalStart) {
    let line = ContentLine::new(out, "RECURRENCE-ID");
    match slot {
        OriginalStart::Day(_) => line.parameter("VALUE", "DATE").value(&slot.to_string()),
        OriginalStart::At(_) => line.value(&slot.to_string()),
    }
}

/// Writes when the event was last modified and when it was created.
fn write_stamps(out: &mut String, event: &Value) {
    let time = |pointer: &str| text(event, pointer).and_then(|at| at.parse::<Timestamp>().ok());
    let modified = time("/lastModifiedDateTime");
    ContentLine::new(out, "DTSTAMP").value(&stamp(modified.unwrap_or(Timestamp::UNIX_EPOCH)));
    if let Some(modified) = modified {
        ContentLine::new(out, "LAST-MODIFIED").value(&stamp(modified));
    }
    if let Some(created) = time("/createdDateTime") {
        ContentLine::new(out, "CREATED").value(&stamp(created));
    }
}

/// Writes the description, the link to join the online meeting, and the link to the event.
fn write_description_and_links(out: &mut String, event: &Value, join: Option<&str>) {
    if let Some(description) = description(event, join) {
        ContentLine::new(out, "DESCRIPTION").text(&description);
    }
    if let Some(join) = join {
        ContentLine::new(out, "CONFERENCE")
            .parameter("VALUE", "URI")
            .quoted("LABEL", "Join the meeting")
            .value(join);
    }
    if let Some(link) = text(event, "/webLink").filter(|link| html::is_web(link)) {
        ContentLine::new(out, "URL").value(link);
    }
}

/// The string at a JSON pointer, unless it is blank.
fn text<'a>(event: &'a Value, pointer: &str) -> Option<&'a str> {
    event.pointer(pointer).and_then(Value::as_str).filter(|text| !text.trim().is_empty())
}

fn list<'a>(event: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    event[name].as_array().into_iter().flatten()
}

fn put(out: &mut String, name: &str, moment: EventTime, all_day: bool) {
    let line = ContentLine::new(out, name);
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

/// The body as text, else its preview. The join link of an online meeting is appended if the text
/// does not contain it.
fn description(event: &Value, join: Option<&str>) -> Option<String> {
    let content = event.pointer("/body/content").and_then(Value::as_str).unwrap_or_default();
    let body = match event.pointer("/body/contentType").and_then(Value::as_str) {
        Some("html" | "HTML") => html::text(content, DESCRIPTION),
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
    if let Some(join) = join.filter(|join| !text.contains(join)) {
        let gap = if text.is_empty() { "" } else { "\n\n" };
        text = format!("{text}{gap}Join the meeting <{join}>");
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
    let line = ContentLine::new(out, "ATTENDEE")
        .parameter("ROLE", role)
        .parameter("CUTYPE", kind)
        .parameter("PARTSTAT", answer);
    person(line, &attendee["emailAddress"]);
}

/// Ends a line with the name and address of a person.
fn person(line: ContentLine<'_>, email: &Value) {
    let line = match email["name"].as_str().filter(|name| !name.trim().is_empty()) {
        Some(name) => line.quoted("CN", name),
        None => line,
    };
    match email["address"].as_str().filter(|address| address.contains('@')) {
        Some(address) => line.value(&format!("mailto:{address}")),
        None => line.value("invalid:nomail"),
    }
}
