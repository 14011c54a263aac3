//! Busy time of windows that take more than one slice to read.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::api::busy_times::{BusyQuery, WindowTimes, place_events, read_times};
use crate::api::query::Parameters;
use crate::api::view::{EventView, FILTER};
use crate::config::AccessLevel;
use crate::mirror::page::EventKind;

fn event(id: &str, hour: i64) -> Value {
    let moment = |hour: i64| {
        let at = at("2026-01-01T00:00:00Z") + jiff::SignedDuration::from_hours(hour);
        json!({"dateTime": at.strftime("%Y-%m-%dT%H:%M:%S").to_string(), "timeZone": "UTC"})
    };
    json!({"id": id, "showAs": "busy", "start": moment(hour), "end": moment(hour + 1)})
}

// Two threads: in simulated time no other task runs while one of them reads.
#[test]
fn an_event_that_moves_during_the_read_is_counted_once() {
    const EVENTS: i64 = 4300;
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let reading = runtime();
    let fixture = reading.block_on(Fixture::new());
    let alice = fixture.id("alice");
    // Events of an hour with an hour between them, and one that moves back and forth between both
    // ends.
    let mut events: Vec<Value> = (1..=EVENTS).map(|n| event(&format!("e{n}"), n * 2)).collect();
    events.push(event("moving", 0));
    reading.block_on(fixture.put(alice, &events));
    let over = AtomicBool::new(false);
    let counts: Vec<usize> = thread::scope(|scope| {
        scope.spawn(|| {
            let moving = runtime();
            for turn in (1..).take_while(|_| !over.load(Ordering::Relaxed)) {
                let there = event("moving", (turn % 2) * (EVENTS + 1) * 2);
                moving.block_on(fixture.put(alice, &[there]));
                // An event that changes with every commit keeps moving in the feed.
                for n in 1..=3 {
                    let mut renamed = event(&format!("e{n}"), n * 2);
                    renamed["subject"] = json!(turn);
                    moving.block_on(fixture.put(alice, &[renamed]));
                }
            }
        });
        let count = |busy: (StatusCode, HeaderMap, String)| busy.2.matches("showAs").count();
        // The index is read at once, and the events themselves in batches.
        let uri = |filter: &str| format!("/v1/windows/alice/busy?{filter}");
        let filters = ["", "sensitivity=normal"].into_iter().cycle().take(12);
        let all = filters.map(|f| count(reading.block_on(fixture.ask("GET", &uri(f))))).collect();
        over.store(true, Ordering::Relaxed);
        all
    });
    assert_eq!(counts, [EVENTS as usize + 1; 12]);
}

/// An event of a window: its start and length in hours, and how its time is taken.
#[derive(Clone, Debug)]
struct Taken {
    start: i64,
    hours: i64,
    show_as: &'static str,
    cancelled: bool,
    form: Form,
}

/// What the store has of an event.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Single,
    /// With more content than the index takes.
    Large,
    /// As 0.1 wrote it.
    Old,
    /// One of the two masters says how its time is taken.
    Bare(usize),
}

const SHOW_AS: [&str; 7] =
    ["free", "tentative", "busy", "oof", "workingElsewhere", "unknown", "null"];

fn taken() -> impl Strategy<Value = Taken> {
    let forms = [Form::Single, Form::Single, Form::Large, Form::Old];
    let forms = [&forms[..], &[0, 1].map(Form::Bare)].concat();
    let length = prop::sample::select(vec![0, 1, 2, 5, 26, 27, 100]);
    let show_as = prop::sample::select(SHOW_AS.to_vec());
    (0..200i64, length, show_as, any::<bool>(), prop::sample::select(forms)).prop_map(
        |(start, hours, show_as, cancelled, form)| Taken { start, hours, show_as, cancelled, form },
    )
}

