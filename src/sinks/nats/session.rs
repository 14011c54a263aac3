//! A connection to NATS, which ends at the first thing that goes wrong.

use std::time::Duration;

use async_nats::header::{NATS_BATCH_COMMIT, NATS_BATCH_ID, NATS_BATCH_SEQUENCE};
use async_nats::jetstream::context::traits::Publisher as _;
use async_nats::jetstream::context::{Context, ContextBuilder, PublishErrorKind};
use async_nats::jetstream::message::{OutboundMessage, PublishMessage};
use async_nats::{Client, ConnectOptions, Event, ServerError};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::context::TokioContext;

use super::error::{ENDED, LATE, NOT_PERMITTED};
use super::servers::{NatsLogin, NatsServers};
use super::stream::check_version;
use crate::sinks::error::{SinkError, SinkErrorKind};

/// The longest wait for a connection, with TLS and the login.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// The longest wait for an answer.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// A connection without an answer to two of these is lost.
const PING: Duration = Duration::from_secs(20);
/// Messages that are not written to the connection yet.
const QUEUED: usize = 1024;

/// A connection. When it is dropped, it ends.
pub(super) struct NatsSession {
    pub(super) client: Client,
    pub(super) context: Context,
    /// Why the connection can no longer be used.
    failure: watch::Receiver<Option<SinkError>>,
    _connection: ConnectionRuntime,
}

/// Where the tasks of the library run. It goes on to reconnect, and then sends what it had not
/// sent, also after the session has ended. So its tasks end with this runtime.
struct ConnectionRuntime(Option<Runtime>);

impl ConnectionRuntime {
    fn new() -> Result<Self, SinkError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("nats")
            .enable_all()
            .build()
            .map_err(|error| {
                let message = format!("no thread can be started for the connection: {error}");
                SinkError::new(SinkErrorKind::Unavailable, message)
            })?;
        Ok(Self(Some(runtime)))
    }

    /// Does work whose tasks belong to this runtime.
    async fn run<T>(&self, work: impl Future<Output = T>) -> T {
        match &self.0 {
            Some(runtime) => TokioContext::new(work, runtime.handle().clone()).await,
            None => work.await,
        }
    }
}

impl Drop for ConnectionRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Without waiting, which a task must not.
            runtime.shutdown_background();
        }
    }
}

/// Where to connect, and as whom.
pub(super) struct NatsLoginFiles {
    pub(super) servers: NatsServers,
    /// The content of the file with a JWT and a key.
    pub(super) credentials: Option<SecretString>,
    pub(super) tls: rustls::ClientConfig,
}

impl NatsSession {
    pub(super) async fn connect(files: NatsLoginFiles, sink: &str) -> Result<Self, SinkError> {
        let NatsLoginFiles { servers, credentials, tls } = files;
        let (sender, failure) = watch::channel(None);
        let options = ConnectOptions::new()
            .name(format!("calmirror sink {sink}"))
            .tls_client_config(tls)
            .connection_timeout(CONNECT_LIMIT / 2)
            .ping_interval(PING)
            .client_capacity(QUEUED)
            // Only the configured ones: other addresses may be those of another network.
            .ignore_discovered_servers()
            .event_callback(move |event| {
                if let Some(error) = failure_of(&event) {
                    // The first one counts.
                    sender.send_if_modified(|failure| {
                        let is_first = failure.is_none();
                        failure.get_or_insert(error);
                        is_first
                    });
                }
                std::future::ready(())
            });
        let options = match (credentials, servers.login) {
            (Some(credentials), _) => {
                options.credentials(credentials.expose_secret()).map_err(|_| {
                    SinkError::new(
                        SinkErrorKind::Misconfigured,
                        "credentials_file does not contain the JWT and the key of a NATS user",
                    )
                })?
            }
            (None, NatsLogin::User { name, password }) => options.user_and_password(name, password),
            (None, NatsLogin::Token(token)) => options.token(token),
            (None, NatsLogin::Anonymous) => options,
        };
        let connection = ConnectionRuntime::new()?;
        let connect = timeout(CONNECT_LIMIT, options.connect(servers.addresses));
        let client = connection
            .run(connect)
            .await
            .map_err(|_| SinkError::new(SinkErrorKind::Unreachable, LATE))??;
        check_version(&client.server_info().version)?;
        let context = async { ContextBuilder::new().timeout(ANSWER_LIMIT).build(client.clone()) };
        let context = connection.run(context).await;
        Ok(Self { client, context, failure, _connection: connection })
    }

