//! The identity of an event in a calendar: its `UID`, and which instance of its series it is.
//!
//! Both are decided over the whole window, not over the requested range, so that an event has the
//! same identity in every response. [`IdentitySurvey`] reads the window once and keeps a few
//! numbers per event; [`Identities`] keeps only what a single event does not reveal:
//!
//! * Several events may have one `iCalUId` (fact 199). All but the oldest, by `createdDateTime` and
//!   then id, get `/` and eight hexadecimal digits of the SHA-256 of their id. A series counts as
//!   one event, with the id of its master. The same suffix is added to an `iCalUId` that ends like
//!   a UID made here: in `/` and such digits, or in `/` and an original start.
//! * The original start of an exception. In an all-day series it is midnight in the creator's zone
//!   as an instant. Zones range from -12 to +14 hours, so two days are possible (fact 198). The
//!   other instances of the series decide: a day that one of them has is not the exception's. They
//!   also show whether the series is all-day; the exception itself may no longer be.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::line::sanitized;
use crate::api::redact::is_reduced;
use crate::json::JsonMembers;
use crate::mirror::event_time::TimeReader;
use crate::mirror::page::{EventHash, EventId};
use crate::mirror::zone;

/// The prefix of every `iCalUId` made by Exchange (MS-OXOCAL 2.2.1.27), in hexadecimal.
const GLOBAL_ID: &str = "040000008200E00074C5B7101A82E008";
/// The zone offsets in use, hours east of Greenwich.
const WESTMOST: i64 = -12;
const EASTMOST: i64 = 14;

/// When an instance takes place according to the rule of its series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum OriginalStart {
    Day(Date),
    At(Timestamp),
}

/// The iCalendar format.
impl fmt::Display for OriginalStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Day(date) => write!(f, "{}", date.strftime("%Y%m%d")),
            Self::At(at) => write!(f, "{}", at.strftime("%Y%m%dT%H%M%SZ")),
        }
    }
}

/// The identity of an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EventIdentity {
    /// Shared by all instances of a series, and by no other event.
    pub(super) uid: String,
    /// The original start of an instance; none for a single event.
    pub(super) slot: Option<OriginalStart>,
    /// Set if another instance of the series has the same slot.
    duplicate: Option<String>,
}

impl EventIdentity {
    /// A UID that no other event of the window has.
    pub(super) fn own_uid(&self) -> String {
        match (&self.slot, &self.duplicate) {
            (Some(slot), Some(again)) => format!("{}/{slot}/{again}", self.uid),
            (Some(slot), None) => format!("{}/{slot}", self.uid),
            (None, _) => self.uid.clone(),
        }
    }
}

/// The members of an event that determine its identity.
struct IdentityMembers {
    id: EventId,
    /// The series of an instance, or the event itself.
    owner: EventId,
    /// Graph's UID, without the day of an instance.
    uid: String,
    kind: InstanceKind,
    /// `createdDateTime`; if it is missing, later than all others.
    created: Timestamp,
}

enum InstanceKind {
    Single,
    Occurrence(OriginalStart),
    Exception(ExceptionStart),
}

/// The members of an exception that determine its original start.
struct ExceptionStart {
    original: Timestamp,
    /// The day that starts at that instant in the event's named zone.
    named: Option<Date>,
    /// The day on which it takes place now.
    own: Date,
    all_day: bool,
}

impl IdentityMembers {
    /// `None` if the object is not an event.
    fn read(event: &JsonMembers<'_>, times: &mut TimeReader) -> Option<Self> {
        let text = |name: &str| event.text(name).filter(|text| !text.is_empty());
        let id = EventId::new(text("id")?);
        if is_reduced(event) {
            // The id is the only identity that a masked event shows.
            let (owner, uid) = (id.clone(), sanitized(id.as_str()));
            return Some(Self {
                id,
                owner,
                uid,
                kind: InstanceKind::Single,
                created: Timestamp::MAX,
            });
        }
        let kind = match text("type").as_deref() {
            Some(kind @ ("occurrence" | "exception")) => {
                let start = times.event(event)?.start;
                let all_day = event.get("isAllDay").is_some_and(|raw| raw.get() == "true");
                let original = text("originalStart").and_then(|text| text.parse().ok());
                match original.filter(|_| kind == "exception") {
                    Some(original) => InstanceKind::Exception(ExceptionStart {
                        original,
                        named: text("originalStartTimeZone")
                            .and_then(|zone| named(&zone, original)),
                        own: start.civil.date(),
                        all_day,
                    }),
                    None if all_day => {
                        InstanceKind::Occurrence(OriginalStart::Day(start.civil.date()))
                    }
                    None => InstanceKind::Occurrence(OriginalStart::At(start.at)),
                }
            }
            _ => InstanceKind::Single,
        };
        let is_single = matches!(kind, InstanceKind::Single);
        let series = text("seriesMasterId").filter(|_| !is_single).map(EventId::new);
        let owner = series.unwrap_or_else(|| id.clone());
        // UIDs that differ only in characters that a line cannot carry must count as equal.
        let given =
            |name: &str| text(name).map(|uid| sanitized(&uid)).filter(|uid| !uid.is_empty());
        let uid = match (given("uid"), given("iCalUId")) {
            (Some(uid), _) => uid,
            (None, Some(uid)) if is_single => uid,
            (None, Some(uid)) => without_day(uid),
            (None, None) => sanitized(owner.as_str()),
        };
        let created = text("createdDateTime").and_then(|text| text.parse().ok());
        Some(Self { id, owner, uid, kind, created: created.unwrap_or(Timestamp::MAX) })
    }
}

