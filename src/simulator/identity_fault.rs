//! How the endpoints of managed identities fail.

use serde::{Deserialize, Serialize};

/// How an endpoint of managed identities fails (fact 142).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentityFault {
    /// 404 without a body: the endpoint is being updated.
    Updating,
    /// 410 without a body: the endpoint is back within 70 s.
    Upgrading,
    /// 429.
    Throttled,
    /// 500 `unknown`.
    Failing,
    /// 400 `invalid_request`, "Identity not found": what machines without an identity have been
    /// seen to answer, instead of the documented `unauthorized_client`.
    NotFound,
    /// Arc's challenge names a file outside its directory.
    ArcElsewhere,
    /// Arc's challenge names a file that is no `.key` file.
    ArcOtherExtension,
    /// Arc's key file has more than 4096 bytes.
    ArcLongKey,
    /// Arc's key file does not exist.
    ArcMissingKey,
    /// Arc's challenge is a 401 without `WWW-Authenticate`.
    ArcNoChallenge,
}

impl IdentityFault {
    /// Whether it changes Arc's challenge.
    pub(super) fn is_of_challenge(self) -> bool {
        matches!(
            self,
            Self::ArcElsewhere
                | Self::ArcOtherExtension
                | Self::ArcLongKey
                | Self::ArcMissingKey
                | Self::ArcNoChallenge
        )
    }
}
