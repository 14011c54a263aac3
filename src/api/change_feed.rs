//! The changes that one reader sees: of some windows, of some of their events, and of these as much
//! as its level shows.

use std::sync::Arc;

use super::AppState;
use super::access::{Access, Rights};
use super::query::Parameters;
use super::selection::{FeedScope, SelectedWindows, UnreadPart};
use super::view::{EventView, FILTER};
use crate::config::AccessLevel;
use crate::mirror::change::Seq;
use crate::mirror::name_pattern::NamePattern;
use crate::store::{Change, FeedError, FeedFilter, Follower, StoreError};

/// What a reader wants to see, and may see.
pub struct FeedView {
    selection: SelectedWindows,
    view: EventView,
    scope: FeedScope,
}

/// A reader of the changes, at a position.
pub struct ChangeFeed {
    pub(super) selection: SelectedWindows,
    pub(super) view: EventView,
    pub(super) scope: FeedScope,
    pub(super) follower: Follower,
}

/// Changes that were read together.
pub struct ShownChanges {
    /// In the order of the feed.
    pub value: Vec<Change>,
    /// Whether the feed has no more now.
    pub at_end: bool,
    /// Whether entries were read, also if the reader sees none of them.
    pub moved: bool,
}

impl FeedView {
    /// The view of a reader inside of the daemon. `windows` are names and patterns, together with
    /// `groups`; of neither, all. `filter` is a filter as in a query, and may have `fields` and
    /// `ignore`.
    ///
    /// # Errors
    /// What is wrong with it, in one sentence.
    pub fn new(
        app: &Arc<AppState>,
        windows: &[NamePattern],
        groups: &[Arc<str>],
        filter: &str,
        level: AccessLevel,
    ) -> Result<Self, String> {
        let access = Access { consumer: None, level, windows: None, rights: Rights::Read };
        let known = [&FILTER[..], &["fields", "ignore"]].concat();
        let view = Parameters::parse(Some(filter), &known)
            .and_then(|parameters| EventView::parse(&parameters, level, app.settings.mask_private))
            .map_err(|problem| problem.to_string())?;
        let selection = SelectedWindows::new(app, access, windows, groups);
        let scope = FeedScope::new(&selection, &view);
        Ok(Self { selection, view, scope })
    }

    /// The whole feed: first every event, then each change.
    pub fn from_beginning(&self) -> ChangeFeed {
        self.feed(Follower::from_beginning(self.selection.store(), self.filter()))
    }

    /// The changes after a cursor; `None` if the reader has to begin again, because the cursor belongs
    /// to another view or is too old.
    ///
    /// # Errors
    /// If the store can no longer be used.
    pub fn after(&self, cursor: &str) -> Result<Option<ChangeFeed>, StoreError> {
        let Ok(cursor) = self.scope.remove_from(cursor, "after") else { return Ok(None) };
        match Follower::after(self.selection.store(), cursor, self.filter()) {
            Ok(follower) => Ok(Some(self.feed(follower))),
            Err(FeedError::Malformed | FeedError::SnapshotRequired) => Ok(None),
            Err(FeedError::Store(error)) => Err(error),
        }
    }

    /// What of it has never been read, although another store may have had it: the state of a daemon
    /// that has lost its store, or got windows of another shard.
    pub fn unread(&self) -> UnreadPart {
        self.selection.unread()
    }

    /// Everything that decides what this reader sees, besides `fields`.
    pub fn meaning(&self) -> Vec<String> {
        [self.selection.canonical(), self.selection.meaning(), self.view.filter.canonical()]
            .concat()
    }

    /// A cursor of this view, made of one of the store.
    pub fn cursor(&self, of_store: String) -> String {
        self.scope.add_to(of_store)
    }

    fn feed(&self, follower: Follower) -> ChangeFeed {
        let (selection, view) = (self.selection.clone(), self.view.clone());
        ChangeFeed { selection, view, scope: self.scope.clone(), follower }
    }

    fn filter(&self) -> FeedFilter {
        self.selection.feed_filter().map_or(FeedFilter::All, FeedFilter::Names)
    }
}

impl ChangeFeed {
    /// Reads the next changes, at most `limit` and about `bytes` bytes.
    ///
    /// # Errors
    /// [`FeedError::SnapshotRequired`] if the reader has to begin again, [`FeedError::Store`] if the
    /// store can no longer be used.
    pub async fn read(&mut self, limit: usize, bytes: usize) -> Result<ShownChanges, FeedError> {
        self.read_to(Seq::MAX, limit, bytes).await
    }

    /// The same, and no change after `end`.
    pub(super) async fn read_to(
        &mut self,
        end: Seq,
        limit: usize,
        bytes: usize,
    ) -> Result<ShownChanges, FeedError> {
        let first = self.follower.initial_end().unwrap_or_default();
        let changes = self.follower.read_to(end, limit, bytes).await?;
        let (at_end, moved) = (changes.at_end, !changes.value.is_empty());
        let shown = changes.value.into_iter().filter_map(|change| {
            let is_first = change.seq <= first;
            let mut change = self.view.show_change(change, is_first)?;
            change.cursor = self.scope.add_to(change.cursor);
            // A window that is gone may have been a member of a selected group, or not.
            change.summary = change.summary.filter(|_| self.selection.contains(&change.window));
            Some(change)
        });
        Ok(ShownChanges { value: shown.collect(), at_end, moved })
    }

    /// The seq up to which the feed was read.
    pub fn seq(&self) -> Seq {
        self.follower.seq()
    }

    /// Whether the reader began at the beginning and has not had every event yet.
    pub fn is_initial(&self) -> bool {
        self.follower.initial_end().is_some()
    }

    /// About how many entries of the feed, of all windows, follow.
    ///
    /// # Errors
    /// As [`ChangeFeed::read`].
    pub async fn pending(&self) -> Result<u64, FeedError> {
        self.follower.pending(self.follower.seq()).await
    }

    /// Waits until the feed has more.
    ///
    /// # Errors
    /// [`FeedError::Store`] if the store can no longer be used.
    pub async fn wait(&mut self) -> Result<(), FeedError> {
        self.follower.wait().await
    }

    /// The cursor to continue from.
    pub fn cursor(&self) -> String {
        self.scope.add_to(self.follower.cursor())
    }
}
