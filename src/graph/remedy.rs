//! What an administrator has to do about a refused request, by error code.
//!
//! The token's `roles` say nothing: Exchange may grant the access instead (fact 110). So only what
//! Graph answers counts.

use super::error::GraphError;
use crate::mirror::account::Credential;
use crate::mirror::failure::ErrorClass;

/// The remedy for a refused request to a mailbox of an account with this credential; `None` if the
/// error has its remedy in its message, or none is known.
pub fn remedy(error: &GraphError, credential: &Credential) -> Option<&'static str> {
    if !matches!(error, GraphError::Response(_)) {
        return None;
    }
    let message = error.message().to_ascii_lowercase();
    let code = error.code().unwrap_or_default().to_ascii_lowercase();
    let is_person = matches!(credential, Credential::DeviceCode(_));
    Some(match (error.class(), &*code) {
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

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};
    use jiff::Timestamp;

    use super::*;
    use crate::graph::error::{ErrorResponse, RequestKind};

    fn of(status: u16, body: &str, credential: &Credential) -> Option<&'static str> {
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
        remedy(&GraphError::Response(Box::new(response)), credential)
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
            let remedy = of(status, body, credential).unwrap_or_default();
            assert!(remedy.contains(said), "{status} {body}: {remedy}");
        }
        assert_eq!(of(503, "", &app), None);
    }
}
