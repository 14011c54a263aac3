//! What fleets consist of, as the client lists it from the simulator.

use std::collections::BTreeSet;
use std::sync::Arc;

use calmirror::env::Env;
use calmirror::graph::{DirectoryClient, GraphError, Tokens, Transport, listing_remedy};
use calmirror::mirror::account::Credential;
use calmirror::mirror::fleet::{CalendarSelection, FleetSource, ListedMailbox};
use calmirror::mirror::window::CalendarRef;
use calmirror::simulator::{RoomPlace, Simulator, SimulatorSettings};

use crate::memory::Memory;
use crate::rig::{self, BASE, client, noon};

fn credential() -> Credential {
    // The secret is a variable that every machine has.
    Credential::SecretEnv("PATH".into())
}

fn directory(mailboxes: &[&str]) -> (Simulator, DirectoryClient) {
    let env = Env::simulated(5, noon());
    let simulator = rig::graph(SimulatorSettings::new(5, env.clone()), mailboxes);
    let transport: Arc<dyn Transport> = Arc::new(Memory(simulator.clone()));
    let tokens = Tokens::new(rig::sign_in(credential()), transport.clone(), env.clone());
    let directory = client(&transport, BASE, &env).directory(&tokens);
    (simulator, directory)
}

/// Object ids and addresses, in any order; none twice.
fn listed(mailboxes: &[ListedMailbox]) -> BTreeSet<(String, String)> {
    let pair = |one: &ListedMailbox| (one.id.to_string(), one.address.to_string());
    let all: BTreeSet<_> = mailboxes.iter().map(pair).collect();
    assert_eq!(all.len(), mailboxes.len(), "somebody is listed twice");
    all
}

