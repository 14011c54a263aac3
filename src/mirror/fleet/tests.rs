//! Who joins and who leaves, and how windows are named.
use super::*;
use crate::tests::fleet_spec;

const AT: Timestamp = Timestamp::UNIX_EPOCH;
const TEN_MINUTES: SignedDuration = SignedDuration::from_mins(10);

fn mailbox(id: &str) -> ListedMailbox {
    ListedMailbox {
        id: id.into(),
        address: format!("{id}@contoso.com").into(),
        name: format!("Name of {id}").into(),
        place: None,
    }
}

fn all(range: std::ops::Range<u32>) -> Vec<ListedMailbox> {
    range.map(|n| mailbox(&n.to_string())).collect()
}

fn spec(template: &str) -> FleetSpec {
    FleetSpec { window_name: template.into(), ..fleet_spec() }
}

fn calendar(name: &str, id: Option<&str>, is_written: bool) -> ListedCalendar {
    let calendar = id.map_or(CalendarRef::Default, |id| CalendarRef::Id(id.into()));
    ListedCalendar { calendar, name: name.into(), is_written }
}

#[test]
fn members_join_leave_and_keep_their_windows_when_renamed() {
    let mut listing = FleetListing::default();
    let update = |listing: &mut FleetListing, listed| listing.update(listed, TEN_MINUTES, AT);
    let joined = ListingOutcome::Applied { joined: 3, left: 0 };
    assert_eq!(update(&mut listing, all(0..3)), joined);
    let spec = spec("room-{mailbox}");
    let member = listing.members.get_mut("1").unwrap();
    let window =
        spec.new_window(&member.mailbox, &calendar("Calendar", None, true), |_| false).unwrap();
    assert_eq!(&*window.name, "room-1@contoso.com");
    member.windows.push(window);
    let renamed = ListedMailbox { address: "new@contoso.com".into(), ..mailbox("1") };
    let twice = vec![renamed.clone(), renamed, mailbox("2"), mailbox("9")];
    let changed = ListingOutcome::Applied { joined: 1, left: 1 };
    assert_eq!(update(&mut listing, twice), changed);
    let windows: Vec<Window> = listing.windows(&spec).collect();
    assert_eq!(windows.len(), 1);
    assert_eq!(&*windows[0].name, "room-1@contoso.com");
    assert_eq!(&*listing.members["1"].mailbox.address, "new@contoso.com");
}

#[test]
fn a_listing_that_lacks_most_members_is_confirmed_first() {
    let later = |minutes| AT.saturating_add(SignedDuration::from_mins(minutes)).unwrap();
    let full = || {
        let mut listing = FleetListing::default();
        listing.update(all(0..40), TEN_MINUTES, AT);
        listing
    };
    let mut listing = full();
    let held = ListingOutcome::Held { missing: 21, until: later(10) };
    assert_eq!(listing.update(all(21..41), TEN_MINUTES, AT), held);
    assert_eq!(listing.members.len(), 41, "new members join, no member leaves");
    let again = listing.update(all(21..41), TEN_MINUTES, later(9));
    assert!(matches!(again, ListingOutcome::Held { .. }), "{again:?}");
    let confirmed = ListingOutcome::Applied { joined: 0, left: 21 };
    assert_eq!(listing.update(all(21..41), TEN_MINUTES, later(10)), confirmed);
    // A whole listing in between ends the hold.
    let mut listing = full();
    listing.update(Vec::new(), TEN_MINUTES, AT);
    listing.update(all(0..40), TEN_MINUTES, later(5));
    let held = ListingOutcome::Held { missing: 40, until: later(21) };
    assert_eq!(listing.update(Vec::new(), TEN_MINUTES, later(11)), held);
    // Few, or at most half, leave at once.
    let left = |listed| full().update(listed, TEN_MINUTES, AT);
    assert_eq!(left(all(20..40)), ListingOutcome::Applied { joined: 0, left: 20 });
    let mut small = FleetListing::default();
    small.update(all(0..19), TEN_MINUTES, AT);
    let empty = small.update(Vec::new(), TEN_MINUTES, AT);
    assert_eq!(empty, ListingOutcome::Applied { joined: 0, left: 19 });
}

#[test]
fn a_name_that_cannot_be_used_is_an_error_of_the_member() {
    let calendar = calendar("Team", Some("c1"), true);
    let name = |template: &str, taken: bool| {
        spec(template).new_window(&mailbox("1"), &calendar, |_| taken).map(|w| w.name)
    };
    let every: Vec<String> = PLACEHOLDERS.iter().map(|name| format!("{{{name}}}")).collect();
    let filled = name(&every.join("-"), false).unwrap();
    assert_eq!(&*filled, "1@contoso.com-1-Name of 1-Team-staff");
    assert!(matches!(name("{id}", true), Err(WindowNameError::Taken(_))));
    for template in ["", " ", "..", "a/{id}", &"x".repeat(201)] {
        assert!(matches!(name(template, false), Err(WindowNameError::Invalid(_))));
    }
}

#[test]
fn calendars_are_selected_by_kind_or_name() {
    let calendars = [
        calendar("Calendar", None, true),
        calendar("Team", Some("1"), true),
        calendar("Birthdays", Some("2"), false),
    ];
    let selected = |selection: &CalendarSelection| {
        calendars.iter().map(|one| selection.selects(one)).collect::<Vec<_>>()
    };
    assert_eq!(selected(&CalendarSelection::Default), [true, false, false]);
    assert_eq!(selected(&CalendarSelection::All), [true, true, false]);
    let named = CalendarSelection::Named(["TEAM".to_owned(), "birthdays".to_owned()].into());
    assert_eq!(selected(&named), [false, true, true]);
}

#[test]
fn a_mailbox_without_exchange_is_asked_rarely() {
    let mut member = FleetMember::new(mailbox("1"));
    assert!(member.is_due(&CalendarSelection::Default, AT));
    // Other calendars than the selected one: those were selected before.
    let window = |calendar| FleetWindow { name: "w".into(), calendar };
    member.windows.push(window(CalendarRef::Default));
    assert!(!member.is_due(&CalendarSelection::Default, AT));
    assert!(member.is_due(&CalendarSelection::All, AT));
    member.windows.push(window(CalendarRef::Id("team".into())));
    assert!(member.is_due(&CalendarSelection::Default, AT));
    member.absent_since = Some(AT);
    assert!(!member.is_due(
        &CalendarSelection::Default,
        AT.saturating_add(SignedDuration::from_hours(167)).unwrap()
    ));
    assert!(
        member.is_due(&CalendarSelection::Default, AT.saturating_add(ASK_AGAIN_AFTER).unwrap())
    );
    assert!(
        member.is_due(&CalendarSelection::Default, AT - SignedDuration::from_secs(1)),
        "another clock"
    );
    let id = "00000000-0000-0000-0000-000000000001";
    assert_eq!(&*FleetMember::new(mailbox(id)).user, id);
    let place = Some(Arc::new(Place::default()));
    let room = ListedMailbox { place, ..mailbox(id) };
    assert_eq!(*FleetMember::new(room.clone()).user, *room.address);
}
