//! Lists past rounds, and starts rounds and resyncs on request.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::etag::ETag;
use super::extract::ApiRequest;
use super::model;
use super::problem::Problem;
use crate::config::AccessLevel;
use crate::supervisor::StartedRound;

/// `GET /v1/windows/{name}/rounds`: the recent rounds in which something happened.
pub(super) async fn past(request: ApiRequest) -> Result<Response, Problem> {
    request.parameters(&[])?;
    let past = request.app.fleet.rounds(&request.name);
    let past = past.map(model::PastRoundsJson::from);
    let past = past.ok_or_else(|| Problem::unknown_window(&request.name))?;
    let tag = ETag::of(&past);
    Ok(request.not_modified(&tag).unwrap_or_else(|| tag.attach_to(Json(past).into_response())))
}

/// `POST /v1/windows/{name}/sync`: starts a round now.
pub(super) async fn sync(request: ApiRequest) -> Result<(StatusCode, Json<Value>), Problem> {
    let wait = request.parameters(&["wait"])?.wait()?;
    Ok(answer(request.app.fleet.sync(&request.name, wait).await?, request.access.level))
}

/// `POST /v1/windows/{name}/resync`: starts a full resync now; `accept_removals=true` ends a hold.
pub(super) async fn resync(request: ApiRequest) -> Result<(StatusCode, Json<Value>), Problem> {
    let parameters = request.parameters(&["wait", "accept_removals"])?;
    let wait = parameters.wait()?;
    let accept_removals = parameters.flag("accept_removals")?;
    let started = request.app.fleet.resync(&request.name, accept_removals, wait).await?;
    Ok(answer(started, request.access.level))
}

/// 200 with the outcome if the round has finished and the reader sees states of windows, else 202.
fn answer(started: StartedRound, level: AccessLevel) -> (StatusCode, Json<Value>) {
    let StartedRound { window, round, finished } = started;
    match finished.filter(|_| level >= AccessLevel::Times) {
        None => (StatusCode::ACCEPTED, Json(json!({ "window": &*window, "round": round }))),
        Some(status) => {
            let status = model::WindowJson::from(status);
            let body = json!({
                "window": &*window,
                "round": round,
                "state": status.state,
                "held_until": status.held_until,
                "last_round": status.last_round,
                "last_error": status.last_error,
            });
            (StatusCode::OK, Json(body))
        }
    }
}
