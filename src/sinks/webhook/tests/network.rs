//! Addresses that are refused, proxies and authorities, over real sockets.

use tokio::net::TcpListener;

use super::*;
use crate::graph::transport::tests::servers::{Authority, ConnectDeed, Proxy, https};

#[tokio::test]
async fn no_connection_is_made_to_an_address_that_is_not_public() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let accepted = tokio::spawn(async move { listener.accept().await.map(drop) });
    for (host, start) in [
        ("127.0.0.1", "url has an address with 127.0.0.1, which is not public"),
        ("0x7f.1", "url has an address with 127.0.0.1, which is not public"),
        ("[::ffff:127.0.0.1]", "url has an address with ::ffff:127.0.0.1, which is not public"),
        ("localhost", "localhost is at "),
        ("LOCALHOST", "localhost is at "),
    ] {
        let url = format!("https://{host}:{port}/canary");
        let settings = WebhookSettings { allow_private: false, ..settings(dir.path(), &url) };
        // A machine without roots of its own has TLS with this one.
        let authorities = [Authority::new("one").der()].into();
        let error = failure(&WebhookSettings { authorities, ..settings }).await;
        assert_eq!(error.kind, SinkErrorKind::Misconfigured);
        assert!(error.message.starts_with(start), "{error}");
        assert!(error.message.contains("set allow_private = true"), "{error}");
    }
    tokio::task::yield_now().await;
    assert!(!accepted.is_finished(), "something connected");
    accepted.abort();
}

#[tokio::test]
async fn an_authority_of_the_configuration_is_trusted_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let (known, other) = (Authority::new("one"), Authority::new("another"));
    let (address, _server) = https(known.issue("localhost"), "ok").await;
    let origin = format!("https://localhost:{}", address.port());
    let settings = settings(dir.path(), &format!("{origin}/canary"));
    let trusting = WebhookSettings { authorities: [known.der()].into(), ..settings.clone() };
    assert_eq!(deliver(&mut target(&trusting)).await.unwrap().status, Some(200));
    let wary = WebhookSettings { authorities: [other.der()].into(), ..settings };
    let error = failure(&wary).await;
    let place = origin.trim_start_matches("https://");
    let said = format!("the certificate of {place} is from an unknown authority");
    assert_eq!(error.kind, SinkErrorKind::Unreachable);
    assert!(error.message.starts_with(&said), "{error}");
}

#[tokio::test]
async fn the_proxy_of_the_environment_makes_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("one");
    let (address, _server) = https(authority.issue("hooks.example"), "ok").await;
    let proxy = Proxy::new(ConnectDeed::Tunnel(address)).await;
    let settings = WebhookSettings {
        allow_private: false,
        authorities: [authority.der()].into(),
        ..settings(dir.path(), "https://hooks.example/canary")
    };
    let through = |settings: &WebhookSettings, user: &str| {
        let url = proxy.url().replace("http://", &format!("http://{user}"));
        let environment = Some(Arc::new(Matcher::builder().all(url).build()));
        WebhookTarget { environment, ..target(settings) }
    };
    assert_eq!(deliver(&mut through(&settings, "")).await.unwrap().status, Some(200));
    *proxy.memory.required.lock().unwrap() = Some("user:canary".to_owned());
    let mut with_password = through(&settings, "user:canary@");
    assert_eq!(deliver(&mut with_password).await.unwrap().status, Some(200));
    assert_eq!(proxy.asked(), ["hooks.example:443"; 2]);
    let place = proxy.address;
    for (user, said) in [
        ("", "wants a user and a password (407); put them into the address in HTTPS_PROXY"),
        (
            "canary:canary@",
            "does not accept the user and the password in HTTPS_PROXY (407); correct them",
        ),
    ] {
        let mut refused = through(&settings, user);
        let error = deliver(&mut refused).await.unwrap_err();
        assert_eq!(error.message, format!("the proxy {place} {said}"));
        assert!(!format!("{error:?} {refused:?}").contains("canary"));
    }
    // What the address itself shows to be private does not reach the proxy, and neither does what
    // only this machine reaches.
    let url = SinkSecret::Inline("https://10.0.0.1/canary".into());
    let private = WebhookSettings { url, ..settings.clone() };
    let error = deliver(&mut through(&private, "")).await.unwrap_err();
    assert_eq!(error.kind, SinkErrorKind::Misconfigured);
    let receiver = WebhookReceiver::new(answer("200 OK", "", ""), Ending::Keep).await;
    let url = SinkSecret::Inline(receiver.url("/canary").into());
    let near = WebhookSettings { url, allow_private: true, ..settings };
    assert_eq!(deliver(&mut through(&near, "")).await.unwrap().status, Some(200));
    assert_eq!(proxy.asked().len(), 4);
}

#[tokio::test]
async fn a_receiver_that_is_not_there_is_named_by_its_host() {
    let dir = tempfile::tempdir().unwrap();
    let gone = Proxy::new(ConnectDeed::HangUp).await.end().await;
    let error = failure(&settings(dir.path(), &format!("http://{gone}/canary?canary"))).await;
    let said = format!("{gone} refused the connection; check the address and the firewall");
    assert_eq!((error.kind, error.message), (SinkErrorKind::Unreachable, said));
    // Longer than a name can be, so that no server is asked for it.
    let name = format!("{}.example", "a".repeat(64));
    let error = failure(&settings(dir.path(), &format!("http://{name}/canary"))).await;
    let said = format!(
        "the name {name} could not be resolved; check DNS, and whether a proxy has to be named \
         (HTTPS_PROXY)"
    );
    assert_eq!((error.kind, error.message), (SinkErrorKind::Unreachable, said));
}
