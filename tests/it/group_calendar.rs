//! Calendars of groups, by the real binary: listed in each round, by a member of the group.

use calmirror::mirror::outcome::SegmentMode;
use calmirror::mirror::status::{WindowState, WindowStatus};
use calmirror::mirror::window::{Completion, Edges};

use crate::compare::{assert_same, truth};
use crate::process::{DaemonFixture, population};
use crate::sign_in::{becomes, configure, login};

const DEVICE_CODE: &str = "device_code = true\n";

/// A group with a populated calendar, of which Alice is a member. Returns its mailbox's name.
fn add_group(fixture: &DaemonFixture) -> String {
    let group = fixture.simulator.add_group("Board", Some("board@contoso.com"));
    assert!(fixture.simulator.add_member(&group, "alice@contoso.com"));
    let mailbox = fixture.simulator.add_group_calendar(&group);
    fixture.simulator.populate(&mailbox, None, population());
    mailbox
}

/// Compares both windows with the plain view of the group's calendar.
async fn assert_listed(fixture: &DaemonFixture, mailbox: &str) {
    for (window, complete) in [("w", Completion::Master), ("exact", Completion::Exact)] {
        let WindowStatus { start, end, segments, .. } = fixture.settle(window).await;
        let shown = fixture.api.events(window).await;
        assert!(shown.len() > 50, "{}", shown.len());
        let edges = Edges { start, end };
        let real = truth(&fixture.simulator, mailbox, None, edges, complete).await;
        assert_same(window, &shown, &real);
        assert!(segments.iter().all(|segment| segment.mode == SegmentMode::Snapshot));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_calendar_is_listed_and_never_asked_for_changes() {
    let fixture = DaemonFixture::new(150, &[]).await;
    fixture.populate("alice");
    let mailbox = add_group(&fixture);
    let second = format!(
        "[[window]]\nname = \"exact\"\naccount = \"contoso\"\nmailbox = \"{mailbox}\"\ncomplete = \"exact\"\nbody = \"html\"\n"
    );
    configure(&fixture, DEVICE_CODE, &format!("mailbox = \"{mailbox}\"\n{second}"));
    let daemon = fixture.run().await;
    let waiting = becomes(&fixture, WindowState::SignInRequired).await;
    assert_eq!(waiting.segments[0].mode, SegmentMode::Snapshot);
    let signed_in = login(&fixture, &[], Some("alice@contoso.com")).await;
    assert_eq!(signed_in.code, Some(0), "{signed_in:?}");
    assert_listed(&fixture, &mailbox).await;
    for _ in 0..80 {
        fixture.simulator.mutate_randomly();
    }
    assert_listed(&fixture, &mailbox).await;
    let before = fixture.api.window("w").await;

    daemon.stop().await;
    for _ in 0..40 {
        fixture.simulator.mutate_randomly();
    }
    let daemon = fixture.run().await;
    assert_listed(&fixture, &mailbox).await;
    let after = fixture.api.window("w").await;
    assert_eq!((before.resyncs, after.resyncs), (0, 0), "{:?}", after.last_resync);
    assert!(after.last_round.unwrap().number > before.last_round.unwrap().number);
    let counts = &fixture.simulator.statistics().mailboxes[&mailbox];
    assert_eq!(counts.delta_requests, 0);
    assert!(counts.statuses.keys().all(|status| *status == 200), "{:?}", counts.statuses);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_window_of_a_person_who_is_no_member_waits_alone() {
    let fixture = DaemonFixture::new(151, &[]).await;
    for name in ["alice", "bob"] {
        fixture.populate(name);
    }
    let mailbox = add_group(&fixture);
    let group =
        format!("[[window]]\nname = \"group\"\naccount = \"contoso\"\nmailbox = \"{mailbox}\"\n");
    configure(&fixture, DEVICE_CODE, "mailbox = \"me\"\n");
    let daemon = fixture.run().await;
    let signed_in = login(&fixture, &[], Some("bob@contoso.com")).await;
    assert_eq!(signed_in.code, Some(0), "{signed_in:?}");
    fixture.settle("w").await;
    // The person granted no group calendars: the other window goes on.
    configure(&fixture, DEVICE_CODE, &format!("mailbox = \"me\"\n{group}"));
    assert_eq!(fixture.cli(&["reload"]).await.code, Some(0));
    fixture.simulator.expire_tokens();
    let group_state = async || fixture.api.window("group").await.state;
    let is_denied = async || (group_state().await == WindowState::Quarantined).then_some(());
    crate::process::eventually("the group is denied", is_denied).await;
    fixture.settle("w").await;
    let signed_in = login(&fixture, &[], Some("bob@contoso.com")).await;
    assert_eq!(signed_in.code, Some(0), "{signed_in:?}");
    fixture.simulator.add_member(mailbox.trim_start_matches("group:"), "bob@contoso.com");
    fixture.settle("group").await;
    assert!(!fixture.api.events("group").await.is_empty());
    assert_eq!(fixture.simulator.statistics().mailboxes[&mailbox].delta_requests, 0);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_refuses_a_group_for_an_application_and_says_what_a_person_lacks() {
    let fixture = DaemonFixture::new(152, &["alice"]).await;
    let mailbox = add_group(&fixture);
    let window = format!("mailbox = \"{mailbox}\"\n");
    configure(&fixture, "client_secret_file = \"secret\"\n", &window);
    let checked = fixture.cli(&["check"]).await;
    assert_eq!(checked.code, Some(78), "{checked:?}");
    assert!(checked.out.contains("members of the group only, not to applications"), "{checked:?}");
    let token = fixture.path("token");
    let write = |scopes: &str| {
        let issued = fixture.simulator.person_access_token("alice@contoso.com", scopes);
        std::fs::write(&token, issued.unwrap()).unwrap();
    };
    let command = format!("access_token_command = [\"/bin/cat\", \"{}\"]\n", token.display());
    configure(&fixture, &command, &window);
    write("Calendars.Read");
    let checked = fixture.cli(&["check", "--online"]).await;
    assert_eq!(checked.code, Some(77), "{checked:?}");
    assert!(checked.out.contains("delegated permission Group.Read.All"), "{checked:?}");
    write("Group.Read.All");
    let checked = fixture.cli(&["check", "--online"]).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
}
