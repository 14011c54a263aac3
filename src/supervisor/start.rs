//! Starts workers: adds their windows to the fleet, and does what has to happen before a worker's
//! first round.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{RunningWorker, Supervisor, WindowSpec, maintenance};
use crate::graph::MailboxBudget;
use crate::mirror::clock::{self, MAX_PAUSE};
use crate::mirror::position::WindowId;
use crate::mirror::schedule;
use crate::store::{RegisteredWindow, StoreError, WindowRegistration};
use crate::worker::{FirstRun, Services, WindowHandle, Worker, WorkerExit};

/// A window of the fleet whose worker has to be started.
pub(super) struct WorkerStart {
    handle: Arc<WindowHandle>,
    first: FirstRun,
    /// Keeps a pause of the mailbox until the worker shares its budget.
    _paused: Option<Arc<MailboxBudget>>,
}

impl Supervisor {
    /// Adds registered windows to the fleet and starts their workers; `registered[i]` belongs to
    /// `specs[i]`. `stopped` holds the previous workers of some of them.
    pub(super) fn start_workers(
        &mut self,
        specs: Vec<WindowSpec>,
        registered: Vec<RegisteredWindow>,
        stopped: &mut BTreeMap<Arc<str>, RunningWorker>,
    ) {
        let starts = self.attach(specs, registered, stopped);
        self.spawn_all(starts);
    }

    /// Starts the workers of windows that were added to the fleet.
    pub(super) fn spawn_all(&mut self, starts: Vec<WorkerStart>) {
        for WorkerStart { handle, first, _paused } in starts {
            self.spawn(handle, 0, first, Duration::ZERO);
        }
    }

    /// Adds registered windows to the fleet. Their workers have to be started.
    pub(super) fn attach(
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

pub(super) fn registration(spec: &WindowSpec, now: Timestamp) -> WindowRegistration {
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
            // What the former worker left in the writer's queue comes first. Its successor would
            // otherwise read an old position, and could undo a reset that was on its way.
            services.store.flush().await?;
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
    use super::super::tests::{SupervisorFixture, settle, spec, start, stored_id};
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
            start(next, ["alice", "bob"].map(|name| spec(window(name), &tokens))).await;
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
        start(next, ["alice", "bob"].map(|name| spec(window(name), &tokens))).await;
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
