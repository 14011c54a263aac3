//! Tests the sign-in of people: device codes, refresh tokens, and what ends them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::*;

const TENANT: &str = "8b9c1f0e-0000-4000-8000-000000000001";
const SCOPES: &str = "Calendars.Read Calendars.Read.Shared offline_access";

async fn post_at(
    simulator: &Simulator,
    tenant: &str,
    endpoint: &str,
    form: &[(&str, &str)],
) -> (u16, Value) {
    let pairs: Vec<String> =
        form.iter().map(|(name, value)| format!("{name}={}", value.replace(' ', "+"))).collect();
    let uri = format!("https://login.example/{tenant}/oauth2/v2.0/{endpoint}");
    let request = http::Request::post(uri).body(Bytes::from(pairs.join("&"))).unwrap();
    let SimulatedResponse::Response(response) = simulator.answer(request).await else {
        panic!("no response")
    };
    (response.status().as_u16(), serde_json::from_slice(response.body()).unwrap())
}

async fn post(simulator: &Simulator, endpoint: &str, form: &[(&str, &str)]) -> (u16, Value) {
    post_at(simulator, TENANT, endpoint, form).await
}

/// Starts a sign-in. Returns device code and user code.
async fn start(simulator: &Simulator, scopes: &str) -> (String, String) {
    let form = [("client_id", "app"), ("scope", scopes)];
    let (status, body) = post(simulator, "devicecode", &form).await;
    assert_eq!(status, 200, "{body}");
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    (text("device_code"), text("user_code"))
}

async fn poll(simulator: &Simulator, device_code: &str) -> (u16, Value) {
    let grant = "urn:ietf:params:oauth:grant-type:device_code";
    let form = [("grant_type", grant), ("client_id", "app"), ("device_code", device_code)];
    post(simulator, "token", &form).await
}

/// Signs a person in. Returns the answer of the token endpoint.
pub(super) async fn signed_in(simulator: &Simulator, person: &str, scopes: &str) -> Value {
    let (device_code, user_code) = start(simulator, scopes).await;
    assert!(simulator.enter_user_code(&user_code, person));
    let (status, body) = poll(simulator, &device_code).await;
    assert_eq!(status, 200, "{body}");
    body
}

async fn refresh(simulator: &Simulator, token: &Value, scope: Option<&str>) -> (u16, Value) {
    let mut form = vec![
        ("grant_type", "refresh_token"),
        ("client_id", "app"),
        ("refresh_token", token.as_str().unwrap()),
    ];
    form.extend(scope.map(|scope| ("scope", scope)));
    post(simulator, "token", &form).await
}

