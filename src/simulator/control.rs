//! The control plane: most methods of [`Simulator`] over HTTP, in JSON, under `/control/`. It
//! needs no token, is never throttled and has no faults. Keep it on a loopback address.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::request::SimulatedRequest;
use super::{
    Application, Behaviour, Faults, ManagedIdentities, Mutation, PlannedFault, Population,
    Simulator,
};

/// Why the control plane refused a request.
#[derive(Debug, thiserror::Error)]
pub(super) enum ControlError {
    #[error("invalid request body: {0}")]
    Body(serde_json::Error),
    #[error("missing or unknown `{0}`")]
    Missing(&'static str),
    #[error("the change is not possible: {0}")]
    Mutation(super::MutationError),
    #[error("unknown request")]
    Unknown,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MailboxForm {
    address: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CalendarForm {
    mailbox: String,
    name: String,
    #[serde(default)]
    shared: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CalendarName {
    mailbox: String,
    calendar: String,
}

#[derive(Deserialize)]
struct PopulateForm {
    mailbox: String,
    calendar: Option<String>,
    #[serde(flatten)]
    plan: Population,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OrganisationForm {
    people: usize,
    rooms: usize,
    around: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum BehaviourForm {
    Named { name: String },
    Whole(Box<Behaviour>),
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct MailboxChoice {
    mailbox: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lifetime {
    seconds: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Latency {
    min_ms: u64,
    max_ms: u64,
}

impl Simulator {
    /// Answers a request under `/control/`.
    pub(super) fn control(&self, call: &SimulatedRequest, body: &Bytes) -> http::Response<Bytes> {
        let (status, value) = match self.controlled(call, body) {
            Ok(value) => (StatusCode::OK, value),
            Err(refused) => {
                let status = match refused {
                    ControlError::Body(_) => StatusCode::BAD_REQUEST,
                    ControlError::Missing(_) | ControlError::Unknown => StatusCode::NOT_FOUND,
                    ControlError::Mutation(_) => StatusCode::CONFLICT,
                };
                (status, json!({"error": refused.to_string()}))
            }
        };
        let mut response = http::Response::new(Bytes::from(value.to_string()));
        *response.status_mut() = status;
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        response
    }

    fn controlled(&self, call: &SimulatedRequest, body: &Bytes) -> Result<Value, ControlError> {
        let what = call.segments.get(1).map(String::as_str).unwrap_or_default();
        let people = || self.control_people(&call.method, what, body);
        if let Some(answer) = people().or_else(|| self.control_directory(&call.method, what, body))
        {
            return answer;
        }
        match call.method {
            Method::GET => self.control_get(what, call),
            Method::POST => self.control_post(what, call, body),
            Method::PUT => self.control_put(what, body),
            Method::DELETE => self.control_delete(what, body),
            _ => Err(ControlError::Unknown),
        }
    }

    fn control_get(&self, what: &str, call: &SimulatedRequest) -> Result<Value, ControlError> {
        match what {
            "statistics" => value(&self.statistics()),
            "faults" => value(&self.faults()),
            "behaviour" => value(&self.behaviour()),
            "mailboxes" => value(&self.mailboxes()),
            "truth" => {
                let needed =
                    |name: &'static str| call.parameter(name).ok_or(ControlError::Missing(name));
                let instant = |name| {
                    let text = needed(name)?;
                    super::zone::read_instant(text).ok_or(ControlError::Missing(name))
                };
                let (start, end) = (instant("start")?, instant("end")?);
                let events = self.truth(needed("mailbox")?, call.parameter("calendar"), start, end);
                Ok(json!({"value": events}))
            }
            _ => Err(ControlError::Unknown),
        }
    }

    fn control_post(
        &self,
        what: &str,
        call: &SimulatedRequest,
        body: &Bytes,
    ) -> Result<Value, ControlError> {
        match what {
            "faults" => self.plan(read::<PlannedFault>(body)?),
            "mailboxes" => {
                let form: MailboxForm = read(body)?;
                return Ok(json!({"id": self.add_mailbox(&form.address)}));
            }
            "calendars" => {
                let form: CalendarForm = read(body)?;
                let id = self.add_calendar(&form.mailbox, &form.name);
                if id.is_empty() {
                    return Err(ControlError::Missing("mailbox"));
                }
                self.set_shared(&form.mailbox, &id, form.shared);
                return Ok(json!({"id": id}));
            }
            "populate" => {
                let form: PopulateForm = read(body)?;
                self.populate(&form.mailbox, form.calendar.as_deref(), form.plan);
            }
            "organisation" => {
                let form: OrganisationForm = read(body)?;
                let around = form.around.unwrap_or_else(|| self.now());
                return value(&self.organisation(form.people, form.rooms, around));
            }
            "step" => {
                let count: u32 =
                    call.parameter("count").map_or(Ok(1), str::parse).unwrap_or_default();
                let steps: Vec<Mutation> =
                    (0..count).filter_map(|_| self.mutate_randomly()).collect();
                return value(&steps);
            }
            "mutate" => {
                let id = self.mutate(read(body)?).map_err(ControlError::Mutation)?;
                return Ok(json!({"id": id}));
            }
            "kill-links" => {
                let form: MailboxChoice = read_or_default(body)?;
                self.kill_tokens(form.mailbox.as_deref());
            }
            "access-token" => return Ok(json!({"access_token": self.access_token()})),
            "expire-tokens" => self.expire_tokens(),
            _ => return Err(ControlError::Unknown),
        }
        Ok(json!({}))
    }

    fn control_put(&self, what: &str, body: &Bytes) -> Result<Value, ControlError> {
        match what {
            "faults" => self.set_faults(read::<Faults>(body)?),
            "behaviour" => {
                let behaviour = match read(body)? {
                    BehaviourForm::Named { name } => {
                        Behaviour::by_name(&name).ok_or(ControlError::Missing("behaviour"))?
                    }
                    BehaviourForm::Whole(behaviour) => *behaviour,
                };
                self.set_behaviour(behaviour);
            }
            "token-lifetime" => {
                self.set_token_lifetime(Duration::from_secs(read::<Lifetime>(body)?.seconds));
            }
            "applications" => self.set_applications(read::<Vec<Application>>(body)?),
            "identities" => self.set_managed_identities(read::<ManagedIdentities>(body)?),
            "me" => {
                let form: MailboxChoice = read_or_default(body)?;
                self.set_me(form.mailbox.as_deref());
            }
            "latency" => {
                let form: Latency = read(body)?;
                let ms = Duration::from_millis;
                self.set_latency(ms(form.min_ms)..ms(form.max_ms.max(form.min_ms)));
            }
            _ => return Err(ControlError::Unknown),
        }
        Ok(json!({}))
    }

    fn control_delete(&self, what: &str, body: &Bytes) -> Result<Value, ControlError> {
        match what {
            "statistics" => self.reset_statistics(),
            "faults" => self.clear_faults(),
            "calendars" => {
                let form: CalendarName = read(body)?;
                if !self.remove_calendar(&form.mailbox, &form.calendar) {
                    return Err(ControlError::Missing("calendar"));
                }
            }
            _ => return Err(ControlError::Unknown),
        }
        Ok(json!({}))
    }

    /// The current time, rounded down to the hour.
    fn now(&self) -> Timestamp {
        let now = self.state().env.now();
        let past = SignedDuration::from_secs(now.as_second().rem_euclid(3600));
        now.checked_sub(past).unwrap_or(now)
    }
}

pub(super) fn value<T: serde::Serialize>(of: &T) -> Result<Value, ControlError> {
    serde_json::to_value(of).map_err(ControlError::Body)
}

pub(super) fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, ControlError> {
    serde_json::from_slice(body).map_err(ControlError::Body)
}

fn read_or_default<T: DeserializeOwned + Default>(body: &Bytes) -> Result<T, ControlError> {
    if body.is_empty() { Ok(T::default()) } else { read(body) }
}

/// An empty answer, if what the request names was found.
pub(super) fn found(found: bool, what: &'static str) -> Result<Value, ControlError> {
    if found { Ok(json!({})) } else { Err(ControlError::Missing(what)) }
}
