//! What becomes of the end of a listing.

use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::graph::script::{self, Script};
use crate::mirror::fleet::{FleetMember, FleetSource, ListedCalendar, ListedMailbox};
use crate::mirror::window::{CalendarRef, Window};
use crate::tests::fleet_spec;

pub(super) fn spec() -> Arc<FleetSpec> {
    Arc::new(fleet_spec())
}

fn member(id: &str) -> FleetMember {
    FleetMember::new(ListedMailbox {
        id: id.into(),
        address: format!("{id}@contoso.com").into(),
        name: id.into(),
        place: None,
    })
}

/// Fleets with one that is being listed.
pub(super) fn fleets() -> Fleets {
    let script = Script::new([], []);
    let tokens = script::tokens(&script);
    let client = script::client(&script);
    let mut fleets = Fleets::new(client, script::env(), FleetBoard::default());
    let mut fleet = ManagedFleet::new(spec(), tokens, Arc::default(), Instant::now());
    fleet.is_listing = true;
    fleets.fleets.insert("staff".into(), fleet);
    fleets
}

pub(super) fn finished(result: Result<ListedFleet, ListingError>) -> FinishedListing {
    FinishedListing { fleet: "staff".into(), spec: spec(), result }
}

/// A listing with these members, each with a default calendar.
pub(super) fn listed(ids: &[&str], outcome: ListingOutcome) -> ListedFleet {
    let mut listing = FleetListing { listed_at: Some(Timestamp::UNIX_EPOCH), ..Default::default() };
    let calendar = ListedCalendar {
        calendar: CalendarRef::Default,
        name: "Calendar".into(),
        is_written: true,
    };
    let mut calendars = Vec::new();
    for id in ids {
        listing.members.insert((*id).into(), member(id));
        calendars.push(((*id).into(), vec![calendar.clone()]));
    }
    let (faults, left_out) = (Vec::new(), Vec::new());
    ListedFleet { listing, outcome, calendars, faults, left_out, is_incomplete: false }
}

pub(super) const JOINED: ListingOutcome = ListingOutcome::Applied { joined: 2, left: 0 };

#[tokio::test(start_paused = true)]
async fn new_members_get_windows_and_taken_names_are_faults() {
    let mut fleets = fleets();
    let taken = |name: &str| name == "b@contoso.com";
    let new = fleets.take(finished(Ok(listed(&["a", "b"], JOINED))), taken).unwrap();
    assert!(fleets.listings()["staff"].members.is_empty(), "not before it is stored");
    fleets.commit(new, None);
    let windows: Vec<Window> = fleets.listings()["staff"].windows(&spec()).collect();
    assert_eq!(windows.len(), 1);
    let status = &fleets.board.fleets()[0];
    assert_eq!((status.members, status.windows, status.faults), (2, 1, 1));
    assert!(status.members_with_faults[0].contains("is taken"), "{status:?}");
    // The status says when it is listed next, within the interval.
    let next = status.next_due.unwrap().duration_since(script::env().now());
    assert!(next <= SignedDuration::from_hours(1) && next >= SignedDuration::from_mins(53));
}

