//! Event rows: the packed fields that the protocol uses, then the JSON as Graph sent it.
//!
//! The texts of a row (ids, etag and JSON) are its *body*, which is compressed with a dictionary if
//! that makes it smaller. Workers compress it before the writer gets the row. A body that is not
//! compressed has the layout of 0.1; it is compressed when Graph sends the event again.

use std::fmt;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};

use super::dictionary::{CompressedBody, Dictionaries, Dictionary, DictionaryNumber};
use super::engine::EngineBytes;
use super::error::TreeError;
use super::record::{self, RecordReader, instant, text};
use super::row_header::RowHeader;
use crate::mirror::availability::Availability;
use crate::mirror::change::Seq;
use crate::mirror::page::{EventId, EventKind, Item, Span};
use crate::mirror::segment_set::SegmentSet;

/// An event as the store keeps it.
#[derive(Clone)]
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
    /// That of its master for a bare occurrence. `None` if 0.1 wrote the row.
    pub(super) availability: Option<Availability>,
    pub(super) full: bool,
    /// The seq of its latest change; 0 for masters.
    pub(super) seq: Seq,
    /// The segments that hold it.
    pub(super) segments: SegmentSet,
    content: Bytes,
    /// The body as it is stored, unless it is stored as it is.
    compressed: Option<CompressedBody>,
}

impl EventRow {
    /// The row of an item held by `segments`, not compressed.
    pub(super) fn of(item: &Item, segments: SegmentSet) -> Self {
        let row = Self {
            id: item.id.clone(),
            kind: item.kind,
            master: item.master.clone(),
            etag: item.etag.clone(),
            start: item.span.start.as_microsecond(),
            end: item.span.end.as_microsecond(),
            all_day: item.all_day,
            availability: None,
            full: item.full,
            seq: 0,
            segments,
            content: item.content.clone(),
            compressed: None,
        };
        let availability = item.availability.filter(|_| !row.is_bare());
        Self { availability, ..row }
    }

    /// The row with its body compressed, if that makes it smaller.
    pub(super) fn compressed(self, dictionary: &Arc<Dictionary>) -> Self {
        let compressed = CompressedBody::of(&self.body(), dictionary);
        Self { compressed, ..self }
    }

    /// Whether the body is compressed with this dictionary.
    pub(super) fn is_compressed_with(&self, dictionary: DictionaryNumber) -> bool {
        self.compressed.as_ref().is_some_and(|body| body.dictionary.number == dictionary)
    }

    /// The row with the availability that its content says, or that of its master if it is bare;
    /// 0.1 did not store it.
    pub(super) fn with_availability(self, of_master: Option<Availability>) -> Self {
        let availability =
            if self.is_bare() { of_master } else { Availability::of_event(&self.content) };
        Self { availability, ..self }
    }

    /// The availability of a row that is not bare.
    pub(super) fn own_availability(&self) -> Availability {
        let known = self.availability.or_else(|| Availability::of_event(&self.content));
        known.unwrap_or(Availability::UNKNOWN)
    }

