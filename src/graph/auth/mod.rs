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
mod endpoint;
mod secret;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use tokio::time::{Instant, timeout};

pub use secret::AccessToken;

use super::error::{GraphError, TokenError};
use super::origin::Origin;
use super::transport::{Transport, TransportError};
use crate::env::Env;
use crate::error_chain::error_chain;
use crate::mirror::account::Account;
use crate::percent;
use cached_token::{CachedToken, TokenAvailability};
use credential::Proof;
use endpoint::{Denial, Grant};

/// How long the token endpoint may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer of the token endpoint that is read.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// How an account signs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignInSettings {
    /// The account.
    pub account: Account,
    /// The sign-in address: `{login_url}/{tenant}/oauth2/v2.0/token` grants tokens (fact 134).
    pub login_url: String,
    /// The scope of the token: Graph's host and `/.default` (fact 135).
    pub scope: String,
}

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

    /// Replaces the settings; the next sign-in uses them. Equal settings change nothing; different
    /// ones drop the current token, because it belongs to the old settings.
    pub fn reconfigure(&self, sign_in: SignInSettings) {
        let mut held = self.cached();
        if *held.sign_in != sign_in {
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
        let outcome = self.grant(&sign_in).await;
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

    async fn grant(&self, sign_in: &SignInSettings) -> Result<Grant, TokenError> {
        let SignInSettings { account, login_url, scope } = sign_in;
        let Account { name: _, tenant, client_id, credential } = account;
        let endpoint = format!("{}/{tenant}/oauth2/v2.0/token", login_url.trim_end_matches('/'));
        let proof =
            credential.read(&endpoint, client_id, self.env.now(), self.env.uuid()).map_err(
                |error| TokenError { needs_person: true, ..sign_in.fault(&error_chain(&error)) },
            )?;
        let mut form =
            vec![("grant_type", "client_credentials"), ("client_id", client_id), ("scope", scope)];
        match &proof {
            Proof::Token(token) => {
                return Ok(Grant { token: token.clone(), life: Duration::MAX, refresh_in: None });
            }
            Proof::Secret(secret) => form.push(("client_secret", secret.expose())),
            Proof::Assertion(assertion) => form.extend([
                ("client_assertion", assertion.expose()),
                ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ]),
        }
        let unusable = || TokenError {
            needs_person: true,
            ..sign_in.fault("login_url and tenant do not form a usable address")
        };
        let uri = Origin::of(&endpoint)
            .and_then(|origin| origin.admit(&endpoint))
            .map_err(|_| unusable())?;
        let request = http::Request::post(uri)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json")
            .header("client-request-id", self.env.uuid().to_string())
            .body(Bytes::from(encode_form(&form)))
            .map_err(|_| unusable())?;
        let lost = |error: TransportError| {
            sign_in.fault(&format!("the token endpoint was not reached: {error}"))
        };
        let (head, body) = timeout(TIMEOUT, async {
            let (head, body) = self.transport.send(request).await?.into_parts();
            Ok((head, body.read(MAX_ANSWER_BYTES).await?))
        })
        .await
        .map_err(|_| sign_in.fault("the token endpoint did not answer in time"))?
        .map_err(lost)?;
        endpoint::read(head.status, &head.headers, &body, self.env.now())
            .map_err(|denial| sign_in.denied(&denial))
    }
}

impl SignInSettings {
    fn fault(&self, message: &str) -> TokenError {
        TokenError {
            account: self.account.name.clone(),
            message: message.into(),
            ..TokenError::default()
        }
    }

    fn denied(&self, denial: &Denial) -> TokenError {
        TokenError {
            needs_person: denial.needs_person,
            status: Some(denial.status),
            code: denial.code.as_deref().map(Into::into),
            retry_after: denial.retry_after,
            ..self.fault(&denial.sentence(self.account.credential.key()))
        }
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("account", &self.name).finish_non_exhaustive()
    }
}

/// `application/x-www-form-urlencoded`; the secret must be encoded too (fact 137).
fn encode_form(fields: &[(&str, &str)]) -> String {
    let pairs: Vec<_> =
        fields.iter().map(|(name, value)| format!("{name}={}", percent::encode(value))).collect();
    pairs.join("&")
}

#[cfg(test)]
mod tests;
