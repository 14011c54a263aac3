//! One token per account, whatever the endpoint answers and whatever happens to the files.
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::Value;
use tokio::time::timeout;

use super::*;
use crate::graph::script::{self, Script, ScriptedResponse, granted, reply};
use crate::graph::transport::TransportErrorKind;
use crate::mirror::failure::ErrorClass;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/graph");
/// SHA-256 of the DER of the fixtures' certificate, base64url.
const THUMBPRINT: &str = "Fqo3kNK7ke-OkHBTceUWlYGamr56u09XLSxcBChgY14";

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn tokens(script: &Arc<Script>, credential: Credential) -> Arc<Tokens> {
    Tokens::new(script::sign_in(credential), script.clone(), script::env())
}

/// A secret that every machine has: the search path.
fn some_secret() -> Credential {
    Credential::SecretEnv("PATH".into())
}

fn pem_file(path: PathBuf) -> Credential {
    Credential::CertificateFile { path, password_file: None }
}

async fn text(tokens: &Tokens) -> String {
    tokens.token().await.unwrap().expose().to_owned()
}

fn form(script: &Script, n: usize) -> Vec<(String, String)> {
    let asked = script.asked();
    let url = format!("http://x/?{}", std::str::from_utf8(asked[n].body()).unwrap());
    let url = reqwest::Url::parse(&url).unwrap();
    url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
}

fn field(script: &Script, n: usize, name: &str) -> String {
    form(script, n).into_iter().find(|(n, _)| n == name).unwrap().1
}

