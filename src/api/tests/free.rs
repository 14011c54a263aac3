//! When several windows are free together.

use super::*;
use crate::mirror::fleet::Place;
use crate::mirror::status::{LastResync, ResyncReason};

/// An event of Monday, 23 November.
fn event(id: &str, start: &str, end: &str, show_as: &str) -> Value {
    let moment =
        |time: &str| json!({"dateTime": format!("2026-11-23T{time}:00"), "timeZone": "UTC"});
    json!({"id": id, "showAs": show_as, "start": moment(start), "end": moment(end)})
}

/// The slots as text: `23 10:00-12:00 alice,bob`.
fn slots(answer: &Value) -> Vec<String> {
    let time = |at: &Value, form| {
        at.as_str().unwrap().parse::<Timestamp>().unwrap().strftime(form).to_string()
    };
    let text = |slot: &Value| {
        let (start, end) = (time(&slot["start"], "%d %H:%M"), time(&slot["end"], "%H:%M"));
        let free = slot["free"].as_array().unwrap().iter();
        let names: Vec<&str> = free.map(|one| one["window"].as_str().unwrap()).collect();
        format!("{start}-{end} {}", names.join(","))
    };
    answer["value"].as_array().unwrap().iter().map(text).collect()
}

const MONDAY: &str = "from=2026-11-23&to=2026-11-24&within=09:00-17:00";

async fn fixture() -> Fixture {
    let fixture = Fixture::new().await;
    let bob = fixture.add_window("bob", "bob@contoso.com").await;
    let alice = [
        event("a1", "09:00", "10:00", "busy"),
        event("a2", "12:00", "13:00", "tentative"),
        event("a3", "15:00", "16:00", "free"),
    ];
    fixture.put(fixture.id("alice"), &alice).await;
    let bob_events =
        [event("b1", "10:30", "11:00", "oof"), event("b2", "14:00", "15:00", "workingElsewhere")];
    fixture.put(bob, &bob_events).await;
    fixture
}

