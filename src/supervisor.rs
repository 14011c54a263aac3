//! Owns the workers: starts one per window, restarts one that panicked, replaces those whose
//! windows are set otherwise, drains them all.
//!
//! A worker that panics, or gets stuck, is restarted from what the store holds, later each time,
//! and hurts nobody else. One that holds its thread cannot be ended from outside: then the
//! watchdog is no longer fed, so that the service manager starts the process anew. A store that
//! fails ends everything: its errors do not heal while it is open. A full disk heals, and ends
//! nothing.

mod fleet;
mod maintenance;
pub mod reload;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::MissedTickBehavior;

use crate::graph::auth::Tokens;
use crate::mirror::clock::{self, MAX_PAUSE};
use crate::mirror::position::WindowId;
use crate::mirror::schedule;
use crate::mirror::status::WindowState;
use crate::mirror::window::{Window, WindowIdentity};
use crate::platform::notify::Notify;
use crate::store::{RegisteredWindow, StoreError, WindowRegistration};
use crate::worker::{
    FirstRun, HEARTBEAT, RoundRequest, Services, WindowHandle, Worker, WorkerExit,
};
use fleet::FleetEntry;
pub use fleet::{Fleet, FleetError, StartedRound};

/// First pause before a panicked worker starts again; doubles up to a minute.
const FIRST_RESTART_DELAY: Duration = Duration::from_secs(1);
const MAX_RESTART_DELAY: Duration = Duration::from_secs(60);
/// How long cut off workers are waited for.
const ABORT_GRACE: Duration = Duration::from_millis(500);

/// A window to run, and what it is.
#[derive(Clone)]
pub struct WindowSpec {
    /// Its settings.
    pub window: Arc<Window>,
    /// What it is.
    pub identity: WindowIdentity,
    /// Its account's tokens.
    pub tokens: Arc<Tokens>,
}

/// See the module.
pub struct Supervisor {
    services: Arc<Services>,
    fleet: Fleet,
    stop: watch::Sender<bool>,
    workers: JoinSet<Result<WorkerExit, StoreError>>,
    names: HashMap<Id, RunningWorker>,
    /// By account.
    tokens: BTreeMap<Arc<str>, Arc<Tokens>>,
    /// Windows whose events leave before the first of another of the same name is shown.
    replaced: BTreeMap<WindowId, Vec<WindowId>>,
    /// Events older than this leave no tombstone.
    retention: watch::Sender<Duration>,
    notify: Notify,
    /// What the line of status begins with.
    remark: Option<String>,
}

/// A worker: small, as there may be a million.
struct RunningWorker {
    member: FleetEntry,
    restarts: u32,
    task: AbortHandle,
}

/// A worker to be.
struct WorkerStart {
    member: FleetEntry,
    restarts: u32,
    first: FirstRun,
    pause: Duration,
}

/// What a reload changes of the fleet.
pub struct FleetChange {
    /// Windows that are gone.
    pub removed: Vec<Arc<str>>,
    /// Windows that begin, or begin again: new ones, and those whose edges, shape or identity
    /// changed.
    pub begun: Vec<WindowSpec>,
    /// Windows whose rounds come at other times or ask otherwise.
    pub retimed: Vec<Arc<Window>>,
}

impl Supervisor {
    /// A supervisor of nobody yet.
    pub fn new(services: Services, retention: Duration) -> Self {
        let (retention, _) = watch::channel(retention);
        let (stop, watch) = watch::channel(false);
        let fleet = Fleet::new(services.env.clone(), watch, services.metrics.clone());
        let services = Arc::new(services);
        Self {
            services,
            fleet,
            stop,
            workers: JoinSet::new(),
            names: HashMap::new(),
            tokens: BTreeMap::new(),
            replaced: BTreeMap::new(),
            retention,
            notify: Notify::default(),
            remark: None,
        }
    }

    /// Tells the service manager that the fleet runs, and from now on, while
    /// [`Supervisor::watch`] turns, how it goes.
    pub fn announce(&mut self, notify: Notify) {
        notify.ready(&self.fleet.summary());
        self.notify = notify;
    }

    /// The service manager.
    pub fn notify(&self) -> Notify {
        self.notify.clone()
    }

    /// Tells the service manager that a reload is over; `remark`, why nothing came of it, stands
    /// in the status line until the next one.
    pub fn reloaded(&mut self, remark: Option<String>) {
        self.remark = remark;
        self.notify.ready(&self.status());
    }

    /// The line of status.
    fn status(&self) -> String {
        let summary = self.fleet.summary();
        match &self.remark {
            Some(remark) => format!("{remark} | {summary}"),
            None => summary,
        }
    }

    /// What others may ask.
    pub fn fleet(&self) -> Fleet {
        self.fleet.clone()
    }

