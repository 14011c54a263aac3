//! The shards that publish to a stream: how many there are, and that all of them know it.
//!
//! Each shard has a chain of markers of its own. The first one with another count writes a marker
//! into the chains of all others. So what they still send by the old count is refused; a window that
//! moved is published by its new shard alone.

use std::collections::BTreeMap;

use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use futures_util::TryStreamExt as _;
use jiff::{SignedDuration, Timestamp};

use super::error::of_sources;
use super::marker_line::MarkerLine;
use super::stream::{marker_subject, marker_subjects};
use crate::mirror::shard::{MAX_SHARDS, Shard};
use crate::sinks::error::{SinkError, SinkErrorKind};

/// Shards whose last marker is older than this have stopped: one without changes writes a marker each
/// hour.
const SILENCE: SignedDuration = SignedDuration::from_hours(2);

/// The last marker of a shard.
pub(super) struct LastMarker {
    /// Its number in the stream.
    pub(super) sequence: u64,
    /// `None` if it is none of calmirror's.
    pub(super) line: Option<MarkerLine>,
}

/// The last marker of each shard that has one, by its number.
pub(super) async fn last_markers(
    stream: &Stream,
    subject: &str,
) -> Result<BTreeMap<u32, LastMarker>, SinkError> {
    let found = stream.info_with_subjects(marker_subjects(subject)).await;
    let found = found.map_err(|error| of_sources(&error))?;
    let subjects: Vec<(String, usize)> =
        found.try_collect().await.map_err(|error| of_sources(&error))?;
    let mut markers = BTreeMap::new();
    for (found, _) in subjects {
        let ordinal = found.rsplit('.').next().and_then(|ordinal| ordinal.parse().ok());
        let Some(ordinal) = ordinal.filter(|ordinal| *ordinal < MAX_SHARDS) else { continue };
        if let Some(marker) = last_marker(stream, &marker_subject(subject, ordinal)).await? {
            markers.insert(ordinal, marker);
        }
    }
    Ok(markers)
}

async fn last_marker(stream: &Stream, subject: &str) -> Result<Option<LastMarker>, SinkError> {
    match stream.get_last_raw_message_by_subject(subject).await {
        Ok(found) => {
            let line = serde_json::from_slice(&found.payload).ok();
            Ok(Some(LastMarker { sequence: found.sequence, line }))
        }
        Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
        Err(error) => Err(of_sources(&error)),
    }
}

/// The chains of other shards that still go by another count, with the number of the last marker of
/// each. They have to get another one before this shard sends anything.
///
/// # Errors
/// Shards with another count are alive, and this one may not end them, because its own did not change:
/// it was left behind, or has lost its store.
pub(super) fn outdated(
    markers: &BTreeMap<u32, LastMarker>,
    shard: Shard,
    may_divide: bool,
    now: Timestamp,
) -> Result<Vec<(u32, u64)>, SinkError> {
    let mut outdated = Vec::new();
    let mut others = None;
    for (ordinal, LastMarker { sequence, line }) in markers {
        let Some((line, count)) = line.as_ref().and_then(|line| Some((line, line.count()?))) else {
            continue;
        };
        if count != shard.count() {
            others = others.max(Some((line.at, count)));
            if *ordinal != shard.ordinal() {
                outdated.push((*ordinal, *sequence));
            }
        }
    }
    let is_alive = |at: Timestamp| now.duration_since(at) < SILENCE;
    match others {
        Some((at, other)) if !may_divide && is_alive(at) => {
            let message = format!(
                "the count of shards is {other} in the stream, and {} in this process: the configurations \
                 differ; start every process with the same count",
                shard.count()
            );
            Err(SinkError::new(SinkErrorKind::Unsuitable, message))
        }
        _ => Ok(outdated),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::NOON;

    /// The last markers, each written as its shard and its age in minutes.
    fn markers(all: &[(&str, i64)]) -> BTreeMap<u32, LastMarker> {
        let marker = |(sequence, (shard, minutes)): (u64, &(&str, i64))| {
            let at = NOON - SignedDuration::from_mins(*minutes);
            let line = serde_json::json!({
                "change": "snapshot_ends", "shard": shard, "snapshot": "1", "pass": "1", "began": 1,
                "sink": "log", "cursor": "", "at": at, "writer": "1",
            });
            let line = serde_json::from_value(line).unwrap();
            let ordinal = shard.split_once('/').unwrap().0.parse().unwrap();
            (ordinal, LastMarker { sequence, line: Some(line) })
        };
        (1..).zip(all).map(marker).collect()
    }

    #[test]
    fn the_shard_whose_count_changed_ends_the_others() {
        let shard = Shard::new(1, 4).unwrap();
        let of = |all: &[(&str, i64)], may_divide| {
            outdated(&markers(all), shard, may_divide, NOON).map_err(|error| error.message)
        };
        let three = [("0/3", 0), ("1/3", 0), ("2/3", 0)];
        assert_eq!(of(&three, true), Ok(vec![(0, 1), (2, 3)]));
        // Some have changed before it.
        let some = [("0/4", 0), ("1/4", 0), ("2/3", 0)];
        assert_eq!(of(&some, true), Ok(vec![(2, 3)]));
        assert_eq!(of(&[("0/4", 0), ("2/4", 0), ("5/4", 0)], false), Ok(Vec::new()));
        // Its own marker, which another shard wrote.
        let waits = of(&[("1/3", 0)], false).unwrap_err();
        assert!(waits.starts_with("the count of shards is 3 in the stream, and 4 in this process"));
        // Nobody is left of the others.
        assert_eq!(of(&[("0/3", 121), ("1/3", 200)], false), Ok(vec![(0, 1)]));
        assert!(of(&[("0/3", 119), ("1/3", 200)], false).is_err());
    }
}
