//! When a window is busy, read from the index by start alone wherever that says it.
//!
//! The index has the start and the end of every event, because an event whose times cannot be read
//! never gets into the store, and its availability. Only rows of 0.1 lack that, until they are
//! written again in the background: they need their content, and bare occurrences their master.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::Store;
use super::error::{StoreError, TreeError};
use super::keys;
use super::record::instant;
use super::row_header::RowHeader;
use super::rows::{IndexValue, LONG_EVENT};
use super::tree::Tree;
use crate::mirror::availability::Availability;
use crate::mirror::busy_time::BusyTime;
use crate::mirror::page::{EventHash, EventId};
use crate::mirror::position::WindowId;

impl Store {
    /// The times of a window's events that overlap `[from, to)`, in no particular order, without
    /// cancelled events and those without length. They show one state of the window.
    ///
    /// # Errors
    /// If the store can no longer be used.
    pub async fn busy_times(
        &self,
        window: WindowId,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<BusyTime>, StoreError> {
        self.read_tree(move |tree| {
            let reader = BusyTimeReader { tree, window, masters: BTreeMap::new() };
            reader.read(from.as_microsecond(), to.as_microsecond())
        })
        .await
    }
}

struct BusyTimeReader<'a> {
    tree: &'a Tree,
    window: WindowId,
    /// The availability of the masters that were read; `None` if a master is missing.
    masters: BTreeMap<EventId, Option<Availability>>,
}

impl BusyTimeReader<'_> {
    fn read(mut self, from: i64, to: i64) -> Result<Vec<BusyTime>, TreeError> {
        // Long events that start before the look-back, then everything else.
        let near = from.saturating_sub(LONG_EVENT);
        let window = self.window;
        let long = keys::long_from(window, i64::MIN)..keys::long_from(window, near);
        let others = keys::time_from(window, near)..keys::time_from(window, to);
        let mut times = Vec::new();
        for entry in self.tree.range(long).chain(self.tree.range(others)) {
            let (key, value) = entry?;
            let (start, id) = keys::time_of(&key).ok_or(TreeError::Damaged("index"))?;
            let value = IndexValue::of(value);
            let end = value.end()?;
            if end <= from || end <= start {
                continue;
            }
            let Availability { show_as, cancelled } = self.availability(id, value)?;
            if !cancelled {
                times.push(BusyTime { start: instant(start), end: instant(end), show_as });
            }
        }
        Ok(times)
    }

    /// The availability of an event as readers see it.
    fn availability(
        &mut self,
        id: EventHash,
        value: IndexValue,
    ) -> Result<Availability, TreeError> {
        let stored = match value {
            IndexValue::Row(row) => match RowHeader::availability_of(&row)? {
                Some(known) => return Ok(known),
                None => self.tree.indexed_row(self.window, id, IndexValue::Row(row))?,
            },
            IndexValue::End(_) => {
                let stored = self.tree.row_bytes(self.window, id)?;
                let stored = stored.ok_or(TreeError::Damaged("index (event missing)"))?;
                match RowHeader::availability_of(&stored.value)? {
                    Some(known) => return Ok(known),
                    None => self.tree.decoded(stored, None)?.row,
                }
            }
        };
        let master = stored.master.as_ref().filter(|_| stored.is_bare());
        if let Some(master) = master
            && let Some(of_master) = self.master(master)?
        {
            return Ok(of_master);
        }
        Ok(stored.own_availability())
    }

    /// The availability of a master; `None` if the store has none of that id.
    fn master(&mut self, id: &EventId) -> Result<Option<Availability>, TreeError> {
        if let Some(known) = self.masters.get(id) {
            return Ok(*known);
        }
        let of_master = self.tree.master_availability(self.window, id.hash())?;
        self.masters.insert(id.clone(), of_master);
        Ok(of_master)
    }
}