#[tokio::test(start_paused = true)]
async fn a_window_whose_name_is_taken_later_is_a_fault_of_its_member() {
    let mut fleets = fleets();
    let new = fleets.take(finished(Ok(listed(&["a", "b"], JOINED))), |_| false).unwrap();
    fleets.commit(new, None);
    let counts = |fleets: &Fleets| {
        let status = &fleets.board.fleets()[0];
        (status.windows, status.faults, status.members_with_faults.clone())
    };
    assert_eq!(counts(&fleets), (2, 0, Vec::new()));
    let refused = RefusedWindow { member: "b@contoso.com".into(), name: "b@contoso.com".into() };
    let refused = [("staff".into(), vec![refused])].into();
    fleets.set_windows(PlacedWindows { refused, ..PlacedWindows::default() });
    fleets.publish();
    let fault = "b@contoso.com: the name \"b@contoso.com\" of its window is taken by another window; \
                 rename that one";
    assert_eq!(counts(&fleets), (1, 1, vec![fault.to_owned()]));
    fleets.set_windows(PlacedWindows::default());
    fleets.publish();
    assert_eq!(counts(&fleets), (2, 0, Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn a_failed_listing_changes_nothing_and_is_repeated_sooner() {
    let mut fleets = fleets();
    let failed = || ListingError {
        at: Timestamp::UNIX_EPOCH,
        problem: "no".into(),
        remedy: None,
        is_passing: true,
        status: None,
        code: None,
    };
    let mut waits = Vec::new();
    for _ in 0..8 {
        assert!(fleets.take(finished(Err(failed())), |_| false).is_none());
        let fleet = fleets.fleets.get_mut("staff").unwrap();
        waits.push((fleet.due - Instant::now()).as_secs());
        fleet.is_listing = true;
    }
    assert!((45..=60).contains(&waits[0]) && waits[7] <= 3600 && waits[7] >= 2700, "{waits:?}");
    assert_eq!(fleets.board.fleets()[0].last_error.as_ref().unwrap().problem, "no");
    // A listing with settings that are no longer in force does not count.
    let other = Arc::new(FleetSpec { source: FleetSource::Users("x".into()), ..fleet_spec() });
    let late = FinishedListing { spec: other, ..finished(Ok(listed(&["a"], JOINED))) };
    assert!(fleets.take(late, |_| false).is_none());
    assert_eq!(fleets.fleets["staff"].due, Instant::now());
    // A held listing is repeated when it may be confirmed.
    let until = script::env().now().saturating_add(SignedDuration::from_mins(10)).unwrap();
    let held = ListingOutcome::Held { missing: 30, until };
    let new = fleets.take(finished(Ok(listed(&["a"], held))), |_| false).unwrap();
    assert!(fleets.board.fleets()[0].held.is_none(), "not before it is stored");
    fleets.commit(new, None);
    assert_eq!((fleets.fleets["staff"].due - Instant::now()).as_secs(), 600);
    let status = &fleets.board.fleets()[0];
    assert_eq!(status.held.as_ref().unwrap().missing, 30);
    assert!(status.last_error.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_cannot_be_stored_is_repeated_less_and_less_often() {
    let mut fleets = fleets();
    let mut waits = Vec::new();
    for _ in 0..3 {
        assert!(fleets.take(finished(Ok(listed(&["a"], JOINED))), |_| false).is_some());
        fleets.retry("staff", "disk full");
        waits.push((fleets.fleets["staff"].due - Instant::now()).as_secs());
    }
    assert!((45..=60).contains(&waits[0]) && waits[1] >= 90 && waits[2] >= 180, "{waits:?}");
    let shown = |fleets: &Fleets| {
        let status = &fleets.board.fleets()[0];
        (status.failures, status.last_error.as_ref().map(|error| error.problem.clone()))
    };
    assert_eq!(shown(&fleets), (3, Some("disk full".to_owned())));
    let new = fleets.take(finished(Ok(listed(&["a"], JOINED))), |_| false).unwrap();
    fleets.commit(new, None);
    assert_eq!(shown(&fleets), (0, None));
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_panics_does_not_free_other_fleets() {
    let mut fleets = fleets();
    let tokens = fleets.fleets["staff"].tokens.clone();
    let mut rooms = ManagedFleet::new(spec(), tokens, Arc::default(), Instant::now());
    rooms.is_listing = true;
    fleets.fleets.insert("rooms".into(), rooms);
    let panicked = fleets.running.spawn(async { panic!("an example") });
    let running = fleets.running.spawn(std::future::pending());
    fleets.listed_by.insert(panicked.id(), "staff".into());
    fleets.listed_by.insert(running.id(), "rooms".into());
    let waiting = tokio::time::timeout(Duration::from_secs(1), fleets.next()).await;
    assert!(waiting.is_err(), "a listing ended");
    assert!(!fleets.fleets["staff"].is_listing && fleets.fleets["rooms"].is_listing);
    let wait = fleets.fleets["staff"].due - Instant::now();
    assert!(wait > Duration::from_secs(40) && wait <= Duration::from_secs(60), "{wait:?}");
    assert_eq!(fleets.board.fleets().iter().map(|fleet| fleet.failures).sum::<u32>(), 1);
}
