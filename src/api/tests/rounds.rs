//! Recorded rounds, and requested rounds.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_round_history_is_returned() {
    let fixture = Fixture::new().await;
    let none = fixture.get("/v1/windows/alice/rounds").await;
    assert_eq!(none, json!({"value": [], "quiet": 0}));
    let expected = json!({"number": 977, "at": NOON, "took_ms": 180, "requests": 3, "pages": 2, "created": 1,
        "updated": 0, "removed": 0, "outcome": "settled", "resync": "requested"});
    let past = json!({"value": [expected], "quiet": 5});
    *fixture.fleet.rounds.lock().unwrap() =
        serde_json::from_value::<model::PastRoundsJson>(past.clone()).unwrap().into();
    assert_eq!(fixture.get("/v1/windows/room%20a%2Fb/rounds").await, past);
}

#[tokio::test(start_paused = true)]
async fn rounds_can_be_requested_and_awaited() {
    let fixture = Fixture::new().await;
    let (status, _, body) = fixture.ask("POST", "/v1/windows/alice/sync").await;
    assert_eq!((status, &*body), (StatusCode::ACCEPTED, r#"{"round":982,"window":"alice"}"#));
    let uri = "/v1/windows/alice/resync?wait=1h&accept_removals=true";
    let (status, _, body) = fixture.ask("POST", uri).await;
    assert_eq!(status, StatusCode::OK);
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["last_round"]["number"], 982);
    assert_eq!(
        *fixture.fleet.asked.lock().unwrap(),
        ["sync alice None", "resync alice true Some(300s)"]
    );
}
