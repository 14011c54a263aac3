//! Answers requests to the directory: users, groups and their members.

use http::StatusCode;
use serde_json::Value;

use super::access_token::TokenHolder;
use super::delegation::insufficient_privileges;
use super::directory::person_json;
use super::directory_page::{DirectoryListing, is_eventual, shown, unsupported_query};
use super::odata_filter::{FilterError, ODataFilter};
use super::request::{RenderedResponse, SimulatedRequest};
use super::state::SimulatorState;

/// Permissions of which one is needed to read users.
const READ_USERS: [&str; 5] = [
    "user.read.all",
    "user.readbasic.all",
    "user.readwrite.all",
    "directory.read.all",
    "directory.readwrite.all",
];
/// Permissions of which one is needed to read groups and their members.
const READ_GROUPS: [&str; 5] = [
    "groupmember.read.all",
    "group.read.all",
    "group.readwrite.all",
    "directory.read.all",
    "directory.readwrite.all",
];

impl SimulatorState {
    /// Answers a request to the directory; `None` for any other.
    pub(super) fn directory_route(
        &self,
        call: &SimulatedRequest,
        holder: &TokenHolder,
    ) -> Option<Result<RenderedResponse, RenderedResponse>> {
        let segment = |at: usize| call.segments.get(at).map(|text| text.to_lowercase());
        let second = call.segments.get(1).map(String::as_str).unwrap_or_default();
        match (segment(0)?.as_str(), call.segments.len()) {
            ("users", 1) => Some(self.list_users(call, holder)),
            ("users", 2) => Some(self.user(call, holder, second)),
            ("groups", 1) => Some(self.list_groups(call, holder)),
            ("groups", 2) => Some(self.group(call, holder, second)),
            ("groups", 3 | 4) => match segment(2)?.as_str() {
                "members" => Some(self.list_members(call, holder, second, false)),
                "transitivemembers" => Some(self.list_members(call, holder, second, true)),
                _ => None,
            },
            ("places", _) => Some(self.places_route(call, holder)),
            _ => None,
        }
    }

    /// Whether the holder of a token has one of these permissions.
    pub(super) fn has_permission(&self, holder: &TokenHolder, wanted: &[&str]) -> bool {
        match holder {
            TokenHolder::Application(_) => {
                let granted = self.directory.permissions.as_ref();
                granted.is_none_or(|granted| wanted.iter().any(|one| granted.contains(*one)))
            }
            TokenHolder::Person { scopes, .. } => wanted.iter().any(|one| scopes.contains(*one)),
        }
    }

    /// All users: people and rooms with a mailbox, and people without.
    fn users(&self) -> Vec<Value> {
        let people = (0..self.mailboxes.len()).filter(|at| !self.mailboxes[*at].is_group);
        let mailboxes = people.map(|at| self.mailbox_user(at));
        let others = self.directory.objects.keys().map(|id| self.object(id));
        let is_user = |object: &Value| object["@odata.type"] == "#microsoft.graph.user";
        mailboxes.chain(others.filter(is_user)).collect()
    }

    /// The user that a mailbox belongs to.
    pub(super) fn mailbox_user(&self, mailbox: usize) -> Value {
        let owner = &self.mailboxes[mailbox];
        let id = owner.object_id.as_str();
        let profile = self.directory.profiles.get(id);
        let address = &*owner.person.address;
        let principal = profile.and_then(|profile| profile.principal_name.as_deref());
        // The account of a room is disabled: nobody signs in as a room.
        let enabled = !self.sign_in.disabled_people.contains(id) && !self.directory.is_room(id);
        let department = self.directory.department(id);
        let principal = principal.unwrap_or(address);
        person_json(
            id,
            &owner.person.name,
            Some(address),
            principal,
            department.as_deref(),
            enabled,
        )
    }

    /// The object with that id, or null.
    fn object(&self, id: &str) -> Value {
        if let Some(mailbox) = self.mailbox(id) {
            return self.mailbox_user(mailbox);
        }
        let enabled = !self.sign_in.disabled_people.contains(id);
        self.directory.objects.get(id).map_or(Value::Null, |object| object.json(id, enabled))
    }

    fn list_users(
        &self,
        call: &SimulatedRequest,
        holder: &TokenHolder,
    ) -> Result<RenderedResponse, RenderedResponse> {
        if !self.has_permission(holder, &READ_USERS) {
            return Err(insufficient_privileges());
        }
        let users = filtered(call, self.users())?;
        self.listing_page(call, "users", false, users)
    }

    fn user(
        &self,
        call: &SimulatedRequest,
        holder: &TokenHolder,
        name: &str,
    ) -> Result<RenderedResponse, RenderedResponse> {
        let own = matches!(holder, TokenHolder::Person { object_id, .. } if object_id == name);
        if !own && !self.has_permission(holder, &READ_USERS) {
            return Err(insufficient_privileges());
        }
        let named = |user: &Value| {
            ["id", "userPrincipalName"].iter().any(|member| {
                user[member].as_str().is_some_and(|text| text.eq_ignore_ascii_case(name))
            })
        };
        let user = self.users().into_iter().find(named).ok_or_else(|| resource_not_found(name))?;
        self.entity(call, "users/$entity", user)
    }

