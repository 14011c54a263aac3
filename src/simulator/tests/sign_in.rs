//! Tests the token endpoint: which clients get a token, and for how long.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::*;

pub(super) async fn sign_in(
    simulator: &Simulator,
    form: &str,
    basic: Option<&str>,
) -> (u16, Value) {
    let mut request = http::Request::post("https://login.example/tenant-1/oauth2/v2.0/token");
    if let Some(basic) = basic {
        request = request.header("authorization", format!("Basic {basic}"));
    }
    let request = request.body(Bytes::from(form.to_owned())).unwrap();
    let SimulatedResponse::Response(response) = simulator.answer(request).await else {
        panic!("no answer")
    };
    (response.status().as_u16(), serde_json::from_slice(response.body()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn tokens_are_issued_for_valid_credentials_and_expire() {
    let simulator = small(1, Behaviour::calm());
    let scope = "scope=https%3A%2F%2Fgraph.microsoft.com%2F.default&grant_type=client_credentials";
    let secret = format!("{scope}&client_id=app&client_secret=p%2Bq");
    let (status, body) = sign_in(&simulator, &secret, None).await;
    assert_eq!((status, &body["expires_in"]), (200, &json!(3599)));
    let url = window_url(ALICE);
    let token = body["access_token"].as_str().unwrap();
    assert_eq!(get_with(&simulator, token, &url, "").await.0, 200);
    tokio::time::advance(Duration::from_secs(3600)).await;
    let (status, body) = get_with(&simulator, token, &url, "").await;
    assert_eq!((status, code(&body)), (401, "InvalidAuthenticationToken"));
    assert_eq!(get_with(&simulator, "made-up", &url, "").await.0, 401);

    let application = Application {
        tenant: "tenant-1".to_owned(),
        client_id: "app".to_owned(),
        client_secret: Some("p+q".to_owned()),
        ..Application::default()
    };
    simulator.set_applications(vec![application]);
    assert_eq!(sign_in(&simulator, &secret, None).await.0, 200);
    let basic = base64::engine::general_purpose::STANDARD.encode("app:p%2Bq");
    assert_eq!(sign_in(&simulator, scope, Some(&basic)).await.0, 200);
    let wrong = format!("{scope}&client_id=app&client_secret=x");
    let (status, body) = sign_in(&simulator, &wrong, None).await;
    assert_eq!((status, body["error"].as_str()), (401, Some("invalid_client")));
    assert_eq!(body["error_codes"][0], 7_000_215);
    let unknown = format!("{scope}&client_id=other&client_secret=x");
    assert_eq!(sign_in(&simulator, &unknown, None).await.1["error_codes"][0], 700_016);
    simulator
        .plan(PlannedFault::once(Fault::SignIn { how: SignInRefusal::TemporarilyUnavailable }));
    assert_eq!(sign_in(&simulator, &secret, None).await.0, 503);
    assert_eq!(sign_in(&simulator, &secret, None).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn an_assertion_needs_all_required_claims() {
    let simulator = small(1, Behaviour::calm());
    let now = at("2026-03-02T08:00:00Z").as_second();
    let assertion = |claims: Value| {
        let header = json!({"alg": "PS256", "typ": "JWT", "x5t#S256": "abc"});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.c2ln", part(&header), part(&claims))
    };
    let good = json!({
        "aud": "https://login.example/tenant-1/oauth2/v2.0/token",
        "iss": "app", "sub": "app", "jti": "1", "nbf": now, "exp": now + 300,
    });
    let form = |assertion: String| {
        format!(
            "scope=x%2F.default&grant_type=client_credentials&client_id=app&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion={assertion}"
        )
    };
    assert_eq!(sign_in(&simulator, &form(assertion(good.clone())), None).await.0, 200);
    // A NumericDate may have a fraction (RFC 7519).
    let mut with_fraction = good.clone();
    with_fraction["exp"] = json!(now as f64 + 300.25);
    assert_eq!(sign_in(&simulator, &form(assertion(with_fraction)), None).await.0, 200);
    for (name, value) in [
        ("aud", json!("https://login.example/other/oauth2/v2.0/token")),
        ("iss", json!("other")),
        ("sub", json!("other")),
        ("exp", json!(now - 1)),
        ("jti", Value::Null),
    ] {
        let mut claims = good.clone();
        claims[name] = value;
        let (status, body) = sign_in(&simulator, &form(assertion(claims)), None).await;
        assert_eq!((status, body["error"].as_str()), (401, Some("invalid_client")), "{name}");
        let number = match name {
            "aud" => 700_023,
            "iss" | "sub" => 700_021,
            "exp" => 700_024,
            _ => 700_027,
        };
        assert_eq!(body["error_codes"][0], number, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_federated_token_needs_a_known_issuer_subject_and_audience() {
    let simulator = small(1, Behaviour::calm());
    let federation = Federation {
        issuer: "https://oidc.example/".to_owned(),
        subject: "system:serviceaccount:calendars:calmirror".to_owned(),
        audience: "api://AzureADTokenExchange".to_owned(),
        keys: None,
    };
    simulator.set_applications(vec![Application {
        tenant: "tenant-1".to_owned(),
        client_id: "app".to_owned(),
        federation: Some(federation.clone()),
        ..Application::default()
    }]);
    let now = at("2026-03-02T08:00:00Z").as_second();
    let good = json!({
        "aud": [federation.audience], "iss": federation.issuer, "sub": federation.subject,
        "nbf": now, "exp": now + 3600,
    });
    let form = |claims: &Value| {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({"alg": "RS256", "kid": "abc"});
        format!(
            "scope=x%2F.default&grant_type=client_credentials&client_id=app&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion={}.{}.c2ln",
            part(&header),
            part(claims)
        )
    };
    assert_eq!(sign_in(&simulator, &form(&good), None).await.0, 200);
    for (name, value, number) in [
        ("aud", json!("api://other"), 700_212),
        ("iss", json!("https://other.example/"), 700_211),
        ("sub", json!("system:serviceaccount:other:calmirror"), 700_213),
        ("exp", json!(now - 1), 700_024),
    ] {
        let mut claims = good.clone();
        claims[name] = value;
        let (status, body) = sign_in(&simulator, &form(&claims), None).await;
        assert_eq!((status, &body["error_codes"][0]), (401, &json!(number)), "{name}");
    }
}
