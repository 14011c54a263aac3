//! The HTTP API of the mirror (`docs/api.md`).
//!
//! Reads go to the store; statuses and commands go to the fleet. Nothing here calls Graph. The same
//! routes are served on the Unix socket, where the file mode controls access, and over TCP, where
//! requests need a token unless `open_loopback` applies. Errors are RFC 9457 problems. Request
//! bodies are never read.

mod access;
mod accounts;
mod auth;
mod busy;
mod busy_times;
mod change_feed;
mod changes;
mod coding;
mod consumers;
mod etag;
mod events;
mod export;
mod extract;
mod feed_reader;
mod feed_stream;
mod fleets;
mod free;
mod health;
pub mod ics;
mod limits;
mod line_format;
mod listen;
mod live_lines;
mod login;
mod merged_events;
mod metrics;
pub mod model;
mod openapi;
mod problem;
mod query;
mod redact;
mod reload;
mod rounds;
mod selection;
mod shards;
mod sink_status;
mod sinks;
mod slice_run;
mod sliced_body;
mod slow_client;
mod stop_signal;
#[cfg(test)]
pub(crate) mod tests;
mod token_hash;
mod upcoming;
mod view;
mod web;
mod windows;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{Method, Uri};
use axum::middleware;
use axum::routing::{get, post};
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::time::Instant;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate as _, SizeAbove};

pub use change_feed::{ChangeFeed, FeedView, ShownChanges};
pub use consumers::{Consumer, ConsumerIdentity, ConsumerJson, ConsumerLog};
pub use fleets::{FleetBoard, FleetFaultJson, FleetStatusJson, HeldListingJson, WindowOrigins};
pub use limits::RequestLimits;
pub use listen::{BindError, UnixEndpoint, UnixOwner, bind_tcp, bind_unix, serve_tcp, serve_unix};
pub use login::{CompletedLogin, LoginApi, LoginRefusal, StartedLogin};
pub use selection::UnreadPart;
pub use shards::{OwnerBoard, Peers};
pub use sink_status::{
    ReplayFrom, SinkApi, SinkAttemptJson, SinkCommand, SinkErrorJson, SinkRefusal, SinkStatusJson,
};
pub use stop_signal::StopSignal;
pub use token_hash::TokenHash;

use crate::config::{ShardConfig, WindowGroup};
use crate::env::Env;
use crate::metrics::Metrics;
use crate::mirror::position::WindowId;
use crate::mirror::shard::Shard;
use crate::mirror::status::{PastRounds, WindowStatus};
use crate::reload::ReloadHandle;
use crate::store::Store;
use crate::supervisor::{Fleet, FleetError, StartedRound};
use crate::worker::{StateFeed, WindowSummary};
use problem::Problem;

/// The state that all routes share.
#[derive(Clone)]
pub struct AppState {
    /// The mirror and its feed.
    pub store: Store,
    /// The running windows.
    pub fleet: Arc<dyn FleetApi>,
    /// The fleets.
    pub fleets: FleetBoard,
    /// The windows of other shards.
    pub elsewhere: OwnerBoard,
    /// Signs people in to accounts.
    pub logins: Arc<dyn LoginApi>,
    /// Where changes are sent.
    pub sinks: Arc<dyn SinkApi>,
    /// Requests reloads of the configuration.
    pub reloads: ReloadHandle,
    /// The wall clock.
    pub env: Env,
    /// Version and start time of the daemon.
    pub build: Arc<BuildInfo>,
    /// Access and masking settings.
    pub settings: ApiSettings,
    /// When each consumer was last admitted.
    pub consumers: ConsumerLog,
    /// The counters of the whole process.
    pub metrics: Metrics,
    /// Limits shared by all requests.
    pub limits: RequestLimits,
    /// Given when the daemon stops or new settings take effect. Held requests and streams then end
    /// without reporting later changes. It must be given no later than the shutdown passed to
    /// [`serve_unix`] and [`serve_tcp`] resolves.
    pub stopping: StopSignal,
}

impl AppState {
    /// One window's status, with its fleet.
    pub fn window(&self, name: &str) -> Option<WindowStatus> {
        let mut status = self.fleet.window(name)?;
        self.fleets.describe(&mut status);
        Some(status)
    }
}

/// The build and the start time, for `/v1/status`.
#[derive(Clone, Debug)]
pub struct BuildInfo {
    /// The version of calmirror.
    pub version: String,
    /// The commit it was built from, or `unknown`.
    pub commit: String,
    /// The target triple it was built for.
    pub target: String,
    /// When the daemon started, on the wall clock.
    pub started: Timestamp,
    /// The same moment on the monotonic clock.
    pub since: Instant,
}

