//! What an administrator has to do about a refused request, by error code.
//!
//! The token's `roles` say nothing: Exchange may grant the access instead (fact 110). So only what
//! Graph answers counts.

use super::error::GraphError;
use crate::mirror::account::Credential;
use crate::mirror::failure::ErrorClass;
use crate::mirror::fleet::FleetSource;
use crate::mirror::window::group_id;

/// The remedy for a refused request to this mailbox of an account with this credential; `None` if
/// the error has its remedy in its message, or none is known.
pub fn remedy(error: &GraphError, credential: &Credential, mailbox: &str) -> Option<&'static str> {
    if !matches!(error, GraphError::Response(_)) {
        return None;
    }
    let message = error.message().to_ascii_lowercase();
    let code = error.code().unwrap_or_default().to_ascii_lowercase();
    let is_group = group_id(mailbox).is_some();
    let is_person = matches!(credential, Credential::DeviceCode(_));
    Some(match (error.class(), &*code) {
        (_, "errorgroupisusedinnongroupuri") => {
            "check mailbox: this is a group; write \"group:\" before its id"
        }
        (ErrorClass::SignIn, _) if error.token_refused() => {
            "Graph refuses the token: check that the account signs in to the cloud in graph.cloud, \
             and that this machine's clock is right"
        }
        (ErrorClass::SignIn, _) if is_person => {
            "a conditional access policy wants the person to sign in again: calmirror login"
        }
        (ErrorClass::SignIn, _) => {
            "a conditional access policy refuses the application: exclude it from the policy, or \
             meet the policy's conditions on this machine"
        }
        (ErrorClass::Forbidden, _) if message.contains("access to odata is disabled") => {
            "an application access policy does not allow this mailbox: add the mailbox to the \
             policy's group (Exchange: Test-ApplicationAccessPolicy shows it), and wait an hour"
        }
        (ErrorClass::Forbidden, _) if is_group && is_person => {
            "make the person who signed in a member of the group, have an administrator consent to \
             Group.Read.All, and sign in again: calmirror login"
        }
        (ErrorClass::Forbidden, _) if is_group => {
            "use the token of a member of the group, with the delegated permission Group.Read.All"
        }
        (ErrorClass::Forbidden, _) if is_person => {
            "have the owner share the calendar with the person who signed in"
        }
        (ErrorClass::Forbidden, _) if credential.may_be_a_user() => {
            "grant Calendars.Read (for calendars of others also Calendars.Read.Shared) and consent"
        }
        (ErrorClass::Forbidden, _) => {
            "grant the application permission Calendars.Read with an administrator's consent, or \
             an Exchange role assignment (RBAC for Applications) that covers this mailbox"
        }
        (ErrorClass::Gone, _) if is_group => {
            "check mailbox: the tenant has no such Microsoft 365 group; other groups have no calendar"
        }
        (ErrorClass::Gone, "mailboxnotenabledforrestapi") => {
            "give the user a licence with Exchange Online, or remove the window"
        }
        (
            ErrorClass::Gone,
            "errorinvaliduser" | "request_resourcenotfound" | "resourcenotfound",
        ) => "check mailbox: the tenant has no such user",
        (ErrorClass::Gone, "erroritemnotfound") => {
            "check calendar: the mailbox has no such calendar"
        }
        (ErrorClass::Gone, _) => "check mailbox and calendar: one of them does not exist",
        _ => return None,
    })
}

