//! What is wrong with a request, and how it is told.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_wrong_parameter_is_named() {
    let fixture = Fixture::new().await;
    for (method, uri, parameter) in [
        ("GET", "/healthz?x=1", "x"),
        ("GET", "/readyz?settled=maybe", "settled"),
        ("GET", "/v1/status?verbose=1", "verbose"),
        ("GET", "/v1/windows?limit=0", "limit"),
        ("GET", "/v1/windows?limit=10001", "limit"),
        ("GET", "/v1/windows?limit=ten", "limit"),
        ("GET", "/v1/windows?page=%21", "page"),
        ("GET", "/v1/windows?state=happy", "state"),
        ("GET", "/v1/windows?state=settled,", "state"),
        ("GET", "/v1/windows?order=age", "order"),
        ("GET", "/v1/windows/alice?from=now", "from"),
        ("GET", "/v1/windows/alice/events?form=now", "form"),
        ("GET", "/v1/windows/alice/events?from=yesterday", "from"),
        ("GET", "/v1/windows/alice/events?from=2026-13-01", "from"),
        ("GET", "/v1/windows/alice/events?from=%FF", "from"),
        ("GET", "/v1/windows/alice/events?from=%2", "from"),
        ("GET", "/v1/windows/alice/events?to=7d", "to"),
        ("GET", "/v1/windows/alice/events?from=now&to=now", "to"),
        ("GET", "/v1/windows/alice/events?limit=-1", "limit"),
        ("GET", "/v1/windows/alice/events?limit=1&limit=2", "limit"),
        ("GET", "/v1/windows/alice/events?page=AAAA", "page"),
        ("GET", "/v1/windows/alice/events/x?y=1", "y"),
        ("GET", "/v1/changes?after=yesterday", "after"),
        ("GET", "/v1/changes?after=yesterday~7", "after"),
        ("GET", "/v1/changes?wait=soon", "wait"),
        ("GET", "/v1/changes?since=1", "since"),
        ("POST", "/v1/windows/alice/sync?accept_removals=true", "accept_removals"),
        ("POST", "/v1/windows/alice/resync?accept_removals=perhaps", "accept_removals"),
        ("POST", "/v1/windows/alice/resync?wait=1", "wait"),
    ] {
        let (status, headers, body) = fixture.ask(method, uri).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{uri}: {body}");
        assert_eq!(headers["content-type"], "application/problem+json", "{uri}");
        let problem: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(problem["parameter"], parameter, "{uri}: {body}");
        assert_eq!(problem["type"], "https://calmirror.dev/problems/bad-parameter", "{uri}");
    }
}

#[tokio::test(start_paused = true)]
async fn problems_have_their_shape() {
    let fixture = Fixture::new().await;
    let mut problems = String::new();
    for (method, uri) in [
        ("GET", "/nowhere"),
        ("POST", "/v1/status"),
        ("GET", "/v1/windows/alice/sync"),
        ("GET", "/v1/windows/nobody"),
        ("GET", "/v1/windows/nobody/events"),
        ("GET", "/v1/windows/alice/events/none"),
        ("POST", "/v1/windows/nobody/sync"),
        ("GET", "/v1/changes?window=nobody"),
        ("GET", "/v1/windows?limit=0"),
        ("GET", "/v1/windows/%FF"),
    ] {
        let (status, headers, body) = fixture.ask(method, uri).await;
        let kind = headers["content-type"].to_str().unwrap();
        let allow = headers.get("allow").map(|allow| format!(" allow {}", allow.to_str().unwrap()));
        let allow = allow.unwrap_or_default();
        problems += &format!("{method} {uri}\n{} {kind}{allow}\n{body}\n\n", status.as_u16());
    }
    insta::assert_snapshot!(problems);
}
