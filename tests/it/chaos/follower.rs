//! A reader for the whole run: it follows the feed from the beginning, commit by commit, and
//! applies every change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use calmirror::mirror::change::{ChangeKind, RemovalReason};
use calmirror::store::{BATCH_BYTES, Changes, FeedFilter, Follower, Store};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::compare::EventsById;

/// A reader's copy of one window's feed.
#[derive(Default)]
pub(crate) struct Followed {
    pub(crate) events: EventsById,
    /// Ids that the calendar lists now.
    pub(crate) listed: BTreeSet<String>,
    /// Ids that were listed and then disappeared: their removal may be correct.
    pub(crate) once_absent: BTreeSet<String>,
    /// Ids reported as deleted although they were listed throughout.
    pub(crate) lies: BTreeSet<String>,
    pub(crate) changes: u64,
}

/// Followers of all windows. Clones share their state.
#[derive(Clone, Default)]
pub(crate) struct Followers {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    after: u64,
    windows: BTreeMap<Arc<str>, Followed>,
}

impl Shared {
    fn believe(&mut self, changes: Changes) {
        self.after = changes.seq;
        for change in changes.value {
            let followed = self.windows.entry(change.window).or_default();
            let id = change.id.as_str().to_owned();
            followed.changes += 1;
            match change.kind {
                ChangeKind::Created | ChangeKind::Updated => {
                    let raw = change.event.expect("an upsert carries its event");
                    let event: Value = serde_json::from_slice(&raw).unwrap();
                    followed.events.insert(id, event);
                }
                ChangeKind::Removed => {
                    let deleted = change.reason == Some(RemovalReason::Deleted);
                    if deleted && !followed.once_absent.contains(&id) {
                        tracing::error!(at = %change.at, seq = change.seq, "a false removal");
                        followed.lies.insert(id.clone());
                    }
                    followed.events.remove(&id);
                }
            }
        }
    }
}

impl Followers {
    /// Follows until the task is aborted.
    pub(crate) fn follow(&self, store: &Store) -> JoinHandle<()> {
        let (this, store) = (self.clone(), store.clone());
        tokio::spawn(async move {
            let cursor = store.cursor(this.shared.lock().unwrap().after);
            let follower = Follower::after(&store, &cursor, FeedFilter::All);
            let mut follower = follower.expect("a restart keeps the feed");
            while let Ok(changes) = follower.next_batch(1000, BATCH_BYTES).await {
                this.shared.lock().unwrap().believe(changes);
            }
        })
    }

    /// Sets the ids that the calendar lists now.
    pub(crate) fn listed(&self, window: &Arc<str>, now: BTreeSet<String>) {
        self.with(window, |followed| {
            let before = std::mem::replace(&mut followed.listed, now);
            followed.once_absent.extend(before.difference(&followed.listed).cloned());
        });
    }

    /// Calls `look` with the copy of one window.
    pub(crate) fn with<T>(&self, window: &Arc<str>, look: impl FnOnce(&mut Followed) -> T) -> T {
        look(self.shared.lock().unwrap().windows.entry(window.clone()).or_default())
    }
}
