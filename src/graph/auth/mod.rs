//! Keeps one access token per account, shared by all its windows.
//!
//! [`Tokens`] sends one request at a time to the token endpoint; other callers wait, or use the
//! current token while it is valid. A token is renewed 5 minutes before it expires, or when the
//! endpoint asks for it (fact 152). Failures are remembered, so that a fleet does not hammer the
//! endpoint: a refused sign-in for 15 minutes, until the credential's file is rewritten, or until
//! [`Tokens::forget`]; a temporary fault for a back-off of its own. A failed renewal has no effect
//! while the current token is valid. A token that Graph refuses for one window stays in use for the
//! others until a newer one is granted.
//!
//! Secrets are read for the request that needs them and are not kept.

mod assertion;
mod cached_token;
mod credential;
mod device_code;
mod endpoint;
mod exchange;
mod grant;
mod managed_identity;
mod secret;
mod token_command;
mod token_text;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

pub use device_code::{DeviceCode, LoginError, SignedInUser};
pub use grant::SignInSettings;
pub use secret::AccessToken;

use super::error::GraphError;
use super::transport::{Route, Transport};
use crate::env::Env;
use crate::mirror::account::Credential;
use cached_token::{CachedToken, TokenAvailability};

/// The token of one account.
pub struct Tokens {
    name: Arc<str>,
    transport: Arc<dyn Transport>,
    env: Env,
    cached: Mutex<CachedToken>,
    /// Held during a request to the endpoint: one at a time.
    request_lock: tokio::sync::Mutex<()>,
}

impl Tokens {
    /// Requests and reads nothing before the first token is needed.
    pub fn new(sign_in: SignInSettings, transport: Arc<dyn Transport>, env: Env) -> Arc<Self> {
        let name = sign_in.account.name.clone();
        Arc::new(Self {
            name,
            transport,
            env,
            cached: Mutex::new(CachedToken::new(sign_in)),
            request_lock: tokio::sync::Mutex::default(),
        })
    }

    /// The account's name in the configuration.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// How the account's requests reach the network; `None`: as the environment says.
    pub fn route(&self) -> Option<Arc<Route>> {
        self.cached().sign_in.route.clone()
    }

    /// The account's credential: where it is, not what it is.
    pub fn credential(&self) -> Credential {
        self.cached().sign_in.account.credential.clone()
    }

    /// Replaces the settings; the next sign-in uses them. Equal settings change nothing; different
    /// ones drop the current token, because it belongs to the old settings. Another way to the
    /// network is no reason to drop it.
    pub fn reconfigure(&self, sign_in: SignInSettings) {
        let mut held = self.cached();
        if *held.sign_in == sign_in {
            return;
        }
        if held.sign_in.signs_in_like(&sign_in) {
            held.sign_in = Arc::new(sign_in);
        } else {
            *held = CachedToken::new(sign_in);
        }
    }

    /// A token that is valid as far as known. May be dropped at any time.
    ///
    /// # Errors
    /// [`ErrorClass::SignIn`](crate::mirror::failure::ErrorClass::SignIn) if a person is needed, otherwise
    /// transient; both are remembered for a while.
    pub async fn token(&self) -> Result<AccessToken, GraphError> {
        match self.availability() {
            TokenAvailability::Good(token) => return Ok(token),
            TokenAvailability::Failed(fault) => return Err(GraphError::Token(fault)),
            TokenAvailability::RenewalDue(token) => {
                // Another caller is renewing it; the current token is still valid.
                let Ok(_asking) = self.request_lock.try_lock() else { return Ok(token) };
                return match self.availability() {
                    TokenAvailability::Good(token) => Ok(token),
                    _ => Ok(self.request_token().await.unwrap_or(token)),
                };
            }
            TokenAvailability::Missing => {}
        }
        let _asking = self.request_lock.lock().await;
        match self.availability() {
            TokenAvailability::Good(token) | TokenAvailability::RenewalDue(token) => Ok(token),
            TokenAvailability::Failed(fault) => Err(GraphError::Token(fault)),
            TokenAvailability::Missing => self.request_token().await,
        }
    }

    /// A token to try after Graph refused one: a newer one if there is one already, otherwise one
    /// that is requested now. A token file is read again and may hold the same token. The refused
    /// token stays in use until another is granted, because it may work for others.
    ///
    /// # Errors
    /// As [`Tokens::token`]; and [`ErrorClass::SignIn`](crate::mirror::failure::ErrorClass::SignIn) for this caller
    /// alone if too many were refused within a minute.
    pub async fn refresh(&self, refused: &AccessToken) -> Result<AccessToken, GraphError> {
        let _asking = self.request_lock.lock().await;
        match self.availability() {
            TokenAvailability::Good(token) | TokenAvailability::RenewalDue(token)
                if token != *refused =>
            {
                return Ok(token);
            }
            TokenAvailability::Good(_) | TokenAvailability::RenewalDue(_) => {
                self.cached().allow_forced().map_err(GraphError::Token)?
            }
            TokenAvailability::Failed(fault) => return Err(GraphError::Token(fault)),
            TokenAvailability::Missing => {}
        }
        self.request_token().await
    }

    /// Called when a person requests a round: the next request repeats a refused sign-in, unless it
    /// was refused within the last second. So a request for a whole fleet of windows does not reach
    /// the token endpoint once per window.
    pub fn retry_refused(&self) {
        let mut held = self.cached();
        if held.has_old_refusal() {
            held.forget();
        }
    }

    /// Forgets a remembered failure: the next token is requested at once. The current token is
    /// kept, but a token file is read again.
    pub fn forget(&self) {
        self.cached().forget();
    }

    fn cached(&self) -> MutexGuard<'_, CachedToken> {
        // No change is left incomplete, so a poisoned lock is still usable.
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn availability(&self) -> TokenAvailability {
        self.cached().availability()
    }

    /// Requests a token and stores the outcome. The caller holds `request_lock`.
    async fn request_token(&self) -> Result<AccessToken, GraphError> {
        let began = Instant::now();
        let sign_in = self.cached().sign_in.clone();
        let stamp = sign_in.account.credential.stamp();
        // Boxed: every round in progress has the room of what it may await, and this is rare.
        let outcome = Box::pin(sign_in.grant(&*self.transport, &self.env)).await;
        let mut held = self.cached();
        if !Arc::ptr_eq(&held.sign_in, &sign_in) {
            // The settings changed meanwhile, so the outcome is not stored.
            return outcome.map(|grant| grant.token).map_err(GraphError::Token);
        }
        match outcome {
            Ok(grant) => Ok(held.granted(grant, began, stamp)),
            Err(fault) => Err(GraphError::Token(held.failed(fault, stamp, &self.env))),
        }
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("account", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
