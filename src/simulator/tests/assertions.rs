//! Tests how registered certificates and keys of issuers verify assertions.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::sign_in::sign_in;
use super::*;

/// The certificate of the fixtures is valid at this time.
const NOW: &str = "2026-12-02T08:00:00Z";
const CERTIFICATE: &str = include_str!("../../../tests/fixtures/graph/certificate.pem");
const ROTATED: &str = include_str!("../../../tests/fixtures/graph/rotated.pem");
const PUBLIC: &str = include_str!("../../../tests/fixtures/graph/public_key.pem");

/// The certificate of a file, or its key.
fn section(pem: &str, tag: &str) -> pem::Pem {
    pem::parse_many(pem).unwrap().into_iter().find(|section| section.tag() == tag).unwrap()
}

fn der(pem: &str) -> Vec<u8> {
    section(pem, "CERTIFICATE").into_contents()
}

/// A simulator with the application `app`.
fn with(application: Application, now: &str) -> Simulator {
    let simulator = Simulator::new(SimulatorSettings::new(1, Env::simulated(1, at(now))));
    let (tenant, client_id) = ("tenant-1".to_owned(), "app".to_owned());
    simulator.set_applications(vec![Application { tenant, client_id, ..application }]);
    simulator
}

fn with_certificate(pem: &str, now: &str) -> Simulator {
    let certificate = Some(pem.to_owned());
    with(Application { certificate, ..Application::default() }, now)
}

/// The header of an assertion of this certificate.
fn header(algorithm: Algorithm, pem: &str) -> Header {
    let thumbprint = URL_SAFE_NO_PAD.encode(Sha256::digest(der(pem)));
    Header { x5t_s256: Some(thumbprint), ..Header::new(algorithm) }
}

fn claims(id: &str) -> Value {
    let now = at(NOW).as_second();
    json!({
        "aud": "https://login.example/tenant-1/oauth2/v2.0/token",
        "iss": "app", "sub": "app", "jti": id, "nbf": now, "iat": now, "exp": now + 600,
    })
}

fn signed(header: &Header, claims: &Value, pem: &str) -> String {
    let key = pem::encode(&section(pem, "PRIVATE KEY"));
    let key = EncodingKey::from_rsa_pem(key.as_bytes()).unwrap();
    jsonwebtoken::encode(header, claims, &key).unwrap()
}

/// Signs in with an assertion: the status, and the number after `AADSTS` of a refusal.
async fn present(simulator: &Simulator, assertion: &str) -> (u16, u64) {
    let form = format!(
        "scope=x%2F.default&grant_type=client_credentials&client_id=app&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion={assertion}"
    );
    let (status, body) = sign_in(simulator, &form, None).await;
    (status, body["error_codes"][0].as_u64().unwrap_or_default())
}

#[tokio::test(start_paused = true)]
async fn a_registered_certificate_is_named_in_every_known_form() {
    let both = format!("{ROTATED}{CERTIFICATE}");
    let simulator = with_certificate(&both, NOW);
    let (sha256, sha1) = (Sha256::digest(der(CERTIFICATE)), Sha1::digest(der(CERTIFICATE)));
    let mut headers = vec![header(Algorithm::PS256, CERTIFICATE)];
    for thumbprint in [STANDARD.encode(sha256), STANDARD_NO_PAD.encode(sha256)] {
        headers.push(Header { x5t_s256: Some(thumbprint), ..Header::new(Algorithm::PS256) });
    }
    for thumbprint in [URL_SAFE_NO_PAD.encode(sha1), STANDARD.encode(sha1)] {
        headers.push(Header { x5t: Some(thumbprint), ..Header::new(Algorithm::RS256) });
    }
    for (n, header) in headers.iter().enumerate() {
        let assertion = signed(header, &claims(&n.to_string()), CERTIFICATE);
        assert_eq!(present(&simulator, &assertion).await, (200, 0), "{header:?}");
    }
    // The other certificate of the rotation.
    let assertion = signed(&header(Algorithm::PS256, ROTATED), &claims("r"), ROTATED);
    assert_eq!(present(&simulator, &assertion).await, (200, 0));
}

