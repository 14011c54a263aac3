//! The endpoints at which managed identities get tokens: the metadata service of a virtual machine
//! (facts 141, 142), App Service (fact 143) and Azure Arc.
//!
//! They have no secret: whoever reaches the endpoint gets the token. So each refuses what a browser
//! or a forwarding proxy sends: the metadata service wants a header and no `X-Forwarded-For`, App
//! Service a header from the environment, and Arc the content of a file of the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use http::{Method, StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Simulator;
use super::access_token::{AccessTokens, TokenHolder};
use super::identity_fault::IdentityFault;
use super::ids::guid;
use super::request::{RenderedResponse, SimulatedRequest};
use super::service::RequestedService;

/// Where the Arc agent puts its key files on Linux.
const ARC_DIRECTORY: &str = "/var/opt/azcmagent/tokens";
/// Hosts of Graph in all clouds (fact 134), and Graph's application id.
const GRAPH_RESOURCES: [&str; 5] = [
    "https://graph.microsoft.com",
    "https://graph.microsoft.us",
    "https://dod-graph.microsoft.us",
    "https://microsoftgraph.chinacloudapi.cn",
    "00000003-0000-0000-c000-000000000000",
];
/// Resources of other services. Graph refuses tokens for them.
const OTHER_RESOURCES: [&str; 3] =
    ["https://management.azure.com", "https://vault.azure.net", "https://storage.azure.com"];

/// The identities of the simulated machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ManagedIdentities {
    /// Whether it has a system-assigned identity.
    pub system_assigned: bool,
    /// The client ids of its user-assigned identities; `None`: every id exists.
    pub user_assigned: Option<Vec<String>>,
    /// The value of `X-IDENTITY-HEADER` that App Service accepts.
    pub identity_header: String,
    /// Where Arc's key files are written; `None`: their names are announced as in
    /// `/var/opt/azcmagent/tokens`, but no file is written. The control plane cannot set it.
    #[serde(skip)]
    pub arc_directory: Option<PathBuf>,
}

impl Default for ManagedIdentities {
    /// Every identity exists.
    fn default() -> Self {
        Self {
            system_assigned: true,
            user_assigned: None,
            identity_header: "simulated-identity-header".to_owned(),
            arc_directory: None,
        }
    }
}

/// Why an endpoint refuses a request, in the words of the metadata service.
struct IdentityError {
    status: u16,
    error: &'static str,
    message: String,
}

impl IdentityError {
    fn new(status: u16, error: &'static str, message: impl Into<String>) -> Self {
        Self { status, error, message: message.into() }
    }

    fn invalid_request(message: &str) -> Self {
        Self::new(400, "invalid_request", message)
    }
}

/// The managed identities and the tokens granted to them.
#[derive(Debug, Default)]
pub(super) struct IdentityEndpoints {
    seed: u64,
    pub(super) identities: ManagedIdentities,
    /// Tokens by endpoint, client id and resource: each platform caches them (fact 143).
    cached: BTreeMap<String, String>,
    /// Contents of Arc's key files that were not presented yet, and how many there were.
    arc_keys: BTreeSet<String>,
    challenges: u64,
}

impl IdentityEndpoints {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// Answers a request to one of the endpoints. `graph` are the origins under which the
    /// simulated Graph answers.
    pub(super) fn answer(
        &mut self,
        call: &SimulatedRequest,
        graph: &[&str],
        tokens: &mut AccessTokens,
        now: Timestamp,
    ) -> RenderedResponse {
        let service = call.service();
        if call.method != Method::GET {
            return RenderedResponse::empty(StatusCode::METHOD_NOT_ALLOWED);
        }
        let checked = match service {
            RequestedService::AppService => self.check_app_service(call),
            RequestedService::Arc if call.basic.is_none() => match check_metadata(call) {
                Ok(()) => return self.challenge(None),
                Err(refused) => Err(refused),
            },
            RequestedService::Arc => self.check_arc(call),
            _ => check_metadata(call),
        };
        let granted = checked.and_then(|()| {
            let version = call.parameter("api-version").unwrap_or_default();
            check_version(service, version)?;
            let client = self.client_id(call, service)?;
            let resource = call.parameter("resource").unwrap_or_default();
            let for_graph = is_graph(resource, graph)?;
            Ok(self.grant(service, &client, resource, for_graph, tokens, now))
        });
        match granted {
            Ok(granted) => json_response(StatusCode::OK, &granted),
            Err(refused) => self.refusal(service, &refused),
        }
    }

