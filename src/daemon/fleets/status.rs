//! What the status shows of a fleet.

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::{ManagedFleet, MissingCalendars, RefusedWindow};
use crate::api::{FleetFaultJson, FleetStatusJson, HeldListingJson};
use crate::mirror::fleet::ListingOutcome;

/// The most members with faults, and calendars that are left out, that the status names.
const MAX_NAMED: usize = 20;

impl ManagedFleet {
    /// The status at `now`, which is `at` on the monotonic clock.
    pub(super) fn status(&self, now: Timestamp, at: Instant) -> FleetStatusJson {
        let members = &self.listing.members;
        let windows = members.values().map(|member| member.windows.len()).sum::<usize>();
        let faults = self.faults.iter().map(|fault| format!("{}: {}", fault.member, fault.problem));
        let refused = self.refused.iter().map(|RefusedWindow { member, name }| {
            format!("{member}: the name {name:?} of its window is taken by another window; rename that one")
        });
        let later = |due: Instant| {
            let left = SignedDuration::try_from(due.saturating_duration_since(at)).ok()?;
            now.checked_add(left).ok()
        };
        FleetStatusJson {
            name: self.spec.name.to_string(),
            account: self.spec.account.to_string(),
            members: members.len(),
            windows: windows - self.refused.len(),
            without_mailbox: members.values().filter(|m| m.absent_since.is_some()).count(),
            listed_at: self.listing.listed_at,
            next_due: later(self.due),
            held: match self.held {
                Some(ListingOutcome::Held { missing, until }) => {
                    Some(HeldListingJson { missing, until })
                }
                _ => None,
            },
            calendars_held: self.calendars_missing.map(|MissingCalendars { count, since }| {
                let until = later(since + self.spec.settings.confirm_after).unwrap_or(now);
                HeldListingJson { missing: count, until }
            }),
            failures: self.failures,
            last_error: self.error.as_ref().map(|error| FleetFaultJson {
                at: error.at,
                problem: error.problem.clone(),
                remedy: error.remedy.map(str::to_owned),
            }),
            faults: self.faults.len() + self.refused.len(),
            members_with_faults: refused.chain(faults).take(MAX_NAMED).collect(),
            calendars_left_out: self
                .left_out
                .iter()
                .take(MAX_NAMED)
                .map(|name| name.to_string())
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::daemon::fleets::MemberFault;
    use crate::graph::script::{self, Script};
    use crate::tests::fleet_spec;

    #[tokio::test(start_paused = true)]
    async fn only_the_first_of_many_faults_are_named() {
        let tokens = script::tokens(&Script::new([], []));
        let due = Instant::now() + Duration::from_secs(90);
        let mut fleet = ManagedFleet::new(Arc::new(fleet_spec()), tokens, Arc::default(), due);
        let fault = |n: usize| MemberFault { member: n.to_string().into(), problem: "no".into() };
        fleet.faults = (0..30).map(fault).collect();
        let status = fleet.status(Timestamp::UNIX_EPOCH, Instant::now());
        assert_eq!((status.faults, status.members_with_faults.len()), (30, MAX_NAMED));
        assert_eq!(status.members_with_faults[0], "0: no");
        assert_eq!(status.next_due.unwrap().as_second(), 90);
        assert_eq!((status.members, status.listed_at), (0, None));
    }
}
