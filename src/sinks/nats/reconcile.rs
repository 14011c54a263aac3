//! What remains in a stream after a snapshot, although the mirror does not have it.

use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, Consumer};
use async_nats::jetstream::message::OutboundMessage;
use async_nats::jetstream::stream::{RawMessageErrorKind, Stream};
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::time::timeout;

use super::error::{LATE, of_sources};
use super::marker::MarkerChain;
use super::message::{MessageWriter, SentLine, is_current};
use super::session::{ANSWER_LIMIT, NatsSession};
use super::share::{GhostScope, StreamShare};
use super::stream::event_subjects;
use crate::sinks::batch::SinkBatch;
use crate::sinks::error::{SinkError, SinkErrorKind};

/// Messages whose headers are read at a time.
const READ: usize = 900;
/// Messages that are read whole at the same time.
const AT_ONCE: usize = 32;

/// Publishes removals of the events that did not come in the pass of the snapshot that the batch
/// ends, as far as they are this shard's.
pub(super) async fn remove_ghosts(
    session: &NatsSession,
    stream: &Stream,
    (writer, share): (&MessageWriter, &StreamShare),
    batch: &SinkBatch,
    markers: &mut MarkerChain,
) -> Result<(), SinkError> {
    let Some(pass) = &markers.pass(batch) else { return Ok(()) };
    let (consumer, scope) = (headers(stream, writer).await?, share.ghosts());
    loop {
        let (read, old) = old_messages(&consumer, pass, &scope).await?;
        if read == 0 {
            return Ok(());
        }
        let ghosts =
            old.into_iter().map(|sequence| ghost(stream, writer, (batch, pass, &scope), sequence));
        let ghosts: Vec<Option<OutboundMessage>> =
            futures_util::stream::iter(ghosts).buffered(AT_ONCE).try_collect().await?;
        markers.publish(session, batch, ghosts.into_iter().flatten().collect()).await?;
    }
}

/// Shows that a stream can be read as the end of a snapshot needs it.
pub(super) async fn try_to_read(stream: &Stream, writer: &MessageWriter) -> Result<(), SinkError> {
    let consumer = headers(stream, writer).await?;
    fetch(&consumer).await.map(drop)
}

/// Reads the headers of a sink's events from the beginning.
async fn headers(stream: &Stream, writer: &MessageWriter) -> Result<Consumer<Config>, SinkError> {
    let config = Config {
        filter_subject: event_subjects(&writer.subject),
        headers_only: true,
        ack_policy: AckPolicy::None,
        memory_storage: true,
        inactive_threshold: Duration::from_secs(300),
        ..Config::default()
    };
    stream.create_consumer(config).await.map_err(|error| of_sources(&error))
}

/// Reads the next messages.
async fn fetch(consumer: &Consumer<Config>) -> Result<Vec<Message>, SinkError> {
    let fetched = consumer.fetch().max_messages(READ).messages().await;
    let mut fetched = fetched.map_err(|error| of_sources(&error))?;
    let mut messages = Vec::new();
    // The library would wait for ever for a node of the cluster that has stopped.
    let late = |_| SinkError::new(SinkErrorKind::Unavailable, LATE);
    while let Some(message) = timeout(ANSWER_LIMIT, fetched.next()).await.map_err(late)? {
        messages.push(message.map_err(|_| unreadable())?);
    }
    Ok(messages)
}

fn unreadable() -> SinkError {
    SinkError::new(SinkErrorKind::Unavailable, "the stream cannot be read")
}

/// Reads the headers of the next messages: how many they are, and the numbers of those that did not
/// come in the snapshot.
async fn old_messages(
    consumer: &Consumer<Config>,
    pass: &str,
    scope: &GhostScope,
) -> Result<(usize, Vec<u64>), SinkError> {
    let messages = fetch(consumer).await?;
    let mut old = Vec::new();
    for message in &messages {
        let headers = message.headers.as_ref();
        if !is_current(headers, pass) && scope.may_include(&message.subject, headers) {
            old.push(message.info().map_err(|_| unreadable())?.stream_sequence);
        }
    }
    Ok((messages.len(), old))
}

/// The removal of the event in a message; `None` if that is gone, or none of calmirror's.
async fn ghost(
    stream: &Stream,
    writer: &MessageWriter,
    (batch, pass, scope): (&SinkBatch, &str, &GhostScope),
    sequence: u64,
) -> Result<Option<OutboundMessage>, SinkError> {
    match stream.get_raw_message(sequence).await {
        Ok(found) => {
            let sent = serde_json::from_slice::<SentLine>(&found.payload).ok();
            // A copy of a line under another subject is nothing of this sink.
            let own = |sent: &SentLine| {
                writer.subject_of(&sent.window, &sent.id) == found.subject.as_str()
                    && scope.includes(&sent.window)
            };
            Ok(sent.filter(own).map(|sent| writer.ghost((batch, pass), sent, sequence)))
        }
        Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => Ok(None),
        Err(error) => Err(of_sources(&error)),
    }
}
