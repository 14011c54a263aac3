mod failures;
mod grafana;
mod schema_fixture;
mod tls;

use proptest::prelude::*;

use self::schema_fixture::{SchemaFixture, with_schema};
use super::*;
use crate::mirror::change::RemovalReason;
use crate::sinks::batch::SnapshotId;
use crate::sinks::sql::tests::model;
use crate::sinks::sql::tests::{FULL, HOSTILE, change, live};

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_schema_equals_the_feed_after_crashes_and_snapshots(steps in model::steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(with_schema(async |fixture: &SchemaFixture| model::check(fixture, steps).await));
    }
}

#[tokio::test]
async fn interrupted_and_replaced_snapshots_end_right() {
    with_schema(async |fixture| model::check(fixture, model::interrupted_snapshots()).await).await;
}

#[tokio::test]
async fn every_column_is_written_and_views_are_readable() {
    with_schema(async |fixture| {
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
                change("alice", "C\0=", Some(r#"{"start":{"dateTime":"0001-01-01","timeZone":"UTC"},
                    "end":{"dateTime":"9999-12-29T23:59:59.1234567","timeZone":"UTC"}}"#)),
                times("a", "busy", "09:00:00", "10:00:00"),
                times("b", "tentative", "09:30:00", "11:00:00"),
                times("c", "odd", "11:00:00", "11:30:00"),
                times("d", "free", "09:00:00", "20:00:00"),
                times("e", "busy", "11:10:00", "11:20:00"),
            ],
            &["alice", "bob"],
        );
        batch.after.snapshot = Some(SnapshotId(0xab));
        (batch.snapshot, batch.begins) = (Some(SnapshotId(0xab)), true);
        target.deliver(&batch).await.unwrap();
        // The same batch may come again.
        target.deliver(&batch).await.unwrap();
        let event = "SELECT \"window\", id, start, \"end\", all_day, subject, show_as, organizer,
            organizer_name, location, is_cancelled, sensitivity, series_master_id, type, join_url,
            seq, changed_at, snapshot, event->'organizer'->'emailAddress'->>'name'
            FROM event WHERE id = 'AA='";
        assert_eq!(
            fixture.query(event).await,
            ["alice|AA=|2026-11-23 09:00:00+00|2026-11-23 10:30:00+00|f|Review \"Q4\"|tentative|\
              bob@contoso.com|Bob|Room 1|t|private|MM=|occurrence|https://teams.microsoft.com/l/1|\
              7|2026-11-21 10:00:00+00|00000000000000ab|Bob"]
        );
        assert_eq!(
            fixture.query("SELECT subject, start, event->>'n', event->>'subject' FROM event WHERE id = 'BB='").await,
            ["nul \u{fffd} half \u{fffd} end|-|-|nul \u{fffd} half \u{fffd} end"]
        );
        assert_eq!(
            fixture.query("SELECT start, \"end\" FROM event WHERE id = 'C\u{fffd}='").await,
            ["0001-01-01 00:00:00+00|9999-12-29 23:59:59.123456+00"]
        );
        assert_eq!(
            fixture.query("SELECT * FROM position").await,
            ["copy|2|00000000000000ab|1|2026-11-21 10:00:05+00"]
        );
        assert_eq!(
            fixture.query("SELECT * FROM busy WHERE \"window\" = 'bob' ORDER BY start").await,
            [
                "bob|2026-11-23 09:00:00+00|2026-11-23 10:00:00+00|busy",
                "bob|2026-11-23 10:00:00+00|2026-11-23 11:00:00+00|tentative",
                "bob|2026-11-23 11:00:00+00|2026-11-23 11:30:00+00|busy",
            ]
        );
        assert_eq!(
            fixture.query("SELECT mailbox, start, subject FROM agenda WHERE \"window\" = 'bob' ORDER BY start, subject LIMIT 2").await,
            ["bob@contoso.com|2026-11-23 09:00:00+00|a", "bob@contoso.com|2026-11-23 09:00:00+00|d"]
        );
        let mut removal = change("bob", "a", None);
        removal.reason = Some(RemovalReason::WindowDropped);
        target.deliver(&live(vec![removal], &[])).await.unwrap();
        assert_eq!(fixture.query("SELECT name FROM \"window\"").await, ["alice"]);
        drop(target);
        let position = fixture.target().open(None).await.unwrap();
        let KeptPosition::InTarget(Some(position)) = position else { panic!("{position:?}") };
        assert_eq!((&*position.cursor, position.snapshot), ("2", None));
    })
    .await;
}

