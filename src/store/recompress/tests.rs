//! Training and recompression, on stores of their own.

use jiff::SignedDuration;

use super::*;
use crate::mirror::availability::ShowAs;
use crate::mirror::commit::Commit;
use crate::mirror::page::{EventKind, Item, Span};
use crate::store::dictionary::{DictionaryNumber, FIRST_TRAINED, SHIPPED};
use crate::store::{EventQuery, Events};
use crate::tests::{NOON, env, open, registration, single, window};

/// A store with one window and `count` events of which most words are the organisation's own.
async fn filled(dir: &tempfile::TempDir, count: usize) -> (Store, WindowId) {
    let store = open(dir.path(), &env());
    let wanted = registration(&window("alice"));
    let id = store.register(vec![wanted], NOON).await.unwrap()[0].id;
    for numbers in (0..count).collect::<Vec<_>>().chunks(1000) {
        let event = |n: &usize| {
            let start = NOON + SignedDuration::from_mins(i64::try_from(*n).unwrap());
            let words = ["Zwiebelrostbraten", "Brückeneinsturz", "Quetschkommode", "Oberpfalz"];
            let words = (0..20).map(|w| words[(n / 3 + w * w * n) % 4]).collect::<Vec<_>>();
            let words = words.join(" ");
            let content = format!(r#"{{"id":"e{n}","subject":"{words}","showAs":"oof"}}"#);
            single(&format!("e{n}"), Span { start, end: start }, content)
        };
        let upserts = numbers.iter().map(event).collect();
        store.commit(Commit { upserts, ..Commit::new(id, 0, NOON) }).await.unwrap();
    }
    (store, id)
}

async fn edit(
    store: &Store,
    edit: impl FnOnce(&Tree, &mut WriteBatch) -> Result<(), TreeError> + Send + 'static,
) {
    let edit: TreeEdit = Box::new(edit);
    store.ask(|reply| WriteJob::Edit { edit, bytes: 0, reply }).await.unwrap();
}

async fn events(store: &Store, window: WindowId) -> Vec<Bytes> {
    let query = EventQuery {
        window,
        from: None,
        to: None,
        limit: usize::MAX,
        bytes: usize::MAX,
        after: None,
    };
    let Events { value, .. } = store.events(query).await.unwrap();
    value
}

async fn recompress_all(store: &Store) {
    let mut place = store.recompress(None).await.unwrap();
    while place.is_some() {
        place = store.recompress(place).await.unwrap();
    }
}

/// How many rows have a dictionary.
async fn compressed_with(store: &Store, number: DictionaryNumber) -> usize {
    let count = move |tree: &Tree| {
        let (mut count, mut after) = (0, None);
        loop {
            let rows = next_rows(tree, after)?;
            count +=
                rows.iter().filter(|(.., stored)| stored.row.is_compressed_with(number)).count();
            after = rows.last().map(|(window, id, ..)| (*window, *id));
            if rows.len() < SLICE {
                return Ok(count);
            }
        }
    };
    store.read_tree(count).await.unwrap()
}

/// How many rows say that they are out of office.
async fn out_of_office(store: &Store) -> usize {
    let oof = |row: &EventRow| row.availability.is_some_and(|a| a.show_as == ShowAs::Oof);
    store
        .read_tree(move |tree| {
            let mut count = 0;
            for entry in tree.keys(&[keys::EVENT]) {
                let key = entry?;
                let (window, id) = keys::window_of(&key).zip(keys::event_of(&key)).unwrap();
                count += usize::from(tree.row(window, id)?.is_some_and(|stored| oof(&stored.row)));
            }
            Ok(count)
        })
        .await
        .unwrap()
}

/// Writes every row as 0.1 did.
fn write_raw(tree: &Tree, batch: &mut WriteBatch) -> Result<(), TreeError> {
    let mut after = None;
    loop {
        let rows = next_rows(tree, after)?;
        for (window, id, _, StoredRow { row, .. }) in &rows {
            let item = Item { availability: None, ..row.item() };
            let raw = EventRow::of(&item, row.segments).with_seq(row.seq).encode();
            batch.put_large(keys::event(*window, *id), &raw, 0);
            if row.is_shown() {
                batch.put(keys::time(*window, row.start, *id), row.end.to_be_bytes().to_vec());
            }
        }
        after = rows.last().map(|(window, id, ..)| (*window, *id));
        if rows.len() < SLICE {
            return Ok(());
        }
    }
}

#[tokio::test]
async fn rows_of_an_old_store_are_compressed_and_nothing_else_changes() {
    let dir = tempfile::tempdir().unwrap();
    let (store, window) = filled(&dir, 200).await;
    edit(&store, write_raw).await;
    assert_eq!(compressed_with(&store, SHIPPED).await, 0);
    assert_eq!(out_of_office(&store).await, 0);
    let (before, seq) = (events(&store, window).await, store.durable_seq());
    assert_eq!(before.len(), 200);
    assert!(store.needs_recompression().await.unwrap());
    recompress_all(&store).await;
    assert_eq!(compressed_with(&store, SHIPPED).await, 200);
    assert_eq!(out_of_office(&store).await, 200);
    assert!(!store.needs_recompression().await.unwrap());
    assert_eq!((events(&store, window).await, store.durable_seq()), (before, seq));
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_row_that_changed_meanwhile_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = filled(&dir, 1).await;
    edit(&store, write_raw).await;
    let stale = |tree: &Tree, batch: &mut WriteBatch| {
        let (window, id, old, new) = next_rows(tree, None)?.remove(0);
        let old = Bytes::from([&old[..], b"."].concat());
        let new = new.row.compressed(&tree.dictionaries.newest());
        replace(tree, batch, &[Recompressed { window, id, old, new }])
    };
    edit(&store, stale).await;
    assert_eq!(compressed_with(&store, SHIPPED).await, 0);
    store.close().await.unwrap();
}

/// A master with this `showAs`, and `count` bare occurrences.
fn series(show_as: &str, count: i64) -> Vec<Item> {
    let span = |n| {
        let start = NOON + SignedDuration::from_hours(n);
        Span { start, end: start + SignedDuration::from_hours(1) }
    };
    let master = Item {
        kind: EventKind::Master,
        ..single("m", span(0), format!(r#"{{"id":"m","showAs":"{show_as}"}}"#))
    };
    let bare = |n| Item {
        kind: EventKind::Occurrence,
        master: Some(EventId::new("m")),
        full: false,
        ..single(&format!("o{n}"), span(n), format!(r#"{{"id":"o{n}"}}"#))
    };
    [master].into_iter().chain((0..count).map(bare)).collect()
}

/// Every row, and what leads to it.
async fn all_rows(store: &Store) -> Vec<(Vec<u8>, Vec<u8>)> {
    let read = |tree: &Tree| {
        let of_rows = |key: &[u8]| matches!(key.first(), Some(&(keys::EVENT | keys::TIME)));
        let all = tree.range::<&[u8]>(..).map(|entry| entry.map_err(TreeError::from));
        let all = all.filter(|entry| entry.as_ref().is_ok_and(|(key, _)| of_rows(key)));
        all.map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec()))).collect()
    };
    store.read_tree(read).await.unwrap()
}

#[tokio::test]
async fn bare_rows_of_an_old_store_get_the_availability_of_their_master() {
    let dir = tempfile::tempdir().unwrap();
    let (store, window) = filled(&dir, 0).await;
    let upserts = series("oof", 100);
    store.commit(Commit { upserts, ..Commit::new(window, 0, NOON) }).await.unwrap();
    let committed = all_rows(&store).await;
    assert_eq!(out_of_office(&store).await, 101);
    edit(&store, write_raw).await;
    assert_eq!(out_of_office(&store).await, 0);
    recompress_all(&store).await;
    assert_eq!(out_of_office(&store).await, 101);
    assert!(all_rows(&store).await == committed, "not what a commit writes");
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_bare_row_keeps_the_availability_of_a_master_that_changed_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let (store, window) = filled(&dir, 0).await;
    let upserts = series("oof", 20);
    store.commit(Commit { upserts, ..Commit::new(window, 0, NOON) }).await.unwrap();
    edit(&store, write_raw).await;
    let slice = |tree: &Tree| {
        let rows = next_rows(tree, None)?;
        let of_masters = of_masters(tree, &rows)?;
        Ok(recompressed(rows, &of_masters, &tree.dictionaries.newest()))
    };
    let stale = store.read_tree(slice).await.unwrap();
    assert_eq!(stale.len(), 21);
    // The master alone, as in an incremental round.
    let upserts = series("free", 0);
    store.commit(Commit { upserts, ..Commit::new(window, 0, NOON) }).await.unwrap();
    let committed = all_rows(&store).await;
    assert_eq!(out_of_office(&store).await, 0);
    edit(&store, move |tree, batch| replace(tree, batch, &stale)).await;
    assert!(all_rows(&store).await == committed, "an old availability came back");
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_store_trains_a_dictionary_and_is_damaged_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let count = usize::try_from(MIN_CHANGES).unwrap();
    let (store, window) = filled(&dir, count).await;
    let before = events(&store, window).await;
    assert!(store.train_dictionary().await.unwrap());
    assert!(!store.train_dictionary().await.unwrap(), "twice for the same events");
    assert!(store.needs_recompression().await.unwrap());
    recompress_all(&store).await;
    assert_eq!(compressed_with(&store, FIRST_TRAINED).await, count);
    store.close().await.unwrap();

    let store = open(dir.path(), &env());
    assert_eq!(events(&store, window).await, before);
    edit(&store, |_, batch| {
        batch.delete_large(keys::dictionary(FIRST_TRAINED), 0);
        Ok(())
    })
    .await;
    store.close().await.unwrap();
    let (store, report) = Store::open(&crate::tests::store_options(dir.path()), &env()).unwrap();
    assert!(report.moved_aside.is_some(), "the missing dictionary was not noticed");
    store.close().await.unwrap();
}

#[test]
fn a_dictionary_is_kept_only_if_it_is_a_tenth_better() {
    let shipped = crate::store::dictionary::Dictionaries::shipped().unwrap().newest();
    let mut random = fastrand::Rng::with_seed(3);
    let noise: Vec<Vec<u8>> =
        (0..2000).map(|_| (0..400).map(|_| random.u8(..)).collect()).collect();
    assert_eq!(train(&noise, &shipped), None);
    let own = |n: u32| format!("Donaudampfschiffahrtsgesellschaft {n} Kapitänsmütze").into_bytes();
    let own: Vec<Vec<u8>> = (0..2000).map(own).collect();
    let better = train(&own, &shipped).unwrap();
    let better = std::sync::Arc::new(Dictionary::new(FIRST_TRAINED, &better).unwrap());
    assert_eq!(train(&own, &better), None, "the same again");
    assert_eq!(train(&own[..MIN_SAMPLES - 1], &shipped), None, "too few");
}

#[tokio::test]
async fn no_reader_waits_until_recompressed_rows_are_durable() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = filled(&dir, 1).await;
    let replaced = |tree: &Tree, batch: &mut WriteBatch| {
        replace(tree, batch, &[])?;
        assert!(!batch.reads_alike(), "nothing of this batch, which others may fill");
        let (window, id, old, new) = next_rows(tree, None)?.remove(0);
        let new = new.row.compressed(&tree.dictionaries.newest());
        replace(tree, batch, &[Recompressed { window, id, old, new }])?;
        assert!(batch.reads_alike() && batch.rows() == 1);
        Ok(())
    };
    edit(&store, replaced).await;
    store.close().await.unwrap();
}
