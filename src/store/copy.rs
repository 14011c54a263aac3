//! A consistent copy of the whole tree, made in slices while the writer goes on.
//!
//! First the tree is read in the order of its keys. Then the keys that were written meanwhile are
//! read again, until nothing is left. Each slice is read while no batch is applied.

use std::sync::{Arc, Mutex};

use super::engine::EngineWrite;
use super::error::{StoreError, TreeError};
use super::shared::StoreShared;
use super::tree::Tree;
use super::written_keys::{self, WrittenKeys};

/// A copy of the tree under way. Dropping it ends the recording of what is written.
pub(super) struct TreeCopy {
    shared: Arc<StoreShared>,
    written: Arc<Mutex<WrittenKeys>>,
}

/// A part of a copy.
#[derive(Debug)]
pub(super) struct CopySlice {
    /// Keys with their values, `None` if the key was deleted. A key may come again in a later slice,
    /// with the value that it has by then.
    pub(super) entries: Vec<EngineWrite>,
    /// Whether this and all slices before, applied in order, make the tree of this moment.
    pub(super) last: bool,
    /// The last group that the slice may have seen. The copy may be used once it is durable, which
    /// [`StoreShared::read`] waits for.
    pub(super) group: u64,
}

impl TreeCopy {
    /// Begins a copy.
    ///
    /// # Errors
    /// If the store can no longer be used.
    pub(super) fn begin(shared: &Arc<StoreShared>) -> Result<Self, StoreError> {
        match shared.end_reason() {
            Some(why) => Err(why),
            None => Ok(Self { shared: shared.clone(), written: shared.copies.begin() }),
        }
    }

    /// Reads the next entries, about `bytes` bytes of them. Blocking, and keeps the writer waiting:
    /// one megabyte is a good size. After the last slice, reads what was written since.
    ///
    /// # Errors
    /// [`StoreError::CopyOverrun`]: too much was written meanwhile, begin another copy. After any
    /// other error the store cannot be used.
    pub(super) fn next_slice(&mut self, bytes: usize) -> Result<CopySlice, StoreError> {
        let written = &self.written;
        let (slice, group) = self.shared.read_tree(|tree| {
            let mut written = written_keys::lock(written);
            if written.is_overrun() {
                return Ok(None);
            }
            let mut entries = Vec::new();
            let left = read_in_order(tree, &mut written, bytes, &mut entries)?;
            read_again(tree, &mut written, left, &mut entries)?;
            let last = written.copied.is_none() && written.is_empty();
            Ok(Some((entries, last)))
        })?;
        let (entries, last) = slice.ok_or(StoreError::CopyOverrun)?;
        Ok(CopySlice { entries, last, group })
    }
}

/// Reads on in the order of the keys. Returns how many of `bytes` are left: none before the end.
fn read_in_order(
    tree: &Tree,
    written: &mut WrittenKeys,
    bytes: usize,
    entries: &mut Vec<EngineWrite>,
) -> Result<usize, TreeError> {
    let Some(after) = written.copied.take() else { return Ok(bytes) };
    let mut left = bytes;
    for entry in tree.engine().scan_all(&after) {
        let (key, value) = entry?;
        left = left.saturating_sub(key.len() + value.len());
        entries.push((key, Some(value)));
        if left == 0 {
            written.copied = entries.last().map(|(key, _)| key.to_vec());
            break;
        }
    }
    Ok(left)
}

/// Reads what was written behind the copy.
fn read_again(
    tree: &Tree,
    written: &mut WrittenKeys,
    mut left: usize,
    entries: &mut Vec<EngineWrite>,
) -> Result<(), TreeError> {
    while left > 0
        && let Some(key) = written.pop()
    {
        let value = tree.get(&key)?;
        left = left.saturating_sub(key.len() + value.as_ref().map_or(0, |value| value.len()));
        entries.push((key.into(), value));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
