//! Events, and their JSON as Graph writes it, including unusual members and sentinel values.
//!
//! Items are immutable: every change creates a new one, so that an old state costs one pointer.
//! Times are local to the event's own zone.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::civil::DateTime;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::content::{Attendee, EventContent, LocalSpan};
use super::ids::{IdTarget, MailboxIds, guid, mix, noise};
use super::series::Series;
use super::zone::{Zone, date_of, seven_digits};

/// The value Graph writes for a missing time (fact 78).
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Units of 100 ns in a second.
const TICKS: u64 = 10_000_000;

/// A single event, or a series with its exceptions.
#[derive(Clone, Debug)]
pub(super) struct CalendarItem {
    pub(super) key: u32,
    pub(super) zone: Arc<Zone>,
    /// Of a series: the time of the first occurrence.
    pub(super) when: LocalSpan,
    pub(super) all_day: bool,
    pub(super) content: EventContent,
    pub(super) created: Timestamp,
    pub(super) modified: Timestamp,
    /// The calendar's version at the item's last change of any kind: its change key.
    pub(super) change: u64,
    pub(super) series: Option<Series>,
}

/// The item itself (a single event or a master), or one of its instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ItemPart {
    Itself,
    Occurrence(i32),
    Exception(i32),
}

impl ItemPart {
    /// The day in the id; 0 for the item itself.
    pub(super) fn day(self) -> i32 {
        match self {
            Self::Itself => 0,
            Self::Occurrence(day) | Self::Exception(day) => day,
        }
    }
}

/// The representation of events that the client requests.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct EventForm {
    pub(super) zone: Zone,
    pub(super) text_body: bool,
    pub(super) immutable: bool,
}

impl EventForm {
    pub(super) fn plain() -> Self {
        Self { zone: Zone::utc(), text_body: false, immutable: false }
    }
}

/// The identity of a mailbox's calendar, for rendering.
#[derive(Clone, Copy, Debug)]
pub(super) struct CalendarContext {
    pub(super) mailbox: u64,
    pub(super) calendar: u16,
}

impl CalendarContext {
    pub(super) fn id(self, form: &EventForm, key: u32, day: i32) -> String {
        let day = u16::try_from(day).unwrap_or(0);
        MailboxIds { mailbox: self.mailbox, immutable: form.immutable }.of(IdTarget {
            calendar: self.calendar,
            key,
            day,
        })
    }

    fn change_key(self, change: u64) -> String {
        let mut bytes = noise(&[self.mailbox, u64::from(self.calendar), 11], 22);
        bytes.extend_from_slice(&change.to_be_bytes());
        STANDARD.encode(bytes)
    }

    fn etag(self, change: u64) -> String {
        format!("W/\"{}\"", self.change_key(change))
    }

    /// A bare occurrence or exception, as in a delta page (fact 66).
    pub(super) fn bare(self, item: &CalendarItem, part: ItemPart, form: &EventForm) -> Value {
        let (kind, change) = match part {
            ItemPart::Exception(day) => ("exception", item.exception_change(day)),
            _ => ("occurrence", item.change),
        };
        let (start, end) = times(item, item.span_of(part), form);
        json!({
            "@odata.type": "#microsoft.graph.event",
            "@odata.etag": self.etag(change),
            "id": self.id(form, item.key, part.day()),
            "seriesMasterId": self.id(form, item.key, 0),
            "type": kind,
            "start": start,
            "end": end,
        })
    }

    /// The tombstone of an item that left a view (fact 61).
    pub(super) fn removed(self, key: u32, day: i32, form: &EventForm) -> Value {
        json!({
            "@odata.type": "#microsoft.graph.event",
            "id": self.id(form, key, day),
            "@removed": {"reason": "deleted"},
        })
    }

    /// A whole event, as in every listing.
    pub(super) fn whole(self, item: &CalendarItem, part: ItemPart, form: &EventForm) -> Value {
        let id = self.id(form, item.key, part.day());
        let (content, change, modified) = match part {
            ItemPart::Exception(day) => item.exception(day),
            _ => (&item.content, item.change, item.modified),
        };
        let uid = mix(&[self.mailbox, u64::from(self.calendar), u64::from(item.key), 5]);
        let zone = if item.all_day && item.key % 8 == 5 {
            "tzone://Microsoft/Custom"
        } else {
            &*item.zone.name
        };
        let mut event = json!({
            "@odata.etag": self.etag(change),
            "id": id,
            "changeKey": self.change_key(change),
            "createdDateTime": stamp(item.created, uid),
            "lastModifiedDateTime": modified_stamp((item.created, uid), modified, change),
            "categories": content.category.iter().collect::<Vec<_>>(),
            "transactionId": uid.is_multiple_of(4).then(|| guid(&[uid])),
            "originalStartTimeZone": zone,
            "originalEndTimeZone": zone,
            "iCalUId": global_uid(uid, part.day()),
            "reminderMinutesBeforeStart": 15,
            "isReminderOn": content.show_as == "busy",
            "hasAttachments": uid.is_multiple_of(16),
            "subject": &*content.subject,
            "bodyPreview": content.body.preview(),
            "importance": content.importance,
            "sensitivity": content.sensitivity,
            "isAllDay": item.all_day,
            "isCancelled": content.cancelled,
            "isOrganizer": content.is_organizer,
            "IsRoomRequested": false,
            "AutoRoomBookingStatus": "None",
            "AutoRoomBookingOptions": null,
            "responseRequested": true,
            "seriesMasterId": null,
            "showAs": content.show_as,
            "type": if item.series.is_some() { "seriesMaster" } else { "singleInstance" },
            "webLink": format!(
                "https://outlook.office365.com/owa/?itemid={}&exvsurl=1&path=/calendar/item",
                id.replace('=', "%3D")
            ),
        });
        let details = details(item, content, part, form, uid);
        if let (Value::Object(event), Value::Object(mut details)) = (&mut event, details) {
            event.append(&mut details);
        }
        if part != ItemPart::Itself {
            self.set_instance_members(&mut event, item, part, form);
        }
        event
    }

