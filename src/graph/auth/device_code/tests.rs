//! Which people may sign in, what is stored, and what the refresh tokens do.
use serde_json::json;

use super::*;
use crate::graph::script::{self, Script, ScriptedResponse, reply};
use crate::mirror::failure::ErrorClass;

const CODE: &str = r#"{"device_code":"canary-device","user_code":"ABC-123","verification_uri":"https://login.example/device","expires_in":900,"interval":5,"message":"…"}"#;

fn pending() -> ScriptedResponse {
    reply(400, r#"{"error":"authorization_pending","error_description":"AADSTS70016: canary"}"#)
}

/// The answer for a person; the id token is unsigned.
fn signed_in(user: &str, refresh: &str) -> ScriptedResponse {
    let claims = json!({"oid": user, "tid": "tenant-1", "preferred_username": format!("{user}@contoso.com")});
    let id_token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let answer = json!({"token_type": "Bearer", "expires_in": 3599, "access_token": "a", "refresh_token": refresh, "id_token": id_token});
    reply(200, answer.to_string())
}

fn refreshed(access: &str, refresh: &str) -> ScriptedResponse {
    let answer = json!({"token_type": "Bearer", "expires_in": 3599, "access_token": access, "refresh_token": refresh});
    reply(200, answer.to_string())
}

/// The account, with the file and the person that the configuration knows.
fn account(file: &Path, user: Option<&str>) -> SignInSettings {
    let mut sign_in = script::sign_in(Credential::DeviceCode(file.to_owned()));
    sign_in.account.user = user.map(Into::into);
    sign_in
}

fn tokens(script: &Arc<Script>, sign_in: SignInSettings) -> Arc<Tokens> {
    Tokens::new(sign_in, script.clone(), script::env())
}

fn form(script: &Script, n: usize) -> Vec<(String, String)> {
    let body = String::from_utf8(script.asked()[n].body().to_vec()).unwrap();
    form_urlencoded(&body)
}

fn form_urlencoded(body: &str) -> Vec<(String, String)> {
    let decode =
        |text: &str| percent_encoding::percent_decode_str(text).decode_utf8().unwrap().into_owned();
    body.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(k, v)| (decode(k), decode(v)))
        .collect()
}

fn field(script: &Script, n: usize, name: &str) -> String {
    form(script, n)
        .into_iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value)
        .unwrap_or_default()
}

async fn login(tokens: &Tokens, replace: bool) -> Result<SignedInUser, LoginError> {
    let code = tokens.begin_login().await?;
    tokens.finish_login(code, replace).await
}

