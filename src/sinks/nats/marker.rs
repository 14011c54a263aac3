//! The message that says how far the sink is: for readers, which have to know when a snapshot is
//! whole, and for the sink itself, which recognises the stream by it.
//!
//! It is the last message of every batch, under a subject of its shard, and is accepted only after the
//! marker before it. So what a session had sent that has ended is refused, however late it arrives;
//! and a stream that was replaced, restored from an older copy, or written by another sink under the
//! same subjects is noticed, also if other programs write to it.

use std::fmt;
use std::str::FromStr;

use async_nats::jetstream::message::{OutboundMessage, PublishMessage};
use async_nats::jetstream::stream::Stream;

use super::division::{last_markers, outdated};
use super::marker_line::{BEGINS, DIVIDED, ENDS, MarkerLine};
use super::session::NatsSession;
use super::stream::marker_subject;
use crate::env::Env;
use crate::mirror::shard::Shard;
use crate::sinks::batch::SinkBatch;
use crate::sinks::error::SinkError;
use crate::sinks::target::{KeptPosition, NEW_SHARE};

/// The last marker of a sink in a stream: what a later session recognises it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamMark {
    /// When the stream was created, in nanoseconds since 1970.
    created: i128,
    /// The number of the marker; 0 if there is none.
    sequence: u64,
    /// The sink. Random.
    writer: u64,
}

impl fmt::Display for StreamMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{:016x}", self.created, self.sequence, self.writer)
    }
}

impl FromStr for StreamMark {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let parts: Vec<&str> = text.split('/').collect();
        let [created, sequence, writer] = parts[..] else { return Err(()) };
        let created = created.parse().map_err(|_| ())?;
        let sequence = sequence.parse().map_err(|_| ())?;
        let writer = u64::from_str_radix(writer, 16).map_err(|_| ())?;
        Ok(Self { created, sequence, writer })
    }
}

/// The markers of a shard of a sink in a stream.
#[derive(Clone, Debug)]
pub(super) struct MarkerChain {
    env: Env,
    stream: String,
    /// What subjects begin with.
    subject: String,
    shard: Shard,
    /// The chains of other shards that have to be ended, with the last number of each.
    outdated: Vec<(u32, u64)>,
    /// Whether the others were looked at since this shard has sent something.
    is_checked: bool,
    pub(super) mark: StreamMark,
    /// The last snapshot.
    snapshot: String,
    /// The attempt at it: one that begins twice, because the daemon did not learn that it had begun,
    /// does not keep what came in the first beginning only.
    pass: u64,
    /// The number of the marker that began it.
    began: u64,
}

impl MarkerChain {
    /// Reads the last marker. Also returns the position in it; [`KeptPosition::Lost`] if the stream
    /// is another one than that of a mark, or has less. A new sink has no mark.
    ///
    /// # Errors
    /// The stream cannot be read, or other shards have another count.
    pub(super) async fn read(
        stream: &Stream,
        (subject, shard): (&str, Shard),
        mark: Option<&str>,
        env: &Env,
    ) -> Result<(Self, KeptPosition), SinkError> {
        let known = mark.and_then(|mark| mark.parse::<StreamMark>().ok());
        let may_divide = mark == Some(NEW_SHARE);
        let mut markers = last_markers(stream, subject).await?;
        let outdated = outdated(&markers, shard, may_divide, env.now())?;
        let found = markers.remove(&shard.ordinal());
        let sequence = found.as_ref().map_or(0, |found| found.sequence);
        let line = found.and_then(|found| found.line);
        let created = stream.cached_info().created.unix_timestamp_nanos();
        let writer = known.map_or_else(|| env.random_u64(), |known| known.writer);
        let mark = StreamMark { created, sequence, writer };
        let is_known = known.is_some_and(|known| {
            let written = line.as_ref().map(|line| &*line.writer);
            known.created == created
                && written == Some(&*format!("{writer:016x}"))
                && known.sequence <= sequence
        });
        let mut chain = Self {
            env: env.clone(),
            stream: stream.cached_info().config.name.clone(),
            subject: subject.to_owned(),
            shard,
            outdated,
            is_checked: false,
            mark,
            snapshot: String::new(),
            pass: 0,
            began: 0,
        };
        let Some(line) = line.filter(|_| is_known) else {
            // So that readers notice it, too, although later snapshots may have followed.
            chain.mark.writer = env.random_u64();
            return Ok((chain, KeptPosition::Lost));
        };
        // The daemon may have been restored from a copy that does not know of this one: then the
        // cursor is not one of its feed.
        let kept = KeptPosition::InTarget(line.position());
        chain.pass = u64::from_str_radix(&line.pass, 16).unwrap_or_default();
        chain.began = if line.began == 0 { sequence } else { line.began };
        chain.snapshot = line.snapshot;
        Ok((chain, kept))
    }

