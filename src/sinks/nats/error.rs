//! What an error of NATS means. Texts of the server are not shown, only the numbers of its errors.

use std::error::Error as StdError;

use async_nats::ConnectErrorKind;
use async_nats::jetstream;
use async_nats::jetstream::context::{
    PublishError, PublishErrorKind, RequestError, RequestErrorKind,
};

use crate::sinks::error::{SinkError, SinkErrorKind};
use crate::sinks::network::connection_problem;

/// What the server does not permit, and where it is written what it has to.
pub(super) const NOT_PERMITTED: &str = "the NATS server does not permit this user what the sink does; see the permissions in \
     docs/sinks-nats.md";
pub(super) const NO_JETSTREAM: &str =
    "the NATS server, or the user's account, has no JetStream, or no leader for it now";
pub(super) const NOT_ALONE: &str = "something else came under the same subject: late messages of \
     the last connection, another sink, another calmirror or another process with the number of this \
     shard, or the stream was replaced; if it goes on, give each sink a subject, and each shard a number, of its own";
pub(super) const ENDED: &str = "the connection to the NATS server ended";
pub(super) const LATE: &str = "the NATS server did not answer in time";

impl From<async_nats::ConnectError> for SinkError {
    fn from(error: async_nats::ConnectError) -> Self {
        let unreachable = |message: &str| Self::new(SinkErrorKind::Unreachable, message);
        match error.kind() {
            ConnectErrorKind::AuthorizationViolation => Self::new(
                SinkErrorKind::Refused,
                "the NATS server refuses the user, or asks for one; compare its users with \
                 credentials_file or with the address",
            ),
            ConnectErrorKind::Authentication => Self::new(
                SinkErrorKind::Misconfigured,
                "the key in credentials_file cannot be used",
            ),
            ConnectErrorKind::TimedOut => unreachable(LATE),
            ConnectErrorKind::Dns => unreachable("the host of the NATS server has no address"),
            _ => match connection_problem(&error, "the NATS server") {
                Some(problem) => unreachable(&problem),
                None => unreachable("the NATS server cannot be used, or has no TLS"),
            },
        }
    }
}

impl From<PublishError> for SinkError {
    fn from(error: PublishError) -> Self {
        match error.kind() {
            PublishErrorKind::StreamNotFound => Self::new(
                SinkErrorKind::Unavailable,
                "the stream does not exist, or JetStream is not available there now",
            ),
            PublishErrorKind::WrongLastSequence => Self::new(SinkErrorKind::Unsuitable, NOT_ALONE),
            PublishErrorKind::TimedOut => Self::new(SinkErrorKind::Unavailable, LATE),
            PublishErrorKind::BrokenPipe => Self::new(SinkErrorKind::Unreachable, ENDED),
            PublishErrorKind::MaxPayloadExceeded => Self::new(
                SinkErrorKind::Refused,
                "an event is larger than the NATS server accepts, even without its large members; \
                 raise its max_payload",
            ),
            _ => of_sources(&error),
        }
    }
}

impl From<async_nats::PublishError> for SinkError {
    fn from(error: async_nats::PublishError) -> Self {
        match error.kind() {
            async_nats::PublishErrorKind::MaxPayloadExceeded => {
                PublishError::new(PublishErrorKind::MaxPayloadExceeded).into()
            }
            _ => Self::new(SinkErrorKind::Unreachable, ENDED),
        }
    }
}

/// What an error with an answer of JetStream in it, or in its sources, means.
pub(super) fn of_sources(error: &(dyn StdError + 'static)) -> SinkError {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(answer) = error.downcast_ref::<jetstream::Error>() {
            return of_answer(answer);
        }
        match error.downcast_ref::<RequestError>().map(RequestError::kind) {
            Some(RequestErrorKind::NoResponders) => {
                // A cluster without a leader answers so, too.
                return SinkError::new(SinkErrorKind::Unavailable, NO_JETSTREAM);
            }
            Some(RequestErrorKind::TimedOut) => {
                return SinkError::new(SinkErrorKind::Unavailable, LATE);
            }
            _ => {}
        }
        next = error.source();
    }
    SinkError::new(SinkErrorKind::Unavailable, "the NATS server did not answer as JetStream does")
}

/// What an answer of JetStream means.
pub(super) fn of_answer(answer: &jetstream::Error) -> SinkError {
    use SinkErrorKind::{Refused, Unavailable, Unsuitable};
    let code = answer.error_code().0;
    let (kind, message) = match code {
        10_039 | 10_076 => (Unsuitable, NO_JETSTREAM),
        10_059 => (Unavailable, "the stream does not exist"),
        10_002 | 10_023 | 10_028 | 10_047 | 10_077 | 10_122 => {
            (Unavailable, "JetStream has no room left: its disk, or a limit of the account")
        }
        10_071 | 10_164 => (Unsuitable, NOT_ALONE),
        10_199 => {
            (Unsuitable, "the server's batches are smaller than 1,000 messages; raise max_msgs")
        }
        10_054 => (Refused, "an event is larger than the stream's max_msg_size; raise that"),
        10_026 => (Unavailable, "the stream or the account has its most consumers (max_consumers)"),
        10_113 => (
            Unsuitable,
            "the account demands a limit for streams; make the stream yourself, with max_bytes and \
             discard set to new",
        ),
        10_174 => (Unsuitable, "the stream does not allow batches; set allow_atomic"),
        10_176 | 10_210 => {
            (Unavailable, "a batch did not arrive whole, or the server has too many open ones")
        }
        10_060 => (
            Unsuitable,
            "the subjects belong to another stream than the configured one; name that in stream, or \
             write another subject",
        ),
        10_065 => (
            Unsuitable,
            "another stream already has these subjects; name that one in stream, or write another \
             subject",
        ),
        10_008 | 10_009 | 10_118 => (Unavailable, "JetStream has no leader now, or is starting"),
        10_165 | 10_166 => (Unsuitable, "the stream does not allow a TTL for each message"),
        _ => (Unavailable, "JetStream refuses it"),
    };
    SinkError::new(kind, format!("{message} (JetStream error {code})"))
}
