//! What remains in a stream after a snapshot, although the mirror does not have it.

use std::time::Duration;

use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, Consumer};
use async_nats::jetstream::stream::{RawMessageErrorKind, Stream};
use futures_util::StreamExt as _;

use super::error::of_sources;
use super::message::{MessageWriter, NatsMessage, SentLine, is_current};
use super::session::NatsSession;
use super::stream::subjects;
use crate::sinks::batch::SinkBatch;
use crate::sinks::error::{SinkError, SinkErrorKind};

/// Messages whose headers are read at a time.
const READ: usize = 1000;

/// Publishes removals of the events that did not come in the snapshot which the batch ends. Returns
/// the number of the last one, if there were any.
pub(super) async fn remove_ghosts(
    session: &NatsSession,
    stream: &Stream,
    writer: &MessageWriter,
    batch: &SinkBatch,
) -> Result<Option<u64>, SinkError> {
    let config = Config {
        filter_subject: subjects(&writer.subject),
        headers_only: true,
        ack_policy: AckPolicy::None,
        memory_storage: true,
        inactive_threshold: Duration::from_secs(60),
        ..Config::default()
    };
    let consumer = stream.create_consumer(config).await.map_err(|error| of_sources(&error))?;
    let mut last = None;
    loop {
        let (read, old) = old_messages(&consumer, batch).await?;
        if read == 0 {
            return Ok(last);
        }
        let mut ghosts = Vec::new();
        for sequence in old {
            ghosts.extend(ghost(stream, writer, batch, sequence).await?);
        }
        last = last.max(session.publish(ghosts).await?);
    }
}

/// Reads the headers of the next messages: how many they are, and the numbers of those that did not
/// come in the snapshot.
async fn old_messages(
    consumer: &Consumer<Config>,
    batch: &SinkBatch,
) -> Result<(usize, Vec<u64>), SinkError> {
    let unreadable = || SinkError::new(SinkErrorKind::Unavailable, "the stream cannot be read");
    let fetched = consumer.fetch().max_messages(READ).messages().await;
    let mut fetched = fetched.map_err(|error| of_sources(&error))?;
    let (mut read, mut old) = (0, Vec::new());
    while let Some(message) = fetched.next().await {
        let message = message.map_err(|_| unreadable())?;
        read += 1;
        if !is_current(message.headers.as_ref(), batch.snapshot) {
            old.push(message.info().map_err(|_| unreadable())?.stream_sequence);
        }
    }
    Ok((read, old))
}

/// The removal of the event in a message; `None` if that is gone, or none of calmirror's.
async fn ghost(
    stream: &Stream,
    writer: &MessageWriter,
    batch: &SinkBatch,
    sequence: u64,
) -> Result<Option<NatsMessage>, SinkError> {
    match stream.get_raw_message(sequence).await {
        Ok(found) => {
            let sent = serde_json::from_slice::<SentLine>(&found.payload).ok();
            Ok(sent.map(|sent| writer.ghost(batch, sent, sequence)))
        }
        Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => Ok(None),
        Err(error) => Err(of_sources(&error)),
    }
}
