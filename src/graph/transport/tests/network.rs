//! Proxies, authorities and failed connections, over real sockets.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper_util::client::proxy::matcher::Matcher;
use tokio::net::TcpListener;

use super::servers::{Authority, ConnectDeed, FUTURE, PAST, Proxy, blurt, https};
use super::*;
use crate::mirror::account::ProxySettings;

const GRAPH: &str = "https://graph.example/v1.0/canary?$token=canary";

/// A route that trusts the authority too. Machines without roots of their own have TLS with it.
fn route(proxy: ProxySettings, authority: &Authority) -> Arc<Route> {
    let authorities = [authority.der()].into();
    // The proxies of the machine that runs the tests have no part in them.
    let none = Some(Matcher::builder().build());
    Arc::new(Route::within(none, RouteSettings { proxy, authorities }).unwrap())
}

fn through(proxy: &Proxy) -> ProxySettings {
    ProxySettings { address: Some(proxy.url()), credentials_file: None }
}

/// Sends one request that way and reads the answer.
async fn fetch_by(route: &Arc<Route>, uri: &str) -> Result<Bytes, TransportError> {
    let transport = HttpTransport::new().unwrap();
    let mut request = http::Request::get(uri).body(Bytes::new()).unwrap();
    request.extensions_mut().insert(route.clone());
    transport.send(request).await?.into_body().read(1 << 20).await
}

/// Why the request failed; never with the link or a password in it.
async fn failure(route: &Arc<Route>, uri: &str) -> String {
    let error = fetch_by(route, uri).await.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Connect);
    let mut shown = format!("{error:?} {route:?}");
    let mut cause = error.source();
    while let Some(error) = cause {
        shown += &format!(" {error} {error:?}");
        cause = error.source();
    }
    let message = error.to_string();
    assert!(!message.contains("canary") && !shown.contains("canary"), "{message} {shown}");
    message
}

#[tokio::test]
async fn an_additional_authority_is_trusted_directly_and_through_a_proxy() {
    let (known, other) = (Authority::new("one"), Authority::new("another"));
    let (graph, _graph) = https(known.issue("graph.example"), "graph").await;
    let (near, _near) = https(known.issue("localhost"), "near").await;
    let proxy = Proxy::new(ConnectDeed::Tunnel(graph)).await;
    let near = format!("https://localhost:{}/", near.port());
    let trusting = route(through(&proxy), &known);
    assert_eq!(fetch_by(&trusting, GRAPH).await.unwrap(), "graph");
    // Loopback never goes through a proxy.
    assert_eq!(fetch_by(&trusting, &near).await.unwrap(), "near");
    assert_eq!(proxy.asked(), ["graph.example:443"]);

    let wary = route(through(&proxy), &other);
    let unknown = "is from an unknown authority; if TLS is inspected on the way, name that \
                   authority's certificate in graph.ca_file";
    let said = failure(&wary, GRAPH).await;
    assert_eq!(said, format!("the certificate of graph.example {unknown}"));
    let said = failure(&wary, &near).await;
    let host = near.trim_start_matches("https://").trim_end_matches('/');
    assert_eq!(said, format!("the certificate of {host} {unknown}"));
    let renewed = route(through(&proxy), &Authority::new("one"));
    let said = failure(&renewed, GRAPH).await;
    assert!(said.starts_with("the certificate of graph.example is signed with another key"));
    assert!(said.ends_with("name that authority's new certificate in graph.ca_file"), "{said}");
}

