//! The packed fields of an event row, before its body. Some questions about a stored row need
//! nothing else, and are answered here without decoding it.

use super::error::TreeError;
use super::record::{self, RecordReader};
use crate::mirror::availability::{Availability, ShowAs};
use crate::mirror::change::Seq;
use crate::mirror::page::EventKind;
use crate::mirror::segment_set::SegmentSet;

/// The fields of a row before its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RowHeader {
    pub(super) kind: EventKind,
    pub(super) full: bool,
    pub(super) all_day: bool,
    /// Whether the body has the id of a master.
    pub(super) has_master: bool,
    /// Whether the body has an etag.
    pub(super) has_etag: bool,
    pub(super) availability: Option<Availability>,
    pub(super) seq: Seq,
    /// Microseconds.
    pub(super) start: i64,
    /// Microseconds.
    pub(super) end: i64,
    pub(super) segments: SegmentSet,
}

impl RowHeader {
    /// Appends the header.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let kind = match self.kind {
            EventKind::Single => 0,
            EventKind::Occurrence => 1,
            EventKind::Exception => 2,
            EventKind::Master => 3,
        };
        let flags = u8::from(self.full)
            | u8::from(self.all_day) << 1
            | u8::from(self.has_master) << 2
            | u8::from(self.has_etag) << 3
            | self.availability.map_or(0, availability_code) << 4;
        out.extend_from_slice(&[kind, flags]);
        out.extend_from_slice(&self.seq.to_be_bytes());
        out.extend_from_slice(&self.start.to_be_bytes());
        out.extend_from_slice(&self.end.to_be_bytes());
        out.extend_from_slice(&self.segments.bits().to_be_bytes());
    }

    /// Reads what [`RowHeader::put`] wrote; `None` if it is too short or of an unknown kind.
    pub(super) fn read(input: &mut RecordReader<'_>) -> Option<Self> {
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
        Some(Self {
            kind,
            full: flags & 1 != 0,
            all_day: flags & 2 != 0,
            has_master: flags & 4 != 0,
            has_etag: flags & 8 != 0,
            availability: availability(flags >> 4),
            seq,
            start,
            end,
            segments,
        })
    }

    /// The availability in a stored row, if it is there.
    pub(super) fn availability_of(value: &[u8]) -> Result<Option<Availability>, TreeError> {
        let (_, payload) = record::unseal_up_to(record::COMPRESSED_ROW, value, "event")?;
        match payload {
            [_kind, flags, ..] => Ok(availability(flags >> 4)),
            _ => Err(TreeError::Unknown("event")),
        }
    }

    /// The end in a stored row, in microseconds. Does not check the row.
    pub(super) fn end_of(value: &[u8]) -> Option<i64> {
        let mut input = RecordReader(value.get(record::SEAL..)?);
        let (_kind, _flags) = (input.u8()?, input.u8()?);
        let (_seq, _start) = (input.u64()?, input.i64()?);
        input.i64()
    }
}

/// An availability as a number from 1 to 12.
fn availability_code(Availability { show_as, cancelled }: Availability) -> u8 {
    let show_as = match show_as {
        ShowAs::Free => 1,
        ShowAs::Tentative => 2,
        ShowAs::Busy => 3,
        ShowAs::Oof => 4,
        ShowAs::WorkingElsewhere => 5,
        ShowAs::Other => 6,
    };
    show_as + if cancelled { 6 } else { 0 }
}

/// The availability of a number; `None` if it is 0 or unknown.
pub(super) fn availability(code: u8) -> Option<Availability> {
    let cancelled = code > 6;
    let show_as = match if cancelled { code - 6 } else { code } {
        1 => ShowAs::Free,
        2 => ShowAs::Tentative,
        3 => ShowAs::Busy,
        4 => ShowAs::Oof,
        5 => ShowAs::WorkingElsewhere,
        6 => ShowAs::Other,
        _ => return None,
    };
    Some(Availability { show_as, cancelled })
}
