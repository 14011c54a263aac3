//! Access checks of the TCP listener: the right `Host`, a token, no pages of other sites.
//!
//! A page in a browser can send requests to any address. The `Host` check refuses pages whose name
//! was pointed here (DNS rebinding). The `Origin` check refuses pages that would change something
//! with a password the browser remembers, or through the open demo.
//!
//! A wrong token is answered after [`WRONG_TOKEN_DELAY`], and at most [`MAX_DELAYED`] such requests
//! wait. So at most 64 tokens a second can be tried, over all connections of the listener.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, Uri, header};
use axum::middleware::Next;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::Semaphore;

use super::access::Access;
use super::consumers::{self, Consumer, ConsumerIdentity, ConsumerLog};
use super::problem::Problem;
use super::token_hash::TokenHash;
use super::{ApiSettings, AppState};
use crate::env::Env;
use crate::metrics::AccessMetrics;

/// How long the response to a wrong token is delayed.
const WRONG_TOKEN_DELAY: Duration = Duration::from_secs(1);

/// Requests with wrong tokens that wait at the same time; further ones are refused at once.
const MAX_DELAYED: usize = 64;

/// What the token of a request allows.
enum TokenCheck {
    /// This, and whether pages of the request's origin may read the response.
    Admitted(Access, Option<HeaderValue>),
    /// Nothing.
    Wrong,
    /// A browser asked whether it may send a request, without a token.
    Answered(Response),
}

/// The access rules of a TCP listener.
#[derive(Debug)]
pub(super) struct AccessPolicy {
    settings: ApiSettings,
    /// The host under which the other shards, and those whom they redirect, reach this one.
    own_host: Option<String>,
    listen: SocketAddr,
    /// Permits for requests with wrong tokens.
    waiting: Semaphore,
    metrics: Arc<AccessMetrics>,
    env: Env,
    log: ConsumerLog,
}

impl AccessPolicy {
    pub(super) fn new(app: &AppState, listen: SocketAddr) -> Self {
        let shard = &app.settings.shard;
        let own = shard.address(shard.of.ordinal()).and_then(|own| own.parse::<Uri>().ok());
        Self {
            settings: app.settings.clone(),
            own_host: own
                .and_then(|own| own.host().map(|host| host.trim_matches(['[', ']']).to_owned())),
            listen,
            waiting: Semaphore::new(MAX_DELAYED),
            metrics: app.metrics.access.clone(),
            env: app.env.clone(),
            log: app.consumers.clone(),
        }
    }

    /// Checks a request.
    ///
    /// # Errors
    /// Why the request is refused whatever its token.
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
        if let Some(answer) = consumers::preflight(&self.settings.consumers, method, headers) {
            return Ok(TokenCheck::Answered(answer));
        }
        let reads = matches!(*method, Method::GET | Method::HEAD);
        let own_page = header_text(headers, header::ORIGIN)
            .is_none_or(|origin| origin.split_once("://").is_some_and(|(_, at)| at == host));
        if !reads && !own_page {
            return Err(Problem::ForeignOrigin);
        }
        // `open_loopback` is honoured only while the listener is on loopback.
        if self.settings.open_loopback && self.listen.ip().is_loopback() {
            return Ok(TokenCheck::Admitted(Access::full(), None));
        }
        let token = credential(headers).ok_or(Problem::Unauthorized)?;
        Ok(self.access_of(&token, headers.get(header::ORIGIN)))
    }

    /// What a token allows. All tokens are compared, so the time says nothing about which matches.
    fn access_of(&self, token: &str, origin: Option<&HeaderValue>) -> TokenCheck {
        let admits = |secret: &Option<TokenHash>| secret.as_ref().is_some_and(|s| s.admits(token));
        let mut found = TokenCheck::Wrong;
        for consumer in &*self.settings.consumers {
            if matches!(&consumer.key, ConsumerIdentity::Token(secret) if secret.admits(token)) {
                let shared = origin.filter(|origin| consumers::allows(consumer, origin));
                found = TokenCheck::Admitted(consumer.access(), shared.cloned());
            }
        }
        if admits(&self.settings.read_token) {
            found = TokenCheck::Admitted(Access::read_only(), None);
        }
        if admits(&self.settings.token) {
            found = TokenCheck::Admitted(Access::full(), None);
        }
        found
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
    /// configured name, the name in this shard's own address, the listen address, or any address
    /// when listening on all. The port is ignored: a forwarded port differs, and the name alone
    /// detects DNS rebinding.
    fn names_this_listener(&self, name: &str) -> bool {
        let is = |own: &str| name.eq_ignore_ascii_case(own);
        let mut own = self.settings.hosts.iter().chain(&self.own_host);
        if is("localhost") || own.any(|own| is(own)) {
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
        TokenCheck::Admitted(access, origin) => {
            if let Some(consumer) = &access.consumer {
                policy.log.record(consumer, policy.env.now());
            }
            request.extensions_mut().insert(access);
            let mut response = next.run(request).await;
            if let Some(origin) = origin {
                consumers::share_with(origin, &mut response);
            }
            Ok(response)
        }
        TokenCheck::Wrong => Err(policy.refuse_token().await),
        TokenCheck::Answered(answer) => Ok(answer),
    }
}

/// The user at the other end of a connection on the Unix socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerUid(pub(super) u32);

/// The consumers that are users of this machine.
#[derive(Clone, Debug)]
pub(super) struct PeerPolicy {
    consumers: Arc<[Consumer]>,
    env: Env,
    log: ConsumerLog,
}

impl PeerPolicy {
    pub(super) fn of(app: &AppState) -> Self {
        let consumers = app.settings.consumers.clone();
        Self { consumers, env: app.env.clone(), log: app.consumers.clone() }
    }
}

/// The middleware of the Unix socket: a user without a consumer has full rights.
pub(super) async fn check_peer(
    State(policy): State<PeerPolicy>,
    mut request: Request,
    next: Next,
) -> Response {
    let uid = request.extensions().get::<PeerUid>().map(|peer| peer.0);
    let consumer = policy.consumers.iter().find(|consumer| match consumer.key {
        ConsumerIdentity::Uid(known) => Some(known) == uid,
        ConsumerIdentity::Token(_) => false,
    });
    if let Some(consumer) = consumer {
        policy.log.record(&consumer.name, policy.env.now());
    }
    request.extensions_mut().insert(consumer.map_or_else(Access::full, Consumer::access));
    next.run(request).await
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