    /// The uncompressed body.
    pub(super) fn body(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.content.len() + 512);
        self.put_body(&mut body);
        body
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
            availability: self.availability.filter(|_| !self.is_bare()),
            full: self.full,
            content: self.content.clone(),
        }
    }

    /// The JSON as Graph sent it.
    pub(super) fn content(&self) -> &Bytes {
        &self.content
    }

    /// The same, taken out of the row.
    pub(super) fn take_content(&mut self) -> Bytes {
        std::mem::take(&mut self.content)
    }

    /// Replaces the JSON of a bare row by that of a whole event.
    pub(super) fn complete(&mut self, content: Bytes) {
        self.availability = Availability::of_event(&content);
        self.full = true;
        self.content = content;
        self.compressed = None;
    }

    /// Takes the JSON of `old`, which is the same value, as it is stored.
    pub(super) fn keep_texts_of(&mut self, old: &Self) {
        let same = (&self.id, &self.master, &self.etag) == (&old.id, &old.master, &old.etag);
        if self.content != old.content {
            self.content = old.content.clone();
            self.compressed = None;
        }
        // Another level of compression makes other bytes of the same texts.
        if same && old.compressed.is_some() {
            self.compressed = old.compressed.clone();
        }
    }

    /// The row with another seq.
    pub(super) fn with_seq(self, seq: Seq) -> Self {
        Self { seq, ..self }
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

    /// Whether both are stored as the same bytes.
    pub(super) fn is_stored_alike(&self, other: &Self) -> bool {
        self.header() == other.header()
            && self.compressed == other.compressed
            && (self.compressed.is_some() || self.has_same_texts(other))
    }

    fn has_same_texts(&self, other: &Self) -> bool {
        (&self.id, &self.master, &self.etag, &self.content)
            == (&other.id, &other.master, &other.etag, &other.content)
    }

    fn header(&self) -> RowHeader {
        RowHeader {
            kind: self.kind,
            full: self.full,
            all_day: self.all_day,
            has_master: self.master.is_some(),
            has_etag: self.etag.is_some(),
            availability: self.availability,
            seq: self.seq,
            start: self.start,
            end: self.end,
            segments: self.segments,
        }
    }

    fn put_body(&self, out: &mut Vec<u8>) {
        text(out, self.id.as_str());
        if let Some(master) = &self.master {
            text(out, master.as_str());
        }
        if let Some(etag) = &self.etag {
            text(out, etag);
        }
        out.extend_from_slice(&self.content);
    }

    /// The row as a sealed value.
    pub(super) fn encode(&self) -> Vec<u8> {
        let body = self.compressed.as_ref().map_or(self.content.len() + 512, |c| c.bytes.len());
        let mut out = Vec::with_capacity(body + 64);
        self.header().put(&mut out);
        match &self.compressed {
            Some(compressed) => {
                compressed.put(&mut out);
                record::seal_as(record::COMPRESSED_ROW, &out)
            }
            None => {
                self.put_body(&mut out);
                record::seal(&out)
            }
        }
    }

    /// Reads what [`EventRow::encode`] wrote. An uncompressed content is not copied. The texts of
    /// `like` are taken without decompression if its body has the same bytes.
    pub(super) fn decode(
        value: &Bytes,
        dictionaries: &Dictionaries,
        like: Option<&Self>,
    ) -> Result<Self, TreeError> {
        let (layout, payload) = record::unseal_up_to(record::COMPRESSED_ROW, value, "event")?;
        let mut input = RecordReader(payload);
        if layout != record::COMPRESSED_ROW {
            let header = RowHeader::read(&mut input).ok_or(TreeError::Unknown("event"))?;
            return Self::from_body(&header, value.slice(value.len() - input.0.len()..));
        }
        let (header, number, length) = compressed_head(&mut input)?;
        let bytes = value.slice(value.len() - input.0.len()..);
        if let Some(like) = like
            && let Some(stored) = &like.compressed
            && (stored.dictionary.number, stored.length) == (number, length)
            && stored.bytes == bytes
        {
            return Ok(like.clone().with_header(&header));
        }
        let dictionary = dictionaries.get(number).ok_or(TreeError::Damaged("dictionary"))?;
        let compressed = CompressedBody { dictionary, length, bytes };
        let body = compressed.decompress().ok_or(TreeError::Damaged("event (body)"))?;
        Ok(Self { compressed: Some(compressed), ..Self::from_body(&header, body)? })
    }

    /// Reads a row that is only shown. It comes without its compressed body, which only a row that is
    /// written again needs.
    pub(super) fn read(value: EngineBytes, dictionaries: &Dictionaries) -> Result<Self, TreeError> {
        let (layout, payload) = record::unseal_up_to(record::COMPRESSED_ROW, &value, "event")?;
        if layout != record::COMPRESSED_ROW {
            return Self::decode(&Bytes::from_owner(value), dictionaries, None);
        }
        let mut input = RecordReader(payload);
        let (header, number, length) = compressed_head(&mut input)?;
        let dictionary = dictionaries.get(number).ok_or(TreeError::Damaged("dictionary"))?;
        let length = usize::try_from(length).map_err(|_| TreeError::Unknown("event"))?;
        let body = dictionary.decompress(input.0, length);
        Self::from_body(&header, body.ok_or(TreeError::Damaged("event (body)"))?)
    }

    /// Reads the texts of a body.
    fn from_body(header: &RowHeader, mut body: Bytes) -> Result<Self, TreeError> {
        let mut input = RecordReader(&body);
        let texts = (|| {
            let id = EventId::new(input.text()?);
            let master = if header.has_master { Some(EventId::new(input.text()?)) } else { None };
            let etag = if header.has_etag { Some(Arc::from(input.text()?)) } else { None };
            Some((id, master, etag))
        })();
        let (id, master, etag) = texts.ok_or(TreeError::Unknown("event"))?;
        // Shortened in place: another handle of the same bytes costs an allocation.
        body.advance(body.len() - input.0.len());
        let RowHeader { kind, full, all_day, availability, seq, start, end, segments, .. } =
            *header;
        Ok(Self {
            id,
            kind,
            master,
            etag,
            start,
            end,
            all_day,
            availability,
            full,
            seq,
            segments,
            content: body,
            compressed: None,
        })
    }

    /// The row with another header and the same texts.
    fn with_header(self, header: &RowHeader) -> Self {
        let RowHeader { kind, full, all_day, availability, seq, start, end, segments, .. } =
            *header;
        Self { kind, full, all_day, availability, seq, start, end, segments, ..self }
    }
}

