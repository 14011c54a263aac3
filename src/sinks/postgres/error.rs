//! What an error of PostgreSQL means. The server's texts quote rows and parameters, and a
//! connection's errors may name hosts, so only the code of an error is shown.

use tokio_postgres::error::SqlState;

use crate::sinks::error::{SinkError, SinkErrorKind};
use crate::sinks::network::connection_problem;

impl From<tokio_postgres::Error> for SinkError {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(state) = error.code() {
            return of_state(state);
        }
        let unreachable = |message: String| Self::new(SinkErrorKind::Unreachable, message);
        if let Some(problem) = connection_problem(&error, "the database") {
            return unreachable(problem);
        }
        // The text of the library's error is fixed; what it quotes is in its sources.
        match error.to_string().as_str() {
            "error performing TLS handshake" => {
                unreachable("the database has no TLS, which the sslmode of its URL asks for".into())
            }
            "connection closed" => unreachable("the connection to the database ended".into()),
            "authentication error" | "invalid configuration" => Self::new(
                SinkErrorKind::Refused,
                "the database asks for a password, or another one than its URL has",
            ),
            other => unreachable(format!("the database cannot be used: {other}")),
        }
    }
}

/// What an error code of the server means.
fn of_state(state: &SqlState) -> SinkError {
    use SinkErrorKind::{Refused, Unavailable, Unsuitable};
    // A code is five letters and digits; this text comes from the server.
    let is_code =
        state.code().len() == 5 && state.code().bytes().all(|b| b.is_ascii_alphanumeric());
    let code = if is_code { state.code() } else { "" };
    let (class, class_3) = (code.get(..2).unwrap_or(""), code.get(..3).unwrap_or(""));
    let (kind, message) = match (code, class) {
        ("28P01", _) => (Refused, "the database refuses the user or the password of its URL"),
        (_, "28") => (
            Refused,
            "the database refuses the user, or a connection from here, or one without TLS \
             (pg_hba.conf)",
        ),
        ("3D000", _) => (Unsuitable, "the database that its URL names does not exist"),
        ("42501", _) => (
            Refused,
            "the user of its URL has no permission for this in the database; see the permissions \
             in docs/sinks.md",
        ),
        ("25006", _) => (Unavailable, "the database is read-only, such as a standby server"),
        ("53100", _) => (Unavailable, "the disk of the database is full"),
        ("53300", _) => (Unavailable, "the database has no connection left"),
        (_, "53") => (Unavailable, "the database lacks memory or another resource"),
        ("55P03", _) => (Unavailable, "another session keeps calmirror's tables locked"),
        ("57014", _) => (Unavailable, "the database took too long and cancelled the transaction"),
        (_, "40") => (
            Unavailable,
            "another transaction was in the way, and the database took this one back; it is sent \
             again",
        ),
        ("57P03", _) => (Unavailable, "the database is starting or stopping"),
        (_, "57") => (Unavailable, "the database or an administrator ended the session"),
        (_, "08") => (SinkErrorKind::Unreachable, "the connection to the database ended"),
        (_, "58" | "XX") => (Unavailable, "the database has an internal error; see its log"),
        ("42P07" | "42710" | "42723", _) => (
            Unsuitable,
            "the schema already has something with a name that calmirror needs; give calmirror a \
             schema of its own",
        ),
        (_, "42" | "3F") => (Unsuitable, "the schema's tables are not those that calmirror made"),
        (_, "23" | "P0" | "09" | "27" | "38" | "44") => {
            (Refused, "a constraint or a trigger, which somebody added, refuses an event")
        }
        _ if class_3 == "22P" || class == "22" || class == "54" => {
            (Refused, "the database cannot hold a value of an event")
        }
        _ => (Refused, "the database refuses the transaction"),
    };
    let code = if code.is_empty() { String::new() } else { format!(" (SQLSTATE {code})") };
    SinkError::new(kind, format!("{message}{code}"))
}
