//! Access tokens: who holds them, how long they are valid, and what ends them early.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use jiff::Timestamp;

use super::ids::noise;
use super::request::{RenderedResponse, SimulatedRequest};
use super::statistics::Statistics;

/// Whom an access token was granted to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TokenHolder {
    /// An application or managed identity, by its client id; empty for a token of the handle.
    Application(String),
    /// A person who signed in to an application.
    Person {
        /// The person's object id.
        object_id: String,
        /// The application's client id.
        client_id: String,
        /// The granted scopes, in lower case.
        scopes: BTreeSet<String>,
    },
}

/// A token that was granted.
#[derive(Debug)]
struct IssuedToken {
    holder: TokenHolder,
    until: Timestamp,
    /// Whether the token is for Graph.
    for_graph: bool,
    revoked: bool,
}

/// The access tokens granted so far.
#[derive(Debug)]
pub(super) struct AccessTokens {
    seed: u64,
    /// How many tokens were granted.
    pub(super) issued: u64,
    /// How long new tokens are valid.
    pub(super) lifetime: Duration,
    tokens: BTreeMap<String, IssuedToken>,
}

impl AccessTokens {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, issued: 0, lifetime: Duration::from_secs(3599), tokens: BTreeMap::new() }
    }

    /// Issues a token for Graph.
    pub(super) fn grant(&mut self, holder: TokenHolder, now: Timestamp) -> String {
        self.grant_for(holder, true, now)
    }

    /// Issues a token; one that is not for Graph is refused by it.
    pub(super) fn grant_for(
        &mut self,
        holder: TokenHolder,
        for_graph: bool,
        now: Timestamp,
    ) -> String {
        self.issued += 1;
        let body = URL_SAFE_NO_PAD.encode(noise(&[self.seed, self.issued, 19], 600));
        let token =
            format!("eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.{}.{}", &body[..500], &body[500..]);
        let until = now.checked_add(self.lifetime).unwrap_or(Timestamp::MAX);
        self.tokens.insert(token.clone(), IssuedToken { holder, until, for_graph, revoked: false });
        if self.tokens.len() > 10_000 {
            self.tokens.retain(|_, token| token.until > now);
        }
        token
    }

    /// When a token ends, if Graph would accept it now.
    pub(super) fn valid_until(&self, token: &str, now: Timestamp) -> Option<Timestamp> {
        let token = self.tokens.get(token)?;
        (!token.revoked && token.until > now).then_some(token.until)
    }

    /// Expires every token.
    pub(super) fn expire(&mut self) {
        for token in self.tokens.values_mut() {
            token.until = Timestamp::MIN;
        }
    }

    /// Revokes the tokens whose text and holder `which` selects. Returns how many.
    pub(super) fn revoke(&mut self, which: impl Fn(&str, &TokenHolder) -> bool) -> usize {
        let mut revoked = 0;
        for (text, token) in &mut self.tokens {
            if !token.revoked && which(text, &token.holder) {
                token.revoked = true;
                revoked += 1;
            }
        }
        revoked
    }

    /// The holder of the request's token, valid or not.
    pub(super) fn holder(&self, call: &SimulatedRequest) -> Option<&TokenHolder> {
        Some(&self.tokens.get(call.bearer.as_ref()?)?.holder)
    }

    /// Checks that a request to Graph has a valid access token (fact 150). Returns its holder.
    pub(super) fn authorise(
        &self,
        call: &SimulatedRequest,
        now: Timestamp,
        statistics: &mut Statistics,
    ) -> Result<TokenHolder, RenderedResponse> {
        let message = match &call.bearer {
            None => "Access token is empty.",
            Some(token) => match self.tokens.get(token) {
                Some(token) if token.until <= now => {
                    "Lifetime validation failed, the token is expired."
                }
                Some(token) if token.revoked => {
                    "Continuous access evaluation resulted in token rejection: TokenIssuedBeforeRevocationTimestamp."
                }
                Some(token) if !token.for_graph => {
                    "Access token validation failure. Invalid audience."
                }
                Some(token) => return Ok(token.holder.clone()),
                None => {
                    statistics.unknown_tokens += 1;
                    "CompactToken validation failed with reason code: 80049228."
                }
            },
        };
        Err(unauthorized(message))
    }
}

/// 401 in Graph's format.
pub(super) fn unauthorized(message: &str) -> RenderedResponse {
    RenderedResponse::error(StatusCode::UNAUTHORIZED, "InvalidAuthenticationToken", message).header(
        "www-authenticate",
        "Bearer realm=\"\", authorization_uri=\"https://login.microsoftonline.com/common/oauth2/authorize\", client_id=\"00000003-0000-0000-c000-000000000000\"",
    )
}
