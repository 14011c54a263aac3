//! Rounds and resyncs on request.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::Access;
use super::problem::Problem;
use super::query::Parameters;
use crate::supervisor::Started;

/// `POST /v1/windows/{name}/sync`: a round now.
pub(super) async fn sync(
    State(access): State<Arc<Access>>,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let name = super::name(path)?;
    let wait = Parameters::parse(query.as_deref(), &["wait"])?.wait()?;
    Ok(answer(access.fleet.sync(&name, wait).await?))
}

/// `POST /v1/windows/{name}/resync`: a full resync now; `accept_removals=true` ends a hold.
pub(super) async fn resync(
    State(access): State<Arc<Access>>,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let name = super::name(path)?;
    let parameters = Parameters::parse(query.as_deref(), &["wait", "accept_removals"])?;
    let wait = parameters.wait()?;
    let accept_removals = parameters.flag("accept_removals")?;
    Ok(answer(access.fleet.resync(&name, accept_removals, wait).await?))
}

/// 200 with how it went once it is over, else 202.
fn answer(started: Started) -> (StatusCode, Json<Value>) {
    let Started { window, round, finished } = started;
    match finished {
        None => (StatusCode::ACCEPTED, Json(json!({ "window": &*window, "round": round }))),
        Some(status) => {
            let body = json!({
                "window": &*window,
                "round": round,
                "state": status.state,
                "last_round": status.last_round,
                "last_error": status.last_error,
            });
            (StatusCode::OK, Json(body))
        }
    }
}
