//! Event rows: the packed fields that the protocol uses, then the JSON as Graph sent it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::error::TreeError;
use super::record::{RecordReader, instant, seal, text, unseal};
use crate::mirror::change::Seq;
use crate::mirror::page::{EventId, EventKind, Item, Span};
use crate::mirror::segment_set::SegmentSet;

/// An event as the store keeps it.
#[derive(Clone, PartialEq)]
pub(super) struct EventRow {
    pub(super) id: EventId,
    pub(super) kind: EventKind,
    pub(super) master: Option<EventId>,
    pub(super) etag: Option<Arc<str>>,
    /// Microseconds.
    pub(super) start: i64,
    /// Microseconds.
    pub(super) end: i64,
    pub(super) all_day: bool,
    pub(super) full: bool,
    /// The seq of its latest change; 0 for masters.
    pub(super) seq: Seq,
    /// The segments that hold it.
    pub(super) segments: SegmentSet,
    pub(super) content: Bytes,
}

impl EventRow {
    /// The row of an item held by `segments`.
    pub(super) fn of(item: &Item, segments: SegmentSet) -> Self {
        Self {
            id: item.id.clone(),
            kind: item.kind,
            master: item.master.clone(),
            etag: item.etag.clone(),
            start: item.span.start.as_microsecond(),
            end: item.span.end.as_microsecond(),
            all_day: item.all_day,
            full: item.full,
            seq: 0,
            segments,
            content: item.content.clone(),
        }
    }

    /// The row as an item.
    pub(super) fn item(&self) -> Item {
        Item {
            id: self.id.clone(),
            kind: self.kind,
            master: self.master.clone(),
            etag: self.etag.clone(),
            span: self.span(),
            all_day: self.all_day,
            full: self.full,
            content: self.content.clone(),
        }
    }

    /// Start and end of the event.
    pub(super) fn span(&self) -> Span {
        Span { start: instant(self.start), end: instant(self.end) }
    }

    /// Whether readers see it.
    pub(super) fn is_shown(&self) -> bool {
        self.kind != EventKind::Master
    }

    /// Whether its master is needed to show it.
    pub(super) fn is_bare(&self) -> bool {
        !self.full && matches!(self.kind, EventKind::Occurrence | EventKind::Exception)
    }

    /// The row as a sealed value.
    pub(super) fn encode(&self) -> Vec<u8> {
        let kind = match self.kind {
            EventKind::Single => 0,
            EventKind::Occurrence => 1,
            EventKind::Exception => 2,
            EventKind::Master => 3,
        };
        let flags = u8::from(self.full)
            | u8::from(self.all_day) << 1
            | u8::from(self.master.is_some()) << 2
            | u8::from(self.etag.is_some()) << 3;
        let mut out = Vec::with_capacity(self.content.len() + 512);
        out.extend_from_slice(&[kind, flags]);
        out.extend_from_slice(&self.seq.to_be_bytes());
        out.extend_from_slice(&self.start.to_be_bytes());
        out.extend_from_slice(&self.end.to_be_bytes());
        out.extend_from_slice(&self.segments.bits().to_be_bytes());
        text(&mut out, self.id.as_str());
        if let Some(master) = &self.master {
            text(&mut out, master.as_str());
        }
        if let Some(etag) = &self.etag {
            text(&mut out, etag);
        }
        out.extend_from_slice(&self.content);
        seal(&out)
    }

    /// Reads what [`EventRow::encode`] wrote, without copying the content.
    pub(super) fn decode(value: &Bytes) -> Result<Self, TreeError> {
        let payload = unseal(value, "event")?;
        let mut input = RecordReader(payload);
        let row = (|| {
            let kind = match input.u8()? {
                0 => EventKind::Single,
                1 => EventKind::Occurrence,
                2 => EventKind::Exception,
                3 => EventKind::Master,
                _ => return None,
            };
            let flags = input.u8()?;
            let seq = input.u64()?;
            let (start, end) = (input.i64()?, input.i64()?);
            let segments = SegmentSet::from_bits(input.u64()?);
            let id = EventId::new(input.text()?);
            let master = if flags & 4 != 0 { Some(EventId::new(input.text()?)) } else { None };
            let etag = if flags & 8 != 0 { Some(Arc::from(input.text()?)) } else { None };
            Some(Self {
                id,
                kind,
                master,
                etag,
                start,
                end,
                all_day: flags & 2 != 0,
                full: flags & 1 != 0,
                seq,
                segments,
                content: value.slice(value.len() - input.0.len()..),
            })
        })();
        row.ok_or(TreeError::Unknown("event"))
    }
}

impl fmt::Debug for EventRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Printed as an item, which omits its content.
        f.debug_struct("Row")
            .field("item", &self.item())
            .field("seq", &self.seq)
            .field("segments", &self.segments)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row() -> impl Strategy<Value = EventRow> {
        let kind = prop::sample::select(vec![
            EventKind::Single,
            EventKind::Occurrence,
            EventKind::Exception,
            EventKind::Master,
        ]);
        let texts = (".*", prop::option::of(".*"), prop::option::of(".*"));
        let numbers = (any::<i64>(), any::<i64>(), any::<u64>(), any::<u64>());
        let content = prop::collection::vec(any::<u8>(), 0..300);
        (kind, texts, numbers, any::<bool>(), any::<bool>(), content).prop_map(
            |(kind, (id, master, etag), (start, end, seq, segments), all_day, full, content)| {
                EventRow {
                    id: EventId::new(id),
                    kind,
                    master: master.map(EventId::new),
                    etag: etag.map(Arc::from),
                    start,
                    end,
                    all_day,
                    full,
                    seq,
                    segments: SegmentSet::from_bits(segments),
                    content: content.into(),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn a_row_reads_back(row in row()) {
            prop_assert!(EventRow::decode(&row.encode().into()).unwrap() == row);
        }

        #[test]
        fn a_flipped_bit_is_damage(row in row(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let mut value = row.encode();
            let at = at.index(value.len());
            value[at] ^= 1 << bit;
            prop_assert!(EventRow::decode(&value.into()).is_err());
        }

        #[test]
        fn a_cut_is_damage(row in row(), at in any::<prop::sample::Index>()) {
            let mut value = row.encode();
            value.truncate(at.index(value.len()));
            prop_assert!(EventRow::decode(&value.into()).is_err());
        }
    }
}
