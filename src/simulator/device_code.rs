//! Sign-in on another device (RFC 8628, fact 145): the codes, and what a person decided.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::delegated_grant::{DelegatedGrant, SignedInPerson, read_scopes};
use super::ids::{mix, noise};
use super::token_error::TokenEndpointError;

/// How long a code is valid, in seconds.
const LIFETIME_S: i64 = 900;
/// How often a client may ask, in seconds; and how much longer after `slow_down`.
const INTERVAL_S: i64 = 5;
/// The letters of user codes: none that is mistaken for another.
const LETTERS: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";

/// What a person answered on the page.
#[derive(Clone, Debug)]
pub(super) enum DeviceDecision {
    SignedIn(SignedInPerson),
    Declined,
}

/// A sign-in that was started.
#[derive(Debug)]
struct DeviceSignIn {
    device_code: String,
    user_code: String,
    client_id: String,
    scopes: BTreeSet<&'static str>,
    until: i64,
    interval_s: i64,
    last_poll: Option<Timestamp>,
    decision: Option<DeviceDecision>,
}

/// All sign-ins that were started, except those that were completed.
#[derive(Debug, Default)]
pub(super) struct DeviceSignIns {
    seed: u64,
    started: u64,
    sign_ins: Vec<DeviceSignIn>,
}

impl DeviceSignIns {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// Answers a request for a code. `page` is the address of the page where it is entered.
    pub(super) fn start(
        &mut self,
        client_id: &str,
        form: &BTreeMap<String, String>,
        page: &str,
        now: Timestamp,
    ) -> Result<Value, TokenEndpointError> {
        let scopes = read_scopes(form.get("scope").map(String::as_str).unwrap_or_default())?;
        self.started += 1;
        let letters = |salt: u64, count: usize| -> String {
            noise(&[mix(&[self.seed, self.started]), salt], count)
                .into_iter()
                .map(|byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()]))
                .collect()
        };
        let (device_code, user_code) = (format!("DAQABAAE{}", letters(1, 180)), letters(2, 9));
        let message = format!(
            "To sign in, use a web browser to open the page {page} and enter the code {user_code} \
             to authenticate."
        );
        let answer = json!({
            "user_code": user_code,
            "device_code": device_code,
            "verification_uri": page,
            "expires_in": LIFETIME_S,
            "interval": INTERVAL_S,
            "message": message,
        });
        self.sign_ins.push(DeviceSignIn {
            device_code,
            user_code,
            client_id: client_id.to_owned(),
            scopes,
            until: now.as_second() + LIFETIME_S,
            interval_s: INTERVAL_S,
            last_poll: None,
            decision: None,
        });
        if self.sign_ins.len() > 1000 {
            self.sign_ins.remove(0);
        }
        Ok(answer)
    }

    /// Answers a poll. `tenant` is that of the person who signs in.
    pub(super) fn poll(
        &mut self,
        client_id: &str,
        form: &BTreeMap<String, String>,
        tenant: &str,
        now: Timestamp,
    ) -> Result<DelegatedGrant, TokenEndpointError> {
        let bad_request = TokenEndpointError::bad_request;
        let Some(code) = form.get("device_code") else {
            return Err(TokenEndpointError::missing(
                "The request body must contain the following parameter: 'device_code'.",
            ));
        };
        let position = self
            .sign_ins
            .iter()
            .position(|known| known.device_code == *code && known.client_id == client_id)
            .ok_or(bad_request(
                "bad_verification_code",
                70018,
                "The device_code was not recognized.",
            ))?;
        let known = &mut self.sign_ins[position];
        let last_poll = known.last_poll.replace(now);
        if now.as_second() >= known.until {
            let message = "The provided value for the input parameter 'device_code' is not valid. This device code has expired.";
            return Err(bad_request("expired_token", 70020, message));
        }
        // To the microsecond: a client that waits exactly the interval is not too fast.
        let waited = |last: Timestamp| now.as_microsecond() - last.as_microsecond();
        if last_poll.is_some_and(|last| waited(last) < known.interval_s * 1_000_000) {
            known.interval_s += INTERVAL_S;
            return Err(bad_request("slow_down", 90055, "There are too many incoming requests."));
        }
        match known.decision.take() {
            None => Err(bad_request(
                "authorization_pending",
                70016,
                "OAuth 2.0 device flow error. Authorization is pending. Continue polling.",
            )),
            Some(DeviceDecision::Declined) => {
                known.decision = Some(DeviceDecision::Declined);
                Err(bad_request(
                    "authorization_declined",
                    65004,
                    "User declined to consent to access the app.",
                ))
            }
            Some(DeviceDecision::SignedIn(person)) => {
                // The code works once.
                let known = self.sign_ins.remove(position);
                let tenant = tenant.to_owned();
                Ok(DelegatedGrant {
                    person,
                    client_id: known.client_id,
                    tenant,
                    scopes: known.scopes,
                })
            }
        }
    }

    /// Records what a person decided. Returns whether the code waits for that.
    pub(super) fn decide(
        &mut self,
        user_code: &str,
        decision: DeviceDecision,
        now: Timestamp,
    ) -> bool {
        let waiting = self.sign_ins.iter_mut().find(|known| {
            known.user_code.eq_ignore_ascii_case(user_code.trim())
                && known.decision.is_none()
                && now.as_second() < known.until
        });
        waiting.map(|known| known.decision = Some(decision)).is_some()
    }

    /// The user codes that wait for a person, oldest first.
    pub(super) fn waiting(&self, now: Timestamp) -> Vec<String> {
        let waits =
            |known: &&DeviceSignIn| known.decision.is_none() && now.as_second() < known.until;
        self.sign_ins.iter().filter(waits).map(|known| known.user_code.clone()).collect()
    }
}
