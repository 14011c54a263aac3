//! Liveness and readiness of the process.

use axum::Json;
use futures_util::FutureExt as _;
use serde_json::{Value, json};

use super::extract::ApiRequest;
use super::problem::Problem;

/// `GET /healthz`: 200 while the process runs and serves requests.
pub(super) async fn healthz(ask: ApiRequest) -> Result<Json<Value>, Problem> {
    ask.parameters(&[])?;
    if ask.access.stopping.is_cancelled() {
        return Err(Problem::Stopping);
    }
    Ok(Json(json!({ "status": "ok" })))
}

/// `GET /readyz`: 200 while configuration, store and API are up; with `settled=1` only once every
/// window has settled, except windows in a trouble state.
pub(super) async fn readyz(ask: ApiRequest) -> Result<Json<Value>, Problem> {
    let settled = ask.parameters(&["settled"])?.flag("settled")?;
    let access = ask.access;
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
