//! The token endpoint: which applications get an access token, and its answers.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::access_token::{AccessTokens, TokenHolder};
use super::assertion::{self, AssertionRules, Federation, UsedAssertions};
use super::device_code::DeviceSignIns;
use super::faults::SignInRefusal;
use super::ids::guid;
use super::managed_identity::IdentityEndpoints;
use super::refresh_token::RefreshTokens;
use super::request::{RenderedResponse, SimulatedRequest, decode_form, pairs};
use super::token_error::TokenEndpointError;

const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// An application that may sign in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Application {
    /// The tenant's id.
    pub tenant: String,
    /// The application's id.
    pub client_id: String,
    /// Its secret; `None` if it may only use an assertion.
    pub client_secret: Option<String>,
    /// Its certificates, as PEM; several during a rotation. The assertions that they sign are
    /// verified, and each is accepted once.
    #[serde(default)]
    pub certificate: Option<String>,
    /// Whose tokens it accepts as assertions beside those of its certificate.
    #[serde(default)]
    pub federation: Option<Federation>,
}

/// Registered applications and issued tokens.
#[derive(Debug)]
pub(super) struct SignIn {
    pub(super) seed: u64,
    /// While empty, any client signs in with any secret.
    pub(super) applications: Vec<Application>,
    assertions: UsedAssertions,
    pub(super) access_tokens: AccessTokens,
    pub(super) identity_endpoints: IdentityEndpoints,
    pub(super) device_sign_ins: DeviceSignIns,
    pub(super) refresh_tokens: RefreshTokens,
    /// The tenant of all people; `None`: that at which they sign in.
    pub(super) home_tenant: Option<String>,
    /// The object ids of people whose account is disabled.
    pub(super) disabled_people: BTreeSet<String>,
}

