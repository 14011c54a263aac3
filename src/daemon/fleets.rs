//! The fleets: lists each at intervals, and keeps its members.
//!
//! A listing runs beside the daemon's loop, one at a time for each fleet. The loop takes its
//! result, names the windows of new members, stores the members, and applies the difference to the
//! running windows like a reload. A listing that fails changes nothing.

mod accept;
mod lister;
mod status;
mod windows;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{self, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use crate::api::FleetBoard;
use crate::config::Config;
use crate::env::Env;
use crate::graph::{GraphClient, Tokens};
use crate::mirror::fleet::{FleetListing, FleetSpec, ListingOutcome};
use crate::mirror::shard::Shard;
pub(super) use lister::{ListedFleet, ListingError, MemberFault, count_members};
use windows::RefusedWindow;
pub(super) use windows::{PlacedWindows, extended};

/// The first wait after a failed listing; doubles up to the interval between listings.
const FIRST_RETRY: Duration = Duration::from_secs(60);

/// Fleets that are due at a start are listed within this time, not at once.
const START_SPREAD: Duration = Duration::from_secs(10);

/// The last listing of each fleet, by the fleet's name.
pub(super) type Listings = BTreeMap<Arc<str>, Arc<FleetListing>>;

/// All fleets.
pub(super) struct Fleets {
    client: GraphClient,
    env: Env,
    fleets: BTreeMap<Arc<str>, ManagedFleet>,
    running: JoinSet<FinishedListing>,
    /// The fleet that each running task lists.
    listed_by: HashMap<task::Id, Arc<str>>,
    board: FleetBoard,
}

/// A fleet and what is known of it.
struct ManagedFleet {
    spec: Arc<FleetSpec>,
    tokens: Arc<Tokens>,
    listing: Arc<FleetListing>,
    due: Instant,
    is_listing: bool,
    /// Failed listings in a row.
    failures: u32,
    error: Option<ListingError>,
    held: Option<ListingOutcome>,
    /// Members without a window, and why.
    faults: Vec<MemberFault>,
    /// Windows whose names other windows took after they were given.
    refused: Vec<RefusedWindow>,
    /// Names of calendars that `all` leaves out.
    left_out: Vec<Arc<str>>,
    /// While listings lack the calendars of most windows.
    calendars_missing: Option<MissingCalendars>,
}

/// Calendars that listings lack, and whose windows stay before another listing agrees.
#[derive(Clone, Copy)]
struct MissingCalendars {
    /// How many windows have such a calendar.
    count: usize,
    since: Instant,
}

/// The end of a listing.
pub(super) struct FinishedListing {
    fleet: Arc<str>,
    /// What was listed. With other settings than those in force the result does not count.
    spec: Arc<FleetSpec>,
    result: Result<ListedFleet, ListingError>,
}

impl FinishedListing {
    /// The name of the fleet.
    pub(super) fn fleet(&self) -> &Arc<str> {
        &self.fleet
    }
}

/// A listing that is ready to be put in force.
pub(super) struct NewListing {
    pub(super) fleet: Arc<str>,
    pub(super) listing: Arc<FleetListing>,
}

impl Fleets {
    /// The fleets of the configuration, with what the store knows of them.
    pub(super) fn new(client: GraphClient, env: Env, board: FleetBoard) -> Self {
        let (fleets, running) = (BTreeMap::new(), JoinSet::new());
        Self { client, env, fleets, running, listed_by: HashMap::new(), board }
    }

    /// Takes over the fleets of a configuration. Those that are new, changed or failed are listed
    /// soon.
    pub(super) fn configure(
        &mut self,
        config: &Config,
        accounts: &BTreeMap<Arc<str>, Arc<Tokens>>,
        stored: &Listings,
        windows: PlacedWindows,
    ) {
        let mut before = std::mem::take(&mut self.fleets);
        for spec in &config.fleets {
            let Some(tokens) = accounts.get(&spec.account).cloned() else { continue };
            let soon = self.soon();
            let fleet = match before.remove(&spec.name) {
                Some(known) => {
                    let unchanged = *known.spec == **spec && known.error.is_none();
                    let due = if unchanged { known.due } else { soon.min(known.due) };
                    ManagedFleet { spec: spec.clone(), tokens, due, ..known }
                }
                None => {
                    let listing = stored.get(&spec.name).cloned().unwrap_or_default();
                    // Another shard may know newer members, whose windows are this one's now.
                    let known = self.next_listing(spec, &listing);
                    let is_alone = config.sections.shard.of == Shard::ALONE;
                    let due = known.filter(|_| is_alone).unwrap_or(soon);
                    ManagedFleet::new(spec.clone(), tokens, listing, due)
                }
            };
            self.fleets.insert(spec.name.clone(), fleet);
        }
        self.set_windows(windows);
        self.publish();
    }

