mod login;
#[path = "../../../tests/support/nats_server.rs"]
mod nats_server;
mod shards;
mod stream_fixture;

use proptest::prelude::*;

use self::nats_server::NatsServer;
use self::stream_fixture::{StreamFixture, with_stream};
use super::*;
use crate::sinks::batch::{SinkPosition, SnapshotId};
use crate::sinks::sql::tests::model;
use crate::sinks::sql::tests::{change, live};

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_stream_equals_the_feed_after_crashes_and_snapshots(steps in model::steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(with_stream(async |fixture| model::check(fixture, steps).await));
    }
}

#[tokio::test]
async fn interrupted_and_replaced_snapshots_end_right() {
    with_stream(async |fixture| model::check(fixture, model::interrupted_snapshots()).await).await;
}

/// A batch of one event.
fn one(id: &str, cursor: &str) -> SinkBatch {
    let mut sent = change("alice", id, Some("{\"subject\":\"x\"}"));
    sent.cursor = cursor.to_owned();
    let after = SinkPosition { cursor: cursor.to_owned(), snapshot: None };
    SinkBatch { after, ..live(vec![sent], &["alice"]) }
}

/// A whole snapshot of one event.
fn snapshot(id: &str, number: u64) -> SinkBatch {
    let snapshot = Some(SnapshotId(number));
    SinkBatch { snapshot, begins: true, ends: true, before: String::new(), ..one(id, "1") }
}

#[tokio::test]
async fn a_snapshot_removes_what_it_did_not_bring_and_nothing_of_others() {
    with_stream(async |fixture| {
        let mut target = fixture.target();
        assert_eq!(target.open(None).await, Ok(KeptPosition::Lost));
        target.deliver(&snapshot("a", 1)).await.unwrap();
        target.deliver(&one("b", "2")).await.unwrap();
        // Neither is an event of this sink.
        fixture.publish("copy.other.thing", "not of calmirror").await;
        fixture.publish("copy.other.line", "{\"window\":\"bob\",\"id\":7}").await;
        // A copy of a line of an event that stays.
        fixture.publish("copy.other.copy", "{\"window\":\"alice\",\"id\":\"b\"}").await;
        assert_eq!(fixture.ids().await, ["a", "b"]);
        target.deliver(&snapshot("b", 2)).await.unwrap();
        assert_eq!(fixture.ids().await, ["b"]);
        let lines = fixture.lines().await;
        let removed = lines.iter().find(|line| line["id"] == "a").unwrap();
        assert_eq!((&removed["change"], &removed["window"]), (&"removed".into(), &"alice".into()));
        assert_eq!(fixture.message_count().await, 6, "one message for each subject, and a marker");
        // The same batch again, and then the same event as it was before.
        target.deliver(&snapshot("b", 2)).await.unwrap();
        target.deliver(&snapshot("a", 3)).await.unwrap();
        assert_eq!(fixture.ids().await, ["a"]);
    })
    .await;
}

