//! Status, windows and readiness.

use super::*;

#[tokio::test(start_paused = true)]
async fn status_and_windows() {
    let fixture = Fixture::new().await;
    let (_, _, status) = fixture.ask("GET", "/v1/status").await;
    let incarnation = fixture.store.incarnation();
    assert!(!incarnation.is_empty());
    insta::assert_snapshot!(status.replace(&incarnation, "…"));

    let first = fixture.get("/v1/windows?limit=1").await;
    assert_eq!(first["value"][0]["name"], "alice");
    let next = first["next"].as_str().unwrap();
    let second = fixture.get(&format!("/v1/windows?limit=1&page={next}")).await;
    assert_eq!(second["value"][0]["name"], "room a/b");
    assert_eq!(second["next"], Value::Null);
    assert_eq!(fixture.get("/v1/windows/room%20a%2Fb").await["mailbox"], "room@contoso.com");
    let held = fixture.get("/v1/windows?state=held").await;
    assert_eq!(held["value"], json!([]));
    let settled = fixture.get("/v1/windows?state=settled").await;
    assert_eq!(settled["value"].as_array().map(Vec::len), Some(2));
}

#[tokio::test(start_paused = true)]
async fn windows_are_filtered_and_sorted_by_trouble() {
    let fixture = Fixture::new().await;
    for name in ["Bob", "carol", "dave", "eve", "frank"] {
        fixture.add_window(name, &format!("{name}@Fabrikam.com")).await;
    }
    for (name, state, stale_s, settled_once) in [
        ("Bob", WindowState::Following, 10.0, true),
        ("carol", WindowState::BackingOff, 10.0, true),
        ("dave", WindowState::SignInRequired, 10.0, true),
        ("eve", WindowState::Settled, 901.0, true),
        ("frank", WindowState::Enumerating, 10.0, false),
    ] {
        let mut windows = fixture.fleet.windows.lock().unwrap();
        let (status, _) = windows.iter_mut().find(|(status, _)| status.name == name).unwrap();
        (status.state, status.stale_s, status.settled_once) = (state, Some(stale_s), settled_once);
    }
    let names = |list: &Value| -> Vec<String> {
        let values = list["value"].as_array().unwrap().iter();
        values.map(|window| window["name"].as_str().unwrap().to_owned()).collect()
    };
    for (query, expected) in [
        ("", &["Bob", "alice", "carol", "dave", "eve", "frank", "room a/b"][..]),
        ("order=name&q=FABRIKAM", &["Bob", "carol", "dave", "eve", "frank"]),
        ("order=trouble", &["dave", "carol", "eve", "frank", "Bob", "alice", "room a/b"]),
        ("order=trouble&q=fab&state=settled,following", &["eve", "Bob"]),
        ("state=held,backing_off", &["carol"]),
        ("q=a%2Fb", &["room a/b"]),
        ("q=contoso&state=settled", &["alice", "eve", "room a/b"]),
        ("q=nobody", &[]),
    ] {
        let whole = fixture.get(&format!("/v1/windows?{query}")).await;
        assert_eq!(names(&whole), expected, "{query}");
        assert_eq!((&whole["total"], &whole["next"]), (&json!(expected.len()), &Value::Null));
        // Small pages give the same windows in the same order.
        let (mut all, mut page) = (Vec::new(), String::new());
        loop {
            let list = fixture.get(&format!("/v1/windows?{query}&limit=2{page}")).await;
            assert_eq!(list["total"], expected.len(), "{query}");
            all.extend(names(&list));
            match list["next"].as_str() {
                Some(next) => page = format!("&page={next}"),
                None => break,
            }
        }
        assert_eq!(all, expected, "{query} in pages");
    }
    let next = fixture.get("/v1/windows?limit=1").await["next"].as_str().unwrap().to_owned();
    let (status, ..) = fixture.ask("GET", &format!("/v1/windows?order=trouble&page={next}")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "a key of another order");
}

#[tokio::test(start_paused = true)]
async fn readiness_ignores_windows_in_trouble() {
    let fixture = Fixture::new().await;
    let ready = async |uri: &str| fixture.ask("GET", uri).await.0.as_u16();
    assert_eq!(ready("/readyz?settled=1").await, 200);
    fixture.fleet.windows.lock().unwrap()[0].0.settled_once = false;
    assert_eq!(ready("/readyz").await, 200);
    assert_eq!(ready("/readyz?settled=1").await, 503);
    fixture.fleet.windows.lock().unwrap()[0].0.state = WindowState::Quarantined;
    assert_eq!(ready("/readyz?settled=1").await, 200);
    assert_eq!(ready("/healthz").await, 200);
    fixture.stopping.give();
    assert_eq!(ready("/healthz").await, 503);
    assert_eq!(ready("/readyz").await, 503);
}
