//! What an error of SQLite means. Its own message may quote a value, so only its code is shown.

use rusqlite::ErrorCode;

use crate::sinks::error::{SinkError, SinkErrorKind};

impl From<rusqlite::Error> for SinkError {
    fn from(error: rusqlite::Error) -> Self {
        use SinkErrorKind::{Refused, Unavailable, Unsuitable};
        let Some(failure) = error.sqlite_error() else {
            let message = "the file's tables are not those that calmirror made";
            return Self::new(Unsuitable, message);
        };
        let (kind, message) = match failure.code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
                (Unavailable, "another program keeps the file locked; end its transaction")
            }
            ErrorCode::DiskFull => (Unavailable, "the disk of the file is full"),
            ErrorCode::ReadOnly => {
                (Unavailable, "the file, or its directory, is read-only for the daemon's user")
            }
            ErrorCode::SystemIoFailure => (Unavailable, "the file cannot be read or written"),
            ErrorCode::CannotOpen => (Unavailable, "the file cannot be opened"),
            ErrorCode::OutOfMemory => (Unavailable, "there is no memory left"),
            ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied => {
                (Refused, "the daemon's user may not write to the file")
            }
            ErrorCode::ConstraintViolation => {
                (Refused, "a constraint or a trigger, which somebody added, refuses an event")
            }
            ErrorCode::TooBig => (Refused, "an event is too large for SQLite"),
            ErrorCode::NotADatabase => (Unsuitable, "the file is not one of SQLite"),
            ErrorCode::DatabaseCorrupt => {
                (Unsuitable, "the file is damaged; move it away, and it is made again")
            }
            // Such as a missing table.
            _ => (Unsuitable, "the file's tables are not those that calmirror made"),
        };
        Self::new(kind, format!("{message} (SQLite error {})", failure.extended_code))
    }
}
