//! Filters on events, calendars and the feed.

use proptest::prelude::*;

use super::*;

fn meeting(id: &str, response: &str, cancelled: bool, version: u32) -> Value {
    json!({
        "id": id, "subject": "s", "responseStatus": {"response": response}, "changeKey": version,
        "isCancelled": cancelled, "showAs": if cancelled { "free" } else { "busy" }, "categories": ["Red"],
        "start": {"dateTime": "2026-11-21T09:00:00", "timeZone": "UTC"},
        "end": {"dateTime": "2026-11-21T10:00:00", "timeZone": "UTC"},
    })
}

async fn problem(fixture: &Fixture, uri: &str) -> (u16, Value) {
    let (status, _, body) = fixture.ask("GET", uri).await;
    (status.as_u16(), serde_json::from_str(&body).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_filter_selects_events_and_fields_select_members() {
    let fixture = Fixture::new().await;
    let events = [meeting("a", "accepted", false, 1), meeting("b", "declined", false, 1)];
    fixture.put(fixture.id("alice"), &events).await;
    let list = async |query: &str| {
        let list = fixture.get(&format!("/v1/windows/alice/events?{query}")).await;
        ids(&list["value"]).join(",")
    };
    assert_eq!(list("").await, "a,b");
    assert_eq!(list("response=accepted").await, "a");
    assert_eq!(list("response=!accepted&cancelled=false").await, "b");
    assert_eq!(list("category=Red,Blue&response=accepted").await, "a");
    assert_eq!(list("category=!Red").await, "");
    let few = fixture.get("/v1/windows/alice/events?fields=id,showAs&response=declined").await;
    assert_eq!(few["value"], json!([{"id": "b", "showAs": "busy"}]));
    let none = fixture.get("/v1/windows/alice/events?fields=").await;
    assert_eq!(none["value"], json!([{}, {}]));
    let mut online = meeting("a", "accepted", false, 1);
    online["onlineMeeting"] = json!({"joinUrl": "https://teams.microsoft.com/l/\"1\""});
    fixture.put(fixture.id("room a/b"), &[online]).await;
    let link = fixture.get("/v1/windows/room%20a%2Fb/events?fields=id,join_url,none").await;
    let expected = json!([{"id": "a", "join_url": "https://teams.microsoft.com/l/\"1\""}]);
    assert_eq!(link["value"], expected);
    let one = "/v1/windows/alice/events/b";
    assert_eq!(fixture.get(&format!("{one}?fields=id")).await, json!({"id": "b"}));
    assert_eq!(problem(&fixture, &format!("{one}?response=accepted")).await.0, 404);
    let (_, _, calendar) =
        fixture.ask("GET", "/v1/windows/alice/calendar.ics?response=accepted").await;
    assert_eq!(calendar.matches("BEGIN:VEVENT").count(), 1, "{calendar}");
    // A page of a filtered list continues with the same filter only.
    let page = fixture.get("/v1/windows/alice/events?limit=1&cancelled=false").await;
    let next = page["next"].as_str().unwrap();
    assert_eq!(list(&format!("cancelled=false&page={next}")).await, "b");
    let other = format!("/v1/windows/alice/events?page={next}");
    let (status, body) = problem(&fixture, &other).await;
    assert_eq!((status, &body["parameter"]), (400, &json!("page")));
}

#[tokio::test(start_paused = true)]
async fn wrong_filters_are_refused_by_name() {
    let fixture = Fixture::new().await;
    for (query, parameter) in [
        ("respons=accepted", "respons"),
        ("response=yes", "response"),
        ("response=accepted,!declined", "response"),
        ("showAs=", "showAs"),
        ("type=seriesMaster", "type"),
        ("cancelled=no", "cancelled"),
        ("response=none&response=accepted", "response"),
        ("fields=id,,start", "fields"),
        ("ignore=changeKey", "ignore"),
        ("ignore=subject", "ignore"),
        ("window=", "window"),
    ] {
        let (status, body) = problem(&fixture, &format!("/v1/changes?{query}")).await;
        assert_eq!((status, &body["parameter"]), (400, &json!(parameter)), "{query}: {body}");
    }
    for (query, slug) in [
        ("group=staff", "unknown-group"),
        ("window=missing", "unknown-window"),
        ("window=missing&window=unknown", "unknown-window"),
    ] {
        let (status, body) = problem(&fixture, &format!("/v1/changes?{query}")).await;
        let kind = format!("https://calmirror.dev/problems/{slug}");
        assert_eq!((status, &body["type"]), (404, &json!(kind)), "{query}");
    }
    let (status, _) = problem(&fixture, "/v1/windows/alice/calendar.ics?fields=id").await;
    assert_eq!(status, 400, "a calendar has no members to select");
}

#[tokio::test(start_paused = true)]
async fn an_event_that_no_longer_matches_leaves_a_filtered_feed() {
    let fixture = Fixture::new().await;
    let alice = fixture.id("alice");
    fixture.put(alice, &[meeting("a", "accepted", false, 1)]).await;
    fixture.put(alice, &[meeting("b", "declined", false, 1)]).await;
    let filter = "window=a*&response=accepted";
    let (lines, cursor) = fixture.changes(&format!("/v1/changes?{filter}")).await;
    assert_eq!(changes_in(&lines), ["created a"], "the reader cannot have b");
    fixture.put(alice, &[meeting("a", "declined", false, 2)]).await;
    fixture.put(fixture.id("room a/b"), &[meeting("c", "accepted", false, 1)]).await;
    let after = |cursor: &str| format!("/v1/changes?{filter}&after={cursor}");
    let (lines, next) = fixture.changes(&after(&cursor)).await;
    assert_eq!(changes_in(&lines), ["removed a"]);
    assert_eq!(lines[0]["reason"], "filtered");
    assert_eq!((lines[0].get("event"), lines[0].get("changed")), (None, None));
    // The line's cursor, another order of the same filter, and thin lines.
    let line = lines[0]["cursor"].as_str().unwrap();
    assert!(fixture.changes(&after(line)).await.0.is_empty());
    fixture.put(alice, &[meeting("a", "accepted", false, 3)]).await;
    let thin = format!("/v1/changes?response=accepted&window=a*&fields=&after={next}");
    let (lines, _) = fixture.changes(&thin).await;
    assert_eq!(changes_in(&lines), ["updated a"]);
    assert_eq!((lines[0].get("event"), &lines[0]["changed"]), (None, &json!(["responseStatus"])));
}

#[tokio::test(start_paused = true)]
async fn a_cursor_belongs_to_its_filter() {
    let fixture = Fixture::new().await;
    fixture.put(fixture.id("alice"), &[meeting("a", "accepted", false, 1)]).await;
    let (_, plain) = fixture.changes("/v1/changes").await;
    let (_, accepted) = fixture.changes("/v1/changes?response=accepted").await;
    let list = fixture.get("/v1/windows/alice/events?response=accepted").await;
    let listed = list["cursor"].as_str().unwrap();
    for (query, cursor, status) in [
        ("", &*plain, 200),
        // As in 0.1, the name of one window does not belong to the cursor.
        ("&window=alice", &plain, 200),
        ("&window=a*", &plain, 400),
        ("&response=accepted", &plain, 400),
        ("&response=accepted", &accepted, 200),
        ("&response=accepted&window=alice", &accepted, 400),
        ("&response=accepted&window=alice", listed, 200),
        ("&response=!accepted", &accepted, 400),
        ("", &accepted, 400),
        ("&response=accepted", &format!("{plain}."), 400),
        ("&response=accepted", &format!("{plain}.AAAA"), 400),
    ] {
        let (found, _, body) =
            fixture.ask("GET", &format!("/v1/changes?after={cursor}{query}")).await;
        assert_eq!(found.as_u16(), status, "{query} {cursor}: {body}");
    }
}

#[tokio::test(start_paused = true)]
async fn another_version_alone_can_be_ignored() {
    let fixture = Fixture::new().await;
    let alice = fixture.id("alice");
    let ignore = "ignore=changeKey,lastModifiedDateTime,@odata.etag";
    fixture.put(alice, &[meeting("a", "accepted", false, 1)]).await;
    let (_, start) = fixture.changes(&format!("/v1/changes?{ignore}")).await;
    fixture.put(alice, &[meeting("a", "accepted", false, 2)]).await;
    let (lines, next) = fixture.changes(&format!("/v1/changes?{ignore}&after={start}")).await;
    assert!(lines.is_empty(), "{lines:?}");
    let (lines, _) = fixture.changes(&format!("/v1/changes?after={start}")).await;
    assert_eq!((changes_in(&lines), &lines[0]["changed"]), (vec!["updated a".into()], &json!([])));
    // A change that the reader missed is not left out, although the last one is of the version.
    fixture.put(alice, &[meeting("a", "declined", false, 3)]).await;
    fixture.put(alice, &[meeting("a", "declined", false, 4)]).await;
    let (lines, _) = fixture.changes(&format!("/v1/changes?{ignore}&after={next}")).await;
    assert_eq!((changes_in(&lines), lines[0].get("changed")), (vec!["updated a".into()], None));
}

/// What happens to a window, and when its readers read.
#[derive(Clone, Debug)]
enum FilterStep {
    Put { window: usize, id: u8, response: usize, cancelled: bool },
    Remove { window: usize, id: u8 },
    Read { reader: usize, limit: usize },
}

const WINDOWS: [&str; 2] = ["alice", "room a/b"];
const RESPONSES: [&str; 3] = ["accepted", "declined", "none"];
const READERS: usize = 4;
const IGNORE: &str = "ignore=changeKey,lastModifiedDateTime,@odata.etag";

/// What a reader asks for: a filter, the windows, and whether it ignores versions.
#[derive(Clone, Debug)]
struct Query {
    filter: String,
    windows: &'static [&'static str],
    ignores: bool,
}

impl Query {
    fn text(&self) -> String {
        let windows = match self.windows {
            [one] => format!("window={}*", &one[..3]),
            _ => "window=*".to_owned(),
        };
        let ignore = if self.ignores { IGNORE } else { "" };
        [&self.filter, &*windows, ignore].join("&")
    }
}

fn query() -> impl Strategy<Value = Query> {
    let response = prop::sample::subsequence(RESPONSES.to_vec(), 1..3);
    let rule = (response, any::<bool>()).prop_map(|(values, excludes)| {
        let sign = if excludes { "!" } else { "" };
        let values: Vec<String> = values.iter().map(|value| format!("{sign}{value}")).collect();
        format!("response={}", values.join(","))
    });
    let cancelled =
        prop::sample::select(vec!["", "cancelled=true", "cancelled=!true", "showAs=free"]);
    let windows = prop::sample::select(vec![&WINDOWS[..], &WINDOWS[..1], &WINDOWS[1..]]);
    let rule = prop_oneof![1 => Just(String::new()), 3 => rule];
    (rule, cancelled, windows, any::<bool>()).prop_map(|(rule, cancelled, windows, ignores)| {
        Query {
            filter: [&rule, cancelled]
                .into_iter()
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect::<Vec<_>>()
                .join("&"),
            windows,
            ignores,
        }
    })
}

fn steps() -> impl Strategy<Value = Vec<FilterStep>> {
    let (window, id) = (0..WINDOWS.len(), 0..4u8);
    let step = prop_oneof![
        4 => (window.clone(), id.clone(), 0..RESPONSES.len(), any::<bool>()).prop_map(
            |(window, id, response, cancelled)| FilterStep::Put { window, id, response, cancelled }
        ),
        1 => (window, id).prop_map(|(window, id)| FilterStep::Remove { window, id }),
        3 => (0..READERS, 1..4usize).prop_map(|(reader, limit)| FilterStep::Read { reader, limit }),
    ];
    prop::collection::vec(step, 1..40)
}

/// A reader's mirror, and where it is in the feed.
#[derive(Default)]
struct Reader {
    mirror: Mirror,
    cursor: Option<String>,
}

impl Reader {
    /// Reads at most `limit` lines; returns whether there were any.
    async fn read(&mut self, fixture: &Fixture, query: &str, limit: usize) -> bool {
        let after = self.cursor.as_ref().map_or(String::new(), |cursor| format!("&after={cursor}"));
        let (lines, cursor) =
            fixture.changes(&format!("/v1/changes?{query}&limit={limit}{after}")).await;
        // Readers may stop after any line.
        let last =
            lines.last().filter(|_| limit.is_multiple_of(2)).map(|line| line["cursor"].as_str());
        self.cursor = last.flatten().map(str::to_owned).or(Some(cursor));
        apply(&mut self.mirror, &lines);
        !lines.is_empty()
    }
}

async fn folds(steps: Vec<FilterStep>, queries: [Query; READERS]) {
    let fixture = Fixture::new().await;
    let mut readers: [Reader; READERS] = Default::default();
    for (version, step) in (0..).zip(steps) {
        match step {
            FilterStep::Put { window, id, response, cancelled } => {
                let event =
                    meeting(&format!("{window}{id}"), RESPONSES[response], cancelled, version);
                fixture.put(fixture.id(WINDOWS[window]), &[event]).await;
            }
            FilterStep::Remove { window, id } => {
                fixture.write(fixture.id(WINDOWS[window]), &[], &[&format!("{window}{id}")]).await;
            }
            FilterStep::Read { reader, limit } => {
                readers[reader].read(&fixture, &queries[reader].text(), limit).await;
            }
        }
    }
    for (reader, query) in readers.iter_mut().zip(&queries) {
        while reader.read(&fixture, &query.text(), 3).await {}
        let mut expected = Mirror::new();
        for window in query.windows {
            let name = window.replace('/', "%2F").replace(' ', "%20");
            let uri = format!("/v1/windows/{name}/events?{}", query.filter);
            let list = fixture.get(&uri).await;
            for event in list["value"].as_array().unwrap() {
                expected.insert(event["id"].as_str().unwrap().to_owned(), event.clone());
            }
        }
        if query.ignores {
            for mirror in [&mut reader.mirror, &mut expected] {
                mirror.values_mut().for_each(|event| event["changeKey"] = Value::Null);
            }
        }
        assert_eq!(reader.mirror, expected, "{query:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn folding_a_filtered_feed_gives_the_filtered_list(
        steps in steps(),
        queries in [query(), query(), query(), query()],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(folds(steps, queries));
    }
}
