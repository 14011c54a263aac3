//! What a sink is: its configuration, and what it needs of the daemon.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::TargetMaker;
use super::batch::SnapshotId;
use super::error::{SinkError, SinkErrorKind};
use super::record::SinkRecord;
use super::status::StatusCell;
use super::target::SinkTarget;
use crate::api::{AppState, FeedView};
use crate::config::{SinkConfig, SinkTargetConfig};
use crate::mirror::shard::Shard;
use crate::store::StoreError;

/// A sink.
pub(super) struct SinkContext {
    pub(super) config: SinkConfig,
    pub(super) app: Arc<AppState>,
    pub(super) make: TargetMaker,
    pub(super) status: StatusCell,
    /// A hash of the address, which is in a file.
    pub(super) address: [u8; 32],
}

impl SinkContext {
    /// A target that is not open yet.
    pub(super) fn target(&self) -> Box<dyn SinkTarget> {
        (self.make)(&self.config, &self.app)
    }

    /// What is sent.
    pub(super) fn view(&self) -> Result<FeedView, SinkError> {
        let SinkConfig { windows, groups, level, .. } = &self.config;
        let filter = effective_filter(&self.config);
        let view = FeedView::new(&self.app, windows, groups, &filter, *level);
        view.map_err(|why| SinkError::new(SinkErrorKind::Misconfigured, why))
    }

    /// What a position belongs to: the target, and everything that decides what is sent to it.
    pub(super) fn identity(&self, view: &FeedView) -> String {
        let mut sum = Sha256::new();
        sum.update(self.address);
        match &self.config.target {
            SinkTargetConfig::Webhook(_) => {}
            SinkTargetConfig::Postgres { schema, .. } => sum.update(schema.as_bytes()),
            SinkTargetConfig::Sqlite { path } => sum.update(path.as_os_str().as_encoded_bytes()),
            SinkTargetConfig::Nats(nats) => {
                sum.update(format!("{}/{}", nats.stream, nats.subject));
            }
        }
        for part in view.meaning() {
            sum.update([0]);
            sum.update(part);
        }
        sum.update(&self.config.filter);
        let mut text = String::new();
        for byte in sum.finalize().iter().take(16) {
            // Writing to a String cannot fail.
            write!(text, "{byte:02x}").ok();
        }
        // The windows of other shards are not sent.
        let shard = self.app.settings.shard.of;
        if shard != Shard::ALONE {
            write!(text, " {shard}").ok();
        }
        text
    }

    pub(super) fn new_snapshot(&self) -> SnapshotId {
        SnapshotId(self.app.env.random_u64())
    }

    /// The snapshot that begins next. It is kept before it is sent, so that it has one id however
    /// often its begin is sent.
    pub(super) async fn begin_snapshot(
        &self,
        record: &mut SinkRecord,
    ) -> Result<SnapshotId, StoreError> {
        if let Some(snapshot) = record.begins {
            return Ok(snapshot);
        }
        let (identity, snapshot) = (record.identity.clone(), self.new_snapshot());
        record.begin_again(&identity, snapshot);
        record.save(&self.app.store, &self.config.name).await?;
        Ok(snapshot)
    }
}

/// The filter of the configuration, or with what a webhook ignores unless its filter says that
/// itself: most changes of a calendar change nothing that a receiver acts upon.
fn effective_filter(config: &SinkConfig) -> Cow<'_, str> {
    const IGNORED: &str = "ignore=changeKey,lastModifiedDateTime,@odata.etag";
    let filter = &config.filter;
    let has_ignore = filter.split('&').any(|part| part.starts_with("ignore="));
    match &config.target {
        SinkTargetConfig::Webhook(_) if filter.is_empty() => IGNORED.into(),
        SinkTargetConfig::Webhook(_) if !has_ignore => format!("{filter}&{IGNORED}").into(),
        _ => filter.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{AccessLevel, SinkUrl, WebhookConfig};

    fn config(filter: &str) -> SinkConfig {
        let webhook = WebhookConfig {
            url: SinkUrl::Text("https://hooks.example.com".into()),
            secret_file: "/nowhere".into(),
            cloud_events: false,
            allow_private: false,
            ca_file: None,
        };
        SinkConfig {
            name: "crm".into(),
            target: SinkTargetConfig::Webhook(webhook),
            windows: Vec::new(),
            groups: Vec::new(),
            filter: filter.to_owned(),
            level: AccessLevel::All,
            batch: Duration::from_secs(2),
        }
    }

    #[test]
    fn a_webhook_ignores_what_no_receiver_acts_upon_unless_its_filter_says_what() {
        let ignored = "ignore=changeKey,lastModifiedDateTime,@odata.etag";
        for (filter, added) in [
            ("", ignored),
            ("cancelled=false", &format!("&{ignored}")),
            // The name of a category, and the end of another key.
            ("category=ignore=x", &format!("&{ignored}")),
            ("ignore=body", ""),
            ("cancelled=false&ignore=", ""),
        ] {
            assert_eq!(effective_filter(&config(filter)), format!("{filter}{added}"));
            let path = "/nowhere".into();
            let copy = SinkConfig { target: SinkTargetConfig::Sqlite { path }, ..config(filter) };
            assert_eq!(effective_filter(&copy), filter, "a copy has everything");
        }
    }
}
