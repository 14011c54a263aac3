//! Fleets by the real binary: members join, leave and stay, and what a listing cannot do.

use std::collections::BTreeSet;

use calmirror::mirror::status::WindowState;
use calmirror::mirror::window::{Completion, Edges};
use calmirror::simulator::RoomPlace;
use serde_json::{Value, json};

use crate::compare::{assert_same, truth};
use crate::process::{DaemonFixture, DaemonProcess, eventually};

/// A daemon with one fleet and a group of people.
struct FleetFixture {
    fixture: DaemonFixture,
    group: String,
}

impl FleetFixture {
    async fn new(seed: u64, people: &[&str]) -> Self {
        let fixture = DaemonFixture::new(seed, &[]).await;
        let group = fixture.simulator.add_group("Staff", Some("staff@contoso.com"));
        let fixture = Self { fixture, group };
        for person in people {
            fixture.fixture.populate(person);
            fixture.add(person);
        }
        fixture.configure("members_of = \"staff@contoso.com\"\n", "");
        fixture
    }

    /// 24 people without events.
    async fn many(seed: u64) -> (Self, Vec<String>) {
        let names: Vec<String> = (0..24).map(|n| format!("p{n}")).collect();
        let fleet = Self::new(seed, &[]).await;
        for person in &names {
            fleet.fixture.simulator.add_mailbox(&format!("{person}@contoso.com"));
            fleet.add(person);
        }
        (fleet, names)
    }

    fn configure(&self, source: &str, more: &str) {
        let fleet = format!(
            "[[fleet]]\nname = \"staff\"\naccount = \"contoso\"\nrelist_every = \"1s\"\nconfirm_after = \"3s\"\n{source}"
        );
        let preamble = self.fixture.preamble();
        self.fixture.configure(&format!("{preamble}{fleet}{more}"));
    }

    fn add(&self, person: &str) {
        let address = format!("{person}@contoso.com");
        assert!(self.fixture.simulator.add_member(&self.group, &address), "{person}");
    }

    fn remove(&self, person: &str) {
        let address = format!("{person}@contoso.com");
        assert!(self.fixture.simulator.remove_member(&self.group, &address), "{person}");
    }