fn item(index: usize, taken: &Taken) -> Item {
    let base = at("2026-11-01T00:00:00Z");
    let [start, end] = [taken.start, taken.start + taken.hours]
        .map(|hour| base + jiff::SignedDuration::from_hours(hour));
    let moment = |at: Timestamp| json!({"dateTime": at.strftime("%Y-%m-%dT%H:%M:%S").to_string(), "timeZone": "UTC"});
    let id = format!("e{index}");
    let mut event = json!({"id": id, "start": moment(start), "end": moment(end)});
    let span = Span { start, end };
    if let Form::Bare(master) = taken.form {
        let item = single(&id, span, event.to_string());
        let master = Some(EventId::new(format!("m{master}")));
        return Item { kind: EventKind::Occurrence, master, full: false, ..item };
    }
    event["isCancelled"] = json!(taken.cancelled);
    event["showAs"] = if taken.show_as == "null" { Value::Null } else { json!(taken.show_as) };
    if taken.form == Form::Large {
        // Noise, which cannot be compressed.
        let mut random = fastrand::Rng::with_seed(7);
        event["body"] = json!((0..90_000).map(|_| random.alphanumeric()).collect::<String>());
    }
    let item = single(&id, span, event.to_string());
    let availability = item.availability.filter(|_| taken.form != Form::Old);
    Item { availability, ..item }
}

/// Two masters: one whose instances are tentative, and one that is cancelled.
fn masters() -> Vec<Item> {
    let contents = [
        r#"{"id":"m0","showAs":"tentative","isCancelled":false}"#,
        r#"{"id":"m1","showAs":"oof","isCancelled":true}"#,
    ];
    let span = Span { start: Timestamp::UNIX_EPOCH, end: Timestamp::UNIX_EPOCH };
    let master = |(number, content): (usize, &str)| Item {
        kind: EventKind::Master,
        // As 0.1 wrote it.
        availability: None,
        ..single(&format!("m{number}"), span, content.to_owned())
    };
    contents.into_iter().enumerate().map(master).collect()
}

fn view(query: &str) -> EventView {
    let parameters = Parameters::parse(Some(query), &FILTER).unwrap();
    EventView::parse(&parameters, AccessLevel::All, false).unwrap()
}

