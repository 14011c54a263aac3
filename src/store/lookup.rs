//! What workers and the supervisor look up: windows, positions, pending entries and rows.
//!
//! A lookup of a whole window reads its rows in slices, so that it never keeps the writer waiting
//! for long.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::error::StoreError;
use super::row::EventRow;
use super::shared::StoreShared;
use super::{
    AuditRow, ComparedWindows, KnownWindow, OutsideCount, Store, WantedWindows, compare, keys,
};
use crate::mirror::audit::EventDigest;
use crate::mirror::change::RemovalReason;
use crate::mirror::commit::{Removal, StoredKind};
use crate::mirror::page::{EventHash, Item, Span};
use crate::mirror::position::{PendingEntry, Position, SegmentIndex, WindowId};
use crate::mirror::segment_set::SegmentSet;
use crate::mirror::series::SeriesMember;
use crate::mirror::window::{Edges, WindowIdentity};

/// Rows read under one lock.
const SLICE: usize = 512;

impl Store {
    /// All windows, ordered by number.
    ///
    /// # Errors
    /// If the store can no longer be used.
    pub async fn windows(&self) -> Result<Vec<KnownWindow>, StoreError> {
        self.read_tree(|tree| tree.windows()).await
    }

    /// Names and identities of all windows that are not being dropped.
    ///
    /// # Errors
    /// If the store can no longer be used.
    pub async fn identities(&self) -> Result<BTreeMap<Arc<str>, WindowIdentity>, StoreError> {
        self.read_tree(|tree| tree.identities()).await
    }

    /// The windows that are being dropped, by name.
    ///
    /// # Errors
    /// If the store can no longer be used.
    pub async fn dropping(&self) -> Result<BTreeMap<Arc<str>, Vec<WindowId>>, StoreError> {
        self.read_tree(|tree| tree.dropping_by_name()).await
    }

    /// The window with the highest number that is not being dropped, if there is one.
    ///
    /// # Errors
    /// If the store can no longer be used.
    pub async fn last_window(&self) -> Result<Option<WindowId>, StoreError> {
        self.read_tree(|tree| {
            let last = tree.keys(&[keys::WINDOW]).next_back().transpose()?;
            Ok(last.and_then(|key| keys::window_of(&key)))
        })
        .await
    }

    /// Compares the windows with these numbers, except those that are being dropped, with the wanted
    /// ones. Several calls run at the same time, which the writer cannot do.
    ///
    /// # Errors
    /// If the store can no longer be used.
    pub async fn compare_windows(
        &self,
        ids: Range<u32>,
        wanted: WantedWindows,
    ) -> Result<ComparedWindows, StoreError> {
        self.read_tree(move |tree| compare::compare(tree, ids, &*wanted)).await
    }

    /// The position of a segment. Waits until deferred commits of that window are durable.
    ///
    /// # Errors
    /// If the store can no longer be used.
    pub async fn position(
        &self,
        window: WindowId,
        segment: SegmentIndex,
    ) -> Result<Option<Position>, StoreError> {
        self.wait_for_deferred(window).await?;
        self.read_tree(move |tree| tree.position(window, segment)).await
    }

    /// The segments of a window that have a position, ascending.
    ///
    /// # Errors
    /// If the store can no longer be used.
    pub async fn segments(&self, window: WindowId) -> Result<Vec<SegmentIndex>, StoreError> {
        self.wait_for_deferred(window).await?;
        self.read_tree(move |tree| {
            Ok(tree.positions(window)?.into_iter().map(|(s, _)| s).collect())
        })
        .await
    }

    /// The pending entries of a segment.
    ///
    /// # Errors
    /// If the store can no longer be used.
    pub async fn pending(
        &self,
        window: WindowId,
        segment: SegmentIndex,
    ) -> Result<Vec<PendingEntry>, StoreError> {
        self.wait_for_deferred(window).await?;
        self.read_tree(move |tree| tree.pending(window, segment)).await
    }

    /// What the store knows of each id, in the same order.
    ///
    /// # Errors
    /// If the store can no longer be used.
    pub async fn known(
        &self,
        window: WindowId,
        ids: Vec<EventHash>,
    ) -> Result<Vec<StoredKind>, StoreError> {
        self.read_tree(move |tree| ids.into_iter().map(|id| tree.known(window, id)).collect()).await
    }

    /// A stored row as an item, masters included.
    ///
    /// # Errors
    /// If the store can no longer be used.
    pub async fn item(&self, window: WindowId, id: EventHash) -> Result<Option<Item>, StoreError> {
        self.read_tree(move |tree| Ok(tree.row(window, id)?.map(|stored| stored.row.item()))).await
    }

