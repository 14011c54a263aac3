//! Creates people and rooms, and fills their calendars.

use std::sync::Arc;

use jiff::civil::{DateTime, Time, Weekday};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::content::{Attendee, EventBody, EventContent, LocalSpan};
use super::directory::RoomPlace;
use super::event::CalendarItem;
use super::ids::mix;
use super::series::{Pattern, Series};
use super::state::SimulatorState;
use super::zone::day_of;

/// What to fill a calendar with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Population {
    /// The number of single events.
    pub singles: usize,
    /// The number of series, of all patterns; some endless, some older than `spread_days`.
    pub series: usize,
    /// The number of all-day single events.
    pub all_day: usize,
    /// The approximate length of bodies, in bytes of HTML.
    pub body_bytes: usize,
    /// The middle of the days that events are spread over.
    pub around: Timestamp,
    /// How many days before and after `around` events are spread over.
    pub spread_days: u32,
}

pub(super) const MEETINGS: &[&str] = &[
    "Weekly sync",
    "Design review",
    "Sprint planning",
    "Customer call: Fabrikam",
    "Budget Q3",
    "Interview: platform engineer",
    "All hands",
    "1:1",
    "Incident review",
    "Roadmap",
    "Steering committee",
    "Onboarding",
    "Security office hours",
    "Réunion d'équipe",
    "Jour fixe – Vertrieb",
];

pub(super) const CHORES: &[&str] = &[
    "Focus time",
    "Dentist",
    "Lunch",
    "Pick up car",
    "Train to Lyon",
    "School play 🎭",
    "Gym",
    "Write report",
    "Expense claims",
    "Call the bank",
];

const DAYS_OFF: &[&str] = &[
    "Vacation",
    "Public holiday",
    "Conference: RustConf",
    "Working from home",
    "Offsite",
    "Release day",
];

const GIVEN: &[&str] = &[
    "Amara", "Ben", "Chiara", "Dmitri", "Elif", "Farid", "Greta", "Hiro", "Ines", "Jonas", "Kemi",
    "Lena", "Mateo", "Nora", "Oskar", "Priya", "Quentin", "Rosa", "Sven", "Tomasz", "Uma",
    "Viktor", "Wanjiru", "Ximena", "Yusuf", "Zoé",
];

const FAMILY: &[&str] = &[
    "Okafor",
    "Larsson",
    "Ricci",
    "Volkov",
    "Yilmaz",
    "Haddad",
    "Baumann",
    "Tanaka",
    "Moreira",
    "Keller",
    "Adeyemi",
    "Hoffmann",
    "García",
    "Lindqvist",
    "Nowak",
    "Raman",
    "Dubois",
    "Silva",
    "Berg",
    "Zielinski",
    "Patel",
    "Horvat",
    "Mwangi",
    "Castillo",
    "Demir",
    "Fournier",
];

const ROOMS: &[&str] = &[
    "Aurora", "Beacon", "Cedar", "Delta", "Ember", "Fjord", "Garnet", "Harbor", "Iris", "Juniper",
    "Kestrel", "Lagoon", "Maple", "Nimbus", "Orchid", "Pine",
];

const SENTENCES: &[&str] = &[
    "Please read the attached notes before we meet.",
    "We will go through the open points of last time and decide on the next steps.",
    "Agenda: numbers, risks, people, any other business.",
    "If you cannot come, send somebody who can decide.",
    "The room has a screen; bring your own adapter.",
    "Dial in from the link below if you are travelling.",
];

/// An item to add to a calendar.
pub(super) struct NewItem<'a> {
    pub(super) subject: &'a str,
    /// The start, local to the mailbox's own time zone.
    pub(super) start: DateTime,
    pub(super) length: SignedDuration,
    pub(super) series: Option<Series>,
    pub(super) all_day: bool,
}

/// A body with nothing but `text`.
pub(super) fn body_of(text: &str) -> Arc<EventBody> {
    let safe = text.replace('&', "&amp;").replace('<', "&lt;");
    Arc::new(EventBody {
        html: format!(
            "<html>\r\n<head></head>\r\n<body>\r\n<p>{safe}</p>\r\n</body>\r\n</html>\r\n"
        )
        .into(),
        text: format!("{text}\r\n").into(),
    })
}

