//! The lines of the feed that are not stored: states of windows, and events that begin and end.

use super::*;
use crate::config::AccessLevel;
use crate::mirror::failure::ErrorKind;
use crate::mirror::status::LastError;
use crate::worker::StateChange;

impl Fixture {
    /// Puts a window in a state, as its worker would.
    fn set_state(&self, name: &str, state: WindowState) {
        let now = self.env.now();
        let error = state.is_trouble().then(|| LastError {
            at: now,
            kind: ErrorKind::Incomplete,
            status: None,
            code: None,
            message: "no answer".to_owned(),
            request_id: None,
            retry_at: None,
        });
        self.fleet.states.put(StateChange { at: now, window: name.into(), state, error });
    }

    /// Adds a consumer that is the user of the socket; without one, it has full rights.
    fn restrict(&mut self, level: AccessLevel) {
        self.settings.consumers = vec![Consumer {
            name: "door".into(),
            key: ConsumerIdentity::Uid(7),
            windows: None,
            level,
            write: false,
            origins: Vec::new(),
        }]
        .into();
    }

    /// Opens a stream as the user with uid 7.
    async fn open(&self, uri: &str) -> impl futures_util::Stream<Item = String> + Unpin {
        let request = Request::get(uri).header("accept", "text/event-stream");
        let request = request.extension(auth::PeerUid(7)).body(Body::empty()).unwrap();
        let response = router(self.app()).oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let parts = response.into_body().into_data_stream();
        // A part may end within a frame.
        let frames =
            futures_util::stream::unfold((parts, String::new()), async |(mut parts, mut text)| {
                loop {
                    if let Some(end) = text.rfind("\n\n") {
                        let rest = text.split_off(end + 2);
                        return Some((text, (parts, rest)));
                    }
                    text.push_str(std::str::from_utf8(&parts.next().await?.unwrap()).unwrap());
                }
            });
        Box::pin(frames)
    }

    /// An event of 2026-11-21, with more members.
    async fn plan(&self, id: &str, start: &str, end: &str, more: &Value) {
        let at = |time| json!({"dateTime": format!("2026-11-21T{time}"), "timeZone": "UTC"});
        let mut event = json!({"id": id, "subject": "secret", "start": at(start), "end": at(end)});
        for (name, value) in more.as_object().unwrap() {
            event[name] = value.clone();
        }
        self.put(self.id("alice"), &[event]).await;
    }
}

/// The JSON of the frames that have any, and the name of each event.
fn data(frames: &str) -> Vec<(String, Value)> {
    let frames = frames.split("\n\n").filter_map(|frame| {
        let part = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name));
        Some((part("event: ")?.to_owned(), serde_json::from_str(part("data: ")?).unwrap()))
    });
    frames.collect()
}

/// The state lines in short form.
fn states(lines: &[Value]) -> Vec<String> {
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let lines = lines.iter().filter(|line| line["change"] == "state");
    lines.map(|line| format!("{} {}", word(&line["window"]), word(&line["state"]))).collect()
}

