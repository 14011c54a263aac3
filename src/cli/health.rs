//! `health`: for a container's HEALTHCHECK.

use std::io::Write;

use super::client::Client;
use super::exit::{DONE, Failure, UNAVAILABLE};

/// Exit 0 if the daemon lives and serves, else 69.
pub(super) async fn health(
    client: &Client,
    json: bool,
    out: &mut impl Write,
) -> Result<u8, Failure> {
    let healthy = client.get("/healthz").await.and_then(|answer| answer.success());
    match healthy {
        Ok(answer) if json => writeln!(out, "{}", String::from_utf8_lossy(&answer.body))?,
        Ok(_) => writeln!(out, "ok")?,
        Err(failure) => return Err(Failure { exit: UNAVAILABLE, ..failure }),
    }
    Ok(DONE)
}
