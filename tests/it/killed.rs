//! `kill -9` between a delta link and the end of its round: pending work is durable, the next
//! process does it first, and each change is published once.

use calmirror::mirror::status::WindowStatus;
use calmirror::mirror::window::{Completion, Edges};
use calmirror::simulator::{Behaviour, Edit, Fault, MasterOnPage, Mutation, PlannedFault};

use crate::compare::{EventsById, assert_same, truth};
use crate::process::{DaemonFixture, DaemonProcess, eventually};
use crate::socket::FeedClient;

const WINDOW: &str = "alice";
const MAILBOX: &str = "alice@contoso.com";

/// A settled window without rounds of its own, and a reader at the feed's end.
struct KillFixture {
    fixture: DaemonFixture,
    daemon: DaemonProcess,
    edges: Edges,
    follower: FeedClient,
    before: EventsById,
    enumerations: u64,
}

impl KillFixture {
    async fn new(seed: u64) -> Self {
        let fixture = DaemonFixture::new(seed, &[WINDOW]).await;
        let text = std::fs::read_to_string(&fixture.config).unwrap();
        fixture.configure(&text.replace("interval = \"1s\"", "interval = \"1d\""));
        // Every series' master has to be fetched by id, which takes a request.
        let behaviour = Behaviour { master: MasterOnPage::Absent, ..Behaviour::calm() };
        fixture.simulator.set_behaviour(behaviour);
        let daemon = fixture.run().await;
        let WindowStatus { start, end, .. } = fixture.settle(WINDOW).await;
        let mut follower = FeedClient::default();
        follower.catch_up(&fixture.api).await;
        let before = fixture.api.events(WINDOW).await;
        let enumerations = fixture.simulator.statistics().total.enumerations;
        let edges = Edges { start, end };
        Self { fixture, daemon, edges, follower, before, enumerations }
    }

    /// Starts a `sync` or `resync` in which the request matching `stalled` gets no response, and
    /// kills the daemon while it waits for that.
    async fn kill(mut self, word: &str, stalled: PlannedFault) -> Self {
        let simulator = &self.fixture.simulator;
        simulator.plan(stalled);
        let begun = self.fixture.api.post(&format!("/v1/windows/{WINDOW}/{word}")).await;
        assert_eq!(begun.status, 202, "{:?}", begun.body);
        eventually("the planned request is made", async || {
            assert!(self.daemon.exit_status().is_none(), "the daemon ended");
            simulator.faults().planned.is_empty().then_some(())
        })
        .await;
        let shown = self.fixture.api.events(WINDOW).await;
        assert_same("readers see the old state", &shown, &self.before);
        self.daemon.kill().await;
        // From now on delta requests get no response: the pending work must not need them.
        simulator.plan(PlannedFault::once(Fault::Stall).path("deltatoken"));
        self.daemon = self.fixture.run().await;
        self
    }

    /// Lets the new process finish the pending work without delta, compares everything, and returns
    /// the number of published changes.
    async fn finish_and_compare(self) -> usize {
        let Self { fixture, daemon, edges, mut follower, before, .. } = self;
        let asked = fixture.simulator.statistics().total.enumerations;
        let begun = fixture.api.post(&format!("/v1/windows/{WINDOW}/sync")).await;
        assert!(begun.status.is_success(), "{:?}", begun.body);
        eventually("a delta request is made again", async || {
            fixture.simulator.faults().planned.is_empty().then_some(())
        })
        .await;
        let again = fixture.simulator.statistics().total.enumerations;
        assert_eq!(again, asked, "the window was enumerated again");
        let real = truth(&fixture.simulator, MAILBOX, None, edges, Completion::Master).await;
        assert_same("mirror and truth", &fixture.api.events(WINDOW).await, &real);
        let lines = follower.lines;
        follower.catch_up(&fixture.api).await;
        assert_same("feed and truth", &follower.of(WINDOW), &real);
        let differ = before.iter().filter(|(id, event)| real.get(*id) != Some(event)).count();
        let new = real.keys().filter(|id| !before.contains_key(*id)).count();
        let told = follower.lines - lines;
        assert_eq!(told, differ + new, "each difference is published once");
        let written = rows_written(&fixture).await;
        assert!(told > 0 || written == 0, "{written} rows rewritten by a quiet resync");
        daemon.stop().await;
        told
    }

    fn enumerations(&self) -> u64 {
        self.fixture.simulator.statistics().total.enumerations - self.enumerations
    }

    /// The ids of the first `most` events of a type.
    fn first_ids(&self, kind: &str, most: usize) -> Vec<String> {
        let of_kind = self.before.iter().filter(|(_, event)| event["type"] == kind);
        of_kind.take(most).map(|(id, _)| id.clone()).collect()
    }

    fn edit(&self, edit: Edit) {
        let mutation = Mutation { mailbox: MAILBOX.into(), calendar: None, edit };
        self.fixture.simulator.mutate(mutation).unwrap();
    }
}

/// The number of event rows that the running daemon has written.
async fn rows_written(fixture: &DaemonFixture) -> u64 {
    let text = String::from_utf8(fixture.api.get("/metrics").await.body.to_vec()).unwrap();
    let mut lines = text.lines();
    let found = lines.find_map(|l| l.strip_prefix("calmirror_store_rows_written_total "));
    found.unwrap().parse().unwrap()
}

/// A stalled request for one event by id, which is a master: no other request has this path.
fn a_master() -> PlannedFault {
    PlannedFault::once(Fault::Stall).path("/events/")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_before_the_sweep_of_an_unchanged_resync_publishes_nothing() {
    // The first of six masters, and the last.
    for skip in [0, 5] {
        let settled = KillFixture::new(51).await.kill("resync", a_master().skip(skip)).await;
        let (enumerations, written) =
            (settled.enumerations(), rows_written(&settled.fixture).await);
        assert_eq!((enumerations, written), (1, 0), "killed after the delta link");
        assert_eq!(settled.finish_and_compare().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_before_a_sweep_publishes_each_difference_once() {
    let settled = KillFixture::new(52).await;
    for event in settled.first_ids("singleInstance", 7) {
        settled.edit(Edit::Delete { event });
    }
    let settled = settled.kill("resync", a_master().skip(3)).await;
    assert_eq!(settled.enumerations(), 1);
    assert_eq!(settled.finish_and_compare().await, 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_before_a_series_is_complete_completes_it_before_the_next_request() {
    // The request for its master, or the listing of its instances.
    for stalled in [a_master(), PlannedFault::once(Fault::Stall).path("/instances")] {
        let settled = KillFixture::new(53).await;
        let occurrence = settled.first_ids("occurrence", 1).remove(0);
        let series = settled.before[&occurrence]["seriesMasterId"].as_str().unwrap().to_owned();
        settled.edit(Edit::CancelOccurrence { occurrence });
        settled.edit(Edit::Rename { event: series, subject: "Another".into() });
        let settled = settled.kill("sync", stalled).await;
        assert_eq!(settled.enumerations(), 0);
        assert!(settled.finish_and_compare().await > 3, "a whole series differs");
    }
}