#[tokio::test(start_paused = true)]
async fn slots_are_where_enough_windows_are_free() {
    let fixture = fixture().await;
    for (query, expected) in [
        (
            "windows=alice,bob",
            &["23 10:00-10:30 alice,bob", "23 11:00-12:00 alice,bob", "23 13:00-17:00 alice,bob"][..],
        ),
        (
            "windows=alice,bob&duration=1h",
            &["23 11:00-12:00 alice,bob", "23 13:00-17:00 alice,bob"],
        ),
        ("windows=alice,bob&duration=1h&tentative=free", &["23 11:00-17:00 alice,bob"]),
        ("windows=alice,bob&duration=1h&buffer=15m", &["23 13:15-17:00 alice,bob"]),
        (
            "windows=alice,bob&duration=1h&need=1",
            &["23 09:00-10:30 bob", "23 10:00-12:00 alice", "23 11:00-17:00 bob"],
        ),
        ("windows=alice&window=bob&duration=4h&need=1", &["23 11:00-17:00 bob"]),
        (
            "windows=alice,bob,room*&duration=1h&need=2",
            &[
                "23 09:00-10:30 bob,room a/b",
                "23 10:00-12:00 alice,room a/b",
                "23 11:00-17:00 bob,room a/b",
            ],
        ),
        ("windows=bob&showAs=!oof", &["23 09:00-17:00 bob"]),
        ("windows=bob&sensitivity=normal&duration=3h", &["23 11:00-17:00 bob"]),
        ("windows=alice,bob&days=tue", &[]),
    ] {
        let answer = fixture.get(&format!("/v1/free?{MONDAY}&{query}")).await;
        assert_eq!(slots(&answer), expected, "{query}");
        assert_eq!(answer["unknown"], json!([]), "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_says_what_was_searched_and_where_rooms_are() {
    let fixture = fixture().await;
    let place = Place { building: Some("Main".into()), floor: Some("2".into()), capacity: Some(8) };
    fixture.fleet.windows.lock().unwrap()[1].0.place = Some(place);
    let uri = "/v1/free?from=2026-11-23&to=2026-11-24&windows=room*,alice&duration=90m&need=1";
    let (_, headers, body) = fixture.ask("GET", uri).await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    let room =
        json!({"window": "room a/b", "place": {"building": "Main", "floor": "2", "capacity": 8}});
    let expected = json!({
        "value": [{"start": "2026-11-23T00:00:00Z", "end": "2026-11-24T00:00:00Z", "free": [room]}],
        "unknown": [], "from": "2026-11-23T00:00:00Z", "to": "2026-11-24T00:00:00Z",
        "duration": "1h 30m", "need": 1, "zone": "UTC",
    });
    assert_eq!(answer, expected);
    let tag = headers["etag"].to_str().unwrap();
    let again = async || fixture.ask_with("GET", uri, &[("if-none-match", tag)]).await.0;
    assert_eq!(again().await, StatusCode::NOT_MODIFIED);
    fixture.put(fixture.id("room a/b"), &[event("r", "09:00", "10:00", "busy")]).await;
    assert_eq!(again().await, StatusCode::OK);
    // A week from now on, at any time of any day, if the request does not say otherwise.
    let week = fixture.get("/v1/free?windows=alice").await;
    assert_eq!((&week["from"], &week["to"]), (&json!(NOON), &json!("2026-11-28T12:00:00Z")));
    assert_eq!(slots(&week)[0], "21 12:00-09:00 alice");
}

#[tokio::test(start_paused = true)]
async fn a_window_that_cannot_be_judged_is_never_free() {
    let fixture = fixture().await;
    let unknown = |answer: &Value| {
        let one =
            |window: &Value| format!("{} {}", window["window"], window["reason"]).replace('"', "");
        answer["unknown"].as_array().unwrap().iter().map(one).collect::<Vec<_>>()
    };
    let bob = "windows=alice,bob&duration=4h";
    type StatusEdit = fn(&mut WindowStatus);
    let change = |change: StatusEdit| {
        change(&mut fixture.fleet.windows.lock().unwrap()[2].0);
    };
    let cases: [(StatusEdit, &str); 5] = [
        (|status| status.settled_once = false, "bob never_settled"),
        (|status| (status.settled_once, status.unreadable) = (true, 1), "bob unplaced_events"),
        (
            |status| (status.unreadable, status.end) = (0, at("2026-11-23T23:00:00Z")),
            "bob range_not_covered",
        ),
        (
            |status| {
                (status.start, status.end) =
                    (at("2026-11-23T01:00:00Z"), at("2027-01-01T00:00:00Z"))
            },
            "bob range_not_covered",
        ),
        // The edges have moved, and the resync is not over.
        (
            |status| {
                status.start = at("2026-01-01T00:00:00Z");
                let reason = ResyncReason::WindowMoved;
                status.last_resync = Some(LastResync { at: at(NOON), reason });
            },
            "bob range_not_covered",
        ),
    ];
    for (make, reason) in cases {
        change(make);
        let all = fixture.get(&format!("/v1/free?{MONDAY}&{bob}")).await;
        assert_eq!((slots(&all), unknown(&all)), (vec![], vec![reason.to_owned()]));
        let one = fixture.get(&format!("/v1/free?{MONDAY}&{bob}&need=1")).await;
        assert_eq!(slots(&one), ["23 13:00-17:00 alice"], "{reason}");
    }
    // Once the resync is over, the answer is another one, although no event has changed.
    let uri = format!("/v1/free?{MONDAY}&{bob}");
    let (_, headers, _) = fixture.ask("GET", &uri).await;
    let known = [("if-none-match", headers["etag"].to_str().unwrap())];
    assert_eq!(fixture.ask_with("GET", &uri, &known).await.0, StatusCode::NOT_MODIFIED);
    change(|status| status.last_success = Some(at(NOON)));
    assert_eq!(fixture.ask_with("GET", &uri, &known).await.0, StatusCode::OK);
    // A meeting after the window's end may need a buffer before it.
    change(|status| {
        (status.start, status.end) = (at("2026-01-01T00:00:00Z"), at("2026-11-24T00:00:00Z"))
    });
    for (query, count) in [("", 0), ("&buffer=5m", 1)] {
        let answer = fixture.get(&format!("/v1/free?{MONDAY}&{bob}{query}")).await;
        assert_eq!(unknown(&answer).len(), count, "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn hours_are_those_of_the_zone() {
    let fixture = fixture().await;
    // The clocks go back on Sunday, 25 October.
    for (query, expected) in [
        ("zone=Europe/Berlin", &["23 07:00-15:00 alice", "26 08:00-16:00 alice"]),
        ("zone=W.%20Europe%20Standard%20Time", &["23 07:00-15:00 alice", "26 08:00-16:00 alice"]),
        ("days=sat,sun&zone=Europe/Berlin", &["24 07:00-15:00 alice", "25 08:00-16:00 alice"]),
        ("days=sat-sun", &["24 09:00-17:00 alice", "25 09:00-17:00 alice"]),
    ] {
        let range = "windows=alice&from=2026-10-23&to=2026-10-27&within=09:00-17:00";
        let answer = fixture.get(&format!("/v1/free?{range}&{query}")).await;
        assert_eq!(slots(&answer), expected, "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn impossible_searches_are_refused_by_name() {
    let fixture = fixture().await;
    for (query, parameter) in [
        ("duration=0s", "duration"),
        ("duration=25h", "duration"),
        ("duration=9h", "duration"),
        ("need=0", "need"),
        ("need=4", "need"),
        ("windows=alice&need=2", "need"),
        ("buffer=25h", "buffer"),
        ("tentative=yes", "tentative"),
        ("zone=Mars/Base", "zone"),
        ("days=weekdays", "days"),
        ("windows=,", "windows"),
        ("showAs=none", "showAs"),
    ] {
        let (status, _, body) = fixture.ask("GET", &format!("/v1/free?{MONDAY}&{query}")).await;
        let problem: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status.as_u16(), &problem["parameter"]), (400, &json!(parameter)), "{query}");
    }
    for (query, status) in [
        ("windows=missing", 404),
        ("windows=x*", 404),
        ("group=none", 404),
        ("from=0001-01-01&to=9999-01-01", 400),
        ("windows=alice&from=1800-01-01&to=2050-01-01", 200),
        // Whole days may follow each other.
        ("within=00:00-24:00&days=mon-sun&duration=72h", 200),
        ("within=22:00-06:00&duration=8h", 200),
        ("within=22:00-06:00&duration=9h", 400),
    ] {
        let (found, _, body) = fixture.ask("GET", &format!("/v1/free?{query}")).await;
        assert_eq!(found.as_u16(), status, "{query}: {body}");
    }
}
