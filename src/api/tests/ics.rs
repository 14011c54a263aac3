//! Windows as calendars, and busy times.

use super::*;
use crate::api::ics::{SeriesMode, events_of};
use crate::mirror::window::BodyFormat;

fn timed(id: &str, start: &str, end: &str, more: Value) -> Value {
    let zone = more["zone"].as_str().unwrap_or("UTC").to_owned();
    let mut event = json!({
        "id": id, "type": "singleInstance", "subject": format!("Subject of {id}"), "showAs": "busy",
        "sensitivity": "normal", "lastModifiedDateTime": "2026-11-20T08:30:00.1234567Z",
        "start": {"dateTime": format!("{start}:00.0000000"), "timeZone": zone},
        "end": {"dateTime": format!("{end}:00.0000000"), "timeZone": zone},
    });
    for (name, value) in more.as_object().into_iter().flatten().filter(|(name, _)| *name != "zone")
    {
        event[name] = value.clone();
    }
    event
}

fn everything() -> Vec<Value> {
    let global = |day: &str| {
        format!("040000008200E00074C5B7101A82E008{day}80CD3F1A52DED701000000000000000010000000AB")
    };
    vec![
        timed(
            "plain",
            "2026-11-23T08:00",
            "2026-11-23T08:15",
            json!({
                "iCalUId": "foreign-uid@example.org", "subject": "Stand-up; daily, \\o/",
                "createdDateTime": "2026-11-01T00:00:00Z", "importance": "high",
                "body": {"contentType": "html", "content": "<p>Agenda:</p><ul><li>Größe &amp; Maß</li></ul>"},
                "location": {"displayName": "Room 5, 2nd floor"}, "webLink": "https://outlook.example/?a=b;c",
                "categories": ["Red, category", "Blue"],
                "organizer": {"emailAddress": {"name": "Doe, \"Jane\" ^", "address": "jane@contoso.com"}},
                "attendees": [
                    {"type": "required", "status": {"response": "accepted"}, "emailAddress": {"name": "Bob", "address": "bob@contoso.com"}},
                    {"type": "optional", "status": {"response": "tentativelyAccepted"}, "emailAddress": {"address": "c@contoso.com"}},
                    {"type": "resource", "status": {"response": "none"}, "emailAddress": {"name": "Room: 5", "address": "/O=X/CN=ROOM"}},
                ],
            }),
        ),
        timed(
            "summer",
            "2026-07-01T10:00",
            "2026-07-01T11:00",
            json!({
                "zone": "W. Europe Standard Time", "showAs": "tentative", "bodyPreview": "the preview",
                "body": {"contentType": "text", "content": " "},
            }),
        ),
        timed(
            "winter",
            "2026-12-01T10:00",
            "2026-12-01T11:00",
            json!({
                "zone": "W. Europe Standard Time", "showAs": "free", "isCancelled": true, "sensitivity": "personal",
            }),
        ),
        timed(
            "holiday",
            "2026-12-24T00:00",
            "2026-12-27T00:00",
            json!({
                "zone": "Pacific Standard Time", "isAllDay": true, "showAs": "oof", "subject": "Line\r\nbreak\u{7}",
            }),
        ),
        timed(
            "o1",
            "2026-11-24T09:00",
            "2026-11-24T10:00",
            json!({
                "type": "occurrence", "seriesMasterId": "m", "iCalUId": global("07EA0B18"),
            }),
        ),
        timed(
            "x2",
            "2026-11-25T11:00",
            "2026-11-25T12:00",
            json!({
                "type": "exception", "seriesMasterId": "m", "iCalUId": global("07EA0B19"),
                "originalStart": "2026-11-25T09:00:00Z",
            }),
        ),
        timed(
            "d2",
            "2026-11-27T00:00",
            "2026-11-28T00:00",
            json!({
                "type": "exception", "seriesMasterId": "n", "isAllDay": true, "iCalUId": global("00000000"),
                "originalStart": "2026-11-26T08:00:00Z", "originalStartTimeZone": "Pacific Standard Time",
            }),
        ),
        timed(
            "secret",
            "2026-11-23T12:00",
            "2026-11-23T13:00",
            json!({
                "sensitivity": "private", "showAs": "oof", "iCalUId": "secret-uid",
                "location": {"displayName": "clinic"},
            }),
        ),
    ]
}

