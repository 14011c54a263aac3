//! Sign-ins: who may start one, and what its response tells.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::*;
use crate::api::{CompletedLogin, LoginApi, LoginRefusal, StartedLogin};
use crate::reload::ReloadError;

/// Sign-ins whose outcome depends on the account's name.
pub(super) struct ScriptedLogins;

impl LoginApi for ScriptedLogins {
    fn login(
        &self,
        account: String,
        replace: bool,
    ) -> BoxFuture<'_, Result<StartedLogin, LoginRefusal>> {
        let known = account.clone();
        let waited = async move {
            tokio::time::sleep(Duration::from_secs(60)).await;
            let user = "alice@contoso.com".to_owned();
            match &*account {
                "declined" => Err(LoginRefusal::Refused("the sign-in was declined".into())),
                "faulty" => Err(LoginRefusal::NotReloaded { user, error: ReloadError::Busy }),
                _ => Ok(CompletedLogin { user, replaced: replace }),
            }
        };
        async move {
            if !["contoso", "declined", "faulty"].contains(&&*known) {
                return Err(LoginRefusal::UnknownAccount(known));
            }
            Ok(StartedLogin {
                verification_uri: "https://login.example/device".into(),
                user_code: "ABC-123".into(),
                expires_at: at("2026-11-21T12:15:00Z"),
                outcome: waited.boxed(),
            })
        }
        .boxed()
    }

    fn logout(&self, account: String) -> BoxFuture<'_, Result<Option<String>, LoginRefusal>> {
        let out = match &*account {
            "contoso" => Ok(Some("alice@contoso.com".to_owned())),
            "out" => Ok(None),
            _ => Err(LoginRefusal::UnknownAccount(account)),
        };
        async move { out }.boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn a_sign_in_tells_the_code_then_that_it_waits_then_its_outcome() {
    let fixture = Fixture::new().await;
    let lines = |body: String| -> Vec<Value> {
        body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let (status, headers, body) =
        fixture.ask("POST", "/v1/accounts/contoso/login?replace=true").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers["content-type"], "application/x-ndjson");
    assert_eq!(headers["cache-control"], "no-store");
    let pending = json!({"state": "pending"});
    let code = json!({
        "state": "pending", "verification_uri": "https://login.example/device",
        "user_code": "ABC-123", "expires_at": "2026-11-21T12:15:00Z",
    });
    let done = json!({"state": "signed_in", "user": "alice@contoso.com", "replaced": true});
    assert_eq!(lines(body), [code, pending.clone(), pending, done]);

    let (_, _, body) = fixture.ask("POST", "/v1/accounts/declined/login").await;
    let last = lines(body).pop().unwrap();
    assert_eq!(last["state"], "failed");
    assert_eq!(last["problem"]["type"], "https://calmirror.dev/problems/login-failed");
    assert_eq!(last["problem"]["detail"], "the sign-in was declined");
    let (_, _, body) = fixture.ask("POST", "/v1/accounts/faulty/login").await;
    let problem = lines(body).pop().unwrap()["problem"].clone();
    assert_eq!(problem["type"], "https://calmirror.dev/problems/login-not-used");
    assert!(problem["detail"].as_str().unwrap().starts_with("alice@contoso.com is signed in, but"));
}

#[tokio::test(start_paused = true)]
async fn a_stopping_daemon_ends_a_sign_in() {
    let fixture = Fixture::new().await;
    fixture.stopping.give();
    let (_, _, body) = fixture.ask("POST", "/v1/accounts/contoso/login").await;
    assert!(body.lines().last().unwrap().contains("problems/stopping"), "{body}");
}

#[tokio::test(start_paused = true)]
async fn a_logout_says_who_was_signed_in() {
    let fixture = Fixture::new().await;
    for (account, status, body) in
        [("contoso", 200, r#"{"user":"alice@contoso.com"}"#), ("out", 200, r#"{"user":null}"#)]
    {
        let answer = fixture.ask("POST", &format!("/v1/accounts/{account}/logout")).await;
        assert_eq!((answer.0.as_u16(), &*answer.2), (status, body));
    }
    let (status, _, body) = fixture.ask("POST", "/v1/accounts/unknown/logout").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(body.contains("problems/unknown-account"), "{body}");
    let (status, ..) = fixture.ask("POST", "/v1/accounts/contoso/login?other=1").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}