#[tokio::test(start_paused = true)]
async fn an_assertion_is_verified_against_the_registered_certificate() {
    let simulator = with_certificate(CERTIFICATE, NOW);
    let own = header(Algorithm::PS256, CERTIFICATE);
    let now = at(NOW).as_second();
    let unnamed = Header::new(Algorithm::PS256);
    let sha1 = URL_SAFE_NO_PAD.encode(Sha1::digest(der(ROTATED)));
    let contradicting = Header { x5t: Some(sha1), ..own.clone() };
    for (what, assertion) in [
        ("another key", signed(&own, &claims("1"), ROTATED)),
        ("another certificate", signed(&header(Algorithm::PS256, ROTATED), &claims("1"), ROTATED)),
        ("no certificate", signed(&unnamed, &claims("1"), CERTIFICATE)),
        ("two certificates", signed(&contradicting, &claims("1"), CERTIFICATE)),
        (
            "another algorithm",
            signed(&header(Algorithm::PS384, CERTIFICATE), &claims("1"), CERTIFICATE),
        ),
    ] {
        assert_eq!(present(&simulator, &assertion).await, (401, 700_027), "{what}");
    }
    // Claims that were changed after they had been signed.
    let good = signed(&own, &claims("1"), CERTIFICATE);
    let parts: Vec<&str> = good.split('.').collect();
    let changed = URL_SAFE_NO_PAD.encode(claims("2").to_string());
    let forged = format!("{}.{changed}.{}", parts[0], parts[2]);
    assert_eq!(present(&simulator, &forged).await, (401, 700_027));
    for (name, value, number) in [
        ("aud", json!("https://login.example/other/oauth2/v2.0/token"), 700_023),
        ("aud", json!("https://elsewhere.example/tenant-1/oauth2/v2.0/token"), 700_023),
        ("iss", json!("other"), 700_021),
        ("sub", json!("other"), 700_021),
        ("exp", json!(now), 700_024),
        ("exp", Value::Null, 700_024),
        ("nbf", json!(now + 301), 700_024),
        ("jti", Value::Null, 700_027),
    ] {
        let mut claims = claims("1");
        claims[name] = value;
        let assertion = signed(&own, &claims, CERTIFICATE);
        assert_eq!(present(&simulator, &assertion).await, (401, number), "{name}");
    }
    // None of the refused ones has used up the id; the accepted one has.
    assert_eq!(present(&simulator, &good).await, (200, 0));
    assert_eq!(present(&simulator, &good).await, (401, 700_027));
    let expired = with_certificate(CERTIFICATE, "2036-11-20T00:00:00Z");
    assert_eq!(present(&expired, &good).await, (401, 700_027));
}

#[tokio::test(start_paused = true)]
async fn without_a_certificate_only_an_application_without_any_proof_is_believed() {
    let secret = Application { client_secret: Some("s".to_owned()), ..Application::default() };
    let assertion = signed(&header(Algorithm::PS256, CERTIFICATE), &claims("1"), CERTIFICATE);
    assert_eq!(present(&with(secret, NOW), &assertion).await, (401, 700_027));
    let none = with(Application::default(), NOW);
    assert_eq!(present(&none, &assertion).await, (200, 0));
    assert_eq!(present(&none, &assertion).await, (200, 0), "nothing is known of it");
}

#[tokio::test(start_paused = true)]
async fn a_federated_token_is_verified_with_the_keys_of_its_issuer() {
    let jwk = |kid: &str, pem: &str| {
        let der = der(pem);
        let public = x509_parser::parse_x509_certificate(&der).unwrap().1;
        let x509_parser::public_key::PublicKey::RSA(key) = public.public_key().parsed().unwrap()
        else {
            panic!("not RSA")
        };
        let [n, e] = [key.modulus, key.exponent].map(|number| {
            let zeros = number.iter().take_while(|byte| **byte == 0).count();
            URL_SAFE_NO_PAD.encode(&number[zeros..])
        });
        json!({"kty": "RSA", "kid": kid, "n": n, "e": e})
    };
    let set = json!({"keys": [jwk("one", ROTATED), jwk("two", CERTIFICATE)]});
    let token = |algorithm, kid: Option<&str>, pem| {
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
        let now = at(NOW).as_second();
        let claims = json!({"iss": "i", "sub": "s", "aud": "a", "nbf": now, "exp": now + 3600});
        signed(&header, &claims, pem)
    };
    for (keys, kid) in [
        (set, Some("two")),
        (json!({"keys": [jwk("two", CERTIFICATE)]}), None),
        (json!(PUBLIC), None),
    ] {
        let federation = json!({"issuer": "i", "subject": "s", "audience": "a", "keys": keys});
        let federation = Some(serde_json::from_value(federation).unwrap());
        let simulator = with(Application { federation, ..Application::default() }, NOW);
        let good = token(Algorithm::RS256, kid, CERTIFICATE);
        assert_eq!(present(&simulator, &good).await, (200, 0), "{kid:?}");
        // It is not the client's to renew, and may be presented again.
        assert_eq!(present(&simulator, &good).await, (200, 0), "{kid:?}");
        for (what, bad) in [
            ("another key", token(Algorithm::RS256, kid, ROTATED)),
            ("another algorithm", token(Algorithm::PS256, kid, CERTIFICATE)),
        ] {
            assert_eq!(present(&simulator, &bad).await, (401, 50_013), "{what}");
        }
        if kid.is_some() {
            for kid in [Some("one"), Some("three"), None] {
                let bad = token(Algorithm::RS256, kid, CERTIFICATE);
                assert_eq!(present(&simulator, &bad).await, (401, 50_013), "{kid:?}");
            }
        }
    }
}
