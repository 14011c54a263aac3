//! `events`: prints a window's events as an agenda by day in the user's time zone.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;

use anstyle::Style;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{ToSpan as _, ZonedDateTime};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::arguments::EventsArgs;
use super::client::{ApiClient, with_query};
use super::exit::{CliError, DONE};
use super::suggest;
use super::terminal::{TerminalSize, printable};
use crate::json::JsonMembers;
use crate::mirror::event_time::{EventTime, TimeReader};
use crate::mirror::join_link::join_url;
use crate::percent;

/// A page of events from the API; the events are kept as raw JSON.
#[derive(Debug, Deserialize)]
struct EventList {
    value: Vec<Box<RawValue>>,
    complete: bool,
    next: Option<String>,
}

/// The members of an event that the agenda shows.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AgendaEvent {
    subject: Option<String>,
    start: Box<RawValue>,
    end: Box<RawValue>,
    #[serde(default)]
    is_all_day: Option<bool>,
    location: Option<Location>,
    #[serde(default)]
    is_cancelled: Option<bool>,
    /// The link to the online meeting.
    #[serde(skip)]
    join: Option<String>,
}

impl AgendaEvent {
    /// Reads an event; `None` if it has no times.
    fn read(json: &str) -> Option<Self> {
        let join = JsonMembers::parse(json.as_bytes()).ok().and_then(|event| join_url(&event));
        Some(Self { join, ..serde_json::from_str(json).ok()? })
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Location {
    display_name: Option<String>,
}

/// A line of the agenda. The order is all-day events first, then by start.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct AgendaLine {
    timed: bool,
    start: ZonedDateTime,
    text: String,
}

/// Prints a window's events.
pub(super) async fn events(
    client: &ApiClient,
    args: &EventsArgs,
    json: bool,
    out: &mut impl Write,
) -> Result<u8, CliError> {
    if args.ics {
        let [from, to] = args.range.given()?;
        return calendar(client, &args.window, from.as_ref(), to.as_ref(), out).await;
    }
    let [from, to] = args.range.days()?;
    // An all-day event is a day, and a day in another zone may end before ours begins. The agenda
    // requests one more day on both sides and shows the events that fall on our days.
    let wider = |at: &ZonedDateTime, days: i64| match json {
        true => at.timestamp(),
        false => at.checked_add(days.days()).unwrap_or_else(|_| at.clone()).timestamp(),
    };
    let path = format!("/v1/windows/{}/events", percent::encode(&args.window));
    let [start, end] = [wider(&from, -1), wider(&to, 1)].map(|at| at.to_string());
    let path = with_query(&path, &[("from", Some(&start)), ("to", Some(&end))]);
    let mut all = Vec::new();
    let mut complete = true;
    let mut page = String::new();
    loop {
        let answer = client.get(&format!("{path}{page}")).await?;
        let list: EventList = suggest::or_suggestion(client, &args.window, answer).await?.json()?;
        complete &= list.complete;
        for event in list.value {
            if json {
                // A line break in JSON can only be white space between tokens.
                writeln!(out, "{}", event.get().replace(['\n', '\r'], " "))?;
            } else {
                all.push(event);
            }
        }
        match list.next {
            Some(next) => page = format!("&page={next}"),
            None => break,
        }
    }
    if !json {
        let events: Vec<AgendaEvent> =
            all.iter().filter_map(|event| AgendaEvent::read(event.get())).collect();
        let unshown = all.len() - events.len();
        out.write_all(agenda(&events, &from, &to).as_bytes())?;
        if unshown > 0 {
            writeln!(out, "\n{unshown} more events cannot be shown here; --json prints them")?;
        }
    }
    if !complete {
        let mut notes = anstream::stderr();
        writeln!(notes, "calmirror: this window has not settled yet: events may be missing")?;
    }
    Ok(DONE)
}

/// Prints the window as the iCalendar file that the daemon serves.
async fn calendar(
    client: &ApiClient,
    window: &str,
    from: Option<&ZonedDateTime>,
    to: Option<&ZonedDateTime>,
    out: &mut impl Write,
) -> Result<u8, CliError> {
    let path = format!("/v1/windows/{}/calendar.ics", percent::encode(window));
    let [from, to] = [from, to].map(|at| at.map(|at| at.timestamp().to_string()));
    let path = with_query(&path, &[("from", from.as_deref()), ("to", to.as_deref())]);
    let answer = client.get(&path).await?;
    let answer = suggest::or_suggestion(client, window, answer).await?;
    match std::str::from_utf8(&answer.body) {
        // A terminal gets printable text; a file or pipe gets the exact bytes.
        Ok(text) if TerminalSize::of_stdout().is_some() => {
            let lines: Vec<_> = text.lines().map(printable).collect();
            writeln!(out, "{}", lines.join("\n"))?;
        }
        _ => out.write_all(&answer.body)?,
    }
    Ok(DONE)
}

/// The agenda of the events, each listed on every day between `from` and `to` that it touches.
fn agenda(events: &[AgendaEvent], from: &ZonedDateTime, to: &ZonedDateTime) -> String {
    let own = from.time_zone();
    let mut days: BTreeMap<Date, Vec<AgendaLine>> = BTreeMap::new();
    let mut unplaced = 0_usize;
    let mut times = TimeReader::default();
    // `to` is exclusive: a range that ends at midnight does not touch that day.
    let last = to.checked_sub(1.nanosecond()).map_or_else(|_| to.date(), |last| last.date());
    for event in events {
        let Some((start, end)) = start_and_end(event, &mut times, own) else {
            unplaced += 1;
            continue;
        };
        let all_day = event.is_all_day == Some(true);
        if !all_day && (start >= *to || (end <= *from && end > start) || end < *from) {
            continue;
        }
        let inclusive = end.checked_sub(1.nanosecond()).unwrap_or_else(|_| end.clone());
        let until = inclusive.date().max(start.date()).min(last);
        let mut day = start.date().max(from.date());
        while day <= until {
            let when = if all_day { "all day".to_owned() } else { hours(&start, &end, day) };
            let timed = when != "all day";
            let mut text = format!("  {when:<13}{}", title(event));
            if let Some(join) = &event.join {
                write!(text, "\n{:15}{}", "", printable(join)).ok();
            }
            days.entry(day).or_default().push(AgendaLine { timed, start: start.clone(), text });
            match day.tomorrow() {
                Ok(tomorrow) => day = tomorrow,
                Err(_) => break,
            }
        }
    }
    let mut text = String::new();
    let bold = Style::new().bold();
    for (day, mut entries) in days {
        entries.sort();
        let gap = if text.is_empty() { "" } else { "\n" };
        writeln!(text, "{gap}{bold}{}{bold:#}", day.strftime("%A %-d %B %Y")).ok();
        for entry in entries {
            writeln!(text, "{}", entry.text).ok();
        }
    }
    if text.is_empty() {
        let form = "%Y-%m-%d %H:%M";
        writeln!(text, "no events from {} to {}", from.strftime(form), to.strftime(form)).ok();
    }
    if unplaced > 0 {
        writeln!(text, "\nnot shown because their times cannot be read: {unplaced}").ok();
    }
    text
}

/// The hours of the event on `day`.
fn hours(start: &ZonedDateTime, end: &ZonedDateTime, day: Date) -> String {
    let ends_today = end.date() == day || start == end;
    match (start.date() == day, ends_today) {
        (true, true) => format!("{}–{}", start.strftime("%H:%M"), end.strftime("%H:%M")),
        (true, false) => match day.tomorrow() {
            // An event that ends at midnight ends on `day`.
            Ok(next) if end.date() == next && end.hour() == 0 && end.minute() == 0 => {
                format!("{}–24:00", start.strftime("%H:%M"))
            }
            _ => format!("{}–", start.strftime("%H:%M")),
        },
        (false, true) => format!("–{}", end.strftime("%H:%M")),
        (false, false) => "all day".to_owned(),
    }
}

fn title(event: &AgendaEvent) -> String {
    let subject = event.subject.as_deref().map(str::trim).filter(|subject| !subject.is_empty());
    let mut text = printable(subject.unwrap_or("(no subject)"));
    let location = event.location.as_ref().and_then(|location| location.display_name.as_deref());
    if let Some(location) = location.map(str::trim).filter(|location| !location.is_empty()) {
        write!(text, " · {}", printable(location)).ok();
    }
    if event.is_cancelled == Some(true) {
        text.push_str(" (cancelled)");
    }
    text
}

/// Start and end in the user's zone. All-day events are days, not times: they are on the same days
/// in every zone.
fn start_and_end(
    event: &AgendaEvent,
    times: &mut TimeReader,
    zone: &TimeZone,
) -> Option<(ZonedDateTime, ZonedDateTime)> {
    let when = times.parse_span(Some(event.start.get()), Some(event.end.get())).ok()?;
    let at = |moment: EventTime| match event.is_all_day {
        Some(true) => moment.civil.date().to_zoned_datetime(zone.clone()).ok(),
        _ => Some(moment.at.to_zoned_datetime(zone.clone())),
    };
    Some((at(when.start)?, at(when.end)?))
}

#[cfg(test)]
mod tests;
