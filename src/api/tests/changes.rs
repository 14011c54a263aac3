//! The feed: responses, long polls, streams.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_change_is_one_line_even_if_its_event_contains_line_breaks() {
    let fixture = Fixture::new().await;
    fixture.write(fixture.id("alice"), &[("a", 9, ",\r\n\"x\":\n\"y\\n\"")], &[]).await;
    let (lines, _) = fixture.changes("/v1/changes").await;
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["event"], json!({"id": "a", "subject": "s9", "x": "y\n"}));
}

#[tokio::test(start_paused = true)]
async fn reading_from_the_beginning_returns_every_change_once_in_small_steps() {
    let fixture = Fixture::new().await;
    let alice = fixture.id("alice");
    for hour in 0..6 {
        fixture.write(alice, &[(&format!("e{hour}"), hour, "")], &[]).await;
    }
    fixture.write(alice, &[], &["e0"]).await;
    let (mut all, mut after) = (Vec::new(), None::<String>);
    for _ in 0..20 {
        let after_text = after.map_or(String::new(), |cursor| format!("&after={cursor}"));
        let (lines, cursor) = fixture.changes(&format!("/v1/changes?limit=2{after_text}")).await;
        after = Some(cursor);
        if lines.is_empty() {
            break;
        }
        assert!(lines.len() <= 2);
        all.extend(lines);
    }
    let expected =
        ["created e1", "created e2", "created e3", "created e4", "created e5", "removed e0"];
    assert_eq!(changes_in(&all), expected);
    // Each line's own cursor continues right after it.
    let cursor = all[2]["cursor"].as_str().unwrap();
    let (rest, _) = fixture.changes(&format!("/v1/changes?after={cursor}")).await;
    assert_eq!(changes_in(&rest), &expected[3..]);
}

#[tokio::test(start_paused = true)]
async fn trimming_does_not_break_readers_that_started_at_the_beginning() {
    let fixture = Fixture::new().await;
    let alice = fixture.id("alice");
    for (id, hour) in [("a", 9), ("b", 10), ("c", 11)] {
        fixture.write(alice, &[(id, hour, "")], &[]).await;
    }
    let (_, early) = fixture.changes("/v1/changes?after=now").await;
    fixture.write(alice, &[], &["c"]).await;
    fixture.write(alice, &[("d", 12, "")], &[]).await;
    let (lines, halfway) = fixture.changes("/v1/changes?limit=1").await;
    assert_eq!(changes_in(&lines), ["created a"]);
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(fixture.store.trim(fixture.env.now()).await.unwrap(), 1);

    // The reader saw c, and its removal can no longer be sent.
    let (status, _, body) = fixture.ask("GET", &format!("/v1/changes?after={early}")).await;
    assert_eq!(status, StatusCode::GONE, "{body}");
    assert!(body.contains("https://calmirror.dev/problems/snapshot-required"), "{body}");
    // The reader began after c was removed.
    let (lines, _) = fixture.changes(&format!("/v1/changes?after={halfway}")).await;
    assert_eq!(changes_in(&lines), ["created b", "created d"]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_cursor_was_trimmed_ends() {
    let fixture = Fixture::new().await;
    let alice = fixture.id("alice");
    fixture.write(alice, &[("a", 9, ""), ("b", 10, "")], &[]).await;
    let request = Request::get("/v1/changes").header("accept", "text/event-stream");
    let response = router(fixture.app()).oneshot(request.body(Body::empty()).unwrap()).await;
    let mut stream = response.unwrap().into_body().into_data_stream();
    let frame = stream.next().await.unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&frame).matches("event: change").count(), 2);
    fixture.write(alice, &[], &["b"]).await;
    fixture.write(alice, &[("c", 11, "")], &[]).await;
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(fixture.store.trim(fixture.env.now()).await.unwrap(), 1);
    // The reader holds b, and its removal can no longer be sent.
    let next = stream.next().await;
    assert!(next.is_none(), "{next:?}");
}

#[tokio::test(start_paused = true)]
async fn changes_name_their_window_even_after_it_was_dropped() {
    let fixture = Fixture::new().await;
    let (alice, room) = (fixture.id("alice"), fixture.id("room a/b"));
    fixture.write(alice, &[("a", 9, "")], &[]).await;
    fixture.write(room, &[("r", 9, "")], &[]).await;
    let (lines, cursor) = fixture.changes("/v1/changes?window=room+a/b").await;
    assert_eq!(changes_in(&lines), ["created r"]);
    fixture.fleet.windows.lock().unwrap().pop();
    fixture.store.drop_window(room, fixture.env.now()).await.unwrap();
    let uri = format!("/v1/changes?window=room%20a%2Fb&after={cursor}");
    let (lines, cursor) = fixture.changes(&uri).await;
    assert_eq!(changes_in(&lines), ["removed r"]);
    assert_eq!(lines[0]["reason"], "window_dropped");
    let uri = format!("/v1/changes?window=room%20a%2Fb&after={cursor}&wait=1m");
    assert_eq!(
        fixture.ask("GET", &uri).await.0,
        StatusCode::NOT_FOUND,
        "no further change is possible"
    );
}

