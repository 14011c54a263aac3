//! Compresses rows that are not compressed with the newest dictionary, moves rows that lie where 0.1
//! wrote them, and trains a better dictionary from the store's own events once that pays.
//!
//! Both read in slices beside everything else. Rows are compressed here, and the writer replaces
//! only those that did not change meanwhile.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join_all;

use super::Store;
use super::batch::WriteBatch;
use super::dictionary::Dictionary;
use super::error::{StoreError, TreeError};
use super::job::{TreeEdit, WriteJob};
use super::keys;
use super::record::{self, DictionaryRecord};
use super::row::EventRow;
use super::rows::{StoredBytes, StoredRow, replace_row};
use super::shared::StoreShared;
use super::tree::Tree;
use crate::env::Env;
use crate::mirror::availability::Availability;
use crate::mirror::change::Seq;
use crate::mirror::page::{EventHash, EventId};
use crate::mirror::position::WindowId;

/// Rows looked at in one slice.
const SLICE: usize = 64;
/// Rows replaced in one batch, for which readers wait.
const BATCH: usize = 8;
/// The most bytes of a trained dictionary.
const DICTIONARY_SIZE: usize = 64 << 10;
/// Bytes of a dictionary under one key.
const DICTIONARY_CHUNK: usize = 4096;
/// Changes before a dictionary is trained for the first time.
const MIN_CHANGES: Seq = 20_000;
/// Places in the store from which samples are taken, and rows at each.
const PLACES: usize = 512;
const ROWS_AT_PLACE: usize = 8;
/// The most bytes of samples.
const MAX_SAMPLES: usize = 16 << 20;
/// The fewest samples to train with.
const MIN_SAMPLES: usize = 1000;

/// A row to replace by the same row, compressed otherwise or in another place.
pub(super) struct Recompressed {
    window: WindowId,
    id: EventHash,
    old: Bytes,
    new: EventRow,
}

/// The place of a recompression: the last row that was looked at.
pub type RecompressPlace = (WindowId, EventHash);

impl Store {
    /// Compresses the next rows after a place with the newest dictionary. Returns the place to
    /// continue after; `None` if there are no more rows.
    ///
    /// # Errors
    /// [`StoreError::Full`]: not all of these rows were replaced. The same call does the rest.
    pub async fn recompress(
        &self,
        after: Option<RecompressPlace>,
    ) -> Result<Option<RecompressPlace>, StoreError> {
        let read = move |shared: &StoreShared| {
            let newest = shared.dictionaries.newest();
            let ((rows, of_masters), group) = shared.read_tree(|tree| {
                let rows = next_rows(tree, after)?;
                let of_masters = of_masters(tree, &rows)?;
                Ok((rows, of_masters))
            })?;
            let last = rows.last().map(|(window, id, ..)| (*window, *id));
            let next = last.filter(|_| rows.len() == SLICE);
            Ok(((recompressed(rows, &of_masters, &newest), next, newest.number), group))
        };
        let (mut rows, next, converted) = self.shared().read(read).await?;
        let mut replacing = Vec::with_capacity(SLICE / BATCH);
        while !rows.is_empty() {
            let later = rows.split_off(rows.len().min(BATCH));
            let rows = std::mem::replace(&mut rows, later);
            let bytes = rows.iter().map(|row| row.old.len()).sum();
            let edit: TreeEdit = Box::new(move |tree, batch| replace(tree, batch, &rows));
            replacing.push(self.ask(move |reply| WriteJob::Edit { edit, bytes, reply }));
        }
        // Sent together, so that one or two syncs are enough.
        try_join_all(replacing).await?;
        if next.is_none() {
            let edit: TreeEdit = Box::new(move |tree, batch| {
                let record = DictionaryRecord { converted, ..tree.dictionary_record()? };
                batch.put(keys::DICTIONARIES.to_vec(), record::json(&record));
                Ok(())
            });
            self.ask(|reply| WriteJob::Edit { edit, bytes: 0, reply }).await?;
        }
        Ok(next)
    }

