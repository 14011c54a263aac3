//! Values that must not be shown: they have no `Display`, and `Debug` shows nothing of them.

use std::fmt;
use std::sync::Arc;

use http::HeaderValue;

/// A secret or an assertion; it is only sent to the token endpoint.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(Box<str>);

impl Secret {
    pub(super) fn new(secret: impl Into<Box<str>>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, for the request that needs it.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// An access token. Only Graph's origin may see it.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken(Arc<str>);

impl AccessToken {
    /// Wraps a token if it fits into a header: visible ASCII, not empty.
    pub(super) fn new(token: &str) -> Option<Self> {
        let sendable = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
        sendable.then(|| Self(token.into()))
    }

    /// The value of the `Authorization` header, marked so that nothing prints it.
    pub(in crate::graph) fn bearer(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::try_from(format!("Bearer {}", self.0)).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// The token itself, to check whether an answer echoes it.
    pub(in crate::graph) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken(…)")
    }
}
