//! Renders rows for readers: completes bare occurrences from their master.

use bytes::Bytes;

use super::row::EventRow;
use crate::json::JsonMembers;
use crate::mirror::event;
use crate::mirror::page::{EventId, EventKind};

/// A master, parsed once for all of its occurrences.
pub(super) struct MasterMembers<'a> {
    id: &'a EventId,
    members: JsonMembers<'a>,
    /// The length of the master in bytes.
    length: usize,
}

impl<'a> MasterMembers<'a> {
    /// Parses a master; `None` if the row is not a master or not a JSON object.
    pub(super) fn of(row: &'a EventRow) -> Option<Self> {
        let members =
            JsonMembers::parse(row.content()).ok().filter(|_| row.kind == EventKind::Master)?;
        Some(Self { id: &row.id, members, length: row.content().len() })
    }
}

/// What readers see of a row. A row that cannot be completed is shown as it is: the writer
/// guarantees that the master exists, and content that is not JSON is never stored.
pub(super) fn show(row: &EventRow, master: Option<&MasterMembers<'_>>) -> Bytes {
    match master.filter(|_| row.is_bare()) {
        None => row.content().clone(),
        Some(MasterMembers { id, members, .. }) => {
            event::complete(members, id, row.content(), &row.id, row.span().start)
                .map_or_else(|_| row.content().clone(), Bytes::from)
        }
    }
}

/// Rough number of bytes of what [`show`] returns.
pub(super) fn shown_size(row: &EventRow, master: Option<&MasterMembers<'_>>) -> usize {
    let inherited = master.filter(|_| row.is_bare()).map_or(0, |master| master.length);
    row.content().len() + inherited
}
