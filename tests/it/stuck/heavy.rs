//! Pages that are too heavy: over the size cap, or refused every time. They are requested with
//! smaller page sizes, and finally the window is listed in snapshot mode.

use jiff::SignedDuration;

use super::*;

#[tokio::test(start_paused = true)]
async fn pages_over_the_cap_are_requested_with_a_smaller_size() {
    let fixture = WindowFixture::ordinary(7).await;
    fixture.simulator.mutate_randomly();
    fixture.simulator.plan(PlannedFault::always(Fault::HugePage { above: 10 }).path("delta"));
    let status = fixture.round().await;
    assert_eq!(status.state, WindowState::BackingOff);
    assert_eq!(status.last_error.unwrap().kind.as_str(), "page_stuck");
    assert_eq!(status.last_resync.unwrap().reason, ResyncReason::PageStuck);
    fixture.simulator.reset_statistics();
    let (status, errors) = fixture.rounds_until_success().await;
    assert_eq!((errors, mode(&status)), (Vec::new(), "delta"));
    assert_eq!(fixture.page_sizes(), [10].into());
    fixture.assert_exact("in small pages").await;
    fixture.rig.stop().await;
}

/// Any error that persists for a page (fact 197), and a page with more events than are read at
/// once.
#[tokio::test(start_paused = true)]
async fn pages_that_keep_failing_are_requested_with_a_smaller_size() {
    for (seed, fault, first) in [
        (31, Fault::StickyInternalError { above: 10 }, "transient"),
        (32, Fault::CrowdedPage { above: 10 }, "page_stuck"),
    ] {
        let fixture = WindowFixture::ordinary(seed).await;
        for _ in 0..5 {
            fixture.simulator.mutate_randomly();
        }
        let before = fixture.mirror().await;
        fixture.simulator.plan(PlannedFault::always(fault.clone()).path("delta"));
        let (status, errors) = fixture.rounds_until_success().await;
        assert_eq!(errors[0], first, "{fault:?}");
        let resync = status.last_resync.as_ref().map(|resync| resync.reason);
        assert_eq!(resync, Some(ResyncReason::PageStuck), "{fault:?}");
        assert_eq!((status.state, mode(&status)), (WindowState::Settled, "delta"), "{fault:?}");
        assert!(!before.is_empty());
        fixture.assert_exact(&format!("after {fault:?}")).await;
        fixture.rig.stop().await;
    }
}

