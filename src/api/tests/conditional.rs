//! Conditional requests, compression, and immediate delivery.

use super::*;

/// Routes with an entity tag.
const TAGGED: [&str; 7] = [
    "/v1/windows",
    "/v1/windows/alice",
    "/v1/windows/alice/events?limit=10",
    "/v1/windows/alice/events/a",
    "/v1/windows/alice/busy",
    "/v1/windows/alice/calendar.ics",
    "/v1/windows/alice/rounds",
];

async fn tags(fixture: &Fixture) -> Vec<String> {
    let mut tags = Vec::new();
    for uri in TAGGED {
        let (status, headers, _) = fixture.ask("GET", uri).await;
        assert_eq!(status, StatusCode::OK, "{uri}");
        tags.push(headers["etag"].to_str().unwrap().to_owned());
    }
    tags
}

fn event(id: &str, subject: &str) -> Value {
    let moment =
        |hour: u8| json!({"dateTime": format!("2026-11-21T{hour:02}:00:00"), "timeZone": "UTC"});
    json!({"id": id, "subject": subject, "start": moment(9), "end": moment(10), "sensitivity": "private"})
}

#[tokio::test(start_paused = true)]
async fn only_modified_content_is_sent_again() {
    let mut fixture = Fixture::new().await;
    let (alice, room) = (fixture.id("alice"), fixture.id("room a/b"));
    fixture.put(alice, &[event("a", "one")]).await;
    let first = tags(&fixture).await;
    // Time passes, and other windows change.
    tokio::time::advance(Duration::from_secs(90)).await;
    fixture.put(room, &[event("r", "one")]).await;
    fixture.fleet.windows.lock().unwrap()[0].0.stale_s = Some(150.0);
    for (uri, tag) in TAGGED.into_iter().zip(&first) {
        let (status, headers, body) = fixture.ask_with("GET", uri, &[("if-none-match", tag)]).await;
        assert_eq!((status, &*body), (StatusCode::NOT_MODIFIED, ""), "{uri}");
        assert_eq!(headers["etag"], **tag, "{uri}");
        let (status, ..) = fixture.ask_with("GET", uri, &[("if-none-match", "\"other\"")]).await;
        assert_eq!(status, StatusCode::OK, "{uri}");
    }
    // Writing the same event again is no change.
    fixture.put(alice, &[event("a", "one")]).await;
    assert_eq!(tags(&fixture).await, first);

    fixture.put(alice, &[event("a", "two")]).await;
    fixture.fleet.windows.lock().unwrap()[0].0.failures = 1;
    fixture.fleet.rounds.lock().unwrap().quiet = 1;
    let second = tags(&fixture).await;
    for ((uri, first), second) in TAGGED.into_iter().zip(&first).zip(&second) {
        assert_ne!(first, second, "{uri}");
    }
    // Another query has another tag, and so has another representation.
    let (_, headers, _) = fixture.ask("GET", "/v1/windows/alice/events?limit=11").await;
    assert_ne!(headers["etag"], second[2]);
    let mut calendars = std::collections::BTreeSet::from([second[5].clone()]);
    for query in ["series=linked", "from=2026-11-01", "to=2026-11-01"] {
        let (_, headers, _) = fixture.ask("GET", &format!("{}?{query}", TAGGED[5])).await;
        assert!(calendars.insert(headers["etag"].to_str().unwrap().to_owned()), "{query}");
    }
    fixture.settings.mask_private = true;
    let masked = tags(&fixture).await;
    for at in [2, 3, 5] {
        assert_ne!(masked[at], second[at], "{}", TAGGED[at]);
    }
}

