//! The HTTP API: what programs see of the mirror (`docs/api.md`).
//!
//! Reads go to the store, statuses and commands to the fleet; Graph is not known here. The same
//! routes are served on the Unix socket, where the file's mode decides who may ask, and over TCP,
//! where every request needs a token. Errors are RFC 9457 problems. Request bodies are never read.

mod auth;
mod busy;
mod changes;
mod coding;
mod cursor;
mod etag;
mod events;
mod extract;
mod health;
pub mod ics;
mod limits;
mod listen;
mod metrics;
pub mod model;
mod openapi;
mod problem;
mod query;
mod redact;
mod reload;
mod rounds;
mod slow_client;
#[cfg(test)]
mod tests;
mod web;
mod windows;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{Method, Uri};
use axum::middleware;
use axum::routing::{get, post};
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate as _, SizeAbove};

pub use auth::TokenHash;
pub use limits::RequestLimits;
pub use listen::{BindError, UnixEndpoint, UnixOwner, bind_tcp, bind_unix, serve_tcp, serve_unix};

use crate::env::Env;
use crate::metrics::Metrics;
use crate::mirror::position::WindowId;
use crate::mirror::status::{PastRounds, WindowStatus};
use crate::store::Store;
use crate::supervisor::reload::ReloadHandle;
use crate::supervisor::{Fleet, FleetError, StartedRound};
use crate::worker::WindowSummary;
use problem::Problem;

/// Everything the API reaches for.
#[derive(Clone)]
pub struct AppState {
    /// The mirror and its feed.
    pub store: Store,
    /// The running windows.
    pub fleet: Arc<dyn FleetApi>,
    /// Asks for a reload of the configuration.
    pub reloads: ReloadHandle,
    /// The wall clock.
    pub env: Env,
    /// What is running.
    pub about: Arc<BuildInfo>,
    /// How it answers.
    pub settings: ApiSettings,
    /// What all rooms count.
    pub metrics: Metrics,
    /// Limits what requests take of the process, all together.
    pub work: RequestLimits,
    /// Becomes `true` when the daemon stops, or other settings come into force: held requests and
    /// streams end then, and tell nothing that came later. It has to move
    /// no later than the shutdown handed to [`serve_unix`] and [`serve_tcp`] resolves.
    pub stopping: watch::Receiver<bool>,
}

/// What is running, for `/v1/status`.
#[derive(Clone, Debug)]
pub struct BuildInfo {
    /// The version of calmirror.
    pub version: String,
    /// The commit it was built from, or `unknown`.
    pub commit: String,
    /// The target triple it was built for.
    pub target: String,
    /// When the daemon started, by the wall clock.
    pub started: Timestamp,
    /// The same, by the clock that nobody sets.
    pub since: Instant,
}

/// How the API answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiSettings {
    /// Over TCP, may do everything.
    pub token: Option<TokenHash>,
    /// Over TCP, may only read.
    pub read_token: Option<TokenHash>,
    /// Over TCP, names of this machine in small letters, beside loopback and the address
    /// listened on.
    pub hosts: Vec<String>,
    /// Of private and confidential events readers get time and busy state only.
    pub mask_private: bool,
    /// TCP needs no token where it listens on loopback; for the demo.
    pub open_loopback: bool,
}

/// The running windows as the API needs them: [`Fleet`], or a double in tests.
pub trait FleetApi: Send + Sync {
    /// Every window at a glance, ordered by name.
    fn summaries(&self) -> Vec<WindowSummary>;
    /// One window's status.
    fn window(&self, name: &str) -> Option<WindowStatus>;
    /// What is remembered of a window's rounds.
    fn rounds(&self, name: &str) -> Option<PastRounds>;
    /// The number under which the store keeps a window.
    fn id(&self, name: &str) -> Option<WindowId>;
    /// Starts a round now; with `wait` also waits for its end.
    fn sync<'a>(
        &'a self,
        name: &'a str,
        wait: Option<Duration>,
    ) -> BoxFuture<'a, Result<StartedRound, FleetError>>;
    /// Starts a full resync now. `accept_removals` ends a hold.
    fn resync<'a>(
        &'a self,
        name: &'a str,
        accept_removals: bool,
        wait: Option<Duration>,
    ) -> BoxFuture<'a, Result<StartedRound, FleetError>>;
}

impl FleetApi for Fleet {
    fn summaries(&self) -> Vec<WindowSummary> {
        Fleet::summaries(self)
    }
    fn window(&self, name: &str) -> Option<WindowStatus> {
        Fleet::window(self, name)
    }
    fn rounds(&self, name: &str) -> Option<PastRounds> {
        Fleet::rounds(self, name)
    }
    fn id(&self, name: &str) -> Option<WindowId> {
        Fleet::id(self, name)
    }
    fn sync<'a>(
        &'a self,
        name: &'a str,
        wait: Option<Duration>,
    ) -> BoxFuture<'a, Result<StartedRound, FleetError>> {
        Box::pin(Fleet::sync(self, name, wait))
    }
    fn resync<'a>(
        &'a self,
        name: &'a str,
        accept_removals: bool,
        wait: Option<Duration>,
    ) -> BoxFuture<'a, Result<StartedRound, FleetError>> {
        Box::pin(Fleet::resync(self, name, accept_removals, wait))
    }
}

/// The routes, without a check of who asks: for the Unix socket.
pub fn router(access: AppState) -> Router {
    Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/openapi.json", get(openapi::document))
        .route("/metrics", get(metrics::read))
        .route("/v1/status", get(windows::status))
        .route("/v1/windows", get(windows::list))
        .route("/v1/windows/{name}", get(windows::one))
        .route("/v1/windows/{name}/events", get(events::list))
        .route("/v1/windows/{name}/events/{id}", get(events::one))
        .route("/v1/windows/{name}/busy", get(busy::busy))
        .route("/v1/windows/{name}/calendar.ics", get(ics::calendar))
        .route("/v1/windows/{name}/rounds", get(rounds::past))
        .route("/v1/windows/{name}/sync", post(rounds::sync))
        .route("/v1/windows/{name}/resync", post(rounds::resync))
        .route("/v1/changes", get(changes::read))
        .route("/v1/reload", post(reload::reload))
        .merge(web::routes())
        .fallback(|uri: Uri| async move { Problem::not_found(uri.path()) })
        .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
            Problem::method_not_allowed(&method, uri.path())
        })
        .layer(middleware::map_response(coding::pace))
        // Never server-sent events: a compressor would hold them back.
        .layer(
            CompressionLayer::new()
                .quality(CompressionLevel::Fastest)
                .compress_when(SizeAbove::new(1).and(NotForContentType::SSE)),
        )
        .layer(middleware::from_fn_with_state(access.work.coders.clone(), coding::choose))
        .with_state(Arc::new(access))
}

/// The same routes behind the checks of a TCP listener at `listen`: the `Host` a request names,
/// its token, and whether another site's page sent it.
pub fn tcp_router(access: AppState, listen: SocketAddr) -> Router {
    let metrics = access.metrics.access.clone();
    let door = Arc::new(auth::AccessPolicy::new(access.settings.clone(), listen, metrics));
    router(access).layer(middleware::from_fn_with_state(door, auth::check))
}
