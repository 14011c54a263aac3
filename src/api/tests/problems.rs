//! Faulty requests and the problems they get.

use super::described::document;
use super::*;

/// Every route with its methods and the query parameters of each, from the API description.
fn described() -> Vec<(String, String, Vec<String>)> {
    let mut operations = Vec::new();
    for (path, methods) in document()["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let parameters = operation["parameters"].as_array().unwrap();
            let query = parameters.iter().filter(|parameter| parameter["in"] == "query");
            let names = query.map(|parameter| parameter["name"].as_str().unwrap().to_owned());
            operations.push((path.clone(), method.to_uppercase(), names.collect()));
        }
    }
    operations
}

fn filled(path: &str) -> String {
    path.replace("{name}", "alice").replace("{id}", "a")
}

/// The problem in a response, with the status and the headers.
async fn problem(
    fixture: &Fixture,
    method: &str,
    uri: &str,
    headers: &[(&str, &str)],
) -> (u16, HeaderMap, Value) {
    let (status, headers, body) = fixture.ask_with(method, uri, headers).await;
    let short: String = format!("{method} {uri}").chars().take(120).collect();
    assert_eq!(headers["content-type"], "application/problem+json", "{short}: {status} {body}");
    let problem: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(problem["status"], status.as_u16(), "{short}");
    (status.as_u16(), headers, problem)
}

/// Values that every route rejects for a parameter of this name.
fn malformed(name: &str) -> Vec<String> {
    let long = "9".repeat(30_000);
    let mut values = match name {
        "limit" => {
            vec!["", "0", "10001", "-1", "ten", "1.5", "0x10", "18446744073709551616", &long]
        }
        "page" => vec!["", "!", "AAAA", "A%20A", &long],
        "from" | "to" => vec![
            "",
            "yesterday",
            "7d",
            "+7",
            "+d",
            "+1h",
            "2026-13-01",
            "2026-02-30",
            "2026-11-21T25:00:00Z",
            "2026-11-21T10:00:00",
            "+99999999999999999999d",
            &long,
        ],
        "after" => vec!["", "yesterday", "now~1", "~", "yesterday~7", "%00", &long],
        "wait" => vec!["", "soon", "1", "-1s", "1e9s", "99999999999999999999999s", &long],
        "upcoming" => vec!["", "soon", "10", "-1m", "25h", "1e9s", &long],
        "settled" | "states" | "accept_removals" | "accept_drops" | "replace" => {
            vec!["", "maybe", "yes", "2", &long]
        }
        "state" => vec!["", "happy", "settled,", ",", "SETTLED", &long],
        "series" => vec!["", "rule", "own,linked", &long],
        "order" => vec!["", "age", "name,trouble", &long],
        "response" => vec!["", "yes", "accepted,", "accepted,!none", "!", &long],
        "showAs" => vec!["", "Busy", "busy,,oof", "!busy,oof", &long],
        "category" => vec!["", ",", "Red,!Blue", "!"],
        "sensitivity" => vec!["", "secret", "normal;private", &long],
        "cancelled" => vec!["", "1", "no", "true,maybe", &long],
        "type" => vec!["", "seriesMaster", "occurrence,", &long],
        "windows" => vec!["", ",", "alice,", ",alice", "alice,,alice"],
        "duration" | "buffer" => {
            vec!["", "soon", "1", "-1s", "30h30", "1e9s", "99999999999999999999999s", &long]
        }
        "within" => vec!["", "09:00", "9-17", "09:00-09:00", "17:00-24:01", "09:00-17:00Z", &long],
        "days" => vec!["", "monday", "mon-", "mon,", "mon-fri-sat", "MON", &long],
        "zone" => vec!["", "Mars/Base", "UTC+1", "../UTC", &long],
        "need" => vec!["", "0", "-1", "all", "1.5", "10000", &long],
        "tentative" => vec!["", "Free", "true", "oof", &long],
        "fields" => vec!["id,", ",", "a%20b", "a/b"],
        "ignore" => vec!["", "changeKey", "id", "changeKey,changeKey,@odata.etag", &long],
        "window" => vec![""],
        // Any text is valid.
        "q" => vec![],
        // Unknown groups are not found.
        "group" => vec![],
        other => panic!("add malformed values of {other}"),
    };
    values.extend(["%", "%2", "%zz", "%FF", "%C3%28"]);
    values.into_iter().map(str::to_owned).collect()
}

#[tokio::test(start_paused = true)]
async fn malformed_parameters_are_refused_by_name_on_every_route() {
    let fixture = Fixture::new().await;
    fixture.write(fixture.id("alice"), &[("a", 9, "")], &[]).await;
    let mut tried = 0;
    for (path, method, names) in described() {
        let uri = filled(&path);
        for name in &names {
            let is_repeatable = matches!(name.as_str(), "window" | "group");
            let twice = (!is_repeatable).then(|| format!("1&{name}=1"));
            for value in malformed(name).into_iter().chain(twice) {
                let uri = format!("{uri}?{name}={value}");
                let (status, _, problem) = problem(&fixture, &method, &uri, &[]).await;
                let short: String = uri.chars().take(120).collect();
                assert_eq!(
                    (status, &problem["parameter"]),
                    (400, &json!(name)),
                    "{method} {short}"
                );
                tried += 1;
            }
        }
        let (status, _, problem) = problem(&fixture, &method, &format!("{uri}?Limit=1"), &[]).await;
        assert_eq!((status, &problem["parameter"]), (400, &json!("Limit")), "{method} {uri}");
    }
    assert!(tried > 150, "{tried}");
    assert!(fixture.fleet.asked.lock().unwrap().is_empty(), "a faulty request started a round");
}

