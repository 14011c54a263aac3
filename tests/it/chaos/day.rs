//! One or several days of a daemon: everything happens at once, then the faults stop, then mirror
//! and truth are compared.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use calmirror::env::Env;
use calmirror::graph::transport::{BodyStream, Transport, TransportError};
use calmirror::mirror::window::{Edges, Window};
use calmirror::simulator::{
    Behaviour, Fault, Faults, Lie, MailboxFault, Mutation, PlannedFault, SignInRefusal, Simulator,
};
use calmirror::store::{BATCH_BYTES, FeedFilter, Follower, Store};
use clap::ValueEnum as _;
use futures_util::future::BoxFuture;
use jiff::SignedDuration;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::follower::Followers;
use super::organisation::{Tracked, organisation};
use crate::compare::{assert_mirrored, assert_same, truth_as_asked};
use crate::memory::Memory;
use crate::rig::{Rig, noon};

/// The number of random steps in a day.
const STEPS: u32 = 100;
/// The last lies are huge; other tests cover them.
const HUGE: usize = 2;

/// The result of a day. The same seed gives the same result.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SeedOutcome {
    windows: u64,
    events: u64,
    requests: u64,
    failures: u64,
    changes: u64,
    resyncs: u64,
    restarts: u64,
    /// Hash of every request in order, of the whole feed with its seqs and times, and of the final
    /// events.
    pub(crate) digest: u64,
}

impl SeedOutcome {
    pub(crate) fn add(&mut self, other: &Self) {
        self.windows += other.windows;
        self.events += other.events;
        self.requests += other.requests;
        self.failures += other.failures;
        self.changes += other.changes;
        self.resyncs += other.resyncs;
        self.restarts += other.restarts;
    }
}

impl fmt::Display for SeedOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} windows, {} events in the end, {} requests ({} failed), {} changes followed, \
             {} resyncs, {} restarts",
            self.windows,
            self.events,
            self.requests,
            self.failures,
            self.changes,
            self.resyncs,
            self.restarts
        )
    }
}

/// Graph, with a digest of all requests.
struct Tape {
    graph: Memory,
    digest: Arc<Mutex<DefaultHasher>>,
}

impl Transport for Tape {
    fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> BoxFuture<'_, Result<http::Response<BodyStream>, TransportError>> {
        request.uri().hash(&mut *self.digest.lock().unwrap());
        tracing::debug!(uri = %request.uri(), "asked");
        self.graph.send(request)
    }
}

/// The daemon, its readers, and the state of the test.
struct Life {
    seed: u64,
    directory: TempDir,
    /// The daemon's clock.
    env: Env,
    /// Graph's clock.
    right: Env,
    simulator: Simulator,
    tracked: Vec<Tracked>,
    followers: Followers,
    digest: Arc<Mutex<DefaultHasher>>,
    restarts: u64,
}

/// One process.
struct Process {
    rig: Rig,
    following: JoinHandle<()>,
}

impl Life {
    async fn start(&self) -> Process {
        let windows = self.tracked.iter().map(|t| t.window.clone()).collect();
        let graph = Memory(self.simulator.clone());
        let transport = Arc::new(Tape { graph, digest: self.digest.clone() });
        let rig = Rig::start(self.directory.path(), transport, &self.env, windows).await;
        let following = self.followers.follow(&rig.store);
        Process { rig, following }
    }

    async fn restart(&mut self, process: Process, crash: bool) -> Process {
        let Process { rig, following } = process;
        following.abort();
        following.await.ok();
        if crash {
            rig.crash().await;
        } else {
            rig.stop().await;
        }
        self.restarts += 1;
        self.start().await
    }

    /// Records the ids that calendars list now, to detect false removals later.
    fn look(&self, concerned: Option<&Mutation>) {
        for Tracked { window, calendar } in &self.tracked {
            let here = concerned.is_none_or(|mutation| {
                *mutation.mailbox == *window.mailbox && mutation.calendar == *calendar
            });
            if here && !self.lied_to() && never_flickers(window) {
                let (start, end) =
                    (window.settings.start.resolve(noon()), window.settings.end.resolve(noon()));
                let ids = self.simulator.listed(
                    &window.mailbox,
                    calendar.as_deref(),
                    start,
                    end,
                    window.settings.immutable_ids,
                );
                self.followers.listed(&window.name, ids);
            }
        }
    }

    /// Whether Graph lies with this seed. Lies are accepted until the next enumeration.
    fn lied_to(&self) -> bool {
        self.seed.is_multiple_of(5)
    }

    /// Makes a random change in a calendar.
    fn step(&self) {
        let mutation = self.simulator.mutate_randomly();
        tracing::debug!(?mutation, "stepped");
        self.look(mutation.as_ref());
    }

