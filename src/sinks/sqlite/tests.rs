use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::mirror::change::RemovalReason;
use crate::sinks::batch::SnapshotId;
use crate::sinks::sql::tests::model::{self, ModelDatabase, ModelRows};
use crate::sinks::sql::tests::{FULL, HOSTILE, change, live};

/// A directory with a file of a sink.
struct SqliteFixture {
    directory: TempDir,
    path: PathBuf,
}

impl SqliteFixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("copy.sqlite");
        Self { directory, path }
    }

    fn target(&self) -> SqliteTarget {
        SqliteTarget::new(&SqliteSettings { path: self.path.clone() })
    }

    fn reader(&self) -> Connection {
        Connection::open_with_flags(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap()
    }

    /// The rows of a query, their columns separated by `|`.
    fn query(&self, query: &str) -> Vec<String> {
        lines(&self.reader(), query)
    }
}

fn lines(connection: &Connection, query: &str) -> Vec<String> {
    let mut statement = connection.prepare(query).unwrap();
    let columns = statement.column_count();
    let line = |row: &rusqlite::Row<'_>| {
        let value = |at| {
            Ok(match row.get::<_, rusqlite::types::Value>(at)? {
                rusqlite::types::Value::Null => "-".to_owned(),
                rusqlite::types::Value::Integer(number) => number.to_string(),
                rusqlite::types::Value::Text(text) => text,
                other => format!("{other:?}"),
            })
        };
        Ok((0..columns).map(value).collect::<rusqlite::Result<Vec<_>>>()?.join("|"))
    };
    statement.query_map([], line).unwrap().map(Result::unwrap).collect()
}

impl ModelDatabase for SqliteFixture {
    fn target(&self) -> Box<dyn SinkTarget> {
        Box::new(self.target())
    }

    fn rows(&self) -> BoxFuture<'_, ModelRows> {
        let connection = self.reader();
        let mut found = connection.prepare("SELECT \"window\", id, subject FROM event").unwrap();
        let rows = found.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)));
        let rows: ModelRows = rows.unwrap().map(Result::unwrap).collect();
        Box::pin(async move { rows })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_file_equals_the_feed_after_crashes_and_snapshots(steps in model::steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(model::check(&SqliteFixture::new(), steps));
    }
}

#[tokio::test]
async fn interrupted_and_replaced_snapshots_end_right() {
    model::check(&SqliteFixture::new(), model::interrupted_snapshots()).await;
}

#[tokio::test]
async fn every_column_is_written_and_views_are_readable() {
    let fixture = SqliteFixture::new();
    let mut target = fixture.target();
    assert_eq!(target.open(None).await, Ok(KeptPosition::InTarget(None)));
    let times = |id: &str, show_as: &str, from: &str, to: &str| {
        let event = format!(
            r#"{{"subject":"{id}","showAs":"{show_as}","start":{{"dateTime":"2026-11-23T{from}",
            "timeZone":"UTC"}},"end":{{"dateTime":"2026-11-23T{to}","timeZone":"UTC"}}}}"#
        );
        change("bob", id, Some(&event))
    };
    let mut batch = live(
        vec![
            change("alice", "AA=", Some(FULL)),
            change("alice", "BB=", Some(HOSTILE)),
            times("a", "busy", "09:00:00", "10:00:00"),
            times("b", "tentative", "09:30:00", "11:00:00"),
            times("c", "odd", "11:00:00", "11:30:00"),
            times("d", "free", "09:00:00", "20:00:00"),
            times("e", "busy", "11:10:00.5", "11:20:00"),
        ],
        &["alice", "bob"],
    );
    batch.after.snapshot = Some(SnapshotId(0xab));
    (batch.snapshot, batch.begins) = (Some(SnapshotId(0xab)), true);
    target.deliver(&batch).await.unwrap();
    assert_eq!(
        fixture.query("SELECT * FROM event WHERE \"window\" = 'alice' AND id = 'AA='"),
        [format!(
            "alice|AA=|2026-11-23T09:00:00Z|2026-11-23T10:30:00Z|0|Review \"Q4\"|tentative|\
             bob@contoso.com|Bob|Room 1|1|private|MM=|occurrence|https://teams.microsoft.com/l/1|\
             {FULL}|7|2026-11-21T10:00:00Z|00000000000000ab"
        )]
    );
    assert_eq!(
        fixture
            .query("SELECT subject, start, json_extract(event, '$.n') FROM event WHERE id = 'BB='"),
        ["nul \u{fffd} half \u{fffd} end|-|-"]
    );
    assert_eq!(
        fixture.query("SELECT * FROM position"),
        ["copy|2|00000000000000ab|1|2026-11-21T10:00:05Z"]
    );
    assert_eq!(
        fixture.query("SELECT name, mailbox, capacity, snapshot FROM \"window\" ORDER BY name"),
        ["alice|alice@contoso.com|-|00000000000000ab", "bob|bob@contoso.com|-|00000000000000ab"]
    );
    assert_eq!(
        fixture.query("SELECT * FROM busy ORDER BY start"),
        [
            "bob|2026-11-23T09:00:00Z|2026-11-23T10:00:00Z|busy",
            "bob|2026-11-23T10:00:00Z|2026-11-23T11:00:00Z|tentative",
            "bob|2026-11-23T11:00:00Z|2026-11-23T11:30:00Z|busy",
        ]
    );
    assert_eq!(
        fixture.query("SELECT mailbox, start, subject FROM agenda ORDER BY start, subject")[..2],
        ["bob@contoso.com|2026-11-23T09:00:00Z|a", "bob@contoso.com|2026-11-23T09:00:00Z|d"]
    );
    let mut removal = change("bob", "a", None);
    removal.reason = Some(RemovalReason::WindowDropped);
    target.deliver(&live(vec![removal], &[])).await.unwrap();
    assert_eq!(fixture.query("SELECT name FROM \"window\""), ["alice"]);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for end in ["", "-wal", "-lock"] {
        let path = format!("{}{end}", fixture.path.display());
        assert_eq!(mode(Path::new(&path)), 0o600, "{path}");
    }
    drop(target);
    let position = fixture.target().open(None).await.unwrap();
    let KeptPosition::InTarget(Some(position)) = position else { panic!("{position:?}") };
    assert_eq!((&*position.cursor, position.snapshot), ("2", None));
}

