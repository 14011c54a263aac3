//! Starts workers: registers their windows in the fleet, and does what has to happen before a
//! worker's first round.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{RunningWorker, Supervisor, WindowSpec, maintenance};
use crate::graph::MailboxBudget;
use crate::mirror::clock::{self, MAX_PAUSE};
use crate::mirror::position::WindowId;
use crate::mirror::schedule;
use crate::platform::start_progress::StartProgress;
use crate::store::{
    ComparedWindows, RegisteredWindow, StoreError, WantedWindows, WindowCount, WindowRegistration,
};
use crate::worker::{FirstRun, Services, WindowHandle, Worker, WorkerExit};

/// Windows that are registered at once when a fleet starts: few, because what is registered takes
/// several times the memory of a sleeping window.
const SLICE: usize = if cfg!(test) { 1 } else { 8192 };

/// A window of the fleet whose worker has to be started.
struct WorkerStart {
    handle: Arc<WindowHandle>,
    first: FirstRun,
    /// Keeps a pause of the mailbox until the worker shares its budget.
    _paused: Option<Arc<MailboxBudget>>,
}

/// What is known of a fleet that is being started.
struct StartingFleet {
    /// In the order of the configuration.
    specs: Arc<Vec<WindowSpec>>,
    /// Which of them the store has as they are wanted.
    unchanged: Vec<bool>,
    count: WindowCount,
    unwanted: Vec<(WindowId, Arc<str>)>,
    dropping: BTreeMap<Arc<str>, Vec<WindowId>>,
    /// Those that the worker of their successor drops, before anything else.
    replaced: HashSet<WindowId>,
    starts: Vec<WorkerStart>,
}

impl StartingFleet {
    fn new(specs: Vec<WindowSpec>, dropping: BTreeMap<Arc<str>, Vec<WindowId>>) -> Self {
        Self {
            unchanged: vec![false; specs.len()],
            starts: Vec::with_capacity(specs.len()),
            specs: Arc::new(specs),
            count: WindowCount::default(),
            unwanted: Vec::new(),
            dropping,
            replaced: HashSet::new(),
        }
    }

    /// The places of the windows that have to be written.
    fn changed(&self) -> Vec<usize> {
        (0..self.specs.len()).filter(|place| !self.unchanged[*place]).collect()
    }

    /// The workers to start, and the windows that have to be dropped in the background.
    fn into_parts(self) -> (Vec<WorkerStart>, Vec<(Arc<str>, WindowId)>) {
        let dropping = self.dropping.iter();
        let dropping = dropping.flat_map(|(name, ids)| ids.iter().map(|id| (*id, name.clone())));
        let all: BTreeMap<WindowId, Arc<str>> = self.unwanted.into_iter().chain(dropping).collect();
        let left = all.into_iter().filter(|(id, _)| !self.replaced.contains(id));
        (self.starts, left.map(|(id, name)| (name, id)).collect())
    }
}

impl Supervisor {
    /// Registers the windows of a starting fleet, slice by slice, and starts their workers, if
    /// `permit` allows what is dropped. Returns the windows to drop.
    ///
    /// # Errors
    /// The store has failed, the disk is full, or the error of `permit`.
    pub(super) async fn register_fleet<E: From<StoreError>>(
        &mut self,
        specs: Vec<WindowSpec>,
        progress: &StartProgress,
        permit: impl FnOnce(WindowCount) -> Result<(), E>,
    ) -> Result<Vec<(Arc<str>, WindowId)>, E> {
        let now = self.services.env.now();
        let store = self.services.store.clone();
        progress.set("comparing the store with the configuration");
        let all = specs.len();
        let mut fleet = StartingFleet::new(specs, store.dropping().await?);
        self.attach_unchanged(&mut fleet, now, progress).await?;
        permit(fleet.count)?;
        // Unwanted windows are marked first, so that a start that is interrupted needs no second
        // permission to drop them.
        let unwanted: Vec<WindowId> = fleet.unwanted.iter().map(|(id, _)| *id).collect();
        if !unwanted.is_empty() {
            store.register_for_start(Vec::new(), unwanted, now).await?;
        }
        for places in fleet.changed().chunks(SLICE) {
            let slice: Vec<_> = places.iter().map(|place| fleet.specs[*place].clone()).collect();
            let wanted = registrations(&slice, now);
            let registered = store.register_for_start(wanted, Vec::new(), now).await?;
            self.attach_starting(&mut fleet, slice, registered);
            progress.set(format!("registering windows: {} of {all}", fleet.starts.len()));
        }
        self.fleet.compact();
        progress.set(format!("starting {all} workers"));
        // Frees the memory that starting the workers takes.
        let (starts, drops) = fleet.into_parts();
        for WorkerStart { handle, first, _paused } in starts {
            self.spawn(handle, 0, first, Duration::ZERO);
        }
        Ok(drops)
    }

