//! The shards that publish to a stream: how many there are, and that all of them know it.
//!
//! Each shard has a chain of markers of its own. The first one with another count writes a marker
//! into the chains of all others. So what they still send by the old count is refused; a window that
//! moved is published by its new shard alone.

use std::collections::BTreeMap;

use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use futures_util::TryStreamExt as _;

use super::error::of_sources;
use super::marker::{MarkerLine, StreamMark};
use super::stream::{marker_subject, marker_subjects};
use crate::mirror::shard::{MAX_SHARDS, Shard};
use crate::sinks::error::{SinkError, SinkErrorKind};

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
/// This shard's count did not change since it last sent something, so it is the one that has to be
/// changed.
pub(super) fn outdated(
    markers: &BTreeMap<u32, LastMarker>,
    shard: Shard,
    known: Option<StreamMark>,
) -> Result<Vec<(u32, u64)>, SinkError> {
    let mut outdated = Vec::new();
    let mut other = None;
    for (ordinal, LastMarker { sequence, line }) in markers {
        let count = line.as_ref().and_then(MarkerLine::count);
        if count.is_some_and(|count| count != shard.count()) {
            other = count;
            if *ordinal != shard.ordinal() {
                outdated.push((*ordinal, *sequence));
            }
        }
    }
    match other {
        Some(other) if known.is_some_and(|known| known.count == shard.count()) => {
            let message = format!(
                "the stream is divided among {other} shards, and this process is one of {}: the \
                 configurations differ; start every process with the same count",
                shard.count()
            );
            Err(SinkError::new(SinkErrorKind::Unsuitable, message))
        }
        _ => Ok(outdated),
    }
}
