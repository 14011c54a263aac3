//! The target against receivers on ports of their own.

mod network;
mod receiver;

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use self::receiver::{Ending, PATIENCE, WebhookReceiver, answer};
use super::*;
use crate::mirror::change::{ChangeKind, RemovalReason};
use crate::mirror::page::EventId;
use crate::mirror::shard::Shard;
use crate::sinks::batch::{SinkPosition, SnapshotId};
use crate::store::Change;

const SECRET: &str = "whsec_Y2FuYXJ5IGNhbmFyeSBjYW5hcnkgY2FuYXJ5";
const OLDER: &str = "whsec_b2xkZXIgb2xkZXIgb2xkZXIgb2xkZXIgb2xk";

/// An event that came and one that went.
pub(super) fn batch() -> SinkBatch {
    let created = Change {
        cursor: "c~1".to_owned(),
        seq: 1,
        at: "2026-11-21T09:59:58Z".parse().unwrap(),
        window: "room a".into(),
        kind: ChangeKind::Created,
        reason: None,
        id: EventId::new("AA="),
        event: Some(r#"{"id":"AA=","subject":"canary"}"#.into()),
        changed: None,
        is_new_version: false,
        summary: None,
    };
    let removed = Change {
        cursor: "c~2".to_owned(),
        seq: 2,
        kind: ChangeKind::Removed,
        reason: Some(RemovalReason::Deleted),
        id: EventId::new("BB="),
        event: None,
        ..created.clone()
    };
    SinkBatch {
        sink: "crm".into(),
        shard: Shard::ALONE,
        at: "2026-11-21T10:00:00Z".parse().unwrap(),
        before: "c~0".to_owned(),
        after: SinkPosition { cursor: "c~2".to_owned(), snapshot: None },
        snapshot: None,
        begins: false,
        ends: false,
        changes: vec![created, removed],
        windows: Vec::new(),
    }
}

/// Settings with a secret in a file of the directory.
fn settings(dir: &Path, url: &str) -> WebhookSettings {
    let secret_file = dir.join("whsec");
    std::fs::write(&secret_file, SECRET).unwrap();
    WebhookSettings {
        url: SinkSecret::Inline(url.into()),
        secret_file,
        format: WebhookFormat::Lines,
        allow_private: true,
        authorities: Arc::default(),
    }
}

/// A target that the proxies of this machine have no part in.
fn target(settings: &WebhookSettings) -> WebhookTarget {
    let environment = Some(Arc::new(Matcher::builder().build()));
    WebhookTarget { environment, ..WebhookTarget::new(settings, &Env::real()) }
}

/// Opens a target and delivers the batch.
async fn deliver(target: &mut WebhookTarget) -> Result<Receipt, SinkError> {
    target.open(None).await?;
    target.deliver(&batch()).await
}

/// Delivers to an address, for an error that shows nothing secret.
async fn failure(settings: &WebhookSettings) -> SinkError {
    let mut target = target(settings);
    let error = deliver(&mut target).await.unwrap_err();
    let shown = format!("{error} {error:?} {settings:?} {target:?}");
    assert!(!shown.contains("canary") && !shown.contains(SECRET), "{shown}");
    error
}

#[tokio::test]
async fn a_batch_is_posted_once_with_the_headers_of_standard_webhooks() {
    let dir = tempfile::tempdir().unwrap();
    let mut receiver = WebhookReceiver::new(answer("202 Accepted", "", "ok"), Ending::Keep).await;
    let settings = settings(dir.path(), &receiver.url("/canary?token=canary"));
    let mut target = target(&settings);
    assert_eq!(target.open(None).await.unwrap(), KeptPosition::InStore);
    let before = Timestamp::now().as_second();
    let receipt = target.deliver(&batch()).await.unwrap();
    let request = receiver.next().await;
    assert_eq!(request.line, "POST /canary?token=canary HTTP/1.1");
    let header = |name: &str| request.header(name).unwrap_or_default();
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(request.header("accept-encoding"), None);
    assert!(header("user-agent").starts_with("calmirror/"));
    let lines: Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(lines[1]["id"], "BB=");

    let timestamp: i64 = header("webhook-timestamp").parse().unwrap();
    assert!((before..=Timestamp::now().as_second()).contains(&timestamp));
    let secrets = SigningSecrets::parse(SECRET).unwrap();
    let id = header("webhook-id");
    assert_eq!(header("webhook-signature"), secrets.sign(&id, timestamp, &request.body));
    assert_eq!(receipt, Receipt { status: Some(202), id: Some(id.clone()), mark: None });

    // Again, as after a restart: the same id, and the connection is kept.
    let again = target.deliver(&batch()).await.unwrap();
    assert_eq!(
        (again.id, receiver.next().await.header("webhook-id")),
        (Some(id.clone()), Some(id))
    );
    assert_eq!(receiver.connections(), 1);
    let nothing = SinkBatch { changes: Vec::new(), ..batch() };
    assert_eq!(target.deliver(&nothing).await.unwrap(), Receipt::default());
    assert!(receiver.is_quiet());
    let begin = SinkBatch { begins: true, snapshot: Some(SnapshotId(1)), ..nothing };
    target.deliver(&begin).await.unwrap();
    assert!(receiver.next().await.body.starts_with(b"[{\"change\":\"snapshot_begins\""));
}

#[tokio::test]
async fn files_are_read_again_and_during_a_rotation_both_secrets_sign() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = WebhookReceiver::new(answer("200 OK", "", ""), Ending::Keep).await;
    let mut second = WebhookReceiver::new(answer("200 OK", "", ""), Ending::Keep).await;
    let file = dir.path().join("url");
    std::fs::write(&file, first.url("/canary\n")).unwrap();
    let url = SinkSecret::File(file.clone());
    let format = WebhookFormat::CloudEvents;
    let settings = WebhookSettings { url, format, ..settings(dir.path(), "") };
    let mut target = target(&settings);
    deliver(&mut target).await.unwrap();
    let request = first.next().await;
    assert_eq!(request.header("webhook-signature").unwrap().split(' ').count(), 1);
    assert_eq!(request.header("content-type").unwrap(), "application/cloudevents-batch+json");

    std::fs::write(&file, second.url("/canary\n")).unwrap();
    std::fs::write(&settings.secret_file, format!("{OLDER}\n{SECRET}\n")).unwrap();
    assert_eq!(settings.origin().unwrap(), second.url(""));
    target.open(None).await.unwrap();
    let at = "2026-11-21T10:00:00Z".parse().unwrap();
    let tested = target.test("crm", at).await.unwrap();
    let request = second.next().await;
    let timestamp: i64 = request.header("webhook-timestamp").unwrap().parse().unwrap();
    let id = request.header("webhook-id").unwrap();
    let signed = [OLDER, SECRET]
        .map(|secret| SigningSecrets::parse(secret).unwrap().sign(&id, timestamp, &request.body));
    assert_eq!(request.header("webhook-signature").unwrap(), signed.join(" "));
    assert_eq!(tested.id, Some(id));
    let lines: Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(lines[0]["type"], "dev.calmirror.test");
    let later = target.test("crm", Timestamp::MAX).await.unwrap();
    assert_ne!(later.id, tested.id);
}

