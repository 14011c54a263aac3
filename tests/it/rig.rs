//! A fleet over an in-memory Graph, with a real store, in simulated time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use calmirror::config::default_settings;
use calmirror::env::Env;
use calmirror::graph::{Budgets, GraphClient, SignInSettings, Tokens, Transport};
use calmirror::metrics::{Metrics, ReaderMetrics};
use calmirror::mirror::account::{Account, Credential, ProxySettings};
use calmirror::mirror::failure::ErrorKind;
use calmirror::mirror::status::{WindowState, WindowStatus};
use calmirror::mirror::window::{CalendarRef, Edge, Window, WindowIdentity, WindowSettings};
use calmirror::platform::start_progress::StartProgress;
use calmirror::simulator::{Simulator, SimulatorSettings};
use calmirror::store::{Store, StoreError, StoreOptions};
use calmirror::supervisor::{Fleet, Supervisor, WindowSpec};
use calmirror::worker::{Services, StateFeed};
use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) const BASE: &str = "http://127.0.0.1:1/v1.0";

/// Noon of an ordinary day.
pub(crate) fn noon() -> Timestamp {
    "2026-11-02T12:00:00Z".parse().unwrap()
}

/// A window over a mailbox's default calendar, one month back and three ahead.
pub(crate) fn window(mailbox: &str) -> Window {
    window_with(mailbox, window_settings())
}

pub(crate) fn window_with(mailbox: &str, settings: WindowSettings) -> Window {
    Window {
        name: mailbox.into(),
        account: "contoso".into(),
        mailbox: mailbox.into(),
        calendar: CalendarRef::Default,
        settings: std::sync::Arc::new(settings),
    }
}

/// The settings of [`window`]: the defaults, except for these.
pub(crate) fn window_settings() -> WindowSettings {
    WindowSettings {
        start: Edge::At("2026-10-01T00:00:00Z".parse().unwrap()),
        end: Edge::At("2027-02-01T00:00:00Z".parse().unwrap()),
        interval: Duration::from_secs(60),
        page_size: 20,
        audit: None,
        ..default_settings().unwrap()
    }
}

/// A Graph with these mailboxes.
pub(crate) fn graph(settings: SimulatorSettings, mailboxes: &[&str]) -> Simulator {
    let simulator = Simulator::new(settings);
    simulator.set_base_url(BASE);
    for mailbox in mailboxes {
        simulator.add_mailbox(mailbox);
    }
    simulator
}

/// An account of the simulator's tenant.
pub(crate) fn sign_in(credential: Credential) -> SignInSettings {
    SignInSettings {
        account: Account {
            name: "contoso".into(),
            tenant: "t".into(),
            client_id: "c".into(),
            credential,
            user: None,
            proxy: ProxySettings::default(),
            reads_groups: false,
        },
        login_url: "http://127.0.0.1:1".into(),
        scope: "http://127.0.0.1:1/.default".into(),
        route: None,
    }
}

pub(crate) fn client(transport: &Arc<dyn Transport>, base: &str, env: &Env) -> GraphClient {
    let (budgets, timeout) = (Budgets::new(64, 3), Duration::from_secs(100));
    GraphClient::new(transport.clone(), base, budgets, env.clone(), timeout).unwrap()
}

pub(crate) fn spec(window: Window, tokens: &Arc<Tokens>) -> WindowSpec {
    WindowSpec {
        identity: WindowIdentity {
            account: window.account.clone(),
            tenant: "t".into(),
            mailbox: window.mailbox.clone(),
            calendar: window.calendar.clone(),
            immutable_ids: window.settings.immutable_ids,
        },
        window: Arc::new(window),
        tokens: tokens.clone(),
    }
}

/// Starts a supervisor, whatever is dropped.
pub(crate) async fn start(supervisor: &mut Supervisor, specs: Vec<WindowSpec>) {
    let permit = |_, _: &[_]| Ok::<_, StoreError>(());
    supervisor.start(specs, &StartProgress::default(), permit).await.unwrap();
}

