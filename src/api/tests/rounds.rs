//! Rounds on request.

use super::*;

#[tokio::test(start_paused = true)]
async fn rounds_are_asked_for_and_waited_for() {
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
