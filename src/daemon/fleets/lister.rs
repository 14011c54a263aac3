//! One listing of a fleet: its members, and the calendars of new members.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};

use crate::config::read_mailboxes;
use crate::env::Env;
use crate::graph::{DirectoryClient, GraphError, listing_remedy};
use crate::mirror::account::Credential;
use crate::mirror::failure::ErrorClass;
use crate::mirror::fleet::{
    CalendarSelection, FleetListing, FleetMember, FleetSource, FleetSpec, ListedCalendar,
    ListedMailbox, ListingOutcome,
};
use crate::mirror::window::CalendarRef;

/// Mailboxes that are asked for their calendars at the same time.
const MAX_CONCURRENT: usize = 8;

/// The most members whose faults are kept.
const MAX_FAULTS: usize = 100;

/// What a listing found.
pub(in crate::daemon) struct ListedFleet {
    /// The fleet's members. New members have no windows yet.
    pub(super) listing: FleetListing,
    pub(super) outcome: ListingOutcome,
    /// The selected calendars of members that were asked.
    pub(super) calendars: Vec<(Arc<str>, Vec<ListedCalendar>)>,
    pub(super) faults: Vec<MemberFault>,
    /// Names of calendars that were not selected although all were asked for.
    pub(super) left_out: Vec<Arc<str>>,
    /// Whether a member did not answer, and is worth another listing soon.
    pub(super) is_incomplete: bool,
}

/// Why a member has no window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::daemon) struct MemberFault {
    /// The member's address.
    pub(super) member: Arc<str>,
    /// What is wrong, and the remedy.
    pub(super) problem: String,
}

/// Why a fleet could not be listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::daemon) struct ListingError {
    pub(super) at: Timestamp,
    pub(in crate::daemon) problem: String,
    /// What an administrator has to grant.
    pub(in crate::daemon) remedy: Option<&'static str>,
    /// Whether the reason may pass by itself.
    pub(in crate::daemon) is_passing: bool,
    /// The status of the answer.
    pub(in crate::daemon) status: Option<u16>,
    /// The error code of the answer.
    pub(in crate::daemon) code: Option<String>,
}

impl ListingError {
    /// An error of a request, or of signing in.
    fn of(error: &GraphError, remedy: Option<&'static str>, at: Timestamp) -> Self {
        Self {
            at,
            problem: error.message(),
            remedy,
            is_passing: error.class().is_retryable() || error.class() == ErrorClass::Throttled,
            status: error.status(),
            code: error.code().map(str::to_owned),
        }
    }
}

/// How many members a fleet has now.
pub(in crate::daemon) async fn count_members(
    directory: &DirectoryClient,
    credential: &Credential,
    spec: &FleetSpec,
    env: &Env,
) -> Result<usize, ListingError> {
    Ok(members(directory, credential, spec, env).await?.len())
}

/// Lists a fleet.
pub(super) async fn list(
    directory: &DirectoryClient,
    credential: &Credential,
    spec: &FleetSpec,
    known: &FleetListing,
    env: &Env,
) -> Result<ListedFleet, ListingError> {
    let listed = members(directory, credential, spec, env).await?;
    let mut listing = known.clone();
    let confirm_after =
        SignedDuration::try_from(spec.settings.confirm_after).unwrap_or(SignedDuration::MAX);
    let outcome = listing.update(listed, confirm_after, env.now());
    let now = env.now();
    let due: Vec<FleetMember> = listing
        .members
        .values()
        .filter(|member| member.is_due(&spec.calendars, now))
        .cloned()
        .collect();
    let mut found = ListedFleet {
        listing,
        outcome,
        calendars: Vec::new(),
        faults: Vec::new(),
        left_out: Vec::new(),
        is_incomplete: false,
    };
    let mut answers = stream::iter(due)
        .map(|member| async move { ask(directory, spec, member).await })
        .buffer_unordered(MAX_CONCURRENT);
    while let Some((member, calendars)) = answers.next().await {
        found.take(spec, credential, member, calendars, now)?;
    }
    Ok(found)
}

