//! Who may connect: TLS, users, and credentials.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::stream_fixture::{settings, target};
use super::*;

/// An authority that no system trusts.
fn authority() -> CertifiedIssuer<'static, rcgen::KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "test");
    CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap()
}

/// The lines that give a server a certificate for a name.
fn tls(
    directory: &TempDir,
    authority: &CertifiedIssuer<'static, rcgen::KeyPair>,
    name: &str,
) -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = CertificateParams::new([name.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    let (cert_file, key_file) =
        (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    std::fs::write(&cert_file, certificate.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    format!("tls {{ cert_file: {cert_file:?}, key_file: {key_file:?} }}")
}

/// Opens a target; the kind and the text of what is wrong.
async fn refusal(settings: &NatsSettings) -> Option<(SinkErrorKind, String)> {
    let opened = target(settings).open(None).await;
    opened.err().map(|error| (error.kind, error.message))
}

#[tokio::test]
async fn a_server_with_tls_has_to_have_a_known_certificate_for_its_name() {
    let known = authority();
    for (name, trusts, problem) in [
        ("localhost", true, None),
        ("localhost", false, Some("is from an unknown authority; name that")),
        ("other.example", true, Some("is for another name than the host of its URL")),
    ] {
        let directory = TempDir::new().unwrap();
        let more = tls(&directory, &known, name);
        let Some(server) = NatsServer::start(directory.path(), &more).await else { return };
        // TLS is used because the server asks for it, too.
        for scheme in ["tls", "nats"] {
            let mut settings = settings(&format!("{scheme}://localhost:{}", server.port()));
            if trusts {
                settings.authorities = [known.der().clone()].into();
            }
            let refused = refusal(&settings).await;
            match problem {
                None => assert_eq!(refused, None, "{scheme} {name}"),
                Some(problem) => {
                    let (kind, message) = refused.unwrap();
                    assert_eq!(kind, SinkErrorKind::Unreachable);
                    assert!(message.contains(problem), "{message}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_server_without_tls_is_refused_if_the_address_asks_for_it() {
    let directory = TempDir::new().unwrap();
    let Some(server) = NatsServer::start(directory.path(), "").await else { return };
    let settings = settings(&format!("tls://localhost:{}", server.port()));
    let (kind, message) = refusal(&settings).await.unwrap();
    assert_eq!((kind, &*message), (SinkErrorKind::Unreachable, "TLS with the NATS server failed"));
}

#[tokio::test]
async fn a_server_without_jetstream_says_so() {
    let directory = TempDir::new().unwrap();
    let more = "jetstream: disabled";
    let Some(server) = NatsServer::start(directory.path(), more).await else { return };
    let (kind, message) = refusal(&settings(&server.url())).await.unwrap();
    assert!(message.starts_with(error::NO_JETSTREAM), "{message}");
    assert!(matches!(kind, SinkErrorKind::Unavailable | SinkErrorKind::Unsuitable));
}

#[tokio::test]
async fn users_are_refused_with_what_to_do() {
    let directory = TempDir::new().unwrap();
    let more = r#"authorization { users: [
        { user: "all", password: "canary" },
        { user: "few", password: "canary", permissions: { publish: ["nothing"] } },
        { user: "enough", password: "canary", permissions: {
            publish: [
                "copy.>", "$JS.API.STREAM.INFO.CALMIRROR", "$JS.API.STREAM.CREATE.CALMIRROR",
                "$JS.API.STREAM.MSG.GET.CALMIRROR", "$JS.API.CONSUMER.CREATE.CALMIRROR",
                "$JS.API.CONSUMER.MSG.NEXT.CALMIRROR.>",
            ], subscribe: ["_INBOX.>"],
        } },
    ] }"#;
    let Some(server) = NatsServer::start(directory.path(), more).await else { return };
    let port = server.port();
    let settings = |user: &str| settings(&format!("nats://{user}@127.0.0.1:{port}"));
    assert_eq!(refusal(&settings("all:canary")).await, None);
    for user in ["all:wrong", "nobody:canary", "canary"] {
        let (kind, message) = refusal(&settings(user)).await.unwrap();
        assert_eq!(kind, SinkErrorKind::Refused, "{message}");
        assert!(message.contains("refuses the user"), "{message}");
    }
    let (kind, message) = refusal(&settings("few:canary")).await.unwrap();
    assert_eq!((kind, &*message), (SinkErrorKind::Refused, error::NOT_PERMITTED));
    // The permissions in docs/sinks-nats.md are enough.
    let mut target = target(&settings("enough:canary"));
    target.open(None).await.unwrap();
    for (id, number) in [("a", 1), ("b", 2)] {
        target.deliver(&snapshot(id, number)).await.unwrap();
    }
    target.test("copy", "2026-11-21T10:00:00Z".parse().unwrap()).await.unwrap();
    drop(server);
    let (kind, message) = refusal(&settings("all:canary")).await.unwrap();
    let gone = "the NATS server refused the connection";
    assert_eq!((kind, &*message), (SinkErrorKind::Unreachable, gone));
}

/// A JWT of NATS, signed by a key.
fn jwt(issuer: &KeyPair, subject: &KeyPair, name: &str, nats: &Value) -> String {
    let claims = json!({
        "jti": name, "iat": 1_700_000_000, "iss": issuer.public_key(),
        "sub": subject.public_key(), "name": name, "nats": nats,
    });
    let encoded = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let head = encoded(&json!({"typ": "JWT", "alg": "ed25519-nkey"}));
    let signed = format!("{head}.{}", encoded(&claims));
    let signature = URL_SAFE_NO_PAD.encode(issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

#[tokio::test]
async fn a_user_with_credentials_may_publish_and_others_may_not() {
    let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
    let system = KeyPair::new_account();
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1,
        "consumer": -1,
    });
    let of_account = json!({"type": "account", "version": 2, "limits": limits});
    let of_system = json!({"type": "account", "version": 2, "limits": {
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1,
    }});
    let of_operator = json!({"type": "operator", "version": 2});
    let more = format!(
        "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload {{\n{}: {}\n{}: {}\n}}",
        jwt(&operator, &operator, "operator", &of_operator),
        system.public_key(),
        account.public_key(),
        jwt(&operator, &account, "account", &of_account),
        system.public_key(),
        jwt(&operator, &system, "system", &of_system),
    );
    let directory = TempDir::new().unwrap();
    let Some(server) = NatsServer::start(directory.path(), &more).await else { return };
    let path = directory.path().join("calmirror.creds");
    let user = KeyPair::new_user();
    let write = |issuer: &KeyPair| {
        let of_user = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1});
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            jwt(issuer, &user, "calmirror", &of_user),
            user.seed().unwrap()
        );
        std::fs::write(&path, text).unwrap();
    };
    let mut with = settings(&server.url());
    with.credentials_file = Some(path.clone());
    write(&account);
    assert_eq!(refusal(&with).await, None);
    // Signed by an account that the server does not know.
    write(&KeyPair::new_account());
    let (kind, message) = refusal(&with).await.unwrap();
    assert!(kind == SinkErrorKind::Refused && message.contains("refuses the user"), "{message}");
    let (kind, _) = refusal(&settings(&server.url())).await.unwrap();
    assert_eq!(kind, SinkErrorKind::Refused);
    std::fs::write(&path, "canary").unwrap();
    let (kind, message) = refusal(&with).await.unwrap();
    assert_eq!(kind, SinkErrorKind::Misconfigured);
    assert!(message.contains("does not contain the JWT") && !message.contains("canary"));
    std::fs::remove_file(&path).unwrap();
    let (kind, message) = refusal(&with).await.unwrap();
    assert_eq!(kind, SinkErrorKind::Misconfigured);
    assert!(message.contains("cannot be read by the daemon's user"), "{message}");
}

#[test]
fn problems_are_known_before_a_connection_is_tried() {
    let problems = |url: &str| -> Vec<String> {
        settings(url).problems().into_iter().map(|problem| problem.message).collect()
    };
    assert_eq!(problems("tls://nats.example.com"), [""; 0]);
    assert_eq!(problems("nats://127.0.0.1"), [""; 0]);
    assert!(problems("nats://canary@nats.example.com")[0].starts_with("url has an address with"));
    assert!(problems("http://canary")[0].contains("neither tls:// nor nats://"));
    let mut both = settings("tls://canary:canary@nats.example.com:7,tls://b");
    assert_eq!(both.shown(), "nats.example.com:7, b:4222, stream CALMIRROR");
    assert!(!format!("{both:?}").contains("canary"));
    both.credentials_file = Some("/missing".into());
    let problems = both.problems();
    assert!(problems[0].message.starts_with("url has a user or a token, and"), "{problems:?}");
    assert!(problems[1].message.starts_with("/missing cannot be read"), "{problems:?}");
}