fn refusal(answer: &(u16, Value)) -> (u16, &str, u64) {
    let (status, body) = answer;
    (*status, body["error"].as_str().unwrap(), body["error_codes"][0].as_u64().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_device_waits_for_a_person() {
    let simulator = small(1, Behaviour::calm());
    let form = [("client_id", "app"), ("scope", SCOPES)];
    let (_, started) = post(&simulator, "devicecode", &form).await;
    assert_eq!((&started["expires_in"], &started["interval"]), (&json!(900), &json!(5)));
    assert_eq!(started["verification_uri"], "https://login.example/devicelogin");
    assert!(started.get("verification_uri_complete").is_none());
    let user_code = started["user_code"].as_str().unwrap();
    assert!(started["message"].as_str().unwrap().contains(user_code));
    let device_code = started["device_code"].as_str().unwrap();
    let pending = poll(&simulator, device_code).await;
    assert_eq!(refusal(&pending), (400, "authorization_pending", 70016));
    assert_eq!(simulator.user_codes(), [user_code]);
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(refusal(&poll(&simulator, device_code).await).1, "authorization_pending");
    assert!(!simulator.enter_user_code(user_code, "nobody@contoso.example"));
    assert!(!simulator.enter_user_code("WRONGCODE", ALICE));
    assert!(simulator.enter_user_code(&user_code.to_lowercase(), ALICE));
    assert!(!simulator.enter_user_code(user_code, ALICE), "the code is used");
    tokio::time::advance(Duration::from_secs(5)).await;
    let (status, body) = poll(&simulator, device_code).await;
    assert_eq!((status, &body["expires_in"]), (200, &json!(3599)));
    assert_eq!(body["scope"], "Calendars.Read Calendars.Read.Shared");
    assert!(body["refresh_token"].is_string() && body.get("id_token").is_none());
    tokio::time::advance(Duration::from_secs(5)).await;
    let again = poll(&simulator, device_code).await;
    assert_eq!(refusal(&again).1, "bad_verification_code");
    assert_eq!(simulator.statistics().device_code_requests, 1);
}

#[tokio::test(start_paused = true)]
async fn polling_too_fast_makes_the_interval_longer() {
    let simulator = small(1, Behaviour::calm());
    let (device_code, _) = start(&simulator, SCOPES).await;
    let polled = async |seconds| {
        tokio::time::advance(Duration::from_secs(seconds)).await;
        let (_, body) = poll(&simulator, &device_code).await;
        body["error"].as_str().unwrap().to_owned()
    };
    assert_eq!(polled(0).await, "authorization_pending");
    assert_eq!(polled(4).await, "slow_down");
    assert_eq!(polled(9).await, "slow_down", "the interval is 10 s now");
    assert_eq!(polled(15).await, "authorization_pending");
}

#[tokio::test(start_paused = true)]
async fn codes_expire_and_can_be_declined() {
    let simulator = small(1, Behaviour::calm());
    let (late, user_code) = start(&simulator, SCOPES).await;
    tokio::time::advance(Duration::from_secs(900)).await;
    assert!(!simulator.enter_user_code(&user_code, ALICE));
    assert_eq!(refusal(&poll(&simulator, &late).await), (400, "expired_token", 70020));
    let (declined, user_code) = start(&simulator, SCOPES).await;
    assert!(simulator.decline_user_code(&user_code));
    assert_eq!(refusal(&poll(&simulator, &declined).await).1, "authorization_declined");
    assert_eq!(refusal(&poll(&simulator, "made-up").await).1, "bad_verification_code");
    for (form, error) in [
        (vec![("scope", SCOPES)], "invalid_request"),
        (vec![("client_id", "app")], "invalid_scope"),
        (vec![("client_id", "app"), ("scope", "Calendars.Write")], "invalid_scope"),
    ] {
        assert_eq!(refusal(&post(&simulator, "devicecode", &form).await).1, error);
    }
    let application = Application {
        tenant: TENANT.to_owned(),
        client_id: "app".to_owned(),
        client_secret: None,
        ..Application::default()
    };
    simulator.set_applications(vec![application]);
    let known = [("client_id", "app"), ("scope", SCOPES)];
    assert_eq!(post(&simulator, "devicecode", &known).await.0, 200);
    assert_eq!(post_at(&simulator, "organizations", "devicecode", &known).await.0, 200);
    let unknown = [("client_id", "other"), ("scope", SCOPES)];
    assert_eq!(refusal(&post(&simulator, "devicecode", &unknown).await).2, 700_016);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_is_replaced_and_goes_on_working() {
    let simulator = small(1, Behaviour::calm());
    let first = signed_in(&simulator, ALICE, SCOPES).await;
    let (status, second) = refresh(&simulator, &first["refresh_token"], Some(SCOPES)).await;
    assert_eq!(status, 200, "{second}");
    assert_ne!(first["refresh_token"], second["refresh_token"]);
    assert_ne!(first["access_token"], second["access_token"]);
    assert_eq!(refresh(&simulator, &first["refresh_token"], None).await.0, 200);
    // 90 days after its issue a token is too old, and its successor is not.
    tokio::time::advance(Duration::from_secs(89 * 86_400)).await;
    let (_, third) = refresh(&simulator, &second["refresh_token"], None).await;
    tokio::time::advance(Duration::from_secs(86_400)).await;
    let inactive = refresh(&simulator, &second["refresh_token"], None).await;
    assert_eq!(refusal(&inactive), (400, "invalid_grant", 700_082));
    assert_eq!(refresh(&simulator, &third["refresh_token"], None).await.0, 200);

    let narrow = refresh(&simulator, &third["refresh_token"], Some("Calendars.Read")).await;
    assert_eq!((narrow.0, &narrow.1["scope"]), (200, &json!("Calendars.Read")));
    assert!(narrow.1.get("refresh_token").is_none());
    let wide = refresh(&simulator, &third["refresh_token"], Some("Place.Read.All")).await;
    assert_eq!(refusal(&wide), (400, "invalid_grant", 65001));
    let without = signed_in(&simulator, ALICE, "Calendars.Read").await;
    assert!(without.get("refresh_token").is_none());
    assert_eq!(refusal(&refresh(&simulator, &json!("made-up"), None).await).1, "invalid_grant");
}

#[tokio::test(start_paused = true)]
async fn tokens_of_people_and_applications_can_be_revoked() {
    let simulator = small(1, Behaviour::calm());
    let url = "https://graph.example/v1.0/me/calendar";
    let works = async |answer: &Value| {
        let token = answer["access_token"].as_str().unwrap();
        get_with(&simulator, token, url, "").await.0 == 200
    };
    let first = signed_in(&simulator, ALICE, SCOPES).await;
    assert_eq!(simulator.revoke_person(ALICE, false), 1);
    let revoked = refresh(&simulator, &first["refresh_token"], None).await;
    assert_eq!(refusal(&revoked), (400, "invalid_grant", 50173));
    assert!(works(&first).await, "the access token goes on until it expires");
    assert!(simulator.revoke_access_token(first["access_token"].as_str().unwrap()));
    assert!(!works(&first).await);

    let second = signed_in(&simulator, ALICE, SCOPES).await;
    assert_eq!(simulator.revoke_application("other"), 0);
    assert!(works(&second).await);
    assert_eq!(simulator.revoke_application("app"), 2);
    assert!(!works(&second).await);

    let third = signed_in(&simulator, ALICE, SCOPES).await;
    simulator.set_account_enabled(ALICE, false);
    let disabled = refresh(&simulator, &third["refresh_token"], None).await;
    assert_eq!(refusal(&disabled), (400, "invalid_grant", 50057));
    simulator.set_account_enabled(ALICE, true);
    for (how, number) in [
        (SignInRefusal::GrantRevoked, 50173),
        (SignInRefusal::PublicClientDisabled, 7_000_218),
        (SignInRefusal::ConsentRequired, 65001),
        (SignInRefusal::BlockedByPolicy, 53003),
    ] {
        simulator.plan(PlannedFault::once(Fault::SignIn { how }));
        let refused = refresh(&simulator, &third["refresh_token"], None).await;
        assert_eq!(refusal(&refused).2, number);
    }
    assert_eq!(refresh(&simulator, &third["refresh_token"], None).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn the_id_token_names_person_and_tenant() {
    let simulator = small(1, Behaviour::calm());
    let scopes = format!("{SCOPES} openid profile");
    let answer = signed_in(&simulator, ALICE, &scopes).await;
    let part = answer["id_token"].as_str().unwrap().split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
    assert_eq!(claims["preferred_username"], ALICE);
    assert_eq!((&claims["tid"], &claims["aud"]), (&json!(TENANT), &json!("app")));
    let (_, me) = get_with(
        &simulator,
        answer["access_token"].as_str().unwrap(),
        "https://graph.example/v1.0/me?$select=id,userPrincipalName",
        "",
    )
    .await;
    assert_eq!((&claims["oid"], &me["userPrincipalName"]), (&me["id"], &json!(ALICE)));
    assert!(me.get("mail").is_none());
    // People of another tenant cannot sign in at this one.
    simulator.set_home_tenant(Some("8b9c1f0e-0000-4000-8000-000000000002"));
    let (device_code, user_code) = start(&simulator, SCOPES).await;
    assert!(simulator.enter_user_code(&user_code, ALICE));
    assert_eq!(refusal(&poll(&simulator, &device_code).await), (400, "invalid_grant", 50020));
}
