//! The running fleet for readers and commands: the status of its windows, and requests for rounds.
//!
//! Maps names to window handles. Workers write into the handles; readers and commands read them
//! and request rounds. The fleet owns no tasks; the supervisor adds and removes its windows.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::env::Env;
use crate::metrics::RoundMetrics;
use crate::mirror::position::WindowId;
use crate::mirror::status::{PastRounds, WindowState, WindowStatus};
use crate::worker::{HEARTBEAT, RoundRequest, StateFeed, WindowHandle, WindowSummary};

/// A worker in a round that has not checked for stalls for this long holds its thread.
pub(super) const HUNG_AFTER: Duration = Duration::from_secs(5 * HEARTBEAT.as_secs());

/// The windows of a fleet by name.
type FleetWindows = BTreeMap<Arc<str>, Arc<WindowHandle>>;

/// The running windows by name. Cheap to clone.
#[derive(Clone)]
pub struct Fleet {
    windows: Arc<RwLock<FleetWindows>>,
    env: Env,
    stop: CancellationToken,
    metrics: Arc<RoundMetrics>,
    states: StateFeed,
}

/// Why a command to a window could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// No window of that name is running.
    #[error("no window is named {0:?}")]
    UnknownWindow(String),
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Stopping,
}

/// A round that was started on request.
#[derive(Clone, Debug)]
pub struct StartedRound {
    /// The window.
    pub window: Arc<str>,
    /// The number of the round that serves the request.
    pub round: u64,
    /// The window's status once the round was over, if it was over within the wait.
    pub finished: Option<WindowStatus>,
}

impl Fleet {
    /// A fleet without windows.
    pub(super) fn new(
        env: Env,
        stop: CancellationToken,
        metrics: Arc<RoundMetrics>,
        states: StateFeed,
    ) -> Self {
        Self { windows: Arc::default(), env, stop, metrics, states }
    }

    /// Every window's status, ordered by name.
    pub fn windows(&self) -> Vec<WindowStatus> {
        let now = self.env.now();
        self.read().values().map(|handle| handle.status(now)).collect()
    }

    /// The summaries of all windows, ordered by name.
    pub fn summaries(&self) -> Vec<WindowSummary> {
        self.read().values().map(|handle| handle.summary()).collect()
    }

    /// How many windows are in each state.
    pub fn states(&self) -> BTreeMap<WindowState, usize> {
        let mut states = BTreeMap::new();
        for handle in self.read().values() {
            *states.entry(handle.state()).or_default() += 1;
        }
        states
    }

    /// The changes of the states of windows.
    pub fn state_feed(&self) -> StateFeed {
        self.states.clone()
    }

    /// How many workers were restarted because they panicked or got stuck.
    pub fn restarts(&self) -> u64 {
        self.metrics.restarts.load(Ordering::Relaxed)
    }

    /// A window whose worker holds its thread.
    pub(super) fn hung(&self) -> Option<Arc<str>> {
        let windows = self.read();
        let mut hung = windows.iter().filter(|(_, handle)| handle.is_hung(HUNG_AFTER));
        hung.next().map(|(name, _)| name.clone())
    }

    /// The fleet in one line: how many windows there are, and how many in each state.
    pub fn summary(&self) -> String {
        let states = self.states();
        let count: usize = states.values().sum();
        let mut line = format!("{count} window{}", if count == 1 { "" } else { "s" });
        for (index, (state, count)) in states.iter().enumerate() {
            let separator = if index == 0 { ": " } else { ", " };
            line.push_str(&format!("{separator}{count} {state}"));
        }
        match self.restarts() {
            0 => {}
            restarts => line.push_str(&format!("; restarted workers: {restarts}")),
        }
        line
    }

    /// One window's status.
    pub fn window(&self, name: &str) -> Option<WindowStatus> {
        self.member(name).map(|handle| handle.status(self.env.now()))
    }

    /// A window's past rounds.
    pub fn rounds(&self, name: &str) -> Option<PastRounds> {
        self.member(name).map(|handle| handle.rounds())
    }

    /// The id of a window in the store.
    pub fn id(&self, name: &str) -> Option<WindowId> {
        self.member(name).map(|handle| handle.id())
    }

    /// Starts a round now; with `wait` also waits for its end.
    ///
    /// # Errors
    /// Unknown window, or the daemon is stopping.
    pub async fn sync(
        &self,
        name: &str,
        wait: Option<Duration>,
    ) -> Result<StartedRound, FleetError> {
        self.ask(name, RoundRequest::Sync, wait).await
    }