#[tokio::test]
async fn every_problem_of_the_settings_is_named_without_a_secret() {
    let dir = tempfile::tempdir().unwrap();
    let good = settings(dir.path(), "https://hooks.example.com/canary");
    assert_eq!(good.problems(), []);
    assert_eq!(good.origin().unwrap(), "https://hooks.example.com");
    let bad = WebhookSettings {
        url: SinkSecret::Inline("http://hooks.example.com/canary".into()),
        secret_file: dir.path().join("other"),
        allow_private: false,
        ..good
    };
    std::fs::write(&bad.secret_file, "whsec_canary!").unwrap();
    let problems = bad.problems();
    let [url, secret] = problems.as_slice() else { panic!("{problems:?}") };
    assert!(url.message.starts_with("url has an address with http://"), "{url}");
    let start = format!("{} has base64 that cannot be decoded", bad.secret_file.display());
    assert!(secret.message.starts_with(&start), "{secret}");
    assert_eq!(bad.origin().unwrap_err(), *url);
    let error = failure(&bad).await;
    assert_eq!((error.kind, &error), (SinkErrorKind::Misconfigured, url));
    std::fs::remove_file(&bad.secret_file).unwrap();
    assert!(bad.problems()[1].message.contains("cannot be read"));
}

#[tokio::test]
async fn an_answer_is_judged_by_its_status_and_never_quoted() {
    let dir = tempfile::tempdir().unwrap();
    let page = "<!doctype html><title>canary</title>";
    for (status, headers, kind, retry_after) in [
        ("302 Found", "location: /canary\r\n", SinkErrorKind::Refused, None),
        ("400 canary", "", SinkErrorKind::Refused, None),
        ("410 Gone", "", SinkErrorKind::Gone, None),
        ("429 Too Many Requests", "retry-after: 7\r\n", SinkErrorKind::Unavailable, Some(7)),
        ("503 canary", "x-canary: canary\r\n", SinkErrorKind::Unavailable, None),
    ] {
        let mut receiver = WebhookReceiver::new(answer(status, headers, page), Ending::Keep).await;
        let error = failure(&settings(dir.path(), &receiver.url("/canary?canary"))).await;
        let seconds = error.retry_after.map(|wait| wait.as_secs());
        assert_eq!((error.kind, seconds), (kind, retry_after), "{error}");
        assert_eq!(error.status, status[..3].parse().ok());
        let start = format!("{} answered {}: ", receiver.url(""), &status[..3]);
        assert!(error.message.starts_with(&start), "{error}");
        receiver.next().await;
        assert!(receiver.is_quiet(), "a redirect was followed");
    }
}

