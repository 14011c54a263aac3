//! Makes random changes to calendars.
//!
//! Each change is returned as a [`Mutation`]; applied to an identical simulator, it makes the same
//! change.

use jiff::{SignedDuration, Timestamp};

use super::event::{CalendarContext, CalendarItem, EventForm, ItemPart};
use super::mutation::{Edit, Mutation};
use super::population::{CHORES, MEETINGS};
use super::series::Pattern;
use super::state::SimulatorState;
use super::zone::{Zone, date_of, day_of};

impl SimulatorState {
    /// Picks a possible mutation and applies it.
    pub(super) fn mutate_randomly(&mut self) -> Option<Mutation> {
        for _ in 0..100 {
            let mut rng = self.mutation_rng.clone();
            let picked = self.pick(&mut rng);
            self.mutation_rng = rng;
            if let Some(mutation) = picked
                && self.mutate(&mutation).is_ok()
            {
                return Some(mutation);
            }
        }
        None
    }

    fn pick(&self, rng: &mut fastrand::Rng) -> Option<Mutation> {
        if self.mailboxes.is_empty() {
            return None;
        }
        let mailbox = rng.usize(..self.mailboxes.len());
        let owner = &self.mailboxes[mailbox];
        let calendar = rng.usize(..owner.calendars.len());
        let this = owner.calendars.get(calendar).filter(|calendar| !calendar.deleted)?;
        let mut picker = EditPicker {
            rng,
            now: self.env.now(),
            zone: &owner.zone,
            context: this.place,
            items: this.items.values().map(|item| &**item).collect(),
        };
        let edit = picker.edit(this.at_capacity())?;
        let mailbox = owner.name();
        Some(Mutation { mailbox, calendar: (calendar > 0).then(|| this.id.clone()), edit })
    }
}

/// Picks a random edit of one calendar. Seeds stay reproducible only while the random numbers are
/// drawn in the same order.
struct EditPicker<'a> {
    rng: &'a mut fastrand::Rng,
    now: Timestamp,
    /// The time zone of the calendar's owner.
    zone: &'a Zone,
    context: CalendarContext,
    items: Vec<&'a CalendarItem>,
}

impl<'a> EditPicker<'a> {
    /// Picks an edit; `None` if the calendar has no event of the type that the edit needs.
    /// `at_capacity` says whether the calendar has too many single events, and too many series.
    fn edit(&mut self, at_capacity: (bool, bool)) -> Option<Edit> {
        let (crowded_with_singles, crowded_with_series) = at_capacity;
        Some(match self.rng.u8(..24) {
            0..=2 if crowded_with_singles => Edit::Delete { event: self.single_id()? },
            3 | 4 if crowded_with_series => Edit::Delete { event: self.series_id()? },
            0 | 1 => Edit::CreateSingle {
                subject: self.subject(),
                start: self.start(),
                minutes: self.minutes(),
            },
            2 => Edit::CreateAllDay {
                subject: self.subject(),
                date: self.zone.local(self.start()).date(),
                days: self.rng.u16(1..4),
            },
            3 | 4 => self.create_series(),
            5 => Edit::Rename { event: self.single_id()?, subject: self.subject() },
            6 => Edit::Rewrite { event: self.single_id()?, text: self.subject() },
            7 => Edit::Move { event: self.single_id()?, start: self.start() },
            8 => self.move_far()?,
            9 | 10 => Edit::Delete { event: self.single_id()? },
            11 | 12 => Edit::CancelOccurrence { occurrence: self.occurrence_id()? },
            13 | 14 => self.move_occurrence()?,
            15 => Edit::RenameOccurrence {
                occurrence: self.occurrence_id()?,
                subject: self.subject(),
            },
            16 => self.edit_exception()?,
            17 => {
                let event = self.series_id()?;
                if self.rng.bool() {
                    Edit::Rename { event, subject: self.subject() }
                } else {
                    Edit::Rewrite { event, text: self.subject() }
                }
            }
            18 => {
                let item = self.series()?;
                let start = item.zone.instant(item.when.start);
                let by = SignedDuration::from_mins(15 * self.rng.i64(-12..13));
                Edit::Move { event: self.id(item, 0), start: start + by }
            }
            19 => self.set_end()?,
            20 => Edit::SetPattern { event: self.series_id()?, repeats: self.pattern() },
            21 => {
                let item = self.any_item()?;
                Edit::Touch { event: self.id(item, 0) }
            }
            22 => self.respond_or_cancel()?,
            // Whole series are rarely deleted, or none would be left.
            _ if self.rng.u8(..3) == 0 => Edit::Delete { event: self.series_id()? },
            _ => Edit::Touch { event: self.series_id()? },
        })
    }

    fn create_series(&mut self) -> Edit {
        let mut start = self.start();
        // Some series are older than any window.
        if self.rng.u8(..3) == 0 {
            start -= SignedDuration::from_hours(24 * self.rng.i64(60..900));
        }
        let until = self.rng.bool().then(|| {
            let days = self.rng.i32(1..1000);
            date_of(day_of(self.zone.local(start).date()) + days)
        });
        Edit::CreateSeries {
            subject: self.subject(),
            start,
            minutes: self.minutes(),
            repeats: self.pattern(),
            until,
            all_day: self.rng.u8(..6) == 0,
        }
    }

