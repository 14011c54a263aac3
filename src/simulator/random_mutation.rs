//! Makes random changes to calendars.
//!
//! Each change is returned as a [`Mutation`]; applied to an identical simulator, it makes the same
//! change.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::event::{CalendarItem, ItemPart};
use super::mutation::{Edit, Mutation};
use super::population::{CHORES, MEETINGS};
use super::series::Pattern;
use super::state::SimulatorState;
use super::zone::{date_of, day_of};

impl SimulatorState {
    /// Picks a possible mutation and applies it.
    pub(super) fn mutate_randomly(&mut self) -> Option<Mutation> {
        for _ in 0..100 {
            let Some(mutation) = self.pick() else { continue };
            if self.mutate(&mutation).is_ok() {
                return Some(mutation);
            }
        }
        None
    }

    fn pick(&mut self) -> Option<Mutation> {
        let mut rng = self.mutation_rng.clone();
        let picked = self.pick_with(&mut rng);
        self.mutation_rng = rng;
        picked
    }

    fn pick_with(&self, rng: &mut fastrand::Rng) -> Option<Mutation> {
        if self.mailboxes.is_empty() {
            return None;
        }
        let mailbox = rng.usize(..self.mailboxes.len());
        let owner = &self.mailboxes[mailbox];
        let calendar = rng.usize(..owner.calendars.len());
        let this = owner.calendars.get(calendar).filter(|calendar| !calendar.deleted)?;
        let place = self.rendering(mailbox, calendar);
        let now = self.env.now();
        let id = |item: &CalendarItem, day: i32| {
            place.id(&super::event::EventForm::plain(), item.key, day)
        };
        let about = |rng: &mut fastrand::Rng| {
            let hours = rng.i64(-30 * 24..180 * 24);
            let quarter = now.as_second().div_euclid(900) * 900 + hours * 3600;
            Timestamp::from_second(quarter).unwrap_or(now)
        };
        let subject = |rng: &mut fastrand::Rng| {
            let subjects = if rng.bool() { MEETINGS } else { CHORES };
            format!("{} ({})", subjects[rng.usize(..subjects.len())], rng.u16(..))
        };
        let pattern = |rng: &mut fastrand::Rng| match rng.u8(..4) {
            0 => Pattern::Daily { every: rng.u16(1..4) },
            1 => Pattern::Weekly { every: rng.u16(1..3), days: vec![rng.u8(..7), rng.u8(..7)] },
            2 => Pattern::Weekly { every: 1, days: Vec::new() },
            _ => Pattern::Monthly { every: rng.u16(1..3) },
        };
        let items: Vec<&Arc<CalendarItem>> = this.items.values().collect();
        let single = |rng: &mut fastrand::Rng| {
            let singles: Vec<_> = items.iter().filter(|i| i.series.is_none()).collect();
            (!singles.is_empty()).then(|| Arc::clone(singles[rng.usize(..singles.len())]))
        };
        let series = |rng: &mut fastrand::Rng| {
            let all: Vec<_> = items.iter().filter(|i| i.series.is_some()).collect();
            (!all.is_empty()).then(|| Arc::clone(all[rng.usize(..all.len())]))
        };
        let instance = |rng: &mut fastrand::Rng, exception: bool| {
            let item = series(rng)?;
            let days = |days: i64| now + SignedDuration::from_hours(24 * days);
            let mut parts = item.instances((days(-40), days(200)));
            parts.retain(|part| matches!(part, ItemPart::Exception(_)) == exception);
            let day = parts.get(rng.usize(..parts.len().max(1)))?.day();
            Some((item, day))
        };
        let some_minutes = |rng: &mut fastrand::Rng| 15 * rng.u32(1..9);
        let (crowded_with_singles, crowded_with_series) = this.at_capacity();
        let edit = match rng.u8(..24) {
            0..=2 if crowded_with_singles => Edit::Delete { event: id(&*single(rng)?, 0) },
            3 | 4 if crowded_with_series => Edit::Delete { event: id(&*series(rng)?, 0) },
            0 | 1 => Edit::CreateSingle {
                subject: subject(rng),
                start: about(rng),
                minutes: some_minutes(rng),
            },
            2 => Edit::CreateAllDay {
                subject: subject(rng),
                date: owner.zone.local(about(rng)).date(),
                days: rng.u16(1..4),
            },
            3 | 4 => {
                let mut start = about(rng);
                // Some series are older than any window.
                if rng.u8(..3) == 0 {
                    start -= SignedDuration::from_hours(24 * rng.i64(60..900));
                }
                let until = rng.bool().then(|| {
                    let days = rng.i32(1..1000);
                    date_of(day_of(owner.zone.local(start).date()) + days)
                });
                Edit::CreateSeries {
                    subject: subject(rng),
                    start,
                    minutes: some_minutes(rng),
                    repeats: pattern(rng),
                    until,
                    all_day: rng.u8(..6) == 0,
                }
            }
            5 => Edit::Rename { event: id(&*single(rng)?, 0), subject: subject(rng) },
            6 => Edit::Rewrite { event: id(&*single(rng)?, 0), text: subject(rng) },
            7 => Edit::Move { event: id(&*single(rng)?, 0), start: about(rng) },
            8 => {
                // Out of, or back into, the usual windows.
                let item = single(rng)?;
                let there = item.zone.instant(item.when.start);
                let far = (there - now).total(jiff::Unit::Hour).unwrap_or(0.0).abs() > 24.0 * 900.0;
                let start = if far {
                    about(rng)
                } else {
                    about(rng) + SignedDuration::from_hours(24 * 1500)
                };
                Edit::Move { event: id(&item, 0), start }
            }
            9 | 10 => Edit::Delete { event: id(&*single(rng)?, 0) },
            11 | 12 => {
                let (item, day) = instance(rng, false)?;
                Edit::CancelOccurrence { occurrence: id(&item, day) }
            }
            13 | 14 => {
                let (item, day) = instance(rng, false)?;
                let start = item.zone.instant(item.occurrence_when(day).start);
                // Mostly by hours, sometimes out of the window.
                let hours =
                    if rng.u8(..5) == 0 { 24 * rng.i64(-300..300) } else { rng.i64(-30..30) };
                Edit::MoveOccurrence {
                    occurrence: id(&item, day),
                    start: start + SignedDuration::from_hours(hours),
                }
            }
            15 => {
                let (item, day) = instance(rng, false)?;
                Edit::RenameOccurrence { occurrence: id(&item, day), subject: subject(rng) }
            }
            16 => {
                let (item, day) = instance(rng, true)?;
                match rng.u8(..3) {
                    0 => Edit::CancelOccurrence { occurrence: id(&item, day) },
                    1 => {
                        Edit::RenameOccurrence { occurrence: id(&item, day), subject: subject(rng) }
                    }
                    _ => Edit::UndoException { occurrence: id(&item, day) },
                }
            }
            17 => {
                let event = id(&*series(rng)?, 0);
                if rng.bool() {
                    Edit::Rename { event, subject: subject(rng) }
                } else {
                    Edit::Rewrite { event, text: subject(rng) }
                }
            }
            18 => {
                let item = series(rng)?;
                let start = item.zone.instant(item.when.start);
                let by = SignedDuration::from_mins(15 * rng.i64(-12..13));
                Edit::Move { event: id(&item, 0), start: start + by }
            }
            19 => {
                let item = series(rng)?;
                let until = (rng.u8(..4) > 0).then(|| {
                    owner.zone.local(about(rng) + SignedDuration::from_hours(24 * 60)).date()
                });
                Edit::SetEnd { event: id(&item, 0), until }
            }
            20 => Edit::SetPattern { event: id(&*series(rng)?, 0), repeats: pattern(rng) },
            21 => Edit::Touch { event: id(items.get(rng.usize(..items.len().max(1)))?, 0) },
            22 => {
                let item = items.get(rng.usize(..items.len().max(1)))?;
                let attendees = item.content.attendees.len();
                if attendees == 0 {
                    Edit::CancelMeeting { event: id(item, 0) }
                } else {
                    let responses = ["accepted", "declined", "tentativelyAccepted"];
                    Edit::Respond {
                        event: id(item, 0),
                        attendee: rng.usize(..attendees),
                        response: responses[rng.usize(..3)].to_owned(),
                    }
                }
            }
            // Whole series are rarely deleted, or none would be left.
            _ if rng.u8(..3) == 0 => Edit::Delete { event: id(&*series(rng)?, 0) },
            _ => Edit::Touch { event: id(&*series(rng)?, 0) },
        };
        let mailbox = owner.person.address.to_string();
        Some(Mutation { mailbox, calendar: (calendar > 0).then(|| this.id.clone()), edit })
    }
}
