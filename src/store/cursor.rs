//! Cursors: opaque names for "everything up to this seq of this store".
//!
//! A cursor names the opening of the store (the incarnation) that assigned its seq. A store that
//! was rolled back, or copied and run separately, assigns the next seqs in another incarnation, so
//! a cursor of the other history is recognised. A cursor also carries the lowest valid seq at the
//! time it was made, so that a caller that does not need earlier removals (`api/ics`) can continue
//! from a seq below it until another tombstone is trimmed. Last, it says up to which change the
//! reader has seen *every* event ([`ReadPosition::caught_up`]): the entry of an event moves to a
//! later seq with each change, so passing a seq does not mean having seen the change it was given
//! to.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::error::FeedError;
use crate::mirror::change::Seq;

const VERSION: u8 = 2;
/// The cursors of 0.1 do not say what their reader has seen completely.
const VERSION_0_1: u8 = 1;

/// How far a reader has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReadPosition {
    /// The last seq that was read.
    pub(super) seq: Seq,
    /// The reader has seen every event as it was after the change with this seq, or later. At most
    /// `seq`.
    pub(super) caught_up: Seq,
}

impl ReadPosition {
    /// A reader that has seen every event as it was at `seq`.
    pub(super) fn caught_up(seq: Seq) -> Self {
        Self { seq, caught_up: seq }
    }
}

/// One opening of the store that assigned seqs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Incarnation {
    /// Random.
    pub(super) id: u64,
    /// The first seq it assigned, or would have assigned.
    pub(super) first: Seq,
}

/// Every opening of this store, in order. The last is the current one.
#[derive(Clone, Debug)]
pub(super) struct Incarnations(pub(super) Vec<Incarnation>);

impl Incarnations {
    /// The random id of the current incarnation.
    pub(super) fn current(&self) -> u64 {
        self.0.last().map_or(0, |i| i.id)
    }

    /// The incarnation that assigned a seq; seq 0 ("before the first") belongs to the first.
    fn of(&self, seq: Seq) -> u64 {
        let given = self.0.iter().rev().find(|i| i.first <= seq);
        given.or(self.0.first()).map_or(0, |i| i.id)
    }

    /// The cursor for a position, made while `min_seq` is the lowest valid seq.
    pub(super) fn cursor(&self, position: ReadPosition, min_seq: Seq) -> String {
        let ReadPosition { seq, caught_up } = position;
        let mut bytes = Vec::with_capacity(35);
        bytes.push(VERSION);
        for number in [self.of(seq), seq, min_seq, caught_up] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(&check(&bytes));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The position of a cursor.
    ///
    /// # Errors
    /// [`FeedError::Malformed`] if it is not a cursor, [`FeedError::SnapshotRequired`] if this
    /// store, whose last seq is `durable`, never issued it or cannot continue from it.
    pub(super) fn position(
        &self,
        cursor: &str,
        durable: Seq,
        min_seq: Seq,
    ) -> Result<ReadPosition, FeedError> {
        let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| FeedError::Malformed)?;
        let (body, sum) = bytes.split_last_chunk::<2>().ok_or(FeedError::Malformed)?;
        let Some((&version, numbers)) = body.split_first() else {
            return Err(FeedError::Malformed);
        };
        let (id, seq, made_at, caught_up) = match (version, numbers.as_chunks::<8>()) {
            (VERSION, ([id, seq, made_at, caught_up], [])) => (id, seq, made_at, *caught_up),
            (VERSION_0_1, ([id, seq, made_at], [])) => (id, seq, made_at, [0; 8]),
            _ => return Err(FeedError::Malformed),
        };
        if *sum != check(body) {
            return Err(FeedError::Malformed);
        }
        let [id, seq, made_at] = [id, seq, made_at].map(|b| u64::from_be_bytes(*b));
        let caught_up = u64::from_be_bytes(caught_up).min(seq);
        let reaches = seq == 0 || seq.max(made_at) >= min_seq;
        if self.of(seq) == id && seq <= durable && reaches {
            Ok(ReadPosition { seq, caught_up })
        } else {
            Err(FeedError::SnapshotRequired)
        }
    }
}

