//! `login` and `logout`: a person signs in to an account of the running daemon.

use std::io::Write;

use http::Method;
use humantime::format_duration;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::client::{ApiClient, ProblemDetails, parse};
use super::exit::{CONFIGURATION, CliError, DONE, FAILED, PERMISSION};
use super::terminal::printable;
use crate::percent;

/// A line of the daemon's response.
#[derive(Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum LoginLine {
    Pending {
        verification_uri: Option<String>,
        user_code: Option<String>,
        expires_at: Option<Timestamp>,
    },
    SignedIn {
        user: String,
        replaced: bool,
    },
    Failed {
        problem: ProblemDetails,
    },
}

/// Prints the address and the code, waits for the person, and prints the person's name.
pub(super) async fn login(
    client: &ApiClient,
    account: &str,
    replace: bool,
    json: bool,
    out: &mut impl Write,
) -> Result<u8, CliError> {
    let more = if replace { "?replace=true" } else { "" };
    let path = format!("/v1/accounts/{}/login{more}", percent::encode(account));
    let mut response = client.download(Method::POST, &path).await.map_err(|failure| CliError {
        // What the sign-in refuses is no fault of the configuration.
        exit: if failure.exit == CONFIGURATION { PERMISSION } else { failure.exit },
        ..failure
    })?;
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        text.extend_from_slice(&chunk);
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let value: Value = serde_json::from_slice(&line)
                .map_err(|_| CliError::new(FAILED, "the daemon's answer cannot be read"))?;
            if json {
                writeln!(out, "{value}")?;
            }
            let ended = show(account, parse(&value)?, json, out)?;
            out.flush()?;
            if let Some(exit) = ended {
                return Ok(exit);
            }
        }
    }
    Err(CliError::new(PERMISSION, "the daemon ended the sign-in").remedy("start it again"))
}

/// Shows a line; returns the exit code after the last one.
fn show(
    account: &str,
    line: LoginLine,
    json: bool,
    out: &mut impl Write,
) -> Result<Option<u8>, CliError> {
    match line {
        LoginLine::Pending { verification_uri, user_code, expires_at } => {
            if let (Some(uri), Some(code), false) = (verification_uri, user_code, json) {
                let left = expires_at.map(|at| at.duration_since(Timestamp::now()).as_secs());
                let left = left.and_then(|left| u64::try_from(left).ok()).filter(|left| *left > 0);
                let valid = left.map_or(String::new(), |left| {
                    // Whole minutes, unless less than one is left.
                    let left = if left >= 60 { (left + 30) / 60 * 60 } else { left };
                    let left = std::time::Duration::from_secs(left);
                    format!("; it is valid for {}", format_duration(left))
                });
                writeln!(
                    out,
                    "To sign in to account {}, open {} in any browser and enter the code {}{valid}.",
                    printable(account),
                    printable(&uri),
                    printable(&code)
                )?;
            }
            Ok(None)
        }
        LoginLine::SignedIn { user, replaced } => {
            if !json {
                let more =
                    if replaced { "; the events of the person before are replaced" } else { "" };
                writeln!(out, "signed in as {}{more}", printable(&user))?;
            }
            Ok(Some(DONE))
        }
        LoginLine::Failed { problem } => Err(CliError::new(PERMISSION, problem.message())),
    }
}

/// Ends the sign-in.
pub(super) async fn logout(
    client: &ApiClient,
    account: &str,
    json: bool,
    out: &mut impl Write,
) -> Result<u8, CliError> {
    #[derive(Deserialize)]
    struct LogoutJson {
        user: Option<String>,
    }
    let path = format!("/v1/accounts/{}/logout", percent::encode(account));
    let answer: Value = client.post(&path).await?.json()?;
    if json {
        writeln!(out, "{answer}")?;
        return Ok(DONE);
    }
    match parse::<LogoutJson>(&answer)?.user {
        Some(user) => writeln!(out, "signed out {}; its events stay", printable(&user))?,
        None => writeln!(out, "no person was signed in")?,
    }
    Ok(DONE)
}
