//! Access checks of the TCP listener: the right `Host`, a token, no pages of other sites.
//!
//! A page in a browser can send requests to any address. The `Host` check refuses pages whose name
//! was pointed here (DNS rebinding). The `Origin` check refuses pages that would change something
//! with a password the browser remembers, or through the open demo.
//!
//! A wrong token is answered after [`WRONG_TOKEN_DELAY`], and at most [`MAX_DELAYED`] such requests
//! wait. So at most 64 tokens a second can be tried, over all connections of the listener.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Uri, header};
use axum::middleware::Next;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::ApiSettings;
use super::problem::Problem;
use crate::metrics::AccessMetrics;

/// How long the response to a wrong token is delayed.
const WRONG_TOKEN_DELAY: Duration = Duration::from_secs(1);

/// Requests with wrong tokens that wait at the same time; further ones are refused at once.
const MAX_DELAYED: usize = 64;

/// A token, stored as its SHA-256 so that it cannot be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Hashes a token without the white space around it, such as a file's last newline.
    pub fn new(token: &str) -> Self {
        Self(Sha256::digest(token.trim()).into())
    }

    /// Whether `token` matches, compared in constant time. An empty `token` never matches.
    fn admits(&self, token: &str) -> bool {
        if token.is_empty() {
            return false;
        }
        let other: [u8; 32] = Sha256::digest(token).into();
        self.0.iter().zip(other).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

/// The access rules of a TCP listener.
#[derive(Debug)]
pub(super) struct AccessPolicy {
    settings: ApiSettings,
    listen: SocketAddr,
    /// Permits for requests with wrong tokens.
    waiting: Semaphore,
    metrics: Arc<AccessMetrics>,
}

/// Why a request is refused.
#[derive(Debug)]
enum AccessDenied {
    /// Refused at once.
    With(Problem),
    /// The token matches none of the configured ones.
    WrongToken,
}

impl From<Problem> for AccessDenied {
    fn from(problem: Problem) -> Self {
        Self::With(problem)
    }
}

impl AccessPolicy {
    pub(super) fn new(
        settings: ApiSettings,
        listen: SocketAddr,
        metrics: Arc<AccessMetrics>,
    ) -> Self {
        Self { settings, listen, waiting: Semaphore::new(MAX_DELAYED), metrics }
    }

    fn admit(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), AccessDenied> {
        let host = host(uri, headers).ok_or_else(Problem::bad_host)?;
        if !self.names_this_listener(name_of(host).ok_or_else(Problem::bad_host)?) {
            return Err(Problem::wrong_host().into());
        }
        let reads = matches!(*method, Method::GET | Method::HEAD);
        let own_page = header_text(headers, header::ORIGIN)
            .is_none_or(|origin| origin.split_once("://").is_some_and(|(_, at)| at == host));
        if !reads && !own_page {
            return Err(Problem::foreign_origin().into());
        }
        // `open_loopback` is honoured only while the listener is on loopback.
        if self.settings.open_loopback && self.listen.ip().is_loopback() {
            return Ok(());
        }
        let token = credential(headers).ok_or_else(Problem::unauthorized)?;
        let admits = |secret: &Option<TokenHash>| secret.as_ref().is_some_and(|s| s.admits(&token));
        match (admits(&self.settings.token), admits(&self.settings.read_token)) {
            (true, _) => Ok(()),
            (false, true) if reads => Ok(()),
            (false, true) => Err(Problem::read_only_token().into()),
            (false, false) => Err(AccessDenied::WrongToken),
        }
    }

    /// The response to a refused request, after its delay.
    async fn refuse(&self, refused: AccessDenied) -> Problem {
        match refused {
            AccessDenied::With(problem) => problem,
            AccessDenied::WrongToken => match self.waiting.try_acquire() {
                Ok(_place) => {
                    self.metrics.refused.add("wrong_token", 1);
                    tokio::time::sleep(WRONG_TOKEN_DELAY).await;
                    Problem::unauthorized()
                }
                Err(_) => {
                    self.metrics.refused.add("too_many_attempts", 1);
                    Problem::too_many_attempts()
                }
            },
        }
    }

    /// Whether the name of a `Host` belongs to this listener: a loopback name or address, a
    /// configured name, the listen address, or any address when listening on all. The port is
    /// ignored: a forwarded port differs, and the name alone detects DNS rebinding.
    fn names_this_listener(&self, name: &str) -> bool {
        let is = |own: &str| name.eq_ignore_ascii_case(own);
        if is("localhost") || self.settings.hosts.iter().any(|own| is(own)) {
            return true;
        }
        name.parse::<IpAddr>().is_ok_and(|address| {
            let own = self.listen.ip();
            address.is_loopback() || address == own || own.is_unspecified()
        })
    }
}

/// The access-check middleware in front of the routes.
pub(super) async fn check(
    State(door): State<Arc<AccessPolicy>>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    match door.admit(request.method(), request.uri(), request.headers()) {
        Ok(()) => Ok(next.run(request).await),
        Err(refused) => Err(door.refuse(refused).await),
    }
}

/// The host that a request names: the authority of a request in absolute form, which takes
/// precedence over `Host` (RFC 9112, 3.2.2), else `Host`. `None` unless there is exactly one
/// `Host`.
fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok()?,
        _ => return None,
    };
    match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => Some(host),
    }
}

