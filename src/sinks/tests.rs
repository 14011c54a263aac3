//! Sinks over a real store, with a target that can fail.

mod requests;
mod snapshots;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::time::Instant;

use super::batch::{SinkBatch, SinkPosition, SnapshotId};
use super::error::{SinkError, SinkErrorKind};
use super::target::{KeptPosition, NEW_SHARE, Receipt};
use super::*;
use crate::api::tests::Fixture;
use crate::api::{ReplayFrom, SinkApi as _, SinkCommand};
use crate::config::AccessLevel;
use crate::mirror::change::ChangeKind;
use crate::mirror::name_pattern::NamePattern;

/// A target in memory, which folds what it gets.
#[derive(Default)]
struct SinkCopy {
    /// The ids of the events that it shows, with the snapshot that brought each.
    events: BTreeMap<String, Option<SnapshotId>>,
    /// What each batch was about.
    batches: Vec<String>,
    /// When each attempt was.
    attempts: Vec<Instant>,
    /// How many attempts fail, and how.
    fails: Vec<SinkError>,
    /// After how many batches one fails, and how.
    fails_at: Option<(usize, SinkError)>,
    /// Whether it keeps the position itself, and which.
    keeps: bool,
    kept: Option<SinkPosition>,
    /// What it recognises itself by, if the position is in the store.
    mark: Option<String>,
    tests: usize,
}

impl SinkCopy {
    fn take(&mut self, batch: &SinkBatch) {
        let ids = batch.changes.iter().map(|change| match change.kind {
            ChangeKind::Removed => format!("-{}", change.id.as_str()),
            _ => change.id.as_str().to_owned(),
        });
        // The order within a commit is that of hashes.
        let mut words: Vec<String> = ids.collect();
        words.sort();
        if batch.begins {
            words.insert(0, "begins".to_owned());
        }
        if batch.ends {
            words.push("ends".to_owned());
        }
        self.batches.push(words.join(" "));
        for change in &batch.changes {
            match change.kind {
                ChangeKind::Removed => drop(self.events.remove(change.id.as_str())),
                _ => drop(self.events.insert(change.id.as_str().to_owned(), batch.snapshot)),
            }
        }
        if batch.ends {
            self.events.retain(|_, snapshot| *snapshot == batch.snapshot);
        }
        self.kept = Some(batch.after.clone());
    }
}

struct CopyTarget(Arc<Mutex<SinkCopy>>);

impl CopyTarget {
    fn lock(&self) -> MutexGuard<'_, SinkCopy> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SinkTarget for CopyTarget {
    fn open<'a>(
        &'a mut self,
        mark: Option<&'a str>,
    ) -> BoxFuture<'a, Result<KeptPosition, SinkError>> {
        let copy = self.lock();
        let kept = match copy.keeps {
            true => KeptPosition::InTarget(copy.kept.clone()),
            false if copy.mark.as_deref() != mark.filter(|mark| *mark != NEW_SHARE) => {
                KeptPosition::Lost
            }
            false => KeptPosition::InStore,
        };
        Box::pin(std::future::ready(Ok(kept)))
    }

    fn deliver<'a>(
        &'a mut self,
        batch: &'a SinkBatch,
    ) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        let mut copy = self.lock();
        copy.attempts.push(Instant::now());
        let batches = copy.batches.len();
        let now = copy.fails_at.take_if(|(at, _)| *at == batches).map(|(_, error)| error);
        let result = match now.or_else(|| copy.fails.pop()) {
            Some(error) => Err(error),
            None => {
                copy.take(batch);
                Ok(Receipt { mark: copy.mark.clone(), ..Receipt::default() })
            }
        };
        Box::pin(std::future::ready(result))
    }

    fn test<'a>(
        &'a mut self,
        _: &'a str,
        _: Timestamp,
    ) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        self.lock().tests += 1;
        Box::pin(std::future::ready(Ok(Receipt::default())))
    }
}

/// A store with sinks whose targets are one copy.
struct SinkFixture {
    fixture: Fixture,
    copy: Arc<Mutex<SinkCopy>>,
    board: SinkBoard,
    sinks: Sinks,
}

fn config(name: &str, filter: &str) -> SinkConfig {
    SinkConfig {
        name: name.into(),
        target: SinkTargetConfig::Sqlite { path: "/nowhere".into() },
        windows: Vec::new(),
        groups: Vec::new(),
        filter: filter.to_owned(),
        level: AccessLevel::All,
        batch: Duration::from_secs(2),
    }
}