    /// Starts a worker for every post. Windows that the store knows under another identity leave
    /// first; windows that no post wants are dropped in the background.
    ///
    /// # Errors
    /// Where the store has failed.
    pub async fn start(&mut self, posts: Vec<WindowSpec>) -> Result<(), StoreError> {
        let now = self.services.env.now();
        // Who is not wanted leaves in the same breath, so that a start that is interrupted need not
        // be told again that they may go.
        let store = self.services.store.clone();
        let names: BTreeSet<&str> = posts.iter().map(|post| &*post.window.name).collect();
        let known = store.windows().await?.into_iter();
        let unwanted =
            known.filter(|(name, _, leaving)| !leaving && !names.contains(&**name)).map(|w| w.1);
        let attached =
            store.replace_windows(registrations(&posts, now), unwanted.collect(), now).await?;
        // What a window replaces is dropped by its own worker, before anything else.
        let taken: BTreeSet<WindowId> =
            attached.iter().flat_map(|a| a.replaces.iter().chain([&a.id])).copied().collect();
        let known = store.windows().await?;
        let drops = known
            .into_iter()
            .filter(|(_, id, _)| !taken.contains(id))
            .map(|(name, id, _)| (name, id))
            .collect();
        self.start_workers(posts, attached, &mut BTreeMap::new());
        let Services { store, env, client, .. } = (*self.services).clone();
        let (retention, stop) = (self.retention.subscribe(), self.stop.subscribe());
        let graph = client.metrics();
        self.workers.spawn(async move {
            let clock = &graph.clock;
            let tend = || maintenance::run(&store, &env, clock, retention.clone(), stop.clone());
            let done =
                maintenance::restart_on_panic("tend the store", &env, stop.clone(), tend).await;
            done.map(|()| WorkerExit::Stopped)
        });
        self.drop_windows(drops);
        Ok(())
    }

    /// Changes the fleet while it runs: all of it, or nothing. Windows that are not named do not
    /// notice. `commit` is called in between, when nothing can fail any more and no worker that
    /// begins has begun.
    ///
    /// # Errors
    /// [`StoreError::Full`] where the disk is: the fleet goes on as it was. After the others the
    /// store is over.
    pub async fn change_fleet(
        &mut self,
        reform: FleetChange,
        commit: impl FnOnce(),
    ) -> Result<(), StoreError> {
        let FleetChange { removed, begun, retimed } = reform;
        let names = removed.iter().chain(begun.iter().map(|post| &post.window.name));
        let mut stopped = self.stop(&names.cloned().collect()).await?;
        let leaving: Vec<WindowId> =
            removed.iter().filter_map(|name| self.fleet.id(name)).collect();
        if !begun.is_empty() || !leaving.is_empty() {
            let now = self.services.env.now();
            let right = self.services.client.clock(now).corrected(now);
            let exchange = self
                .services
                .store
                .replace_windows(registrations(&begun, right), leaving, now)
                .await;
            match exchange {
                Ok(attached) => {
                    commit();
                    self.start_workers(begun, attached, &mut stopped);
                }
                Err(error) => {
                    for running in stopped.into_values() {
                        self.resume(running);
                    }
                    return Err(error);
                }
            }
        } else {
            commit();
        }
        let mut drops = Vec::with_capacity(removed.len());
        for name in removed {
            let member = self.fleet.write().remove(&name);
            if let Some(member) = member {
                // Whoever waits for a round of it waits no longer.
                member.handle.interrupt();
                let replaced = self.replaced.remove(&member.id).into_iter().flatten();
                drops.extend([member.id].into_iter().chain(replaced).map(|id| (name.clone(), id)));
            }
        }
        self.drop_windows(drops);
        for window in retimed {
            if let Some(member) = self.fleet.member(&window.name) {
                member.handle.set_window(window);
            }
        }
        Ok(())
    }

    /// Changes how long removals are kept.
    pub fn set_retention(&self, retention: Duration) {
        self.retention.send_replace(retention);
    }

    /// Windows whose accounts could not sign in try again now. Answers which accounts these are.
    pub fn retry_sign_ins(&self) -> BTreeSet<Arc<str>> {
        let mut accounts = BTreeSet::new();
        for member in self.fleet.read().values() {
            if member.handle.state() == WindowState::SignInRequired {
                member.handle.ask(RoundRequest::Sync);
                accounts.insert(member.handle.window().account.clone());
            }
        }
        accounts
    }

