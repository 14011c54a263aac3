//! What people ask of a sink.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_paused_sink_sends_nothing_and_a_test_changes_nothing() {
    let mut rig = SinkFixture::new().await;
    rig.configure(&[config("crm", "")]).await;
    rig.batches();
    assert_eq!(rig.ask(SinkCommand::Test).await, "running");
    assert_eq!(rig.ask(SinkCommand::Pause).await, "paused");
    rig.write(&["a"], &[]).await;
    rig.restart(&[config("crm", "")]).await;
    assert_eq!(rig.ask(SinkCommand::Test).await, "paused");
    rig.settle().await;
    let status = rig.board.list().remove(0);
    assert!(status.pending == 1 && status.behind_s >= 30.0, "{status:?}");
    assert_eq!((rig.batches().len(), rig.copy().tests), (0, 2));
    rig.ask(SinkCommand::Resume).await;
    rig.settle().await;
    assert_eq!(rig.batches(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_test_does_not_end_the_pause_after_a_failure() {
    let mut rig = SinkFixture::new().await;
    rig.configure(&[config("crm", "")]).await;
    rig.batches();
    rig.copy().fails = vec![patient(3600)];
    rig.copy().attempts.clear();
    rig.write(&["a"], &[]).await;
    rig.settle().await;
    assert_eq!(rig.ask(SinkCommand::Test).await, "waiting");
    rig.settle().await;
    assert_eq!((rig.copy().attempts.len(), rig.state().0), (1, "waiting".to_owned()));
    rig.ask(SinkCommand::Resume).await;
    rig.settle().await;
    assert_eq!((rig.batches(), rig.state().0), (vec!["a".to_owned()], "running".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_sink_sends_again_from_a_cursor_a_time_or_the_beginning() {
    for keeps in [false, true] {
        let mut rig = SinkFixture::new().await;
        rig.copy().keeps = keeps;
        rig.write(&["a"], &[]).await;
        let cursor = rig.fixture.store.cursor(rig.fixture.store.durable_seq());
        tokio::time::sleep(Duration::from_secs(60)).await;
        let time = rig.fixture.env.now();
        rig.write(&["b"], &[]).await;
        rig.configure(&[config("crm", "")]).await;
        rig.write(&["c"], &[]).await;
        rig.settle().await;
        assert_eq!(rig.batches(), ["begins a b ends", "c"]);
        for (from, batches) in [
            (ReplayFrom::Cursor(cursor), "b c"),
            (ReplayFrom::Time(time), "b c"),
            (ReplayFrom::Start, "begins a b c ends"),
        ] {
            rig.ask(SinkCommand::Replay(from.clone())).await;
            rig.restart(&[config("crm", "")]).await;
            assert_eq!(rig.batches(), [batches], "{from:?} {keeps}");
            rig.restart(&[config("crm", "")]).await;
            assert!(rig.batches().is_empty());
        }
        let why = rig.ask(SinkCommand::Replay(ReplayFrom::Cursor("x".to_owned()))).await;
        assert!(why.starts_with("neither a time"), "{why}");
    }
}

/// What a session writes on a thread of its own goes on after it.
#[tokio::test(start_paused = true)]
async fn a_test_waits_for_the_batch_that_its_session_was_writing() {
    let mut rig = SinkFixture::new().await;
    rig.sinks.make = targets(rig.fixture.env.clone());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("copy.sqlite");
    let target = SinkTargetConfig::Sqlite { path: path.clone() };
    rig.configure(&[SinkConfig { target, ..config("crm", "") }]).await;
    // Somebody's transaction holds the batch up.
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    rig.write(&["a"], &[]).await;
    let pass = async |seconds: u64| {
        for _ in 0..seconds * 1000 {
            tokio::time::advance(Duration::from_millis(1)).await;
        }
    };
    pass(3).await;
    let freed = async {
        // Longer than for a lock of somebody else.
        pass(20).await;
        other.execute_batch("ROLLBACK").unwrap();
    };
    let (answer, ()) = tokio::join!(rig.ask(SinkCommand::Test), freed);
    assert!(["starting", "running"].contains(&&*answer), "{answer}");
    rig.settle().await;
    let found = other.query_row("SELECT id FROM event", [], |row| row.get::<_, String>(0));
    assert_eq!(found, Ok("a".to_owned()));
}
