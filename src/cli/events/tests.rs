//! Tests of time options and of the agenda.
use super::*;
use crate::cli::arguments::TimeRange;
use crate::cli::exit::USAGE;
use anstream::adapter::strip_str;
use jiff::civil::DateTime;
use serde_json::{Value, json};

fn event(subject: &str, start: (&str, &str), end: (&str, &str), more: Value) -> AgendaEvent {
    let mut value = json!({
        "id": "x", "subject": subject,
        "start": {"dateTime": start.0, "timeZone": start.1},
        "end": {"dateTime": end.0, "timeZone": end.1},
    });
    for (key, new) in more.as_object().unwrap() {
        value[key] = new.clone();
    }
    serde_json::from_value(value).unwrap()
}

fn berlin(text: &str) -> ZonedDateTime {
    let zone = TimeZone::get("Europe/Berlin").unwrap();
    text.parse::<DateTime>().unwrap().to_zoned_datetime(zone).unwrap()
}

#[test]
fn the_agenda_is_grouped_by_the_users_local_days() {
    let utc = |day: &str| (format!("{day}:00.0000000"), "UTC");
    let timed = |subject: &str, start: &str, end: &str, more: Value| {
        let (start, end) = (utc(start), utc(end));
        event(subject, (&start.0, start.1), (&end.0, end.1), more)
    };
    let pacific = "Pacific Standard Time";
    let events = [
        timed(
            "Stand-up",
            "2026-11-23T08:00",
            "2026-11-23T08:15",
            json!({"location": {"displayName": "Room 5"}}),
        ),
        timed("Before the night is over", "2026-11-22T23:30", "2026-11-23T00:30", json!({})),
        timed("Company holiday", "2026-11-23T00:00", "2026-11-25T00:00", json!({"isAllDay": true})),
        timed("Deployment", "2026-11-23T21:00", "2026-11-25T05:00", json!({"isCancelled": true})),
        timed("Until midnight", "2026-11-24T20:00", "2026-11-24T23:00", json!({})),
        timed("Reminder", "2026-11-24T09:00", "2026-11-24T09:00", json!({"subject": "  "})),
        event(
            "Call",
            ("2026-11-23T09:00:00", pacific),
            ("2026-11-23T10:00:00", pacific),
            json!({}),
        ),
        timed("a\u{1b}[31mred\nherring", "2026-11-25T09:00", "2026-11-25T10:00", json!({})),
        event(
            "Nowhere",
            ("2026-11-23T09:00:00", "Mars/Base"),
            ("2026-11-23T10:00:00", "UTC"),
            json!({}),
        ),
    ];
    let agenda = agenda(&events, &berlin("2026-11-23T00:00"), &berlin("2026-11-26T00:00"));
    insta::assert_snapshot!(strip_str(&agenda).to_string());
}

/// The agenda reads times in the same way as the mirror.
#[test]
fn unusual_times_are_displayed() {
    let moment = |text: &str| json!({"datetime": text, "timezone": "UTC"});
    let event = |start: &str, end: &str| {
        let event = json!({"subject": "odd", "start": moment(start), "end": moment(end)});
        serde_json::from_value::<AgendaEvent>(event).unwrap()
    };
    let events = [
        event("2026-11-23T09:00:00.12345678912", "2026-11-23T10:00"),
        event("2026-11-23T09:00:00-0500", "2026-11-23T15:00:00Z"),
    ];
    let agenda = agenda(&events, &berlin("2026-11-23T00:00"), &berlin("2026-11-24T00:00"));
    let agenda = strip_str(&agenda).to_string();
    assert!(agenda.contains("10:00–11:00") && agenda.contains("15:00–16:00"), "{agenda}");
    assert!(!agenda.contains("not shown"), "{agenda}");
}

#[test]
fn an_all_day_event_is_on_the_same_date_in_every_zone() {
    // All-day events of the easternmost zone read in the westernmost, and the other way round.
    let moment =
        |day: &str, zone| json!({"dateTime": format!("{day}T00:00:00.0000000"), "timeZone": zone});
    for (own, of) in
        [("Pacific/Niue", "Pacific/Kiritimati"), ("Pacific/Kiritimati", "Pacific/Niue")]
    {
        let days: Vec<AgendaEvent> = [("22", "23"), ("23", "24"), ("24", "25")]
            .map(|(start, end)| {
                let day = |day| moment(&format!("2026-11-{day}"), of);
                let event = json!({"subject": format!("the {start}th"), "isAllDay": true, "start": day(start), "end": day(end)});
                serde_json::from_value(event).unwrap()
            })
            .into();
        let zone = TimeZone::get(own).unwrap();
        let midnight =
            |day: i8| jiff::civil::date(2026, 11, day).to_zoned_datetime(zone.clone()).unwrap();
        let agenda = agenda(&days, &midnight(23), &midnight(24));
        let shown = strip_str(&agenda).to_string();
        assert_eq!(shown, "Monday 23 November 2026\n  all day      the 23th\n", "{own}");
    }
}