    /// The rows of a series that a segment holds.
    ///
    /// # Errors
    /// If the store can no longer be used.
    pub async fn series(
        &self,
        window: WindowId,
        segment: SegmentIndex,
        master: EventHash,
    ) -> Result<Vec<SeriesMember>, StoreError> {
        self.read_tree(move |tree| tree.series(window, segment, master)).await
    }

    /// Rows of the segment, masters excluded, that are in none of its seen lists. The reason is
    /// `left_window` if the row lies outside `edges` or another segment still holds it, else
    /// `deleted`. Rows held only by retired segments are treated as belonging to every segment.
    ///
    /// # Errors
    /// If the store can no longer be used.
    pub async fn unseen(
        &self,
        window: WindowId,
        segment: SegmentIndex,
        edges: Edges,
    ) -> Result<Vec<Removal>, StoreError> {
        let read = move |shared: &StoreShared| {
            let ((seen, retired), _) = shared.read_tree(|tree| {
                let retired = tree.window(window)?.map(|r| r.retired).unwrap_or_default();
                Ok((tree.seen(window, segment)?, retired))
            })?;
            let mut unseen = Vec::new();
            let group = each_shown_row(shared, window, |id, row| {
                let counted = row.segments.without(retired);
                let held = row.segments.contains(segment) || counted.is_empty();
                if held && seen.binary_search(&id).is_err() {
                    let Span { start, end } = row.span();
                    let elsewhere = !counted.without(SegmentSet::of(segment)).is_empty();
                    let reason = if edges.overlap(start, end) && !elsewhere {
                        RemovalReason::Deleted
                    } else {
                        RemovalReason::LeftWindow
                    };
                    unseen.push(Removal { id, reason });
                }
            })?;
            Ok((unseen, group))
        };
        self.shared().read(read).await
    }

    /// How many events of a window lie outside `edges`, and how many it has in all.
    ///
    /// # Errors
    /// If the store can no longer be used.
    pub async fn outside(
        &self,
        window: WindowId,
        edges: Edges,
    ) -> Result<OutsideCount, StoreError> {
        let read = move |shared: &StoreShared| {
            let mut count = OutsideCount::default();
            let group = each_shown_row(shared, window, |_, row| {
                let Span { start, end } = row.span();
                count.all += 1;
                count.outside += usize::from(!edges.overlap(start, end));
            })?;
            Ok((count, group))
        };
        self.shared().read(read).await
    }

    /// Rows that a segment holds, masters excluded, after a hash. Also returns the hash to continue
    /// after if there may be more.
    ///
    /// # Errors
    /// If the store can no longer be used.
    pub async fn audit_rows(
        &self,
        window: WindowId,
        segment: SegmentIndex,
        after: Option<EventHash>,
    ) -> Result<(Vec<AuditRow>, Option<EventHash>), StoreError> {
        self.read_tree(move |tree| {
            let rows = tree.rows(window, after, SLICE)?;
            let next = rows.last().map(|(id, _)| *id).filter(|_| rows.len() == SLICE);
            let held = rows
                .into_iter()
                .map(|(id, stored)| (id, stored.row))
                .filter(|(_, row)| row.is_shown() && row.segments.contains(segment));
            let seen = held.map(|(id, row)| AuditRow {
                id,
                digest: EventDigest::of(&row.item()),
                master: row.master.clone(),
            });
            Ok((seen.collect(), next))
        })
        .await
    }

    /// Waits until deferred commits of a window, if any, are durable.
    async fn wait_for_deferred(&self, window: WindowId) -> Result<(), StoreError> {
        if self.shared().is_deferred(window) { self.flush().await } else { Ok(()) }
    }
}

/// Calls `visit` with every row of a window that readers see, in slices. Returns the group that
/// must be durable first.
fn each_shown_row(
    shared: &StoreShared,
    window: WindowId,
    mut visit: impl FnMut(EventHash, EventRow),
) -> Result<u64, StoreError> {
    let mut after = None;
    loop {
        let (rows, group) = shared.read_tree(|tree| tree.rows(window, after, SLICE))?;
        after = rows.last().map(|(id, _)| *id);
        let last = rows.len() < SLICE;
        for (id, stored) in rows.into_iter().filter(|(_, stored)| stored.row.is_shown()) {
            visit(id, stored.row);
        }
        if last {
            return Ok(group);
        }
    }
}
