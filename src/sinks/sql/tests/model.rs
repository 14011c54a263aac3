//! A feed, a sink of it that crashes, and what its database has to hold afterwards.

use std::collections::BTreeMap;
use std::pin::pin;
use std::task::Poll;

use futures_util::future::BoxFuture;
use proptest::prelude::*;

use super::super::*;
use super::{change, live};
use crate::sinks::target::{KeptPosition, Receipt, SinkTarget};

/// Window and id.
type ModelKey = (u8, u8);
/// Window and id with the subject.
pub(in crate::sinks) type ModelRows = BTreeMap<(String, String), String>;

/// A database or a stream under test.
pub(in crate::sinks) trait ModelDatabase {
    /// A new target.
    fn target(&self) -> Box<dyn SinkTarget>;
    /// What a reader sees now.
    fn rows(&self) -> BoxFuture<'_, ModelRows>;
}

/// What happens to a feed or to its sink.
#[derive(Clone, Debug)]
pub(in crate::sinks) enum ModelStep {
    /// An event is written, or removed.
    Set(ModelKey, Option<u16>),
    /// The retention of removals is over.
    Trim,
    /// The sink sends at most so many changes.
    Deliver(usize),
    /// The same, but the daemon dies after polling so often.
    Crash(usize, usize),
    /// The last batch is sent again.
    Again,
    /// The daemon stops and starts.
    Restart,
    /// A new snapshot replaces what is being sent.
    Replace,
    /// The daemon died before it kept that the last batch began a snapshot: the same one begins.
    BeginAgain,
}

/// Sequences of steps.
pub(in crate::sinks) fn steps() -> impl Strategy<Value = Vec<ModelStep>> {
    let key = (0..3_u8, 0..8_u8);
    let step = prop_oneof![
        8 => (key, prop::option::weighted(0.7, any::<u16>())).prop_map(|(k, v)| ModelStep::Set(k, v)),
        1 => Just(ModelStep::Trim),
        4 => (1..9_usize).prop_map(ModelStep::Deliver),
        3 => (1..9_usize, 0..16_usize).prop_map(|(n, polls)| ModelStep::Crash(n, polls)),
        2 => Just(ModelStep::Again),
        1 => Just(ModelStep::Restart),
        1 => Just(ModelStep::Replace),
        1 => Just(ModelStep::BeginAgain),
    ];
    prop::collection::vec(step, 1..40)
}

/// A snapshot that is interrupted and continues after a restart, one that another replaces, and one
/// that begins twice, while events go whose removals are trimmed before the sink comes to them; then
/// crashes.
pub(in crate::sinks) fn interrupted_snapshots() -> Vec<ModelStep> {
    let fill = (0..8).map(|id| ModelStep::Set((0, id), Some(u16::from(id))));
    let mut steps: Vec<_> = fill.chain([ModelStep::Deliver(8)]).collect();
    for (gone, interruption) in [(1, ModelStep::Restart), (2, ModelStep::Replace)] {
        let lost = [ModelStep::Set((0, gone), None), ModelStep::Trim];
        let changed = [ModelStep::Deliver(2), ModelStep::Set((0, 7), Some(gone.into()))];
        steps.extend(lost.into_iter().chain(changed));
        steps.extend([interruption, ModelStep::Deliver(2), ModelStep::Again]);
        steps.extend([ModelStep::Deliver(8), ModelStep::Again, ModelStep::Restart]);
    }
    steps.extend([ModelStep::Replace, ModelStep::Deliver(8)]);
    steps.extend([ModelStep::Set((0, 3), None), ModelStep::Trim, ModelStep::BeginAgain]);
    steps.push(ModelStep::Deliver(8));
    // The daemon dies in every part of a transaction.
    let crash = |polls| [ModelStep::Set((1, 0), Some(polls)), ModelStep::Crash(8, polls.into())];
    steps.extend((0..20).flat_map(crash));
    steps
}