    fn grant(
        &mut self,
        service: RequestedService,
        client: &str,
        resource: &str,
        for_graph: bool,
        tokens: &mut AccessTokens,
        now: Timestamp,
    ) -> Value {
        let key = format!("{service:?} {client} {}", resource.trim_end_matches('/'));
        let half = now.as_second() + tokens.lifetime.as_secs() as i64 / 2;
        let cached = self.cached.get(&key).and_then(|token| {
            let until = tokens.valid_until(token, now)?;
            (until.as_second() > half).then(|| (token.clone(), until))
        });
        let (token, until) = cached.unwrap_or_else(|| {
            let holder = TokenHolder::Application(client.to_owned());
            let token = tokens.grant_for(holder, for_graph, now);
            self.cached.insert(key, token.clone());
            (token, now.checked_add(tokens.lifetime).unwrap_or(Timestamp::MAX))
        });
        let until = until.as_second();
        let mut granted = json!({
            "access_token": token,
            "client_id": client,
            "expires_on": until.to_string(),
            "resource": resource,
            "token_type": "Bearer",
        });
        if service != RequestedService::AppService {
            granted["expires_in"] = (until - now.as_second()).to_string().into();
            granted["ext_expires_in"] = granted["expires_in"].clone();
            granted["not_before"] = (now.as_second() - 300).to_string().into();
        }
        granted
    }

    /// The client id of the identity that the request asks for.
    fn client_id(
        &self,
        call: &SimulatedRequest,
        service: RequestedService,
    ) -> Result<String, IdentityError> {
        let ManagedIdentities { system_assigned, user_assigned, .. } = &self.identities;
        let unknown = || {
            IdentityError::new(
                400,
                "unauthorized_client",
                "The client is not authorized to request an access token using this method.",
            )
        };
        match (call.parameter("client_id"), user_assigned) {
            (Some(_), _) if service == RequestedService::Arc => {
                Err(IdentityError::invalid_request("User-assigned identities are not supported."))
            }
            (Some(asked), None) if !asked.is_empty() => Ok(asked.to_lowercase()),
            (Some(asked), Some(known)) => {
                let found = known.iter().find(|known| known.eq_ignore_ascii_case(asked));
                found.map(|found| found.to_lowercase()).ok_or_else(unknown)
            }
            (None, _) if *system_assigned => Ok(guid(&[self.seed, 0x6d73_6901])),
            // With a single identity the metadata service does not need its name.
            (None, Some(known)) if service == RequestedService::MachineMetadata => {
                match known.as_slice() {
                    [] => Err(unknown()),
                    [only] => Ok(only.to_lowercase()),
                    _ => Err(IdentityError::invalid_request(
                        "Multiple user assigned identities exist, please specify the clientId / \
                         resourceId of the identity in the token request",
                    )),
                }
            }
            _ => Err(unknown()),
        }
    }

    fn check_app_service(&self, call: &SimulatedRequest) -> Result<(), IdentityError> {
        match call.header("x-identity-header") {
            Some(sent) if sent == self.identities.identity_header => Ok(()),
            _ => Err(IdentityError::new(401, "unauthorized", "Unauthorized")),
        }
    }

    /// Checks that the request has the content of a key file, which works once.
    fn check_arc(&mut self, call: &SimulatedRequest) -> Result<(), IdentityError> {
        check_metadata(call)?;
        if call.basic.as_ref().is_some_and(|key| self.arc_keys.remove(key)) {
            return Ok(());
        }
        Err(IdentityError::new(401, "unauthorized", "The presented key is not valid."))
    }

    /// Arc's first answer: the name of the file whose content the second request must have.
    fn challenge(&mut self, fault: Option<IdentityFault>) -> RenderedResponse {
        self.challenges += 1;
        let name = guid(&[self.seed, self.challenges, 0x6172_6301]);
        let extension = match fault {
            Some(IdentityFault::ArcOtherExtension) => "txt",
            _ => "key",
        };
        let configured = self.identities.arc_directory.as_deref();
        let directory = match (fault, configured) {
            (Some(IdentityFault::ArcElsewhere), Some(inside)) => inside.join(".."),
            (Some(IdentityFault::ArcElsewhere), None) => PathBuf::from("/tmp"),
            (_, inside) => inside.unwrap_or(Path::new(ARC_DIRECTORY)).to_owned(),
        };
        let path = directory.join(format!("{name}.{extension}"));
        let length = if fault == Some(IdentityFault::ArcLongKey) { 128 } else { 1 };
        let key: String = (0..length)
            .map(|part| guid(&[self.seed, self.challenges, part, 0x6172_6302]))
            .collect();
        if configured.is_some()
            && fault != Some(IdentityFault::ArcMissingKey)
            && let Err(error) = fs::write(&path, &key)
        {
            tracing::warn!(%error, path = %path.display(), "cannot write the key file");
        }
        self.arc_keys.insert(key);
        let reply = json_response(
            StatusCode::UNAUTHORIZED,
            &json!({"error": "unauthorized", "error_description": "Authentication is required."}),
        );
        match fault {
            Some(IdentityFault::ArcNoChallenge) => reply,
            _ => reply.header("www-authenticate", format!("Basic realm={}", path.display())),
        }
    }

