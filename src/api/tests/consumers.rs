//! What each level and each consumer sees, route by route.

use std::fmt::Write as _;

use super::super::access::{Access, Rights};
use super::*;
use crate::config::AccessLevel;
use crate::mirror::name_pattern::NamePattern;

fn consumer(name: &str, windows: Option<&[&str]>, level: AccessLevel, write: bool) -> Consumer {
    Consumer {
        name: name.into(),
        key: ConsumerIdentity::Token(TokenHash::new(name)),
        windows: windows.map(|all| all.iter().map(|one| NamePattern::new(one)).collect()),
        level,
        write,
        origins: vec!["https://board.example".to_owned()],
    }
}

/// A fixture with a token for all rights, one for reading, and these consumers, whose names are
/// their tokens.
async fn fixture(consumers: Vec<Consumer>) -> Fixture {
    let mut fixture = Fixture::new().await;
    fixture.settings.token = Some(TokenHash::new("full"));
    fixture.settings.read_token = Some(TokenHash::new("read"));
    fixture.settings.consumers = consumers.into();
    let event = json!({
        "id": "a", "subject": "secret", "showAs": "busy", "location": {"displayName": "secret"},
        "start": {"dateTime": "2026-11-21T09:00:00", "timeZone": "UTC"},
        "end": {"dateTime": "2026-11-21T10:00:00", "timeZone": "UTC"},
    });
    for window in ["alice", "room a/b"] {
        fixture.put(fixture.id(window), std::slice::from_ref(&event)).await;
    }
    fixture
}

async fn send(
    fixture: &Fixture,
    (method, uri, token): (&str, &str, &str),
    headers: &[(&str, &str)],
) -> (u16, HeaderMap, String) {
    let tcp = tcp_router(fixture.app(), "127.0.0.1:8380".parse().unwrap());
    let mut request = Request::builder().method(method).uri(uri).header("host", "localhost");
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = tcp.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    // A stream does not end.
    let body = to_bytes(body, usize::MAX).await.unwrap();
    (head.status.as_u16(), head.headers, String::from_utf8_lossy(&body).into_owned())
}

/// Every route with every kind of reader. A new route needs a row in `levels.txt`.
#[tokio::test(start_paused = true)]
async fn every_route_is_open_to_the_levels_that_may_use_it() {
    let fixture = fixture(vec![
        consumer("busy", None, AccessLevel::Busy, false),
        consumer("times", None, AccessLevel::Times, false),
        consumer("all", None, AccessLevel::All, false),
        consumer("some", Some(&["alice"]), AccessLevel::All, false),
        consumer("write", Some(&["alice"]), AccessLevel::Busy, true),
        consumer("owner", None, AccessLevel::All, true),
    ])
    .await;
    let readers = ["full", "read", "owner", "all", "some", "times", "busy", "write"];
    let mut table = format!("{:40}{}\n", "", readers.map(|name| format!("{name:>6}")).concat());
    for (path, methods) in described::document()["paths"].as_object().unwrap() {
        let uri = path.replace("/page/zone/{name}", "/page/zone/UTC").replace("{file}", "app.js");
        let uri = uri.replace("{name}", "alice").replace("{id}", "a");
        for method in methods.as_object().unwrap().keys() {
            write!(table, "{:40}", format!("{} {path}", method.to_uppercase())).unwrap();
            for token in readers {
                // An unknown parameter is refused after the rights are checked.
                let uri = format!("{uri}?no-such=1");
                let sent = send(&fixture, (&method.to_uppercase(), &uri, token), &[]).await;
                let word = match sent.0 {
                    400 => "yes",
                    403 => "-",
                    other => panic!("{method} {uri} as {token}: {other} {}", sent.2),
                };
                write!(table, "{word:>6}").unwrap();
            }
            table.push('\n');
        }
    }
    assert_eq!(table.trim_end(), include_str!("levels.txt").trim_end(), "\n{table}");
}

