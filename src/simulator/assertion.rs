//! Verifies assertions, with which an application signs in instead of a secret.
//!
//! An assertion is signed by a certificate of the application (fact 138), or is the token of another
//! issuer (fact 140). Signatures are verified as far as certificates or keys are registered.

use std::collections::BTreeMap;

use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use jiff::Timestamp;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

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
    /// The keys that sign them; without keys, signatures are not verified.
    #[serde(default)]
    pub keys: Option<IssuerKeys>,
}

/// The public keys of an issuer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum IssuerKeys {
    /// A key set (RFC 7517), as an issuer publishes it. The token's `kid` selects the key.
    Jwks(JwkSet),
    /// One RSA public key, as PEM.
    Pem(String),
}

/// What an application may prove its identity with at the token endpoint.
#[derive(Debug)]
pub(super) struct AssertionRules<'a> {
    /// The client id in the request.
    pub(super) client: &'a str,
    /// The tenant in the address.
    pub(super) tenant: &'a str,
    /// Scheme and authority of the token endpoint.
    pub(super) origin: &'a str,
    /// The registered certificates, as PEM.
    pub(super) certificate: Option<&'a str>,
    /// The issuer whose tokens are accepted.
    pub(super) federation: Option<&'a Federation>,
    /// Whether the application is registered with a secret or a federated credential, so that an
    /// assertion of its own needs a registered certificate.
    pub(super) is_registered: bool,
}

/// The ids of verified assertions until they expire, by client: each is accepted once. Entra's number
/// for a repeated one is not documented.
#[derive(Debug, Default)]
pub(super) struct UsedAssertions(BTreeMap<(String, String), i64>);

/// The number after `AADSTS`, and the text.
type AssertionRefusal = (u32, &'static str);

const KEY_NOT_FOUND: AssertionRefusal =
    (700_027, "Client assertion contains an invalid signature. [Reason - The key was not found.]");

/// A decoded assertion.
struct SignedAssertion<'a> {
    header: Value,
    claims: Value,
    /// What is signed: header and claims, encoded.
    message: &'a str,
    signature: &'a str,
    algorithm: Algorithm,
}

/// Checks an assertion of an application, which is registered as `rules` say.
pub(super) fn check(
    text: &str,
    rules: &AssertionRules<'_>,
    used: &mut UsedAssertions,
    now: Timestamp,
) -> Result<(), AssertionRefusal> {
    let assertion = SignedAssertion::read(text)?;
    let now = now.as_second();
    let federation = rules.federation.filter(|_| assertion.claims["iss"] != rules.client);
    match (federation, rules.certificate) {
        (Some(federation), _) => {
            assertion.check_federated(federation)?;
            assertion.check_times(now)
        }
        (None, Some(certificates)) => {
            assertion.check_signed(certificates, now)?;
            assertion.check_own(rules)?;
            assertion.check_times(now)?;
            used.accept(rules.client, &assertion, now)
        }
        (None, None) if rules.is_registered => Err(KEY_NOT_FOUND),
        (None, None) => {
            if !assertion.names_certificate() {
                return Err(KEY_NOT_FOUND);
            }
            assertion.check_own(rules)?;
            assertion.check_times(now)
        }
    }
}

impl<'a> SignedAssertion<'a> {
    fn read(text: &'a str) -> Result<Self, AssertionRefusal> {
        let (message, signature) = text.rsplit_once('.').unwrap_or((text, ""));
        let part = |at: usize| -> Option<Value> {
            let part = message.split('.').nth(at)?;
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
        };
        let (Some(header), Some(claims)) = (part(0), part(1)) else {
            return Err((700_027, "Client assertion is not a JSON web token."));
        };
        if message.split('.').count() != 2 || signature.is_empty() {
            return Err((700_027, "Client assertion is not signed."));
        }
        let algorithm = match header["alg"].as_str() {
            Some("PS256") => Algorithm::PS256,
            Some("RS256") => Algorithm::RS256,
            _ => {
                return Err((700_027, "Client assertion is signed with an unsupported algorithm."));
            }
        };
        Ok(Self { header, claims, message, signature, algorithm })
    }

    fn is_signed_by(&self, key: &DecodingKey) -> bool {
        let message = self.message.as_bytes();
        jsonwebtoken::crypto::verify(self.signature, message, key, self.algorithm).unwrap_or(false)
    }

    fn names_certificate(&self) -> bool {
        self.header["x5t#S256"].is_string() || self.header["x5t"].is_string()
    }

    /// Whether the header names this certificate: by the SHA-256 of its DER, or in the older form by
    /// SHA-1, both as base64url or as standard base64 (fact 139). If it has both, both must match.
    fn names(&self, der: &[u8]) -> bool {
        let padding =
            GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let decoded = |text: &str| {
            let alphabet = if text.contains(['+', '/']) { &STANDARD } else { &URL_SAFE };
            GeneralPurpose::new(alphabet, padding).decode(text).ok()
        };
        let named = |name: &str, thumbprint: &[u8]| {
            let text = self.header[name].as_str()?;
            Some(decoded(text).is_some_and(|named| named == thumbprint))
        };
        let both = [named("x5t#S256", &Sha256::digest(der)), named("x5t", &Sha1::digest(der))];
        both.iter().flatten().count() > 0 && both.into_iter().flatten().all(|same| same)
    }

