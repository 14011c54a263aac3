//! Named changes to calendars. All preconditions are checked before anything is changed.

use std::sync::Arc;

use jiff::civil::{Date, DateTime, Time};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::content::{EventBody, EventContent, LocalSpan};
use super::event::{CalendarItem, ItemPart};
use super::ids::MailboxIds;
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
        let id_of = |key: u32, day: i32| place.id(&super::event::EventForm::plain(), key, day);
        let edit = &mutation.edit;
        if let Some(new) = edit.new_item(&self.mailboxes[mailbox].zone) {
            return Ok(id_of(self.create(mailbox, calendar, new, now), 0));
        }
        let ids = MailboxIds { mailbox: place.mailbox, immutable: false };
        let event = edit.target_id().ok_or(MutationError::NoEvent)?;
        let named = ids
            .read(event)
            .filter(|named| usize::from(named.calendar) == calendar)
            .ok_or(MutationError::NoEvent)?;
        let this = &mut self.mailboxes[mailbox].calendars[calendar];
        let item = this.items.get(&named.key).ok_or(MutationError::NoEvent)?;
        let part = edit.target_part(item, i32::from(named.day))?;
        if let Edit::Delete { .. } = edit {
            this.delete(named.key);
            return Ok(id_of(named.key, 0));
        }
        let body = match edit {
            Edit::Rewrite { text, .. } => Some(super::population::body_of(text)),
            _ => None,
        };
        this.edit(named.key, now, |item, change| {
            let at = item.modified;
            apply(item, edit, part, change, at, body);
        });
        Ok(id_of(named.key, part.day()))
    }

    /// Adds an item to a calendar. Returns its key.
    fn create(&mut self, mailbox: usize, calendar: usize, new: NewItem<'_>, now: Timestamp) -> u32 {
        let content = self.content(mailbox, new.subject, 400);
        let owner = &mut self.mailboxes[mailbox];
        let zone = owner.zone.clone();
        let end = new.start.checked_add(new.length).unwrap_or(new.start);
        owner.calendars[calendar].add(|key, change| CalendarItem {
            key,
            zone,
            when: LocalSpan { start: new.start, end },
            all_day: new.all_day,
            content,
            created: now,
            modified: now,
            change,
            series: new.series,
        })
    }
}

/// The item that an edit creates, without its random content.
struct NewItem<'a> {
    subject: &'a str,
    /// The start, local to the mailbox's own time zone.
    start: DateTime,
    length: SignedDuration,
    series: Option<Series>,
    all_day: bool,
}

impl Edit {
    /// The name of the edit, as in its JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::CreateSingle { .. } => "create_single",
            Self::CreateAllDay { .. } => "create_all_day",
            Self::CreateSeries { .. } => "create_series",
            Self::Rename { .. } => "rename",
            Self::Rewrite { .. } => "rewrite",
            Self::Move { .. } => "move",
            Self::Delete { .. } => "delete",
            Self::CancelOccurrence { .. } => "cancel_occurrence",
            Self::MoveOccurrence { .. } => "move_occurrence",
            Self::RenameOccurrence { .. } => "rename_occurrence",
            Self::UndoException { .. } => "undo_exception",
            Self::SetEnd { .. } => "set_end",
            Self::SetPattern { .. } => "set_pattern",
            Self::Touch { .. } => "touch",
            Self::Respond { .. } => "respond",
            Self::CancelMeeting { .. } => "cancel_meeting",
        }
    }

    /// The id of the existing event or instance that the edit changes, if any.
    fn target_id(&self) -> Option<&str> {
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
            | Self::CancelMeeting { event } => Some(event),
            Self::CancelOccurrence { occurrence }
            | Self::MoveOccurrence { occurrence, .. }
            | Self::RenameOccurrence { occurrence, .. }
            | Self::UndoException { occurrence } => Some(occurrence),
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
                let series = Series {
                    pattern: repeats.clone(),
                    until: until.map(day_of),
                    exceptions: Default::default(),
                    cancelled: Default::default(),
                };
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

    /// The part of `item` that the edit changes; `day` is the day of its target's id, 0 for the
    /// item itself.
    ///
    /// # Errors
    /// If the edit is not possible.
    fn target_part(&self, item: &CalendarItem, day: i32) -> Result<ItemPart, MutationError> {
        let of_instance = day != 0;
        let part = if of_instance { item.instance(day) } else { Some(ItemPart::Itself) };
        let part = part.ok_or(MutationError::NoEvent)?;
        let needs_series =
            matches!(self, Self::SetEnd { .. } | Self::SetPattern { .. }) || of_instance;
        let possible = of_instance == self.is_of_instance()
            && (item.series.is_some() || !needs_series)
            && match self {
                Self::UndoException { .. } => !matches!(part, ItemPart::Occurrence(_)),
                Self::Respond { attendee, .. } => *attendee < item.content.attendees.len(),
                _ => true,
            };
        if possible { Ok(part) } else { Err(MutationError::NoEvent) }
    }

    fn is_of_instance(&self) -> bool {
        matches!(
            self,
            Self::CancelOccurrence { .. }
                | Self::MoveOccurrence { .. }
                | Self::RenameOccurrence { .. }
                | Self::UndoException { .. }
        )
    }
}

/// Applies an edit to an item, with all preconditions checked.
fn apply(
    item: &mut CalendarItem,
    edit: &Edit,
    part: ItemPart,
    change: u64,
    now: Timestamp,
    body: Option<Arc<EventBody>>,
) {
    let day = part.day();
    let when = item.span_of(part);
    let base: EventContent = match item.series.as_ref().and_then(|s| s.exceptions.get(&day)) {
        Some(exception) => exception.content.clone(),
        None => item.content.clone(),
    };
    let zone = item.zone.clone();
    let all_day = item.all_day;
    let moved = |when: LocalSpan, start: Timestamp| {
        let start = zone.local(start);
        when.with_start(if all_day { start.date().to_datetime(Time::midnight()) } else { start })
    };
    match edit {
        Edit::Rename { subject, .. } => item.content.subject = subject.as_str().into(),
        Edit::Rewrite { .. } => {
            if let Some(body) = body {
                item.content.body = body;
            }
        }
        Edit::Move { start, .. } => item.when = moved(item.when, *start),
        Edit::Respond { attendee, response, .. } => {
            let mut attendees = item.content.attendees.to_vec();
            if let Some(attendee) = attendees.get_mut(*attendee) {
                attendee.response = response.as_str().into();
                attendee.answered = Some(now);
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
            let exception = Exception { when, content: base, change, modified: now };
            series.exceptions.insert(day, exception);
        }
        Edit::RenameOccurrence { subject, .. } => {
            let content = EventContent { subject: subject.as_str().into(), ..base };
            series.exceptions.insert(day, Exception { when, content, change, modified: now });
        }
        Edit::UndoException { .. } => {
            series.exceptions.remove(&day);
        }
        _ => {}
    }
}
