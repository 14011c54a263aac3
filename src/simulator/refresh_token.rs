//! Refresh tokens: each use gives a new one, and the old one goes on working (facts 146, 147).

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;

use super::delegated_grant::{DelegatedGrant, read_scopes};
use super::ids::noise;
use super::token_error::TokenEndpointError;

/// How long a token that is not used is valid, in seconds.
const INACTIVITY_S: i64 = 90 * 86_400;

/// A refresh token that was issued.
#[derive(Debug)]
struct RefreshToken {
    grant: DelegatedGrant,
    issued_at: i64,
    revoked: bool,
}

/// The refresh tokens issued so far.
#[derive(Debug, Default)]
pub(super) struct RefreshTokens {
    seed: u64,
    issued: u64,
    tokens: BTreeMap<String, RefreshToken>,
}

impl RefreshTokens {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// Issues a token.
    pub(super) fn issue(&mut self, grant: DelegatedGrant, now: Timestamp) -> String {
        self.issued += 1;
        let text = URL_SAFE_NO_PAD.encode(noise(&[self.seed, self.issued, 0x7266], 900));
        let token = format!("1.A{text}");
        let issued_at = now.as_second();
        self.tokens.insert(token.clone(), RefreshToken { grant, issued_at, revoked: false });
        if self.tokens.len() > 10_000 {
            self.tokens.retain(|_, known| issued_at < known.issued_at + INACTIVITY_S);
        }
        token
    }

    /// What a token grants now, with the scopes of the request, and what its successor will.
    pub(super) fn redeem(
        &self,
        client_id: &str,
        form: &BTreeMap<String, String>,
        now: Timestamp,
    ) -> Result<(DelegatedGrant, DelegatedGrant), TokenEndpointError> {
        let Some(token) = form.get("refresh_token") else {
            return Err(TokenEndpointError::missing(
                "The request body must contain the following parameter: 'refresh_token'.",
            ));
        };
        let known = self.tokens.get(token).filter(|known| known.grant.client_id == client_id);
        let known = known.ok_or(TokenEndpointError::invalid_grant(
            70000,
            "Provided grant is invalid or malformed.",
        ))?;
        if known.revoked {
            return Err(TokenEndpointError::invalid_grant(
                50173,
                "The provided grant has expired due to it being revoked, a fresh auth token is needed. The user might have changed or reset their password.",
            ));
        }
        if now.as_second() >= known.issued_at + INACTIVITY_S {
            return Err(TokenEndpointError::invalid_grant(
                700_082,
                "The refresh token has expired due to inactivity.",
            ));
        }
        let mut granted = known.grant.clone();
        if let Some(scope) = form.get("scope") {
            let scopes = read_scopes(scope)?;
            if !scopes.is_subset(&granted.scopes) {
                return Err(TokenEndpointError::invalid_grant(
                    65001,
                    "The user or administrator has not consented to use the application.",
                ));
            }
            granted.scopes = scopes;
        }
        Ok((granted, known.grant.clone()))
    }

    /// Revokes the tokens of the grants that `which` selects. Returns how many.
    pub(super) fn revoke(&mut self, which: impl Fn(&DelegatedGrant) -> bool) -> usize {
        let mut revoked = 0;
        for known in self.tokens.values_mut() {
            if !known.revoked && which(&known.grant) {
                known.revoked = true;
                revoked += 1;
            }
        }
        revoked
    }
}
