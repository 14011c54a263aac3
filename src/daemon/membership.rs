//! Puts the listings of fleets in force: stores them, then starts and stops windows.
//!
//! Storing a listing and comparing its windows with those in force takes seconds for a million
//! members, so a task does it beside the daemon's loop. Meanwhile no other listing and no reload
//! begins.

use std::cell::LazyCell;
use std::collections::HashSet;
use std::sync::Arc;

use tokio::task::JoinHandle;

use super::Daemon;
use super::fleets::{FinishedListing, Listings, NewListing, PlacedWindows, extended};
use super::reload::fleet_change;
use crate::config::{self, Config, ConfigDiff};
use crate::error_chain::error_chain;
use crate::mirror::fleet::FleetListing;
use crate::store::StoreError;

/// A listing that is being stored.
pub(super) struct PendingListing {
    fleet: Arc<str>,
    storing: JoinHandle<Result<PreparedListing, StoreError>>,
}

impl PendingListing {
    /// Ends it. What it has not stored is listed again after the next start.
    pub(super) fn cancel(self) {
        self.storing.abort();
    }
}

/// A stored listing of a fleet, or why it was not stored.
pub(super) struct StoredListing {
    fleet: Arc<str>,
    result: Result<PreparedListing, StoreError>,
}

/// A stored listing, ready to be put in force.
struct PreparedListing {
    new: NewListing,
    /// `None` if the listing has the members and windows that are in force.
    change: Option<Box<ListedChange>>,
}

/// How a listing changes the configuration.
struct ListedChange {
    config: Config,
    windows: PlacedWindows,
    difference: ConfigDiff,
}

/// Waits until a listing has been stored; forever if none is. Cancel safe.
pub(super) async fn stored(pending: &mut Option<PendingListing>) -> StoredListing {
    let Some(PendingListing { fleet, storing }) = pending else {
        return std::future::pending().await;
    };
    let result = match storing.await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    };
    let fleet = fleet.clone();
    *pending = None;
    StoredListing { fleet, result }
}

impl Daemon {
    /// Takes the end of a listing, and begins to store it if it succeeded.
    pub(super) fn on_fleet_listed(&mut self, listed: FinishedListing) {
        let fleet = listed.fleet().clone();
        let (config, listings) = (self.config.clone(), self.fleets.listings());
        let Some(new) = ({
            // Only the windows of new members need a name.
            let taken = LazyCell::new(|| taken_names(&config, listings.get(&fleet)));
            self.fleets.take(listed, |name| taken.contains(name))
        }) else {
            return;
        };
        let (store, env, base) = (self.store.clone(), self.env.clone(), self.base.clone());
        let storing = tokio::spawn(async move {
            store.save_fleet_listing(&new.fleet, Some(&new.listing)).await?;
            Ok(env.compute(move || PreparedListing::of(new, &base, &config, listings)).await)
        });
        self.storing = Some(PendingListing { fleet, storing });
    }

    /// Puts a stored listing in force.
    pub(super) async fn on_listing_stored(&mut self, stored: StoredListing) {
        let StoredListing { fleet, result } = stored;
        let PreparedListing { new, change } = match result {
            Ok(prepared) => prepared,
            Err(error) => {
                let reason = error_chain(&error).to_string();
                tracing::warn!(%fleet, reason, "listing not stored, listing again later");
                return self.fleets.retry(&fleet, &reason);
            }
        };
        let Some(change) = change else { return self.fleets.commit(new, None) };
        let ListedChange { config, windows, difference } = *change;
        let change = fleet_change(&config, &self.accounts.all(), &difference);
        // Before the first page of a new window is stored.
        self.fleets.announce(&windows);
        // A failed store ends the daemon's loop, and the next start uses the stored listing.
        if let Err(error) = self.supervisor.change_fleet(change, || {}).await {
            let reason = error_chain(&error).to_string();
            tracing::warn!(%fleet, reason, "fleet not changed, listing again later");
            self.fleets.withdraw();
            return self.fleets.retry(&fleet, &reason);
        }
        self.elsewhere.set(config.elsewhere.clone());
        self.config = Arc::new(config);
        self.fleets.commit(new, Some(windows));
    }

    /// Deletes the listings of fleets that left the configuration.
    pub(super) async fn forget_removed_fleets(&self, new: &Config) {
        for spec in &self.config.fleets {
            if new.fleets.iter().any(|kept| kept.name == spec.name) {
                continue;
            }
            if let Err(error) = self.store.save_fleet_listing(&spec.name, None).await {
                let reason = error_chain(&error);
                tracing::warn!(fleet = &*spec.name, %reason, "listing of a removed fleet not deleted");
            }
        }
    }
}

impl PreparedListing {
    /// Compares a listing with those in force. Blocking.
    fn of(new: NewListing, base: &Config, old: &Config, mut listings: Listings) -> Self {
        let known = listings.insert(new.fleet.clone(), new.listing.clone());
        if known.is_some_and(|known| known.members == new.listing.members) {
            return Self { new, change: None };
        }
        let (mut config, windows) = extended(base, &listings);
        config.share_windows(old);
        let difference = config::diff(old, &config);
        Self { new, change: Some(Box::new(ListedChange { config, windows, difference })) }
    }
}

