//! The keys of the tree: one byte for the kind, then big-endian numbers and hashes, so that byte
//! order is the order in which things are read.
//!
//! One tree holds everything, because only writes to one tree are atomic together. Text appears
//! only at the end of a key, so that no key is a prefix of a key of another kind.

use sha2::{Digest as _, Sha256};

use crate::mirror::change::Seq;
use crate::mirror::page::EventHash;
use crate::mirror::position::{PendingKey, SegmentIndex, WindowId};

/// Layout version of keys and records.
pub(super) const SCHEMA: &[u8] = b"m/schema";
/// The last assigned seq.
pub(super) const LAST_SEQ: &[u8] = b"m/last_seq";
/// The number of the next window.
pub(super) const NEXT_WINDOW: &[u8] = b"m/next_window";
/// The checksum of the seqs of all changes.
pub(super) const SUM: &[u8] = b"m/sum";
/// The highest seq of a trimmed tombstone.
pub(super) const MIN_SEQ: &[u8] = b"m/floor";

/// The numbers of the dictionaries, and what is known about them.
pub(super) const DICTIONARIES: &[u8] = b"m/dictionaries";

// The kinds of keys: their first byte.
pub(super) const INCARNATION: u8 = b'i';
pub(super) const NAME: u8 = b'n';
pub(super) const WINDOW: u8 = b'w';
pub(super) const DROPPING: u8 = b'o';
pub(super) const COUNTERS: u8 = b'k';
pub(super) const POSITION: u8 = b'l';
pub(super) const PENDING: u8 = b'd';
pub(super) const EVENT: u8 = b'e';
pub(super) const TIME: u8 = b't';
pub(super) const LONG: u8 = b'u';
pub(super) const SERIES: u8 = b'r';
pub(super) const SEEN: u8 = b's';
pub(super) const FEED: u8 = b'f';
pub(super) const TOMBSTONE: u8 = b'x';
pub(super) const AGE: u8 = b'y';
pub(super) const DICTIONARY: u8 = b'z';
pub(super) const FLEET: u8 = b'g';
pub(super) const SINK: u8 = b'q';

/// Length of the key of a fleet's record; the keys of its parts are longer.
const FLEET_LEN: usize = 1 + 16;

/// Length of an event's key; the keys of its chunks are longer.
const EVENT_LEN: usize = 1 + 4 + 16;

fn key(kind: u8, rest: &[u8]) -> Vec<u8> {
    [&[kind], rest].concat()
}

fn of_window(kind: u8, window: WindowId, rest: &[&[u8]]) -> Vec<u8> {
    let mut key = key(kind, &window.0.to_be_bytes());
    for part in rest {
        key.extend_from_slice(part);
    }
    key
}