#[tokio::test(start_paused = true)]
async fn an_invalid_name_is_refused_on_every_route() {
    let fixture = Fixture::new().await;
    let long = "n".repeat(30_000);
    for (path, method, _) in described().into_iter().filter(|(path, ..)| path.contains("{name}")) {
        for (name, status, kind) in [
            ("nobody", 404, "unknown-window"),
            ("ALICE", 404, "unknown-window"),
            ("alice%00", 404, "unknown-window"),
            ("..%2F..", 404, "unknown-window"),
            ("%F0%9F%8E%89", 404, "unknown-window"),
            (&*long, 404, "unknown-window"),
            ("%FF", 400, "bad-path"),
            ("", 404, "unknown-window"),
        ] {
            let uri = path.replace("{name}", name).replace("{id}", "a");
            if uri == "/v1/windows/" {
                // The list's path with an additional slash.
                continue;
            }
            let (actual, _, problem) = problem(&fixture, &method, &uri, &[]).await;
            let kind = match kind {
                "unknown-window" if path.starts_with("/v1/accounts/") => "unknown-account",
                "unknown-window" if path.starts_with("/v1/sinks/") => "unknown-sink",
                kind => kind,
            };
            let kind = format!("https://calmirror.dev/problems/{kind}");
            let short: String = uri.chars().take(120).collect();
            assert_eq!((actual, &problem["type"]), (status, &json!(kind)), "{method} {short}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_unsupported_method_is_refused_on_every_route() {
    let fixture = Fixture::new().await;
    fixture.write(fixture.id("alice"), &[("a", 9, "")], &[]).await;
    let operations = described();
    for (path, ..) in &operations {
        let of_path = operations.iter().filter(|(other, ..)| other == path);
        let mut taken: Vec<&str> = of_path.map(|(_, method, _)| &**method).collect();
        if taken.contains(&"GET") {
            taken.push("HEAD");
        }
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"] {
            if taken.contains(&method) {
                continue;
            }
            let (status, headers, problem) = problem(&fixture, method, &filled(path), &[]).await;
            let kind = "https://calmirror.dev/problems/method-not-allowed";
            assert_eq!((status, &problem["type"]), (405, &json!(kind)), "{method} {path}");
            assert_eq!(headers["allow"], taken.join(","), "{method} {path}");
        }
    }
    assert!(fixture.fleet.asked.lock().unwrap().is_empty(), "a faulty request started a round");
}

/// Pages of other sites cannot read responses: no response permits it.
#[tokio::test(start_paused = true)]
async fn no_response_allows_cross_origin_reads() {
    let mut fixture = Fixture::new().await;
    fixture.settings.open_loopback = true;
    fixture.write(fixture.id("alice"), &[("a", 9, "")], &[]).await;
    let asked = [
        ("origin", "https://evil.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization"),
        ("host", "localhost:8380"),
    ];
    let tcp = tcp_router(fixture.app(), "127.0.0.1:8380".parse().unwrap());
    let mut paths: Vec<String> = described().iter().map(|(path, ..)| filled(path)).collect();
    paths.extend(["/", "/page/app.js", "/page/zone/UTC", "/nowhere"].map(str::to_owned));
    for path in &paths {
        for method in ["GET", "HEAD", "OPTIONS", "POST", "PUT"] {
            for router in [router(fixture.app()), tcp.clone()] {
                let mut request = Request::builder().method(method).uri(path);
                for (name, value) in asked {
                    request = request.header(name, value);
                }
                let response = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
                let allowed = response
                    .headers()
                    .keys()
                    .find(|name| name.as_str().starts_with("access-control-"));
                assert_eq!(allowed, None, "{method} {path}: {}", response.status());
            }
        }
    }
}

/// Bodies are never read: neither their content nor their length makes a difference.
#[tokio::test(start_paused = true)]
async fn a_request_body_is_ignored() {
    let fixture = Fixture::new().await;
    for (uri, status) in [
        ("/v1/windows/alice/sync", 202),
        ("/v1/windows/alice/resync", 202),
        ("/v1/windows/nobody/sync", 404),
    ] {
        for kind in ["application/json", "text/plain", "no kind at all"] {
            // A body that never ends and that fails when read.
            let body = futures_util::stream::iter([Err::<Bytes, _>("the body was read")])
                .chain(futures_util::stream::pending());
            let request = Request::post(uri)
                .header("content-type", kind)
                .header("content-length", "18446744073709551615")
                .body(Body::from_stream(body));
            let response = router(fixture.app()).oneshot(request.unwrap()).await.unwrap();
            assert_eq!(response.status().as_u16(), status, "{uri} {kind}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_parameter_is_named() {
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
        ("GET", "/v1/changes?states=some", "states"),
        ("GET", "/v1/changes?upcoming=", "upcoming"),
        ("GET", "/v1/changes?upcoming=25h", "upcoming"),
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
async fn problems_have_the_documented_shape() {
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
