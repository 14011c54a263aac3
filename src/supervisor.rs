//! Owns the workers: starts one per window, restarts them after a panic, replaces them when their
//! windows are reconfigured, and drains them.
//!
//! A worker that panics or gets stuck is restarted from what the store holds, with growing delays,
//! and does not affect other workers. A worker that holds its thread cannot be stopped: then the
//! watchdog is no longer fed, and the service manager restarts the process. A failed store ends the
//! fleet, because its errors persist while it is open. A refused write for lack of disk space is
//! temporary and ends nothing.

mod fleet;
mod maintenance;
mod start;
mod starting_fleet;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Interval, MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;

use crate::graph::auth::Tokens;
use crate::mirror::position::WindowId;
use crate::mirror::schedule;
use crate::mirror::status::WindowState;
use crate::mirror::window::{Window, WindowIdentity};
use crate::platform::notify::Notify;
use crate::platform::start_progress::StartProgress;
use crate::store::{StoreError, WindowCount};
use crate::worker::{FirstRun, HEARTBEAT, RoundRequest, Services, WindowHandle, WorkerExit};
pub use fleet::{Fleet, FleetError, StartedRound};
use start::registrations;

/// First pause before a worker that panicked or got stuck starts again; doubles up to a minute.
const FIRST_RESTART_DELAY: Duration = Duration::from_secs(1);
const MAX_RESTART_DELAY: Duration = Duration::from_secs(60);
/// How long workers may take to stop. One that takes longer is cut off.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(6);
/// The same for a reload. Short, because neither a stop nor the watchdog is served meanwhile.
const RELOAD_STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// Windows that one log line names at most.
const MAX_NAMED: usize = 10;
/// How long to wait for workers that were cut off.
const ABORT_GRACE: Duration = Duration::from_millis(500);

/// A window to run.
#[derive(Clone)]
pub struct WindowSpec {
    /// Its settings.
    pub window: Arc<Window>,
    /// Its identity: which calendar it mirrors.
    pub identity: WindowIdentity,
    /// Its account's tokens.
    pub tokens: Arc<Tokens>,
}

/// The owner of all workers.
pub struct Supervisor {
    services: Arc<Services>,
    fleet: Fleet,
    /// Stops everything.
    stop: CancellationToken,
    /// The workers and the maintenance tasks.
    tasks: JoinSet<Result<WorkerExit, StoreError>>,
    running: HashMap<Id, RunningWorker>,
    /// By account.
    tokens: BTreeMap<Arc<str>, Arc<Tokens>>,
    /// By window: replaced windows, whose events are removed before its first event is published.
    replaced: BTreeMap<WindowId, Vec<WindowId>>,
    /// Removals older than this are trimmed from the feed.
    retention: watch::Sender<Duration>,
    notify: Notify,
    /// The beginning of the status line: why the last reload changed nothing.
    reload_note: Option<String>,
}

/// A running worker. Small, because there may be a million.
struct RunningWorker {
    handle: Arc<WindowHandle>,
    restarts: u32,
    task: AbortHandle,
}

/// The end of a worker or of a maintenance task.
pub struct TaskExit {
    id: Id,
    result: Result<Result<WorkerExit, StoreError>, JoinError>,
}

/// The changes that a reload makes to the fleet.
pub struct FleetChange {
    /// Windows that left the configuration.
    pub removed: Vec<Arc<str>>,
    /// Windows to start or restart: new ones, and those whose edges, shape or identity changed.
    pub to_start: Vec<WindowSpec>,
    /// Windows of which only the times or the requests of the rounds change.
    pub retimed: Vec<Arc<Window>>,
}

impl Supervisor {
    /// A supervisor without windows.
    pub fn new(services: Services, retention: Duration) -> Self {
        let (retention, _) = watch::channel(retention);
        let stop = CancellationToken::new();
        let fleet = Fleet::new(
            services.env.clone(),
            stop.clone(),
            services.metrics.clone(),
            services.states.clone(),
        );
        let services = Arc::new(services);
        Self {
            services,
            fleet,
            stop,
            tasks: JoinSet::new(),
            running: HashMap::new(),
            tokens: BTreeMap::new(),
            replaced: BTreeMap::new(),
            retention,
            notify: Notify::default(),
            reload_note: None,
        }
    }

    /// Notifies the service manager that the fleet runs. From now on [`Supervisor::on_tick`] reports
    /// the status.
    pub fn announce(&mut self, notify: Notify) {
        notify.ready(&self.fleet.summary());
        self.notify = notify;
    }

