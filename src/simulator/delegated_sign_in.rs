//! The parts of Microsoft Entra with which a person signs in: device codes and refresh tokens.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::delegated_grant::DelegatedGrant;
use super::ids::guid;
use super::request::SimulatedRequest;
use super::service::RequestedService;
use super::sign_in::SignIn;
use super::token_error::TokenEndpointError;

const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// Names that stand for the tenant of the person who signs in.
const ANY_TENANT: [&str; 2] = ["common", "organizations"];

impl SignIn {
    /// Answers a request with which a person signs in; `None` for any other.
    pub(super) fn answer_delegated(
        &mut self,
        call: &SimulatedRequest,
        tenant: &str,
        form: &BTreeMap<String, String>,
        now: Timestamp,
    ) -> Option<Result<Value, TokenEndpointError>> {
        let client = form.get("client_id").map(String::as_str).unwrap_or_default();
        let grant_type = form.get("grant_type").map(String::as_str).unwrap_or_default();
        let starts = call.service() == RequestedService::DeviceAuthorization;
        if !starts && grant_type != DEVICE_CODE && grant_type != "refresh_token" {
            return None;
        }
        if let Err(refused) = self.check_public_client(tenant, client) {
            return Some(Err(refused));
        }
        if starts {
            let page = format!("{}/devicelogin", call.origin());
            return Some(self.device_sign_ins.start(client, form, &page, now));
        }
        let home = self.tenant_of_people(tenant);
        let granted = match grant_type {
            DEVICE_CODE => {
                let granted = self.device_sign_ins.poll(client, form, &home, now);
                granted.map(|grant| (grant.clone(), grant))
            }
            _ => self.refresh_tokens.redeem(client, form, now),
        };
        Some(granted.and_then(|(grant, successor)| {
            self.check_person(tenant, &home, &grant)?;
            Ok(self.grant_to_person(call, &grant, successor, now))
        }))
    }

    fn check_public_client(&self, tenant: &str, client: &str) -> Result<(), TokenEndpointError> {
        if client.is_empty() {
            return Err(TokenEndpointError::missing(
                "The request body must contain the following parameter: 'client_id'.",
            ));
        }
        let registered = self.applications.iter().find(|known| known.client_id == client);
        match registered {
            Some(known) if ANY_TENANT.contains(&tenant) => {
                self.check_registration(&known.tenant, client, None)
            }
            _ => self.check_registration(tenant, client, None),
        }
    }

    /// The id of the tenant that people belong to who sign in at `tenant`.
    fn tenant_of_people(&self, tenant: &str) -> String {
        match &self.home_tenant {
            Some(home) => home.clone(),
            None if uuid::Uuid::try_parse(tenant).is_ok() => tenant.to_owned(),
            None => guid(&[self.seed, 0x7469_6401]),
        }
    }

    /// Checks that the person may still sign in at this tenant.
    fn check_person(
        &self,
        tenant: &str,
        home: &str,
        grant: &DelegatedGrant,
    ) -> Result<(), TokenEndpointError> {
        let is_id = uuid::Uuid::try_parse(tenant).is_ok();
        if is_id && !tenant.eq_ignore_ascii_case(home) {
            return Err(TokenEndpointError::invalid_grant(
                50020,
                "User account from identity provider does not exist in tenant and cannot access the application.",
            ));
        }
        if self.disabled_people.contains(&grant.person.object_id) {
            return Err(TokenEndpointError::invalid_grant(50057, "The user account is disabled."));
        }
        Ok(())
    }

    /// The answer with the tokens. The refresh token has the scopes of `successor`.
    fn grant_to_person(
        &mut self,
        call: &SimulatedRequest,
        grant: &DelegatedGrant,
        successor: DelegatedGrant,
        now: Timestamp,
    ) -> Value {
        let lifetime = self.access_tokens.lifetime.as_secs();
        let mut answer = json!({
            "token_type": "Bearer",
            "scope": grant.scope(),
            "expires_in": lifetime,
            "ext_expires_in": lifetime,
            "access_token": self.access_tokens.grant(grant.holder(), now),
        });
        if grant.scopes.contains("offline_access") {
            answer["refresh_token"] = self.refresh_tokens.issue(successor, now).into();
        }
        if let Some(token) = grant.id_token(call.origin(), now, self.seed) {
            answer["id_token"] = token.into();
        }
        answer
    }
}
