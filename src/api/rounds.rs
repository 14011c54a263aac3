//! Lists past rounds, and starts rounds and resyncs on request.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::etag::ETag;
use super::extract::ApiRequest;
use super::model;
use super::problem::Problem;
use crate::supervisor::StartedRound;

/// `GET /v1/windows/{name}/rounds`: the recent rounds in which something happened.
pub(super) async fn past(ask: ApiRequest) -> Result<Response, Problem> {
    ask.parameters(&[])?;
    let past = ask.access.fleet.rounds(&ask.name);
    let past = past.map(model::PastRoundsJson::from);
    let past = past.ok_or_else(|| Problem::unknown_window(&ask.name))?;
    let tag = ETag::of(&past);
    Ok(ask.not_modified(&tag).unwrap_or_else(|| tag.attach_to(Json(past).into_response())))
}

/// `POST /v1/windows/{name}/sync`: starts a round now.
pub(super) async fn sync(ask: ApiRequest) -> Result<(StatusCode, Json<Value>), Problem> {
    let wait = ask.parameters(&["wait"])?.wait()?;
    Ok(answer(ask.access.fleet.sync(&ask.name, wait).await?))
}

/// `POST /v1/windows/{name}/resync`: starts a full resync now; `accept_removals=true` ends a hold.
pub(super) async fn resync(ask: ApiRequest) -> Result<(StatusCode, Json<Value>), Problem> {
    let parameters = ask.parameters(&["wait", "accept_removals"])?;
    let wait = parameters.wait()?;
    let accept_removals = parameters.flag("accept_removals")?;
    Ok(answer(ask.access.fleet.resync(&ask.name, accept_removals, wait).await?))
}

/// 200 with the outcome if the round has finished, else 202.
fn answer(started: StartedRound) -> (StatusCode, Json<Value>) {
    let StartedRound { window, round, finished } = started;
    match finished {
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