impl SignIn {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            applications: Vec::new(),
            assertions: UsedAssertions::default(),
            access_tokens: AccessTokens::new(seed),
            identity_endpoints: IdentityEndpoints::new(seed),
            device_sign_ins: DeviceSignIns::new(seed),
            refresh_tokens: RefreshTokens::new(seed),
            home_tenant: None,
            disabled_people: BTreeSet::new(),
        }
    }

    /// Answers a request to the token endpoint.
    pub(super) fn answer(
        &mut self,
        call: &SimulatedRequest,
        body: &Bytes,
        now: Timestamp,
    ) -> RenderedResponse {
        if call.method != http::Method::POST {
            return RenderedResponse::empty(StatusCode::METHOD_NOT_ALLOWED);
        }
        let text = String::from_utf8_lossy(body);
        let form: BTreeMap<String, String> = pairs(&text).collect();
        let tenant = call.segments.first().map(String::as_str).unwrap_or_default();
        let answer = match self.answer_delegated(call, tenant, &form, now) {
            Some(answer) => answer,
            None => self.check(tenant, &form, call, now).map(|()| {
                let holder = TokenHolder::Application(client_id(&form, call));
                let token = self.access_tokens.grant(holder, now);
                let lifetime = self.access_tokens.lifetime.as_secs();
                json!({
                    "token_type": "Bearer",
                    "expires_in": lifetime,
                    "ext_expires_in": lifetime,
                    "access_token": token,
                })
            }),
        };
        match answer {
            Ok(answer) => RenderedResponse::json(StatusCode::OK, &answer)
                .header("cache-control", "no-store, no-cache"),
            Err(refused) => self.refusal(refused, now),
        }
    }

    fn check(
        &mut self,
        tenant: &str,
        form: &BTreeMap<String, String>,
        call: &SimulatedRequest,
        now: Timestamp,
    ) -> Result<(), TokenEndpointError> {
        let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        if field("grant_type") != "client_credentials" {
            return Err(TokenEndpointError::bad_request(
                "unsupported_grant_type",
                70003,
                "The app requested an unsupported grant type.",
            ));
        }
        if !field("scope").ends_with("/.default") {
            return Err(TokenEndpointError::bad_request(
                "invalid_scope",
                70011,
                "The provided value for the input parameter 'scope' is not valid.",
            ));
        }
        let basic = call.client_and_secret();
        let (client, secret) = match &basic {
            Some((client, secret)) => (client.as_str(), secret.as_str()),
            None => (field("client_id"), field("client_secret")),
        };
        if client.is_empty() {
            return Err(TokenEndpointError::bad_request(
                "invalid_request",
                900_144,
                "The request body must contain the following parameter: 'client_id'.",
            ));
        }
        let assertion = form.get("client_assertion");
        self.check_registration(tenant, client, assertion.is_none().then_some(secret))?;
        if let Some(assertion) = assertion {
            if field("client_assertion_type") != JWT_BEARER {
                return Err(TokenEndpointError::bad_request(
                    "invalid_request",
                    900_144,
                    "The request body must contain the following parameter: 'client_assertion_type'.",
                ));
            }
            let known =
                self.applications.iter().find(|a| a.tenant == tenant && a.client_id == client);
            let certificate = known.and_then(|known| known.certificate.as_deref());
            let federation = known.and_then(|known| known.federation.as_ref());
            let has_secret = known.is_some_and(|known| known.client_secret.is_some());
            let rules = AssertionRules {
                client,
                tenant,
                origin: call.origin(),
                certificate,
                federation,
                is_registered: has_secret || federation.is_some(),
            };
            return assertion::check(assertion, &rules, &mut self.assertions, now)
                .map_err(|(number, text)| TokenEndpointError::invalid_client(number, text));
        }
        if secret.is_empty() {
            return Err(TokenEndpointError::invalid_client(
                7_000_216,
                "'client_assertion', 'client_secret' or 'request' is required for the 'client_credentials' grant type.",
            ));
        }
        Ok(())
    }

    /// Checks that the application is registered, if any is, and has this secret. `secret` is
    /// `None` if the client signs in with an assertion.
    pub(super) fn check_registration(
        &self,
        tenant: &str,
        client: &str,
        secret: Option<&str>,
    ) -> Result<(), TokenEndpointError> {
        if self.applications.is_empty() {
            return Ok(());
        }
        if !self.applications.iter().any(|known| known.tenant == tenant) {
            return Err(TokenEndpointError::bad_request(
                "invalid_request",
                90002,
                "Tenant not found. Check to make sure you have the correct tenant ID.",
            ));
        }
        let known = self.applications.iter().find(|a| a.tenant == tenant && a.client_id == client);
        let Some(known) = known else {
            return Err(TokenEndpointError::unknown_application());
        };
        if secret.is_some_and(|secret| known.client_secret.as_deref() != Some(secret)) {
            return Err(TokenEndpointError::invalid_client(
                7_000_215,
                "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID.",
            ));
        }
        Ok(())
    }

    fn refusal(&self, refused: TokenEndpointError, now: Timestamp) -> RenderedResponse {
        let issued = self.access_tokens.issued;
        let trace = guid(&[self.seed, issued, u64::from(refused.number)]);
        refused.response(&trace, now)
    }

    /// The response of a sign-in fault.
    pub(super) fn refuse(&self, how: SignInRefusal, now: Timestamp) -> RenderedResponse {
        let refused = match how {
            SignInRefusal::WrongSecret => {
                TokenEndpointError::invalid_client(7_000_215, "Invalid client secret provided.")
            }
            SignInRefusal::ExpiredSecret => TokenEndpointError::invalid_client(
                7_000_222,
                "The provided client secret keys are expired.",
            ),
            SignInRefusal::UnknownApplication => TokenEndpointError::unknown_application(),
            SignInRefusal::UnknownTenant => {
                TokenEndpointError::bad_request("invalid_request", 90_002, "Tenant not found.")
            }
            SignInRefusal::InvalidGrant => TokenEndpointError::invalid_grant(
                700_082,
                "The refresh token has expired due to inactivity.",
            ),
            SignInRefusal::GrantRevoked => TokenEndpointError::invalid_grant(
                50_173,
                "The provided grant has expired due to it being revoked, a fresh auth token is needed.",
            ),
            SignInRefusal::PublicClientDisabled => TokenEndpointError::invalid_client(
                7_000_218,
                "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.",
            ),
            SignInRefusal::ConsentRequired => TokenEndpointError::invalid_grant(
                65_001,
                "The user or administrator has not consented to use the application.",
            ),
            SignInRefusal::BlockedByPolicy => TokenEndpointError::invalid_grant(
                53_003,
                "Access has been blocked by Conditional Access policies.",
            ),
            SignInRefusal::InteractionRequired => TokenEndpointError::bad_request(
                "interaction_required",
                50_076,
                "You must use multi-factor authentication to access the resource.",
            ),
            SignInRefusal::TemporarilyUnavailable => TokenEndpointError {
                status: StatusCode::SERVICE_UNAVAILABLE,
                error: "temporarily_unavailable",
                number: 90_033,
                message: "A transient error has occurred. Please try again.",
            },
        };
        self.refusal(refused, now)
    }
}

/// The client id of a request to the token endpoint.
fn client_id(form: &BTreeMap<String, String>, call: &SimulatedRequest) -> String {
    let basic = call.client_and_secret().map(|(client, _)| client);
    basic.or_else(|| form.get("client_id").cloned()).unwrap_or_default()
}

impl SimulatedRequest {
    /// Client id and secret from HTTP Basic.
    fn client_and_secret(&self) -> Option<(String, String)> {
        let decoded = STANDARD.decode(self.basic.as_ref()?).ok()?;
        let text = String::from_utf8(decoded).ok()?;
        let (client, secret) = text.split_once(':')?;
        Some((decode_form(client), decode_form(secret)))
    }
}