    /// The response of a fault (fact 142).
    pub(super) fn faulty(
        &mut self,
        service: RequestedService,
        how: IdentityFault,
    ) -> RenderedResponse {
        let refused = match how {
            IdentityFault::Updating => return RenderedResponse::empty(StatusCode::NOT_FOUND),
            IdentityFault::Upgrading => return RenderedResponse::empty(StatusCode::GONE),
            IdentityFault::Throttled => {
                IdentityError::new(429, "too_many_requests", "Too many requests")
            }
            IdentityFault::Failing => IdentityError::new(
                500,
                "unknown",
                "Failed to retrieve token from the Active directory.",
            ),
            IdentityFault::NotFound => IdentityError::invalid_request("Identity not found"),
            IdentityFault::ArcElsewhere
            | IdentityFault::ArcOtherExtension
            | IdentityFault::ArcLongKey
            | IdentityFault::ArcMissingKey
            | IdentityFault::ArcNoChallenge => return self.challenge(Some(how)),
        };
        self.refusal(service, &refused)
    }

    fn refusal(&self, service: RequestedService, refused: &IdentityError) -> RenderedResponse {
        let status = StatusCode::from_u16(refused.status).unwrap_or(StatusCode::BAD_REQUEST);
        let IdentityError { error, message, .. } = refused;
        // App Service's errors have other members.
        let body = if service == RequestedService::AppService {
            let message = match *error {
                "unauthorized_client" => {
                    "No User Assigned or Delegated Managed Identity found for specified \
                     ClientId/ResourceId/PrincipalId."
                }
                _ => message,
            };
            json!({
                "statusCode": refused.status,
                "message": message,
                "correlationId": guid(&[self.seed, self.challenges, 0x6d73_6902]),
            })
        } else {
            json!({"error": error, "error_description": message})
        };
        json_response(status, &body)
    }
}

/// Checks the header that the metadata service and Arc require, and that no proxy forwarded the
/// request.
fn check_metadata(call: &SimulatedRequest) -> Result<(), IdentityError> {
    if call.header("metadata") != Some("true") {
        let message = "Required metadata header not specified";
        return Err(IdentityError::new(400, "bad_request_102", message));
    }
    if call.header("x-forwarded-for").is_some() {
        return Err(IdentityError::invalid_request("Requests must not be forwarded by a proxy"));
    }
    Ok(())
}

fn check_version(service: RequestedService, version: &str) -> Result<(), IdentityError> {
    let known: &[&str] = match service {
        RequestedService::AppService => &["2019-08-01"],
        RequestedService::Arc => &["2019-11-01", "2020-06-01"],
        _ => &["2018-02-01", "2019-08-01", "2019-11-01", "2020-06-01", "2021-02-01"],
    };
    if known.contains(&version) {
        return Ok(());
    }
    let message = format!("The value '{version}' of parameter 'api-version' is not supported");
    Err(IdentityError::invalid_request(&message))
}

/// Whether a resource is Graph. `graph` are the origins of the simulated one.
fn is_graph(resource: &str, graph: &[&str]) -> Result<bool, IdentityError> {
    let known = resource.trim_end_matches('/');
    let among = |all: &[&str]| all.iter().any(|one| one.eq_ignore_ascii_case(known));
    if known.is_empty() {
        let message = "The request is missing the required parameter 'resource'";
        return Err(IdentityError::invalid_request(message));
    }
    if among(&GRAPH_RESOURCES) || among(graph) || among(&OTHER_RESOURCES) {
        return Ok(!among(&OTHER_RESOURCES));
    }
    // A scope such as `https://graph.microsoft.com/.default` is unknown as well (fact 144).
    let message =
        format!("AADSTS50001: The application named {resource} was not found in the tenant.");
    Err(IdentityError::new(400, "invalid_resource", message))
}

fn json_response(status: StatusCode, body: &Value) -> RenderedResponse {
    RenderedResponse::text(status, "application/json; charset=utf-8", body.to_string())
}

impl Simulator {
    /// Replaces the identities of the simulated machine.
    pub fn set_managed_identities(&self, identities: ManagedIdentities) {
        self.state().sign_in.identity_endpoints.identities = identities;
    }
}
