//! Tests of the tables, and of what is asked of the daemon.
use super::*;
use anstream::adapter::strip_str;
use serde_json::json;

fn zone() -> TimeZone {
    TimeZone::get("Europe/Berlin").unwrap()
}

#[test]
fn busy_times_are_a_table_in_the_users_zone() {
    let interval = |start: &str, end: &str, show_as: &str| json!({"start": start, "end": end, "showAs": show_as});
    let room = json!({"building": "Main", "floor": "2", "capacity": 8});
    let list: BusyList = serde_json::from_value(json!({"value": [
        {"window": "alice", "complete": true, "unplaced": 0, "busy": [
            interval("2026-11-23T08:00:00Z", "2026-11-23T09:30:00Z", "busy"),
            interval("2026-11-23T22:00:00Z", "2026-11-23T23:00:00Z", "tentative"),
            interval("2026-11-23T23:00:00Z", "2026-11-26T23:00:00Z", "oof"),
        ]},
        {"window": "room\u{1b}1", "place": room, "complete": false, "unplaced": 2, "busy": []},
    ]}))
    .unwrap();
    insta::assert_snapshot!(strip_str(&busy_table(&list.value, &zone())).to_string());
}

fn slots() -> SlotList {
    let room =
        json!({"window": "room-1", "place": {"building": "Main", "floor": null, "capacity": 8}});
    let slot = |start: &str, end: &str| json!({"start": start, "end": end, "free": [{"window": "alice"}, room, {"window": "bob"}]});
    serde_json::from_value(json!({
        "value": [
            slot("2026-10-24T08:00:00Z", "2026-10-24T09:30:00Z"),
            // The clocks go back in this night.
            slot("2026-10-24T20:00:00Z", "2026-10-25T05:00:00Z"),
        ],
        "unknown": [
            {"window": "carol", "reason": "never_settled"},
            {"window": "dave", "reason": "unplaced_events"},
            {"window": "erin", "reason": "range_not_covered"},
        ],
        "from": "2026-10-24T00:00:00Z", "to": "2026-10-26T00:00:00Z",
        "duration": "30m", "need": 2, "zone": "UTC",
    }))
    .unwrap()
}

#[test]
fn slots_are_a_table_with_who_is_free() {
    insta::assert_snapshot!(strip_str(&slot_table(&slots(), &zone(), None)).to_string());
    let narrow = strip_str(&slot_table(&slots(), &zone(), Some(60))).to_string();
    assert!(narrow.lines().take(5).all(|line| width(line) <= 60), "{narrow}");
    assert!(narrow.contains("\n                                   "), "{narrow}");
}

#[test]
fn an_empty_table_names_its_range() {
    let list = SlotList { value: Vec::new(), unknown: Vec::new(), ..slots() };
    let expected = "no slot with 2 free windows from 2026-10-24 02:00 to 2026-10-26 01:00\n";
    assert_eq!(slot_table(&list, &zone(), None), expected);
}

/// Runs a command against a stand-in that answers with its own query.
async fn query_of(line: &str) -> String {
    use axum::extract::RawQuery;
    use clap::Parser as _;
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("api.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let answer = axum::routing::get(async |RawQuery(query): RawQuery| query.unwrap_or_default());
    let router = axum::Router::new().route("/v1/busy", answer.clone()).route("/v1/free", answer);
    let serving = tokio::spawn(async { axum::serve(listener, router).await });
    let client = ApiClient::new(super::super::endpoint::Endpoint::Socket(socket), None);
    let words = std::iter::once("calmirror").chain(line.split_whitespace());
    let mut out = Vec::new();
    let done = match super::super::arguments::Arguments::parse_from(words).command {
        super::super::arguments::Command::Busy(args) => busy(&client, &args, true, &mut out).await,
        super::super::arguments::Command::Free(args) => free(&client, &args, true, &mut out).await,
        _ => panic!("another command"),
    };
    assert_eq!(done, Ok(DONE));
    serving.abort();
    String::from_utf8(out).unwrap()
}

#[tokio::test]
async fn every_option_is_asked_of_the_daemon() {
    let range = "--from 2026-11-23 --to 2026-11-24T12:00:00Z --zone Europe/Berlin";
    let times = "from=2026-11-22T23%3A00%3A00Z&to=2026-11-24T12%3A00%3A00Z";
    let asked = query_of(&format!("busy --windows alice,room-* --group g {range}")).await;
    assert_eq!(asked, format!("window=alice&window=room-%2A&group=g&{times}\n"));
    let options =
        "--duration 1h --within 09:00-17:00 --days mon,wed --need 2 --buffer 5m --tentative free";
    let asked = query_of(&format!("free --windows a,b {range} {options}")).await;
    let expected = format!(
        "window=a&window=b&{times}&duration=1h&within=09%3A00-17%3A00&days=mon%2Cwed\
         &zone=Europe%2FBerlin&need=2&buffer=5m&tentative=free\n"
    );
    assert_eq!(asked, expected);
}
