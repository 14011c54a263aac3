//! A transport for tests that answers from a script and records the requests.
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream;
use jiff::Timestamp;

use super::auth::{SignInSettings, Tokens};
use super::budget::Budgets;
use super::client::GraphClient;
use super::request::RequestOptions;
use super::transport::{BodyStream, Transport, TransportError, TransportErrorKind};
use crate::env::Env;
use crate::mirror::account::{Account, Credential, ProxySettings};
use crate::mirror::window::{self, Edges};

/// The answer to one request.
pub(crate) enum ScriptedResponse {
    Reply {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: Bytes,
    },
    /// The request fails.
    Fault(TransportErrorKind),
    /// The head arrives, then a part of the body, then an error.
    Broken(u16, &'static str, TransportErrorKind),
    /// The head arrives, then an endless body.
    Endless,
    /// No answer ever arrives.
    Silence,
    /// The head arrives, the body never does.
    Headless(u16),
}

pub(crate) fn reply(status: u16, body: impl Into<String>) -> ScriptedResponse {
    ScriptedResponse::Reply { status, headers: Vec::new(), body: body.into().into() }
}

pub(crate) fn granted(token: &str, expires_in: u64) -> ScriptedResponse {
    reply(
        200,
        format!(r#"{{"token_type":"Bearer","expires_in":{expires_in},"access_token":"{token}"}}"#),
    )
}

impl ScriptedResponse {
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        if let Self::Reply { headers, .. } = &mut self {
            headers.push((name, value.into()));
        }
        self
    }
}

/// Answers token requests and other requests from one list each, in order.
#[derive(Default)]
pub(crate) struct Script {
    tokens: Mutex<VecDeque<ScriptedResponse>>,
    others: Mutex<VecDeque<ScriptedResponse>>,
    asked: Mutex<Vec<http::Request<Bytes>>>,
    /// How long the token endpoint takes to answer.
    pub(super) token_delay: Duration,
}

impl Script {
    pub(crate) fn new(
        tokens: impl IntoIterator<Item = ScriptedResponse>,
        others: impl IntoIterator<Item = ScriptedResponse>,
    ) -> Arc<Self> {
        Arc::new(Self {
            tokens: Mutex::new(tokens.into_iter().collect()),
            others: Mutex::new(others.into_iter().collect()),
            ..Self::default()
        })
    }

    /// Every request so far.
    pub(crate) fn asked(&self) -> Vec<http::Request<Bytes>> {
        self.asked.lock().unwrap().clone()
    }

    /// Requests to Graph so far, as URLs.
    pub(crate) fn urls(&self) -> Vec<String> {
        let urls = self.asked().into_iter().map(|request| request.uri().to_string());
        urls.filter(|url| !url.contains("/oauth2/")).collect()
    }

    /// The number of requests to the token endpoint.
    pub(super) fn sign_ins(&self) -> usize {
        self.asked().len() - self.urls().len()
    }
}

impl Transport for Script {
    fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> BoxFuture<'_, Result<http::Response<BodyStream>, TransportError>> {
        async move {
            let sign_in = request.uri().path().contains("/oauth2/");
            self.asked.lock().unwrap().push(request);
            if sign_in && !self.token_delay.is_zero() {
                tokio::time::sleep(self.token_delay).await;
            }
            let queue = if sign_in { &self.tokens } else { &self.others };
            let answer = queue.lock().unwrap().pop_front().expect("an unexpected request");
            let head = |status: u16| http::Response::builder().status(status);
            let (head, body) = match answer {
                ScriptedResponse::Reply { status, headers, body } => {
                    let head = headers.iter().fold(head(status), |h, (n, v)| h.header(*n, v));
                    (head, BodyStream::full(body))
                }
                ScriptedResponse::Fault(fault) => return Err(TransportError::new(fault)),
                ScriptedResponse::Broken(status, start, fault) => {
                    let start = Ok(Bytes::from(start));
                    let chunks = stream::iter([start, Err(TransportError::new(fault))]);
                    (head(status), BodyStream::from_stream(chunks))
                }
                ScriptedResponse::Endless => {
                    let chunk = Bytes::from(vec![b' '; 1 << 20]);
                    (
                        head(200),
                        BodyStream::from_stream(stream::repeat_with(move || Ok(chunk.clone()))),
                    )
                }
                ScriptedResponse::Silence => return std::future::pending().await,
                ScriptedResponse::Headless(status) => {
                    (head(status), BodyStream::from_stream(stream::pending()))
                }
            };
            Ok(head.body(body).unwrap())
        }
        .boxed()
    }
}

pub(crate) const BASE: &str = "https://graph.example/v1.0";

pub(crate) fn env() -> Env {
    Env::simulated(7, "2026-03-01T00:00:00Z".parse::<Timestamp>().unwrap())
}

pub(crate) fn sign_in(credential: Credential) -> SignInSettings {
    SignInSettings {
        account: Account {
            name: "contoso".into(),
            tenant: "tenant-1".into(),
            client_id: "client-1".into(),
            credential,
            user: None,
            proxy: ProxySettings::default(),
            reads_groups: false,
        },
        login_url: "https://login.example/".into(),
        scope: "https://graph.example/.default".into(),
        route: None,
    }
}

/// Tokens from the script. The secret is a variable that every machine has: the search path.
pub(crate) fn tokens<T: Transport>(transport: &Arc<T>) -> Arc<Tokens> {
    Tokens::new(sign_in(Credential::SecretEnv("PATH".into())), transport.clone(), env())
}

pub(crate) fn client<T: Transport>(transport: &Arc<T>) -> GraphClient {
    let budgets = Budgets::new(8, 3);
    GraphClient::new(transport.clone(), BASE, budgets, env(), Duration::from_secs(100)).unwrap()
}

pub(super) fn options() -> RequestOptions {
    RequestOptions {
        page_size: 200,
        body: window::BodyFormat::Html,
        time_zone: "UTC".into(),
        immutable_ids: false,
    }
}

pub(super) fn edges() -> Edges {
    Edges {
        start: "2026-01-01T00:00:00Z".parse().unwrap(),
        end: "2027-01-01T00:00:00Z".parse().unwrap(),
    }
}
