//! Sends changes to a receiver of webhooks.
//!
//! A request is a batch, signed as Standard Webhooks has it. The receiver accepts it with a status
//! of 2xx. Nothing else of an answer is used: no redirect is followed and no body is read. The
//! address can be a secret (whoever knows it can send there), so only its origin is shown.
//!
//! Without `allow_private` no connection is made to an address that is not public: somebody who may
//! configure sinks, or who owns a configured name, must not reach what only this machine reaches.
//! The address that is connected to is checked, whatever the name was resolved to earlier. A proxy
//! of the environment makes the connections itself; what it allows is for the proxy to decide.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use hyper_util::client::proxy::matcher::Matcher;
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use secrecy::ExposeSecret as _;

use self::client::{SignedRequest, WebhookClient};
use self::signature::SigningSecrets;
use self::url::WebhookUrl;
use super::batch::SinkBatch;
use super::error::{SinkError, SinkErrorKind};
use super::secret::{SinkSecret, read_file, unusable};
use super::target::{KeptPosition, Receipt, SinkTarget};
use crate::env::Env;

mod address;
mod body;
mod client;
mod signature;
mod url;

/// What the body of a request consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WebhookFormat {
    /// A JSON array of change lines.
    #[default]
    Lines,
    /// A batch of CloudEvents, whose data are the lines.
    CloudEvents,
}

/// The configuration of a sink of this type.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookSettings {
    /// Where requests are sent.
    pub url: SinkSecret,
    /// The file with the secret that signs, and during a rotation the older one in a second line.
    pub secret_file: PathBuf,
    /// What requests consist of.
    pub format: WebhookFormat,
    /// Whether the receiver may be at an address that is not public, and without TLS.
    pub allow_private: bool,
    /// Authorities that are trusted in addition to the system's.
    pub authorities: Arc<[CertificateDer<'static>]>,
}

impl WebhookSettings {
    /// What is wrong with the address and with the secret.
    pub fn problems(&self) -> Vec<SinkError> {
        [self.read_url().err(), self.read_secrets().err()].into_iter().flatten().collect()
    }

    /// The address for people: scheme, host and port.
    ///
    /// # Errors
    /// [`SinkErrorKind::Misconfigured`] if there is no address that can be used.
    pub fn origin(&self) -> Result<String, SinkError> {
        self.read_url().map(|url| url.origin())
    }

    fn read_url(&self) -> Result<WebhookUrl, SinkError> {
        let text = self.url.read()?;
        WebhookUrl::parse(text.expose_secret(), self.allow_private)
            .map_err(|problem| unusable(self.url.place(), problem))
    }

    fn read_secrets(&self) -> Result<SigningSecrets, SinkError> {
        SigningSecrets::parse(&read_file(&self.secret_file)?)
            .map_err(|problem| unusable(self.secret_file.display(), problem))
    }

    /// Reads the files and sets up a client, which takes the roots of the system.
    fn open(&self, environment: &Matcher) -> Result<OpenWebhook, SinkError> {
        let (url, secrets) = (self.read_url()?, self.read_secrets()?);
        let client = WebhookClient::new(url, self.allow_private, &self.authorities, environment)?;
        Ok(OpenWebhook { client, secrets })
    }
}

impl fmt::Debug for WebhookSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookSettings")
            .field("url", &self.url)
            .field("secret_file", &self.secret_file)
            .field("format", &self.format)
            .field("allow_private", &self.allow_private)
            .field("authorities", &self.authorities.len())
            .finish()
    }
}

/// A receiver of webhooks.
#[derive(Debug)]
pub struct WebhookTarget {
    settings: WebhookSettings,
    env: Env,
    opened: Option<OpenWebhook>,
    /// The proxies; those of the process, except in tests.
    environment: Option<Arc<Matcher>>,
}

/// What the files of the configuration contained.
#[derive(Debug)]
struct OpenWebhook {
    client: WebhookClient,
    secrets: SigningSecrets,
}

impl WebhookTarget {
    /// Neither reads a file nor connects.
    pub fn new(settings: &WebhookSettings, env: &Env) -> Self {
        Self { settings: settings.clone(), env: env.clone(), opened: None, environment: None }
    }

    /// Sends a body once.
    async fn send(&self, id: String, body: Vec<u8>) -> Result<Receipt, SinkError> {
        let Some(OpenWebhook { client, secrets }) = &self.opened else {
            return Err(SinkError::new(SinkErrorKind::Unsuitable, "the sink is not open"));
        };
        let now = self.env.now();
        let timestamp = now.as_second();
        let request = SignedRequest {
            signature: secrets.sign(&id, timestamp, &body),
            id: id.clone(),
            timestamp,
            content_type: self.settings.format.content_type(),
            body,
        };
        let status = client.send(request, now).await?;
        Ok(Receipt { status: Some(status.as_u16()), id: Some(id), mark: None })
    }
}

impl SinkTarget for WebhookTarget {
    fn open<'a>(
        &'a mut self,
        _: Option<&'a str>,
    ) -> BoxFuture<'a, Result<KeptPosition, SinkError>> {
        Box::pin(async move {
            let (settings, environment) = (self.settings.clone(), self.environment.clone());
            let open = move || match environment {
                Some(environment) => settings.open(&environment),
                None => settings.open(&Matcher::from_system()),
            };
            self.opened = Some(self.env.compute(open).await?);
            Ok(KeptPosition::InStore)
        })
    }

    fn deliver<'a>(
        &'a mut self,
        batch: &'a SinkBatch,
    ) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            if batch.changes.is_empty() && !batch.begins && !batch.ends {
                return Ok(Receipt::default());
            }
            self.send(signature::batch_id(batch), self.settings.format.body(batch)).await
        })
    }

    fn test<'a>(
        &'a mut self,
        sink: &'a str,
        at: Timestamp,
    ) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            let id = signature::id_of(&[b"test", sink.as_bytes(), at.to_string().as_bytes()]);
            self.send(id, self.settings.format.test_body(sink, at)).await
        })
    }
}

#[cfg(test)]
mod tests;