    /// Takes what became of the windows of all fleets.
    fn set_windows(&mut self, mut windows: PlacedWindows) {
        for (fleet, managed) in &mut self.fleets {
            let refused = windows.refused.remove(fleet).unwrap_or_default();
            let known: HashSet<RefusedWindow> =
                std::mem::replace(&mut managed.refused, refused).into_iter().collect();
            for RefusedWindow { name: window, .. } in
                managed.refused.iter().filter(|refused| !known.contains(refused))
            {
                tracing::warn!(%fleet, %window, "name of a fleet's window is taken, it is left out");
            }
        }
        self.board.set_windows(windows.origins);
    }

    /// When a fleet is listed that was listed before; `None` if that is overdue.
    fn next_listing(&self, spec: &FleetSpec, listing: &FleetListing) -> Option<Instant> {
        let age = self.env.now().duration_since(listing.listed_at?);
        let left = spec.relist_every.checked_sub(Duration::try_from(age).ok()?)?;
        Some(Instant::now() + left)
    }

    /// A time in the next seconds.
    fn soon(&self) -> Instant {
        Instant::now() + START_SPREAD.mul_f64(self.env.random())
    }

    /// The last listing of each fleet that is in force.
    pub(super) fn listings(&self) -> Listings {
        let listing =
            |(name, fleet): (&Arc<str>, &ManagedFleet)| (name.clone(), fleet.listing.clone());
        self.fleets.iter().map(listing).collect()
    }