impl SinkFixture {
    async fn new() -> Self {
        let fixture = Fixture::new().await;
        let copy: Arc<Mutex<SinkCopy>> = Arc::default();
        let (board, sinks) = Self::sinks(&fixture, &copy);
        Self { fixture, copy, board, sinks }
    }

    fn sinks(fixture: &Fixture, copy: &Arc<Mutex<SinkCopy>>) -> (SinkBoard, Sinks) {
        let board = SinkBoard::new(fixture.env.clone());
        let copy = copy.clone();
        let make: TargetMaker = Arc::new(move |_, _| Box::new(CopyTarget(copy.clone())));
        (board.clone(), Sinks { make, ..Sinks::new(board, &fixture.env) })
    }

    async fn configure(&mut self, configs: &[SinkConfig]) {
        let app = self.fixture.app();
        self.sinks.configure(configs, &app).await.unwrap();
        self.settle().await;
    }

    /// Stops the sinks, as the daemon does, and makes others over the same store.
    async fn restart(&mut self, configs: &[SinkConfig]) {
        let (board, sinks) = Self::sinks(&self.fixture, &self.copy);
        std::mem::replace(&mut self.sinks, sinks).stop().await;
        self.board = board;
        self.configure(configs).await;
    }

    /// Lets the sinks send what they have; no attempt fails for longer than a minute.
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_secs(60)).await;
    }

    async fn write(&self, present: &[&str], gone: &[&str]) {
        let present: Vec<(&str, u8, &str)> = present.iter().map(|id| (*id, 9, "")).collect();
        self.fixture.write(self.fixture.id("alice"), &present, gone).await;
    }

    fn copy(&self) -> MutexGuard<'_, SinkCopy> {
        self.copy.lock().unwrap()
    }

    /// The batches since the last call.
    fn batches(&self) -> Vec<String> {
        std::mem::take(&mut self.copy().batches)
    }

    fn events(&self) -> String {
        self.copy().events.keys().cloned().collect::<Vec<_>>().join(" ")
    }

    async fn ask(&self, command: SinkCommand) -> String {
        match self.board.ask("crm".to_owned(), command).await {
            Ok(status) => status.state,
            Err(refusal) => refusal.to_string(),
        }
    }

    fn state(&self) -> (String, u64) {
        let status = self.board.list().remove(0);
        (status.state, status.pending)
    }
}

fn error(kind: SinkErrorKind) -> SinkError {
    SinkError::new(kind, "it failed")
}

/// The answer of a target that asks for a pause.
fn patient(seconds: u64) -> SinkError {
    let retry_after = Some(Duration::from_secs(seconds));
    SinkError { retry_after, ..error(SinkErrorKind::Unavailable) }
}

