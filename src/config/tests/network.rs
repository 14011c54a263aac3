//! Authorities and proxies.

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

use super::faults::check;
use super::{ACCOUNT, ConfigFixture};
use crate::config::{Config, diff};
use crate::mirror::account::ProxySettings;

/// The certificate of a new authority, in PEM form.
pub(super) fn authority() -> String {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
}

#[test]
fn a_file_of_authorities_is_checked_where_it_is_named() {
    let fixture = ConfigFixture::with("[graph]\nca_file = \"proxy.pem\"\n");
    let at = "calmirror.toml:2: graph.ca_file: proxy.pem";
    let faults = |content: &[u8]| {
        std::fs::write(fixture.dir.path().join("proxy.pem"), content).unwrap();
        fixture.faults()
    };
    assert_eq!(
        fixture.faults(),
        [format!(
            "{at} cannot be read: No such file or directory (os error 2); write the authorities' certificates into that file, in PEM form"
        )]
    );
    let none = format!(
        "{at} holds no certificate in PEM form; convert it if it is binary: openssl x509 -inform der -in FILE -out FILE.pem"
    );
    let key = KeyPair::generate().unwrap().serialize_pem();
    for content in [&b""[..], b"\x30\x82\x01\x0a", key.as_bytes()] {
        assert_eq!(faults(content), std::slice::from_ref(&none));
    }
    let broken = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    let unreadable = "holds no certificate that can be read";
    let again = "write the authorities' certificates into it again";
    assert_eq!(faults(broken.as_bytes()), [format!("{at} {unreadable}; {again}")]);
    let cut = "-----BEGIN CERTIFICATE-----\nMIIB\n";
    let said = faults(cut.as_bytes());
    assert!(said[0].starts_with(&format!("{at} is no proper PEM file: ")), "{said:?}");
    let large = vec![b'\n'; (8 << 20) + 1];
    assert_eq!(
        faults(&large),
        [format!(
            "{at} is too large for a file of certificates; name the file with the authorities alone"
        )]
    );
    std::fs::remove_file(fixture.dir.path().join("proxy.pem")).unwrap();
    std::fs::create_dir(fixture.dir.path().join("proxy.pem")).unwrap();
    let remedy = "name a PEM file, and let the daemon's user read it";
    let said = fixture.faults();
    assert!(said[0].starts_with(at) && said[0].ends_with(remedy), "{said:?}");
}

#[test]
fn authorities_are_read_again_at_a_reload() {
    let fixture = ConfigFixture::with("[graph]\nca_file = \"proxy.pem\"\n");
    let read = |content: &str| {
        fixture.write("proxy.pem", content);
        fixture.config()
    };
    let count = |config: &Config| {
        config.sections.graph.ca_file.as_ref().map(|file| file.certificates.len())
    };
    let (first, second) = (authority(), authority());
    let broken = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    let one = read(&first);
    let two = read(&format!("# the proxy's\n{first}{second}{broken}"));
    assert_eq!((count(&one), count(&two)), (Some(1), Some(2)));
    let skipped = "calmirror.toml:2: graph.ca_file: 1 of its 3 certificates cannot be read; remove them; the others are used";
    assert!(fixture.warnings().contains(&skipped.to_owned()), "{:?}", fixture.warnings());
    // Another content of the same file is a change, which a reload applies.
    assert_eq!(diff(&one, &two).settings, ["graph.ca_file"]);
    assert!(diff(&two, &two).is_empty() && diff(&one, &two).refused.is_empty());
}