/// The members that the fleet has now.
async fn members(
    directory: &DirectoryClient,
    credential: &Credential,
    spec: &FleetSpec,
    env: &Env,
) -> Result<Vec<ListedMailbox>, ListingError> {
    let refused = |error: GraphError| {
        ListingError::of(&error, listing_remedy(&error, credential, &spec.source), env.now())
    };
    let of_one = |mailbox: Arc<str>| ListedMailbox {
        id: mailbox.clone(),
        address: mailbox,
        name: Arc::from(""),
        place: None,
    };
    match &spec.source {
        FleetSource::Rooms => directory.rooms().await.map_err(refused),
        FleetSource::RoomList(list) => directory.rooms_of(list).await.map_err(refused),
        FleetSource::Members(group) => directory.members(group).await.map_err(refused),
        FleetSource::Users(filter) => directory.users(filter).await.map_err(refused),
        FleetSource::Mailbox(mailbox) => Ok(vec![of_one(mailbox.clone())]),
        FleetSource::File(path) => {
            let file = path.clone();
            let read = env.compute(move || read_mailboxes(&file)).await;
            let read = read.map_err(|wrong| ListingError {
                at: env.now(),
                problem: wrong.to_string(),
                remedy: None,
                is_passing: false,
                status: None,
                code: None,
            })?;
            Ok(read.into_iter().map(|line| of_one(line.into())).collect())
        }
    }
}

/// The calendars of a member; `None` if its mailbox is not in Exchange.
type MemberCalendars = Result<Option<Vec<ListedCalendar>>, GraphError>;

/// Asks a member for its calendars. A room's user is looked up first (fact 193).
async fn ask(
    directory: &DirectoryClient,
    spec: &FleetSpec,
    mut member: FleetMember,
) -> (FleetMember, MemberCalendars) {
    // Once there are windows, another name of the mailbox would replace them.
    let is_new = member.windows.is_empty() && member.user == member.mailbox.address;
    if member.mailbox.place.is_some() && is_new {
        match directory.user_id(&member.mailbox.address).await {
            Ok(Some(id)) => member.user = id,
            // The account may not look it up: the address has to do.
            Ok(None) => {}
            Err(error) => return (member, Err(error)),
        }
    }
    let calendars = match spec.calendars {
        CalendarSelection::Default => match directory.has_mailbox(&member.user).await {
            Ok(true) => Ok(Some(vec![ListedCalendar {
                calendar: CalendarRef::Default,
                name: Arc::from("Calendar"),
                is_written: true,
            }])),
            Ok(false) => Ok(None),
            Err(error) => Err(error),
        },
        CalendarSelection::All | CalendarSelection::Named(_) => {
            match directory.calendars(&member.user).await {
                Ok(calendars) => Ok(Some(calendars)),
                Err(error) if error.class() == ErrorClass::Gone => Ok(None),
                Err(error) => Err(error),
            }
        }
    };
    (member, calendars)
}