/// Writes a file with a modification time that differs from the previous one.
fn write(path: &Path, text: &str, day: u64) {
    fs::write(path, text).unwrap();
    let at = SystemTime::UNIX_EPOCH + seconds(day * 86_400);
    fs::File::options().write(true).open(path).unwrap().set_modified(at).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_secret_is_sent_to_the_token_endpoint_as_a_form() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    fs::write(&file, "s3cr&t=+%\u{e9}\n").unwrap();
    let script = Script::new([granted("t", 3600)], []);
    assert_eq!(text(&tokens(&script, Credential::SecretFile(file))).await, "t");
    let request = &script.asked()[0];
    assert_eq!(request.method(), http::Method::POST);
    assert_eq!(request.uri(), "https://login.example/tenant-1/oauth2/v2.0/token");
    assert_eq!(request.headers()["content-type"], "application/x-www-form-urlencoded");
    let expected = [
        ("grant_type", "client_credentials"),
        ("client_id", "client-1"),
        ("scope", "https://graph.example/.default"),
        ("client_secret", "s3cr&t=+%\u{e9}"),
    ];
    assert_eq!(form(&script, 0), expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_signs_an_assertion_for_the_endpoint_alone() {
    let dir = tempfile::tempdir().unwrap();
    let read = |name: &str| fs::read_to_string(format!("{FIXTURES}/{name}")).unwrap();
    let certificate = read("certificate.pem");
    let until = certificate.find("-----BEGIN PRIVATE").unwrap();
    let pkcs1 = dir.path().join("pkcs1.pem");
    // The other form of the key, placed before the certificate.
    fs::write(&pkcs1, read("key_pkcs1.pem") + &certificate[..until]).unwrap();
    let mut ids = Vec::new();
    for file in [format!("{FIXTURES}/certificate.pem").into(), pkcs1] {
        let script = Script::new([granted("t", 3600), granted("u", 3600)], []);
        let tokens = tokens(&script, pem_file(file));
        let first = tokens.token().await.unwrap();
        tokens.refresh(&first).await.unwrap();
        for n in 0..2 {
            assert_eq!(
                field(&script, n, "client_assertion_type"),
                "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
            );
            let assertion = field(&script, n, "client_assertion");
            let key = DecodingKey::from_rsa_pem(read("public_key.pem").as_bytes()).unwrap();
            let mut rules = Validation::new(Algorithm::PS256);
            rules.set_audience(&["https://login.example/tenant-1/oauth2/v2.0/token"]);
            // The library does not use the test's clock.
            rules.validate_exp = false;
            let jwt = jsonwebtoken::decode::<Value>(&assertion, &key, &rules).unwrap();
            assert_eq!(jwt.header.x5t_s256.as_deref(), Some(THUMBPRINT));
            let now = script::env().now().as_second();
            assert_eq!(jwt.claims["iss"], "client-1");
            assert_eq!(jwt.claims["sub"], "client-1");
            assert_eq!(jwt.claims["nbf"], now);
            assert_eq!(jwt.claims["iat"], now);
            assert_eq!(jwt.claims["exp"], now + 600);
            ids.push(jwt.claims["jti"].as_str().unwrap().to_owned());
        }
    }
    assert_ne!(ids[0], ids[1], "an assertion is used twice");
}

#[tokio::test(start_paused = true)]
async fn a_corrected_password_of_a_certificate_is_used_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    write(&password, "wrong", 1);
    let path = format!("{FIXTURES}/../certificates/aes.pfx").into();
    let credential = Credential::CertificateFile { path, password_file: Some(password.clone()) };
    let script = Script::new([granted("t", 3600)], []);
    let tokens = tokens(&script, credential);
    let message = tokens.token().await.unwrap_err().message();
    assert!(message.ends_with("cannot be used: the password does not open it; write the password it was exported with into its file"), "{message}");
    // Later than the certificate, whose time is that of the checkout.
    write(&password, "gr\u{fc}\u{df}e 1\n", 40_000);
    assert_eq!(text(&tokens).await, "t");
    assert!(field(&script, 0, "client_assertion").starts_with("eyJ"));
}

#[tokio::test(start_paused = true)]
async fn a_federated_token_is_read_for_every_assertion() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let script = Script::new([granted("t", 3600), granted("u", 3600)], []);
    let tokens = tokens(&script, Credential::FederatedTokenFile(file.clone()));
    fs::write(&file, "eyJ.first.c2ln\n").unwrap();
    let first = tokens.token().await.unwrap();
    fs::write(&file, "eyJ.second.c2ln\n").unwrap();
    tokens.refresh(&first).await.unwrap();
    for (n, token) in ["eyJ.first.c2ln", "eyJ.second.c2ln"].into_iter().enumerate() {
        assert_eq!(field(&script, n, "client_assertion"), token);
        let kind = field(&script, n, "client_assertion_type");
        assert_eq!(kind, "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
    }
}

#[tokio::test(start_paused = true)]
async fn unusable_files_and_variables_need_a_person_and_name_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str, text: &str| {
        fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name)
    };
    let pem = fs::read_to_string(format!("{FIXTURES}/certificate.pem")).unwrap();
    let ec = fs::read_to_string(format!("{FIXTURES}/key_ec.pem")).unwrap();
    let until = pem.find("-----BEGIN PRIVATE").unwrap();
    for (credential, said) in [
        (Credential::SecretFile(dir.path().join("none")), "client_secret_file"),
        (Credential::SecretFile(at("empty", " \n")), "is empty"),
        (Credential::SecretFile(at("huge", &"canary".repeat(100_000))), "is larger"),
        (Credential::SecretFile(dir.path().to_owned()), "cannot be read"),
        (Credential::SecretEnv("CALMIRROR_NO_SUCH_VARIABLE".into()), "CALMIRROR_NO_SUCH_VARIABLE"),
        (Credential::AccessTokenFile(at("token", "canary canary")), "access_token_file"),
        (Credential::FederatedTokenFile(dir.path().join("none")), "federated_token_file"),
        (pem_file(at("text", "canary")), "holds no certificate"),
        (pem_file(at("half", &pem[..until])), "holds no private key"),
        (pem_file(at("ec", &format!("{}{ec}", &pem[..until]))), "not an RSA key"),
    ] {
        let script = Script::new([], []);
        let error = tokens(&script, credential).token().await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::SignIn);
        let message = error.message();
        assert!(message.starts_with("account contoso: "), "{message}");
        assert_eq!(message.matches(said).count(), 1, "{message}");
        assert!(!format!("{message} {error:?}").contains("canary"));
        assert!(script.asked().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn many_workers_share_one_token_request() {
    let mut script = Script::new([granted("t", 3600)], []);
    Arc::get_mut(&mut script).unwrap().token_delay = seconds(2);
    let tokens = tokens(&script, some_secret());
    let all = join_all((0..1000).map(|_| text(&tokens))).await;
    assert!(all.iter().all(|t| t == "t"));
    assert_eq!(script.sign_ins(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_token_request_is_repeated_by_the_next_worker() {
    let mut script = Script::new([granted("a", 3600), granted("b", 3600)], []);
    Arc::get_mut(&mut script).unwrap().token_delay = seconds(2);
    let tokens = tokens(&script, some_secret());
    assert!(timeout(seconds(1), tokens.token()).await.is_err());
    text(&tokens).await;
    assert_eq!(script.sign_ins(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_in_time() {
    let early = r#"{"token_type":"Bearer","expires_in":3600,"refresh_in":1000,"access_token":"c"}"#;
    let answers = [granted("a", 3600), granted("b", 100), reply(200, early), granted("d", 3600)];
    let script = Script::new(answers, []);
    let tokens = tokens(&script, some_secret());
    for (wait, expected) in [
        (0, "a"),
        (3299, "a"),
        // Five minutes before its end.
        (1, "b"),
        (49, "b"),
        // A short-lived one at half of its life.
        (1, "c"),
        (999, "c"),
        // One with a requested renewal time, at that time.
        (1, "d"),
    ] {
        tokio::time::advance(seconds(wait)).await;
        assert_eq!(text(&tokens).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_with_no_lifetime_do_not_cost_a_request_each_time() {
    for life in [
        r#""expires_in":0"#,
        r#""expires_in":-1"#,
        r#""expires_in":"0""#,
        r#""expires_in":3600,"refresh_in":0"#,
        r#""expires_in":"1","refresh_in":"0""#,
    ] {
        let grant = format!(r#"{{"token_type":"Bearer",{life},"access_token":"a"}}"#);
        let script = Script::new((0..40).map(|_| reply(200, &grant)).collect::<Vec<_>>(), []);
        let tokens = tokens(&script, some_secret());
        for _ in 0..1000 {
            assert_eq!(text(&tokens).await, "a");
            tokio::time::advance(Duration::from_millis(300)).await;
        }
        assert!(script.sign_ins() <= 11, "{life}: {} in five minutes", script.sign_ins());
    }
}

#[tokio::test(start_paused = true)]
async fn workers_use_the_old_token_during_a_renewal() {
    let mut script = Script::new([granted("a", 3600), granted("b", 3600)], []);
    Arc::get_mut(&mut script).unwrap().token_delay = seconds(2);
    let tokens = tokens(&script, some_secret());
    text(&tokens).await;
    tokio::time::advance(seconds(3301)).await;
    let began = Instant::now();
    let (renewed, meanwhile) = tokio::join!(text(&tokens), async {
        let token = text(&tokens).await;
        assert_eq!(began.elapsed(), Duration::ZERO, "it waited for a token it did not need");
        token
    });
    assert_eq!((renewed.as_str(), meanwhile.as_str()), ("b", "a"));
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_is_harmless_while_the_token_is_valid() {
    let answers = [granted("a", 3600), reply(503, ""), reply(400, "{}"), reply(400, "{}")];
    let script = Script::new(answers, []);
    let tokens = tokens(&script, some_secret());
    text(&tokens).await;
    tokio::time::advance(seconds(3301)).await;
    for _ in 0..10 {
        assert_eq!(text(&tokens).await, "a");
    }
    assert_eq!(script.sign_ins(), 2, "a failed renewal is repeated at once");
    tokio::time::advance(seconds(10)).await;
    assert_eq!(text(&tokens).await, "a");
    assert_eq!(script.sign_ins(), 3);
    tokio::time::advance(seconds(290)).await;
    assert_eq!(tokens.token().await.unwrap_err().class(), ErrorClass::SignIn);
}

#[tokio::test(start_paused = true)]
async fn a_refused_sign_in_is_remembered_for_a_quarter_of_an_hour_or_until_forgotten() {
    let refused =
        || reply(401, r#"{"error":"invalid_client","error_description":"AADSTS7000222: canary"}"#);
    let script = Script::new([refused(), refused(), refused(), granted("t", 3600)], []);
    let tokens = tokens(&script, some_secret());
    for _ in 0..1000 {
        let error = tokens.token().await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::SignIn);
        assert_eq!((error.status(), error.code()), (Some(401), Some("invalid_client")));
        assert_eq!(error.retry_after(), Some(seconds(900)));
        assert!(error.message().contains("the secret has expired"), "{}", error.message());
        assert!(!format!("{error:?}").contains("canary"));
    }
    assert_eq!(script.sign_ins(), 1);
    tokio::time::advance(seconds(899)).await;
    assert_eq!(tokens.token().await.unwrap_err().retry_after(), Some(seconds(1)));
    assert_eq!(script.sign_ins(), 1);
    tokio::time::advance(seconds(1)).await;
    assert!(tokens.token().await.is_err());
    assert_eq!(script.sign_ins(), 2);
    tokens.forget();
    assert!(tokens.token().await.is_err());
    tokens.forget();
    assert_eq!(text(&tokens).await, "t");
}

#[tokio::test(start_paused = true)]
async fn a_rewritten_secret_is_used_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    let refused = || reply(401, r#"{"error":"invalid_client"}"#);
    let script = Script::new([refused(), granted("t", 3600)], []);
    let tokens = tokens(&script, Credential::SecretFile(file.clone()));
    assert!(tokens.token().await.is_err(), "there is no file yet");
    write(&file, "wrong", 1);
    assert!(tokens.token().await.is_err());
    assert!(tokens.token().await.is_err());
    assert_eq!(script.sign_ins(), 1);
    write(&file, "right", 2);
    assert_eq!(text(&tokens).await, "t");
    assert_eq!(field(&script, 1, "client_secret"), "right");
}

#[tokio::test(start_paused = true)]
async fn transient_sign_in_faults_back_off() {
    let faults = [
        reply(400, r#"{"error":"temporarily_unavailable"}"#),
        reply(500, ""),
        reply(429, "").with("retry-after", "60"),
        ScriptedResponse::Fault(TransportErrorKind::Connect),
        ScriptedResponse::Broken(200, "{", TransportErrorKind::Reset),
        ScriptedResponse::Silence,
        reply(200, "<html>"),
    ];
    let script = Script::new(faults.into_iter().chain([granted("t", 3600)]), []);
    let tokens = tokens(&script, some_secret());
    let mut waits = Vec::new();
    for n in 1..=7 {
        let error = tokens.token().await.unwrap_err();
        assert_eq!((error.class(), error.class().as_str()), (ErrorClass::Transient, "transient"));
        assert!(tokens.token().await.is_err());
        assert_eq!(script.sign_ins(), n);
        let wait = error.retry_after().unwrap();
        waits.push(wait);
        tokio::time::advance(wait).await;
    }
    assert_eq!(text(&tokens).await, "t");
    assert_eq!(waits[2], seconds(60), "what the endpoint asked for");
    for (n, wait) in waits.iter().enumerate().filter(|(n, _)| *n != 2) {
        let doubled = seconds(1 << n);
        assert!(*wait <= doubled && *wait > doubled / 2, "{waits:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_renewed_once_for_all_workers() {
    let script = Script::new([granted("a", 3600), granted("b", 3600)], []);
    let tokens = tokens(&script, some_secret());
    let refused = tokens.token().await.unwrap();
    let all = join_all((0..100).map(|_| tokens.refresh(&refused))).await;
    assert!(all.into_iter().all(|t| t.unwrap().expose() == "b"));
    assert_eq!(script.sign_ins(), 2);
    assert_eq!(text(&tokens).await, "b");
}

#[tokio::test(start_paused = true)]
async fn token_requests_are_limited_while_graph_refuses_every_token() {
    let script = Script::new((0..100).map(|n| granted(&n.to_string(), 3600)), []);
    let tokens = tokens(&script, some_secret());
    let mut token = tokens.token().await.unwrap();
    for _ in 0..10 {
        token = tokens.refresh(&token).await.unwrap();
    }
    for _ in 0..10 {
        assert_eq!(tokens.refresh(&token).await.unwrap_err().class(), ErrorClass::SignIn);
    }
    assert_eq!(script.sign_ins(), 11);
    // Windows that were not refused keep using the current token, without a request.
    assert_eq!(tokens.token().await.unwrap(), token);
    assert_eq!(script.sign_ins(), 11);
    tokio::time::advance(seconds(60)).await;
    assert_ne!(tokens.refresh(&token).await.unwrap(), token);
    assert_eq!(script.sign_ins(), 12);
}

#[tokio::test(start_paused = true)]
async fn a_token_refused_for_one_window_stays_valid_for_others() {
    let refused = || reply(401, r#"{"error":"invalid_client"}"#);
    let mut script = Script::new([granted("a", 3600), refused(), granted("b", 3600)], []);
    Arc::get_mut(&mut script).unwrap().token_delay = seconds(2);
    let tokens = tokens(&script, some_secret());
    let token = tokens.token().await.unwrap();
    let began = Instant::now();
    let (trouble, meanwhile) = tokio::join!(tokens.refresh(&token), async {
        tokio::task::yield_now().await;
        let token = text(&tokens).await;
        assert_eq!(began.elapsed(), Duration::ZERO, "it waited for another window's token");
        token
    });
    assert_eq!(trouble.unwrap_err().class(), ErrorClass::SignIn);
    assert_eq!((meanwhile.as_str(), text(&tokens).await.as_str()), ("a", "a"));
    // The refusal is remembered for the next forced renewal.
    assert_eq!(tokens.refresh(&token).await.unwrap_err().class(), ErrorClass::SignIn);
    assert_eq!(script.sign_ins(), 2);
    tokio::time::advance(seconds(900)).await;
    assert_eq!(tokens.refresh(&token).await.unwrap().expose(), "b");
    assert_eq!(text(&tokens).await, "b");
}

#[tokio::test(start_paused = true)]
async fn a_token_file_is_read_again_when_it_is_rewritten_or_its_token_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    write(&file, "a\n", 1);
    let script = Script::new([], []);
    let tokens = tokens(&script, Credential::AccessTokenFile(file.clone()));
    assert_eq!(text(&tokens).await, "a");
    tokio::time::advance(seconds(1_000_000)).await;
    assert_eq!(text(&tokens).await, "a");
    write(&file, "b\n", 2);
    assert_eq!(text(&tokens).await, "b");
    // Rewritten within the granularity of file times, and refused.
    write(&file, "c\n", 2);
    let refused = tokens.token().await.unwrap();
    assert_eq!(tokens.refresh(&refused).await.unwrap().expose(), "c");
    // A single refusal by Graph does not fail the account.
    let same = tokens.token().await.unwrap();
    assert_eq!(tokens.refresh(&same).await.unwrap().expose(), "c");
    assert_eq!(text(&tokens).await, "c");
}

#[tokio::test(start_paused = true)]
async fn a_login_address_must_be_safe() {
    for login_url in ["http://login.example", "https://user@login.example", "login.example"] {
        let script = Script::new([], []);
        let sign_in =
            SignInSettings { login_url: login_url.into(), ..script::sign_in(some_secret()) };
        let tokens = Tokens::new(sign_in, script.clone(), script::env());
        assert_eq!(tokens.token().await.unwrap_err().class(), ErrorClass::SignIn);
        assert!(script.asked().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_shows_a_token_or_a_secret() {
    let script = Script::new([granted("canary-token", 3600)], []);
    let tokens = tokens(&script, some_secret());
    let token = tokens.token().await.unwrap();
    let bearer = token.bearer().unwrap();
    assert!(!format!("{tokens:?} {token:?} {bearer:?}").contains("canary"));
    let proof = credential::Proof::Secret("canary".into());
    assert!(!format!("{proof:?}").contains("canary"));
}
