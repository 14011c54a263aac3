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
mod credential;
mod endpoint;
mod secret;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use tokio::time::{Instant, timeout};

pub use secret::AccessToken;

use super::error::{GraphError, TokenError};
use super::origin::Origin;
use super::transport::{Transport, TransportError};
use crate::env::Env;
use crate::error_chain::error_chain;
use crate::mirror::account::{Account, Credential};
use crate::percent;
use credential::Proof;
use endpoint::{Denial, Grant};

/// How long before its expiry a token is renewed.
const RENEW_BEFORE: Duration = Duration::from_secs(5 * 60);
/// How long a refused sign-in is remembered.
const REFUSAL_TTL: Duration = Duration::from_secs(15 * 60);
/// A sign-in that was refused within this time is not repeated, even if a round is requested.
const REFUSAL_MIN_AGE: Duration = Duration::from_secs(1);
/// The longest back-off after a temporary fault.
const MAX_BACKOFF: Duration = Duration::from_secs(5 * 60);
/// How long the token endpoint may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer of the token endpoint that is read.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// Renewals forced by refusals within [`FORCED_WITHIN`]; beyond, another token does not help.
const MAX_FORCED: u32 = 10;
const FORCED_WITHIN: Duration = Duration::from_secs(60);

/// How an account signs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignIn {
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

struct CachedToken {
    sign_in: Arc<SignIn>,
    token: Option<LiveToken>,
    failure: Option<SignInFailure>,
    /// Temporary faults since the last grant.
    faults: u32,
    /// Set once a missing token is logged; the value says whether a person is needed.
    logged_missing: Option<bool>,
    /// When the counted forced renewals began, and how many there were.
    forced: Option<(Instant, u32)>,
}

#[derive(Clone)]
struct LiveToken {
    token: AccessToken,
    renew_at: Option<Instant>,
    ends_at: Option<Instant>,
    /// When the credential's file was modified; used if the file holds the token itself.
    stamp: Option<SystemTime>,
}

#[derive(Clone)]
struct SignInFailure {
    fault: TokenError,
    at: Instant,
    until: Instant,
    stamp: Option<SystemTime>,
}

