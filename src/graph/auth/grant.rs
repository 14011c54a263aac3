//! Gets a token by the account's way to sign in.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::response::Parts;
use secrecy::ExposeSecret as _;
use secrecy::zeroize::Zeroizing;

use super::credential::Proof;
use super::endpoint::{self, Denial, Grant, TokenAnswer};
use super::exchange::exchange;
use super::{managed_identity, token_command, token_text};
use crate::env::Env;
use crate::error_chain::error_chain;
use crate::graph::error::TokenError;
use crate::graph::origin::Origin;
use crate::graph::transport::{Route, Transport};
use crate::mirror::account::{Account, Credential};
use crate::percent;

/// How long the token endpoint may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How an account signs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignInSettings {
    /// The account.
    pub account: Account,
    /// The sign-in address: `{login_url}/{tenant}/oauth2/v2.0/token` grants tokens (fact 134).
    pub login_url: String,
    /// The scope of the token: Graph's host and `/.default` (fact 135).
    pub scope: String,
    /// How its requests reach the network; `None`: as the environment says.
    pub route: Option<Arc<Route>>,
}

/// An endpoint of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TenantEndpoint {
    Token,
    DeviceCode,
}

impl TenantEndpoint {
    fn path(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::DeviceCode => "devicecode",
        }
    }
}

impl SignInSettings {
    /// Whether both obtain the same token: they may differ in how requests reach the network.
    pub(super) fn signs_in_like(&self, other: &Self) -> bool {
        let Self { account, login_url, scope, route: _ } = self;
        let proxy = account.proxy.clone();
        (login_url, scope) == (&other.login_url, &other.scope)
            && *account == Account { proxy, ..other.account.clone() }
    }

    /// Gets a token, with at most two requests.
    pub(super) async fn grant(
        &self,
        transport: &dyn Transport,
        env: &Env,
    ) -> Result<Grant, TokenError> {
        match &self.account.credential {
            Credential::AccessTokenCommand(command) => {
                let printed = token_command::run(command).await.map(Zeroizing::new);
                let granted = printed.and_then(|text| Ok(token_text::read(&text, env.now())?));
                granted.map_err(|error| TokenError {
                    // Nothing tells when the command would print a token.
                    retry_after: Some(token_command::RETRY_AFTER),
                    ..self.person_needed(&error_chain(&error))
                })
            }
            Credential::ManagedIdentity(source) => {
                let client_id = &*self.account.client_id;
                let resource = self.scope.trim_end_matches("/.default");
                managed_identity::grant(source, client_id, resource, transport, env).await.map_err(
                    |refused| TokenError {
                        needs_person: refused.needs_person,
                        status: refused.status,
                        code: refused.code.map(Into::into),
                        retry_after: refused.retry_after,
                        ..self.fault(&refused.message)
                    },
                )
            }
            Credential::DeviceCode(file) => self.continue_sign_in(file, transport, env).await,
            _ => self.client_credentials(transport, env).await,
        }
    }

    /// Signs in as an application (facts 134-140), or takes a token from a file.
    async fn client_credentials(
        &self,
        transport: &dyn Transport,
        env: &Env,
    ) -> Result<Grant, TokenError> {
        let Account { client_id, credential, .. } = &self.account;
        let proof = credential
            .read(&self.address(TenantEndpoint::Token), client_id, env.now(), env.uuid())
            .map_err(|error| self.person_needed(&error_chain(&error)))?;
        let mut form = vec![
            ("grant_type", "client_credentials"),
            ("client_id", client_id),
            ("scope", &self.scope),
        ];
        match &proof {
            Proof::Token(token) => {
                return Ok(Grant { token: token.clone(), life: Duration::MAX, refresh_in: None });
            }
            Proof::Secret(secret) => form.push(("client_secret", secret.expose_secret())),
            Proof::Assertion(assertion) => form.extend([
                ("client_assertion", assertion.expose_secret()),
                ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ]),
        }
        let answer = self.ask(TenantEndpoint::Token, &form, transport, env).await?;
        answer.map(|answer| answer.grant).map_err(|denial| self.denied(&denial))
    }

    /// The address of an endpoint of the tenant (facts 134, 145).
    fn address(&self, endpoint: TenantEndpoint) -> String {
        let base = self.login_url.trim_end_matches('/');
        format!("{base}/{}/oauth2/v2.0/{}", self.account.tenant, endpoint.path())
    }

    /// Sends a form to an endpoint of the tenant and reads the answer.
    ///
    /// # Errors
    /// No answer. What the endpoint refuses is the inner error.
    pub(super) async fn ask(
        &self,
        endpoint: TenantEndpoint,
        form: &[(&str, &str)],
        transport: &dyn Transport,
        env: &Env,
    ) -> Result<Result<TokenAnswer, Denial>, TokenError> {
        let (head, body) = self.send(endpoint, form, transport, env).await?;
        Ok(endpoint::read(head.status, &head.headers, &body, env.now()))
    }

    /// Sends a form to an endpoint of the tenant.
    ///
    /// # Errors
    /// No answer.
    pub(super) async fn send(
        &self,
        endpoint: TenantEndpoint,
        form: &[(&str, &str)],
        transport: &dyn Transport,
        env: &Env,
    ) -> Result<(Parts, Bytes), TokenError> {
        let unusable = || self.person_needed("login_url and tenant do not form a usable address");
        let address = self.address(endpoint);
        let uri = Origin::of(&address)
            .and_then(|origin| origin.admit(&address))
            .map_err(|_| unusable())?;
        let mut request = http::Request::post(uri)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json")
            .header("client-request-id", env.uuid().to_string())
            .body(Bytes::from(encode_form(form)))
            .map_err(|_| unusable())?;
        if let Some(route) = &self.route {
            request.extensions_mut().insert(route.clone());
        }
        let answer = exchange(transport, request, TIMEOUT).await;
        answer.map_err(|lost| self.fault(&format!("the token endpoint {lost}")))
    }

    pub(super) fn fault(&self, message: &str) -> TokenError {
        TokenError {
            account: self.account.name.clone(),
            message: message.into(),
            ..TokenError::default()
        }
    }

    pub(super) fn person_needed(&self, message: &str) -> TokenError {
        TokenError { needs_person: true, ..self.fault(message) }
    }

    pub(super) fn denied(&self, denial: &Denial) -> TokenError {
        TokenError {
            needs_person: denial.needs_person,
            status: Some(denial.status),
            code: denial.code.as_deref().map(Into::into),
            // A person is not faster because the endpoint names a time.
            retry_after: denial.retry_after.filter(|_| !denial.needs_person),
            ..self.fault(&denial.sentence(&self.account.name, self.account.credential.key()))
        }
    }
}

/// `application/x-www-form-urlencoded`; the secret must be encoded too (fact 137).
fn encode_form(fields: &[(&str, &str)]) -> String {
    let pairs: Vec<_> =
        fields.iter().map(|(name, value)| format!("{name}={}", percent::encode(value))).collect();
    pairs.join("&")
}