#[tokio::test]
async fn a_test_shows_that_a_batch_could_be_written_and_writes_nothing() {
    with_schema(async |fixture| {
        let mut target = fixture.target();
        target.open(None).await.unwrap();
        let at = "2026-11-21T10:00:00Z".parse().unwrap();
        target.test("copy", at).await.unwrap();
        let state = "SELECT count(*), (SELECT cursor FROM position) FROM event";
        assert_eq!(fixture.query(state).await, ["0|-"]);
        fixture.execute("ALTER TABLE event RENAME COLUMN subject TO other").await;
        let refused = target.test("copy", at).await.unwrap_err();
        assert_eq!(refused.kind, SinkErrorKind::Unsuitable, "{refused}");
    })
    .await;
}

#[tokio::test]
async fn a_schema_has_one_sink() {
    with_schema(async |fixture| {
        let mut first = fixture.target();
        first.open(None).await.unwrap();
        let refused = fixture.target().open(None).await.unwrap_err();
        assert_eq!(refused.kind, SinkErrorKind::Unsuitable);
        let shown = format!("writes to schema {}", fixture.name);
        assert!(refused.message.contains(&shown), "{refused}");
        first.deliver(&live(vec![change("alice", "AA=", Some(FULL))], &["alice"])).await.unwrap();
        drop(first);
        fixture.target().open(None).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn versions_are_migrated_and_newer_ones_refused() {
    const STEPS: &[&str] = &[MIGRATIONS[0], "ALTER TABLE event ADD COLUMN made_up timestamptz"];
    const FAILING: &[&str] = &[MIGRATIONS[0], STEPS[1], "DROP VIEW agenda", "DROP TABLE nothing"];
    with_schema(async |fixture| {
        let mut old = fixture.target();
        old.open(None).await.unwrap();
        old.deliver(&live(vec![change("alice", "AA=", Some(FULL))], &["alice"])).await.unwrap();
        drop(old);
        let mut new = PostgresTarget { migrations: STEPS, ..fixture.target() };
        let KeptPosition::InTarget(Some(position)) = new.open(None).await.unwrap() else {
            panic!()
        };
        assert_eq!(position.cursor, "2");
        new.deliver(&live(vec![change("alice", "BB=", Some("{}"))], &["alice"])).await.unwrap();
        drop(new);
        let state =
            "SELECT id, made_up, (SELECT schema_version FROM position) FROM event ORDER BY id";
        assert_eq!(fixture.query(state).await, ["AA=|-|2", "BB=|-|2"]);
        // A step that fails leaves nothing behind.
        PostgresTarget { migrations: FAILING, ..fixture.target() }.open(None).await.unwrap_err();
        assert_eq!(fixture.query("SELECT count(*) FROM agenda").await.len(), 1);
        let refused = fixture.target().open(None).await.unwrap_err();
        assert_eq!(refused.kind, SinkErrorKind::Unsuitable);
        let shown = "version 2 and this calmirror writes version 1";
        assert!(refused.message.contains(shown), "{refused}");
        assert_eq!(fixture.query(state).await, ["AA=|-|2", "BB=|-|2"]);
    })
    .await;
}

#[tokio::test]
async fn tables_of_others_are_refused_untouched() {
    for foreign in ["TABLE event (canary text)", "TABLE position (x int)", "VIEW busy AS SELECT 1"]
    {
        with_schema(async |fixture| {
            fixture.execute(&format!("CREATE SCHEMA {}; CREATE {foreign}", fixture.name)).await;
            let refused = fixture.target().open(None).await.unwrap_err();
            assert_eq!(refused.kind, SinkErrorKind::Unsuitable);
            assert!(refused.message.contains("which calmirror did not create"), "{refused}");
            let tables = format!(
                "SELECT count(*) FROM pg_class WHERE relnamespace = '{}'::regnamespace",
                fixture.name
            );
            assert_eq!(fixture.query(&tables).await, ["1"]);
        })
        .await;
    }
    // Others may share the schema.
    with_schema(async |fixture| {
        fixture
            .execute(&format!("CREATE SCHEMA {}; CREATE TABLE other (x int)", fixture.name))
            .await;
        fixture.target().open(None).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn names_of_schemas_cannot_be_statements() {
    for name in ["", "Copy", "a\"; DROP", "9a", "pg_copy", "a b", "ä", &"a".repeat(64)] {
        let settings = PostgresSettings {
            url: SinkSecret::Inline("postgres://nobody@127.0.0.1:1/none".into()),
            schema: name.into(),
            authorities: [].into(),
        };
        let refused = PostgresTarget::new(&settings).open(None).await.unwrap_err();
        assert_eq!(refused.kind, SinkErrorKind::Misconfigured, "{name}");
    }
}
