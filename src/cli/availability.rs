//! `busy` and `free`: tables of when windows are busy, and when they are free together, in the
//! user's time zone.

use std::io::Write;

use anstyle::Style;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Deserialize;

use super::arguments::{BusyArgs, FreeArgs, WindowPatterns};
use super::client::{ApiClient, ApiResponse};
use super::exit::{CliError, DONE, FAILED};
use super::shards::MissingShards;
use super::suggest;
use super::terminal::{TerminalSize, escaped_json, printable, width, wrapped};
use crate::api::model::PlaceJson;
use crate::percent;

/// Spaces between two columns.
const GAP: &str = "  ";

#[derive(Deserialize)]
struct BusyList {
    value: Vec<BusyWindow>,
    #[serde(flatten)]
    missing: MissingShards,
}

#[derive(Deserialize)]
struct BusyWindow {
    window: String,
    place: Option<PlaceJson>,
    busy: Vec<ShownInterval>,
    complete: bool,
    unplaced: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ShownInterval {
    start: Timestamp,
    end: Timestamp,
    show_as: String,
}

#[derive(Deserialize)]
struct SlotList {
    value: Vec<Slot>,
    unknown: Vec<UnknownWindow>,
    from: Timestamp,
    to: Timestamp,
    need: usize,
    #[serde(flatten)]
    missing: MissingShards,
}

#[derive(Deserialize)]
struct Slot {
    start: Timestamp,
    end: Timestamp,
    free: Vec<SlotWindow>,
}

#[derive(Deserialize)]
struct SlotWindow {
    window: String,
    place: Option<PlaceJson>,
}

#[derive(Deserialize)]
struct UnknownWindow {
    window: String,
    reason: String,
}

/// Prints when windows are busy.
pub(super) async fn busy(
    client: &ApiClient,
    args: &BusyArgs,
    json: bool,
    out: &mut impl Write,
) -> Result<u8, CliError> {
    let [from, to] = args.range.days()?;
    let mut query = selection(&args.which);
    query.extend([("from", from.timestamp().to_string()), ("to", to.timestamp().to_string())]);
    let answer = get(client, "/v1/busy", &query, &args.which).await?;
    if json {
        return print_json(&answer, out);
    }
    let BusyList { value, missing } = answer.json()?;
    write!(out, "{}", busy_table(&value, from.time_zone()))?;
    report(&missing, out)
}

/// Prints when windows are free together.
pub(super) async fn free(
    client: &ApiClient,
    args: &FreeArgs,
    json: bool,
    out: &mut impl Write,
) -> Result<u8, CliError> {
    let zone = args.range.time_zone()?;
    let mut query = selection(&args.which);
    for (name, at) in ["from", "to"].into_iter().zip(args.range.given()?) {
        query.extend(at.map(|at| (name, at.timestamp().to_string())));
    }
    // A zone of the system may have no name.
    let named = args.range.zone.as_deref().or(zone.iana_name());
    let need = args.need.map(|need| need.to_string());
    let options = [
        ("duration", args.duration.as_deref()),
        ("within", args.within.as_deref()),
        ("days", args.days.as_deref()),
        ("zone", named),
        ("need", need.as_deref()),
        ("buffer", args.buffer.as_deref()),
        ("tentative", args.tentative.as_deref()),
    ];
    let given = options.into_iter().filter_map(|(name, value)| Some((name, value?.to_owned())));
    query.extend(given);
    let answer = get(client, "/v1/free", &query, &args.which).await?;
    if json {
        return print_json(&answer, out);
    }
    let columns = TerminalSize::of_stdout().map(|size| size.columns);
    let list: SlotList = answer.json()?;
    write!(out, "{}", slot_table(&list, &zone, columns))?;
    report(&list.missing, out)
}

/// The parameters that select windows. Each has a parameter of its own, because names may contain
/// commas in their groups.
fn selection(which: &WindowPatterns) -> Vec<(&'static str, String)> {
    let windows = which.windows.iter().map(|name| ("window", name.clone()));
    windows.chain(which.group.iter().map(|group| ("group", group.clone()))).collect()
}

async fn get(
    client: &ApiClient,
    path: &str,
    query: &[(&str, String)],
    which: &WindowPatterns,
) -> Result<ApiResponse, CliError> {
    let pair = |(name, value): &(&str, String)| format!("{name}={}", percent::encode(value));
    let query: Vec<String> = query.iter().map(pair).collect();
    let answer = client.get(&format!("{path}?{}", query.join("&"))).await?;
    match &*which.windows {
        [window] if which.group.is_empty() => suggest::or_suggestion(client, window, answer).await,
        _ => answer.success(),
    }
}

/// Prints which shards are missing. The answer is then not the whole one.
fn report(missing: &MissingShards, out: &mut impl Write) -> Result<u8, CliError> {
    let Some(line) = missing.line() else { return Ok(DONE) };
    writeln!(out, "{line}")?;
    Ok(FAILED)
}

/// Prints the response as it is.
fn print_json(answer: &ApiResponse, out: &mut impl Write) -> Result<u8, CliError> {
    let missing: MissingShards = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = String::from_utf8_lossy(&answer.body);
    match TerminalSize::of_stdout() {
        Some(_) => writeln!(out, "{}", escaped_json(&text))?,
        None => writeln!(out, "{text}")?,
    }
    Ok(if missing.is_empty() { DONE } else { FAILED })
}

/// A line for each busy time, and for each window without any.
fn busy_table(windows: &[BusyWindow], zone: &TimeZone) -> String {
    let mut rows = vec![["WINDOW", "DAY", "TIME", "STATE"].map(str::to_owned)];
    let mut notes = Vec::new();
    for window in windows {
        let name = titled(&window.window, window.place.as_ref());
        if window.busy.is_empty() {
            let state = if window.complete { "free" } else { "unknown" };
            rows.push([name.clone(), String::new(), String::new(), state.to_owned()]);
        }
        for ShownInterval { start, end, show_as } in &window.busy {
            let (day, time) = day_and_time(*start, *end, zone);
            rows.push([name.clone(), day, time, printable(show_as)]);
        }
        if !window.complete {
            notes.push(format!(
                "{name} has not settled yet or does not cover this time: events may be missing"
            ));
        }
        if window.unplaced > 0 {
            notes.push(format!(
                "{name}: events whose times are not understood: {}",
                window.unplaced
            ));
        }
    }
    table(&rows) + &notes.iter().map(|note| format!("{note}\n")).collect::<String>()
}

/// A line for each slot, and one for each window that cannot be judged.
fn slot_table(list: &SlotList, zone: &TimeZone, columns: Option<usize>) -> String {
    let mut rows = vec![["DAY", "TIME", "LENGTH", "FREE"].map(str::to_owned)];
    for Slot { start, end, free } in &list.value {
        let (day, time) = day_and_time(*start, *end, zone);
        let names: Vec<String> =
            free.iter().map(|one| titled(&one.window, one.place.as_ref())).collect();
        let length = end.duration_since(*start).unsigned_abs();
        let length = humantime::format_duration(length).to_string();
        rows.push([day, time, length, names.join(", ")]);
    }
    let mut text = match list.value.is_empty() {
        true => {
            let [from, to] = [list.from, list.to].map(|at| {
                at.to_zoned_datetime(zone.clone()).strftime("%Y-%m-%d %H:%M").to_string()
            });
            let windows = if list.need == 1 { "window" } else { "windows" };
            format!("no slot with {} free {windows} from {from} to {to}\n", list.need)
        }
        false => wrapped_table(&rows, columns),
    };
    for UnknownWindow { window, reason } in &list.unknown {
        let why = match reason.as_str() {
            "never_settled" => "it has not settled yet",
            "unplaced_events" => "some of its events could not be read",
            "range_not_covered" => "it does not cover the whole range",
            "shard_missing" => "its shard is missing",
            other => other,
        };
        text.push_str(&printable(&format!("not judged: {window}: {why}")));
        text.push('\n');
    }
    text
}

/// The name of a window, with the place of a room.
fn titled(window: &str, place: Option<&PlaceJson>) -> String {
    let Some(PlaceJson { building, floor, capacity }) = place else { return printable(window) };
    let building = building.as_deref().map(str::to_owned);
    let floor = floor.as_deref().map(|floor| format!("floor {floor}"));
    let capacity = capacity.map(|capacity| format!("{capacity} seats"));
    let parts: Vec<String> = [building, floor, capacity].into_iter().flatten().collect();
    match parts.is_empty() {
        true => printable(window),
        false => printable(&format!("{window} ({})", parts.join(", "))),
    }
}

/// The day on which a time begins, and its hours. An end on another day is written with its day.
fn day_and_time(start: Timestamp, end: Timestamp, zone: &TimeZone) -> (String, String) {
    let [start, end] = [start, end].map(|at| at.to_zoned_datetime(zone.clone()));
    let day = "%a %-d %b";
    let next = start.date().tomorrow().is_ok_and(|next| next == end.date());
    let until = if start.date() == end.date() {
        end.strftime("%H:%M").to_string()
    } else if next && (end.hour(), end.minute(), end.second()) == (0, 0, 0) {
        "24:00".to_owned()
    } else {
        end.strftime(&format!("{day} %H:%M")).to_string()
    };
    (start.strftime(day).to_string(), format!("{}–{until}", start.strftime("%H:%M")))
}

/// Aligns the columns.
fn table(rows: &[[String; 4]]) -> String {
    wrapped_table(rows, None)
}

/// The same; the last column is wrapped in a terminal with so many columns.
fn wrapped_table(rows: &[[String; 4]], columns: Option<usize>) -> String {
    let widths: [usize; 3] =
        std::array::from_fn(|column| rows.iter().map(|row| width(&row[column])).max().unwrap_or(0));
    let bold = Style::new().bold();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (cell, room) in row.iter().zip(widths) {
            line.push_str(cell);
            line.push_str(&" ".repeat(room - width(cell).min(room)));
            line.push_str(GAP);
        }
        let indent = " ".repeat(width(&line));
        line.push_str(row.last().map_or("", String::as_str));
        let lines = wrapped(line.trim_end(), columns.unwrap_or(0), &indent).join("\n");
        let style = if number == 0 { bold } else { Style::new() };
        text.push_str(&format!("{style}{lines}{style:#}\n"));
    }
    text
}

#[cfg(test)]
mod tests;
