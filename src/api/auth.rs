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
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, Uri, header};
use axum::middleware::Next;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::ApiSettings;
use super::access::Access;
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

/// What the token of a request allows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TokenCheck {
    /// Everything, or no token is needed.
    Full,
    /// Reading what readers may see.
    ReadOnly,
    /// Nothing.
    Wrong,
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

impl AccessPolicy {
    pub(super) fn new(
        settings: ApiSettings,
        listen: SocketAddr,
        metrics: Arc<AccessMetrics>,
    ) -> Self {
        Self { settings, listen, waiting: Semaphore::new(MAX_DELAYED), metrics }
    }

    /// Checks a request.
    ///
    /// # Errors
    /// Why the request is refused whatever its token, or although the token may read.
    fn admit(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<TokenCheck, Problem> {
        let host = host(uri, headers).ok_or(Problem::BadHost)?;
        if !self.names_this_listener(name_of(host).ok_or(Problem::BadHost)?) {
            return Err(Problem::WrongHost);
        }
        let reads = matches!(*method, Method::GET | Method::HEAD);
        let own_page = header_text(headers, header::ORIGIN)
            .is_none_or(|origin| origin.split_once("://").is_some_and(|(_, at)| at == host));
        if !reads && !own_page {
            return Err(Problem::ForeignOrigin);
        }
        // `open_loopback` is honoured only while the listener is on loopback.
        if self.settings.open_loopback && self.listen.ip().is_loopback() {
            return Ok(TokenCheck::Full);
        }
        let token = credential(headers).ok_or(Problem::Unauthorized)?;
        let admits = |secret: &Option<TokenHash>| secret.as_ref().is_some_and(|s| s.admits(&token));
        match (admits(&self.settings.token), admits(&self.settings.read_token)) {
            (true, _) => Ok(TokenCheck::Full),
            (false, true) if reads => Ok(TokenCheck::ReadOnly),
            (false, true) => Err(Problem::ReadOnlyToken),
            (false, false) => Ok(TokenCheck::Wrong),
        }
    }

    /// The response to a wrong token, after its delay.
    async fn refuse_token(&self) -> Problem {
        let Ok(_place) = self.waiting.try_acquire() else {
            self.metrics.refused.add(AccessMetrics::TOO_MANY_ATTEMPTS, 1);
            return Problem::TooManyAttempts;
        };
        self.metrics.refused.add(AccessMetrics::WRONG_TOKEN, 1);
        tokio::time::sleep(WRONG_TOKEN_DELAY).await;
        Problem::Unauthorized
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
    State(policy): State<Arc<AccessPolicy>>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    match policy.admit(request.method(), request.uri(), request.headers())? {
        TokenCheck::Full => Ok(next.run(request).await),
        TokenCheck::ReadOnly => {
            request.extensions_mut().insert(Access::read_only());
            Ok(next.run(request).await)
        }
        TokenCheck::Wrong => Err(policy.refuse_token().await),
    }
}

/// The host that a request names: the authority of a request in absolute form, which takes
/// precedence over `Host` (RFC 9112, 3.2.2), else `Host`. `None` unless there is exactly one
/// `Host`.
fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().filter(|_| hosts.next().is_none())?.to_str().ok()?;
    Some(uri.authority().map_or(host, Authority::as_str))
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
mod tests;
