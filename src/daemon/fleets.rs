//! The fleets: lists each at intervals, and keeps who belongs to it.
//!
//! A listing runs beside the daemon's loop, one at a time for each fleet. The loop takes its
//! result, names the windows of new members, stores who belongs to the fleet, and applies the
//! difference to the running windows like a reload. A listing that fails changes nothing.

mod lister;
mod status;
mod windows;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::api::FleetBoard;
use crate::config::Config;
use crate::env::Env;
use crate::graph::{GraphClient, Tokens};
use crate::mirror::fleet::{FleetListing, FleetSpec, FleetWindow, ListingOutcome, MASS_LEAVE_MIN};
pub(super) use lister::{ListedFleet, ListingError, MemberFault, count_members};
use windows::RefusedWindow;
pub(super) use windows::{PlacedWindows, extended};

/// The first wait after a failed listing; doubles up to the interval between listings.
const FIRST_RETRY: Duration = Duration::from_secs(60);

/// Fleets that are due at a start are listed within this time, not at once.
const START_SPREAD: Duration = Duration::from_secs(10);

/// Who belongs to each fleet, by the fleet's name.
pub(super) type Listings = BTreeMap<Arc<str>, Arc<FleetListing>>;

/// All fleets.
pub(super) struct Fleets {
    client: GraphClient,
    env: Env,
    fleets: BTreeMap<Arc<str>, ManagedFleet>,
    running: JoinSet<FinishedListing>,
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
        Self { client, env, fleets, running, board }
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
                    let due = self.next_listing(spec, &listing).unwrap_or(soon);
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

    /// Who belongs to each fleet.
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
                Some(ended) = self.running.join_next() => match ended {
                    Ok(ended) => return ended,
                    Err(error) => {
                        tracing::error!(reason = %error, "a listing panicked");
                        // It is not known which one.
                        let soon = Instant::now() + FIRST_RETRY;
                        for fleet in self.fleets.values_mut().filter(|fleet| fleet.is_listing) {
                            (fleet.is_listing, fleet.due) = (false, soon);
                        }
                    }
                },
                () = async {
                    match due {
                        Some(due) => sleep_until(due).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
        }
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
                self.running.spawn(async move {
                    let (directory, credential) = (client.directory(&tokens), tokens.credential());
                    let result = lister::list(&directory, &credential, &spec, &listing, &env).await;
                    FinishedListing { fleet: name, spec, result }
                });
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
                let wait = FIRST_RETRY * 2u32.saturating_pow(fleet.failures.min(10));
                let wait = wait.min(fleet.spec.relist_every).mul_f64(1.0 - chance / 4.0);
                fleet.failures += 1;
                fleet.due = Instant::now() + wait;
                if fleet.error.as_ref().is_none_or(|known| known.problem != error.problem) {
                    let ListingError { problem, remedy, .. } = &error;
                    tracing::warn!(fleet = %name, reason = %problem, remedy, "fleet was not listed");
                }
                fleet.error = Some(error);
                None
            }
            Ok(listed) => {
                if fleet.error.take().is_some() {
                    tracing::info!(fleet = %name, "fleet is listed again");
                }
                fleet.failures = 0;
                let mut wait = fleet.spec.relist_every.mul_f64(1.0 - chance / 10.0);
                if listed.is_incomplete {
                    wait = wait.min(FIRST_RETRY);
                }
                fleet.held = None;
                if let ListingOutcome::Held { missing, until } = listed.outcome {
                    tracing::warn!(fleet = %name, missing, %until, "listing lacks most members, nobody leaves before another listing agrees");
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
        }
        if let Some(windows) = windows {
            self.set_windows(windows);
        }
        self.publish();
    }

    /// A listing could not be stored: it is made again soon.
    pub(super) fn retry(&mut self, name: &str) {
        if let Some(fleet) = self.fleets.get_mut(name) {
            fleet.due = Instant::now() + FIRST_RETRY;
        }
        self.publish();
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

    /// Whether a listing lacks the calendars of so many windows that another one has to confirm it.
    /// Lists of calendars have been wrong for weeks (fact 185), and a name may be mistyped.
    fn holds_calendars(&mut self, listed: &ListedFleet) -> bool {
        let members = &listed.listing.members;
        let all: usize = members.values().map(|member| member.windows.len()).sum();
        let missing: usize = listed
            .calendars
            .iter()
            .filter_map(|(id, calendars)| Some((members.get(id)?, calendars)))
            .map(|(member, calendars)| {
                let is_listed = |known: &&FleetWindow| {
                    calendars.iter().any(|calendar| calendar.calendar == known.calendar)
                };
                member.windows.len() - member.windows.iter().filter(is_listed).count()
            })
            .sum();
        if missing < MASS_LEAVE_MIN || missing * 2 <= all {
            self.calendars_missing = None;
            return false;
        }
        let since = self.calendars_missing.map_or_else(Instant::now, |known| known.since);
        if since.elapsed() >= self.spec.settings.confirm_after {
            self.calendars_missing = None;
            return false;
        }
        self.calendars_missing = Some(MissingCalendars { count: missing, since });
        let fleet = &self.spec.name;
        tracing::warn!(%fleet, missing, "listing lacks the calendars of most windows, they stay before another listing agrees");
        true
    }

    /// Names the windows of the calendars that were listed, and forgets those that are gone.
    fn accept(&mut self, listed: ListedFleet, taken: impl Fn(&str) -> bool) -> FleetListing {
        let keep_all = self.holds_calendars(&listed);
        let ListedFleet { mut listing, calendars, faults, left_out, outcome, .. } = listed;
        let mut names: HashSet<Arc<str>> = listing
            .members
            .values()
            .flat_map(|member| member.windows.iter().map(|window| window.name.clone()))
            .collect();
        self.faults = faults;
        self.left_out = left_out;
        for (id, calendars) in calendars {
            let Some(member) = listing.members.get_mut(&id) else { continue };
            let is_listed = |known: &FleetWindow| {
                calendars.iter().any(|calendar| calendar.calendar == known.calendar)
            };
            member.windows.retain(|known| keep_all || is_listed(known));
            for calendar in &calendars {
                if member.windows.iter().any(|known| known.calendar == calendar.calendar) {
                    continue;
                }
                let used = |name: &str| names.contains(name) || taken(name);
                match self.spec.new_window(&member.mailbox, calendar, used) {
                    Ok(window) => {
                        names.insert(window.name.clone());
                        member.windows.push(window);
                    }
                    Err(error) => self.faults.push(MemberFault {
                        member: member.mailbox.address.clone(),
                        problem: error.to_string(),
                    }),
                }
            }
        }
        if let ListingOutcome::Applied { joined, left } = outcome
            && joined + left > 0
        {
            let (fleet, members) = (&self.spec.name, listing.members.len());
            tracing::info!(%fleet, joined, left, members, "fleet changed");
        }
        listing
    }
}

#[cfg(test)]
mod tests;