impl ListedFleet {
    /// Takes what a member answered.
    ///
    /// # Errors
    /// The account itself is refused, so no member can be asked.
    fn take(
        &mut self,
        spec: &FleetSpec,
        credential: &Credential,
        member: FleetMember,
        calendars: MemberCalendars,
        now: Timestamp,
    ) -> Result<(), ListingError> {
        let id = member.mailbox.id.clone();
        let address = member.mailbox.address.clone();
        let Some(known) = self.listing.members.get_mut(&id) else { return Ok(()) };
        known.user = member.user;
        match calendars {
            Ok(Some(all)) => {
                known.absent_since = None;
                let (selected, rest): (Vec<_>, Vec<_>) =
                    all.into_iter().partition(|calendar| spec.calendars.selects(calendar));
                if let CalendarSelection::Named(names) = &spec.calendars
                    && selected.is_empty()
                {
                    let names = names.join(", ");
                    self.fault(address, format!("it has no calendar named {names}"));
                }
                if spec.calendars == CalendarSelection::All {
                    for calendar in rest {
                        if !self.left_out.contains(&calendar.name) {
                            self.left_out.push(calendar.name);
                        }
                    }
                }
                self.calendars.push((id, selected));
            }
            Ok(None) => known.absent_since = Some(now),
            Err(error) if error.is_account_wide() => {
                return Err(ListingError::of(&error, None, now));
            }
            Err(error) => {
                self.is_incomplete |=
                    error.class().is_retryable() || error.class() == ErrorClass::Throttled;
                let source = FleetSource::Mailbox(address.clone());
                let remedy = listing_remedy(&error, credential, &source);
                let remedy = remedy.map(|remedy| format!("; {remedy}")).unwrap_or_default();
                self.fault(address, format!("{}{remedy}", error.message()));
            }
        }
        Ok(())
    }

    fn fault(&mut self, member: Arc<str>, problem: String) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(MemberFault { member, problem });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::fleet::FleetWindow;
    use crate::tests::fleet_spec;

    fn spec(calendars: CalendarSelection) -> FleetSpec {
        let window_name = "{mailbox}:{calendar}".into();
        FleetSpec { calendars, window_name, ..fleet_spec() }
    }

    fn calendar(name: &str, is_written: bool) -> ListedCalendar {
        let calendar = CalendarRef::Id(name.into());
        ListedCalendar { calendar, name: name.into(), is_written }
    }

    /// What is found of one member with this answer.
    fn found(calendars: CalendarSelection, answer: MemberCalendars) -> ListedFleet {
        let mailbox = ListedMailbox {
            id: "1".into(),
            address: "a@contoso.com".into(),
            name: "A".into(),
            place: None,
        };
        let mut member = FleetMember::new(mailbox);
        member.windows.push(FleetWindow { name: "old".into(), calendar: CalendarRef::Default });
        let mut listing = FleetListing::default();
        listing.members.insert("1".into(), member.clone());
        let mut fleet = ListedFleet {
            listing,
            outcome: ListingOutcome::Applied { joined: 0, left: 0 },
            calendars: Vec::new(),
            faults: Vec::new(),
            left_out: Vec::new(),
            is_incomplete: false,
        };
        let credential = Credential::SecretEnv("X".into());
        let now = Timestamp::UNIX_EPOCH;
        fleet.take(&spec(calendars), &credential, member, answer, now).unwrap();
        fleet
    }

    #[test]
    fn selected_calendars_are_kept_and_the_others_named() {
        let all = || Ok(Some(vec![calendar("Team", true), calendar("Birthdays", false)]));
        let fleet = found(CalendarSelection::All, all());
        assert_eq!(fleet.calendars.len(), 1);
        assert_eq!(fleet.calendars[0].1, [calendar("Team", true)]);
        assert_eq!(fleet.left_out, ["Birthdays".into()]);
        let named = CalendarSelection::Named(["other".to_owned()].into());
        let fleet = found(named, all());
        assert!(fleet.faults[0].problem.contains("no calendar named other"), "{:?}", fleet.faults);
    }

    #[test]
    fn a_mailbox_without_exchange_is_remembered_and_a_refusal_is_a_fault_of_the_member() {
        let fleet = found(CalendarSelection::Default, Ok(None));
        assert_eq!(fleet.listing.members["1"].absent_since, Some(Timestamp::UNIX_EPOCH));
        assert!(fleet.calendars.is_empty() && fleet.faults.is_empty());
        let refused = GraphError::InvalidRequest("an example");
        let fleet = found(CalendarSelection::Default, Err(refused));
        assert_eq!(&*fleet.faults[0].member, "a@contoso.com");
        assert!(fleet.listing.members["1"].absent_since.is_none());
    }
}
