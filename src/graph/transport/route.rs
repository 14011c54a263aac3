//! Routes: through which proxy requests go, and which authorities are trusted beside the system's.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{Certificate, ClientBuilder, Proxy, Url};
use rustls_pki_types::CertificateDer;

use super::unreachable::{ProxyCredentials, UsedProxy};
use super::{
    CONNECT_TIMEOUT, KEEP_ALIVE, POOL_IDLE, REMOTE_CONNECTIONS, TransportError, TransportErrorKind,
};
use crate::loopback::{is_link_local, is_loopback};
use crate::mirror::account::{MAX_SECRET_BYTES, ProxySettings};
use crate::percent;

/// What a route is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteSettings {
    /// The proxy for everything except loopback.
    pub proxy: ProxySettings,
    /// Authorities that are trusted in addition to the system's.
    pub authorities: Arc<[CertificateDer<'static>]>,
}

/// A way to the network, with connections of its own, which are closed when it is dropped.
///
/// Request extension, as an `Arc`: the request is sent this way.
pub struct Route {
    settings: RouteSettings,
    choice: Arc<ProxyChoice>,
    /// For all other hosts; `None` if TLS cannot be set up, which loopback does not need.
    pub(super) remote: Option<HttpClients>,
    /// For loopback, without a proxy.
    loopback: HttpClients,
}

impl Route {
    /// Sets up the clients without connecting. On a machine without root certificates only loopback
    /// works; requests to other hosts fail with [`TransportErrorKind::Tls`].
    ///
    /// # Errors
    /// [`TransportErrorKind::Tls`] if not even plain connections can be set up, and
    /// [`TransportErrorKind::Proxy`] if the proxy's address cannot be used.
    pub fn new(settings: RouteSettings) -> Result<Self, TransportError> {
        Self::within(None, settings)
    }

    /// Like [`Route::new`], with the proxies of another environment than the process's.
    pub(super) fn within(
        environment: Option<Matcher>,
        settings: RouteSettings,
    ) -> Result<Self, TransportError> {
        let RouteSettings { proxy, authorities } = &settings;
        let authorities = authorities.iter().map(|der| Certificate::from_der(der));
        let authorities: Vec<Certificate> =
            authorities.collect::<Result<_, _>>().map_err(TransportError::of_setup)?;
        let trusting = |client: ClientBuilder| client.tls_certs_merge(authorities.iter().cloned());

        // reqwest itself reads the environment, with the user and the password in it.
        let by_itself = environment.is_none() && *proxy == ProxySettings::default();
        let choice = Arc::new(ProxyChoice::new(proxy.clone(), environment)?);
        let proxied = |client: ClientBuilder| {
            if by_itself {
                return client;
            }
            let choice = choice.clone();
            client.proxy(Proxy::custom(move |target| choice.address(target.as_str())))
        };
        let direct = |client: ClientBuilder| client.no_proxy();
        let loopback = HttpClients::new(1, |client| direct(trusting(client)))
            .or_else(|_| HttpClients::new(1, |client| direct(client).tls_certs_only([])))?;
        let remote = HttpClients::new(REMOTE_CONNECTIONS, |client| proxied(trusting(client))).ok();
        Ok(Self { settings, choice, remote, loopback })
    }

    /// What the route was made from.
    pub fn settings(&self) -> &RouteSettings {
        &self.settings
    }

    /// The client for a request to `uri`; `fresh`: on a new connection.
    pub(super) fn client(&self, uri: &Uri, fresh: bool) -> Option<&reqwest::Client> {
        let clients = match is_near(uri) {
            true => Some(&self.loopback),
            false => self.remote.as_ref(),
        };
        clients.map(|clients| clients.pick(fresh))
    }

