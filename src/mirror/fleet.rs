//! Fleets: windows that come and go with what a directory lists.
//!
//! A fleet is listed completely at intervals. Who is new gets a window, who is gone loses it, and
//! who stays keeps the name of the window whatever else changes. One listing is no proof that most
//! members are gone.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::window::{CalendarRef, Window, WindowSettings, window_name_problem};

/// A listing that lacks at least this many members, and more than half of all, is confirmed by
/// another one before they leave.
pub const MASS_LEAVE_MIN: usize = 20;

/// How long a mailbox without Exchange is not asked again.
pub const ASK_AGAIN_AFTER: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What [`FleetSpec::window_name`] may have in braces.
pub const PLACEHOLDERS: [&str; 5] = ["mailbox", "id", "name", "calendar", "fleet"];

/// A fleet of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetSpec {
    /// Unique among the fleets.
    pub name: Arc<str>,
    /// The `[account.*]` that lists it and reads its calendars.
    pub account: Arc<str>,
    /// What is listed.
    pub source: FleetSource,
    /// Which calendars of each mailbox.
    pub calendars: CalendarSelection,
    /// The template of the windows' names, with [`PLACEHOLDERS`].
    pub window_name: Arc<str>,
    /// Time between listings.
    pub relist_every: Duration,
    /// How its windows are mirrored.
    pub settings: Arc<WindowSettings>,
}

/// What a fleet consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FleetSource {
    /// All rooms of the tenant (fact 193).
    Rooms,
    /// The rooms of a list, by the address of the list (fact 193).
    RoomList(Arc<str>),
    /// The members of a group and of the groups in it, by the group's id or address (fact 189).
    Members(Arc<str>),
    /// The users that an OData filter selects.
    Users(Arc<str>),
    /// One mailbox, for its calendars (fact 187).
    Mailbox(Arc<str>),
    /// The mailboxes in a file, one in a line.
    File(PathBuf),
}

/// Which calendars of a mailbox belong to a fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CalendarSelection {
    /// The default calendar.
    Default,
    /// All calendars that people write in: not birthdays, not holidays.
    All,
    /// Those with these names, in any letter case.
    Named(Arc<[String]>),
}

/// A mailbox as a directory lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedMailbox {
    /// What stays when the mailbox is renamed: the object id of a user, the id of a place, or the
    /// line of a file.
    pub id: Arc<str>,
    /// The address, or what else stands for the mailbox in the names of windows.
    pub address: Arc<str>,
    /// The display name; empty if the directory has none.
    pub name: Arc<str>,
    /// Where a room is.
    pub place: Option<Arc<Place>>,
}

/// Where a room is and how many people it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The building.
    pub building: Option<Arc<str>>,
    /// The floor, as the directory writes it.
    pub floor: Option<Arc<str>>,
    /// How many people the room holds.
    pub capacity: Option<u32>,
}

/// A calendar as a mailbox lists it (fact 187).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedCalendar {
    /// Its id; `Default` for the default calendar.
    pub calendar: CalendarRef,
    /// Its name.
    pub name: Arc<str>,
    /// Whether people write in it; birthdays and holidays are filled by Exchange.
    pub is_written: bool,
}

/// A fleet as it was listed last. It is stored, so that a start needs no listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetListing {
    /// When it was listed last; `None` before the first time.
    pub listed_at: Option<Timestamp>,
    /// Since when listings lack most members.
    pub missing_since: Option<Timestamp>,
    /// The members, by the id of the listed mailbox.
    pub members: BTreeMap<Arc<str>, FleetMember>,
}

/// A member of a fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetMember {
    /// The mailbox as it was listed last.
    pub mailbox: ListedMailbox,
    /// What requests call the mailbox: the user's object id if it is known, else the address.
    pub user: Arc<str>,
    /// When the mailbox said that it is not in Exchange; `None` if it has not.
    pub absent_since: Option<Timestamp>,
    /// Its windows.
    pub windows: Vec<FleetWindow>,
}

/// A window of a member. Its name was given when it was created and does not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetWindow {
    /// The name of the window.
    pub name: Arc<str>,
    /// The calendar.
    pub calendar: CalendarRef,
}

/// What a listing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListingOutcome {
    /// It is in force.
    Applied {
        /// How many members are new.
        joined: usize,
        /// How many members are gone.
        left: usize,
    },
    /// New members are in force. The missing ones stay until a listing after this time lacks them
    /// too.
    Held {
        /// How many members it lacks.
        missing: usize,
        /// When another listing may confirm it.
        until: Timestamp,
    },
}

/// Why a member has no window.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowNameError {
    /// Another window has the name.
    #[error(
        "the name {0:?} is taken; use {{id}} or {{fleet}} in window_name, or exclude the member"
    )]
    Taken(Arc<str>),
    /// The name is empty, too long, or has a `/` or a control character.
    #[error(
        "{0:?} cannot be the name of a window (1 to 200 characters without \"/\"); change window_name"
    )]
    Invalid(Arc<str>),
}

impl FleetSpec {
    /// The window of a member.
    pub fn window(&self, member: &FleetMember, window: &FleetWindow) -> Window {
        Window {
            name: window.name.clone(),
            account: self.account.clone(),
            mailbox: member.user.clone(),
            calendar: window.calendar.clone(),
            settings: self.settings.clone(),
        }
    }