    /// Adds the windows to the fleet that are in the store as they are wanted: mostly all of them.
    async fn attach_unchanged(
        &mut self,
        fleet: &mut StartingFleet,
        now: Timestamp,
        progress: &StartProgress,
    ) -> Result<(), StoreError> {
        let store = self.services.store.clone();
        let specs = fleet.specs.clone();
        let named = specs.iter().enumerate().map(|(place, s)| (s.window.name.clone(), place));
        let places: HashMap<Arc<str>, usize> = named.collect();
        let wanted: WantedWindows = Arc::new(move |name| {
            let place = *places.get(name)?;
            Some((place, registration(&specs[place], now)))
        });
        let end = store.last_window().await?.map_or(0, |last| last.0.saturating_add(1));
        let slices = (0..end).step_by(SLICE);
        // Reading uses all cores.
        let reads = stream::iter(slices).map(|first| {
            let ids = first..first.saturating_add(SLICE as u32).min(end);
            store.compare_windows(ids, wanted.clone())
        });
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let mut reads = std::pin::pin!(reads.buffered(cores));
        while let Some(read) = reads.next().await {
            let ComparedWindows { count, unwanted, unchanged } = read?;
            fleet.count.known += count.known;
            fleet.count.staying += count.staying;
            fleet.unwanted.extend(unwanted);
            let (slice, registered) = unchanged
                .into_iter()
                .map(|(place, mut registered)| {
                    fleet.unchanged[place] = true;
                    let spec = fleet.specs[place].clone();
                    let dropping = fleet.dropping.get(&spec.window.name);
                    registered.replaces = dropping.cloned().unwrap_or_default();
                    (spec, registered)
                })
                .unzip();
            self.attach_starting(fleet, slice, registered);
            let (known, all) = (fleet.starts.len(), fleet.specs.len());
            progress.set(format!("registering windows: {known} of {all}"));
        }
        Ok(())
    }

    fn attach_starting(
        &mut self,
        fleet: &mut StartingFleet,
        slice: Vec<WindowSpec>,
        registered: Vec<RegisteredWindow>,
    ) {
        fleet.replaced.extend(registered.iter().flat_map(|window| &window.replaces));
        fleet.starts.extend(self.attach(slice, registered, &mut BTreeMap::new()));
    }

    /// Adds registered windows to the fleet and starts their workers; `registered[i]` belongs to
    /// `specs[i]`. `stopped` holds the previous workers of some of them.
    pub(super) fn start_workers(
        &mut self,
        specs: Vec<WindowSpec>,
        registered: Vec<RegisteredWindow>,
        stopped: &mut BTreeMap<Arc<str>, RunningWorker>,
    ) {
        let starts = self.attach(specs, registered, stopped);
        for WorkerStart { handle, first, _paused } in starts {
            self.spawn(handle, 0, first, Duration::ZERO);
        }
    }

