//! Sends requests to Graph, one HTTP request at a time.
//!
//! A [`GraphClient`] builds the request (with the same `Prefer` every time, facts 41 and 46), waits
//! for the mailbox's budget, sends it with the account's token to the configured origin only, and
//! reads the answer under a cap and a timeout. It repeats a request exactly once, if the access
//! token was refused and another one is available (fact 150). The caller handles every other
//! failure by the class of its [`GraphError`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use jiff::Timestamp;
use tokio::time::{Instant, timeout, timeout_at};

use super::auth::{AccessToken, Tokens};
use super::budget::{Budgets, MailboxBudget};
use super::error::{self, ErrorResponse, GraphError, RequestKind};
use super::origin::{Origin, OriginError};
use super::page_memory::{PageMemory, Reservation};
use super::request::{
    PageStart, RequestHeaders, RequestOptions, Target, push_segment, push_select, with_range,
};
use super::retry_after;
use super::transport::{FreshConnection, Transport, TransportError, TransportErrorKind};
use super::wire::{self, ListPage, WireError};
use crate::env::Env;
use crate::metrics::GraphMetrics;
use crate::mirror::clock::{self, ClockCheck};
use crate::mirror::failure::{ErrorClass, FailureCause};
use crate::mirror::page::{EventId, Item, Link, Page, PageEnd};
use crate::mirror::window::{CalendarRef, Edges};

/// The largest decoded body that is read.
pub const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;
/// The decoded bytes that all answers being read and processed may take together.
const MAX_BODIES_BYTES: usize = 64 * 1024 * 1024;
/// Larger bodies are parsed outside the runtime's threads.
const INLINE_PARSE_MAX: usize = 128 * 1024;
/// The largest part of an error's body that is read.
const MAX_ERROR_BYTES: usize = 64 * 1024;
/// How long to wait for an error's body.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// The client for Graph. Cheap to clone.
#[derive(Clone)]
pub struct GraphClient {
    shared: Arc<ClientInner>,
}

struct ClientInner {
    transport: Arc<dyn Transport>,
    /// Without a trailing slash.
    base: String,
    origin: Origin,
    budgets: Budgets,
    memory: PageMemory,
    env: Env,
    /// Milliseconds; atomic, so that it can change while requests are in flight.
    request_timeout: AtomicU64,
    metrics: Arc<GraphMetrics>,
}

impl GraphClient {
    /// A client for `base_url`, such as `https://graph.microsoft.com/v1.0`.
    ///
    /// # Errors
    /// If `base_url` is neither `https` nor `http` to loopback, or is not a plain address.
    pub fn new(
        transport: Arc<dyn Transport>,
        base_url: &str,
        budgets: Budgets,
        env: Env,
        request_timeout: Duration,
    ) -> Result<Self, OriginError> {
        let origin = Origin::of(base_url)?;
        let base = base_url.trim_end_matches('/').to_owned();
        let request_timeout = AtomicU64::new(millis(request_timeout));
        let metrics = Arc::<GraphMetrics>::default();
        let memory = PageMemory::new(MAX_BODIES_BYTES, metrics.page_bytes.clone());
        let shared =
            ClientInner { transport, base, origin, budgets, memory, env, request_timeout, metrics };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The metrics of its requests.
    pub fn metrics(&self) -> Arc<GraphMetrics> {
        self.shared.metrics.clone()
    }

    /// Compares the wall clock, which reads `now`, with Graph's.
    pub fn clock(&self, now: Timestamp) -> ClockCheck {
        self.shared.metrics.clock.check(now)
    }

    /// The maximum time of one request, without the wait for the budget.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.shared.request_timeout.load(Ordering::Relaxed))
    }

    /// Sets the maximum time of one request, starting with the next one.
    pub fn set_request_timeout(&self, timeout: Duration) {
        self.shared.request_timeout.store(millis(timeout), Ordering::Relaxed);
    }

    /// The budgets of all requests.
    pub fn budgets(&self) -> &Budgets {
        &self.shared.budgets
    }

    /// The address of Graph, without a slash at the end.
    pub(super) fn base(&self) -> &str {
        &self.shared.base
    }

    /// The target of one window. Windows of one mailbox share its budget.
    pub fn target(
        &self,
        tokens: &Arc<Tokens>,
        mailbox: &Arc<str>,
        calendar: CalendarRef,
    ) -> Target {
        Target::new(mailbox.clone(), calendar, tokens.clone(), self.budget(tokens, mailbox))
    }

    /// The budget of a mailbox.
    pub fn budget(&self, tokens: &Tokens, mailbox: &Arc<str>) -> Arc<MailboxBudget> {
        self.shared.budgets.mailbox(tokens.name().clone(), mailbox.clone())
    }