#[tokio::test]
async fn a_bad_certificate_says_what_is_wrong_with_it() {
    let authority = Authority::new("one");
    let direct = route(ProxySettings::default(), &authority);
    let year = jiff::Timestamp::now().to_string()[..4].to_owned();
    for (identity, expected) in [
        (
            authority.issue("login.example"),
            ["is for another name (login.example); check the address, DNS and the proxy", "", ""],
        ),
        (
            authority.issue_for("localhost", PAST),
            [
                "expired at 2002-01-01T00:00:00Z, and this machine's clock reads ",
                "years",
                "later; set the clock if it is wrong (NTP), otherwise the server or the proxy that inspects TLS needs a new certificate",
            ],
        ),
        (
            authority.issue_for("localhost", FUTURE),
            [
                "is not valid yet: it begins at 2999-01-01T00:00:00Z, and this machine's clock reads ",
                "the clock is probably slow by more than 9",
                "set it (NTP)",
            ],
        ),
    ] {
        let (server, _server) = https(identity, "").await;
        let host = format!("localhost:{}", server.port());
        let said = failure(&direct, &format!("https://{host}/canary")).await;
        let start = format!("the certificate of {host} {}", expected[0]);
        assert!(said.starts_with(&start), "{said}");
        assert!(said.contains(expected[1]) && said.ends_with(expected[2]), "{said}");
        assert!(!expected[0].contains("clock") || said.contains(&format!("reads {year}-")));
    }
}

