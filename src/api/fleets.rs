//! What the API shows of fleets.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::mirror::fleet::Place;
use crate::mirror::status::WindowStatus;

/// The state of all fleets: the daemon writes it, the API reads it. Cheap to clone; clones share
/// it.
#[derive(Clone, Debug, Default)]
pub struct FleetBoard(Arc<RwLock<BoardContent>>);

/// By window: the fleet, and where a room is.
pub type WindowOrigins = HashMap<Arc<str>, (Arc<str>, Option<Arc<Place>>)>;

#[derive(Debug, Default)]
struct BoardContent {
    fleets: Arc<[FleetStatusJson]>,
    windows: Arc<WindowOrigins>,
    /// While windows start and stop: the origins before.
    previous: Arc<WindowOrigins>,
}

impl BoardContent {
    fn origin(&self, window: &str) -> Option<&(Arc<str>, Option<Arc<Place>>)> {
        self.windows.get(window).or_else(|| self.previous.get(window))
    }
}

/// A fleet in `/v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FleetStatusJson {
    /// The name in `[[fleet]]`.
    pub name: String,
    /// The account.
    pub account: String,
    /// Members at the last listing.
    pub members: usize,
    /// Windows of the members in force.
    pub windows: usize,
    /// Members whose mailbox is not in Exchange.
    pub without_mailbox: usize,
    /// When it was listed last.
    pub listed_at: Option<Timestamp>,
    /// When it is listed next.
    pub next_due: Option<Timestamp>,
    /// A listing that lacks most members and waits for its confirmation.
    pub held: Option<HeldListingJson>,
    /// A listing that lacks the calendars of most windows and waits for its confirmation.
    pub calendars_held: Option<HeldListingJson>,
    /// Failed listings in a row.
    pub failures: u32,
    /// Why the last listing failed.
    pub last_error: Option<FleetFaultJson>,
    /// Members without a window that should have one.
    pub faults: usize,
    /// The first of these members, and why.
    pub members_with_faults: Vec<String>,
    /// Names of calendars that `calendars = "all"` leaves out.
    pub calendars_left_out: Vec<String>,
}

/// A listing that waits for its confirmation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldListingJson {
    /// How many members it lacks, or the calendars of how many windows.
    pub missing: usize,
    /// When another listing may confirm it.
    pub until: Timestamp,
}

/// Why a fleet could not be listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetFaultJson {
    /// When.
    pub at: Timestamp,
    /// What happened.
    pub problem: String,
    /// What an administrator has to grant.
    pub remedy: Option<String>,
}

impl FleetBoard {
    /// Replaces the status of all fleets.
    pub fn set_fleets(&self, fleets: Vec<FleetStatusJson>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).fleets = fleets.into();
    }

    /// Announces the windows of fleets that are about to be in force. Until
    /// [`FleetBoard::set_windows`] the windows before have their fleets too: a reader of the feed
    /// that selects a group must miss neither the first page of a new window nor the last events of
    /// an old one.
    pub fn announce_windows(&self, windows: Arc<WindowOrigins>) {
        self.replace(|content| {
            let previous = std::mem::replace(&mut content.windows, windows);
            std::mem::replace(&mut content.previous, previous)
        });
    }

    /// Takes an announcement back.
    pub fn withdraw_windows(&self) {
        self.replace(|content| {
            let previous = std::mem::take(&mut content.previous);
            std::mem::replace(&mut content.windows, previous)
        });
    }

    /// Replaces the windows: those in force that belong to a fleet.
    pub fn set_windows(&self, windows: Arc<WindowOrigins>) {
        self.replace(|content| {
            let previous = std::mem::take(&mut content.previous);
            (previous, std::mem::replace(&mut content.windows, windows))
        });
    }

    /// Changes the windows. Readers do not wait until a million old ones are dropped.
    fn replace<T>(&self, change: impl FnOnce(&mut BoardContent) -> T) {
        let mut content = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let old = change(&mut content);
        drop(content);
        drop(old);
    }

    /// Every fleet, ordered by name.
    pub fn fleets(&self) -> Arc<[FleetStatusJson]> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).fleets.clone()
    }

    /// The fleet of a window.
    pub(crate) fn fleet_of(&self, window: &str) -> Option<Arc<str>> {
        let content = self.0.read().unwrap_or_else(PoisonError::into_inner);
        content.origin(window).map(|(fleet, _)| fleet.clone())
    }

    /// Adds the fleet and the place of a window to its status.
    pub(super) fn describe(&self, status: &mut WindowStatus) {
        let content = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((fleet, place)) = content.origin(status.name.as_str()) {
            status.fleet = Some(fleet.to_string());
            status.place = place.as_deref().cloned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn during_a_change_old_and_new_windows_have_their_fleets() {
        let origins = |windows: &[(&str, &str)]| {
            let origin =
                |(window, fleet): &(&str, &str)| ((*window).into(), ((*fleet).into(), None));
            Arc::new(windows.iter().map(origin).collect::<WindowOrigins>())
        };
        let board = FleetBoard::default();
        let seen = || ["old", "kept", "new"].map(|window| board.fleet_of(window));
        let fleet = |name: &str| Some(Arc::from(name));
        board.set_windows(origins(&[("old", "a"), ("kept", "a")]));
        assert_eq!(seen(), [fleet("a"), fleet("a"), None]);
        let next = origins(&[("kept", "b"), ("new", "b")]);
        board.announce_windows(next.clone());
        assert_eq!(seen(), [fleet("a"), fleet("b"), fleet("b")]);
        board.withdraw_windows();
        assert_eq!(seen(), [fleet("a"), fleet("a"), None]);
        board.announce_windows(next.clone());
        board.set_windows(next);
        assert_eq!(seen(), [None, fleet("b"), fleet("b")]);
    }
}