fn remedy(error: &GraphError, source: &FleetSource) -> &'static str {
    listing_remedy(error, &credential(), source).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn members_of_nested_groups_are_listed_once_and_completely() {
    let (simulator, directory) = directory(&[]);
    let all = simulator.add_group("All", Some("o'all@contoso.com"));
    let inner = simulator.add_group("Inner", None);
    let kiosk = simulator.add_person_without_mailbox("kiosk@contoso.com");
    let mut expected = BTreeSet::from([(kiosk.clone(), "kiosk@contoso.com".to_owned())]);
    for number in 0..1100 {
        let address = format!("p{number}@contoso.com");
        let id = simulator.add_mailbox(&address);
        let group = if number % 3 == 0 { &inner } else { &all };
        assert!(simulator.add_member(group, &id));
        expected.insert((id, address));
    }
    for member in
        [&inner, &kiosk, &simulator.add_device("d"), &simulator.add_contact("c", "c@x.com")]
    {
        assert!(simulator.add_member(&all, member));
    }
    assert!(simulator.add_member(&inner, "p1@contoso.com"));
    assert_eq!(listed(&directory.members(&all).await.unwrap()), expected);
    let by_address = directory.members("o'all@contoso.com").await.unwrap();
    assert_eq!(listed(&by_address), expected);
    assert!(by_address.iter().any(|member| &*member.name == "p7"));

    assert!(simulator.rename_address("p7@contoso.com", "p7.new@contoso.com"));
    let renamed = directory.members(&all).await.unwrap();
    let ids = |pairs: &BTreeSet<(String, String)>| -> BTreeSet<_> {
        pairs.iter().map(|(id, _)| id.clone()).collect()
    };
    assert_eq!(ids(&listed(&renamed)), ids(&expected));
    assert!(renamed.iter().any(|member| &*member.address == "p7.new@contoso.com"));

    let source = FleetSource::Members(all.as_str().into());
    simulator.set_permissions(Some(&["GroupMember.Read.All"]));
    let hidden = directory.members(&all).await.unwrap_err();
    assert!(hidden.message().contains("User.Read.All"), "{}", hidden.message());
    simulator.set_permissions(Some(&["Calendars.Read"]));
    let denied = directory.members(&all).await.unwrap_err();
    assert!(remedy(&denied, &source).contains("GroupMember.Read.All"), "{}", denied.message());
    simulator.set_permissions(None);
    assert!(simulator.remove_object(&all));
    let gone = directory.members(&all).await.unwrap_err();
    assert!(remedy(&gone, &source).contains("no such group"), "{}", gone.message());
    directory.members("o'all@contoso.com").await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn users_are_those_that_the_filter_selects() {
    let (simulator, directory) = directory(&["ann@contoso.com", "bob@contoso.com"]);
    assert!(simulator.set_department("ann@contoso.com", "R&D"));
    let found = directory.users("department eq 'R&D'").await.unwrap();
    assert_eq!(found.iter().map(|user| &*user.address).collect::<Vec<_>>(), ["ann@contoso.com"]);
    // Advanced queries.
    let found = directory.users("department ne 'R&D' and mail ne null").await;
    let found = found.unwrap_or_else(|error| panic!("{}", error.message()));
    assert_eq!(found.iter().map(|user| &*user.address).collect::<Vec<_>>(), ["bob@contoso.com"]);
    for wrong in ["department eq", "shoeSize eq 'R&D'"] {
        let error = directory.users(wrong).await.unwrap_err();
        let remedy = remedy(&error, &FleetSource::Users(wrong.into()));
        assert!(remedy.contains("filter"), "{wrong}: {}", error.message());
    }
    let id = directory.user_id("ann@contoso.com").await.unwrap().unwrap();
    let all = directory.users("accountEnabled eq true").await.unwrap();
    assert!(all.iter().any(|user| user.id == id && &*user.address == "ann@contoso.com"));
    assert_eq!(directory.user_id("nobody@contoso.com").await.unwrap(), None);
    simulator.set_permissions(Some(&["Calendars.Read"]));
    assert_eq!(directory.user_id("ann@contoso.com").await.unwrap(), None);
    let denied = directory.users("accountEnabled eq true").await.unwrap_err();
    assert!(remedy(&denied, &FleetSource::Users("x".into())).contains("User.Read.All"));
}

#[tokio::test(start_paused = true)]
async fn rooms_are_listed_with_building_floor_and_capacity() {
    let (simulator, directory) = directory(&[]);
    for number in 0..250_u16 {
        let place = RoomPlace {
            building: format!("B{}", number % 3),
            floor: (number % 7).into(),
            capacity: (number + 1).into(),
        };
        let address = format!("room{number}@contoso.com");
        simulator.add_room(&address, place);
        if number % 2 == 0 {
            assert!(simulator.add_to_room_list("even@contoso.com", &address));
        }
    }
    let rooms = directory.rooms().await.unwrap();
    assert_eq!(listed(&rooms).len(), 250);
    for room in &rooms {
        let number = room.address.trim_start_matches("room").split('@').next().unwrap();
        let number: u32 = number.parse().unwrap();
        let place = room.place.as_ref().unwrap();
        assert_eq!(place.building.as_deref(), Some(&*format!("B{}", number % 3)));
        assert_eq!(place.floor.as_deref(), Some(&*(number % 7).to_string()));
        assert_eq!(place.capacity, Some(number + 1));
    }
    let even = directory.rooms_of("even@contoso.com").await.unwrap();
    assert_eq!(even.len(), 125);
    assert!(listed(&even).is_subset(&listed(&rooms)));
    // A place's id is not that of a user.
    assert!(!directory.has_mailbox(&even[0].id).await.unwrap());
    assert!(directory.has_mailbox(&even[0].address).await.unwrap());
    let list = FleetSource::RoomList("odd@contoso.com".into());
    let gone = directory.rooms_of("odd@contoso.com").await.unwrap_err();
    assert!(remedy(&gone, &list).contains("no such room list"), "{}", gone.message());
    simulator.set_permissions(Some(&["User.Read.All"]));
    let denied = directory.rooms().await.unwrap_err();
    assert!(remedy(&denied, &FleetSource::Rooms).contains("Place.Read.All"));
}

#[tokio::test(start_paused = true)]
async fn calendars_are_listed_without_those_that_exchange_fills() {
    let (simulator, directory) = directory(&["ann@contoso.com"]);
    let filled: BTreeSet<String> =
        simulator.add_usual_calendars("ann@contoso.com").into_iter().collect();
    let names = ["Team", "On call", "Birthdays"];
    let own = names.map(|name| simulator.add_calendar("ann@contoso.com", name));
    let calendars = directory.calendars("ann@contoso.com").await.unwrap();
    assert_eq!(calendars.len(), 6);
    let selected = calendars.iter().filter(|one| CalendarSelection::All.selects(one));
    let selected: Vec<&CalendarRef> = selected.map(|one| &one.calendar).collect();
    assert_eq!(selected.len(), 4);
    assert!(selected.contains(&&CalendarRef::Default));
    for id in own {
        assert!(selected.contains(&&CalendarRef::Id(id.into())));
    }
    for id in filled {
        assert!(!selected.contains(&&CalendarRef::Id(Arc::from(id))));
    }
    assert!(directory.has_mailbox("ann@contoso.com").await.unwrap());
    simulator.add_person_without_mailbox("kiosk@contoso.com");
    for nobody in ["kiosk@contoso.com", "nobody@contoso.com"] {
        assert!(!directory.has_mailbox(nobody).await.unwrap(), "{nobody}");
    }
    let gone = directory.calendars("nobody@contoso.com").await.unwrap_err();
    let source = FleetSource::Mailbox("nobody@contoso.com".into());
    assert!(remedy(&gone, &source).contains("calendars_of"), "{}", gone.message());
}
