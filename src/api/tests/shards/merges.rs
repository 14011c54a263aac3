//! A merged answer is that of one daemon with all windows.

use super::*;

const WINDOWS: [(&str, u32); 7] =
    [("alice", 0), ("bob", 1), ("carol", 2), ("dave", 1), ("room a/b", 0), ("room c", 2), ("é", 1)];

/// Random events and states of all windows.
async fn randomize(all: &ShardFixture, random: &mut fastrand::Rng, round: u64) {
    for (window, _) in WINDOWS {
        let count = random.usize(0..4);
        let show_as = ["free", "tentative", "busy", "oof", "workingElsewhere", "odd"];
        let events: Vec<Value> = (0..count)
            .map(|number| {
                let show_as = show_as[random.usize(0..show_as.len())];
                // Few starts, so that many events have the same.
                event(
                    &format!("{round} {window} {number}"),
                    random.i64(0..12),
                    random.i64(0..5),
                    show_as,
                )
            })
            .collect();
        all.put(window, &events).await;
        let state = WindowState::ALL[random.usize(0..WindowState::ALL.len())];
        let (settled, stale) = (random.u8(0..4) > 0, random.u8(0..4) == 0);
        let unreadable = u32::from(random.u8(0..6) == 0);
        all.change(window, |status| {
            (status.state, status.settled_once, status.unreadable) = (state, settled, unreadable);
            status.stale_s = Some(if stale { 1e6 } else { 1.0 });
        });
    }
}

#[tokio::test]
async fn an_answer_of_three_shards_is_that_of_one_daemon_with_all_windows() {
    let all = ShardFixture::new(3, &WINDOWS, Vec::new()).await;
    let mut random = fastrand::Rng::with_seed(11);
    for round in 0..6 {
        randomize(&all, &mut random, round).await;
        let asked = &all.shards[random.usize(0..3)];
        let mut uris = Vec::new();
        for limit in [1, 2, 3, 7, 8] {
            uris.push(format!("/v1/windows?limit={limit}"));
            uris.push(format!("/v1/windows?order=trouble&limit={limit}"));
            uris.push(format!("/v1/events?limit={limit}&fields=subject"));
            uris.push(format!("/v1/events?windows=alice,bob,room*&limit={limit}"));
        }
        uris.push("/v1/windows?q=ROOM&order=trouble&limit=1".to_owned());
        uris.push("/v1/windows?state=held,settled,quarantined".to_owned());
        let range = "from=2026-11-23&to=2026-11-24";
        uris.push(format!("/v1/busy?{range}"));
        uris.push(format!("/v1/busy?{range}&windows=bob,%C3%A9&showAs=!tentative"));
        uris.push("/v1/busy?from=now&to=%2B9d&window=room%20a/b".to_owned());
        for need in 1..=3 {
            let query = format!("{range}&need={need}");
            uris.push(format!("/v1/free?{query}"));
            uris.push(format!("/v1/free?{query}&windows=alice,b*,é&buffer=30m&tentative=free"));
            uris.push(format!(
                "/v1/free?{query}&window=room*&window=dave&within=08:00-10:30&showAs=!oof"
            ));
        }
        uris.push("/v1/free?windows=alice".to_owned());
        for uri in uris.iter().map(|uri| uri.replace('é', "%C3%A9")) {
            assert_eq!(pages(asked, &uri).await, pages(&all.alone, &uri).await, "{round} {uri}");
        }
        let (merged, alone) = (get(asked, "/v1/status").await, get(&all.alone, "/v1/status").await);
        assert_eq!(merged["windows"], alone["windows"]);
        assert_eq!(merged["healthy"], alone["healthy"]);
    }
}

async fn get(fixture: &Fixture, uri: &str) -> Value {
    let (status, _, body) = send(fixture, ("GET", uri, "full"), &[]).await;
    assert_eq!(status, 200, "{uri}: {body}");
    serde_json::from_str(&body).unwrap()
}

