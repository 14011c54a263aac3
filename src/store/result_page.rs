//! Rows together with the masters that complete them, as events are shown.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as At;

use bytes::Bytes;

use super::error::TreeError;
use super::render::{self, MasterMembers};
use super::row::EventRow;
use super::tree::Tree;
use crate::mirror::page::EventId;
use crate::mirror::position::WindowId;

/// The rows of a page, with the masters that complete them.
#[derive(Default)]
pub(super) struct ResultPage {
    pub(super) rows: Vec<EventRow>,
    /// For each row, the index in `masters` of the master that completes it.
    of: Vec<Option<usize>>,
    masters: Vec<EventRow>,
    /// The index of a master in `masters`; `None` if the store has no row of it. The same series
    /// can occur in several windows.
    master_index: BTreeMap<(WindowId, EventId), Option<usize>>,
    /// Rough size of the shown events in bytes.
    pub(super) bytes: usize,
}

impl ResultPage {
    /// Adds a row, and its master unless it was added before.
    pub(super) fn add(
        &mut self,
        tree: &Tree,
        window: WindowId,
        row: EventRow,
    ) -> Result<(), TreeError> {
        let of = match row.master.as_ref().filter(|_| row.is_bare()) {
            None => None,
            Some(id) => match self.master_index.entry((window, id.clone())) {
                At::Occupied(of) => *of.get(),
                At::Vacant(place) => {
                    let master = tree.row(window, id.hash())?;
                    *place.insert(master.map(|stored| {
                        self.masters.push(stored.row);
                        self.masters.len() - 1
                    }))
                }
            },
        };
        let master = of.and_then(|of| self.masters.get(of));
        self.bytes += row.content().len() + master.map_or(0, |master| master.content().len());
        self.rows.push(row);
        self.of.push(of);
        Ok(())
    }

    /// Takes the events out of the rows as readers see them, in the same order. Each master is parsed
    /// once.
    pub(super) fn show(&mut self) -> Vec<Bytes> {
        let masters: Vec<Option<MasterMembers<'_>>> =
            self.masters.iter().map(MasterMembers::of).collect();
        let master = |of: Option<usize>| masters.get(of?)?.as_ref();
        let shown = self.rows.iter_mut().zip(&self.of).map(|(row, of)| match master(*of) {
            Some(master) => render::show(row, Some(master)),
            None => row.take_content(),
        });
        shown.collect()
    }
}