#[test]
fn the_address_of_a_proxy_has_a_scheme_a_host_and_a_port_only() {
    let like = "write it like http://proxy.contoso.com:3128";
    let user = "an address with a user or a password in it; write user:password into a file with mode 0600, and name it in proxy_credentials_file";
    for (address, fault) in [
        ("http://svc:canary@proxy:3128", user.to_owned()),
        ("svc:canary@proxy:3128", user.to_owned()),
        ("proxy:3128", format!("neither http nor https; {like}")),
        ("ftp://proxy:3128", format!("neither http nor https; {like}")),
        (
            "socks5://proxy:1080",
            "a SOCKS proxy, which is not supported; name an HTTP proxy".to_owned(),
        ),
        ("http://", format!("not the address of a proxy; {like}")),
        ("http://:3128", format!("not the address of a proxy; {like}")),
        ("http://pro$xy:1", format!("not the address of a proxy; {like}")),
        ("http://pro xy", format!("not the address of a proxy; {like}")),
        ("http://1.2.3.999:1", format!("not the address of a proxy; {like}")),
        ("http://proxy:99999", format!("not the address of a proxy; {like}")),
        (
            "http://proxy:3128/proxy.pac",
            "an address with a path; write scheme, host and port only".to_owned(),
        ),
        (
            "http://proxy:3128/?a",
            "an address with a path; write scheme, host and port only".to_owned(),
        ),
        ("", "empty; write a value, or remove the line".to_owned()),
    ] {
        let text = format!("{}proxy = \"{address}\"\n", ACCOUNT.trim_end().to_owned() + "\n");
        check(&text, &[&format!("calmirror.toml:5: account.contoso.proxy: {fault}")]);
    }
    for address in ["http://proxy.contoso.com:3128", "https://[::1]:3128", "http://10.0.0.1"] {
        let text = format!("{}\nproxy = \"{address}/\"\n", ACCOUNT.trim_end());
        let config = ConfigFixture::with(&text).config();
        let proxy = ProxySettings { address: Some(address.to_owned()), credentials_file: None };
        assert_eq!(config.accounts["contoso"].proxy, proxy);
    }
}

#[test]
fn credentials_of_a_proxy_are_in_a_private_file_and_have_a_proxy() {
    let account = ACCOUNT.trim_end();
    let text = format!("{account}\nproxy_credentials_file = \"svc\"\n");
    let fixture = ConfigFixture::with(&text);
    let at = "calmirror.toml:5: account.contoso.proxy_credentials_file:";
    fixture.secret("svc", "svc:canary\n", 0o600);
    assert_eq!(
        fixture.faults(),
        [format!(
            "{at} there is no proxy for it; write proxy, or set HTTPS_PROXY in the daemon's environment"
        )]
    );
    let fixture = fixture.set("all_proxy", "socks5://proxy:1080");
    assert_eq!(
        fixture.faults(),
        [format!(
            "{at} it is for the proxy in all_proxy, which is a SOCKS proxy, which is not supported; name an HTTP proxy"
        )]
    );
    for proxy in ["http://proxy:3128", "proxy:3128", "http://other:can@ary@proxy:3128/"] {
        let fixture = ConfigFixture::with(&text).set("HTTPS_PROXY", proxy);
        fixture.secret("svc", "svc:canary\n", 0o600);
        let file = fixture.dir.path().join("svc");
        let proxy = ProxySettings { address: None, credentials_file: Some(file) };
        assert_eq!(fixture.config().accounts["contoso"].proxy, proxy);
    }
    let text = format!("{account}\nproxy_credentials_file = \"svc\"\nproxy = \"http://proxy:1\"\n");
    let fixture = ConfigFixture::with(&text);
    for (content, mode, fault) in [
        ("svc:canary", 0o644, "svc can be read by others (mode 0644); chmod 0600 svc"),
        (" \n", 0o600, "svc is empty; write the secret into it"),
        (
            "canary",
            0o600,
            "svc does not hold a user and a password; write user:password into it, on one line",
        ),
        (
            ":canary",
            0o600,
            "svc does not hold a user and a password; write user:password into it, on one line",
        ),
        (
            "svc:canary\nsvc:other",
            0o600,
            "svc holds more than one line; write user:password into it, on one line",
        ),
    ] {
        fixture.secret("svc", content, mode);
        assert_eq!(fixture.faults(), [format!("{at} {fault}")]);
    }
}
