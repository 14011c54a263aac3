//! The webhook sink as a library: sends a test, the begin of a snapshot with two changes, and its
//! end to a receiver, and prints the answers.
//!
//! ```text
//! cargo run --example webhook -- URL SECRET-FILE [cloudevents]
//! ```
#![allow(clippy::print_stdout, reason = "an example prints")]

use std::error::Error;
use std::sync::Arc;

use calmirror::env::Env;
use calmirror::mirror::change::{ChangeKind, RemovalReason};
use calmirror::mirror::page::EventId;
use calmirror::sinks::batch::{SinkBatch, SinkPosition, SnapshotId};
use calmirror::sinks::secret::SinkSecret;
use calmirror::sinks::target::SinkTarget as _;
use calmirror::sinks::webhook::{WebhookFormat, WebhookSettings, WebhookTarget};
use calmirror::store::Change;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, secret_file, format @ ..] = arguments.as_slice() else {
        return Err("usage: webhook URL SECRET-FILE [cloudevents]".into());
    };
    let settings = WebhookSettings {
        url: SinkSecret::Inline(url.clone().into()),
        secret_file: secret_file.into(),
        format: match format.is_empty() {
            true => WebhookFormat::Lines,
            false => WebhookFormat::CloudEvents,
        },
        allow_private: true,
        authorities: Arc::default(),
    };
    let env = Env::real();
    let mut target = WebhookTarget::new(&settings, &env);
    target.open().await?;
    println!("{:?}", target.test("crm", env.now()).await?);

    let created = Change {
        cursor: "0~1".to_owned(),
        seq: 1,
        at: env.now(),
        window: "alice".into(),
        kind: ChangeKind::Created,
        reason: None,
        id: EventId::new("AAMk1"),
        event: Some(r#"{"id":"AAMk1","subject":"Besprechung \"Übergabe\" 🗓"}"#.into()),
        changed: None,
        is_new_version: false,
        summary: None,
    };
    let removed = Change {
        cursor: "0~2".to_owned(),
        seq: 2,
        kind: ChangeKind::Removed,
        reason: Some(RemovalReason::Deleted),
        id: EventId::new("AAMk2"),
        event: None,
        ..created.clone()
    };
    let snapshot = Some(SnapshotId(env.random_u64()));
    let first = SinkBatch {
        sink: "crm".into(),
        at: env.now(),
        before: String::new(),
        after: SinkPosition { cursor: "0~2".to_owned(), snapshot },
        snapshot,
        begins: true,
        ends: false,
        changes: vec![created, removed],
        windows: Vec::new(),
    };
    println!("{:?}", target.deliver(&first).await?);
    let last = SinkBatch {
        before: "0~2".to_owned(),
        after: SinkPosition { cursor: "0~2".to_owned(), snapshot: None },
        begins: false,
        ends: true,
        changes: Vec::new(),
        ..first
    };
    println!("{:?}", target.deliver(&last).await?);
    Ok(())
}