    /// Whether some rows may not be compressed with the newest dictionary.
    ///
    /// # Errors
    /// If the store can no longer be used.
    pub async fn needs_recompression(&self) -> Result<bool, StoreError> {
        let newest = self.shared().dictionaries.newest().number;
        self.read_tree(move |tree| Ok(tree.dictionary_record()?.converted != newest)).await
    }

    /// Trains a dictionary from the store's events if it has taken twice as many changes as when
    /// this was last done. Keeps it if rows become a tenth smaller; returns whether.
    ///
    /// # Errors
    /// [`StoreError::Full`]: nothing was written.
    pub async fn train_dictionary(&self) -> Result<bool, StoreError> {
        let changes = self.durable_seq();
        let env = self.shared().env.clone();
        let read = move |shared: &StoreShared| {
            let (record, group) = shared.read_tree(Tree::dictionary_record)?;
            if changes < MIN_CHANGES.max(record.trained_at.saturating_mul(2)) {
                return Ok((None, group));
            }
            let samples = samples(shared, &env)?;
            let trained = train(&samples, &shared.dictionaries.newest());
            Ok((Some((record, trained)), group))
        };
        let Some((mut record, trained)) = self.shared().read(read).await? else {
            return Ok(false);
        };
        let number = record.next_number();
        let dictionary = trained.as_deref().and_then(|content| Dictionary::new(number, content));
        let adopted = dictionary.is_some();
        record.trained_at = changes;
        record.numbers.extend(adopted.then_some(number));
        let content = trained.filter(|_| adopted);
        let edit: TreeEdit = Box::new(move |_, batch| {
            if let Some(content) = content {
                let value = record::seal(&content);
                batch.put_chunks(keys::dictionary(number), &value, 0, DICTIONARY_CHUNK);
            }
            batch.put(keys::DICTIONARIES.to_vec(), record::json(&record));
            Ok(())
        });
        self.ask(|reply| WriteJob::Edit { edit, bytes: DICTIONARY_SIZE, reply }).await?;
        // Used only now that it is durable: a row that names it must find it.
        if let Some(dictionary) = dictionary {
            self.shared().dictionaries.add(dictionary);
        }
        Ok(adopted)
    }
}

/// A row with its stored bytes.
type RowRead = (WindowId, EventHash, Bytes, StoredRow);

/// The availability of masters.
type OfMasters = BTreeMap<(WindowId, EventHash), Option<Availability>>;

/// What to replace, of the rows of a slice.
fn recompressed(
    rows: Vec<RowRead>,
    of_masters: &OfMasters,
    newest: &Arc<Dictionary>,
) -> Vec<Recompressed> {
    let new = rows.into_iter().filter_map(|(window, id, old, stored)| {
        let misplaced = stored.is_misplaced();
        let unknown = stored.row.availability.is_none();
        let is = if unknown {
            let master = bare_master(&stored.row).and_then(|id| of_masters.get(&(window, id)));
            stored.row.with_availability(master.copied().flatten())
        } else {
            stored.row
        };
        let learned = unknown && is.availability.is_some();
        let stale = !is.is_compressed_with(newest.number);
        let new = if stale { is.compressed(newest) } else { is };
        let better = stale && new.is_compressed_with(newest.number);
        (better || misplaced || learned).then_some(Recompressed { window, id, old, new })
    });
    new.collect()
}

/// The master of a bare row whose availability is unknown.
fn bare_master(row: &EventRow) -> Option<EventHash> {
    let unknown = row.is_bare() && row.availability.is_none();
    row.master.as_ref().filter(|_| unknown).map(EventId::hash)
}

/// The availability that bare rows have from their masters. A commit that changes a master so that
/// it has another one writes each of these rows, which are then not replaced here.
fn of_masters(tree: &Tree, rows: &[RowRead]) -> Result<OfMasters, TreeError> {
    let mut known = OfMasters::new();
    for (window, _, _, stored) in rows {
        if let Some(master) = bare_master(&stored.row)
            && let Entry::Vacant(place) = known.entry((*window, master))
        {
            place.insert(tree.master_availability(*window, master)?);
        }
    }
    Ok(known)
}

