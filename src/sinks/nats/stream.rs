//! The stream: which one can be used, and whether it is still the one that it was.

use std::fmt;
use std::str::FromStr;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{Context, CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, Stream};

use super::error::{LATE, of_answer, of_sources};
use crate::sinks::error::{SinkError, SinkErrorKind};

/// The oldest server whose streams have everything that is needed: TTLs of single messages (2.11),
/// which the replicas of a stream apply alike only since this one.
const OLDEST: (u64, u64) = (2, 12);

/// A stream, and the last message of this sink in it: what a later session recognises it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamMark {
    /// When the stream was created, in nanoseconds since 1970.
    pub(super) created: i128,
    /// The number of the message.
    pub(super) sequence: u64,
}

impl fmt::Display for StreamMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.created, self.sequence)
    }
}

impl FromStr for StreamMark {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (created, sequence) = text.split_once('/').ok_or(())?;
        let created = created.parse().map_err(|_| ())?;
        Ok(Self { created, sequence: sequence.parse().map_err(|_| ())? })
    }
}

impl StreamMark {
    /// Whether the stream is the marked one, and has everything that it had then. One that was
    /// deleted and made anew was created later; one that was restored from an older copy ends
    /// earlier.
    pub(super) fn is_of(self, info: &Info) -> bool {
        self.created == info.created.unix_timestamp_nanos()
            && self.sequence <= info.state.last_sequence
    }

    /// The mark once another message of this sink is stored.
    ///
    /// # Errors
    /// If that has a number which was given already: the stream is another one of this name, made
    /// while the connection lasted.
    pub(super) fn after(self, stored: Option<u64>) -> Result<Self, SinkError> {
        match stored {
            Some(sequence) if sequence <= self.sequence => Err(SinkError::new(
                SinkErrorKind::Unavailable,
                "the stream was replaced by another one of its name; everything is sent again",
            )),
            stored => Ok(Self { sequence: stored.unwrap_or(self.sequence), ..self }),
        }
    }
}

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
    let subjects = subjects(subject);
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

/// The subjects of a sink: window and event below its own.
pub(super) fn subjects(subject: &str) -> String {
    format!("{subject}.*.*")
}

async fn create(context: &Context, name: &str, subjects: &str) -> Result<Stream, SinkError> {
    let config = Config {
        name: name.to_owned(),
        description: Some("calendars as calmirror sees them, one message for each event".into()),
        subjects: vec![subjects.to_owned()],
        max_messages_per_subject: 1,
        allow_message_ttl: true,
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
        _ if config.max_messages > 0 || config.max_bytes > 0 || !config.max_age.is_zero() => {
            "has a limit (max_msgs, max_bytes or max_age), so it would lose events; remove that"
        }
        _ if config.retention != RetentionPolicy::Limits => {
            "does not keep messages that were consumed; set retention to limits"
        }
        _ if config.discard != DiscardPolicy::Old => {
            "refuses new messages instead of dropping old ones; set discard to old"
        }
        _ if config.no_ack => "does not acknowledge messages; remove no_ack",
        _ if config.sealed => "is sealed; make another one",
        _ if config.mirror.is_some() || config.sources.is_some() => {
            "copies another stream; make one of its own"
        }
        _ if config.subject_transform.is_some() => "changes subjects; remove subject_transform",
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

    #[test]
    fn a_mark_is_read_back() {
        let mark = StreamMark { created: 1_764_000_000_000_000_000, sequence: 17 };
        assert_eq!(mark.to_string().parse(), Ok(mark));
        for text in ["", "1", "1/", "/1", "1/x", "1/2/3"] {
            assert_eq!(text.parse::<StreamMark>(), Err(()), "{text}");
        }
    }
}