#[tokio::test(start_paused = true)]
async fn windows_in_trouble_come_first_and_do_not_end_the_wait() {
    let fixture = Fixture::new().await;
    fixture.write(fixture.id("alice"), &[("a", 9, "")], &[]).await;
    fixture.set_state("room a/b", WindowState::Quarantined);
    let begun = tokio::time::Instant::now();
    let uri = "/v1/changes?after=now&states=true&wait=30s";
    let (lines, cursor) = fixture.changes(uri).await;
    assert_eq!(begun.elapsed(), Duration::from_secs(30));
    assert_eq!(states(&lines), ["room a/b quarantined"]);
    assert_eq!(lines[0]["cursor"], cursor, "the cursor of the last change");
    assert_eq!(lines[0]["error"]["message"], "no answer");
    let (lines, _) = fixture.changes("/v1/changes?states=true").await;
    assert_eq!((lines.len(), states(&lines).len()), (2, 1), "{lines:?}");
    assert_eq!((&lines[0]["change"], &lines[1]["change"]), (&json!("state"), &json!("created")));
    // A reader that got only the first line continues before the changes.
    let uri = format!("/v1/changes?after={}", lines[0]["cursor"].as_str().unwrap());
    assert_eq!(changes_in(&fixture.changes(&uri).await.0), ["created a"]);
    let (lines, _) = fixture.changes("/v1/changes?after=now&states=true&window=alice").await;
    assert!(lines.is_empty(), "{lines:?}");
    let (lines, _) = fixture.changes("/v1/changes?after=now").await;
    assert!(lines.is_empty(), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn a_changed_state_ends_the_wait() {
    let fixture = Fixture::new().await;
    let begun = tokio::time::Instant::now();
    let uri = "/v1/changes?after=now&states=true&wait=5m&window=alice";
    let ((lines, _), ()) = tokio::join!(fixture.changes(uri), async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        fixture.set_state("room a/b", WindowState::BackingOff);
        tokio::time::sleep(Duration::from_secs(3)).await;
        fixture.set_state("alice", WindowState::SignInRequired);
        fixture.set_state("room a/b", WindowState::Held);
        fixture.set_state("alice", WindowState::Settled);
    });
    assert_eq!(begun.elapsed(), Duration::from_secs(6));
    // Each window at its latest.
    assert_eq!(states(&lines), ["alice settled"]);
    assert_eq!(lines[0].get("error"), None);
}

#[tokio::test(start_paused = true)]
async fn a_stream_lists_every_window_in_trouble_once_and_then_what_changes() {
    let fixture = Fixture::new().await;
    for number in 0..700 {
        fixture.add_window(&format!("w{number:03}"), "w@contoso.com").await;
        fixture.set_state(&format!("w{number:03}"), WindowState::BackingOff);
    }
    let mut stream = fixture.open("/v1/changes?after=now&states=true").await;
    let mut known = Vec::new();
    while known.len() < 700 {
        for (name, line) in data(&stream.next().await.unwrap()) {
            assert_eq!(name, "state");
            known.push(line["window"].as_str().unwrap().to_owned());
        }
    }
    let expected: Vec<String> = (0..700).map(|number| format!("w{number:03}")).collect();
    assert_eq!(known, expected);
    fixture.set_state("w007", WindowState::Settled);
    let next = data(&stream.next().await.unwrap());
    assert_eq!((next[0].0.as_str(), &next[0].1["window"]), ("state", &json!("w007")));
}

/// A stream that is read slowly, in an outage in which every window fails and recovers.
#[tokio::test(start_paused = true)]
async fn a_slow_stream_ends_with_every_state_as_it_is() {
    let fixture = Fixture::new().await;
    let mut stream = fixture.open("/v1/changes?after=now&states=true").await;
    let mut known = BTreeMap::new();
    let mut apply = |frame: String| {
        for (_, line) in data(&frame) {
            known.insert(line["window"].as_str().unwrap().to_owned(), line["state"].clone());
        }
        known.len()
    };
    fixture.set_state("alice", WindowState::BackingOff);
    assert_eq!(apply(stream.next().await.unwrap()), 1);
    for number in 0..6000 {
        let state = if number % 10 == 0 { WindowState::BackingOff } else { WindowState::Settled };
        fixture.set_state(&format!("w{number}"), state);
    }
    fixture.set_state("alice", WindowState::Settled);
    fixture.set_state("last", WindowState::Held);
    let frames = stream.map(apply);
    frames.take_while(|known| std::future::ready(*known < 602)).count().await;
    assert_eq!((&known["w5990"], &known["last"]), (&json!("backing_off"), &json!("held")));
}

#[tokio::test(start_paused = true)]
async fn events_are_announced_begin_and_end_at_their_time() {
    let fixture = Fixture::new().await;
    fixture.plan("a", "12:05:00", "12:30:00", &json!({"showAs": "busy"})).await;
    fixture.plan("b", "12:30:00", "13:00:00", &json!({"showAs": "tentative"})).await;
    fixture.plan("c", "12:05:00", "12:30:00", &json!({"isCancelled": true})).await;
    fixture.plan("d", "12:05:00", "12:30:00", &json!({"showAs": "free"})).await;
    let uri = "/v1/changes?after=now&upcoming=10m&window=alice&showAs=!free";
    let mut stream = fixture.open(uri).await;
    let mut told = Vec::new();
    while told.len() < 5 {
        for (name, line) in data(&stream.next().await.unwrap()) {
            assert_eq!(line["change"], name);
            assert_eq!(line["event"]["subject"], "secret");
            let late = fixture.env.now().duration_since(at(line["at"].as_str().unwrap()));
            assert!((0..1000).contains(&late.as_millis()), "{late:?}");
            let now = fixture.env.now().strftime("%H:%M").to_string();
            told.push(format!("{now} {} {name}", line["id"].as_str().unwrap()));
        }
    }
    let expected =
        ["12:05 a begins", "12:20 b upcoming", "12:30 a ends", "12:30 b begins", "13:00 b ends"];
    assert_eq!(told, expected);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_planned_at_short_notice_is_told_too() {
    let fixture = Fixture::new().await;
    let uri = "/v1/changes?after=now&upcoming=0s&window=alice&wait=2m&fields=";
    let (lines, ()) = tokio::join!(async { fixture.changes(uri).await.0 }, async {
        tokio::time::sleep(Duration::from_secs(7)).await;
        fixture.plan("a", "12:00:20", "12:00:40", &json!({})).await;
    });
    // The change itself ended the wait.
    assert_eq!(lines.len(), 1, "{lines:?}");
    let mut stream = fixture.open(uri).await;
    let (first, ()) = tokio::join!(stream.next(), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        fixture.plan("b", "12:00:15", "12:00:50", &json!({})).await;
    });
    let (mut told, mut frames) = (Vec::new(), first);
    while told.len() < 5 {
        for (name, line) in data(&frames.unwrap()) {
            assert!(line.get("event").is_none(), "{line}");
            let now = fixture.env.now().strftime("%S").to_string();
            told.push(format!("{now} {} {name}", line["id"].as_str().unwrap()));
        }
        frames = stream.next().await;
    }
    assert_eq!(told, ["08 b change", "15 b begins", "20 a begins", "40 a ends", "50 b ends"]);
}

/// An event that is cancelled, deleted or moved away ends at once; one that is planned late begins.
#[tokio::test(start_paused = true)]
async fn what_takes_place_follows_the_calendar() {
    let fixture = Fixture::new().await;
    for id in ["a", "b", "c"] {
        fixture.plan(id, "12:05:00", "13:00:00", &json!({})).await;
    }
    fixture.plan("zero", "12:06:00", "12:06:00", &json!({})).await;
    let uri = "/v1/changes?after=now&upcoming=0s&window=alice&fields=";
    let mut stream = fixture.open(uri).await;
    let mut told = Vec::new();
    while told.len() < 8 {
        for (name, line) in data(&stream.next().await.unwrap()) {
            if name != "change" {
                told.push(format!("{name} {}", line["id"].as_str().unwrap()));
            }
        }
        if told.len() == 3 {
            fixture.plan("a", "12:05:00", "13:00:00", &json!({"isCancelled": true})).await;
            fixture.write(fixture.id("alice"), &[], &["b"]).await;
            fixture.plan("c", "15:00:00", "16:00:00", &json!({})).await;
            fixture.plan("d", "12:00:00", "12:30:00", &json!({})).await;
        }
    }
    let expected =
        ["begins a", "begins b", "begins c", "ends a", "ends b", "ends c", "begins d", "ends d"];
    assert_eq!(told, expected);
}

/// As in `/v1/busy`: merged times, without free and without ids.
#[tokio::test(start_paused = true)]
async fn a_reader_of_busy_times_is_told_only_when_these_begin_and_end() {
    let mut fixture = Fixture::new().await;
    fixture.restrict(AccessLevel::Busy);
    for (id, start, end, show_as) in [
        ("a", "12:05:00", "12:30:00", "busy"),
        ("b", "12:20:00", "12:40:00", "busy"),
        ("c", "12:01:00", "12:50:00", "free"),
        ("d", "12:50:00", "12:55:00", "oof"),
    ] {
        fixture.plan(id, start, end, &json!({"showAs": show_as})).await;
    }
    fixture.set_state("alice", WindowState::BackingOff);
    let mut stream = fixture.open("/v1/changes?after=now&upcoming=2m").await;
    let mut lines = Vec::new();
    while lines.len() < 6 {
        lines.extend(data(&stream.next().await.unwrap()).into_iter().map(|(_, line)| line));
    }
    for line in &mut lines {
        line["cursor"] = json!("");
    }
    let line = |at: &str, change: &str, (start, end, show_as): (&str, &str, &str)| {
        json!({
            "cursor": "", "at": format!("2026-11-21T{at}:00Z"), "window": "alice",
            "change": change, "start": format!("2026-11-21T{start}:00Z"),
            "end": format!("2026-11-21T{end}:00Z"), "showAs": show_as,
        })
    };
    let (busy, oof) = (("12:05", "12:40", "busy"), ("12:50", "12:55", "oof"));
    let expected = [
        line("12:03", "upcoming", busy),
        line("12:05", "begins", busy),
        line("12:40", "ends", busy),
        line("12:48", "upcoming", oof),
        line("12:50", "begins", oof),
        line("12:55", "ends", oof),
    ];
    assert_eq!(lines, expected);
    for (query, status) in [
        ("", 403),
        ("after=now&states=true", 403),
        ("after=now&states=true&upcoming=0s", 403),
        ("after=now&upcoming=0s&response=accepted", 403),
        ("upcoming=0s&showAs=busy&cancelled=false", 200),
    ] {
        let request = Request::get(format!("/v1/changes?{query}"));
        let request = request.extension(auth::PeerUid(7)).body(Body::empty()).unwrap();
        let response = router(fixture.app()).oneshot(request).await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{query}");
        assert!(!response.headers().contains_key("x-calmirror-pending"), "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_consumer_is_told_of_its_windows_only() {
    let mut fixture = Fixture::new().await;
    fixture.restrict(AccessLevel::All);
    let rooms: Arc<[Consumer]> = fixture.settings.consumers.clone();
    let patterns = [crate::mirror::name_pattern::NamePattern::new("room*")];
    fixture.settings.consumers = rooms
        .iter()
        .map(|one| Consumer { windows: Some(patterns.clone().into()), ..one.clone() })
        .collect();
    fixture.plan("a", "12:05:00", "12:30:00", &json!({})).await;
    fixture.set_state("alice", WindowState::Held);
    fixture.set_state("room a/b", WindowState::Held);
    let mut stream = fixture.open("/v1/changes?after=now&states=true&upcoming=0s").await;
    let mut told = Vec::new();
    while fixture.env.now() < at("2026-11-21T12:06:00Z") {
        told.extend(data(&stream.next().await.unwrap()));
    }
    fixture.set_state("alice", WindowState::Settled);
    fixture.set_state("room a/b", WindowState::Settled);
    told.extend(data(&stream.next().await.unwrap()));
    let told: Vec<Value> = told.into_iter().map(|(_, line)| line).collect();
    assert_eq!(states(&told), ["room a/b held", "room a/b settled"]);
    assert_eq!(told.len(), 2, "{told:?}");
}

/// A clock that was set does not silence the reader, and does not flood it.
#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_moves_what_is_told() {
    for (minutes, expected) in [
        (-5, &["begins a", "ends a", "begins a", "ends a"][..]),
        (50, &["begins a", "ends a", "begins b", "ends b"]),
        (300, &["begins a", "ends a", "begins c"]),
    ] {
        let fixture = Fixture::new().await;
        fixture.plan("a", "12:05:00", "12:30:00", &json!({})).await;
        fixture.plan("b", "12:40:00", "12:50:00", &json!({})).await;
        fixture.plan("c", "17:30:00", "18:00:00", &json!({})).await;
        let mut stream = fixture.open("/v1/changes?after=now&upcoming=0s&window=alice").await;
        let mut told = Vec::new();
        while told.len() < expected.len() {
            let lines = data(&stream.next().await.unwrap());
            if told.is_empty() && !lines.is_empty() {
                fixture.env.advance_wall_clock(jiff::SignedDuration::from_mins(minutes));
            }
            let lines = lines.into_iter();
            told.extend(
                lines.map(|(name, line)| format!("{name} {}", line["id"].as_str().unwrap())),
            );
        }
        assert_eq!(told, expected, "{minutes}");
    }
}
