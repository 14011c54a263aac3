//! Sends requests to a receiver, and says what its answers mean.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use http::{StatusCode, Uri};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use jiff::Timestamp;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, ClientBuilder, Proxy};
use rustls_pki_types::CertificateDer;
use tokio::time::timeout;

use super::address::is_public;
use super::url::{NOT_PUBLIC, WebhookUrl};
use crate::graph::retry_after;
use crate::graph::transport::{TransportError, TransportErrorKind, UsedProxy, client_builder};
use crate::loopback::{is_link_local, is_loopback};
use crate::sinks::error::{SinkError, SinkErrorKind};

/// The time from the beginning of a request to its status.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// The way to one receiver.
pub(super) struct WebhookClient {
    client: reqwest::Client,
    url: WebhookUrl,
    /// The address without what is secret, to explain a failed connection.
    origin: Uri,
    proxy: Option<UsedProxy>,
}

/// The parts of a request.
pub(super) struct SignedRequest {
    pub(super) id: String,
    /// In seconds since 1970.
    pub(super) timestamp: i64,
    pub(super) signature: String,
    pub(super) content_type: &'static str,
    pub(super) body: Vec<u8>,
}

impl WebhookClient {
    /// Sets up the client without connecting. `environment` has the proxies.
    pub(super) fn new(
        url: WebhookUrl,
        allow_private: bool,
        authorities: &[CertificateDer<'static>],
        environment: &Matcher,
    ) -> Result<Self, SinkError> {
        let origin: Uri = url.origin().parse().unwrap_or_default();
        let near = is_loopback(url.host()) || is_link_local(url.host());
        let proxy = environment.intercept(&origin).filter(|_| !near);
        let builder = client_builder().no_gzip();
        let builder = match &proxy {
            Some(used) => through(builder, used)?,
            None if allow_private => builder.no_proxy(),
            None => builder.no_proxy().dns_resolver(PublicResolver),
        };
        let builder = match url.is_plain() {
            // A machine without root certificates reaches a receiver without TLS.
            true => builder.tls_certs_only([]),
            false => {
                let authorities = authorities.iter().map(|der| Certificate::from_der(der));
                let authorities: Vec<_> =
                    authorities.collect::<Result<_, _>>().map_err(of_setup)?;
                builder.tls_certs_merge(authorities)
            }
        };
        let client = builder.build().map_err(of_setup)?;
        let proxy = proxy.as_ref().map(UsedProxy::of_environment);
        Ok(Self { client, url, origin, proxy })
    }

    /// Sends a request once. `Ok` if the receiver has accepted it. The body of the answer is not
    /// read.
    pub(super) async fn send(
        &self,
        request: SignedRequest,
        now: Timestamp,
    ) -> Result<StatusCode, SinkError> {
        let sent = self
            .client
            .post(self.url.expose().clone())
            .header("webhook-id", request.id)
            .header("webhook-timestamp", request.timestamp)
            .header("webhook-signature", request.signature)
            .header(CONTENT_TYPE, request.content_type)
            .body(request.body)
            .send();
        match timeout(ANSWER_TIMEOUT, sent).await {
            Ok(Ok(answer)) => judge(&self.url.origin(), answer.status(), answer.headers(), now),
            Ok(Err(error)) => Err(self.failure(error)),
            Err(_) => Err(self.unanswered()),
        }
    }

    /// Why there is no answer.
    fn failure(&self, error: reqwest::Error) -> SinkError {
        if let Some(refused) = refused_address(&error) {
            return SinkError::new(SinkErrorKind::Misconfigured, refused.to_string());
        }
        let error = TransportError::without_account(error, &self.origin, self.proxy.clone());
        let origin = self.url.origin();
        let message = match error.kind() {
            TransportErrorKind::Timeout => return self.unanswered(),
            TransportErrorKind::Reset => {
                format!("{origin} ended the connection before it answered; look into its log")
            }
            TransportErrorKind::Connect
            | TransportErrorKind::Tls
            | TransportErrorKind::Proxy
            | TransportErrorKind::Body
            | TransportErrorKind::TooLarge => error.to_string(),
        };
        SinkError::new(SinkErrorKind::Unreachable, message)
    }

    fn unanswered(&self) -> SinkError {
        let message = format!(
            "{} did not answer within {} s; it should accept a request first and process it later",
            self.url.origin(),
            ANSWER_TIMEOUT.as_secs()
        );
        SinkError::new(SinkErrorKind::Unreachable, message)
    }
}

impl fmt::Debug for WebhookClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookClient").field("url", &self.url).finish_non_exhaustive()
    }
}

fn of_setup(error: reqwest::Error) -> SinkError {
    let message = TransportError::of_setup(error).to_string();
    SinkError::new(SinkErrorKind::Misconfigured, message)
}

/// A proxy of the environment.
fn through(builder: ClientBuilder, used: &Intercept) -> Result<ClientBuilder, SinkError> {
    let proxy = Proxy::all(used.uri().to_string()).map_err(|_| {
        let message = "the address of the proxy in the environment cannot be used";
        SinkError::new(SinkErrorKind::Misconfigured, message)
    })?;
    let proxy = match used.basic_auth() {
        Some(value) => proxy.custom_http_auth(value.clone()),
        None => proxy,
    };
    Ok(builder.no_proxy().proxy(proxy))
}

