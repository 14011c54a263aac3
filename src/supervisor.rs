//! Owns the workers: starts one per window, restarts one that panicked, drains them all.
//!
//! A worker that panics, or gets stuck, is restarted from what the store holds, later each time,
//! and hurts nobody else. One that holds its thread cannot be ended from outside: then the
//! watchdog is no longer fed, so that the service manager starts the process anew. A store that fails ends everything: its errors do not heal while it is open. A
//! full disk heals, and ends nothing.

mod janitor;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio::time::MissedTickBehavior;

use crate::graph::auth::Tokens;
use crate::mirror::position::WindowId;
use crate::mirror::schedule;
use crate::mirror::status::{State, WindowStatus};
use crate::mirror::window::{Identity, Window};
use crate::platform::notify::Notify;
use crate::store::{Attached, StoreError, Wanted};
use crate::worker::{Asked, Brief, Cell, Ended, First, LOOK, Services, Worker};
use crate::world::World;

/// First pause before a panicked worker starts again; doubles up to a minute.
const RESTART_FIRST: Duration = Duration::from_secs(1);
const RESTART_LONGEST: Duration = Duration::from_secs(60);
/// A round under way whose worker has not looked around for so long holds its thread.
const MOTIONLESS: Duration = Duration::from_secs(5 * LOOK.as_secs());

/// What readers and commands may ask of the running fleet. Cheap to clone.
#[derive(Clone)]
pub struct Fleet {
    windows: Arc<RwLock<BTreeMap<Arc<str>, Member>>>,
    world: World,
    stop: watch::Receiver<bool>,
    restarts: Arc<AtomicU64>,
}

#[derive(Clone)]
struct Member {
    id: WindowId,
    cell: Arc<Cell>,
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
pub struct Started {
    /// The window.
    pub window: Arc<str>,
    /// The number of the round that serves the request.
    pub round: u64,
    /// The window's status once the round was over, if it was over within the wait.
    pub finished: Option<WindowStatus>,
}

impl Fleet {
    /// Every window's status, ordered by name.
    pub fn windows(&self) -> Vec<WindowStatus> {
        let now = self.world.now();
        self.read().values().map(|member| member.cell.status(now)).collect()
    }

    /// Every window at a glance, ordered by name.
    pub fn briefs(&self) -> Vec<Brief> {
        let now = self.world.now();
        self.read().values().map(|member| member.cell.brief(now)).collect()
    }

    /// How many windows are in each state.
    pub fn states(&self) -> BTreeMap<State, usize> {
        let mut states = BTreeMap::new();
        for member in self.read().values() {
            *states.entry(member.cell.state()).or_default() += 1;
        }
        states
    }

    /// How many workers were restarted because they panicked or got stuck.
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// A window whose worker holds its thread.
    fn motionless(&self) -> Option<Arc<str>> {
        let windows = self.read();
        let mut motionless = windows.iter().filter(|(_, one)| one.cell.is_motionless(MOTIONLESS));
        motionless.next().map(|(name, _)| name.clone())
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
        self.member(name).map(|member| member.cell.status(self.world.now()))
    }

    /// The number under which the store keeps a window.
    pub fn id(&self, name: &str) -> Option<WindowId> {
        self.member(name).map(|member| member.id)
    }

    /// Starts a round now; with `wait` also waits for its end.
    ///
    /// # Errors
    /// Unknown window, or the daemon is stopping.
    pub async fn sync(&self, name: &str, wait: Option<Duration>) -> Result<Started, FleetError> {
        self.ask(name, Asked::Sync, wait).await
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
    ) -> Result<Started, FleetError> {
        let asked = if accept_removals { Asked::AcceptRemovals } else { Asked::Resync };
        self.ask(name, asked, wait).await
    }

