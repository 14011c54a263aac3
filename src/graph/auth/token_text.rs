//! Reads an access token that another program wrote: plain text, or JSON as the Azure CLI prints it
//! (`accessToken`, `expires_on`) or as OAuth has it (`access_token`, `expires_in`).

use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::Value;

use super::endpoint::{DEFAULT_LIFETIME, Grant, seconds, until};
use super::secret::AccessToken;
use crate::graph::wire::without_bom;

/// The text holds no token. Never quotes it.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenTextError {
    #[error("it is empty")]
    Empty,
    #[error("it is neither a token nor JSON with `accessToken` or `access_token`")]
    NoToken,
    #[error("its token expired at {0}")]
    Expired(Timestamp),
}

#[derive(Deserialize)]
struct TokenJson {
    #[serde(alias = "accessToken")]
    access_token: SecretString,
    expires_in: Option<Value>,
    /// Seconds since 1970. The Azure CLI's `expiresOn` is a local time without its zone, so it is
    /// not read.
    expires_on: Option<Value>,
}

/// Reads a token. One that states no end is taken to live for an hour; if it ends earlier, Graph
/// refuses it and it is renewed then.
pub(super) fn read(text: &[u8], now: Timestamp) -> Result<Grant, TokenTextError> {
    let text = std::str::from_utf8(without_bom(text)).map_err(|_| TokenTextError::NoToken)?;
    let text = text.trim();
    if text.is_empty() {
        return Err(TokenTextError::Empty);
    }
    let plain = |token: SecretString| AccessToken::new(token).ok_or(TokenTextError::NoToken);
    if !text.starts_with('{') {
        return Ok(Grant { token: plain(text.into())?, life: DEFAULT_LIFETIME, refresh_in: None });
    }
    let json: TokenJson = serde_json::from_str(text).map_err(|_| TokenTextError::NoToken)?;
    let ends = json.expires_on.as_ref().and_then(until);
    if let Some(ends) = ends.filter(|ends| *ends <= now) {
        return Err(TokenTextError::Expired(ends));
    }
    let left = ends.and_then(|ends| Duration::try_from(ends.duration_since(now)).ok());
    let life = seconds(json.expires_in).or(left).unwrap_or(DEFAULT_LIFETIME);
    Ok(Grant { token: plain(json.access_token)?, life, refresh_in: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn a_token_is_plain_text_or_json() {
        for (text, life) in [
            ("eyJ.eyJ.c2ln\n", 3600),
            ("\u{feff}eyJ.eyJ.c2ln", 3600),
            (
                r#"{"accessToken":"eyJ.eyJ.c2ln","expires_on":900,"expiresOn":"2026-11-29 12:00:00.0"}"#,
                900,
            ),
            (
                r#"{"accessToken":"eyJ.eyJ.c2ln","expiresOn":"2026-11-29 12:00:00.0","tenant":"t"}"#,
                3600,
            ),
            (r#"{"access_token":"eyJ.eyJ.c2ln","expires_in":"1200","token_type":"Bearer"}"#, 1200),
            (r#" {"access_token":"eyJ.eyJ.c2ln","expires_on":"77"} "#, 77),
        ] {
            let grant = read(text.as_bytes(), NOW).unwrap();
            assert_eq!(
                (grant.token.expose(), grant.life.as_secs()),
                ("eyJ.eyJ.c2ln", life),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_token_is_said_and_never_quoted() {
        for (text, said) in [
            (&b" \n"[..], "it is empty"),
            (b"\xff\xfe", "neither a token"),
            (b"Please run canary login", "neither a token"),
            (b"{\"canary\":1}", "neither a token"),
            (b"{canary", "neither a token"),
            (br#"{"accessToken":"canary canary"}"#, "neither a token"),
            (br#"{"accessToken":"canary","expires_on":-60}"#, "expired at 1969-12-31T23:59:00Z"),
        ] {
            let message = read(text, NOW).unwrap_err().to_string();
            assert!(message.contains(said) && !message.contains("canary"), "{message}");
        }
    }
}