/// Access and masking settings of the API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiSettings {
    /// Grants full access over TCP.
    pub token: Option<TokenHash>,
    /// Grants read access over TCP.
    pub read_token: Option<TokenHash>,
    /// Names of this machine accepted over TCP, in lower case, besides loopback and the listen
    /// address.
    pub hosts: Vec<String>,
    /// Readers get only time and busy state of private and confidential events.
    pub mask_private: bool,
    /// The groups of windows, by name.
    pub groups: Arc<BTreeMap<Arc<str>, WindowGroup>>,
    /// Readers that see a part.
    pub consumers: Arc<[Consumer]>,
    /// TCP needs no token while listening on loopback; for the demo.
    pub open_loopback: bool,
    /// Which of several processes this is, and where the others are.
    pub shard: ShardConfig,
    /// The way to the others.
    pub peers: Peers,
}

/// The running windows as the API needs them: [`Fleet`], or a test double.
pub trait FleetApi: Send + Sync {
    /// A summary of every window, ordered by name.
    fn summaries(&self) -> Vec<WindowSummary>;
    /// One window's status.
    fn window(&self, name: &str) -> Option<WindowStatus>;
    /// The changes of the states of windows.
    fn states(&self) -> StateFeed;
    /// The recorded rounds of a window.
    fn rounds(&self, name: &str) -> Option<PastRounds>;
    /// The id of a window in the store.
    fn id(&self, name: &str) -> Option<WindowId>;
    /// Starts a round now; with `wait`, also waits for its end.
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
    fn states(&self) -> StateFeed {
        self.state_feed()
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

/// The routes for the Unix socket, where the file's mode controls access; users that are consumers
/// see what these may see.
pub fn router(app: AppState) -> Router {
    let peers = auth::PeerPolicy::of(&app);
    routes(app).layer(middleware::from_fn_with_state(peers, auth::check_peer))
}

fn routes(app: AppState) -> Router {
    let shard = app.settings.shard.of;
    let (limits, app) = (app.limits.clone(), Arc::new(app));
    let mut routes = all_routes();
    if shard != Shard::ALONE {
        let name = move |response| async move { shards::name_shard(shard, response) };
        routes = routes
            .layer(middleware::from_fn_with_state(app.clone(), shards::pass_on))
            .layer(middleware::map_response(name));
    }
    routes
        .layer(middleware::map_response(coding::pace))
        // Server-sent events are excluded: a compressor would delay them.
        .layer(
            CompressionLayer::new()
                .quality(CompressionLevel::Fastest)
                .compress_when(SizeAbove::new(1).and(NotForContentType::SSE)),
        )
        .layer(middleware::from_fn_with_state(limits.compressors.clone(), coding::choose))
        .with_state(app)
}

fn all_routes() -> Router<Arc<AppState>> {
    Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/openapi.json", get(openapi::document))
        .route("/metrics", get(metrics::read))
        .route("/v1/status", get(shards::status))
        .route("/v1/windows", get(shards::windows))
        .route("/v1/windows/{name}", get(windows::one))
        .route("/v1/windows/{name}/events", get(events::list))
        .route("/v1/windows/{name}/events/{id}", get(events::one))
        .route("/v1/windows/{name}/busy", get(busy::one))
        .route("/v1/windows/{name}/calendar.ics", get(ics::calendar))
        .route("/v1/windows/{name}/rounds", get(rounds::past))
        .route("/v1/windows/{name}/sync", post(rounds::sync))
        .route("/v1/windows/{name}/resync", post(rounds::resync))
        .route("/v1/busy", get(shards::busy))
        .route("/v1/free", get(shards::free))
        .route("/v1/events", get(shards::events))
        .route("/v1/changes", get(shards::changes))
        .route("/v1/reload", post(reload::reload))
        .route("/v1/accounts/{name}/login", post(accounts::login))
        .route("/v1/accounts/{name}/logout", post(accounts::logout))
        .route("/v1/export", get(export::export))
        .route("/v1/sinks", get(sinks::list))
        .route("/v1/sinks/{name}/test", post(sinks::test))
        .route("/v1/sinks/{name}/pause", post(sinks::pause))
        .route("/v1/sinks/{name}/resume", post(sinks::resume))
        .route("/v1/sinks/{name}/replay", post(sinks::replay))
        .merge(web::routes())
        .fallback(|uri: Uri| async move { Problem::NotFound(uri.path().to_owned()) })
        .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
            Problem::MethodNotAllowed { method, path: uri.path().to_owned() }
        })
}

/// The routes for probes and scrapes, without a token: liveness, readiness and metrics.
pub fn probe_router(app: AppState) -> Router {
    Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(metrics::read))
        .fallback(|uri: Uri| async move { Problem::NotFound(uri.path().to_owned()) })
        .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
            Problem::MethodNotAllowed { method, path: uri.path().to_owned() }
        })
        .layer(axum::Extension(access::Access::read_only()))
        .with_state(Arc::new(app))
}

/// The same routes behind the checks of a TCP listener at `listen`: the request's `Host`, its
/// token, and whether a page of another site sent it.
pub fn tcp_router(app: AppState, listen: SocketAddr) -> Router {
    let policy = Arc::new(auth::AccessPolicy::new(&app, listen));
    routes(app).layer(middleware::from_fn_with_state(policy, auth::check))
}
