//! Resource limits of requests: turns, bytes, and responses in slices.

use std::sync::atomic::{AtomicBool, Ordering};

use super::super::limits::{BUDGET, MAX_CONCURRENT, MAX_SLICE_BYTES, TURN_TIMEOUT};
use super::super::slice_run::AHEAD;

use super::*;

/// Routes that compute, and so wait for a turn.
const COMPUTING: [&str; 6] = [
    "/v1/windows",
    "/v1/windows/alice/events",
    "/v1/windows/alice/events/a",
    "/v1/windows/alice/busy",
    "/v1/windows/alice/calendar.ics",
    "/v1/changes",
];

/// Routes that respond regardless of other requests.
const PROMPT: [&str; 8] = [
    "/healthz",
    "/readyz",
    "/readyz?settled=1",
    "/openapi.json",
    "/metrics",
    "/v1/status",
    "/v1/windows/alice",
    "/",
];

#[tokio::test(start_paused = true)]
async fn requests_queue_for_a_blocking_thread_and_health_does_not() {
    let fixture = Fixture::new().await;
    fixture.write(fixture.id("alice"), &[("a", 9, "")], &[]).await;
    let all = fixture.work.take_all_turns().await;
    for uri in PROMPT {
        let begun = tokio::time::Instant::now();
        let (status, ..) = fixture.ask("GET", uri).await;
        assert_eq!((status, begun.elapsed().as_millis()), (StatusCode::OK, 0), "{uri}");
    }
    for uri in COMPUTING {
        let begun = tokio::time::Instant::now();
        let (status, headers, body) = fixture.ask("GET", uri).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{uri}: {body}");
        assert!(body.contains("https://calmirror.dev/problems/busy"), "{uri}: {body}");
        assert_eq!(headers["retry-after"], "5", "{uri}");
        assert_eq!(begun.elapsed().as_secs(), TURN_TIMEOUT.as_secs(), "{uri}");
    }
    drop(all);
    for uri in COMPUTING {
        assert_eq!(fixture.ask("GET", uri).await.0, StatusCode::OK, "{uri}");
    }
    assert_eq!(fixture.work.bytes_left(), BUDGET, "a refused request holds bytes");
}

/// Reads before a response begins also take a turn.
#[tokio::test(start_paused = true)]
async fn window_lookup_and_finding_the_end_of_a_response_take_a_turn() {
    let fixture = Fixture::new().await;
    large(&fixture, 20).await;
    let request = Request::get("/v1/changes").body(Body::empty()).unwrap();
    let asking = router(fixture.app()).oneshot(request);
    // All turns are taken as soon as the first slice is read.
    let taking = async {
        while fixture.work.bytes_left() == BUDGET {
            tokio::task::yield_now().await;
        }
        fixture.work.take_all_turns().await
    };
    let (answer, all) = tokio::join!(asking, taking);
    assert_eq!(answer.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    let (uri, headers) = ("/v1/changes?window=nobody", [("accept", "text/event-stream")]);
    let (status, ..) = fixture.ask_with("GET", uri, &headers).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    drop(all);
    assert_eq!(fixture.ask_with("GET", uri, &headers).await.0, StatusCode::NOT_FOUND);
    assert_eq!(fixture.ask("GET", "/v1/changes").await.0, StatusCode::OK);
}

/// A handler that never ends, for more requests than cores, turns and threads of the runtime
/// together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_computations_block_nothing_else() {
    let fixture = Fixture::new().await;
    let alice = fixture.id("alice");
    fixture.write(alice, &[("a", 9, "")], &[]).await;
    let work = RequestLimits::new(Env::real());
    let (spinning, end) =
        (Arc::new(std::sync::atomic::AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let spin = {
        let (work, spinning, end) = (work.clone(), spinning.clone(), end.clone());
        async move || {
            let computing = async move {
                spinning.fetch_add(1, Ordering::Relaxed);
                while !end.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            };
            work.run(computing).await
        }
    };
    let api = router(fixture.app());
    let api = Router::new().route("/spin", get(spin)).merge(api);
    let requests: Vec<_> = (0..3 * MAX_CONCURRENT)
        .map(|_| {
            let request = Request::get("/spin").body(Body::empty()).unwrap();
            tokio::spawn(api.clone().oneshot(request))
        })
        .collect();
    while spinning.load(Ordering::Relaxed) < MAX_CONCURRENT {
        tokio::task::yield_now().await;
    }
    for _ in 0..20 {
        let begun = tokio::time::Instant::now();
        let request = Request::get("/healthz").body(Body::empty()).unwrap();
        let answer = api.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
    // Workers continue: they get blocking threads, and write.
    fixture.write(alice, &[("b", 10, "")], &[]).await;
    assert!(fixture.store.event(alice, &EventId::new("b")).await.unwrap().is_some());
    assert_eq!(
        spinning.load(Ordering::Relaxed),
        MAX_CONCURRENT,
        "more requests compute than there are turns"
    );
    end.store(true, Ordering::Relaxed);
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap().status(), StatusCode::OK);
    }
}

#[tokio::test(start_paused = true)]
async fn a_panicking_computation_is_reported_and_releases_its_turn() {
    let fixture = Fixture::new().await;
    let panics = async { std::panic::resume_unwind(Box::new("as a bug would")) };
    let problem = fixture.work.run::<()>(panics).await.unwrap_err();
    let response = axum::response::IntoResponse::into_response(problem);
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    drop(fixture.work.take_all_turns().await);
}

/// Writes `count` events of about 8 KiB each.
async fn large(fixture: &Fixture, count: usize) {
    let events: Vec<Value> = (0..count).map(|i| event(i, "as it was")).collect();
    fixture.put(fixture.id("alice"), &events).await;
}

fn event(i: usize, subject: &str) -> Value {
    let moment = |hour: usize| json!({"dateTime": format!("2026-{:02}-{:02}T{hour:02}:00:00", i / 24 % 12 + 1, i / 288 + 1), "timeZone": "UTC"});
    json!({"id": format!("e{i:04}"), "subject": subject, "start": moment(i % 24), "end": moment(i % 24), "body": "x".repeat(8 << 10)})
}

/// Starts a request and returns the headers and the body stream.
async fn open(fixture: &Fixture, uri: &str) -> (HeaderMap, axum::body::BodyDataStream) {
    let request = Request::get(uri).body(Body::empty()).unwrap();
    let response = router(fixture.app()).oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "{uri}");
    let (head, body) = response.into_parts();
    (head.headers, body.into_data_stream())
}