    async fn names(&self) -> BTreeSet<String> {
        let list = self.fixture.api.get("/v1/windows?limit=1000").await.json();
        let windows = list["value"].as_array().unwrap();
        windows.iter().map(|window| window["name"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until exactly these windows exist and are settled.
    async fn until(&self, expected: &[&str]) {
        let expected: BTreeSet<String> =
            expected.iter().map(|name| format!("{name}@contoso.com")).collect();
        eventually("the fleet has these windows", async || {
            (self.names().await == expected).then_some(())
        })
        .await;
        for name in &expected {
            eventually("the window settles", async || {
                let state = self.fixture.api.window(name).await.state;
                matches!(state, WindowState::Settled | WindowState::Following).then_some(())
            })
            .await;
        }
    }

    async fn status(&self) -> Value {
        self.fixture.api.get("/v1/status").await.json()["fleets"][0].clone()
    }

    /// Waits until another listing has ended.
    async fn listed_again(&self) -> Value {
        let before = self.status().await;
        eventually("the fleet is listed again", async || {
            let now = self.status().await;
            (now["listed_at"] != before["listed_at"]).then_some(now)
        })
        .await
    }

    async fn assert_mirrors(&self, window: &str, mailbox: &str) {
        let status = self.fixture.settle(window).await;
        let edges = Edges { start: status.start, end: status.end };
        let simulator = &self.fixture.simulator;
        let real = truth(simulator, mailbox, None, edges, Completion::Master).await;
        let shown = self.fixture.api.events(window).await;
        assert!(shown.len() > 50, "{}", shown.len());
        assert_same(mailbox, &shown, &real);
    }

    async fn run(&self) -> DaemonProcess {
        self.fixture.run().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_join_leave_and_keep_their_window_under_another_address() {
    let fleet = FleetFixture::new(150, &["alice", "bob"]).await;
    fleet.fixture.populate("carol");
    let daemon = fleet.run().await;
    fleet.until(&["alice", "bob"]).await;
    fleet.assert_mirrors("alice@contoso.com", "alice@contoso.com").await;
    let window = fleet.fixture.api.get("/v1/windows/alice@contoso.com").await.json();
    assert_eq!(window["fleet"], "staff");
    let shown = fleet.fixture.cli(&["status"]).await.out;
    assert!(shown.contains("fleet staff: members: 2, windows: 2, listed "), "{shown}");
    let checked = fleet.fixture.cli(&["check"]).await;
    let line = checked.out.lines().last().unwrap();
    assert!(line.starts_with("fleet staff: members: 2, windows: 2, listed "), "{}", checked.out);

    fleet.add("carol");
    fleet.remove("bob");
    fleet.until(&["alice", "carol"]).await;
    fleet.assert_mirrors("carol@contoso.com", "carol@contoso.com").await;

    // Renamed: the same mailbox, the same window, the same events.
    assert!(fleet.fixture.simulator.rename_address("alice@contoso.com", "anna@contoso.com"));
    let enumerations = fleet.fixture.simulator.statistics().total.enumerations;
    fleet.listed_again().await;
    fleet.until(&["alice", "carol"]).await;
    fleet.assert_mirrors("alice@contoso.com", "anna@contoso.com").await;
    assert_eq!(fleet.fixture.simulator.statistics().total.enumerations, enumerations);

    // A start uses the stored listing: without a listing no member leaves.
    daemon.stop().await;
    let checked = fleet.fixture.cli(&["check", "--json"]).await;
    let answer: Value = serde_json::from_str(&checked.out).unwrap();
    assert!(answer["fleets"][0]["last_listing"].is_null(), "{answer}");
    let problem = answer["listings_problem"].as_str().unwrap();
    assert!(problem.contains("api.sock"), "{problem}");
    fleet.fixture.simulator.set_permissions(Some(&["Calendars.Read"]));
    let daemon = fleet.run().await;
    let failed = eventually("the listing is refused", async || {
        let status = fleet.status().await;
        (!status["last_error"].is_null()).then_some(status)
    })
    .await;
    let remedy = failed["last_error"]["remedy"].as_str().unwrap();
    assert!(remedy.contains("GroupMember.Read.All"), "{remedy}");
    let checked = fleet.fixture.cli(&["check", "--online"]).await;
    assert_eq!(checked.code, Some(77));
    let line = checked.out.lines().last().unwrap();
    assert!(line.starts_with("fleet staff: ") && line.contains("GroupMember.Read.All"), "{line}");
    fleet.until(&["alice", "carol"]).await;
    assert_eq!(fleet.fixture.cli(&["status"]).await.code, Some(1));
    fleet.fixture.simulator.set_permissions(None);
    fleet.add("bob");
    assert_eq!(fleet.fixture.cli(&["reload"]).await.code, Some(0));
    fleet.until(&["alice", "bob", "carol"]).await;

    // A fleet that leaves the configuration takes its windows along.
    fleet.fixture.configure(&fleet.fixture.preamble());
    assert_eq!(fleet.fixture.cli(&["reload"]).await.code, Some(0));
    fleet.until(&[]).await;
    assert!(fleet.status().await.is_null());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_that_lost_most_members_is_held() {
    let (fleet, names) = FleetFixture::many(151).await;
    let people: Vec<&str> = names.iter().map(String::as_str).collect();
    let daemon = fleet.run().await;
    fleet.until(&people).await;
    fleet.fixture.simulator.set_listing_limit(Some(3));
    let held = eventually("the listing is held", async || {
        let status = fleet.status().await;
        (!status["held"].is_null()).then_some(status)
    })
    .await;
    assert_eq!((&held["held"]["missing"], &held["windows"]), (&json!(21), &json!(24)));
    // A whole listing ends the hold.
    fleet.fixture.simulator.set_listing_limit(None);
    eventually("the hold ends", async || fleet.status().await["held"].is_null().then_some(()))
        .await;
    fleet.until(&people).await;
    // Confirmed, they leave.
    fleet.fixture.simulator.set_listing_limit(Some(3));
    eventually("most members leave", async || (fleet.names().await.len() == 3).then_some(())).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rooms_have_a_place_and_members_without_a_window_a_reason() {
    let fixture = DaemonFixture::new(152, &[]).await;
    let place = RoomPlace { building: "Harbour".to_owned(), floor: 2, capacity: 12 };
    for name in ["red", "blue"] {
        fixture.populate(name);
        fixture.simulator.add_room(&format!("{name}@contoso.com"), place.clone());
    }
    let alone = fixture.simulator.add_person_without_mailbox("guest@contoso.com");
    let group = fixture.simulator.add_group("Staff", Some("staff@contoso.com"));
    assert!(fixture.simulator.add_member(&group, &alone));
    assert!(fixture.simulator.add_member(&group, "blue@contoso.com"));
    let fleet = FleetFixture { fixture, group };
    // The other fleet takes a name first.
    let more = "[[fleet]]\nname = \"zz\"\naccount = \"contoso\"\nmembers_of = \"staff@contoso.com\"\nrelist_every = \"1s\"\n";
    fleet.configure("rooms = true\n", "");
    let daemon = fleet.run().await;
    fleet.until(&["blue", "red"]).await;
    fleet.assert_mirrors("red@contoso.com", "red@contoso.com").await;
    let window = fleet.fixture.api.get("/v1/windows/red@contoso.com").await.json();
    assert_eq!(window["place"], json!({"building": "Harbour", "floor": "2", "capacity": 12}));
    let shown = fleet.fixture.cli(&["status", "red@contoso.com"]).await.out;
    assert!(shown.contains("Harbour, floor 2, 12 people"), "{shown}");

    fleet.configure("rooms = true\n", more);
    assert_eq!(fleet.fixture.cli(&["reload"]).await.code, Some(0));
    let other = eventually("the other fleet is listed", async || {
        let status = fleet.fixture.api.get("/v1/status").await.json()["fleets"][1].clone();
        (!status["listed_at"].is_null()).then_some(status)
    })
    .await;
    let counts = ["members", "windows", "without_mailbox", "faults"].map(|key| other[key].clone());
    assert_eq!(counts, [json!(2), json!(0), json!(1), json!(1)], "{other}");
    let fault = other["members_with_faults"][0].as_str().unwrap();
    assert!(fault.contains("the name \"blue@contoso.com\" is taken"), "{fault}");
    fleet.until(&["blue", "red"]).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_that_takes_the_name_of_a_fleets_window_is_not_of_the_fleet() {
    let source = "members_of = \"staff@contoso.com\"\n";
    let fleet = FleetFixture::new(153, &["alice", "bob"]).await;
    let carol = fleet.fixture.populate("carol");
    let daemon = fleet.run().await;
    fleet.until(&["alice", "bob"]).await;
    let window = format!(
        "[[window]]\nname = \"bob@contoso.com\"\naccount = \"contoso\"\nmailbox = \"{carol}\"\n"
    );
    fleet.configure(source, &window);
    assert_eq!(fleet.fixture.cli(&["reload"]).await.code, Some(0));
    for status in [fleet.status().await, fleet.listed_again().await] {
        let counts = ["members", "windows", "faults"].map(|key| status[key].clone());
        assert_eq!(counts, [json!(2), json!(1), json!(1)], "{status}");
        let fault = status["members_with_faults"][0].as_str().unwrap();
        assert!(fault.contains("the name \"bob@contoso.com\""), "{fault}");
    }
    fleet.assert_mirrors("bob@contoso.com", &carol).await;
    let bob = fleet.fixture.api.get("/v1/windows/bob@contoso.com").await.json();
    assert!(bob["fleet"].is_null(), "{bob}");
    // Once the name is free, the member has its window back.
    fleet.configure(source, "");
    assert_eq!(fleet.fixture.cli(&["reload"]).await.code, Some(0));
    let status = fleet.status().await;
    assert_eq!((&status["windows"], &status["faults"]), (&json!(2), &json!(0)));
    fleet.assert_mirrors("bob@contoso.com", "bob@contoso.com").await;
    let bob = fleet.fixture.api.get("/v1/windows/bob@contoso.com").await.json();
    assert_eq!(bob["fleet"], "staff");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_source_is_held_like_any_listing_and_another_account_replaces_the_windows() {
    let (fleet, names) = FleetFixture::many(154).await;
    let people: Vec<&str> = names.iter().map(String::as_str).collect();
    let daemon = fleet.run().await;
    fleet.until(&people).await;
    let configure = |account: &str, group: &str| {
        let preamble = fleet.fixture.preamble();
        let second = preamble[preamble.find("[account.").unwrap()..].replace("contoso]", "second]");
        let entry = format!(
            "[[fleet]]\nname = \"staff\"\naccount = \"{account}\"\nmembers_of = \"{group}\"\nrelist_every = \"1s\"\nconfirm_after = \"3s\"\n"
        );
        fleet.fixture.configure(&format!("{preamble}{second}{entry}"));
    };

    // All windows are replaced, so the reload needs permission.
    configure("second", "staff@contoso.com");
    assert_eq!(fleet.fixture.cli(&["reload"]).await.code, Some(78));
    assert_eq!(fleet.fixture.cli(&["reload", "--accept-drops"]).await.code, Some(0));
    fleet.until(&people).await;
    for person in &people {
        let window = fleet.fixture.api.window(&format!("{person}@contoso.com")).await;
        assert_eq!((window.account.as_str(), window.resyncs), ("second", 0));
    }

    // Another group that lacks most members: the new member joins, and the others wait.
    let other = fleet.fixture.simulator.add_group("Other", Some("other@contoso.com"));
    fleet.fixture.simulator.add_mailbox("new@contoso.com");
    for member in ["p0", "p1", "p2", "new"] {
        assert!(fleet.fixture.simulator.add_member(&other, &format!("{member}@contoso.com")));
    }
    configure("second", "other@contoso.com");
    assert_eq!(fleet.fixture.cli(&["reload"]).await.code, Some(0));
    let held = eventually("the listing is held", async || {
        let status = fleet.status().await;
        (!status["held"].is_null()).then_some(status)
    })
    .await;
    assert_eq!((&held["held"]["missing"], &held["windows"]), (&json!(21), &json!(25)));
    fleet.until(&["new", "p0", "p1", "p2"]).await;
    daemon.stop().await;
}
