//! Every row of the table of Graph responses, through the whole fleet: the window's status, the
//! requests made, what readers see meanwhile, and that the mirror is exact afterwards.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use calmirror::env::Env;
use calmirror::graph::transport::{
    BodyStream, Transport, TransportError, TransportErrorKind as Broken,
};
use calmirror::mirror::status::{ResyncReason, WindowState};
use calmirror::mirror::window::{BodyFormat as Kept, Edges, WindowSettings};
use calmirror::simulator::{Behaviour, Fault, PlannedFault, SignInRefusal};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;

use crate::compare::{assert_same, mirror, truth_as_asked};
use crate::converge::simulator;
use crate::memory::Memory;
use crate::rig::{Rig, noon, window_settings, window_with};
use crate::window_fixture::{LONG, MAILBOX, WindowFixture, daily};

impl WindowFixture {
    /// Asserts that mirror, feed and truth agree once the window has recovered.
    async fn assert_recovers(&self, when: &str) {
        // Lets enough time pass for the next fallback to be tried.
        tokio::time::sleep(Duration::from_secs(3700)).await;
        self.rig.settle(MAILBOX, 6).await;
        self.assert_exact(when).await;
    }
}

#[tokio::test(start_paused = true)]
async fn every_transient_fault_costs_one_repetition() {
    let fixture = WindowFixture::settled(1501).await;
    for fault in [
        Fault::UnavailableEmpty,
        Fault::UnknownError,
        Fault::BadGateway,
        Fault::GatewayTimeout,
        Fault::InternalError,
        Fault::RequestTimeout,
        Fault::BandwidthExceeded,
        Fault::Reset,
        Fault::Stall,
        Fault::Truncated,
        // A hundred chunks: longer than the request's timeout.
        Fault::SlowBody { every: 1100 },
        Fault::NotJson,
        Fault::NeitherLink,
        Fault::BothLinks,
    ] {
        for resync in [false, true] {
            let what = format!("{fault:?}, resync {resync}");
            fixture.simulator.mutate_randomly();
            fixture.simulator.plan(PlannedFault::once(fault.clone()).path("delta"));
            let status = if resync { fixture.resync().await } else { fixture.round().await };
            assert!(fixture.simulator.faults().planned.is_empty(), "{what} did not happen");
            assert_eq!((status.state, status.failures), (WindowState::Settled, 0), "{what}");
            fixture.assert_recovers(&what).await;
        }
    }
    fixture.rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_within_the_timeout_is_awaited() {
    let fixture = WindowFixture::settled(1502).await;
    fixture.simulator.mutate_randomly();
    fixture.simulator.plan(PlannedFault::once(Fault::SlowBody { every: 500 }).path("delta"));
    let begun = tokio::time::Instant::now();
    assert_eq!(fixture.round().await.state, WindowState::Settled);
    let took = begun.elapsed().as_secs();
    assert!(
        (49..60).contains(&took),
        "expected one response of 50 s without a repetition: {took} s"
    );
    fixture.assert_recovers("after a slow body").await;
    fixture.rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn endless_bodies_and_bombs_are_read_to_the_cap_and_reported() {
    let fixture = WindowFixture::settled(1503).await;
    for fault in [Fault::EndlessBody, Fault::Bomb] {
        let what = format!("{fault:?}");
        fixture.simulator.mutate_randomly();
        let events = fixture.status().events;
        fixture.simulator.plan(PlannedFault::once(fault).path("deltatoken"));
        let status = fixture.round().await;
        assert!(fixture.simulator.faults().planned.is_empty(), "{what} did not happen");
        assert_eq!(status.state, WindowState::BackingOff, "{what}");
        let error = status.last_error.expect("the status has an error");
        assert_eq!(error.kind.as_str(), "page_stuck", "{what}");
        assert_eq!(status.events, events, "{what}: the mirror changed");
        fixture.assert_recovers(&what).await;
    }
    fixture.rig.stop().await;
}

/// Records the largest number of bytes read of one body.
struct BodyMeter {
    graph: Memory,
    most: Arc<std::sync::atomic::AtomicUsize>,
}

impl Transport for BodyMeter {
    fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> BoxFuture<'_, Result<http::Response<BodyStream>, TransportError>> {
        Box::pin(async move {
            let response = self.graph.send(request).await?;
            let most = self.most.clone();
            let mut read = 0;
            Ok(response.map(|body| {
                BodyStream::from_stream(body.map(move |chunk| {
                    read += chunk.as_ref().map_or(0, Bytes::len);
                    most.fetch_max(read, std::sync::atomic::Ordering::Relaxed);
                    chunk
                }))
            }))
        })
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_beyond_the_cap() {
    let most = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let fixture = WindowFixture::over(1504, daily(), |simulator| {
        Arc::new(BodyMeter { graph: Memory(simulator), most: most.clone() })
    })
    .await;
    fixture.simulator.plan(PlannedFault::once(Fault::EndlessBody).path("deltatoken"));
    fixture.round().await;
    let most = most.load(std::sync::atomic::Ordering::Relaxed);
    let cap = calmirror::graph::client::MAX_BODY_BYTES;
    // Reading stops after the chunk that crosses the cap.
    assert!((cap..cap + (4 << 20)).contains(&most), "{most} bytes were read");
    fixture.assert_recovers("after a body without end").await;
    fixture.rig.stop().await;
}

/// Values of `Retry-After` with the shortest and the longest acceptable wait, in seconds.
const RETRY_AFTER: [(Option<&str>, u64, u64); 10] = [
    (Some("17"), 16, 40),
    (Some("2.128"), 1, 40),
    (Some("date:30"), 28, 60),
    (Some("date:-30"), 0, 40),
    (None, 0, 40),
    (Some("-5"), 0, 40),
    (Some("0"), 0, 40),
    (Some("soon"), 0, 40),
    (Some(""), 0, 40),
    // A wait is capped at one hour.
    (Some("999999999"), 3599, 4400),
];

#[tokio::test(start_paused = true)]
async fn every_form_of_retry_after_is_obeyed_and_absurd_waits_are_capped() {
    for (number, (value, least, most)) in (0..).zip(RETRY_AFTER) {
        for status in [429, 503] {
            if status == 503 && value.is_none() {
                continue;
            }
            let what = format!("{status}, Retry-After {value:?}");
            let fixture = WindowFixture::settled(1510 + number).await;
            let retry_after = value.map(str::to_owned);
            fixture.simulator.mutate_randomly();
            fixture.simulator.plan(PlannedFault::once(match status {
                429 => Fault::Throttled { retry_after },
                _ => Fault::Unavailable { retry_after },
            }));
            let throttled = fixture.round().await;
            assert_eq!(throttled.state, WindowState::BackingOff, "{what}");
            assert_eq!(throttled.last_error.unwrap().kind.as_str(), "throttled", "{what}");
            let begun = tokio::time::Instant::now();
            assert_eq!(fixture.round().await.state, WindowState::Settled, "{what}");
            let waited = begun.elapsed().as_secs();
            assert!((least..=most).contains(&waited), "{what}: waited {waited} s");
            let tally = &fixture.simulator.statistics().mailboxes[MAILBOX];
            assert_eq!(tally.during_pause, 0, "{what}");
            fixture.assert_recovers(&what).await;
            fixture.rig.stop().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_refused_sign_in_costs_one_token_request_and_sets_the_state() {
    for (number, how) in (0..).zip([
        SignInRefusal::WrongSecret,
        SignInRefusal::ExpiredSecret,
        SignInRefusal::UnknownApplication,
        SignInRefusal::UnknownTenant,
        SignInRefusal::InvalidGrant,
        SignInRefusal::InteractionRequired,
        SignInRefusal::TemporarilyUnavailable,
    ]) {
        let fixture = WindowFixture::settled(1530 + number).await;
        fixture.simulator.mutate_randomly();
        fixture.simulator.expire_tokens();
        fixture.simulator.plan(PlannedFault::always(Fault::SignIn { how }));
        let before = fixture.simulator.statistics();
        let status = fixture.round().await;
        let after = fixture.simulator.statistics();
        let error = status.last_error.expect("the status has an error");
        if how == SignInRefusal::TemporarilyUnavailable {
            assert_eq!(status.state, WindowState::BackingOff, "{how:?}");
        } else {
            assert_eq!(status.state, WindowState::SignInRequired, "{how:?}");
            assert_eq!(after.token_requests - before.token_requests, 1, "{how:?}");
            // Another round within 15 minutes requests no token.
            fixture.round().await;
            assert_eq!(fixture.simulator.statistics().token_requests, after.token_requests);
        }
        assert!(error.code.is_some(), "{how:?}: {error:?}");
        fixture.simulator.clear_faults();
        tokio::time::sleep(Duration::from_secs(16 * 60)).await;
        fixture.assert_recovers(&format!("after {how:?}")).await;
        fixture.rig.stop().await;
    }
}

/// A Graph that answers one request with a link by an error of the test's choice.
struct Scripted {
    graph: Memory,
    answer: Arc<std::sync::Mutex<Option<(u16, String)>>>,
    /// Hosts that received requests.
    hosts: Arc<std::sync::Mutex<std::collections::BTreeSet<String>>>,
}

impl Transport for Scripted {
    fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> BoxFuture<'_, Result<http::Response<BodyStream>, TransportError>> {
        let uri = request.uri();
        self.hosts.lock().unwrap().insert(uri.host().unwrap_or_default().to_owned());
        let link = uri.query().is_some_and(|query| query.contains("token="));
        let answer = if link { self.answer.lock().unwrap().take() } else { None };
        match answer {
            None => self.graph.send(request),
            Some((status, body)) => Box::pin(async move {
                http::Response::builder()
                    .status(status)
                    .header("location", "https://elsewhere.example/v1.0/me/calendarView/delta")
                    .body(BodyStream::full(body))
                    .map_err(|_| TransportError::new(Broken::Body))
            }),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_dead_link_code_is_recognised_under_any_4xx_and_no_location_is_followed() {
    let answer: Arc<std::sync::Mutex<Option<(u16, String)>>> = Arc::default();
    let hosts: Arc<std::sync::Mutex<std::collections::BTreeSet<String>>> = Arc::default();
    let fixture = WindowFixture::over(1550, daily(), |simulator| {
        Arc::new(Scripted {
            graph: Memory(simulator),
            answer: answer.clone(),
            hosts: hosts.clone(),
        })
    })
    .await;
    let codes = [
        "syncStateNotFound",
        "syncStateInvalid",
        "resyncRequired",
        "resyncApplyDifferences",
        "resyncUploadDifferences",
        "invalidDeltaToken",
        "errorInvalidSyncStateData",
    ];
    let mut deaths = vec![
        (410, String::new()),
        (410, "<html>gone</html>".to_owned()),
        (410, error("SomethingNew", "Nobody knows.")),
        (400, error("BadRequest", "Badly formed token.")),
        (400, error("BadRequest", "BADLY FORMED TOKEN.")),
    ];
    for (number, code) in codes.into_iter().enumerate() {
        let cases = [code.to_owned(), code.to_uppercase(), code.to_lowercase()];
        deaths.push(([400, 404, 409, 410][number % 4], error(&cases[number % 3], "Resync.")));
        deaths.push((410, error(&cases[(number + 1) % 3], "Resync.")));
    }
    for (status, body) in deaths {
        for resync in [false, true] {
            let what = format!("{status} {body}, resync {resync}");
            fixture.simulator.mutate_randomly();
            let before = fixture.status().resyncs;
            *answer.lock().unwrap() = Some((status, body.clone()));
            let seen = if resync { fixture.resync().await } else { fixture.round().await };
            assert!(answer.lock().unwrap().is_none(), "{what} was not sent");
            assert_eq!(seen.state, WindowState::Settled, "{what}: {:?}", seen.last_error);
            assert_eq!(seen.resyncs, before + 1 + u64::from(resync), "{what}");
            assert_eq!(seen.last_resync.unwrap().reason, ResyncReason::SyncStateNotFound, "{what}");
            fixture.assert_recovers(&what).await;
        }
    }
    // A 400 of another kind does not mean a dead link.
    *answer.lock().unwrap() = Some((400, error("ErrorInvalidParameter", "No.")));
    assert_eq!(fixture.round().await.state, WindowState::Quarantined);
    assert_eq!(hosts.lock().unwrap().len(), 1, "a request went to another host");
    fixture.rig.stop().await;
}

fn error(code: &str, message: &str) -> String {
    serde_json::json!({"error": {"code": code, "message": message}}).to_string()
}

#[tokio::test(start_paused = true)]
async fn each_stream_keeps_its_body_format_and_none_stores_no_body() {
    const SECRET: &str = "never to be kept";
    for (number, body) in (0..).zip([Kept::Html, Kept::Text, Kept::None]) {
        let directory = tempfile::tempdir().unwrap();
        let env = Env::simulated(1560 + number, noon());
        let simulator = simulator(1560 + number, Behaviour::by_seed(number), &env);
        let tracked = window_with(
            MAILBOX,
            WindowSettings {
                interval: Duration::from_secs(86_400),
                body,
                time_zone: ["UTC", "Tokyo Standard Time", "Europe/Berlin"][number as usize].into(),
                immutable_ids: number == 1,
                ..window_settings()
            },
        );
        let graph = Arc::new(Memory(simulator.clone()));
        let rig = Rig::start(directory.path(), graph, &env, vec![tracked.clone()]).await;
        let mut rewritten = Vec::new();
        for _ in 0..60 {
            let Some(mutation) = simulator.mutate_randomly() else { continue };
            // Gives each newly created event a body of our own.
            if let calmirror::simulator::Edit::Rewrite { event, .. } = &mutation.edit {
                let edit = calmirror::simulator::Edit::Rewrite {
                    event: event.clone(),
                    text: SECRET.to_owned(),
                };
                rewritten.push(calmirror::simulator::Mutation { edit, ..mutation });
            }
        }
        // These edits come last, so that no later change overwrites them. Events deleted meanwhile
        // stay deleted.
        rewritten.retain(|ours| simulator.mutate(ours.clone()).is_ok());
        assert!(!rewritten.is_empty(), "no body of our own was written");
        rig.settle(MAILBOX, 6).await;
        rig.fleet.resync(MAILBOX, false, Some(LONG)).await.unwrap();
        let status = rig.settle(MAILBOX, 6).await;
        let edges = Edges { start: status.start, end: status.end };
        let id = rig.fleet.id(MAILBOX).unwrap();
        let mirrored = mirror(&rig.store, id).await;
        let real = truth_as_asked(&simulator, &tracked, None, edges).await;
        assert_same(&format!("{body:?}"), &mirrored, &real);
        let statistics = simulator.statistics();
        assert_eq!(statistics.total.mixed_forms, 0, "{body:?}");
        let ours = |prefer: &&String| prefer.contains("maxpagesize");
        assert_eq!(statistics.prefer.iter().filter(ours).count(), 1, "{:?}", statistics.prefer);
        rig.stop().await;
        let shown = mirrored.values().any(|event| event.to_string().contains(SECRET));
        // Rows are compressed, so its files cannot be searched. Bodies of masters, which are not
        // listed themselves, would show in their occurrences.
        assert_eq!(shown, body != Kept::None, "{body:?}: visible to readers");
        let listed = real.values().any(|event| event.to_string().contains(SECRET));
        assert_eq!(listed, body != Kept::None, "{body:?}: listed by Graph in this form");
    }
}