#[tokio::test(start_paused = true)]
async fn a_person_signs_in_and_the_sign_in_is_continued() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("accounts/contoso");
    let slow = reply(400, r#"{"error":"slow_down"}"#);
    let script = Script::new(
        [
            reply(200, CODE),
            pending(),
            slow,
            reply(503, ""),
            ScriptedResponse::Silence,
            pending(),
            signed_in("alice", "r1"),
            refreshed("t1", "r2"),
            refreshed("t2", "r3"),
        ],
        [],
    );
    let began = Instant::now();
    let asking = tokens(&script, account(&file, None));
    let code = asking.begin_login().await.unwrap();
    assert_eq!(
        (&*code.user_code, &*code.verification_uri),
        ("ABC-123", "https://login.example/device")
    );
    assert!(!format!("{code:?}").contains("canary"));
    assert_eq!(field(&script, 0, "scope"), SCOPES);
    let user = asking.finish_login(code, false).await.unwrap();
    assert_eq!(user, SignedInUser { name: "alice@contoso.com".to_owned(), replaced: false });
    // Two waits of 5 s, four of 10 s after `slow_down`, and 30 s without an answer.
    assert_eq!(began.elapsed().as_secs(), 2 * 5 + 4 * 10 + 30);
    assert_eq!(field(&script, 1, "grant_type"), GRANT_TYPE);
    assert_eq!(field(&script, 1, "device_code"), "canary-device");

    // The configuration does not know the person yet.
    let refused = asking.token().await.unwrap_err();
    assert_eq!(refused.class(), ErrorClass::SignIn);
    assert!(refused.message().contains("calmirror reload"), "{}", refused.message());
    let tokens = tokens(&script, account(&file, Some("alice")));
    for (n, (access, used, stored)) in
        [("t1", "r1", "r2"), ("t2", "r2", "r3")].into_iter().enumerate()
    {
        let token = tokens.token().await.unwrap();
        assert_eq!(token.expose(), access);
        assert_eq!(field(&script, 7 + n, "refresh_token"), used);
        let record = SignInRecord::read(&file).unwrap().unwrap();
        assert_eq!(record.refresh_token.unwrap().expose_secret(), stored);
        tokio::time::advance(Duration::from_secs(3600)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn another_person_needs_permission() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("contoso");
    let logins =
        ["alice", "alice", "bob", "bob"].map(|who| [reply(200, CODE), signed_in(who, who)]);
    let script = Script::new(logins.into_iter().flatten(), []);
    let tokens = tokens(&script, account(&file, None));
    login(&tokens, false).await.unwrap();
    assert!(!login(&tokens, false).await.unwrap().replaced, "the same person is refused");
    // Who it was is known after a logout too.
    assert_eq!(tokens.logout().await.unwrap().as_deref(), Some("alice@contoso.com"));
    assert_eq!(tokens.logout().await.unwrap(), None);
    let refused = login(&tokens, false).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "bob@contoso.com signed in, but alice@contoso.com did before; to drop the events of alice@contoso.com, use --replace"
    );
    let record = SignInRecord::read(&file).unwrap().unwrap();
    assert_eq!((&*record.user_id, record.refresh_token.is_none()), ("alice", true));
    assert!(login(&tokens, true).await.unwrap().replaced);
    assert_eq!(SignInRecord::read(&file).unwrap().unwrap().user_id, "bob");
}

#[tokio::test(start_paused = true)]
async fn a_sign_in_that_fails_changes_nothing_and_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("contoso");
    let refused = |error: &str| {
        reply(400, format!(r#"{{"error":"{error}","error_description":"AADSTS1: canary"}}"#))
    };
    let other_tenant = || {
        let claims = json!({"oid": "1", "tid": "00000000-0000-0000-0000-000000000002", "preferred_username": "eve@fabrikam.com"});
        let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()));
        reply(
            200,
            json!({"access_token": "a", "refresh_token": "r", "id_token": token}).to_string(),
        )
    };
    let anonymous = || reply(200, r#"{"access_token":"a","refresh_token":"r"}"#);
    let public = r#"{"error":"invalid_client","error_description":"AADSTS7000218: canary"}"#;
    for (answers, said) in [
        (vec![reply(200, CODE), refused("authorization_declined")], "was declined"),
        (vec![reply(200, CODE), refused("expired_token")], "before the code expired"),
        (vec![reply(200, CODE), refused("bad_verification_code")], "bad_verification_code"),
        (vec![reply(200, CODE), reply(401, public)], "allow public client flows"),
        (vec![reply(200, CODE), other_tenant()], "eve@fabrikam.com belongs to another tenant"),
        (vec![reply(200, CODE), anonymous()], "does not name the person"),
        (vec![reply(400, r#"{"error":"unauthorized_client"}"#)], "unauthorized_client"),
        (vec![reply(200, "{}")], "grants no token now (status 200)"),
        (
            std::iter::once(reply(200, CODE)).chain((0..180).map(|_| pending())).collect(),
            "before the code expired",
        ),
    ] {
        let script = Script::new(answers, []);
        let mut sign_in = account(&file, None);
        sign_in.account.tenant = "00000000-0000-0000-0000-000000000001".into();
        let error = login(&tokens(&script, sign_in), false).await.unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(said) && !shown.contains("canary"), "{shown}");
        assert!(!file.exists(), "{said}");
    }
    let script = Script::new([], []);
    let by_secret = tokens(&script, script::sign_in(Credential::SecretEnv("PATH".into())));
    let error = login(&by_secret, false).await.unwrap_err().to_string();
    assert!(error.contains("does not sign in by device code"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_sign_in_that_ended_or_cannot_be_read_needs_a_person() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("accounts/contoso");
    let expired = r#"{"error":"invalid_grant","error_description":"AADSTS700082: canary"}"#;
    let script = Script::new(
        [reply(200, CODE), signed_in("alice", "r1"), refreshed("t1", "r2"), reply(400, expired)],
        [],
    );
    login(&tokens(&script, account(&file, None)), false).await.unwrap();
    let tokens = tokens(&script, account(&file, Some("alice")));
    let folder = file.parent().unwrap();
    let aside = directory.path().join("aside");
    std::fs::rename(folder, &aside).unwrap();
    std::fs::write(folder, "").unwrap();
    let lost = tokens.token().await.unwrap_err();
    assert_eq!(lost.class(), ErrorClass::SignIn, "{}", lost.message());
    std::fs::remove_file(folder).unwrap();
    std::fs::rename(&aside, folder).unwrap();
    tokens.forget();
    assert_eq!(tokens.token().await.unwrap().expose(), "t1");
    tokio::time::advance(Duration::from_secs(3600)).await;
    let refused = tokens.token().await.unwrap_err();
    assert_eq!(refused.class(), ErrorClass::SignIn);
    assert_eq!(
        refused.message(),
        "account contoso: sign-in was refused (invalid_grant, AADSTS700082); sign in again: calmirror login contoso"
    );
    // A logout drops the token that is in use.
    assert_eq!(tokens.logout().await.unwrap().as_deref(), Some("alice@contoso.com"));
    let out = tokens.token().await.unwrap_err();
    assert!(
        out.message().contains("no person is signed in; sign in with: calmirror login contoso"),
        "{}",
        out.message()
    );
}

#[tokio::test(start_paused = true)]
async fn group_calendars_are_asked_for_at_the_sign_in_and_not_before() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("contoso");
    let sign_in = |reads_groups| {
        let mut sign_in = account(&file, Some("alice"));
        sign_in.account.reads_groups = reads_groups;
        sign_in
    };
    let once = || [reply(200, CODE), signed_in("alice", "r"), refreshed("t", "r")];
    let script = Script::new(once().into_iter().chain(once()), []);
    login(&tokens(&script, sign_in(false)), false).await.unwrap();
    // A window of a group was added since, for which the person has granted nothing.
    let added = tokens(&script, sign_in(true));
    added.token().await.unwrap();
    assert_eq!([0, 2].map(|n| field(&script, n, "scope")), [SCOPES, SCOPES]);
    login(&added, false).await.unwrap();
    added.token().await.unwrap();
    let granted = [3, 5].map(|n| field(&script, n, "scope"));
    assert_eq!(granted, [SCOPES_WITH_GROUPS, SCOPES_WITH_GROUPS]);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_does_not_undo_a_sign_in_that_was_made_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("contoso");
    let script = Script::new([reply(200, CODE), signed_in("alice", "r1")], []);
    login(&tokens(&script, account(&file, None)), false).await.unwrap();
    let alice = SignInRecord::read(&file).unwrap().unwrap();
    let bob = SignInRecord {
        user_id: "bob".to_owned(),
        refresh_token: Some("b1".into()),
        ..alice.clone()
    };
    let out = SignInRecord { refresh_token: None, ..alice.clone() };
    let store = |record: &SignInRecord| {
        LockedRecord::try_open(&file).unwrap().write(record).unwrap();
    };
    for (record, user_id, token) in [(bob, "bob", Some("b1")), (out, "alice", None)] {
        store(&alice);
        let mut script = Script::new([refreshed("t1", "r2")], []);
        Arc::get_mut(&mut script).unwrap().token_delay = Duration::from_secs(1);
        let tokens = tokens(&script, account(&file, Some("alice")));
        let meanwhile = async {
            sleep(Duration::from_millis(500)).await;
            store(&record);
        };
        let (renewed, ()) = tokio::join!(tokens.token(), meanwhile);
        assert_eq!(renewed.unwrap().expose(), "t1");
        let stored = SignInRecord::read(&file).unwrap().unwrap();
        let refresh_token = stored.refresh_token.as_ref().map(|token| token.expose_secret());
        assert_eq!((&*stored.user_id, refresh_token), (user_id, token));
    }
}
