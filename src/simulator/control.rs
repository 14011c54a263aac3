//! The control plane: most methods of [`Simulator`] over HTTP, in JSON, under `/control/`. It
//! needs no token, is never throttled and has no faults. Keep it on a loopback address.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::request::{GraphRequest, RenderedResponse, ResponsePayload};
use super::{Application, Behaviour, Faults, Mutation, PlannedFault, Population, Simulator};

/// Why the control plane refused a request.
#[derive(Debug, thiserror::Error)]
enum ControlError {
    #[error("invalid request body")]
    Body(#[source] serde_json::Error),
    #[error("missing or unknown `{0}`")]
    Missing(&'static str),
    #[error("the change is not possible")]
    Mutation(#[source] super::MutationError),
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
    pub(super) fn control(&self, call: &GraphRequest, body: &Bytes) -> http::Response<Bytes> {
        let (status, value) = match self.controlled(call, body) {
            Ok(value) => (StatusCode::OK, value),
            Err(refused) => {
                let mut why = refused.to_string();
                let mut source = std::error::Error::source(&refused);
                while let Some(deeper) = source {
                    why.push_str(&format!(": {deeper}"));
                    source = deeper.source();
                }
                let status = match refused {
                    ControlError::Body(_) => StatusCode::BAD_REQUEST,
                    ControlError::Missing(_) | ControlError::Unknown => StatusCode::NOT_FOUND,
                    ControlError::Mutation(_) => StatusCode::CONFLICT,
                };
                (status, json!({"error": why}))
            }
        };
        let reply = RenderedResponse::json(status, &value);
        let ResponsePayload::Plain(body) = reply.body else {
            return http::Response::new(Bytes::new());
        };
        let mut response = http::Response::new(body);
        *response.status_mut() = status;
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        response
    }

    fn controlled(&self, call: &GraphRequest, body: &Bytes) -> Result<Value, ControlError> {
        let done = json!({});
        let what = call.segments.get(1).map(String::as_str).unwrap_or_default();
        let truth = |name: &'static str| call.parameter(name).ok_or(ControlError::Missing(name));
        match (call.method.clone(), what) {
            (Method::GET, "statistics") => value(&self.statistics()),
            (Method::DELETE, "statistics") => {
                self.reset_statistics();
                Ok(done)
            }
            (Method::GET, "faults") => value(&self.faults()),
            (Method::PUT, "faults") => {
                self.set_faults(read::<Faults>(body)?);
                Ok(done)
            }
            (Method::POST, "faults") => {
                self.plan(read::<PlannedFault>(body)?);
                Ok(done)
            }
            (Method::DELETE, "faults") => {
                self.clear_faults();
                Ok(done)
            }
            (Method::GET, "behaviour") => value(&self.behaviour()),
            (Method::PUT, "behaviour") => {
                let behaviour = match read(body)? {
                    BehaviourForm::Named { name } => {
                        Behaviour::by_name(&name).ok_or(ControlError::Missing("behaviour"))?
                    }
                    BehaviourForm::Whole(behaviour) => *behaviour,
                };
                self.set_behaviour(behaviour);
                Ok(done)
            }
            (Method::GET, "mailboxes") => value(&self.mailboxes()),
            (Method::POST, "mailboxes") => {
                let form: MailboxForm = read(body)?;
                Ok(json!({"id": self.add_mailbox(&form.address)}))
            }
            (Method::POST, "calendars") => {
                let form: CalendarForm = read(body)?;
                let id = self.add_calendar(&form.mailbox, &form.name);
                if id.is_empty() {
                    return Err(ControlError::Missing("mailbox"));
                }
                self.set_shared(&form.mailbox, &id, form.shared);
                Ok(json!({"id": id}))
            }
            (Method::DELETE, "calendars") => {
                let form: CalendarName = read(body)?;
                match self.remove_calendar(&form.mailbox, &form.calendar) {
                    true => Ok(done),
                    false => Err(ControlError::Missing("calendar")),
                }
            }
            (Method::POST, "populate") => {
                let form: PopulateForm = read(body)?;
                self.populate(&form.mailbox, form.calendar.as_deref(), form.plan);
                Ok(done)
            }
            (Method::POST, "organisation") => {
                let form: OrganisationForm = read(body)?;
                let around = form.around.unwrap_or_else(|| self.now());
                value(&self.organisation(form.people, form.rooms, around))
            }
            (Method::POST, "step") => {
                let count: u32 =
                    call.parameter("count").map_or(Ok(1), str::parse).unwrap_or_default();
                let steps: Vec<Mutation> =
                    (0..count).filter_map(|_| self.mutate_randomly()).collect();
                value(&steps)
            }
            (Method::POST, "mutate") => {
                let id = self.mutate(read(body)?).map_err(ControlError::Mutation)?;
                Ok(json!({"id": id}))
            }
            (Method::GET, "truth") => {
                let instant = |name| {
                    let text = truth(name)?;
                    super::zone::read_instant(text).ok_or(ControlError::Missing(name))
                };
                let (start, end) = (instant("start")?, instant("end")?);
                let events = self.truth(truth("mailbox")?, call.parameter("calendar"), start, end);
                Ok(json!({"value": events}))
            }
            (Method::POST, "kill-links") => {
                let form: MailboxChoice = read_or_default(body)?;
                self.kill_tokens(form.mailbox.as_deref());
                Ok(done)
            }
            (Method::POST, "access-token") => Ok(json!({"access_token": self.access_token()})),
            (Method::POST, "expire-tokens") => {
                self.expire_tokens();
                Ok(done)
            }
            (Method::PUT, "token-lifetime") => {
                self.set_token_lifetime(Duration::from_secs(read::<Lifetime>(body)?.seconds));
                Ok(done)
            }
            (Method::PUT, "applications") => {
                self.set_applications(read::<Vec<Application>>(body)?);
                Ok(done)
            }
            (Method::PUT, "me") => {
                let form: MailboxChoice = read_or_default(body)?;
                self.set_me(form.mailbox.as_deref());
                Ok(done)
            }
            (Method::PUT, "latency") => {
                let form: Latency = read(body)?;
                let ms = Duration::from_millis;
                self.set_latency(ms(form.min_ms)..ms(form.max_ms.max(form.min_ms)));
                Ok(done)
            }
            _ => Err(ControlError::Unknown),
        }
    }

    /// The current time, rounded down to the hour.
    fn now(&self) -> Timestamp {
        let now = self.state().env.now();
        let past = SignedDuration::from_secs(now.as_second().rem_euclid(3600));
        now.checked_sub(past).unwrap_or(now)
    }
}

fn value<T: serde::Serialize>(of: &T) -> Result<Value, ControlError> {
    serde_json::to_value(of).map_err(ControlError::Body)
}

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, ControlError> {
    serde_json::from_slice(body).map_err(ControlError::Body)
}

fn read_or_default<T: DeserializeOwned + Default>(body: &Bytes) -> Result<T, ControlError> {
    if body.is_empty() { Ok(T::default()) } else { read(body) }
}