/// No response to a reader of a lower level has what only higher levels see.
#[tokio::test(start_paused = true)]
async fn no_route_shows_more_than_the_level() {
    let fixture = fixture(vec![
        consumer("busy", None, AccessLevel::Busy, true),
        consumer("times", None, AccessLevel::Times, true),
        consumer("some", Some(&["alice"]), AccessLevel::All, true),
    ])
    .await;
    fixture.write(fixture.id("room a/b"), &[], &["a"]).await;
    for (path, methods) in described::document()["paths"].as_object().unwrap() {
        for name in ["alice", "room%20a%2Fb"] {
            let uri = path.replace("/page/zone/{name}", "/page/zone/UTC");
            let uri = uri.replace("{file}", "app.js").replace("{name}", name).replace("{id}", "a");
            for (method, token) in methods
                .as_object()
                .unwrap()
                .keys()
                .flat_map(|method| ["busy", "times", "some"].map(|token| (method, token)))
            {
                let (_, headers, body) =
                    send(&fixture, (&method.to_uppercase(), &uri, token), &[]).await;
                let text = format!("{headers:?} {body}");
                let hidden = if token == "some" { "room@contoso.com" } else { "secret" };
                assert!(!text.contains(hidden), "{method} {uri} as {token}: {text}");
                if token == "some" && !uri.contains("room") && path != "/openapi.json" {
                    assert!(!text.contains("room a/b"), "{method} {uri}: {text}");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_consumer_sees_its_windows_only() {
    let fixture = fixture(vec![consumer("rooms", Some(&["room*"]), AccessLevel::All, true)]).await;
    let get = async |uri: &str| {
        let (status, _, body) = send(&fixture, ("GET", uri, "rooms"), &[]).await;
        (status, serde_json::from_str::<Value>(body.lines().next().unwrap_or("null")).unwrap())
    };
    let (_, list) = get("/v1/windows").await;
    assert_eq!((&list["total"], &list["value"][0]["name"]), (&json!(1), &json!("room a/b")));
    assert_eq!(get("/v1/status").await.1["windows"]["total"], 1);
    for route in ["", "/events", "/events/a", "/busy", "/calendar.ics", "/rounds"] {
        assert_eq!(get(&format!("/v1/windows/alice{route}")).await.0, 404, "{route}");
    }
    for route in ["sync", "resync"] {
        let foreign = format!("/v1/windows/alice/{route}");
        assert_eq!(send(&fixture, ("POST", &foreign, "rooms"), &[]).await.0, 404);
        let own = format!("/v1/windows/room%20a%2Fb/{route}");
        assert_eq!(send(&fixture, ("POST", &own, "rooms"), &[]).await.0, 202);
    }
    assert_eq!(get("/v1/changes?window=alice").await.0, 404);
    let (_, line) = get("/v1/changes").await;
    assert_eq!(
        (&line["window"], &line["event"]["subject"]),
        (&json!("room a/b"), &json!("secret"))
    );
    assert_eq!(get("/v1/changes?window=*&limit=1").await.1["window"], "room a/b");
}

#[tokio::test(start_paused = true)]
async fn a_round_says_no_more_than_the_level() {
    let fixture = fixture(vec![consumer("busy", None, AccessLevel::Busy, true)]).await;
    let sync = "/v1/windows/alice/sync?wait=1s";
    let (status, _, body) = send(&fixture, ("POST", sync, "busy"), &[]).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, body), (202, json!({"window": "alice", "round": 982})));
    assert_eq!(send(&fixture, ("POST", sync, "full"), &[]).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn the_level_times_shows_no_content_and_no_filter_by_it() {
    let fixture = fixture(vec![consumer("times", None, AccessLevel::Times, false)]).await;
    let get = async |uri: &str| send(&fixture, ("GET", uri, "times"), &[]).await;
    let (_, _, body) = get("/v1/windows/alice/events/a?fields=id,subject,showAs,join_url").await;
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), json!({"id": "a", "showAs": "busy"}));
    for (filter, status) in [
        ("response=accepted", 403),
        ("category=Red", 403),
        ("showAs=busy", 200),
        ("cancelled=false&type=singleInstance&sensitivity=normal", 200),
    ] {
        assert_eq!(get(&format!("/v1/windows/alice/events?{filter}")).await.0, status, "{filter}");
        assert_eq!(get(&format!("/v1/changes?{filter}")).await.0, status, "{filter}");
    }
    let (_, _, calendar) = get("/v1/windows/alice/calendar.ics").await;
    assert!(calendar.contains("SUMMARY:Busy") && !calendar.contains("secret"), "{calendar}");
    // What changed, and what was removed, as far as the reader sees it.
    let (_, headers, _) = get("/v1/changes").await;
    let cursor = headers["x-calmirror-cursor"].to_str().unwrap();
    let event = |subject: &str, hour: u8| {
        json!({
            "id": "a", "subject": subject, "showAs": "busy",
            "start": {"dateTime": format!("2026-11-21T{hour:02}:00:00"), "timeZone": "UTC"},
            "end": {"dateTime": "2026-11-21T12:00:00", "timeZone": "UTC"},
        })
    };
    fixture.put(fixture.id("alice"), &[event("other", 8)]).await;
    fixture.write(fixture.id("room a/b"), &[], &["a"]).await;
    let (_, _, body) = get(&format!("/v1/changes?after={cursor}")).await;
    let lines: Vec<Value> = body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["changed"], json!(["end", "start"]));
    assert_eq!(lines[1]["reason"], "deleted");
    assert_eq!((lines[1].get("subject"), lines[1].get("start").is_some()), (None, true));
}

#[tokio::test(start_paused = true)]
async fn a_changed_level_or_pattern_requires_a_snapshot() {
    let mut fixture =
        fixture(vec![consumer("x", Some(&["room*"]), AccessLevel::Times, false)]).await;
    let (_, headers, _) = send(&fixture, ("GET", "/v1/changes", "x"), &[]).await;
    let cursor = headers["x-calmirror-cursor"].to_str().unwrap().to_owned();
    let uri = format!("/v1/changes?after={cursor}");
    let status = async |fixture: &Fixture, token| send(fixture, ("GET", &uri, token), &[]).await;
    assert_eq!(status(&fixture, "x").await.0, 200);
    // Another reader sees something else.
    assert_eq!(status(&fixture, "full").await.0, 410);
    for (windows, level) in [
        (Some(&["room*", "alice"][..]), AccessLevel::Times),
        (None, AccessLevel::Times),
        (Some(&["room*"]), AccessLevel::All),
    ] {
        fixture.settings.consumers = [consumer("x", windows, level, false)].into();
        let (status, _, body) = status(&fixture, "x").await;
        assert_eq!(status, 410, "{body}");
        assert!(body.contains("/snapshot-required"), "{body}");
    }
    fixture.settings.consumers = [consumer("x", Some(&["room*"]), AccessLevel::Times, true)].into();
    assert_eq!(status(&fixture, "x").await.0, 200, "it sees the same");
}

#[tokio::test(start_paused = true)]
async fn pages_of_a_consumers_origins_may_read() {
    let fixture = fixture(vec![consumer("busy", None, AccessLevel::Busy, false)]).await;
    let uri = "/v1/windows/alice/busy";
    let allow = "access-control-allow-origin";
    for (token, origin, allowed) in [
        ("busy", "https://board.example", true),
        ("busy", "https://board.example:8443", false),
        ("busy", "https://evil.example", false),
        ("full", "https://board.example", false),
        ("wrong", "https://board.example", false),
    ] {
        let (_, headers, _) = send(&fixture, ("GET", uri, token), &[("origin", origin)]).await;
        let shared = headers.get(allow).map(|origin| origin.to_str().unwrap());
        assert_eq!(shared, allowed.then_some(origin), "{token} {origin}");
        if allowed {
            assert!(headers.get_all("vary").iter().any(|vary| vary == "origin"));
        }
    }
    let asks = ("access-control-request-method", "GET");
    for (origin, status) in [("https://board.example", 204), ("https://evil.example", 403)] {
        let sent = send(&fixture, ("OPTIONS", uri, ""), &[("origin", origin), asks]).await;
        assert_eq!((sent.0, sent.1.contains_key(allow)), (status, status == 204), "{origin}");
    }
    let write = ("POST", "/v1/windows/alice/sync", "full");
    let (status, ..) = send(&fixture, write, &[("origin", "https://board.example")]).await;
    assert_eq!(status, 403, "a page of another site changes nothing");
}

#[tokio::test(start_paused = true)]
async fn the_status_shows_when_consumers_were_last_used_to_readers_with_all_rights() {
    let fixture = fixture(vec![consumer("busy", None, AccessLevel::Busy, false)]).await;
    let app = fixture.app();
    let tcp = tcp_router(app.clone(), "127.0.0.1:8380".parse().unwrap());
    let get = async |uri: &str, token: &str| {
        let request = Request::get(uri).header("host", "localhost");
        let request = request.header("authorization", format!("Bearer {token}"));
        let response = tcp.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        serde_json::from_slice::<Value>(&body).unwrap()
    };
    let shown = json!([{"name": "busy", "level": "busy", "windows": null, "write": false,
        "last_used": null}]);
    assert_eq!(get("/v1/status", "full").await["consumers"], shown);
    get("/v1/windows/alice/busy", "busy").await;
    assert!(get("/v1/status", "full").await["consumers"][0]["last_used"].is_string());
    assert!(get("/v1/status", "read").await.get("consumers").is_none());
}

#[tokio::test(start_paused = true)]
async fn on_the_socket_a_consumer_is_recognised_by_its_user() {
    let mut fixture = Fixture::new().await;
    let user = Consumer {
        key: ConsumerIdentity::Uid(1001),
        ..consumer("user", Some(&["alice"]), AccessLevel::Times, false)
    };
    fixture.settings.consumers = [user].into();
    for (uid, total) in [(1001, 1), (0, 2), (1002, 2)] {
        let mut request = Request::get("/v1/windows").body(Body::empty()).unwrap();
        request.extensions_mut().insert(super::super::auth::PeerUid(uid));
        let response = router(fixture.app()).oneshot(request).await.unwrap();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let list: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(list["total"], total, "{uid}");
    }
}

#[test]
fn a_route_without_an_entry_needs_all_rights() {
    assert!(Access::full().check("/v1/new").is_ok());
    for rights in [Rights::Read, Rights::Write] {
        assert!(Access { rights, ..Access::full() }.check("/v1/new").is_err());
    }
}