/// One entry for each event, at its latest change, and removals until they are trimmed.
#[derive(Default)]
struct ModelFeed {
    entries: BTreeMap<u64, (ModelKey, Option<u16>)>,
    seq: u64,
    trimmed: u64,
}

impl ModelFeed {
    fn set(&mut self, key: ModelKey, content: Option<u16>) {
        let old = self.entries.iter().find(|(_, entry)| entry.0 == key).map(|(seq, e)| (*seq, e.1));
        if content.is_none() && old.is_none_or(|(_, old)| old.is_none()) {
            return;
        }
        self.entries.retain(|_, entry| entry.0 != key);
        self.seq += 1;
        self.entries.insert(self.seq, (key, content));
    }

    fn trim(&mut self) {
        self.entries.retain(|_, (_, content)| content.is_some());
        self.trimmed = self.seq;
    }

    fn rows(&self) -> ModelRows {
        let shown =
            |(key, content): &(ModelKey, Option<u16>)| Some((names(*key), (*content)?.to_string()));
        self.entries.values().filter_map(shown).collect()
    }

    /// Changes after a cursor, the cursor after them, and whether that is the end.
    fn read(&self, after: u64, limit: usize) -> (Vec<Change>, u64, bool) {
        let mut found = self.entries.range(after + 1..);
        let changes: Vec<_> = found.by_ref().take(limit).collect();
        let at_end = found.next().is_none();
        let end = if at_end { self.seq } else { changes.last().map_or(after, |(seq, _)| **seq) };
        let changes = changes.into_iter().map(|(seq, (key, content))| {
            let (window, id) = names(*key);
            let event = content.map(|content| format!("{{\"subject\":\"{content}\"}}"));
            Change { cursor: seq.to_string(), ..change(&window, &id, event.as_deref()) }
        });
        (changes.collect(), end, at_end)
    }
}

fn names((window, id): ModelKey) -> (String, String) {
    (format!("window-{window}"), format!("id-{id}"))
}

/// A sink as the daemon runs it.
struct ModelSink<'a> {
    database: &'a dyn ModelDatabase,
    target: Option<Box<dyn SinkTarget>>,
    position: Option<SinkPosition>,
    /// Whether the target keeps the position.
    in_target: bool,
    mark: Option<String>,
    last: Option<SinkBatch>,
    snapshots: u64,
    /// Whether the last snapshot begins again.
    begins_again: bool,
    /// What was trimmed before each snapshot began: it needs none of that.
    began: BTreeMap<u64, u64>,
}

