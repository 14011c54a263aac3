//! The listings of fleets: replaced whole, durable, and part of an export.

use std::collections::BTreeMap;
use std::future::{Future as _, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::kit::*;
use calmirror::mirror::fleet::{FleetListing, FleetMember, FleetWindow, ListedMailbox, Place};
use calmirror::mirror::window::CalendarRef;
use calmirror::store::{CompactionOutcome, DiskFault, MemoryDisk, Store, StoreError, StoreOptions};

on_each_engine! {
    a_listing_is_replaced_whole_and_deleted,
    listings_survive_a_restart_and_a_compaction,
    a_full_disk_keeps_the_old_listing,
    listings_saved_at_the_same_time_are_each_whole,
    an_abandoned_save_leaves_a_whole_listing,
}

/// A listing with everything that a member can have. Of 2,500 members, it takes several parts.
pub(crate) fn listing(count: usize, minute: i64) -> FleetListing {
    let member = |n: usize| {
        let id: Arc<str> = format!("member {n:05}").into();
        let place = Place {
            building: Some("B/1 \"north\"".into()),
            floor: None,
            capacity: u32::try_from(n).ok(),
        };
        let mailbox = ListedMailbox {
            id: id.clone(),
            address: format!("ä{n}.{}@contoso.com", "long".repeat(n % 200)).into(),
            name: format!("Room {n}, {minute}").into(),
            place: n.is_multiple_of(2).then(|| Arc::new(place)),
        };
        let window = |calendar| FleetWindow { name: format!("w{n}").into(), calendar };
        let windows = vec![window(CalendarRef::Default), window(CalendarRef::Id("AAMk=".into()))];
        let absent_since = n.is_multiple_of(3).then(|| at(minute));
        (id, FleetMember { absent_since, windows, ..FleetMember::new(mailbox) })
    };
    FleetListing {
        listed_at: Some(at(minute)),
        missing_since: (minute % 2 == 0).then(|| at(minute)),
        members: (0..count).map(member).collect(),
    }
}

async fn listings(store: &Store) -> BTreeMap<String, FleetListing> {
    let all = store.fleet_listings().await.unwrap();
    all.into_iter().map(|(name, listing)| (name.to_string(), listing)).collect()
}

fn named(name: &str, listing: FleetListing) -> (String, FleetListing) {
    (name.to_owned(), listing)
}

async fn a_listing_is_replaced_whole_and_deleted(engine: TestEngine) {
    let (_dir, store, _) = engine.fresh("alice").await;
    assert_eq!(listings(&store).await, BTreeMap::new());
    let seq = store.durable_seq();
    let long = "n".repeat(5000);
    for name in ["", "rooms", "rooms 2", &long] {
        store.save_fleet_listing(name, Some(&listing(3, 1))).await.unwrap();
    }
    for (count, minute) in [(2500, 1), (2500, 2), (1000, 3), (1001, 4), (1, 5), (0, 6), (7, 7)] {
        store.save_fleet_listing("rooms", Some(&listing(count, minute))).await.unwrap();
        let expected = ["", "rooms", "rooms 2", &long].map(|name| match name {
            "rooms" => named(name, listing(count, minute)),
            name => named(name, listing(3, 1)),
        });
        assert_eq!(listings(&store).await, expected.into(), "{count}");
    }
    for name in ["rooms", &long, "", "no such"] {
        store.save_fleet_listing(name, None).await.unwrap();
    }
    assert_eq!(listings(&store).await, [named("rooms 2", listing(3, 1))].into());
    store.save_fleet_listing("rooms", Some(&FleetListing::default())).await.unwrap();
    assert_eq!(listings(&store).await["rooms"], FleetListing::default());
    assert_eq!(store.durable_seq(), seq, "the feed says something of a listing");
    store.close().await.unwrap();
}

async fn listings_survive_a_restart_and_a_compaction(engine: TestEngine) {
    let (dir, mut store, window) = engine.fresh("alice").await;
    let expected = BTreeMap::from([named("a", listing(1200, 1)), named("b", listing(2, 2))]);
    store.save_fleet_listing("a", Some(&listing(2400, 1))).await.unwrap();
    for (name, listing) in &expected {
        store.save_fleet_listing(name, Some(listing)).await.unwrap();
    }
    for round in 0..2 {
        put(&store, window, vec![single("e", round, "e")]).await;
        store.close().await.unwrap();
        // Every opening checks the whole store.
        let (opened, opening) = engine.try_open(&options(&dir)).unwrap();
        assert_eq!(opening.moved_aside, None);
        store = opened;
        assert_eq!(listings(&store).await, expected);
        let outcome = store.compact(0, Duration::ZERO).await.unwrap();
        assert!(matches!(outcome, CompactionOutcome::Done { .. }), "{outcome:?}");
        assert_eq!(listings(&store).await, expected);
    }
    store.drop_window(window, at(1)).await.unwrap();
    store.trim(at(1000)).await.unwrap();
    assert_eq!(listings(&store).await, expected);
    store.close().await.unwrap();
}

async fn a_full_disk_keeps_the_old_listing(engine: TestEngine) {
    let dir = engine.directory();
    let store = engine.open(&dir);
    store.save_fleet_listing("a", Some(&listing(5, 1))).await.unwrap();
    store.close().await.unwrap();
    let full = StoreOptions { min_free_bytes: u64::MAX, ..options(&dir) };
    let (store, _) = engine.try_open(&full).unwrap();
    for changed in [Some(listing(3, 2)), Some(listing(3000, 2)), None] {
        let refused = store.save_fleet_listing("a", changed.as_ref()).await.unwrap_err();
        assert!(matches!(refused, StoreError::Full), "{refused}");
    }
    assert_eq!(listings(&store).await, [named("a", listing(5, 1))].into());
    store.close().await.unwrap();
}

async fn listings_saved_at_the_same_time_are_each_whole(engine: TestEngine) {
    let dir = engine.directory();
    let store = engine.open(&dir);
    let mut saving = Vec::new();
    for minute in 0..4 {
        let store = store.clone();
        saving.push(tokio::spawn(async move {
            store.save_fleet_listing("a", Some(&listing(3500, minute))).await.unwrap();
        }));
    }
    for task in saving {
        task.await.unwrap();
    }
    let saved = listings(&store).await.remove("a").unwrap();
    assert!((0..4).any(|minute| saved == listing(3500, minute)));
    store.close().await.unwrap();
}

async fn an_abandoned_save_leaves_a_whole_listing(engine: TestEngine) {
    let dir = engine.directory();
    let store = engine.open(&dir);
    store.save_fleet_listing("a", Some(&listing(2500, 0))).await.unwrap();
    // How many of these saves are interrupted depends on the speed of the writer, which may have
    // answered before the first poll ends. Where each step is interrupted for certain: see
    // `a_power_cut_leaves_the_old_listing_or_the_new_one`.
    for polls in 1..20 {
        let other = listing(2500, 2 * polls);
        let mut saving = Box::pin(store.save_fleet_listing("a", Some(&other)));
        // Polled only when it can go on, so it is dropped after each of its steps once.
        let mut left = polls;
        poll_fn(|context| {
            left -= 1;
            match saving.as_mut().poll(context) {
                Poll::Pending if left == 0 => Poll::Ready(()),
                polled => polled.map(Result::unwrap),
            }
        })
        .await;
        drop(saving);
        // The times are others, the members those of one of the two.
        let next = FleetListing { listed_at: Some(at(999)), ..listing(2500, 0) };
        store.save_fleet_listing("a", Some(&next)).await.unwrap();
        assert_eq!(listings(&store).await, [named("a", next)].into());
    }
    store.close().await.unwrap();
}

/// Saves listings of several batches until the power is cut; returns how many were acknowledged.
async fn save_until_cut(store: &Store) -> i64 {
    for minute in 1.. {
        let saved = listing(usize::try_from(5000 - 1900 * (minute % 3)).unwrap(), minute);
        if store.save_fleet_listing("a", Some(&saved)).await.is_err() {
            return minute - 1;
        }
    }
    0
}

#[tokio::test]
async fn a_power_cut_leaves_the_old_listing_or_the_new_one() {
    let (mut old, mut new) = (0, 0);
    for operation in (3..40).step_by(3) {
        for kept in [0, 1, 2, 5] {
            let disk = MemoryDisk::default();
            let engine = TestEngine::Memory(disk.clone());
            let dir = engine.directory();
            let store = engine.open(&dir);
            disk.fail_at(disk.operations() + operation, DiskFault::PowerCut);
            let acknowledged = save_until_cut(&store).await;
            store.close().await.unwrap_err();
            disk.restart(kept);
            let (store, opening) = engine.try_open(&options(&dir)).unwrap();
            assert_eq!(opening.moved_aside, None);
            let found = listings(&store).await.remove("a");
            let minute = found
                .as_ref()
                .map_or(0, |found| found.listed_at.unwrap().duration_since(at(0)).as_secs() / 60);
            assert!((acknowledged..=acknowledged + 1).contains(&minute), "{acknowledged} {minute}");
            let count = usize::try_from(5000 - 1900 * (minute % 3)).unwrap();
            assert_eq!(found, (minute > 0).then(|| listing(count, minute)));
            *(if minute == acknowledged { &mut old } else { &mut new }) += 1;
            store.save_fleet_listing("a", Some(&listing(4, 4))).await.unwrap();
            assert_eq!(listings(&store).await, [named("a", listing(4, 4))].into());
            store.close().await.unwrap();
        }
    }
    assert!(old > 0 && new > 0, "{old} {new}");
}
