//! Files that are whole, with records that cannot be a store.

use std::io::Write as _;
use std::ops::Bound;
use std::sync::Arc;

use super::*;
use crate::mirror::commit::Commit;
use crate::mirror::page::Span;
use crate::store::engine::{Engine, EngineError, EngineScan};
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
    import(&mut file_of(&[records]), options, &CancellationToken::new())
}

/// A whole file with these blocks.
fn file_of(blocks: &[&[ExportedRecord]]) -> File {
    let (mut writer, head) = ExportWriter::begin();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&head).unwrap();
    for block in blocks {
        file.write_all(&writer.block(block.iter().map(|(k, v)| (&**k, v.as_deref())))).unwrap();
    }
    file.write_all(&writer.end()).unwrap();
    file
}

/// Why the content of a file is refused; nothing may be left of the import.
fn refusal(records: &[ExportedRecord]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new");
    match import_records(records, &store_options(&path)) {
        Err(ImportError::Content { what, .. }) => {
            assert!(!path.exists());
            what
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

#[tokio::test]
async fn a_wrong_record_is_found_in_the_file() {
    let whole = records().await;
    let dir = tempfile::tempdir().unwrap();
    let begin = ExportWriter::begin().1.len() as u64;
    // What a row names is read with the row.
    for kind in [keys::TIME, keys::WINDOW, keys::NAME, keys::INCARNATION] {
        let at = whole.iter().position(|(key, _)| key[0] == kind).unwrap();
        let (mut wrong, mut rest) = (whole[at..=at].to_vec(), whole.clone());
        let value = wrong[0].1.as_mut().unwrap();
        match kind {
            // With the right checksum: another version may have written it.
            keys::INCARNATION => *value = record::seal(b"another layout"),
            _ => *value.last_mut().unwrap() ^= 1,
        }
        // The key is set again by a later block: only that value counts.
        rest.truncate(at + 1);
        let block = |records: &[ExportedRecord]| {
            let records = records.iter().map(|(k, v)| (&**k, v.as_deref()));
            ExportWriter::begin().0.block(records).len() as u64
        };
        let after = &whole[at + 1..];
        let mut file = file_of(&[&rest, &wrong, after]);
        let refused =
            import(&mut file, &store_options(dir.path()), &CancellationToken::new()).unwrap_err();
        let ImportError::Content { offset, .. } = &refused else { panic!("{refused:?}") };
        assert_eq!(*offset, Some(begin + block(&rest)), "{refused} {}", char::from(kind));
        assert!(refused.to_string().starts_with("at byte "));
    }
}

/// An engine that cancels once everything is written.
#[derive(Debug)]
struct StopsWhenFlushed(Arc<dyn Engine>, CancellationToken);

impl Engine for StopsWhenFlushed {
    fn get(&self, key: &[u8]) -> Result<Option<EngineBytes>, EngineError> {
        self.0.get(key)
    }

    fn scan(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> EngineScan {
        self.0.scan(from, to)
    }

    fn apply(&self, batch: &mut dyn Iterator<Item = EngineWrite>) -> Result<(), EngineError> {
        self.0.apply(batch)
    }

    fn write(&self, write: EngineWrite) -> Result<(), EngineError> {
        self.0.write(write)
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.1.cancel();
        self.0.flush()
    }

    fn background_error(&self) -> Option<EngineError> {
        self.0.background_error()
    }

    fn size_on_disk(&self) -> Result<u64, EngineError> {
        self.0.size_on_disk()
    }
}

#[tokio::test]
async fn the_check_of_the_new_store_can_be_stopped() {
    let mut file = file_of(&[&records().await]);
    let dir = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    let cancel = stop.clone();
    let opener = move |dir: &Path, cache: u64| -> Result<Arc<dyn Engine>, EngineError> {
        Ok(Arc::new(StopsWhenFlushed(engine::open(dir, cache)?, cancel.clone())))
    };
    let stopped = import_with(&opener, &mut file, &store_options(dir.path()), &stop);
    assert!(matches!(stopped, Err(ImportError::Stopped)), "{stopped:?}");
    assert!(!dir.path().join(WORK).exists() && !dir.path().join("store").exists());
}

#[tokio::test]
async fn a_store_that_cannot_be_made_is_not_the_fault_of_the_file() {
    let mut file = file_of(&[&records().await]);
    let dir = tempfile::tempdir().unwrap();
    let panics = |_: &Path, _: u64| -> Result<Arc<dyn Engine>, EngineError> { panic!("no thread") };
    let refuses = |_: &Path, _: u64| -> Result<Arc<dyn Engine>, EngineError> {
        Err(EngineError::Damaged("a page".to_owned()))
    };
    for opener in [&panics as &OpenEngine, &refuses] {
        let options = store_options(dir.path());
        let refused = import_with(opener, &mut file, &options, &CancellationToken::new());
        let Err(ImportError::Open(error)) = &refused else { panic!("{refused:?}") };
        assert!(matches!(error.why, OpenFault::Io(_)), "{error:?}");
    }
}