impl ModelSink<'_> {
    fn began_after(&self, snapshot: Option<SnapshotId>) -> Option<u64> {
        self.began.get(&snapshot?.0).copied()
    }

    /// The next batch at the sink's position.
    fn batch(&mut self, feed: &ModelFeed, limit: usize) -> SinkBatch {
        let position = self.position.clone().map(|at| (at.cursor.parse().unwrap(), at.snapshot));
        let (before, snapshot, begins) = match position {
            Some((cursor, snapshot))
                if cursor >= feed.trimmed || self.began_after(snapshot) == Some(feed.trimmed) =>
            {
                (cursor, snapshot, false)
            }
            _ => {
                self.snapshots += u64::from(!std::mem::take(&mut self.begins_again));
                self.began.insert(self.snapshots, feed.trimmed);
                (0, Some(SnapshotId(self.snapshots)), true)
            }
        };
        let (changes, end, at_end) = feed.read(before, limit);
        let ends = at_end && snapshot.is_some();
        let after = SinkPosition { cursor: end.to_string(), snapshot: snapshot.filter(|_| !ends) };
        let mut batch = live(changes, &["window-0", "window-1", "window-2"]);
        (batch.before, batch.after) = (before.to_string(), after);
        (batch.snapshot, batch.begins, batch.ends) = (snapshot, begins, ends);
        batch
    }

    async fn open(&mut self) {
        if self.target.is_none() {
            let mut target = self.database.target();
            let kept = target.open(self.mark.as_deref()).await.unwrap();
            self.in_target = matches!(kept, KeptPosition::InTarget(_));
            match kept {
                KeptPosition::InTarget(position) => {
                    self.position = position.filter(|_| !self.begins_again);
                }
                KeptPosition::InStore => {}
                KeptPosition::Lost => self.position = None,
            }
            self.target = Some(target);
        }
    }

    async fn deliver(&mut self, feed: &ModelFeed, limit: usize) {
        self.open().await;
        let batch = self.batch(feed, limit);
        let receipt = self.target.as_mut().unwrap().deliver(&batch).await.unwrap();
        self.keep(&batch, receipt);
        self.last = Some(batch);
    }

    /// What the daemon keeps of a delivery.
    fn keep(&mut self, batch: &SinkBatch, receipt: Receipt) {
        self.position = Some(batch.after.clone());
        self.mark = receipt.mark.or(self.mark.take());
    }

    async fn apply(&mut self, step: ModelStep, feed: &mut ModelFeed) {
        match step {
            ModelStep::Set(key, content) => feed.set(key, content),
            ModelStep::Trim => feed.trim(),
            ModelStep::Deliver(limit) => self.deliver(feed, limit).await,
            ModelStep::Crash(limit, polls) => {
                self.open().await;
                let batch = self.batch(feed, limit);
                let (before, rows) = (self.position.clone(), self.database.rows().await);
                let mut target = self.target.take().unwrap();
                if let Some(delivered) = polled(target.deliver(&batch), polls).await {
                    delivered.unwrap();
                }
                drop(target);
                self.last = None;
                self.open().await;
                if self.in_target && self.position == before {
                    let now = self.database.rows().await;
                    if now != rows {
                        // What the ended session had sent may arrive after the target was opened.
                        self.target = None;
                        self.open().await;
                        assert_ne!(
                            self.position, before,
                            "changes are kept without their position: {rows:?}, {now:?}"
                        );
                    }
                }
            }
            ModelStep::Again => {
                if let (Some(target), Some(batch)) = (&mut self.target, &self.last) {
                    let (receipt, batch) = (target.deliver(batch).await.unwrap(), batch.clone());
                    self.keep(&batch, receipt);
                }
            }
            ModelStep::Restart => (self.target, self.last) = (None, None),
            ModelStep::Replace => {
                self.open().await;
                (self.position, self.last, self.begins_again) = (None, None, false);
            }
            ModelStep::BeginAgain => {
                if self.last.take().is_some_and(|batch| batch.begins) {
                    (self.position, self.begins_again) = (None, true);
                }
            }
        }
    }
}

/// Polls a future at most so often; `None` if it has not ended then.
async fn polled<T>(work: impl Future<Output = T>, polls: usize) -> Option<T> {
    let (mut work, mut left) = (pin!(work), polls);
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        work.as_mut().poll(context).map(Some)
    })
    .await
}

/// Applies steps. An event of the feed that readers saw never disappears before it is removed, and
/// at the end they see the feed.
pub(in crate::sinks) async fn check(database: &dyn ModelDatabase, steps: Vec<ModelStep>) {
    let mut feed = ModelFeed::default();
    let mut sink = ModelSink {
        database,
        target: None,
        position: None,
        in_target: true,
        mark: None,
        last: None,
        snapshots: 0,
        begins_again: false,
        began: BTreeMap::new(),
    };
    sink.open().await;
    let mut seen = ModelRows::new();
    for step in steps {
        let shown = format!("{step:?}");
        sink.apply(step, &mut feed).await;
        let (now, all) = (database.rows().await, feed.rows());
        let gap = seen.keys().find(|key| all.contains_key(*key) && !now.contains_key(*key));
        assert_eq!(gap, None, "a reader misses an event after {shown}");
        seen = now;
    }
    loop {
        sink.deliver(&feed, 5).await;
        let position = sink.position.clone().unwrap();
        if position.snapshot.is_none() && position.cursor == feed.seq.to_string() {
            break;
        }
    }
    assert_eq!(database.rows().await, feed.rows());
}