    /// Works until the connection fails.
    pub(super) async fn run<T>(
        &self,
        work: impl Future<Output = Result<T, SinkError>>,
    ) -> Result<T, SinkError> {
        let mut failure = self.failure.clone();
        let failed = async {
            match failure.wait_for(Option::is_some).await {
                Ok(failure) => failure.clone(),
                Err(_) => None,
            }
        };
        tokio::select! {
            biased;
            failed = failed => {
                Err(failed.unwrap_or_else(|| SinkError::new(SinkErrorKind::Unreachable, ENDED)))
            }
            done = work => done,
        }
    }

    /// Stores messages together or none of them, and returns the number of the last one. An expected
    /// number in one of them is one for all.
    pub(super) async fn publish(
        &self,
        id: &str,
        messages: Vec<OutboundMessage>,
        last: OutboundMessage,
    ) -> Result<u64, SinkError> {
        let count = messages.len();
        for (number, message) in (1_usize..).zip(messages) {
            let OutboundMessage { subject, payload, headers } = in_batch(message, id, number);
            let headers = headers.unwrap_or_default();
            self.client.publish_with_headers(subject, headers, payload).await?;
        }
        let mut last = if count == 0 { last } else { in_batch(last, id, count + 1) };
        if count > 0 {
            last.headers.get_or_insert_default().insert(NATS_BATCH_COMMIT, "1");
        }
        let stored = self.context.publish_message(last).await?.await?;
        Ok(stored.sequence)
    }

    /// Sends a message that the stream refuses, because it expects another last number: everything
    /// on the way to the stream is in order, and nothing is stored.
    pub(super) async fn try_to_publish(
        &self,
        subject: String,
        stream: &str,
    ) -> Result<(), SinkError> {
        let message = PublishMessage::build()
            .payload("{}".into())
            .expected_stream(stream)
            .expected_last_sequence(u64::MAX);
        match self.context.send_publish(subject, message).await?.await {
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(()),
        }
    }
}

/// A message of a batch.
fn in_batch(mut message: OutboundMessage, id: &str, number: usize) -> OutboundMessage {
    let headers = message.headers.get_or_insert_default();
    headers.insert(NATS_BATCH_ID, id);
    headers.insert(NATS_BATCH_SEQUENCE, number.to_string());
    message
}

/// What an event of the client means for its session.
fn failure_of(event: &Event) -> Option<SinkError> {
    let error = match event {
        Event::Disconnected | Event::Closed | Event::Draining => {
            SinkError::new(SinkErrorKind::Unreachable, ENDED)
        }
        // The server stops soon; another one of its cluster goes on.
        Event::LameDuckMode => {
            SinkError::new(SinkErrorKind::Unavailable, "the NATS server is about to stop")
        }
        Event::ServerError(ServerError::AuthorizationViolation) => {
            SinkError::new(SinkErrorKind::Refused, NOT_PERMITTED)
        }
        Event::ServerError(ServerError::Other(text)) => {
            match text.to_ascii_lowercase().contains("permissions violation") {
                true => SinkError::new(SinkErrorKind::Refused, NOT_PERMITTED),
                false => SinkError::new(
                    SinkErrorKind::Unavailable,
                    "the NATS server ends the connection",
                ),
            }
        }
        _ => return None,
    };
    Some(error)
}
