//! A misbehaving Graph and a panicking worker, through the whole fleet in paused time. The last
//! good mirror is kept throughout, and is exact again once the fault is gone.

mod dead_links;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use calmirror::env::Env;
use calmirror::graph::transport::{BodyStream, Transport, TransportError};
use calmirror::mirror::change::ChangeKind;
use calmirror::mirror::status::{ResyncReason, WindowState};
use calmirror::mirror::window::{CalendarRef, Completion, Edges, Window};
use calmirror::simulator::{
    Behaviour, CorruptItem, DeadLinkAnswer, Edit, Fault, ForeignLink, MailboxFault, Mutation,
    Pattern, PlannedFault, Population, Resend, SimulatorSettings,
};
use futures_util::future::BoxFuture;

use crate::compare::{EventsById, assert_same, changes_after, mirror, truth};
use crate::converge::simulator;
use crate::memory::Memory;
use crate::rig::{BASE, Rig, noon, window};
use crate::window_fixture::{LONG, MAILBOX, WindowFixture, daily};

/// Called with every request before Graph handles it.
type RequestHook = dyn Fn(&http::Request<Bytes>) + Send + Sync;

struct HookedTransport {
    graph: Memory,
    hook: Box<RequestHook>,
}

impl Transport for HookedTransport {
    fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> BoxFuture<'_, Result<http::Response<BodyStream>, TransportError>> {
        (self.hook)(&request);
        self.graph.send(request)
    }
}

impl WindowFixture {
    /// A settled and exact window. `hook` is called with every request.
    async fn hooked(seed: u64, hook: Box<RequestHook>) -> Self {
        let fixture = Self::over(seed, daily(), |simulator| {
            Arc::new(HookedTransport { graph: Memory(simulator), hook })
        })
        .await;
        fixture.assert_exact("at first").await;
        fixture
    }

    async fn exact(seed: u64) -> Self {
        Self::hooked(seed, Box::new(|_| {})).await
    }

    /// Clears the faults: the window recovers at its next due time.
    async fn recovered(&self, when: &str) {
        self.simulator.clear_faults();
        let status = self.rig.settle(MAILBOX, 5).await;
        assert_eq!((status.failures, &status.last_error), (0, &None), "{when}");
        self.assert_exact(when).await;
    }
}

/// The ids of the events that differ between two states of a mirror.
fn differences(before: &EventsById, after: &EventsById) -> BTreeSet<String> {
    let ids: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    ids.into_iter().filter(|id| before.get(*id) != after.get(*id)).cloned().collect()
}

/// The ids of the feed's changes after a seq.
async fn changed_ids(fixture: &WindowFixture, after: u64) -> BTreeSet<String> {
    let changes = changes_after(&fixture.rig.store, after, Some(fixture.id), 10_000).await;
    assert!(changes.at_end);
    let ids: Vec<String> = changes.value.iter().map(|c| c.id.as_str().to_owned()).collect();
    let set: BTreeSet<String> = ids.iter().cloned().collect();
    assert_eq!(set.len(), ids.len(), "an event appears twice");
    set
}

