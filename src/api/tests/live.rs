//! The lines of the feed that are not stored: states of windows, and events that begin and end.

use super::*;
use crate::config::AccessLevel;
use crate::mirror::failure::ErrorKind;
use crate::mirror::status::LastError;

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
        let mut windows = self.fleet.windows.lock().unwrap();
        let (status, _) = windows.iter_mut().find(|(status, _)| status.name == name).unwrap();
        (status.state, status.last_error) = (state, error.clone());
        self.fleet.states.send(StateChange { at: now, window: name.into(), state, error });
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
        let frames = response.into_body().into_data_stream();
        frames.map(|frame| String::from_utf8(frame.unwrap().to_vec()).unwrap())
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
    assert_eq!(states(&lines), ["alice sign_in_required", "alice settled"]);
    assert_eq!(lines[1].get("error"), None);
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

/// A reader that is told only some changes would believe wrong states.
#[tokio::test(start_paused = true)]
async fn a_stream_that_missed_states_ends() {
    let fixture = Fixture::new().await;
    let mut stream = fixture.open("/v1/changes?after=now&states=true").await;
    fixture.set_state("alice", WindowState::BackingOff);
    let first = data(&stream.next().await.unwrap());
    assert_eq!(first[0].1["state"], "backing_off");
    for _ in 0..5000 {
        fixture.set_state("alice", WindowState::Settled);
    }
    fixture.write(fixture.id("alice"), &[("a", 9, "")], &[]).await;
    assert!(stream.next().await.is_none());
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
            assert!(late.as_secs() < 1, "{late:?}");
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

#[tokio::test(start_paused = true)]
async fn a_reader_of_busy_times_is_told_only_when_events_begin_and_end() {
    let mut fixture = Fixture::new().await;
    fixture.restrict(AccessLevel::Busy);
    fixture.plan("a", "12:05:00", "12:30:00", &json!({"showAs": "oof"})).await;
    fixture.set_state("alice", WindowState::BackingOff);
    let mut stream = fixture.open("/v1/changes?after=now&upcoming=0s").await;
    fixture.plan("b", "12:05:00", "12:40:00", &json!({"showAs": "busy"})).await;
    let mut lines = Vec::new();
    while lines.len() < 3 {
        lines.extend(data(&stream.next().await.unwrap()).into_iter().map(|(_, line)| line));
    }
    for line in &mut lines {
        line["cursor"] = json!("");
    }
    let line = |at: &str, change: &str, end: &str, show_as: &str| {
        json!({
            "cursor": "", "at": format!("2026-11-21T{at}:00Z"), "window": "alice",
            "change": change, "start": "2026-11-21T12:05:00Z",
            "end": format!("2026-11-21T{end}:00Z"), "showAs": show_as,
        })
    };
    let expected = [
        line("12:05", "begins", "12:30", "oof"),
        line("12:05", "begins", "12:40", "busy"),
        line("12:30", "ends", "12:30", "oof"),
    ];
    assert_eq!(lines, expected);
    for (query, status) in [
        ("after=now", 403),
        ("after=now&states=true", 403),
        ("after=now&states=true&upcoming=0s", 403),
        ("after=now&upcoming=0s&response=accepted", 403),
        ("after=now&upcoming=0s&showAs=busy&cancelled=false", 200),
    ] {
        let request = Request::get(format!("/v1/changes?{query}"));
        let request = request.extension(auth::PeerUid(7)).body(Body::empty()).unwrap();
        let response = router(fixture.app()).oneshot(request).await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{query}");
    }
}

/// A clock that was set does not silence the reader, and does not flood it.
#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_moves_what_is_told() {
    for (minutes, expected) in [
        (-5, &["begins a", "begins a", "ends a", "begins b"][..]),
        (50, &["begins a", "ends a", "begins b", "ends b"]),
        (300, &["begins a", "begins c"]),
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