    /// The service manager.
    pub fn notify(&self) -> Notify {
        self.notify.clone()
    }

    /// Notifies the service manager that a reload has ended. `remark` says why it changed
    /// nothing; it is part of the status line until the next reload.
    pub fn reloaded(&mut self, remark: Option<String>) {
        self.reload_note = remark;
        self.notify.ready(&self.status());
    }

    /// The status line.
    fn status(&self) -> String {
        let summary = self.fleet.summary();
        match &self.reload_note {
            Some(remark) => format!("{remark} | {summary}"),
            None => summary,
        }
    }

    /// The fleet, for readers and commands.
    pub fn fleet(&self) -> Fleet {
        self.fleet.clone()
    }

    /// Starts a worker for every window in `specs`. Windows that the store knows under another
    /// identity are removed first; windows that are not in `specs` are dropped in the background.
    /// `permit` is called before anything is written, with the windows that are not in `specs`.
    ///
    /// # Errors
    /// The store has failed, or the error of `permit`.
    pub async fn start<E: From<StoreError>>(
        &mut self,
        specs: Vec<WindowSpec>,
        progress: &StartProgress,
        permit: impl FnOnce(WindowCount, &[(WindowId, Arc<str>)]) -> Result<(), E>,
    ) -> Result<(), E> {
        let drops = self.register_fleet(specs, progress, permit).await?;
        let Services { store, env, client, .. } = (*self.services).clone();
        let (retention, graph) = (self.retention.subscribe(), client.metrics());
        self.spawn_task("store maintenance", move |stop| {
            let (store, env) = (store.clone(), env.clone());
            maintenance::run(store, env, graph.clone(), retention.clone(), stop)
        });
        let store = self.services.store.clone();
        self.spawn_task("compression", move |stop| maintenance::compress(store.clone(), stop));
        let store = self.services.store.clone();
        self.spawn_task("compaction", move |stop| maintenance::compact(store.clone(), stop));
        self.drop_windows(drops);
        Ok(())
    }

    /// Changes the running fleet, completely or not at all. Windows that are not named are not
    /// affected. `point_of_no_return` is called once nothing can fail any more and before new workers
    /// start.
    ///
    /// # Errors
    /// [`StoreError::Full`] if the disk is full: the fleet continues unchanged. Any other error
    /// means that the store has failed.
    pub async fn change_fleet(
        &mut self,
        change: FleetChange,
        point_of_no_return: impl FnOnce(),
    ) -> Result<(), StoreError> {
        let FleetChange { removed, to_start, retimed } = change;
        let names = removed.iter().chain(to_start.iter().map(|spec| &spec.window.name));
        let mut stopped = self.stop_workers(&names.cloned().collect()).await?;
        let unwanted: Vec<WindowId> =
            removed.iter().filter_map(|name| self.fleet.id(name)).collect();
        let registered = if to_start.is_empty() && unwanted.is_empty() {
            Ok(Vec::new())
        } else {
            let now = self.services.env.now();
            let corrected = self.services.client.clock(now).corrected(now);
            let registrations = registrations(&to_start, corrected);
            self.services.store.replace_windows(registrations, unwanted, now).await
        };
        let registered = match registered {
            Ok(registered) => registered,
            Err(error) => {
                for running in stopped.into_values() {
                    self.resume(running);
                }
                return Err(error);
            }
        };
        point_of_no_return();
        self.start_workers(to_start, registered, &mut stopped);
        let mut drops = Vec::with_capacity(removed.len());
        for name in removed {
            let handle = self.fleet.write().remove(&name);
            if let Some(handle) = handle {
                // Wakes the callers that wait for a round of this window.
                handle.interrupt();
                self.services.states.forget(&name);
                let replaced = self.replaced.remove(&handle.id()).into_iter().flatten();
                drops
                    .extend([handle.id()].into_iter().chain(replaced).map(|id| (name.clone(), id)));
            }
        }
        self.drop_windows(drops);
        for window in retimed {
            if let Some(handle) = self.fleet.member(&window.name) {
                handle.set_window(window);
            }
        }
        Ok(())
    }

    /// Sets how long removals are kept.
    pub fn set_retention(&self, retention: Duration) {
        self.retention.send_replace(retention);
    }

