//! Plans a commit: turns it into the writes of a batch.
//!
//! Only the writer thread plans: only it has a stable view of the tree. `commit_applier` handles
//! rows, this module the position, the pending entries, the seen list and the counters.

use jiff::Timestamp;

use super::batch::WriteBatch;
use super::change_writer::ChangeWriter;
use super::commit_applier::CommitApplier;
use super::error::{PlanError, TreeError};
use super::keys;
use super::pending;
use super::record::{self, WindowRecord};
use super::register;
use super::row_commit::RowCommit;
use super::tree::Tree;
use crate::mirror::change::Seq;
use crate::mirror::clock::{self, MAX_PAUSE};
use crate::mirror::commit::{Commit, CommitOutcome, SeenPage};
use crate::mirror::segment_set::SegmentSet;
use crate::mirror::status::{AuditRecord, LastResync, ResyncReason};

/// Plans a commit on top of the tree and the last assigned seq. A refused commit adds nothing to
/// the batch. Returns the outcome and the last assigned seq.
pub(super) fn plan(
    tree: &Tree,
    last_seq: Seq,
    rows: &RowCommit,
    batch: &mut WriteBatch,
) -> Result<(CommitOutcome, Seq), PlanError> {
    let commit = &rows.commit;
    let record = tree.live_window(commit.window)?;
    let window = (commit.window, record.name.clone());
    let mut changes = ChangeWriter::new(tree, batch, window, commit.at.as_microsecond(), last_seq);
    if !rows.rows.is_empty() || !commit.removals.is_empty() || !commit.orphans.is_empty() {
        CommitApplier::new(tree, rows, &record).run(&mut changes)?;
    }
    let (mut outcome, seq) = changes.finish()?;
    if seq != last_seq {
        batch.put(keys::LAST_SEQ.to_vec(), record::number(seq));
    }
    unretire(rows, &record, batch);
    write_pending(tree, commit, batch)?;
    write_seen(tree, commit, batch)?;
    if let Some(position) = &commit.position {
        let key = keys::position(commit.window, commit.segment);
        let value = record::position(position);
        if tree.get(&key)?.is_none_or(|old| *old != *value) {
            batch.put(key, value);
        }
    }
    outcome.events = count(tree, commit, &record, &outcome, batch)?;
    Ok((outcome, seq))
}

/// Checks whether a commit would be refused.
pub(super) fn check(tree: &Tree, rows: &RowCommit) -> Result<(), PlanError> {
    let record = tree.live_window(rows.commit.window)?;
    CommitApplier::new(tree, rows, &record).check()
}

/// A retired segment that holds rows again is no longer retired.
fn unretire(rows: &RowCommit, record: &WindowRecord, batch: &mut WriteBatch) {
    let RowCommit { commit, rows } = rows;
    let segment = commit.segment;
    if record.retired.contains(segment) && !rows.is_empty() {
        let retired = record.retired.without(SegmentSet::of(segment));
        let record = WindowRecord { retired, ..record.clone() };
        batch.put(keys::window(commit.window), record.encode());
    }
}

fn write_pending(tree: &Tree, commit: &Commit, batch: &mut WriteBatch) -> Result<(), TreeError> {
    let (window, segment) = (commit.window, commit.segment);
    if commit.clear_pending {
        tree.delete_all(&keys::all_pending(window, segment), batch)?;
    }
    for done in &commit.finished_pending {
        let key = keys::pending(window, segment, *done);
        if let Some(old) = tree.large(&key)? {
            batch.delete_large(key, old.chunks);
        }
    }
    // Adding wins over deleting, so that no pending work is ever lost.
    for entry in &commit.pending {
        let key = keys::pending(window, segment, entry.key());
        let value = pending::encode(entry);
        match tree.large(&key)? {
            Some(old)
                if old.value == value
                    && !commit.clear_pending
                    && commit.finished_pending.is_empty() => {}
            old => batch.put_large(key, &value, old.map_or(0, |o| o.chunks)),
        }
    }
    Ok(())
}

fn write_seen(tree: &Tree, commit: &Commit, batch: &mut WriteBatch) -> Result<(), TreeError> {
    let (window, segment) = (commit.window, commit.segment);
    if commit.clear_seen {
        tree.delete_all(&keys::seen_all(window, segment), batch)?;
    }
    if let Some(SeenPage { page, ids }) = &commit.seen {
        tree.delete_all(&keys::seen_page(window, segment, *page), batch)?;
        for (part, value) in (0..).zip(record::seen_parts(ids)) {
            batch.put(keys::seen(window, segment, *page, part), value);
        }
    }
    Ok(())
}

/// Writes the window's counters if they changed; returns how many events readers see.
fn count(
    tree: &Tree,
    commit: &Commit,
    record: &WindowRecord,
    outcome: &CommitOutcome,
    batch: &mut WriteBatch,
) -> Result<u64, TreeError> {
    let old = tree.counters(commit.window)?;
    let mut new = old.clone();
    new.events = (new.events + u64::from(outcome.created)).saturating_sub(outcome.removed.into());
    if let Some(round) = commit.counters.round {
        new.rounds = round;
    }
    if commit.counters.success.is_some() {
        new.last_success = commit.counters.success;
        let first = AuditRecord { since: commit.at, at: None, differences: 0 };
        new.audit.get_or_insert(first);
    }
    if let (Some(differences), Some(audit)) = (commit.counters.audit, &mut new.audit) {
        audit.at = Some(commit.at);
        audit.differences += differences;
    }
    // A pause stored under a wrong clock must not outlast later ones.
    let goes_on = |until: &Timestamp| clock::wait_continues(*until, MAX_PAUSE, commit.at);
    new.paused_until = commit.counters.paused_until.max(new.paused_until.filter(goes_on));
    if let Some(reason) = commit.counters.resync.filter(|r| *r != ResyncReason::New) {
        new.resyncs += 1;
        new.last_resync = Some(LastResync { at: commit.at, reason });
    }
    if new.settled_once != Some(true)
        && let Some(position) = &commit.position
    {
        let mut positions = tree.positions(commit.window)?;
        let before = register::settled_before(&old, &positions);
        positions.retain(|(segment, _)| *segment != commit.segment);
        positions.push((commit.segment, position.clone()));
        new.settled_once = Some(before || register::all_settled(record, &positions));
    }
    if new != old {
        batch.put(keys::counters(commit.window), new.encode());
    }
    Ok(new.events)
}