/// The name or address of `name[:port]`, an IPv6 address without its brackets. `None` for anything
/// else, such as a host with user information.
fn name_of(host: &str) -> Option<&str> {
    let (name, rest) = match host.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            (address, rest)
        }
        None => {
            let (name, rest) = host.split_at(host.find(':').unwrap_or(host.len()));
            let of_a_name = |b: u8| b.is_ascii_alphanumeric() || b"-._~%".contains(&b);
            if name.is_empty() || !name.bytes().all(of_a_name) {
                return None;
            }
            (name, rest)
        }
    };
    let port = if rest.is_empty() { "" } else { rest.strip_prefix(':')? };
    port.bytes().all(|b| b.is_ascii_digit()).then_some(name)
}

fn header_text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// The bearer token, or the password of Basic.
fn credential(headers: &HeaderMap) -> Option<String> {
    let (scheme, value) = header_text(headers, header::AUTHORIZATION)?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.trim().to_owned());
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let pair = String::from_utf8(STANDARD.decode(value.trim()).ok()?).ok()?;
        return pair.split_once(':').map(|(_, password)| password.to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderName;

    fn door(open: bool, listen: &str) -> AccessPolicy {
        let settings = ApiSettings {
            token: Some(TokenHash::new("all\n")),
            read_token: Some(TokenHash::new("read")),
            hosts: vec!["mirror.example.org".to_owned()],
            mask_private: false,
            open_loopback: open,
        };
        AccessPolicy::new(settings, listen.parse().unwrap(), Arc::default())
    }

    fn admit(door: &AccessPolicy, method: Method, headers: &[(HeaderName, &str)]) -> u16 {
        use axum::response::IntoResponse as _;
        let headers =
            headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        match door.admit(&method, &Uri::from_static("/v1/status"), &headers) {
            Ok(()) => 200,
            Err(AccessDenied::With(problem)) => problem.into_response().status().as_u16(),
            Err(AccessDenied::WrongToken) => 401,
        }
    }

    #[test]
    fn every_request_needs_the_token_and_the_reading_one_only_reads() {
        let door = door(false, "127.0.0.1:8380");
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
            assert_eq!(admit(&door, Method::GET, &headers), get, "GET {authorization:?}");
            assert_eq!(admit(&door, Method::POST, &headers), post, "POST {authorization:?}");
        }
    }

    #[test]
    fn without_configured_tokens_nobody_comes_in() {
        // An empty configured token admits no request either.
        let empty = Some(TokenHash::new(" \n"));
        let empty =
            ApiSettings { token: empty.clone(), read_token: empty, ..ApiSettings::default() };
        for settings in [ApiSettings::default(), empty] {
            let door = AccessPolicy::new(settings, "127.0.0.1:1".parse().unwrap(), Arc::default());
            let host = (header::HOST, "localhost");
            assert_eq!(admit(&door, Method::GET, std::slice::from_ref(&host)), 401);
            for authorization in ["", "Bearer ", "Bearer x", "Basic Og==", "Basic !!!"] {
                let headers = [host.clone(), (header::AUTHORIZATION, authorization)];
                assert_eq!(admit(&door, Method::GET, &headers), 401, "{authorization:?}");
            }
        }
    }

    #[test]
    fn only_loopback_is_open() {
        for (listen, status) in [
            ("127.0.0.1:8380", 200),
            ("[::1]:8380", 200),
            ("0.0.0.0:8380", 401),
            ("[::]:8380", 401),
            ("10.0.0.5:8380", 401),
        ] {
            let door = door(true, listen);
            let headers = [(header::HOST, "localhost")];
            assert_eq!(admit(&door, Method::GET, &headers), status, "{listen}");
        }
    }

    #[test]
    fn a_name_that_was_pointed_here_is_refused() {
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
            let door = door(false, listen);
            let headers = [(header::HOST, host), (header::AUTHORIZATION, "Bearer all")];
            assert_eq!(admit(&door, Method::GET, &headers), status, "{host:?}");
        }
    }

    #[test]
    fn the_host_is_one_and_that_of_the_absolute_form_comes_first() {
        let door = door(true, "127.0.0.1:8380");
        let status = |uri: &'static str, hosts: &[&'static str]| {
            let name = |host: &&'static str| (header::HOST, host.parse().unwrap());
            let headers: HeaderMap = hosts.iter().map(name).collect();
            match door.admit(&Method::GET, &Uri::from_static(uri), &headers) {
                Ok(()) => 200,
                Err(AccessDenied::With(problem)) => {
                    axum::response::IntoResponse::into_response(problem).status().as_u16()
                }
                Err(AccessDenied::WrongToken) => 401,
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
    async fn wrong_tokens_are_answered_late_and_only_some_wait() {
        use axum::response::IntoResponse as _;
        let door = Arc::new(door(false, "127.0.0.1:8380"));
        let begun = tokio::time::Instant::now();
        let attempts: Vec<_> = (0..MAX_DELAYED + 6)
            .map(|_| {
                let door = door.clone();
                tokio::spawn(async move {
                    let answer = door.refuse(AccessDenied::WrongToken).await.into_response();
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
        let counts: Vec<_> = door.metrics.refused.counts().collect();
        assert_eq!(counts[..2], [("wrong_token", 64), ("too_many_attempts", 6)]);
        // A request without a token is no guess, so it is not delayed.
        assert_eq!(admit(&door, Method::GET, &[(header::HOST, "localhost")]), 401);
        // The permits are free again.
        assert_eq!(door.refuse(AccessDenied::WrongToken).await.into_response().status(), 401);
    }

    #[test]
    fn pages_of_other_sites_may_not_change_anything() {
        let door = door(true, "127.0.0.1:8380");
        for (origin, status) in [
            ("http://localhost:8380", 200),
            ("http://localhost:8381", 403),
            ("https://evil.example", 403),
            ("null", 403),
        ] {
            let headers = [(header::HOST, "localhost:8380"), (header::ORIGIN, origin)];
            assert_eq!(admit(&door, Method::POST, &headers), status, "{origin}");
            assert_eq!(admit(&door, Method::GET, &headers), 200, "{origin}");
        }
    }

    #[test]
    fn a_secret_cannot_be_shown() {
        assert_eq!(format!("{:?}", TokenHash::new("hunter2")), "TokenHash(…)");
    }
}