#[tokio::test]
async fn a_removal_expires_with_the_retention() {
    with_stream(async |fixture| {
        let mut target = fixture.target_with(|settings| {
            settings.retention = Duration::from_secs(1);
        });
        target.open(None).await.unwrap();
        target.deliver(&one("a", "1")).await.unwrap();
        let removed = live(vec![change("alice", "a", None)], &["alice"]);
        target.deliver(&removed).await.unwrap();
        assert_eq!((fixture.ids().await.len(), fixture.message_count().await), (0, 2));
        fixture
            .eventually("the removal is gone", async || fixture.message_count().await == 1)
            .await;
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_lost_something_is_noticed() {
    with_stream(async |fixture| {
        let mut target = fixture.target();
        target.open(None).await.unwrap();
        let mark = target.deliver(&snapshot("a", 1)).await.unwrap().mark.unwrap();
        target.deliver(&one("b", "2")).await.unwrap();
        let newest = target.deliver(&one("c", "3")).await.unwrap().mark.unwrap();
        let kept = |cursor: &str| {
            let position = SinkPosition { cursor: cursor.to_owned(), snapshot: None };
            Ok(KeptPosition::InTarget(Some(position)))
        };
        // The daemon may not know of the last batches.
        for mark in [&mark, &newest] {
            assert_eq!(fixture.target().open(Some(mark)).await, kept("3"), "{mark}");
        }
        for mark in ["", "soon/7/8"] {
            assert_eq!(fixture.target().open(Some(mark)).await, Ok(KeptPosition::Lost), "{mark:?}");
        }
        // An older copy has less, although others have written to it since.
        let mut parts = newest.split('/');
        let (created, sequence) = (parts.next().unwrap(), parts.next().unwrap());
        let later = sequence.parse::<u64>().unwrap() + 1;
        let later = format!("{created}/{later}/{}", parts.next().unwrap());
        fixture.publish("copy.other.thing", "{}").await;
        assert_eq!(fixture.target().open(Some(&later)).await, Ok(KeptPosition::Lost));
        // Somebody deletes it while it is open: the session ends, and the next one makes another.
        fixture.delete().await;
        assert!(target.deliver(&one("d", "4")).await.is_err());
        let mut next = fixture.target();
        assert_eq!(next.open(Some(&newest)).await, Ok(KeptPosition::Lost));
        for (id, cursor) in [("a", "5"), ("b", "6"), ("c", "7"), ("d", "8")] {
            next.deliver(&one(id, cursor)).await.unwrap();
        }
        // It has more by now than the other one had.
        assert_eq!(fixture.target().open(Some(&newest)).await, Ok(KeptPosition::Lost));
        // Somebody deletes it and makes it anew, and another program fills it.
        let config = fixture.stream().await.cached_info().config.clone();
        fixture.delete().await;
        fixture.create(&config).await;
        for _ in 0..20 {
            fixture.publish("copy.other.thing", "{}").await;
        }
        let refused = next.deliver(&one("e", "9")).await.unwrap_err();
        assert!(refused.message.contains("the stream was replaced"), "{refused}");
    })
    .await;
}

#[tokio::test]
async fn two_sinks_under_one_subject_notice_each_other() {
    with_stream(async |fixture| {
        let (mut one_sink, mut other) = (fixture.target(), fixture.target());
        one_sink.open(None).await.unwrap();
        other.open(None).await.unwrap();
        let mark = one_sink.deliver(&snapshot("a", 1)).await.unwrap().mark;
        let refused = other.deliver(&snapshot("b", 2)).await.unwrap_err();
        assert_eq!(refused.kind, SinkErrorKind::Unsuitable);
        assert_eq!(fixture.ids().await, ["a"]);
        // The same holds for what an ended session of the same sink still had under way.
        let [mut ended, mut next] = [fixture.target(), fixture.target()];
        for target in [&mut ended, &mut next] {
            assert!(matches!(
                target.open(mark.as_deref()).await,
                Ok(KeptPosition::InTarget(Some(_)))
            ));
        }
        let removed = live(vec![change("alice", "a", None)], &["alice"]);
        let mark = next.deliver(&removed).await.unwrap().mark;
        assert!(ended.deliver(&one("a", "1")).await.is_err());
        assert_eq!(fixture.ids().await, [""; 0]);
        assert!(
            refused.message.starts_with("something else came under the same subject"),
            "{refused}"
        );
        // Whoever comes after the other has to send everything again.
        let mut other = fixture.target();
        other.open(None).await.unwrap();
        other.deliver(&snapshot("b", 3)).await.unwrap();
        assert_eq!(fixture.target().open(mark.as_deref()).await, Ok(KeptPosition::Lost));
    })
    .await;
}

#[tokio::test]
async fn two_sinks_of_one_stream_send_the_same_changes() {
    with_stream(async |fixture| {
        for subject in ["copy", "other"] {
            let config = async_nats::jetstream::stream::Config {
                subjects: vec!["copy.>".to_owned(), "other.>".to_owned()],
                ..fixture_config(fixture).await
            };
            fixture.context.update_stream(config).await.unwrap();
            let mut target = fixture.target_with(|settings| settings.subject = subject.into());
            target.open(None).await.unwrap();
            target.deliver(&one("a", "1")).await.unwrap();
        }
        assert_eq!(fixture.lines().await.iter().filter(|line| line["id"] == "a").count(), 2);
    })
    .await;
}

/// The configuration of the stream, which is made if it is missing.
async fn fixture_config(fixture: &StreamFixture) -> async_nats::jetstream::stream::Config {
    if fixture.context.get_stream("CALMIRROR").await.is_err() {
        fixture.target().open(None).await.unwrap();
    }
    fixture.stream().await.cached_info().config.clone()
}

#[tokio::test]
async fn markers_say_which_snapshot_is_whole() {
    with_stream(async |fixture| {
        let mut target = fixture.target();
        target.open(None).await.unwrap();
        let marker = async || {
            let lines = fixture.lines().await;
            let marker = lines.iter().find(|line| line["sink"] == "copy").unwrap();
            format!(
                "{} {}",
                marker["change"].as_str().unwrap(),
                marker["snapshot"].as_str().unwrap()
            )
        };
        let unfinished = SinkBatch { ends: false, ..snapshot("a", 1) };
        let at = |snapshot: Option<u64>| SinkPosition {
            cursor: "1".to_owned(),
            snapshot: snapshot.map(SnapshotId),
        };
        target.deliver(&SinkBatch { after: at(Some(1)), ..unfinished }).await.unwrap();
        assert_eq!(marker().await, "snapshot_begins 0000000000000001");
        let ended = SinkBatch { begins: false, ..snapshot("b", 1) };
        let mark = target.deliver(&SinkBatch { after: at(None), ..ended }).await.unwrap().mark;
        assert_eq!(marker().await, "snapshot_ends 0000000000000001");
        // Also after later batches, and in another session.
        let mut target = fixture.target();
        target.open(mark.as_deref()).await.unwrap();
        target.deliver(&one("c", "2")).await.unwrap();
        assert_eq!(marker().await, "snapshot_ends 0000000000000001");
    })
    .await;
}

#[tokio::test]
async fn a_stream_of_another_shape_is_refused_by_name() {
    with_stream(async |fixture| {
        fixture.target().open(None).await.unwrap();
        let good = fixture.stream().await.cached_info().config.clone();
        assert_eq!(good.subjects, ["copy.*.*"]);
        let refusal = async |change: &dyn Fn(&mut async_nats::jetstream::stream::Config)| {
            fixture.delete().await;
            let mut config = good.clone();
            change(&mut config);
            fixture.create(&config).await;
            fixture.target().open(None).await.err().map(|error| (error.kind, error.message))
        };
        let unsuitable = |problem: &str| {
            Some((SinkErrorKind::Unsuitable, format!("the stream CALMIRROR {problem}")))
        };
        assert_eq!(
            refusal(&|config| config.max_messages_per_subject = 2).await,
            unsuitable(
                "keeps more than the last message of a subject; set max_msgs_per_subject to 1"
            )
        );
        assert_eq!(
            refusal(&|config| config.allow_message_ttl = false).await,
            unsuitable("does not allow a TTL for each message; set allow_msg_ttl")
        );
        assert_eq!(
            refusal(&|config| config.max_bytes = 1 << 30).await,
            unsuitable(
                "has a limit (max_msgs or max_bytes) and would lose events; remove it, or set discard to new"
            )
        );
        assert_eq!(
            refusal(&|config| config.subjects = vec!["other.*.*".to_owned()]).await,
            unsuitable("does not have this sink's subjects; add SUBJECT.*.* to its subjects")
        );
        // What is an administrator's business.
        assert_eq!(
            refusal(&|config| config.storage = async_nats::jetstream::stream::StorageType::Memory).await,
            unsuitable("is lost when the server stops; set storage to file")
        );
        assert_eq!(refusal(&|config| config.subjects = vec!["copy.>".to_owned()]).await, None);
        assert_eq!(refusal(&|config| config.subjects.push("mine".to_owned())).await, None);
        // Another stream has the subjects.
        let other = fixture.target_with(|settings| settings.stream = "OTHER".into());
        let refused = { other }.open(None).await.unwrap_err();
        assert!(refused.message.contains("(JetStream error 10065)"), "{refused}");
    })
    .await;
}

#[tokio::test]
async fn a_test_stores_nothing() {
    with_stream(async |fixture| {
        let mut target = fixture.target();
        target.open(None).await.unwrap();
        let at = "2026-11-21T10:00:00Z".parse().unwrap();
        assert_eq!(target.test("copy", at).await, Ok(Receipt::default()));
        assert_eq!(fixture.message_count().await, 0);
        // Without a stream it fails.
        let mut target = fixture.target();
        target.open(None).await.unwrap();
        fixture.delete().await;
        let refused = target.test("copy", at).await.unwrap_err();
        assert_eq!(refused.kind, SinkErrorKind::Unavailable, "{refused}");
    })
    .await;
}

#[tokio::test]
async fn an_event_above_the_largest_message_comes_without_its_large_members() {
    with_stream(async |fixture| {
        let mut target = fixture.target();
        target.open(None).await.unwrap();
        let large = format!(r#"{{"id":"a","body":"{}","subject":"s"}}"#, "x".repeat(1 << 20));
        let mut batch = one("b", "2");
        batch.changes.push(change("alice", "a", Some(&large)));
        target.deliver(&batch).await.unwrap();
        assert_eq!(fixture.ids().await, ["a", "b"]);
        let lines = fixture.lines().await;
        let line = lines.iter().find(|line| line["id"] == "a").unwrap();
        assert_eq!(line["incomplete"], serde_json::json!(["body"]));
    })
    .await;
}

#[tokio::test]
async fn a_server_that_stops_ends_the_session_and_the_next_one_goes_on() {
    with_stream(async |fixture| {
        let mut target = fixture.target();
        target.open(None).await.unwrap();
        let mark = target.deliver(&snapshot("a", 1)).await.unwrap().mark;
        fixture.restart_server().await;
        let ended = target.deliver(&one("b", "2")).await.unwrap_err();
        assert_eq!(ended.kind, SinkErrorKind::Unreachable, "{ended}");
        let mut next = fixture.target();
        let kept = next.open(mark.as_deref()).await;
        assert!(matches!(kept, Ok(KeptPosition::InTarget(Some(_)))), "{kept:?}");
        next.deliver(&one("b", "2")).await.unwrap();
        assert_eq!(fixture.ids().await, ["a", "b"]);
    })
    .await;
}