    /// Requests a round of all windows whose accounts could not sign in. Returns these accounts.
    pub fn retry_sign_ins(&self) -> BTreeSet<Arc<str>> {
        let mut accounts = BTreeSet::new();
        for handle in self.fleet.read().values() {
            if handle.state() == WindowState::SignInRequired {
                handle.request_round(RoundRequest::Sync);
                accounts.insert(handle.window().account.clone());
            }
        }
        accounts
    }

    /// Starts a worker again that was stopped for a change that failed.
    fn resume(&mut self, running: RunningWorker) {
        let RunningWorker { handle, restarts, .. } = running;
        // The stopped worker may have consumed the wake-up of a request.
        handle.wake_worker();
        let first = match handle.state() {
            WindowState::Settled | WindowState::Following => FirstRun::Spread,
            _ => FirstRun::Now,
        };
        self.spawn(handle, restarts, first, Duration::ZERO);
    }

    /// Stops the workers of windows and waits until they are gone. What they had begun to write is
    /// then written, or queued at the writer before any later write.
    async fn stop_workers(
        &mut self,
        names: &BTreeSet<Arc<str>>,
    ) -> Result<BTreeMap<Arc<str>, RunningWorker>, StoreError> {
        let mut stopping = self.workers_of(names);
        for running in stopping.keys().filter_map(|id| self.running.get(id)) {
            running.handle.stop_worker();
        }
        let mut stopped = BTreeMap::new();
        if let Ok(ended) =
            timeout(RELOAD_STOP_TIMEOUT, self.join(&mut stopping, &mut stopped)).await
        {
            ended?;
        } else {
            log_cut_off("reload", RELOAD_STOP_TIMEOUT, stopping.values().cloned().collect(), 0);
            for running in stopping.keys().filter_map(|id| self.running.get(id)) {
                running.task.abort();
            }
            // Without a limit: two workers must never run for one window. While one holds its
            // thread, the watchdog is not fed, and a stop ends the process after its own limit.
            self.join(&mut stopping, &mut stopped).await?;
        }
        Ok(stopped)
    }

    /// The tasks of the workers of windows, with the names.
    fn workers_of(&self, names: &BTreeSet<Arc<str>>) -> BTreeMap<Id, Arc<str>> {
        // By address: with a million windows it takes too long to compare names.
        let handle =
            |name: &Arc<str>| Some((Arc::as_ptr(&self.fleet.member(name)?), Arc::clone(name)));
        let handles: HashMap<*const WindowHandle, Arc<str>> =
            names.iter().filter_map(handle).collect();
        let name = |running: &RunningWorker| handles.get(&Arc::as_ptr(&running.handle)).cloned();
        self.running.iter().filter_map(|(id, running)| Some((*id, name(running)?))).collect()
    }

    /// Waits until the workers in `stopping` have ended, and moves them to `stopped`. Cancel safe.
    async fn join(
        &mut self,
        stopping: &mut BTreeMap<Id, Arc<str>>,
        stopped: &mut BTreeMap<Arc<str>, RunningWorker>,
    ) -> Result<(), StoreError> {
        while !stopping.is_empty() {
            let exit = self.next_exit().await;
            match stopping.remove(&exit.id) {
                Some(name) => {
                    log_panic(&exit, Some(&name));
                    if let Some(running) = self.running.remove(&exit.id) {
                        running.handle.interrupt();
                        stopped.insert(name, running);
                    }
                    if let Ok(ended) = exit.result {
                        ended?;
                    }
                }
                None => self.on_task_exit(exit)?,
            }
        }
        Ok(())
    }

    fn drop_windows(&mut self, drops: Vec<(Arc<str>, WindowId)>) {
        if drops.is_empty() {
            return;
        }
        let Services { store, env, .. } = (*self.services).clone();
        self.spawn_task("drop windows", move |stop| {
            maintenance::drop_windows(store.clone(), env.clone(), drops.clone(), stop)
        });
    }

