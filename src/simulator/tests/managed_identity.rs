//! Tests the endpoints of managed identities: what they require, and whom they know.

use serde_json::json;

use super::*;

const MACHINE: &str = "/metadata/identity/oauth2/token?api-version=2018-02-01\
                       &resource=https%3A%2F%2Fgraph.microsoft.com";
const APP_SERVICE: &str =
    "/msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fgraph.microsoft.com";
const ARC: &str = "/arc/metadata/identity/oauth2/token?api-version=2019-11-01\
                   &resource=https%3A%2F%2Fgraph.microsoft.com";

async fn ask(
    simulator: &Simulator,
    path: &str,
    headers: &[(&str, &str)],
) -> (u16, Value, Option<String>) {
    let mut request = http::Request::get(format!("http://169.254.169.254{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = simulator.answer(request.body(Bytes::new()).unwrap()).await;
    let SimulatedResponse::Response(response) = answer else { panic!("no response") };
    let challenge = response.headers().get("www-authenticate");
    let challenge = challenge.map(|value| value.to_str().unwrap().to_owned());
    let body = serde_json::from_slice(response.body()).unwrap_or(Value::Null);
    (response.status().as_u16(), body, challenge)
}

async fn ask_machine(simulator: &Simulator, more: &str) -> (u16, Value) {
    let (status, body, _) =
        ask(simulator, &format!("{MACHINE}{more}"), &[("metadata", "true")]).await;
    (status, body)
}

#[tokio::test(start_paused = true)]
async fn a_machine_gets_a_token_with_texts_for_numbers() {
    let simulator = small(1, Behaviour::calm());
    let (status, body) = ask_machine(&simulator, "").await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["expires_in"], "3599");
    let now = at("2026-03-02T08:00:00Z").as_second();
    assert_eq!(body["expires_on"], (now + 3599).to_string());
    assert_eq!(body["token_type"], "Bearer");
    let token = body["access_token"].as_str().unwrap();
    assert_eq!(get_with(&simulator, token, &window_url(ALICE), "").await.0, 200);
    // The platform caches tokens until they are half over.
    assert_eq!(ask_machine(&simulator, "").await.1["access_token"], token);
    tokio::time::advance(Duration::from_secs(1801)).await;
    assert_ne!(ask_machine(&simulator, "").await.1["access_token"], token);
    assert_eq!(simulator.statistics().identity_requests, 3);
    assert_eq!(simulator.statistics().token_requests, 0);
}

#[tokio::test(start_paused = true)]
async fn the_metadata_service_refuses_malformed_and_forwarded_requests() {
    let simulator = small(1, Behaviour::calm());
    let metadata = ("metadata", "true");
    for (path, headers, status, error) in [
        (MACHINE, vec![], 400, "bad_request_102"),
        (MACHINE, vec![("metadata", "True")], 400, "bad_request_102"),
        (MACHINE, vec![metadata, ("x-forwarded-for", "10.0.0.1")], 400, "invalid_request"),
        ("/metadata/identity/oauth2/token", vec![metadata], 400, "invalid_request"),
        (
            "/metadata/identity/oauth2/token?api-version=2018-02-01",
            vec![metadata],
            400,
            "invalid_request",
        ),
        (
            "/metadata/identity/oauth2/token?api-version=2018-02-01\
             &resource=https://graph.microsoft.com/.default",
            vec![metadata],
            400,
            "invalid_resource",
        ),
    ] {
        let (found, body, _) = ask(&simulator, path, &headers).await;
        assert_eq!((found, &body["error"]), (status, &json!(error)), "{path} {headers:?}");
    }
    let post = http::Request::post(format!("http://169.254.169.254{MACHINE}"));
    let post = post.header("metadata", "true").body(Bytes::new()).unwrap();
    let SimulatedResponse::Response(response) = simulator.answer(post).await else { panic!() };
    assert_eq!(response.status(), 405);
    // A token for another service is granted, and Graph refuses it.
    let path = MACHINE.replace("graph.microsoft.com", "management.azure.com");
    let (status, body, _) = ask(&simulator, &path, &[metadata]).await;
    assert_eq!(status, 200);
    let token = body["access_token"].as_str().unwrap();
    let (status, body) = get_with(&simulator, token, &window_url(ALICE), "").await;
    assert_eq!((status, code(&body)), (401, "InvalidAuthenticationToken"));
}

#[tokio::test(start_paused = true)]
async fn only_assigned_identities_get_tokens() {
    let simulator = small(1, Behaviour::calm());
    assert_eq!(ask_machine(&simulator, "&client_id=Any").await.1["client_id"], "any");
    let assign = |system_assigned, user: &[&str]| {
        simulator.set_managed_identities(ManagedIdentities {
            system_assigned,
            user_assigned: Some(user.iter().map(|&id| id.to_owned()).collect()),
            ..ManagedIdentities::default()
        });
    };
    assign(false, &[]);
    let (status, body) = ask_machine(&simulator, "").await;
    assert_eq!((status, &body["error"]), (400, &json!("unauthorized_client")));
    assign(false, &["one"]);
    assert_eq!(ask_machine(&simulator, "").await.1["client_id"], "one");
    assert_eq!(ask_machine(&simulator, "&client_id=two").await.1["error"], "unauthorized_client");
    assign(false, &["one", "two"]);
    assert_eq!(ask_machine(&simulator, "").await.1["error"], "invalid_request");
    assert_eq!(ask_machine(&simulator, "&client_id=two").await.0, 200);
    let header = [("x-identity-header", "simulated-identity-header")];
    let (status, body, _) = ask(&simulator, APP_SERVICE, &header).await;
    assert_eq!((status, &body["statusCode"]), (400, &json!(400)));
    assert!(body["message"].as_str().unwrap().starts_with("No User Assigned"));
    let (status, body, _) = ask(&simulator, &format!("{APP_SERVICE}&client_id=one"), &header).await;
    assert_eq!((status, &body["client_id"]), (200, &json!("one")));
}

#[tokio::test(start_paused = true)]
async fn app_service_wants_its_own_header() {
    let simulator = small(1, Behaviour::calm());
    let header = "x-identity-header";
    assert_eq!(ask(&simulator, APP_SERVICE, &[]).await.0, 401);
    assert_eq!(ask(&simulator, APP_SERVICE, &[(header, "wrong")]).await.0, 401);
    let right = [(header, "simulated-identity-header")];
    let (status, body, _) = ask(&simulator, APP_SERVICE, &right).await;
    assert_eq!(status, 200);
    assert!(body["expires_on"].is_string() && body["expires_in"].is_null(), "{body}");
    let old = APP_SERVICE.replace("2019-08-01", "2017-09-01");
    assert_eq!(ask(&simulator, &old, &right).await.0, 400);
}

#[tokio::test(start_paused = true)]
async fn arc_wants_the_content_of_its_key_file_once() {
    let simulator = small(1, Behaviour::calm());
    let directory = tempfile::tempdir().unwrap();
    simulator.set_managed_identities(ManagedIdentities {
        arc_directory: Some(directory.path().to_owned()),
        ..ManagedIdentities::default()
    });
    let challenged = async || {
        let (status, _, challenge) = ask(&simulator, ARC, &[("metadata", "true")]).await;
        assert_eq!(status, 401);
        challenge.map(|text| text.strip_prefix("Basic realm=").unwrap().to_owned())
    };
    let file = challenged().await.unwrap();
    assert!(file.starts_with(directory.path().to_str().unwrap()) && file.ends_with(".key"));
    let key = std::fs::read_to_string(&file).unwrap();
    let basic = format!("Basic {key}");
    let headers = [("metadata", "true"), ("authorization", basic.as_str())];
    let (status, body, _) = ask(&simulator, &format!("{ARC}&client_id=x"), &headers).await;
    assert_eq!((status, &body["error"]), (400, &json!("invalid_request")));
    assert_eq!(ask(&simulator, ARC, &headers).await.0, 401, "a key works once");
    let key = std::fs::read_to_string(challenged().await.unwrap()).unwrap();
    let basic = format!("Basic {key}");
    let headers = [("metadata", "true"), ("authorization", basic.as_str())];
    let (status, body, _) = ask(&simulator, ARC, &headers).await;
    assert_eq!(status, 200, "{body}");
    assert!(body["expires_in"].is_string());

    let next = |how| simulator.plan(PlannedFault::once(Fault::Identity { how }));
    next(IdentityFault::ArcElsewhere);
    assert!(challenged().await.unwrap().contains("/../"));
    next(IdentityFault::ArcOtherExtension);
    assert!(challenged().await.unwrap().ends_with(".txt"));
    next(IdentityFault::ArcLongKey);
    assert!(std::fs::metadata(challenged().await.unwrap()).unwrap().len() > 4096);
    next(IdentityFault::ArcMissingKey);
    assert!(std::fs::metadata(challenged().await.unwrap()).is_err());
    next(IdentityFault::ArcNoChallenge);
    assert_eq!(challenged().await, None);
}

#[tokio::test(start_paused = true)]
async fn identity_faults_meet_only_these_endpoints() {
    let simulator = small(1, Behaviour::calm());
    for (how, status) in [
        (IdentityFault::Updating, 404),
        (IdentityFault::Upgrading, 410),
        (IdentityFault::Throttled, 429),
        (IdentityFault::Failing, 500),
        (IdentityFault::NotFound, 400),
    ] {
        simulator.plan(PlannedFault::once(Fault::Identity { how }));
        assert_eq!(get(&simulator, &window_url(ALICE), "").await.0, 200);
        assert_eq!(ask_machine(&simulator, "").await.0, status, "{how:?}");
        assert_eq!(ask_machine(&simulator, "").await.0, 200);
    }
    // A challenge is Arc's alone.
    simulator.plan(PlannedFault::once(Fault::Identity { how: IdentityFault::ArcNoChallenge }));
    assert_eq!(ask_machine(&simulator, "").await.0, 200);
    simulator.clear_faults();
    // Faults of any kind, planned for the path.
    simulator.plan(PlannedFault::once(Fault::Stall).path("/metadata/identity"));
    assert_eq!(get(&simulator, &window_url(ALICE), "").await.0, 200);
    let request = http::Request::get(MACHINE).header("metadata", "true").body(Bytes::new());
    let answer = simulator.answer(request.unwrap()).await;
    assert!(matches!(answer, SimulatedResponse::Stall));
    simulator.plan(PlannedFault::once(Fault::SignIn { how: SignInRefusal::UnknownTenant }));
    assert_eq!(ask_machine(&simulator, "").await.0, 200);
}
