//! Every edit of a series separately, in every combination of what Graph sends of it, where its
//! master is, how pages are split, and the kind of calendar. The mirror equals the plain listing,
//! and the feed has each difference exactly once.

use std::collections::BTreeSet;
use std::sync::Arc;

use calmirror::env::Env;
use calmirror::mirror::change::ChangeKind;
use calmirror::mirror::position::WindowId;
use calmirror::mirror::window::{CalendarRef, Completion, Edge, Edges, Window, WindowSettings};
use calmirror::simulator::{
    Behaviour, Edit, MasterOnPage, Mutation, Pattern, Simulator, SimulatorSettings,
};
use jiff::Timestamp;

use crate::compare::{EventsById, assert_mirrored, assert_same, changes_after, truth};
use crate::memory::Memory;
use crate::rig::{Rig, graph, noon, window_settings, window_with};

const MAILBOX: &str = "alice@contoso.com";
/// The edges of the windows below: eight weeks.
const EDGES: [&str; 2] = ["2026-10-05T00:00:00Z", "2026-11-30T00:00:00Z"];

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A weekly series: its name, its first start, and its last day.
type Kind = (&'static str, &'static str, Option<&'static str>);

const KINDS: [Kind; 3] = [
    ("in the window", "2026-10-06T09:00:00Z", Some("2026-11-28")),
    ("older than the window", "2024-03-05T09:00:00Z", Some("2027-06-01")),
    ("older and without end", "2023-02-07T09:00:00Z", None),
];

/// The id of a series and the ids of its eight instances.
struct SeriesIds {
    id: String,
    instances: Vec<String>,
}

/// An edit: its name, the edits of the series before it, the edit itself, and the numbers of
/// visible instances it removes, adds and changes.
struct EditCase {
    name: &'static str,
    before: fn(&SeriesIds) -> Vec<Edit>,
    edit: fn(&SeriesIds) -> Edit,
    counts: [usize; 3],
}

const fn case(
    name: &'static str,
    before: fn(&SeriesIds) -> Vec<Edit>,
    edit: fn(&SeriesIds) -> Edit,
    counts: [usize; 3],
) -> EditCase {
    EditCase { name, before, edit, counts }
}

fn nothing(_: &SeriesIds) -> Vec<Edit> {
    Vec::new()
}

fn moved(series: &SeriesIds, at: usize, start: &str) -> Edit {
    Edit::MoveOccurrence { occurrence: series.instances[at].clone(), start: start.parse().unwrap() }
}

fn renamed(series: &SeriesIds, at: usize) -> Edit {
    let occurrence = series.instances[at].clone();
    Edit::RenameOccurrence { occurrence, subject: "Another".into() }
}

fn cancelled(series: &SeriesIds, at: usize) -> Edit {
    Edit::CancelOccurrence { occurrence: series.instances[at].clone() }
}

fn one_of_each(series: &SeriesIds) -> Vec<Edit> {
    vec![moved(series, 1, "2026-10-14T15:00:00Z"), renamed(series, 5), cancelled(series, 3)]
}

fn until(series: &SeriesIds, last: &str) -> Edit {
    Edit::SetEnd { event: series.id.clone(), until: Some(last.parse().unwrap()) }
}

/// Every series has occurrences at 09:00 on the eight Tuesdays. A change of its time or pattern
/// drops its exceptions and cancellations. The change key of every instance changes with the
/// series' own, except for exceptions.
const EDITS: [EditCase; 18] = [
    case(
        "renamed",
        nothing,
        |s| Edit::Rename { event: s.id.clone(), subject: "Other".into() },
        [0, 0, 8],
    ),
    case(
        "renamed, with exceptions",
        one_of_each,
        |s| Edit::Rename { event: s.id.clone(), subject: "Other".into() },
        [0, 0, 5],
    ),
    case("touched", one_of_each, |s| Edit::Touch { event: s.id.clone() }, [0, 0, 5]),
    case(
        "moved by two hours",
        nothing,
        |s| Edit::Move { event: s.id.clone(), start: at("2026-10-06T11:00:00Z") },
        [0, 0, 8],
    ),
    case(
        "moved by two hours, with exceptions",
        one_of_each,
        |s| Edit::Move { event: s.id.clone(), start: at("2026-10-06T11:00:00Z") },
        [0, 1, 7],
    ),
    case(
        "moved to another day",
        one_of_each,
        |s| Edit::Move { event: s.id.clone(), start: at("2026-10-08T09:00:00Z") },
        [7, 8, 0],
    ),
    case(
        "moved behind the window",
        one_of_each,
        |s| Edit::Move { event: s.id.clone(), start: at("2028-02-01T09:00:00Z") },
        [7, 0, 0],
    ),
    case("shortened", nothing, |s| until(s, "2026-11-04"), [3, 0, 5]),
    case("shortened, with exceptions", one_of_each, |s| until(s, "2026-11-04"), [3, 0, 3]),
    case("ended before the window", one_of_each, |s| until(s, "2026-10-01"), [7, 0, 0]),
    case(
        "another pattern",
        one_of_each,
        |s| Edit::SetPattern {
            event: s.id.clone(),
            repeats: Pattern::Weekly { every: 1, days: vec![2, 5] },
        },
        [0, 9, 7],
    ),
    case("exception made by moving", nothing, |s| moved(s, 2, "2026-10-21T13:00:00Z"), [0, 0, 8]),
    case("exception made by renaming", nothing, |s| renamed(s, 2), [0, 0, 8]),
    // Within the additional day that listings cover.
    case(
        "exception moved out of the window",
        one_of_each,
        |s| moved(s, 7, "2026-11-30T12:00:00Z"),
        [1, 0, 4],
    ),
    case(
        "exception moved back into the window",
        |s| vec![moved(s, 7, "2026-11-30T12:00:00Z")],
        |s| moved(s, 7, "2026-11-26T09:00:00Z"),
        [0, 1, 7],
    ),
    case(
        "exception undone",
        one_of_each,
        |s| Edit::UndoException { occurrence: s.instances[1].clone() },
        [0, 0, 6],
    ),
    case("occurrence cancelled", nothing, |s| cancelled(s, 4), [1, 0, 7]),
    case("exception cancelled", one_of_each, |s| cancelled(s, 5), [1, 0, 5]),
];

/// A calendar and the fleet that mirrors it.
struct EditFixture {
    simulator: Simulator,
    calendar: Option<String>,
    rig: Rig,
    id: WindowId,
    edges: Edges,
}

impl EditFixture {
    fn edit(&self, edit: Edit) -> String {
        let calendar = self.calendar.clone();
        self.simulator.mutate(Mutation { mailbox: MAILBOX.into(), calendar, edit }).unwrap()
    }

    fn series(&self, (_, start, until): Kind) -> String {
        self.edit(Edit::CreateSeries {
            subject: "Weekly".into(),
            start: at(start),
            minutes: 30,
            repeats: Pattern::Weekly { every: 1, days: Vec::new() },
            until: until.map(|day| day.parse().unwrap()),
            all_day: false,
        })
    }

    /// The ids of a series' instances in the window, ordered by start.
    async fn instances(&self, series: &str) -> Vec<String> {
        let mut found: Vec<(String, String)> = Vec::new();
        for (id, event) in self.truth().await {
            if event["seriesMasterId"] == series {
                found.push((event["start"]["dateTime"].as_str().unwrap().to_owned(), id));
            }
        }
        found.sort();
        found.into_iter().map(|(_, id)| id).collect()
    }

    async fn truth(&self) -> EventsById {
        let calendar = self.calendar.as_deref();
        truth(&self.simulator, MAILBOX, calendar, self.edges, Completion::Master).await
    }

    /// Runs rounds until the window is settled. Compares mirror and feed with the truth, and the
    /// changes since `seq` with the differences from `before`.
    async fn compare(&self, what: &str, before: &EventsById, seq: u64) -> EventsById {
        self.rig.settle(MAILBOX, 6).await;
        let real = self.truth().await;
        assert_mirrored(&self.rig.store, self.id, &real, what).await;
        let changes = changes_after(&self.rig.store, seq, Some(self.id), 10_000).await;
        assert!(changes.at_end, "{what}");
        let mut told = BTreeSet::new();
        for change in &changes.value {
            let id = change.id.as_str();
            let (was, is) = (before.get(id), real.get(id));
            let kind = match (was, is) {
                (None, Some(_)) => ChangeKind::Created,
                (Some(_), None) => ChangeKind::Removed,
                _ => ChangeKind::Updated,
            };
            assert!(was != is, "{what}: {id} is in the feed but did not change");
            assert_eq!(change.kind, kind, "{what}: {id}");
            assert!(told.insert(id.to_owned()), "{what}: {id} is in the feed twice");
        }
        let differ: BTreeSet<String> = before
            .keys()
            .chain(real.keys())
            .filter(|id| before.get(*id) != real.get(*id))
            .cloned()
            .collect();
        assert_eq!(told, differ, "{what}: feed entries and differences");
        // The feed keeps one entry per event. A change that was published and taken back shows in
        // the seqs.
        assert_eq!(changes.seq - seq, differ.len() as u64, "{what}: entries in total");
        real
    }

    /// Plays one edit, then the deletion of the series.
    async fn play(&self, what: &str, kind: Kind, named: &EditCase) {
        let what = format!("{what}, series {}, {}", kind.0, named.name);
        let empty = self.compare(&what, &self.truth().await, self.seq()).await;
        let seq = self.seq();
        let id = self.series(kind);
        let series = SeriesIds { instances: self.instances(&id).await, id };
        assert_eq!(series.instances.len(), 8, "{what}");
        for edit in (named.before)(&series) {
            self.edit(edit);
        }
        let before = self.compare(&format!("{what}: before"), &empty, seq).await;
        let seq = self.seq();
        self.edit((named.edit)(&series));
        let after = self.compare(&what, &before, seq).await;
        let removed = before.keys().filter(|id| !after.contains_key(*id)).count();
        let added = after.keys().filter(|id| !before.contains_key(*id)).count();
        let other = |id: &&String| after.get(*id).is_some_and(|now| *now != before[*id]);
        let changed = before.keys().filter(other).count();
        assert_eq!(
            [removed, added, changed],
            named.counts,
            "{what}: instances removed, added, changed"
        );
        let seq = self.seq();
        self.edit(Edit::Delete { event: series.id });
        let left = self.compare(&format!("{what}: deleted"), &after, seq).await;
        assert_same(&format!("{what}: after the deletion"), &left, &empty);
    }

    fn seq(&self) -> u64 {
        self.rig.store.durable_seq()
    }
}

/// The kind of calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CalendarKind {
    Default,
    Named,
    /// Its events are only found under the calendar's own path.
    Shared,
}