    /// Makes attached windows members and starts their workers. `stopped` are the workers that
    /// some of them had.
    fn start_workers(
        &mut self,
        posts: Vec<WindowSpec>,
        attached: Vec<RegisteredWindow>,
        stopped: &mut BTreeMap<Arc<str>, RunningWorker>,
    ) {
        let mut starts = Vec::with_capacity(posts.len());
        // Kept until the workers share their budgets.
        let mut paused = Vec::new();
        let now = self.services.env.now();
        {
            let fleet = self.fleet.clone();
            let mut windows = fleet.write();
            for (post, attached) in posts.into_iter().zip(attached) {
                let WindowSpec { window, tokens, .. } = post;
                let goes_on = |until: &Timestamp| clock::wait_continues(*until, MAX_PAUSE, now);
                let left = attached.paused_until.filter(goes_on);
                let left = left.map(|until| until.duration_since(now));
                if let Some(left) = left.and_then(|left| Duration::try_from(left).ok()) {
                    let calendar = window.calendar.clone();
                    let target = self.services.client.target(&tokens, &window.mailbox, calendar);
                    target.budget.pause(left);
                    paused.push(target);
                }
                self.tokens.insert(window.account.clone(), tokens);
                let name = window.name.clone();
                let before = stopped.remove(&name);
                let member = match windows.get(&name).filter(|member| member.id == attached.id) {
                    Some(member) => {
                        member.handle.reattach(window, &attached);
                        member.clone()
                    }
                    None => {
                        let handle = Arc::new(WindowHandle::new(window, &attached, now));
                        let member = FleetEntry { id: attached.id, handle };
                        windows.insert(name, member.clone());
                        member
                    }
                };
                // What a window that is replaced itself had not done yet is left to its successor.
                let mut replaces = attached.replaces;
                let earlier = before.map(|running| running.member.id);
                replaces
                    .extend(earlier.and_then(|id| self.replaced.remove(&id)).into_iter().flatten());
                replaces.sort_unstable();
                replaces.dedup();
                if !replaces.is_empty() {
                    self.replaced.insert(attached.id, replaces);
                }
                let first = if attached.settled { FirstRun::Spread } else { FirstRun::Now };
                starts.push(WorkerStart { member, restarts: 0, first, pause: Duration::ZERO });
            }
        }
        for start in starts {
            self.spawn(start);
        }
    }

    /// Goes on with a window whose worker was stopped for nothing.
    fn resume(&mut self, running: RunningWorker) {
        let RunningWorker { member, restarts, .. } = running;
        let first = match member.handle.state() {
            WindowState::Settled | WindowState::Following => FirstRun::Spread,
            _ => FirstRun::Now,
        };
        self.spawn(WorkerStart { member, restarts, first, pause: Duration::ZERO });
    }

    /// Stops the workers of windows, and waits until they are gone: what they had begun to write
    /// is in the writer's hands before anything that comes after.
    async fn stop(
        &mut self,
        names: &BTreeSet<Arc<str>>,
    ) -> Result<BTreeMap<Arc<str>, RunningWorker>, StoreError> {
        let mut going = BTreeMap::new();
        for (id, running) in &self.names {
            let name = running.member.handle.window().name.clone();
            if names.contains(&name) {
                running.task.abort();
                going.insert(*id, name);
            }
        }
        let mut stopped = BTreeMap::new();
        while !going.is_empty() {
            let Some(over) = self.workers.join_next_with_id().await else { break };
            let id = match &over {
                Ok((id, _)) => *id,
                Err(error) => error.id(),
            };
            match going.remove(&id) {
                Some(name) => {
                    if let Some(running) = self.names.remove(&id) {
                        running.member.handle.interrupt();
                        stopped.insert(name, running);
                    }
                }
                None => self.on_task_exit(over)?,
            }
        }
        Ok(stopped)
    }

    fn spawn(&mut self, start: WorkerStart) {
        let WorkerStart { member, restarts, first, pause } = start;
        let window = member.handle.window();
        let Some(tokens) = self.tokens.get(&window.account) else { return };
        let replaces = self.replaced.get(&member.id).cloned().unwrap_or_default();
        let target = self.services.client.target(tokens, &window.mailbox, window.calendar.clone());
        let stop = self.stop.subscribe();
        let (id, handle) = (member.id, member.handle.clone());
        let mut worker = Worker::new(self.services.clone(), target, id, handle, stop);
        // Boxed because few workers need it, and none for long.
        let before = (!pause.is_zero() || !replaces.is_empty()).then(|| {
            let (services, stop) = (self.services.clone(), self.stop.subscribe());
            Box::pin(prepare(services, stop, pause, window.name.clone(), replaces))
        });
        let task = self.workers.spawn(async move {
            if let Some(before) = before
                && !before.await?
            {
                return Ok(WorkerExit::Stopped);
            }
            worker.run(first).await
        });
        self.names.insert(task.id(), RunningWorker { member, restarts, task });
    }

    fn drop_windows(&mut self, drops: Vec<(Arc<str>, WindowId)>) {
        if drops.is_empty() {
            return;
        }
        let Services { store, env, .. } = (*self.services).clone();
        let stop = self.stop.subscribe();
        self.workers.spawn(async move {
            let drop = || maintenance::drop_windows(&store, &env, drops.clone(), stop.clone());
            let done =
                maintenance::restart_on_panic("drop windows", &env, stop.clone(), drop).await;
            done.map(|()| WorkerExit::Stopped)
        });
    }