/// Microseconds as bytes that sort like the number.
fn sortable(micros: i64) -> [u8; 8] {
    (micros.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

fn from_sortable(bytes: [u8; 8]) -> i64 {
    (u64::from_be_bytes(bytes) ^ (1 << 63)).cast_signed()
}

fn array<const N: usize>(key: &[u8], at: usize) -> Option<[u8; N]> {
    key.get(at..at + N)?.try_into().ok()
}

/// An opening of the store.
pub(super) fn incarnation(number: u32) -> Vec<u8> {
    key(INCARNATION, &number.to_be_bytes())
}

/// The live window of a name.
pub(super) fn name(name: &str) -> Vec<u8> {
    key(NAME, name.as_bytes())
}

/// The name in such a key.
pub(super) fn named(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.get(1..)?).ok()
}

/// A live window's record.
pub(super) fn window(window: WindowId) -> Vec<u8> {
    of_window(WINDOW, window, &[])
}

/// The record of a window that is being dropped.
pub(super) fn dropping(window: WindowId) -> Vec<u8> {
    of_window(DROPPING, window, &[])
}

/// The window in the key of a record.
pub(super) fn window_of(key: &[u8]) -> Option<WindowId> {
    array(key, 1).map(|b| WindowId(u32::from_be_bytes(b)))
}

/// A window's counters.
pub(super) fn counters(window: WindowId) -> Vec<u8> {
    of_window(COUNTERS, window, &[])
}

/// A segment's position.
pub(super) fn position(window: WindowId, segment: SegmentIndex) -> Vec<u8> {
    of_window(POSITION, window, &[&[segment]])
}

/// All positions of a window.
pub(super) fn positions(window: WindowId) -> Vec<u8> {
    of_window(POSITION, window, &[])
}

/// The segment in the key of a position.
pub(super) fn position_segment(key: &[u8]) -> Option<SegmentIndex> {
    key.get(5).copied()
}

/// A pending entry.
pub(super) fn pending(window: WindowId, segment: SegmentIndex, entry: PendingKey) -> Vec<u8> {
    let (kind, hashes) = match entry {
        PendingKey::Series(master) => (PENDING_SERIES, master.0.to_vec()),
        PendingKey::Waiting(master, id) => (PENDING_WAITING, [master.0, id.0].concat()),
        PendingKey::Removal(id) => (PENDING_REMOVAL, id.0.to_vec()),
    };
    of_window(PENDING, window, &[&[segment, kind], &hashes])
}

const PENDING_SERIES: u8 = 0;
const PENDING_WAITING: u8 = 1;
const PENDING_REMOVAL: u8 = 2;

/// The pending entry of a key; `None` for the key of a chunk.
pub(super) fn pending_of(key: &[u8]) -> Option<PendingKey> {
    let first = EventHash(array(key, 7)?);
    match (*key.get(6)?, key.len()) {
        (PENDING_SERIES, 23) => Some(PendingKey::Series(first)),
        (PENDING_REMOVAL, 23) => Some(PendingKey::Removal(first)),
        (PENDING_WAITING, 39) => Some(PendingKey::Waiting(first, EventHash(array(key, 23)?))),
        _ => None,
    }
}

/// All pending entries of a segment.
pub(super) fn all_pending(window: WindowId, segment: SegmentIndex) -> Vec<u8> {
    of_window(PENDING, window, &[&[segment]])
}

/// An event's row.
pub(super) fn event(window: WindowId, id: EventHash) -> Vec<u8> {
    of_window(EVENT, window, &[&id.0])
}

/// All rows of a window (and their chunks).
pub(super) fn events(window: WindowId) -> Vec<u8> {
    of_window(EVENT, window, &[])
}

/// The event in the key of a row; `None` for the key of a chunk.
pub(super) fn event_of(key: &[u8]) -> Option<EventHash> {
    (key.len() == EVENT_LEN && key.first() == Some(&EVENT))
        .then(|| array(key, 5).map(EventHash))
        .flatten()
}

/// One further chunk of a large value.
pub(super) fn chunk(of: &[u8], number: u16) -> Vec<u8> {
    [of, &number.to_be_bytes()].concat()
}

/// An event in the index by start.
pub(super) fn time(window: WindowId, start: i64, id: EventHash) -> Vec<u8> {
    of_window(TIME, window, &[&sortable(start), &id.0])
}

/// A long event in the index by start.
pub(super) fn long(window: WindowId, start: i64, id: EventHash) -> Vec<u8> {
    of_window(LONG, window, &[&sortable(start), &id.0])
}

/// The first possible key at or after an instant in the index by start.
pub(super) fn time_from(window: WindowId, start: i64) -> Vec<u8> {
    of_window(TIME, window, &[&sortable(start)])
}

/// The end of the index by start.
pub(super) fn time_end(window: WindowId) -> Vec<u8> {
    of_window(TIME, window, &[&[0xff; 25]])
}

/// The first possible key at or after an instant in the index of long events.
pub(super) fn long_from(window: WindowId, start: i64) -> Vec<u8> {
    of_window(LONG, window, &[&sortable(start)])
}

/// Start and event of an index key.
pub(super) fn time_of(key: &[u8]) -> Option<(i64, EventHash)> {
    Some((from_sortable(array(key, 5)?), EventHash(array(key, 13)?)))
}

/// An instance in its series.
pub(super) fn instance(window: WindowId, master: EventHash, id: EventHash) -> Vec<u8> {
    of_window(SERIES, window, &[&master.0, &id.0])
}

/// All instances of a series.
pub(super) fn instances(window: WindowId, master: EventHash) -> Vec<u8> {
    of_window(SERIES, window, &[&master.0])
}

/// The instance in the key of a series entry.
pub(super) fn instance_of(key: &[u8]) -> Option<EventHash> {
    array(key, 21).map(EventHash)
}

/// Part of a seen list: the ids that one page of an enumeration carried.
pub(super) fn seen(window: WindowId, segment: SegmentIndex, page: u32, part: u16) -> Vec<u8> {
    of_window(SEEN, window, &[&[segment], &page.to_be_bytes(), &part.to_be_bytes()])
}

/// The seen list of one page.
pub(super) fn seen_page(window: WindowId, segment: SegmentIndex, page: u32) -> Vec<u8> {
    of_window(SEEN, window, &[&[segment], &page.to_be_bytes()])
}

/// All seen lists of a segment.
pub(super) fn seen_all(window: WindowId, segment: SegmentIndex) -> Vec<u8> {
    of_window(SEEN, window, &[&[segment]])
}

/// A change.
pub(super) fn feed(seq: Seq) -> Vec<u8> {
    key(FEED, &seq.to_be_bytes())
}

/// The seq in the key of a change or an age.
pub(super) fn seq_of(key: &[u8]) -> Option<Seq> {
    array(key, 1).map(u64::from_be_bytes)
}

/// The seq of the tombstone of an id.
pub(super) fn tombstone(window: WindowId, id: EventHash) -> Vec<u8> {
    of_window(TOMBSTONE, window, &[&id.0])
}

/// When a tombstone was written.
pub(super) fn age(seq: Seq) -> Vec<u8> {
    key(AGE, &seq.to_be_bytes())
}

/// A dictionary that the store trained.
pub(super) fn dictionary(number: u32) -> Vec<u8> {
    key(DICTIONARY, &number.to_be_bytes())
}

/// The saved state of a sink.
pub(super) fn sink(name: &str) -> Vec<u8> {
    key(SINK, name.as_bytes())
}

/// The record of a fleet's listing, and the prefix of the parts. A name may have any length, so the
/// key has its hash.
pub(super) fn fleet(name: &str) -> Vec<u8> {
    key(FLEET, &Sha256::digest(name.as_bytes())[..FLEET_LEN - 1])
}

/// Whether a key is that of a fleet's record.
pub(super) fn is_fleet(key: &[u8]) -> bool {
    key.len() == FLEET_LEN && key.first() == Some(&FLEET)
}

/// All parts of the members in one listing of a fleet.
pub(super) fn fleet_parts(fleet: &[u8], listing: u64) -> Vec<u8> {
    [fleet, &listing.to_be_bytes()].concat()
}

/// One part of the members in one listing of a fleet.
pub(super) fn fleet_part(fleet: &[u8], listing: u64, number: u32) -> Vec<u8> {
    [&*fleet_parts(fleet, listing), &number.to_be_bytes()].concat()
}

/// The prefixes of what is left of a window once its shown events have been removed.
pub(super) fn leftovers(window: WindowId) -> [Vec<u8>; 7] {
    [POSITION, PENDING, SEEN, SERIES, TIME, LONG, EVENT].map(|kind| of_window(kind, window, &[]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hash() -> impl Strategy<Value = EventHash> {
        any::<[u8; 16]>().prop_map(EventHash)
    }

    proptest! {
        #[test]
        fn index_keys_sort_as_their_starts(
            (a, x) in (any::<i64>(), hash()), (b, y) in (any::<i64>(), hash()), w in any::<u32>(),
        ) {
            let w = WindowId(w);
            prop_assert_eq!(time(w, a, x).cmp(&time(w, b, y)), (a, x).cmp(&(b, y)));
            prop_assert_eq!(time_of(&time(w, a, x)), Some((a, x)));
            prop_assert!(time_from(w, a) <= time(w, a, x));
            prop_assert!(time(w, a, x) < time_end(w));
        }

        #[test]
        fn windows_do_not_mix(a in any::<u32>(), b in any::<u32>(), x in hash(), y in hash()) {
            // Practically never equal. Rejecting `a > b` as well would reject half of all cases.
            prop_assume!(a != b);
            let (a, b) = (a.min(b), a.max(b));
            prop_assert!(event(WindowId(a), x) < event(WindowId(b), y));
            prop_assert!(!event(WindowId(b), y).starts_with(&events(WindowId(a))));
        }

        #[test]
        fn keys_decode_to_their_parts(
            w in any::<u32>(), s in 0..64u8, a in hash(), b in hash(), seq in any::<u64>(), n in 1..9u16,
        ) {
            let w = WindowId(w);
            for key in [PendingKey::Series(a), PendingKey::Waiting(a, b), PendingKey::Removal(a)] {
                prop_assert_eq!(pending_of(&pending(w, s, key)), Some(key));
                prop_assert_eq!(pending_of(&chunk(&pending(w, s, key), n)), None);
            }
            prop_assert_eq!(event_of(&event(w, a)), Some(a));
            prop_assert_eq!(event_of(&chunk(&event(w, a), n)), None);
            prop_assert_eq!(instance_of(&instance(w, a, b)), Some(b));
            prop_assert_eq!(seq_of(&feed(seq)), Some(seq));
            prop_assert_eq!(window_of(&window(w)), Some(w));
            prop_assert_eq!(position_segment(&position(w, s)), Some(s));
            let fleet = fleet(&seq.to_string());
            prop_assert!(is_fleet(&fleet) && !is_fleet(&fleet_part(&fleet, seq, w.0)));
        }
    }
}
