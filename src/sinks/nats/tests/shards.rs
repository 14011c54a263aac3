//! Several processes that publish to one stream.

use super::stream_fixture::{StreamFixture, settings_of, with_stream};
use super::*;
use crate::mirror::change::RemovalReason;
use crate::mirror::shard::Shard;
use crate::sinks::target::NEW_SHARE;
use crate::store::Change;

/// A shard whose windows are these; `elsewhere` are those of others.
fn share(of: &str, own: &[&str], elsewhere: &[(&str, u32)]) -> StreamShare {
    let (ordinal, count) = of.split_once('/').unwrap();
    let own: Vec<Arc<str>> = own.iter().map(|name| (*name).into()).collect();
    let elsewhere: Vec<(String, u32)> =
        elsewhere.iter().map(|(name, owner)| ((*name).to_owned(), *owner)).collect();
    StreamShare {
        shard: Shard::new(ordinal.parse().unwrap(), count.parse().unwrap()).unwrap(),
        elsewhere: Arc::new(move |window| {
            elsewhere.iter().find(|(name, _)| name == window).map(|(_, owner)| *owner)
        }),
        windows: Arc::new(move || own.clone()),
    }
}

/// A process that has sent something, or not.
struct TestShard<'a> {
    fixture: &'a StreamFixture,
    target: NatsTarget,
    mark: Option<String>,
}

impl<'a> TestShard<'a> {
    async fn start(fixture: &'a StreamFixture, share: StreamShare, mark: Option<String>) -> Self {
        let target = NatsTarget::new(&settings_of(fixture), &"copy".into(), share, &Env::real());
        let mut process = Self { fixture, target, mark };
        process.open().await.unwrap();
        process
    }

    async fn open(&mut self) -> Result<KeptPosition, SinkError> {
        self.target.open(self.mark.as_deref()).await
    }

    async fn send(&mut self, batch: &SinkBatch) -> Result<(), SinkError> {
        // Markers that are old are those of shards that are gone.
        let batch = SinkBatch { at: jiff::Timestamp::now(), ..batch.clone() };
        self.mark = self.target.deliver(&batch).await?.mark;
        Ok(())
    }

    /// Starts again by another count, as which it has sent nothing.
    async fn restart(self, share: StreamShare) -> Self {
        Self::start(self.fixture, share, changed()).await
    }
}

/// The mark of a shard whose count has changed.
fn changed() -> Option<String> {
    Some(NEW_SHARE.to_owned())
}

/// A whole snapshot of events, each written as `window/id`.
fn whole(events: &[&str], number: u64) -> SinkBatch {
    let events = events.iter().map(|event| {
        let (window, id) = event.split_once('/').unwrap();
        change(window, id, Some("{\"subject\":\"x\"}"))
    });
    let batch = live(events.collect(), &[]);
    let snapshot = Some(SnapshotId(number));
    SinkBatch { snapshot, begins: true, ends: true, before: String::new(), ..batch }
}

async fn ids(fixture: &StreamFixture) -> String {
    fixture.ids().await.join(" ")
}

#[tokio::test]
async fn a_shard_removes_its_own_ghosts_and_those_of_shards_that_are_gone() {
    with_stream(async |fixture| {
        // Three shards, of which the last one leaves.
        let mut old = Vec::new();
        for (ordinal, window) in ["a", "b", "c"].into_iter().enumerate() {
            let share = share(&format!("{ordinal}/3"), &[window], &[]);
            let mut process = TestShard::start(fixture, share, None).await;
            let events = [format!("{window}/{window}1"), format!("gone{window}/x{window}")];
            process.send(&whole(&events.each_ref().map(String::as_str), 1)).await.unwrap();
            old.push(process);
        }
        // Each of two sends an event of a window that will be the other one's.
        let sent = |window, id| live(vec![change(window, id, Some("{}"))], &[]);
        old[0].send(&sent("b", "b2")).await.unwrap();
        old[1].send(&sent("a", "a2")).await.unwrap();
        assert_eq!(ids(fixture).await, "a1 a2 b1 b2 c1 xa xb xc");
        // The first one gets the windows of the last one. What the second one sent and the first one
        // does not know may be new there.
        let now = share("0/2", &["a", "c"], &[("b", 1)]);
        let mut process = TestShard::start(fixture, now, changed()).await;
        process.send(&whole(&["a/a1", "c/c2"], 2)).await.unwrap();
        assert_eq!(ids(fixture).await, "a1 b1 b2 c2 xb");
        // It is the second one's.
        let now = share("1/2", &["b"], &[("a", 0), ("c", 0)]);
        let mut process = TestShard::start(fixture, now, changed()).await;
        process.send(&whole(&["b/b1"], 2)).await.unwrap();
        assert_eq!(ids(fixture).await, "a1 b1 c2");
        // One process has all of it again.
        let now = share("0/1", &["a", "b", "c"], &[]);
        let mut process = TestShard::start(fixture, now, changed()).await;
        process.send(&whole(&["b/b2"], 3)).await.unwrap();
        assert_eq!(ids(fixture).await, "b2");
    })
    .await;
}