    /// Sets the members in which an instance differs from its master.
    fn set_instance_members(
        self,
        event: &mut Value,
        item: &CalendarItem,
        part: ItemPart,
        form: &EventForm,
    ) {
        let original = match part {
            // An exception keeps the time of its original occurrence.
            ItemPart::Exception(day) => item.occurrence_when(day),
            _ => item.span_of(part),
        };
        event["type"] = match part {
            ItemPart::Exception(_) => "exception",
            _ => "occurrence",
        }
        .into();
        event["recurrence"] = Value::Null;
        event["seriesMasterId"] = self.id(form, item.key, 0).into();
        event["originalStart"] = shown_instant(item, original).to_string().into();
        event["OccurrenceId"] =
            format!("OID.{}.{}", self.id(form, item.key, 0), date_of(part.day())).into();
    }
}

/// The second half of the members of a whole event: the online meeting, the recurrence, the body,
/// the times, the places and the people.
fn details(
    item: &CalendarItem,
    content: &EventContent,
    part: ItemPart,
    form: &EventForm,
    uid: u64,
) -> Value {
    let (start, end) = times(item, item.span_of(part), form);
    json!({
        "onlineMeetingUrl": null,
        "isOnlineMeeting": content.online,
        "onlineMeetingProvider": if content.online { "teamsForBusiness" } else { "unknown" },
        "onlineMeeting": content.online.then(|| json!({
            "joinUrl": format!("https://teams.example/l/meetup-join/{uid:016x}")
        })),
        "allowNewTimeProposals": true,
        "OccurrenceId": null,
        "isDraft": false,
        "hideAttendees": false,
        "recurrence": item
            .series
            .as_ref()
            .map(|series| series.json(item.when.start.date(), &item.zone.name)),
        "responseStatus": {
            "response": if content.is_organizer { "organizer" } else { "accepted" },
            "time": if content.is_organizer { NEVER.to_owned() } else { stamp(item.created, 0) },
        },
        "body": if form.text_body {
            json!({"contentType": "text", "content": &*content.body.text})
        } else {
            json!({"contentType": "html", "content": &*content.body.html})
        },
        "start": start,
        "end": end,
        "location": location(&content.location),
        "locations": if content.location.is_empty() {
            json!([])
        } else {
            json!([location(&content.location)])
        },
        "attendees": content.attendees.iter().map(attendee).collect::<Vec<_>>(),
        "organizer": content.organizer.json(),
    })
}

/// The instant shown for a start: all-day events start at midnight in any zone (fact 79).
fn shown_instant(item: &CalendarItem, when: LocalSpan) -> Timestamp {
    if item.all_day { Zone::utc().instant(when.start) } else { item.zone.instant(when.start) }
}

fn times(item: &CalendarItem, when: LocalSpan, form: &EventForm) -> (Value, Value) {
    let show =
        |shown: DateTime| json!({"dateTime": seven_digits(shown), "timeZone": &*form.zone.name});
    if item.all_day {
        return (show(when.start), show(when.end));
    }
    let (start, end) = when.instants(&item.zone);
    (show(form.zone.local(start)), show(form.zone.local(end)))
}

/// The fraction of a second in a [`stamp`], in units of 100 ns.
fn fraction(salt: u64) -> u64 {
    mix(&[salt]) % (TICKS / 2)
}

/// A UTC timestamp with seven fractional digits derived from `salt`.
fn stamp(at: Timestamp, salt: u64) -> String {
    format_timestamp(at, fraction(salt))
}

/// The timestamp of an item's change number `change`. Changes within one second are shown in
/// their order, and none before the creation (`created`: its time and the salt of its stamp).
fn modified_stamp(created: (Timestamp, u64), modified: Timestamp, change: u64) -> String {
    let earliest = fraction(created.1) + 1;
    let at = modified.max(created.0);
    format_timestamp(at, earliest + change % (TICKS - earliest))
}

