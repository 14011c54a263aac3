//! Tests what Microsoft's own client libraries rely on (discovery, links with the requested
//! address, consistent dates), and that the simulator can run for days.

use serde_json::json;

use super::*;

fn plain() -> Simulator {
    let env = Env::simulated(1, at("2026-03-02T08:00:00Z"));
    let simulator = Simulator::new(SimulatorSettings::new(1, env));
    simulator.add_mailbox(ALICE);
    simulator
}

/// Answers a request as received from a socket: a path, and the address in headers.
async fn over_socket(simulator: &Simulator, path: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    let mut request = http::Request::get(path)
        .header("authorization", format!("Bearer {}", simulator.access_token()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = simulator.answer(request.body(Bytes::new()).unwrap()).await;
    let SimulatedResponse::Response(response) = answer else { panic!("no response") };
    let body = serde_json::from_slice(response.body()).unwrap_or(Value::Null);
    (response.status().as_u16(), body)
}

#[tokio::test(start_paused = true)]
async fn links_lead_to_the_requested_address() {
    let simulator = plain();
    let path =
        format!("/v1.0/users/{ALICE}/calendarView/delta?startDateTime={START}&endDateTime={END}");
    for (headers, base) in [
        (vec![("host", "127.0.0.1:8081")], "http://127.0.0.1:8081"),
        (vec![("host", "[::1]:8081")], "http://[::1]:8081"),
        (
            vec![("host", "graph.microsoft.com"), ("x-forwarded-proto", "https")],
            "https://graph.microsoft.com",
        ),
        (
            vec![
                ("host", "inner:1"),
                ("x-forwarded-proto", "https, http"),
                ("x-forwarded-host", "graph.lan, other"),
            ],
            "https://graph.lan",
        ),
        (
            vec![
                ("host", "inner:1"),
                ("forwarded", "for=10.0.0.1;proto=HTTPS;host=\"graph.lan:8443\", proto=http"),
            ],
            "https://graph.lan:8443",
        ),
        (vec![], "https://graph.microsoft.com"),
        (vec![("host", "user@elsewhere")], "https://graph.microsoft.com"),
    ] {
        let (status, page) = over_socket(&simulator, &path, &headers).await;
        assert_eq!(status, 200, "{headers:?}: {page}");
        let link = page["@odata.deltaLink"].as_str().unwrap();
        assert!(link.starts_with(&format!("{base}/v1.0/users/")), "{headers:?}: {link}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_path_without_a_version_is_refused() {
    let simulator = plain();
    for path in [
        format!("/users/{ALICE}"),
        format!("/beta/users/{ALICE}"),
        format!("/users/{ALICE}/calendarView?startDateTime={START}&endDateTime={END}"),
    ] {
        let (status, body) = over_socket(&simulator, &path, &[]).await;
        assert_eq!((status, code(&body)), (400, "BadRequest"), "{path}");
        assert!(body["error"]["message"].as_str().unwrap().starts_with("Invalid version: "));
    }
    assert_eq!(over_socket(&simulator, &format!("/v1.0/users/{ALICE}"), &[]).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn endpoints_are_found_by_discovery_without_a_token() {
    let simulator = plain();
    let seen = [("host", "login.lan:8443"), ("x-forwarded-proto", "https")];
    for (path, tenant) in [
        ("/contoso/v2.0/.well-known/openid-configuration", "contoso"),
        ("/contoso/.well-known/openid-configuration", "contoso"),
        ("/.well-known/openid-configuration", "common"),
    ] {
        let (status, document) = over_socket(&simulator, path, &seen).await;
        assert_eq!(status, 200, "{path}");
        let login = format!("https://login.lan:8443/{tenant}");
        assert_eq!(document["issuer"], format!("{login}/v2.0"));
        assert_eq!(document["token_endpoint"], format!("{login}/oauth2/v2.0/token"));
        assert_eq!(document["authorization_endpoint"], format!("{login}/oauth2/v2.0/authorize"));
    }
    let path = "/common/discovery/instance?api-version=1.1\
                &authorization_endpoint=https%3A%2F%2Flogin.lan%3A8443%2Fcontoso%2Foauth2%2Fv2.0%2Fauthorize";
    let (status, found) = over_socket(&simulator, path, &seen).await;
    assert_eq!(status, 200);
    assert_eq!(
        found["tenant_discovery_endpoint"],
        "https://login.lan:8443/contoso/v2.0/.well-known/openid-configuration"
    );
    assert_eq!(found["metadata"][0]["aliases"], json!(["login.lan:8443"]));
    let (status, refused) = over_socket(&simulator, "/common/discovery/instance", &seen).await;
    assert_eq!((status, &refused["error"]), (400, &json!("invalid_request")));
    assert_eq!(simulator.statistics(), Statistics::default());
}

#[tokio::test(start_paused = true)]
async fn nothing_was_modified_before_it_was_created() {
    let simulator = small(1, Behaviour::calm());
    for _ in 0..300 {
        simulator.mutate_randomly();
    }
    let events =
        simulator.truth(ALICE, None, at("2025-01-01T00:00:00Z"), at("2027-12-01T00:00:00Z"));
    assert!(events.len() > 100);
    for event in events {
        let (created, modified) = (&event["createdDateTime"], &event["lastModifiedDateTime"]);
        // Both have seven digits and are UTC, so they sort as texts.
        assert!(created.as_str() <= modified.as_str(), "{created} {modified}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_running_organisation_does_not_grow() {
    let simulator = plain();
    let now = at("2026-03-02T08:00:00Z");
    let addresses = simulator.organisation(2, 1, now);
    let mut client = Client { mailbox: "alice@contoso.example", ..Client::new(&simulator, 50) };
    client.round().await;
    for _ in 0..8000 {
        simulator.mutate_randomly();
    }
    for mailbox in &simulator.state().mailboxes {
        let items = &mailbox.calendars[0].items;
        let series = items.values().filter(|item| item.series.is_some()).count();
        assert!(series <= 13, "{series} series");
        assert!(items.len() - series <= 100, "{} single events", items.len() - series);
    }
    assert_eq!(addresses.len(), 3);
    // More changed than the log keeps: the link is dead, as with Graph.
    let (status, body) = get(&simulator, &client.link, "").await;
    assert_eq!((status, code(&body)), (410, "SyncStateNotFound"));
}