#[tokio::test]
async fn the_status_names_the_shards_and_their_sinks() {
    let all = ShardFixture::new(3, &WINDOWS, Vec::new()).await;
    all.change("bob", |status| status.state = WindowState::Quarantined);
    let status = all.get(0, "/v1/status").await;
    assert_eq!((&status["shard"], &status["incomplete"]), (&json!("0/3"), &json!([])));
    assert_eq!(status["healthy"], false);
    let shards = status["shards"].as_array().unwrap();
    let shown: Vec<_> = shards
        .iter()
        .map(|one| (one["ordinal"].as_str(), one["windows"]["total"].as_u64(), &one["healthy"]))
        .collect();
    let (yes, no) = (json!(true), json!(false));
    assert_eq!(
        shown,
        [(Some("0"), Some(2), &yes), (Some("1"), Some(3), &no), (Some("2"), Some(2), &yes)]
    );
    assert_eq!(shards[1]["incarnation"], all.shards[1].store.incarnation());
    let sinks = status["sinks"].as_array().unwrap();
    let of = |sink: &Value| sink["shard"].as_str().unwrap().to_owned();
    let mut of: Vec<_> = sinks.iter().map(of).collect();
    of.dedup();
    assert_eq!(of, ["0", "1", "2"]);
    // One shard's answer.
    let (_, _, body) = send(&all.shards[1], ("GET", "/v1/status", "full"), &[ALONE]).await;
    let part: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&part["shard"], &part["windows"]["total"]), (&json!("1/3"), &json!(3)));
    assert_eq!((part.get("shards"), part.get("incomplete")), (None, None));
}

const ALONE: (&str, &str) = ("calmirror-shard-only", "1");

#[tokio::test]
async fn a_shard_that_does_not_answer_is_named() {
    let mut all = ShardFixture::new(3, &WINDOWS, Vec::new()).await;
    all.put("alice", &[event("a", 9, 1, "busy")]).await;
    all.put("bob", &[event("b", 10, 1, "busy")]).await;
    let first = all.get(0, "/v1/events?limit=1").await;
    assert_eq!(first["cursors"].as_object().unwrap().keys().collect::<Vec<_>>(), ["0", "1", "2"]);
    all.kill(1).await;
    let range = "from=2026-11-23&to=2026-11-24";
    for uri in
        ["/v1/status", "/v1/windows", "/v1/busy", "/v1/events", &format!("/v1/free?{range}&need=2")]
    {
        let answer = all.get(0, uri).await;
        assert_eq!(answer["incomplete"], json!(["1"]), "{uri}");
    }
    assert_eq!(all.get(0, "/v1/status").await["healthy"], false);
    assert_eq!(all.get(0, "/v1/windows").await["total"], 4);
    let events = all.get(0, "/v1/events").await;
    assert_eq!((&events["complete"], events["cursors"].get("1")), (&json!(false), None));
    // Its windows are not free, and all are needed.
    let free = all.get(0, &format!("/v1/free?{range}")).await;
    assert_eq!((&free["value"], &free["need"]), (&json!([]), &json!(7)));
    let missing = |window: &str| json!({"window": window, "reason": "shard_missing"});
    assert_eq!(free["unknown"], json!([missing("bob"), missing("dave"), missing("é")]));
    // Who selects nothing of it does not need it.
    for uri in [format!("/v1/free?{range}&windows=alice,carol"), "/v1/events?windows=alice".into()]
    {
        assert_eq!(all.get(0, &uri).await["incomplete"], json!([]), "{uri}");
    }
    // A page after the first one lacks it, and so do those after it when it is back.
    let next = first["next"].as_str().unwrap();
    let second = all.get(0, &format!("/v1/events?page={next}&limit=1")).await;
    assert_eq!((&second["value"], &second["incomplete"]), (&json!([]), &json!(["1"])));
    let page = all.get(0, "/v1/events?limit=1&windows=alice,room*").await;
    assert_eq!(page["incomplete"], json!(["1"]));
    let listener = TcpListener::bind(all.addresses[1]).await.unwrap();
    all.serve(1, listener);
    assert_eq!(all.get(0, "/v1/events").await["incomplete"], json!([]));
}

#[tokio::test]
async fn a_shard_that_was_missing_on_the_first_page_stays_missing() {
    let mut all = ShardFixture::new(2, &[("a", 0), ("b", 1)], Vec::new()).await;
    all.put("a", &[event("1", 9, 1, "busy"), event("2", 10, 1, "busy")]).await;
    all.put("b", &[event("3", 11, 1, "busy")]).await;
    all.kill(1).await;
    let first = all.get(0, "/v1/events?limit=1").await;
    assert_eq!(first["incomplete"], json!(["1"]));
    let listener = TcpListener::bind(all.addresses[1]).await.unwrap();
    all.serve(1, listener);
    let uri = format!("/v1/events?limit=9&page={}", first["next"].as_str().unwrap());
    for asked in [0, 1] {
        let second = all.get(asked, &uri).await;
        let ids: Vec<_> =
            second["value"].as_array().unwrap().iter().map(|one| &one["event"]["id"]).collect();
        assert_eq!((ids, &second["incomplete"]), (vec![&json!("2")], &json!(["1"])), "{asked}");
    }
    // A list of the windows of one shard goes on at any.
    let first = all.get(0, "/v1/events?limit=1&windows=a").await;
    let uri = format!("/v1/events?windows=a&page={}", first["next"].as_str().unwrap());
    let second = all.get(1, &uri).await;
    assert_eq!(
        (&second["value"][0]["event"]["id"], &second["incomplete"]),
        (&json!("2"), &json!([]))
    );
}

