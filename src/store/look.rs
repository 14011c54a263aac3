//! What readers see of a row: bare occurrences completed from their master.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::record::Row;
use crate::mirror::event::{self, Members};
use crate::mirror::page::{EventHash, EventId};

/// Masters by hash, each cut into its members once.
pub(super) struct Masters<'a>(BTreeMap<EventHash, (&'a EventId, Members<'a>)>);

impl<'a> Masters<'a> {
    /// Cuts masters. One that is not a JSON object completes nothing.
    pub(super) fn of(rows: &'a BTreeMap<EventHash, Row>) -> Self {
        let cut = |(hash, row): (&EventHash, &'a Row)| {
            Some((*hash, (&row.id, Members::parse(&row.content).ok()?)))
        };
        Self(rows.iter().filter_map(cut).collect())
    }

    /// What readers see of a row. One that cannot be completed is shown as it is: that the
    /// master is there is the writer's promise, and content that is not JSON never got here.
    pub(super) fn show(&self, row: &Row) -> Bytes {
        let master = row.master.as_ref().filter(|_| row.is_bare()).map(EventId::hash);
        let Some((id, members)) = master.and_then(|hash| self.0.get(&hash)) else {
            return row.content.clone();
        };
        let start = row.span().start;
        event::complete(members, id, &row.content, &row.id, start)
            .map_or_else(|_| row.content.clone(), Bytes::from)
    }
}