/// The `iCalUId` of a series, from that of an instance.
fn without_day(mut uid: String) -> String {
    let day = GLOBAL_ID.len()..GLOBAL_ID.len() + 8;
    let head = uid.get(..GLOBAL_ID.len());
    let is_global = head.is_some_and(|head| head.eq_ignore_ascii_case(GLOBAL_ID));
    if is_global && uid.get(day.clone()).is_some() {
        uid.replace_range(day, "00000000");
    }
    uid
}

/// The day whose midnight in the zone `name` is `at`. UTC is ignored: Graph reports it unless
/// another zone was requested.
fn named(name: &str, at: Timestamp) -> Option<Date> {
    let zone = zone::find(name).filter(|zone| *zone != TimeZone::UTC)?;
    let local = zone.to_datetime(at);
    (local.time() == Time::midnight()).then(|| local.date())
}

/// The days whose midnight in some zone is `at`, likeliest first.
fn days(at: Timestamp) -> Vec<Date> {
    let utc = |hours| at.checked_add(SignedDuration::from_hours(hours)).ok();
    let (Some(first), Some(last)) = (utc(WESTMOST), utc(EASTMOST)) else { return Vec::new() };
    let zone = TimeZone::UTC;
    let mut days: Vec<(bool, Date)> = zone
        .to_datetime(first)
        .date()
        .series(jiff::Span::new().days(1))
        .take_while(|day| *day <= zone.to_datetime(last).date())
        .filter_map(|day| {
            let midnight = zone.to_timestamp(DateTime::from_parts(day, Time::midnight())).ok()?;
            let east = midnight.duration_since(at);
            let hours = |hours| SignedDuration::from_hours(hours);
            // West of Hawaii the date line is near; most people live on its other side.
            let is_rare = east < hours(-10);
            (hours(WESTMOST) <= east && east <= hours(EASTMOST)).then_some((is_rare, day))
        })
        .collect();
    days.sort_unstable();
    days.into_iter().map(|(_, day)| day).collect()
}

impl ExceptionStart {
    /// Chooses the slot; `is_taken` says whether another instance has a slot.
    fn slot(
        &self,
        series_has_days: Option<bool>,
        is_taken: impl Fn(OriginalStart) -> bool,
    ) -> OriginalStart {
        // Every offset in use is a multiple of 15 minutes.
        let may_be_midnight = self.original.as_second() % (15 * 60) == 0;
        if !series_has_days.unwrap_or(self.all_day && may_be_midnight) {
            return OriginalStart::At(self.original);
        }
        let possible = days(self.original);
        let likely = [self.named, Some(self.own)].into_iter().flatten();
        let likely = likely.filter(|day| possible.contains(day)).chain(possible.iter().copied());
        let mut slots = likely.map(OriginalStart::Day);
        let first = slots.clone().next();
        slots.find(|slot| !is_taken(*slot)).or(first).unwrap_or(OriginalStart::At(self.original))
    }
}

/// Collects the identities of a window while it is read.
#[derive(Default)]
pub(super) struct IdentitySurvey {
    /// Every owner of a UID. UID and owner are hashed.
    owners: BTreeMap<(EventHash, EventHash), (Timestamp, EventId)>,
    /// The slots of occurrences, by series, and the occurrence that has each.
    taken: BTreeMap<(EventHash, OriginalStart), EventHash>,
    /// Occurrences whose slot another occurrence has, as happens while an id changes.
    again: BTreeSet<EventHash>,
    /// Keyed by series, number of possible days, original start and id: unambiguous exceptions come
    /// first, and the read order has no effect.
    exceptions: BTreeMap<(EventHash, usize, Timestamp, EventHash), ExceptionStart>,
}

