//! What a failure is called. Nothing of it shows a row, a password or an address.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::schema_fixture::server;
use super::*;

/// A target whose URL is full of secrets.
fn target_at(url: &str) -> PostgresTarget {
    PostgresTarget::new(&PostgresSettings {
        url: SinkSecret::Inline(url.into()),
        schema: "copy".into(),
        authorities: [].into(),
    })
}

fn assert_plain(failure: &SinkError) {
    let shown = format!("{failure:?} {failure}");
    for secret in ["canary", "127.0.0.1", "\n"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(failure.message.len() < 200, "{failure}");
}

#[tokio::test]
async fn failures_of_a_transaction_have_a_kind_and_show_no_row() {
    use SinkErrorKind::{Refused, Unavailable, Unsuitable};
    let canary = r#"{"subject":"canary","showAs":"canary"}"#;
    let batch = live(vec![change("canary", "canary", Some(canary))], &["canary"]);
    with_schema(async |fixture| {
        fixture.target().open(None).await.unwrap();
        for (code, kind, start) in [
            ("53100", Unavailable, "the disk of the database is full"),
            ("53200", Unavailable, "the database lacks memory"),
            ("25006", Unavailable, "the database is read-only"),
            ("55P03", Unavailable, "another session keeps calmirror's tables locked"),
            ("57014", Unavailable, "the database took too long"),
            ("57P01", Unavailable, "the database or an administrator ended the session"),
            ("40001", Unavailable, "another transaction was in the way"),
            ("40P01", Unavailable, "another transaction was in the way"),
            ("58030", Unavailable, "the database has an internal error"),
            ("42501", Refused, "the user of its URL has no permission"),
            ("23514", Refused, "a constraint or a trigger"),
            ("P0001", Refused, "a constraint or a trigger"),
            ("22P05", Refused, "the database cannot hold a value"),
            ("54000", Refused, "the database cannot hold a value"),
            ("42P01", Unsuitable, "the schema's tables are not those"),
            ("ZZZ99", Refused, "the database refuses the transaction"),
        ] {
            let trigger = format!(
                "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    RAISE EXCEPTION 'canary %', NEW.subject
                    USING ERRCODE = '{code}', DETAIL = 'canary', HINT = 'canary', TABLE = 'canary';
                 END $$;
                 CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON event FOR EACH ROW
                 EXECUTE FUNCTION refuse()"
            );
            fixture.execute(&trigger).await;
            let mut target = fixture.target();
            target.open(None).await.unwrap();
            let failure = target.deliver(&batch).await.unwrap_err();
            assert_eq!(failure.kind, kind, "{failure}");
            assert!(failure.message.starts_with(start), "{failure}");
            assert!(failure.message.ends_with(&format!("(SQLSTATE {code})")), "{failure}");
            assert_plain(&failure);
            // It is closed until it is opened again.
            let closed = target.deliver(&batch).await.unwrap_err();
            assert!(closed.message.contains("not connected"), "{closed}");
        }
        fixture
            .execute(
                "DROP TRIGGER refuse ON event; ALTER TABLE event ADD CHECK (subject <> 'canary')",
            )
            .await;
        let mut target = fixture.target();
        target.open(None).await.unwrap();
        // PostgreSQL itself quotes the row here.
        let failure = target.deliver(&batch).await.unwrap_err();
        assert_eq!(failure.kind, Refused);
        assert_plain(&failure);
        assert_eq!(fixture.query("SELECT count(*) FROM event").await, ["0"]);
        target.open(None).await.unwrap();
        fixture.execute("DELETE FROM position").await;
        let failure = target.deliver(&live(Vec::new(), &[])).await.unwrap_err();
        assert_eq!(failure.kind, Unsuitable);
        let reopened = fixture.target().open(None).await.unwrap_err();
        assert_eq!(failure, reopened);
    })
    .await;
}

#[tokio::test]
async fn a_killed_session_is_a_lost_connection() {
    with_schema(async |fixture| {
        let mut target = fixture.target();
        target.open(None).await.unwrap();
        let key = SchemaName::new(&fixture.name).unwrap().lock_key();
        let (high, low) = (key >> 32 & 0xffff_ffff, key & 0xffff_ffff);
        let kill = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_locks
             WHERE locktype = 'advisory' AND classid = {high} AND objid = {low}"
        );
        assert_eq!(fixture.query(&kill).await, ["t"]);
        let failure = target.deliver(&live(Vec::new(), &[])).await.unwrap_err();
        let is_lost = [SinkErrorKind::Unreachable, SinkErrorKind::Unavailable];
        assert!(is_lost.contains(&failure.kind), "{failure}");
        assert_plain(&failure);
        target.open(None).await.unwrap();
        target.deliver(&live(Vec::new(), &[])).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn what_the_server_denies_is_said() {
    with_schema(async |fixture| {
        let (scheme, rest) =
            server().split_once("//").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        let at = rest.rsplit('@').next().unwrap().to_owned();
        let (host, _) = at.split_once('/').unwrap();
        let user = format!("{}_user", fixture.name);
        fixture.execute(&format!("CREATE ROLE {user} LOGIN")).await;
        let denied = fixture
            .target_at(&format!("{scheme}//{user}:canary@{at}?sslmode=disable"))
            .open(None)
            .await;
        fixture.execute(&format!("CREATE SCHEMA {0} AUTHORIZATION {user}", fixture.name)).await;
        // With a schema of its own, it needs no other permission.
        let allowed = fixture
            .target_at(&format!("{scheme}//{user}:canary@{at}?sslmode=disable"))
            .open(None)
            .await;
        // Its temporary table goes with its session.
        let sessions = format!("SELECT FROM pg_stat_activity WHERE usename = '{user}'");
        while !fixture.query(&sessions).await.is_empty() {}
        fixture.execute(&format!("DROP SCHEMA {} CASCADE; DROP ROLE {user}", fixture.name)).await;
        let denied = denied.unwrap_err();
        assert_eq!(denied.kind, SinkErrorKind::Refused);
        assert!(denied.message.contains("has no permission"), "{denied}");
        allowed.unwrap();
        let user = rest.split('@').next().unwrap().to_owned();
        let url = format!("{scheme}//{user}@{host}/canary_missing?sslmode=disable");
        let missing = fixture.target_at(&url).open(None).await.unwrap_err();
        assert_eq!(missing.kind, SinkErrorKind::Unsuitable);
        let read_only = "sslmode=disable&options=-c%20default_transaction_read_only%3Don";
        let read_only = fixture.target_at(&format!("{}?{read_only}", server())).open(None).await;
        let read_only = read_only.unwrap_err();
        assert_eq!(read_only.kind, SinkErrorKind::Unavailable);
        assert!(read_only.message.contains("read-only"), "{read_only}");
        for failure in [denied, missing, read_only] {
            assert_plain(&failure);
        }
    })
    .await;
}

/// A server that answers whoever connects with an error.
async fn refusing(code: &str) -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let fields = format!("SFATAL\0VFATAL\0C{code}\0Mcanary\0Dcanary\0\0");
    let mut answer = b"E".to_vec();
    answer.extend_from_slice(&u32::try_from(fields.len() + 4).unwrap().to_be_bytes());
    answer.extend_from_slice(fields.as_bytes());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut start = [0; 512];
            assert!(stream.read(&mut start).await.unwrap() > 0);
            stream.write_all(&answer).await.unwrap();
        }
    });
    (port, tasks)
}