/// The same for a refused request of the directory, or for the calendars of a fleet's mailbox.
pub fn listing_remedy(
    error: &GraphError,
    credential: &Credential,
    source: &FleetSource,
) -> Option<&'static str> {
    if !matches!(error, GraphError::Response(_)) {
        return None;
    }
    let code = error.code().unwrap_or_default().to_ascii_lowercase();
    let is_person = matches!(credential, Credential::DeviceCode(_));
    match (error.class(), source) {
        (ErrorClass::Forbidden, FleetSource::Members(_) | FleetSource::Users(_)) if is_person => {
            Some(
                "a person who signs in cannot list the directory: use an account with application \
                 permissions for this fleet",
            )
        }
        (ErrorClass::Forbidden, FleetSource::Rooms | FleetSource::RoomList(_)) if is_person => {
            Some(
                "a person who signs in cannot list rooms: use an account with application \
                 permissions for this fleet",
            )
        }
        (ErrorClass::Forbidden, FleetSource::Members(_)) => Some(
            "grant the application permissions GroupMember.Read.All and User.Read.All with an \
             administrator's consent",
        ),
        (ErrorClass::Forbidden, FleetSource::Users(_)) => {
            Some("grant the application permission User.Read.All with an administrator's consent")
        }
        (ErrorClass::Forbidden, FleetSource::Rooms | FleetSource::RoomList(_)) => {
            Some("grant the application permission Place.Read.All with an administrator's consent")
        }
        (ErrorClass::Gone, FleetSource::Members(_)) => {
            Some("check members_of: the tenant has no such group")
        }
        // The id of a group is a GUID.
        (ErrorClass::Refused, FleetSource::Members(_)) if code.ends_with("badrequest") => {
            Some("check members_of: it is neither the address nor the id of a group")
        }
        (ErrorClass::Gone, FleetSource::RoomList(_)) => {
            Some("check room_list: the tenant has no such room list")
        }
        (ErrorClass::Refused, FleetSource::Users(_))
            if matches!(
                &*code,
                "request_unsupportedquery" | "request_badrequest" | "badrequest"
            ) =>
        {
            Some("check users: Graph does not understand the filter, or cannot answer it")
        }
        // An id or address that no tenant has; the remedy of a mailbox would name another key.
        (ErrorClass::Gone, FleetSource::Mailbox(_)) => {
            Some("check calendars_of: the tenant has no such mailbox")
        }
        (ErrorClass::Gone | ErrorClass::Refused, _) => None,
        (_, FleetSource::Mailbox(mailbox)) => remedy(error, credential, mailbox),
        _ => remedy(error, credential, ""),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};
    use jiff::Timestamp;

    use super::*;
    use crate::graph::error::{ErrorResponse, RequestKind};

    const ALICE: &str = "alice@contoso.com";

    fn response(status: u16, body: &str) -> GraphError {
        let status = StatusCode::from_u16(status).unwrap();
        let headers = HeaderMap::new();
        let response = ErrorResponse::read(
            RequestKind::Start,
            status,
            &headers,
            body.as_bytes(),
            Timestamp::UNIX_EPOCH,
            &[],
        );
        GraphError::Response(Box::new(response))
    }

    fn of(status: u16, body: &str, credential: &Credential, mailbox: &str) -> Option<&'static str> {
        remedy(&response(status, body), credential, mailbox)
    }

    #[test]
    fn each_refusal_says_what_to_grant() {
        let error = |code: &str, message: &str| {
            format!(r#"{{"error":{{"code":"{code}","message":"{message}"}}}}"#)
        };
        let app = Credential::SecretEnv("X".into());
        let person = Credential::DeviceCode("x".into());
        let policy = error("ErrorAccessDenied", "Access to OData is disabled: [RAOP]");
        let denied = error("ErrorAccessDenied", "Access is denied.");
        let claims = error("InvalidAuthenticationToken", "insufficient_claims");
        for (status, body, credential, said) in [
            (403, &policy, &app, "application access policy"),
            (403, &denied, &app, "application permission Calendars.Read"),
            (403, &denied, &person, "share the calendar"),
            (403, &denied, &Credential::AccessTokenFile("x".into()), "Calendars.Read.Shared"),
            (401, &error("InvalidAuthenticationToken", "no"), &app, "refuses the token"),
            (401, &claims, &app, "conditional access policy refuses"),
            (403, &claims, &person, "sign in again"),
            (404, &error("MailboxNotEnabledForRESTAPI", "no"), &app, "licence"),
            (404, &error("ErrorInvalidUser", "no"), &app, "no such user"),
            (404, &error("Request_ResourceNotFound", "no"), &app, "no such user"),
            (404, &error("ErrorItemNotFound", "no"), &app, "no such calendar"),
            (404, &String::new(), &app, "one of them does not exist"),
        ] {
            let remedy = of(status, body, credential, ALICE).unwrap_or_default();
            assert!(remedy.contains(said), "{status} {body}: {remedy}");
        }
        assert_eq!(of(503, "", &app, ALICE), None);
        let group = "group:00000000-0000-0000-0000-000000000001";
        let gone = error("Request_ResourceNotFound", "no");
        for (status, body, credential, mailbox, said) in [
            (403, &denied, &person, group, "a member of the group"),
            (403, &denied, &Credential::AccessTokenFile("x".into()), group, "Group.Read.All"),
            (404, &gone, &person, group, "no such Microsoft 365 group"),
            (404, &error("ErrorGroupIsUsedInNonGroupURI", "no"), &app, ALICE, "\"group:\""),
        ] {
            let remedy = of(status, body, credential, mailbox).unwrap_or_default();
            assert!(remedy.contains(said), "{status} {body}: {remedy}");
        }
    }

    #[test]
    fn each_refused_listing_says_what_to_grant() {
        let error = |status: u16, code: &str| {
            response(status, &format!(r#"{{"error":{{"code":"{code}","message":"no"}}}}"#))
        };
        let app = Credential::SecretEnv("X".into());
        let person = Credential::DeviceCode("x".into());
        let [group, users] = [FleetSource::Members("g".into()), FleetSource::Users("f".into())];
        let [list, one] = [FleetSource::RoomList("l".into()), FleetSource::Mailbox("m".into())];
        let denied = "Authorization_RequestDenied";
        for (status, code, source, credential, said) in [
            (403, denied, &group, &app, "GroupMember.Read.All and User.Read.All"),
            (403, denied, &users, &app, "permission User.Read.All"),
            (403, denied, &FleetSource::Rooms, &app, "Place.Read.All"),
            (403, denied, &list, &app, "Place.Read.All"),
            (403, denied, &group, &person, "an account with application permissions"),
            (403, denied, &list, &person, "cannot list rooms"),
            (403, "ErrorAccessDenied", &one, &app, "Calendars.Read"),
            (401, "InvalidAuthenticationToken", &group, &app, "refuses the token"),
            (404, "Request_ResourceNotFound", &group, &app, "no such group"),
            (400, "Request_BadRequest", &group, &app, "neither the address nor the id"),
            (404, "ErrorItemNotFound", &list, &app, "no such room list"),
            (400, "Request_UnsupportedQuery", &users, &app, "does not understand the filter"),
            (400, "BadRequest", &users, &app, "does not understand the filter"),
            (404, "ErrorInvalidUser", &one, &app, "check calendars_of"),
        ] {
            let remedy = listing_remedy(&error(status, code), credential, source);
            assert!(remedy.unwrap_or_default().contains(said), "{status} {code}: {remedy:?}");
        }
        let gone = listing_remedy(&error(404, "x"), &app, &FleetSource::Rooms);
        assert_eq!(gone, None);
        assert_eq!(listing_remedy(&error(503, "x"), &app, &group), None);
    }
}
