//! Who may come in over TCP: the right `Host`, a token, and no pages of other sites.
//!
//! A page in a browser can send requests to any address. The `Host` check keeps out those whose
//! name was pointed here (DNS rebinding), the `Origin` check those that would use a password the
//! browser remembers (or the open demo) to change something.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use super::ApiSettings;
use super::problem::Problem;

/// A token, kept as its SHA-256 so that nothing can show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Keeps a token. White space around it (a file's last newline) does not belong to it.
    pub fn new(token: &str) -> Self {
        Self(Sha256::digest(token.trim()).into())
    }

    /// Whether `token` is it; takes the same time however much of it is right. An empty one never
    /// is, whatever was kept.
    fn admits(&self, token: &str) -> bool {
        if token.is_empty() {
            return false;
        }
        let other: [u8; 32] = Sha256::digest(token).into();
        self.0.iter().zip(other).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What a TCP listener asks of requests.
#[derive(Debug)]
pub(super) struct Door {
    settings: ApiSettings,
    listen: SocketAddr,
}

impl Door {
    pub(super) fn new(settings: ApiSettings, listen: SocketAddr) -> Self {
        Self { settings, listen }
    }

    fn admit(&self, method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
        let host = text(headers, header::HOST).unwrap_or_default();
        if !self.is_here(host) {
            return Err(Problem::wrong_host());
        }
        let reads = matches!(*method, Method::GET | Method::HEAD);
        let own_page = text(headers, header::ORIGIN)
            .is_none_or(|origin| origin.split_once("://").is_some_and(|(_, at)| at == host));
        if !reads && !own_page {
            return Err(Problem::foreign_origin());
        }
        // Whoever asked for an open door asked for one that nobody else reaches.
        if self.settings.open_loopback && self.listen.ip().is_loopback() {
            return Ok(());
        }
        let token = credential(headers).ok_or_else(Problem::unauthorized)?;
        let admits = |secret: &Option<Secret>| secret.as_ref().is_some_and(|s| s.admits(&token));
        match (admits(&self.settings.token), admits(&self.settings.read_token)) {
            (true, _) => Ok(()),
            (false, true) if reads => Ok(()),
            (false, true) => Err(Problem::read_only_token()),
            (false, false) => Err(Problem::unauthorized()),
        }
    }

    /// Whether a `Host` names this listener: a loopback name or address, a configured name, the
    /// address listened on, or any address where all are listened on. The port does not matter: a forwarded one
    /// differs, and a rebound name is caught by the name.
    fn is_here(&self, host: &str) -> bool {
        let name = match host.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((address, _)) => address,
                None => return false,
            },
            None => host.split(':').next().unwrap_or_default(),
        };
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

/// The middleware in front of the routes.
pub(super) async fn check(
    State(door): State<Arc<Door>>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    door.admit(request.method(), request.headers())?;
    Ok(next.run(request).await)
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// A bearer token, or the password of Basic.
fn credential(headers: &HeaderMap) -> Option<String> {
    let (scheme, value) = text(headers, header::AUTHORIZATION)?.split_once(' ')?;
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
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;
    use axum::http::HeaderName;

    fn door(open: bool, listen: &str) -> Door {
        let settings = ApiSettings {
            token: Some(Secret::new("all\n")),
            read_token: Some(Secret::new("read")),
            hosts: vec!["mirror.example.org".to_owned()],
            mask_private: false,
            open_loopback: open,
        };
        Door::new(settings, listen.parse().unwrap())
    }

    fn admit(door: &Door, method: Method, headers: &[(HeaderName, &str)]) -> u16 {
        use axum::response::IntoResponse as _;
        let headers =
            headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        match door.admit(&method, &headers) {
            Ok(()) => 200,
            Err(problem) => problem.into_response().status().as_u16(),
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
        // Nor where one was kept that is empty.
        let empty = Some(Secret::new(" \n"));
        let empty =
            ApiSettings { token: empty.clone(), read_token: empty, ..ApiSettings::default() };
        for settings in [ApiSettings::default(), empty] {
            let door = Door::new(settings, "127.0.0.1:1".parse().unwrap());
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
            ("127.0.0.1:8380", "[::1", 421),
            ("127.0.0.1:8380", "", 421),
        ] {
            let door = door(false, listen);
            let headers = [(header::HOST, host), (header::AUTHORIZATION, "Bearer all")];
            assert_eq!(admit(&door, Method::GET, &headers), status, "{host:?}");
        }
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
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(…)");
    }
}
