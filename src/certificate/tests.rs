//! Every form in which programs export a certificate, and every fault of a file.
//! `tests/fixtures/certificates/README.md` says how the files are made.

use std::fs;
use std::path::Path;

use super::*;

/// SHA-256 of the certificate as DER, of which all files but `ec.*` and `rotated.pem` have the key.
const THUMBPRINT: &str = "16aa3790d2bb91ef8e90705371e51695819a9abe7abb4f572d2c5c042860635e";
const PASSWORD: &str = "gr\u{fc}\u{df}e 1";

fn fixture(path: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)).unwrap()
}

fn pem(name: &str) -> String {
    String::from_utf8(fixture(name)).unwrap()
}

/// The certificate alone, of a file where it stands before the key.
fn certificate(name: &str) -> String {
    let text = pem(name);
    text[..text.find("-----BEGIN PRIVATE").unwrap()].to_owned()
}

/// The key alone, of such a file.
fn key(name: &str) -> String {
    pem(name)[certificate(name).len()..].to_owned()
}

fn read(content: &[u8], password: Option<&str>) -> Result<ClientCertificate, CertificateError> {
    ClientCertificate::read(content, password.map(SecretString::from).as_ref())
}

#[test]
fn every_form_yields_the_key_and_its_certificate() {
    let own = certificate("graph/certificate.pem");
    let encrypted = pem("certificates/encrypted_key.pem");
    let rotated = certificate("graph/rotated.pem");
    let secret = Some(PASSWORD);
    for (form, content, password) in [
        ("PKCS #8", fixture("graph/certificate.pem"), None),
        ("a password for nothing", fixture("graph/certificate.pem"), secret),
        ("PKCS #1, first", (pem("graph/key_pkcs1.pem") + &own).into(), None),
        ("lines of Windows", pem("graph/certificate.pem").replace('\n', "\r\n").into(), None),
        ("encrypted PKCS #8", (encrypted + &own).into(), secret),
        ("another certificate first", (rotated + &pem("graph/certificate.pem")).into(), None),
        ("PFX", fixture("certificates/aes.pfx"), secret),
        ("an old PFX", fixture("certificates/legacy.pfx"), secret),
        ("PFX with an empty password", fixture("certificates/no_password.pfx"), None),
        ("PFX without a password", fixture("certificates/null_password.pfx"), None),
    ] {
        let found = read(&content, password).unwrap_or_else(|error| panic!("{form}: {error}"));
        let shown: String = found.thumbprint.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(shown, THUMBPRINT, "{form}");
        assert_eq!(found.valid_from.to_string(), "2026-11-22T02:16:11Z");
        assert_eq!(found.valid_until.to_string(), "2036-11-19T02:16:11Z");
        let signature = sign(b"text", &found.key(), ALGORITHM).unwrap();
        let public = DecodingKey::from_rsa_pem(&fixture("graph/public_key.pem")).unwrap();
        assert!(verify(&signature, b"text", &public, ALGORITHM).unwrap(), "{form}");
    }
}

#[test]
fn every_fault_of_a_file_is_told_apart() {
    use CertificateError::*;
    let own = certificate("graph/certificate.pem");
    let encrypted = pem("certificates/encrypted_key.pem") + &own;
    let ec = pem("graph/key_ec.pem");
    let ec_pair = pem("certificates/ec.pem");
    let ec_certificate = &ec_pair[ec_pair.find("-----BEGIN CERTIFICATE").unwrap()..];
    let headers =
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n";
    let traditional =
        pem("graph/key_pkcs1.pem").replace("-----BEGIN RSA PRIVATE KEY-----\n", headers) + &own;
    let no_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_owned() + &own;
    let (aes, legacy) = (fixture("certificates/aes.pfx"), fixture("certificates/legacy.pfx"));
    for (content, password, expected) in [
        (Vec::new(), None, NoCertificate),
        (b"hello".to_vec(), None, NoCertificate),
        (key("graph/certificate.pem").into(), None, NoCertificate),
        (own.clone().into(), None, NoKey),
        (fixture("certificates/ec.pem"), None, NotRsa),
        (fixture("certificates/ec.pfx"), Some(PASSWORD), NotRsa),
        ((ec + &own).into(), None, NotRsa),
        ((key("graph/certificate.pem") + ec_certificate).into(), None, NotRsa),
        ((key("graph/rotated.pem") + &own).into(), None, Mismatch),
        ((certificate("graph/rotated.pem") + &key("graph/certificate.pem")).into(), None, Mismatch),
        (aes.clone(), None, PasswordMissing),
        (legacy.clone(), None, PasswordMissing),
        (encrypted.clone().into(), None, PasswordMissing),
        (aes.clone(), Some("wrong"), WrongPassword),
        (legacy.clone(), Some("wrong"), WrongPassword),
        (encrypted.clone().into(), Some("wrong"), WrongPassword),
        (traditional.into(), Some(PASSWORD), Unsupported),
        (no_key.into(), None, UnfitKey),
        (own.replace("MII", "M\u{fc}I").into(), None, Damaged),
        (aes[..aes.len() - 1].to_vec(), Some(PASSWORD), Damaged),
        (vec![SEQUENCE, 0], None, Damaged),
    ] {
        let error = read(&content, password).unwrap_err();
        assert_eq!(error, expected, "{}", content.escape_ascii());
    }
    for end in 0..legacy.len() {
        assert!(read(&legacy[..end], Some(PASSWORD)).is_err());
    }
}

#[test]
fn nothing_shows_the_key() {
    let shown = format!("{:?}", read(&fixture("graph/certificate.pem"), None).unwrap());
    assert!(shown.contains("key: SecretBox<[u8]>([REDACTED])"), "{shown}");
}
