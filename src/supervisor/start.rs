//! Starts workers: registers their windows in the fleet, and does what has to happen before a
//! worker's first round.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::fleet::FleetEntry;
use super::{RunningWorker, Supervisor, WindowSpec, maintenance};
use crate::mirror::clock::{self, MAX_PAUSE};
use crate::mirror::position::WindowId;
use crate::mirror::schedule;
use crate::store::{RegisteredWindow, StoreError, WindowRegistration};
use crate::worker::{FirstRun, Services, WindowHandle, Worker, WorkerExit};

impl Supervisor {
    /// Adds registered windows to the fleet and starts their workers; `registered[i]` belongs to
    /// `specs[i]`. `stopped` holds the previous workers of some of them.
    pub(super) fn start_workers(
        &mut self,
        specs: Vec<WindowSpec>,
        registered: Vec<RegisteredWindow>,
        stopped: &mut BTreeMap<Arc<str>, RunningWorker>,
    ) {
        let mut starts = Vec::with_capacity(specs.len());
        // Keeps the targets, whose budgets hold the pauses, until the workers share them.
        let mut paused = Vec::new();
        let now = self.services.env.now();
        {
            let fleet = self.fleet.clone();
            let mut windows = fleet.write();
            for (spec, registered) in specs.into_iter().zip(registered) {
                let WindowSpec { window, tokens, .. } = spec;
                let continues = |until: &Timestamp| clock::wait_continues(*until, MAX_PAUSE, now);
                let left = registered.paused_until.filter(continues);
                let left = left.map(|until| until.duration_since(now));
                if let Some(left) = left.and_then(|left| Duration::try_from(left).ok()) {
                    let calendar = window.calendar.clone();
                    let target = self.services.client.target(&tokens, &window.mailbox, calendar);
                    target.budget.pause(left);
                    paused.push(target);
                }
                self.tokens.insert(window.account.clone(), tokens);
                let name = window.name.clone();
                let previous = stopped.remove(&name);
                let member = match windows.get(&name).filter(|member| member.id == registered.id) {
                    Some(member) => {
                        member.handle.reattach(window, &registered);
                        member.clone()
                    }
                    None => {
                        let handle = Arc::new(WindowHandle::new(window, &registered, now));
                        let member = FleetEntry { id: registered.id, handle };
                        windows.insert(name, member.clone());
                        member
                    }
                };
                // A replaced window may have windows of its own left to drop: the new one takes
                // over.
                let mut replaces = registered.replaces;
                let earlier = previous.map(|running| running.member.id);
                replaces
                    .extend(earlier.and_then(|id| self.replaced.remove(&id)).into_iter().flatten());
                replaces.sort_unstable();
                replaces.dedup();
                if !replaces.is_empty() {
                    self.replaced.insert(registered.id, replaces);
                }
                let first = if registered.settled { FirstRun::Spread } else { FirstRun::Now };
                starts.push((member, first));
            }
        }
        for (member, first) in starts {
            self.spawn(member, 0, first, Duration::ZERO);
        }
    }

    /// Starts a worker after a pause.
    pub(super) fn spawn(
        &mut self,
        member: FleetEntry,
        restarts: u32,
        first: FirstRun,
        pause: Duration,
    ) {
        let window = member.handle.window();
        let Some(tokens) = self.tokens.get(&window.account) else { return };
        let replaces = self.replaced.get(&member.id).cloned().unwrap_or_default();
        let target = self.services.client.target(tokens, &window.mailbox, window.calendar.clone());
        let stop = self.stop.child_token();
        let (id, handle) = (member.id, member.handle.clone());
        let mut worker = Worker::new(self.services.clone(), target, id, handle, stop.clone());
        // Boxed because few workers need it, and none for long.
        let preparation = (!pause.is_zero() || !replaces.is_empty()).then(|| {
            let (services, stop) = (self.services.clone(), stop.clone());
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
        self.running.insert(task.id(), RunningWorker { member, restarts, stop, task });
    }
}

/// The windows as they are registered in the store.
pub(super) fn registrations(specs: &[WindowSpec], now: Timestamp) -> Vec<WindowRegistration> {
    let registration = |spec: &WindowSpec| WindowRegistration {
        name: spec.window.name.clone(),
        identity: spec.identity.clone(),
        shape: spec.window.shape(),
        start: spec.window.settings.start,
        end: spec.window.settings.end,
        edges: schedule::edges(&spec.window, now),
    };
    specs.iter().map(registration).collect()
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