#[tokio::test]
async fn pages_and_the_changes_after_their_cursors_are_the_mirror() {
    let all = ShardFixture::new(2, &[("a", 0), ("b", 1)], Vec::new()).await;
    for (window, ids) in [("a", ["1", "3"]), ("b", ["2", "4"])] {
        let events = ids.map(|id| event(id, id.parse().unwrap(), 1, "busy"));
        all.put(window, &events).await;
    }
    let first = all.get(0, "/v1/events?limit=2").await;
    all.put("b", &[event("2", 9, 1, "oof"), event("5", 1, 1, "busy")]).await;
    let uri = format!("/v1/events?page={}", first["next"].as_str().unwrap());
    let second = all.get(1, &uri).await;
    assert_eq!(first["cursors"], second["cursors"]);
    let mut mirror = Mirror::new();
    for entry in [&first, &second].into_iter().flat_map(|list| list["value"].as_array().unwrap()) {
        mirror.insert(entry["event"]["id"].as_str().unwrap().to_owned(), entry["event"].clone());
    }
    for shard in 0..2 {
        let cursor = first["cursors"][shard.to_string()].as_str().unwrap();
        let uri = format!("/v1/changes?after={cursor}");
        let (_, _, body) = send(&all.shards[shard], ("GET", &uri, "full"), &[]).await;
        let lines: Vec<Value> =
            body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        apply(&mut mirror, &lines);
    }
    assert_eq!(mirror.keys().collect::<Vec<_>>(), ["1", "2", "3", "4", "5"]);
    assert_eq!(mirror["2"]["showAs"], "oof");
    // A shard with another store does not know its cursor.
    let other = ShardFixture::new(2, &[("a", 0), ("b", 1)], Vec::new()).await;
    let (status, _, body) = send(&other.shards[0], ("GET", &uri, "full"), &[]).await;
    assert_eq!(status, 410, "{body}");
}

#[tokio::test]
async fn only_a_name_that_no_shard_has_is_unknown() {
    let all = ShardFixture::new(3, &WINDOWS, Vec::new()).await;
    for route in ["events", "busy", "free"] {
        for (windows, expected) in
            [("carol", 200), ("alice,carol", 200), ("c*", 200), ("alice,x", 404), ("x*", 404)]
        {
            let uri = format!("/v1/{route}?windows={windows}&from=2026-11-23&to=2026-11-24");
            for shard in &all.shards {
                let (status, _, body) = send(shard, ("GET", &uri, "full"), &[]).await;
                assert_eq!(status, expected, "{uri}: {body}");
            }
        }
        let (status, ..) =
            send(&all.shards[0], ("GET", &format!("/v1/{route}?limit=x&need=x"), "full"), &[])
                .await;
        assert_eq!(status, 400, "{route}");
    }
}

#[tokio::test]
async fn a_merged_answer_is_not_sent_again_unchanged() {
    let mut all = ShardFixture::new(2, &[("a", 0), ("b", 1)], Vec::new()).await;
    let uris = ["/v1/windows", "/v1/busy", "/v1/events", "/v1/free?from=2026-11-23&to=2026-11-24"];
    let tags = async |all: &ShardFixture| {
        let mut tags = Vec::new();
        for uri in uris {
            let (_, headers, _) = send(&all.shards[0], ("GET", uri, "full"), &[]).await;
            tags.push(headers["etag"].to_str().unwrap().to_owned());
        }
        tags
    };
    let first = tags(&all).await;
    // Ages change nothing.
    all.change("b", |status| status.stale_s = Some(61.0));
    for (uri, tag) in uris.iter().zip(&first) {
        let (status, ..) =
            send(&all.shards[0], ("GET", uri, "full"), &[("if-none-match", tag)]).await;
        assert_eq!(status, 304, "{uri}");
    }
    all.put("b", &[event("b", 9, 1, "busy")]).await;
    all.change("b", |status| status.events = 1);
    let second = tags(&all).await;
    assert!(first.iter().zip(&second).all(|(first, second)| first != second));
    all.kill(1).await;
    let third = tags(&all).await;
    assert!(third.iter().zip(&second).all(|(first, second)| first != second));
}