    /// The name of a new window; `taken` says whether another window has a name.
    ///
    /// # Errors
    /// The member gets no window.
    pub fn new_window(
        &self,
        mailbox: &ListedMailbox,
        calendar: &ListedCalendar,
        taken: impl FnOnce(&str) -> bool,
    ) -> Result<FleetWindow, WindowNameError> {
        let name = self
            .window_name
            .replace("{fleet}", &self.name)
            .replace("{id}", &mailbox.id)
            .replace("{mailbox}", &mailbox.address)
            .replace("{name}", &mailbox.name)
            .replace("{calendar}", &calendar.name);
        let name: Arc<str> = name.trim().into();
        if window_name_problem(&name).is_some() {
            return Err(WindowNameError::Invalid(name));
        }
        if taken(&name) {
            return Err(WindowNameError::Taken(name));
        }
        Ok(FleetWindow { name, calendar: calendar.calendar.clone() })
    }
}

/// In words.
impl fmt::Display for FleetSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rooms => f.write_str("all rooms"),
            Self::RoomList(list) => write!(f, "room list {list}"),
            Self::Members(group) => write!(f, "group {group}"),
            Self::Users(filter) => write!(f, "users with {filter}"),
            Self::Mailbox(mailbox) => write!(f, "calendars of {mailbox}"),
            Self::File(file) => write!(f, "file {}", file.display()),
        }
    }
}

impl fmt::Display for CalendarSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::All => f.write_str("all"),
            Self::Named(names) => f.write_str(&names.join(", ")),
        }
    }
}

impl fmt::Display for Place {
    /// In a few words, such as `Building 7, floor 2, 12 people`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let floor = self.floor.as_ref().map(|floor| format!("floor {floor}"));
        let capacity = self.capacity.map(|people| format!("{people} people"));
        let parts = [self.building.as_ref().map(ToString::to_string), floor, capacity];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

impl CalendarSelection {
    /// Whether a mailbox may have more than one calendar that is selected.
    pub fn is_plural(&self) -> bool {
        match self {
            Self::Default => false,
            Self::All => true,
            Self::Named(names) => names.len() > 1,
        }
    }

    /// Whether a calendar is selected.
    pub fn selects(&self, calendar: &ListedCalendar) -> bool {
        match self {
            Self::Default => calendar.calendar == CalendarRef::Default,
            Self::All => calendar.is_written,
            Self::Named(names) => {
                let name = calendar.name.to_lowercase();
                names.iter().any(|wanted| wanted.to_lowercase() == name)
            }
        }
    }
}

impl FleetMember {
    /// A new member, without windows.
    pub fn new(mailbox: ListedMailbox) -> Self {
        let user = match uuid::Uuid::try_parse(&mailbox.id) {
            // The id of a place is not the id of its user (fact 193).
            Ok(_) if mailbox.place.is_none() => mailbox.id.clone(),
            _ => mailbox.address.clone(),
        };
        Self { mailbox, user, absent_since: None, windows: Vec::new() }
    }

    /// Whether the mailbox is to be asked for its calendars: it has not exactly the windows that are
    /// selected, as far as that can be known, or it was not in Exchange a week ago.
    pub fn is_due(&self, selection: &CalendarSelection, now: Timestamp) -> bool {
        match self.absent_since {
            // A time in the future is of another clock.
            Some(since) => since > now || now.duration_since(since) >= ASK_AGAIN_AFTER,
            // Calendars come and go without a sign (fact 187).
            None if *selection != CalendarSelection::Default => true,
            None => !matches!(&*self.windows, [only] if only.calendar == CalendarRef::Default),
        }
    }
}

impl FleetListing {
    /// Takes a complete listing of `now`. New members get no windows yet.
    pub fn update(
        &mut self,
        listed: Vec<ListedMailbox>,
        confirm_after: SignedDuration,
        now: Timestamp,
    ) -> ListingOutcome {
        let known = self.members.len();
        let mut missing = std::mem::take(&mut self.members);
        let mut joined = 0;
        for mailbox in listed {
            let member = match missing.remove(&mailbox.id) {
                Some(mut member) => {
                    // Requests name the mailbox by its address if its id is not known.
                    if member.user == member.mailbox.address {
                        member.user = mailbox.address.clone();
                    }
                    member.mailbox = mailbox;
                    member
                }
                // Listed twice.
                None if self.members.contains_key(&mailbox.id) => continue,
                None => {
                    joined += 1;
                    FleetMember::new(mailbox)
                }
            };
            self.members.insert(member.mailbox.id.clone(), member);
        }
        self.listed_at = Some(now);
        let count = missing.len();
        if count < MASS_LEAVE_MIN || count * 2 <= known {
            self.missing_since = None;
            return ListingOutcome::Applied { joined, left: count };
        }
        // A time in the future is of another clock.
        let since = self.missing_since.filter(|since| *since <= now).unwrap_or(now);
        let until = since.saturating_add(confirm_after).unwrap_or(Timestamp::MAX);
        if self.missing_since.is_some() && now >= until {
            self.missing_since = None;
            return ListingOutcome::Applied { joined, left: count };
        }
        self.missing_since = Some(since);
        self.members.append(&mut missing);
        ListingOutcome::Held { missing: count, until }
    }

    /// The windows of all members.
    pub fn windows<'a>(&'a self, spec: &'a FleetSpec) -> impl Iterator<Item = Window> + 'a {
        let of = move |member: &'a FleetMember| {
            member.windows.iter().map(move |window| spec.window(member, window))
        };
        self.members.values().flat_map(of)
    }
}

#[cfg(test)]
mod tests;
