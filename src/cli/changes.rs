//! `changes`: prints the feed as NDJSON, response by response.
//!
//! With `--state` the cursor is stored only after the lines are written and flushed, and by a
//! rename: a crash at any moment may repeat lines but loses none. The state file is checked before
//! the first request.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use http::StatusCode;

use super::arguments::ChangesArgs;
use super::client::{ApiClient, ApiResponse, with_query};
use super::exit::{CliError, DONE, FAILED, UNAVAILABLE};
use super::suggest;
use super::terminal::escaped_json;

/// How long the daemon holds a request with `--follow`.
const WAIT: &str = "30s";

/// How long a follower waits before it tries a restarting daemon again: the first wait, which
/// doubles each time, and the longest.
const FIRST_RECONNECT: Duration = Duration::from_secs(1);
const MAX_RECONNECT: Duration = Duration::from_secs(30);

/// The longest valid cursor, bytes.
const MAX_CURSOR_BYTES: usize = 256;

/// Prints the feed to `out`, and to `aside` that a follower waits for the daemon. Unless `exact` is
/// set, characters that a terminal would act on are escaped: the bytes differ, the JSON value does
/// not.
pub(super) async fn changes(
    client: &ApiClient,
    args: &ChangesArgs,
    exact: bool,
    out: &mut impl Write,
    aside: &mut impl Write,
) -> Result<u8, CliError> {
    let remembered = args.state.as_deref().map(read_cursor).transpose()?.flatten();
    let mut after = remembered.clone().or_else(|| args.after.clone());
    let mut reached = false;
    let mut away = false;
    let mut pause = FIRST_RECONNECT;
    loop {
        let answer = client.get(&path(args, after.as_deref())).await;
        let absent = match &answer {
            Ok(answer) => answer.status == StatusCode::SERVICE_UNAVAILABLE,
            Err(failure) => failure.exit == UNAVAILABLE,
        };
        // After the first response, a follower keeps running while the daemon restarts.
        if absent && reached && args.follow {
            if !away {
                let why =
                    answer.and_then(ApiResponse::success).err().map(|failure| failure.message);
                // Standard error may be closed.
                writeln!(aside, "calmirror: {}; waiting for it", why.unwrap_or_default()).ok();
                away = true;
            }
            tokio::time::sleep(pause).await;
            pause = MAX_RECONNECT.min(pause * 2);
            continue;
        }
        let answer = answer?;
        if answer.status == StatusCode::GONE {
            return Err(too_old(args));
        }
        // Only the cursor from the state file can make the request invalid.
        if let (StatusCode::BAD_REQUEST, Some(file)) = (answer.status, &args.state)
            && remembered.is_some()
            && remembered == after
        {
            return Err(invalid_cursor_error(file));
        }
        let answer = match &args.window {
            Some(window) => suggest::or_suggestion(client, window, answer).await?,
            None => answer.success()?,
        };
        if away {
            writeln!(aside, "calmirror: the daemon is back").ok();
        }
        (reached, away, pause) = (true, false, FIRST_RECONNECT);
        match std::str::from_utf8(&answer.body) {
            Ok(text) if !exact => out.write_all(escaped_json(text).as_bytes())?,
            _ => out.write_all(&answer.body)?,
        }
        out.flush()?;
        if let Some(cursor) = &answer.cursor {
            if let Some(file) = &args.state
                && after.as_ref() != Some(cursor)
            {
                write_cursor(file, cursor)?;
            }
            after = Some(cursor.clone());
        }
        if answer.body.is_empty() && !args.follow {
            return Ok(DONE);
        }
    }
}

fn path(args: &ChangesArgs, after: Option<&str>) -> String {
    let wait = args.follow.then_some(WAIT);
    with_query(
        "/v1/changes",
        &[("after", after), ("window", args.window.as_deref()), ("wait", wait)],
    )
}

fn too_old(args: &ChangesArgs) -> CliError {
    let start_over = match &args.state {
        Some(file) => format!("remove {} and run this again", file.display()),
        None => "run this again without --after".to_owned(),
    };
    CliError::new(
        FAILED,
        "the cursor is older than the removals still kept, or from another store: the changes \
         since then are not available",
    )
    .remedy(format!("discard your copy, {start_over}: the feed then starts with all events"))
}

/// The cursor in the file; `None` if the file does not exist or is empty. Also checks that a new
/// file can be created in the same directory.
fn read_cursor(file: &Path) -> Result<Option<String>, CliError> {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(state_file_error(file, &error)),
    };
    tempfile::NamedTempFile::new_in(directory(file))
        .map_err(|error| state_file_error(file, &error))?;
    let text = text.trim_ascii();
    let of_a_cursor = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_~.".contains(byte);
    if text.len() > MAX_CURSOR_BYTES || !text.iter().all(of_a_cursor) {
        return Err(invalid_cursor_error(file));
    }
    Ok(std::str::from_utf8(text).ok().filter(|cursor| !cursor.is_empty()).map(str::to_owned))
}

/// The directory of a file.
fn directory(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn write_cursor(file: &Path, cursor: &str) -> Result<(), CliError> {
    let write = || {
        let mut new = tempfile::NamedTempFile::new_in(directory(file))?;
        writeln!(new, "{cursor}")?;
        new.as_file().sync_all()?;
        new.persist(file).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|error: std::io::Error| state_file_error(file, &error))
}

fn state_file_error(file: &Path, error: &std::io::Error) -> CliError {
    CliError::new(FAILED, format!("cannot use the state file {}: {error}", file.display()))
        .remedy("use a file that you can read, in a directory that you can write to")
}

fn invalid_cursor_error(file: &Path) -> CliError {
    let file = file.display();
    CliError::new(FAILED, format!("the state file {file} does not contain a cursor")).remedy(
        "if it is the right file, remove it, and discard your copy: the feed then starts with \
         all events",
    )
}

#[cfg(test)]
mod tests;
