//! `health`: checks that the daemon serves, for a container's HEALTHCHECK.

use std::io::Write;

use super::client::ApiClient;
use super::exit::{CliError, DONE, UNAVAILABLE};

/// Returns 0 if the daemon is running and serving, else an error with exit code 69.
pub(super) async fn health(
    client: &ApiClient,
    json: bool,
    out: &mut impl Write,
) -> Result<u8, CliError> {
    let healthy = client.get("/healthz").await.and_then(|answer| answer.success());
    match healthy {
        Ok(answer) if json => writeln!(out, "{}", String::from_utf8_lossy(&answer.body))?,
        Ok(_) => writeln!(out, "ok")?,
        Err(failure) => return Err(CliError { exit: UNAVAILABLE, ..failure }),
    }
    Ok(DONE)
}