    fn list_groups(
        &self,
        call: &SimulatedRequest,
        holder: &TokenHolder,
    ) -> Result<RenderedResponse, RenderedResponse> {
        if !self.has_permission(holder, &READ_GROUPS) {
            return Err(insufficient_privileges());
        }
        let ids = self.directory.objects.keys();
        let groups = ids.filter(|id| self.directory.group(id).is_some());
        let groups = filtered(call, groups.map(|id| self.object(id)).collect())?;
        self.listing_page(call, "groups", false, groups)
    }

    fn group(
        &self,
        call: &SimulatedRequest,
        holder: &TokenHolder,
        id: &str,
    ) -> Result<RenderedResponse, RenderedResponse> {
        if !self.has_permission(holder, &READ_GROUPS) {
            return Err(insufficient_privileges());
        }
        let known = self.directory.group(id).map(|_| self.object(&id.to_lowercase()));
        self.entity(call, "groups/$entity", known.ok_or_else(|| resource_not_found(id))?)
    }

    /// Lists the members of a group, of all types or of one (fact 189).
    fn list_members(
        &self,
        call: &SimulatedRequest,
        holder: &TokenHolder,
        group: &str,
        transitive: bool,
    ) -> Result<RenderedResponse, RenderedResponse> {
        if !self.has_permission(holder, &READ_GROUPS) {
            return Err(insufficient_privileges());
        }
        if self.directory.group(group).is_none() {
            return Err(resource_not_found(group));
        }
        let cast = call.segments.get(3).map(|kind| format!("#{}", kind.to_lowercase()));
        let advanced = is_eventual(call) && call.parameter("$count") == Some("true");
        let kinds = ["#microsoft.graph.user", "#microsoft.graph.group", "#microsoft.graph.device"];
        match cast.as_deref() {
            None | Some("#microsoft.graph.user") => {}
            Some(kind) if kinds.contains(&kind) && advanced => {}
            Some(kind) if kinds.contains(&kind) => {
                return Err(unsupported_query("Invalid search request."));
            }
            Some(kind) => {
                let message = format!("Resource not found for the segment '{}'.", &kind[1..]);
                return Err(RenderedResponse::bad_request("BadRequest", &message));
            }
        }
        if call.parameter("$filter").is_some() && !advanced {
            return Err(unsupported_query(
                "The specified filter to the reference property query is currently not supported.",
            ));
        }
        let ids = self.directory.members(group, transitive);
        let mut members: Vec<Value> = ids.iter().map(|id| self.object(id)).collect();
        members.retain(|member| {
            member.is_object() && cast.as_ref().is_none_or(|cast| member["@odata.type"] == **cast)
        });
        if !self.has_permission(holder, &READ_USERS) {
            members.iter_mut().for_each(hide_users);
        }
        let context = if cast.is_some() { "users" } else { "directoryObjects" };
        self.listing_page(call, context, cast.is_none(), filtered(call, members)?)
    }

    fn listing_page(
        &self,
        call: &SimulatedRequest,
        context: &str,
        mixed: bool,
        objects: Vec<Value>,
    ) -> Result<RenderedResponse, RenderedResponse> {
        let (base, address) = (self.base(call), self.own_address(call));
        let limit = self.directory.listing_limit;
        let listing = DirectoryListing { base: &base, address: &address, context, mixed, limit };
        listing.page(call, objects)
    }

    fn entity(
        &self,
        call: &SimulatedRequest,
        context: &str,
        object: Value,
    ) -> Result<RenderedResponse, RenderedResponse> {
        let mut object = shown(object, call, false)?;
        object["@odata.context"] = format!("{}/$metadata#{context}", self.base(call)).into();
        Ok(RenderedResponse::json(StatusCode::OK, &object))
    }
}

/// Applies `$filter`.
fn filtered(
    call: &SimulatedRequest,
    mut objects: Vec<Value>,
) -> Result<Vec<Value>, RenderedResponse> {
    let counts = call.parameter("$count").is_some();
    if counts && !is_eventual(call) {
        return Err(unsupported_query("$count is not currently supported."));
    }
    if ["$search", "$orderby", "$expand"].iter().any(|name| call.parameter(name).is_some()) {
        return Err(unsupported_query("Unsupported Query."));
    }
    let Some(filter) = call.parameter("$filter") else { return Ok(objects) };
    let filter = ODataFilter::parse(filter).map_err(|error| match error {
        FilterError::Invalid(message) => RenderedResponse::bad_request(
            "BadRequest",
            &format!("Invalid filter clause: {message}"),
        ),
        FilterError::Unsupported(message) => unsupported_query(&message),
    })?;
    if filter.is_advanced() && !(counts && is_eventual(call)) {
        return Err(unsupported_query("Unsupported Query."));
    }
    objects.retain(|object| filter.matches(object));
    Ok(objects)
}

/// Without a permission to read users, their properties are null.
fn hide_users(member: &mut Value) {
    if member["@odata.type"] != "#microsoft.graph.user" {
        return;
    }
    for (name, value) in member.as_object_mut().into_iter().flatten() {
        if name != "@odata.type" && name != "id" {
            *value = Value::Null;
        }
    }
}

/// 404 of the directory.
pub(super) fn resource_not_found(name: &str) -> RenderedResponse {
    RenderedResponse::error(
        StatusCode::NOT_FOUND,
        "Request_ResourceNotFound",
        &format!(
            "Resource '{name}' does not exist or one of its queried reference-property objects are \
             not present."
        ),
    )
}
