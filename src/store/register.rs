//! Registers windows, changes them, and resets their segments.
//!
//! A reset keeps every row, so that the resync that follows reports only real changes: it resets
//! positions and deletes pending entries and seen lists. The resync is counted here, in the same
//! batch; the following round does not count it again.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::batch::WriteBatch;
use super::error::{PlanError, TreeError};
use super::keys;
use super::record::{self, Counters, WindowRecord};
use super::tree::Tree;
use super::{RegisteredWindow, WindowRegistration};
use crate::mirror::position::{Phase, Position, SegmentIndex, WindowId};
use crate::mirror::segment_set::SegmentSet;
use crate::mirror::status::{LastResync, ResyncReason};
use crate::mirror::window::MAX_SEGMENT_DAYS;

/// Registers one wanted window. `next` is the number of the next new window; `dropping` has the
/// windows that are still being dropped, by name.
pub(super) fn register(
    tree: &Tree,
    wanted: &WindowRegistration,
    at: Timestamp,
    next: &mut u32,
    dropping: &BTreeMap<Arc<str>, Vec<WindowId>>,
    batch: &mut WriteBatch,
) -> Result<RegisteredWindow, TreeError> {
    // All windows that had this name and still exist: a new window may get ids that are in any of
    // them.
    let mut replaces = dropping.get(&wanted.name).cloned().unwrap_or_default();
    let named = tree.get(&keys::name(&wanted.name))?;
    let id = named.map(|v| record::from_number(&v)).transpose()?;
    if let Some(id) = id.and_then(|n| u32::try_from(n).ok()).map(WindowId)
        && let Some(record) = tree.window(id)?
    {
        if record.identity == wanted.identity {
            let known = register_known(tree, id, record, wanted, at, batch)?;
            return Ok(RegisteredWindow { replaces, ..known });
        }
        mark_dropping(id, &record, batch);
        replaces.push(id);
    }
    let id = WindowId(*next);
    *next = next.saturating_add(1);
    let record = WindowRecord {
        name: wanted.name.clone(),
        identity: wanted.identity.clone(),
        shape: wanted.shape.clone(),
        start: wanted.start,
        end: wanted.end,
        edges: wanted.edges,
        edges_at: at,
        retired: SegmentSet::EMPTY,
        segment_days: MAX_SEGMENT_DAYS,
    };
    batch.put(keys::name(&wanted.name), record::number(id.0.into()));
    batch.put(keys::window(id), record.encode());
    batch.put(keys::NEXT_WINDOW.to_vec(), record::number((*next).into()));
    Ok(RegisteredWindow { replaces, ..registered(id, &record, Counters::default(), &[], None) })
}

/// Registers a wanted window that the store has under this name and identity.
fn register_known(
    tree: &Tree,
    id: WindowId,
    mut record: WindowRecord,
    wanted: &WindowRegistration,
    at: Timestamp,
    batch: &mut WriteBatch,
) -> Result<RegisteredWindow, TreeError> {
    let mut counters = tree.counters(id)?;
    let positions = tree.positions(id)?;
    let resync = resync_reason(&record, wanted);
    if let Some(reason) = resync {
        counters.settled_once = Some(settled_before(&counters, &positions));
        if reason == ResyncReason::WindowMoved {
            (record.start, record.end) = (wanted.start, wanted.end);
            (record.edges, record.edges_at) = (wanted.edges, at);
        }
        record.shape = wanted.shape.clone();
        reset(tree, id, &mut record, &mut counters, reason, at, batch)?;
    }
    Ok(registered(id, &record, counters, &positions, resync))
}

/// Why the segments of a known window have to be enumerated again, if its settings have changed.
pub(super) fn resync_reason(
    record: &WindowRecord,
    wanted: &WindowRegistration,
) -> Option<ResyncReason> {
    if (record.start, record.end) != (wanted.start, wanted.end) {
        Some(ResyncReason::WindowMoved)
    } else {
        (record.shape != wanted.shape).then_some(ResyncReason::ShapeChanged)
    }
}

/// Whether every segment has a delta link (or is listed completely) and no pending entries.
pub(super) fn all_settled(record: &WindowRecord, positions: &[(SegmentIndex, Position)]) -> bool {
    positions.len() >= record.edges.cut(record.segment_days).len()
        && positions.iter().all(|(_, p)| matches!(p.phase, Phase::Settled { .. }) && !p.has_pending)
}