    /// Ends the chains of shards that still go by another count.
    pub(super) async fn divide(
        &mut self,
        session: &NatsSession,
        batch: &SinkBatch,
    ) -> Result<(), SinkError> {
        while let Some((ordinal, sequence)) = self.outdated.last().copied() {
            let line = MarkerLine {
                change: DIVIDED.to_owned(),
                shard: format!("{ordinal}/{}", self.shard.count()),
                pass: format!("{:016x}", self.env.random_u64()),
                began: 0,
                ..self.line(batch, "", "")
            };
            let marker = self.marker((ordinal, sequence), &line);
            session.publish("", Vec::new(), marker).await?;
            self.outdated.pop();
        }
        Ok(())
    }

    /// Looks at the others once after this shard has sent something: shards with different counts that
    /// begin at the same time see nothing of each other before.
    ///
    /// # Errors
    /// There is another count.
    pub(super) async fn check_once(&mut self, stream: &Stream) -> Result<(), SinkError> {
        if !self.is_checked {
            let markers = last_markers(stream, &self.subject).await?;
            outdated(&markers, self.shard, false, self.env.now())?;
            self.is_checked = true;
        }
        Ok(())
    }

    /// What the messages of a snapshot have in common, and no others.
    pub(super) fn pass(&self, batch: &SinkBatch) -> Option<String> {
        batch.snapshot.map(|snapshot| format!("{snapshot}-{:016x}", self.pass))
    }

    /// Writes the marker that begins a snapshot, if the batch does.
    pub(super) async fn begin(
        &mut self,
        session: &NatsSession,
        batch: &SinkBatch,
    ) -> Result<(), SinkError> {
        if let Some(snapshot) = batch.snapshot.filter(|_| batch.begins) {
            (self.snapshot, self.pass) = (snapshot.to_string(), self.env.random_u64());
            self.began = 0;
            self.write(session, batch, (BEGINS, &batch.before), Vec::new()).await?;
            self.began = self.mark.sequence;
        }
        Ok(())
    }

    /// Writes messages of a batch, at most 999, with the marker behind them.
    pub(super) async fn publish(
        &mut self,
        session: &NatsSession,
        batch: &SinkBatch,
        messages: Vec<OutboundMessage>,
    ) -> Result<(), SinkError> {
        if messages.is_empty() && (batch.begins || batch.ends) {
            return Ok(());
        }
        let change = if batch.snapshot.is_some() { BEGINS } else { ENDS };
        self.write(session, batch, (change, &batch.after.cursor), messages).await
    }

    /// Writes the marker that ends a snapshot, if the batch does.
    pub(super) async fn end(
        &mut self,
        session: &NatsSession,
        batch: &SinkBatch,
    ) -> Result<(), SinkError> {
        if batch.ends {
            self.write(session, batch, (ENDS, &batch.after.cursor), Vec::new()).await?;
        }
        Ok(())
    }

    async fn write(
        &mut self,
        session: &NatsSession,
        batch: &SinkBatch,
        (change, cursor): (&str, &str),
        messages: Vec<OutboundMessage>,
    ) -> Result<(), SinkError> {
        let line = self.line(batch, change, cursor);
        let marker = self.marker((self.shard.ordinal(), self.mark.sequence), &line);
        let id = format!("{:016x}{:016x}", self.mark.writer, self.env.random_u64());
        self.mark.sequence = session.publish(&id, messages, marker).await?;
        Ok(())
    }

    fn line(&self, batch: &SinkBatch, change: &str, cursor: &str) -> MarkerLine {
        MarkerLine {
            change: change.to_owned(),
            shard: self.shard.to_string(),
            snapshot: self.snapshot.clone(),
            pass: format!("{:016x}", self.pass),
            began: self.began,
            sink: batch.sink.to_string(),
            cursor: cursor.to_owned(),
            at: batch.at,
            writer: format!("{:016x}", self.mark.writer),
        }
    }

    /// A marker of a shard, to be accepted only after the one with this number.
    fn marker(&self, (ordinal, after): (u32, u64), line: &MarkerLine) -> OutboundMessage {
        // Texts and times always serialize.
        let payload = serde_json::to_vec(line).unwrap_or_default();
        PublishMessage::build()
            .payload(payload.into())
            .expected_stream(&self.stream)
            .expected_last_subject_sequence(after)
            .outbound_message(marker_subject(&self.subject, ordinal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_back() {
        let created = 1_764_000_000_000_000_000;
        let mark = StreamMark { created, sequence: 17, writer: 255 };
        assert_eq!(mark.to_string(), "1764000000000000000/17/00000000000000ff");
        assert_eq!(mark.to_string().parse(), Ok(mark));
        for text in ["", "1", "1/2", "1//3", "/1/3", "1/x/3", "1/2/x", "1/2/3/4"] {
            assert_eq!(text.parse::<StreamMark>(), Err(()), "{text}");
        }
    }
}
