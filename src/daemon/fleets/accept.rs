//! Names the windows of a listing that succeeded, and keeps those whose calendars it may lack by
//! mistake.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::time::Instant;

use super::{ListedFleet, ManagedFleet, MemberFault, MissingCalendars};
use crate::mirror::fleet::{FleetListing, FleetWindow, ListingOutcome, MASS_LEAVE_MIN};

impl ManagedFleet {
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
        tracing::warn!(%fleet, missing, "listing lacks the calendars of most windows, they stay unless another listing agrees");
        true
    }

    /// Names the windows of the calendars that were listed, and forgets those that are gone.
    pub(super) fn accept(
        &mut self,
        listed: ListedFleet,
        taken: impl Fn(&str) -> bool,
    ) -> FleetListing {
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
