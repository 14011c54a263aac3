//! The stream: which one can be used.

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{Context, CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType, Stream};

use super::error::{LATE, of_answer, of_sources};
use crate::sinks::error::{SinkError, SinkErrorKind};

/// The oldest server whose streams have everything that is needed: TTLs of single messages (2.11),
/// which the replicas of a stream apply alike only since this one.
const OLDEST: (u64, u64) = (2, 12);

/// Checks the version of a server.
pub(super) fn check_version(version: &str) -> Result<(), SinkError> {
    let mut numbers = version.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found >= OLDEST {
        return Ok(());
    }
    // The version comes from the server.
    let shown: String = version.chars().filter(char::is_ascii_graphic).take(20).collect();
    let message = format!(
        "the NATS server has version {shown}, and this sink needs {}.{} or later",
        OLDEST.0, OLDEST.1
    );
    Err(SinkError::new(SinkErrorKind::Unsuitable, message))
}

/// Finds the stream or creates it.
pub(super) async fn open(
    context: &Context,
    name: &str,
    subject: &str,
) -> Result<Stream, SinkError> {
    let subjects = event_subjects(subject);
    let stream = match context.get_stream(name).await {
        Ok(stream) => stream,
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(answer)
                if answer.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
                create(context, name, &subjects).await?
            }
            GetStreamErrorKind::JetStream(answer) => return Err(of_answer(&answer)),
            _ => return Err(of_sources(&error)),
        },
    };
    match problem(&stream.cached_info().config, &subjects) {
        None => Ok(stream),
        Some(problem) => {
            let message = format!("the stream {name} {problem}");
            Err(SinkError::new(SinkErrorKind::Unsuitable, message))
        }
    }
}

/// The subjects of a sink's events and markers: window and event below its own.
pub(super) fn event_subjects(subject: &str) -> String {
    format!("{subject}.*.*")
}

/// The subjects of the markers of all shards. No event has them, because `snapshot` is no hash.
pub(super) fn marker_subjects(subject: &str) -> String {
    format!("{subject}.snapshot.*")
}

/// The subject of a shard's markers.
pub(super) fn marker_subject(subject: &str, ordinal: u32) -> String {
    format!("{subject}.snapshot.{ordinal}")
}

async fn create(context: &Context, name: &str, subjects: &str) -> Result<Stream, SinkError> {
    let config = Config {
        name: name.to_owned(),
        description: Some("calendars as calmirror sees them, one message for each event".into()),
        subjects: vec![subjects.to_owned()],
        max_messages_per_subject: 1,
        allow_message_ttl: true,
        allow_atomic_publish: true,
        allow_direct: true,
        ..Config::default()
    };
    context.create_stream(config).await.map_err(|error| match error.kind() {
        CreateStreamErrorKind::JetStream(answer) => of_answer(&answer),
        _ => SinkError::new(SinkErrorKind::Unavailable, LATE),
    })
}

/// What is wrong with a stream, and what to do; continues its name. Replicas, compression,
/// placement and more subjects are an administrator's business.
fn problem(config: &Config, subjects: &str) -> Option<&'static str> {
    Some(match config {
        _ if config.max_messages_per_subject != 1 => {
            "keeps more than the last message of a subject; set max_msgs_per_subject to 1"
        }
        _ if !config.allow_message_ttl => {
            "does not allow a TTL for each message; set allow_msg_ttl"
        }
        _ if !config.allow_atomic_publish => {
            "does not allow batches that are stored whole; set allow_atomic"
        }
        _ if !config.max_age.is_zero() => "loses events by their age; remove max_age",
        _ if (config.max_messages > 0 || config.max_bytes > 0)
            && config.discard != DiscardPolicy::New =>
        {
            "has a limit (max_msgs or max_bytes) and would lose events; remove it, or set discard to new"
        }
        _ if config.retention != RetentionPolicy::Limits => {
            "does not keep messages that were consumed; set retention to limits"
        }
        _ if config.discard_new_per_subject => {
            "refuses newer messages of a subject; remove discard_new_per_subject"
        }
        _ if config.no_ack => "does not acknowledge messages; remove no_ack",
        _ if config.sealed => "is sealed; make another one",
        _ if config.mirror.is_some() || config.sources.is_some() => {
            "copies another stream; make one of its own"
        }
        _ if config.subject_transform.is_some() => "changes subjects; remove subject_transform",
        _ if config.storage != StorageType::File => {
            "is lost when the server stops; set storage to file"
        }
        _ if !config.subjects.iter().any(|pattern| covers(pattern, subjects)) => {
            "does not have this sink's subjects; add SUBJECT.*.* to its subjects"
        }
        _ => return None,
    })
}

/// Whether a stream's subject, which may have wildcards, includes all of these.
fn covers(pattern: &str, subjects: &str) -> bool {
    let (mut pattern, mut words) = (pattern.split('.'), subjects.split('.'));
    loop {
        match (pattern.next(), words.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(wanted), Some(word)) if wanted == word => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_before_2_12_are_refused_by_version() {
        for version in ["2.12.0", "2.15.1", "3.0.0", "2.12.0-beta.1", "2.100"] {
            assert_eq!(check_version(version), Ok(()), "{version}");
        }
        for version in ["2.11.9", "2.9.10", "1.4.1", "", "canary\n", "2"] {
            let refused = check_version(version).unwrap_err();
            assert_eq!(refused.kind, SinkErrorKind::Unsuitable, "{version:?}");
        }
        let refused = check_version("2.9.10").unwrap_err().message;
        assert_eq!(
            refused,
            "the NATS server has version 2.9.10, and this sink needs 2.12 or later"
        );
    }

    #[test]
    fn a_pattern_covers_subjects_or_does_not() {
        for (pattern, expected) in [
            ("cal.prod.*.*", true),
            ("cal.>", true),
            (">", true),
            ("*.*.*.*", true),
            ("cal.prod.*", false),
            ("cal.prod.*.*.*", false),
            ("cal.test.*.*", false),
            ("cal.prod.*.*.>", false),
            ("cal.prod.a.*", false),
        ] {
            assert_eq!(covers(pattern, "cal.prod.*.*"), expected, "{pattern}");
        }
    }
}
