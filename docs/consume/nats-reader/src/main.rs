//! Keeps an exact copy of the events in calmirror's NATS stream, in a SQLite file.
//!
//!     nats-reader copy.sqlite nats://127.0.0.1:4222 [--credentials FILE] [--once]
//!
//! The stream has one message for each event, so reading it from its beginning gives every event.
//! The position is the number of the last message that was applied, and is saved with it in one
//! transaction. docs/sinks-nats.md has the rules that it follows.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::pull::{self, Config};
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy};
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{self, Message};
use async_nats::{ConnectOptions, Error, ServerAddr};
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::time::timeout;

use crate::copy::{Copy, Marker, Markers, shard_of};

mod copy;

const USAGE: &str = "usage: nats-reader DB URL [--credentials FILE] [--stream NAME] \
                     [--subject PREFIX] [--retention-days N] [--once]";

struct Options {
    db: String,
    url: String,
    /// A file with the JWT and the key of a user.
    credentials: Option<String>,
    stream: String,
    subject: String,
    /// `feed.retention`.
    retention_days: f64,
    /// End when the copy is whole.
    once: bool,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Self> {
        let mut places = Vec::new();
        let (mut credentials, mut retention_days, mut once) = (None, 30.0, false);
        let (mut stream, mut subject) = ("CALMIRROR".to_owned(), "calmirror".to_owned());
        while let Some(argument) = arguments.next() {
            match &*argument {
                "--credentials" => credentials = Some(arguments.next()?),
                "--stream" => stream = arguments.next()?,
                "--subject" => subject = arguments.next()?,
                "--retention-days" => retention_days = arguments.next()?.parse().ok()?,
                "--once" => once = true,
                option if option.starts_with("--") => return None,
                _ => places.push(argument),
            }
        }
        let [db, url] = places.try_into().ok()?;
        Some(Self { db, url, credentials, stream, subject, retention_days, once })
    }
}

/// The last marker of each shard.
async fn last_markers(stream: &Stream, subject: &str) -> Result<Markers, Error> {
    let mut subjects = stream.info_with_subjects(format!("{subject}.snapshot.*")).await?;
    let mut markers = Markers::new();
    while let Some((subject, _)) = subjects.try_next().await? {
        let found = stream.get_last_raw_message_by_subject(&subject).await?;
        let marker = Marker::parse(found.sequence, &found.payload);
        if let (Some(shard), Some(marker)) = (shard_of(&subject), marker) {
            markers.insert(shard, marker);
        }
    }
    Ok(markers)
}

/// At most so many messages: what is there, or else the next one. None may come for a second.
async fn fetch(consumer: &Consumer<Config>, most: u64) -> Result<Vec<Message>, Error> {
    let batch = consumer.batch().max_messages(most.clamp(1, 500) as usize);
    let mut fetched = batch.expires(Duration::from_secs(1)).messages().await?;
    let mut messages = Vec::new();
    while let Some(message) = timeout(Duration::from_secs(10), fetched.next()).await? {
        messages.push(message?);
    }
    Ok(messages)
}

async fn follow(copy: &mut Copy, options: &Options) -> Result<(), Error> {
    let servers = options.url.split(',').map(|one| one.trim().parse());
    let servers: Vec<ServerAddr> = servers.collect::<Result<_, _>>()?;
    let mut connect = ConnectOptions::new();
    if let Some(file) = &options.credentials {
        connect = ConnectOptions::with_credentials_file(file).await?;
    } else if let (Some(user), password) = (servers[0].username(), servers[0].password()) {
        connect = connect.user_and_password(user.into(), password.unwrap_or_default().into());
    }
    let client = connect.connect(servers).await?;
    let mut stream = jetstream::new(client.clone()).get_stream(&options.stream).await?;
    let (created, last) = (stream.cached_info().created, stream.cached_info().state.last_sequence);
    let markers = last_markers(&stream, &options.subject).await?;
    copy.begin(&created.to_string(), last, markers, options.retention_days * 86400.0);
    let mut consumer: Consumer<Config> = stream
        .create_consumer(pull::Config {
            name: Some(client.new_inbox().replace('.', "-")),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: copy.sequence + 1 },
            ack_policy: AckPolicy::None,
            inactive_threshold: Duration::from_secs(60),
            filter_subject: format!("{}.*.*", options.subject),
            ..Default::default()
        })
        .await?;
    if stream.info().await?.created != created {
        return Err("the stream was replaced".into());
    }
    let (mut messages, mut delivered, mut last_news) = (Vec::<Message>::new(), 0, Instant::now());
    loop {
        for message in &messages {
            delivered += 1;
            if message.info()?.consumer_sequence != delivered {
                return Err("messages were lost on the way".into());
            }
        }
        let pending = if let Some(message) = messages.last() {
            last_news = Instant::now();
            message.info()?.pending
        } else {
            // Without an answer of the server, the silence may be that of a lost consumer.
            let info = consumer.info().await?;
            if info.delivered.consumer_sequence != delivered {
                return Err("messages were lost on the way".into());
            }
            info.num_pending
        };
        // The library reconnects by itself, and goes on behind what was lost with the old connection.
        if client.statistics().connects.load(Ordering::Relaxed) != 1 {
            return Err("the connection ended".into());
        }
        copy.apply(&messages, pending == 0)?;
        if options.once && pending == 0 && copy.whole && copy::is_whole(&copy.markers) {
            return Ok(());
        }
        if options.once && last_news.elapsed() > Duration::from_secs(60) {
            return Err("the stream is not whole: are all shards running?".into());
        }
        messages = fetch(&consumer, pending).await?;
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let Some(options) = Options::parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        std::process::exit(2);
    };
    loop {
        let mut copy = Copy::open(&options.db)?;
        match follow(&mut copy, &options).await {
            Ok(()) => return Ok(()),
            Err(error) if options.once => return Err(error),
            Err(error) => println!("tries again: {error}"),
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}