    /// Adds registered windows to the fleet. Their workers have to be started.
    fn attach(
        &mut self,
        specs: Vec<WindowSpec>,
        registered: Vec<RegisteredWindow>,
        stopped: &mut BTreeMap<Arc<str>, RunningWorker>,
    ) -> Vec<WorkerStart> {
        let mut starts = Vec::with_capacity(specs.len());
        let now = self.services.env.now();
        {
            let fleet = self.fleet.clone();
            let mut windows = fleet.write();
            for (spec, registered) in specs.into_iter().zip(registered) {
                let WindowSpec { window, tokens, .. } = spec;
                let continues = |until: &Timestamp| clock::wait_continues(*until, MAX_PAUSE, now);
                let left = registered.paused_until.filter(continues);
                let left = left.map(|until| until.duration_since(now));
                let left = left.and_then(|left| Duration::try_from(left).ok());
                let paused = left.map(|left| {
                    let budget = self.services.client.budget(&tokens, &window.mailbox);
                    budget.pause(left);
                    budget
                });
                self.tokens.insert(window.account.clone(), tokens);
                let name = window.name.clone();
                let previous = stopped.remove(&name);
                let handle = match windows.get(&name).filter(|known| known.id() == registered.id) {
                    Some(handle) => {
                        handle.reattach(window, &registered);
                        handle.clone()
                    }
                    None => {
                        let handle = Arc::new(WindowHandle::new(window, &registered, now));
                        windows.insert(name, handle.clone());
                        handle
                    }
                };
                // A replaced window may have windows of its own left to drop: the new one takes
                // over.
                let mut replaces = registered.replaces;
                let earlier = previous.map(|running| running.handle.id());
                replaces
                    .extend(earlier.and_then(|id| self.replaced.remove(&id)).into_iter().flatten());
                replaces.sort_unstable();
                replaces.dedup();
                if !replaces.is_empty() {
                    self.replaced.insert(registered.id, replaces);
                }
                let first = if registered.settled { FirstRun::Spread } else { FirstRun::Now };
                starts.push(WorkerStart { handle, first, _paused: paused });
            }
        }
        starts
    }

    /// Starts a worker after a pause.
    pub(super) fn spawn(
        &mut self,
        handle: Arc<WindowHandle>,
        restarts: u32,
        first: FirstRun,
        pause: Duration,
    ) {
        let window = handle.window();
        let Some(tokens) = self.tokens.get(&window.account) else { return };
        let replaces = self.replaced.get(&handle.id()).cloned().unwrap_or_default();
        handle.allow_worker();
        let (services, tokens) = (self.services.clone(), tokens.clone());
        let mut worker = Worker::new(services, tokens, handle.clone(), self.stop.clone());
        // Boxed because few workers need it, and none for long.
        let preparation = (!pause.is_zero() || !replaces.is_empty()).then(|| {
            let (services, stop) = (self.services.clone(), handle.arm_stop(&self.stop));
            Box::pin(prepare(services, stop, pause, window.name.clone(), replaces))
        });
        let task = self.tasks.spawn(async move {
            if let Some(preparation) = preparation
                && !preparation.await?
            {
                return Ok(WorkerExit::Stopped);
            }
            worker.run(first).await
        });
        self.running.insert(task.id(), RunningWorker { handle, restarts, task });
    }
}

/// The windows as they are registered in the store.
pub(super) fn registrations(specs: &[WindowSpec], now: Timestamp) -> Vec<WindowRegistration> {
    specs.iter().map(|spec| registration(spec, now)).collect()
}

fn registration(spec: &WindowSpec, now: Timestamp) -> WindowRegistration {
    WindowRegistration {
        name: spec.window.name.clone(),
        identity: spec.identity.clone(),
        shape: spec.window.shape(),
        start: spec.window.settings.start,
        end: spec.window.settings.end,
        edges: schedule::edges(&spec.window, now),
    }
}