async fn index_and_events_agree(events: Vec<Taken>, from: i64, hours: i64) {
    let fixture = Fixture::new().await;
    let window = fixture.id("alice");
    let mut commit = Commit::new(window, 0, fixture.env.now());
    commit.upserts = masters();
    commit.upserts.extend(events.iter().enumerate().map(|(index, taken)| item(index, taken)));
    fixture.store.commit(commit).await.unwrap();
    let from = at("2026-11-01T00:00:00Z") + jiff::SignedDuration::from_hours(from);
    let to = from + jiff::SignedDuration::from_hours(hours);
    let query = BusyQuery { window, from, to };
    for filter in
        ["", "showAs=!tentative", "showAs=unknown,free,oof", "cancelled=false", "cancelled=true"]
    {
        let view = view(filter);
        let by_index = read_times(&fixture.store, &view, query).await.unwrap();
        let by_events = place_events(&fixture.store, &view, query).await.unwrap();
        assert_eq!((by_index.unplaced, by_events.unplaced), (0, 0));
        let merged = |times: &WindowTimes| crate::mirror::busy_time::merge(&times.times, from, to);
        assert_eq!(merged(&by_index), merged(&by_events), "{filter}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn the_index_says_the_same_as_the_events(
        events in prop::collection::vec(taken(), 0..30), from in 0..250i64, hours in 1..150i64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(index_and_events_agree(events, from, hours));
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_without_a_time_is_counted_and_a_day_begins_in_its_zone() {
    let fixture = Fixture::new().await;
    let alice = fixture.id("alice");
    let midnight = |day: u8| json!({"dateTime": format!("2026-11-{day}T00:00:00"), "timeZone": "Pacific Standard Time"});
    let day = json!({"id": "d", "isAllDay": true, "showAs": "oof", "start": midnight(21), "end": midnight(22)});
    fixture.put(alice, &[day]).await;
    fixture.write(alice, &[("without", 9, "")], &[]).await;
    let (from, to) = (at("2026-11-01T00:00:00Z"), at("2026-12-01T00:00:00Z"));
    let query = BusyQuery { window: alice, from, to };
    // A filter on another member than the availability needs the events themselves.
    let filtered = view("sensitivity=normal");
    let WindowTimes { times, unplaced } =
        read_times(&fixture.store, &filtered, query).await.unwrap();
    assert_eq!(unplaced, 1);
    assert_eq!(times.len(), 1);
    assert_eq!(times[0].start, at("2026-11-21T08:00:00Z"));
    assert_eq!(times[0].end, at("2026-11-22T08:00:00Z"));
}

#[tokio::test(start_paused = true)]
async fn many_windows_are_in_one_answer_in_order() {
    let fixture = Fixture::new().await;
    fixture.add_window("bob", "bob@contoso.com").await;
    let busy = |id: &str, show_as: &str| {
        let moment = |hour: u8| json!({"dateTime": format!("2026-11-23T{hour:02}:00:00"), "timeZone": "UTC"});
        json!({"id": id, "showAs": show_as, "start": moment(9), "end": moment(10)})
    };
    fixture.put(fixture.id("alice"), &[busy("a", "busy")]).await;
    fixture.put(fixture.id("bob"), &[busy("b", "tentative")]).await;
    fixture.fleet.windows.lock().unwrap()[1].0.unreadable = 2;
    let all = fixture.get("/v1/busy?from=2026-11-23&to=2026-11-24").await;
    let window = |name: &str, show_as: &[&str], unplaced: u32| {
        let interval = |show_as: &&str| json!({"start": "2026-11-23T09:00:00Z", "end": "2026-11-23T10:00:00Z", "showAs": show_as});
        let busy: Vec<Value> = show_as.iter().map(interval).collect();
        json!({
            "window": name, "busy": busy, "complete": true, "as_of": "2026-11-21T11:59:00Z",
            "unplaced": unplaced,
        })
    };
    let (alice, bob) = (window("alice", &["busy"], 0), window("bob", &["tentative"], 0));
    let expected = json!({
        "value": [alice, bob, window("room a/b", &[], 2)],
        "from": "2026-11-23T00:00:00Z", "to": "2026-11-24T00:00:00Z",
    });
    assert_eq!(all, expected);
    let names = async |query: &str| {
        let answer = fixture.get(&format!("/v1/busy?{query}")).await;
        let text = |window: &Value| {
            let busy = window["busy"].as_array().unwrap().len();
            format!("{}:{busy}", window["window"].as_str().unwrap())
        };
        answer["value"].as_array().unwrap().iter().map(text).collect::<Vec<_>>().join(" ")
    };
    // A week from today, unless the request says otherwise.
    assert_eq!(names("windows=alice,b*&showAs=!tentative").await, "alice:1 bob:0");
    assert_eq!(names("window=bob&window=alice&from=2026-11-24").await, "alice:0 bob:0");
    for (query, status) in [
        ("windows=missing", 404),
        ("windows=alice,x*", 404),
        ("group=none", 404),
        ("windows=alice,", 400),
        ("to=2026-11-01", 400),
        ("showAs=yes", 400),
    ] {
        let (found, ..) = fixture.ask("GET", &format!("/v1/busy?{query}")).await;
        assert_eq!(found.as_u16(), status, "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn busy_times_have_the_tag_of_all_of_their_windows() {
    let fixture = Fixture::new().await;
    let uri = "/v1/busy?windows=alice&from=2026-11-23&to=2026-11-24";
    let tag = async || fixture.ask("GET", uri).await.1["etag"].to_str().unwrap().to_owned();
    let first = tag().await;
    let held = [("if-none-match", &*first)];
    assert_eq!(fixture.ask_with("GET", uri, &held).await.0, StatusCode::NOT_MODIFIED);
    fixture.put(fixture.id("room a/b"), &[event("r", 1)]).await;
    assert_eq!(tag().await, first, "the room is not in it");
    fixture.put(fixture.id("alice"), &[event("a", 1)]).await;
    assert_ne!(tag().await, first);
}

/// Outside of the window nothing is known, so nothing is free.
#[tokio::test(start_paused = true)]
async fn a_range_that_the_window_does_not_cover_is_not_complete() {
    let fixture = Fixture::new().await;
    for (range, complete) in [
        ("from=2026-01-01&to=2027-01-01", true),
        ("from=2025-12-31&to=2026-02-01", false),
        ("from=2026-12-31&to=2027-01-02", false),
    ] {
        let one = fixture.get(&format!("/v1/windows/alice/busy?{range}")).await;
        let many = fixture.get(&format!("/v1/busy?windows=alice&{range}")).await;
        assert_eq!(one["complete"], complete, "{range}");
        assert_eq!(many["value"][0]["complete"], complete, "{range}");
    }
}