/// Joins folded lines.
fn unfolded(text: &str) -> String {
    text.replace("\r\n ", "").replace("\r\n", "\n")
}

#[tokio::test(start_paused = true)]
async fn the_calendar_contains_events_of_every_kind() {
    let fixture = Fixture::new().await;
    fixture.put(fixture.id("alice"), &everything()).await;
    let (status, headers, body) = fixture.ask("GET", "/v1/windows/alice/calendar.ics").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers["content-type"], "text/calendar; charset=utf-8");
    assert!(body.split("\r\n").all(|line| line.len() <= 75 && !line.contains(['\n', '\r'])));
    insta::assert_snapshot!(unfolded(&body));
}

#[test]
fn each_member_maps_to_its_property() {
    let (start, later) = ("2026-11-23T08:00", "2026-11-23T09:00");
    let declined =
        json!([{"status": {"response": "declined"}, "emailAddress": {"address": "b@c.example"}}]);
    for (end, more, has, lacks) in [
        (start, json!({}), "DTSTART:20261123T080000Z\n", "DTEND"),
        (start, json!({"isAllDay": true}), "DTSTART;VALUE=DATE:20261123\n", "DTEND"),
        (later, json!({}), "DTEND:20261123T090000Z\n", "PRIORITY"),
        (later, json!({"importance": "low"}), "PRIORITY:9\n", "URL"),
        (later, json!({"webLink": "javascript:x()"}), "CLASS:PUBLIC\n", "URL"),
        (later, json!({"sensitivity": "confidential"}), "CLASS:CONFIDENTIAL\n", "ATTENDEE"),
        (later, json!({"attendees": declined}), "PARTSTAT=DECLINED:mailto:b@c.example\n", "URL"),
    ] {
        let event = timed("a", start, end, more).to_string();
        let text = unfolded(&events_of(&[&event], SeriesMode::Own));
        assert!(text.contains(has) && !text.contains(lacks), "{event}: {text}");
    }
    // An instance of a series after masking, which leaves its times.
    let instance = json!({"type": "occurrence", "seriesMasterId": "m", "sensitivity": "private"});
    let mut masked = timed("a", start, later, instance);
    masked.as_object_mut().unwrap().remove("subject");
    let text = events_of(&[masked.to_string()], SeriesMode::Own);
    assert!(text.contains("\r\nUID:a\r\n"), "{text}");
    let body = json!({"body": {"contentType": "text", "content": "ж".repeat(40 << 10)}});
    let text = events_of(&[timed("a", start, later, body).to_string()], SeriesMode::Own);
    let description = unfolded(&text)
        .lines()
        .find_map(|line| line.strip_prefix("DESCRIPTION:").map(str::to_owned));
    assert_eq!(description, Some("ж".repeat(32 << 10) + "…"));
}

/// The UID and RECURRENCE-ID lines of all events in a calendar.
async fn identities(fixture: &Fixture, query: &str) -> Vec<String> {
    let uri = format!("/v1/windows/alice/calendar.ics{query}");
    let (status, _, body) = fixture.ask("GET", &uri).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let is_identity = |line: &&str| line.starts_with("UID") || line.starts_with("RECURRENCE-ID");
    unfolded(&body).lines().filter(is_identity).map(str::to_owned).collect()
}

#[tokio::test(start_paused = true)]
async fn instances_of_a_series_have_their_own_uid_unless_linking_is_requested() {
    let fixture = Fixture::new().await;
    fixture.put(fixture.id("alice"), &everything()).await;
    let range = "from=2026-11-24&to=2026-11-28";
    let series =
        "040000008200E00074C5B7101A82E0080000000080CD3F1A52DED701000000000000000010000000AB";
    // Two series have one UID and the same creation time; `m` comes before `n`.
    let other = format!("{series}/1b16b1df");
    let own = identities(&fixture, &format!("?{range}")).await;
    assert_eq!(
        own,
        [
            format!("UID:{series}/20261124T090000Z"),
            format!("UID:{series}/20261125T090000Z"),
            format!("UID:{other}/20261126"),
        ]
    );
    assert_eq!(identities(&fixture, &format!("?{range}&series=own")).await, own);
    assert_eq!(
        identities(&fixture, &format!("?{range}&series=linked")).await,
        [
            format!("UID:{series}"),
            "RECURRENCE-ID:20261124T090000Z".into(),
            format!("UID:{series}"),
            "RECURRENCE-ID:20261125T090000Z".into(),
            format!("UID:{other}"),
            "RECURRENCE-ID;VALUE=DATE:20261126".into(),
        ]
    );
    let (status, _, body) = fixture.ask("GET", "/v1/windows/alice/calendar.ics?series=rule").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body.contains("must be own or linked"), "{body}");
}