#[tokio::test]
async fn a_window_that_another_shard_got_is_not_removed_by_the_old_one() {
    with_stream(async |fixture| {
        let mut other = TestShard::start(fixture, share("1/2", &["b"], &[("a", 0)]), None).await;
        other.send(&whole(&["b/b1"], 1)).await.unwrap();
        // What it has not dropped yet is older than what the other one sent.
        let mut process = TestShard::start(fixture, share("0/2", &["a"], &[("b", 1)]), None).await;
        process.send(&whole(&["a/a1", "b/b1", "b/b2", "c/c1"], 1)).await.unwrap();
        assert_eq!(ids(fixture).await, "a1 b1 c1");
        let dropped = |window: &str, id: &str| Change {
            reason: Some(RemovalReason::WindowDropped),
            ..change(window, id, None)
        };
        let batch = live(vec![dropped("b", "b1"), dropped("c", "c1")], &[]);
        process.send(&batch).await.unwrap();
        assert_eq!(ids(fixture).await, "a1 b1");
        // Its last event went to another shard, too, so nothing but the position is sent.
        process.send(&live(vec![dropped("b", "b1")], &[])).await.unwrap();
        // The other one found that an event is gone.
        other.send(&live(vec![change("b", "b1", None)], &[])).await.unwrap();
        assert_eq!(ids(fixture).await, "a1");
    })
    .await;
}

#[tokio::test]
async fn the_first_shard_with_another_count_ends_what_the_others_send() {
    with_stream(async |fixture| {
        let mut old = TestShard::start(fixture, share("1/2", &["b"], &[("a", 0)]), None).await;
        old.send(&whole(&["b/b1"], 1)).await.unwrap();
        let mut first = TestShard::start(fixture, share("0/2", &["a"], &[("b", 1)]), None).await;
        first.send(&whole(&["a/a1"], 1)).await.unwrap();
        // Without a memory a process may be one that was left behind and lost its volume.
        let three = share("2/3", &["b"], &[("a", 0)]);
        let mut lost =
            NatsTarget::new(&settings_of(fixture), &"copy".into(), three.clone(), &Env::real());
        assert!(lost.open(None).await.is_err());
        // Another shard's count has changed, and it gets the second one's window.
        let mut new = TestShard::start(fixture, three, changed()).await;
        // Looking changes nothing.
        old.send(&live(vec![change("b", "b2", Some("{}"))], &[])).await.unwrap();
        assert!(new.send(&whole(&["b/b3"], 2)).await.is_err(), "the chain went on meanwhile");
        new.open().await.unwrap();
        new.send(&whole(&["b/b3"], 2)).await.unwrap();
        assert_eq!(ids(fixture).await, "a1 b3", "ghosts of a window that moved");
        // What the old owner still had on the way is refused, and it does not come back.
        let late = old.send(&live(vec![change("b", "b2", Some("{}"))], &[])).await.unwrap_err();
        assert_eq!(late.kind, SinkErrorKind::Unsuitable);
        let refused = old.open().await.unwrap_err();
        assert_eq!(
            refused.message,
            "the count of shards is 3 in the stream, and 2 in this process: the configurations differ; \
             start every process with the same count"
        );
        // With the new configuration it begins again.
        let mut old = old.restart(share("1/3", &[], &[("a", 0), ("b", 2)])).await;
        assert_eq!(old.open().await, Ok(KeptPosition::Lost));
        old.send(&whole(&[], 3)).await.unwrap();
        let mut first = first.restart(share("0/3", &["a"], &[("b", 2)])).await;
        first.send(&whole(&["a/a1"], 3)).await.unwrap();
        assert_eq!(ids(fixture).await, "a1 b3");
        // Nobody is ended any more.
        new.send(&live(vec![change("b", "b4", Some("{}"))], &[])).await.unwrap();
        old.send(&live(Vec::new(), &[])).await.unwrap();
        assert_eq!(ids(fixture).await, "a1 b3 b4");
        assert_eq!(
            shards(fixture).await,
            ["0/3 snapshot_ends", "1/3 snapshot_ends", "2/3 snapshot_ends"]
        );
    })
    .await;
}

