//! Nobody sees or does more through another shard.

use super::*;
use crate::config::AccessLevel;
use crate::mirror::name_pattern::NamePattern;

const WINDOWS: [(&str, u32); 4] = [("alice", 0), ("bob", 1), ("room 1", 0), ("room 2", 1)];

fn consumer(name: &str, key: ConsumerIdentity, windows: &[&str], write: bool) -> Consumer {
    Consumer {
        name: name.into(),
        key,
        windows: Some(windows.iter().map(|one| NamePattern::new(one)).collect()),
        level: AccessLevel::Times,
        write,
        origins: Vec::new(),
    }
}

async fn fixture() -> ShardFixture {
    let rooms =
        consumer("rooms", ConsumerIdentity::Token(TokenHash::new("rooms")), &["room*"], true);
    let bob = consumer("bob", ConsumerIdentity::Uid(1001), &["bob", "room*"], false);
    let all = ShardFixture::new(2, &WINDOWS, vec![rooms, bob]).await;
    for (window, _) in WINDOWS {
        all.put(window, &[event(&format!("of {window}"), 9, 1, "busy")]).await;
    }
    all
}

#[tokio::test]
async fn a_consumer_sees_its_windows_of_all_shards_and_no_other() {
    let all = fixture().await;
    let range = "from=2026-11-23&to=2026-11-24";
    for uri in [
        "/v1/windows".to_owned(),
        "/v1/events".into(),
        format!("/v1/busy?{range}"),
        format!("/v1/free?{range}"),
        format!("/v1/free?{range}&windows=*&need=1"),
    ] {
        for shard in &all.shards {
            let (status, _, body) = send(shard, ("GET", &uri, "rooms"), &[]).await;
            assert_eq!(status, 200, "{body}");
            assert!(body.contains("room 1") && body.contains("room 2"), "{uri}: {body}");
            assert!(!body.contains("alice") && !body.contains("bob"), "{uri}: {body}");
            assert!(body.contains(r#""incomplete":[]"#), "{uri}: {body}");
        }
    }
    let (_, _, body) = send(&all.shards[0], ("GET", "/v1/status", "rooms"), &[]).await;
    let status: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&status["windows"]["total"], &status["fleets"]), (&json!(2), &json!([])));
    for uri in ["/v1/events?windows=bob", "/v1/busy?windows=bob", "/v1/free?windows=room*,bob"] {
        assert_eq!(send(&all.shards[0], ("GET", uri, "rooms"), &[]).await.0, 404, "{uri}");
    }
}

/// A window that the reader may not see is unknown everywhere, with every header.
#[tokio::test]
async fn headers_give_no_rights() {
    let all = fixture().await;
    let forged = [
        &[][..],
        &[("calmirror-relay", "1")],
        &[("calmirror-shard-only", "1")],
        &[("calmirror-relay", "1"), ("calmirror-shard-only", "1")],
    ];
    for headers in forged {
        for (shard, name) in [(0, "bob"), (1, "bob"), (0, "alice"), (1, "alice"), (0, "nobody")] {
            for route in ["", "/events", "/busy", "/calendar.ics", "/rounds"] {
                let uri = format!("/v1/windows/{name}{route}");
                let (status, _, body) =
                    send(&all.shards[shard], ("GET", &uri, "rooms"), headers).await;
                assert!(status == 404 && body.contains("unknown-window"), "{uri}: {body}");
            }
        }
        let (status, _, body) =
            send(&all.shards[0], ("GET", "/v1/changes?window=bob", "rooms"), headers).await;
        assert!(status == 404 && body.contains("unknown-window"), "{body}");
        for (uri, token, expected) in [
            ("/v1/windows/bob/sync", "read", 403),
            ("/v1/windows/bob/resync", "rooms", 404),
            ("/v1/windows/bob/sync", "wrong", 401),
        ] {
            let (status, ..) = send(&all.shards[0], ("POST", uri, token), headers).await;
            assert_eq!(status, expected, "{uri} {token}");
        }
    }
    assert!(all.shards.iter().all(|shard| shard.fleet.asked.lock().unwrap().is_empty()));
    // The right reader does it, at the other shard.
    let relay = [("calmirror-relay", "1")];
    let (status, ..) =
        send(&all.shards[0], ("POST", "/v1/windows/room%202/sync", "rooms"), &relay).await;
    assert_eq!(status, 202);
    assert_eq!(*all.shards[1].fleet.asked.lock().unwrap(), ["sync room 2 None"]);
}

/// Sends a request over the Unix socket.
async fn on_socket(fixture: &Fixture, uri: &str, uid: u32) -> (u16, Value) {
    let mut request = Request::get(uri).header("calmirror-relay", "1").body(Body::empty()).unwrap();
    request.extensions_mut().insert(crate::api::auth::PeerUid(uid));
    let response = router(fixture.app()).oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn on_the_socket_only_a_reader_with_all_rights_has_the_daemons_token() {
    let all = fixture().await;
    let (_, list) = on_socket(&all.shards[0], "/v1/windows", 0).await;
    assert_eq!((&list["total"], &list["incomplete"]), (&json!(4), &json!([])));
    let (status, window) = on_socket(&all.shards[0], "/v1/windows/bob", 0).await;
    assert_eq!((status, &window["name"]), (200, &json!("bob")));
    // A consumer has no credentials that the other shard would take.
    let (_, list) = on_socket(&all.shards[0], "/v1/windows", 1001).await;
    assert_eq!((&list["total"], &list["incomplete"]), (&json!(1), &json!(["1"])));
    assert_eq!(list["value"][0]["name"], "room 1");
    let (status, problem) = on_socket(&all.shards[0], "/v1/windows/bob", 1001).await;
    assert_eq!(status, 401, "{problem}");
}

#[tokio::test]
async fn shards_and_those_who_are_redirected_reach_a_shard_under_its_configured_name() {
    let mut all = fixture().await;
    let shard = &mut all.shards[1];
    shard.settings.shard.url = Some("http://calmirror-{ordinal}.calmirror:8380".to_owned());
    let tcp = tcp_router(shard.app(), "192.0.2.1:8380".parse().unwrap());
    for (host, expected) in [
        ("calmirror-1.calmirror:8380", 200),
        ("CALMIRROR-1.calmirror", 200),
        ("calmirror-0.calmirror:8380", 421),
        ("evil.example", 421),
    ] {
        let request = Request::get("/v1/windows").header("host", host);
        let request =
            request.header("authorization", "Bearer full").header("calmirror-shard-only", "1");
        let response = tcp.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status().as_u16(), expected, "{host}");
    }
}
