//! The part of the control plane about people: their sign-in, their tokens, and what they share.

use bytes::Bytes;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Simulator;
use super::control::{ControlError, found, read, value};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserCodeForm {
    user_code: String,
    /// Whom to sign in; none: the sign-in is declined.
    person: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum RevocationForm {
    AccessToken(String),
    Application(String),
    Person(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ShareForm {
    owner: String,
    reader: String,
    #[serde(default = "yes")]
    shared: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DelegationForm {
    #[serde(default = "yes")]
    shared_links: bool,
    #[serde(default)]
    profile_needs_scope: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountForm {
    person: String,
    enabled: bool,
}

fn yes() -> bool {
    true
}

impl Simulator {
    /// Answers a request about people; `None` if it is about something else.
    pub(super) fn control_people(
        &self,
        method: &Method,
        what: &str,
        body: &Bytes,
    ) -> Option<Result<Value, ControlError>> {
        Some(match (method, what) {
            (&Method::GET, "user-codes") => value(&self.user_codes()),
            (&Method::POST, "user-codes") => read(body).and_then(|form: UserCodeForm| {
                let done = match &form.person {
                    Some(person) => self.enter_user_code(&form.user_code, person),
                    None => self.decline_user_code(&form.user_code),
                };
                found(done, "user_code")
            }),
            (&Method::POST, "revoke") => read(body).map(|form: RevocationForm| {
                let revoked = match &form {
                    RevocationForm::AccessToken(token) => {
                        usize::from(self.revoke_access_token(token))
                    }
                    RevocationForm::Application(client_id) => self.revoke_application(client_id),
                    RevocationForm::Person(person) => self.revoke_person(person, false),
                };
                json!({"revoked": revoked})
            }),
            (&Method::PUT, "shares") => read(body).and_then(|form: ShareForm| {
                found(self.share_calendar(&form.owner, &form.reader, form.shared), "mailbox")
            }),
            (&Method::PUT, "delegation") => read(body).map(|form: DelegationForm| {
                self.set_shared_links(form.shared_links);
                self.set_profile_needs_scope(form.profile_needs_scope);
                json!({})
            }),
            (&Method::PUT, "accounts") => read(body).and_then(|form: AccountForm| {
                found(self.set_account_enabled(&form.person, form.enabled), "person")
            }),
            _ => return None,
        })
    }
}