#[tokio::test(start_paused = true)]
async fn a_malformed_page_is_read_or_retried_and_the_mirror_is_unchanged() {
    let fixture = WindowFixture::exact(901).await;
    for fault in [Fault::NotJson, Fault::NeitherLink, Fault::BothLinks, Fault::Truncated] {
        let name = format!("{fault:?}");
        // Once: the round repeats the request and succeeds.
        for resync in [false, true] {
            fixture.simulator.mutate_randomly();
            fixture.simulator.plan(PlannedFault::once(fault.clone()).path("delta"));
            let status = if resync { fixture.resync().await } else { fixture.round().await };
            assert_eq!(status.state, WindowState::Settled, "{name}: {:?}", status.last_error);
            assert!(fixture.simulator.faults().planned.is_empty(), "{name} did not happen");
            fixture.assert_exact(&name).await;
        }
        // Permanently: the round gives up after four repetitions and reports the error.
        fixture.simulator.mutate_randomly();
        let (before, seq) = (fixture.mirror().await, fixture.seq());
        fixture.simulator.plan(PlannedFault::always(fault.clone()).path("delta"));
        let requests = fixture.requests();
        let status = fixture.round().await;
        assert_eq!(status.state, WindowState::BackingOff, "{name}");
        assert_eq!(status.failures, 1, "{name}");
        assert!(status.last_error.is_some(), "{name}");
        // A fault that persists for the page costs one more small request, which tests whether the
        // mailbox responds at all.
        let asked = fixture.requests() - requests;
        assert!((5..=6).contains(&asked), "{name}: {asked}");
        assert_same(&name, &fixture.mirror().await, &before);
        assert_eq!(fixture.seq(), seq, "{name}");
        fixture.recovered(&name).await;
    }
    fixture.rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_item_is_skipped_and_the_round_continues() {
    let fixture = WindowFixture::exact(902).await;
    for how in
        [CorruptItem::NotAnObject, CorruptItem::NoId, CorruptItem::NumberId, CorruptItem::BadDate]
    {
        for resync in [false, true] {
            fixture.simulator.mutate_randomly();
            fixture.simulator.plan(PlannedFault::once(Fault::UnreadableItem { how }).path("delta"));
            let status = if resync { fixture.resync().await } else { fixture.round().await };
            assert_eq!(status.state, WindowState::Settled, "{how:?}: {:?}", status.last_error);
            assert!(fixture.simulator.faults().planned.is_empty(), "{how:?} did not happen");
            fixture.assert_exact(&format!("after {how:?}")).await;
        }
    }
    fixture.rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_link_to_another_host_is_never_followed() {
    let asked: Arc<Mutex<Vec<http::Uri>>> = Arc::default();
    let seen = asked.clone();
    let look = move |request: &http::Request<Bytes>| {
        seen.lock().unwrap().push(request.uri().clone());
    };
    let fixture = WindowFixture::hooked(903, Box::new(look)).await;
    for how in [ForeignLink::Host, ForeignLink::Scheme, ForeignLink::Port, ForeignLink::UserInfo] {
        // On a delta link in a round, and on a next link in an enumeration.
        for resync in [false, true] {
            fixture.simulator.mutate_randomly();
            let before = fixture.mirror().await;
            fixture.simulator.plan(PlannedFault::always(Fault::ForeignLink { how }).path("delta"));
            let status = if resync { fixture.resync().await } else { fixture.round().await };
            assert_eq!(status.state, WindowState::BackingOff, "{how:?}");
            let error = status.last_error.unwrap();
            assert!(!error.message.contains("skiptoken"), "{how:?}: {}", error.message);
            assert_same(&format!("{how:?}"), &fixture.mirror().await, &before);
            fixture.recovered(&format!("{how:?}")).await;
        }
    }
    let uris = std::mem::take(&mut *asked.lock().unwrap());
    assert!(uris.len() > 50);
    let own: http::Uri = BASE.parse().unwrap();
    for uri in uris.iter() {
        assert_eq!(uri.scheme(), own.scheme());
        assert_eq!(uri.authority(), own.authority());
    }
    fixture.rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_costs_one_renewal_and_one_repetition() {
    let fixture = WindowFixture::exact(904).await;
    for path in ["deltatoken", "skiptoken"] {
        for _ in 0..30 {
            fixture.simulator.mutate_randomly();
        }
        let before = fixture.simulator.statistics();
        fixture.simulator.plan(PlannedFault::once(Fault::Unauthorized).path(path));
        let status =
            if path == "skiptoken" { fixture.resync().await } else { fixture.round().await };
        assert_eq!((status.state, status.failures), (WindowState::Settled, 0), "{path}");
        let after = fixture.simulator.statistics();
        assert_eq!(after.token_requests - before.token_requests, 1, "{path}");
        let refused =
            |s: &calmirror::simulator::Statistics| s.total.statuses.get(&401).copied().unwrap_or(0);
        assert_eq!(refused(&after) - refused(&before), 1, "{path}");
        assert_eq!(
            after.total.enumerations - before.total.enumerations,
            u64::from(path == "skiptoken")
        );
        fixture.assert_exact(path).await;
    }
    // All tokens expire at once, then a refusal persists.
    fixture.simulator.expire_tokens();
    assert_eq!(fixture.round().await.state, WindowState::Settled);
    let before = fixture.simulator.statistics();
    fixture.simulator.plan(PlannedFault::always(Fault::Unauthorized).path("delta"));
    assert_eq!(fixture.round().await.state, WindowState::SignInRequired);
    let after = fixture.simulator.statistics();
    assert_eq!(after.token_requests - before.token_requests, 1);
    assert_eq!(after.total.requests - before.total.requests, 2);
    fixture.recovered("after a refusal that stayed").await;
    fixture.rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_or_forbidden_mailbox_keeps_its_mirror() {
    let fixture = WindowFixture::exact(905).await;
    for how in MailboxFault::ALL {
        for resync in [false, true] {
            fixture.simulator.mutate_randomly();
            let (before, seq) = (fixture.mirror().await, fixture.seq());
            fixture.simulator.plan(PlannedFault::always(Fault::Mailbox { how }));
            let requests = fixture.requests();
            let status = if resync { fixture.resync().await } else { fixture.round().await };
            let expected = match how {
                MailboxFault::InsufficientClaims => WindowState::SignInRequired,
                _ => WindowState::Quarantined,
            };
            assert_eq!(status.state, expected, "{how:?}: {:?}", status.last_error);
            // Retried at long intervals only.
            tokio::time::sleep(Duration::from_secs(240)).await;
            let requests = fixture.requests() - requests;
            assert!(requests <= 2, "{how:?}: {requests} requests");
            assert_same(&format!("{how:?}"), &fixture.mirror().await, &before);
            assert_eq!(fixture.seq(), seq, "{how:?}");
            fixture.recovered(&format!("{how:?}")).await;
        }
    }
    // Without a request for a round, it recovers after the longest wait at the latest.
    fixture.simulator.plan(PlannedFault::once(Fault::Mailbox { how: MailboxFault::AccessDenied }));
    assert_eq!(fixture.round().await.state, WindowState::Quarantined);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(fixture.status().state, WindowState::Settled);
    fixture.rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_throttled_mailbox_gets_no_requests_until_its_wait_ends() {
    let directory = tempfile::tempdir().unwrap();
    let env = Env::simulated(906, noon());
    let simulator = simulator(906, Behaviour::calm(), &env);
    let mut windows = vec![window(MAILBOX)];
    for number in 0..5 {
        let calendar = simulator.add_calendar(MAILBOX, &format!("calendar {number}"));
        let plan = Population {
            singles: 60,
            series: 2,
            all_day: 2,
            body_bytes: 100,
            around: noon(),
            spread_days: 80,
        };
        simulator.populate(MAILBOX, Some(&calendar), plan);
        windows.push(Window {
            name: format!("calendar {number}").into(),
            calendar: CalendarRef::Id(calendar.into()),
            ..window(MAILBOX)
        });
    }
    let other = "bob@contoso.com";
    simulator.add_mailbox(other);
    windows.push(window(other));
    let names: Vec<Arc<str>> = windows.iter().map(|window| window.name.clone()).collect();
    for (skip, retry_after) in
        [(2, Some("30")), (9, Some("date:60")), (14, Some("2.128")), (20, None)]
    {
        let fault = Fault::Throttled { retry_after: retry_after.map(str::to_owned) };
        simulator.plan(PlannedFault::once(fault).mailbox(MAILBOX).skip(skip));
    }
    let fault = Fault::Unavailable { retry_after: Some("45".to_owned()) };
    simulator.plan(PlannedFault::once(fault).mailbox(MAILBOX).skip(30));
    let graph = Arc::new(Memory(simulator.clone()));
    let rig = Rig::start(directory.path(), graph, &env, windows).await;
    // The other mailbox is not affected.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(rig.fleet.window(other).unwrap().state, WindowState::Settled);
    for name in &names {
        rig.settle(name, 20).await;
    }
    tokio::time::sleep(Duration::from_secs(1800)).await;
    let statistics = simulator.statistics();
    assert!(simulator.faults().planned.is_empty(), "a planned fault did not happen");
    let tally = &statistics.mailboxes[MAILBOX];
    assert_eq!(tally.during_pause, 0);
    assert_eq!(tally.max_concurrent, 3, "uses exactly the permitted concurrency");
    assert_eq!(tally.statuses[&429], 4, "only planned responses: {:?}", tally.statuses);
    assert_eq!(tally.statuses[&503], 1);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_panicking_worker_is_restarted_and_affects_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let env = Env::simulated(909, noon());
    let simulator = simulator(909, Behaviour::calm(), &env);
    let ill = "bob@contoso.com";
    let names = [MAILBOX, ill, "carol@contoso.com"];
    for name in names {
        simulator.add_mailbox(name);
        let plan = Population {
            singles: 30,
            series: 3,
            all_day: 2,
            body_bytes: 100,
            around: noon(),
            spread_days: 60,
        };
        if name != MAILBOX {
            simulator.populate(name, None, plan);
        }
    }
    let poisoned = Arc::new(AtomicBool::new(true));
    let poison = poisoned.clone();
    let look = move |request: &http::Request<Bytes>| {
        let uri = request.uri().to_string();
        let bobs = uri.contains("bob");
        // The second page: one page is stored, more are still to come.
        assert!(!(bobs && uri.contains("token") && poison.load(Ordering::Relaxed)), "poisoned");
    };
    let graph = Memory(simulator.clone());
    let transport = Arc::new(HookedTransport { graph, hook: Box::new(look) });
    let windows = names.map(window).to_vec();
    let rig = Rig::start(directory.path(), transport, &env, windows).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let status = rig.fleet.window(ill).unwrap();
    assert_eq!(status.state, WindowState::BackingOff);
    assert!(status.failures > 3, "not restarted often enough: {}", status.failures);
    assert!(status.failures < 60, "the delays between restarts must grow: {}", status.failures);
    for name in names.into_iter().filter(|name| *name != ill) {
        let status = rig.fleet.window(name).unwrap();
        assert_eq!((status.state, status.failures), (WindowState::Settled, 0), "{name}");
        assert!(status.last_round.unwrap().number >= 8, "{name} missed rounds");
    }
    poisoned.store(false, Ordering::Relaxed);
    // It recovers at the next restart.
    tokio::time::sleep(Duration::from_secs(180)).await;
    for name in names {
        let status = rig.fleet.window(name).unwrap();
        assert_eq!((status.state, status.failures), (WindowState::Settled, 0), "{name}");
        let edges = Edges { start: status.start, end: status.end };
        let real = truth(&simulator, name, None, edges, Completion::Master).await;
        let mirrored = mirror(&rig.store, rig.fleet.id(name).unwrap()).await;
        assert!(mirrored.len() > 20);
        assert_same(name, &mirrored, &real);
    }
    // Pages stored before the panics are not requested again.
    assert_eq!(simulator.statistics().mailboxes[ill].enumerations, 1);
    rig.stop().await;
}