/// An event has the same UID in every response, even if the older event with that UID is out of
/// range.
#[tokio::test(start_paused = true)]
async fn a_uid_does_not_depend_on_the_range() {
    let fixture = Fixture::new().await;
    let copy = |id: &str, day: u8, created: &str| {
        let more = json!({"iCalUId": "shared", "createdDateTime": created});
        timed(id, &format!("2026-11-{day:02}T08:00"), &format!("2026-11-{day:02}T09:00"), more)
    };
    let events = [copy("old", 2, "2026-01-01T00:00:00Z"), copy("new", 5, "2026-01-02T00:00:00Z")];
    fixture.put(fixture.id("alice"), &events).await;
    let all = identities(&fixture, "").await;
    assert_eq!(all.len(), 2);
    assert_eq!(all[0], "UID:shared");
    assert!(all[1].starts_with("UID:shared/"), "{all:?}");
    assert_eq!(identities(&fixture, "?from=2026-11-04").await, all[1..]);
}

#[tokio::test(start_paused = true)]
async fn an_online_meeting_can_be_joined_from_the_calendar() {
    let fixture = Fixture::new().await;
    let link = "https://teams.example/l/meetup-join/19%3ameeting?context=%7b%22Tid%22%7d";
    let html = format!("<p>Agenda</p><a href=\"{link}\">Click here to join</a>");
    let meeting = |id: &str, body: Value, more: Value| {
        let mut event = timed(id, "2026-11-23T08:00", "2026-11-23T08:15", json!({"body": body}));
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event
    };
    let html = json!({"contentType": "html", "content": html});
    let none = json!({"contentType": "html", "content": ""});
    let events = [
        meeting("a", html, json!({"onlineMeeting": {"joinUrl": link}})),
        meeting("b", none.clone(), json!({"onlineMeetingUrl": link, "onlineMeeting": null})),
        meeting(
            "c",
            none,
            json!({"onlineMeeting": {"joinUrl": "javascript:x()"}, "subject": null}),
        ),
    ];
    fixture.put(fixture.id("alice"), &events).await;
    let (_, _, body) = fixture.ask("GET", "/v1/windows/alice/calendar.ics").await;
    let body = unfolded(&body);
    let conference = format!("CONFERENCE;VALUE=URI;LABEL=\"Join the meeting\":{link}");
    assert_eq!(body.matches(&conference).count(), 2, "{body}");
    assert_eq!(body.matches("CONFERENCE").count(), 2, "{body}");
    assert!(
        body.contains(&format!("DESCRIPTION:Agenda\\nClick here to join <{link}>\n")),
        "{body}"
    );
    assert!(body.contains(&format!("DESCRIPTION:Join the meeting <{link}>\n")), "{body}");
    // An event without a subject gets an empty one.
    assert!(body.contains("\nSUMMARY:\n"), "{body}");
}

