//! The two essential comparisons: the whole mirror with plain `calendarView`, and the folded feed
//! with the mirror.

use std::collections::BTreeMap;

use bytes::Bytes;
use calmirror::mirror::change::ChangeKind;
use calmirror::mirror::position::WindowId;
use calmirror::mirror::window::{BodyFormat, Completion, Edges, Window};
use calmirror::simulator::{SimulatedResponse, Simulator};
use calmirror::store::{BATCH_BYTES, Changes, EventQuery, FeedFilter, Follower, Store};
use jiff::civil::DateTime;
use serde_json::Value;

use crate::rig::BASE;

pub(crate) type EventsById = BTreeMap<String, Value>;

pub(crate) fn by_id(events: impl IntoIterator<Item = Value>) -> EventsById {
    events.into_iter().map(|event| (event["id"].as_str().unwrap().to_owned(), event)).collect()
}

/// The events that readers of a window see, read page by page.
pub(crate) async fn mirror(store: &Store, window: WindowId) -> EventsById {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let query = EventQuery { window, from: None, to: None, limit: 97, bytes: 1 << 16, after };
        let events = store.events(query).await.unwrap();
        all.extend(events.value.iter().map(|raw| serde_json::from_slice::<Value>(raw).unwrap()));
        match events.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    let read = all.len();
    let events = by_id(all);
    assert_eq!(read, events.len(), "an event is listed twice");
    events
}

/// The changes after a seq, at most `limit`, of one window or of all.
pub(crate) async fn changes_after(
    store: &Store,
    seq: u64,
    window: Option<WindowId>,
    limit: usize,
) -> Changes {
    let filter = window.map_or(FeedFilter::All, FeedFilter::Window);
    let mut follower = Follower::after(store, &store.cursor(seq), filter).unwrap();
    follower.read(limit, BATCH_BYTES).await.unwrap()
}

/// The feed from its beginning, applied to an empty set.
pub(crate) async fn folded(store: &Store, window: WindowId) -> EventsById {
    let mut events = EventsById::new();
    let mut follower = Follower::from_beginning(store, FeedFilter::Window(window));
    loop {
        let after = follower.seq();
        let changes = follower.read(100, BATCH_BYTES).await.unwrap();
        for change in changes.value {
            assert!(change.seq > after, "feed out of order");
            let id = change.id.as_str().to_owned();
            match change.kind {
                ChangeKind::Created | ChangeKind::Updated => {
                    let raw = change.event.expect("an upsert carries its event");
                    events.insert(id, serde_json::from_slice(&raw).unwrap());
                }
                ChangeKind::Removed => {
                    events.remove(&id);
                }
            }
        }
        if changes.at_end {
            return events;
        }
    }
}

/// The events that plain `calendarView` lists, in the form that the window keeps.
pub(crate) async fn truth(
    simulator: &Simulator,
    mailbox: &str,
    calendar: Option<&str>,
    edges: Edges,
    complete: Completion,
) -> EventsById {
    let mut events = by_id(simulator.truth(mailbox, calendar, edges.start, edges.end));
    let mut masters = BTreeMap::new();
    if complete == Completion::Master {
        for event in events.values_mut().filter(|event| event["type"] == "occurrence") {
            let series = event["seriesMasterId"].as_str().unwrap().to_owned();
            if !masters.contains_key(&series) {
                let master = get(simulator, mailbox, calendar, &series).await;
                masters.insert(series.clone(), master);
            }
            match &masters[&series] {
                Some(master) => fill(event, master),
                None => mark_listed_only(event),
            }
        }
    }
    events
}

/// The events that plain `calendarView` lists with the window's own request options, in the form
/// that it keeps.
pub(crate) async fn truth_as_asked(
    simulator: &Simulator,
    window: &Window,
    calendar: Option<&str>,
    edges: Edges,
) -> EventsById {
    let mut events = EventsById::new();
    for stretch in edges.segments() {
        let mut path =
            format!("calendarView?startDateTime={}&endDateTime={}", stretch.start, stretch.end);
        path.push_str("&$top=1000");
        let mut skip = 0;
        loop {
            let page = ask(simulator, window, calendar, &format!("{path}&$skip={skip}")).await;
            let value = page["value"].as_array().unwrap().clone();
            skip += value.len();
            events.extend(by_id(value));
            if page.get("@odata.nextLink").is_none() {
                break;
            }
        }
    }
    let mut masters = BTreeMap::new();
    for event in events.values_mut() {
        if event["type"] == "occurrence" && window.settings.complete == Completion::Master {
            let series = event["seriesMasterId"].as_str().unwrap().to_owned();
            if !masters.contains_key(&series) {
                let path = format!("events/{series}");
                let master = try_ask(simulator, window, calendar, &path).await;
                masters.insert(series.clone(), master);
            }
            match &masters[&series] {
                Some(master) => fill(event, master),
                None => mark_listed_only(event),
            }
        }
        if window.settings.body == BodyFormat::None {
            let own = event.as_object_mut().unwrap();
            own.remove("body");
            own.remove("bodyPreview");
        }
    }
    events
}

/// Members that may differ in an occurrence whose master cannot be fetched by id. The mirror either
/// completed it from a master on a page or keeps the listed form, and a master cannot supply these
/// members.
const EITHER_FORM: [&str; 3] = ["iCalUId", "OccurrenceId", "originalStart"];
/// The member that marks such an expected event.
const LISTED_ONLY: &str = "@listedOnly";

fn mark_listed_only(event: &mut Value) {
    event.as_object_mut().unwrap().insert(LISTED_ONLY.to_owned(), true.into());
}