/// Running workers. Dropped without [`Rig::stop`] they are cut off, as in a crash.
pub(crate) struct Rig {
    pub(crate) fleet: Fleet,
    pub(crate) store: Store,
    pub(crate) metrics: Metrics,
    env: Env,
    stop: oneshot::Sender<()>,
    watching: JoinHandle<()>,
}

impl Rig {
    pub(crate) async fn start(
        directory: &Path,
        transport: Arc<dyn Transport>,
        env: &Env,
        windows: Vec<Window>,
    ) -> Self {
        let options =
            StoreOptions { cache_bytes: 16 << 20, ..StoreOptions::new(directory.join("store")) };
        let (store, opening) = Store::open(&options, env).unwrap();
        assert!(opening.moved_aside.is_none(), "the store was damaged");
        let client = client(&transport, BASE, env);
        let secret = directory.join("secret");
        std::fs::write(&secret, "s3cret").unwrap();
        let sign_in = sign_in(Credential::SecretFile(secret));
        let tokens = Tokens::new(sign_in, transport, env.clone());
        let metrics = Metrics {
            graph: client.metrics(),
            store: store.metrics(),
            rounds: Arc::default(),
            readers: ReaderMetrics::default(),
            access: Arc::default(),
        };
        let round_metrics = metrics.rounds.clone();
        let services = Services {
            store: store.clone(),
            client,
            env: env.clone(),
            metrics: round_metrics,
            states: StateFeed::default(),
        };
        let mut supervisor = Supervisor::new(services, Duration::from_secs(30 * 86_400));
        let posts = windows.into_iter().map(|window| spec(window, &tokens)).collect();
        start(&mut supervisor, posts).await;
        let fleet = supervisor.fleet();
        let (stop, mut stopped) = oneshot::channel();
        let closing = store.clone();
        let watching = tokio::spawn(async move {
            let mut ticks = supervisor.ticks();
            loop {
                tokio::select! {
                    biased;
                    _ = &mut stopped => break,
                    _ = ticks.tick() => supervisor.on_tick(),
                    exit = supervisor.next_exit() => supervisor.on_task_exit(exit).unwrap(),
                }
            }
            assert!(supervisor.drain(Duration::from_secs(30)).await, "not drained in time");
            closing.close().await.unwrap();
        });
        Self { fleet, store, metrics, env: env.clone(), stop, watching }
    }

    /// Drains and closes, as SIGTERM does.
    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        self.watching.await.unwrap();
    }

    /// Cuts everything off, as `kill -9` does: nothing is closed.
    pub(crate) async fn crash(self) {
        let Self { watching, fleet, store, stop, .. } = self;
        watching.abort();
        assert!(watching.await.is_err(), "the rig had already stopped");
        drop((fleet, store, stop));
        // Aborted tasks release the store when they are polled next.
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
    }

    fn now(&self) -> Timestamp {
        self.env.now()
    }

    /// Runs rounds until the window is settled twice in a row without an error, at most `patience`
    /// rounds.
    pub(crate) async fn settle(&self, name: &str, patience: u32) -> WindowStatus {
        let mut settled = 0;
        for _ in 0..patience {
            let started = self.fleet.sync(name, Some(Duration::from_secs(7200))).await.unwrap();
            let status = started.finished.expect("the round ends");
            // Some waits cannot be shortened: a confirmation (except by accepting the removals),
            // the next fallback of a stuck stream, and a refused sign-in, which is remembered for a
            // while.
            let stuck = |kind| matches!(kind, ErrorKind::RoundStuck | ErrorKind::PageStuck);
            let waits = matches!(status.state, WindowState::Held | WindowState::SignInRequired)
                || status.last_error.as_ref().is_some_and(|error| stuck(error.kind));
            if let (true, Some(due)) = (waits, status.next_due) {
                let wait = due.duration_since(self.now());
                tokio::time::sleep(Duration::try_from(wait).unwrap_or_default()).await;
            }
            settled = if status.state == WindowState::Settled { settled + 1 } else { 0 };
            if settled == 2 {
                return status;
            }
        }
        panic!("did not settle: {:?}", self.fleet.window(name));
    }
}