/// Reads what is before a compressed body: the header, the number of the dictionary, and the length of
/// the body that is not compressed.
fn compressed_head(
    input: &mut RecordReader<'_>,
) -> Result<(RowHeader, DictionaryNumber, u32), TreeError> {
    let head = RowHeader::read(input).zip(input.u32().zip(input.u32()));
    let (header, (number, length)) = head.ok_or(TreeError::Unknown("event"))?;
    Ok((header, number, length))
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

    use super::super::row_header::availability;
    use super::*;

    fn row() -> impl Strategy<Value = EventRow> {
        use EventKind::{Exception, Master, Occurrence, Single};
        let kind = prop::sample::select(vec![Single, Occurrence, Exception, Master]);
        let texts = (".*", prop::option::of(".*"), prop::option::of(".*"));
        let numbers = (any::<i64>(), any::<i64>(), any::<u64>(), any::<u64>());
        let content = prop::collection::vec(any::<u8>(), 0..300);
        let flags = (any::<bool>(), any::<bool>(), 0..13u8);
        (kind, texts, numbers, flags, content).prop_map(
            |(kind, (id, master, etag), (start, end, seq, segments), flags, content)| {
                let (all_day, full, code) = flags;
                EventRow {
                    id: EventId::new(id),
                    kind,
                    master: master.map(EventId::new),
                    etag: etag.map(Arc::from),
                    start,
                    end,
                    all_day,
                    availability: availability(code),
                    full,
                    seq,
                    segments: SegmentSet::from_bits(segments),
                    content: content.into(),
                    compressed: None,
                }
            },
        )
    }

    fn dictionaries() -> Dictionaries {
        Dictionaries::shipped().unwrap()
    }

    proptest! {
        #[test]
        fn a_row_reads_back(row in row()) {
            let known = dictionaries();
            for row in [row.clone(), row.compressed(&known.newest())] {
                let value = row.encode().into();
                for like in [None, Some(&row)] {
                    let back = EventRow::decode(&value, &known, like).unwrap();
                    prop_assert_eq!(RowHeader::end_of(&value), Some(row.end));
                    let known = RowHeader::availability_of(&value).unwrap();
                    prop_assert_eq!(known, row.availability);
                    prop_assert!(back.is_stored_alike(&row) && back.has_same_texts(&row));
                    prop_assert_eq!(back.availability, row.availability);
                    prop_assert_eq!(back.encode(), row.encode());
                }
                let shown = EventRow::read((&*value).into(), &known).unwrap();
                prop_assert!(shown.header() == row.header() && shown.has_same_texts(&row));
            }
        }

        #[test]
        fn a_flipped_bit_is_damage(row in row(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let known = dictionaries();
            for row in [row.clone(), row.compressed(&known.newest())] {
                let mut value = row.encode();
                let at = at.index(value.len());
                value[at] ^= 1 << bit;
                prop_assert!(RowHeader::availability_of(&value).is_err());
                prop_assert!(EventRow::read(value.as_slice().into(), &known).is_err());
                prop_assert!(EventRow::decode(&value.into(), &known, Some(&row)).is_err());
            }
        }

        #[test]
        fn a_cut_is_damage(row in row(), at in any::<prop::sample::Index>()) {
            let known = dictionaries();
            for row in [row.clone(), row.compressed(&known.newest())] {
                let mut value = row.encode();
                value.truncate(at.index(value.len()));
                prop_assert!(EventRow::decode(&value.into(), &known, Some(&row)).is_err());
            }
        }
    }

    #[test]
    fn typical_content_is_compressed_and_noise_stays_raw() {
        let known = dictionaries();
        let page = include_str!("../../tests/fixtures/graph/delta_page.json");
        let span = Span { start: instant(0), end: instant(0) };
        let of = |content: Vec<u8>| {
            EventRow::of(&crate::tests::single("id", span, content), SegmentSet::EMPTY)
        };
        let (event, length) = (of(page.as_bytes().to_vec()), page.len());
        let stored = event.compressed(&known.newest()).encode().len();
        assert!(stored * 2 < length, "{length} became {stored}");
        let mut random = fastrand::Rng::with_seed(7);
        let noise = of((0..4000).map(|_| random.u8(..)).collect());
        let raw = noise.encode();
        assert_eq!(noise.compressed(&known.newest()).encode(), raw);
        assert_eq!(raw[0], 1, "the layout of 0.1");
    }

    /// Two builds compress the same texts to other bytes.
    #[test]
    fn a_row_that_was_compressed_otherwise_is_kept() {
        let known = dictionaries();
        let span = Span { start: instant(0), end: instant(0) };
        let item = crate::tests::single("id", span, vec![b'x'; 500]);
        let row =
            |dictionary: Arc<_>| EventRow::of(&item, SegmentSet::EMPTY).compressed(&dictionary);
        let old = row(Arc::new(Dictionary::new(7, &vec![b'x'; 4000]).unwrap()));
        let mut new = row(known.newest());
        assert!(!new.is_stored_alike(&old));
        new.keep_texts_of(&old);
        assert!(new.is_stored_alike(&old));
    }

    #[test]
    fn a_row_whose_dictionary_is_missing_is_damage() {
        let known = dictionaries();
        let span = Span { start: instant(0), end: instant(0) };
        let item = crate::tests::single("id", span, vec![b'x'; 500]);
        let other = Dictionary::new(7, &vec![b'x'; 4000]).unwrap();
        let row = EventRow::of(&item, SegmentSet::EMPTY).compressed(&Arc::new(other));
        let read = EventRow::decode(&row.encode().into(), &known, None);
        assert!(matches!(read, Err(TreeError::Damaged("dictionary"))));
    }
}
