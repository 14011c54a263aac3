//! The entries of the feed. They lie together in packs; 0.1 wrote each under a key of its own.

use std::sync::Arc;

use super::{RecordReader, text};
use crate::mirror::change::{ChangeKind, RemovalReason, Seq};
use crate::mirror::page::{EventHash, EventId};
use crate::mirror::position::WindowId;

/// The layout of a single entry that says what changed, or what was removed.
const DETAILED: u8 = 2;
/// The newest layout of a single entry: with the start of its event, the rest as in [`DETAILED`].
const PLACED: u8 = 3;

// The code of an entry in a pack: its kind and reason, and what follows.
const KIND: u8 = 0x07;
const HAS_START: u8 = 0x80;
const HAS_DETAILS: u8 = 0x40;
const HAS_PREVIOUS: u8 = 0x20;
const HAS_SIZE: u8 = 0x10;

/// Sizes of events are stored in steps of so many bytes.
const SIZE_STEP: usize = 256;

/// One entry of the feed. The content of the event is in its row.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::store) struct FeedEntry {
    pub(in crate::store) window: WindowId,
    pub(in crate::store) id: EventHash,
    pub(in crate::store) kind: ChangeKind,
    /// Microseconds.
    pub(in crate::store) at: i64,
    /// When the event starts, in microseconds: its row is found with one search. `None` for
    /// removals, and in older entries.
    pub(in crate::store) start: Option<i64>,
    /// About how many bytes readers get of the event: the end of a response is found without its
    /// row. `None` for removals, and in older entries.
    pub(in crate::store) size: Option<EventSize>,
    /// What an update changed; `None` for other kinds, and for an update that 0.1 wrote.
    pub(in crate::store) update: Option<UpdateEntry>,
    /// Set for removals: the row no longer exists, and perhaps neither does the window.
    pub(in crate::store) gone: Option<TombstoneEntry>,
}

/// The size of an event, rounded up. A larger one counts as almost 16 MiB, beyond any response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct EventSize(u16);

impl EventSize {
    /// The size of an event of so many bytes.
    pub(in crate::store) fn of(bytes: usize) -> Self {
        Self(u16::try_from(bytes.div_ceil(SIZE_STEP)).unwrap_or(u16::MAX))
    }

    /// The size in bytes.
    pub(in crate::store) fn bytes(self) -> usize {
        usize::from(self.0) * SIZE_STEP
    }
}

/// What the entry of an update says about it.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::store) struct UpdateEntry {
    /// The seq of the event's last change that was more than another version
    /// ([`EventDifference::Version`](crate::mirror::event::EventDifference::Version)).
    pub(in crate::store) essential: Seq,
    /// The seq of the event's entry before this one; `None` in entries of earlier builds.
    pub(in crate::store) previous: Option<Seq>,
    /// The names of the changed members, sorted.
    pub(in crate::store) changed: Vec<String>,
}

/// What a tombstone keeps of a removed event.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::store) struct TombstoneEntry {
    pub(in crate::store) reason: RemovalReason,
    pub(in crate::store) id: EventId,
    /// The window's name.
    pub(in crate::store) window: Arc<str>,
    /// A JSON object ([`event::summary`](crate::mirror::event::summary)); `None` if 0.1 wrote it.
    pub(in crate::store) summary: Option<String>,
}

impl FeedEntry {
    /// The seq of the event's last change that was more than another version. `seq` is the entry's
    /// own, which is also the answer if 0.1 wrote it.
    pub(in crate::store) fn essential(&self, seq: Seq) -> Seq {
        self.update.as_ref().map_or(seq, |update| update.essential)
    }

    /// Rough number of bytes in a pack.
    pub(super) fn rough_size(&self) -> usize {
        let gone = self.gone.as_ref().map_or(0, |gone| {
            gone.id.as_str().len()
                + gone.window.len()
                + gone.summary.as_ref().map_or(0, String::len)
        });
        let changed = self.update.iter().flat_map(|update| &update.changed);
        28 + gone + changed.map(|name| 4 + name.len()).sum::<usize>()
    }

    /// The code of the kind and the reason, without flags.
    fn code(&self) -> u8 {
        match (self.kind, self.gone.as_ref().map(|gone| gone.reason)) {
            (ChangeKind::Created, _) => 0,
            (ChangeKind::Updated, _) => 1,
            (ChangeKind::Removed, Some(RemovalReason::LeftWindow)) => 3,
            (ChangeKind::Removed, Some(RemovalReason::WindowDropped)) => 4,
            (ChangeKind::Removed, _) => 2,
        }
    }

