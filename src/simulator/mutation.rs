//! Named changes to calendars. All preconditions are checked before anything is changed.

use jiff::civil::{Date, Time};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::content::{EventContent, LocalSpan};
use super::event::{CalendarItem, EventForm, ItemPart};
use super::ids::MailboxIds;
use super::population::{NewItem, body_of};
use super::series::{Exception, Pattern, Series};
use super::state::SimulatorState;
use super::zone::{Zone, day_of};

/// A change in one calendar.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mutation {
    /// The mailbox, by address or object id.
    pub mailbox: String,
    /// The calendar's id; `None` for the default one.
    #[serde(default)]
    pub calendar: Option<String>,
    /// The change itself.
    #[serde(flatten)]
    pub edit: Edit,
}

/// A change to a calendar. Events and instances are named by their default ids.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "edit")]
pub enum Edit {
    /// Creates a single event.
    CreateSingle {
        /// The subject.
        subject: String,
        /// The start.
        start: Timestamp,
        /// The length in minutes.
        minutes: u32,
    },
    /// Creates an all-day event in the mailbox's own time zone.
    CreateAllDay {
        /// The subject.
        subject: String,
        /// The first day.
        date: Date,
        /// The number of days.
        days: u16,
    },
    /// Creates a series in the mailbox's own time zone.
    CreateSeries {
        /// The subject.
        subject: String,
        /// The start of the first occurrence.
        start: Timestamp,
        /// The length of each occurrence in minutes.
        minutes: u32,
        /// The pattern.
        repeats: Pattern,
        /// The last day; `None` for an endless series.
        until: Option<Date>,
        /// Whether occurrences are all-day; `minutes` is then rounded up to days.
        #[serde(default)]
        all_day: bool,
    },
    /// Changes the subject of a single event or a series.
    Rename {
        /// The event or master.
        event: String,
        /// The new subject.
        subject: String,
    },
    /// Changes the body of a single event or a series.
    Rewrite {
        /// The event or master.
        event: String,
        /// The new text.
        text: String,
    },
    /// Moves a single event or a whole series. A series loses its exceptions and cancellations.
    Move {
        /// The event or master.
        event: String,
        /// The new start of the event or of the first occurrence.
        start: Timestamp,
    },
    /// Deletes a single event or a whole series.
    Delete {
        /// The event or master.
        event: String,
    },
    /// Deletes one occurrence or exception.
    CancelOccurrence {
        /// The instance.
        occurrence: String,
    },
    /// Turns an occurrence into an exception at another time.
    MoveOccurrence {
        /// The instance.
        occurrence: String,
        /// The new start.
        start: Timestamp,
    },
    /// Turns an occurrence into an exception with another subject.
    RenameOccurrence {
        /// The instance.
        occurrence: String,
        /// The new subject.
        subject: String,
    },
    /// Turns an exception back into an ordinary occurrence.
    UndoException {
        /// The instance.
        occurrence: String,
    },
    /// Changes or removes the last day of a series.
    SetEnd {
        /// The master.
        event: String,
        /// The new last day; `None` for an endless series.
        until: Option<Date>,
    },
    /// Changes the pattern of a series, which loses its exceptions and cancellations.
    SetPattern {
        /// The master.
        event: String,
        /// The new pattern.
        repeats: Pattern,
    },
    /// Gives an event a new change key and modification time, and no other change.
    Touch {
        /// The event or master.
        event: String,
    },
    /// Records an attendee's response.
    Respond {
        /// The event or master.
        event: String,
        /// The index of the attendee.
        attendee: usize,
        /// `accepted`, `declined` or `tentativelyAccepted`.
        response: String,
    },
    /// Cancels a meeting as its organizer; the event stays and is marked (fact 74).
    CancelMeeting {
        /// The event or master.
        event: String,
    },
}

/// Why a mutation is not possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MutationError {
    /// The mailbox or calendar does not exist.
    #[error("no such mailbox or calendar")]
    NoCalendar,
    /// The event or instance does not exist, or is of another type than the mutation needs.
    #[error("no such event, or an event of the wrong type")]
    NoEvent,
}

impl SimulatorState {
    /// Applies a mutation. Returns the id of the changed event.
    pub(super) fn mutate(&mut self, mutation: &Mutation) -> Result<String, MutationError> {
        let (mailbox, calendar) = self
            .resolve(&mutation.mailbox, mutation.calendar.as_deref())
            .ok_or(MutationError::NoCalendar)?;
        let now = self.env.now();
        let place = self.mailboxes[mailbox].calendars[calendar].place;
        let id_of = |key, day| place.id(&EventForm::plain(), key, day);
        let edit = &mutation.edit;
        if let Some(new) = edit.new_item(&self.mailboxes[mailbox].zone) {
            let key = self.create((mailbox, calendar), new, 400, now);
            return Ok(id_of(key, 0));
        }
        let (target, is_instance) = edit.target().ok_or(MutationError::NoEvent)?;
        let named = MailboxIds { mailbox: place.mailbox, immutable: false }
            .read(target)
            .filter(|named| named.calendar == place.calendar && (named.day != 0) == is_instance)
            .ok_or(MutationError::NoEvent)?;
        let this = &mut self.mailboxes[mailbox].calendars[calendar];
        let item = this.items.get(&named.key).ok_or(MutationError::NoEvent)?;
        let part = item.part(named.day).filter(|part| edit.is_possible(item, *part));
        let part = part.ok_or(MutationError::NoEvent)?;
        let mut changed = CalendarItem {
            change: this.version + 1,
            // A later modification never has an earlier time, even if the clock was set back.
            modified: now.max(item.modified),
            ..CalendarItem::clone(item)
        };
        apply(&mut changed, edit, part);
        let is_deleted = matches!(edit, Edit::Delete { .. });
        this.put(named.key, (!is_deleted).then_some(changed));
        Ok(id_of(named.key, part.day()))
    }
}

