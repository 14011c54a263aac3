//! Which windows of a stream are a sink's own, when several processes publish to it.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use async_nats::HeaderMap;

use super::message::{SHARD, window_hash};
use crate::api::AppState;
use crate::mirror::shard::Shard;
use crate::store::Change;

/// The shard that has a window, if it is another one.
type WindowOwner = dyn Fn(&str) -> Option<u32> + Send + Sync;
/// The names of a shard's windows.
type ShardWindows = dyn Fn() -> Vec<Arc<str>> + Send + Sync;

/// This process's part of a stream.
#[derive(Clone)]
pub struct StreamShare {
    /// Which of several processes this is.
    pub(super) shard: Shard,
    /// The shard that has a window, if it is another one.
    pub(super) elsewhere: Arc<WindowOwner>,
    /// The names of this shard's windows.
    pub(super) windows: Arc<ShardWindows>,
}

impl fmt::Debug for StreamShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamShare({})", self.shard)
    }
}

impl StreamShare {
    /// The share of a running daemon.
    pub fn of(app: &Arc<AppState>) -> Self {
        let (owners, fleet) = (app.elsewhere.clone(), app.fleet.clone());
        let names = move || fleet.summaries().into_iter().map(|one| one.window.name.clone());
        Self {
            shard: app.settings.shard.of,
            elsewhere: Arc::new(move |window| owners.owner(window)),
            windows: Arc::new(move || names().collect()),
        }
    }

    /// Whether a change is one of a window that another shard goes on with: what this one still has
    /// of it is older, and its end here is not that of its events.
    pub(super) fn has_moved(&self, change: &Change) -> bool {
        (self.elsewhere)(&change.window).is_some()
    }

    /// What may be removed from the stream at this time.
    pub(super) fn ghosts(&self) -> GhostScope {
        let is_alone = self.shard == Shard::ALONE;
        let windows = if is_alone { Vec::new() } else { (self.windows)() };
        let windows = windows.iter().map(|name| window_hash(name)).collect();
        GhostScope { share: self.clone(), windows }
    }
}

/// The events of which a sink sends removals after a snapshot that did not have them: those of its
/// own windows, and those of windows that nobody has any more, if it sent them itself or the shard
/// that did no longer exists. A window that only other shards know yet is theirs.
pub(super) struct GhostScope {
    share: StreamShare,
    /// The windows of this shard, as they are in subjects.
    windows: HashSet<String>,
}

impl GhostScope {
    /// Whether a message may be one of them, by what is known without its content.
    pub(super) fn may_include(&self, subject: &str, headers: Option<&HeaderMap>) -> bool {
        let sender = headers.and_then(|headers| headers.get(SHARD)?.as_str().parse().ok());
        let (sender, shard): (u32, _) = (sender.unwrap_or(0), self.share.shard);
        let window = subject.rsplit('.').nth(1).unwrap_or_default();
        sender == shard.ordinal() || sender >= shard.count() || self.windows.contains(window)
    }

    /// Whether the window of such a message is no other shard's.
    pub(super) fn includes(&self, window: &str) -> bool {
        (self.share.elsewhere)(window).is_none()
    }
}