fn check(body: &[u8]) -> [u8; 2] {
    let [.., a, b] = crc32fast::hash(body).to_be_bytes();
    [a, b]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(incarnations: &[(u64, Seq)]) -> Incarnations {
        Incarnations(incarnations.iter().map(|&(id, first)| Incarnation { id, first }).collect())
    }

    fn at(seq: Seq) -> ReadPosition {
        ReadPosition::caught_up(seq)
    }

    #[test]
    fn a_cursor_is_the_same_after_a_restart() {
        let before = store(&[(7, 1), (8, 10)]);
        let after = store(&[(7, 1), (8, 10), (9, 20)]);
        for seq in 0..20 {
            assert_eq!(before.cursor(at(seq), 0), after.cursor(at(seq), 0));
            assert_eq!(after.position(&before.cursor(at(seq), 0), 25, 0).unwrap(), at(seq));
        }
        assert_ne!(before.cursor(at(20), 0), after.cursor(at(20), 0));
    }

    #[test]
    fn a_cursor_of_a_diverged_history_is_refused() {
        let ran_on = store(&[(7, 1)]);
        let copy = store(&[(7, 1), (8, 10)]);
        let foreign = store(&[(3, 1)]);
        let required = |result| matches!(result, Err(FeedError::SnapshotRequired));
        assert_eq!(copy.position(&ran_on.cursor(at(9), 0), 15, 0).unwrap(), at(9));
        assert!(required(copy.position(&ran_on.cursor(at(10), 0), 15, 0)));
        assert!(required(ran_on.position(&copy.cursor(at(10), 0), 15, 0)));
        assert!(required(foreign.position(&copy.cursor(at(3), 0), 15, 0)));
        assert!(required(ran_on.position(&ran_on.cursor(at(16), 0), 15, 0)));
    }

    #[test]
    fn a_trimmed_cursor_requires_a_snapshot() {
        let store = store(&[(7, 1)]);
        let required = |result| matches!(result, Err(FeedError::SnapshotRequired));
        assert!(required(store.position(&store.cursor(at(4), 0), 9, 5)));
        assert_eq!(store.position(&store.cursor(at(5), 0), 9, 5).unwrap(), at(5));
        assert_eq!(store.position(&store.cursor(at(0), 0), 9, 5).unwrap(), at(0));
        // The reader started from the beginning, and nothing was trimmed since.
        assert_eq!(store.position(&store.cursor(at(2), 5), 9, 5).unwrap(), at(2));
        assert!(required(store.position(&store.cursor(at(2), 5), 9, 6)));
    }

    #[test]
    fn malformed_cursors_are_refused() {
        let store = store(&[(7, 1)]);
        let good = store.cursor(at(3), 0);
        for i in 0..good.len() {
            let mut bad = good.clone().into_bytes();
            bad[i] = if bad[i] == b'A' { b'B' } else { b'A' };
            let bad = String::from_utf8(bad).unwrap();
            assert!(store.position(&bad, 9, 0).is_err(), "{bad}");
        }
        for bad in ["", "x", "now", "AAAA", "🙂", &good[1..]] {
            assert!(matches!(store.position(bad, 9, 0), Err(FeedError::Malformed)), "{bad}");
        }
    }

    #[test]
    fn a_cursor_says_what_its_reader_has_seen_and_one_of_0_1_does_not() {
        let store = store(&[(7, 1)]);
        let behind = ReadPosition { seq: 3, caught_up: 2 };
        assert_eq!(store.position(&store.cursor(behind, 0), 9, 0).unwrap(), behind);
        let mut old = vec![VERSION_0_1];
        [7u64, 3, 0].iter().for_each(|number| old.extend(number.to_be_bytes()));
        old.extend(check(&old));
        let read = store.position(&URL_SAFE_NO_PAD.encode(old), 9, 0).unwrap();
        assert_eq!(read, ReadPosition { seq: 3, caught_up: 0 });
    }
}