#[tokio::test]
async fn a_host_that_cannot_be_reached_is_named_with_the_cause() {
    let direct = route(ProxySettings::default(), &Authority::new("one"));
    let gone = Proxy::new(ConnectDeed::HangUp).await.end().await;
    assert_eq!(
        failure(&direct, &format!("https://{gone}/canary")).await,
        format!("{gone} refused the connection; check the address and the firewall")
    );
    // There is no TCP to a broadcast address, on any machine.
    assert_eq!(
        failure(&direct, "https://255.255.255.255/canary").await,
        "there is no route to 255.255.255.255; check the network and the firewall"
    );
    // Longer than a name can be, so that no server is asked for it. TLS would not even try.
    let name = format!("{}.example", "a".repeat(64));
    assert_eq!(
        failure(&direct, &format!("http://{name}/canary")).await,
        format!(
            "the name {name} could not be resolved; check DNS, and whether a proxy has to be named (proxy of the account, or HTTPS_PROXY)"
        )
    );
    let hangs_up = blurt("").await;
    let said = failure(&direct, &format!("https://{}/canary", hangs_up.0)).await;
    let place = hangs_up.0;
    assert!(said.starts_with(&format!("the connection to {place} ended while it was set up")));
    let babbles = blurt("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let said = failure(&direct, &format!("https://{}/canary", babbles.0)).await;
    assert!(said.starts_with(&format!("TLS with {} failed", babbles.0)), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_does_not_answer_is_given_up() {
    let direct = route(ProxySettings::default(), &Authority::new("one"));
    // The system accepts the connection, and nobody speaks TLS.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = silent.local_addr().unwrap();
    assert_eq!(
        failure(&direct, &format!("https://{place}/canary")).await,
        format!(
            "no connection to {place} within 10 s; check the firewall, and whether a proxy has to be named (proxy of the account, or HTTPS_PROXY)"
        )
    );
    let proxy = Proxy::new(ConnectDeed::Silence).await;
    let proxied = route(through(&proxy), &Authority::new("one"));
    assert_eq!(
        failure(&proxied, GRAPH).await,
        format!(
            "no connection to graph.example through the proxy {} within 10 s; check proxy of the account, and that the proxy allows that host",
            proxy.address
        )
    );
}

#[tokio::test]
async fn a_proxy_that_does_not_connect_is_named_with_its_key() {
    let authority = Authority::new("one");
    let forbids = Proxy::new(ConnectDeed::Answer("403 Forbidden")).await;
    let hangs_up = Proxy::new(ConnectDeed::HangUp).await;
    let babbles = Proxy::new(ConnectDeed::Answer("200 OK")).await;
    let gone = Proxy::new(ConnectDeed::HangUp).await.end().await;
    let name = format!("{}.example:3128", "a".repeat(64));
    let at = |address: &str| ProxySettings {
        address: Some(format!("http://{address}")),
        credentials_file: None,
    };
    for (proxy, expected) in [
        (
            through(&forbids),
            format!(
                "the proxy {} did not connect to graph.example: it answered CONNECT with another status than 200; allow that host there, and check that proxy of the account names a proxy",
                forbids.address
            ),
        ),
        (
            through(&hangs_up),
            format!(
                "the connection to graph.example through the proxy {} ended while it was set up; check proxy of the account, and that the proxy allows that host",
                hangs_up.address
            ),
        ),
        (
            at(&gone.to_string()),
            format!("the proxy {gone} refused the connection; check proxy of the account"),
        ),
        (
            at("255.255.255.255:3128"),
            "there is no route to the proxy 255.255.255.255:3128; check proxy of the account"
                .to_owned(),
        ),
        (
            at(&name),
            format!(
                "the name of the proxy {name} could not be resolved; check proxy of the account"
            ),
        ),
    ] {
        assert_eq!(failure(&route(proxy, &authority), GRAPH).await, expected);
    }
    let said = failure(&route(through(&babbles), &authority), GRAPH).await;
    assert!(said.contains("graph.example"), "{said}");
    // The environment's proxy is named by its variable.
    let environment = Matcher::builder().https(format!("http://{gone}")).build();
    let route = Route::within(Some(environment), RouteSettings::default()).unwrap();
    let said = format!("the proxy {gone} refused the connection; check HTTPS_PROXY");
    assert_eq!(failure(&Arc::new(route), GRAPH).await, said);
}

/// Credentials in a file.
fn write(file: &Path, text: &str) {
    std::fs::write(file, text).unwrap();
}

#[tokio::test]
async fn a_proxy_gets_the_credentials_that_the_file_has_at_that_time() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("proxy");
    let authority = Authority::new("one");
    let (graph, _graph) = https(authority.issue("graph.example"), "graph").await;
    let proxy = Proxy::new(ConnectDeed::Tunnel(graph)).await;
    let require = |text: &str| *proxy.memory.required.lock().unwrap() = Some(text.to_owned());
    require("s%41c:p%40 ss:canary/@ä");
    let place = proxy.address;

    let said = failure(&route(through(&proxy), &authority), GRAPH).await;
    let wants = format!("the proxy {place} wants a user and a password (407)");
    let remedy = "write user:password into a file that proxy_credentials_file of the account names";
    assert_eq!(said, format!("{wants}; {remedy}"));

    let settings = ProxySettings { credentials_file: Some(file.clone()), ..through(&proxy) };
    let proxied = route(settings, &authority);
    let shown = file.display();
    let said = failure(&proxied, GRAPH).await;
    assert!(
        said.starts_with(&format!(
            "{wants}, but proxy_credentials_file {shown} cannot be used: No such file"
        )),
        "{said}"
    );
    write(&file, "canary");
    let said = failure(&proxied, GRAPH).await;
    assert!(said.contains("it does not hold user:password; write user:password into it"), "{said}");
    write(&file, "svc:canary");
    let said = failure(&proxied, GRAPH).await;
    let refused = format!(
        "the proxy {place} does not accept the user and the password in proxy_credentials_file {shown} (407); correct them there"
    );
    assert_eq!(said, refused);

    write(&file, "s%41c:p%40 ss:canary/@ä\n");
    assert_eq!(fetch_by(&proxied, GRAPH).await.unwrap(), "graph");
    // A rotated file: the next connection has the new password.
    require("svc:second");
    assert_eq!(failure_of_new(&proxied).await, refused);
    write(&file, "svc:second");
    assert_eq!(fetch_new(&proxied).await.unwrap(), "graph");
}

/// Sends a request on a new connection.
async fn fetch_new(route: &Arc<Route>) -> Result<Bytes, TransportError> {
    let mut request = http::Request::get(GRAPH).body(Bytes::new()).unwrap();
    request.extensions_mut().insert(route.clone());
    request.extensions_mut().insert(FreshConnection);
    let answer = HttpTransport::new().unwrap().send(request).await?;
    answer.into_body().read(1 << 20).await
}

async fn failure_of_new(route: &Arc<Route>) -> String {
    fetch_new(route).await.unwrap_err().to_string()
}

#[tokio::test]
async fn the_proxy_of_the_environment_gets_the_credentials_too() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("proxy");
    write(&file, "svc:word");
    let authority = Authority::new("one");
    let (graph, _graph) = https(authority.issue("graph.example"), "graph").await;
    let proxy = Proxy::new(ConnectDeed::Tunnel(graph)).await;
    *proxy.memory.required.lock().unwrap() = Some("svc:word".to_owned());
    let of_environment = |address: String, credentials_file| {
        let environment = Matcher::builder().https(address).no("255.255.255.255").build();
        let proxy = ProxySettings { address: None, credentials_file };
        let settings = RouteSettings { proxy, authorities: [authority.der()].into() };
        Arc::new(Route::within(Some(environment), settings).unwrap())
    };
    let with_file = of_environment(proxy.url().replace("//", "//other:canary@"), Some(file));
    assert_eq!(fetch_by(&with_file, GRAPH).await.unwrap(), "graph");
    assert_eq!(proxy.asked(), ["graph.example:443"]);
    // NO_PROXY counts.
    let said = failure(&with_file, "https://255.255.255.255/canary").await;
    assert!(said.starts_with("there is no route to 255.255.255.255"), "{said}");
    assert_eq!(proxy.asked(), ["graph.example:443"]);

    let place = proxy.address;
    let said = failure(&of_environment(proxy.url(), None), GRAPH).await;
    assert_eq!(
        said,
        format!(
            "the proxy {place} wants a user and a password (407); write user:password into a file that proxy_credentials_file of the account names, or put them into the address in HTTPS_PROXY"
        )
    );
    *proxy.memory.required.lock().unwrap() = Some("svc:another".to_owned());
    let with_user = of_environment(proxy.url().replace("//", "//svc:canary@"), None);
    let said = failure(&with_user, GRAPH).await;
    assert_eq!(
        said,
        format!(
            "the proxy {place} does not accept the user and the password in HTTPS_PROXY (407); correct them, or write user:password into a file that proxy_credentials_file of the account names"
        )
    );
}

#[tokio::test]
async fn a_proxy_with_tls_needs_a_trusted_certificate_too() {
    let (known, other) = (Authority::new("one"), Authority::new("another"));
    let (graph, _graph) = https(known.issue("graph.example"), "graph").await;
    let proxy = Proxy::with_tls(ConnectDeed::Tunnel(graph), known.issue("localhost")).await;
    let place = format!("localhost:{}", proxy.address.port());
    let settings =
        ProxySettings { address: Some(format!("https://{place}")), credentials_file: None };
    assert_eq!(fetch_by(&route(settings.clone(), &known), GRAPH).await.unwrap(), "graph");
    let said = failure(&route(settings, &other), GRAPH).await;
    let start = format!("the certificate of the proxy {place} is from an unknown authority");
    assert!(said.starts_with(&start), "{said}");
    // An http proxy that is named as https.
    let plain = blurt("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let settings =
        ProxySettings { address: Some(format!("https://{}", plain.0)), credentials_file: None };
    let said = failure(&route(settings, &known), GRAPH).await;
    let expected = format!(
        "TLS with the proxy {} failed; check proxy of the account: an http proxy begins with http://",
        plain.0
    );
    assert_eq!(said, expected);
}

#[tokio::test]
async fn token_and_graph_requests_use_the_proxy_of_their_account() {
    let authority = Authority::new("one");
    let grant = r#"{"access_token":"t","expires_in":3600,"value":[],"@odata.deltaLink":"https://graph.example/v1.0/d"}"#;
    let [graph_name, login_name] = ["graph.example", "login.example"];
    let (graph, _graph) = https(authority.issue(graph_name), grant).await;
    let (login, _login) = https(authority.issue(login_name), grant).await;
    let transport = Arc::new(HttpTransport::new().unwrap());
    let budgets = Budgets::new(8, 3);
    let limit = Duration::from_secs(100);
    let base = "https://graph.example/v1.0";
    let client = GraphClient::new(transport.clone(), base, budgets, Env::real(), limit).unwrap();
    let mut proxies = Vec::new();
    for target in [login, graph] {
        let proxy = Proxy::new(ConnectDeed::Tunnel(target)).await;
        let route = Some(route(through(&proxy), &authority));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        write(&file, "s");
        let settings = SignInSettings { route, ..sign_in(Credential::SecretFile(file)) };
        let tokens = Tokens::new(settings, transport.clone(), Env::real());
        proxies.push((proxy, tokens, dir));
    }
    // The first proxy leads to the token endpoint only, whatever it is asked for.
    let (proxy, tokens, _) = &proxies[0];
    tokens.token().await.unwrap();
    let target = client.target(tokens, &"me".into(), CalendarRef::Default);
    let error =
        client.page(&target, &options(), PageStart::Window(edges()), false).await.unwrap_err();
    assert!(error.message().contains("is for another name (login.example)"), "{}", error.message());
    assert_eq!(proxy.asked(), ["login.example:443", "graph.example:443"]);
    // The second one leads to Graph, and its account never uses the first one.
    let (second, tokens, _) = &proxies[1];
    let target = client.target(tokens, &"me".into(), CalendarRef::Default);
    let error =
        client.page(&target, &options(), PageStart::Window(edges()), false).await.unwrap_err();
    assert!(error.message().contains("the token endpoint was not reached"), "{}", error.message());
    assert_eq!(second.asked(), ["login.example:443"]);
    assert_eq!(proxy.asked().len(), 2);
}

#[tokio::test]
async fn connections_of_a_route_are_shared_and_end_with_it() {
    let authority = Authority::new("one");
    let (graph, _graph) = https(authority.issue("graph.example"), "graph").await;
    let proxy = Proxy::new(ConnectDeed::Tunnel(graph)).await;
    let proxied = route(through(&proxy), &authority);
    for _ in 0..REMOTE_CONNECTIONS * 2 {
        fetch_by(&proxied, GRAPH).await.unwrap();
    }
    assert_eq!(proxy.asked().len(), REMOTE_CONNECTIONS);
    assert_eq!(proxy.memory.open.load(Ordering::SeqCst), REMOTE_CONNECTIONS);
    drop(proxied);
    let closed = async {
        while proxy.memory.open.load(Ordering::SeqCst) > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), closed).await.unwrap();
}

#[tokio::test]
async fn a_sign_in_with_a_wrong_clock_says_by_how_much() {
    let ahead = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(2 * 3600 + 30);
    let date = ahead.strftime("%a, %d %b %Y %H:%M:%S GMT");
    let body = r#"{"error":"invalid_client","error_description":"AADSTS700024: Client assertion is not within its valid time range."}"#;
    let answer = format!(
        "HTTP/1.1 401 Unauthorized\r\ndate: {date}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let server = serve(Deed::Close(answer.into_bytes())).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    write(&file, "eyJ.token.c2ln");
    let settings = SignInSettings {
        login_url: server.base.clone(),
        ..sign_in(Credential::FederatedTokenFile(file))
    };
    let transport = Arc::new(HttpTransport::new().unwrap());
    let error = Tokens::new(settings, transport, Env::real()).token().await.unwrap_err();
    let said = error.message();
    assert!(said.contains("this machine's clock is wrong: it is 2h"), "{said}");
    assert!(said.ends_with("slow; set it (NTP)"), "{said}");
}
