//! What an event is called in a calendar: its `UID`, and which instance of its series it is.
//!
//! Both are decided over the whole window, not over the part that is asked for, so that an event
//! has the same name in every answer. [`Survey`] reads the window once and keeps a few numbers
//! for each event; [`Identities`] keeps only what cannot be told from an event alone:
//!
//! * Several events may have one `iCalUId` (fact 199). All but the oldest, by `createdDateTime` and
//!   then id, get `/` and eight hexadecimal digits of the SHA-256 of their id. A series is one event
//!   here, by the id of its master. So do those whose `iCalUId` ends like a UID that is made here: in
//!   `/` and such digits, or in `/` and an original start.
//! * The original start of an exception. Of an all-day series it is the creator's midnight as an
//!   instant, and zones reach from -12 to +14 hours, so that two days may be meant (fact 198). The
//!   other instances of the series decide: a day that one of them has is not the exception's.
//!   They also tell whether the series is one of days, which the exception need not be any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use serde_json::value::RawValue;

use super::line::carried;
use crate::api::redact::is_reduced;
use crate::mirror::event::JsonMembers;
use crate::mirror::event_time::TimeReader;
use crate::mirror::page::{EventHash, EventId};
use crate::mirror::zone;

/// The beginning of every `iCalUId` that Exchange made (MS-OXOCAL 2.2.1.27), in hexadecimal.
const GLOBAL_ID: &str = "040000008200E00074C5B7101A82E008";
/// The offsets of the zones in use, hours east of Greenwich.
const WESTMOST: i64 = -12;
const EASTMOST: i64 = 14;

/// When an instance takes place by the rule of its series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum OriginalStart {
    Day(Date),
    At(Timestamp),
}

/// As iCalendar writes it.
impl fmt::Display for OriginalStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Day(date) => write!(f, "{}", date.strftime("%Y%m%d")),
            Self::At(at) => write!(f, "{}", at.strftime("%Y%m%dT%H%M%SZ")),
        }
    }
}

/// What an event is called.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EventIdentity {
    /// The same for all instances of a series, and for nothing else.
    pub(super) uid: String,
    /// Of an instance of a series.
    pub(super) slot: Option<OriginalStart>,
    /// Set where another instance of the series has the same slot.
    again: Option<String>,
}

impl EventIdentity {
    /// A UID that no other event of the window has.
    pub(super) fn own_uid(&self) -> String {
        match (&self.slot, &self.again) {
            (Some(slot), Some(again)) => format!("{}/{slot}/{again}", self.uid),
            (Some(slot), None) => format!("{}/{slot}", self.uid),
            (None, _) => self.uid.clone(),
        }
    }
}

/// The members of an event that its identity is made of.
struct IdentityMembers {
    id: EventId,
    /// The series of an instance, else the event itself.
    owner: EventId,
    /// Graph's UID, without the day of an instance.
    uid: String,
    kind: InstanceKind,
    /// `createdDateTime`; where it is missing, later than all others.
    created: Timestamp,
}

enum InstanceKind {
    Single,
    Occurrence(OriginalStart),
    Exception(ExceptionStart),
}

/// What an exception says of its original start.
struct ExceptionStart {
    original: Timestamp,
    /// The day that starts at that instant in the zone that the event names.
    named: Option<Date>,
    /// Where it takes place now.
    own: Date,
    all_day: bool,
}

