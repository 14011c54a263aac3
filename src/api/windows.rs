//! The daemon's status, and windows.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::Serialize;

use super::Access;
use super::problem::Problem;
use super::query::Parameters;
use crate::mirror::status::{State as WindowState, WindowStatus};

/// The daemon's status.
#[derive(Serialize)]
pub(super) struct Status {
    version: String,
    commit: String,
    target: String,
    incarnation: String,
    started: Timestamp,
    uptime_s: i64,
    healthy: bool,
    windows: Counts,
    last_reload: Option<()>,
}

/// Windows by state.
#[derive(Serialize)]
struct Counts {
    total: usize,
    unhealthy: usize,
    #[serde(flatten)]
    states: BTreeMap<WindowState, usize>,
}

/// `GET /v1/status`.
pub(super) async fn status(
    State(access): State<Arc<Access>>,
    RawQuery(query): RawQuery,
) -> Result<Json<Status>, Problem> {
    Parameters::parse(query.as_deref(), &[])?;
    let windows = access.fleet.windows();
    let mut states: BTreeMap<_, _> = WindowState::ALL.map(|state| (state, 0)).into();
    for window in &windows {
        *states.entry(window.state).or_default() += 1;
    }
    let unhealthy = windows.iter().filter(|w| !w.is_healthy()).count();
    let about = &access.about;
    Ok(Json(Status {
        version: about.version.clone(),
        commit: about.commit.clone(),
        target: about.target.clone(),
        incarnation: access.store.incarnation(),
        started: about.started,
        uptime_s: access.world.now().duration_since(about.started).as_secs().max(0),
        healthy: unhealthy == 0,
        windows: Counts { total: windows.len(), unhealthy, states },
        // Always null until there is a reload.
        last_reload: None,
    }))
}

/// A page of windows.
#[derive(Serialize)]
pub(super) struct List {
    value: Vec<WindowStatus>,
    next: Option<String>,
}

/// `GET /v1/windows`: by name; `page` goes on after the last name of the page before.
pub(super) async fn list(
    State(access): State<Arc<Access>>,
    RawQuery(query): RawQuery,
) -> Result<Json<List>, Problem> {
    let parameters = Parameters::parse(query.as_deref(), &["limit", "page", "state"])?;
    let limit = parameters.limit()?;
    let state = parameters.text("state").map(parse_state).transpose()?;
    let after = parameters.text("page").map(parse_key).transpose()?;
    let mut value = access.fleet.windows();
    value.retain(|w| {
        after.as_ref().is_none_or(|after| w.name > *after) && state.is_none_or(|s| w.state == s)
    });
    let more = value.len() > limit;
    value.truncate(limit);
    let next = value.last().filter(|_| more).map(|w| URL_SAFE_NO_PAD.encode(&w.name));
    Ok(Json(List { value, next }))
}

/// `GET /v1/windows/{name}`.
pub(super) async fn one(
    State(access): State<Arc<Access>>,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Json<WindowStatus>, Problem> {
    let name = super::name(path)?;
    Parameters::parse(query.as_deref(), &[])?;
    access.window(&name).map(Json)
}

fn parse_key(page: &str) -> Result<String, Problem> {
    let key = URL_SAFE_NO_PAD.decode(page).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    key.ok_or_else(|| Problem::bad_parameter("page", "not a key that an answer's next gave"))
}

fn parse_state(text: &str) -> Result<WindowState, Problem> {
    WindowState::ALL.into_iter().find(|state| state.word() == text).ok_or_else(|| {
        let detail =
            format!("must be one of {}", WindowState::ALL.map(WindowState::word).join(", "));
        Problem::bad_parameter("state", detail)
    })
}
