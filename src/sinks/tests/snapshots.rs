//! When a snapshot ends: not before everything was read that the target may have.

use super::*;
use crate::api::{FleetStatusJson, UnreadPart};
use crate::mirror::shard::Shard;
use crate::mirror::status::WindowState;
use crate::tests::NOON;

/// A store that was lost: targets keep what they have until everything was enumerated.
#[tokio::test(start_paused = true)]
async fn a_snapshot_ends_when_its_windows_were_enumerated_once() {
    let mut rig = SinkFixture::new().await;
    rig.write(&["a"], &[]).await;
    rig.fixture.set_settled("alice", false);
    rig.configure(&[config("crm", "")]).await;
    assert_eq!(rig.batches(), ["begins a"]);
    rig.write(&["b"], &[]).await;
    rig.settle().await;
    assert_eq!(rig.batches(), ["b"]);
    // The last window may be empty.
    rig.fixture.set_settled("alice", true);
    rig.settle().await;
    assert_eq!(rig.batches(), ["ends"]);
}

/// Graph is away, or nobody has signed in yet: that is no reason to delete anything.
#[tokio::test(start_paused = true)]
async fn a_snapshot_waits_a_day_for_windows_in_trouble() {
    let mut rig = SinkFixture::new().await;
    rig.write(&["a"], &[]).await;
    rig.fixture.set_settled("alice", false);
    rig.fixture.put_state("alice", WindowState::BackingOff);
    rig.configure(&[config("crm", "")]).await;
    assert_eq!(rig.batches(), ["begins a"]);
    tokio::time::sleep(Duration::from_secs(23 * 3600)).await;
    assert_eq!(rig.batches(), [""; 0]);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(rig.batches(), ["ends"]);
}

/// A sink whose target keeps the position shows that it is alive.
#[tokio::test(start_paused = true)]
async fn a_target_that_keeps_the_position_gets_it_each_hour() {
    let mut rig = SinkFixture::new().await;
    rig.copy().keeps = true;
    rig.write(&["a"], &[]).await;
    rig.configure(&[config("crm", "")]).await;
    assert_eq!(rig.batches(), ["begins a ends"]);
    tokio::time::sleep(Duration::from_secs(3 * 3600)).await;
    let hourly = rig.batches();
    assert!((2..=3).contains(&hourly.len()) && hourly.iter().all(String::is_empty), "{hourly:?}");
}

#[tokio::test(start_paused = true)]
async fn a_fleet_may_have_windows_until_it_was_listed() {
    let rig = SinkFixture::new().await;
    let mut app = rig.fixture.app();
    let unread = |app: &AppState| {
        let app = Arc::new(app.clone());
        let view = crate::api::FeedView::new(&app, &[], &[], "", AccessLevel::All).unwrap();
        view.unread()
    };
    assert_eq!(unread(&app), UnreadPart::Nothing);
    let listed = |listed_at: Option<Timestamp>, failures: usize| {
        let fleet = serde_json::json!({
            "name": "rooms", "account": "contoso", "members": 0, "windows": 0, "without_mailbox": 0,
            "listed_at": listed_at, "next_due": null, "held": null, "calendars_held": null,
            "failures": failures, "last_error": null, "faults": 0, "members_with_faults": [],
            "calendars_left_out": [],
        });
        vec![serde_json::from_value::<FleetStatusJson>(fleet).unwrap()]
    };
    app.fleets.set_fleets(listed(None, 0));
    assert_eq!(unread(&app), UnreadPart::Soon);
    app.fleets.set_fleets(listed(None, 1));
    assert_eq!(unread(&app), UnreadPart::InTrouble);
    // Another shard may know more than a listing of long ago.
    let started = app.build.started;
    app.fleets.set_fleets(listed(Some(started - Duration::from_secs(60)), 0));
    assert_eq!(unread(&app), UnreadPart::Nothing);
    app.settings.shard.of = Shard::new(0, 2).unwrap();
    assert_eq!(unread(&app), UnreadPart::Soon);
    app.fleets.set_fleets(listed(Some(NOON.max(started)), 0));
    assert_eq!(unread(&app), UnreadPart::Nothing);
}
