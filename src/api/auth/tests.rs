//! Who may ask: hosts, tokens, origins.

use super::*;
use axum::http::HeaderName;

fn policy_of(settings: ApiSettings, listen: &str) -> AccessPolicy {
    AccessPolicy {
        settings,
        own_host: None,
        listen: listen.parse().unwrap(),
        waiting: Semaphore::new(MAX_DELAYED),
        metrics: Arc::default(),
        env: crate::tests::env(),
        log: ConsumerLog::default(),
    }
}

fn policy(open: bool, listen: &str) -> AccessPolicy {
    let settings = ApiSettings {
        token: Some(TokenHash::new("all\n")),
        read_token: Some(TokenHash::new("read")),
        hosts: vec!["mirror.example.org".to_owned()],
        mask_private: false,
        groups: Arc::default(),
        consumers: Arc::default(),
        open_loopback: open,
        ..ApiSettings::default()
    };
    policy_of(settings, listen)
}

fn admit(policy: &AccessPolicy, method: Method, headers: &[(HeaderName, &str)]) -> u16 {
    use axum::response::IntoResponse as _;
    let headers =
        headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
    let route = if method == Method::POST { "/v1/reload" } else { "/v1/status" };
    let refused = |problem: Problem| problem.into_response().status().as_u16();
    match policy.admit(&method, &Uri::from_static("/v1/status"), &headers) {
        Ok(TokenCheck::Admitted(access, _)) => access.check(route).map_or_else(refused, |()| 200),
        Ok(TokenCheck::Wrong) => 401,
        Ok(TokenCheck::Answered(answer)) => answer.status().as_u16(),
        Err(problem) => refused(problem),
    }
}

#[test]
fn every_request_needs_a_token_and_the_read_token_only_reads() {
    let policy = policy(false, "127.0.0.1:8380");
    let basic = |password: &str| format!("Basic {}", STANDARD.encode(format!("me:{password}")));
    for (authorization, get, post) in [
        ("", 401, 401),
        ("Bearer wrong", 401, 401),
        ("Bearer ", 401, 401),
        ("all", 401, 401),
        ("Bearer all", 200, 200),
        ("bearer all", 200, 200),
        ("Bearer read", 200, 403),
        (&*basic("all"), 200, 200),
        (&*basic("read"), 200, 403),
        (&*basic("al"), 401, 401),
        ("Basic !!!", 401, 401),
    ] {
        let headers = [(header::HOST, "localhost"), (header::AUTHORIZATION, authorization)];
        assert_eq!(admit(&policy, Method::GET, &headers), get, "GET {authorization:?}");
        assert_eq!(admit(&policy, Method::POST, &headers), post, "POST {authorization:?}");
    }
}

#[test]
fn without_configured_tokens_every_request_is_refused() {
    // An empty configured token admits no request either.
    let empty = Some(TokenHash::new(" \n"));
    let empty = ApiSettings { token: empty.clone(), read_token: empty, ..ApiSettings::default() };
    for settings in [ApiSettings::default(), empty] {
        let policy = policy_of(settings, "127.0.0.1:1");
        let host = (header::HOST, "localhost");
        assert_eq!(admit(&policy, Method::GET, std::slice::from_ref(&host)), 401);
        for authorization in ["", "Bearer ", "Bearer x", "Basic Og==", "Basic !!!"] {
            let headers = [host.clone(), (header::AUTHORIZATION, authorization)];
            assert_eq!(admit(&policy, Method::GET, &headers), 401, "{authorization:?}");
        }
    }
}

#[test]
fn only_loopback_may_be_open_without_a_token() {
    for (listen, status) in [
        ("127.0.0.1:8380", 200),
        ("[::1]:8380", 200),
        ("0.0.0.0:8380", 401),
        ("[::]:8380", 401),
        ("10.0.0.5:8380", 401),
    ] {
        let policy = policy(true, listen);
        let headers = [(header::HOST, "localhost")];
        assert_eq!(admit(&policy, Method::GET, &headers), status, "{listen}");
    }
}