#[tokio::test]
async fn an_endless_answer_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let head = answer("200 OK", "transfer-encoding: chunked\r\n", "");
    let mut receiver = WebhookReceiver::new(head, Ending::Endless).await;
    let mut target = target(&settings(dir.path(), &receiver.url("/canary")));
    tokio::time::timeout(PATIENCE, deliver(&mut target)).await.unwrap().unwrap();
    receiver.next().await;
    // The target hangs up, although it is still there.
    receiver.hung_up().await;
    drop(target);
}

#[tokio::test]
async fn a_receiver_that_never_answers_is_left_after_fifteen_seconds() {
    let dir = tempfile::tempdir().unwrap();
    for start in ["", "HTTP/1.1 200 OK\r\nx-canary: "] {
        let mut receiver = WebhookReceiver::new(start.into(), Ending::Silent).await;
        let settings = settings(dir.path(), &receiver.url("/canary"));
        let began = tokio::time::Instant::now();
        let received = async {
            receiver.next().await;
            // From here on only time passes.
            tokio::time::pause();
        };
        let (error, ()) = tokio::join!(failure(&settings), received);
        assert_eq!(error.kind, SinkErrorKind::Unreachable);
        let said = format!("{} did not answer within 15 s", receiver.url(""));
        assert!(error.message.starts_with(&said), "{error}");
        let seconds = began.elapsed().as_secs();
        assert!((15..20).contains(&seconds), "{seconds}");
        tokio::time::resume();
    }
}

#[tokio::test]
async fn answers_that_are_none_are_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let mut said = BTreeSet::new();
    for text in ["", "SSH-2.0-canary\r\n", "HTTP/1.1 200", "HTTP/1.1 abc canary\r\n\r\n"] {
        let receiver = WebhookReceiver::new(text.into(), Ending::Close).await;
        let error = failure(&settings(dir.path(), &receiver.url("/canary"))).await;
        assert_eq!((error.kind, error.status), (SinkErrorKind::Unreachable, None));
        said.insert(error.message.replace(&receiver.url(""), "ORIGIN"));
    }
    let expected = "ORIGIN ended the connection before it answered; look into its log";
    assert_eq!(said.into_iter().collect::<Vec<_>>(), [expected]);
    let headers = format!("x-canary: {}\r\n", "canary".repeat(200_000));
    let receiver = WebhookReceiver::new(answer("200 OK", &headers, ""), Ending::Close).await;
    failure(&settings(dir.path(), &receiver.url("/canary"))).await;
}
