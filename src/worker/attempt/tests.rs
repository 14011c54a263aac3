//! A stop ends an attempt between two writes to the store, however many are left.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tempfile::TempDir;

use super::barrier::SegmentBarrier;
use super::*;
use crate::config::default_settings;
use crate::env::Env;
use crate::graph::transport::{BodyStream, TransportError};
use crate::graph::{Budgets, GraphClient, SignInSettings, Tokens, Transport};
use crate::mirror::account::{Account, Credential};
use crate::mirror::page::EventId;
use crate::mirror::position::PendingEntry;
use crate::mirror::window::{CalendarRef, Edge, WindowIdentity, WindowSettings};
use crate::store::{RegisteredWindow, Store, StoreOptions, WindowRegistration};

/// A Graph that never responds.
struct Silence;

impl Transport for Silence {
    fn send(
        &self,
        _: http::Request<Bytes>,
    ) -> BoxFuture<'_, Result<http::Response<BodyStream>, TransportError>> {
        Box::pin(std::future::pending())
    }
}

/// A window of several segments without positions, and a worker that is asked to stop.
struct Ground {
    _directory: TempDir,
    services: Services,
    target: Target,
    window: Window,
    id: WindowId,
    handle: WindowHandle,
    stop: CancellationToken,
    steps: AtomicU32,
}

impl Ground {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let now: Timestamp = "2026-11-02T12:00:00Z".parse().unwrap();
        let env = Env::simulated(1, now);
        let (store, _) =
            Store::open(&StoreOptions::new(directory.path().join("store")), &env).unwrap();
        let transport: std::sync::Arc<dyn Transport> = std::sync::Arc::new(Silence);
        let graph = "http://127.0.0.1:1/v1.0";
        let (budgets, timeout) = (Budgets::new(8, 3), Duration::from_secs(100));
        let client =
            GraphClient::new(transport.clone(), graph, budgets, env.clone(), timeout).unwrap();
        let account = Account {
            name: "contoso".into(),
            tenant: "t".into(),
            client_id: "c".into(),
            credential: Credential::SecretEnv("NONE".into()),
        };
        let sign_in = SignInSettings {
            account,
            login_url: "http://127.0.0.1:1".into(),
            scope: "http://127.0.0.1:1/.default".into(),
        };
        let tokens = Tokens::new(sign_in, transport, env.clone());
        let (start, end) = ("2016-01-01T00:00:00Z", "2036-01-01T00:00:00Z");
        let edges = Edges { start: start.parse().unwrap(), end: end.parse().unwrap() };
        let window = Window {
            name: "alice".into(),
            account: "contoso".into(),
            mailbox: "alice@contoso.com".into(),
            calendar: CalendarRef::Default,
            settings: WindowSettings {
                start: Edge::At(edges.start),
                end: Edge::At(edges.end),
                ..default_settings().unwrap()
            },
        };
        let identity = WindowIdentity {
            account: "contoso".into(),
            tenant: "t".into(),
            mailbox: "alice@contoso.com".into(),
            calendar: CalendarRef::Default,
            immutable_ids: false,
        };
        let wanted = WindowRegistration {
            name: window.name.clone(),
            identity,
            shape: window.shape(),
            start: window.settings.start,
            end: window.settings.end,
            edges,
        };
        let registered: RegisteredWindow =
            store.register(vec![wanted], now).await.unwrap().remove(0);
        let handle = WindowHandle::new(std::sync::Arc::new(window.clone()), &registered, now);
        let target = client.target(&tokens, &window.mailbox, CalendarRef::Default);
        let stop = CancellationToken::new();
        stop.cancel();
        Self {
            _directory: directory,
            services: Services { store, client, env, metrics: Default::default() },
            target,
            window,
            id: registered.id,
            handle,
            stop,
            steps: AtomicU32::new(0),
        }
    }

    fn attempt(&self) -> Attempt<'_> {
        Attempt::new(AttemptContext {
            services: &self.services,
            target: &self.target,
            id: self.id,
            window: &self.window,
            handle: &self.handle,
            stop: &self.stop,
            steps: &self.steps,
            number: 1,
        })
    }

    /// The segments that have a position.
    async fn begun(&self) -> Vec<SegmentIndex> {
        self.services.store.segments(self.id).await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_requested_resync_of_many_segments_is_left_to_the_next_worker() {
    let ground = Ground::new().await;
    assert!(ground.handle.lock().segments().len() > 3);
    let request = Some(RoundRequest::AcceptRemovals);
    let ended = ground.attempt().run(request, SegmentSet::EMPTY).await;
    assert!(matches!(ended, Err(AttemptError::Stopped)), "{ended:?}");
    assert!(ground.begun().await.is_empty(), "written after the stop");
    assert_eq!(ground.handle.lock().request, request);
}

#[tokio::test(start_paused = true)]
async fn repairs_end_before_the_next_commit() {
    let ground = Ground::new().await;
    let now = ground.services.env.now();
    let position = Position::start(ResyncReason::New, Fallback::default());
    let mut commit = Commit::new(ground.id, 0, now);
    commit.position = Some(position.clone());
    ground.services.store.commit(commit).await.unwrap();
    let mut attempt = ground.attempt();
    let mut repair = Commit::new(ground.id, 1, now);
    repair.position = Some(position);
    let ended = attempt.commit(repair).await;
    assert!(matches!(ended, Err(AttemptError::Stopped)), "a single event");
    let ended = attempt.begin_resync(1, ResyncReason::Drift).await;
    assert!(matches!(ended, Err(AttemptError::Stopped)), "a segment");
    let ended = attempt.add_pending_series(0, EventId::new("series")).await;
    assert!(matches!(ended, Err(AttemptError::Stopped)), "a series");
    assert_eq!(ground.begun().await, [0], "written after the stop");
    assert!(ground.services.store.todo(ground.id, 0).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_other_segments_may_have_received_is_not_looked_up_to_the_end() {
    let ground = Ground::new().await;
    let mut commit = Commit::new(ground.id, 1, ground.services.env.now());
    let position = Position::start(ResyncReason::New, Fallback::default());
    commit.position = Some(Position { has_pending: true, ..position });
    let master = EventId::new("series");
    commit.pending.push(PendingEntry::Series { master, needs_master: true, needs_listing: true });
    ground.services.store.commit(commit).await.unwrap();
    let barrier = SegmentBarrier::new(ground.handle.lock().segments());
    let ended = ground.attempt().retained_events(0, &barrier).await;
    assert!(matches!(ended, Err(AttemptError::Stopped)), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn an_enumeration_of_one_segment_keeps_the_unreadable_items_of_the_others() {
    let ground = Ground::new().await;
    let unreadable = || ground.handle.status(ground.services.env.now()).unreadable;
    let count = |segment, first, n| ground.handle.lock().count_unreadable(segment, first, n);
    count(0, true, 2);
    count(0, false, 1);
    count(1, true, 4);
    assert_eq!(unreadable(), 7);
    count(0, true, 0);
    assert_eq!(unreadable(), 4);
}
