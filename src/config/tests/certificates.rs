//! Certificates: what is refused before anything is asked of Microsoft, and what is warned about.

use std::fs;
use std::path::Path;

use jiff::Timestamp;

use super::{Config, ConfigFixture, NOW, Sources};
use crate::config::Diagnostics;
use crate::mirror::account::Credential;

const TEXT: &str = "[account.a]\ntenant = \"contoso.com\"\nclient_id = \"11111111-1111-1111-1111-111111111111\"\ncertificate_file = \"app\"\n";
const WINDOW: &str = "[[window]]\naccount = \"a\"\nmailbox = \"m@contoso.com\"\n";
/// The line after the certificate's.
const PASSWORD: &str = "certificate_password_file = \"password\"\n";

fn file(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

/// An account with this certificate, and with this password if there is one.
fn with(certificate: &[u8], password: Option<&str>) -> ConfigFixture {
    let lines = password.map_or("", |_| PASSWORD);
    let fixture = ConfigFixture::with(&format!("{TEXT}{lines}{WINDOW}"));
    fixture.secret("app", "", 0o600);
    fs::write(fixture.dir.path().join("app"), certificate).unwrap();
    if let Some(password) = password {
        fixture.secret("password", password, 0o600);
    }
    fixture
}

/// The faults at a time, or the warnings if there is none.
fn at(fixture: &ConfigFixture, now: &str) -> Vec<String> {
    let file = fixture.dir.path().join("calmirror.toml");
    let sources = Sources::find(Some(&file), fixture.environment.clone());
    match Config::load(&sources, now.parse::<Timestamp>().unwrap()) {
        Ok(config) => fixture.shown(&config.warnings),
        Err(Diagnostics(faults)) => fixture.shown(&faults),
    }
}

#[test]
fn a_certificate_is_pem_or_pfx() {
    for (name, password) in [
        ("graph/certificate.pem", None),
        ("certificates/aes.pfx", Some("gr\u{fc}\u{df}e 1\n")),
        ("certificates/legacy.pfx", Some("gr\u{fc}\u{df}e 1\n")),
        ("certificates/null_password.pfx", None),
    ] {
        let fixture = with(&file(name), password);
        let config = fixture.config();
        assert_eq!(config.warnings, [], "{name}");
        let path = fixture.dir.path().join("app");
        let password_file = password.map(|_| fixture.dir.path().join("password"));
        let expected = Credential::CertificateFile { path, password_file };
        assert_eq!(config.accounts["a"].credential, expected);
    }
}

#[test]
fn a_certificate_that_cannot_sign_is_refused() {
    let pem = String::from_utf8(file("graph/certificate.pem")).unwrap();
    let (own, key) = pem.split_at(pem.find("-----BEGIN PRIVATE").unwrap());
    let rotated = String::from_utf8(file("graph/rotated.pem")).unwrap();
    let aes = file("certificates/aes.pfx");
    for (content, password, line) in [
        (
            key.as_bytes().to_vec(),
            None,
            "4: account.a.certificate_file: app cannot be used: it holds no certificate; add the certificate that belongs to the private key",
        ),
        (
            own.as_bytes().to_vec(),
            None,
            "4: account.a.certificate_file: app cannot be used: it holds no private key; add the private key that belongs to the certificate",
        ),
        (
            file("certificates/ec.pem"),
            None,
            "4: account.a.certificate_file: app cannot be used: its key is not an RSA key, and only RSA keys sign assertions; make a certificate with an RSA key of at least 2048 bits",
        ),
        (
            format!("{key}{}", rotated.split("-----BEGIN PRIVATE").next().unwrap()).into(),
            None,
            "4: account.a.certificate_file: app cannot be used: its private key does not belong to its certificate; put a key and a certificate into it that were made together",
        ),
        (
            aes.clone(),
            None,
            "4: account.a.certificate_file: app cannot be used: its private key is protected by a password; write the password into a private file and name that with certificate_password_file",
        ),
        (
            aes.clone(),
            Some("wrong"),
            "5: account.a.certificate_password_file: the password in password does not open the certificate; write the password it was exported with into its file",
        ),
        (
            b"0no".to_vec(),
            None,
            "4: account.a.certificate_file: app cannot be used: it is damaged, or neither PEM nor PFX; export it again as PEM or PFX, with its private key",
        ),
    ] {
        assert_eq!(with(&content, password).faults(), [format!("calmirror.toml:{line}")]);
    }
    // The password is a secret like others, and belongs to a certificate.
    let fixture = with(&aes, Some("wrong"));
    fixture.secret("password", "wrong", 0o644);
    assert_eq!(
        fixture.faults(),
        [
            "calmirror.toml:5: account.a.certificate_password_file: password can be read by others (mode 0644); chmod 0600 password"
        ]
    );
    let other =
        TEXT.replace("certificate_file = \"app\"", "client_secret_file = \"contoso.secret\"");
    assert_eq!(
        ConfigFixture::with(&format!("{other}{PASSWORD}")).faults(),
        [
            "calmirror.toml:5: account.a.certificate_password_file: there is no certificate_file beside it; remove the line"
        ]
    );
}

#[test]
fn the_end_of_a_certificate_is_announced() {
    let fixture = with(&file("graph/certificate.pem"), None);
    let key = "calmirror.toml:4: account.a.certificate_file: the certificate in app";
    let renew =
        "upload a new certificate to the application, then put it and its key into the file";
    let soon = format!("{key} expires on 2036-11-19; {renew}");
    assert_eq!(at(&fixture, NOW), [""; 0]);
    assert_eq!(at(&fixture, "2036-10-20T02:16:11Z"), [""; 0]);
    assert_eq!(at(&fixture, "2036-10-20T02:16:12Z"), std::slice::from_ref(&soon));
    assert_eq!(at(&fixture, "2036-11-19T02:16:10Z"), [soon]);
    let expired = format!("{key} expired on 2036-11-19; {renew}");
    assert_eq!(at(&fixture, "2036-11-19T02:16:11Z"), [expired]);
    let early = format!(
        "{key} is not valid before 2026-11-22; check this machine's clock; until then Microsoft refuses the certificate"
    );
    assert_eq!(at(&fixture, "2026-11-22T02:16:10Z"), [early]);
}