/// The next rows after a place, in the order of the keys.
fn next_rows(tree: &Tree, after: Option<RecompressPlace>) -> Result<Vec<RowRead>, TreeError> {
    let from = after.map_or_else(|| vec![keys::EVENT], |(window, id)| keys::event(window, id));
    let mut rows = Vec::new();
    for entry in tree.range(from..) {
        let (key, _) = entry?;
        if key.first() != Some(&keys::EVENT) || rows.len() == SLICE {
            break;
        }
        let Some((window, id)) = keys::window_of(&key).zip(keys::event_of(&key)) else { continue };
        if Some((window, id)) != after {
            let stored = tree.row_bytes(window, id)?.ok_or(TreeError::Damaged("event"))?;
            let value = stored.value.clone();
            rows.push((window, id, value, tree.decoded(stored, None)?));
        }
    }
    Ok(rows)
}

/// Replaces rows that are still the same.
fn replace(tree: &Tree, batch: &mut WriteBatch, rows: &[Recompressed]) -> Result<(), TreeError> {
    for Recompressed { window, id, old, new } in rows {
        let stored = tree.row_bytes(*window, *id)?.filter(|stored| stored.value == *old);
        if let Some(StoredBytes { place, .. }) = stored {
            let stored = StoredRow { row: new.clone(), place };
            replace_row(batch, *window, *id, Some(&stored), Some(new));
            batch.mark_reads_alike();
        }
    }
    Ok(())
}

/// Bodies of rows at random places. The writer waits for one place at a time.
fn samples(shared: &StoreShared, env: &Env) -> Result<Vec<Vec<u8>>, StoreError> {
    let windows = shared.read_tree(|tree| tree.number(keys::NEXT_WINDOW))?.0.max(1);
    let (mut samples, mut bytes, mut seen) = (Vec::new(), 0, BTreeSet::new());
    for _ in 0..PLACES {
        let window = WindowId(u32::try_from(env.random_u64() % windows).unwrap_or(0));
        let mut place = [0; 16];
        place[..8].copy_from_slice(&env.random_u64().to_be_bytes());
        let from = keys::event(window, EventHash(place));
        let (bodies, _) = shared.read_tree(|tree| bodies_from(tree, from, &mut seen))?;
        bytes += bodies.iter().map(Vec::len).sum::<usize>();
        samples.extend(bodies);
        if bytes > MAX_SAMPLES {
            break;
        }
    }
    Ok(samples)
}

/// The bodies of the next rows that were not seen yet.
fn bodies_from(
    tree: &Tree,
    from: Vec<u8>,
    seen: &mut BTreeSet<(WindowId, EventHash)>,
) -> Result<Vec<Vec<u8>>, TreeError> {
    let mut bodies = Vec::new();
    for entry in tree.range(from..).take(ROWS_AT_PLACE) {
        let (key, _) = entry?;
        let Some((window, id)) = keys::window_of(&key).zip(keys::event_of(&key)) else {
            continue;
        };
        if seen.insert((window, id)) {
            let stored = tree.row(window, id)?.ok_or(TreeError::Damaged("event"))?;
            bodies.push(stored.row.body());
        }
    }
    Ok(bodies)
}

/// Trains a dictionary; `None` if there is too little to learn from, or it is not much better.
fn train(samples: &[Vec<u8>], current: &Dictionary) -> Option<Vec<u8>> {
    if samples.len() < MIN_SAMPLES {
        return None;
    }
    // The samples are in no order, so any quarter can be the test.
    let (test, training) = samples.split_at(samples.len() / 4);
    let content = zstd::dict::from_samples(training, DICTIONARY_SIZE).ok()?;
    let trained = Dictionary::new(0, &content)?;
    let size = |dictionary: &Dictionary| -> usize {
        let stored = |body: &Vec<u8>| dictionary.compress(body).map_or(body.len(), |b| b.len());
        test.iter().map(stored).sum()
    };
    (size(&trained) * 10 <= size(current) * 9).then_some(content)
}

#[cfg(test)]
mod tests;