/// What an answer means.
fn judge(
    origin: &str,
    status: StatusCode,
    headers: &HeaderMap,
    now: Timestamp,
) -> Result<StatusCode, SinkError> {
    let code = status.as_u16();
    let (kind, problem) = match code {
        200..=299 => return Ok(status),
        300..=399 => (
            SinkErrorKind::Refused,
            "a redirect, which is not followed; configure the address that it leads to",
        ),
        401 | 403 => (
            SinkErrorKind::Refused,
            "it does not accept the sender; compare the secret there with secret_file",
        ),
        404 => (SinkErrorKind::Refused, "nothing is there; check the address"),
        410 => (SinkErrorKind::Gone, "it wants no more requests"),
        413 => (SinkErrorKind::Refused, "it has to accept requests of 1 MiB"),
        429 => (SinkErrorKind::Unavailable, "it gets too many requests"),
        500..=599 => (SinkErrorKind::Unavailable, "look into its log"),
        _ => (SinkErrorKind::Refused, "look into its log for the reason"),
    };
    let retry_after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    Err(SinkError {
        retry_after: retry_after
            .filter(|_| kind == SinkErrorKind::Unavailable)
            .and_then(|value| retry_after::parse(value, now)),
        status: Some(code),
        ..SinkError::new(kind, format!("{origin} answered {code}: {problem}"))
    })
}

/// Resolves names, and leaves out the addresses that are not public. Names in certificates protect
/// nobody here: who owns a name decides to which address it leads, anew for each connection.
struct PublicResolver;

impl Resolve for PublicResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(public(name.as_str(), found.collect())?)
        })
    }
}

/// Those of a name's addresses that are public.
fn public(name: &str, found: Vec<SocketAddr>) -> Result<Addrs, PrivateAddress> {
    let refused = found.iter().map(SocketAddr::ip).find(|ip| !is_public(*ip));
    let public: Vec<_> = found.into_iter().filter(|found| is_public(found.ip())).collect();
    match refused.filter(|_| public.is_empty()) {
        Some(address) => Err(PrivateAddress { name: name.into(), address }),
        None => Ok(Box::new(public.into_iter())),
    }
}

/// A name leads only to addresses that are not public.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{name} is at {address}, {NOT_PUBLIC}")]
struct PrivateAddress {
    name: Arc<str>,
    address: IpAddr,
}

fn refused_address(error: &reqwest::Error) -> Option<&PrivateAddress> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(refused) = error.downcast_ref() {
            return Some(refused);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_meaning() {
        use SinkErrorKind::{Gone, Refused, Unavailable};
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        let wait = |seconds| Some(Duration::from_secs(seconds));
        for (code, retry_after, expected) in [
            (200, "", None),
            (202, "9", None),
            (204, "", None),
            (299, "", None),
            (101, "", Some((Refused, None))),
            (301, "", Some((Refused, None))),
            (302, "9", Some((Refused, None))),
            (304, "", Some((Refused, None))),
            (308, "", Some((Refused, None))),
            (400, "", Some((Refused, None))),
            (401, "", Some((Refused, None))),
            (404, "", Some((Refused, None))),
            (410, "9", Some((Gone, None))),
            (413, "", Some((Refused, None))),
            (429, "120", Some((Unavailable, wait(120)))),
            (429, "soon", Some((Unavailable, None))),
            (500, "", Some((Unavailable, None))),
            (503, "Sat, 21 Nov 2026 10:00:30 GMT", Some((Unavailable, wait(30)))),
            (503, "Sat, 21 Nov 2026 09:00:30 GMT", Some((Unavailable, wait(0)))),
            (503, "999999999", Some((Unavailable, Some(retry_after::MAX_WAIT)))),
            (599, "", Some((Unavailable, None))),
            (999, "", Some((Refused, None))),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, retry_after.parse().unwrap());
            let status = StatusCode::from_u16(code).unwrap();
            let judged = judge("https://a", status, &headers, now).err();
            assert_eq!(
                judged.as_ref().map(|error| (error.kind, error.retry_after)),
                expected,
                "{code}"
            );
            assert!(judged.is_none_or(|error| error.status == Some(code)
                && error.message.starts_with(&format!("https://a answered {code}: "))));
        }
    }

    #[test]
    fn of_several_addresses_only_the_public_ones_are_used() {
        let at = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let [near, far, other] = [at("10.0.0.1:0"), at("8.8.8.8:0"), at("[2606:4700::1111]:0")];
        let left = public("a", vec![near, far, other]).unwrap().collect::<Vec<_>>();
        assert_eq!(left, [far, other]);
        let refused = public("hooks.example", vec![near]).err().unwrap().to_string();
        assert_eq!(refused, format!("hooks.example is at 10.0.0.1, {NOT_PUBLIC}"));
        assert_eq!(public("a", Vec::new()).unwrap().count(), 0);
    }
}