    /// One page of a delta round, and its memory reservation, which must be kept as long as the
    /// page.
    ///
    /// # Errors
    /// Every class except `NotFound`.
    pub async fn page(
        &self,
        target: &Target,
        options: &RequestOptions,
        start: PageStart<'_>,
        fresh_connection: bool,
    ) -> Result<(Page, Reservation), GraphError> {
        let (kind, uri) = match start {
            PageStart::Window(edges) => {
                let view = target.url(&self.shared.base, "calendarView/delta")?;
                (RequestKind::Start, self.admit(&with_range(&view, edges))?)
            }
            PageStart::Link(link) => (RequestKind::Link, self.admit(link.as_str())?),
        };
        let headers = RequestHeaders::Window(options);
        let (body, memory) =
            self.get(GraphRequest { target, headers, kind, uri, fresh_connection }).await?;
        let kept = options.body;
        let page = self.parse(body, move |body| wire::page(body, kept)).await?;
        // A link that cannot be followed must not become a position.
        if let PageEnd::Next(link) | PageEnd::Delta(link) = &page.end {
            self.admit(link.as_str())?;
        }
        Ok((page, memory))
    }

    /// One event by its id; `None` if it does not exist.
    ///
    /// # Errors
    /// Every class except `NotFound`.
    pub async fn event(
        &self,
        target: &Target,
        options: &RequestOptions,
        id: &EventId,
        fresh_connection: bool,
    ) -> Result<Option<Item>, GraphError> {
        let mut url = target.url(&self.shared.base, "events/")?;
        push_segment(&mut url, id.as_str())?;
        let uri = self.admit(&url)?;
        let headers = RequestHeaders::Window(options);
        match self
            .get(GraphRequest { target, headers, kind: RequestKind::Event, uri, fresh_connection })
            .await
        {
            Ok((body, _memory)) => {
                let kept = options.body;
                self.parse(body, move |body| wire::event(body, kept)).await.map(Some)
            }
            Err(error) if error.class() == ErrorClass::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One page of a series' occurrences and exceptions; `None` if the series does not exist.
    ///
    /// # Errors
    /// Every class except `NotFound`.
    pub async fn instances(
        &self,
        target: &Target,
        options: &RequestOptions,
        master: &EventId,
        edges: Edges,
        next: Option<&Link>,
        fresh_connection: bool,
    ) -> Result<Option<ListPage>, GraphError> {
        let uri = match next {
            Some(link) => self.admit(link.as_str())?,
            None => {
                let mut url = target.url(&self.shared.base, "events/")?;
                push_segment(&mut url, master.as_str())?;
                url.push_str("/instances");
                self.admit(&with_range(&url, edges))?
            }
        };
        let headers = RequestHeaders::Window(options);
        match self
            .get(GraphRequest { target, headers, kind: RequestKind::Event, uri, fresh_connection })
            .await
        {
            Ok((body, memory)) => self.listing(body, memory, options).await.map(Some),
            Err(error) if error.class() == ErrorClass::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One page of the plain view, with all members or with those in `select` (comma-separated).
    ///
    /// # Errors
    /// Every class except `NotFound`.
    pub async fn calendar_view(
        &self,
        target: &Target,
        options: &RequestOptions,
        edges: Edges,
        select: Option<&str>,
        next: Option<&Link>,
        fresh_connection: bool,
    ) -> Result<ListPage, GraphError> {
        let (kind, uri) = match next {
            Some(link) => (RequestKind::Link, self.admit(link.as_str())?),
            None => {
                let mut url = with_range(&target.url(&self.shared.base, "calendarView")?, edges);
                if let Some(select) = select {
                    push_select(&mut url, select);
                }
                (RequestKind::Start, self.admit(&url)?)
            }
        };
        let headers = RequestHeaders::Window(options);
        let (body, memory) =
            self.get(GraphRequest { target, headers, kind, uri, fresh_connection }).await?;
        self.listing(body, memory, options).await
    }

    async fn listing(
        &self,
        body: Bytes,
        memory: Reservation,
        options: &RequestOptions,
    ) -> Result<ListPage, GraphError> {
        let kept = options.body;
        let listing = self.parse(body, move |body| wire::listing(body, kept)).await?;
        if let Some(link) = &listing.next {
            self.admit(link.as_str())?;
        }
        Ok(ListPage { memory, ..listing })
    }

    /// Parses a body. A large one takes a while and is parsed on another thread.
    pub(super) async fn parse<T: Send + 'static>(
        &self,
        body: Bytes,
        read: impl FnOnce(&Bytes) -> Result<T, WireError> + Send + 'static,
    ) -> Result<T, GraphError> {
        let parsed = if body.len() <= INLINE_PARSE_MAX {
            read(&body)
        } else {
            self.shared.env.compute(move || read(&body)).await
        };
        parsed.map_err(GraphError::Malformed)
    }

    /// Checks that a link, or an address that this client built, leads to the configured origin. It
    /// is requested byte for byte.
    pub(super) fn admit(&self, url: &str) -> Result<Uri, GraphError> {
        self.shared.origin.admit(url).map_err(GraphError::Link)
    }

    /// Sends a request, and repeats it once if the token was refused.
    pub(super) async fn get(
        &self,
        request: GraphRequest<'_>,
    ) -> Result<(Bytes, Reservation), GraphError> {
        let tokens = &request.target.tokens;
        let token = tokens.token().await?;
        match self.get_once(&request, &token).await {
            Err(error) if error.token_refused() => {
                self.get_once(&request, &tokens.refresh(&token).await?).await
            }
            outcome => outcome,
        }
    }

    /// Sends one HTTP request.
    async fn get_once(
        &self,
        request: &GraphRequest<'_>,
        token: &AccessToken,
    ) -> Result<(Bytes, Reservation), GraphError> {
        let GraphRequest { target, headers, kind, uri, fresh_connection } = request;
        let shared = &*self.shared;
        let ours = shared.env.uuid().to_string();
        let mut request = http::Request::get(uri)
            .header(AUTHORIZATION, token.bearer().ok_or(GraphError::InvalidRequest("bad token"))?)
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json")
            .header("client-request-id", &ours)
            .body(Bytes::new())
            .map_err(|_| GraphError::InvalidRequest("bad request"))?;
        headers.add_to(request.headers_mut())?;
        if *fresh_connection {
            request.extensions_mut().insert(FreshConnection);
        }
        if let Some(route) = target.tokens.route() {
            request.extensions_mut().insert(route);
        }
        let queued_at = Instant::now();
        target.queued.store(true, Ordering::Relaxed);
        let _permit = target.budget.acquire().await;
        target.queued.store(false, Ordering::Relaxed);
        target.requests.fetch_add(1, Ordering::Relaxed);
        let began = Instant::now();
        shared.metrics.waited.observe(began - queued_at);
        let _in_flight = shared.metrics.in_flight.increment();
        let deadline = began + self.request_timeout();
        let outcome = async {
            let late = || TransportError::new(TransportErrorKind::Timeout);
            let answer = timeout_at(deadline, shared.transport.send(request)).await;
            let (head, body) = answer.unwrap_or_else(|_| Err(late()))?.into_parts();
            shared.read_clock(&head.headers);
            let body = if head.status.is_success() {
                body.read_within(MAX_BODY_BYTES, &shared.memory, deadline).await?
            } else {
                // The status is enough; reading the details must not take the whole timeout.
                let body = timeout(ERROR_BODY_TIMEOUT, body.read_start(MAX_ERROR_BYTES)).await;
                (body.unwrap_or_default(), Reservation::default())
            };
            Ok((head, body))
        }
        .await;
        let status = outcome.as_ref().ok().map(|(head, _)| head.status.as_u16());
        shared.metrics.record_response(status, began.elapsed());
        let (head, (body, memory)) = outcome.map_err(GraphError::Transport)?;
        let link = uri.to_string();
        let secrets = [token.expose(), link.as_str()];
        let request_id = head.headers.get("request-id").and_then(|id| id.to_str().ok());
        tracing::trace!(
            status = head.status.as_u16(),
            bytes = body.len(),
            took_ms = began.elapsed().as_millis(),
            client_request_id = ours,
            request_id = request_id.and_then(|id| error::sanitize_id(id, &secrets)),
            "graph answered"
        );
        if head.status.is_success() {
            let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            target.response_micros.fetch_add(took, Ordering::Relaxed);
            target.budget.succeeded();
            return Ok((body, memory));
        }
        // A date in `Retry-After` is relative to the server's clock.
        let now = retry_after::date(&head.headers).unwrap_or_else(|| shared.env.now());
        let response = ErrorResponse::read(*kind, head.status, &head.headers, &body, now, &secrets);
        let error = GraphError::Response(Box::new(response));
        if let FailureCause::Throttled(wait) = error.cause() {
            let pause = target.budget.throttled(wait, shared.env.random());
            shared.metrics.paused(pause);
        }
        Err(error)
    }
}

/// What is requested of Graph.
pub(super) struct GraphRequest<'a> {
    pub(super) target: &'a Target,
    pub(super) headers: RequestHeaders<'a>,
    pub(super) kind: RequestKind,
    pub(super) uri: Uri,
    pub(super) fresh_connection: bool,
}

impl ClientInner {
    /// Compares the wall clock with an answer's `Date`, and logs when it becomes wrong or right.
    fn read_clock(&self, headers: &HeaderMap) {
        match self.metrics.clock.answered(retry_after::date(headers), self.env.now()) {
            Some(check) if check.is_wrong() => tracing::warn!(
                skew_s = check.skew().map(|skew| skew.as_secs()),
                remedy = clock::REMEDY,
                "wall clock differs from graph's, edges of windows do not move"
            ),
            Some(_) => tracing::info!("wall clock agrees with graph's again"),
            None => {}
        }
    }
}

impl std::fmt::Debug for GraphClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GraphClient").field("origin", &self.shared.origin).finish_non_exhaustive()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