    /// Waits for the end of a listing, and starts those that are due. Cancel safe.
    pub(super) async fn next(&mut self) -> FinishedListing {
        loop {
            let due = self.start_due();
            tokio::select! {
                Some(ended) = self.running.join_next_with_id() => {
                    if let Some(ended) = self.on_task_end(ended) {
                        return ended;
                    }
                }
                () = async {
                    match due {
                        Some(due) => sleep_until(due).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
        }
    }

    /// Takes the end of a task; `None` if its listing panicked.
    fn on_task_end(
        &mut self,
        ended: Result<(task::Id, FinishedListing), JoinError>,
    ) -> Option<FinishedListing> {
        let error = match ended {
            Ok((id, ended)) => {
                self.listed_by.remove(&id);
                return Some(ended);
            }
            Err(error) => error,
        };
        if let Some(name) = self.listed_by.remove(&error.id()) {
            tracing::error!(fleet = %name, reason = %error, "a listing panicked");
            if let Some(fleet) = self.fleets.get_mut(&name) {
                fleet.is_listing = false;
            }
            self.retry(&name, "the listing panicked");
        }
        None
    }

    /// Starts the listings that are due; returns when the next one is.
    fn start_due(&mut self) -> Option<Instant> {
        let now = Instant::now();
        for (name, fleet) in self.fleets.iter_mut().filter(|(_, fleet)| !fleet.is_listing) {
            if fleet.due <= now {
                fleet.is_listing = true;
                let (name, spec) = (name.clone(), fleet.spec.clone());
                let (tokens, listing) = (fleet.tokens.clone(), fleet.listing.clone());
                let (client, env) = (self.client.clone(), self.env.clone());
                let fleet = name.clone();
                let task = self.running.spawn(async move {
                    let (directory, credential) = (client.directory(&tokens), tokens.credential());
                    let result = lister::list(&directory, &credential, &spec, &listing, &env).await;
                    FinishedListing { fleet: name, spec, result }
                });
                self.listed_by.insert(task.id(), fleet);
            }
        }
        self.fleets.values().filter(|fleet| !fleet.is_listing).map(|fleet| fleet.due).min()
    }

    /// Takes the end of a listing: names the windows of new members. `taken` says whether a window
    /// outside this fleet has a name. `None`: there is nothing to put in force.
    pub(super) fn take(
        &mut self,
        ended: FinishedListing,
        taken: impl Fn(&str) -> bool,
    ) -> Option<NewListing> {
        let FinishedListing { fleet: name, spec, result } = ended;
        let chance = self.env.random();
        let fleet = self.fleets.get_mut(&name)?;
        fleet.is_listing = false;
        if fleet.spec != spec {
            fleet.due = Instant::now();
            return None;
        }
        let new = match result {
            Err(error) => {
                if fleet.error.as_ref().is_none_or(|known| known.problem != error.problem) {
                    let ListingError { problem, remedy, .. } = &error;
                    tracing::warn!(fleet = %name, reason = %problem, remedy, "fleet was not listed");
                }
                fleet.fail(error, chance);
                None
            }
            Ok(listed) => {
                let mut wait = fleet.spec.relist_every.mul_f64(1.0 - chance / 10.0);
                if listed.is_incomplete {
                    wait = wait.min(FIRST_RETRY);
                }
                fleet.held = None;
                if let ListingOutcome::Held { missing, until } = listed.outcome {
                    tracing::warn!(fleet = %name, missing, %until, "listing lacks most members, they stay unless another listing agrees");
                    fleet.held = Some(listed.outcome);
                    let left = until.duration_since(self.env.now());
                    wait = wait.min(Duration::try_from(left).unwrap_or_default());
                }
                let listing = Arc::new(fleet.accept(listed, taken));
                if fleet.calendars_missing.is_some() {
                    wait = wait.min(fleet.spec.settings.confirm_after);
                }
                fleet.due = Instant::now() + wait;
                Some(NewListing { listing, fleet: name })
            }
        };
        // Else it is published together with its windows.
        if new.is_none() {
            self.publish();
        }
        new
    }

    /// Puts a stored listing in force; `windows` is what became of the windows of all fleets, if the
    /// listing changed any.
    pub(super) fn commit(&mut self, new: NewListing, windows: Option<PlacedWindows>) {
        if let Some(fleet) = self.fleets.get_mut(&new.fleet) {
            fleet.listing = new.listing;
            fleet.failures = 0;
            if fleet.error.take().is_some() {
                tracing::info!(fleet = %new.fleet, "fleet is listed again");
            }
        }
        if let Some(windows) = windows {
            self.set_windows(windows);
        }
        self.publish();
    }

    /// A listing could not be put in force: the fleet is listed again, as after a failed listing.
    pub(super) fn retry(&mut self, name: &str, reason: &str) {
        let (at, chance) = (self.env.now(), self.env.random());
        if let Some(fleet) = self.fleets.get_mut(name) {
            let problem = reason.to_owned();
            let (remedy, status, code) = (None, None, None);
            let error = ListingError { at, problem, remedy, is_passing: true, status, code };
            fleet.fail(error, chance);
        }
        self.publish();
    }

    /// Announces the windows that are about to be in force, until they are set or withdrawn.
    pub(super) fn announce(&self, windows: &PlacedWindows) {
        self.board.announce_windows(windows.origins.clone());
    }

    /// What the API shows of the fleets.
    #[cfg(test)]
    pub(super) fn board(&self) -> FleetBoard {
        self.board.clone()
    }

    /// Takes back what was announced: the windows stay as they were.
    pub(super) fn withdraw(&self) {
        self.board.withdraw_windows();
    }

    fn publish(&self) {
        let (now, at) = (self.env.now(), Instant::now());
        self.board.set_fleets(self.fleets.values().map(|fleet| fleet.status(now, at)).collect());
    }
}

impl ManagedFleet {
    fn new(
        spec: Arc<FleetSpec>,
        tokens: Arc<Tokens>,
        listing: Arc<FleetListing>,
        due: Instant,
    ) -> Self {
        Self {
            spec,
            tokens,
            listing,
            due,
            is_listing: false,
            failures: 0,
            error: None,
            held: None,
            faults: Vec::new(),
            refused: Vec::new(),
            left_out: Vec::new(),
            calendars_missing: None,
        }
    }

    /// Notes a failed listing and when the next one is due. `chance` spreads the fleets.
    fn fail(&mut self, error: ListingError, chance: f64) {
        let wait = FIRST_RETRY * 2u32.saturating_pow(self.failures.min(10));
        let wait = wait.min(self.spec.relist_every).mul_f64(1.0 - chance / 4.0);
        self.failures += 1;
        self.due = Instant::now() + wait;
        self.error = Some(error);
    }
}

#[cfg(test)]
mod tests;