/// The names of the windows in force that are not of this fleet.
fn taken_names(config: &Config, listing: Option<&Arc<FleetListing>>) -> HashSet<Arc<str>> {
    let own: HashSet<&str> = listing.map_or_else(HashSet::new, |listing| {
        let windows = listing.members.values().flat_map(|member| &member.windows);
        windows.map(|window| &*window.name).collect()
    });
    let names = config.windows.iter().map(|window| &window.name);
    let names = names.chain(config.elsewhere.keys());
    names.filter(|name| !own.contains(&***name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::DaemonOptions;
    use crate::daemon::tests::{config, options};
    use crate::graph::script::{Script, ScriptedResponse};
    use crate::mirror::fleet::{FleetMember, FleetWindow, ListedMailbox};
    use crate::mirror::window::CalendarRef;
    use crate::tests::{NOON, fleet_spec};

    /// A listing with these members, whose windows have their names.
    fn listing(names: &[impl AsRef<str>]) -> Arc<FleetListing> {
        let member = |name: &str| {
            let (id, address): (Arc<str>, _) = (name.into(), name.into());
            let mailbox = ListedMailbox { id: id.clone(), address, name: "".into(), place: None };
            let window = FleetWindow { name: id.clone(), calendar: CalendarRef::Default };
            (id, FleetMember { windows: vec![window], ..FleetMember::new(mailbox) })
        };
        let members = names.iter().map(|name| member(name.as_ref())).collect();
        Arc::new(FleetListing { members, ..FleetListing::default() })
    }

    #[test]
    fn only_a_listing_with_other_members_changes_the_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let mut base = config(directory.path(), "store", &[("alice", "1h")]);
        base.fleets = vec![Arc::new(fleet_spec())];
        let listings: Listings = [("staff".into(), listing(&["ann", "bob"]))].into();
        let (in_force, _) = extended(&base, &listings);
        let prepared = |listing| {
            let new = NewListing { fleet: "staff".into(), listing };
            PreparedListing::of(new, &base, &in_force, listings.clone())
        };
        let later = FleetListing { listed_at: Some(NOON), ..(*listing(&["ann", "bob"])).clone() };
        let same = prepared(Arc::new(later));
        assert!(same.change.is_none());
        assert_eq!(same.new.listing.listed_at, Some(NOON));
        let other = prepared(listing(&["bob", "eve"])).change.unwrap();
        let names: Vec<_> = other.config.windows.iter().map(|window| &*window.name).collect();
        assert_eq!(names, ["alice", "bob", "eve"]);
        assert_eq!(&*other.difference.added[0].name, "eve");
        assert_eq!(&*other.difference.removed[0].name, "ann");
        assert_eq!(other.difference.unchanged, 2);
        let taken = taken_names(&in_force, listings.get("staff"));
        assert_eq!(taken, HashSet::from(["alice".into()]));
    }

    /// A daemon with a fleet, and a listing of it with these members.
    async fn listed(
        directory: &std::path::Path,
        names: &[impl AsRef<str>],
    ) -> (Daemon, StoredListing) {
        let mut config = config(directory, "store", &[]);
        config.fleets = vec![Arc::new(fleet_spec())];
        let transport = Script::new([(); 9].map(|()| ScriptedResponse::Silence), []);
        let daemon = Daemon::start(DaemonOptions { transport, ..options(config) }).await.unwrap();
        let new = NewListing { fleet: "staff".into(), listing: listing(names) };
        let listings = daemon.fleets.listings();
        let result = Ok(PreparedListing::of(new, &daemon.base, &daemon.config, listings));
        (daemon, StoredListing { fleet: "staff".into(), result })
    }

    /// So many members that the start of their windows takes a while.
    fn names() -> Vec<String> {
        (100..500).map(|n| format!("p{n}")).collect()
    }

    /// The fleet of the first of these windows at the moment when it is running.
    fn first_fleet(daemon: &Daemon) -> std::thread::JoinHandle<Option<Arc<str>>> {
        let (fleet, board) = (daemon.fleet(), daemon.fleets.board());
        std::thread::spawn(move || {
            while fleet.id("p100").is_none() {
                std::thread::yield_now();
            }
            board.fleet_of("p100")
        })
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_window_that_a_reload_starts_has_its_fleet_before_it_runs() {
        let directory = tempfile::tempdir().unwrap();
        let (mut daemon, _) = listed(directory.path(), &[""; 0]).await;
        // Members whose windows are not in force, as if their names had been taken so far.
        let new = NewListing { fleet: "staff".into(), listing: listing(&names()) };
        daemon.fleets.commit(new, None);
        let base = daemon.base.clone();
        daemon.load = Arc::new(move || Ok((*base).clone()));
        let (reloads, watching) = (daemon.reloads(), first_fleet(&daemon));
        let reloaded = tokio::spawn(async move { reloads.ask(false).await });
        let ended = daemon.run(async { drop(reloaded.await.unwrap().unwrap()) });
        ended.await.unwrap();
        assert_eq!(watching.join().unwrap().as_deref(), Some("staff"));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_new_window_has_its_fleet_before_it_runs() {
        let directory = tempfile::tempdir().unwrap();
        let (mut daemon, stored) = listed(directory.path(), &names()).await;
        let watching = first_fleet(&daemon);
        daemon.on_listing_stored(stored).await;
        assert_eq!(watching.join().unwrap().as_deref(), Some("staff"));
        assert_eq!(daemon.fleets.board().fleets()[0].windows, 400);
        daemon.run(std::future::ready(())).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_that_could_not_start_has_no_fleet() {
        let directory = tempfile::tempdir().unwrap();
        let (mut daemon, stored) = listed(directory.path(), &["ann"]).await;
        daemon.store().close().await.unwrap();
        daemon.on_listing_stored(stored).await;
        let board = daemon.fleets.board();
        assert_eq!(board.fleet_of("ann"), None);
        let status = &board.fleets()[0];
        assert_eq!((status.members, status.failures), (0, 1));
        assert!(status.last_error.is_some());
    }
}