/// Whether an event matches the expected one; an event marked [`LISTED_ONLY`] may have either form.
pub(crate) fn fits(event: &Value, expected: &Value) -> bool {
    if expected.get(LISTED_ONLY).is_none() {
        return event == expected;
    }
    let without = |event: &Value| {
        let mut members = event.as_object().unwrap().clone();
        members.retain(|name, _| name != LISTED_ONLY && !EITHER_FORM.contains(&name.as_str()));
        members
    };
    without(event) == without(expected)
}

/// Turns a listed occurrence into the form that completing a stub from its master gives.
fn fill(event: &mut Value, master: &Value) {
    let own = event.as_object_mut().unwrap();
    // Members of the listed occurrence that the master cannot supply.
    for name in ["iCalUId", "OccurrenceId"] {
        match master.get(name) {
            Some(value) => own.insert(name.to_owned(), value.clone()),
            None => own.remove(name),
        };
    }
    let zone = match own["start"]["timeZone"].as_str().unwrap() {
        "Tokyo Standard Time" => "Asia/Tokyo",
        other => other,
    };
    let local: DateTime = own["start"]["dateTime"].as_str().unwrap().parse().unwrap();
    let start = local.in_tz(zone).unwrap().timestamp();
    own.insert("originalStart".to_owned(), Value::String(start.to_string()));
}

/// A response of Graph with the window's request options.
async fn ask(simulator: &Simulator, window: &Window, calendar: Option<&str>, path: &str) -> Value {
    try_ask(simulator, window, calendar, path).await.unwrap_or_else(|| panic!("{path}: not found"))
}

/// The same, or `None` if Graph does not find it.
async fn try_ask(
    simulator: &Simulator,
    window: &Window,
    calendar: Option<&str>,
    path: &str,
) -> Option<Value> {
    let mailbox = &window.mailbox;
    let calendar = calendar.map(|id| format!("/calendars/{id}")).unwrap_or_default();
    let body = if window.settings.body == BodyFormat::Html { "html" } else { "text" };
    let mut prefer = format!(
        "outlook.timezone=\"{}\", outlook.body-content-type=\"{body}\"",
        window.settings.time_zone
    );
    if window.settings.immutable_ids {
        prefer.push_str(", IdType=\"ImmutableId\"");
    }
    let request = http::Request::get(format!("{BASE}/users/{mailbox}{calendar}/{path}"))
        .header("authorization", format!("Bearer {}", simulator.access_token()))
        .header("prefer", prefer)
        .body(Bytes::new())
        .unwrap();
    let mut answer = found(simulator, request).await?;
    answer.as_object_mut().unwrap().remove("@odata.context");
    Some(answer)
}

/// The content of a response, or `None` if Graph does not find it.
async fn found(simulator: &Simulator, request: http::Request<Bytes>) -> Option<Value> {
    let uri = request.uri().clone();
    match simulator.answer(request).await {
        SimulatedResponse::Response(response)
            if response.status() == http::StatusCode::NOT_FOUND =>
        {
            None
        }
        SimulatedResponse::Response(response) => {
            assert!(response.status().is_success(), "{uri}: {}", response.status());
            Some(serde_json::from_slice(response.body()).unwrap())
        }
        other => panic!("no response to {uri}: {other:?}"),
    }
}

/// An event as `GET …/events/{id}` returns it, or `None` if it is not found.
async fn get(
    simulator: &Simulator,
    mailbox: &str,
    calendar: Option<&str>,
    id: &str,
) -> Option<Value> {
    let calendar = calendar.map(|id| format!("/calendars/{id}")).unwrap_or_default();
    let (owner, token) = match mailbox.strip_prefix("group:") {
        // In the tests, Alice is a member of every group.
        Some(group) => {
            let token = simulator.person_access_token("alice@contoso.com", "Group.Read.All");
            (format!("groups/{group}"), token.unwrap())
        }
        None => (format!("users/{mailbox}"), simulator.access_token()),
    };
    let request = http::Request::get(format!("{BASE}/{owner}{calendar}/events/{id}"))
        .header("authorization", format!("Bearer {token}"))
        .body(Bytes::new())
        .unwrap();
    found(simulator, request).await
}

/// Asserts that a window's mirror and its feed equal what Graph lists. Returns the mirror.
pub(crate) async fn assert_mirrored(
    store: &Store,
    window: WindowId,
    real: &EventsById,
    what: &str,
) -> EventsById {
    let mirrored = mirror(store, window).await;
    assert_same(&format!("mirror and truth, {what}"), &mirrored, real);
    assert_same(&format!("feed and mirror, {what}"), &folded(store, window).await, &mirrored);
    mirrored
}

/// Panics at the first difference only, because contents are long.
pub(crate) fn assert_same(what: &str, left: &EventsById, right: &EventsById) {
    for (id, event) in left {
        match right.get(id) {
            None => panic!(
                "{what}: {} {id} {} exists only on the left",
                event["type"], event["subject"]
            ),
            Some(other) if !fits(event, other) => {
                let (a, b) = (event.as_object().unwrap(), other.as_object().unwrap());
                let differing: Vec<String> = a
                    .keys()
                    .chain(b.keys())
                    .filter(|name| a.get(*name) != b.get(*name))
                    .map(|name| format!("{name}: {:?} / {:?}", a.get(name), b.get(name)))
                    .collect();
                panic!("{what}: {} {id} differs: {differing:#?}", event["type"]);
            }
            Some(_) => {}
        }
    }
    for (id, event) in right {
        assert!(
            left.contains_key(id),
            "{what}: {} {id} {} exists only on the right",
            event["type"],
            event["subject"]
        );
    }
}
