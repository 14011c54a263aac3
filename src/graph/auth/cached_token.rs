//! The token of an account: until when it is used, and what is remembered of failed sign-ins.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::SignInSettings;
use super::endpoint::Grant;
use super::secret::AccessToken;
use crate::env::Env;
use crate::graph::error::TokenError;
use crate::mirror::account::Credential;

/// How long before its expiry a token is renewed.
const RENEW_BEFORE: Duration = Duration::from_secs(5 * 60);
/// How long a refused sign-in is remembered.
const REFUSAL_TTL: Duration = Duration::from_secs(15 * 60);
/// A sign-in that was refused within this time is not repeated, even if a round is requested.
const REFUSAL_MIN_AGE: Duration = Duration::from_secs(1);
/// The longest back-off after a temporary fault.
const MAX_BACKOFF: Duration = Duration::from_secs(5 * 60);
/// Renewals forced by refusals within [`FORCED_WITHIN`]; beyond, another token does not help.
const MAX_FORCED: u32 = 10;
const FORCED_WITHIN: Duration = Duration::from_secs(60);

/// What is available without a request.
pub(super) enum TokenAvailability {
    Good(AccessToken),
    /// Valid, but due for renewal.
    RenewalDue(AccessToken),
    Failed(TokenError),
    Missing,
}

/// What is known of an account's token.
pub(super) struct CachedToken {
    pub(super) sign_in: Arc<SignInSettings>,
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

impl CachedToken {
    pub(super) fn new(sign_in: SignInSettings) -> Self {
        Self {
            sign_in: Arc::new(sign_in),
            token: None,
            failure: None,
            faults: 0,
            logged_missing: None,
            forced: None,
        }
    }

    /// What is available now.
    pub(super) fn availability(&mut self) -> TokenAvailability {
        let now = Instant::now();
        let credential = &self.sign_in.account.credential;
        let from_file = matches!(credential, Credential::AccessTokenFile(_));
        if let Some(live) = &self.token
            && live.ends_at.is_none_or(|at| now < at)
            && !(from_file && live.stamp != credential.stamp())
        {
            let token = live.token.clone();
            // A failed renewal is not repeated before its back-off ends.
            let failed = self.failure.as_ref().is_some_and(|f| now < f.until);
            return match live.renew_at {
                Some(at) if now >= at && !failed => TokenAvailability::RenewalDue(token),
                _ => TokenAvailability::Good(token),
            };
        }
        self.remembered(now).map_or(TokenAvailability::Missing, TokenAvailability::Failed)
    }

    /// The last failure while it is still valid; after that it is forgotten.
    fn remembered(&mut self, now: Instant) -> Option<TokenError> {
        let failure = self.failure.as_ref()?;
        let rewritten =
            failure.fault.needs_person && failure.stamp != self.sign_in.account.credential.stamp();
        if now >= failure.until || rewritten {
            self.failure = None;
            return None;
        }
        let retry_after = Some(failure.until - now);
        Some(TokenError { retry_after, remembered: true, ..failure.fault.clone() })
    }

    /// Checks whether the current token, which is valid but was refused, may be replaced now.
    pub(super) fn allow_forced(&mut self) -> Result<(), TokenError> {
        let now = Instant::now();
        // The failure that kept it from being replaced a moment ago would occur again.
        if let Some(fault) = self.remembered(now) {
            return Err(fault);
        }
        if matches!(self.sign_in.account.credential, Credential::AccessTokenFile(_)) {
            return Ok(());
        }
        let (since, count) = match self.forced {
            Some((since, n)) if now - since < FORCED_WITHIN => (since, n + 1),
            _ => (now, 1),
        };
        self.forced = Some((since, count));
        if count <= MAX_FORCED {
            return Ok(());
        }
        // Not remembered as a failure: windows that Graph accepts with this token are not affected.
        let fault = self.sign_in.fault("graph refuses every token");
        if count == MAX_FORCED + 1 {
            let (account, reason) = (&self.sign_in.account.name, &fault.message);
            tracing::error!(%account, %reason, "sign-in failed");
        }
        let retry_after = Some(FORCED_WITHIN.saturating_sub(now - since));
        Err(TokenError { needs_person: true, retry_after, ..fault })
    }

    /// Whether a sign-in was refused, and not just now.
    pub(super) fn has_old_refusal(&self) -> bool {
        let old = |failure: &SignInFailure| failure.at.elapsed() >= REFUSAL_MIN_AGE;
        self.failure.as_ref().is_some_and(|failure| failure.fault.needs_person && old(failure))
    }

    /// Forgets a failure. The token is kept, but a token file is read again.
    pub(super) fn forget(&mut self) {
        self.failure = None;
        self.faults = 0;
        self.forced = None;
        if let Some(live) = &mut self.token {
            live.stamp = None;
        }
    }

    /// Drops the token as well.
    pub(super) fn sign_out(&mut self) {
        self.forget();
        self.token = None;
    }

    /// Stores a granted token, which was requested at `began`.
    pub(super) fn granted(
        &mut self,
        grant: Grant,
        began: Instant,
        stamp: Option<SystemTime>,
    ) -> AccessToken {
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
        self.token = Some(LiveToken { token: token.clone(), renew_at, ends_at, stamp });
        self.failure = None;
        self.faults = 0;
        if self.logged_missing.take().is_some() {
            tracing::info!(account = %self.sign_in.account.name, "sign-in works again");
        }
        token
    }

    /// Remembers a failed sign-in. Returns the fault with the time until the next attempt.
    pub(super) fn failed(
        &mut self,
        mut fault: TokenError,
        stamp: Option<SystemTime>,
        env: &Env,
    ) -> TokenError {
        let kept = if fault.needs_person {
            fault.retry_after.unwrap_or(REFUSAL_TTL)
        } else {
            let doubled = Duration::from_secs(1 << self.faults.min(9));
            self.faults += 1;
            // Up to half of it is random, so that accounts do not retry in step.
            let own = doubled.min(MAX_BACKOFF);
            let own = own.mul_f64(1.0 - env.random() / 2.0);
            own.max(fault.retry_after.unwrap_or_default())
        };
        fault.retry_after = Some(kept);
        let at = Instant::now();
        self.failure = Some(SignInFailure { fault: fault.clone(), at, until: at + kept, stamp });
        let (account, reason) = (&self.sign_in.account.name, &fault.message);
        // Logged once, not at each attempt.
        match self.logged_missing.replace(fault.needs_person) {
            before if before == Some(fault.needs_person) => {
                tracing::debug!(%account, %reason, "still no token");
            }
            _ if fault.needs_person => tracing::error!(%account, %reason, "sign-in failed"),
            _ => tracing::warn!(%account, %reason, "no token available"),
        }
        fault
    }
}