    /// Moves a single event out of, or back into, the usual windows.
    fn move_far(&mut self) -> Option<Edit> {
        let item = self.single()?;
        let there = item.zone.instant(item.when.start);
        let far = (there - self.now).abs() > SignedDuration::from_hours(24 * 900);
        let start =
            if far { self.start() } else { self.start() + SignedDuration::from_hours(24 * 1500) };
        Some(Edit::Move { event: self.id(item, 0), start })
    }

    /// Moves an occurrence, mostly by hours, sometimes out of the window.
    fn move_occurrence(&mut self) -> Option<Edit> {
        let (item, day) = self.instance(false)?;
        let start = item.zone.instant(item.occurrence_when(day).start);
        let hours = if self.rng.u8(..5) == 0 {
            24 * self.rng.i64(-300..300)
        } else {
            self.rng.i64(-30..30)
        };
        Some(Edit::MoveOccurrence {
            occurrence: self.id(item, day),
            start: start + SignedDuration::from_hours(hours),
        })
    }

    /// Cancels, renames or undoes an exception.
    fn edit_exception(&mut self) -> Option<Edit> {
        let (item, day) = self.instance(true)?;
        let occurrence = self.id(item, day);
        Some(match self.rng.u8(..3) {
            0 => Edit::CancelOccurrence { occurrence },
            1 => Edit::RenameOccurrence { occurrence, subject: self.subject() },
            _ => Edit::UndoException { occurrence },
        })
    }

    /// Gives a series another end, or none.
    fn set_end(&mut self) -> Option<Edit> {
        let item = self.series()?;
        let until = (self.rng.u8(..4) > 0)
            .then(|| self.zone.local(self.start() + SignedDuration::from_hours(24 * 60)).date());
        Some(Edit::SetEnd { event: self.id(item, 0), until })
    }

    /// Records an attendee's response, or cancels an event without attendees.
    fn respond_or_cancel(&mut self) -> Option<Edit> {
        let item = self.any_item()?;
        let event = self.id(item, 0);
        let attendees = item.content.attendees.len();
        if attendees == 0 {
            return Some(Edit::CancelMeeting { event });
        }
        let responses = ["accepted", "declined", "tentativelyAccepted"];
        Some(Edit::Respond {
            event,
            attendee: self.rng.usize(..attendees),
            response: responses[self.rng.usize(..3)].to_owned(),
        })
    }

    fn subject(&mut self) -> String {
        let subjects = if self.rng.bool() { MEETINGS } else { CHORES };
        format!("{} ({})", subjects[self.rng.usize(..subjects.len())], self.rng.u16(..))
    }

    /// A start on a quarter of an hour, from 30 days ago to 180 days ahead.
    fn start(&mut self) -> Timestamp {
        let hours = self.rng.i64(-30 * 24..180 * 24);
        let quarter = self.now.as_second().div_euclid(900) * 900 + hours * 3600;
        Timestamp::from_second(quarter).unwrap_or(self.now)
    }

    /// The length of an event.
    fn minutes(&mut self) -> u32 {
        15 * self.rng.u32(1..9)
    }

    fn pattern(&mut self) -> Pattern {
        let rng = &mut *self.rng;
        match rng.u8(..4) {
            0 => Pattern::Daily { every: rng.u16(1..4) },
            1 => Pattern::Weekly { every: rng.u16(1..3), days: vec![rng.u8(..7), rng.u8(..7)] },
            2 => Pattern::Weekly { every: 1, days: Vec::new() },
            _ => Pattern::Monthly { every: rng.u16(1..3) },
        }
    }

    fn any_item(&mut self) -> Option<&'a CalendarItem> {
        let at = self.rng.usize(..self.items.len().max(1));
        self.items.get(at).copied()
    }

    fn single(&mut self) -> Option<&'a CalendarItem> {
        self.item_of_type(false)
    }

    fn series(&mut self) -> Option<&'a CalendarItem> {
        self.item_of_type(true)
    }

    fn item_of_type(&mut self, is_series: bool) -> Option<&'a CalendarItem> {
        let mut items = self.items.clone();
        items.retain(|item| item.series.is_some() == is_series);
        (!items.is_empty()).then(|| items[self.rng.usize(..items.len())])
    }

    /// A series, and the day of one of its occurrences or, if `exception`, of its exceptions.
    fn instance(&mut self, exception: bool) -> Option<(&'a CalendarItem, i32)> {
        let item = self.series()?;
        let days = |days: i64| self.now + SignedDuration::from_hours(24 * days);
        let mut parts = item.instances((days(-40), days(200)));
        parts.retain(|part| matches!(part, ItemPart::Exception(_)) == exception);
        let day = parts.get(self.rng.usize(..parts.len().max(1)))?.day();
        Some((item, day))
    }

    fn single_id(&mut self) -> Option<String> {
        let item = self.single()?;
        Some(self.id(item, 0))
    }

    fn series_id(&mut self) -> Option<String> {
        let item = self.series()?;
        Some(self.id(item, 0))
    }

    fn occurrence_id(&mut self) -> Option<String> {
        let (item, day) = self.instance(false)?;
        Some(self.id(item, day))
    }

    fn id(&self, item: &CalendarItem, day: i32) -> String {
        self.context.id(&EventForm::plain(), item.key, day)
    }
}
