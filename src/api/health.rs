//! Liveness and readiness of the process.

use axum::Json;
use futures_util::FutureExt as _;
use serde_json::{Value, json};

use super::extract::ApiRequest;
use super::problem::Problem;

/// `GET /healthz`: 200 while the process runs and serves requests.
pub(super) async fn healthz(request: ApiRequest) -> Result<Json<Value>, Problem> {
    request.parameters(&[])?;
    if request.app.stopping.is_given() {
        return Err(Problem::Stopping);
    }
    Ok(Json(json!({ "status": "ok" })))
}

/// `GET /readyz`: 200 while configuration, store and API are up; with `settled=1` only once every
/// window has settled, except windows in a trouble state.
pub(super) async fn readyz(request: ApiRequest) -> Result<Json<Value>, Problem> {
    let settled = request.parameters(&["settled"])?.flag("settled")?;
    let app = &request.app;
    if app.stopping.is_given() {
        return Err(Problem::Stopping);
    }
    if let Some(error) = app.store.failed().now_or_never() {
        return Err(error.into());
    }
    if settled {
        let mut windows = app.fleet.summaries();
        windows.retain(|window| request.access.sees(&window.window.name));
        let waiting = windows.iter().filter(|w| !w.state.is_trouble() && !w.settled_once).count();
        if waiting > 0 {
            let detail = format!("{waiting} of {} windows have not settled yet", windows.len());
            return Err(Problem::NotReady(detail));
        }
    }
    Ok(Json(json!({ "status": "ready" })))
}