fn format_timestamp(at: Timestamp, fraction: u64) -> String {
    let seconds = Timestamp::from_second(at.as_second()).unwrap_or(at).to_string();
    format!("{}.{fraction:07}Z", seconds.trim_end_matches('Z'))
}

/// `iCalUId`: Exchange's GlobalObjectId in hexadecimal, which contains the day of an instance.
fn global_uid(uid: u64, day: i32) -> String {
    let date = date_of(day);
    let (year, month, day) =
        if day == 0 { (0, 0, 0) } else { (date.year(), date.month(), date.day()) };
    format!(
        "040000008200E00074C5B7101A82E008{year:04X}{month:02X}{day:02X}{uid:016X}\
         000000000000000010000000{:016X}{:016X}",
        mix(&[uid, 1]),
        mix(&[uid, 2])
    )
}

fn location(name: &str) -> Value {
    json!({
        "displayName": name,
        "locationType": "default",
        "uniqueId": name,
        "uniqueIdType": if name.is_empty() { "unknown" } else { "private" },
        "address": {"type": "unknown"},
        "coordinates": {},
    })
}

fn attendee(attendee: &Attendee) -> Value {
    json!({
        "type": attendee.kind,
        "status": {
            "response": &*attendee.response,
            "time": attendee.answered.map_or(NEVER.to_owned(), |at| stamp(at, 1)),
        },
        "emailAddress": {"name": &*attendee.who.name, "address": &*attendee.who.address},
    })
}

impl CalendarItem {
    /// The time of `part`.
    pub(super) fn span_of(&self, part: ItemPart) -> LocalSpan {
        match part {
            ItemPart::Itself => self.when,
            ItemPart::Occurrence(day) => self.occurrence_when(day),
            ItemPart::Exception(day) => self
                .series
                .as_ref()
                .and_then(|s| s.exceptions.get(&day))
                .map_or_else(|| self.occurrence_when(day), |e| e.when),
        }
    }

    /// The time of the series' occurrence of `day`, ignoring exceptions.
    pub(super) fn occurrence_when(&self, day: i32) -> LocalSpan {
        self.when.with_start(date_of(day).to_datetime(self.when.start.time()))
    }

    /// The content, change and modification time of the occurrence of `day`.
    pub(super) fn exception(&self, day: i32) -> (&EventContent, u64, Timestamp) {
        match self.series.as_ref().and_then(|s| s.exceptions.get(&day)) {
            Some(e) => (&e.content, e.change, e.modified),
            None => (&self.content, self.change, self.modified),
        }
    }

    pub(super) fn exception_change(&self, day: i32) -> u64 {
        self.exception(day).1
    }

    /// Whether `[start, end)` of `when` overlaps the window.
    pub(super) fn overlaps(&self, when: LocalSpan, window: (Timestamp, Timestamp)) -> bool {
        let (start, end) = when.instants(&self.zone);
        start < window.1 && (end > window.0 || (start == end && start >= window.0))
    }

    /// The instances of the item that a view of `window` lists, sorted by start. A single event has
    /// one instance: itself.
    pub(super) fn instances(&self, window: (Timestamp, Timestamp)) -> Vec<ItemPart> {
        let Some(series) = &self.series else {
            return if self.overlaps(self.when, window) {
                vec![ItemPart::Itself]
            } else {
                Vec::new()
            };
        };
        let length = self.when.end.duration_since(self.when.start);
        let margin = length.saturating_add(SignedDuration::from_hours(48));
        let first = window.0.saturating_sub(margin).unwrap_or(Timestamp::MIN);
        let last =
            window.1.saturating_add(SignedDuration::from_hours(48)).unwrap_or(Timestamp::MAX);
        let days = series.days(self.when.start.date(), first, last);
        let mut parts: Vec<(Timestamp, ItemPart)> = days
            .into_iter()
            .filter(|day| !series.cancelled.contains(day) && !series.exceptions.contains_key(day))
            .map(ItemPart::Occurrence)
            .chain(series.exceptions.keys().copied().map(ItemPart::Exception))
            .map(|part| (part, self.span_of(part)))
            .filter(|(_, when)| self.overlaps(*when, window))
            .map(|(part, when)| (self.zone.instant(when.start), part))
            .collect();
        parts.sort_unstable();
        parts.into_iter().map(|(_, part)| part).collect()
    }

    /// The part that an id with `day` names, if it exists.
    pub(super) fn part(&self, day: u16) -> Option<ItemPart> {
        let day = match i32::from(day) {
            0 => return Some(ItemPart::Itself),
            day => day,
        };
        let series = self.series.as_ref()?;
        if series.exceptions.contains_key(&day) {
            return Some(ItemPart::Exception(day));
        }
        let at = Zone::utc().instant(date_of(day).to_datetime(jiff::civil::Time::midnight()));
        let exists = series.days(self.when.start.date(), at, at).contains(&day)
            && !series.cancelled.contains(&day);
        exists.then_some(ItemPart::Occurrence(day))
    }
}
