//! Sends changes to a stream of NATS JetStream, one subject for each event.
//!
//! The stream keeps the last message of a subject. So it always holds the mirror, folded, and a
//! reader that begins at its start gets the mirror. The messages of a batch are stored together, with
//! a marker that is accepted only after the one before it: nothing that an ended session had sent can
//! replace what is newer.
//!
//! The marker shows when the stream was deleted or restored from an older copy: then it gets a
//! snapshot. At the end of each snapshot, removals are sent of the events in the stream that
//! the mirror does not have: the sink's subjects are its own, or those of its windows if several
//! processes share them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::stream::Stream;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use secrecy::{ExposeSecret as _, SecretString};

use self::marker::MarkerChain;
use self::message::{MessageWriter, NatsMessage};
use self::servers::{NatsLogin, NatsServers};
use self::session::{NatsLoginFiles, NatsSession};
pub use self::share::StreamShare;
use super::batch::SinkBatch;
use super::error::{SinkError, SinkErrorKind};
use super::network::tls_config;
use super::secret::{SinkSecret, read_file, unusable};
use super::target::{KeptPosition, Receipt, SinkTarget};
use crate::env::Env;

mod division;
mod error;
mod marker;
mod marker_line;
mod message;
mod reconcile;
mod servers;
mod session;
mod share;
mod stream;

/// A stream as the target of a sink.
#[derive(Clone, Debug)]
pub struct NatsSettings {
    /// The addresses of the servers.
    pub url: SinkSecret,
    /// The file with the JWT and the key of the user.
    pub credentials_file: Option<PathBuf>,
    /// Authorities of certificates, beside those of the system.
    pub authorities: Arc<[CertificateDer<'static>]>,
    /// The stream.
    pub stream: Arc<str>,
    /// What subjects begin with.
    pub subject: Arc<str>,
    /// How long removals stay in the stream.
    pub retention: Duration,
}

impl NatsSettings {
    /// What is wrong with the addresses and with the credentials.
    pub fn problems(&self) -> Vec<SinkError> {
        let plain = || {
            let message = "has an address with nats:// on another machine: events are readable on \
                           the way unless the server asks for TLS; use tls://";
            unusable(self.url.place(), message)
        };
        let servers = match self.read_servers() {
            Ok(servers) => servers.is_plain().then(plain),
            Err(error) => Some(error),
        };
        servers.into_iter().chain(self.read_credentials().err()).collect()
    }

    /// The servers and the stream, for people.
    pub fn shown(&self) -> String {
        match self.read_servers() {
            Ok(servers) => format!("{servers}, stream {}", self.stream),
            Err(_) => format!("stream {}", self.stream),
        }
    }

    fn read_servers(&self) -> Result<NatsServers, SinkError> {
        let text = self.url.read()?;
        let servers = NatsServers::parse(text.expose_secret())
            .map_err(|problem| unusable(self.url.place(), problem))?;
        if self.credentials_file.is_some() && servers.login != NatsLogin::Anonymous {
            let problem =
                "has a user or a token, and there is credentials_file; remove one of them";
            return Err(unusable(self.url.place(), problem));
        }
        Ok(servers)
    }

    fn read_credentials(&self) -> Result<Option<SecretString>, SinkError> {
        let text = self.credentials_file.as_ref().map(|path| read_file(path)).transpose()?;
        Ok(text.map(|text| SecretString::from(text.as_str())))
    }

    fn read(&self) -> Result<NatsLoginFiles, SinkError> {
        let (servers, credentials) = (self.read_servers()?, self.read_credentials()?);
        Ok(NatsLoginFiles { servers, credentials, tls: tls_config(&self.authorities)? })
    }
}

/// A stream of NATS JetStream.
pub struct NatsTarget {
    settings: NatsSettings,
    sink: Arc<str>,
    share: StreamShare,
    env: Env,
    opened: Option<OpenStream>,
}

struct OpenStream {
    session: NatsSession,
    stream: Stream,
    share: StreamShare,
    writer: MessageWriter,
    markers: MarkerChain,
}

impl NatsTarget {
    /// A target that is not connected yet.
    pub fn new(settings: &NatsSettings, sink: &Arc<str>, share: StreamShare, env: &Env) -> Self {
        let (settings, sink, env) = (settings.clone(), sink.clone(), env.clone());
        Self { settings, sink, share, env, opened: None }
    }