#[test]
fn an_unknown_host_name_is_refused() {
    for (listen, host, status) in [
        ("127.0.0.1:8380", "127.0.0.1:8380", 200),
        ("127.0.0.1:8380", "localhost:9999", 200),
        ("127.0.0.1:8380", "LOCALHOST", 200),
        ("127.0.0.1:8380", "[::1]:8380", 200),
        ("127.0.0.1:8380", "127.8.8.8", 200),
        ("10.0.0.5:8380", "10.0.0.5:8380", 200),
        ("10.0.0.5:8380", "10.0.0.6:8380", 421),
        ("0.0.0.0:8380", "10.0.0.6:8380", 200),
        ("0.0.0.0:8380", "evil.example", 421),
        ("127.0.0.1:8380", "evil.example:8380", 421),
        ("127.0.0.1:8380", "localhost.evil.example", 421),
        ("127.0.0.1:8380", "127.0.0.1.evil.example", 421),
        ("127.0.0.1:8380", "mirror.example.org", 200),
        ("127.0.0.1:8380", "Mirror.Example.ORG:443", 200),
        ("127.0.0.1:8380", "mirror.example.org.evil.example", 421),
        ("127.0.0.1:8380", "www.mirror.example.org", 421),
        ("127.0.0.1:8380", "mirror.example.or", 421),
        ("127.0.0.1:8380", "localhost:", 200),
        ("127.0.0.1:8380", "evil.example@localhost", 400),
        ("127.0.0.1:8380", "localhost:80@evil.example", 400),
        ("127.0.0.1:8380", "localhost:80:80", 400),
        ("127.0.0.1:8380", "localhost:http", 400),
        ("127.0.0.1:8380", "localhost/", 400),
        ("127.0.0.1:8380", "localhost, evil.example", 400),
        ("127.0.0.1:8380", "[::1]x", 400),
        ("127.0.0.1:8380", "[::1]x:80", 400),
        ("127.0.0.1:8380", "[::1]:80x", 400),
        ("127.0.0.1:8380", "[::1", 400),
        ("127.0.0.1:8380", "[localhost]", 400),
        ("127.0.0.1:8380", "", 400),
    ] {
        let policy = policy(false, listen);
        let headers = [(header::HOST, host), (header::AUTHORIZATION, "Bearer all")];
        assert_eq!(admit(&policy, Method::GET, &headers), status, "{host:?}");
    }
}

#[test]
fn an_absolute_target_overrides_the_only_host_header() {
    let policy = policy(true, "127.0.0.1:8380");
    let status = |uri: &'static str, hosts: &[&'static str]| {
        let name = |host: &&'static str| (header::HOST, host.parse().unwrap());
        let headers: HeaderMap = hosts.iter().map(name).collect();
        match policy.admit(&Method::GET, &Uri::from_static(uri), &headers) {
            Ok(TokenCheck::Admitted(..)) => 200,
            Ok(_) => 401,
            Err(problem) => axum::response::IntoResponse::into_response(problem).status().as_u16(),
        }
    };
    for (uri, hosts, expected) in [
        ("/", &["localhost"][..], 200),
        ("/", &[], 400),
        ("/", &["localhost", "localhost"], 400),
        ("/", &["localhost", "evil.example"], 400),
        ("http://localhost:8380/", &["localhost"], 200),
        ("http://localhost:8380/", &["evil.example"], 200),
        ("http://evil.example/", &["localhost"], 421),
        ("http://evil.example@localhost/", &["localhost"], 400),
    ] {
        assert_eq!(status(uri, hosts), expected, "{uri} {hosts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn responses_to_wrong_tokens_are_delayed_for_a_limited_number_of_requests() {
    use axum::response::IntoResponse as _;
    let policy = Arc::new(policy(false, "127.0.0.1:8380"));
    let begun = tokio::time::Instant::now();
    let attempts: Vec<_> = (0..MAX_DELAYED + 6)
        .map(|_| {
            let policy = policy.clone();
            tokio::spawn(async move {
                let answer = policy.refuse_token().await.into_response();
                (answer.status().as_u16(), begun.elapsed())
            })
        })
        .collect();
    let (mut late, mut refused) = (0, 0);
    for attempt in attempts {
        match attempt.await.unwrap() {
            (401, after) if after >= WRONG_TOKEN_DELAY => late += 1,
            (429, after) if after < WRONG_TOKEN_DELAY => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((late, refused), (MAX_DELAYED, 6));
    let counts: Vec<_> = policy.metrics.refused.counts().collect();
    assert_eq!(counts[..2], [("wrong_token", 64), ("too_many_attempts", 6)]);
    // A request without a token is no guess, so it is not delayed.
    assert_eq!(admit(&policy, Method::GET, &[(header::HOST, "localhost")]), 401);
    // The permits are free again.
    assert_eq!(policy.refuse_token().await.into_response().status(), 401);
}

#[test]
fn cross_site_requests_may_not_change_anything() {
    let policy = policy(true, "127.0.0.1:8380");
    for (origin, status) in [
        ("http://localhost:8380", 200),
        ("http://localhost:8381", 403),
        ("https://evil.example", 403),
        ("null", 403),
    ] {
        let headers = [(header::HOST, "localhost:8380"), (header::ORIGIN, origin)];
        assert_eq!(admit(&policy, Method::POST, &headers), status, "{origin}");
        assert_eq!(admit(&policy, Method::GET, &headers), 200, "{origin}");
    }
}

#[test]
fn debug_output_hides_secrets() {
    assert_eq!(format!("{:?}", TokenHash::new("hunter2")), "TokenHash(…)");
}
