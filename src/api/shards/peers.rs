//! Requests to the other shards.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::super::access::Rights;
use super::super::extract::{ApiRequest, SHARD_ONLY};
use super::relay::{SHARD, shard_name};
use crate::config::ShardConfig;
use crate::error_chain::error_chain;
use crate::mirror::shard::Shard;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a shard may take for its part of a merged answer, from the request to the last byte.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The same for a shard that did not answer when it was asked last: readers of a list do not wait
/// each time for one that hangs.
const SILENT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a relayed answer may pause: the longest wait that the API grants, and time to send it.
const READ_TIMEOUT: Duration = Duration::from_secs(6 * 60);

/// How long a connection is kept. The other side closes one that is idle for 15 s.
const POOL_IDLE: Duration = Duration::from_secs(10);

/// The largest part of a merged answer.
const MAX_PART: usize = 32 << 20;

/// Bytes of parts that all requests together hold while they are merged.
const PARTS_BUDGET: usize = 128 << 20;

/// The way to the other shards. Clones share connections and budgets.
#[derive(Clone)]
pub struct Peers {
    /// `None` if the others have no address.
    client: Option<reqwest::Client>,
    /// The credentials of a reader with all rights who has sent none, as on the Unix socket.
    token: Option<HeaderValue>,
    budget: Arc<Semaphore>,
    states: Arc<Mutex<PeerStates>>,
}

/// The shards about which a warning was logged; it is not repeated.
#[derive(Debug, Default)]
struct PeerStates {
    /// Those that did not answer when they were asked last.
    silent: BTreeSet<u32>,
    /// Those that have refused credentials since these settings took effect.
    refusing: BTreeSet<u32>,
}

/// Why another shard has no part in an answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum PeerError {
    /// `[shard] url` is missing.
    #[error("its address is not configured ([shard] url)")]
    NoAddress,
    /// It could not be reached, or the connection broke.
    #[error("{0}")]
    Unreachable(String),
    /// It did not answer in time.
    #[error("it did not answer within {} s", .0.as_secs())]
    TooSlow(Duration),
    /// Its answer is too large.
    #[error("its answer is larger than {} MiB", MAX_PART >> 20)]
    TooLarge,
    /// Other answers take all memory for parts.
    #[error("the parts of other answers take all memory that there is for them")]
    NoRoom,
    /// Another process answers at its address.
    #[error("{0} answers at its address")]
    OtherShard(String),
    /// It answered with this status, and perhaps a problem.
    #[error("it answered {0}")]
    Refused(StatusCode, Vec<u8>),
    /// Its answer is not what was asked for.
    #[error("its answer could not be read: {0}")]
    Malformed(String),
}

/// One shard's part of a merged answer.
#[derive(Debug)]
pub(super) struct ShardPart {
    pub(super) shard: u32,
    pub(super) body: Vec<u8>,
    /// Its `ETag`.
    pub(super) tag: Option<HeaderValue>,
    /// Its share of the budget, until the part is merged.
    _room: OwnedSemaphorePermit,
}

impl Default for Peers {
    fn default() -> Self {
        let budget = Arc::new(Semaphore::new(PARTS_BUDGET));
        Self { client: None, token: None, budget, states: Arc::default() }
    }
}

/// What changes answers: the token.
impl PartialEq for Peers {
    fn eq(&self, other: &Self) -> bool {
        self.token == other.token
    }
}

impl Eq for Peers {}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").field("has_token", &self.token.is_some()).finish_non_exhaustive()
    }
}

