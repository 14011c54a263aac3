//! One page of a listing of directory objects, with `$select`, `$top`, `$count` and `$skiptoken`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use serde_json::{Value, json};

use super::request::{RenderedResponse, SimulatedRequest};

/// Properties of a user that Graph sends without `$select`.
const DEFAULT_PROPERTIES: [&str; 11] = [
    "id",
    "businessPhones",
    "displayName",
    "givenName",
    "jobTitle",
    "mail",
    "mobilePhone",
    "officeLocation",
    "preferredLanguage",
    "surname",
    "userPrincipalName",
];
const USER: &str = "#microsoft.graph.user";

/// Where a page is a part of.
pub(super) struct DirectoryListing<'a> {
    /// The base address of the answer, including `/v1.0`.
    pub(super) base: &'a str,
    /// The address of the request without its query.
    pub(super) address: &'a str,
    /// What is listed, in the words of `@odata.context`.
    pub(super) context: &'a str,
    /// Whether the objects have different types, which are then sent.
    pub(super) mixed: bool,
    /// The most objects of the whole listing.
    pub(super) limit: Option<usize>,
}

impl DirectoryListing<'_> {
    /// Renders the page of `objects`, which have all their properties.
    pub(super) fn page(
        &self,
        call: &SimulatedRequest,
        mut objects: Vec<Value>,
    ) -> Result<RenderedResponse, RenderedResponse> {
        let size = page_size(call)?;
        let id = |object: &Value| object["id"].as_str().unwrap_or_default().to_owned();
        objects.sort_by_key(id);
        objects.truncate(self.limit.unwrap_or(usize::MAX));
        let total = objects.len();
        let salt = crc32fast::hash(self.address.to_lowercase().as_bytes());
        if let Some(token) = call.parameter("$skiptoken") {
            // The page begins after an id, so that a member who leaves meanwhile hides nobody.
            let after = read_token(token, salt).ok_or_else(expired_page_token)?;
            objects.retain(|object| id(object) > after);
        }
        let more = objects.len() > size;
        objects.truncate(size);
        let last = objects.last().map(id).unwrap_or_default();
        let shown: Result<Vec<Value>, _> =
            objects.into_iter().map(|object| shown(object, call, self.mixed)).collect();
        let mut page = json!({
            "@odata.context": format!("{}/$metadata#{}", self.base, self.context),
            "value": shown?,
        });
        if call.parameter("$count") == Some("true") && is_eventual(call) {
            page["@odata.count"] = total.into();
        }
        if more {
            let query = call.target.split_once('?').map(|(_, query)| query).unwrap_or_default();
            let kept = query.split('&').filter(|pair| {
                let name = pair.split('=').next().unwrap_or_default().to_lowercase();
                !pair.is_empty() && name != "$skiptoken" && name != "%24skiptoken"
            });
            let kept: String = kept.map(|pair| format!("{pair}&")).collect();
            let token = write_token(&last, salt);
            page["@odata.nextLink"] = format!("{}?{kept}$skiptoken={token}", self.address).into();
        }
        Ok(RenderedResponse::json(StatusCode::OK, &page))
    }
}

/// An object with the properties that the request selects.
pub(super) fn shown(
    mut object: Value,
    call: &SimulatedRequest,
    mixed: bool,
) -> Result<Value, RenderedResponse> {
    let is_user = object["@odata.type"] == USER;
    let Some(members) = object.as_object_mut() else { return Ok(object) };
    let Some(select) = call.parameter("$select") else {
        members.retain(|name, _| {
            name == "@odata.type" || !is_user || DEFAULT_PROPERTIES.contains(&name.as_str())
        });
        if !mixed {
            members.remove("@odata.type");
        }
        return Ok(object);
    };
    let wanted: Vec<&str> = select.split(',').map(str::trim).collect();
    let unknown =
        wanted.iter().find(|wanted| !members.keys().any(|name| name.eq_ignore_ascii_case(wanted)));
    // Other types need not have what is selected of users.
    if let Some(unknown) = unknown.filter(|_| !mixed) {
        let message = format!("Could not find a property named '{unknown}' on this type.");
        return Err(RenderedResponse::bad_request("BadRequest", &message));
    }
    members.retain(|name, _| {
        name == "@odata.type" && mixed || wanted.iter().any(|one| one.eq_ignore_ascii_case(name))
    });
    Ok(object)
}

/// Whether the client accepts that the answer is slightly old.
pub(super) fn is_eventual(call: &SimulatedRequest) -> bool {
    call.header("consistencylevel").is_some_and(|level| level.eq_ignore_ascii_case("eventual"))
}

/// 400 for queries that Graph does not answer (so).
pub(super) fn unsupported_query(message: &str) -> RenderedResponse {
    RenderedResponse::bad_request("Request_UnsupportedQuery", message)
}

fn page_size(call: &SimulatedRequest) -> Result<usize, RenderedResponse> {
    let Some(top) = call.parameter("$top") else { return Ok(100) };
    let size = top.parse().ok().filter(|size| (1..=999).contains(size));
    size.ok_or_else(|| {
        let message =
            format!("Invalid page size specified: '{top}'. Must be between 1 and 999 inclusive.");
        RenderedResponse::bad_request("Request_BadRequest", &message)
    })
}

pub(super) fn expired_page_token() -> RenderedResponse {
    RenderedResponse::bad_request(
        "Directory_ExpiredPageToken",
        "The specified page token value has expired and can no longer be included in your request.",
    )
}

fn write_token(after: &str, salt: u32) -> String {
    format!("RFNwdAIAAQAA{}", URL_SAFE_NO_PAD.encode(format!("{salt:08x}{after}")))
}

fn read_token(token: &str, salt: u32) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(token.strip_prefix("RFNwdAIAAQAA")?).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    text.strip_prefix(&format!("{salt:08x}")).map(str::to_owned)
}