    async fn connect(&mut self, mark: Option<&str>) -> Result<KeptPosition, SinkError> {
        let settings = self.settings.clone();
        let files =
            tokio::task::spawn_blocking(move || settings.read()).await.map_err(|_| {
                SinkError::new(SinkErrorKind::Unavailable, "the files of the sink were not read")
            })??;
        let session = NatsSession::connect(files, &self.sink).await?;
        let NatsSettings { stream: name, subject, retention, .. } = &self.settings;
        let stream = session.run(stream::open(&session.context, name, subject)).await?;
        let config = &stream.cached_info().config;
        let limit = session.client.max_payload();
        let writer = MessageWriter {
            subject: subject.to_string(),
            retention: *retention,
            limit: usize::try_from(config.max_message_size)
                .map_or(limit, |most| if most == 0 { limit } else { limit.min(most) }),
            ordinal: self.share.shard.ordinal(),
        };
        let share = self.share.clone();
        let markers = MarkerChain::read(&stream, (subject, share.shard), mark, &self.env);
        let (markers, kept) = session.run(markers).await?;
        self.opened = Some(OpenStream { session, stream, share, writer, markers });
        Ok(kept)
    }

    /// The open stream. It stays closed after an error.
    fn take(&mut self) -> Result<OpenStream, SinkError> {
        let not_open = || SinkError::new(SinkErrorKind::Unavailable, "the stream is not open");
        self.opened.take().ok_or_else(not_open)
    }
}

impl OpenStream {
    /// Sends a batch; returns the markers after it.
    async fn deliver(&self, batch: &SinkBatch) -> Result<MarkerChain, SinkError> {
        let Self { session, stream, share, writer, markers } = self;
        let mut markers = markers.clone();
        markers.divide(session, batch).await?;
        markers.begin(session, batch).await?;
        let pass = markers.pass(batch);
        let changes = batch.changes.iter().filter(|change| !share.has_moved(change));
        let messages = changes.map(|change| {
            let message = writer.change(change, pass.as_deref());
            report_incomplete(batch, &change.window, &message);
            message.message
        });
        markers.publish(session, batch, messages.collect()).await?;
        if batch.ends {
            reconcile::remove_ghosts(session, stream, (writer, share), batch, &mut markers).await?;
        }
        markers.end(session, batch).await?;
        markers.check_once(stream).await?;
        Ok(markers)
    }

    /// Does what a delivery needs the permission for, without storing anything.
    async fn test(&self, sink: &str) -> Result<(), SinkError> {
        let Self { session, stream, writer, .. } = self;
        let subject = message::trial_subject(&writer.subject, sink);
        session.try_to_publish(subject, &stream.cached_info().config.name).await?;
        reconcile::try_to_read(stream, writer).await
    }
}

fn report_incomplete(batch: &SinkBatch, window: &str, message: &NatsMessage) {
    if !message.left_out.is_empty() {
        tracing::warn!(
            sink = %batch.sink,
            window,
            members = message.left_out.join(","),
            "an event is larger than the NATS server accepts, so it was sent without large members"
        );
    }
}

impl SinkTarget for NatsTarget {
    fn open<'a>(
        &'a mut self,
        mark: Option<&'a str>,
    ) -> BoxFuture<'a, Result<KeptPosition, SinkError>> {
        Box::pin(self.connect(mark))
    }

    fn deliver<'a>(
        &'a mut self,
        batch: &'a SinkBatch,
    ) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            let mut open = self.take()?;
            open.markers = open.session.run(open.deliver(batch)).await?;
            let mark = Some(open.markers.mark.to_string());
            self.opened = Some(open);
            Ok(Receipt { mark, ..Receipt::default() })
        })
    }

    fn test<'a>(
        &'a mut self,
        sink: &'a str,
        _: Timestamp,
    ) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            let open = self.take()?;
            open.session.run(open.test(sink)).await?;
            Ok(Receipt::default())
        })
    }
}

#[cfg(test)]
mod tests;
