//! The stored listing of a fleet: a record, and its members in parts.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::window::CalendarRecord;
use super::{from_json, json};
use crate::mirror::fleet::{FleetListing, FleetMember, FleetWindow, ListedMailbox, Place};
use crate::mirror::window::CalendarRef;
use crate::store::error::TreeError;

/// Most members in one part: about 300 KB.
pub(in crate::store) const MEMBERS_IN_PART: usize = 1000;

/// What a fleet's listing has beside its members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct FleetRecord {
    /// The fleet.
    pub(in crate::store) name: Arc<str>,
    /// The number in the keys of the parts. Each saved listing has another one.
    pub(in crate::store) listing: u64,
    /// How many parts there are.
    pub(in crate::store) parts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    listed_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    missing_since: Option<Timestamp>,
}

impl FleetRecord {
    /// The record of a listing whose members are in so many parts.
    pub(in crate::store) fn new(
        name: Arc<str>,
        listing: u64,
        parts: u32,
        saved: &FleetListing,
    ) -> Self {
        let FleetListing { listed_at, missing_since, members: _ } = saved;
        Self { name, listing, parts, listed_at: *listed_at, missing_since: *missing_since }
    }

    /// The listing, still without members.
    pub(in crate::store) fn listing(&self) -> FleetListing {
        let Self { listed_at, missing_since, .. } = *self;
        FleetListing { listed_at, missing_since, ..FleetListing::default() }
    }

    /// The record as a sealed value.
    pub(in crate::store) fn encode(&self) -> Vec<u8> {
        json(self)
    }

    /// Reads what [`FleetRecord::encode`] wrote.
    pub(in crate::store) fn decode(value: &[u8]) -> Result<Self, TreeError> {
        from_json(value, "fleet")
    }
}

/// A part of the members as a sealed value.
pub(in crate::store) fn members<'a>(part: impl IntoIterator<Item = &'a FleetMember>) -> Vec<u8> {
    json(&part.into_iter().map(MemberRecord::from).collect::<Vec<_>>())
}

/// Reads what [`members`] wrote.
pub(in crate::store) fn from_members(
    value: &[u8],
) -> Result<impl Iterator<Item = FleetMember>, TreeError> {
    let records: Vec<MemberRecord> = from_json(value, "members of a fleet")?;
    Ok(records.into_iter().map(FleetMember::from))
}

#[derive(Serialize, Deserialize)]
struct MemberRecord {
    id: Arc<str>,
    address: Arc<str>,
    #[serde(default)]
    name: Arc<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    place: Option<PlaceRecord>,
    user: Arc<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    absent_since: Option<Timestamp>,
    #[serde(default)]
    windows: Vec<MemberWindowRecord>,
}

#[derive(Serialize, Deserialize)]
struct PlaceRecord {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    building: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    floor: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    capacity: Option<u32>,
}

#[derive(Serialize, Deserialize)]
struct MemberWindowRecord {
    name: Arc<str>,
    #[serde(with = "CalendarRecord")]
    calendar: CalendarRef,
}

impl From<&FleetMember> for MemberRecord {
    fn from(member: &FleetMember) -> Self {
        let FleetMember { mailbox, user, absent_since, windows } = member;
        let ListedMailbox { id, address, name, place } = mailbox;
        let window = |FleetWindow { name, calendar }: &FleetWindow| MemberWindowRecord {
            name: name.clone(),
            calendar: calendar.clone(),
        };
        Self {
            id: id.clone(),
            address: address.clone(),
            name: name.clone(),
            place: place.as_deref().map(PlaceRecord::from),
            user: user.clone(),
            absent_since: *absent_since,
            windows: windows.iter().map(window).collect(),
        }
    }
}

impl From<MemberRecord> for FleetMember {
    fn from(record: MemberRecord) -> Self {
        let MemberRecord { id, address, name, place, user, absent_since, windows } = record;
        let place = place.map(|place| Arc::new(Place::from(place)));
        let window = |MemberWindowRecord { name, calendar }| FleetWindow { name, calendar };
        let windows = windows.into_iter().map(window).collect();
        let mailbox = ListedMailbox { id, address, name, place };
        Self { mailbox, user, absent_since, windows }
    }
}

impl From<&Place> for PlaceRecord {
    fn from(place: &Place) -> Self {
        let Place { building, floor, capacity } = place.clone();
        Self { building, floor, capacity }
    }
}

impl From<PlaceRecord> for Place {
    fn from(record: PlaceRecord) -> Self {
        let PlaceRecord { building, floor, capacity } = record;
        Self { building, floor, capacity }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::tests::{sealed, text};

    const FLEET: &str = r#"{"name":"rooms","listing":7,"parts":2,"listed_at":"2026-11-02T12:00:00.5Z","missing_since":"2026-11-02T11:00:00Z"}"#;
    const MEMBERS: &str = r#"[{"id":"p1","address":"blue@contoso.com","name":"Blue","place":{"building":"B1","floor":"2","capacity":8},"user":"u1","windows":[{"name":"blue","calendar":"default"},{"name":"blue x","calendar":{"id":"AAMk="}}]},{"id":"p2","address":"a","name":"","place":{},"user":"a","absent_since":"2026-11-02T12:00:00Z","windows":[]}]"#;

    #[test]
    fn listings_of_format_4_are_read_and_written_byte_for_byte() {
        let record = FleetRecord::decode(&sealed(FLEET)).unwrap();
        assert_eq!(text(&record.encode()), FLEET);
        let again = FleetRecord::new("rooms".into(), 7, 2, &record.listing());
        assert_eq!(again, record);
        let read: Vec<FleetMember> = from_members(&sealed(MEMBERS)).unwrap().collect();
        assert_eq!(text(&members(&read)), MEMBERS);
        assert_eq!(read[0].mailbox.place.as_ref().unwrap().capacity, Some(8));
        assert_eq!(read[0].windows[1].calendar, CalendarRef::Id("AAMk=".into()));
        assert!(read[1].absent_since.is_some() && read[1].mailbox.place.is_some());
    }

    #[test]
    fn members_of_json_may_be_missing_or_unknown() {
        let bare = r#"[{"id":"i","address":"a","user":"u","later":1}]"#;
        let read: Vec<FleetMember> = from_members(&sealed(bare)).unwrap().collect();
        assert_eq!((&*read[0].mailbox.name, read[0].windows.len()), ("", 0));
        let bare = r#"{"name":"rooms","listing":1,"parts":0,"later":1}"#;
        let record = FleetRecord::decode(&sealed(bare)).unwrap();
        assert_eq!(record.listing(), FleetListing::default());
    }

    #[test]
    fn a_calendar_of_another_version_is_not_damage() {
        let other = MEMBERS.replace(r#""default""#, r#""group""#);
        let fault = from_members(&sealed(&other)).err().unwrap();
        assert!(matches!(fault, TreeError::Unknown(_)) && !fault.is_damage(), "{fault}");
    }
}