    /// Starts a full resync now. `accept_removals` ends a hold.
    ///
    /// # Errors
    /// Unknown window, or the daemon is stopping.
    pub async fn resync(
        &self,
        name: &str,
        accept_removals: bool,
        wait: Option<Duration>,
    ) -> Result<StartedRound, FleetError> {
        let request =
            if accept_removals { RoundRequest::AcceptRemovals } else { RoundRequest::Resync };
        self.ask(name, request, wait).await
    }

    async fn ask(
        &self,
        name: &str,
        request: RoundRequest,
        wait: Option<Duration>,
    ) -> Result<StartedRound, FleetError> {
        if self.stop.is_cancelled() {
            return Err(FleetError::Stopping);
        }
        let handle = self.member(name).ok_or_else(|| FleetError::UnknownWindow(name.to_owned()))?;
        let round = handle.request_round(request);
        let finished = match wait {
            None => None,
            Some(wait) => tokio::select! {
                result = tokio::time::timeout(wait, handle.finished(round)) => {
                    result.is_ok().then(|| handle.status(self.env.now()))
                }
                () = self.stop.cancelled() => return Err(FleetError::Stopping),
            },
        };
        Ok(StartedRound { window: handle.window().name.clone(), round, finished })
    }

    /// Gives back the memory that a map has to spare after it grew window by window.
    pub(super) fn compact(&self) {
        let mut windows = self.write();
        *windows = std::mem::take(&mut *windows).into_iter().collect();
    }

    pub(super) fn member(&self, name: &str) -> Option<Arc<WindowHandle>> {
        self.read().get(name).cloned()
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, FleetWindows> {
        self.windows.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, FleetWindows> {
        self.windows.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::mirror::window::Edges;
    use crate::tests::{NOON, env, registered, window};

    /// A settled window without a worker.
    fn entry(name: &str) -> Arc<WindowHandle> {
        let registered = registered(Edges { start: NOON, end: NOON });
        Arc::new(WindowHandle::new(Arc::new(window(name)), &registered, NOON))
    }

    fn fleet(names: &[&str]) -> Fleet {
        let fleet =
            Fleet::new(env(), CancellationToken::new(), Arc::default(), StateFeed::default());
        let entries = names.iter().map(|name| ((*name).into(), entry(name)));
        fleet.write().extend(entries);
        fleet
    }

    #[test]
    fn the_summary_counts_windows_and_their_states() {
        assert_eq!(fleet(&[]).summary(), "0 windows");
        assert_eq!(fleet(&["alice"]).summary(), "1 window: 1 settled");
        let fleet = fleet(&["alice", "bob", "carol"]);
        fleet.member("bob").unwrap().on_crash(&fleet.states, NOON);
        fleet.metrics.restarts.fetch_add(1, Ordering::Relaxed);
        let summary = fleet.summary();
        assert!(summary.starts_with("3 windows: ") && summary.contains("2 settled"), "{summary}");
        assert!(summary.contains("1 backing_off"), "{summary}");
        assert!(summary.ends_with("; restarted workers: 1"), "{summary}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_request_returns_its_number_and_waits_no_longer_than_asked() {
        let fleet = fleet(&["alice"]);
        let begun = Instant::now();
        let started = fleet.sync("alice", None).await.unwrap();
        assert_eq!((started.round, started.finished.is_some()), (8, false));
        let started = fleet.sync("alice", Some(Duration::from_secs(5))).await.unwrap();
        assert_eq!((started.round, started.finished.is_some()), (8, false));
        assert_eq!(begun.elapsed().as_secs(), 5);
        // The end of the round answers early.
        let handle = fleet.member("alice").unwrap();
        let (started, ()) =
            tokio::join!(fleet.sync("alice", Some(Duration::from_secs(5))), async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                handle.on_crash(&fleet.states, NOON);
            });
        assert!(started.unwrap().finished.is_some());
        assert_eq!(begun.elapsed().as_secs(), 6);
        let unknown = fleet.sync("bob", None).await;
        assert!(matches!(unknown, Err(FleetError::UnknownWindow(name)) if name == "bob"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_the_waits_and_refuses_new_requests() {
        let fleet = fleet(&["alice"]);
        let begun = Instant::now();
        let waiting = fleet.resync("alice", false, Some(Duration::from_secs(60)));
        let (waited, ()) = tokio::join!(waiting, async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            fleet.stop.cancel();
        });
        assert!(matches!(waited, Err(FleetError::Stopping)));
        assert_eq!(begun.elapsed().as_secs(), 1);
        assert!(matches!(fleet.sync("alice", None).await, Err(FleetError::Stopping)));
    }
}
