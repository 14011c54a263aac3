//! Requests about a window of another shard.

use super::*;

const WINDOWS: [(&str, u32); 3] = [("alice", 0), ("bob", 1), ("room a/b", 1)];
const RELAY: (&str, &str) = ("calmirror-relay", "1");

fn problem(body: &str) -> (String, String) {
    let problem: Value = serde_json::from_str(body).unwrap();
    let text = |name: &str| problem[name].as_str().unwrap().to_owned();
    (text("type").rsplit('/').next().unwrap().to_owned(), text("detail"))
}

#[tokio::test]
async fn a_reader_is_redirected_to_the_shard_that_has_the_window() {
    let mut all = ShardFixture::new(2, &WINDOWS, Vec::new()).await;
    let address = all.addresses[1];
    for (method, uri) in [
        ("GET", "/v1/windows/bob"),
        ("GET", "/v1/windows/room%20a%2Fb/events?from=now&to=%2B7d"),
        ("GET", "/v1/windows/bob/calendar.ics"),
        ("POST", "/v1/windows/bob/sync?wait=5s"),
        ("GET", "/v1/changes?window=bob&after=now"),
    ] {
        let (status, headers, body) = send(&all.shards[0], (method, uri, "full"), &[]).await;
        let location = format!("http://{address}{uri}");
        assert_eq!((status, headers["location"].to_str().unwrap()), (307, &*location));
        assert_eq!(headers["cache-control"], "no-store");
        assert_eq!(headers["content-type"], "application/problem+json");
        assert_eq!(headers["calmirror-shard"], "0/2");
        let (slug, detail) = problem(&body);
        assert!(slug == "other-shard" && detail.contains("shard 1 has window"), "{detail}");
        // The other shard answers the same request itself.
        let (status, ..) = send(&all.shards[1], (method, uri, "full"), &[]).await;
        assert!(status < 300, "{uri}: {status}");
    }
    all.shards[0].settings.shard.url = None;
    let (status, headers, body) =
        send(&all.shards[0], ("GET", "/v1/windows/bob", "full"), &[RELAY]).await;
    assert_eq!((status, headers.get("location")), (421, None));
    assert_eq!(headers["cache-control"], "no-store");
    assert_eq!(problem(&body).0, "other-shard");
    // Lists name what they cannot have.
    let list = all.get(0, "/v1/windows").await;
    assert_eq!((&list["total"], &list["incomplete"]), (&json!(1), &json!(["1"])));
}

#[tokio::test]
async fn a_request_is_passed_on_and_the_answer_is_that_of_the_other_shard() {
    let all = ShardFixture::new(2, &WINDOWS, Vec::new()).await;
    let many: Vec<_> = (0..400).map(|n| event(&format!("event {n}"), n % 24, 1, "busy")).collect();
    all.put("bob", &many).await;
    for (method, uri) in [
        ("GET", "/v1/windows/bob"),
        ("HEAD", "/v1/windows/bob/events"),
        ("GET", "/v1/windows/bob/events?limit=300"),
        ("GET", "/v1/windows/bob/events/event%207"),
        ("GET", "/v1/windows/bob/events/nothing"),
        ("GET", "/v1/windows/bob/busy?from=yesterday"),
        ("GET", "/v1/windows/bob/calendar.ics"),
        ("GET", "/v1/changes?window=bob&limit=10"),
        ("POST", "/v1/windows/bob/sync"),
        ("DELETE", "/v1/windows/bob"),
    ] {
        for coding in ["identity", "gzip", "zstd"] {
            let coding = [RELAY, ("accept-encoding", coding)];
            let (status, mut headers, body) =
                send(&all.shards[0], (method, uri, "full"), &coding).await;
            let expected = send(&all.shards[1], (method, uri, "full"), &coding).await;
            headers.remove("date");
            let mut own = expected.1;
            own.remove("date");
            // The length of a coded answer is not known before its end.
            for headers in [&mut headers, &mut own] {
                headers.remove("content-length");
            }
            assert_eq!((status, &headers, body), (expected.0, &own, expected.2), "{method} {uri}");
            assert_eq!(headers["calmirror-shard"], "1/2");
        }
    }
    let (_, headers, _) = send(&all.shards[0], ("GET", "/v1/windows/bob", "full"), &[RELAY]).await;
    let held = [RELAY, ("if-none-match", headers["etag"].to_str().unwrap())];
    assert_eq!(send(&all.shards[0], ("GET", "/v1/windows/bob", "full"), &held).await.0, 304);
}

#[tokio::test]
async fn a_name_is_passed_on_as_it_is() {
    let windows = [("a", 0), ("b", 1), (r"b\rounds", 1), ("..", 1), ("x?y#z", 1), ("b/rounds", 1)];
    let all = ShardFixture::new(2, &windows, Vec::new()).await;
    for (written, expected) in [
        (r"b\rounds", Some(r"b\rounds")),
        ("b%5Crounds", Some(r"b\rounds")),
        ("b%2Frounds", Some("b/rounds")),
        ("x%3Fy%23z", Some("x?y#z")),
        ("..", None),
        ("%2E%2e", None),
    ] {
        let uri = format!("/v1/windows/{written}");
        let (status, _, body) = send(&all.shards[0], ("GET", &uri, "full"), &[RELAY]).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        let name = body["name"].as_str();
        let expected = (if expected.is_some() { 200 } else { 421 }, expected);
        assert_eq!((status, name), expected, "{written}: {body}");
    }
}