#[tokio::test]
async fn a_test_shows_that_a_batch_could_be_written_and_writes_nothing() {
    let fixture = SqliteFixture::new();
    let mut target = fixture.target();
    target.open(None).await.unwrap();
    let at = "2026-11-21T10:00:00Z".parse().unwrap();
    target.test("copy", at).await.unwrap();
    assert_eq!(fixture.query("SELECT count(*), (SELECT cursor FROM position) FROM event"), ["0|-"]);
    fixture.reader().execute_batch("DROP VIEW agenda; DROP TABLE event").unwrap();
    let refused = target.test("copy", at).await.unwrap_err();
    assert_eq!(refused.kind, SinkErrorKind::Unsuitable, "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_file_has_one_sink() {
    let fixture = SqliteFixture::new();
    let mut first = fixture.target();
    first.open(None).await.unwrap();
    // Another path to the same file.
    let link = fixture.directory.path().join("link.sqlite");
    std::os::unix::fs::symlink(&fixture.path, &link).unwrap();
    for path in [&fixture.path, &link] {
        let mut second = SqliteTarget::new(&SqliteSettings { path: path.clone() });
        let refused = second.open(None).await.unwrap_err();
        assert_eq!(refused.kind, SinkErrorKind::Unsuitable);
        assert!(refused.message.contains("another sink or another calmirror"), "{refused}");
        assert!(refused.message.contains("copy.sqlite") || path == &link, "{refused}");
    }
    // The first one still has its locks of SQLite.
    first.deliver(&live(vec![change("alice", "AA=", Some(FULL))], &["alice"])).await.unwrap();
    drop(first);
    fixture.target().open(None).await.unwrap();
}

#[tokio::test]
async fn versions_are_migrated_and_newer_ones_refused() {
    const STEPS: &[&str] = &[MIGRATIONS[0], "ALTER TABLE event ADD COLUMN made_up timestamptz"];
    const FAILING: &[&str] = &[MIGRATIONS[0], STEPS[1], "DROP VIEW agenda", "DROP TABLE nothing"];
    let fixture = SqliteFixture::new();
    let mut old = fixture.target();
    old.open(None).await.unwrap();
    old.deliver(&live(vec![change("alice", "AA=", Some(FULL))], &["alice"])).await.unwrap();
    drop(old);
    let mut new = SqliteTarget { migrations: STEPS, ..fixture.target() };
    let KeptPosition::InTarget(Some(position)) = new.open(None).await.unwrap() else { panic!() };
    assert_eq!(position.cursor, "2");
    drop(new);
    let state = "SELECT id, made_up, (SELECT schema_version FROM position) FROM event";
    assert_eq!(fixture.query(state), ["AA=|-|2"]);
    // A step that fails leaves nothing behind.
    SqliteTarget { migrations: FAILING, ..fixture.target() }.open(None).await.unwrap_err();
    assert_eq!(fixture.query("SELECT count(*) FROM sqlite_master WHERE name = 'agenda'"), ["1"]);
    let refused = fixture.target().open(None).await.unwrap_err();
    assert_eq!(refused.kind, SinkErrorKind::Unsuitable);
    assert!(refused.message.contains("version 2 and this calmirror writes version 1"), "{refused}");
    assert_eq!(fixture.query(state), ["AA=|-|2"]);
}

#[tokio::test]
async fn files_that_are_not_ours_are_refused_untouched() {
    let fixture = SqliteFixture::new();
    std::fs::write(&fixture.path, "canary: a text that is longer than the head of a file").unwrap();
    let refused = fixture.target().open(None).await.unwrap_err();
    assert_eq!(refused.kind, SinkErrorKind::Unsuitable);
    assert!(refused.message.starts_with("the file is not one of SQLite"), "{refused}");
    for foreign in [
        "CREATE TABLE event (canary text)",
        "CREATE TABLE position (x)",
        "CREATE VIEW v AS SELECT 1",
    ] {
        std::fs::remove_file(&fixture.path).unwrap();
        Connection::open(&fixture.path).unwrap().execute_batch(foreign).unwrap();
        let before = std::fs::read(&fixture.path).unwrap();
        let refused = fixture.target().open(None).await.unwrap_err();
        assert_eq!(refused.kind, SinkErrorKind::Unsuitable);
        assert!(refused.message.contains("which calmirror did not create"), "{refused}");
        assert!(std::fs::read(&fixture.path).unwrap() == before, "{foreign}");
    }
}

#[tokio::test]
async fn failures_have_a_kind_and_never_show_contents() {
    let fixture = SqliteFixture::new();
    let canary = change("canary", "canary", Some(r#"{"subject":"canary"}"#));
    let batch = live(vec![canary], &["canary"]);
    let mut failures = Vec::new();
    for (spoil, kind) in [
        ("ALTER TABLE event RENAME COLUMN subject TO other", SinkErrorKind::Unsuitable),
        (
            "CREATE TRIGGER t BEFORE INSERT ON event BEGIN SELECT raise(ABORT, 'canary'); END",
            SinkErrorKind::Refused,
        ),
        ("DELETE FROM position", SinkErrorKind::Unsuitable),
        ("DROP VIEW busy; DROP VIEW agenda; DROP TABLE event", SinkErrorKind::Unsuitable),
    ] {
        let mut target = fixture.target();
        target.open(None).await.unwrap();
        fixture.reader().execute_batch(spoil).unwrap();
        let failure = target.deliver(&batch).await.unwrap_err();
        assert_eq!(failure.kind, kind, "{spoil}: {failure}");
        // It is closed until it is opened again.
        assert!(target.deliver(&batch).await.unwrap_err().message.contains("not open"));
        failures.push(failure);
        drop(target);
        std::fs::remove_file(&fixture.path).unwrap();
    }
    let mut target = fixture.target();
    target.open(None).await.unwrap();
    let database = target.database.as_ref().unwrap();
    database.connection.execute_batch("PRAGMA max_page_count = 1").unwrap();
    let large = format!("{{\"subject\":\"canary\",\"x\":\"{}\"}}", "x".repeat(1 << 20));
    let full = target.deliver(&live(vec![change("a", "b", Some(&large))], &[])).await.unwrap_err();
    assert!(full.message.starts_with("the disk of the file is full"), "{full}");
    target.open(None).await.unwrap();
    target.database.as_ref().unwrap().connection.busy_timeout(Duration::ZERO).unwrap();
    let other = fixture.reader();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let locked = target.deliver(&batch).await.unwrap_err();
    assert!(locked.message.starts_with("another program keeps the file locked"), "{locked}");
    other.execute_batch("ROLLBACK").unwrap();
    target.open(None).await.unwrap();
    target.database.as_ref().unwrap().connection.pragma_update(None, "query_only", true).unwrap();
    let read_only = target.deliver(&batch).await.unwrap_err();
    assert!(read_only.message.contains("is read-only"), "{read_only}");
    target.open(None).await.unwrap();
    std::fs::rename(&fixture.path, fixture.directory.path().join("moved")).unwrap();
    let moved = target.deliver(&batch).await.unwrap_err();
    assert!(moved.message.contains("was moved or deleted"), "{moved}");
    // The next attempt makes it again.
    assert_eq!(target.open(None).await, Ok(KeptPosition::InTarget(None)));
    for failure in [&full, &locked, &read_only, &moved] {
        assert_eq!(failure.kind, SinkErrorKind::Unavailable);
    }
    failures.extend([full, locked, read_only, moved]);
    for failure in failures {
        assert!(!format!("{failure:?}").contains("canary"), "{failure:?}");
    }
}

#[tokio::test]
async fn paths_that_cannot_be_used_are_named() {
    let fixture = SqliteFixture::new();
    let directory = fixture.directory.path();
    std::fs::write(directory.join("text"), "").unwrap();
    assert_eq!(SqliteSettings { path: directory.join("text") }.problems(), []);
    assert_eq!(SqliteSettings { path: fixture.path.clone() }.problems(), []);
    assert!(!fixture.path.exists());
    for (path, problem) in [
        (directory.join("missing/copy"), "its directory does not exist"),
        (directory.to_owned(), "is not the path of a file"),
        (directory.join("text/copy"), "is not the path of a file"),
        (PathBuf::from("/"), "is not the path of a file"),
    ] {
        let settings = SqliteSettings { path };
        let refused = SqliteTarget::new(&settings).open(None).await.unwrap_err();
        assert_eq!(settings.problems(), std::slice::from_ref(&refused));
        assert_eq!(refused.kind, SinkErrorKind::Misconfigured, "{refused}");
        assert!(refused.message.contains(problem), "{refused}");
    }
}
