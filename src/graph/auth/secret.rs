//! An access token, which is never shown. Secrets, passwords and assertions are [`SecretString`]s.

use std::fmt;
use std::sync::Arc;

use http::HeaderValue;
use secrecy::{ExposeSecret as _, SecretString};

/// An access token. Only Graph's origin may see it. Clones share one text, which is erased with the
/// last of them.
#[derive(Clone)]
pub struct AccessToken(Arc<SecretString>);

impl AccessToken {
    /// Wraps a token if it fits into a header: visible ASCII, not empty.
    pub(super) fn new(token: impl Into<SecretString>) -> Option<Self> {
        let token: SecretString = token.into();
        let text = token.expose_secret();
        let sendable = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        sendable.then(|| Self(Arc::new(token)))
    }

    /// The value of the `Authorization` header, marked so that nothing prints it.
    pub(in crate::graph) fn bearer(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::try_from(format!("Bearer {}", self.expose())).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// The token itself, to check whether an answer echoes it.
    pub(in crate::graph) fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl PartialEq for AccessToken {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.expose() == other.expose()
    }
}

impl Eq for AccessToken {}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken(…)")
    }
}
