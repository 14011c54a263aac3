//! Events of a window, and pages of them.

use super::*;

#[tokio::test(start_paused = true)]
async fn times_are_accepted_in_every_form_of_the_configuration() {
    let fixture = Fixture::new().await;
    fixture.write(fixture.id("alice"), &[("a", 9, "")], &[]).await;
    for (from, listed) in [
        ("2026-11-21T09:29:59Z", true),
        ("2026-11-21T09:30:00Z", false),
        ("2026-11-21T10:29:59+01:00", true),
        ("2026-11-21T10%3A30%3A00%2B01%3A00", false),
        ("2026-11-21", true),
        ("2026-11-22", false),
        ("now", true),
        ("+1d", false),
        ("%2B1d", false),
        ("-2w", true),
        ("-1mo", true),
        ("+1y", false),
    ] {
        let list = fixture.get(&format!("/v1/windows/alice/events?from={from}")).await;
        assert_eq!(ids(&list["value"]).len(), usize::from(listed), "{from}");
    }
}

#[tokio::test(start_paused = true)]
async fn pages_and_later_changes_reproduce_the_mirror() {
    let fixture = Fixture::new().await;
    let alice = fixture.id("alice");
    let events = [("c", 11, ""), ("a", 9, ""), ("b", 10, ""), ("d", 12, "")];
    fixture.write(alice, &events, &[]).await;

    let first = fixture.get("/v1/windows/alice/events?limit=2").await;
    assert_eq!(ids(&first["value"]), ["a", "b"]);
    assert_eq!(first["complete"], true);
    assert_eq!(first["as_of"], "2026-11-21T11:59:00Z");
    // Between the pages one event already read is removed, one changes, and one is created before
    // the key.
    fixture.write(alice, &[("b", 10, r#","x":1"#), ("0", 8, "")], &["a"]).await;
    let next = first["next"].as_str().unwrap();
    let second = fixture.get(&format!("/v1/windows/alice/events?limit=2&page={next}")).await;
    assert_eq!(ids(&second["value"]), ["c", "d"]);
    assert_eq!(second["cursor"], first["cursor"], "every page repeats the first one's cursor");

    let cursor = first["cursor"].as_str().unwrap();
    let (lines, _) = fixture.changes(&format!("/v1/changes?after={cursor}")).await;
    let mut changes = changes_in(&lines);
    changes.sort();
    assert_eq!(changes, ["created 0", "removed a", "updated b"]);
    let removed = lines.iter().find(|line| line["change"] == "removed").unwrap();
    assert_eq!(removed["reason"], "deleted");
    assert_eq!(removed.get("event"), None);
    let updated = lines.iter().find(|line| line["change"] == "updated").unwrap();
    assert_eq!(updated["event"], json!({"id": "b", "subject": "s10", "x": 1}));
    assert_eq!(updated.get("reason"), None);
}

#[tokio::test(start_paused = true)]
async fn an_event_is_found_by_its_encoded_id_and_returned_unchanged() {
    let fixture = Fixture::new().await;
    let more = r#", "Odd" : 1.50,"n":null"#;
    fixture.write(fixture.id("room a/b"), &[("A/b+c=", 9, more)], &[]).await;
    let (status, headers, body) =
        fixture.ask("GET", "/v1/windows/room%20a%2Fb/events/A%2Fb%2Bc%3D").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(body, r#"{"id":"A/b+c=","subject":"s9", "Odd" : 1.50,"n":null}"#);
    let (status, ..) = fixture.ask("GET", "/v1/windows/room%20a%2Fb/events/a%2Fb%2Bc%3D").await;
    assert_eq!(status, StatusCode::NOT_FOUND, "ids are compared as bytes");
}
