//! Metadata that Microsoft's client libraries request before they sign in: a tenant's endpoints,
//! and the hosts that belong to the same login service.

use http::{Method, StatusCode};
use serde_json::json;

use super::request::{RenderedResponse, SimulatedRequest};

const DOCUMENT: &str = "openid-configuration";

/// Answers a request for metadata of the login service, which needs no token; `None` for any
/// other request.
pub(super) fn answer(call: &SimulatedRequest) -> Option<RenderedResponse> {
    let segments: Vec<&str> = call.segments.iter().map(String::as_str).collect();
    let found = match segments.as_slice() {
        [".well-known", DOCUMENT] => configuration(call, "common"),
        [tenant, ".well-known", DOCUMENT] | [tenant, "v2.0", ".well-known", DOCUMENT] => {
            configuration(call, tenant)
        }
        ["common", "discovery", "instance"] => instance(call),
        _ => return None,
    };
    Some(match call.method {
        Method::GET => found,
        _ => RenderedResponse::empty(StatusCode::METHOD_NOT_ALLOWED),
    })
}

/// The document of OpenID Connect Discovery 1.0, with the members that Microsoft's has.
fn configuration(call: &SimulatedRequest, tenant: &str) -> RenderedResponse {
    let login = call.origin();
    let endpoint = |name: &str| format!("{login}/{tenant}/oauth2/v2.0/{name}");
    let document = json!({
        "token_endpoint": endpoint("token"),
        "token_endpoint_auth_methods_supported":
            ["client_secret_post", "private_key_jwt", "client_secret_basic"],
        "jwks_uri": format!("{login}/{tenant}/discovery/v2.0/keys"),
        "response_modes_supported": ["query", "fragment", "form_post"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
        "issuer": format!("{login}/{tenant}/v2.0"),
        "request_uri_parameter_supported": false,
        "userinfo_endpoint": format!("{login}/oidc/userinfo"),
        "authorization_endpoint": endpoint("authorize"),
        "device_authorization_endpoint": endpoint("devicecode"),
        "http_logout_supported": true,
        "frontchannel_logout_supported": true,
        "end_session_endpoint": endpoint("logout"),
        "claims_supported": ["sub", "iss", "aud", "exp", "iat", "tid", "ver"],
        "tenant_region_scope": "EU",
        "cloud_instance_name": call.host(),
        "cloud_graph_host_name": "graph.windows.net",
        "msgraph_host": "graph.microsoft.com",
        "rbac_url": "https://pas.windows.net",
    });
    plain(&document)
}

/// Instance discovery: the requested host is the only host of its login service.
fn instance(call: &SimulatedRequest) -> RenderedResponse {
    let authority = call.parameter("authorization_endpoint").unwrap_or_default();
    let Some(tenant) = authority.split("://").nth(1).and_then(|rest| rest.split('/').nth(1)) else {
        return RenderedResponse::json(
            StatusCode::BAD_REQUEST,
            &json!({
                "error": "invalid_request",
                "error_description":
                    "AADSTS900144: The request must contain the following parameter: \
                     'authorization_endpoint'.",
                "error_codes": [900_144],
            }),
        );
    };
    let host = call.host();
    plain(&json!({
        "tenant_discovery_endpoint":
            format!("{}/{tenant}/v2.0/.well-known/openid-configuration", call.origin()),
        "api-version": call.parameter("api-version").unwrap_or("1.1"),
        "metadata": [{
            "preferred_network": host,
            "preferred_cache": host,
            "aliases": [host],
        }],
    }))
}

fn plain(document: &serde_json::Value) -> RenderedResponse {
    RenderedResponse::text(StatusCode::OK, "application/json; charset=utf-8", document.to_string())
}