/// Each of these subjects and bodies once caused an endless calendar or a panic.
#[tokio::test(start_paused = true)]
async fn long_multi_byte_text_terminates() {
    let fixture = Fixture::new().await;
    let subjects = [
        "ж".repeat(72) + &" -".repeat(38),
        "ж".repeat(72) + &"\u{a0}".repeat(80),
        "ж".repeat(10) + &"\u{a0}".repeat(132),
    ];
    let events: Vec<Value> = subjects
        .iter()
        .enumerate()
        .map(|(index, subject)| {
            let body =
                json!({"contentType": "html", "content": subject.replace('\u{a0}', "&nbsp;")});
            let more =
                json!({"subject": subject, "body": body, "location": {"displayName": subject}});
            timed(&format!("e{index}"), "2026-11-23T08:00", "2026-11-23T08:15", more)
        })
        .collect();
    fixture.put(fixture.id("alice"), &events).await;
    let (_, _, body) = fixture.ask("GET", "/v1/windows/alice/calendar.ics").await;
    assert!(body.split("\r\n").all(|line| line.len() <= 75), "{body}");
    let body = unfolded(&body);
    for subject in &subjects {
        assert!(body.contains(&format!("\nSUMMARY:{subject}\n")), "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_calendar_is_named_after_its_window_with_any_characters() {
    let fixture = Fixture::new().await;
    fixture.add_window("a;b,c\\d:e", "odd@contoso.com").await;
    let uri = "/v1/windows/a%3Bb%2Cc%5Cd%3Ae/calendar.ics";
    let (status, _, body) = fixture.ask("GET", uri).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    for name in ["NAME", "X-WR-CALNAME"] {
        let line = format!("\r\n{name}:a\\;b\\,c\\\\d:e\r\n");
        assert!(body.contains(&line), "{line:?}: {body}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_redacted_event_shows_only_time_and_busy_state() {
    let mut fixture = Fixture::new().await;
    fixture.settings.mask_private = true;
    fixture.put(fixture.id("alice"), &everything()).await;
    let range = "from=2026-11-23T12:00:00Z&to=2026-11-23T13:00:00Z";
    let (_, _, body) = fixture.ask("GET", &format!("/v1/windows/alice/calendar.ics?{range}")).await;
    insta::assert_snapshot!(unfolded(&body));
    let busy = fixture.get(&format!("/v1/windows/alice/busy?{range}")).await;
    assert_eq!(
        busy["value"],
        json!([{"start": "2026-11-23T12:00:00Z", "end": "2026-11-23T13:00:00Z", "showAs": "oof"}])
    );
}

#[tokio::test(start_paused = true)]
async fn an_event_that_moves_while_the_calendar_is_written_appears_once() {
    let fixture = Fixture::new().await;
    let alice = fixture.id("alice");
    let hour =
        |i: usize| at("2026-02-01T00:00:00Z") + jiff::SignedDuration::from_mins(i as i64 * 10);
    let event = |i: usize, at: Timestamp| {
        let moment = |at: Timestamp| at.strftime("%Y-%m-%dT%H:%M").to_string();
        let end = at + jiff::SignedDuration::from_mins(5);
        timed(&format!("e{i}"), &moment(at), &moment(end), json!({}))
    };
    let events: Vec<Value> = (0..1200).map(|i| event(i, hour(i))).collect();
    fixture.put(alice, &events).await;
    let uri = "/v1/windows/alice/calendar.ics?from=2026-01-31&to=2026-02-20";
    let request = Request::get(uri).body(Body::empty()).unwrap();
    let response = router(fixture.app()).oneshot(request).await.unwrap();
    let mut stream = response.into_body().into_data_stream();
    let mut body = Vec::new();
    // The header and the first five hundred events.
    for _ in 0..2 {
        body.extend_from_slice(&stream.next().await.unwrap().unwrap());
    }
    let early = hour(0) - jiff::SignedDuration::from_hours(9);
    let late = hour(1200) + jiff::SignedDuration::from_hours(9);
    let outside = at("2026-02-20T00:00:00Z");
    let meanwhile = [event(1100, early), event(3, late), event(1200, early), event(1201, outside)];
    fixture.put(alice, &meanwhile).await;
    while let Some(stretch) = stream.next().await {
        body.extend_from_slice(&stretch.unwrap());
    }
    let body = String::from_utf8(body).unwrap();
    let mut uids: Vec<&str> = body.lines().filter_map(|line| line.strip_prefix("UID:")).collect();
    assert_eq!(uids.len(), 1201);
    uids.sort_unstable();
    uids.dedup();
    assert_eq!(uids.len(), 1201, "each event appears once");
    assert!(body.ends_with("END:VEVENT\r\nEND:VCALENDAR\r\n"));
}

/// Every form of time that the mirror accepts is placed by the calendar and the busy times, at the
/// same instants.
#[tokio::test(start_paused = true)]
async fn every_mirrored_time_can_be_written() {
    let fixture = Fixture::new().await;
    let forms = [
        (
            "offset",
            json!({"dateTime": "2026-11-02T09:00:00+01:00", "timeZone": "Mars/Base"}),
            "2026-11-02T08:00:00Z",
        ),
        (
            "short-offset",
            json!({"dateTime": "2026-11-02T04:00:00-0500", "timeZone": "UTC"}),
            "2026-11-02T09:00:00Z",
        ),
        (
            "digits",
            json!({"dateTime": "2026-11-02T10:00:00.12345678912", "timeZone": "UTC"}),
            "2026-11-02T10:00:00.123456789Z",
        ),
        (
            "casing",
            json!({"datetime": "2026-11-02T11:00:00", "TIMEZONE": "UTC"}),
            "2026-11-02T11:00:00Z",
        ),
        (
            "space",
            json!({"dateTime": "2026-11-02 12:00", "timeZone": "UTC"}),
            "2026-11-02T12:00:00Z",
        ),
    ];
    let mut commit = Commit::new(fixture.id("alice"), 0, fixture.env.now());
    let mut put = |event: Value| {
        let item = crate::graph::wire::event(&event.to_string().into(), BodyFormat::Html).unwrap();
        commit.upserts.push(item.clone());
        item.span
    };
    for (name, start, at_utc) in &forms {
        let end = json!({"dateTime": "2026-11-02T20:00:00", "timeZone": "UTC"});
        let span = put(
            json!({"id": name, "type": "singleInstance", "subject": name, "start": start, "end": end}),
        );
        assert_eq!(span.start, at(at_utc), "{name}");
    }
    // Half an hour in the night when clocks are set back, and a day whose midnight has an offset:
    // its date stays as written.
    let berlin = |time: &str| json!({"dateTime": time, "timeZone": "W. Europe Standard Time"});
    let night = json!({"id": "night", "subject": "night", "start": berlin("2026-10-25T02:45:00"), "end": berlin("2026-10-25T02:15:00")});
    let day = json!({"id": "day", "subject": "day", "isAllDay": true,
        "start": berlin("2026-11-05T00:00:00+01:00"), "end": berlin("2026-11-06T00:00:00+01:00")});
    assert_eq!(put(night).end, at("2026-10-25T01:15:00Z"));
    assert_eq!(put(day).start, at("2026-11-04T23:00:00Z"));
    fixture.store.commit(commit).await.unwrap();

    let (_, _, body) = fixture.ask("GET", "/v1/windows/alice/calendar.ics").await;
    assert_eq!(body.matches("BEGIN:VEVENT").count(), forms.len() + 2, "{body}");
    for line in [
        "DTSTART:20261025T004500Z",
        "DTEND:20261025T011500Z",
        "DTSTART;VALUE=DATE:20261105",
        "DTSTART:20261102T080000Z",
    ] {
        assert!(body.contains(&format!("\r\n{line}\r\n")), "{line}: {body}");
    }
    let busy = fixture.get("/v1/windows/alice/busy").await;
    assert_eq!(busy["unplaced"], json!(0));
    let starts: Vec<&str> = busy["value"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["start"].as_str().unwrap())
        .collect();
    assert_eq!(starts, ["2026-10-25T00:45:00Z", "2026-11-02T08:00:00Z", "2026-11-04T23:00:00Z"]);
}

#[tokio::test(start_paused = true)]
async fn busy_time_covers_the_window_by_default() {
    let fixture = Fixture::new().await;
    fixture.put(fixture.id("alice"), &everything()).await;
    let busy = fixture.get("/v1/windows/alice/busy").await;
    assert_eq!(
        (&busy["from"], &busy["to"]),
        (&json!("2026-01-01T00:00:00Z"), &json!("2027-01-01T00:00:00Z"))
    );
    assert_eq!((&busy["complete"], &busy["unplaced"]), (&json!(true), &json!(0)));
    let stretches: Vec<String> = busy["value"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| {
            format!(
                "{} {} {}",
                i["start"].as_str().unwrap(),
                i["end"].as_str().unwrap(),
                i["showAs"].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(
        stretches,
        [
            "2026-07-01T08:00:00Z 2026-07-01T09:00:00Z tentative",
            "2026-11-23T08:00:00Z 2026-11-23T08:15:00Z busy",
            "2026-11-23T12:00:00Z 2026-11-23T13:00:00Z oof",
            "2026-11-24T09:00:00Z 2026-11-24T10:00:00Z busy",
            "2026-11-25T11:00:00Z 2026-11-25T12:00:00Z busy",
            "2026-11-27T00:00:00Z 2026-11-28T00:00:00Z busy",
            "2026-12-24T08:00:00Z 2026-12-27T08:00:00Z oof",
        ]
    );
}
