//! Every kind of file that is no export is refused at the right byte.

use proptest::prelude::*;

use super::*;
use crate::store::export_file::{ExportWriter, ExportedRecord, frame};

fn put(key: &[u8], value: &[u8]) -> ExportedRecord {
    (key.to_vec(), Some(value.to_vec()))
}

fn file_of(blocks: &[Vec<ExportedRecord>]) -> Vec<u8> {
    let (mut writer, mut file) = ExportWriter::begin();
    for block in blocks {
        file.extend(writer.block(block.iter().map(|(key, value)| (&**key, value.as_deref()))));
    }
    file.extend(writer.end());
    file
}

/// Reads a file in pieces; returns its records too.
fn read(file: &[u8], piece: usize) -> Result<(ExportSummary, Vec<ExportedRecord>), ExportFault> {
    let (mut reader, mut records) = (ExportReader::default(), Vec::new());
    for piece in file.chunks(piece) {
        reader.push_to(piece, &mut |_, key, value| {
            records.push((key.to_vec(), value.map(<[u8]>::to_vec)));
        })?;
    }
    Ok((reader.finish()?, records))
}

fn fault(file: &[u8]) -> ExportFault {
    read(file, 1000).unwrap_err()
}

fn sample() -> Vec<Vec<ExportedRecord>> {
    let counters = |events| Counters { events, ..Counters::default() }.encode();
    let (a, b) = (WindowId(1), WindowId(2));
    vec![
        vec![
            put(&keys::counters(a), &counters(7)),
            put(&keys::counters(b), &counters(100)),
            put(keys::SCHEMA, &record::number(1)),
            put(&keys::window(a), b"record"),
            put(&keys::window(b), b"record"),
        ],
        vec![put(b"x", b""), (b"x".to_vec(), None)],
        // Window b is dropped while the export is made.
        vec![
            (keys::window(b), None),
            put(&keys::dropping(b), b"record"),
            put(&keys::counters(a), &counters(8)),
        ],
    ]
}

#[test]
fn an_export_is_read_as_it_was_written() {
    let file = file_of(&sample());
    assert!(file.starts_with(b"calmirror export 1\n"));
    for piece in [1, 7, 64, 10_000] {
        let (summary, records) = read(&file, piece).unwrap();
        assert_eq!(records, sample().concat());
        let bytes = file.len() as u64;
        assert_eq!(summary, ExportSummary { windows: 1, events: 8, bytes });
    }
    let (summary, records) = read(&file_of(&[]), 10).unwrap();
    assert_eq!((summary.windows, summary.events, records.len()), (0, 0, 0));
}

#[test]
fn a_foreign_file_is_refused_at_its_first_byte() {
    for foreign in [&b"PK\x03\x04"[..], b"calmirror\n", b"calmirror export x\n", &[0; 5000]] {
        assert_eq!(fault(foreign), ExportFault { offset: 0, why: ExportFaultKind::Foreign });
    }
    assert_eq!(fault(b"calmirror export 0123456789").why, ExportFaultKind::Foreign);
}