/// Whether a window has ever settled. Version 0.1 did not store this; its windows count as settled
/// if audits were counted and no segment is in its first enumeration.
pub(super) fn settled_before(counters: &Counters, positions: &[(SegmentIndex, Position)]) -> bool {
    let is_first = |p: &Position| p.phase.enumeration_reason() == Some(ResyncReason::New);
    counters
        .settled_once
        .unwrap_or_else(|| counters.audit.is_some() && !positions.iter().any(|(_, p)| is_first(p)))
}

/// Changes a window and resets its segments for this reason.
pub(super) fn change(
    tree: &Tree,
    id: WindowId,
    edit: impl FnOnce(&mut WindowRecord),
    reason: ResyncReason,
    at: Timestamp,
    batch: &mut WriteBatch,
) -> Result<(), PlanError> {
    let mut record = tree.live_window(id)?;
    edit(&mut record);
    let mut counters = tree.counters(id)?;
    Ok(reset(tree, id, &mut record, &mut counters, reason, at, batch)?)
}

/// Resets every segment to the first page of an enumeration; rows are not touched.
fn reset(
    tree: &Tree,
    id: WindowId,
    record: &mut WindowRecord,
    counters: &mut Counters,
    reason: ResyncReason,
    at: Timestamp,
    batch: &mut WriteBatch,
) -> Result<(), TreeError> {
    // There are at most 64 segments.
    let count = SegmentIndex::try_from(record.edges.cut(record.segment_days).len()).unwrap_or(64);
    let stored = tree.positions(id)?.into_iter().map(|(segment, _)| segment);
    for segment in (0..count).chain(stored.filter(|segment| *segment >= count)) {
        tree.delete_all(&keys::all_pending(id, segment), batch)?;
        tree.delete_all(&keys::seen_all(id, segment), batch)?;
        let key = keys::position(id, segment);
        if segment >= count && reason == ResyncReason::WindowMoved {
            record.retired.insert(segment);
            batch.delete(key);
        } else {
            let fallback = tree.position(id, segment)?.map(|p| p.fallback).unwrap_or_default();
            batch.put(key, record::position(&Position::start(reason, fallback)));
        }
    }
    counters.resyncs += 1;
    counters.last_resync = Some(LastResync { at, reason });
    batch.put(keys::counters(id), counters.encode());
    batch.put(keys::window(id), record.encode());
    Ok(())
}

/// Frees a window's name and marks the window as being dropped.
pub(super) fn mark_dropping(id: WindowId, record: &WindowRecord, batch: &mut WriteBatch) {
    batch.delete(keys::name(&record.name));
    batch.delete(keys::window(id));
    batch.put(keys::dropping(id), record.encode());
}

/// The stored state of a registered window.
pub(super) fn registered(
    id: WindowId,
    record: &WindowRecord,
    counters: Counters,
    positions: &[(SegmentIndex, Position)],
    resync: Option<ResyncReason>,
) -> RegisteredWindow {
    let settled = resync.is_none() && all_settled(record, positions);
    let settled_once = settled || settled_before(&counters, positions);
    // The fallback of a segment survives a reset.
    let listed = positions.iter().filter(|(_, p)| p.fallback.is_snapshot());
    RegisteredWindow {
        id,
        edges: record.edges,
        edges_at: record.edges_at,
        resync,
        replaces: Vec::new(),
        events: counters.events,
        rounds: counters.rounds,
        resyncs: counters.resyncs,
        last_resync: counters.last_resync,
        last_success: counters.last_success,
        audit: counters.audit,
        paused_until: counters.paused_until,
        settled,
        settled_once,
        held: positions.iter().any(|(_, p)| p.is_held()),
        snapshots: listed.map(|(segment, _)| *segment).collect(),
        segment_days: record.segment_days,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{NOON, env, open, registration, window};

    #[tokio::test]
    async fn a_registration_reads_no_record_of_another_live_window() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), &env());
        let wanted = |name| vec![registration(&window(name))];
        let alice = store.register(wanted("alice"), NOON).await.unwrap().remove(0).id;
        let mut batch = WriteBatch::default();
        batch.put(keys::window(alice), b"unreadable".to_vec());
        store.shared().apply(1, batch).unwrap();
        let bob = store.register(wanted("bob"), NOON).await.unwrap().remove(0);
        assert_eq!(bob.replaces, []);
    }
}
