//! Access checks, and the masking of private events.

use super::*;

#[tokio::test(start_paused = true)]
async fn private_events_are_redacted_in_every_response() {
    let mut fixture = Fixture::new().await;
    fixture.settings.mask_private = true;
    let more = r#","sensitivity":"private","showAs":"busy""#;
    fixture.write(fixture.id("alice"), &[("p", 9, more)], &[]).await;
    let masked = json!({"id": "p", "sensitivity": "private", "showAs": "busy"});
    assert_eq!(fixture.get("/v1/windows/alice/events").await["value"], json!([masked]));
    assert_eq!(fixture.get("/v1/windows/alice/events/p").await, masked);
    assert_eq!(fixture.changes("/v1/changes").await.0[0]["event"], masked);
    let request = Request::get("/v1/changes").header("accept", "text/event-stream");
    let response = router(fixture.app()).oneshot(request.body(Body::empty()).unwrap()).await;
    let frame = response.unwrap().into_body().into_data_stream().next().await.unwrap().unwrap();
    let frame = String::from_utf8(frame.to_vec()).unwrap();
    let data = frame.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(data).unwrap()["event"], masked);
}

#[tokio::test(start_paused = true)]
async fn over_tcp_every_route_checks_access() {
    let mut fixture = Fixture::new().await;
    fixture.settings.token = Some(TokenHash::new("t0ken"));
    let tcp = tcp_router(fixture.app(), "127.0.0.1:8380".parse().unwrap());
    for (uri, host, token, status) in [
        ("/healthz", "localhost:8380", None, 401),
        ("/nowhere", "localhost:8380", None, 401),
        ("/v1/status", "localhost:8380", Some("Bearer t0ken"), 200),
        ("/v1/status", "evil.example", Some("Bearer t0ken"), 421),
    ] {
        let mut request = Request::get(uri).header("host", host);
        if let Some(token) = token {
            request = request.header("authorization", token);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = tcp.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{uri} {host}");
        assert_eq!(response.headers().contains_key("www-authenticate"), status == 401);
    }
}
