//! The export: who gets it, one at a time, and what a reader sees that fails on the way.

use super::super::limits::{BUDGET, MAX_SLICE_BYTES};
use super::super::slice_run::AHEAD;
use super::*;
use crate::store::ExportReader;

/// Writes events that take some slices of an export, because they cannot be compressed.
async fn incompressible(fixture: &Fixture) {
    let mut random = fastrand::Rng::with_seed(5);
    let mut event = |id: usize| {
        let body: String = (0..8 << 10).map(|_| random.alphanumeric()).collect();
        let moment = json!({"dateTime": "2026-11-21T09:00:00", "timeZone": "UTC"});
        json!({"id": format!("e{id:04}"), "start": moment, "end": moment, "body": body})
    };
    let events: Vec<Value> = (0..150).map(&mut event).collect();
    fixture.put(fixture.id("alice"), &events).await;
}

async fn ask(app: Router, token: Option<&str>, method: &str) -> (StatusCode, HeaderMap, Body) {
    let mut request = Request::builder().method(method).uri("/v1/export");
    request = request.header("host", "localhost:8380");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let response = app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    (head.status, head.headers, body)
}

#[tokio::test(start_paused = true)]
async fn an_export_needs_full_rights() {
    let mut fixture = Fixture::new().await;
    fixture.settings.token = Some(TokenHash::new("all"));
    fixture.settings.read_token = Some(TokenHash::new("read"));
    let tcp = tcp_router(fixture.app(), "127.0.0.1:8380".parse().unwrap());
    for (token, status) in [(Some("all"), 200), (Some("read"), 403), (Some("no"), 401), (None, 401)]
    {
        for method in ["GET", "HEAD"] {
            let (found, ..) = ask(tcp.clone(), token, method).await;
            assert_eq!(found.as_u16(), status, "{method} {token:?}");
        }
    }
    let (_, _, body) = ask(tcp, Some("read"), "GET").await;
    let problem = to_bytes(body, usize::MAX).await.unwrap();
    let problem: Value = serde_json::from_slice(&problem).unwrap();
    assert!(problem["type"].as_str().unwrap().ends_with("/read-only-token"), "{problem}");
    // The file mode of the socket decides who may use it.
    assert_eq!(ask(router(fixture.app()), None, "GET").await.0, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn an_export_is_sent_in_slices_and_complete() {
    let fixture = Fixture::new().await;
    incompressible(&fixture).await;
    let (status, headers, body) = ask(router(fixture.app()), None, "GET").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers["content-type"], "application/octet-stream");
    assert_eq!(headers["cache-control"], "no-store");
    let mut stream = body.into_data_stream();
    let mut reader = ExportReader::default();
    let mut bytes = 0;
    while let Some(slice) = stream.next().await {
        let slice = slice.unwrap();
        bytes += slice.len();
        reader.push(&slice).unwrap();
        tokio::task::yield_now().await;
        let used = BUDGET - fixture.work.bytes_left();
        let most = (AHEAD + 1) * (MAX_SLICE_BYTES + (32 << 10));
        assert!(used <= most, "{used} bytes wait for a reader that takes its time");
    }
    assert!(bytes > 3 * (256 << 10), "only {bytes} bytes");
    let summary = reader.finish().unwrap();
    assert_eq!((summary.windows, summary.events), (2, 150));
    drop(stream);
    assert_eq!(fixture.work.bytes_left(), BUDGET);
}

#[tokio::test(start_paused = true)]
async fn a_second_export_is_refused_until_the_first_one_ends() {
    let fixture = Fixture::new().await;
    incompressible(&fixture).await;
    let app = router(fixture.app());
    let (status, _, first) = ask(app.clone(), None, "GET").await;
    assert_eq!(status, StatusCode::OK);
    let (status, headers, body) = ask(app.clone(), None, "GET").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(headers.contains_key("retry-after"));
    let problem = to_bytes(body, usize::MAX).await.unwrap();
    let problem: Value = serde_json::from_slice(&problem).unwrap();
    assert!(problem["type"].as_str().unwrap().ends_with("/export-busy"), "{problem}");
    // Its reader has gone.
    drop(first);
    let (status, _, second) = ask(app.clone(), None, "GET").await;
    assert_eq!(status, StatusCode::OK);
    // Read to its end.
    to_bytes(second, usize::MAX).await.unwrap();
    assert_eq!(ask(app, None, "GET").await.0, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn an_export_that_fails_on_the_way_is_cut_off() {
    let fixture = Fixture::new().await;
    incompressible(&fixture).await;
    let (status, _, body) = ask(router(fixture.app()), None, "GET").await;
    assert_eq!(status, StatusCode::OK);
    let mut stream = body.into_data_stream();
    assert!(stream.next().await.unwrap().is_ok());
    fixture.store.close().await.unwrap();
    let mut end = None;
    while let Some(slice) = stream.next().await {
        end = Some(slice);
    }
    assert!(end.unwrap().is_err(), "the reader takes it for complete");
    let (status, ..) = ask(router(fixture.app()), None, "GET").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "closed before it began");
}
