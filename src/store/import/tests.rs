//! Files that are whole, with records that cannot be a store.

use std::io::Write as _;

use super::*;
use crate::mirror::commit::Commit;
use crate::mirror::page::Span;
use crate::store::export_file::{ExportWriter, ExportedRecord};
use crate::store::record;
use crate::tests::{NOON, env, open, registration, single, store_options, window};

/// The records of a store with three events.
async fn records() -> Vec<ExportedRecord> {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &env());
    let id = store.register(vec![registration(&window("alice"))], NOON).await.unwrap()[0].id;
    let mut commit = Commit::new(id, 0, NOON);
    let span = Span { start: NOON, end: NOON };
    commit.upserts =
        ["a", "b", "c"].map(|id| single(id, span, format!(r#"{{"id":"{id}"}}"#))).into();
    store.commit(commit).await.unwrap();
    let all = |tree: &Tree| {
        tree.range::<&[u8]>(..)
            .map(|entry| entry.map(|(key, value)| (key.to_vec(), Some(value.to_vec()))))
            .collect::<Result<_, _>>()
            .map_err(TreeError::from)
    };
    let records = store.read_tree(all).await.unwrap();
    store.close().await.unwrap();
    records
}

fn import_records(
    records: &[ExportedRecord],
    options: &StoreOptions,
) -> Result<ExportSummary, ImportError> {
    let (mut writer, head) = ExportWriter::begin();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&head).unwrap();
    file.write_all(&writer.block(records.iter().map(|(k, v)| (&**k, v.as_deref())))).unwrap();
    file.write_all(&writer.end()).unwrap();
    import(&mut file, options, &env(), &CancellationToken::new())
}

/// Why the content of a file is refused; nothing may be left of the import.
fn refusal(records: &[ExportedRecord]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new");
    match import_records(records, &store_options(&path)) {
        Err(ImportError::Content(why)) => {
            assert!(!path.exists());
            why
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn records_that_contradict_each_other_are_refused() {
    let whole = records().await;
    for kind in [keys::EVENT, keys::FEED, keys::TIME, keys::NAME] {
        let lost = whole.iter().position(|(key, _)| key[0] == kind).unwrap();
        let mut records = whole.clone();
        records[lost].1 = None;
        refusal(&records);
    }
    let without = |key: &[u8]| {
        let mut records = whole.clone();
        records.retain(|(found, _)| found != key);
        refusal(&records)
    };
    assert!(without(keys::SCHEMA).contains("schema"));
    without(keys::LAST_SEQ);
    assert!(refusal(&[]).contains("schema"));
    let mut altered = whole.clone();
    let row = altered.iter_mut().find(|(key, _)| key[0] == keys::EVENT).unwrap();
    *row.1.as_mut().unwrap().last_mut().unwrap() ^= 1;
    refusal(&altered);
}

#[tokio::test]
async fn a_record_of_a_newer_layout_is_refused_as_such() {
    let mut records = records().await;
    let newer = records.iter_mut().find(|(key, _)| key[0] == keys::WINDOW).unwrap();
    *newer.1.as_mut().unwrap() = record::seal_as(9, b"?");
    let why = refusal(&records);
    assert!(why.contains("newer version"), "{why}");
}

#[tokio::test]
async fn the_last_record_of_a_key_counts() {
    let mut records = records().await;
    let (key, value) = records.iter().find(|(key, _)| key[0] == keys::EVENT).unwrap().clone();
    // The row was read before it existed, and again when it did.
    records.insert(0, (key.clone(), Some(b"older".to_vec())));
    records.push((key.clone(), None));
    records.push((key, value));
    let dir = tempfile::tempdir().unwrap();
    let summary = import_records(&records, &store_options(dir.path())).unwrap();
    assert_eq!((summary.windows, summary.events), (1, 3));
    let mark = Watermark::read(dir.path()).unwrap().unwrap();
    assert_eq!(mark.seq, 3);
    let store = open(dir.path(), &env());
    assert_eq!(store.durable_seq(), 3);
    store.close().await.unwrap();
}

/// A crash between the two renames.
#[tokio::test]
async fn an_import_that_was_cut_off_can_be_repeated() {
    let records = records().await;
    let dir = tempfile::tempdir().unwrap();
    let options = store_options(dir.path());
    import_records(&records, &options).unwrap();
    fs::create_dir(dir.path().join(WORK)).unwrap();
    fs::rename(dir.path().join("store"), dir.path().join(WORK).join("store")).unwrap();
    import_records(&records, &options).unwrap();
    let store = open(dir.path(), &env());
    assert_eq!(store.durable_seq(), 3);
    store.close().await.unwrap();
}