#[tokio::test(start_paused = true)]
async fn a_held_request_is_answered_by_the_first_change() {
    let fixture = Fixture::new().await;
    let begun = tokio::time::Instant::now();
    let (held, ()) = tokio::join!(fixture.changes("/v1/changes?after=now&wait=5m"), async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        fixture.write(fixture.id("alice"), &[("a", 9, "")], &[]).await;
    });
    assert_eq!(changes_in(&held.0), ["created a"]);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_held_request_ends_with_its_time_or_with_the_daemon() {
    let fixture = Fixture::new().await;
    let begun = tokio::time::Instant::now();
    let (lines, cursor) = fixture.changes("/v1/changes?after=now&wait=30s").await;
    assert!(lines.is_empty());
    assert_eq!(begun.elapsed().as_secs(), 30);
    let held = fixture.changes("/v1/changes?after=now&wait=1day");
    let ((lines, same), ()) = tokio::join!(held, async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        fixture.stopping.give();
    });
    assert!(lines.is_empty());
    assert_eq!(same, cursor);
    assert!(begun.elapsed().as_secs() < 32);
}

/// `stopping` also signals that settings such as `mask_private` have changed.
#[tokio::test(start_paused = true)]
async fn held_requests_return_no_changes_after_shutdown() {
    let fixture = Fixture::new().await;
    let alice = fixture.id("alice");
    let request = Request::get("/v1/changes?after=now").header("accept", "text/event-stream");
    let response = router(fixture.app()).oneshot(request.body(Body::empty()).unwrap()).await;
    let mut stream = response.unwrap().into_body().into_data_stream();
    let (_, end) = fixture.changes("/v1/changes?after=now").await;
    let ((lines, cursor), frame, ()) = tokio::join!(biased; fixture.changes("/v1/changes?after=now&wait=5m"), stream.next(), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        fixture.write(alice, &[("a", 9, "")], &[]).await;
        // Before the waiting readers have read.
        fixture.stopping.give();
    });
    assert_eq!((lines, cursor), (vec![], end.clone()));
    assert!(frame.is_none(), "{frame:?}");
    let (lines, _) = fixture.changes(&format!("/v1/changes?after={end}")).await;
    assert_eq!(changes_in(&lines), ["created a"], "the next request returns it");
}

#[tokio::test(start_paused = true)]
async fn a_stream_sends_existing_and_new_changes_and_resumes() {
    let mut fixture = Fixture::new().await;
    let alice = fixture.id("alice");
    fixture.write(alice, &[("a", 9, "")], &[]).await;
    let open = async |fixture: &Fixture, last: Option<&str>| {
        let mut request = Request::get("/v1/changes").header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = router(fixture.app()).oneshot(request).await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        response.into_body().into_data_stream()
    };
    let mut stream = open(&fixture, None).await;
    let mut next = async || {
        let frame = stream.next().await?.unwrap();
        Some(String::from_utf8(frame.to_vec()).unwrap())
    };
    let first = next().await.unwrap();
    assert!(first.starts_with("id: ") && first.contains("\nevent: change\ndata: {"), "{first}");
    assert!(first.ends_with("\n\n"), "{first}");
    let quiet = next().await.unwrap();
    let id = quiet.strip_prefix("id: ").unwrap().trim_end();
    assert_eq!(quiet, format!("id: {id}\n\n"), "a keep-alive moves the id without an event");
    fixture.write(alice, &[("b", 10, "")], &[]).await;
    assert!(next().await.unwrap().contains(r#""id":"b""#));
    fixture.stopping.give();
    assert_eq!(next().await, None, "the stream ends with the daemon");

    fixture.stopping = StopSignal::default();
    let resumed = open(&fixture, Some(id)).await.next().await.unwrap().unwrap();
    let resumed = String::from_utf8(resumed.to_vec()).unwrap();
    assert!(resumed.contains(r#""id":"b""#) && !resumed.contains(r#""id":"a""#), "{resumed}");
}

#[tokio::test(start_paused = true)]
async fn changes_of_other_windows_do_not_delay_the_keep_alive_of_a_stream() {
    let fixture = Fixture::new().await;
    let room = fixture.id("room a/b");
    let request = Request::get("/v1/changes?window=alice").header("accept", "text/event-stream");
    let response = router(fixture.app()).oneshot(request.body(Body::empty()).unwrap()).await;
    let mut stream = response.unwrap().into_body().into_data_stream();
    let begun = tokio::time::Instant::now();
    let others = async {
        for hour in 0..20 {
            tokio::time::sleep(Duration::from_secs(10)).await;
            fixture.write(room, &[("a", hour, "")], &[]).await;
        }
    };
    let frame = tokio::select! {
        frame = stream.next() => frame.unwrap().unwrap(),
        () = others => panic!("no keep-alive within {:?}", begun.elapsed()),
    };
    let frame = String::from_utf8(frame.to_vec()).unwrap();
    assert!(frame.starts_with("id: ") && frame.lines().count() == 2, "{frame}");
    assert!(begun.elapsed() < Duration::from_secs(16), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_sent_only_on_request() {
    let fixture = Fixture::new().await;
    for (accept, kind) in [
        ("text/event-stream", "text/event-stream"),
        ("Text/Event-Stream;q=0.5, */*;q=0.1", "text/event-stream"),
        ("application/json, text/event-stream", "text/event-stream"),
        ("*/*", "application/x-ndjson"),
        ("text/*", "application/x-ndjson"),
        ("text/event-stream;q=0", "application/x-ndjson"),
        ("text/event-stream; q=0.000, */*", "application/x-ndjson"),
        ("text/event-streams", "application/x-ndjson"),
    ] {
        let request = Request::get("/v1/changes?after=now").header("accept", accept);
        let request = request.body(Body::empty()).unwrap();
        let response = router(fixture.app()).oneshot(request).await.unwrap();
        assert_eq!(response.headers()["content-type"], kind, "{accept}");
    }
}