#[tokio::test]
async fn a_stream_is_passed_on_as_it_arrives_and_ends_with_the_daemon() {
    let all = ShardFixture::new(2, &WINDOWS, Vec::new()).await;
    let tcp = tcp_router(all.shards[0].app(), "127.0.0.1:8380".parse().unwrap());
    let request = Request::get("/v1/changes?window=bob").header("host", "localhost");
    let request = request.header("authorization", "Bearer full").header("calmirror-relay", "1");
    let request = request.header("accept", "text/event-stream").body(Body::empty()).unwrap();
    let response = tcp.oneshot(request).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut frames = response.into_body().into_data_stream();
    for id in ["first", "second"] {
        all.put("bob", &[event(id, 9, 1, "busy")]).await;
        let mut text = String::new();
        while !text.contains(&format!(r#""id":"{id}""#)) {
            text += std::str::from_utf8(&frames.next().await.unwrap().unwrap()).unwrap();
        }
    }
    all.shards[0].stopping.give();
    tokio::time::pause();
    let rest: Vec<_> = frames.collect().await;
    assert!(rest.last().is_some_and(Result::is_err), "the reader does not notice: {rest:?}");
}

/// Two shards that each say that the other has a window.
#[tokio::test]
async fn shards_that_disagree_do_not_ask_each_other_for_ever() {
    let mut all = ShardFixture::new(2, &WINDOWS, Vec::new()).await;
    for shard in &all.shards {
        let other = 1 - shard.settings.shard.of.ordinal();
        shard.elsewhere.set([("lost".into(), other)].into());
    }
    for shard in &all.shards {
        for uri in ["/v1/windows/lost/events", "/v1/changes?window=lost"] {
            let (status, headers, body) = send(shard, ("GET", uri, "full"), &[RELAY]).await;
            assert_eq!((status, headers.get("location")), (421, None), "{uri}: {body}");
            assert_eq!(problem(&body).0, "other-shard");
        }
        let (status, _, body) = send(shard, ("GET", "/v1/busy?windows=lost", "full"), &[]).await;
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &answer["value"]), (200, &json!([])));
    }
    all.kill(1).await;
    let (status, _, body) =
        send(&all.shards[0], ("GET", "/v1/windows/lost", "full"), &[RELAY]).await;
    assert_eq!((status, problem(&body).0), (502, "shard-unreachable".to_owned()));
}

#[tokio::test]
async fn changes_of_several_windows_come_from_one_shard() {
    let all = ShardFixture::new(3, &[("a", 0), ("b", 1), ("c", 1), ("d", 2)], Vec::new()).await;
    for (query, expected) in [
        ("window=b&window=c", 307),
        ("window=b&window=d", 421),
        ("window=a&window=b", 200),
        ("window=*", 200),
        ("window=x", 404),
        ("window=b&Limit=1", 400),
        ("", 200),
    ] {
        let (status, _, body) =
            send(&all.shards[0], ("GET", &format!("/v1/changes?{query}"), "full"), &[]).await;
        assert_eq!(status, expected, "{query}: {body}");
    }
}

/// Another process answers at the address of a shard.
#[tokio::test]
async fn an_answer_of_another_shard_is_not_merged() {
    let mut all = ShardFixture::new(2, &WINDOWS, Vec::new()).await;
    for of in [Shard::new(0, 2), Shard::new(1, 3), Some(Shard::ALONE)] {
        all.kill(1).await;
        all.shards[1].settings.shard.of = of.unwrap();
        let listener = TcpListener::bind(all.addresses[1]).await.unwrap();
        all.serve(1, listener);
        let list = all.get(0, "/v1/windows").await;
        assert_eq!((&list["total"], &list["incomplete"]), (&json!(1), &json!(["1"])), "{of:?}");
    }
}

/// What answers at the address of a shard is late, too large, or no list.
#[tokio::test]
async fn a_part_that_cannot_be_used_is_missing() {
    let mut all = ShardFixture::new(2, &WINDOWS, Vec::new()).await;
    let list = json!({"value": [], "total": 5, "next": null}).to_string();
    let large = format!("{list}{}", " ".repeat(33 << 20));
    let other = json!({"value": [{"name": "x"}], "total": 5, "next": null}).to_string();
    for (body, total, incomplete) in [
        (Some(list.clone()), 6, json!([])),
        (Some(large), 1, json!(["1"])),
        (Some("[]".to_owned()), 1, json!(["1"])),
        (Some(other), 1, json!(["1"])),
        // It never answers.
        (None, 1, json!(["1"])),
    ] {
        all.kill(1).await;
        let late = body.is_none();
        let answer = async move || match body {
            Some(body) => ([("calmirror-shard", "1/2")], body),
            None => std::future::pending().await,
        };
        let routes = Router::new().route("/v1/windows", get(answer));
        let listener = TcpListener::bind(all.addresses[1]).await.unwrap();
        let (stop, stopped) = (CancellationToken::new(), CancellationToken::new());
        let waiting = stopped.clone().cancelled_owned();
        let serving = tokio::spawn(async move {
            tokio::select! {
                _ = axum::serve(listener, routes) => {}
                () = waiting => {}
            }
        });
        if late {
            tokio::time::pause();
        }
        for limit in [5, 2] {
            let asked = tokio::time::Instant::now();
            let answer = all.get(0, "/v1/windows").await;
            assert_eq!((&answer["total"], &answer["incomplete"]), (&json!(total), &incomplete));
            assert!(!late || asked.elapsed().as_secs() <= limit, "{:?}", asked.elapsed());
        }
        stopped.cancel();
        serving.await.unwrap();
        all.servers[1] = Some((stop, tokio::spawn(async {})));
    }
}