impl Edit {
    /// The id of the existing event that the edit changes, if any, and whether it is an instance.
    fn target(&self) -> Option<(&str, bool)> {
        match self {
            Self::CreateSingle { .. } | Self::CreateAllDay { .. } | Self::CreateSeries { .. } => {
                None
            }
            Self::Rename { event, .. }
            | Self::Rewrite { event, .. }
            | Self::Move { event, .. }
            | Self::Delete { event }
            | Self::SetEnd { event, .. }
            | Self::SetPattern { event, .. }
            | Self::Touch { event }
            | Self::Respond { event, .. }
            | Self::CancelMeeting { event } => Some((event, false)),
            Self::CancelOccurrence { occurrence }
            | Self::MoveOccurrence { occurrence, .. }
            | Self::RenameOccurrence { occurrence, .. }
            | Self::UndoException { occurrence } => Some((occurrence, true)),
        }
    }

    /// The item that the edit creates in a mailbox with the time zone `zone`, if it creates one.
    fn new_item(&self, zone: &Zone) -> Option<NewItem<'_>> {
        let minutes = |minutes: u32| SignedDuration::from_mins(i64::from(minutes.max(1)));
        match self {
            Self::CreateSingle { subject, start, minutes: long } => Some(NewItem {
                subject,
                start: zone.local(*start),
                length: minutes(*long),
                series: None,
                all_day: false,
            }),
            Self::CreateAllDay { subject, date, days } => Some(NewItem {
                subject,
                start: date.to_datetime(Time::midnight()),
                length: SignedDuration::from_hours(24 * i64::from((*days).max(1))),
                series: None,
                all_day: true,
            }),
            Self::CreateSeries { subject, start, minutes: long, repeats, until, all_day } => {
                let series = Series::new(repeats.clone(), until.map(day_of));
                let (mut start, mut length) = (zone.local(*start), minutes(*long));
                if *all_day {
                    start = start.date().to_datetime(Time::midnight());
                    length = SignedDuration::from_hours((length.as_hours().max(1) + 23) / 24 * 24);
                }
                Some(NewItem { subject, start, length, series: Some(series), all_day: *all_day })
            }
            _ => None,
        }
    }

    /// Whether the edit can change `part` of `item`.
    fn is_possible(&self, item: &CalendarItem, part: ItemPart) -> bool {
        match self {
            Self::SetEnd { .. } | Self::SetPattern { .. } => item.series.is_some(),
            Self::UndoException { .. } => matches!(part, ItemPart::Exception(_)),
            Self::Respond { attendee, .. } => *attendee < item.content.attendees.len(),
            _ => true,
        }
    }
}

/// Applies an edit to an item, with all preconditions checked.
fn apply(item: &mut CalendarItem, edit: &Edit, part: ItemPart) {
    let day = part.day();
    let when = item.span_of(part);
    let base = item.exception(day).0.clone();
    let (change, modified) = (item.change, item.modified);
    let zone = item.zone.clone();
    let all_day = item.all_day;
    let moved = |when: LocalSpan, start: Timestamp| {
        let start = zone.local(start);
        when.with_start(if all_day { start.date().to_datetime(Time::midnight()) } else { start })
    };
    match edit {
        Edit::Rename { subject, .. } => item.content.subject = subject.as_str().into(),
        Edit::Rewrite { text, .. } => item.content.body = body_of(text),
        Edit::Move { start, .. } => item.when = moved(item.when, *start),
        Edit::Respond { attendee, response, .. } => {
            let mut attendees = item.content.attendees.to_vec();
            if let Some(attendee) = attendees.get_mut(*attendee) {
                attendee.response = response.as_str().into();
                attendee.answered = Some(modified);
            }
            item.content.attendees = attendees.into();
        }
        Edit::CancelMeeting { .. } => {
            item.content.cancelled = true;
            item.content.show_as = "free";
            item.content.subject = format!("Canceled: {}", item.content.subject).into();
        }
        _ => {}
    }
    let Some(series) = item.series.as_mut() else { return };
    match edit {
        Edit::Move { .. } | Edit::SetPattern { .. } => {
            if let Edit::SetPattern { repeats, .. } = edit {
                series.pattern = repeats.clone();
            }
            series.exceptions.clear();
            series.cancelled.clear();
        }
        Edit::SetEnd { until, .. } => {
            series.until = until.map(day_of);
            let last = series.until.unwrap_or(i32::MAX);
            series.exceptions.retain(|day, _| *day <= last);
            series.cancelled.retain(|day| *day <= last);
        }
        Edit::CancelOccurrence { .. } => {
            series.exceptions.remove(&day);
            series.cancelled.insert(day);
        }
        Edit::MoveOccurrence { start, .. } => {
            let when = moved(when, *start);
            series.exceptions.insert(day, Exception { when, content: base, change, modified });
        }
        Edit::RenameOccurrence { subject, .. } => {
            let content = EventContent { subject: subject.as_str().into(), ..base };
            series.exceptions.insert(day, Exception { when, content, change, modified });
        }
        Edit::UndoException { .. } => {
            series.exceptions.remove(&day);
        }
        _ => {}
    }
}
