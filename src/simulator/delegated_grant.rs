//! What a person allowed an application to do: the scopes, and the answer with the tokens.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::access_token::TokenHolder;
use super::ids::{guid, mix, noise};
use super::token_error::TokenEndpointError;

/// Scopes of OpenID Connect, which are not permissions of Graph.
const OPEN_ID: [&str; 4] = ["openid", "profile", "email", "offline_access"];
/// Delegated permissions of Graph that the simulator knows.
const PERMISSIONS: [&str; 16] = [
    "Calendars.Read",
    "Calendars.Read.Shared",
    "Calendars.ReadBasic",
    "Calendars.ReadWrite",
    "Calendars.ReadWrite.Shared",
    "Directory.Read.All",
    "Group.Read.All",
    "GroupMember.Read.All",
    "MailboxSettings.Read",
    "Place.Read.All",
    "User.Read",
    "User.Read.All",
    "User.ReadBasic.All",
    "User.ReadWrite",
    "Mail.Read",
    ".default",
];

/// The person who signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SignedInPerson {
    pub(super) object_id: String,
    pub(super) name: String,
    pub(super) address: String,
}

/// A person's consent to an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DelegatedGrant {
    pub(super) person: SignedInPerson,
    pub(super) client_id: String,
    /// The id of the person's tenant.
    pub(super) tenant: String,
    /// The scopes as Microsoft Entra spells them.
    pub(super) scopes: BTreeSet<&'static str>,
}

impl DelegatedGrant {
    /// Whom the access token belongs to.
    pub(super) fn holder(&self) -> TokenHolder {
        TokenHolder::Person {
            object_id: self.person.object_id.clone(),
            client_id: self.client_id.clone(),
            scopes: self.scopes.iter().map(|scope| scope.to_lowercase()).collect(),
        }
    }

    /// The scopes as the answer lists them: without `offline_access`.
    pub(super) fn scope(&self) -> String {
        let listed = self.scopes.iter().filter(|scope| **scope != "offline_access");
        listed.copied().collect::<Vec<_>>().join(" ")
    }

    /// The id token, if `openid` was asked for.
    pub(super) fn id_token(&self, origin: &str, now: Timestamp, seed: u64) -> Option<String> {
        if !self.scopes.contains("openid") {
            return None;
        }
        let Self { person, client_id, tenant, scopes } = self;
        let now = now.as_second();
        let salt = mix(&[seed, now as u64, 0x6964]);
        let mut claims = json!({
            "aud": client_id,
            "iss": format!("{origin}/{tenant}/v2.0"),
            "iat": now,
            "nbf": now,
            "exp": now + 3900,
            "sub": guid(&[salt, 1]),
            "tid": tenant,
            "uti": guid(&[salt, 2]),
            "ver": "2.0",
        });
        if scopes.contains("profile") {
            claims["oid"] = person.object_id.as_str().into();
            claims["name"] = person.name.as_str().into();
            claims["preferred_username"] = person.address.as_str().into();
        }
        let part = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let header = json!({"typ": "JWT", "alg": "RS256", "kid": "simulated"});
        let signature = URL_SAFE_NO_PAD.encode(noise(&[salt, 3], 256));
        Some(format!("{}.{}.{signature}", part(&header), part(&claims)))
    }
}

/// The scopes of a request, in any case and with or without Graph's address before them.
pub(super) fn read_scopes(text: &str) -> Result<BTreeSet<&'static str>, TokenEndpointError> {
    let known = |asked: &str| {
        let asked = asked.rsplit('/').next().unwrap_or_default();
        let mut all = OPEN_ID.iter().chain(&PERMISSIONS);
        all.find(|known| known.eq_ignore_ascii_case(asked)).copied()
    };
    let scopes: Option<BTreeSet<_>> = text.split_whitespace().map(known).collect();
    scopes.filter(|scopes| !scopes.is_empty()).ok_or(TokenEndpointError::bad_request(
        "invalid_scope",
        70011,
        "The provided value for the input parameter 'scope' is not valid.",
    ))
}