/// A window without changes, while removals of another window are trimmed.
#[tokio::test(start_paused = true)]
async fn no_304_is_sent_for_an_expired_cursor() {
    let fixture = Fixture::new().await;
    let (alice, room) = (fixture.id("alice"), fixture.id("room a/b"));
    fixture.write(alice, &[("a", 9, ""), ("b", 10, "")], &[]).await;
    fixture.write(room, &[("r", 9, "")], &[]).await;
    let uri = "/v1/windows/alice/events?limit=1";
    let (_, headers, body) = fixture.ask("GET", uri).await;
    let tag = headers["etag"].to_str().unwrap().to_owned();
    let kept: Value = serde_json::from_str(&body).unwrap();
    let page = format!("{uri}&page={}", kept["next"].as_str().unwrap());
    let (_, headers, _) = fixture.ask("GET", &page).await;
    let page_tag = headers["etag"].to_str().unwrap().to_owned();
    let after =
        |answer: &Value| format!("/v1/changes?after={}", answer["cursor"].as_str().unwrap());

    fixture.write(room, &[], &["r"]).await;
    fixture.write(room, &[("s", 10, "")], &[]).await;
    let (status, ..) = fixture.ask_with("GET", uri, &[("if-none-match", &tag)]).await;
    assert_eq!(status, StatusCode::NOT_MODIFIED);
    assert_eq!(
        fixture.ask("GET", &after(&kept)).await.0,
        StatusCode::OK,
        "the cursor is still valid"
    );

    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(fixture.store.trim(fixture.env.now()).await.unwrap(), 1);
    assert_eq!(fixture.ask("GET", &after(&kept)).await.0, StatusCode::GONE);
    let (status, _, body) = fixture.ask_with("GET", uri, &[("if-none-match", &tag)]).await;
    assert_eq!(status, StatusCode::OK);
    let fresh: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(fixture.ask("GET", &after(&fresh)).await.0, StatusCode::OK);
    // A listing that began before would lead to an invalid cursor.
    let (status, ..) = fixture.ask_with("GET", &page, &[("if-none-match", &page_tag)]).await;
    assert_eq!(status, StatusCode::GONE);
}

#[tokio::test(start_paused = true)]
async fn head_equals_get_without_a_body() {
    let fixture = Fixture::new().await;
    fixture.put(fixture.id("alice"), &[event("a", "one")]).await;
    for uri in TAGGED.into_iter().chain([
        "/healthz",
        "/readyz",
        "/v1/status",
        "/v1/changes",
        "/openapi.json",
    ]) {
        let (got, get, _) = fixture.ask("GET", uri).await;
        let (status, head, body) = fixture.ask("HEAD", uri).await;
        assert_eq!((status, &*body), (got, ""), "{uri}");
        for name in ["content-type", "etag", "x-calmirror-cursor"] {
            assert_eq!(head.get(name), get.get(name), "{uri} {name}");
        }
    }
    let (status, headers, _) = fixture.ask("HEAD", "/v1/windows/alice/sync").await;
    assert_eq!(
        (status, headers["allow"].to_str().unwrap()),
        (StatusCode::METHOD_NOT_ALLOWED, "POST")
    );
}

#[tokio::test(start_paused = true)]
async fn responses_are_compressed_if_the_client_accepts_it() {
    let fixture = Fixture::new().await;
    let alice = fixture.id("alice");
    let events: Vec<Value> =
        (0..50).map(|i| event(&format!("e{i}"), "the same again and again")).collect();
    fixture.put(alice, &events).await;
    for uri in
        ["/v1/windows/alice/events", "/v1/windows/alice/calendar.ics", "/v1/changes", "/v1/windows"]
    {
        let plain = fixture.ask("GET", uri).await.2.len();
        for coding in ["gzip", "zstd"] {
            let request = Request::get(uri).header("accept-encoding", coding).body(Body::empty());
            let response = router(fixture.app()).oneshot(request.unwrap()).await.unwrap();
            assert_eq!(response.headers()["content-encoding"], coding, "{uri}");
            let mut vary = response.headers().get_all("vary").iter();
            assert!(vary.any(|vary| vary == "accept-encoding"), "{uri}");
            let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
            assert!(body.len() < plain, "{uri} {coding}: {} of {plain}", body.len());
            if coding == "gzip" {
                let mut read = String::new();
                std::io::Read::read_to_string(
                    &mut flate2::read::GzDecoder::new(&body[..]),
                    &mut read,
                )
                .unwrap();
                assert_eq!(read.len(), plain, "{uri}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn compression_does_not_delay_a_stream() {
    let fixture = Fixture::new().await;
    let request = Request::get("/v1/changes?after=now")
        .header("accept", "text/event-stream")
        .header("accept-encoding", "gzip, zstd")
        .body(Body::empty());
    let response = router(fixture.app()).oneshot(request.unwrap()).await.unwrap();
    assert!(!response.headers().contains_key("content-encoding"));
    let mut stream = response.into_body().into_data_stream();
    fixture.put(fixture.id("alice"), &[event("a", "one")]).await;
    let begun = tokio::time::Instant::now();
    let frame = stream.next().await.unwrap().unwrap();
    assert!(frame.starts_with(b"id: ") && frame.ends_with(b"\n\n"));
    assert!(begun.elapsed() < Duration::from_secs(1));
}