#[tokio::test(start_paused = true)]
async fn a_sink_gets_a_snapshot_and_then_each_change() {
    let mut rig = SinkFixture::new().await;
    rig.write(&["a", "b"], &[]).await;
    rig.configure(&[config("crm", "")]).await;
    assert_eq!(rig.batches(), ["begins a b ends"]);
    rig.write(&["c"], &["a"]).await;
    rig.settle().await;
    assert_eq!((rig.batches(), rig.events()), (vec!["-a c".to_owned()], "b c".to_owned()));
    assert_eq!(rig.state(), ("running".to_owned(), 0));
    // Several changes of an event within the time of a batch are one.
    let begun = Instant::now();
    for id in ["d", "e", "d"] {
        rig.write(&[id], &[]).await;
        rig.write(&[], &[id]).await;
    }
    rig.settle().await;
    assert_eq!(rig.batches(), ["-d -e"]);
    assert_eq!(rig.copy().attempts.last().unwrap().duration_since(begun).as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_restart_continues_and_another_view_begins_again() {
    let mut rig = SinkFixture::new().await;
    rig.write(&["a"], &[]).await;
    rig.configure(&[config("crm", "")]).await;
    assert_eq!(rig.batches(), ["begins a ends"]);
    rig.restart(&[config("crm", "")]).await;
    assert!(rig.batches().is_empty());
    rig.write(&["b"], &[]).await;
    rig.restart(&[config("crm", "")]).await;
    assert_eq!(rig.batches(), ["b"]);
    let windows = |name| SinkConfig { windows: vec![NamePattern::new(name)], ..config("crm", "") };
    for (config, batch) in [
        (windows("alice"), "begins a b ends"),
        (windows("room a/b"), "begins ends"),
        (config("crm", ""), "begins a b ends"),
        (config("crm", "cancelled=false"), "begins a b ends"),
        (SinkConfig { level: AccessLevel::Times, ..config("crm", "") }, "begins a b ends"),
        (windows("room*"), "begins ends"),
    ] {
        rig.configure(std::slice::from_ref(&config)).await;
        assert_eq!(rig.batches(), [batch], "{config:?}");
        rig.restart(&[config]).await;
        assert!(rig.batches().is_empty());
    }
    assert_eq!(rig.events(), "");
    // What is kept of a sink that is gone is deleted.
    rig.configure(&[]).await;
    assert!(rig.fixture.store.sinks().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_target_that_lost_what_it_was_sent_gets_a_snapshot() {
    let mut rig = SinkFixture::new().await;
    rig.copy().mark = Some("one".to_owned());
    rig.write(&["a"], &[]).await;
    rig.configure(&[config("crm", "")]).await;
    assert_eq!(rig.batches(), ["begins a ends"]);
    rig.restart(&[config("crm", "")]).await;
    assert!(rig.batches().is_empty(), "its mark is that of the last delivery");
    rig.copy().mark = Some("two".to_owned());
    rig.restart(&[config("crm", "")]).await;
    assert_eq!(rig.batches(), ["begins a ends"]);
    rig.restart(&[config("crm", "")]).await;
    assert!(rig.batches().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_failed_delivery_is_repeated_with_growing_pauses() {
    let mut rig = SinkFixture::new().await;
    rig.configure(&[config("crm", "")]).await;
    rig.batches();
    rig.copy().fails = vec![error(SinkErrorKind::Unavailable); 6];
    rig.copy().attempts.clear();
    rig.write(&["a"], &[]).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let status = rig.board.list().remove(0);
    assert_eq!(
        (&*status.state, status.last_error.unwrap().kind),
        ("waiting", "unavailable".into())
    );
    assert!(status.next_attempt.is_some() && status.behind_s > 0.0);
    rig.write(&["b"], &[]).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(rig.batches(), ["a b"], "what is newest by then");
    let attempts = rig.copy().attempts.clone();
    let pauses: Vec<f64> =
        attempts.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    assert_eq!(pauses.len(), 6);
    for (pause, doubled) in pauses.iter().zip([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]) {
        assert!((0.5 * doubled..1.5 * doubled + 0.1).contains(pause), "{pauses:?}");
    }
    // The target may ask for more.
    rig.copy().fails = vec![patient(500)];
    rig.write(&["c"], &[]).await;
    tokio::time::sleep(Duration::from_secs(499)).await;
    assert!(rig.batches().is_empty());
    rig.settle().await;
    assert_eq!(rig.batches(), ["c"]);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_gone_stops_the_sink_until_a_person_resumes_it() {
    let mut rig = SinkFixture::new().await;
    rig.configure(&[config("crm", "")]).await;
    rig.batches();
    rig.copy().fails = vec![error(SinkErrorKind::Gone)];
    rig.write(&["a"], &[]).await;
    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    assert_eq!((rig.batches().len(), rig.state().0), (0, "stopped".to_owned()));
    rig.restart(&[config("crm", "")]).await;
    assert_eq!((rig.batches().len(), rig.state().0), (0, "stopped".to_owned()));
    rig.ask(SinkCommand::Resume).await;
    rig.settle().await;
    assert_eq!((rig.batches(), rig.state().0), (vec!["a".to_owned()], "running".to_owned()));
}

/// A sink that was away for longer than removals are kept, and one whose target was restored.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_continued_begins_again_without_a_gap() {
    let mut rig = SinkFixture::new().await;
    rig.write(&["a", "b"], &[]).await;
    rig.configure(&[config("crm", "")]).await;
    rig.ask(SinkCommand::Pause).await;
    rig.write(&["c"], &["a"]).await;
    rig.write(&["d"], &[]).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    rig.fixture.store.trim(rig.fixture.env.now()).await.unwrap();
    rig.batches();
    rig.ask(SinkCommand::Resume).await;
    rig.settle().await;
    assert_eq!(
        (rig.batches(), rig.events()),
        (vec!["begins b c d ends".to_owned()], "b c d".into())
    );

    let mut rig = SinkFixture::new().await;
    rig.copy().keeps = true;
    rig.write(&["a"], &[]).await;
    rig.configure(&[config("crm", "")]).await;
    let (kept, events) = {
        let copy = rig.copy();
        (copy.kept.clone(), copy.events.clone())
    };
    rig.write(&["b"], &["a"]).await;
    rig.settle().await;
    rig.copy().kept = kept;
    rig.copy().events = events;
    rig.restart(&[config("crm", "")]).await;
    assert_eq!(rig.events(), "b");
}

/// Interrupted snapshots go on, and events that change meanwhile are never missing.
#[tokio::test(start_paused = true)]
async fn a_large_snapshot_survives_failures_restarts_and_changes() {
    let mut rig = SinkFixture::new().await;
    let ids: Vec<String> = (0..3500).map(|number| format!("e{number:04}")).collect();
    let all: Vec<&str> = ids.iter().map(String::as_str).collect();
    rig.write(&all, &[]).await;
    rig.copy().events.insert("ghost".to_owned(), None);
    // Batches are sent until the third fails for long.
    rig.copy().fails_at = Some((2, patient(3600)));
    rig.configure(&[config("crm", "")]).await;
    assert_eq!((rig.batches().len(), rig.board.list()[0].snapshot), (2, true));
    let refused = rig.ask(SinkCommand::Replay(ReplayFrom::Time(rig.fixture.env.now()))).await;
    assert!(refused.starts_with("a snapshot is being sent"), "{refused}");
    // Of events that were sent, and of others.
    let (sent, unsent): (Vec<&str>, Vec<&str>) =
        all.iter().partition(|id| rig.copy().events.contains_key(**id));
    rig.write(&[sent[0], unsent[0]], &[sent[1], unsent[1]]).await;
    // The snapshot goes on until the feed ends, which is batches later than when it began.
    let late: Vec<String> = (0..2500).map(|number| format!("late{number:04}")).collect();
    let late: Vec<&str> = late.iter().map(String::as_str).collect();
    rig.write(&late, &[]).await;
    rig.restart(&[config("crm", "")]).await;
    let expected: BTreeSet<&str> = [all.as_slice(), &late]
        .concat()
        .into_iter()
        .filter(|id| ![sent[1], unsent[1]].contains(id))
        .collect();
    let copy = rig.copy();
    assert_eq!(copy.events.keys().map(String::as_str).collect::<BTreeSet<_>>(), expected);
    let ends: Vec<bool> = copy.batches.iter().map(|batch| batch.ends_with("ends")).collect();
    assert!(
        ends.len() > 3 && ends.iter().position(|ends| *ends) == Some(ends.len() - 1),
        "{ends:?}"
    );
    assert!(copy.batches.iter().all(|batch| !batch.starts_with("begins")), "it went on");
}

/// What the old target has is of no use to the new one, whatever happens to its first batch.
#[tokio::test(start_paused = true)]
async fn another_target_gets_a_snapshot_even_if_its_first_delivery_fails() {
    for keeps in [false, true] {
        let mut rig = SinkFixture::new().await;
        rig.copy().keeps = keeps;
        rig.write(&["a"], &[]).await;
        rig.configure(&[config("crm", "")]).await;
        rig.batches();
        rig.copy().fails = vec![error(SinkErrorKind::Unavailable); 99];
        let mut other = config("crm", "");
        other.target = SinkTargetConfig::Sqlite { path: "/elsewhere".into() };
        rig.configure(std::slice::from_ref(&other)).await;
        rig.ask(SinkCommand::Pause).await;
        rig.restart(std::slice::from_ref(&other)).await;
        assert_eq!(rig.state(), ("paused".to_owned(), 1), "nothing was sent there");
        rig.copy().fails.clear();
        rig.ask(SinkCommand::Resume).await;
        rig.settle().await;
        assert_eq!(rig.batches(), ["begins a ends"], "{keeps}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_too_large_is_halved() {
    let mut rig = SinkFixture::new().await;
    rig.configure(&[config("crm", "")]).await;
    rig.batches();
    let too_large = SinkError { status: Some(413), ..error(SinkErrorKind::Refused) };
    rig.copy().fails = vec![too_large; 2];
    rig.write(&["a", "b", "c", "d"], &[]).await;
    rig.settle().await;
    let sizes: Vec<usize> = rig.batches().iter().map(|batch| batch.split(' ').count()).collect();
    assert_eq!(sizes, [1, 3]);
}