/// All edits of all kinds of series, in one kind of calendar, with every behaviour of Graph.
async fn every_edit(place: CalendarKind) {
    let mut played = 0;
    for (number, (name, behaviour)) in (0..).zip(Behaviour::all()) {
        // Stub exceptions and masters at the end are covered by the random tests.
        if behaviour.bare_exceptions || behaviour.master == MasterOnPage::Last {
            continue;
        }
        let directory = tempfile::tempdir().unwrap();
        let env = Env::simulated(number, noon());
        let settings =
            SimulatorSettings { behaviour, ..SimulatorSettings::new(number, env.clone()) };
        let simulator = graph(settings, &[MAILBOX]);
        let calendar =
            (place != CalendarKind::Default).then(|| simulator.add_calendar(MAILBOX, "Another"));
        if let (CalendarKind::Shared, Some(calendar)) = (place, &calendar) {
            assert!(simulator.set_shared(MAILBOX, calendar, true));
        }
        let tracked = Window {
            calendar: calendar
                .as_deref()
                .map_or(CalendarRef::Default, |id| CalendarRef::Id(id.into())),
            ..window_with(
                MAILBOX,
                WindowSettings {
                    start: Edge::At(at(EDGES[0])),
                    end: Edge::At(at(EDGES[1])),
                    // A series does not fit on one page.
                    page_size: 4,
                    ..window_settings()
                },
            )
        };
        let transport = Arc::new(Memory(simulator.clone()));
        let rig = Rig::start(directory.path(), transport, &env, vec![tracked]).await;
        let id = rig.fleet.id(MAILBOX).unwrap();
        let edges = Edges { start: at(EDGES[0]), end: at(EDGES[1]) };
        let fixture = EditFixture { simulator, calendar, rig, id, edges };
        // Another series, which must not appear in the feed's changes.
        fixture.series(KINDS[0]);
        fixture.rig.settle(MAILBOX, 3).await;
        for kind in KINDS {
            for named in &EDITS {
                fixture.play(&format!("{place:?} calendar, {name}"), kind, named).await;
                played += 1;
            }
        }
        fixture.rig.stop().await;
    }
    // Three ways to send a series, two positions of its master, two ways to split pages.
    assert_eq!(played, 3 * 2 * 2 * KINDS.len() * EDITS.len());
}

#[tokio::test(start_paused = true)]
async fn every_edit_in_a_default_calendar_yields_the_exact_changes() {
    every_edit(CalendarKind::Default).await;
}

#[tokio::test(start_paused = true)]
async fn every_edit_in_a_named_calendar_yields_the_exact_changes() {
    every_edit(CalendarKind::Named).await;
}

#[tokio::test(start_paused = true)]
async fn every_edit_in_a_shared_calendar_yields_the_exact_changes() {
    every_edit(CalendarKind::Shared).await;
}
