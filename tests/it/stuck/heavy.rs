//! Pages that are too heavy: over the cap, or refused as often as they are asked for. They are asked
//! for smaller, and in the end the window is listed.

use super::*;

#[tokio::test(start_paused = true)]
async fn pages_over_the_cap_are_asked_for_smaller() {
    let scene = Scene::ordinary(7).await;
    scene.simulator.step();
    scene.simulator.plan(Planned::always(Fault::HugePage { above: 10 }).path("delta"));
    let status = scene.round().await;
    assert_eq!(status.state, State::BackingOff);
    assert_eq!(status.last_error.unwrap().kind, "page_stuck");
    assert_eq!(status.last_resync.unwrap().reason, ResyncReason::PageStuck);
    scene.simulator.reset_statistics();
    let (status, errors) = scene.healed().await;
    assert_eq!((errors, mode(&status)), (vec!["page_stuck".to_owned()], "delta"));
    assert_eq!(scene.page_sizes(), [10].into());
    scene.assert_exact("in small pages").await;
    scene.rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_page_that_is_never_small_enough_is_quarantined() {
    let scene = Scene::ordinary(8).await;
    scene.simulator.step();
    let before = scene.mirror().await;
    scene.simulator.plan(Planned::always(Fault::HugePage { above: 0 }));
    let mut kinds = Vec::new();
    let status = loop {
        let status = scene.round().await;
        let kind = status.last_error.clone().unwrap().kind;
        if status.state == State::Quarantined {
            assert_eq!(kind, "too_large");
            break status;
        }
        assert_eq!(status.state, State::BackingOff);
        kinds.push(kind);
        tokio::time::sleep(scene.window.confirm_after).await;
    };
    assert_eq!(kinds, ["page_stuck"; 2], "to the smallest page, and to listing");
    assert_eq!(mode(&status), "snapshot");
    assert_same("the mirror stands", &scene.mirror().await, &before);
    scene.simulator.clear_faults();
    assert_eq!(scene.wait().await.state, State::Settled);
    scene.assert_exact("afterwards").await;
    scene.rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_refused_again_and_again_is_left_for_smaller_pages() {
    let mut scene = Scene::ordinary(9).await;
    for _ in 0..5 {
        scene.simulator.step();
    }
    let before = scene.mirror().await;
    let fault = Fault::StickyGatewayTimeout { above: 10 };
    scene.simulator.plan(Planned::always(fault).path("deltatoken"));
    // Once may be a bad day.
    let asked = scene.requests();
    let status = scene.round().await;
    let error = status.last_error.unwrap();
    assert_eq!(
        (status.state, &*error.kind, error.status),
        (State::BackingOff, "transient", Some(504))
    );
    assert_eq!(scene.requests() - asked, 6, "five times the link, and whether the mailbox answers");
    assert_eq!(status.resyncs, 0);
    // Twice at the same link is the link, also over a restart.
    scene = scene.restarted().await;
    let status = scene.round().await;
    let error = status.last_error.unwrap();
    assert_eq!((&*error.kind, error.status), ("page_stuck", Some(504)));
    assert_eq!(status.last_resync.unwrap().reason, ResyncReason::PageStuck);
    assert_same("the mirror stands", &scene.mirror().await, &before);
    scene.simulator.reset_statistics();
    let (status, errors) = scene.healed().await;
    assert_eq!((errors, mode(&status)), (vec!["page_stuck".to_owned()], "delta"));
    assert_eq!(scene.page_sizes(), [10].into());
    scene.assert_exact("in small pages").await;
    // A refusal that passes is forgotten with the next page.
    for _ in 0..3 {
        scene.simulator.plan(Planned::once(Fault::GatewayTimeout).path("delta").times(5));
        scene.simulator.step();
        assert_eq!(scene.round().await.last_error.unwrap().kind, "transient");
        assert_eq!(scene.round().await.state, State::Settled);
    }
    assert_eq!(scene.status().resyncs, 1);
    scene.rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_meets_both_is_listed_at_once() {
    let scene = Scene::ordinary(10).await;
    scene.simulator.step();
    scene.simulator.plan(Planned::always(endless(30)).path("delta"));
    scene.simulator.plan(Planned::always(Fault::HugePage { above: 30 }));
    scene.simulator.reset_statistics();
    let (status, errors) = scene.healed().await;
    // 20 without end, 40 too large; listed: 40 too large, 20.
    assert_eq!(errors, ["round_stuck", "page_stuck", "page_stuck"]);
    assert_eq!(scene.page_sizes(), [20, 40].into());
    assert_eq!(mode(&status), "snapshot");
    scene.assert_exact("listed").await;
    // Several pages, changes between them: nothing that exists is ever away.
    for _ in 0..5 {
        scene.simulator.step();
        let simulator = scene.simulator.clone();
        let life = tokio::spawn(async move {
            for _ in 0..6 {
                tokio::time::sleep(Duration::from_millis(300)).await;
                simulator.step();
            }
        });
        assert_eq!(scene.round().await.state, State::Settled);
        life.await.unwrap();
        assert_eq!(scene.round().await.state, State::Settled);
        scene.assert_exact("after changes in mid-listing").await;
    }
    scene.rig.stop().await;
}
