//! The page on which a person enters a user code, and the same for tests.
//!
//! There are no passwords: whoever enters a code says as whom to sign in.

use bytes::Bytes;
use http::{Method, StatusCode};

use super::Simulator;
use super::delegated_grant::SignedInPerson;
use super::device_code::DeviceDecision;
use super::request::{RenderedResponse, SimulatedRequest, pairs};

impl Simulator {
    /// Signs a person in who entered the user code of a device. `person` is an address or object
    /// id. Returns whether the person exists and the code waits for one.
    pub fn enter_user_code(&self, user_code: &str, person: &str) -> bool {
        let mut state = self.state();
        let Some(mailbox) = state.mailbox(person) else { return false };
        let owner = &state.mailboxes[mailbox];
        let person = SignedInPerson {
            object_id: owner.object_id.clone(),
            name: owner.person.name.to_string(),
            address: owner.person.address.to_string(),
        };
        let now = state.env.now();
        let decision = DeviceDecision::SignedIn(person);
        state.sign_in.device_sign_ins.decide(user_code, decision, now)
    }

    /// Declines the sign-in of a device. Returns whether the code waits for a person.
    pub fn decline_user_code(&self, user_code: &str) -> bool {
        let mut state = self.state();
        let now = state.env.now();
        state.sign_in.device_sign_ins.decide(user_code, DeviceDecision::Declined, now)
    }

    /// The user codes that wait for a person, oldest first.
    pub fn user_codes(&self) -> Vec<String> {
        let state = self.state();
        state.sign_in.device_sign_ins.waiting(state.env.now())
    }

    /// Answers a request for the page; `None` for any other request.
    pub(super) fn device_page(
        &self,
        call: &SimulatedRequest,
        body: &Bytes,
    ) -> Option<RenderedResponse> {
        if call.versioned || !call.is(&["devicelogin"], 0) {
            return None;
        }
        let note = match call.method {
            Method::GET => "",
            Method::POST => {
                let text = String::from_utf8_lossy(body);
                let field = |name: &str| {
                    let found = pairs(&text).find(|(known, _)| known == name);
                    found.map(|(_, value)| value).unwrap_or_default()
                };
                let code = field("code");
                if !field("decline").is_empty() {
                    if self.decline_user_code(&code) { "Declined." } else { "Unknown code." }
                } else if self.enter_user_code(&code, field("person").trim()) {
                    "You have signed in on your device. You may close this page."
                } else {
                    "Unknown code, or unknown person."
                }
            }
            _ => return Some(RenderedResponse::empty(StatusCode::METHOD_NOT_ALLOWED)),
        };
        let page = format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Device sign-in</title>\
             <h1>Simulated device sign-in</h1><p role=\"status\">{note}</p>\
             <form method=\"post\"><p><label>Code <input name=\"code\" autocomplete=\"off\"></label>\
             <p><label>Address <input name=\"person\"></label>\
             <p><button>Sign in</button> <button name=\"decline\" value=\"1\">Decline</button>\
             </form></html>"
        );
        Some(RenderedResponse::text(StatusCode::OK, "text/html; charset=utf-8", page))
    }
}
