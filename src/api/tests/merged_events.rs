//! The events of many windows in one list.

use super::*;

async fn fixture() -> Fixture {
    let fixture = Fixture::new().await;
    fixture.add_window("bob", "bob@contoso.com").await;
    for (window, ids) in [("alice", ["a1", "a2", "a3"]), ("bob", ["b1", "b2", "b3"])] {
        let events = ids.into_iter().zip([9, 9, 11]).map(|(id, hour)| (id, hour, ""));
        fixture.write(fixture.id(window), &events.collect::<Vec<_>>(), &[]).await;
    }
    fixture.write(fixture.id("room a/b"), &[("r1", 8, ""), ("r2", 10, "")], &[]).await;
    fixture
}

/// The windows and ids of a list.
fn listed(list: &Value) -> Vec<String> {
    let entry = |entry: &Value| {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        format!("{} {}", text(&entry["window"]), text(&entry["event"]["id"]))
    };
    list["value"].as_array().unwrap().iter().map(entry).collect()
}

#[tokio::test(start_paused = true)]
async fn events_of_many_windows_are_merged_in_order_and_paged() {
    let fixture = fixture().await;
    let all = [
        "room a/b r1",
        "alice a1",
        "alice a2",
        "bob b1",
        "bob b2",
        "room a/b r2",
        "alice a3",
        "bob b3",
    ];
    let list = fixture.get("/v1/events").await;
    assert_eq!(
        (listed(&list), &list["next"], &list["complete"]),
        (all.map(str::to_owned).to_vec(), &json!(null), &json!(true))
    );
    assert_eq!(listed(&fixture.get("/v1/events?windows=alice,b*").await).len(), 6);
    assert_eq!(listed(&fixture.get("/v1/events?window=bob&fields=id").await)[0], "bob b1");
    let late = fixture.get("/v1/events?from=2026-11-21T10:15:00Z").await;
    assert_eq!(listed(&late), &all[5..]);
    for limit in 1..=8 {
        let (mut pages, mut next) = (Vec::new(), String::new());
        loop {
            let list = fixture.get(&format!("/v1/events?limit={limit}{next}")).await;
            assert!(listed(&list).len() <= limit);
            pages.extend(listed(&list));
            match list["next"].as_str() {
                Some(page) => next = format!("&page={page}"),
                None => break,
            }
        }
        assert_eq!(pages, all, "{limit}");
    }
}

#[tokio::test(start_paused = true)]
async fn pages_of_many_windows_and_the_changes_after_them_are_the_mirror() {
    let fixture = fixture().await;
    let first = fixture.get("/v1/events?window=*&limit=3").await;
    // One event moves to the front, one is new, and one is gone.
    fixture.write(fixture.id("bob"), &[("b3", 7, ""), ("b4", 12, "")], &["b1"]).await;
    let next = first["next"].as_str().unwrap();
    let second = fixture.get(&format!("/v1/events?window=*&page={next}")).await;
    assert_eq!(second["cursor"], first["cursor"]);
    let mut mirror = Mirror::new();
    for entry in [&first, &second].into_iter().flat_map(|list| list["value"].as_array().unwrap()) {
        mirror.insert(entry["event"]["id"].as_str().unwrap().to_owned(), entry["event"].clone());
    }
    let cursor = first["cursor"].as_str().unwrap();
    apply(&mut mirror, &fixture.changes(&format!("/v1/changes?window=*&after={cursor}")).await.0);
    let expected = ["a1", "a2", "a3", "b2", "b3", "b4", "r1", "r2"];
    assert_eq!(mirror.keys().collect::<Vec<_>>(), expected);
    assert_eq!(mirror["b3"]["subject"], "s7");
    let (status, ..) = fixture.ask("GET", &format!("/v1/events?window=b*&page={next}")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "a page of another selection");
    for query in ["windows=missing", "windows=alice,x*", "group=nothing"] {
        let (status, ..) = fixture.ask("GET", &format!("/v1/events?{query}")).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{query}");
    }
}

/// A filter that refuses long runs of events ends neither a page nor the list.
#[tokio::test(start_paused = true)]
async fn events_behind_many_refused_ones_are_listed() {
    let fixture = fixture().await;
    let names: Vec<String> = (0..3000).map(|number| format!("x{number:04}")).collect();
    let many: Vec<_> = names.iter().map(|name| (&**name, 9, "")).collect();
    for part in many.chunks(500) {
        fixture.write(fixture.id("bob"), part, &[]).await;
    }
    fixture.write(fixture.id("bob"), &[("y1", 12, r#","showAs":"oof""#)], &[]).await;
    fixture.write(fixture.id("alice"), &[("y0", 7, r#","showAs":"oof""#)], &[]).await;
    fixture.write(fixture.id("alice"), &[("y2", 13, r#","showAs":"oof""#)], &[]).await;
    let expected = ["alice y0", "bob y1", "alice y2"];
    assert_eq!(listed(&fixture.get("/v1/events?showAs=oof").await), expected);
    let (mut pages, mut next) = (Vec::new(), String::new());
    loop {
        let list = fixture.get(&format!("/v1/events?showAs=oof&limit=1{next}")).await;
        pages.extend(listed(&list));
        match list["next"].as_str() {
            Some(page) => next = format!("&page={page}"),
            None => break,
        }
    }
    assert_eq!(pages, expected);
}

#[tokio::test(start_paused = true)]
async fn a_list_of_many_windows_is_not_sent_again_unchanged() {
    let fixture = fixture().await;
    let (_, headers, _) = fixture.ask("GET", "/v1/events").await;
    let tag = headers["etag"].to_str().unwrap();
    let again = async || fixture.ask_with("GET", "/v1/events", &[("if-none-match", tag)]).await.0;
    assert_eq!(again().await, StatusCode::NOT_MODIFIED);
    fixture.write(fixture.id("bob"), &[("b5", 13, "")], &[]).await;
    assert_eq!(again().await, StatusCode::OK);
}