impl Tokens {
    /// Requests and reads nothing before the first token is needed.
    pub fn new(sign_in: SignIn, transport: Arc<dyn Transport>, env: Env) -> Arc<Self> {
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

    /// Replaces how the account signs in; the next sign-in uses them. If they are the same, nothing
    /// is forgotten; otherwise the current token is dropped, because it belongs to the old ones.
    pub fn reconfigure(&self, sign_in: SignIn) {
        let mut held = self.cached();
        if *held.sign_in != sign_in {
            *held = CachedToken::new(sign_in);
        }
    }

    /// A token that is valid as far as known. May be dropped at any time.
    ///
    /// # Errors
    /// [`ErrorClass::SignIn`](super::ErrorClass::SignIn) if a person is needed, otherwise
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
    /// As [`Tokens::token`]; and [`ErrorClass::SignIn`](super::ErrorClass::SignIn) for this caller
    /// alone if too many were refused within a minute.
    pub async fn refresh(&self, refused: &AccessToken) -> Result<AccessToken, GraphError> {
        let _asking = self.request_lock.lock().await;
        match self.availability() {
            TokenAvailability::Good(token) | TokenAvailability::RenewalDue(token)
                if token != *refused =>
            {
                return Ok(token);
            }
            TokenAvailability::Good(_) | TokenAvailability::RenewalDue(_) => self.allow_forced()?,
            TokenAvailability::Failed(fault) => return Err(GraphError::Token(fault)),
            TokenAvailability::Missing => {}
        }
        self.request_token().await
    }

    /// Checks whether the current token, which is valid but was refused, may be replaced now.
    fn allow_forced(&self) -> Result<(), GraphError> {
        let mut held = self.cached();
        let now = Instant::now();
        // The failure that kept it from being replaced a moment ago would occur again.
        if let Some(fault) = self.remembered(&mut held, now) {
            return Err(GraphError::Token(fault));
        }
        if matches!(held.sign_in.account.credential, Credential::AccessTokenFile(_)) {
            return Ok(());
        }
        let (since, count) = match held.forced {
            Some((since, n)) if now - since < FORCED_WITHIN => (since, n + 1),
            _ => (now, 1),
        };
        held.forced = Some((since, count));
        if count <= MAX_FORCED {
            return Ok(());
        }
        // Not remembered as a failure: windows that Graph accepts with this token are not affected.
        let fault = self.fault("graph refuses every token");
        if count == MAX_FORCED + 1 {
            let (account, reason) = (&self.name, &fault.message);
            tracing::error!(%account, %reason, "sign-in failed");
        }
        let retry_after = Some(FORCED_WITHIN.saturating_sub(now - since));
        Err(GraphError::Token(TokenError { needs_person: true, retry_after, ..fault }))
    }

    /// Called when a person requests a round: the next request repeats a refused sign-in, unless it
    /// was refused within the last second. So a request for a whole fleet of windows does not reach
    /// the token endpoint once per window.
    pub fn retry_refused(&self) {
        let fresh = |failure: &SignInFailure| failure.at.elapsed() < REFUSAL_MIN_AGE;
        let refused = |failure: &SignInFailure| failure.fault.needs_person && !fresh(failure);
        if self.cached().failure.as_ref().is_some_and(refused) {
            self.forget();
        }
    }

    /// Forgets a remembered failure: the next token is requested at once. The current token is
    /// kept, but a token file is read again.
    pub fn forget(&self) {
        let mut held = self.cached();
        held.failure = None;
        held.faults = 0;
        held.forced = None;
        if let Some(live) = &mut held.token {
            live.stamp = None;
        }
    }

    fn cached(&self) -> std::sync::MutexGuard<'_, CachedToken> {
        // No change is left incomplete, so a poisoned lock is still usable.
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn availability(&self) -> TokenAvailability {
        let mut held = self.cached();
        let now = Instant::now();
        let credential = &held.sign_in.account.credential;
        let from_file = matches!(credential, Credential::AccessTokenFile(_));
        if let Some(live) = &held.token
            && live.ends_at.is_none_or(|at| now < at)
            && !(from_file && live.stamp != credential.stamp())
        {
            let token = live.token.clone();
            // A failed renewal is not repeated before its back-off ends.
            let failed = held.failure.as_ref().is_some_and(|f| now < f.until);
            return match live.renew_at {
                Some(at) if now >= at && !failed => TokenAvailability::RenewalDue(token),
                _ => TokenAvailability::Good(token),
            };
        }
        self.remembered(&mut held, now)
            .map_or(TokenAvailability::Missing, TokenAvailability::Failed)
    }

    /// The last failure while it is still valid; after that it is forgotten.
    fn remembered(&self, held: &mut CachedToken, now: Instant) -> Option<TokenError> {
        let failure = held.failure.as_ref()?;
        let rewritten =
            failure.fault.needs_person && failure.stamp != held.sign_in.account.credential.stamp();
        if now >= failure.until || rewritten {
            held.failure = None;
            return None;
        }
        let retry_after = Some(failure.until - now);
        Some(TokenError { retry_after, remembered: true, ..failure.fault.clone() })
    }

    /// Requests a token and stores the outcome. The caller holds `asking`.
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
            Ok(grant) => {
                let Grant { token, life, refresh_in } = grant;
                let (renew_at, ends_at) = match life {
                    // From a file: valid until it is refused or the file is rewritten.
                    Duration::MAX => (None, None),
                    life => {
                        // A short-lived token is used for at least half of its life.
                        let early = life.saturating_sub(RENEW_BEFORE).max(life / 2);
                        let early = refresh_in.map_or(early, |at| at.min(early));
                        (Some(began + early), Some(began + life))
                    }
                };
                held.token = Some(LiveToken { token: token.clone(), renew_at, ends_at, stamp });
                held.failure = None;
                held.faults = 0;
                if held.logged_missing.take().is_some() {
                    tracing::info!(account = %self.name, "sign-in works again");
                }
                Ok(token)
            }
            Err(mut fault) => {
                let kept = if fault.needs_person {
                    REFUSAL_TTL
                } else {
                    let doubled = Duration::from_secs(1 << held.faults.min(9));
                    held.faults += 1;
                    // Up to half of it is random, so that accounts do not retry in step.
                    let own = doubled.min(MAX_BACKOFF);
                    let own = own.mul_f64(1.0 - self.env.random() / 2.0);
                    own.max(fault.retry_after.unwrap_or_default())
                };
                fault.retry_after = Some(kept);
                let at = Instant::now();
                let failure = SignInFailure { fault: fault.clone(), at, until: at + kept, stamp };
                let (account, reason) = (&self.name, &fault.message);
                // Logged once, not at each attempt.
                match held.logged_missing.replace(fault.needs_person) {
                    told if told == Some(fault.needs_person) => {
                        tracing::debug!(%account, %reason, "still no token");
                    }
                    _ if fault.needs_person => {
                        tracing::error!(%account, %reason, "sign-in failed");
                    }
                    _ => tracing::warn!(%account, %reason, "no token available"),
                }
                held.failure = Some(failure);
                Err(GraphError::Token(fault))
            }
        }
    }

    async fn grant(&self, sign_in: &SignIn) -> Result<Grant, TokenError> {
        let SignIn { account, login_url, scope } = sign_in;
        let Account { name: _, tenant, client_id, credential } = account;
        let endpoint = format!("{}/{tenant}/oauth2/v2.0/token", login_url.trim_end_matches('/'));
        let proof =
            credential.read(&endpoint, client_id, self.env.now(), self.env.uuid()).map_err(
                |error| TokenError { needs_person: true, ..self.fault(&error_chain(&error)) },
            )?;
        let (name, proof) = match &proof {
            Proof::Token(token) => {
                return Ok(Grant { token: token.clone(), life: Duration::MAX, refresh_in: None });
            }
            Proof::Secret(secret) => ("client_secret", secret),
            Proof::Assertion(assertion) => ("client_assertion", assertion),
        };
        let mut form = vec![
            ("grant_type", "client_credentials"),
            ("client_id", client_id),
            ("scope", scope),
            (name, proof.expose()),
        ];
        if name == "client_assertion" {
            let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
            form.push(("client_assertion_type", kind));
        }
        let unusable = |_| TokenError {
            needs_person: true,
            ..self.fault("login_url and tenant do not form a usable address")
        };
        let uri = Origin::of(&endpoint)
            .and_then(|origin| origin.admit(&endpoint))
            .map_err(|error| unusable(error.to_string()))?;
        let request = http::Request::post(uri)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json")
            .header("client-request-id", self.env.uuid().to_string())
            .body(Bytes::from(encode_form(&form)))
            .map_err(|error| unusable(error.to_string()))?;
        let lost = |error: TransportError| {
            self.fault(&format!("the token endpoint was not reached: {error}"))
        };
        let (head, body) = timeout(TIMEOUT, async {
            let (head, body) = self.transport.send(request).await?.into_parts();
            Ok((head, body.read(MAX_ANSWER_BYTES).await?))
        })
        .await
        .map_err(|_| self.fault("the token endpoint did not answer in time"))?
        .map_err(lost)?;
        endpoint::read(head.status, &head.headers, &body, self.env.now())
            .map_err(|denial| self.denied(&denial, credential))
    }

    fn fault(&self, message: &str) -> TokenError {
        TokenError {
            account: self.name.clone(),
            message: message.into(),
            needs_person: false,
            status: None,
            code: None,
            retry_after: None,
            remembered: false,
        }
    }

    fn denied(&self, denial: &Denial, credential: &Credential) -> TokenError {
        TokenError {
            needs_person: denial.needs_person,
            status: Some(denial.status),
            code: denial.code.as_deref().map(Into::into),
            retry_after: denial.retry_after,
            ..self.fault(&denial.sentence(credential.key()))
        }
    }
}

impl CachedToken {
    fn new(sign_in: SignIn) -> Self {
        Self {
            sign_in: Arc::new(sign_in),
            token: None,
            failure: None,
            faults: 0,
            logged_missing: None,
            forced: None,
        }
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("account", &self.name).finish_non_exhaustive()
    }
}

/// What is available without a request.
enum TokenAvailability {
    Good(AccessToken),
    /// Valid, but due for renewal.
    RenewalDue(AccessToken),
    Failed(TokenError),
    Missing,
}

/// `application/x-www-form-urlencoded`; the secret must be encoded too (fact 137).
fn encode_form(fields: &[(&str, &str)]) -> String {
    let pairs: Vec<_> =
        fields.iter().map(|(name, value)| format!("{name}={}", percent::encode(value))).collect();
    pairs.join("&")
}

#[cfg(test)]
mod tests;