#[tokio::test]
async fn refused_connections_have_a_kind_and_show_no_secret() {
    use SinkErrorKind::{Misconfigured, Refused, Unavailable, Unreachable, Unsuitable};
    for (code, kind, start) in [
        ("28P01", Refused, "the database refuses the user or the password"),
        ("28000", Refused, "the database refuses the user, or a connection from here"),
        ("3D000", Unsuitable, "the database that its URL names does not exist"),
        ("53300", Unavailable, "the database has no connection left"),
        ("57P03", Unavailable, "the database is starting or stopping"),
        ("cana\nry", Refused, "the database refuses the transaction"),
    ] {
        let (port, _tasks) = refusing(code).await;
        let url = format!("postgres://canary:canary@127.0.0.1:{port}/canary?sslmode=disable");
        let failure = target_at(&url).open(None).await.unwrap_err();
        assert_eq!(failure.kind, kind, "{failure}");
        assert!(failure.message.starts_with(start), "{failure}");
        assert_plain(&failure);
    }
    let (port, mut tasks) = refusing("").await;
    tasks.shutdown().await;
    for (url, kind, start) in [
        (
            format!("postgres://u:canary@127.0.0.1:{port}/d"),
            Unreachable,
            "the database refused the connection",
        ),
        (
            "postgres://u:canary@canary.invalid/d".into(),
            Unreachable,
            "the host of the database has no address",
        ),
        (
            "postgres://u:canary@%2Fcanary/d".into(),
            Unreachable,
            "the socket of the database does not exist",
        ),
        ("host=canary user=u".into(), Misconfigured, "the URL of the database has to begin with"),
        ("postgres://canary/d".into(), Misconfigured, "the URL of the database needs a user"),
        ("postgres://u@h/d?canary=1".into(), Misconfigured, "the URL of the database is not valid"),
        ("postgres://u@h:canary/d".into(), Misconfigured, "the URL of the database is not valid"),
        ("postgres://u@h/d?sslmode=canary".into(), Misconfigured, "sslmode in the URL"),
        (
            "postgres://u@h/d?sslmode=require&sslmode=disable".into(),
            Misconfigured,
            "sslmode in the URL",
        ),
    ] {
        let failure = target_at(&url).open(None).await.unwrap_err();
        assert_eq!(failure.kind, kind, "{url}: {failure}");
        assert!(failure.message.starts_with(start), "{url}: {failure}");
        assert_plain(&failure);
    }
    let settings = target_at("postgres://u:canary@h/d").settings;
    assert!(!format!("{settings:?}").contains("canary"));
}
