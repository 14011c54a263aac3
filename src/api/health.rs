//! Liveness and readiness of the process.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use futures_util::FutureExt as _;
use serde_json::{Value, json};

use super::AppState;
use super::problem::Problem;
use super::query::Parameters;

/// `GET /healthz`: 200 while the process runs and serves requests.
pub(super) async fn healthz(
    State(access): State<Arc<AppState>>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    Parameters::parse(query.as_deref(), &[])?;
    if access.stopping.is_cancelled() {
        return Err(Problem::Stopping);
    }
    Ok(Json(json!({ "status": "ok" })))
}

/// `GET /readyz`: 200 while configuration, store and API are up; with `settled=1` only once every
/// window has settled, except windows in a trouble state.
pub(super) async fn readyz(
    State(access): State<Arc<AppState>>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    let settled = Parameters::parse(query.as_deref(), &["settled"])?.flag("settled")?;
    if access.stopping.is_cancelled() {
        return Err(Problem::Stopping);
    }
    if let Some(error) = access.store.failed().now_or_never() {
        return Err(error.into());
    }
    if settled {
        let windows = access.fleet.summaries();
        let waiting = windows.iter().filter(|w| !w.state.is_trouble() && !w.settled_once).count();
        if waiting > 0 {
            let detail = format!("{waiting} of {} windows have not settled yet", windows.len());
            return Err(Problem::NotReady(detail));
        }
    }
    Ok(Json(json!({ "status": "ready" })))
}