    /// The proxy of a request to `uri`, to explain why it failed.
    pub(super) fn proxy(&self, uri: &Uri) -> Option<UsedProxy> {
        let choice = &self.choice;
        let used = (!is_near(uri)).then(|| choice.matcher.intercept(uri))??;
        let credentials = match &choice.settings.credentials_file {
            Some(file) => ProxyCredentials::File {
                path: file.clone(),
                problem: read_credentials(file).err().map(|error| error.to_string()),
            },
            None if used.basic_auth().is_some() => ProxyCredentials::InAddress,
            None => ProxyCredentials::Absent,
        };
        let of_account = choice.settings.address.is_some();
        Some(UsedProxy::new(used.uri(), of_account, credentials))
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("proxy", &self.settings.proxy).finish_non_exhaustive()
    }
}

impl PartialEq for Route {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings
    }
}

impl Eq for Route {}

/// Whether no proxy reaches the host.
fn is_near(uri: &Uri) -> bool {
    uri.host().is_some_and(|host| is_loopback(host) || is_link_local(host))
}

/// Decides which proxy a request uses.
struct ProxyChoice {
    settings: ProxySettings,
    matcher: Matcher,
}

impl ProxyChoice {
    fn new(settings: ProxySettings, environment: Option<Matcher>) -> Result<Self, TransportError> {
        let Some(address) = &settings.address else {
            let matcher = environment.unwrap_or_else(Matcher::from_system);
            return Ok(Self { settings, matcher });
        };
        let matcher = Matcher::builder().all(address.as_str()).build();
        let choice = Self { settings, matcher };
        // A proxy that cannot be used would be left out without a word.
        let usable = choice.address("https://graph.microsoft.com/").is_some();
        usable.then_some(choice).ok_or_else(|| TransportError::new(TransportErrorKind::Proxy))
    }

    /// The address of the proxy for a new connection to `target`, with user and password. If their
    /// file cannot be read, the proxy is used without them, and refuses.
    fn address(&self, target: &str) -> Option<Url> {
        let proxy = self.matcher.intercept(&target.parse().ok()?)?;
        let mut address = Url::parse(&proxy.uri().to_string()).ok()?;
        if let Some(file) = &self.settings.credentials_file
            && let Ok((user, password)) = read_credentials(file)
        {
            address.set_username(&percent::encode(&user)).ok()?;
            address.set_password(Some(&percent::encode(&password))).ok()?;
        }
        Some(address)
    }
}

/// Reads `user:password`.
fn read_credentials(path: &Path) -> io::Result<(String, String)> {
    let mut text = String::new();
    File::open(path)?.take(MAX_SECRET_BYTES).read_to_string(&mut text)?;
    match text.trim().split_once(':') {
        Some((user, password)) if !user.is_empty() => Ok((user.to_owned(), password.to_owned())),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it does not hold user:password")),
    }
}

/// What all clients have in common: no redirects, and connections that do not hang.
pub(crate) fn client_builder() -> ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("calmirror/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(POOL_IDLE)
        .tcp_keepalive(KEEP_ALIVE)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .http2_keep_alive_timeout(CONNECT_TIMEOUT)
}

/// Clients that keep their connections, and one that opens a new one for every request.
#[derive(Debug)]
pub(super) struct HttpClients {
    kept: Vec<reqwest::Client>,
    fresh: reqwest::Client,
    turn: AtomicUsize,
}

impl HttpClients {
    pub(super) fn new(
        kept: usize,
        shape: impl Fn(ClientBuilder) -> ClientBuilder,
    ) -> Result<Self, TransportError> {
        let build = |idle: usize| {
            let client = client_builder().pool_max_idle_per_host(idle);
            shape(client).build().map_err(TransportError::of_setup)
        };
        // Without room for idle connections the pool is off, so no connection is shared.
        Ok(Self {
            kept: (0..kept).map(|_| build(usize::MAX)).collect::<Result<_, _>>()?,
            fresh: build(0)?,
            turn: AtomicUsize::new(0),
        })
    }

    fn pick(&self, fresh: bool) -> &reqwest::Client {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        // Never empty; if it were, a new connection each time would still be correct.
        let kept = self.kept.get(turn % self.kept.len().max(1));
        kept.filter(|_| !fresh).unwrap_or(&self.fresh)
    }
}