    /// Plans a fault that lasts for some requests, for one mailbox or for all.
    fn trouble(&self, rng: &mut fastrand::Rng) {
        let mailboxes = self.simulator.mailboxes();
        let whom = mailboxes[rng.usize(0..mailboxes.len())].clone();
        let how = MailboxFault::ALL[rng.usize(0..MailboxFault::ALL.len())];
        let refusal = [
            SignInRefusal::WrongSecret,
            SignInRefusal::UnknownTenant,
            SignInRefusal::InvalidGrant,
            SignInRefusal::InteractionRequired,
            SignInRefusal::TemporarilyUnavailable,
        ][rng.usize(0..5)];
        // Endless paging persists for requests with a page size this large.
        let below = rng.usize(4..100);
        let stuck = |fault| PlannedFault::once(fault).mailbox(&whom).path("delta").times(200);
        let fault = match rng.u8(0..24) {
            0..6 => Fault::Mailbox { how },
            6..8 => {
                self.simulator.expire_tokens();
                let planned = PlannedFault::once(Fault::SignIn { how: refusal });
                return self.simulator.plan(planned.times(rng.u32(1..4)));
            }
            8 => Fault::ClaimsChallenge,
            9..11 => Fault::Stall,
            11 => Fault::SlowBody { every: rng.u64(100..2000) },
            12 => Fault::StickyGatewayTimeout { above: 1 },
            13 => Fault::BadRequest,
            14 if self.seed.is_multiple_of(8) => Fault::EndlessBody,
            15 if self.seed.is_multiple_of(8) => Fault::Bomb,
            16 => return self.simulator.plan(stuck(Fault::EndlessPaging { below })),
            17 => return self.simulator.plan(stuck(Fault::EndlessEmpty { below })),
            18 => return self.simulator.plan(stuck(Fault::EndlessOld { below })),
            19 if self.lied_to() => {
                let lies = Lie::value_variants();
                let how = lies[rng.usize(0..lies.len() - HUGE)];
                let lie = PlannedFault::once(Fault::Lie { how });
                return self.simulator.plan(lie.path("delta").times(rng.u32(1..4)));
            }
            14.. => Fault::Throttled {
                retry_after: ["0", "7200", "0.5", "date:-5", "date:90", "soon", ""]
                    .map(str::to_owned)
                    .get(rng.usize(0..7))
                    .cloned(),
            },
        };
        self.simulator.plan(PlannedFault::once(fault).mailbox(&whom).times(rng.u32(1..6)));
    }
}

/// A directory in memory where available; other tests cover power cuts.
fn directory() -> TempDir {
    let memory = PathBuf::from("/dev/shm");
    tempfile::tempdir_in(&memory).or_else(|_| tempfile::tempdir()).unwrap()
}

/// Plays a seed; panics unless the mirror ends up exact.
pub(crate) async fn live(seed: u64) -> SeedOutcome {
    let mut rng = fastrand::Rng::with_seed(seed);
    let env = Env::simulated(seed, noon());
    let right = Env::simulated(seed, noon());
    let (simulator, tracked) = organisation(seed, &mut rng, &right);
    let mut life = Life {
        seed,
        directory: directory(),
        env,
        right,
        simulator: simulator.clone(),
        tracked,
        followers: Followers::default(),
        digest: Arc::default(),
        restarts: 0,
    };
    life.look(None);
    let mailboxes = simulator.mailboxes();
    let mut process = life.start().await;
    let mut leapt = false;
    // The rates of restarts and clock jumps depend on the seed.
    let (restarts, leaps) = (rng.u8(0..3), rng.u8(0..4) == 0);
    for _ in 0..STEPS {
        match rng.u8(0..32) {
            0 | 1 => {
                simulator.kill_tokens(
                    rng.bool().then(|| mailboxes[rng.usize(0..mailboxes.len())].as_str()),
                );
            }
            2 => simulator.expire_tokens(),
            // A restart in mid-round.
            3 | 4 if restarts > 0 => {
                let crash = rng.u8(0..3) < restarts;
                process = life.restart(process, crash).await;
            }
            5 => {
                let name = &life.tracked[rng.usize(0..life.tracked.len())].window.name;
                process.rig.fleet.resync(name, false, None).await.unwrap();
            }
            6 => simulator.set_faults(Faults::by_rate(rng.f64() * 0.4)),
            7 => simulator.clear_faults(),
            8 | 9 => life.trouble(&mut rng),
            10 => {
                // Graph changes its behaviour, and all links die.
                simulator.set_behaviour(Behaviour::by_seed(rng.u64(..)));
                simulator.kill_tokens(None);
            }
            11 if rng.bool() => {
                // The machine slept.
                tokio::time::advance(Duration::from_secs(rng.u64(3600..4 * 86_400))).await;
            }
            12 if leaps && rng.bool() => {
                let days = [3650, 8, -365][rng.usize(0..3)];
                let by = SignedDuration::from_hours(24 * days);
                life.env.advance_wall_clock(by);
                tokio::time::sleep(Duration::from_secs(rng.u64(0..1200))).await;
                if restarts > 0 && rng.bool() {
                    process = life.restart(process, rng.bool()).await;
                    tokio::time::sleep(Duration::from_secs(rng.u64(0..1200))).await;
                }
                life.env.advance_wall_clock(-by);
            }
            12 if leaps => {
                // Both clocks are set.
                let by = SignedDuration::from_secs(rng.i64(-7200..3 * 86_400));
                life.env.advance_wall_clock(by);
                life.right.advance_wall_clock(by);
                leapt = true;
            }
            13 => (0..rng.u8(5..40)).for_each(|_| life.step()),
            _ => life.step(),
        }
        let most = if rng.u8(0..10) == 0 { 900_000 } else { 20_000 };
        tokio::time::sleep(Duration::from_millis(rng.u64(0..most))).await;
    }
    simulator.clear_faults();
    let outcome = life.verify(&process, leapt).await;
    process.following.abort();
    process.rig.stop().await;
    outcome
}

