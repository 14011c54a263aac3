//! A fleet that is being started: compares its windows with those of the store, and registers those
//! that differ.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryFutureExt as _, stream};
use jiff::Timestamp;

use super::start::{WorkerStart, registration, registrations};
use super::{Supervisor, WindowSpec};
use crate::mirror::position::WindowId;
use crate::platform::start_progress::StartProgress;
use crate::store::{ComparedWindows, RegisteredWindow, StoreError, WantedWindows, WindowCount};

/// Windows that are registered at once when a fleet starts: few, because what is registered takes
/// several times the memory of a sleeping window.
const SLICE: usize = if cfg!(test) { 1 } else { 8192 };

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
        permit: impl FnOnce(WindowCount, &[(WindowId, Arc<str>)]) -> Result<(), E>,
    ) -> Result<Vec<(Arc<str>, WindowId)>, E> {
        let now = self.services.env.now();
        let store = self.services.store.clone();
        progress.set("comparing the store with the configuration");
        let all = specs.len();
        let mut fleet = StartingFleet::new(specs, store.dropping().await?);
        self.attach_unchanged(&mut fleet, now, progress).await?;
        permit(fleet.count, &fleet.unwanted)?;
        // Unwanted windows are marked first, so that a start that is interrupted needs no second
        // permission to drop them.
        let unwanted: Vec<WindowId> = fleet.unwanted.iter().map(|(id, _)| *id).collect();
        for slice in unwanted.chunks(SLICE) {
            store.register_for_start(Vec::new(), slice.to_vec(), now).await?;
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
        // Frees the specs before the workers allocate theirs.
        let (starts, drops) = fleet.into_parts();
        self.spawn_all(starts);
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
        let last = store.last_window().await?.map_or(0, |last| last.0);
        let end = last.saturating_add(1);
        // Numbers begin at 1. Reading uses all cores.
        let slices = (1..end).step_by(SLICE);
        let reads = stream::iter(slices).map(|first| {
            let ids = first..first.saturating_add(SLICE as u32).min(end);
            let compared = ids.end - 1;
            store.compare_windows(ids, wanted.clone()).map_ok(move |read| (compared, read))
        });
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let mut reads = std::pin::pin!(reads.buffered(cores));
        while let Some(read) = reads.next().await {
            let (compared, ComparedWindows { count, unwanted, unchanged }) = read?;
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
            progress.set(format!("comparing windows: {compared} of {last}"));
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
}

#[cfg(test)]
mod tests {
    use super::super::tests::{SupervisorFixture, spec, stored_id};
    use super::*;
    use crate::mirror::window::Window;
    use crate::tests::window;
    use crate::worker::Services;

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
        let progress = StartProgress::default();
        let permit = |_, _: &[_]| {
            assert_eq!(progress.step(), "comparing windows: 3 of 3");
            Ok::<_, StoreError>(())
        };
        let drops = next.register_fleet(specs, &progress, permit).await.unwrap();
        assert_eq!(drops, [("bob".into(), bob)]);
        assert_eq!(next.replaced, [(successor, vec![alice])].into());
        fixture.end().await;
    }
}