impl IdentitySurvey {
    /// Adds an event, as readers see it.
    pub(super) fn add(&mut self, event: &JsonMembers<'_>, times: &mut TimeReader) {
        let Some(traits) = IdentityMembers::read(event, times) else { return };
        let owner = traits.owner.hash();
        let claim = (traits.created, traits.owner);
        self.owners
            .entry((EventId::new(traits.uid).hash(), owner))
            .and_modify(|oldest| oldest.0 = oldest.0.min(claim.0))
            .or_insert(claim);
        match traits.kind {
            InstanceKind::Single => {}
            InstanceKind::Occurrence(slot) => {
                // The smallest id keeps the slot, so that the read order has no effect.
                let id = traits.id.hash();
                let keeper = self.taken.entry((owner, slot)).or_insert(id);
                if *keeper != id {
                    self.again.insert(id.max(*keeper));
                    *keeper = id.min(*keeper);
                }
            }
            InstanceKind::Exception(exception) => {
                let at = exception.original;
                let key = (owner, days(at).len(), at, traits.id.hash());
                self.exceptions.insert(key, exception);
            }
        }
    }

    /// Reduces the survey to the identities that depend on other events.
    pub(super) fn finish(self) -> Identities {
        let Self { owners, taken, again, exceptions } = self;
        let mut taken: BTreeSet<(EventHash, OriginalStart)> = taken.into_keys().collect();
        let mut oldest: BTreeMap<EventHash, (usize, Timestamp, EventId)> = BTreeMap::new();
        for ((uid, _), (created, id)) in owners {
            let entry = oldest.entry(uid).or_insert_with(|| (0, created, id.clone()));
            entry.0 += 1;
            if (created, &id) < (entry.1, &entry.2) {
                (entry.1, entry.2) = (created, id);
            }
        }
        let shared = oldest.into_iter().filter(|(_, (count, ..))| *count > 1);
        let shared = shared.map(|(uid, (_, _, id))| (uid, id.hash())).collect();
        let mut slots = BTreeMap::new();
        for ((series, _, _, id), exception) in exceptions {
            let least = (series, OriginalStart::Day(Date::MIN));
            let first = taken.range(least..).next().filter(|(owner, _)| *owner == series);
            let has_days = first.map(|(_, slot)| matches!(slot, OriginalStart::Day(_)));
            let slot = exception.slot(has_days, |slot| taken.contains(&(series, slot)));
            let is_new = taken.insert((series, slot));
            slots.insert(id, (slot, !is_new));
        }
        Identities { shared, slots, again }
    }
}

/// The identities that a single event does not reveal; see the module docs.
#[derive(Default)]
pub(super) struct Identities {
    /// For each UID with several owners, the owner that keeps it.
    shared: BTreeMap<EventHash, EventHash>,
    /// The slots of exceptions, and whether another instance has the same slot.
    slots: BTreeMap<EventHash, (OriginalStart, bool)>,
    /// Occurrences whose slot another occurrence has.
    again: BTreeSet<EventHash>,
}

impl Identities {
    /// The identity of an event; `None` if the object is not an event.
    pub(super) fn of(
        &self,
        event: &JsonMembers<'_>,
        times: &mut TimeReader,
    ) -> Option<EventIdentity> {
        let IdentityMembers { id, owner, mut uid, kind, .. } = IdentityMembers::read(event, times)?;
        let keeps = self.shared.get(&EventId::new(uid.as_str()).hash());
        if resembles_own_uid(&uid) || keeps.is_some_and(|keeps| *keeps != owner.hash()) {
            uid = format!("{uid}/{}", short_hash(&owner));
        }
        let (slot, again) = match kind {
            InstanceKind::Single => (None, false),
            InstanceKind::Occurrence(slot) => (Some(slot), self.again.contains(&id.hash())),
            InstanceKind::Exception(exception) => {
                let known = self.slots.get(&id.hash()).copied();
                // The event appeared after the survey.
                let (slot, again) =
                    known.unwrap_or_else(|| (exception.slot(None, |_| false), false));
                (Some(slot), again)
            }
        };
        Some(EventIdentity { uid, slot, duplicate: again.then(|| short_hash(&id)) })
    }
}

/// Whether a UID ends like those made here: in `/` and eight hexadecimal digits ([`short_hash`]) or
/// an [`OriginalStart`].
fn resembles_own_uid(uid: &str) -> bool {
    let digits =
        |text: &str, count| text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    let is_hexadecimal = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    uid.rsplit_once('/').is_some_and(|(_, end)| {
        let at = end.strip_suffix('Z').and_then(|end| end.split_once('T'));
        end.len() == 8 && end.bytes().all(is_hexadecimal)
            || at.is_some_and(|(day, time)| digits(day, 8) && digits(time, 6))
    })
}

/// Eight hexadecimal digits of the SHA-256 of an id.
fn short_hash(id: &EventId) -> String {
    let EventHash([a, b, c, d, ..]) = id.hash();
    format!("{:08x}", u32::from_be_bytes([a, b, c, d]))
}

#[cfg(test)]
mod tests;
