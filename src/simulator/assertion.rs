//! Checks assertions, with which an application signs in instead of a secret.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A federated credential of an application.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Federation {
    /// `iss` of the accepted tokens.
    pub issuer: String,
    /// Their `sub`.
    pub subject: String,
    /// Their `aud`; Microsoft recommends `api://AzureADTokenExchange`.
    pub audience: String,
}

/// Checks the header and claims of an assertion, but not its signature: it is a certificate's (fact
/// 138), or the token of another issuer (fact 140).
pub(super) fn check(
    text: &str,
    client: &str,
    tenant: &str,
    federation: Option<&Federation>,
    now: Timestamp,
) -> Result<(), (u32, &'static str)> {
    let part = |at: usize| -> Option<Value> {
        let part = text.split('.').nth(at)?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
    };
    let (Some(header), Some(claims)) = (part(0), part(1)) else {
        return Err((700_027, "Client assertion is not a JSON web token."));
    };
    if text.split('.').count() != 3 || text.ends_with('.') {
        return Err((700_027, "Client assertion is not signed."));
    }
    if !["PS256", "RS256"].iter().any(|alg| header["alg"] == *alg) {
        return Err((700_027, "Client assertion is signed with an unsupported algorithm."));
    }
    match federation.filter(|_| claims["iss"] != client) {
        Some(federation) => check_federated(&claims, federation)?,
        None => check_own(&header, &claims, client, tenant)?,
    }
    let now = now.as_second();
    // A NumericDate may have a fraction (RFC 7519, section 2), and msal-node's has.
    let seconds = |claim: &str| claims[claim].as_f64().map_or(0, |at| at as i64);
    let (expires, valid_from) = (seconds("exp"), seconds("nbf"));
    if expires <= now || expires > now + 86_400 || valid_from > now + 300 {
        return Err((700_024, "Client assertion is not within its valid time range."));
    }
    Ok(())
}

/// Checks what the assertion of an application's own certificate says of itself.
fn check_own(
    header: &Value,
    claims: &Value,
    client: &str,
    tenant: &str,
) -> Result<(), (u32, &'static str)> {
    if !header["x5t#S256"].is_string() && !header["x5t"].is_string() {
        return Err((700_027, "Client assertion names no certificate."));
    }
    let audience = claims["aud"].as_str().unwrap_or_default();
    if !audience.ends_with(&format!("/{tenant}/oauth2/v2.0/token")) {
        return Err((700_027, "Client assertion audience claim does not match Realm issuer."));
    }
    if claims["iss"] != client || claims["sub"] != client {
        return Err((700_027, "Client assertion issuer and subject must be the client id."));
    }
    if claims["jti"].as_str().is_none_or(str::is_empty) {
        return Err((700_027, "Client assertion has no id."));
    }
    Ok(())
}

/// Checks who issued the token of another issuer, for whom and to whom.
fn check_federated(claims: &Value, known: &Federation) -> Result<(), (u32, &'static str)> {
    let Federation { issuer, subject, audience } = known;
    if claims["iss"] != **issuer {
        return Err((
            700_211,
            "No matching federated identity record found for presented assertion issuer.",
        ));
    }
    if claims["sub"] != **subject {
        return Err((
            700_213,
            "No matching federated identity record found for presented assertion subject.",
        ));
    }
    // `aud` is a text or a list of texts (RFC 7519, section 4.1.3); Kubernetes writes a list.
    let named = claims["aud"].as_array().map_or_else(
        || claims["aud"] == **audience,
        |all| all.iter().any(|one| *one == **audience),
    );
    if !named {
        return Err((
            700_212,
            "No matching federated identity record found for presented assertion audience.",
        ));
    }
    Ok(())
}