#[test]
fn events_outside_the_requested_hours_are_not_shown() {
    let timed = |subject: &str, start: &str, end: &str| {
        let utc = |time: &str| format!("2026-11-23T{time}:00");
        event(subject, (&utc(start), "UTC"), (&utc(end), "UTC"), json!({}))
    };
    let events = [
        timed("before", "06:00", "08:00"),
        timed("into", "07:00", "09:00"),
        timed("at", "08:00", "08:00"),
        timed("after", "10:00", "11:00"),
    ];
    let agenda = agenda(&events, &berlin("2026-11-23T09:00"), &berlin("2026-11-23T11:00"));
    let shown = strip_str(&agenda).to_string();
    assert_eq!(shown, "Monday 23 November 2026\n  08:00–10:00  into\n  09:00–09:00  at\n");
}

#[tokio::test]
async fn icalendar_output_is_passed_through_unchanged() {
    use axum::extract::RawQuery;
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("api.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let answer = async |RawQuery(query): RawQuery| query.unwrap_or_default();
    let path = "/v1/windows/room%201/calendar.ics";
    let router = axum::Router::new().route(path, axum::routing::get(answer));
    let serving = tokio::spawn(async { axum::serve(listener, router).await });
    let client = ApiClient::new(super::super::endpoint::Endpoint::Socket(socket), None);
    for (from, to, query) in [
        (None, None, ""),
        (None, Some("2026-12-01T00:00:00Z"), "to=2026-12-01T00%3A00%3A00Z"),
        (
            Some("2026-11-01T00:00:00Z"),
            Some("2026-12-01T00:00:00Z"),
            "from=2026-11-01T00%3A00%3A00Z&to=2026-12-01T00%3A00%3A00Z",
        ),
    ] {
        let text = |text: Option<&str>| text.map(str::to_owned);
        let (from, to) = (text(from), text(to));
        let range = TimeRange { from, to, zone: None };
        let args = EventsArgs { window: "room 1".into(), range, ics: true };
        let mut out = Vec::new();
        assert_eq!(events(&client, &args, false, &mut out).await, Ok(DONE));
        assert_eq!(out, query.as_bytes());
    }
    serving.abort();
}

#[tokio::test]
async fn an_unknown_zone_is_reported() {
    let client = ApiClient::new(super::super::endpoint::Endpoint::Socket("/nowhere".into()), None);
    let range = TimeRange { zone: Some("Mars/Base".to_owned()), ..TimeRange::default() };
    let args = EventsArgs { window: "a".into(), range, ics: false };
    let failure = events(&client, &args, false, &mut Vec::new()).await.unwrap_err();
    assert_eq!((failure.exit, &*failure.message), (USAGE, "--zone: unknown time zone: Mars/Base"));
}

#[test]
fn an_empty_agenda_names_its_range() {
    let agenda = agenda(&[], &berlin("2026-11-23T00:00"), &berlin("2026-11-24T00:00"));
    assert_eq!(agenda, "no events from 2026-11-23 00:00 to 2026-11-24 00:00\n");
}

#[tokio::test]
async fn every_page_is_requested_with_the_same_range() {
    use axum::extract::RawQuery;
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("api.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let answer = |RawQuery(query): RawQuery| async move {
        let query = query.unwrap_or_default();
        let (range, page) = query.split_once("&page=").unwrap_or((&query, ""));
        assert_eq!(range, "from=2026-11-01T00%3A00%3A00Z&to=2026-12-01T00%3A00%3A00Z");
        match page {
            "" => {
                "{\"value\":[{\"id\":\"1\"},{ \"id\" :\n\"2\"}],\"complete\":true,\"next\":\"k-1\"}"
            }
            "k-1" => r#"{"value":[{"id":"3"}],"complete":true,"cursor":"c","next":null}"#,
            other => panic!("no page has the key {other}"),
        }
    };
    let path = "/v1/windows/room%201/events";
    let router = axum::Router::new().route(path, axum::routing::get(answer));
    let serving = tokio::spawn(async { axum::serve(listener, router).await });
    let client = ApiClient::new(super::super::endpoint::Endpoint::Socket(socket), None);
    let args = EventsArgs {
        window: "room 1".into(),
        range: TimeRange {
            from: Some("2026-11-01T00:00:00Z".into()),
            to: Some("2026-12-01T00:00:00Z".into()),
            zone: None,
        },
        ics: false,
    };
    let mut out = Vec::new();
    assert_eq!(events(&client, &args, true, &mut out).await, Ok(DONE));
    assert_eq!(out, b"{\"id\":\"1\"}\n{ \"id\" : \"2\"}\n{\"id\":\"3\"}\n");
    serving.abort();
}
