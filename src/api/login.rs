//! How the API asks for the sign-in of a person: the daemon implements it.

use futures_util::future::BoxFuture;
use jiff::Timestamp;

use crate::reload::ReloadError;

/// Signs people in to accounts: the daemon, or a test double.
pub trait LoginApi: Send + Sync {
    /// Requests a code with which a person signs in. `replace` allows another person than before.
    fn login(
        &self,
        account: String,
        replace: bool,
    ) -> BoxFuture<'_, Result<StartedLogin, LoginRefusal>>;
    /// Forgets the sign-in; returns who was signed in.
    fn logout(&self, account: String) -> BoxFuture<'_, Result<Option<String>, LoginRefusal>>;
}

/// A sign-in that waits for a person.
pub struct StartedLogin {
    /// Where the person enters the code.
    pub verification_uri: String,
    /// The code.
    pub user_code: String,
    /// When the code expires.
    pub expires_at: Timestamp,
    /// Waits for the person.
    pub outcome: BoxFuture<'static, Result<CompletedLogin, LoginRefusal>>,
}

/// A person is signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompletedLogin {
    /// The name for signing in, such as `alice@contoso.com`.
    pub user: String,
    /// Whether the events of another person are replaced.
    pub replaced: bool,
}

/// Why a sign-in failed, or is not applied yet.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LoginRefusal {
    /// No account has that name.
    #[error("no account is named {0:?}")]
    UnknownAccount(String),
    /// The sign-in failed; one sentence with the remedy.
    #[error("{0}")]
    Refused(String),
    /// The person is signed in, but the configuration could not be loaded again to use it.
    #[error("{user} is signed in, but not used yet, because the reload failed: {error}")]
    NotReloaded {
        /// Who is signed in.
        user: String,
        /// Why the reload failed.
        error: ReloadError,
    },
}