impl SimulatorState {
    /// A body of about `bytes`, one of 16 of that size that all mailboxes share.
    fn body(&mut self, bytes: usize, which: u64) -> Arc<EventBody> {
        let which = which % 16;
        let body = self.bodies.entry((bytes, which)).or_insert_with(|| {
            let mut rng = fastrand::Rng::with_seed(mix(&[bytes as u64, which]));
            let mut html = String::from(
                "<html>\r\n<head>\r\n<meta http-equiv=\"Content-Type\" content=\"text/html; charset=utf-8\">\r\n</head>\r\n<body lang=\"EN-US\">\r\n<div class=\"WordSection1\">\r\n",
            );
            let mut text = String::new();
            while html.len() < bytes {
                let sentence = SENTENCES[rng.usize(..SENTENCES.len())];
                let number = rng.u32(..);
                html.push_str(&format!("<p class=\"MsoNormal\">{sentence} [{number:08x}]</p>\r\n"));
                text.push_str(&format!("{sentence} [{number:08x}]\r\n"));
            }
            html.push_str("</div>\r\n</body>\r\n</html>\r\n");
            Arc::new(EventBody { html: html.into(), text: text.into() })
        });
        body.clone()
    }

    /// The content of an event of that mailbox: random, except for the subject.
    fn content(&mut self, mailbox: usize, subject: &str, body_bytes: usize) -> EventContent {
        // Not drawn from the generator that picks mutations, so that they can be replayed by name.
        let past = self.mailboxes[mailbox].calendars.iter().map(|calendar| calendar.version).sum();
        let mut rng = fastrand::Rng::with_seed(mix(&[self.seed, mailbox as u64, past, 29]));
        let owner = self.mailboxes[mailbox].person.clone();
        let mut attendees = Vec::new();
        let mut location = String::new();
        for _ in 0..rng.usize(..4) {
            let other = &self.mailboxes[rng.usize(..self.mailboxes.len())].person;
            if other.address == owner.address {
                continue;
            }
            let room = other.address.starts_with("room-");
            if room {
                location = other.name.to_string();
            }
            let responses = ["none", "accepted", "tentativelyAccepted", "declined"];
            attendees.push(Attendee {
                who: other.clone(),
                kind: if room {
                    "resource"
                } else if rng.bool() {
                    "required"
                } else {
                    "optional"
                },
                response: responses[rng.usize(..4)].into(),
                answered: None,
            });
        }
        let own = attendees.is_empty() || rng.u8(..4) > 0;
        let organizer = match attendees.first() {
            Some(first) if !own => first.who.clone(),
            _ => owner,
        };
        if location.is_empty() && rng.bool() {
            location = ["Café", "Phone", "Main Office", "At home"][rng.usize(..4)].to_owned();
        }
        EventContent {
            subject: subject.into(),
            body: self.body(body_bytes, rng.u64(..)),
            location: location.into(),
            organizer,
            is_organizer: own,
            online: !attendees.is_empty() && rng.bool(),
            attendees: attendees.into(),
            show_as: ["busy", "busy", "busy", "tentative", "free", "workingElsewhere"]
                [rng.usize(..6)],
            sensitivity: ["normal", "normal", "normal", "private", "confidential"][rng.usize(..5)],
            importance: ["normal", "normal", "normal", "high", "low"][rng.usize(..5)],
            category: [None, None, Some("Blue category"), Some("Important")][rng.usize(..4)],
            cancelled: false,
        }
    }

    /// Adds an item to a calendar. Its content is random, except for the subject. Returns its key.
    pub(super) fn create(
        &mut self,
        (mailbox, calendar): (usize, usize),
        new: NewItem<'_>,
        body_bytes: usize,
        created: Timestamp,
    ) -> u32 {
        let NewItem { subject, start, length, series, all_day } = new;
        let content = self.content(mailbox, subject, body_bytes);
        let owner = &mut self.mailboxes[mailbox];
        let zone = owner.zone.clone();
        let end = start.checked_add(length).unwrap_or(start);
        owner.calendars[calendar].add(|key, change| CalendarItem {
            key,
            zone,
            when: LocalSpan { start, end },
            all_day,
            content,
            created,
            modified: created,
            change,
            series,
        })
    }

