//! Compares the windows of the store with the wanted ones when a daemon starts.
//!
//! Most windows are in the store as they are wanted. A million of them take seconds to read, so
//! everything that a start needs of a range of windows is read in one pass over the records, the
//! counters and the positions, in the order of their keys, and several ranges at the same time.

use std::iter::Peekable;
use std::ops::Range;

use super::engine::{EngineBytes, EngineScan};
use super::error::TreeError;
use super::record::{self, Counters, WindowRecord};
use super::tree::Tree;
use super::{ComparedWindows, WindowRegistration, keys, register};
use crate::mirror::position::WindowId;

/// Compares the live windows with these numbers. `wanted` returns the wanted window of a name and
/// its place in the configuration.
pub(super) fn compare(
    tree: &Tree,
    ids: Range<u32>,
    wanted: impl Fn(&str) -> Option<(usize, WindowRegistration)>,
) -> Result<ComparedWindows, TreeError> {
    let mut compared = ComparedWindows::default();
    let (from, to) = (WindowId(ids.start), WindowId(ids.end));
    let counters = tree.range(keys::counters(from)..keys::counters(to));
    let positions = tree.range(keys::positions(from)..keys::positions(to));
    let (mut counters, mut positions) = (counters.peekable(), positions.peekable());
    for entry in tree.range(keys::window(from)..keys::window(to)) {
        let (key, value) = entry?;
        let id = keys::window_of(&key).ok_or(TreeError::Damaged("window"))?;
        let record = WindowRecord::decode(&value)?;
        compared.count.known += 1;
        let Some((place, wanted)) = wanted(&record.name) else {
            compared.unwanted.push((id, record.name));
            continue;
        };
        if record.identity != wanted.identity {
            continue;
        }
        compared.count.staying += 1;
        if register::resync_reason(&record, &wanted).is_some() {
            continue;
        }
        let counters = entries(&mut counters, id).next().transpose()?;
        let counters = counters.map_or(Ok(Counters::default()), |(_, v)| Counters::decode(&v))?;
        let positions = entries(&mut positions, id).map(|entry| {
            let (key, value) = entry?;
            let segment = keys::position_segment(&key).ok_or(TreeError::Damaged("position"))?;
            Ok((segment, record::from_position(&value)?))
        });
        let positions = positions.collect::<Result<Vec<_>, TreeError>>()?;
        let registered = register::registered(id, &record, counters, &positions, None);
        compared.unchanged.push((place, registered));
    }
    Ok(compared)
}

/// The entries of a window in a scan over those of many windows, which is ahead of no window that
/// will still be looked for.
fn entries(
    scan: &mut Peekable<EngineScan>,
    window: WindowId,
) -> impl Iterator<Item = Result<(EngineBytes, EngineBytes), TreeError>> {
    let before = move |key: &[u8]| keys::window_of(key) < Some(window);
    while scan.next_if(|entry| entry.as_ref().is_ok_and(|(key, _)| before(key))).is_some() {}
    let of = move |key: &[u8]| keys::window_of(key) == Some(window);
    std::iter::from_fn(move || {
        let entry = scan.next_if(|entry| entry.as_ref().map_or(true, |(key, _)| of(key)))?;
        Some(entry.map_err(TreeError::from))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::mirror::commit::{Commit, CounterUpdates};
    use crate::mirror::page::Link;
    use crate::mirror::position::{Phase, Position};
    use crate::store::batch::WriteBatch;
    use crate::store::{Store, WantedWindows};
    use crate::tests::{NOON, env, open, registration, window};

    const NAMES: [&str; 7] = ["alice", "bob", "carol", "dave", "erin", "frank", "grace"];

    /// A store with these windows. Bob and erin have positions, and carol is being dropped.
    async fn store(dir: &tempfile::TempDir) -> Store {
        let store = open(dir.path(), &env());
        let all = NAMES.map(|name| registration(&window(name)));
        let registered = store.register(all.into(), NOON).await.unwrap();
        for (place, segment, has_pending) in [(1, 0, false), (4, 0, true), (4, 1, false)] {
            let phase = Phase::Settled { delta: Some(Link::new("https://g/delta")) };
            let position = Some(Position::new(phase, has_pending));
            let counters = CounterUpdates { round: Some(place), ..CounterUpdates::default() };
            let id = registered[usize::try_from(place).unwrap()].id;
            let commit = Commit { position, counters, ..Commit::new(id, segment, NOON) };
            store.commit(commit).await.unwrap();
        }
        let mut batch = WriteBatch::default();
        let carol = WindowId(3);
        let (record, _) = store.shared().read_tree(|tree| tree.window(carol)).unwrap();
        register::mark_dropping(carol, &record.unwrap(), &mut batch);
        store.shared().apply(0, batch).unwrap();
        store
    }

    #[tokio::test]
    async fn a_comparison_returns_what_registering_would() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir).await;
        // Dave's window shows another mailbox, frank's begins at another time, grace's is unwanted.
        let mut wanted = NAMES.map(|name| registration(&window(name)));
        wanted[3].identity.mailbox = "other".into();
        wanted[5].start = wanted[5].end;
        let found = wanted.clone();
        let find: WantedWindows = Arc::new(move |name| {
            let place = found.iter().position(|wanted| &*wanted.name == name)?;
            (name != "grace").then(|| (place, found[place].clone()))
        });
        for ranges in [&[0..0, 0..8][..], &[0..2, 2..5, 5..100], &[4..5, 0..4, 5..8], &[7..8, 0..7]]
        {
            let mut all = ComparedWindows::default();
            for ids in ranges {
                let one = store.compare_windows(ids.clone(), find.clone()).await.unwrap();
                all.count.known += one.count.known;
                all.count.staying += one.count.staying;
                all.unwanted.extend(one.unwanted);
                all.unchanged.extend(one.unchanged);
            }
            assert_eq!((all.count.known, all.count.staying), (6, 4), "{ranges:?}");
            assert_eq!(all.unwanted, [(WindowId(7), "grace".into())]);
            all.unchanged.sort_by_key(|(place, _)| *place);
            let places: Vec<usize> = all.unchanged.iter().map(|(place, _)| *place).collect();
            assert_eq!(places, [0, 1, 4], "{ranges:?}");
            for (place, compared) in all.unchanged {
                let registered = store.register(vec![wanted[place].clone()], NOON).await.unwrap();
                assert_eq!(format!("{:?}", [compared]), format!("{registered:?}"));
            }
        }
    }
}