    async fn ask(
        &self,
        name: &str,
        asked: Asked,
        wait: Option<Duration>,
    ) -> Result<Started, FleetError> {
        let mut stop = self.stop.clone();
        if *stop.borrow() {
            return Err(FleetError::Stopping);
        }
        let Member { cell, .. } =
            self.member(name).ok_or_else(|| FleetError::UnknownWindow(name.to_owned()))?;
        let round = cell.ask(asked);
        let finished = match wait {
            None => None,
            Some(wait) => tokio::select! {
                over = tokio::time::timeout(wait, cell.finished(round)) => {
                    over.is_ok().then(|| cell.status(self.world.now()))
                }
                _ = stop.wait_for(|stop| *stop) => return Err(FleetError::Stopping),
            },
        };
        Ok(Started { window: cell.window().name.clone(), round, finished })
    }

    fn member(&self, name: &str) -> Option<Member> {
        self.read().get(name).cloned()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<Arc<str>, Member>> {
        self.windows.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A window to run, and what it is.
#[derive(Clone)]
pub struct Post {
    /// Its settings.
    pub window: Arc<Window>,
    /// What it is.
    pub identity: Identity,
    /// Its account's tokens.
    pub tokens: Arc<Tokens>,
}

/// See the module.
pub struct Supervisor {
    services: Arc<Services>,
    fleet: Fleet,
    stop: watch::Sender<bool>,
    workers: JoinSet<Result<Ended, StoreError>>,
    names: HashMap<Id, Running>,
    /// Events older than this leave no tombstone.
    retention: Duration,
    notify: Notify,
}

#[derive(Clone)]
struct Running {
    tokens: Arc<Tokens>,
    member: Member,
    restarts: u32,
}

impl Supervisor {
    /// A supervisor of nobody yet.
    pub fn new(services: Services, retention: Duration) -> Self {
        let (stop, watch) = watch::channel(false);
        let fleet = Fleet {
            windows: Arc::default(),
            world: services.world.clone(),
            stop: watch,
            restarts: Arc::default(),
        };
        let services = Arc::new(services);
        Self {
            services,
            fleet,
            stop,
            workers: JoinSet::new(),
            names: HashMap::new(),
            retention,
            notify: Notify::default(),
        }
    }

    /// Tells the service manager that the fleet runs, and from now on, while
    /// [`Supervisor::watch`] turns, how it goes.
    pub fn announce(&mut self, notify: Notify) {
        notify.ready(&self.fleet.summary());
        self.notify = notify;
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
    pub async fn start(&mut self, posts: Vec<Post>) -> Result<(), StoreError> {
        let now = self.services.world.now();
        let wanted = posts
            .iter()
            .map(|post| Wanted {
                name: post.window.name.clone(),
                identity: post.identity.clone(),
                shape: post.window.shape(),
                start: post.window.start,
                end: post.window.end,
                edges: schedule::edges(&post.window, now),
            })
            .collect();
        let attached = self.services.store.attach(wanted, now).await?;
        {
            let mut windows = self.fleet.windows.write().unwrap_or_else(PoisonError::into_inner);
            for (post, attached) in posts.iter().zip(&attached) {
                let cell = Arc::new(Cell::new(post.window.clone(), attached));
                windows.insert(post.window.name.clone(), Member { id: attached.id, cell });
            }
        }
        // What a window replaces is dropped by its own worker, before anything else.
        let taken: BTreeSet<WindowId> =
            attached.iter().flat_map(|a| [Some(a.id), a.replaces]).flatten().collect();
        let known = self.services.store.windows().await?;
        let drops =
            known.into_iter().map(|(_, id, _)| id).filter(|id| !taken.contains(id)).collect();
        for (post, attached) in posts.into_iter().zip(attached) {
            let Some(member) = self.fleet.member(&post.window.name) else { continue };
            let running = Running { tokens: post.tokens, member, restarts: 0 };
            self.spawn(running, Some(&attached), Duration::ZERO);
        }
        self.spawn_janitor(drops);
        Ok(())
    }

    fn spawn(&mut self, running: Running, attached: Option<&Attached>, pause: Duration) {
        let window = running.member.cell.window();
        let target =
            self.services.client.target(&running.tokens, &window.mailbox, window.calendar.clone());
        let mut worker = Worker::new(
            self.services.clone(),
            target,
            running.member.id,
            running.member.cell.clone(),
            self.fleet.stop.clone(),
        );
        let first = match attached {
            Some(attached) if attached.settled => First::Spread,
            _ => First::Now,
        };
        let replaces = attached.and_then(|attached| attached.replaces);
        // Boxed because few workers need it, and none for long.
        let before = (!pause.is_zero() || replaces.is_some()).then(|| {
            Box::pin(before(self.services.clone(), self.fleet.stop.clone(), pause, replaces))
        });
        let handle = self.workers.spawn(async move {
            if let Some(before) = before
                && !before.await?
            {
                return Ok(Ended::Stopped);
            }
            worker.run(first).await
        });
        self.names.insert(handle.id(), running);
    }

    /// See [`janitor`].
    fn spawn_janitor(&mut self, drops: Vec<WindowId>) {
        let Services { store, world, .. } = (*self.services).clone();
        let (retention, stop) = (self.retention, self.fleet.stop.clone());
        self.workers.spawn(async move {
            janitor::run(&store, &world, drops, retention, stop).await.map(|()| Ended::Stopped)
        });
    }

    /// Watches over the workers until `until` resolves or the store fails; restarts those that
    /// panic. The service manager is told from this very loop that it turns: while it does not,
    /// nobody says so, and the watchdog bites.
    ///
    /// # Errors
    /// Where the store has failed.
    pub async fn watch(&mut self, until: impl Future<Output = ()>) -> Result<(), StoreError> {
        tokio::pin!(until);
        let heard = self.notify.is_heard();
        let mut turn = tokio::time::interval(if heard { self.notify.rhythm() } else { LOOK });
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let store = self.services.store.clone();
        let failed = store.failed();
        tokio::pin!(failed);
        loop {
            tokio::select! {
                biased;
                () = &mut until => return Ok(()),
                error = &mut failed => return Err(error),
                _ = turn.tick() => self.look(),
                Some(over) = self.workers.join_next_with_id() => match over {
                    Ok((id, ended)) => match ended? {
                        Ended::Stuck => self.revive(id, "stuck"),
                        Ended::Stopped => drop(self.names.remove(&id)),
                    },
                    Err(error) if error.is_panic() => self.revive(error.id(), "panicked"),
                    Err(error) => drop(self.names.remove(&error.id())),
                },
            }
        }
    }

    /// Looks at all workers, and tells the service manager how things are and that this loop turns.
    fn look(&self) {
        match self.fleet.motionless() {
            None if self.notify.is_heard() => self.notify.alive(&self.fleet.summary()),
            None => {}
            Some(window) => {
                tracing::error!(%window, "worker holds its thread and cannot be restarted");
                self.notify.status(&format!("stuck: the worker of {window} holds its thread"));
            }
        }
    }

    fn revive(&mut self, id: Id, why: &'static str) {
        let Some(mut running) = self.names.remove(&id) else { return };
        running.restarts += 1;
        self.fleet.restarts.fetch_add(1, Ordering::Relaxed);
        let pause = schedule::backoff(
            RESTART_FIRST,
            RESTART_LONGEST,
            running.restarts,
            self.services.world.chance(),
        );
        running.member.cell.collapse();
        tracing::error!(
            window = %running.member.cell.window().name,
            why,
            restarts = running.restarts,
            pause_ms = pause.as_millis(),
            "worker is restarted"
        );
        self.spawn(running, None, pause);
    }

    /// Tells every worker to stop and waits for them, at most so long. True: all did.
    pub async fn drain(mut self, deadline: Duration) -> bool {
        self.notify.stopping();
        self.stop.send_replace(true);
        for member in self.fleet.read().values() {
            member.cell.rouse();
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
            self.workers.shutdown().await;
        }
        drained
    }
}

/// What comes before a worker's first round: a pause, and that the events of a window it replaces
/// leave before the first new one is shown. False: told to stop meanwhile.
async fn before(
    services: Arc<Services>,
    mut stop: watch::Receiver<bool>,
    pause: Duration,
    replaces: Option<WindowId>,
) -> Result<bool, StoreError> {
    if !pause.is_zero() {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(false),
            () = tokio::time::sleep(pause) => {}
        }
    }
    if let Some(old) = replaces {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(false),
            dropped = janitor::drop_window(&services.store, &services.world, old) => dropped?,
        }
    }
    Ok(true)
}
