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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::HeldListingJson;
    use crate::daemon::fleets::tests::{JOINED, finished, fleets, listed, spec};
    use crate::daemon::fleets::{Fleets, NewListing};
    use crate::graph::script;
    use crate::mirror::window::CalendarRef;

    #[tokio::test(start_paused = true)]
    async fn a_calendar_that_is_gone_takes_its_window_along() {
        let mut fleets = fleets();
        let mut gone = listed(&["a"], JOINED);
        let windows = &mut gone.listing.members.get_mut("a").unwrap().windows;
        windows
            .push(FleetWindow { name: "a:Team".into(), calendar: CalendarRef::Id("team".into()) });
        let new = fleets.take(finished(Ok(gone)), |_| false).unwrap();
        let names: Vec<_> = new.listing.windows(&spec()).map(|window| window.name).collect();
        assert_eq!(names, ["a@contoso.com".into()]);
    }

    #[tokio::test(start_paused = true)]
    async fn calendars_that_most_windows_lack_are_gone_only_if_a_later_listing_agrees() {
        let names: Vec<String> = (0..30).map(|n| format!("p{n}")).collect();
        let ids: Vec<&str> = names.iter().map(String::as_str).collect();
        let lacking = || {
            let mut all = listed(&ids, ListingOutcome::Applied { joined: 0, left: 0 });
            for (id, member) in &mut all.listing.members {
                let (name, calendar) = (id.clone(), CalendarRef::Default);
                member.windows.push(FleetWindow { name, calendar });
            }
            for (_, calendars) in &mut all.calendars {
                calendars.clear();
            }
            all
        };
        let mut fleets = fleets();
        let windows = |new: &NewListing| new.listing.windows(&spec()).count();
        let held = fleets.take(finished(Ok(lacking())), |_| false).unwrap();
        assert_eq!(windows(&held), 30);
        fleets.commit(held, None);
        let confirm_after = spec().settings.confirm_after;
        assert_eq!(fleets.fleets["staff"].due - Instant::now(), confirm_after);
        let shown = |fleets: &Fleets| fleets.board.fleets()[0].calendars_held.clone();
        let until = script::env().now().saturating_add(confirm_after).unwrap();
        assert_eq!(shown(&fleets), Some(HeldListingJson { missing: 30, until }));
        tokio::time::advance(confirm_after).await;
        let gone = fleets.take(finished(Ok(lacking())), |_| false).unwrap();
        assert_eq!(windows(&gone), 0);
        fleets.commit(gone, None);
        assert_eq!(shown(&fleets), None);
    }
}