    /// Checks that one of the registered certificates signed it.
    fn check_signed(&self, certificates: &str, now: i64) -> Result<(), AssertionRefusal> {
        let sections = pem::parse_many(certificates).unwrap_or_default();
        let named = sections.iter().find(|section| self.names(section.contents()));
        let certificate = named.and_then(|named| X509Certificate::from_der(named.contents()).ok());
        let Some((_, certificate)) = certificate else { return Err(KEY_NOT_FOUND) };
        let validity = certificate.validity();
        if !(validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now) {
            return Err((
                700_027,
                "Client assertion contains an invalid signature. [Reason - The key used is expired.]",
            ));
        }
        let key = DecodingKey::from_rsa_der(&certificate.public_key().subject_public_key.data);
        if !self.is_signed_by(&key) {
            return Err((700_027, "Client assertion failed signature validation."));
        }
        Ok(())
    }

    /// Checks what the assertion of an application's own certificate says of itself.
    fn check_own(&self, rules: &AssertionRules<'_>) -> Result<(), AssertionRefusal> {
        let AssertionRules { client, tenant, origin, certificate, .. } = rules;
        let audience = self.claims["aud"].as_str().unwrap_or_default();
        let path = format!("/{tenant}/oauth2/v2.0/token");
        // Without a certificate the simulator may be behind any address.
        let fits = match certificate {
            Some(_) => audience == format!("{origin}{path}"),
            None => audience.ends_with(&path),
        };
        if !fits {
            return Err((700_023, "Client assertion audience claim does not match Realm issuer."));
        }
        if self.claims["iss"] != *client || self.claims["sub"] != *client {
            return Err((
                700_021,
                "Client assertion application identifier doesn't match 'client_id' parameter.",
            ));
        }
        if self.claims["jti"].as_str().is_none_or(str::is_empty) {
            return Err((700_027, "Client assertion has no id."));
        }
        Ok(())
    }

    /// Checks who issued the token of another issuer, for whom and to whom, and its signature.
    fn check_federated(&self, known: &Federation) -> Result<(), AssertionRefusal> {
        let Federation { issuer, subject, audience, keys } = known;
        if self.claims["iss"] != **issuer {
            return Err((
                700_211,
                "No matching federated identity record found for presented assertion issuer.",
            ));
        }
        if let Some(keys) = keys {
            // Entra accepts tokens of other issuers with RS256 only.
            let key = keys.find(self.header["kid"].as_str());
            let signed = key.is_some_and(|key| self.is_signed_by(&key));
            if !signed || self.algorithm != Algorithm::RS256 {
                return Err((50_013, "Assertion failed signature validation."));
            }
        }
        if self.claims["sub"] != **subject {
            return Err((
                700_213,
                "No matching federated identity record found for presented assertion subject.",
            ));
        }
        // `aud` is a text or a list of texts (RFC 7519, section 4.1.3); Kubernetes writes a list.
        let named = self.claims["aud"].as_array().map_or_else(
            || self.claims["aud"] == **audience,
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

    /// A time claim in seconds. A NumericDate may have a fraction (RFC 7519, section 2), and
    /// msal-node's has.
    fn seconds(&self, claim: &str) -> i64 {
        self.claims[claim].as_f64().map_or(0, |at| at as i64)
    }

    fn check_times(&self, now: i64) -> Result<(), AssertionRefusal> {
        let (expires, valid_from) = (self.seconds("exp"), self.seconds("nbf"));
        if expires <= now || expires > now + 86_400 || valid_from > now + 300 {
            return Err((700_024, "Client assertion is not within its valid time range."));
        }
        Ok(())
    }
}

impl UsedAssertions {
    /// Accepts the id of an assertion if it is new.
    fn accept(
        &mut self,
        client: &str,
        assertion: &SignedAssertion<'_>,
        now: i64,
    ) -> Result<(), AssertionRefusal> {
        self.0.retain(|_, expires| *expires > now);
        let id = assertion.claims["jti"].as_str().unwrap_or_default();
        let key = (client.to_owned(), id.to_owned());
        match self.0.insert(key, assertion.seconds("exp")) {
            None => Ok(()),
            Some(_) => Err((700_027, "Client assertion was used before.")),
        }
    }
}

impl IssuerKeys {
    /// The key of this id; of a set with a single key, that key for a token without an id.
    fn find(&self, id: Option<&str>) -> Option<DecodingKey> {
        match (self, id) {
            (Self::Pem(pem), _) => DecodingKey::from_rsa_pem(pem.as_bytes()).ok(),
            (Self::Jwks(set), Some(id)) => DecodingKey::from_jwk(set.find(id)?).ok(),
            (Self::Jwks(set), None) => match set.keys.as_slice() {
                [key] => DecodingKey::from_jwk(key).ok(),
                _ => None,
            },
        }
    }
}