impl Peers {
    /// The way to the others. `token` is that of `api.token_file`.
    ///
    /// # Errors
    /// TLS could not be set up; one sentence.
    pub fn new(config: &ShardConfig, token: Option<&str>) -> Result<Self, String> {
        let Some(url) = config.url.as_ref().filter(|_| config.of != Shard::ALONE) else {
            return Ok(Self::default());
        };
        let builder = reqwest::Client::builder()
            .user_agent(concat!("calmirror/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .pool_idle_timeout(POOL_IDLE)
            // Shards are neighbours, and encoded answers are passed on as they are.
            .no_proxy()
            .no_gzip();
        let builder = match url.starts_with("https:") {
            true => builder,
            // A machine without root certificates reaches shards without TLS.
            false => builder.tls_certs_only([]),
        };
        let client = builder.build().map_err(|error| error_chain(&error))?;
        let token = token.and_then(|token| {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim())).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        Ok(Self { client: Some(client), token, ..Self::default() })
    }

    /// The credentials of a request: those that its sender has sent. A reader with all rights needs
    /// none on the Unix socket, and has the token of the daemon.
    fn credentials(&self, request: &ApiRequest) -> Option<HeaderValue> {
        let own = request.headers.get(header::AUTHORIZATION).cloned();
        own.or_else(|| self.token.clone().filter(|_| request.access.rights == Rights::Full))
    }

    /// Sends a request to another shard, with the credentials of the request that it is part of.
    pub(super) async fn send(
        &self,
        shard: u32,
        request: &ApiRequest,
        (method, target): (Method, &str),
        mut headers: HeaderMap,
    ) -> Result<reqwest::Response, PeerError> {
        let address = request.app.settings.shard.address(shard);
        let (Some(client), Some(address)) = (&self.client, address) else {
            return Err(PeerError::NoAddress);
        };
        headers.insert(SHARD_ONLY, HeaderValue::from_static("1"));
        if let Some(credentials) = self.credentials(request) {
            headers.insert(header::AUTHORIZATION, credentials);
        }
        // A held request is answered when it is over.
        let is_held = ["?wait=", "&wait="].iter().any(|parameter| target.contains(parameter));
        let limit = if is_held { READ_TIMEOUT } else { ANSWER_TIMEOUT };
        let sent = client.request(method, format!("{address}{target}")).headers(headers).send();
        timeout(limit, sent).await.map_err(|_| PeerError::TooSlow(limit))?.map_err(unreachable)
    }

    /// Asks another shard for its part of an answer.
    ///
    /// # Errors
    /// See [`PeerError`]; the log names a shard once when it falls silent.
    pub(super) async fn part(
        &self,
        shard: u32,
        request: &ApiRequest,
        target: &str,
    ) -> Result<ShardPart, PeerError> {
        let asking = async {
            let to = (Method::GET, target);
            let answer = self.send(shard, request, to, HeaderMap::new()).await?;
            self.receive(shard, request, answer).await
        };
        let limit = if self.is_silent(shard) { SILENT_TIMEOUT } else { ANSWER_TIMEOUT };
        let part = timeout(limit, asking).await.unwrap_or(Err(PeerError::TooSlow(limit)));
        self.note(shard, part.as_ref().err(), self.credentials(request).is_some());
        part
    }

    async fn receive(
        &self,
        shard: u32,
        request: &ApiRequest,
        mut answer: reqwest::Response,
    ) -> Result<ShardPart, PeerError> {
        let (status, tag) = (answer.status(), answer.headers().get(header::ETAG).cloned());
        let name = answer.headers().get(SHARD).cloned();
        let (mut body, mut room) = (Vec::new(), self.room(0)?);
        while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > MAX_PART {
                return Err(PeerError::TooLarge);
            }
            room.merge(self.room(chunk.len())?);
            body.extend_from_slice(&chunk);
        }
        if status != StatusCode::OK {
            return Err(PeerError::Refused(status, body));
        }
        let expected = Shard::new(shard, request.app.settings.shard.of.count());
        if name.as_ref() != expected.map(shard_name).as_ref() {
            let other = name.as_ref().and_then(|name| name.to_str().ok());
            let other = other.map_or("no shard".to_owned(), |other| format!("shard {other}"));
            return Err(PeerError::OtherShard(other));
        }
        Ok(ShardPart { shard, body, tag, _room: room })
    }

    /// The part of this shard itself.
    pub(super) async fn own_part(
        &self,
        shard: u32,
        answer: axum::response::Response,
    ) -> Result<ShardPart, PeerError> {
        let (head, body) = answer.into_parts();
        let body = axum::body::to_bytes(body, MAX_PART).await.map_err(|_| PeerError::TooLarge)?;
        let room = self.room(body.len())?;
        let tag = head.headers.get(header::ETAG).cloned();
        Ok(ShardPart { shard, body: body.into(), tag, _room: room })
    }

    fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, PeerError> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.budget.clone().try_acquire_many_owned(bytes).map_err(|_| PeerError::NoRoom)
    }

    fn states(&self) -> MutexGuard<'_, PeerStates> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_silent(&self, shard: u32) -> bool {
        self.states().silent.contains(&shard)
    }

    /// Logs when a shard falls silent and when it answers again, and once if it refuses credentials
    /// that this one accepts (`sent`: there were some). What a reader may not see says nothing about
    /// the shard.
    fn note(&self, shard: u32, error: Option<&PeerError>, sent: bool) {
        let mut states = self.states();
        match error {
            Some(PeerError::Refused(StatusCode::UNAUTHORIZED, _)) => {
                if sent && states.refusing.insert(shard) {
                    tracing::warn!(
                        shard,
                        "shard refuses a token that this one accepts: give all shards the same \
                         token files and consumers"
                    );
                }
            }
            Some(PeerError::Refused(..) | PeerError::NoRoom | PeerError::TooLarge) => {}
            Some(error) => {
                if states.silent.insert(shard) {
                    let reason = error.to_string();
                    tracing::warn!(shard, reason, "shard does not answer, its windows are missing");
                }
            }
            None => {
                if states.silent.remove(&shard) {
                    tracing::info!(shard, "shard answers again");
                }
            }
        }
    }
}

/// An error without the address, which the configuration has.
fn unreachable(error: reqwest::Error) -> PeerError {
    PeerError::Unreachable(error_chain(&error.without_url()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_refuses_credentials_is_logged_once() {
        let peers = Peers::default();
        let refused = |status| PeerError::Refused(status, Vec::new());
        for status in [StatusCode::FORBIDDEN, StatusCode::NOT_FOUND] {
            peers.note(1, Some(&refused(status)), true);
        }
        // A reader on the Unix socket sends no token, and another shard does not know its user.
        peers.note(1, Some(&refused(StatusCode::UNAUTHORIZED)), false);
        assert!(peers.states().refusing.is_empty());
        peers.note(1, Some(&refused(StatusCode::UNAUTHORIZED)), true);
        peers.note(2, Some(&PeerError::TooSlow(ANSWER_TIMEOUT)), true);
        assert!(
            !peers.is_silent(1) && peers.is_silent(2),
            "only a shard that is silent gets less time"
        );
        // The shard may accept the token of another reader.
        peers.note(1, None, true);
        peers.note(2, None, true);
        assert_eq!(peers.states().refusing, [1].into());
        assert!(!peers.is_silent(2));
    }
}