impl Life {
    /// After the faults have stopped, asserts that mirror, feed, readers and truth agree.
    async fn verify(&self, process: &Process, leapt: bool) -> SeedOutcome {
        let Self { seed, simulator, .. } = self;
        let store = &process.rig.store;
        let mut outcome = SeedOutcome { restarts: self.restarts, ..SeedOutcome::default() };
        for Tracked { window, .. } in &self.tracked {
            if self.lied_to() {
                process.rig.fleet.resync(&window.name, false, None).await.unwrap();
            }
            process.rig.settle(&window.name, 60).await;
        }
        // Taken before the requests of the comparison.
        let statistics = simulator.statistics();
        for Tracked { window, calendar } in &self.tracked {
            let what = format!("seed {seed}, {}", window.name);
            let status = process.rig.fleet.window(&window.name).unwrap();
            let id = process.rig.fleet.id(&window.name).unwrap();
            let edges = Edges { start: status.start, end: status.end };
            let now = self.env.now();
            assert!(edges.start <= window.settings.start.resolve(now), "starts too late, {what}");
            assert!(edges.end >= window.settings.end.resolve(now), "ends too early, {what}");
            let real = truth_as_asked(simulator, window, calendar.as_deref(), edges).await;
            let mirrored = assert_mirrored(store, id, &real, &what).await;
            assert_eq!(status.events, mirrored.len() as u64, "count, {what}");
            self.followers.with(&window.name, |followed| {
                assert_same(&format!("follower and mirror, {what}"), &followed.events, &mirrored);
                if !self.lied_to() && never_flickers(window) {
                    let lies = &followed.lies;
                    assert!(lies.is_empty(), "false removals, {what}: {lies:#?}");
                }
                outcome.changes += followed.changes;
            });
            outcome.windows += 1;
            outcome.events += status.events;
            outcome.resyncs += status.resyncs;
            let mut digest = self.digest.lock().unwrap();
            mirrored.iter().for_each(|(id, event)| (id, event.to_string()).hash(&mut *digest));
        }
        for (mailbox, tally) in &statistics.mailboxes {
            let what = format!("seed {seed}, {mailbox}");
            // A new process does not know of a pause announced to the previous one, and a pause is
            // not kept if Graph's clock is set during it.
            if self.restarts == 0 && !leapt {
                assert_eq!(tally.during_pause, 0, "requests during a pause, {what}");
            }
            assert!(tally.max_concurrent <= 3, "{} at once, {what}", tally.max_concurrent);
            assert!(leapt || tally.max_in_10_minutes < 10_000, "{what}");
            assert_eq!(tally.mixed_forms, 0, "a stream was requested in two forms, {what}");
        }
        assert_eq!(statistics.unknown_tokens, 0, "seed {seed}");
        outcome.requests = statistics.total.requests;
        let answered = statistics.total.statuses.get(&200).copied().unwrap_or_default();
        // The token endpoint's responses are included.
        outcome.failures = outcome.requests.saturating_sub(answered);
        self.hash_feed(store).await;
        outcome.digest = self.digest.lock().unwrap().finish();
        outcome
    }

    /// Adds every entry of the feed to the digest: the commits and their order.
    async fn hash_feed(&self, store: &Store) {
        let mut follower = Follower::from_beginning(store, FeedFilter::All);
        loop {
            let changes = follower.read(1000, BATCH_BYTES).await.unwrap();
            let mut digest = self.digest.lock().unwrap();
            for change in &changes.value {
                let entry = (change.seq, &change.window, change.id.as_str(), change.kind);
                format!("{entry:?} {}", change.at).hash(&mut *digest);
            }
            if changes.at_end {
                return;
            }
        }
    }
}

/// Whether an event that the calendar lists throughout must stay in the mirror throughout: moving
/// edges drop events.
fn never_flickers(window: &Window) -> bool {
    !window.settings.start.is_relative()
}