/// Runs before a worker's first round: waits for `pause`, then drops the windows that it replaces,
/// so that their events are removed before the first new one is published. Returns false if the
/// worker was asked to stop meanwhile.
async fn prepare(
    services: Arc<Services>,
    stop: CancellationToken,
    pause: Duration,
    name: Arc<str>,
    replaces: Vec<WindowId>,
) -> Result<bool, StoreError> {
    let prepared = stop.run_until_cancelled(async {
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        for old in replaces {
            maintenance::drop_window(&services.store, &services.env, &name, old).await?;
        }
        Ok(())
    });
    prepared.await.transpose().map(|prepared| prepared.is_some())
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::super::FleetChange;
    use super::super::tests::{SupervisorFixture, settle, spec, stored_id};
    use super::*;
    use crate::mirror::commit::{Commit, CounterUpdates};
    use crate::mirror::window::Window;
    use crate::tests::window;

    const SECOND: Duration = Duration::from_secs(1);

    /// A pause that lasts longer than any pause may was stored under a wrong clock.
    #[tokio::test(start_paused = true)]
    async fn a_stored_pause_of_a_mailbox_continues() {
        for (seconds, expected) in [(-5, None), (600, Some(SECOND * 600)), (5 * 3600, None)] {
            let (mut fixture, tokens) = SupervisorFixture::new().await.successor().await;
            let next = &mut fixture.supervisor;
            let Services { store, env, client, .. } = (*next.services).clone();
            let paused_until = Some(env.now() + jiff::SignedDuration::from_secs(seconds));
            let counters = CounterUpdates { paused_until, ..CounterUpdates::default() };
            let commit = Commit::new(stored_id(next, "alice").await, 0, env.now());
            store.commit(Commit { counters, ..commit }).await.unwrap();
            let specs = ["alice", "bob"].map(|name| spec(window(name), &tokens));
            next.start(specs.into(), &StartProgress::default()).await.unwrap();
            for (name, expected) in [("alice", expected), ("bob", None)] {
                let Window { mailbox, calendar, .. } = window(name);
                let paused = client.target(&tokens, &mailbox, calendar).budget.paused_until();
                let left = paused.map(|until| until - Instant::now());
                assert_eq!(left, expected, "{seconds} s, {name}");
            }
            fixture.end().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_rounds_of_settled_windows_are_spread() {
        let (mut fixture, tokens) = SupervisorFixture::new().await.successor().await;
        let next = &mut fixture.supervisor;
        settle(next, "alice").await;
        let specs = ["alice", "bob"].map(|name| spec(window(name), &tokens));
        next.start(specs.into(), &StartProgress::default()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        let rounds = |name| next.fleet().window(name).unwrap();
        let due = |name| rounds(name).next_due.unwrap().duration_since(next.services.env.now());
        assert!(due("alice").as_millis() > 1, "{:#}", due("alice"));
        assert!(due("bob").as_millis() <= 0, "{:#}", due("bob"));
        fixture.end().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_replaced_window_passes_on_the_windows_it_had_to_drop() {
        let mut fixture = SupervisorFixture::new().await;
        let supervisor = &mut fixture.supervisor;
        let tokens = supervisor.tokens["contoso"].clone();
        let mut replaced = Vec::new();
        for mailbox in ["carol", "dave"] {
            replaced.push(supervisor.fleet.id("alice").unwrap());
            let window = Window { mailbox: mailbox.into(), ..window("alice") };
            let to_start = vec![spec(window, &tokens)];
            let change = FleetChange { removed: Vec::new(), to_start, retimed: Vec::new() };
            supervisor.change_fleet(change, || ()).await.unwrap();
        }
        let id = supervisor.fleet.id("alice").unwrap();
        assert_eq!(supervisor.replaced, [(id, replaced)].into());
        fixture.end().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_leaves_a_replaced_window_to_its_successor() {
        let (mut fixture, tokens) = SupervisorFixture::new().await.successor().await;
        let next = &mut fixture.supervisor;
        let Services { store, env, .. } = (*next.services).clone();
        let (alice, bob) = (stored_id(next, "alice").await, stored_id(next, "bob").await);
        // An earlier start has replaced alice's window, and was interrupted.
        let specs = vec![spec(Window { mailbox: "carol".into(), ..window("alice") }, &tokens)];
        let wanted = registrations(&specs, env.now());
        let successor = store.register(wanted, env.now()).await.unwrap().remove(0).id;
        let permit = |_| Ok::<_, StoreError>(());
        let drops = next.register_fleet(specs, &StartProgress::default(), permit).await.unwrap();
        assert_eq!(drops, [("bob".into(), bob)]);
        assert_eq!(next.replaced, [(successor, vec![alice])].into());
        fixture.end().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_pauses_and_drops_replaced_windows_before_its_first_round() {
        let (fixture, _) = SupervisorFixture::new().await.successor().await;
        let supervisor = &fixture.supervisor;
        let services = supervisor.services.clone();
        let begun = Instant::now();
        for (name, stopped, left) in [("bob", true, 2), ("alice", false, 1)] {
            let stop = CancellationToken::new();
            if stopped {
                stop.cancel();
            }
            let old = vec![stored_id(supervisor, name).await];
            let prepared = prepare(services.clone(), stop, SECOND * 60, name.into(), old);
            assert_eq!(prepared.await.unwrap(), !stopped, "{name}");
            assert_eq!(services.store.windows().await.unwrap().len(), left, "{name}");
        }
        assert_eq!(begun.elapsed().as_secs(), 60);
        fixture.end().await;
    }
}