    /// Appends the entry without what its pack says.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let summary = self.gone.as_ref().and_then(|gone| gone.summary.as_ref());
        let details = self.update.is_some() || summary.is_some();
        let previous = self.update.as_ref().and_then(|update| update.previous);
        let flag = |set: bool, flag| if set { flag } else { 0 };
        out.push(
            self.code()
                | flag(self.start.is_some(), HAS_START)
                | flag(details, HAS_DETAILS)
                | flag(previous.is_some(), HAS_PREVIOUS)
                | flag(self.size.is_some(), HAS_SIZE),
        );
        out.extend_from_slice(&self.id.0);
        if let Some(start) = self.start {
            out.extend_from_slice(&start.to_be_bytes());
        }
        if let Some(EventSize(steps)) = self.size {
            out.extend_from_slice(&steps.to_be_bytes());
        }
        if let Some(gone) = &self.gone {
            text(out, gone.id.as_str());
            text(out, &gone.window);
        }
        if let Some(summary) = summary {
            text(out, summary);
        }
        if let Some(UpdateEntry { essential, previous, changed }) = &self.update {
            out.extend_from_slice(&essential.to_be_bytes());
            if let Some(previous) = previous {
                out.extend_from_slice(&previous.to_be_bytes());
            }
            // An event has a few dozen members, and `change_writer` limits their names.
            out.extend_from_slice(&u32::try_from(changed.len()).unwrap_or(u32::MAX).to_be_bytes());
            changed.iter().for_each(|name| text(out, name));
        }
    }

    /// Reads what [`FeedEntry::write`] wrote.
    pub(super) fn read(input: &mut RecordReader<'_>, window: WindowId, at: i64) -> Option<Self> {
        let code = input.u8()?;
        let (kind, reason) = kind_of(code & KIND)?;
        let id = EventHash(input.array()?);
        let start = if code & HAS_START != 0 { Some(input.i64()?) } else { None };
        let size = if code & HAS_SIZE != 0 { Some(EventSize(input.u16()?)) } else { None };
        let details = code & HAS_DETAILS != 0;
        let gone = reason.map(|reason| TombstoneEntry::read(input, reason, details));
        let gone = if let Some(gone) = gone { Some(gone?) } else { None };
        let update = if kind == ChangeKind::Updated && details {
            let essential = input.u64()?;
            let previous = if code & HAS_PREVIOUS != 0 { Some(input.u64()?) } else { None };
            let names = 0..input.u32()?;
            let changed = names.map(|_| input.text().map(str::to_owned)).collect::<Option<_>>()?;
            Some(UpdateEntry { essential, previous, changed })
        } else {
            None
        };
        Some(Self { window, id, kind, at, start, size, update, gone })
    }

    /// Reads an entry that has a key of its own.
    pub(super) fn read_single(layout: u8, payload: &[u8]) -> Option<Self> {
        let mut input = RecordReader(payload);
        let (kind, reason) = kind_of(input.u8()?)?;
        let window = WindowId(input.u32()?);
        let id = EventHash(input.array()?);
        let at = input.i64()?;
        let start = if layout == PLACED { Some(input.i64()?) } else { None };
        let gone =
            reason.map(|reason| TombstoneEntry::read(&mut input, reason, layout == DETAILED));
        let gone = if let Some(gone) = gone { Some(gone?) } else { None };
        let update = match kind {
            ChangeKind::Updated if layout >= DETAILED => {
                let essential = input.u64()?;
                let mut changed = Vec::new();
                while !input.0.is_empty() {
                    changed.push(input.text()?.to_owned());
                }
                Some(UpdateEntry { essential, previous: None, changed })
            }
            _ => None,
        };
        Some(Self { window, id, kind, at, start, size: None, update, gone })
    }
}

impl TombstoneEntry {
    fn read(input: &mut RecordReader<'_>, reason: RemovalReason, summary: bool) -> Option<Self> {
        let id = EventId::new(input.text()?);
        let window = Arc::from(input.text()?);
        let summary = if summary { Some(input.text()?.to_owned()) } else { None };
        Some(Self { reason, id, window, summary })
    }
}

fn kind_of(code: u8) -> Option<(ChangeKind, Option<RemovalReason>)> {
    Some(match code {
        0 => (ChangeKind::Created, None),
        1 => (ChangeKind::Updated, None),
        2 => (ChangeKind::Removed, Some(RemovalReason::Deleted)),
        3 => (ChangeKind::Removed, Some(RemovalReason::LeftWindow)),
        4 => (ChangeKind::Removed, Some(RemovalReason::WindowDropped)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: [u8; 6] = [0, 0, 0, 2, b'a', b'b'];

    fn single(layout: u8, code: u8, details: &[u8]) -> FeedEntry {
        let head = [&[code][..], &[0, 0, 0, 7], &[9; 16], &[0, 0, 0, 0, 0, 0, 0, 1]].concat();
        FeedEntry::read_single(layout, &[&head, details].concat()).unwrap()
    }

    #[test]
    fn an_entry_of_its_own_key_is_read_in_each_layout() {
        let created = FeedEntry {
            window: WindowId(7),
            id: EventHash([9; 16]),
            kind: ChangeKind::Created,
            at: 1,
            start: None,
            size: None,
            update: None,
            gone: None,
        };
        assert_eq!(single(1, 0, &[]), created);
        let start = Some(5);
        assert_eq!(single(PLACED, 0, &5i64.to_be_bytes()), FeedEntry { start, ..created.clone() });
        let updated = FeedEntry { kind: ChangeKind::Updated, ..created.clone() };
        assert_eq!(single(1, 1, &[]), updated);
        let update =
            Some(UpdateEntry { essential: 6, previous: None, changed: vec!["ab".to_owned()] });
        let details = [&6u64.to_be_bytes()[..], &TEXT].concat();
        assert_eq!(single(DETAILED, 1, &details), FeedEntry { update, ..updated });
        let gone = |reason, summary| {
            let (id, window) = (EventId::new("ab"), Arc::from("ab"));
            let gone = Some(TombstoneEntry { reason, id, window, summary });
            FeedEntry { kind: ChangeKind::Removed, gone, ..created.clone() }
        };
        let reason = RemovalReason::LeftWindow;
        assert_eq!(single(1, 3, &TEXT.repeat(2)), gone(reason, None));
        let summary = Some("ab".to_owned());
        let reason = RemovalReason::WindowDropped;
        assert_eq!(single(DETAILED, 4, &TEXT.repeat(3)), gone(reason, summary));
    }
}