    /// Watches over the workers until `until` resolves or the store fails; restarts those that
    /// panic. The service manager is told from this very loop that it turns: while it does not,
    /// nobody says so, and the watchdog bites.
    ///
    /// # Errors
    /// Where the store has failed.
    pub async fn watch<T>(&mut self, until: impl Future<Output = T>) -> Result<T, StoreError> {
        tokio::pin!(until);
        let heard = self.notify.is_enabled();
        let mut turn =
            tokio::time::interval(if heard { self.notify.interval() } else { HEARTBEAT });
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let store = self.services.store.clone();
        let failed = store.failed();
        tokio::pin!(failed);
        loop {
            tokio::select! {
                biased;
                event = &mut until => return Ok(event),
                error = &mut failed => return Err(error),
                _ = turn.tick() => self.heartbeat(),
                Some(over) = self.workers.join_next_with_id() => self.on_task_exit(over)?,
            }
        }
    }

    /// A task has ended.
    fn on_task_exit(
        &mut self,
        over: Result<(Id, Result<WorkerExit, StoreError>), JoinError>,
    ) -> Result<(), StoreError> {
        match over {
            Ok((id, ended)) => match ended? {
                WorkerExit::Stuck => self.restart(id, "stuck"),
                WorkerExit::Stopped => drop(self.names.remove(&id)),
            },
            Err(error) if error.is_panic() => self.restart(error.id(), "panicked"),
            Err(error) => drop(self.names.remove(&error.id())),
        }
        Ok(())
    }

    /// Looks at all workers, and tells the service manager how things are and that this loop turns.
    fn heartbeat(&self) {
        match self.fleet.hung() {
            None if self.notify.is_enabled() => self.notify.alive(&self.status()),
            None => {}
            Some(window) => {
                tracing::error!(%window, "worker holds its thread and cannot be restarted");
                self.notify.status(&format!("stuck: the worker of {window} holds its thread"));
            }
        }
    }

    fn restart(&mut self, id: Id, reason: &'static str) {
        let Some(running) = self.names.remove(&id) else { return };
        let RunningWorker { member, restarts, .. } = running;
        let restarts = restarts + 1;
        self.services.metrics.restarts.fetch_add(1, Ordering::Relaxed);
        let chance = self.services.env.random();
        let pause = schedule::backoff(FIRST_RESTART_DELAY, MAX_RESTART_DELAY, restarts, chance);
        member.handle.on_crash(self.services.env.now());
        tracing::error!(
            window = %member.handle.window().name,
            reason,
            restarts,
            pause_ms = pause.as_millis(),
            "worker is restarted"
        );
        self.spawn(WorkerStart { member, restarts, first: FirstRun::Now, pause });
    }

    /// Tells every worker to stop and waits for them, at most so long. True: all did.
    pub async fn drain(mut self, deadline: Duration) -> bool {
        self.notify.stopping();
        self.stop.send_replace(true);
        for member in self.fleet.read().values() {
            member.handle.wake_worker();
        }
        let workers = &mut self.workers;
        let drained = tokio::time::timeout(deadline, async move {
            while let Some(over) = workers.join_next().await {
                if let Err(error) = over
                    && error.is_panic()
                {
                    tracing::error!("worker panicked while stopping");
                }
            }
        })
        .await
        .is_ok();
        if !drained {
            // A worker that holds its thread cannot be waited for.
            tokio::time::timeout(ABORT_GRACE, self.workers.shutdown()).await.ok();
        }
        drained
    }
}

/// The windows as the store has to know them.
fn registrations(posts: &[WindowSpec], now: Timestamp) -> Vec<WindowRegistration> {
    let wanted = |post: &WindowSpec| WindowRegistration {
        name: post.window.name.clone(),
        identity: post.identity.clone(),
        shape: post.window.shape(),
        start: post.window.start,
        end: post.window.end,
        edges: schedule::edges(&post.window, now),
    };
    posts.iter().map(wanted).collect()
}

/// What comes before a worker's first round: a pause, and that the events of windows it replaces
/// leave before the first new one is shown. False: told to stop meanwhile.
async fn prepare(
    services: Arc<Services>,
    mut stop: watch::Receiver<bool>,
    pause: Duration,
    name: Arc<str>,
    replaces: Vec<WindowId>,
) -> Result<bool, StoreError> {
    if !pause.is_zero() {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(false),
            () = tokio::time::sleep(pause) => {}
        }
    }
    for old in replaces {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(false),
            dropped = maintenance::drop_window(&services.store, &services.env, &name, old) => dropped?,
        }
    }
    Ok(true)
}