impl IdentityMembers {
    /// `None` where the event is none.
    fn read(event: &JsonMembers<'_>, times: &mut TimeReader) -> Option<Self> {
        let text = |name: &str| event.get(name).and_then(string).filter(|text| !text.is_empty());
        let id = EventId::new(text("id")?);
        if is_reduced(event) {
            // Of a masked event the id is all that is shown.
            let (owner, uid) = (id.clone(), carried(id.as_str()));
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
        // What differs only in what a line cannot carry would be one UID.
        let given = |name: &str| text(name).map(|uid| carried(&uid)).filter(|uid| !uid.is_empty());
        let uid = match (given("uid"), given("iCalUId")) {
            (Some(uid), _) => uid,
            (None, Some(uid)) if is_single => uid,
            (None, Some(uid)) => without_day(uid),
            (None, None) => carried(owner.as_str()),
        };
        let created = text("createdDateTime").and_then(|text| text.parse().ok());
        Some(Self { id, owner, uid, kind, created: created.unwrap_or(Timestamp::MAX) })
    }
}

fn string(raw: &RawValue) -> Option<String> {
    match serde_json::from_str(raw.get()) {
        Ok(Value::String(text)) => Some(text),
        _ => None,
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

/// The day whose midnight an instant is in a zone. UTC names no zone: it stands there unless
/// another one was asked for.
fn named(name: &str, at: Timestamp) -> Option<Date> {
    let zone = zone::find(name).filter(|zone| *zone != TimeZone::UTC)?;
    let local = zone.to_datetime(at);
    (local.time() == Time::midnight()).then(|| local.date())
}

/// The days whose midnight an instant is somewhere, likeliest first.
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
            // West of Hawaii the date line is near, and most people live on its other side.
            let is_rare = east < hours(-10);
            (hours(WESTMOST) <= east && east <= hours(EASTMOST)).then_some((is_rare, day))
        })
        .collect();
    days.sort_unstable();
    days.into_iter().map(|(_, day)| day).collect()
}

impl ExceptionStart {
    /// The slot, where `is_taken` tells which ones other instances have.
    fn slot(
        &self,
        series_has_days: Option<bool>,
        is_taken: impl Fn(OriginalStart) -> bool,
    ) -> OriginalStart {
        // Every offset in use is a multiple of a quarter of an hour.
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

/// The identities of a window while it is being read.
#[derive(Default)]
pub(super) struct IdentitySurvey {
    /// Every owner of a UID, both hashed.
    owners: BTreeMap<(EventHash, EventHash), (Timestamp, EventId)>,
    /// The slots of occurrences, by series, and the occurrence that has each.
    taken: BTreeMap<(EventHash, OriginalStart), EventHash>,
    /// Occurrences whose slot another one has, as while an id changes.
    again: BTreeSet<EventHash>,
    /// By series, how many days may be meant, original start and id: so that the clear ones come
    /// first, and the order in which they were read decides nothing.
    exceptions: BTreeMap<(EventHash, usize, Timestamp, EventHash), ExceptionStart>,
}

impl IdentitySurvey {
    /// Takes note of an event, as readers see it.
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
                // The least id keeps it, so that the order of reading decides nothing.
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

    /// What has to be known of the window.
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

/// What cannot be told from an event alone; see the module.
#[derive(Default)]
pub(super) struct Identities {
    /// The owner, among several of one UID, that keeps it.
    shared: BTreeMap<EventHash, EventHash>,
    /// The slots of exceptions, and whether another instance has the same.
    slots: BTreeMap<EventHash, (OriginalStart, bool)>,
    /// Occurrences whose slot another one has.
    again: BTreeSet<EventHash>,
}

impl Identities {
    /// What an event is called; `None` where it is none.
    pub(super) fn of(
        &self,
        event: &JsonMembers<'_>,
        times: &mut TimeReader,
    ) -> Option<EventIdentity> {
        let IdentityMembers { id, owner, mut uid, kind, .. } = IdentityMembers::read(event, times)?;
        let keeps = self.shared.get(&EventId::new(uid.as_str()).hash());
        if looks_made(&uid) || keeps.is_some_and(|keeps| *keeps != owner.hash()) {
            uid = format!("{uid}/{}", eight(&owner));
        }
        let (slot, again) = match kind {
            InstanceKind::Single => (None, false),
            InstanceKind::Occurrence(slot) => (Some(slot), self.again.contains(&id.hash())),
            InstanceKind::Exception(exception) => {
                let known = self.slots.get(&id.hash()).copied();
                // It came after the window was read.
                let (slot, again) =
                    known.unwrap_or_else(|| (exception.slot(None, |_| false), false));
                (Some(slot), again)
            }
        };
        Some(EventIdentity { uid, slot, again: again.then(|| eight(&id)) })
    }
}

/// Whether a UID ends in `/` and [`eight`] digits or a [`Slot`], like those that are made here.
fn looks_made(uid: &str) -> bool {
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
fn eight(id: &EventId) -> String {
    let EventHash([a, b, c, d, ..]) = id.hash();
    format!("{:08x}", u32::from_be_bytes([a, b, c, d]))
}

#[cfg(test)]
mod tests;