#[tokio::test]
async fn fewer_shards_end_the_chains_of_those_that_left() {
    with_stream(async |fixture| {
        let mut last = TestShard::start(fixture, share("1/2", &["b"], &[("a", 0)]), None).await;
        last.send(&whole(&["b/b1"], 1)).await.unwrap();
        let mut first = TestShard::start(fixture, share("0/2", &["a"], &[("b", 1)]), None).await;
        first.send(&whole(&["a/a1"], 1)).await.unwrap();
        let mut first = first.restart(share("0/1", &["a", "b"], &[])).await;
        first.send(&whole(&["a/a1", "b/b2"], 2)).await.unwrap();
        assert_eq!(shards(fixture).await, ["0/1 snapshot_ends", "1/1 divided"]);
        assert!(last.send(&whole(&["b/b1"], 3)).await.is_err());
        assert_eq!(ids(fixture).await, "a1 b2");
    })
    .await;
}

/// The last marker of each shard.
async fn shards(fixture: &StreamFixture) -> Vec<String> {
    let lines = fixture.lines().await;
    let mut shards: Vec<String> = lines
        .iter()
        .filter_map(|line| {
            Some(format!("{} {}", line["shard"].as_str()?, line["change"].as_str()?))
        })
        .collect();
    shards.sort();
    shards
}

#[tokio::test]
async fn shards_that_begin_together_by_different_counts_notice_it() {
    with_stream(async |fixture| {
        let mut one = TestShard::start(fixture, share("0/3", &["a"], &[("b", 2)]), None).await;
        let mut other = TestShard::start(fixture, share("2/4", &["b"], &[("a", 0)]), None).await;
        // Neither has seen anything of the other one.
        one.send(&whole(&["a/a1"], 1)).await.unwrap();
        let refused = other.send(&whole(&["b/b1"], 1)).await.unwrap_err();
        assert!(refused.message.starts_with("the count of shards is 3 in the stream"), "{refused}");
        let refused = other.open().await.unwrap_err();
        assert!(refused.message.starts_with("the count of shards is 3 in the stream"), "{refused}");
        // With the same count both go on.
        let mut other = other.restart(share("2/3", &["b"], &[("a", 0)])).await;
        other.send(&whole(&["b/b1"], 1)).await.unwrap();
        one.send(&live(vec![change("a", "a2", Some("{}"))], &[])).await.unwrap();
        assert_eq!(ids(fixture).await, "a1 a2 b1");
    })
    .await;
}

/// Of two snapshots after it, readers that were away see only the last one.
#[tokio::test]
async fn a_stream_that_is_not_the_known_one_gets_another_writer() {
    with_stream(async |fixture| {
        let mut shard = TestShard::start(fixture, share("0/1", &["a"], &[]), None).await;
        let writer = async || {
            let lines = fixture.lines().await;
            let marker = lines.iter().find(|line| line["sink"] == "copy").unwrap();
            marker["writer"].as_str().unwrap().to_owned()
        };
        shard.send(&whole(&["a/a1"], 1)).await.unwrap();
        let first = writer().await;
        shard.open().await.unwrap();
        shard.send(&whole(&["a/a1"], 2)).await.unwrap();
        assert_eq!(writer().await, first);
        // Restored: it has less than the shard knows of.
        let mark = shard.mark.take().unwrap();
        let mut parts: Vec<String> = mark.split('/').map(str::to_owned).collect();
        parts[1] = "1000".to_owned();
        shard.mark = Some(parts.join("/"));
        assert_eq!(shard.open().await, Ok(KeptPosition::Lost));
        shard.send(&whole(&["a/a1"], 3)).await.unwrap();
        assert_ne!(writer().await, first);
    })
    .await;
}
