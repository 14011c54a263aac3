//! Sends changes on: to webhooks, databases and streams, each sink in a task of its own.
//!
//! A sink is a reader of the feed like any other, whose position is durable. It starts with a
//! snapshot of its windows, and again if its windows, filter or level changed or if it was away for
//! longer than removals are kept.

pub mod batch;
mod context;
pub mod error;
pub mod nats;
mod network;
pub mod postgres;
mod record;
pub mod secret;
mod session;
mod sql;
pub mod sqlite;
mod status;
pub mod target;
mod task;
#[cfg(test)]
mod tests;
pub mod webhook;

use std::collections::BTreeMap;
use std::sync::Arc;

use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::api::AppState;
use crate::config::{
    AuthorityFile, NatsConfig, SinkConfig, SinkTargetConfig, SinkUrl, WebhookConfig, WindowGroup,
};
use crate::env::Env;
use crate::store::StoreError;
use context::SinkContext;
use nats::{NatsSettings, NatsTarget, StreamShare};
use postgres::{PostgresSettings, PostgresTarget};
use secret::SinkSecret;
use sqlite::{FileTurns, SqliteSettings};
pub use status::SinkBoard;
use status::StatusCell;
use target::SinkTarget;
use task::SinkTask;
use webhook::{WebhookFormat, WebhookSettings, WebhookTarget};

/// Commands that wait for a sink.
const COMMANDS: usize = 4;

/// Makes the target of a sink.
type TargetMaker = Arc<dyn Fn(&SinkConfig, &Arc<AppState>) -> Box<dyn SinkTarget> + Send + Sync>;

/// The running sinks.
pub struct Sinks {
    running: BTreeMap<Arc<str>, RunningSink>,
    board: SinkBoard,
    make: TargetMaker,
}

struct RunningSink {
    config: SinkConfig,
    files: SinkFiles,
    /// What its view depends on beside its configuration.
    view: ViewContext,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// What is in the files that a sink's configuration names.
#[derive(Clone, PartialEq, Eq)]
struct SinkFiles {
    /// A hash of the address.
    address: [u8; 32],
    /// A hash of the secret that signs, or that logs in.
    secret: [u8; 32],
    /// The type of the target, and where it is, for people.
    shown: (&'static str, String),
}

#[derive(Clone, PartialEq, Eq)]
struct ViewContext {
    groups: Arc<BTreeMap<Arc<str>, WindowGroup>>,
    mask_private: bool,
}

impl Sinks {
    /// No sinks yet.
    pub fn new(board: SinkBoard, env: &Env) -> Self {
        Self { running: BTreeMap::new(), board, make: targets(env.clone()) }
    }

