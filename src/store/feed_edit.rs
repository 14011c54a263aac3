//! What a job adds to the feed and takes from it, written as packs of entries.

use super::batch::WriteBatch;
use super::error::TreeError;
use super::keys;
use super::record::{FeedEntry, FeedPack};
use super::tree::Tree;
use crate::mirror::change::Seq;

/// Changes of the feed that belong to one batch. No other job of the batch may touch the same
/// packs; a batch has at most one commit of a window, and a pack is of one window.
#[derive(Default)]
pub(super) struct FeedEdit {
    /// In the order of their seqs.
    added: Vec<(Seq, FeedEntry)>,
    removed: Vec<Seq>,
}

impl FeedEdit {
    /// Adds an entry; its seq is higher than all others.
    pub(super) fn add(&mut self, seq: Seq, entry: FeedEntry) {
        self.added.push((seq, entry));
    }

    /// Removes an entry that the tree has.
    pub(super) fn remove(&mut self, seq: Seq) {
        self.removed.push(seq);
    }

    /// Writes the changes.
    pub(super) fn write(mut self, tree: &Tree, batch: &mut WriteBatch) -> Result<(), TreeError> {
        self.removed.sort_unstable();
        let mut left = self.removed.iter().copied().peekable();
        while let Some(first) = left.peek().copied() {
            let pack = tree.feed_pack(first)?;
            let end = pack.as_ref().map_or(first, |pack| pack.key);
            let mut gone = Vec::new();
            while let Some(seq) = left.next_if(|seq| *seq <= end) {
                batch.count_removed_change(seq);
                gone.push(seq);
            }
            let Some(mut pack) = pack else { continue };
            pack.entries.retain(|(seq, _)| gone.binary_search(seq).is_err());
            let key = keys::feed(pack.key);
            if pack.entries.is_empty() {
                batch.delete(key);
            } else {
                batch.put(key, pack.encode());
            }
        }
        for pack in FeedPack::divide(self.added) {
            pack.entries.iter().for_each(|(seq, _)| batch.count_added_change(*seq));
            batch.put(keys::feed(pack.key), pack.encode());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::change::ChangeKind;
    use crate::mirror::page::EventHash;
    use crate::mirror::position::WindowId;
    use crate::store::MemoryDisk;
    use crate::store::record::FeedChecksum;

    fn entry() -> FeedEntry {
        let (window, id, kind) = (WindowId(7), EventHash([9; 16]), ChangeKind::Created);
        FeedEntry { window, id, kind, at: 1, start: None, size: None, update: None, gone: None }
    }

    fn edit(tree: &Tree, added: &[Seq], removed: &[Seq]) -> FeedChecksum {
        let mut edit = FeedEdit::default();
        added.iter().for_each(|seq| edit.add(*seq, entry()));
        removed.iter().for_each(|seq| edit.remove(*seq));
        let mut batch = WriteBatch::default();
        edit.write(tree, &mut batch).unwrap();
        let sum = batch.checksum();
        tree.apply(batch).unwrap();
        sum
    }

    fn seqs(tree: &Tree) -> Vec<Vec<Seq>> {
        let packs = tree.feed_packs(0).map(|pack| pack.unwrap().entries);
        packs.map(|entries| entries.iter().map(|(seq, _)| *seq).collect()).collect()
    }

    #[test]
    fn an_entry_leaves_its_pack_and_the_last_one_deletes_it() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(&*MemoryDisk::default().opener(), dir.path(), 0).unwrap();
        let mut sum = edit(&tree, &[1, 2, 3], &[]);
        sum.merge(edit(&tree, &[4, 5], &[2]));
        assert_eq!(seqs(&tree), [&[1, 3][..], &[4, 5]]);
        // The key stays, so that each entry is found behind its own seq.
        sum.merge(edit(&tree, &[6], &[5, 3]));
        assert_eq!(seqs(&tree), [[1], [4], [6]]);
        let found = |seq| tree.entry(seq).unwrap().is_some();
        assert_eq!(
            [1, 2, 3, 4, 5, 6, 7].map(found),
            [true, false, false, true, false, true, false]
        );
        sum.merge(edit(&tree, &[], &[4, 1]));
        assert_eq!(seqs(&tree), [[6]]);
        let mut left = FeedChecksum::default();
        left.add(6);
        assert_eq!(sum, left);
    }
}