    /// Fills a calendar and clears its history.
    pub(super) fn populate(&mut self, mailbox: usize, calendar: usize, plan: &Population) {
        let mut rng = self.mutation_rng.fork();
        let spread = i64::from(plan.spread_days.max(1));
        let middle = self.mailboxes[mailbox].zone.local(plan.around).date();
        for number in 0..plan.singles + plan.series + plan.all_day {
            let all_day = number >= plan.singles + plan.series;
            let in_series = number >= plan.singles && !all_day;
            let mut offset = rng.i64(-spread..=spread);
            if in_series {
                // Series begin in the past, some before any window.
                offset = -rng.i64(0..spread.min(300) * 3);
            }
            let mut date =
                middle.checked_add(SignedDuration::from_hours(24 * offset)).unwrap_or(middle);
            if rng.u8(..10) > 0 && matches!(date.weekday(), Weekday::Saturday | Weekday::Sunday) {
                date = date.checked_sub(SignedDuration::from_hours(48)).unwrap_or(date);
            }
            let subjects = match (all_day, rng.bool()) {
                (true, _) => DAYS_OFF,
                (false, true) => MEETINGS,
                (false, false) if in_series => MEETINGS,
                _ => CHORES,
            };
            let subject = subjects[rng.usize(..subjects.len())];
            let (start, length) = if all_day {
                let days = i64::from(rng.u8(1..4));
                (date.to_datetime(Time::midnight()), SignedDuration::from_hours(24 * days))
            } else {
                let hour = rng.i8(7..19);
                let long = SignedDuration::from_mins(15 * rng.i64(1..7));
                (date.at(hour, 15 * rng.i8(0..4), 0, 0), long)
            };
            let series = in_series.then(|| {
                let pattern = match rng.u8(..8) {
                    0 => Pattern::Daily { every: 1 },
                    1 => Pattern::Weekly { every: 1, days: vec![1, 2, 3, 4, 5] },
                    2 => Pattern::Weekly { every: 2, days: Vec::new() },
                    3 => Pattern::Monthly { every: 1 },
                    _ => Pattern::Weekly { every: 1, days: Vec::new() },
                };
                let until = rng.bool().then(|| day_of(date) + rng.i32(30..800));
                Series::new(pattern, until)
            });
            let age = SignedDuration::from_hours(rng.i64(1..2000));
            let created = plan.around.checked_sub(age).unwrap_or(plan.around);
            let new = NewItem { subject, start, length, series, all_day };
            self.create((mailbox, calendar), new, plan.body_bytes, created);
        }
        self.mailboxes[mailbox].calendars[calendar].clear_history();
    }

    /// Lists a mailbox as a room of one of three buildings, which are room lists.
    fn describe_room(&mut self, mailbox: usize, number: u64) {
        let id = self.mailboxes[mailbox].object_id.clone();
        let some = |salt: u64| mix(&[self.seed, number, salt, 29]);
        let building = ["A", "B", "C"][(some(1) % 3) as usize];
        let list = format!("building-{}@contoso.example", building.to_lowercase());
        let place = RoomPlace {
            building: format!("Building {building}"),
            floor: (some(2) % 6) as i32 - 1,
            capacity: 2 + (some(3) % 30) as u32,
        };
        self.directory.room_lists.entry(list).or_default().insert(id.clone());
        self.directory.room_mailboxes.insert(id.clone());
        self.directory.rooms.insert(id, place);
    }

    /// Adds people and rooms with realistic names and calendars. Returns their addresses.
    pub(super) fn organisation(
        &mut self,
        people: usize,
        rooms: usize,
        around: Timestamp,
    ) -> Vec<String> {
        let mut mailboxes = Vec::new();
        for number in 0..people {
            let given = GIVEN[number % GIVEN.len()];
            let family = FAMILY[(number + number / GIVEN.len() * 7) % FAMILY.len()];
            let mut local: String = given.to_lowercase().replace('é', "e");
            if number >= GIVEN.len() {
                local = format!("{local}.{}", family.to_lowercase().replace('í', "i"));
            }
            if number >= GIVEN.len() * 26 {
                local = format!("{local}{number}");
            }
            let address = format!("{local}@contoso.example");
            let mailbox = self.add_mailbox(&address, &format!("{given} {family}"));
            mailboxes.push((address, mailbox, false));
        }
        for number in 0..rooms {
            let name = ROOMS[number % ROOMS.len()];
            let suffix = match number / ROOMS.len() {
                0 => String::new(),
                floor => format!("-{}", floor + 1),
            };
            let address = format!("room-{}{suffix}@contoso.example", name.to_lowercase());
            let mailbox = self.add_mailbox(&address, &format!("Room {name}{suffix}"));
            self.describe_room(mailbox, number as u64);
            mailboxes.push((address, mailbox, true));
        }
        for (at, &(_, mailbox, room)) in mailboxes.iter().enumerate() {
            let busy = mix(&[self.seed, at as u64, 23]) % 20;
            let plan = Population {
                singles: 25 + busy as usize,
                series: if room { 8 } else { 5 },
                all_day: if room { 0 } else { 4 },
                body_bytes: 900,
                around,
                spread_days: 60,
            };
            self.populate(mailbox, 0, &plan);
        }
        mailboxes.into_iter().map(|(address, _, _)| address).collect()
    }
}
