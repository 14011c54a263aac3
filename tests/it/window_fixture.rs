//! One settled window over a simulator of its own, for tests that start its rounds themselves.

use std::sync::Arc;
use std::time::Duration;

use calmirror::env::Env;
use calmirror::graph::Transport;
use calmirror::mirror::position::WindowId;
use calmirror::mirror::schedule;
use calmirror::mirror::status::WindowStatus;
use calmirror::mirror::window::{Edges, Window, WindowSettings};
use calmirror::simulator::{Behaviour, Edit, Mutation, Simulator};
use tempfile::TempDir;

use crate::compare::{EventsById, assert_mirrored, mirror, truth};
use crate::converge::simulator;
use crate::memory::Memory;
use crate::rig::{Rig, noon, window_settings, window_with};

pub(crate) const MAILBOX: &str = "alice@contoso.com";
/// Longer than any round takes, including its waits.
pub(crate) const LONG: Duration = Duration::from_secs(8 * 3600);

/// A window of [`MAILBOX`], its fleet and its Graph.
pub(crate) struct WindowFixture {
    pub(crate) simulator: Simulator,
    pub(crate) rig: Rig,
    pub(crate) id: WindowId,
    pub(crate) window: Window,
    /// The daemon's clock.
    pub(crate) env: Env,
    /// Graph's clock, which is always right.
    pub(crate) right: Env,
    pub(crate) directory: TempDir,
}

/// A window without rounds of its own for a day.
pub(crate) fn daily() -> Window {
    let interval = Duration::from_secs(86_400);
    window_with(MAILBOX, WindowSettings { interval, ..window_settings() })
}

impl WindowFixture {
    /// Settles a window over the Graph that `transport` reaches. `right` is Graph's clock.
    pub(crate) async fn start(
        simulator: Simulator,
        transport: Arc<dyn Transport>,
        env: Env,
        right: Env,
        window: Window,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let rig = Rig::start(directory.path(), transport, &env, vec![window.clone()]).await;
        rig.settle(MAILBOX, 5).await;
        let id = rig.fleet.id(MAILBOX).unwrap();
        Self { simulator, rig, id, window, env, right, directory }
    }

    /// Settles a window. Graph behaves as one of the known ways says; `carry` is how it is reached.
    pub(crate) async fn over(
        seed: u64,
        window: Window,
        carry: impl FnOnce(Simulator) -> Arc<dyn Transport>,
    ) -> Self {
        let env = Env::simulated(seed, noon());
        let simulator = simulator(seed, Behaviour::by_seed(seed), &env);
        let transport = carry(simulator.clone());
        Self::start(simulator, transport, env.clone(), env, window).await
    }

    /// Settles a window whose rounds the test starts.
    pub(crate) async fn settled(seed: u64) -> Self {
        Self::over(seed, daily(), |simulator| Arc::new(Memory(simulator))).await
    }

    /// Stops as by SIGTERM and starts again.
    pub(crate) async fn restarted(self) -> Self {
        let Self { simulator, rig, window, env, directory, .. } = self;
        rig.stop().await;
        let graph = Arc::new(Memory(simulator.clone()));
        let rig = Rig::start(directory.path(), graph, &env, vec![window.clone()]).await;
        Self { simulator, rig, window, env, directory, ..self }
    }

    /// Runs one round and returns the status after it.
    pub(crate) async fn round(&self) -> WindowStatus {
        let started = self.rig.fleet.sync(MAILBOX, Some(LONG)).await.unwrap();
        started.finished.expect("the round ends")
    }

    /// The same with a resync.
    pub(crate) async fn resync(&self) -> WindowStatus {
        let started = self.rig.fleet.resync(MAILBOX, false, Some(LONG)).await.unwrap();
        started.finished.expect("the round ends")
    }

    pub(crate) fn edit(&self, edit: Edit) -> String {
        let mutation = Mutation { mailbox: MAILBOX.into(), calendar: None, edit };
        self.simulator.mutate(mutation).unwrap()
    }

    pub(crate) fn status(&self) -> WindowStatus {
        self.rig.fleet.window(MAILBOX).unwrap()
    }

    /// The requests made so far.
    pub(crate) fn requests(&self) -> u64 {
        self.simulator.statistics().total.requests
    }

    pub(crate) fn seq(&self) -> u64 {
        self.rig.store.durable_seq()
    }

    pub(crate) async fn mirror(&self) -> EventsById {
        mirror(&self.rig.store, self.id).await
    }

    /// Asserts that mirror, feed and truth agree between the edges by Graph's clock.
    pub(crate) async fn assert_exact(&self, when: &str) {
        let status = self.status();
        let edges = Edges { start: status.start, end: status.end };
        assert_eq!(edges, schedule::edges(&self.window, self.right.now()), "{when}");
        let mirrored = self.assert_mirrored(edges, when).await;
        assert_eq!(status.events, mirrored.len() as u64, "{when}");
    }

    /// The same between these edges. Returns the events.
    pub(crate) async fn assert_mirrored(&self, edges: Edges, when: &str) -> EventsById {
        let complete = self.window.settings.complete;
        let real = truth(&self.simulator, MAILBOX, None, edges, complete).await;
        assert_mirrored(&self.rig.store, self.id, &real, when).await
    }
}