    /// Runs a task beside the workers. It is restarted if it panics; at shutdown its token is
    /// cancelled, and it is waited for like a worker. Its error ends the fleet.
    pub fn spawn_task<F>(
        &mut self,
        name: &'static str,
        task: impl Fn(CancellationToken) -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        let (env, stop) = (self.services.env.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            let result = maintenance::restart_on_panic(name, &env, &stop, task).await;
            result.map(|()| WorkerExit::Stopped)
        });
    }

    /// When [`Supervisor::on_tick`] is due.
    pub fn ticks(&self) -> Interval {
        let enabled = self.notify.is_enabled();
        let mut ticks =
            tokio::time::interval(if enabled { self.notify.interval() } else { HEARTBEAT });
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    }

    /// Reports the status and feeds the watchdog; if a worker is hung, only reports that.
    pub fn on_tick(&self) {
        match self.fleet.hung() {
            None if self.notify.is_enabled() => self.notify.alive(&self.status()),
            None => {}
            Some(window) => {
                tracing::error!(%window, "worker holds its thread and cannot be restarted");
                self.notify.status(&format!("stuck: the worker of {window} holds its thread"));
            }
        }
    }

    /// Waits for the end of a task; forever if there is none. Cancel safe.
    pub async fn next_exit(&mut self) -> TaskExit {
        match self.tasks.join_next_with_id().await {
            Some(Ok((id, result))) => TaskExit { id, result: Ok(result) },
            Some(Err(error)) => TaskExit { id: error.id(), result: Err(error) },
            None => std::future::pending().await,
        }
    }

    /// Handles the end of a task: restarts a worker that panicked or got stuck.
    ///
    /// # Errors
    /// The store has failed.
    pub fn on_task_exit(&mut self, exit: TaskExit) -> Result<(), StoreError> {
        let TaskExit { id, result } = exit;
        match result {
            Ok(exit) => match exit? {
                WorkerExit::Stuck => self.restart(id, "stuck"),
                WorkerExit::Stopped => drop(self.running.remove(&id)),
            },
            Err(error) if error.is_panic() => self.restart(id, "panicked"),
            Err(_) => drop(self.running.remove(&id)),
        }
        Ok(())
    }

    fn restart(&mut self, id: Id, reason: &'static str) {
        let Some(running) = self.running.remove(&id) else { return };
        let RunningWorker { handle, restarts, .. } = running;
        let restarts = restarts + 1;
        self.services.metrics.restarts.fetch_add(1, Ordering::Relaxed);
        let chance = self.services.env.random();
        let pause = schedule::backoff(FIRST_RESTART_DELAY, MAX_RESTART_DELAY, restarts, chance);
        handle.on_crash(&self.services.states, self.services.env.now());
        tracing::error!(
            window = %handle.window().name,
            reason,
            restarts,
            pause_ms = pause.as_millis(),
            "worker is restarted"
        );
        self.spawn(handle, restarts, FirstRun::Now, pause);
    }

    /// Stops all workers and waits for them no longer than `limit`. Returns whether all stopped.
    pub async fn drain(mut self, limit: Duration) -> bool {
        self.notify.stopping();
        self.stop.cancel();
        for handle in self.fleet.read().values() {
            handle.wake_worker();
        }
        let drained = timeout(limit, async {
            while !self.tasks.is_empty() {
                let exit = self.next_exit().await;
                let window = self.running.remove(&exit.id).map(|r| r.handle.window());
                log_panic(&exit, window.as_ref().map(|window| &*window.name));
            }
        })
        .await
        .is_ok();
        if !drained {
            let maintenance = self.tasks.len().saturating_sub(self.running.len());
            // A worker that holds its thread cannot be waited for.
            timeout(ABORT_GRACE, self.tasks.shutdown()).await.ok();
            let name = |running: &RunningWorker| running.handle.window().name.clone();
            log_cut_off("stop", limit, self.running.values().map(name).collect(), maintenance);
        }
        drained
    }
}

/// `window` is `None` for a maintenance task.
fn log_panic(exit: &TaskExit, window: Option<&str>) {
    if exit.result.as_ref().is_err_and(JoinError::is_panic) {
        tracing::error!(window, "task panicked while stopping");
    }
}

/// Logs which workers, and how many maintenance tasks, were cut off. `during` is what they had to
/// stop for.
fn log_cut_off(
    during: &'static str,
    limit: Duration,
    windows: BTreeSet<Arc<str>>,
    maintenance_tasks: usize,
) {
    let names: Vec<&str> = windows.iter().take(MAX_NAMED).map(|name| &**name).collect();
    let mut named = names.join(", ");
    if windows.len() > MAX_NAMED {
        named.push_str(&format!(" and {} more", windows.len() - MAX_NAMED));
    }
    tracing::warn!(
        during,
        windows = named,
        maintenance_tasks,
        deadline_s = limit.as_secs(),
        "workers did not stop in time and were cut off"
    );
}