#[test]
fn a_newer_file_and_a_newer_store_are_refused_as_such() {
    let good = file_of(&sample());
    let line = b"calmirror export 1\n".len();
    let newer = [b"calmirror export 12\n", &good[line..]].concat();
    let refused = fault(&newer);
    assert_eq!(refused.offset, 0);
    assert_eq!(
        refused.to_string(),
        "at byte 0: an export of format 12, which a newer version wrote (this one knows 1)"
    );
    for (head, what) in [
        (r#"{"store_format":9,"layout":1,"version":"9"}"#, "a store"),
        (r#"{"store_format":1,"layout":9,"version":"9"}"#, "records"),
    ] {
        let mut file = b"calmirror export 1\n".to_vec();
        frame(&mut file, HEAD, head.as_bytes());
        let ExportFault { offset, why } = fault(&file);
        assert_eq!(offset, line as u64);
        assert!(
            matches!(why, ExportFaultKind::Newer { what: found, found: 9, .. } if found == what)
        );
    }
    // A store that was converted while the export was made.
    let blocks = [sample().concat(), vec![put(keys::SCHEMA, &record::number(9))]];
    let (writer, mut begin) = ExportWriter::begin();
    drop(writer);
    begin.truncate(file_of(&blocks[..1]).len());
    let refused = fault(&file_of(&blocks));
    assert!(matches!(refused.why, ExportFaultKind::Newer { what: "a store", found: 9, .. }));
    let end = BEFORE + 8 * 4 + 32 + AFTER;
    assert_eq!(refused.offset as usize, file_of(&blocks[..1]).len() - end);
}

#[test]
fn a_file_that_lost_its_end_is_truncated_where_it_ends() {
    let file = file_of(&sample());
    for length in 0..file.len() {
        let refused = fault(&file[..length]);
        assert_eq!(refused.why, ExportFaultKind::Truncated, "{length}");
        assert_eq!(refused.offset, length as u64);
    }
}

#[test]
fn bytes_after_the_end_and_missing_blocks_are_damage() {
    let file = file_of(&sample());
    let refused = fault(&[&file[..], b"\n"].concat());
    let damaged = |refused: &ExportFault| matches!(refused.why, ExportFaultKind::Damaged(_));
    assert!(damaged(&refused));
    assert_eq!(refused.offset, file.len() as u64);

    // Whole frames that were left out, repeated or swapped.
    let (mut writer, head) = ExportWriter::begin();
    let mut frames = vec![head];
    for block in sample() {
        frames.push(writer.block(block.iter().map(|(key, value)| (&**key, value.as_deref()))));
    }
    frames.push(writer.end());
    for order in [&[0, 1, 3, 4][..], &[0, 1, 2, 2, 3, 4], &[0, 2, 1, 3, 4], &[0, 4]] {
        let file: Vec<u8> = order.iter().flat_map(|frame| frames[*frame].clone()).collect();
        let refused = fault(&file);
        assert_eq!(refused.why, ExportFaultKind::Damaged("the end does not match the file"));
        assert_eq!(refused.offset as usize, file.len() - frames[4].len());
    }
    let twice = [&frames[0][..], &frames[0]].concat();
    assert_eq!(fault(&twice).why, ExportFaultKind::Damaged("no frame begins here"));
}

#[test]
fn a_damaged_length_takes_no_memory() {
    let mut file = file_of(&[]);
    let at = b"calmirror export 1\n".len();
    file[at + 1] = 0xff;
    assert_eq!(fault(&file).why, ExportFaultKind::Damaged("a frame is too long"));
}

fn write() -> impl Strategy<Value = ExportedRecord> {
    let value = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40));
    // Keys of kinds that the reader does not look into.
    (proptest::collection::vec(any::<u8>(), 0..20), value)
        .prop_map(|(key, value)| ([&b"e"[..], &key].concat(), value))
}

proptest! {
    #[test]
    fn any_records_survive(blocks in proptest::collection::vec(
        proptest::collection::vec(write(), 1..6), 0..5), piece in 1usize..300) {
        let (_, records) = read(&file_of(&blocks), piece).unwrap();
        prop_assert_eq!(records, blocks.concat());
    }

    #[test]
    fn every_altered_byte_is_noticed(
        blocks in proptest::collection::vec(proptest::collection::vec(write(), 1..4), 0..4),
        place in any::<prop::sample::Index>(), flip in 1u8.., piece in 1usize..300,
    ) {
        let mut file = file_of(&blocks);
        let at = place.index(file.len());
        file[at] ^= flip;
        let refused = read(&file, piece).unwrap_err();
        prop_assert!(refused.offset <= file.len() as u64);
        // Never behind the altered byte, unless a longer frame seems to be cut off.
        let behind = refused.offset > at as u64;
        prop_assert!(!behind || refused.why == ExportFaultKind::Truncated, "{} {}", at, refused);
    }

    #[test]
    fn every_cut_and_insertion_is_noticed(
        blocks in proptest::collection::vec(proptest::collection::vec(write(), 1..4), 0..4),
        (from, to) in any::<(prop::sample::Index, prop::sample::Index)>(),
        inserted in proptest::collection::vec(any::<u8>(), 0..30),
    ) {
        let whole = file_of(&blocks);
        let (from, to) = (from.index(whole.len()), to.index(whole.len()));
        let (from, to) = (from.min(to), from.max(to));
        let file = [&whole[..from], &inserted, &whole[to..]].concat();
        prop_assume!(file != whole);
        prop_assert!(read(&file, 100).is_err());
    }
}