    /// Starts, stops and changes sinks, so that these run. Others are not touched. What the store
    /// keeps of sinks that are gone is deleted.
    ///
    /// # Errors
    /// If the store can no longer be used.
    pub async fn configure(
        &mut self,
        configs: &[SinkConfig],
        app: &AppState,
    ) -> Result<(), StoreError> {
        let app = &Arc::new(app.clone());
        let view = ViewContext {
            groups: app.settings.groups.clone(),
            mask_private: app.settings.mask_private,
        };
        let wanted = configs.to_vec();
        let read = move || wanted.iter().map(SinkFiles::read).collect::<Vec<_>>();
        let files = tokio::task::spawn_blocking(read).await.unwrap_or_default();
        let wanted: Vec<(&SinkConfig, SinkFiles)> = configs.iter().zip(files).collect();
        let stays = |running: &RunningSink| {
            let same = |(config, files): &(&SinkConfig, SinkFiles)| {
                running.config == **config && running.files == *files
            };
            running.view == view && wanted.iter().any(same)
        };
        let ended: Vec<RunningSink> =
            self.running.extract_if(.., |_, running| !stays(running)).map(|(_, one)| one).collect();
        for RunningSink { config, stop, task, .. } in ended {
            self.board.lock().remove(&config.name);
            stop.cancel();
            // A task is only cancelled while it waits, so this is soon.
            task.await.ok();
        }
        for (config, files) in wanted {
            if !self.running.contains_key(&config.name) {
                let running = self.start(config, files, app, view.clone());
                self.running.insert(config.name.clone(), running);
            }
        }
        for name in app.store.sinks().await?.into_keys() {
            if configs.iter().all(|config| config.name != name) {
                match app.store.save_sink(&name, None).await {
                    // The next start deletes it.
                    Ok(()) | Err(StoreError::Full) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    fn start(
        &self,
        config: &SinkConfig,
        files: SinkFiles,
        app: &Arc<AppState>,
        view: ViewContext,
    ) -> RunningSink {
        let (sender, commands) = mpsc::channel(COMMANDS);
        let (kind, to) = files.shown.clone();
        let status = StatusCell::new(&config.name, kind, to);
        let stop = CancellationToken::new();
        self.board.lock().insert(config.name.clone(), (status.clone(), sender));
        let context = SinkContext {
            config: config.clone(),
            app: app.clone(),
            make: self.make.clone(),
            status: status.clone(),
            address: files.address,
        };
        let task = SinkTask { context, commands, stop: stop.clone() };
        let env = app.env.clone();
        let task = tokio::spawn(async move {
            // A panic is logged by its hook.
            if tokio::spawn(task.run()).await.is_err() {
                status.broke(env.now());
            }
        });
        RunningSink { config: config.clone(), files, view, stop, task }
    }

    /// Stops all sinks. What was sent stays known.
    pub async fn stop(self) {
        for running in self.running.values() {
            running.stop.cancel();
        }
        for running in self.running.into_values() {
            running.task.await.ok();
        }
    }
}

/// What is wrong with the address, the secret or the path of a sink, which its configuration does
/// not show. Blocking. No address is part of it.
pub fn problems(config: &SinkConfig) -> Vec<String> {
    let problems = match &config.target {
        SinkTargetConfig::Webhook(webhook) => webhook_settings(webhook).problems(),
        SinkTargetConfig::Postgres { url, schema, ca_file } => {
            postgres_settings(url, schema, ca_file.as_ref()).problems()
        }
        SinkTargetConfig::Nats(nats) => nats_settings(nats).problems(),
        SinkTargetConfig::Sqlite { path } => SqliteSettings { path: path.clone() }.problems(),
    };
    problems.into_iter().map(|problem| problem.message).collect()
}

impl SinkFiles {
    /// Reads the files of a sink. Blocking. What cannot be read is empty: the sink says so.
    fn read(config: &SinkConfig) -> Self {
        let address = |url: &SinkUrl| {
            let text = secret_of(url).read().ok();
            text.map_or_else(Vec::new, |text| text.expose_secret().as_bytes().to_vec())
        };
        let (address, secret, shown) = match &config.target {
            SinkTargetConfig::Webhook(webhook) => {
                let to = webhook_settings(webhook).origin().unwrap_or_default();
                let secret = std::fs::read(&webhook.secret_file).unwrap_or_default();
                (address(&webhook.url), secret, ("webhook", to))
            }
            SinkTargetConfig::Postgres { url, schema, .. } => {
                (address(url), Vec::new(), ("postgres", format!("schema {schema}")))
            }
            SinkTargetConfig::Sqlite { path } => {
                (Vec::new(), Vec::new(), ("sqlite", path.display().to_string()))
            }
            SinkTargetConfig::Nats(nats) => {
                let credentials = nats.credentials_file.as_ref().map(std::fs::read);
                let credentials = credentials.and_then(Result::ok).unwrap_or_default();
                (address(&nats.url), credentials, ("nats", nats_settings(nats).shown()))
            }
        };
        let hash = |content: Vec<u8>| Sha256::digest(Zeroizing::new(content)).into();
        Self { address: hash(address), secret: hash(secret), shown }
    }
}

/// The address of a target.
fn secret_of(url: &SinkUrl) -> SinkSecret {
    match url {
        SinkUrl::Text(text) => SinkSecret::Inline(SecretString::from(&**text)),
        SinkUrl::File(path) => SinkSecret::File(path.clone()),
    }
}

fn webhook_settings(config: &WebhookConfig) -> WebhookSettings {
    WebhookSettings {
        url: secret_of(&config.url),
        secret_file: config.secret_file.clone(),
        format: match config.cloud_events {
            true => WebhookFormat::CloudEvents,
            false => WebhookFormat::Lines,
        },
        allow_private: config.allow_private,
        authorities: certificates(config.ca_file.as_ref()),
    }
}

fn nats_settings(config: &NatsConfig) -> NatsSettings {
    NatsSettings {
        url: secret_of(&config.url),
        credentials_file: config.credentials_file.clone(),
        authorities: certificates(config.ca_file.as_ref()),
        stream: config.stream.clone(),
        subject: config.subject.clone(),
        retention: config.retention,
    }
}

fn postgres_settings(
    url: &SinkUrl,
    schema: &Arc<str>,
    authorities: Option<&AuthorityFile>,
) -> PostgresSettings {
    PostgresSettings {
        url: secret_of(url),
        schema: schema.clone(),
        authorities: certificates(authorities),
    }
}

fn certificates(file: Option<&AuthorityFile>) -> Arc<[rustls_pki_types::CertificateDer<'static>]> {
    file.map(|file| file.certificates.clone()).unwrap_or_default()
}

/// Makes the targets that the configuration names.
fn targets(env: Env) -> TargetMaker {
    let turns = FileTurns::default();
    Arc::new(move |config, app| -> Box<dyn SinkTarget> {
        match &config.target {
            SinkTargetConfig::Webhook(webhook) => {
                Box::new(WebhookTarget::new(&webhook_settings(webhook), &env))
            }
            SinkTargetConfig::Postgres { url, schema, ca_file } => {
                Box::new(PostgresTarget::new(&postgres_settings(url, schema, ca_file.as_ref())))
            }
            SinkTargetConfig::Sqlite { path } => {
                let settings = SqliteSettings { path: path.clone() };
                Box::new(turns.target(&config.name, &settings))
            }
            SinkTargetConfig::Nats(nats) => {
                let share = StreamShare::of(app);
                Box::new(NatsTarget::new(&nats_settings(nats), &config.name, share, &env))
            }
        }
    })
}