/// A requested round tries the next page size without waiting. Once smaller pages are in use, each
/// page needs only one failure.
#[tokio::test(start_paused = true)]
async fn a_sync_tries_the_next_page_size_at_once() {
    let fixture = WindowFixture::ordinary(33).await;
    fixture.simulator.mutate_randomly();
    fixture
        .simulator
        .plan(PlannedFault::always(Fault::StickyInternalError { above: 10 }).path("delta"));
    let begun = fixture.env.now();
    let mut told = Vec::new();
    for _ in 0..3 {
        told.push(fixture.round().await.last_error.map(|error| error.kind.as_str()));
    }
    let known = Some::<&str>;
    assert_eq!(told, [known("transient"), known("page_stuck"), None]);
    let took = fixture.env.now().duration_since(begun);
    assert!(took < SignedDuration::from_secs(120), "{took:?}");
    fixture.assert_exact("after three rounds").await;
    fixture.rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_page_that_is_never_small_enough_is_quarantined() {
    let fixture = WindowFixture::ordinary(8).await;
    fixture.simulator.mutate_randomly();
    let before = fixture.mirror().await;
    fixture.simulator.plan(PlannedFault::always(Fault::HugePage { above: 0 }));
    let mut kinds = Vec::new();
    let status = loop {
        let status = fixture.round().await;
        let kind = status.last_error.clone().unwrap().kind.as_str();
        if status.state == WindowState::Quarantined {
            assert_eq!(kind, "too_large");
            break status;
        }
        assert_eq!(status.state, WindowState::BackingOff);
        kinds.push(kind);
        tokio::time::sleep(fixture.window.settings.confirm_after).await;
    };
    assert_eq!(kinds, ["page_stuck"; 2], "down to the smallest page, then to listing");
    assert_eq!(mode(&status), "snapshot");
    assert_same("the mirror is kept", &fixture.mirror().await, &before);
    fixture.simulator.clear_faults();
    assert_eq!(fixture.wait_for_next_round().await.state, WindowState::Settled);
    fixture.assert_exact("afterwards").await;
    fixture.rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_link_that_keeps_being_refused_is_replaced_by_smaller_pages() {
    let mut fixture = WindowFixture::ordinary(9).await;
    for _ in 0..5 {
        fixture.simulator.mutate_randomly();
    }
    let before = fixture.mirror().await;
    let fault = Fault::StickyGatewayTimeout { above: 10 };
    fixture.simulator.plan(PlannedFault::always(fault).path("deltatoken"));
    // A single failed attempt may be temporary.
    let asked = fixture.requests();
    let status = fixture.round().await;
    let error = status.last_error.unwrap();
    assert_eq!(
        (status.state, error.kind.as_str(), error.status),
        (WindowState::BackingOff, "transient", Some(504))
    );
    assert_eq!(
        fixture.requests() - asked,
        6,
        "five requests of the link, and one to test the mailbox"
    );
    assert_eq!(status.resyncs, 0);
    // A second failed attempt at the same link is blamed on the link, also across a restart.
    fixture = fixture.restarted().await;
    let status = fixture.round().await;
    let error = status.last_error.unwrap();
    assert_eq!((error.kind.as_str(), error.status), ("page_stuck", Some(504)));
    assert_eq!(status.last_resync.unwrap().reason, ResyncReason::PageStuck);
    assert_same("the mirror is kept", &fixture.mirror().await, &before);
    fixture.simulator.reset_statistics();
    let (status, errors) = fixture.rounds_until_success().await;
    assert_eq!((errors, mode(&status)), (Vec::new(), "delta"));
    assert_eq!(fixture.page_sizes(), [10].into());
    fixture.assert_exact("in small pages").await;
    // A temporary refusal is forgotten with the next page.
    for _ in 0..3 {
        fixture.simulator.plan(PlannedFault::once(Fault::GatewayTimeout).path("delta").times(5));
        fixture.simulator.mutate_randomly();
        assert_eq!(fixture.round().await.last_error.unwrap().kind.as_str(), "transient");
        assert_eq!(fixture.round().await.state, WindowState::Settled);
    }
    assert_eq!(fixture.status().resyncs, 1);
    fixture.rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_with_both_stalls_enters_snapshot_mode_at_once() {
    let fixture = WindowFixture::ordinary(10).await;
    fixture.simulator.mutate_randomly();
    fixture.simulator.plan(PlannedFault::always(endless(30)).path("delta"));
    fixture.simulator.plan(PlannedFault::always(Fault::HugePage { above: 30 }));
    fixture.simulator.reset_statistics();
    let (status, errors) = fixture.rounds_until_success().await;
    // 20 has no end, 40 is too large; listed: 40 is too large, 20 works.
    assert_eq!(errors, ["round_stuck", "page_stuck"]);
    assert_eq!(fixture.page_sizes(), [20, 40].into());
    assert_eq!(mode(&status), "snapshot");
    fixture.assert_exact("listed").await;
    // Several pages with changes between them: an existing event is never missing.
    for _ in 0..5 {
        fixture.simulator.mutate_randomly();
        let simulator = fixture.simulator.clone();
        let life = tokio::spawn(async move {
            for _ in 0..6 {
                tokio::time::sleep(Duration::from_millis(300)).await;
                simulator.mutate_randomly();
            }
        });
        assert_eq!(fixture.round().await.state, WindowState::Settled);
        life.await.unwrap();
        assert_eq!(fixture.round().await.state, WindowState::Settled);
        fixture.assert_exact("after changes in mid-listing").await;
    }
    fixture.rig.stop().await;
}