/// Reads a response until at least `bytes` are there, and returns them.
async fn begin(stream: &mut axum::body::BodyDataStream, bytes: usize) -> Vec<u8> {
    let mut text = Vec::new();
    while text.len() < bytes {
        text.extend_from_slice(&stream.next().await.unwrap().unwrap());
    }
    text
}

async fn finish(mut text: Vec<u8>, mut stream: axum::body::BodyDataStream) -> String {
    while let Some(piece) = stream.next().await {
        text.extend_from_slice(&piece.unwrap());
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test(start_paused = true)]
async fn unread_responses_hold_few_slices_each() {
    let fixture = Fixture::new().await;
    large(&fixture, 200).await;
    for uri in
        ["/v1/windows/alice/events?limit=10000", "/v1/changes", "/v1/windows/alice/calendar.ics"]
    {
        let mut open_answers = Vec::new();
        for _ in 0..20 {
            let (_, mut stream) = open(&fixture, uri).await;
            let first = stream.next().await.unwrap().unwrap();
            open_answers.push((first, stream));
        }
        let held = BUDGET - fixture.work.bytes_left();
        // The event that fills a slice exceeds its size.
        let most = 20 * (AHEAD + 1) * (MAX_SLICE_BYTES + (16 << 10));
        assert!(held <= most, "{uri}: {held} bytes are held");
        drop(open_answers);
        assert_eq!(fixture.work.bytes_left(), BUDGET, "{uri}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_ends_when_the_window_changes_while_it_is_sent() {
    let fixture = Fixture::new().await;
    let alice = fixture.id("alice");
    large(&fixture, 200).await;
    let (_, mut stream) = open(&fixture, "/v1/windows/alice/events").await;
    let begun = begin(&mut stream, 16 << 10).await;
    // An event already sent moves behind the others; of those not yet sent, one is removed and one
    // changes.
    let mut moved = event(0, "moved");
    moved["start"]["dateTime"] = "2026-12-01T00:00:00".into();
    moved["end"]["dateTime"] = "2026-12-01T01:00:00".into();
    fixture.put(alice, &[moved, event(199, "changed")]).await;
    fixture.write(alice, &[], &["e0198"]).await;
    let page: Value = serde_json::from_str(&finish(begun, stream).await).unwrap();
    let sent = page["value"].as_array().unwrap().len();
    assert!((1..150).contains(&sent), "{sent} events");
    assert!(page["value"].as_array().unwrap().iter().all(|event| event["subject"] == "as it was"));
    // The pages and the changes after the cursor together equal the mirror.
    let mut mirror = Mirror::new();
    let mut next = Some(page);
    let mut cursor = None;
    while let Some(page) = next {
        for event in page["value"].as_array().unwrap() {
            mirror.insert(event["id"].as_str().unwrap().to_owned(), event.clone());
        }
        cursor.get_or_insert_with(|| page["cursor"].as_str().unwrap().to_owned());
        next = match page["next"].as_str() {
            Some(key) => Some(fixture.get(&format!("/v1/windows/alice/events?page={key}")).await),
            None => None,
        };
    }
    let (lines, _) = fixture.changes(&format!("/v1/changes?after={}", cursor.unwrap())).await;
    apply(&mut mirror, &lines);
    assert_eq!(mirror.len(), 199);
    assert_eq!(mirror["e0000"]["subject"], "moved");
    assert_eq!(mirror["e0199"]["subject"], "changed");
    assert!(!mirror.contains_key("e0198"));
}

#[tokio::test(start_paused = true)]
async fn the_cursor_of_a_response_is_fixed_before_its_lines_are_read() {
    for (query, expected) in [("", 100), ("?window=alice", 100), ("?limit=60", 60)] {
        let fixture = Fixture::new().await;
        let alice = fixture.id("alice");
        large(&fixture, 100).await;
        let (plan, _) = fixture.changes(&format!("/v1/changes{query}")).await;
        let id = |line: usize| plan[line]["id"].as_str().unwrap().to_owned();
        let (gone, changed) = (id(50), id(55));
        let index = |id: &str| id.trim_start_matches('e').parse::<usize>().unwrap();
        let (headers, mut stream) = open(&fixture, &format!("/v1/changes{query}")).await;
        let cursor = headers["x-calmirror-cursor"].to_str().unwrap().to_owned();
        let begun = begin(&mut stream, 16 << 10).await;
        // Two events not yet sent change and are removed: they leave this response and come after
        // its cursor.
        fixture.put(alice, &[event(index(&changed), "changed")]).await;
        fixture.write(alice, &[], &[&gone]).await;
        let text = finish(begun, stream).await;
        let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), expected - 2, "{query}");
        let ids: std::collections::BTreeSet<&str> =
            lines.iter().map(|line| line["id"].as_str().unwrap()).collect();
        assert!(!ids.contains(&*gone) && !ids.contains(&*changed), "{query}");
        let join = if query.contains('?') { '&' } else { '?' };
        let mut after = cursor;
        let mut rest = Vec::new();
        loop {
            let uri = format!("/v1/changes{query}{join}after={after}");
            let (lines, next) = fixture.changes(&uri).await;
            if lines.is_empty() {
                break;
            }
            rest.extend(lines);
            after = next;
        }
        let ends: Vec<(&str, &str)> = rest[rest.len() - 2..]
            .iter()
            .map(|line| (line["change"].as_str().unwrap(), line["id"].as_str().unwrap()))
            .collect();
        assert_eq!(ends, [("updated", &*changed), ("removed", &*gone)], "{query}");
        assert_eq!(rest.len(), 100 - expected + 2, "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_that_would_miss_a_trimmed_removal_is_cut_off() {
    let fixture = Fixture::new().await;
    let alice = fixture.id("alice");
    large(&fixture, 100).await;
    let (_, early) = fixture.changes("/v1/changes?after=now").await;
    let again: Vec<Value> = (0..60).map(|i| event(i, "again")).collect();
    fixture.put(alice, &again).await;
    fixture.write(alice, &[], &["e0090"]).await;
    let (_, mut stream) = open(&fixture, &format!("/v1/changes?after={early}")).await;
    begin(&mut stream, 16 << 10).await;
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(fixture.store.trim(fixture.env.now()).await.unwrap(), 1);
    let mut failed = false;
    while let Some(piece) = stream.next().await {
        failed |= piece.is_err();
    }
    assert!(failed, "the response ends as if it were complete");
}

/// The more there are, the less each gets.
#[tokio::test(start_paused = true)]
async fn hundreds_of_unread_responses_keep_nobody_waiting() {
    let fixture = Fixture::new().await;
    large(&fixture, 200).await;
    let begun = tokio::time::Instant::now();
    let mut unread = Vec::new();
    for _ in 0..300 {
        let (_, mut stream) = open(&fixture, "/v1/windows/alice/events?limit=10000").await;
        let first = stream.next().await.unwrap().unwrap();
        unread.push((first, stream));
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(fixture.work.next_size() < MAX_SLICE_BYTES);
}

#[tokio::test(start_paused = true)]
async fn responses_end_soon_after_the_settings_change() {
    let fixture = Fixture::new().await;
    large(&fixture, 200).await;
    let (_, mut stream) = open(&fixture, "/v1/windows/alice/events").await;
    begin(&mut stream, 16 << 10).await;
    fixture.stopping.give();
    tokio::time::sleep(Duration::from_secs(1)).await;
    // More than was ready when it stopped.
    begin(&mut stream, (AHEAD + 1) * MAX_SLICE_BYTES).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut failed = false;
    while let Some(piece) = stream.next().await {
        failed |= piece.is_err();
    }
    assert!(failed);
}

#[tokio::test(start_paused = true)]
async fn the_fleet_is_listed_in_slices() {
    let fixture = Fixture::new().await;
    for i in 0..3000 {
        fixture.add_window(&format!("w{i:04}"), "w@contoso.com").await;
    }
    let all = fixture.get("/v1/windows?limit=10000").await;
    assert_eq!(all["value"].as_array().unwrap().len(), 3002);
    assert_eq!((all["total"].as_u64(), all["next"].as_str()), (Some(3002), None));
    let (_, mut stream) = open(&fixture, "/v1/windows?limit=2900").await;
    let first = begin(&mut stream, 1).await;
    let held = BUDGET - fixture.work.bytes_left();
    assert!(held < (AHEAD + 2) * MAX_SLICE_BYTES, "{held} bytes are held");
    // A window removed meanwhile is left out, and nothing else is.
    fixture.fleet.windows.lock().unwrap().retain(|(status, _)| status.name != "w2890");
    let page: Value = serde_json::from_str(&finish(first, stream).await).unwrap();
    assert_eq!(page["value"].as_array().unwrap().len(), 2899);
    let next = page["next"].as_str().unwrap();
    let rest = fixture.get(&format!("/v1/windows?limit=2900&page={next}")).await;
    assert_eq!(rest["value"].as_array().unwrap().len(), 102);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_accepts_no_coding_does_no_work() {
    let fixture = Fixture::new().await;
    fixture.write(fixture.id("alice"), &[("a", 9, "")], &[]).await;
    for refused in ["identity;q=0", "*;q=0", "br, identity;q=0", "identity;q=0, gzip;q=0, zstd;q=0"]
    {
        let headers = [("accept-encoding", refused)];
        let uri = "/v1/windows/alice/sync";
        let (status, headers, body) = fixture.ask_with("POST", uri, &headers).await;
        assert_eq!((status, &*body), (StatusCode::NOT_ACCEPTABLE, ""), "{refused}");
        assert_eq!(headers["vary"], "accept-encoding", "{refused}");
        assert!(!headers.contains_key("content-type"), "{refused}");
    }
    assert!(fixture.fleet.asked.lock().unwrap().is_empty(), "a refused request took effect");
    // Everything except a stream can be sent without identity, however short, and so can problems.
    for (uri, accept, expected) in [
        ("/healthz", "*/*", StatusCode::OK),
        ("/v1/windows/alice/events", "*/*", StatusCode::OK),
        ("/v1/windows/nobody", "*/*", StatusCode::NOT_FOUND),
        ("/v1/changes?after=now", "text/event-stream", StatusCode::NOT_ACCEPTABLE),
    ] {
        let request = Request::get(uri)
            .header("accept-encoding", "identity;q=0, gzip")
            .header("accept", accept)
            .body(Body::empty());
        let response = router(fixture.app()).oneshot(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), expected, "{uri}");
        let coded = response.headers().get("content-encoding").is_some_and(|c| c == "gzip");
        assert_eq!(coded, expected != StatusCode::NOT_ACCEPTABLE, "{uri}");
    }
}

#[tokio::test(start_paused = true)]
async fn vary_lists_what_a_response_depends_on() {
    let fixture = Fixture::new().await;
    fixture.write(fixture.id("alice"), &[("a", 9, "")], &[]).await;
    for (uri, varies) in [
        ("/v1/changes", &["accept", "accept-encoding"][..]),
        ("/v1/changes?limit=0", &["accept", "accept-encoding"]),
        ("/v1/windows/alice/events", &["accept-encoding"]),
        ("/healthz", &["accept-encoding"]),
        ("/nowhere", &["accept-encoding"]),
    ] {
        for accept in ["*/*", "text/event-stream"] {
            let request = Request::get(uri).header("accept", accept).body(Body::empty());
            let response = router(fixture.app()).oneshot(request.unwrap()).await.unwrap();
            let vary = response.headers().get_all("vary");
            let mut vary: Vec<&str> = vary.iter().map(|v| v.to_str().unwrap()).collect();
            vary.sort_unstable();
            assert_eq!(vary, varies, "{uri} {accept}");
        }
    }
}
